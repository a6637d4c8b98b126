"""The branches of many runs: what is drafted between one restart and the next."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.model.acceptance import Acceptance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

KINDS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class Draws:
    """What is known of the runs.

    Attributes:
        ranks: int8 (runs, tokens); see :class:`dsim.model.acceptance.Acceptance`.
        acceptance: their acceptance models; run ``i`` has number ``i`` modulo their count.
    """

    ranks: NDArray[np.int8]
    acceptance: Sequence[Acceptance]

    @property
    def accepted(self) -> Bools:
        """Which drafts are accepted: bool (runs, tokens)."""
        return np.asarray(self.ranks == 1)

    @cached_property
    def lengths(self) -> Ints:
        """For each position, how many drafts from there on are accepted in a row."""
        tokens = self.ranks.shape[1]
        nearest = np.where(self.accepted, tokens, np.arange(tokens))
        nearest = np.minimum.accumulate(nearest[:, ::-1], axis=1)[:, ::-1]
        return np.asarray(nearest - np.arange(tokens))


class Branches:
    """The branches of many runs. They are sorted: those that end near the end of the text first.

    Args:
        runs, tokens: how many runs there are, and how many tokens each generates.
        run, start, accepted: int64 (branches,): the run of a branch, its first position, and
            ``n``, the drafts it accepts.

    Attributes:
        kind: int64 (branches,): number of the kind of branch that it is.
        kind_accepted, kind_left: int64 (kinds,): ``n`` and ``r`` of a kind of branch; ``r`` are the
            drafts that are left to make when it starts. Sorted as the branches are.
        count: int64 (runs,), branches of a run.
        histogram: float64 (n, runs), branches that accept ``n`` drafts; up to the largest ``n``.
        ranked: the ranks of the runs that the branches were found in.
    """

    ranked: Draws

    def __init__(self, runs: int, tokens: int, run: Ints, start: Ints, accepted: Ints) -> None:
        self.runs, self.tokens = runs, tokens
        gap = tokens - 1 - start - accepted
        alike = gap * (tokens + 1) + accepted  # the same for branches with the same ``n`` and ``r``
        order = np.argsort(alike, kind="stable")
        self._gap = gap[order]
        self.run, self.start, self.accepted = run[order], start[order], accepted[order]
        kinds, self.kind = np.unique(alike[order], return_inverse=True)
        self._kind_gap, self.kind_accepted = np.divmod(kinds, tokens + 1)
        self.kind_left = self._kind_gap + self.kind_accepted
        self.count = np.bincount(run, minlength=runs).astype(np.int64)
        self.most_accepted = int(accepted.max(initial=0))
        cell = self.accepted * runs + self.run
        size = (self.most_accepted + 1) * runs
        self.histogram = np.bincount(cell, minlength=size).reshape(-1, runs).astype(np.float64)

    @classmethod
    def of(cls, ranks: NDArray[Any], acceptance: Sequence[Acceptance] = ()) -> Branches:
        """The branches of runs.

        Args:
            ranks: int8 (runs, tokens), or bool: which drafts are accepted.
            acceptance: the acceptance models of the runs; see :class:`Draws`.
        """
        runs, tokens = ranks.shape
        rejected = ranks != 1
        rejected[:, -1] = True  # the last position has no draft: every last branch ends there
        run, end = np.nonzero(rejected)
        start = np.zeros_like(end)
        start[1:] = np.where(run[1:] == run[:-1], end[:-1] + 1, 0)
        found = cls(runs, tokens, run, start, end - start)
        found.ranked = Draws(ranks.astype(np.int8, copy=False), acceptance or [Acceptance()])
        return found

    def near(self, width: int) -> tuple[int, int]:
        """Of what ends less than *width* positions from the end: how many branches, how many kinds.

        They are the first ones.
        """
        branches = np.searchsorted(self._gap, width, "left")
        return int(branches), int(np.searchsorted(self._kind_gap, width, "left"))

    def sums(self, far: Ints, near: Ints) -> Ints:
        """Sum quantities over the branches of each run.

        Args:
            far: int64 (quantities, n), what each is for a branch far from the end that accepts
                ``n`` drafts.
            near: int64 (quantities, kinds), how much more it is for the first kinds of branches.

        Returns:
            int64 (quantities, runs).
        """
        total = far.astype(np.float64) @ self.histogram
        for at in range(0, near.shape[1], KINDS_AT_ONCE):
            kinds = min(KINDS_AT_ONCE, near.shape[1] - at)
            begin, stop = np.searchsorted(self.kind, [at, at + kinds], "left")
            cell = (self.kind[begin:stop] - at) * self.runs + self.run[begin:stop]
            counts = np.bincount(cell, minlength=kinds * self.runs).reshape(kinds, self.runs)
            total += near[:, at : at + kinds].astype(np.float64) @ counts.astype(np.float64)
        return total.astype(np.int64)

    @cached_property
    def _most_beyond(self) -> Ints:
        most = np.full((self.runs, self.tokens + 1), -1, np.int64)
        most[self.run, self._gap] = self.accepted
        return np.maximum.accumulate(most[:, ::-1], axis=1)[:, ::-1]

    def most_beyond(self, width: int) -> Ints:
        """The largest ``n`` of each run's branches that end *width* positions from the end or more.

        int64 (runs,); -1 where there is none.
        """
        return self._most_beyond[:, min(width, self.tokens)]

    @cached_property
    def opening(self) -> Ints:
        """``n`` of each run's first branch: int64 (runs,)."""
        first = self.start == 0
        accepted = np.empty(self.runs, np.int64)
        accepted[self.run[first]] = self.accepted[first]
        return accepted

    @cached_property
    def rest(self) -> Branches:
        """All branches but each run's first."""
        return self._only(self.start > 0, self.start, self.accepted)

    @cached_property
    def rest_after_first_token(self) -> Branches:
        """All branches but the first, if the first ends with the token at position 0."""
        first = self.start == 0
        start = np.where(first, 1, self.start)
        accepted = np.where(first, self.accepted - 1, self.accepted)
        return self._only(accepted >= 0, start, accepted)

    def _only(self, which: Bools, start: Ints, accepted: Ints) -> Branches:
        kept = self.run[which], start[which], accepted[which]
        return Branches(self.runs, self.tokens, *kept)


def branch_starts(rejected: Bools) -> Ints:
    """For each position the first one of its branch."""
    runs, tokens = rejected.shape
    start = np.zeros((runs, tokens), np.int64)
    start[:, 1:] = np.where(rejected[:, :-1], np.arange(1, tokens), 0)
    return np.maximum.accumulate(start, axis=1)


def chain_branches(start: Ints, time_ns: Ints) -> Ints:
    """Add to times within a branch the time at which the branch starts."""
    runs, tokens = start.shape
    ends = np.ones((runs, tokens), np.bool_)
    ends[:, :-1] = start[:, 1:] != start[:, :-1]
    total = np.cumsum(np.where(ends, time_ns, 0), axis=1)
    before = np.where(ends, total - time_ns, total)
    return before + time_ns
