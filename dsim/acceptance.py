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
    from numpy.typing import NDArray

ACCEPTANCE_STREAM, DRAFTER_STREAM, TARGET_STREAM = 0, 1, 2


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
            branch), ``markov`` (two states, so that luck comes in streaks) or ``trace`` (replay).
        rate: acceptance rate ``p``, in 0 … 1; in the decay model that of a branch's first draft.
        decay: factor on the rate for each further draft of the branch, in 0 … 1.
        correlation: of neighbouring draws in the Markov chain, in 0 … 1 (1 excluded).
        traces: recorded draws, one text of ``0`` and ``1`` a prompt; repeat ``r`` replays number
            ``r`` modulo their count.
    """

    model: str = "bernoulli"
    rate: float = 0.8
    decay: float = 1.0
    correlation: float = 0.0
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
        return self.judge(u)

    def judge(self, u: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Draws from uniform numbers: bool, of the shape of *u*, (repeats, tokens).

        Raises:
            ValueError: the model has no use for them.
        """
        if self.model == "bernoulli":
            return np.asarray(u < self.rate)
        if self.model == "decay":
            return self._decaying(u)
        if self.model == "markov":
            return self._markov(u)
        raise ValueError(f"unknown acceptance model {self.model!r}")

    def _replay(self, repeat: int, tokens: int) -> NDArray[np.bool_]:
        trace = self.traces[repeat % len(self.traces)]
        if len(trace) < tokens:
            raise ValueError(f"the trace has {len(trace)} draws, but {tokens} tokens need {tokens}")
        codes = np.frombuffer(trace[:tokens].encode(), dtype=np.uint8)
        return np.asarray(codes == ord("1"))

    def _decaying(self, u: NDArray[np.float64]) -> NDArray[np.bool_]:
        # A branch starts anew after a draw that rejects; so the depth, too, is a matter of the
        # draws alone.
        accepted = np.empty(u.shape, dtype=np.bool_)
        rate = np.full(len(u), self.rate)
        for i in range(u.shape[1]):
            accepted[:, i] = u[:, i] < rate
            rate = np.where(accepted[:, i], rate * self.decay, self.rate)
        return accepted

    def _markov(self, u: NDArray[np.float64]) -> NDArray[np.bool_]:
        after_reject = self.rate * (1 - self.correlation)
        after_accept = after_reject + self.correlation
        accepted = np.empty(u.shape, dtype=np.bool_)
        accepted[:, 0] = u[:, 0] < self.rate
        for i in range(1, u.shape[1]):
            threshold = np.where(accepted[:, i - 1], after_accept, after_reject)
            accepted[:, i] = u[:, i] < threshold
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
