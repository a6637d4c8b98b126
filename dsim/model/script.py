"""What chance has decided of one text: the same for every orchestration, engine and backend."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.acceptance import run_lengths
from dsim.model.lookahead import mean_rate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dsim.model.case import Decoding
    from dsim.model.drafters import MoreDrafter
    from dsim.model.lookahead import Plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """One text.

    Attributes:
        plan: where ``k``, drafts per block, comes from.
        accepted: bool (tokens,), whether the draft of any of the drafters is accepted.
        lengths: for each position, how many drafts from there on are accepted before the first
            rejection; empty where there are several drafters.
        order: the numbers of the drafters, the fastest first, which leads; 0 is the first one.
        guesses: for each drafter, in that order, the token that it drafts at each position: 0 is
            the target's own token, and what a drafter gets wrong is its place in the order, from
            1 on. ``None`` for a single drafter, where the run lengths say all.
    """

    plan: Plan
    accepted: NDArray[np.bool_]
    lengths: Sequence[int]
    order: Sequence[int] = (0,)
    guesses: Sequence[Sequence[int] | None] = (None,)


def script_of(
    decoding: Decoding,
    draws: NDArray[np.bool_],
    key: int,
    further: Sequence[MoreDrafter] = (),
    rate: float | None = None,
) -> Script:
    """The script of one text.

    Args:
        decoding: how the text is made.
        draws: bool (tokens,), which drafts of the first drafter are accepted.
        key: what stands for the repeat in the random draws.
        further: the drafters beside the first that are made use of.
        rate: acceptance rate of this text, where it is not that of *decoding*.
    """
    mean = mean_rate(decoding.acceptance)
    plan = decoding.policy.plan_of(
        decoding.lookahead, draws, mean if rate is None else rate, decoding.seed, key
    )
    if not further:
        return Script(plan=plan, accepted=draws, lengths=run_lengths(draws))
    own = [draws]
    own += [one.draws(draws, mean, decoding.seed, key, i) for i, one in enumerate(further)]
    latencies = [decoding.drafter, *(one.latency for one in further)]
    order = sorted(range(len(own)), key=lambda i: latencies[i].latency_ns)
    return Script(
        plan=plan,
        accepted=np.logical_or.reduce(own),
        lengths=(),
        order=order,
        guesses=[np.where(own[i], 0, place).tolist() for place, i in enumerate(order, 1)],
    )
