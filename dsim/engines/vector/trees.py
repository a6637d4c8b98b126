"""DSI over trees, run by run.

Runs without a limit of nodes are in :mod:`~dsim.engines.vector.moving`, those with one in
:mod:`~dsim.engines.vector.capped`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.vector.capped import CappedRun, Trees
from dsim.engines.vector.moving import Run
from dsim.engines.vector.overlapping import dsi
from dsim.engines.vector.timing import Form, Totals

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dsim.engines.vector.branches import Branches, Draws
    from dsim.engines.vector.timing import Ints, Timing
    from dsim.model.case import Case, TreeShape


class _Runs:
    """The runs of some draws by any timing; those of one drafter share what was found of trees."""

    def __init__(self, draws: Draws) -> None:
        self.texts = draws.ranks.tolist()
        self.acceptance = draws.acceptance
        self.trees: dict[TreeShape, list[Trees]] = {}

    def by(self, timing: Timing) -> Iterator[Run]:
        """The runs by *timing*."""
        shape = timing.tree
        if not is_limited(shape, len(self.texts[0])):
            return (Run(timing, text) for text in self.texts)
        if shape not in self.trees:
            self.trees[shape] = [Trees(shape, one) for one in self.acceptance]
        trees = self.trees[shape]
        return (
            CappedRun(timing, text, trees[number % len(trees)])
            for number, text in enumerate(self.texts)
        )


def is_limited(shape: TreeShape, tokens: int) -> bool:
    """Whether the limit of nodes matters: a tree with one deviation can have that many."""
    return shape.nodes is not None and shape.nodes < shape.branches * tokens**2


def _lookahead(timing: Timing) -> int:
    """``k``, or a smaller one by which all is the same.

    Without patience a pass begins whenever none is in flight. And the main chain can grow by so
    many nodes at most while a pass is in flight: one a draft, and one that comes back.
    """
    if timing.patience:
        return timing.lookahead
    most = -(-timing.target_ns // timing.drafter_ns) + 2 if timing.targets > 1 else 1
    return min(timing.lookahead, most)


def _is_chain(timing: Timing, branches: Branches) -> bool:
    """Whether the tree is as good as its main chain, and so all is as in DSI.

    Where no second choice is ever right, deviations cost nothing: a forward reads all of a level.
    """
    never = int(branches.ranked.ranks.max(initial=0)) <= 1
    return never and not is_limited(timing.tree, branches.tokens)


def treedsi(timings: Sequence[Timing], branches: Branches) -> Totals:
    """Totals of DSI over trees for every timing, over the runs whose branches are given."""
    if all(_is_chain(t, branches) for t in timings):
        return dsi(timings, branches)
    every = _Runs(branches.ranked)
    number: dict[tuple[object, ...], int] = {}
    row, found = [], []
    for t in timings:
        nodes = t.tree.nodes if is_limited(t.tree, branches.tokens) else None
        shape = t.tree.branches, t.tree.deviations, nodes, t.patience
        key = (t.drafter_ns, t.target_ns, _lookahead(t), t.targets, *shape)
        if key not in number:
            number[key] = len(number)
            found.append(
                [
                    (r.settled_ns[-1], r.passes, r.wasted, r.drafts, r.own, r.peak)
                    for r in every.by(t)
                ]
            )
        row.append(number[key])
    time, passes, wasted, drafts, own, peak = np.moveaxis(np.array(found, np.int64), 2, 0)
    return Totals.unscaled(
        np.array(row, np.int64),
        time=time,
        passes=passes,
        drafts=drafts,
        drafts_in_output=branches.tokens - own,
        wasted_passes=wasted,
        peak_targets=peak,
    )


def treedsi_settled_ns(timing: Timing, draws: Draws) -> Ints:
    """When every token settles in DSI over trees; see :class:`Form`."""
    return np.array([run.settled_ns for run in _Runs(draws).by(timing)], np.int64)


def _takes(case: Case) -> bool:
    simple = case.acceptance.plain and case.block_tokens == 1 and case.tree.deviations <= 1
    unsure = case.policy.quality and is_limited(case.tree, case.tokens)
    return simple and not case.has_first and not unsure


TREEDSI = Form(treedsi, treedsi_settled_ns, _takes)
