"""95 % intervals of what a simulation says: from independent runs, or from batches of one run.

Consecutive requests fare alike, because they meet the same queue: so one run is cut into few, large
batches, and what is left of their correlation widens the interval (as a first-order autoregressive
process, with the bias of its estimate corrected as by Kendall, 1954). On M/M/1 at a load of 0.8,
the intervals of 900 requests hold the true mean in 89 % of runs, and the true p90 in 79 % (20
batches without the correlation: 75 and 50 %); those of 3,600 requests in 93 and 90 % (87 and 74 %).
At a load of 0.5, those of 900 requests: 95 and 94 % (91 and 89 %).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.statistics import half_width

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

MIN_RUNS = 3  # from which on runs themselves are compared
BATCHES = 10
MIN_PER_BATCH, MIN_IN_TAIL = 10, 5
MAX_CORRELATION = 0.9
MIN_DEGREES = 3.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the half width of its 95 % interval (NaN where there is none)."""

    value: float
    ci95: float = math.nan


def batches_each(runs: int) -> int:
    """Into how many batches each of *runs* runs is cut."""
    return BATCHES // runs


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
    found += 2 * (1 + 3 * found) / count
    correlation = min(max(found, 0.0), MAX_CORRELATION)
    widened = (1 + correlation) / (1 - correlation)
    from scipy.special import stdtrit

    degrees = max(MIN_DEGREES, count / widened - 1)
    return float(stdtrit(degrees, 0.975)) * math.sqrt(squares / (count - 1) / count * widened)


def of_mean(values: Sequence[Floats]) -> Estimate:
    """The mean of all *values* (of each run, in order of time)."""
    pooled = np.concatenate(list(values))
    if not len(pooled):
        return Estimate(value=math.nan)
    mean = float(np.mean(pooled))
    if len(values) >= MIN_RUNS:
        return Estimate(value=mean, ci95=_of_runs(values, np.mean))
    return Estimate(value=mean, ci95=_of_batches(values))


def of_quantile(values: Sequence[Floats], quantile: float) -> Estimate:
    """A quantile of all *values* (of each run, in order of time).

    Of few runs, the interval is that of the share of values beyond the quantile, over the density
    there; beyond the median the density is that of an exponential tail with the same mean.
    """
    pooled = np.concatenate(list(values))
    if not len(pooled):
        return Estimate(value=math.nan)
    at = float(np.quantile(pooled, quantile))
    if len(values) >= MIN_RUNS:
        return Estimate(value=at, ci95=_of_runs(values, lambda x: float(np.quantile(x, quantile))))
    if len(pooled) * min(quantile, 1 - quantile) < BATCHES * MIN_IN_TAIL:
        return Estimate(value=at)
    share = _of_batches([(run > at).astype(float) for run in values])
    if quantile > 0.5:
        beyond = pooled[pooled > at]
        scale = (float(beyond.mean()) - at) / (1 - quantile) if len(beyond) else math.nan
        return Estimate(value=at, ci95=share * scale)
    if math.isnan(share):
        return Estimate(value=at)
    low, high = np.quantile(pooled, [max(0.0, quantile - share), min(1.0, quantile + share)])
    return Estimate(value=at, ci95=max(at - float(low), float(high) - at))


def _of_runs(values: Sequence[Floats], statistic: Callable[[Floats], float]) -> float:
    each = [statistic(run) for run in values if len(run)]
    return float(half_width(np.std(each, ddof=1), len(each)))


def _of_batches(values: Sequence[Floats]) -> float:
    """Half width of the interval of the mean of *values*, from batches of each run."""
    each = batches_each(len(values))
    sizes = [len(run) // each for run in values]
    if min(sizes) < MIN_PER_BATCH:
        return math.nan
    means = [
        run[len(run) - size * each :].reshape(each, size).mean(axis=1)
        for run, size in zip(values, sizes, strict=True)
    ]
    off = np.array(means)
    return _correlated(off - off.mean())
