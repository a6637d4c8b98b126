"""DSI: drafting and passes overlap; sums over tables of schedules."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.vector.branches import Branches, Draws, branch_starts, chain_branches
from dsim.engines.vector.rounds import Kind, RoundsForm, Steps, si_steps
from dsim.engines.vector.schedules import Parts, schedules
from dsim.engines.vector.timing import Form, Timing, Totals
from dsim.model.case import TreeShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.engines.vector.timing import Ints
    from dsim.model.case import Case

SCHEDULES_AT_ONCE = 512
CELLS_AT_ONCE = 2**22


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


def _behind_steps(timing: Timing, draws: Draws) -> Steps:
    """Branches of DSI with patience and a drafter slower than the target: rounds of SI.

    The drafter is at its next step when the verdict comes, unless all is drafted. The kind is twice
    the forwards before the pass, and 1 if there is one beside it.
    """
    block, last = timing.block_tokens, draws.ranks.shape[1] - 1
    made = -(-timing.patience // block) * block
    steps = si_steps(dataclasses.replace(timing, lookahead=made), draws)
    return steps._replace(kind=steps.kind * 2 + (steps.start + made < last))


def _behind_kinds(timing: Timing) -> list[Kind]:
    """See :func:`_behind_steps`."""
    forwards = range(-(-timing.patience // timing.block_tokens) + 1)
    times = [f * timing.drafter_ns + timing.target_ns for f in forwards]
    return [Kind(times[f], times[f], f + beside) for f in forwards for beside in (0, 1)]


BEHIND = RoundsForm(_behind_steps, _behind_kinds, lambda t: (t.patience, t.block_tokens))


def _behind(timing: Timing, branches: Branches) -> tuple[Parts, Ints]:
    """Runs with a drafter slower than the target: Parts, and drafts accepted, (runs,)."""
    if timing.patience:
        found = BEHIND.totals([timing], branches)
        (time,), (passes,), (drafts,) = found.time, found.target_passes, found.drafts
        part = Parts(time, passes, passes, drafts, np.ones_like(passes))
        return part, drafts - found.wasted_drafts[0]
    # Each token is settled before its draft is made.
    every = np.full_like(branches.count, branches.tokens)
    drafts = (every - 1) * timing.block_tokens
    part = Parts(every * timing.target_ns, every, every, drafts, np.ones_like(every))
    return part, np.zeros_like(every)


def dsi(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of DSI for every timing, over the runs whose branches are given."""
    t1, t2, k, servers = (
        np.array([getattr(t, name) for t in timings], dtype=np.int64)
        for name in ("drafter_ns", "target_ns", "lookahead", "targets")
    )
    alone = np.array([t.has_first or not t.simple for t in timings])
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
    plain = np.flatnonzero(~alone)
    if len(plain):
        unique, row[plain] = np.unique(canonical[plain], axis=0, return_inverse=True)
        rows = [
            Timing(drafter_ns=a, target_ns=b, lookahead=c, targets=d)
            for a, b, c, d in unique.tolist()
        ]
    number: dict[Timing, int] = {}
    for c in np.flatnonzero(alone).tolist():
        own = dataclasses.replace(timings[c], tree=TreeShape(), fanout=(1,))
        row[c], scale[c], shift[c] = number.setdefault(own, len(rows) + len(number)), 1, 0
    rows += number

    tokens, count = branches.tokens, branches.count
    keeps_up = [t for t in rows if not t.has_first and t.drafter_ns <= t.target_ns]
    regular = dict(zip(keeps_up, _regular(keeps_up, branches), strict=True))
    opened = [t for t in rows if t.has_first]
    first = dict(zip(opened, _opened(opened, branches) if opened else (), strict=True))
    parts, wasted_drafts = [], []
    for timing in rows:
        if timing.has_first:
            part, accepted = first[timing]
        elif timing.drafter_ns > timing.target_ns:
            part, accepted = _behind(timing, branches)
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


def dsi_settled_ns(timing: Timing, ranked: Draws) -> Ints:
    """When every token settles in DSI; see :class:`Form`."""
    draws = ranked.accepted
    runs, tokens = draws.shape
    t1, t2 = timing.drafter_ns, timing.target_ns
    rejected = ~draws
    if t1 > t2:
        if timing.patience:
            return BEHIND.settled_ns(timing, ranked)
        rejected[:, :] = True
    if timing.has_first:
        (schedule,) = schedules([timing], tokens - 1, tokens, opening=True)
        last = np.minimum(Branches.of(draws).opening, schedule.most_accepted)
        rejected[np.arange(tokens) < last[:, None]] = False
        rejected[np.arange(runs), last] = True
    start = branch_starts(rejected)
    offset, left = np.arange(tokens) - start, tokens - 1 - start
    time_ns = np.full(draws.shape, t2, np.int64)
    if t1 <= t2:
        (schedule,) = schedules([timing], tokens - 1, tokens)
        time_ns = schedule.near(offset.ravel(), left.ravel()).time_ns.reshape(draws.shape)
    if timing.has_first:
        (schedule,) = schedules([timing], tokens - 1, tokens, opening=True)
        opening = schedule.near(offset.ravel(), left.ravel()).time_ns.reshape(draws.shape)
        time_ns = np.where(start == 0, opening, time_ns)
    return chain_branches(start, time_ns)


def _takes(case: Case) -> bool:
    simple = case.block_tokens == 1 and not case.patience
    return case.acceptance.plain and (simple or not case.has_first)


DSI = Form(dsi, dsi_settled_ns, _takes)
