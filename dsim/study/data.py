"""Data files of a study: measured latencies, acceptance traces and arrival traces."""

from __future__ import annotations

import csv
import re

from dsim.deployment.replay import read_trace
from dsim.units import is_latency


def checked_trace(text: str) -> str:
    """*text*, if it is an arrival trace.

    Raises:
        ValueError: it is not.
    """
    read_trace(text)
    return text


def read_samples(text: str) -> list[float]:
    """Latencies (ms) from the text of a CSV file.

    Raises:
        ValueError: it has no such column, or something in it is not a latency.
    """
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        raise ValueError("the file is empty")
    column = 0
    try:
        float(rows[0][0])
    except ValueError:
        header = [name.strip() for name in rows.pop(0)]
        if "latency_ms" in header:
            column = header.index("latency_ms")
        elif len(header) > 1:
            raise ValueError(f"expected a column latency_ms, got {', '.join(header)}") from None
    samples = []
    for row in rows:
        try:
            samples.append(float(row[column]))
        except (ValueError, IndexError):
            got = row[column] if column < len(row) else "nothing"
            raise ValueError(f"expected numbers, got {got!r} (row {len(samples) + 1})") from None
    if not samples or not all(map(is_latency, samples)):
        raise ValueError("expected latencies in ms, all above 0")
    return samples


def read_traces(text: str) -> list[str]:
    """Acceptance traces from the lines of a text file.

    Raises:
        ValueError: a line is not made of digits.
    """
    traces = [line.strip() for line in text.splitlines() if line.strip()]
    if not traces or not all(re.fullmatch("[0-9]+", trace) for trace in traces):
        raise ValueError("expected lines of digits (1 accepted, 0 rejected)")
    return traces
