"""Pairs of models by name.

They are those that ship (``pairs.toml``: the pair of models that ships, and those of the paper's
Table 1; ``published/pairs.toml``: those that others have measured).
"""

from __future__ import annotations

import tomllib
from itertools import chain
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.model.shape import is_known, plain
from dsim.study.profile import FORMAT, Profile, of
from dsim.words import nearest, show

SHIPPED = (
    Path(__file__).parent / "pairs.toml",
    Path(__file__).parents[1] / "published" / "pairs.toml",
)


def shipped() -> list[Profile]:
    """The pairs that ship."""
    tables = (tomllib.loads(path.read_text(encoding="utf-8"))["pairs"] for path in SHIPPED)
    return [of({"format": FORMAT, **pair}, "pairs.toml") for pair in chain(*tables)]


def find(target: str | None, drafter: str | None, dataset: str | None = None) -> Profile:
    """The pair that ships with these names; upper and lower case are alike.

    Args:
        target: the target's name; ``None``: any.
        drafter: the drafter's; ``None``: any.
        dataset: what it was measured on; ``None``: the first that there is.

    Raises:
        UserError: there is none; with the nearest name.
    """
    left = [
        (
            {"--target": target_of.model, "--drafter": drafter_of.model, "--dataset": pair.prompts},
            pair,
        )
        for pair in shipped()
        if (target_of := pair.target) and (drafter_of := pair.drafter)
    ]
    for option, wanted in (("--target", target), ("--drafter", drafter), ("--dataset", dataset)):
        if wanted is None:
            continue
        names = list(dict.fromkeys(of[option] for of, _ in left))
        left = [(of, pair) for of, pair in left if of[option].lower() == wanted.lower()]
        if not left:
            close = {name.lower(): name for name in names}
            hint = nearest(wanted.lower(), list(close)).lower()
            for low, name in close.items():
                hint = hint.replace(f'"{low}"', f'"{name}"')
            spelt = plain(wanted) in map(plain, names)  # but for dashes
            if option == "--target" and is_known(wanted) and not spelt:
                hint = "; with --gpu its latencies are estimated"
            known = ", ".join(names)
            raise UserError(
                Problem(option, "", f"expected one of {known}; got {show(wanted)}{hint}")
            )
    return left[0][1]


def by_name(name: str) -> Profile:
    """The pair that ships called *name*: ``TARGET/DRAFTER``, or ``TARGET/DRAFTER/PROMPTS``.

    Raises:
        UserError: there is none; with the names of those that there are.
    """
    called: dict[str, Profile] = {}
    names: dict[str, str] = {}  # as they are written, by their lower case
    for pair in shipped():
        if pair.target and pair.drafter:
            models = f"{pair.target.model}/{pair.drafter.model}"
            shown = models if models.count("/") == 1 else pair.name
            names.setdefault(shown.lower(), shown)
            for own in (models, pair.name, f"{models}/{pair.prompts}"):
                called.setdefault(own.lower(), pair)
    if (found := called.get(name.strip().lower())) is not None:
        return found
    hint = nearest(name.lower(), list(names))
    for low, written in names.items():
        hint = hint.replace(f'"{low}"', f'"{written}"')
    what = f"expected one of {', '.join(names.values())}; got {show(name)}{hint}"
    raise UserError(Problem("--pair", "", what))
