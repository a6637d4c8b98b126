"""Acceptance models: one rank per output position, for every (seed, repeat).

The rank ``R[i]`` says which of the drafter's candidates for position ``i`` the target's token is,
given that everything before it is right: 1 the first, 2 the second, 0 none of them, -1: the drafter
has no draft there. The draft is accepted, ``A[i]``, where the rank is 1. Ranks depend on (seed,
repeat, position), with ``by_depth`` also on the depth of the draft, and on nothing else: not on the
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
DEEPER = "/"  # in a trace, before the draws at a further depth, which have all positions again
# Where the first choice is wrong, so often is the second, third, fourth right, if it is unknown.
TYPICAL_RANK_SHARES = (0.4, 0.2, 0.1)
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
            hard stretches of text take turns: the channel of Gilbert 1960 and Elliott 1963),
            ``lookup`` (copied and new stretches take turns; in new ones there is not always a
            draft) or ``trace`` (replay).
        rate: acceptance rate ``p``, in 0 … 1; in the decay model that of a branch's first draft.
        decay: factor on the rate for each further draft of the branch, in 0 … 1.
        correlation: of neighbouring draws in the Markov chain, in 0 … 1 (1 excluded).
        swing: of the phases, in 0 … 1: how much better and worse their rates are than the mean, as
            a part of what there is room for (``rate ± swing · min(rate, 1 − rate)``).
        phase_tokens: mean length of a phase (geometric), at least 1.
        spread: standard deviation of the rate over repeats (over requests, in a deployment): a
            beta distribution around *rate*. 0: all have the same.
        traces: recorded draws, one text of digits (ranks) a prompt; repeat ``r`` replays number
            ``r`` modulo their count.
        rank_shares: of the positions where the first candidate is wrong, the part at which the
            second, the third, … is right; their sum is at most 1.
        by_depth: in place of *rate*, the rates of drafts at depth 1, 2, … (the last one goes on);
            a draft at position ``i`` has depth ``i - v + 1``, where ``v`` tokens were settled when
            its forward began. ``bernoulli`` only.
        copied_tokens, new_tokens: lookup: mean lengths of the stretches (geometric).
        copied_rate, chance_rate: lookup: acceptance rates of drafts in them.
        chance_match: lookup: chance that there is a draft in a new stretch.
    """

    model: str = "bernoulli"
    rate: float = 0.8
    decay: float = 1.0
    correlation: float = 0.0
    swing: float = 0.0
    phase_tokens: float = 1.0
    spread: float = 0.0
    traces: tuple[str, ...] = ()
    rank_shares: tuple[float, ...] = ()
    by_depth: tuple[float, ...] = ()
    copied_tokens: float = 1.0
    copied_rate: float = 1.0
    new_tokens: float = 1.0
    chance_match: float = 0.0
    chance_rate: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether draws say all: a draft is always there, and its depth makes no difference."""
        deep = self.by_depth or any(DEEPER in trace for trace in self.traces[:1])
        return not deep and self.model != "lookup"

    @property
    def has_second(self) -> bool:
        """Whether the drafter's second choices are ever right where the first is wrong."""
        return bool(self.rank_shares) or self.model == "trace"

    def texts(self, repeats: int) -> int:
        """How many of *repeats* have draws of their own: recorded ones are replayed in turn."""
        return min(repeats, len(self.traces)) if self.model == "trace" else repeats

    def chances(self, first: float, count: int) -> list[float]:
        """Chances of the *count* best candidates, of which the first has the chance *first*."""
        shares = (*self.rank_shares, *[0.0] * count)[: count - 1]
        return [first, *((1 - first) * share for share in shares)]

    def draws(self, seed: int, repeats: int, tokens: int) -> NDArray[np.bool_]:
        """Draws of all repeats: whether the draft is accepted (with *by_depth*: at depth 1).

        Returns:
            bool, shape (repeats, tokens).

        Raises:
            ValueError: a trace is shorter than *tokens*.
        """
        if self.model == "trace":
            return np.asarray(self.ranks(seed, repeats, tokens)[:, 0] == 1)
        u = np.stack([Uniforms(seed, repeat).next(tokens) for repeat in range(repeats)])
        return self.judge(u, self.rates(seed, range(repeats)))

    def ranks(self, seed: int, repeats: int, tokens: int, first: int = 0) -> NDArray[np.int8]:
        """Ranks of *repeats* repeats, the first of which has the number *first*.

        Returns:
            int8, shape (repeats, depths, tokens): as many depths as *by_depth* or the trace has, or
            one.

        Raises:
            ValueError: a trace is shorter than *tokens*.
        """
        numbers = range(first, first + repeats)
        if self.model == "trace":
            return np.stack([self._replay(repeat, tokens) for repeat in numbers])
        u = np.stack([Uniforms(seed, repeat).next(tokens) for repeat in numbers])
        return self.ranks_of(u, self.rates(seed, numbers))

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
        rest, rate = self._judged(u, rates)
        return np.asarray(rest < rate)

    def ranks_of(
        self, u: NDArray[np.float64], rates: NDArray[np.float64] | None = None
    ) -> NDArray[np.int8]:
        """Ranks from uniform numbers: int8, shape (repeats, depths, tokens).

        Args:
            u: see :meth:`judge`.
            rates: see :meth:`judge`.
        """
        if rates is None:
            rates = np.full(len(u), self.rate)
        ranks = np.zeros((len(u), max(1, len(self.by_depth)), u.shape[1]), dtype=np.int8)
        for depth in range(ranks.shape[1]):
            own = np.full(len(u), self.by_depth[depth]) if self.by_depth else rates
            rest, rate = self._judged(u, own)
            ranks[:, depth] = rest < rate
            below = rate
            for rank, share in enumerate(self.rank_shares, 2):
                below = below + (1 - rate) * share
                ranks[:, depth][(ranks[:, depth] == 0) & (rest < below)] = rank
            if self.model == "lookup":
                ranks[:, depth][np.isnan(rest)] = -1
        return ranks

    def _judged(
        self, u: NDArray[np.float64], rates: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A uniform number and the acceptance rate of each draft: accepted are those below it.

        The number is NaN where there is no draft.
        """
        if self.model == "bernoulli":
            return u, np.broadcast_to(rates[:, None], u.shape)
        if self.model == "decay":
            return u, self._decaying(u, rates)
        if self.model == "markov":
            return u, self._markov(u, rates)
        if self.model in ("phases", "lookup"):
            return self._stretches(u, rates)
        raise ValueError(f"unknown acceptance model {self.model!r}")

    def _replay(self, repeat: int, tokens: int) -> NDArray[np.int8]:
        rows = self.traces[repeat % len(self.traces)].split(DEEPER)
        if (count := len(rows[0])) < tokens:
            raise ValueError(f"the trace has {count} draws, but {tokens} tokens need {tokens}")
        codes = [np.frombuffer(row[:tokens].encode(), dtype=np.int8) for row in rows]
        return np.asarray(np.stack(codes) - np.int8(ord("0")))

    def _decaying(self, u: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
        # A branch starts again after a draw that rejects; so the depth, too, is a matter of the
        # draws alone.
        found = np.empty(u.shape)
        rate = rates
        for i in range(u.shape[1]):
            found[:, i] = rate
            rate = np.where(u[:, i] < rate, rate * self.decay, rates)
        return found

    def _markov(self, u: NDArray[np.float64], rates: NDArray[np.float64]) -> NDArray[np.float64]:
        after_reject = rates * (1 - self.correlation)
        after_accept = after_reject + self.correlation
        found = np.empty(u.shape)
        found[:, 0] = rates
        for i in range(1, u.shape[1]):
            accepted = u[:, i - 1] < found[:, i - 1]
            found[:, i] = np.where(accepted, after_accept, after_reject)
        return found

    def _stretches(
        self, u: NDArray[np.float64], rates: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        # One number decides twice: which side of a threshold it lies on says whether the stretch
        # changes, and where it lies on that side (uniform again) whether the draft is accepted.
        swing = self.swing * np.minimum(rates, 1 - rates)
        easy_rate, hard_rate, easy_tokens, hard_tokens = rates + swing, rates - swing, 1.0, 1.0
        if self.model == "phases":
            easy_tokens = hard_tokens = self.phase_tokens
        else:
            easy_rate, hard_rate = np.full_like(rates, self.copied_rate), rates * 0
            hard_rate += self.chance_rate
            easy_tokens, hard_tokens = self.copied_tokens, self.new_tokens
        lookup = self.model == "lookup"
        match = max(1e-300, self.chance_match)
        rests, all_easy = np.empty(u.shape), np.empty(u.shape, dtype=np.bool_)
        for row, draws in enumerate(u.tolist()):  # few texts: faster than NumPy, token by token
            easy, of_row, easy_of = False, [], []
            # at first: either with the chance that it has anywhere
            change = easy_tokens / (easy_tokens + hard_tokens)
            for draw in draws:
                if draw < change:
                    rest, easy = draw / change, not easy
                else:
                    rest = (draw - change) / max(1e-300, 1 - change)
                if lookup and not easy:  # and a third time: whether there is a draft
                    rest = rest / match if rest < self.chance_match else np.nan
                of_row.append(rest)
                easy_of.append(easy)
                change = 1 / easy_tokens if easy else 1 / hard_tokens
            rests[row], all_easy[row] = of_row, easy_of
        return rests, np.where(all_easy, easy_rate[:, None], hard_rate[:, None])


def at_depth_1(trace: str) -> str:
    """The draws of *trace* at depth 1: all, if there are no others."""
    return trace.partition(DEEPER)[0]


def by_depth_of(ranks: NDArray[Any]) -> tuple[float, ...]:
    """How often drafts at depth 1, 2, … are right, where those before them in their chain are.

    Args:
        ranks: (texts, depths, tokens): those at a depth, of drafts whose forerunners are the text.

    Returns:
        As ``acceptance.by_depth`` wants them; where no chain came so far, the rate before.
    """
    right, rates = ranks == 1, [0.0]
    chains = np.ones(right[:, 0].shape, dtype=np.bool_)  # by where they begin
    for depth in range(right.shape[1]):
        chains, now = chains[:, : right.shape[2] - depth], right[:, depth, depth:]
        rates.append(float(now[chains].mean()) if chains.any() else rates[-1])
        chains = chains & now
    return tuple(rates[1:])


def rank_shares_of(ranks: NDArray[Any]) -> list[float]:
    """Of the positions where the first choice is wrong, the parts where the second, … is right.

    Args:
        ranks: of any shape; 0: no choice is right.

    Returns:
        As ``acceptance.rank_shares`` wants them, six digits of each (never rounded up, so that
        their sum is 1 at most); empty where no later choice was ever right.
    """
    counts = np.bincount(ranks.ravel())
    counts[1:2] = 0
    return [float(np.floor(1e6 * count / counts.sum()) / 1e6) for count in counts[2:]]


RATE_POINTS = 16  # of a rate that differs from text to text, in a likelihood


def log_likelihood(acceptance: Acceptance, draws: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The logarithm of the chance of each text's draws.

    Args:
        acceptance: any model but ``trace``, with a rate above 0 and below 1.
        draws: bool (texts, tokens).

    Returns:
        float64 (texts,).
    """
    rate, spread = acceptance.rate, acceptance.spread
    rates = np.array([rate])
    if spread:
        from scipy.special import betaincinv

        total = rate * (1 - rate) / min(spread**2, 0.999 * rate * (1 - rate)) - 1
        middles = (np.arange(RATE_POINTS) + 0.5) / RATE_POINTS
        rates = betaincinv(rate * total, (1 - rate) * total, middles)
    rates = np.broadcast_to(rates.clip(1e-12, 1 - 1e-12), (len(draws), len(rates)))
    swing = acceptance.swing * np.minimum(rates, 1 - rates)
    chance, easy, total_log = rates, np.full(rates.shape, 0.5), np.zeros(rates.shape)
    for accepted in draws.T[..., None]:
        if acceptance.model == "phases":
            chance = rates + swing * (2 * easy - 1)
        seen = np.where(accepted, chance, 1 - chance)
        total_log += np.log(seen)
        if acceptance.model == "decay":
            chance = np.where(accepted, chance * acceptance.decay, rates)
        elif acceptance.model == "markov":
            chance = rates * (1 - acceptance.correlation) + acceptance.correlation * accepted
        elif acceptance.model == "phases":
            if_easy = np.where(accepted, rates + swing, 1 - rates - swing)
            easy = easy * if_easy / seen
            easy = easy + (1 - 2 * easy) / acceptance.phase_tokens
    return np.asarray(np.logaddexp.reduce(total_log, axis=1) - np.log(rates.shape[1]))


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
