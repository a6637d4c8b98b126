"""Latency models. The only place where milliseconds (``float``) become nanoseconds (``int``)."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from bisect import bisect_left
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.acceptance import Uniforms
from dsim.units import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# Samples drawn at a time: few at first, since short texts need few, then twice as many each time.
BLOCK_FORWARDS = (32, 4096)
MAX_BEYOND = 0.05  # share of the forwards of a model wider than its table, from which it is told


def never_falling(values: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
    """The sequence nearest to *values* (by weighted squares) that never falls.

    By isotonic regression: neighbours that fall become their weighted mean. Values that never fall
    come back as they are.

    Args:
        values: one or more numbers.
        weights: of each of them, above 0; ``None``: all alike.
    """
    if all(a <= b for a, b in itertools.pairwise(values)):
        return list(values)
    from scipy.optimize import isotonic_regression

    found: list[float] = isotonic_regression(values, weights=weights).x.tolist()
    return found


def beyond_note(share: float, of: str) -> str:
    """A sentence on forwards that were wider than the latency table; empty where they are few.

    Args:
        share: of the forwards of a model.
        of: what they are the forwards of.
    """
    if not share > MAX_BEYOND:
        return ""
    return (
        f"Up to {share:.0%} of the forwards of a model in {of} were wider than its latency table; "
        "what these take was not measured, it follows from the slope of the table."
    )


class TableSampler:
    """Latencies by a table, one forward after the other.

    Args:
        latency: the table.
        factors: of the forwards, in order.

    Attributes:
        forwards: how many there were.
        beyond: how many of them were wider than the table.
    """

    def __init__(self, latency: Latency, factors: Iterator[float]) -> None:
        self.latency = latency
        self.factors = factors
        self.widest = latency.curve[0][-1]
        self.forwards = self.beyond = 0

    def __call__(self, width: int, prefill: bool) -> int:
        """The latency (ns) of the next forward; see :meth:`Latency.sampler`."""
        if prefill and self.latency.first_ns is not None:
            return self.latency.first_ns
        return max(1, round(self.at_width(width) * next(self.factors)))

    def at_width(self, width: int) -> int:
        """:meth:`Latency.at_width` of the next forward."""
        self.forwards += 1
        self.beyond += width > self.widest
        return self.latency.at_width(width)


def most_beyond(counts: Iterable[tuple[int, int]]) -> float:
    """The largest share of forwards beyond a table, from (beyond, forwards) of each model."""
    return max((beyond / forwards for beyond, forwards in counts if forwards), default=0.0)


def beyond_of(sampler: object) -> tuple[int, int]:
    """(beyond, forwards) of *sampler*; 0 and 0 for latencies without a table."""
    return getattr(sampler, "beyond", 0), getattr(sampler, "forwards", 0)


def _in_blocks(uniforms: Uniforms) -> Iterator[np.ndarray]:
    count, most = BLOCK_FORWARDS
    while True:
        yield uniforms.next(count)
        count = min(2 * count, most)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latency:
    """How long the forwards of one model take.

    Attributes:
        model: ``constant``, ``lognormal``, ``gamma``, ``empirical`` or ``table``.
        latency_ns: the latency, or its mean where it is random.
        first_ns: the latency of a server's first forward on the prompt; ``None``: the prompt
            counts as cached. Always a constant.
        cv: coefficient of variation (standard deviation / mean) of lognormal and gamma.
        samples_ns: what empirical draws from, with equal chances.
        table: (width in tokens, nanoseconds), at least one row, as measured; see
            :meth:`at_width`.
        weights: how much each row of the table counts (how often it was measured); empty: all rows
            alike.
        spread: factors, with equal chances, for each forward of a table; empty: none.
    """

    model: str = "constant"
    latency_ns: int = NS_PER_MS
    first_ns: int | None = None
    cv: float = 0.0
    samples_ns: tuple[int, ...] = ()
    table: tuple[tuple[int, int], ...] = ()
    weights: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def is_constant(self) -> bool:
        """Whether all forwards but the first take the same time, whatever they cover."""
        return self.model == "constant"

    def sampler(self, seed: int, repeat: int, stream: int) -> int | Callable[[int, bool], int]:
        """The latency as :class:`dsim.backends.simulated.Simulated` wants it.

        The *n*-th forward that is begun gets the *n*-th sample of (seed, repeat, stream), whatever
        the algorithm: all algorithms see the same random draws.

        Args:
            seed: seed of the run.
            repeat: repeat that the draws are for.
            stream: 1 for the drafter, 2 for the target (0 are the acceptance draws).

        Returns:
            Nanoseconds, or a function of (width in tokens, whether it is a prefill).
        """
        first_ns = self.first_ns
        if self.model == "constant":
            if first_ns is None:
                return self.latency_ns
            latency_ns = self.latency_ns
            return lambda _width, prefill: first_ns if prefill else latency_ns
        if self.model == "table":
            return TableSampler(self, self._factors(seed, repeat, stream))
        samples = self._samples(seed, repeat, stream)
        draw = samples.__next__
        return lambda _width, prefill: first_ns if prefill and first_ns is not None else draw()

    def _factors(self, seed: int, repeat: int, stream: int) -> Iterator[float]:
        if not self.spread:
            yield from itertools.repeat(1)
        spread = np.array(self.spread)
        for draws in _in_blocks(Uniforms(seed, repeat, stream)):
            yield from spread[(draws * len(spread)).astype(np.int64)].tolist()

    @functools.cached_property
    def curve(self) -> tuple[tuple[int, ...], tuple[int, ...], float]:
        """The table as a cost that never falls with the width.

        Returns:
            Widths (tokens), increasing; the latency (ns) at each; and by how much it rises with
            each token beyond the last of them.
        """
        weights = self.weights or (1.0,) * len(self.table)
        together: dict[int, list[tuple[int, float]]] = {}
        for (width, ns), weight in sorted(zip(self.table, weights, strict=True)):
            together.setdefault(width, []).append((ns, weight))
        widths, rows = tuple(together), list(together.values())
        by_width = [sum(weight for _, weight in row) for row in rows]
        means = [
            row[0][0] if len(row) == 1 else sum(ns * weight for ns, weight in row) / total
            for row, total in zip(rows, by_width, strict=True)
        ]
        costs = tuple(max(1, round(ns)) for ns in never_falling(means, by_width))
        if len(widths) == 1:
            return widths, costs, 0.0
        off = np.subtract(widths, np.average(widths, weights=by_width))
        slope = np.average(off * costs, weights=by_width) / np.average(off**2, weights=by_width)
        return widths, costs, float(np.clip(slope, 0, costs[-1] / widths[-1]))

    def at_width(self, width_tokens: int) -> int:
        """The latency (ns) of a forward over *width_tokens* tokens by the table.

        It never falls with the width: rows that do are brought together by isotonic regression
        (:func:`never_falling`), rows of one width by their mean. Below the first row it is that of
        the first; between two it is linear; beyond the last it rises with the slope of the whole
        table (weighted least squares), at most in proportion to the width.
        """
        widths, costs, slope = self.curve
        if width_tokens <= widths[0]:
            return costs[0]
        if width_tokens > widths[-1]:
            return round(costs[-1] + slope * (width_tokens - widths[-1]))
        at = bisect_left(widths, width_tokens)
        w0, w1, ns0, ns1 = widths[at - 1], widths[at], costs[at - 1], costs[at]
        return round(ns0 + (ns1 - ns0) * (width_tokens - w0) / (w1 - w0))

    def _samples(self, seed: int, repeat: int, stream: int) -> Iterator[int]:
        for draws in _in_blocks(Uniforms(seed, repeat, stream)):
            yield from self.quantile(draws).tolist()

    @functools.cached_property
    def _in_order(self) -> np.ndarray:
        return np.sort(np.asarray(self.samples_ns, dtype=np.int64))

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Latencies (int64 ns) at the probabilities *u* (float64, any shape, in [0, 1))."""
        if self.model == "empirical":
            samples = self._in_order
            return np.asarray(samples[(u * len(samples)).astype(np.int64)])
        from scipy import special

        u = np.clip(u, 2.0**-54, 1 - 2.0**-53)
        if self.model == "lognormal":
            sigma = np.sqrt(np.log1p(self.cv**2))
            scale = np.exp(sigma * special.ndtri(u) - sigma**2 / 2)
        elif self.model == "gamma":
            shape = self.cv**-2
            scale = special.gammaincinv(shape, u) / shape
        else:
            raise ValueError(f"the {self.model} latency model has no quantiles")
        latency_ns: np.ndarray = np.maximum(1, np.rint(scale * self.latency_ns)).astype(np.int64)
        return latency_ns
