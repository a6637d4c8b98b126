"""Acceptance models: one Boolean per output position, for every (seed, repeat).

``A[i]`` says whether the draft for position ``i`` is the target's token, given that everything
before it is right. It depends on (seed, repeat, position) and on nothing else: not on the
algorithm, the lookahead, the latencies, the engine, nor on how many tokens are asked for.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

ACCEPTANCE_STREAM, DRAFTER_STREAM, TARGET_STREAM, OTHER_STREAM = range(4)
RATES = 1 << 59  # added to the repeat, for the draw of its rate from OTHER_STREAM


class Uniforms:
    """Numbers in [0, 1), one stream for each (seed, repeat, stream).

    They come from the raw output of the Philox generator (Salmon et al. 2011), which NumPy promises
    never to change, so that a seed means the same for ever.
    """

    def __init__(self, seed: int, repeat: int, stream: int = ACCEPTANCE_STREAM) -> None:
        self._philox = np.random.Philox(key=[seed, (repeat << 2) + stream])

    def next(self, count: int) -> NDArray[np.float64]:
        """The next *count* numbers."""
        bits = self._philox.random_raw(count) >> np.uint64(11)
        return np.asarray(bits * 2.0**-53, dtype=np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Acceptance:
    """How drafts fare.

    Attributes:
        model: ``bernoulli`` (independent draws), ``decay`` (the rate falls with the depth in the
            branch), ``markov`` (two states, so that luck comes in streaks), ``phases`` (easy and
            hard stretches of text take turns: the channel of Gilbert 1960 and Elliott 1963) or
            ``trace`` (replay).
        rate: acceptance rate ``p``, in 0 … 1; in the decay model that of a branch's first draft.
        decay: factor on the rate for each further draft of the branch, in 0 … 1.
        correlation: of neighbouring draws in the Markov chain, in 0 … 1 (1 excluded).
        swing: of the phases, in 0 … 1: how much better and worse their rates are than the mean, as
            a part of what there is room for (``rate ± swing · min(rate, 1 − rate)``).
        phase_tokens: mean length of a phase (geometric), at least 1.
        spread: standard deviation of the rate over repeats (over requests, in a deployment): a
            beta distribution around *rate*. 0: all have the same.
        traces: recorded draws, one text of ``0`` and ``1`` a prompt; repeat ``r`` replays number
            ``r`` modulo their count.
    """

    model: str = "bernoulli"
    rate: float = 0.8
    decay: float = 1.0
    correlation: float = 0.0
    swing: float = 0.0
    phase_tokens: float = 1.0
    spread: float = 0.0
    traces: tuple[str, ...] = ()

    def draws(self, seed: int, repeats: int, tokens: int) -> NDArray[np.bool_]:
        """Draws of all repeats.

        Returns:
            bool, shape (repeats, tokens).

        Raises:
            ValueError: a trace is shorter than *tokens*.
        """
        if self.model == "trace":
            return np.stack([self._replay(repeat, tokens) for repeat in range(repeats)])
        u = np.stack([Uniforms(seed, repeat).next(tokens) for repeat in range(repeats)])
        return self.judge(u, self.rates(seed, range(repeats)))

    def rates(
        self, seed: int, repeats: Sequence[int], means: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """The acceptance rate of each of *repeats*: float64, of their number.

        Args:
            seed: as of the draws.
            repeats: the numbers of the repeats.
            means: of their rates, where these are not *rate* for all.
        """
        rates = np.full(len(repeats), self.rate) if means is None else means.copy()
        inner = (rates > 0) & (rates < 1)
        if not self.spread or not inner.any():
            return rates
        from scipy.special import betaincinv

        mean = rates[inner]
        variance = np.minimum(self.spread**2, 0.999 * mean * (1 - mean))
        total = mean * (1 - mean) / variance - 1
        u = np.array([Uniforms(seed, RATES + r, OTHER_STREAM).next(1)[0] for r in repeats])
        rates[inner] = betaincinv(mean * total, (1 - mean) * total, u[inner])
        return rates

    def judge(
        self, u: NDArray[np.float64], rates: NDArray[np.float64] | None = None
    ) -> NDArray[np.bool_]:
        """Draws from uniform numbers: bool, of the shape of *u*, (repeats, tokens).

        Args:
            u: numbers in [0, 1).
            rates: the rate of each repeat, where it is not *rate* for all.

        Raises:
            ValueError: the model has no use for them.
        """
        if rates is None:
            rates = np.full(len(u), self.rate)
        if self.model == "bernoulli":
            return np.asarray(u < rates[:, None])
        if self.model == "decay":
            return self._decaying(u, rates)
        if self.model == "markov":
            return self._markov(u, rates)
        if self.model == "phases":
            return self._phases(u, rates)
        raise ValueError(f"unknown acceptance model {self.model!r}")

    def _replay(self, repeat: int, tokens: int) -> NDArray[np.bool_]:
        trace = self.traces[repeat % len(self.traces)]
        if len(trace) < tokens:
            raise ValueError(f"the trace has {len(trace)} draws, but {tokens} tokens need {tokens}")
        codes = np.frombuffer(trace[:tokens].encode(), dtype=np.uint8)
        return np.asarray(codes == ord("1"))

    def _decaying(self, u: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.bool_]:
        # A branch starts again after a draw that rejects; so the depth, too, is a matter of the
        # draws alone.
        accepted = np.empty(u.shape, dtype=np.bool_)
        rate = rates
        for i in range(u.shape[1]):
            accepted[:, i] = u[:, i] < rate
            rate = np.where(accepted[:, i], rate * self.decay, rates)
        return accepted

    def _markov(self, u: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.bool_]:
        after_reject = rates * (1 - self.correlation)
        after_accept = after_reject + self.correlation
        accepted = np.empty(u.shape, dtype=np.bool_)
        accepted[:, 0] = u[:, 0] < rates
        for i in range(1, u.shape[1]):
            threshold = np.where(accepted[:, i - 1], after_accept, after_reject)
            accepted[:, i] = u[:, i] < threshold
        return accepted

    def _phases(self, u: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.bool_]:
        # One number decides twice: which side of a threshold it lies on says whether the phase
        # changes, and where it lies on that side (uniform again) whether the draft is accepted.
        swing = self.swing * np.minimum(rates, 1 - rates)
        accepted = np.empty(u.shape, dtype=np.bool_)
        easy = np.zeros(len(u), dtype=np.bool_)
        change = 0.5  # at first: either phase with even chances
        for i in range(u.shape[1]):
            changes = u[:, i] < change
            rest = np.where(changes, u[:, i] / change, (u[:, i] - change) / max(1e-300, 1 - change))
            easy = easy != changes
            accepted[:, i] = rest < np.where(easy, rates + swing, rates - swing)
            change = 1 / self.phase_tokens
        return accepted


def run_lengths(draws: NDArray[Any]) -> list[int]:
    """For each position, how many draws from there on accept before the first that does not.

    Args:
        draws: bool, shape (tokens,).
    """
    length, lengths = 0, []
    for accepted in reversed(draws.tolist()):
        length = length + 1 if accepted else 0
        lengths.append(length)
    return lengths[::-1]
