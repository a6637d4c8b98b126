"""What chance has decided of one text: the same for every orchestration, engine and backend."""

from __future__ import annotations

import dataclasses
import itertools
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.model.acceptance import Uniforms, run_lengths
from dsim.model.lookahead import CONFIDENCE, MORE_STREAM, confidence_of, mean_rate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dsim.model.case import Decoding
    from dsim.model.drafters import MoreDrafter
    from dsim.model.lookahead import Plan

WRONG_PREFIX, WRONG_AT_ONCE = 15, 256  # low bits of the key of a stream; numbers drawn at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Script:
    """One text.

    Attributes:
        plan: where ``k``, drafts per block, comes from.
        accepted: bool (tokens,), whether the draft of any of the drafters is accepted.
        lengths: for each position, how many drafts from there on are accepted before the first
            rejection; empty where there are several drafters or the rates go by depth.
        order: the numbers of the drafters, the fastest first, which leads; 0 is the first one.
        guesses: for each drafter, in that order, the token that it drafts at each position: 0 is
            the target's own token, and what a drafter gets wrong is its place in the order, from
            1 on. ``None`` for a single drafter, where the run lengths say all.
        ranks: int8 (depths, tokens): which candidate of the first drafter is right; see
            :meth:`dsim.model.acceptance.Acceptance.ranks`.
        decoding, key: what the text was made of.
    """

    plan: Plan
    accepted: NDArray[np.bool_]
    lengths: Sequence[int]
    order: Sequence[int] = (0,)
    guesses: Sequence[Sequence[int] | None] = (None,)
    ranks: NDArray[np.int8]
    decoding: Decoding
    key: int

    @cached_property
    def _ranks(self) -> list[list[int]]:
        rows: list[list[int]] = self.ranks.tolist()
        return rows

    def rank(self, position: int, depth: int) -> int:
        """Which candidate for *position* at *depth* is right: 0 none; -1: there is no draft."""
        rows = self._ranks
        return rows[min(depth, len(rows)) - 1][position]

    def runs(self, candidates: int = 1) -> list[int]:
        """For each position, how many drafts from there on can be accepted in a row.

        Args:
            candidates: how many of the drafter's candidates for a position can be accepted. With
                rates by depth, what can be accepted at some depth counts.
        """
        if candidates == 1 and len(self.ranks) == 1:
            return run_lengths(self.accepted)
        found = (self.ranks > 0) & (self.ranks <= candidates)
        return run_lengths(np.asarray(found.any(axis=0)))

    def block_of(self, place: int) -> Callable[[int, int], list[int]] | None:
        """What a forward of the drafter at *place* of the order guesses, if not always one token.

        Returns:
            A function of the first position and the number of settled tokens: the tokens guessed,
            0 for the target's own. ``None``: every forward guesses one token.
        """
        size, guesses = self.decoding.block_tokens, self.guesses[place]
        if self.order[place] or (size == 1 and self.decoding.acceptance.plain):
            return None
        if guesses is not None:
            return lambda first, _: list(guesses[first : first + size])
        rank, wanted = self.rank, self.ranks.shape[1]

        def block(first: int, settled: int) -> list[int]:
            made: list[int] = []
            for position in range(first, min(first + size, wanted)):
                found = rank(position, position - settled + 1)
                if found < 0:
                    break
                made.append(int(found != 1))
            return made

        return block

    def chances(self, position: int, depth: int, count: int, *, right: bool) -> list[float]:
        """How sure the first drafter is of its *count* best candidates for *position*.

        Args:
            position: the position.
            depth: depth of the drafts.
            count: how many candidates.
            right: whether the text before them is the target's own. Where it is not, their
                confidence comes from numbers of its own.

        Returns:
            A chance for each candidate; with ``confidence_quality = 0`` the mean for its rank.
        """
        acceptance, quality = self.decoding.acceptance, self.decoding.policy.quality
        by_depth = acceptance.by_depth
        rate = by_depth[min(depth, len(by_depth)) - 1] if by_depth else mean_rate(acceptance)
        first = rate
        if quality:
            u = float(self._sure[position]) if right else next(self._unsure)
            accepted = self.rank(position, depth) == 1 if right else None
            first = confidence_of(accepted, rate, quality, u)
        return acceptance.chances(first, count)

    @cached_property
    def _sure(self) -> NDArray[np.float64]:
        key = (self.key << 4) + CONFIDENCE
        return Uniforms(self.decoding.seed, key, MORE_STREAM).next(self.ranks.shape[1])

    @cached_property
    def _unsure(self) -> Iterator[float]:
        numbers = Uniforms(self.decoding.seed, (self.key << 4) + WRONG_PREFIX, MORE_STREAM)
        return (u for _ in itertools.count() for u in numbers.next(WRONG_AT_ONCE).tolist())


def script_of(
    decoding: Decoding,
    ranks: NDArray[Any],
    key: int,
    further: Sequence[MoreDrafter] = (),
    rate: float | None = None,
) -> Script:
    """The script of one text.

    Args:
        decoding: how the text is made.
        ranks: int8 (depths, tokens), or bool (tokens,), how the drafts of the first drafter fare.
        key: what stands for the repeat in the random draws.
        further: the drafters beside the first that are made use of.
        rate: acceptance rate of this text, where it is not that of *decoding*.
    """
    ranks = np.atleast_2d(ranks)
    draws = ranks[0] == 1
    mean = mean_rate(decoding.acceptance)
    plan = decoding.policy.plan_of(
        decoding.lookahead, draws, mean if rate is None else rate, decoding.seed, key
    )
    if not further:
        lengths = run_lengths(draws) if len(ranks) == 1 else []
        return Script(
            plan=plan, accepted=draws, lengths=lengths, ranks=ranks, decoding=decoding, key=key
        )
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
        ranks=ranks,
        decoding=decoding,
        key=key,
    )
