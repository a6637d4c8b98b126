"""Latency models. The only place where milliseconds (``float``) become nanoseconds (``int``)."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.acceptance import Uniforms
from dsim.units import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BLOCK_FORWARDS = 4096  # samples drawn at a time


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
        table: (width in tokens, nanoseconds) in order of width, at least one row; the latency is
            linear between rows and beyond the last, and that of the first row below it.
        spread: factors, with equal chances, for each forward of a table; empty: none.
    """

    model: str = "constant"
    latency_ns: int = NS_PER_MS
    first_ns: int | None = None
    cv: float = 0.0
    samples_ns: tuple[int, ...] = ()
    table: tuple[tuple[int, int], ...] = ()
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
            factor = self._factors(seed, repeat, stream).__next__
            return lambda width, prefill: (
                first_ns
                if prefill and first_ns is not None
                else max(1, round(self.at_width(width) * factor()))
            )
        samples = self._samples(seed, repeat, stream)
        draw = samples.__next__
        return lambda _width, prefill: first_ns if prefill and first_ns is not None else draw()

    def _factors(self, seed: int, repeat: int, stream: int) -> Iterator[float]:
        if not self.spread:
            yield from itertools.repeat(1)
        uniforms, spread = Uniforms(seed, repeat, stream), np.array(self.spread)
        while True:
            draws = uniforms.next(BLOCK_FORWARDS)
            yield from spread[(draws * len(spread)).astype(np.int64)].tolist()

    def at_width(self, width_tokens: int) -> int:
        """The latency (ns) of a forward over *width_tokens* tokens by the table."""
        table = self.table
        if width_tokens <= table[0][0] or len(table) == 1:
            return table[0][1]
        for (w0, ns0), (w1, ns1) in itertools.pairwise(table):  # noqa: B007
            if width_tokens <= w1:
                break
        return max(1, round(ns0 + (ns1 - ns0) * (width_tokens - w0) / (w1 - w0)))

    def _samples(self, seed: int, repeat: int, stream: int) -> Iterator[int]:
        uniforms = Uniforms(seed, repeat, stream)
        while True:
            yield from self.quantile(uniforms.next(BLOCK_FORWARDS)).tolist()

    def quantile(self, u: np.ndarray) -> np.ndarray:
        """Latencies (int64 ns) at the probabilities *u* (float64, any shape, in [0, 1))."""
        if self.model == "empirical":
            samples = np.sort(np.asarray(self.samples_ns, dtype=np.int64))
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
