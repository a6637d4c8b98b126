"""Runs until an interval is narrow enough: how many more, and when to give up.

The number of runs grows with the square of what the interval is too wide (Law, Simulation Modeling
and Analysis, 2015, section 9.4.1), at most fourfold at a time, because a first width may be off.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dsim.deployment.metrics import WITH_INTERVALS
from dsim.study.columns import QUANTITIES, STATISTICS
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.deployment.metrics import Metrics

# Columns that have intervals.
PRECISE = (*(f"{q}_{s}_ms" for q in QUANTITIES for s in STATISTICS), *WITH_INTERVALS)
MAX_RUNS = 200
GROWTH = 4


def half_of(metrics: Metrics, measure: str) -> float:
    """The half width of the 95 % interval of *measure*, a column, over its value; may be NaN."""
    if measure.endswith("_ms"):
        quantity, _, statistic = measure.removesuffix("_ms").rpartition("_")
        estimate = getattr(metrics, quantity)[statistic]
        value, half = estimate.value, estimate.ci95
    else:
        value, half = getattr(metrics, measure), metrics.intervals[measure]
    return half / abs(value) if value else math.nan


def runs_for(metrics: Metrics, measure: str, precision: float, runs: int) -> int:
    """How many runs are wanted after *runs* of them; as many: it is narrow enough, or hopeless."""
    half = half_of(metrics, measure)
    if half <= precision:
        return runs
    wanted = GROWTH * runs if math.isnan(half) else math.ceil(1.1 * runs * (half / precision) ** 2)
    return max(runs, min(max(wanted, runs + 1), GROWTH * runs, MAX_RUNS))


def reached(found: Sequence[tuple[str, Metrics, int]], measure: str, precision: float) -> list[str]:
    """Sentences: whether the intervals of cases (name, metrics, runs) are narrow enough."""
    wide = []
    for name, metrics, runs in found:
        half = half_of(metrics, measure)
        if half <= precision:
            continue
        if math.isnan(half):
            takes = f"each run takes more requests (about {metrics.interval_requests:,.0f})"
            why = f"has no interval after {runs} runs: {takes}"
        else:
            why = f"is known to ± {half:.1%} after {runs} runs"
        wide.append(f"Not as precise as asked for: {measure} of {name} {why}.")
    if wide:
        return wide
    return [f"{measure} is known to ± {precision:.1%} in {plural(len(found), 'case')}."]
