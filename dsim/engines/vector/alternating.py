"""non-SI and SI: nothing overlaps, so times are sums."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.vector.branches import branch_starts, chain_branches
from dsim.engines.vector.rounds import SI_BLOCKS
from dsim.engines.vector.schedules import FAR
from dsim.engines.vector.timing import Form, Totals, first_latencies, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.engines.vector.branches import Branches, Draws
    from dsim.engines.vector.timing import Ints, Timing


def _si_round(k: int, offset: Ints, left: Ints) -> tuple[Ints, Ints]:
    """SI in a branch: the rounds and the drafts that it takes to settle position *offset* of it."""
    full = offset // (k + 1)
    return full + 1, full * k + np.minimum(k, left - full * (k + 1))


def si(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of SI for every timing, over the runs whose branches are given."""
    if any(timing.block_tokens > 1 for timing in timings):
        return SI_BLOCKS.totals(timings, branches)
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
    draft_ns, pass_ns, _ = first_latencies(timing, opening=True)
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
        offset=np.array(
            [first_latencies(t, opening=True)[1] - t.target_ns for t in timings], np.int64
        ),
    )


def nonsi_settled_ns(timing: Timing, draws: Draws) -> Ints:
    """When every token settles in non-SI; see :class:`Form`."""
    shape = draws.ranks.shape
    _, first_pass_ns, _ = first_latencies(timing, opening=True)
    times = first_pass_ns + timing.target_ns * np.arange(shape[1], dtype=np.int64)
    return np.broadcast_to(times, shape).copy()


def si_settled_ns(timing: Timing, draws: Draws) -> Ints:
    """When every token settles in SI; see :class:`Form`."""
    if timing.block_tokens > 1:
        return SI_BLOCKS.settled_ns(timing, draws)
    tokens = draws.ranks.shape[1]
    start = branch_starts(~draws.accepted)
    offset = np.arange(tokens) - start
    rounds, drafts = _si_round(timing.lookahead, offset, tokens - 1 - start)
    time_ns = drafts * timing.drafter_ns + rounds * timing.target_ns
    return chain_branches(start, time_ns) + _si_offset(timing, tokens)


NONSI = Form(nonsi, nonsi_settled_ns, lambda _: True)
SI = Form(si, si_settled_ns, lambda case: plain(case) or SI_BLOCKS.takes(case))
