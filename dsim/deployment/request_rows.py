"""Requests as files have them: dsim's own CSV, and traces as the field publishes them."""

from __future__ import annotations

import csv
import datetime as dt
import functools
import json
import re
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_TOKENS = 10_000_000  # of a prompt or an answer
HASHED_TOKENS = 512  # of a prompt, in one block of Mooncake's traces
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|\+00:?00)?")


class Text(NamedTuple):
    """What a file says of one request beside its time and its lengths.

    Attributes:
        name: its name in the file.
        group, shared: the first *shared* tokens of its prompt are those of all prompts of *group*.
        accepts: whether the draft for each position of the answer is accepted, as 0 and 1; empty:
            by the acceptance model.
        hashes: what stands for each 512 tokens of the prompt and all before them; prompts with the
            same have the same text up to there. Empty: nothing is known.
    """

    name: str = ""
    group: str = ""
    shared: int = 0
    accepts: str = ""
    hashes: tuple[int, ...] = ()


class Row(NamedTuple):
    """One request: when it came, by the clock of the file, its lengths, and what else is known."""

    at_ns: int
    prompt: int
    output: int
    text: Text = Text()


class Format(NamedTuple):
    """A format of files.

    Attributes:
        name: what people call it.
        columns: what tells it from others, and must be there.
        row: reads one row of it; raises :class:`ValueError` where a value is not valid.
        sorted: whether times must not go back.
        failures: whether answers of no tokens are requests that failed, to be left out.
    """

    name: str
    columns: tuple[str, ...]
    row: Callable[[Mapping[str, Any]], Row]
    sorted: bool = True
    failures: bool = False


def exact_ns(value: Any, scale: int) -> int:
    """Nanoseconds of a time in units of *scale* ns, exactly: clocks may count from 1970.

    Raises:
        ValueError: *value* is no number from 0 on.
    """
    try:
        number = Decimal(str(value).strip())
    except InvalidOperation:
        number = Decimal(-1)
    if not (number.is_finite() and number >= 0):
        raise ValueError(f"expected an arrival ≥ 0, got {value}")
    return round(number * scale)


def lengths(prompt: Any, output: Any, *, least: int = 1) -> tuple[int, int]:
    """The lengths of prompt and answer.

    Raises:
        ValueError: they are no whole numbers, negative, or absurd.
    """
    try:
        found = _whole(prompt), _whole(output)
    except (TypeError, ValueError, OverflowError):
        got = f"{_cell(prompt)} for the prompt, {_cell(output)} for the answer"
        raise ValueError(f"expected numbers of tokens, got {got}") from None
    if not (0 <= found[0] <= MAX_TOKENS and least <= found[1] <= MAX_TOKENS):
        raise ValueError(
            f"expected a prompt ≥ 0 and an output ≥ {least} ({MAX_TOKENS:,} tokens at most), "
            f"got {prompt}, {output}"
        )
    return found


def _whole(value: Any) -> int:
    """A whole number, also as other tools write columns that had blanks: ``100.0``."""
    try:
        return int(value)
    except ValueError:
        number = float(value)
        if number != int(number):
            raise
        return int(number)


def _cell(value: Any) -> str:
    """A cell for a message."""
    text = "" if value is None else str(value).strip()
    return text or "nothing"


def _own(time: str, scale: int, row: Mapping[str, Any]) -> Row:
    """A row of dsim's own CSV."""
    try:
        float(row[time])
    except (TypeError, ValueError):
        raise ValueError(f"expected numbers, got {shown(row)}") from None
    prompt, output = lengths(row.get("prompt_tokens", 0), row["output_tokens"])
    accepts = (row.get("accepts") or "").strip()
    if accepts and not re.fullmatch(f"[01]{{{output},}}", accepts):
        raise ValueError(
            f"accepts: expected 0 and 1 for each of {output} tokens, got {len(accepts)} characters"
        )
    try:
        shared = int(row.get("prefix_tokens") or 0)
    except ValueError:
        shared = -1
    if not 0 <= shared <= prompt:
        got = row.get("prefix_tokens")
        raise ValueError(f"prefix_tokens: expected 0 to {prompt} (prompt_tokens), got {got}")
    group = row.get("prefix_group") or ""
    text = Text(row.get("request_id") or "", group, shared if group else 0, accepts)
    return Row(exact_ns(row[time], scale), prompt, output, text)


@functools.lru_cache(maxsize=64)
def _day(text: str) -> int:
    """Seconds from 1970 to the day *text*."""
    day = dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
    return (day - EPOCH) // dt.timedelta(seconds=1)


def _azure(row: Mapping[str, Any]) -> Row:
    """A row of Azure's traces of 2023 and 2024 (Patel et al., Splitwise; Stojkovic et al.)."""
    stamp = str(row["TIMESTAMP"]).strip()
    found = TIMESTAMP.fullmatch(stamp)
    if not found:
        raise ValueError(f"TIMESTAMP: expected one like 2023-11-16 18:15:46.6805900, got {stamp}")
    day, hours, minutes, seconds, fraction = found.groups()
    whole = _day(day) + int(hours) * 3600 + int(minutes) * 60 + int(seconds)
    at_ns = whole * NS_PER_S + int((fraction or "0").ljust(9, "0"))
    return Row(at_ns, *lengths(row["ContextTokens"], row["GeneratedTokens"], least=0))


def _burstgpt(row: Mapping[str, Any]) -> Row:
    """A row of BurstGPT's traces (Wang et al., arXiv 2401.17644), in seconds."""
    read = lengths(row["Request tokens"], row["Response tokens"], least=0)
    return Row(exact_ns(row["Timestamp"], NS_PER_S), *read)


def _mooncake(row: Mapping[str, Any]) -> Row:
    """A line of Mooncake's traces (Qin et al., arXiv 2407.00079), in milliseconds."""
    prompt, output = lengths(row["input_length"], row["output_length"], least=0)
    hashes = row.get("hash_ids", [])
    if not isinstance(hashes, list) or not all(isinstance(one, int) for one in hashes):
        raise ValueError(f"hash_ids: expected a list of whole numbers, got {hashes}")
    if hashes and len(hashes) != -(-prompt // HASHED_TOKENS):
        raise ValueError(
            f"hash_ids: expected {-(-prompt // HASHED_TOKENS)} ({prompt} tokens in blocks of "
            f"{HASHED_TOKENS}), got {len(hashes)}"
        )
    text = Text(shared=prompt if hashes else 0, hashes=tuple(hashes))
    return Row(exact_ns(row["timestamp"], NS_PER_MS), prompt, output, text)


OWN = {"arrival_ms": NS_PER_MS, "arrival_s": NS_PER_S, "arrival_us": 1_000}
EXACT = ("request_id", "prompt_tokens")  # what must be there too where times are in µs
FORMATS = (
    *(
        Format(
            "dsim",
            (time, *(EXACT if time == "arrival_us" else ()), "output_tokens"),
            functools.partial(_own, time, scale),
            sorted=time == "arrival_us",
        )
        for time, scale in OWN.items()
    ),
    Format("Azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), _azure, failures=True),
    Format(
        "BurstGPT", ("Timestamp", "Request tokens", "Response tokens"), _burstgpt, failures=True
    ),
)
MOONCAKE = Format(
    "Mooncake", ("timestamp", "input_length", "output_length"), _mooncake, failures=True
)


def format_of(names: list[str]) -> Format:
    """The format that has a table with these column *names*.

    Raises:
        ValueError: there is none; says which column the closest one lacks.
    """
    if len(times := [name for name in OWN if name in names]) > 1:
        raise ValueError(f"expected arrivals in one unit, got columns {' and '.join(times)}")
    for one in FORMATS:
        if one.columns[0] in names:
            missing = [name for name in one.columns if name not in names]
            if not missing:
                return one
            raise ValueError(f"expected a column {missing[0]}, got {', '.join(map(str, names))}")
    close = max(FORMATS, key=lambda one: len({*one.columns} & {*names}))
    missing = [name for name in close.columns if name not in names]
    others = [f"dsim's own has {' or '.join(OWN)}, prompt_tokens, output_tokens"]
    others += [f"{one.name} has {', '.join(one.columns)}" for one in FORMATS if one.name != "dsim"]
    hint = f"; {'; '.join(others)}" if not {*close.columns} & {*names} else ""
    raise ValueError(f"expected a column {missing[0]}, got {', '.join(map(str, names))}{hint}")


def tables(text: str) -> tuple[Format, Iterator[tuple[int, Mapping[str, Any]]]]:
    """The format of *text*, and its rows with their line numbers.

    Raises:
        ValueError: it has no rows, or a format of its own.
    """
    text = text.removeprefix("\ufeff")  # of spreadsheets; it is no part of the first name
    if text.lstrip().startswith("{"):
        return MOONCAKE, _lines(text)
    reader = csv.DictReader(text.splitlines(), skipinitialspace=True)
    names = [str(name) for name in reader.fieldnames or ()]

    def rows() -> Iterator[tuple[int, Mapping[str, Any]]]:
        try:
            for row in reader:
                yield reader.line_num, row
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from None

    if not names:
        raise ValueError("expected a header and at least one request")
    return format_of(names), rows()


def _lines(text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"line {number}: expected a JSON object, got {line[:60]}")
        for name in MOONCAKE.columns:
            if name not in row:
                raise ValueError(f"line {number}: expected a field {name}, got {', '.join(row)}")
        yield number, row


def shown(row: Mapping[str, Any]) -> str:
    """The values of *row*, for messages."""
    return ", ".join(str(value) for value in row.values())
