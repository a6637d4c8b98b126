"""PipeSpec: drafter and target, each at its own pace; all timings walk pass by pass, side by side.

Between two passes nothing is decided, so where a pass begins, how far the drafter is and when its
step ends say all of a run. A *lane* is one run by one timing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.engines.vector.timing import Form, Totals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dsim.engines.vector.branches import Branches, Draws
    from dsim.engines.vector.timing import Ints, Timing
    from dsim.model.case import Case

LANES_AT_ONCE = 2**16


class Passes(NamedTuple):
    """A pass of each lane that is not at its end: int64 arrays.

    Attributes:
        lane: number of the lane.
        start, stop: positions of the first token that it settles, and behind the last.
        over_ns: when it ends.
        drafts: forwards of the drafter that have ended since the pass before it began.
        own: 1 if the target's own token is no draft; else 0.
    """

    lane: Ints
    start: Ints
    stop: Ints
    over_ns: Ints
    drafts: Ints
    own: Ints


def _walk(timings: Sequence[Timing], lengths: Ints) -> Iterator[Passes]:
    """Every pass of every run (the inner index of a lane) by every timing (the outer one)."""
    runs, tokens = lengths.shape
    last = tokens - 1  # the one position that never needs a draft
    lane = np.arange(len(timings) * runs)
    t1, t2, k, block = (
        np.repeat(np.array([getattr(t, name) for t in timings], np.int64), runs)
        for name in ("drafter_ns", "target_ns", "lookahead", "block_tokens")
    )

    def more(wanted: Ints, chain: Ints) -> Ints:
        """Forwards until *wanted* tokens are drafted."""
        return np.asarray(np.maximum(-(-(wanted - chain) // block), 0))

    settled, chain, now = (np.zeros_like(lane) for _ in range(3))
    drafts = np.zeros_like(lane)
    while len(lane):
        # The pass waits for its drafts. At its beginning the drafter begins its next step.
        waits = more(np.minimum(settled + k - 1, last), chain)
        now, chain = now + waits * t1, np.minimum(chain + waits * block, last)
        over = now + t2
        made = np.minimum(t2 // t1, more(np.full_like(chain, last), chain))
        drafted = np.minimum(chain + made * block, last)
        # Its verdict is on the draft behind those that it covers as well.
        judged = np.minimum(chain + 1, drafted) - settled
        accepted = np.minimum(lengths[lane % runs, settled], judged)
        stands = accepted == chain + 1 - settled
        stop = settled + accepted + ~stands
        yield Passes(lane, settled, stop, over, drafts + waits + made, (~stands).astype(np.int64))
        # The step of the drafter that is under way ends first; its draft counts if the text stands.
        under_way = (drafted < last) & (made * t1 < t2)
        drafts = under_way.astype(np.int64)
        now = np.where(under_way, now + (made + 1) * t1, over)
        step = np.where(under_way, block, 0)
        chain = np.where(stands, np.minimum(drafted + step, last), stop)
        goes_on = stop < tokens
        settled, chain, now, drafts, lane, t1, t2, k, block = (
            values[goes_on] for values in (stop, chain, now, drafts, lane, t1, t2, k, block)
        )


def pipespec(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of PipeSpec for every timing, over the runs whose branches are given."""
    key = [(t.drafter_ns, t.target_ns, t.lookahead, t.block_tokens) for t in timings]
    rows = dict(zip(key, timings, strict=True))
    number = {one: i for i, one in enumerate(rows)}
    unique, runs = [*rows.values()], branches.runs
    time, passes, drafts, own = np.zeros((4, len(unique) * runs), np.int64)
    at_once = max(1, LANES_AT_ONCE // runs)
    for at in range(0, len(unique), at_once):
        for one in _walk(unique[at : at + at_once], branches.ranked.lengths):
            lane = one.lane + at * runs
            time[lane] = one.over_ns
            passes[lane] += 1
            drafts[lane] += one.drafts
            own[lane] += one.own
    time, passes, drafts, own = (a.reshape(-1, runs) for a in (time, passes, drafts, own))
    drafts *= np.array([t.block_tokens for t in unique], np.int64)[:, None]
    row = np.array([number[one] for one in key], np.int64)
    in_output = branches.tokens - own
    return Totals.unscaled(row, time=time, passes=passes, drafts=drafts, drafts_in_output=in_output)


def pipespec_settled_ns(timing: Timing, draws: Draws) -> Ints:
    """When every token settles in PipeSpec; see :class:`Form`."""
    settled = np.zeros(draws.ranks.shape, np.int64)
    for one in _walk([timing], draws.lengths):
        columns = (column.tolist() for column in one[:4])
        for run, start, stop, over_ns in zip(*columns, strict=True):
            settled[run, start:stop] = over_ns
    return settled


def _takes(case: Case) -> bool:
    return case.acceptance.plain and not case.has_first and not case.more_drafters


PIPESPEC = Form(pipespec, pipespec_settled_ns, _takes)
