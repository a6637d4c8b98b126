"""Pairs of models by name, and what ``dsim measure`` prints of one model or pair.

:func:`find` and :func:`by_name` look a pair up among those that ship (``pairs.toml``: the pair of
models that ships, and those of the paper's Table 1; ``published/pairs.toml``: those that others
have measured). :func:`latency_of` and :func:`acceptance_of` read the JSON that ``dsim measure
latency --json`` and ``dsim measure acceptance --json`` print.
"""

from __future__ import annotations

import json
import statistics
import tomllib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.study.profile import AcceptanceProfile, ModelProfile, Profile, acceptance_from
from dsim.units import is_latency
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterable

SHIPPED = (
    Path(__file__).parent / "pairs.toml",
    Path(__file__).parents[1] / "published" / "pairs.toml",
)


def shipped() -> list[Profile]:
    """The pairs that ship."""
    tables = [tomllib.loads(path.read_text(encoding="utf-8"))["pairs"] for path in SHIPPED]

    def model(table: dict[str, Any]) -> ModelProfile:
        rows = table.pop("latency_by_width_ms", [])
        by_width = tuple((int(width), float(ms)) for width, ms in rows)
        return ModelProfile(latency_by_width_ms=by_width, **table)

    return [
        Profile(
            name=pair["name"],
            prompts=pair["prompts"],
            source=pair["source"],
            target=model(pair["target"]),
            drafter=model(pair["drafter"]),
            acceptance=acceptance_from(pair["acceptance"]),
        )
        for pair in chain.from_iterable(tables)
    ]


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


def latency_of(path: Path) -> ModelProfile:
    """The latencies that ``dsim measure latency --json`` has printed to the file *path*.

    By width they are the medians at the longest context and under the highest load, as its
    ``--toml`` has them.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    document = _read(path, "latency", ("model", "rows", "tpot_ms"))
    rows = document["rows"]
    known = ("width", "context", "co_running", "p50_ms")
    if not (isinstance(rows, list) and rows and all(_has_numbers(row, known) for row in rows)):
        wrong = f"rows: expected tables with {', '.join(known)}"
        raise UserError(Problem(str(path), "", f"{wrong}, got {show(rows)}"))
    load = max((row["context"], row["co_running"]) for row in rows)
    table: dict[int, list[float]] = {}
    for row in rows:
        if (row["context"], row["co_running"]) == load:
            table.setdefault(int(row["width"]), []).append(float(row["p50_ms"]))
    for key in ("tpot_ms", "ttft_ms"):
        value = document.get(key, [1.0])
        if not (isinstance(value, list) and value and all(is_latency(ms) for ms in value)):
            raise UserError(
                Problem(str(path), key, f"expected a list of latencies, got {show(value)}")
            )
    first = document.get("ttft_ms")
    return ModelProfile(
        model=str(document["model"]),
        latency_ms=float(statistics.median(document["tpot_ms"])),
        first_latency_ms=None if first is None else float(statistics.median(first)),
        latency_by_width_ms=tuple((w, statistics.median(ms)) for w, ms in sorted(table.items())),
    )


def acceptance_of(path: Path) -> AcceptanceProfile:
    """The acceptance rate that ``dsim measure acceptance --json`` has printed to the file *path*.

    Raises:
        UserError: the file cannot be read, or is something else.
    """
    document = _read(path, "acceptance", ("target", "drafter", "rate"))
    rate = document["rate"]
    number = isinstance(rate, int | float) and not isinstance(rate, bool)
    if not (number and 0 <= rate <= 1):
        raise UserError(
            Problem(str(path), "rate", f"expected a number from 0 to 1, got {show(rate)}")
        )
    return AcceptanceProfile(rate=float(rate), ci95=document.get("ci95"))


def _has_numbers(row: Any, names: Iterable[str]) -> bool:
    numbers = isinstance(row, dict) and all(isinstance(row.get(n), int | float) for n in names)
    return numbers and row["width"] >= 1 and is_latency(row["p50_ms"])


def _read(path: Path, what: str, keys: Iterable[str]) -> dict[str, Any]:
    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise UserError(Problem(str(path), "", f"is not JSON: {error}")) from None
    missing = [key for key in keys if not isinstance(document, dict) or key not in document]
    if missing:
        expected = f"is not what dsim measure {what} --json prints"
        raise UserError(Problem(str(path), "", f"{expected}: {missing[0]} is missing"))
    return dict(document)
