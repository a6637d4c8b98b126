"""How many tokens to draft before they are verified: fixed, or by what has been seen so far.

A :class:`Policy` says which rule; :meth:`Policy.plan` makes the :class:`Plan` of one text, which
SI and DSI ask for ``k``. A plan sees verdicts as they are taken and, where the drafter says how
sure it is, the confidence in each draft that is made. It never sees the future.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.acceptance import Uniforms

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dsim.model.acceptance import Acceptance

# Low bits of the key of a stream of its own; the purposes of dsim.deployment.workload have others.
CONFIDENCE, MORE_STREAM = 8, 3


class Plan:
    """``k`` of one text; this one never changes.

    Args:
        tokens: ``k``.

    Attributes:
        tokens: drafts of the next block.
        judged: called with (drafts accepted, drafts judged) after each verdict; ``None``: no need.
        ends: called with the position of each draft made: whether its block ends with it; ``None``:
            no need.
    """

    judged: Callable[[int, int], None] | None = None
    ends: Callable[[int], bool] | None = None

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens


class Adapting(Plan):
    """More after a verdict that accepts all it judged, less after a rejection.

    Args:
        tokens: ``k`` at the start.
        most: where growing ends (a larger start stays).
    """

    def __init__(self, tokens: int, most: int) -> None:
        super().__init__(tokens)
        self.most = most
        self.judged = self._judged

    def _judged(self, accepted: int, drafts: int) -> None:
        if accepted == drafts:
            if drafts:  # a pass over no drafts tells nothing
                self.tokens = max(self.tokens, min(self.most, self.more()))
        else:
            self.tokens = max(1, self.less())

    def more(self) -> int:
        """``k`` after an acceptance."""
        raise NotImplementedError

    def less(self) -> int:
        """``k`` after a rejection."""
        raise NotImplementedError


class Heuristic(Adapting):
    """Two more, or one less.

    This is ``num_assistant_tokens_schedule="heuristic"`` of Hugging Face transformers
    (``generation/candidate_generator.py``), with an upper bound.
    """

    def more(self) -> int:
        """See :class:`Adapting`."""
        return self.tokens + 2

    def less(self) -> int:
        """See :class:`Adapting`."""
        return self.tokens - 1


class Aimd(Adapting):
    """Additive increase, multiplicative decrease: one more, or half.

    The rule of congestion control (Chiu and Jain, 1989).
    """

    def more(self) -> int:
        """See :class:`Adapting`."""
        return self.tokens + 1

    def less(self) -> int:
        """See :class:`Adapting`."""
        return self.tokens // 2


class Confident(Plan):
    """A block ends with the first draft in which the confidence is below a threshold.

    As ``assistant_confidence_threshold`` of Hugging Face transformers has it: the draft itself is
    still part of the block.
    """

    def __init__(self, tokens: int, threshold: float, confidence: Callable[[int], float]) -> None:
        super().__init__(tokens)
        self.ends = lambda position: confidence(position) < threshold


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How the lookahead is chosen.

    Attributes:
        name: one of :data:`dsim.model.POLICIES`.
        most: the largest ``k`` that heuristic and aimd go to (a larger start stays).
        threshold: of the confidence, in 0 … 1.
        quality: how much of the variance of the acceptance draws the confidence explains; see
            :func:`confidences`.
        recorded: the confidence in the draft for each position, where it is known; none is drawn
            then.
    """

    name: str = "fixed"
    most: int = 20
    threshold: float = 0.4
    quality: float = 0.3
    recorded: tuple[float, ...] = ()

    @property
    def adapts(self) -> bool:
        """Whether the lookahead can change."""
        return self.name != "fixed"

    @property
    def in_words(self) -> str:
        """What to say behind a lookahead: which bound it is to this policy, if it adapts."""
        bound = "most" if self.name == "confidence" else "first"
        return f" at {bound} ({self.name})" if self.adapts else ""

    def plan(
        self, lookahead: int, confidence: Callable[[int], float] = lambda _position: 1.0
    ) -> Plan:
        """A new plan that starts at *lookahead*; *confidence* gives that in a draft by position."""
        if self.name == "fixed":
            return Plan(lookahead)
        if self.name == "confidence":
            return Confident(lookahead, self.threshold, confidence)
        return {"heuristic": Heuristic, "aimd": Aimd}[self.name](lookahead, self.most)

    def plan_of(
        self, lookahead: int, draws: NDArray[np.bool_], rate: float, seed: int, key: int
    ) -> Plan:
        """The plan of one simulated text.

        Args:
            lookahead: where it starts.
            draws: bool (tokens,), how the drafts fare.
            rate: their acceptance rate.
            seed: seed of the run.
            key: what stands for the repeat in the draws.
        """
        if self.name != "confidence":
            return self.plan(lookahead)
        if self.recorded:
            return self.plan(lookahead, self.recorded.__getitem__)
        u = Uniforms(seed, (key << 4) + CONFIDENCE, MORE_STREAM).next(len(draws))
        return self.plan(lookahead, confidences(draws, rate, self.quality, u).tolist().__getitem__)


FIXED = Policy()


def confidences(
    draws: NDArray[np.bool_], rate: float, quality: float, u: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How sure a drafter is of each of its drafts: numbers that are right on average.

    Of all drafts with confidence ``c`` the part ``c`` is accepted (the confidence is calibrated),
    and *quality* is the share of variance that it explains: with 0 it is always *rate*, with 1
    it equals the draw. The confidence has the beta distribution with mean *rate* and variance
    ``quality · rate · (1 - rate)``; given the draw, that is a beta distribution as well, from which
    it is drawn here.

    Args:
        draws: bool (tokens,).
        rate: acceptance rate.
        quality: in 0 … 1.
        u: uniform numbers in [0, 1), of the shape of *draws*.

    Returns:
        float64 (tokens,), in 0 … 1.
    """
    if quality == 0 or rate in (0.0, 1.0):
        return np.full(len(draws), rate)
    if quality == 1:
        return draws.astype(np.float64)
    from scipy.special import betaincinv

    total = 1 / quality - 1
    a, b = rate * total, (1 - rate) * total
    return np.asarray(betaincinv(a + draws, b + ~draws, u), dtype=np.float64)


def quality_of(sure: NDArray[np.float64], accepted: NDArray[np.bool_]) -> float:
    """The quality of recorded confidences; see :func:`confidences`.

    Args:
        sure: float64 (drafts,).
        accepted: bool (drafts,).

    Returns:
        The share of the variance of *accepted* that a line through *sure* explains, in 0 … 1; 0
        where one of them never changes.
    """
    if not np.ptp(sure) or not np.ptp(accepted.astype(int)):
        return 0.0
    return float(min(1.0, np.corrcoef(sure, accepted)[0, 1] ** 2))


def confidence_of(accepted: bool | None, rate: float, quality: float, u: float) -> float:
    """One confidence; see :func:`confidences`.

    Args:
        accepted: how the draft fares; ``None``: nobody will know, so it is drawn, too.
        rate: see :func:`confidences`.
        quality: see :func:`confidences`.
        u: uniform number in [0, 1).
    """
    if accepted is None:
        accepted, u = (True, u / rate) if u < rate else (False, (u - rate) / (1 - rate))
    return float(confidences(np.array([accepted]), rate, quality, np.array([u]))[0])


def mean_rate(acceptance: Acceptance) -> float:
    """The acceptance rate (of decay: of a first draft); of recorded draws the part accepted."""
    if acceptance.model != "trace":
        return acceptance.rate
    return sum(t.count("1") for t in acceptance.traces) / sum(map(len, acceptance.traces))
