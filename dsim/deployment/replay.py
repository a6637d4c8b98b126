"""Workloads that are replayed: when requests came, how long they are, and what else is known."""

from __future__ import annotations

import csv
import functools
import math
import re
from decimal import Decimal
from typing import Any, NamedTuple

from dsim.units import NS_PER_S

MAX_TOKENS = 10_000_000  # of a prompt or an answer
MAX_SPAN_NS = 30 * 365 * 86_400 * NS_PER_S  # fits twice over into 63 bits
NS_OF = {"arrival_ms": 1_000_000, "arrival_s": NS_PER_S, "arrival_us": 1_000}


class Text(NamedTuple):
    """What a file says of one request beside its time and its lengths.

    Attributes:
        name: its name in the file.
        group, shared: the first *shared* tokens of its prompt are those of all prompts of *group*.
        accepts: whether the draft for each position of the answer is accepted, as 0 and 1; empty:
            by the acceptance model.
    """

    name: str = ""
    group: str = ""
    shared: int = 0
    accepts: str = ""


class Replay(NamedTuple):
    """A workload from a file.

    Attributes:
        began_ns: when the first request came, by the clock of the file.
        requests: (ns since then, prompt tokens, output tokens) in order of arrival.
        texts: what else is known of each of them.
    """

    began_ns: int
    requests: tuple[tuple[int, int, int], ...]
    texts: tuple[Text, ...]


@functools.lru_cache(maxsize=8)  # the cases of a study have it in common
def read_replay(text: str) -> Replay:
    """A workload from the text of a CSV file.

    Columns: ``arrival_ms`` (or ``arrival_s``, ``arrival_us``), ``prompt_tokens`` (0 if there is
    none) and ``output_tokens``; and, if known, ``request_id``, ``prefix_group`` and
    ``prefix_tokens`` (the first so many tokens of a group's prompts are the same), and ``accepts``
    (0 and 1 by output position). With ``arrival_us``, ``request_id`` and ``prompt_tokens`` must be
    there, and the rows must be sorted by time; otherwise they need not be. The first request comes
    at 0.

    Raises:
        ValueError: a column is missing, a value is not valid, or times go back.
    """
    # Spreadsheets begin a file with a mark that is no part of the first name.
    reader = csv.DictReader(text.removeprefix("\ufeff").splitlines(), skipinitialspace=True)
    try:
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if not rows:
        raise ValueError("expected a header and at least one request")
    names = list(reader.fieldnames or ())
    time = next((name for name in NS_OF if name in names), "")
    exact = time == "arrival_us"
    needed = ["request_id", "prompt_tokens"] if exact else []
    for name in (time or "arrival_ms", *needed, "output_tokens"):
        if name not in names:
            raise ValueError(f"expected a column {name}, got {', '.join(map(str, names))}")
    found: list[tuple[int, int, int, Text]] = []
    for number, row in rows:
        one = _request(row, time, number)
        if exact and found and one[0] < found[-1][0]:
            raise ValueError(f"line {number}: times go back, got {_shown(row)}")
        found.append(one)
    found.sort(key=lambda request: request[0])
    began_ns = found[0][0]
    if found[-1][0] - began_ns > MAX_SPAN_NS:
        raise ValueError("the requests come over more than 30 years")
    return Replay(
        began_ns=began_ns,
        requests=tuple((at_ns - began_ns, prompt, output) for at_ns, prompt, output, _ in found),
        texts=tuple(text for *_, text in found),
    )


def read_trace(text: str) -> tuple[tuple[int, int, int], ...]:
    """The requests of :func:`read_replay`."""
    return read_replay(text).requests


def _request(row: dict[str, Any], time: str, number: int) -> tuple[int, int, int, Text]:
    """One row: when the request came (ns), its prompt, its answer, and what else is known."""
    try:
        arrival = float(row[time])
        prompt, output = int(row.get("prompt_tokens") or 0), int(row["output_tokens"])
        shared = int(row.get("prefix_tokens") or 0)
    except (TypeError, ValueError):
        raise ValueError(f"line {number}: expected numbers, got {_shown(row)}") from None
    if not (0 <= arrival < math.inf and 0 <= prompt <= MAX_TOKENS and 1 <= output <= MAX_TOKENS):
        raise ValueError(
            f"line {number}: expected an arrival ≥ 0, a prompt ≥ 0 and an output ≥ 1 "
            f"({MAX_TOKENS:,} tokens at most), got {_shown(row)}"
        )
    accepts = (row.get("accepts") or "").strip()
    if accepts and not re.fullmatch(f"[01]{{{output},}}", accepts):
        raise ValueError(
            f"line {number}: accepts: expected 0 and 1 for each of {output} tokens, "
            f"got {len(accepts)} characters"
        )
    if not 0 <= shared <= prompt:
        raise ValueError(
            f"line {number}: prefix_tokens: expected 0 to {prompt} (prompt_tokens), got {shared}"
        )
    group = row.get("prefix_group") or ""
    text = Text(row.get("request_id") or "", group, shared if group else 0, accepts)
    # Exactly: the nanoseconds of a clock that counts from 1970 are more than a float can hold.
    return round(Decimal(row[time].strip()) * NS_OF[time]), prompt, output, text


def _shown(row: dict[str, Any]) -> str:
    return ", ".join(str(value) for value in row.values())
