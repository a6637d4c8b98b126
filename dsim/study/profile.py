"""Profiles: what was measured of a pair of models, for studies and for advice.

A profile is a JSON or TOML file that ``dsim measure`` writes or prints (or you do)::

    {"format": "dsim profile 1", "name": "pair that ships", "prompts": "stories",
     "target": {"model": "…", "latency_ms": 5.4, "first_latency_ms": 6.0,
                "latency_by_width_ms": [[1, 5.4], [8, 7.0]]},
     "drafter": {"model": "…", "latency_ms": 2.1},
     "acceptance": {"rate": 0.73, "ci95": 0.02},
     "source": "dsim measure latency …"}

Any of ``target``, ``drafter`` and ``acceptance`` may be missing, if nobody asks for it. Each may
have a table ``measured`` with what it was made of. What ``dsim measure … --json`` printed in former
versions (these tables alone, of one model or of acceptance) is read as a profile, too.
"""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import tomllib
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.files import read_text, write_whole
from dsim.model.latency import never_falling
from dsim.study.setting import is_row
from dsim.units import is_latency
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

FORMAT = "dsim profile 1"
MAX_MS = 1e11  # three years; in ns it fits 63 bits


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelProfile:
    """How long the forwards of one model take.

    Attributes:
        model: its name.
        latency_ms: of a forward over one token (TPOT).
        first_latency_ms: of the first forward, which reads the prompt (TTFT), if known.
        latency_by_width_ms: (width in tokens, ms), widths increasing; empty if not known.
        measured: what the latencies were made of, if known.
    """

    model: str
    latency_ms: float
    first_latency_ms: float | None = None
    latency_by_width_ms: tuple[tuple[int, float], ...] = ()
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AcceptanceProfile:
    """How often drafts are accepted.

    Attributes:
        rate: teacher-forced acceptance rate.
        ci95: half the width of its 95 % interval, if known.
        paper_rate: the estimator of the paper, if known.
        rank_shares: where the first choice is wrong, how often the second, the third, … is right;
            empty if not known.
        prompts, tokens: of how many prompts, and tokens of each, if known.
        target, drafter: names of the models, if known.
        measured: what the numbers were made of, if known.
    """

    rate: float
    ci95: float | None = None
    paper_rate: float | None = None
    rank_shares: tuple[float, ...] = ()
    prompts: int | None = None
    tokens: int | None = None
    target: str = ""
    drafter: str = ""
    measured: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """What was measured of a pair on one set of prompts.

    Attributes:
        name: of the pair.
        prompts: of the set.
        target, drafter, acceptance: what was measured; ``None``: was not.
        source: where the numbers come from, in words.
    """

    name: str
    prompts: str = ""
    target: ModelProfile | None = None
    drafter: ModelProfile | None = None
    acceptance: AcceptanceProfile | None = None
    source: str = ""

    def to_json(self) -> str:
        """The text of the file."""

        def kept(values: Mapping[str, Any]) -> dict[str, Any]:
            return {k: v for k, v in values.items() if v not in (None, (), "", {})}

        parts = {
            k: kept(vars(v)) if dataclasses.is_dataclass(v) else v for k, v in vars(self).items()
        }
        text = json.dumps({"format": FORMAT, **kept(parts)}, indent=1, ensure_ascii=False)
        # Lists of numbers, like the rows of tables, in one line each.
        one_line = re.sub(
            r"\[\s+([\d.,e+\s-]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text
        )
        return one_line + "\n"

    def settings(self, given: Collection[str] = ()) -> dict[str, Any]:
        """The settings of a study that say the same, but for what is *given* otherwise."""
        found: dict[str, Any] = {}
        for role, model in (("target", self.target), ("drafter", self.drafter)):
            if model is None:
                continue
            named = {f"{role}.latency_ms", f"{role}.latency_relative", f"{role}.latency_samples_ms"}
            if not named & set(given):
                found[f"{role}.latency_ms"] = model.latency_ms
                if model.latency_by_width_ms:
                    table = [list(row) for row in model.latency_by_width_ms]
                    found[f"{role}.latency_by_width_ms"] = table
                    found[f"{role}.latency_model"] = "table"
            if model.first_latency_ms is not None and f"{role}.first_latency_ratio" not in given:
                found[f"{role}.first_latency_ms"] = model.first_latency_ms
        if self.acceptance is not None:
            found["acceptance.rate"] = self.acceptance.rate
            if self.acceptance.rank_shares:
                found["acceptance.rank_shares"] = list(self.acceptance.rank_shares)
        return {key: value for key, value in found.items() if key not in given}

    def missing(self) -> list[str]:
        """What was not measured, and the command that would."""
        commands = {
            "target": "latency",
            "drafter": "latency",
            "acceptance": "acceptance",
        }
        return [
            f"{part} (dsim measure {command} STUDY.toml)"
            for part, command in commands.items()
            if getattr(self, part) is None
        ]


_NUMBER, _COUNT, _TEXT = "a number above 0", "a whole number above 0", "a text"
_MODEL = {
    "model": _TEXT,
    "latency_ms": _NUMBER,
    "first_latency_ms": _NUMBER,
    "latency_by_width_ms": "a list of [width, ms] pairs, widths increasing",
    "measured": "a table",
}
_RATE, _SHARES = "a number from 0 to 1", "a list of numbers from 0 to 1 whose sum is at most 1"
_ACCEPTANCE = {
    "rate": _RATE,
    "ci95": "a number from 0 on",
    "paper_rate": _RATE,
    "rank_shares": _SHARES,
    "prompts": _COUNT,
    "tokens": _COUNT,
    "target": _TEXT,
    "drafter": _TEXT,
    "measured": "a table",
}
_TOP = {"format": f'"{FORMAT}"', "name": _TEXT, "prompts": _TEXT, "source": _TEXT}
_TABLES: dict[str, dict[str, str]] = {
    "target": _MODEL,
    "drafter": _MODEL,
    "acceptance": _ACCEPTANCE,
}
_NEEDED = {"": ("format", "name"), "target": ("model", "latency_ms"), "acceptance": ("rate",)}
_NEEDED["drafter"] = _NEEDED["target"]


def _is(value: Any, what: str) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if what == _TEXT:
        return isinstance(value, str)
    if what == _NUMBER:
        return is_latency(value) and value <= MAX_MS
    if what == _COUNT:
        return isinstance(value, int) and number and value > 0
    if what == _RATE:
        return number and 0 <= value <= 1
    if what == _SHARES:
        shares = value if isinstance(value, list) else [-1]
        return all(_is(share, _RATE) for share in shares) and sum(shares) <= 1 + 1e-9
    if what == _ACCEPTANCE["ci95"]:
        return number and 0 <= value < float("inf")
    if what == _MODEL["latency_by_width_ms"]:
        rows = value if isinstance(value, list) else []
        widths = [row[0] for row in rows if is_row(row) and row[1] <= MAX_MS]
        return bool(rows) and len(widths) == len(rows) and widths == sorted(set(widths))
    return isinstance(value, dict) if what == _MODEL["measured"] else bool(value == FORMAT)


def _problems(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    tables: list[tuple[str, Any, dict[str, str]]] = [("", document, _TOP)]
    tables += [(name, document[name], known) for name, known in _TABLES.items() if name in document]
    for name, table, known in tables:
        where = f"{name}." if name else ""
        if not isinstance(table, dict):
            yield name, f"expected a table, got {show(table)}"
            continue
        names = [*known, *(() if name else _TABLES)]
        for key, value in table.items():
            if key not in names:
                yield where + key, f"unknown{nearest(key, names)}"
            elif key in known and not _is(value, known[key]):
                yield where + key, f"expected {known[key]}, got {show(value)}"
        for key in _NEEDED[name]:
            if key not in table:
                yield where + key, f"is missing: {known[key]}"


def model_of(name: str, measured: Mapping[str, Any]) -> ModelProfile:
    """The latencies of a model, from what was measured: medians of ``tpot_ms`` and ``ttft_ms``.

    By width they are the medians of the ``rows`` under the highest load, at the last context, made
    such that they fall neither with the context nor with the width.
    """
    rows, first_ms = measured["rows"], measured.get("ttft_ms")
    load = max(row["co_running"] for row in rows)
    found: dict[int, list[float]] = {}
    for row in rows:
        if row["co_running"] == load:
            found.setdefault(row["width"], []).append(row["p50_ms"])
    at_last = never_falling([never_falling(medians)[-1] for medians in found.values()])
    return ModelProfile(
        model=name,
        latency_ms=_median(measured["tpot_ms"]),
        first_latency_ms=_median(first_ms) if first_ms else None,
        latency_by_width_ms=tuple((w, round(ms, 6)) for w, ms in zip(found, at_last, strict=True)),
        measured=measured,
    )


def _median(values: Sequence[float]) -> float:
    return round(float(statistics.median(values)), 6)


def _former(document: dict[str, Any], source: str) -> Profile | None:
    """What *document* says if ``dsim measure … --json`` of a former version printed it.

    Raises:
        UserError: one of its lists is wrong.
    """
    own = {key: document[key] for key in _ACCEPTANCE if document.get(key) is not None}
    more = {key: value for key, value in document.items() if key not in _ACCEPTANCE}
    if {"target", "drafter", "rate"} <= own.keys() and not isinstance(own["target"], dict):
        name = f"{own['target']} / {own['drafter']}"
        return of({"format": FORMAT, "name": name, "acceptance": own | {"measured": more}}, source)
    if not {"model", "rows", "tpot_ms"} <= document.keys():
        return None
    known, rows = ("width", "context", "co_running", "p50_ms"), document["rows"]
    wrong = []
    if not (isinstance(rows, list) and rows and all(_has_numbers(row, known) for row in rows)):
        wrong.append(("rows", f"tables with {', '.join(known)}", rows))
    for key in ("tpot_ms", "ttft_ms"):
        value = document.get(key, [1.0])
        if not (isinstance(value, list) and value and all(is_latency(ms) for ms in value)):
            wrong.append((key, "a list of latencies", value))
    if wrong:
        what = ((key, f"expected {expected}, got {show(got)}") for key, expected, got in wrong)
        raise UserError(*(Problem(source, key, text) for key, text in what))
    name = str(document.pop("model"))
    return Profile(name=name, target=model_of(name, document))


def _has_numbers(row: Any, names: Sequence[str]) -> bool:
    numbers = isinstance(row, dict) and all(isinstance(row.get(n), int | float) for n in names)
    return numbers and row["width"] >= 1 and is_latency(row["p50_ms"])


def loads(text: str, source: str, *, toml: bool = False) -> Profile:
    """The profile that *text* holds.

    Raises:
        UserError: with all problems that were found.
    """
    try:
        document = tomllib.loads(text) if toml else json.loads(text)
    except ValueError as error:
        raise UserError(
            Problem(source, "", f"is not {'TOML' if toml else 'JSON'}: {error}")
        ) from None
    if not isinstance(document, dict):
        raise UserError(Problem(source, "", "is no profile: expected an object"))
    former = None if "format" in document else _former(document, source)
    return former or of(document, source)


def of(document: Mapping[str, Any], source: str) -> Profile:
    """The profile that *document* holds; *source* is its file.

    Raises:
        UserError: with all problems that were found.
    """
    problems = [Problem(source, key, what) for key, what in _problems(document)]
    if problems:
        raise UserError(*problems)
    parts = {key: value for key, value in document.items() if key != "format"}
    for role in {"target", "drafter"} & parts.keys():
        table = dict(parts[role])
        table |= {k: float(v) for k, v in table.items() if k.endswith("latency_ms")}
        rows = table.get("latency_by_width_ms", ())
        table["latency_by_width_ms"] = tuple((int(width), float(ms)) for width, ms in rows)
        parts[role] = ModelProfile(**table)
    if "acceptance" in parts:
        shares = tuple(map(float, parts["acceptance"].get("rank_shares", ())))
        parts["acceptance"] = AcceptanceProfile(**{**parts["acceptance"], "rank_shares": shares})
    return Profile(**parts)


def read(path: Path) -> Profile:
    """The profile in the file *path* (``.toml``: TOML; else JSON).

    Raises:
        UserError: it cannot be read, or is no profile; with all problems that were found.
    """
    return loads(read_text(path), str(path), toml=path.suffix == ".toml")


def _models(profile: Profile, role: str) -> set[str]:
    """What the parts of *profile* call the model of *role*."""
    names = [getattr(part, role) for part in (profile.acceptance,) if part]
    names += [part.model for part in (getattr(profile, role),) if part]
    return {*filter(None, names)}


def _same_pair(a: Profile, b: Profile) -> bool:
    models = (_models(a, role) | _models(b, role) for role in ("target", "drafter"))
    return (a.name, a.prompts) == (b.name, b.prompts) and all(len(names) <= 1 for names in models)


def _sources(old: Profile, new: Profile) -> str:
    """Where the numbers of both come from: of the *old* ones, only what *new* does not replace."""
    commands = {
        "dsim measure latency ": new.target and new.drafter,
        "dsim measure acceptance ": new.acceptance,
    }
    replaced = tuple(command for command, part in commands.items() if part)
    if all(commands.values()):
        return new.source
    kept = [one for one in old.source.split("; ") if not one.startswith(replaced)]
    return "; ".join(dict.fromkeys(filter(None, (*kept, new.source))))


def write(profile: Profile, path: Path) -> None:
    """Write *profile* to *path*, and keep what another command measured of the same pair.

    What is there of another pair (name, prompts or models differ) is replaced.

    Raises:
        UserError: the file cannot be written, or holds something else.
    """
    if path.exists() and _same_pair(old := read(path), profile):
        profile = dataclasses.replace(
            profile,
            target=profile.target or old.target,
            drafter=profile.drafter or old.drafter,
            acceptance=profile.acceptance or old.acceptance,
            source=_sources(old, profile),
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            Problem("--out", "", f"{path.parent} cannot be made: {error.strerror}")
        ) from None
    write_whole(path, profile.to_json(), "--out")
