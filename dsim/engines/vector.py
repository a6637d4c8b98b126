"""The vector engine: whole grids of cases with NumPy, exactly as the event engine has them.

It takes constant latencies (with or without a first-token latency) and servers that can be
preempted. Two observations make a grid far less work than its number of cases:

- A branch (everything drafted since the last restart) starts right behind a rejected draft. So the
  branches of a run depend on its draws alone, and are the same for every latency, lookahead and
  number of servers; SI goes through them as well. A branch is a pair: ``n`` drafts accepted of the
  ``r`` that are left to make.
- How long a branch takes, and the passes and drafts that it begins, depend on ``(n, r)`` and the
  timing only; and ``r`` matters only to the few branches near the end of the text. So a run is a
  histogram of ``n`` times a table over ``n``, plus a correction for the branches near the end.

Times are int64 nanoseconds. Sums that go through float64, where BLAS helps, are of whole numbers
below 2**53: exact, in whatever order.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.declaration import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]

FAR = 2**62  # later than anything
SCHEDULES_AT_ONCE = 512
KINDS_AT_ONCE = 4096
CELLS_AT_ONCE = 2**22


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What a case is but for its draws.

    Attributes:
        drafter_ns, target_ns: ``t1`` and ``t2``, latencies of a draft and of a pass.
        drafter_first_ns, target_first_ns: latencies of a server's first forward on the prompt;
            ``None``: the prompt is cached.
        lookahead: ``k``, drafts per block.
        targets: ``S``, target servers.
    """

    drafter_ns: int
    target_ns: int
    lookahead: int = 1
    targets: int = 1
    drafter_first_ns: int | None = None
    target_first_ns: int | None = None

    @property
    def has_first(self) -> bool:
        """Whether the prompt has to be read."""
        return self.drafter_first_ns is not None or self.target_first_ns is not None


@dataclasses.dataclass(frozen=True)
class Totals:
    """What the runs of many timings come to.

    Timings that differ in nothing but scale share a row: timing ``c`` has row ``row[c]`` of the
    counts, and the latency ``scale[c] · time[row] + shift[c] · units[row] + offset[c]``.

    Attributes:
        target_passes, wasted_passes: int64 (rows, runs): passes begun; those of them cancelled.
        drafts, wasted_drafts: drafts begun; those of them whose token is not in the output.
        peak_targets: the largest number of target servers that were busy at once.
        time, units: int64 (rows, runs).
        row, scale, shift, offset: int64 (timings,).
    """

    target_passes: Ints
    wasted_passes: Ints
    drafts: Ints
    wasted_drafts: Ints
    peak_targets: Ints
    time: Ints
    units: Ints
    row: Ints
    scale: Ints
    shift: Ints
    offset: Ints

    def latency_ns(self, timings: slice = slice(None)) -> Ints:
        """When the last token settled: int64 (timings, runs), of some of the timings."""
        row = self.row[timings]
        latency = self.time[row]
        latency *= self.scale[timings, None]
        if self.shift[timings].any():
            latency += self.shift[timings, None] * self.units[row]
        if self.offset[timings].any():
            latency += self.offset[timings, None]
        return latency


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
    """

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
    def of(cls, draws: Bools) -> Branches:
        """The branches in *draws*, bool (runs, tokens)."""
        runs, tokens = draws.shape
        rejected = ~draws
        rejected[:, -1] = True  # the last position has no draft: every last branch ends there
        run, end = np.nonzero(rejected)
        start = np.zeros_like(end)
        start[1:] = np.where(run[1:] == run[:-1], end[:-1] + 1, 0)
        return cls(runs, tokens, run, start, end - start)

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


@dataclasses.dataclass(frozen=True)
class Parts:
    """What branches come to: int64 arrays of one shape, one element a branch."""

    time_ns: Ints
    passes: Ints
    useful_passes: Ints
    drafts: Ints
    peak_targets: Ints


def _first(timing: Timing, *, opening: bool) -> tuple[int, int, bool]:
    """Latencies (ns) of a branch's first draft and first pass, and whether all servers prefill."""
    draft_ns, pass_ns = timing.drafter_first_ns, timing.target_first_ns
    return (
        timing.drafter_ns if draft_ns is None or not opening else draft_ns,
        timing.target_ns if pass_ns is None or not opening else pass_ns,
        opening and pass_ns is not None,
    )


class Schedule:
    """When a DSI branch begins its passes, as long as no draft is rejected.

    Args:
        timing: the timing.
        begin_ns: int64 (passes,), when each pass begins, from the start of the branch.
        end: int64 (passes,), how many drafts of the branch it covers.
        free_ns: int64 (passes,), when the server that takes it is free (-1: from the start).
        by_draft: bool (passes,), whether it begins as a draft ends; if so, it begins before
            whatever else happens at that instant.
        opening: whether this is the first branch of a run, which meets first-token latencies.

    Attributes:
        most_accepted: the largest ``n`` after which the branch goes on. (Where the target settles
            a position that the drafter has not reached, the branch ends.)
    """

    def __init__(
        self,
        timing: Timing,
        begin_ns: Ints,
        end: Ints,
        free_ns: Ints,
        by_draft: Bools,
        *,
        opening: bool,
    ) -> None:
        self.draft_ns = timing.drafter_ns
        self.first_draft_ns, first_pass_ns, prefills = _first(timing, opening=opening)
        self.begin_ns, self.end = np.append(begin_ns, FAR), np.append(end, FAR)
        self.free_ns, self.by_draft = np.append(free_ns, FAR), np.append(by_draft, np.False_)
        self.pass_ns = np.full(len(self.begin_ns), timing.target_ns)
        self.pass_ns[0] = first_pass_ns
        self.over_ns = begin_ns + self.pass_ns[:-1]
        behind = np.flatnonzero(self._drafted(self.over_ns) <= end)
        self.most_accepted = int(end[behind[0]]) if len(behind) else FAR
        busy = self._busy(np.arange(len(begin_ns)), begin_ns, by_draft)
        self.peak = np.maximum.accumulate(np.maximum(busy, timing.targets if prefills else 1))

    def _drafted(self, time_ns: Ints) -> Ints:
        """How many drafts have ended by *time_ns*, if none is the last."""
        since_ns = time_ns - self.first_draft_ns
        return np.where(since_ns < 0, 0, 1 + since_ns // self.draft_ns)

    def _busy(self, index: Ints, begin_ns: Ints, by_draft: Bools) -> Ints:
        """Busy servers just after pass number *index* begins at *begin_ns*."""
        before = np.searchsorted(self.over_ns, begin_ns, "left")
        until = np.searchsorted(self.over_ns, begin_ns, "right")
        return index + 1 - np.minimum(index, np.where(by_draft, before, until))

    def far(self, accepted: Ints) -> Parts:
        """What branches come to that accept *accepted* drafts, far from the end of the text."""
        return self._parts(accepted, FAR, len(self.end) - 1, FAR, by_draft=np.False_)

    def near(self, accepted: Ints, left: Ints) -> Parts:
        """What branches come to that accept *accepted* of the *left* drafts there are to make.

        They differ from others in the last pass only, which begins as soon as the last draft is
        made (rule 2c) or, if later, when a server is free.
        """
        last = np.searchsorted(self.end, left, "left")
        made_ns = np.where(left > 0, self.first_draft_ns + (left - 1) * self.draft_ns, 0)
        free_ns = self.free_ns[last]
        return self._parts(
            accepted, left, last, np.maximum(free_ns, made_ns), by_draft=free_ns < made_ns
        )

    def _parts(
        self,
        accepted: Ints,
        left: Ints | int,
        last: Ints | int,
        last_begin_ns: Ints | int,
        *,
        by_draft: Bools | np.bool_,
    ) -> Parts:
        accepted = np.minimum(accepted, self.most_accepted)
        judge = np.searchsorted(self.end, accepted, "left")
        begin_ns = np.where(judge == last, last_begin_ns, self.begin_ns[judge])
        time_ns = begin_ns + self.pass_ns[judge]
        # Passes begun until then: those before the last, and the last.
        begun = np.searchsorted(self.begin_ns, time_ns, "left")
        begun += (self.begin_ns[begun] == time_ns) & self.by_draft[begun]
        begun = np.minimum(begun, last)
        peak = self.peak[np.maximum(begun - 1, 0)]
        if isinstance(last, np.ndarray):
            has_last = (last_begin_ns < time_ns) | ((last_begin_ns == time_ns) & by_draft)
            busy = self._busy(last, np.asarray(last_begin_ns), np.asarray(by_draft))
            peak = np.maximum(peak, np.where(has_last, busy, 0))
            begun = begun + has_last
        return Parts(time_ns, begun, judge + 1, np.minimum(left, 1 + self._drafted(time_ns)), peak)


def schedules(
    timings: Sequence[Timing], most_accepted: int, tokens: int, *, opening: bool = False
) -> list[Schedule]:
    """The schedules of many timings, worked out side by side.

    Args:
        timings: the timings.
        most_accepted: the largest ``n`` that will be asked for.
        tokens: ``N``.
        opening: see :class:`Schedule`.
    """

    def column(values: Sequence[int]) -> Ints:
        return np.array(values, dtype=np.int64)

    t1, t2 = column([t.drafter_ns for t in timings]), column([t.target_ns for t in timings])
    k, servers = column([t.lookahead for t in timings]), column([t.targets for t in timings])
    firsts = [_first(t, opening=opening) for t in timings]
    first_draft, first_pass = column([f[0] for f in firsts]), column([f[1] for f in firsts])
    idle_from = np.where([f[2] for f in firsts], first_pass, -1)
    every = np.arange(len(timings))

    # Row j: pass j of every timing.
    begin = np.zeros((64, len(timings)), np.int64)
    end, free = np.zeros_like(begin), np.full_like(begin, -1)
    by_draft = np.zeros(begin.shape, np.bool_)
    over = first_pass  # when the pass before is over
    horizon = np.where(most_accepted <= 0, over, FAR)  # nothing after this is of interest
    passes = np.zeros(len(timings), np.int64)
    j = 0
    while True:
        drafted = np.where(over < first_draft, 0, 1 + (over - first_draft) // t1)
        complete = (end[j] >= tokens - 1) | (begin[j] > horizon) | (drafted <= end[j])
        passes[complete & (passes == 0)] = j + 1
        if passes.all():
            break
        j += 1
        if j == len(begin):
            begin, end, free = (np.concatenate([a, np.zeros_like(a)]) for a in (begin, end, free))
            by_draft = np.concatenate([by_draft, np.zeros_like(by_draft)])
        freed_by = j - servers  # the pass whose server it can have
        earlier = begin[np.maximum(freed_by, 0), every] + np.where(freed_by == 0, first_pass, t2)
        free[j] = np.where(freed_by >= 0, earlier, idle_from)
        due = first_draft + (end[j - 1] + k - 1) * t1  # rule 2b; 2d is ``over``
        begin[j] = np.maximum(free[j], np.minimum(due, over))
        by_draft[j] = (begin[j] == due) & (free[j] < due)
        since = begin[j] - first_draft
        end[j] = np.where(since < 0, 0, 1 + since // t1)
        over = begin[j] + t2
        horizon = np.where((horizon == FAR) & (end[j] >= most_accepted), over, horizon)
    return [
        Schedule(timing, begin[:n, c], end[:n, c], free[:n, c], by_draft[:n, c], opening=opening)
        for c, (timing, n) in enumerate(zip(timings, passes.tolist(), strict=True))
    ]


def _regular(timings: Sequence[Timing], branches: Branches) -> list[Parts]:
    """Sums over *branches* for timings with ``t1 ≤ t2``: for each, Parts of shape (runs,)."""
    accepted = np.arange(branches.most_accepted + 1)
    at_once = max(1, min(SCHEDULES_AT_ONCE, CELLS_AT_ONCE // branches.tokens))
    result: list[Parts] = []
    for at in range(0, len(timings), at_once):
        some = timings[at : at + at_once]
        tables, extras, peaks = [], [], []
        for schedule in schedules(some, branches.most_accepted, branches.tokens):
            far = schedule.far(accepted)
            width = int((far.drafts - accepted).max())  # further away the end makes no difference
            count, kinds = branches.near(width)
            n = branches.kind_accepted[:kinds]
            near = schedule.near(n, branches.kind_left[:kinds])
            peaks.append(_peak(far, near, branches, width, count))
            for name in ("time_ns", "passes", "useful_passes", "drafts"):
                tables.append(getattr(far, name))
                extras.append(getattr(near, name) - tables[-1][n])
        extra = np.zeros((len(extras), max(map(len, extras))), np.int64)
        for i, values in enumerate(extras):
            extra[i, : len(values)] = values
        sums = branches.sums(np.stack(tables), extra).reshape(len(some), 4, -1)
        for (time_ns, passes, useful, drafts), peak in zip(sums, peaks, strict=True):
            result.append(Parts(time_ns, passes, useful, drafts, peak))
    return result


def _peak(far: Parts, near: Parts, branches: Branches, width: int, count: int) -> Ints:
    """The largest peak of each run's branches."""
    most = branches.most_beyond(width)
    peak = np.where(most < 0, 0, far.peak_targets[most])
    of_branch, run = near.peak_targets[branches.kind[:count]], branches.run[:count]
    higher = np.flatnonzero(of_branch > peak[run])
    np.maximum.at(peak, run[higher], of_branch[higher])
    return peak


def _opened(timings: Sequence[Timing], branches: Branches) -> list[tuple[Parts, Ints]]:
    """Runs whose first branch meets first-token latencies: Parts, and drafts accepted, (runs,)."""
    at_once = schedules(timings, int(branches.opening.max()), branches.tokens, opening=True)
    result: list[tuple[Parts, Ints]] = []
    for timing, schedule in zip(timings, at_once, strict=True):
        accepted = np.minimum(branches.opening, schedule.most_accepted)
        left = np.full_like(accepted, branches.tokens - 1)
        first = schedule.near(accepted, left)
        if timing.drafter_ns > timing.target_ns:
            tokens = left - accepted  # each by a branch of its own, for the drafter is behind
            drafts = np.maximum(tokens - 1, 0)
            rest = Parts(tokens * timing.target_ns, tokens, tokens, drafts, np.minimum(tokens, 1))
        else:
            # In this region the drafter can be behind at the first pass only.
            others = branches.rest if schedule.most_accepted else branches.rest_after_first_token
            (rest,) = _regular([timing], others)
            accepted = branches.tokens - 1 - others.count
        result.append((_join(first, rest), accepted))
    return result


def _join(first: Parts, rest: Parts) -> Parts:
    """The two one after the other."""
    return Parts(
        first.time_ns + rest.time_ns,
        first.passes + rest.passes,
        first.useful_passes + rest.useful_passes,
        first.drafts + rest.drafts,
        np.maximum(first.peak_targets, rest.peak_targets),
    )


def dsi(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of DSI for every timing, over the runs whose branches are given."""
    t1, t2, k, servers = (
        np.array([getattr(t, name) for t in timings], dtype=np.int64)
        for name in ("drafter_ns", "target_ns", "lookahead", "targets")
    )
    has_first = np.array([t.has_first for t in timings])
    rows: list[Timing] = []
    row, scale, shift = np.empty_like(t1), np.ones_like(t1), np.zeros_like(t1)

    # Timings with the same schedule but for its scale.
    per_pass = t2 // t1  # drafts made during a pass
    enough = -(-t2 // (k * t1)) + 1  # servers with which no pass ever waits
    block = np.where((k - 1) * t1 >= t2, per_pass + 2, k)  # rule 2d is always first from there on
    useful_servers = np.minimum(servers, np.where(block == k, enough, 2))
    unit = np.gcd(t1, t2)
    ample = (k * t1 <= t2) & (servers >= enough)
    canonical = np.stack([t1 // unit, t2 // unit, block, useful_servers], axis=1)
    canonical[ample] = np.stack([np.ones_like(k), per_pass, k, per_pass + 2], axis=1)[ample]
    canonical[t1 > t2] = (2, 1, 1, 1)
    scale = np.where(t1 > t2, t2, np.where(ample, t1, unit))
    shift = np.where(ample & (t1 <= t2), t2 - per_pass * t1, 0)
    plain = np.flatnonzero(~has_first)
    if len(plain):
        unique, row[plain] = np.unique(canonical[plain], axis=0, return_inverse=True)
        rows = [
            Timing(drafter_ns=a, target_ns=b, lookahead=c, targets=d)
            for a, b, c, d in unique.tolist()
        ]
    for c in np.flatnonzero(has_first).tolist():
        row[c], scale[c], shift[c] = len(rows), 1, 0
        rows.append(timings[c])

    tokens, count = branches.tokens, branches.count
    keeps_up = [t for t in rows if not t.has_first and t.drafter_ns <= t.target_ns]
    regular = dict(zip(keeps_up, _regular(keeps_up, branches), strict=True))
    opened = [t for t in rows if t.has_first]
    first = dict(zip(opened, _opened(opened, branches) if opened else (), strict=True))
    every = np.full_like(count, tokens)
    # A drafter slower than the target: each token is settled before its draft is made.
    behind = Parts(every, every, every, every - 1, np.ones_like(count))
    parts, wasted_drafts = [], []
    for timing in rows:
        if timing.has_first:
            part, accepted = first[timing]
        elif timing.drafter_ns > timing.target_ns:
            part, accepted = behind, 0 * count
        else:
            part, accepted = regular[timing], tokens - count
        parts.append(part)
        wasted_drafts.append(part.drafts - accepted)
    passes = np.stack([p.passes for p in parts])
    return Totals(
        target_passes=passes,
        wasted_passes=passes - np.stack([p.useful_passes for p in parts]),
        drafts=np.stack([p.drafts for p in parts]),
        wasted_drafts=np.stack(wasted_drafts),
        peak_targets=np.stack([p.peak_targets for p in parts]),
        time=np.stack([p.time_ns for p in parts]),
        units=np.broadcast_to(count, passes.shape),
        row=row,
        scale=scale,
        shift=shift,
        offset=np.zeros_like(row),
    )


def _si_round(k: int, offset: Ints, left: Ints) -> tuple[Ints, Ints]:
    """SI in a branch: the rounds and the drafts that it takes to settle position *offset* of it."""
    full = offset // (k + 1)
    return full + 1, full * k + np.minimum(k, left - full * (k + 1))


def si(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of SI for every timing, over the runs whose branches are given."""
    lookaheads, row = np.unique([t.lookahead for t in timings], return_inverse=True)
    accepted = np.arange(branches.most_accepted + 1)
    tables, extras = [], []
    for k in lookaheads.tolist():
        rounds, drafts = _si_round(k, accepted, np.asarray(FAR))
        _, kinds = branches.near(k)
        n = branches.kind_accepted[:kinds]
        tables += [rounds, drafts]
        extras.append(_si_round(k, n, branches.kind_left[:kinds])[1] - drafts[n])
    extra = np.zeros((len(tables), max(map(len, extras))), np.int64)
    for i, values in enumerate(extras):
        extra[2 * i + 1, : len(values)] = values
    sums = branches.sums(np.stack(tables), extra)
    passes, drafts = sums[0::2], sums[1::2]
    t1 = np.array([t.drafter_ns for t in timings], dtype=np.int64)
    t2 = np.array([t.target_ns for t in timings], dtype=np.int64)
    return Totals(
        target_passes=passes,
        wasted_passes=np.zeros_like(passes),
        drafts=drafts,
        wasted_drafts=drafts - (branches.tokens - passes),
        peak_targets=np.ones_like(passes),
        time=drafts,
        units=passes,
        row=row.astype(np.int64),
        scale=t1,
        shift=t2,
        offset=np.array([_si_offset(t, branches.tokens) for t in timings], dtype=np.int64),
    )


def _si_offset(timing: Timing, tokens: int) -> int:
    """How much longer (ns) the first round takes for the prompt."""
    draft_ns, pass_ns, _ = _first(timing, opening=True)
    return pass_ns - timing.target_ns + (draft_ns - timing.drafter_ns if tokens > 1 else 0)


def nonsi(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of non-SI for every timing: one pass after the other, whatever the draws."""
    passes = np.full((1, branches.runs), branches.tokens, np.int64)
    none = np.zeros_like(passes)
    t2 = np.array([t.target_ns for t in timings], dtype=np.int64)
    zero = np.zeros_like(t2)
    return Totals(
        target_passes=passes,
        wasted_passes=none,
        drafts=none,
        wasted_drafts=none,
        peak_targets=np.ones_like(passes),
        time=passes,
        units=none,
        row=zero,
        scale=t2,
        shift=zero,
        offset=np.array([_first(t, opening=True)[1] - t.target_ns for t in timings], np.int64),
    )


def nonsi_settled_ns(timing: Timing, draws: Bools) -> Ints:
    """When every token settles in non-SI; see :class:`Form`."""
    _, first_pass_ns, _ = _first(timing, opening=True)
    times = first_pass_ns + timing.target_ns * np.arange(draws.shape[1], dtype=np.int64)
    return np.broadcast_to(times, draws.shape).copy()


def si_settled_ns(timing: Timing, draws: Bools) -> Ints:
    """When every token settles in SI; see :class:`Form`."""
    tokens = draws.shape[1]
    start = _starts(~draws)
    offset = np.arange(tokens) - start
    rounds, drafts = _si_round(timing.lookahead, offset, tokens - 1 - start)
    time_ns = drafts * timing.drafter_ns + rounds * timing.target_ns
    return _chain(start, time_ns) + _si_offset(timing, tokens)


def dsi_settled_ns(timing: Timing, draws: Bools) -> Ints:
    """When every token settles in DSI; see :class:`Form`."""
    runs, tokens = draws.shape
    t1, t2 = timing.drafter_ns, timing.target_ns
    rejected = ~draws
    if t1 > t2:
        rejected[:, :] = True
    if timing.has_first:
        (schedule,) = schedules([timing], tokens - 1, tokens, opening=True)
        last = np.minimum(Branches.of(draws).opening, schedule.most_accepted)
        rejected[np.arange(tokens) < last[:, None]] = False
        rejected[np.arange(runs), last] = True
    start = _starts(rejected)
    offset, left = np.arange(tokens) - start, tokens - 1 - start
    time_ns = np.full(draws.shape, t2, np.int64)
    if t1 <= t2:
        (schedule,) = schedules([timing], tokens - 1, tokens)
        time_ns = schedule.near(offset.ravel(), left.ravel()).time_ns.reshape(draws.shape)
    if timing.has_first:
        (schedule,) = schedules([timing], tokens - 1, tokens, opening=True)
        opening = schedule.near(offset.ravel(), left.ravel()).time_ns.reshape(draws.shape)
        time_ns = np.where(start == 0, opening, time_ns)
    return _chain(start, time_ns)


class Form(NamedTuple):
    """An orchestration as arithmetic.

    Attributes:
        totals: totals of many timings over the runs whose branches are given.
        settled_ns: when every token settles, int64 (runs, tokens), for one timing and draws, bool
            (runs, tokens).
    """

    totals: Callable[[Sequence[Timing], Branches], Totals]
    settled_ns: Callable[[Timing, Bools], Ints]


NONSI = Form(nonsi, nonsi_settled_ns)
SI = Form(si, si_settled_ns)
DSI = Form(dsi, dsi_settled_ns)


def form_of(algorithm: str) -> Form:
    """The vector form of *algorithm*, which has one."""
    form: Form = resolve(ORCHESTRATIONS[algorithm].vector)
    return form


def _starts(rejected: Bools) -> Ints:
    """For each position the first one of its branch."""
    runs, tokens = rejected.shape
    start = np.zeros((runs, tokens), np.int64)
    start[:, 1:] = np.where(rejected[:, :-1], np.arange(1, tokens), 0)
    return np.maximum.accumulate(start, axis=1)


def _chain(start: Ints, time_ns: Ints) -> Ints:
    """Add to times within a branch the time at which the branch starts."""
    runs, tokens = start.shape
    ends = np.ones((runs, tokens), np.bool_)
    ends[:, :-1] = start[:, 1:] != start[:, :-1]
    total = np.cumsum(np.where(ends, time_ns, 0), axis=1)
    before = np.where(ends, total - time_ns, total)
    return before + time_ns
