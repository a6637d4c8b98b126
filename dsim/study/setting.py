"""One setting of a TOML file: its type, bounds and meaning, and what is wrong with a value."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.units import is_latency
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


LISTED = {"float or list": "float", "int or list": "int"}  # types, and those of their members


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing that a study can set.

    Attributes:
        key: its dotted path in the file.
        type: ``int``, ``float``, ``bool``, ``str``, or a description of a richer form.
        default: ``None``: not set.
        low, high: bounds; *above* says that *low* itself is excluded, *below* that *high* is.
        choices: the words it may be; for numbers, words that are allowed besides.
        sweep: whether it can be an axis of the grid.
        length: how many coefficients there are.
    """

    key: str
    type: str
    default: Any
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    choices: Collection[str] = ()
    sweep: bool = True
    length: int = 0

    @property
    def range(self) -> str:
        """The values it takes, for people."""
        numbers = ""
        if self.type in ("int", "float", *LISTED) and self.low is not None:
            low = f"{self.low:,g}" if self.low < 10**6 else f"{self.low:,.0f}"
            numbers = f"{'above' if self.above else 'at least'} {low}"
            if self.high is not None:
                high = f"{int(self.high):,}" if self.high >= 10**6 else f"{self.high:g}"
                least = f"above {low}, up" if self.above else f"from {low}"
                numbers = f"{least} to {'below ' if self.below else ''}{high}"
        return " or ".join(filter(None, (numbers, " | ".join(self.choices))))

    def problem(self, value: Any) -> str | None:
        """What is wrong with *value*: ``None``, or "expected …, got …"."""
        wrong = f"expected {self.expected}, got {show(value)}"
        if self.type in ("int", "float"):
            if isinstance(value, str) and value in self.choices:
                return None
            if isinstance(value, bool) or not isinstance(value, int | float):
                return wrong
            if not math.isfinite(value) or (self.type == "int" and value != int(value)):
                return wrong
            if self.low is not None and (value < self.low or (self.above and value == self.low)):
                return wrong
            if self.high is not None and (value > self.high or (self.below and value == self.high)):
                return wrong
            return None
        if self.type in LISTED:
            one = dataclasses.replace(self, type=LISTED[self.type])
            several = value if isinstance(value, list) else [value]
            found = [one.problem(v) for v in several] or [wrong]
            return next(filter(None, found), None)
        if self.type == "bool":
            return None if isinstance(value, bool) else wrong
        if self.type == "str":
            if not isinstance(value, str):
                return wrong
            if unprintable(value):
                return f"holds a control character, got {show(value)}"
            if self.choices and value not in self.choices:
                return wrong + nearest(value, [*self.choices])
            return None
        if self.type == "list of str":
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                return wrong
            bad = [v for v in value if self.choices and v not in self.choices]
            if bad:
                hint = nearest(bad[0], [*self.choices])
                if self.key == "algorithms" and not hint:
                    hint = "; for one of your own, give --plugin FILE.py"
                return f"expected {self.expected}, got {show(bad[0])}{hint}"
            if self.key == "algorithms" and not value:
                return wrong
            return None
        if self.type == "list of float":
            good = isinstance(value, list) and value and all(is_latency(v) for v in value)
            return None if good else wrong
        if self.type == "list of delays":
            good = isinstance(value, list) and value and all(v == 0 or is_latency(v) for v in value)
            return None if good and not any(isinstance(v, bool) for v in value) else wrong
        if self.type == "list of tables":
            good = isinstance(value, list) and all(isinstance(v, dict) for v in value)
            return None if good else wrong
        if self.type == "list of [width, ms]":
            good = isinstance(value, list) and value and all(is_row(row) for row in value)
            if not good:
                return wrong
            widths = [row[0] for row in value]
            return None if widths == sorted(set(widths)) else f"{wrong}; widths must increase"
        if self.type == "coefficients":
            good = isinstance(value, list) and all(v == 0 or is_latency(v) for v in value)
            good = (
                good and len(value) == self.length and not any(isinstance(v, bool) for v in value)
            )
            return None if good else wrong
        if self.type == "list of [requests, drafts]":
            if not (isinstance(value, list) and value and all(map(is_drafts, value))):
                return wrong
            firsts = [row[0] for row in value]
            in_order = firsts == sorted(set(firsts))
            return None if in_order else f"{wrong}; numbers of requests must increase"
        if self.type == "list of traces":
            traces = value if isinstance(value, list) else [value]
            good = traces and all(isinstance(t, str) and re.fullmatch("[0-9]+", t) for t in traces)
            return None if good else wrong
        if self.type == "list of paths":
            return None if isinstance(value, list) and _are_paths(value) else wrong
        raise AssertionError(self.type)

    @property
    def expected(self) -> str:
        """What it should be, for error messages."""
        what = {
            "int": "a whole number",
            "float": "a number",
            "float or list": "a number or a list of numbers",
            "int or list": "a whole number or a list of whole numbers",
            "bool": "true or false",
            "str": "a text",
            "list of str": "a list of words",
            "list of float": "a list of latencies above 0",
            "list of delays": "a list of delays of at least 0",
            "coefficients": f"a list of {self.length} numbers of at least 0",
            "list of tables": "a list of tables",
            "list of [width, ms]": "a list of [width, ms] pairs, both above 0",
            "list of [requests, drafts]": "a list of [requests, drafts] pairs, requests above 0",
            "list of traces": "a text of digits (1 accepted, 0 rejected), or a list of such",
            "list of paths": "a list of paths, each of ranks from 1 on: [[1], [2], [1, 1]]",
        }[self.type]
        if self.type == "str" and self.choices:
            return "one of " + ", ".join(f'"{c}"' for c in self.choices)
        if self.type == "list of str" and self.choices:
            return "a list of " + ", ".join(f'"{c}"' for c in self.choices)
        numbers = Setting.range.fget(dataclasses.replace(self, choices=()))  # type: ignore[attr-defined]
        words = "".join(f' or "{c}"' for c in self.choices)
        return f"{what}{' ' + numbers if numbers else ''}{words}"


def exact(values: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """*values*, with whole numbers as ``int`` and others as ``float``, however written."""
    types = {"int": int, "float": float}
    return {
        key: value if isinstance(value, str) else types.get(known[key].type, lambda v: v)(value)
        for key, value in values.items()
    }


def unprintable(text: str) -> bool:
    """Whether *text* holds a control character (a line break or a tab is none)."""
    return any(ord(c) < 32 and c not in "\n\r\t" for c in text) or "\x7f" in text


def _are_paths(value: list[Any]) -> bool:
    """Whether *value* has paths only: lists of whole numbers from 1 on."""
    return bool(value) and all(
        isinstance(path, list)
        and path
        and all(isinstance(rank, int) and not isinstance(rank, bool) and rank > 0 for rank in path)
        for path in value
    )


def is_row(row: Any) -> bool:
    """Whether *row* is a [width, ms] pair."""
    return (
        isinstance(row, list)
        and len(row) == 2
        and isinstance(row[0], int)
        and all(is_latency(v) for v in row)
    )


def is_drafts(row: Any) -> bool:
    """Whether *row* is a [requests, drafts] pair."""
    pair = isinstance(row, list) and len(row) == 2 and all(type(v) is int for v in row)
    return pair and row[0] >= 1 and 0 <= row[1] <= 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema:
    """What a kind of file, or of table in it, can set.

    Attributes:
        name: name of the kind, for messages.
        settings: its settings, in the order of ``dsim settings``.
        tables: names of the tables in which settings with a dot stand.
    """

    name: str
    settings: tuple[Setting, ...]
    tables: tuple[str, ...] = ()

    @functools.cached_property
    def by_key(self) -> dict[str, Setting]:
        """The settings by key."""
        return {setting.key: setting for setting in self.settings}


class Problems:
    """The problems of one document, gathered to be reported all at once.

    Attributes:
        source: the document, as messages call it.
        found: the problems so far.
    """

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self.found)

    def add(self, key: str, what: str, source: str | None = None) -> None:
        """Note that setting *key* is wrong: *what* was expected, and what was given."""
        problem = Problem(source or self.source, key, what)
        if problem not in self.found:
            self.found.append(problem)

    def stop(self) -> None:
        """Report the problems, if there are any.

        Raises:
            UserError: with all of them.
        """
        if self.found:
            raise UserError(*self.found)
