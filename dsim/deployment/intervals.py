"""95 % intervals of what a simulation says, from independent runs and batches of requests.

Each run is cut into few, large batches (batch means: Law, Simulation Modeling and Analysis, 2015,
section 9.5). What is left of their correlation widens the interval, as a first-order
autoregressive process does, with the bias of its estimate corrected (Kendall, 1954; as in Skart:
Tafazzoli, Wilson, Lada and Steiger, 2011). Quantiles by sectioning: those of the batches around
that of the whole (Asmussen and Glynn, Stochastic Simulation, 2007, III.5a; Nakayama, 2014). Runs
that are too short have none: see :mod:`dsim.deployment.run_length`. ``benchmarks/coverage.py``
measures how often intervals hold the truth.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.statistics import half_width

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dsim.deployment.run_length import RunLength

    Floats = NDArray[np.float64]

BATCHES = 10
MIN_PER_BATCH, MIN_IN_TAIL = 10, 5  # requests in a batch, and beyond a quantile in each
MAX_CORRELATION = 0.9
MIN_DEGREES = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the half width of its 95 % interval (NaN where there is none)."""

    value: float
    ci95: float = math.nan


def batches_each(runs: int) -> int:
    """Into how many batches each of *runs* runs is cut: at least ten in all."""
    return max(1, -(-BATCHES // runs))


def of_ratio(above: Floats, below: Floats) -> float:
    """Half width of the interval of ``above.sum() / below.sum()``.

    Args:
        above: float64, shape (runs, batches): numerators of the batches of each run, in order of
            time. One batch per run: the runs are compared.
        below: float64, the same shape: denominators.
    """
    if above.size < 2 or not below.sum() > 0 or math.isnan(above.sum()):
        return math.nan
    # What each batch has more than its part, in units of the ratio.
    off = (above - above.sum() / below.sum() * below) / below.mean()
    if off.shape[1] == 1:
        return float(half_width(np.std(off, ddof=1), off.size))
    return _correlated(off)


def _correlated(off: Floats) -> float:
    """Half width of the interval of a mean from the deviations of its batches."""
    runs, each = off.shape
    count = off.size
    squares = float((off**2).sum())
    if squares == 0:
        return 0.0
    products = float((off[:, 1:] * off[:, :-1]).sum())
    found = products / (runs * (each - 1)) / (squares / count)
    found += (1 + 3 * found) / count
    correlation = min(max(found, 0.0), MAX_CORRELATION)
    widened = (1 + correlation) / (1 - correlation)
    from scipy.special import stdtrit

    degrees = max(MIN_DEGREES, count / widened - 1)
    return float(stdtrit(degrees, 0.975)) * math.sqrt(squares / (count - 1) / count * widened)


def of_mean(values: Sequence[Floats], length: RunLength | None = None) -> Estimate:
    """The mean of all *values* (of each run, in order of time).

    Args:
        values: of each run.
        length: whether they are enough; ``None``: as many as there are batches of.
    """
    pooled = np.concatenate(list(values))
    if not len(pooled):
        return Estimate(value=math.nan)
    mean = float(np.mean(pooled))
    if length is not None and not length.allows():
        return Estimate(value=mean)
    parts = _batches(values)
    if parts is None:
        return Estimate(value=mean)
    means = np.array([[part.mean() for part in run] for run in parts])
    return Estimate(value=mean, ci95=_of_batches(means, float(means.mean())))


def of_quantile(
    values: Sequence[Floats], quantile: float, length: RunLength | None = None
) -> Estimate:
    """A quantile of all *values* (of each run, in order of time); see :func:`of_mean`."""
    pooled = np.concatenate(list(values))
    if not len(pooled):
        return Estimate(value=math.nan)
    at = float(np.quantile(pooled, quantile))
    if length is not None and not length.allows(quantile):
        return Estimate(value=at)
    parts = _batches(values)
    if parts is None or len(parts[0][0]) * min(quantile, 1 - quantile) < MIN_IN_TAIL:
        return Estimate(value=at)
    each = np.array([[np.quantile(part, quantile) for part in run] for run in parts])
    return Estimate(value=at, ci95=_of_batches(each, at))


def _batches(values: Sequence[Floats]) -> list[list[Floats]] | None:
    """*values* of each run in batches of one size, the first ones left out; ``None``: too few."""
    each = batches_each(len(values))
    size = min(len(run) for run in values) // each
    if size < MIN_PER_BATCH:
        return None
    return [np.split(run[len(run) - size * each :], each) for run in values]


def _of_batches(found: Floats, centre: float) -> float:
    """Half width of the interval around *centre*, from what was *found* in batches of each run."""
    off = found - centre
    if found.shape[1] == 1:
        return float(half_width(math.sqrt(float((off**2).sum()) / (off.size - 1)), off.size))
    return _correlated(off)
