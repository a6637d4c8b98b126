"""Statistics of repeated runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]


def half_width(std: Any, repeats: Any, texts: Any = None) -> Any:
    """Half width of the 95 % interval of a mean, by Student's t; NaN for one repeat.

    Args:
        std: standard deviation of the repeats; a number or an array.
        repeats: how many there are; a number, or an array that spreads to the shape of *std*.
        texts: how many recorded texts the repeats replay in turn; a number, or such an array. A
            repeat that replays a text again tells nothing new of other texts. ``None``: as many as
            there are repeats.
    """
    texts = repeats if texts is None else np.minimum(texts, repeats)
    if np.max(texts) < 2:
        return std * np.nan
    from scipy.special import stdtrit

    of_two = np.maximum(texts, 2)  # what has one repeat gets no interval below
    widths = stdtrit(of_two - 1, 0.975) / np.sqrt(of_two)
    # *std* divides squares by repeats - 1; those of the texts alone are divided by texts - 1.
    again = np.sqrt((1 - 1 / np.maximum(repeats, 2)) / (1 - 1 / of_two))
    again = np.where(np.equal(texts, repeats), 1.0, again)
    return std * np.where(np.less(texts, 2), np.nan, widths * again)


def summarise(latency_ns: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    """Mean, standard deviation, minimum and maximum (ms) over the repeats.

    The sums run in the order of the repeats, so that they do not depend on the shape.

    Args:
        latency_ns: int64, shape (cases, repeats, …).

    Returns:
        float64, each of shape (cases, …). One repeat has standard deviation 0.
    """
    repeats = latency_ns.shape[1]
    low, high = latency_ns[:, 0], latency_ns[:, 0]
    mean = latency_ns.sum(axis=1) / repeats
    spread = np.zeros_like(mean)
    if mean.size == 1:  # many repeats, perhaps: the same sum, but in one call
        low, high = latency_ns.min(axis=1), latency_ns.max(axis=1)
        off = latency_ns - mean
        spread = np.add.accumulate(off * off, axis=1)[:, -1]
    else:
        for r in range(repeats):
            one = latency_ns[:, r]
            low, high = np.minimum(low, one), np.maximum(high, one)
            off = one - mean
            spread += off * off
    std = np.sqrt(spread / max(1, repeats - 1))
    return mean / 1e6, std / 1e6, low / 1e6, high / 1e6
