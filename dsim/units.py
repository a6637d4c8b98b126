"""Units of time. Inside dsim every time is a whole number of nanoseconds."""

from __future__ import annotations

import math
from typing import Any

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000


def to_ns(latency_ms: float) -> int:
    """Milliseconds to whole nanoseconds, at least one.

    Raises:
        ValueError: *latency_ms* is not finite, or not above zero.
    """
    if not (math.isfinite(latency_ms) and latency_ms > 0):
        raise ValueError(f"a latency must be above 0 ms, got {latency_ms}")
    return max(1, round(latency_ms * NS_PER_MS))


def to_ms(time_ns: float) -> float:
    """Milliseconds of *time_ns* nanoseconds."""
    return time_ns / NS_PER_MS


def is_latency(value: Any) -> bool:
    """Whether *value* is a number that can be a latency in ms: finite and above 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0
