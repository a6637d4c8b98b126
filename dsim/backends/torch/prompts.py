"""Prompts: those that ship, or a file with one JSON object a line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.words import nearest

FOLDER = Path(__file__).parents[2] / "prompts"
EVERY = "all"  # the name of all sets that ship, one after the other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt.

    Attributes:
        id: its name.
        task: what it asks for, in a word.
        text: the prompt itself.
    """

    id: str
    task: str
    text: str


def shipped() -> list[str]:
    """The names of the prompt sets that ship."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def load(name: str, option: str = "--prompts") -> list[Prompt]:
    """The prompts called *name*: a set that ships, ``all`` of these sets, or a JSONL file.

    A line is an object with the text in ``prompt`` and, if it likes, ``id`` and ``task``. A text
    that occurs several times is taken once.

    Raises:
        UserError: there is no such set or file, or it holds something else.
    """
    if name == EVERY:
        return [prompt for one in shipped() for prompt in load(one, option)]
    path = FOLDER / f"{name}.jsonl" if name in shipped() else Path(name)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        names = ", ".join([EVERY, *shipped()])
        why = getattr(error, "strerror", None) or "is no text"
        raise UserError(
            Problem(
                option,
                "",
                f"{name} cannot be read ({why}); expected a JSONL file or a set that ships "
                f"({names}){nearest(name, [EVERY, *shipped()])}",
            )
        ) from None
    found: dict[str, Prompt] = {}
    problems = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            problems.append(Problem(f"{path}:{number}", "", f"is no JSON: {error}"))
            continue
        text = row.get("prompt") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text.strip():
            problems.append(Problem(f"{path}:{number}", "prompt", "expected a text"))
            continue
        found.setdefault(
            text,
            Prompt(id=str(row.get("id", number)), task=str(row.get("task", path.stem)), text=text),
        )
    if not found and not problems:
        problems.append(Problem(option, "", f"{path} holds no prompts"))
    if problems:
        raise UserError(*problems)
    return list(found.values())
