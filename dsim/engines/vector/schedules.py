"""When the passes of a DSI branch begin, and what the branch comes to."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.vector.timing import first_latencies

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.engines.vector.timing import Bools, Ints, Timing

FAR = 2**62  # later than anything


@dataclasses.dataclass(frozen=True)
class Parts:
    """What branches come to: int64 arrays of one shape, one element a branch."""

    time_ns: Ints
    passes: Ints
    useful_passes: Ints
    drafts: Ints
    peak_targets: Ints


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
        self.draft_ns, self.block_tokens = timing.drafter_ns, timing.block_tokens
        self.first_draft_ns, first_pass_ns, prefills = first_latencies(timing, opening=opening)
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
        return np.where(since_ns < 0, 0, 1 + since_ns // self.draft_ns) * self.block_tokens

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
        before = -(-left // self.block_tokens) - 1  # forwards before the last one
        made_ns = np.where(left > 0, self.first_draft_ns + before * self.draft_ns, 0)
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
        block = self.block_tokens
        drafts = np.minimum(-(-left // block) * block, block + self._drafted(time_ns))
        return Parts(time_ns, begun, judge + 1, drafts, peak)


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
    block, patience = (
        column([getattr(t, n) for t in timings]) for n in ("block_tokens", "patience")
    )
    firsts = [first_latencies(t, opening=opening) for t in timings]
    first_draft, first_pass = column([f[0] for f in firsts]), column([f[1] for f in firsts])
    idle_from = np.where([f[2] for f in firsts], first_pass, -1)
    every = np.arange(len(timings))

    def drafted_by(time_ns: Ints) -> Ints:
        return np.where(time_ns < first_draft, 0, 1 + (time_ns - first_draft) // t1) * block

    def made_ns(drafts: Ints) -> Ints:
        return first_draft + (-(-drafts // block) - 1) * t1

    # Row j: pass j of every timing.
    begin = np.zeros((64, len(timings)), np.int64)
    end, free = np.zeros_like(begin), np.full_like(begin, -1)
    by_draft = np.zeros(begin.shape, np.bool_)
    by_draft[0] = patience > 0
    begin[0] = np.where(by_draft[0], made_ns(patience), 0)
    end[0] = np.where(by_draft[0], drafted_by(begin[0]), 0)
    over = begin[0] + first_pass  # when the pass before is over
    horizon = np.where(end[0] >= most_accepted, over, FAR)  # nothing after this is of interest
    passes = np.zeros(len(timings), np.int64)
    j = 0
    while True:
        complete = (end[j] >= tokens - 1) | (begin[j] > horizon) | (drafted_by(over) <= end[j])
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
        # Rules 2b and 2d.
        due = made_ns(end[j - 1] + k)
        idle = np.maximum(over, made_ns(end[j - 1] + patience + 1))
        begin[j] = np.maximum(free[j], np.minimum(due, idle))
        by_draft[j] = (free[j] < begin[j]) & ((begin[j] == due) | (begin[j] > over))
        end[j] = drafted_by(begin[j])
        over = begin[j] + t2
        horizon = np.where((horizon == FAR) & (end[j] >= most_accepted), over, horizon)
    return [
        Schedule(timing, begin[:n, c], end[:n, c], free[:n, c], by_draft[:n, c], opening=opening)
        for c, (timing, n) in enumerate(zip(timings, passes.tolist(), strict=True))
    ]
