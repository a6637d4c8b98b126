"""Orchestrations that go by rounds: SI with blocks, trees, PEARL and SSD as steps of a few kinds.

What a round does depends on the draws behind its first token and on the shape of the drafting, not
on the latencies. So all runs are walked through once for each shape, round by round, and every
latency is a sum of the counts of each kind of round.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dsim.engines.vector.timing import Totals
from dsim.events.tree import Node
from dsim.orchestrations.tree import Growth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dsim.engines.vector.branches import Branches, Draws
    from dsim.engines.vector.timing import Ints, Timing
    from dsim.model.acceptance import Acceptance
    from dsim.model.case import Case, TreeShape


MAX_RANK = 15  # ranks from there on are of no candidate


class Steps(NamedTuple):
    """The rounds of all runs: int64 arrays with an element for each round, in order of time.

    Attributes:
        run: number of the run.
        start, stop: positions of its first token, and behind the last that it settles.
        kind: kind of the round.
    """

    run: Ints
    start: Ints
    stop: Ints
    kind: Ints


class Kind(NamedTuple):
    """What a round of one kind takes.

    Attributes:
        settled_ns: from its beginning until its tokens settle.
        ended_ns: from its beginning until the next round begins.
        drafts: forwards of the drafter.
        own: how many of the tokens that settle were no drafts.
    """

    settled_ns: int
    ended_ns: int
    drafts: int
    own: int = 1


def _walked(runs: int, tokens: int, step: Callable[[Ints, Ints], tuple[Ints, Ints]]) -> Steps:
    """Walk through all runs.

    Args:
        runs: number of runs.
        tokens: tokens of each.
        step: from numbers of runs and the positions at which they stand, the positions behind the
            round and its kind.
    """
    run, start = np.arange(runs), np.zeros(runs, np.int64)
    pieces: list[tuple[Ints, Ints, Ints, Ints]] = []
    while len(run):
        stop, kind = step(run, start)
        pieces.append((run, start, stop, kind))
        goes_on = stop < tokens
        run, start = run[goes_on], stop[goes_on]
    return Steps(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))


def si_steps(timing: Timing, draws: Draws) -> Steps:
    """Rounds of SI; the kind is the number of forwards of the drafter."""
    lengths, tokens = draws.lengths, draws.ranks.shape[1]

    def step(run: Ints, start: Ints) -> tuple[Ints, Ints]:
        made = np.minimum(timing.lookahead, tokens - 1 - start)
        accepted = np.minimum(lengths[run, start], made)
        return start + accepted + 1, -(-made // timing.block_tokens)

    return _walked(len(lengths), tokens, step)


def si_kinds(timing: Timing) -> list[Kind]:
    """See :func:`si_steps`."""
    most = -(-timing.lookahead // timing.block_tokens)
    return _one_after_the_other(timing, most)


def _one_after_the_other(timing: Timing, most: int) -> list[Kind]:
    times = [f * timing.drafter_ns + timing.target_ns for f in range(most + 1)]
    return [Kind(time, time, forwards) for forwards, time in enumerate(times)]


def pearl_steps(timing: Timing, draws: Draws) -> Steps:
    """Steps of PEARL; the kind is twice the fresh forwards, and 1 if the first of them stands."""
    lengths, ranks, tokens = draws.lengths, draws.ranks, draws.ranks.shape[1]
    pending = np.zeros(len(ranks), np.int64)

    def step(run: Ints, start: Ints) -> tuple[Ints, Ints]:
        end = start + pending[run]
        fresh = np.minimum(timing.lookahead, tokens - 1 - end)
        accepted = np.minimum(lengths[run, start], pending[run])
        stands = (accepted == pending[run]) & (fresh > 0) & (ranks[run, end] == 1)
        pending[run] = np.where(stands, fresh - 1, 0)
        return start + accepted + 1, -(-fresh // timing.block_tokens) * 2 + stands

    return _walked(len(ranks), tokens, step)


def pearl_kinds(timing: Timing) -> list[Kind]:
    """See :func:`pearl_steps`."""
    most = -(-timing.lookahead // timing.block_tokens)
    times = [max(f * timing.drafter_ns, timing.target_ns) for f in range(most + 1)]
    return [Kind(time, time, f, own) for f, time in enumerate(times) for own in (1, 0)]


def ssd_steps(timing: Timing, draws: Draws) -> Steps:
    """Rounds of SSD, from the start of a pass to that of the next.

    The kind is the number of fresh forwards behind a miss, then those of the last pass and a hit.
    """
    lengths, ranks, tokens = draws.lengths, draws.ranks, draws.ranks.shape[1]
    fanout = np.array(timing.fanout)
    k, most = timing.lookahead, -(-timing.lookahead // timing.block_tokens)

    def step(run: Ints, start: Ints) -> tuple[Ints, Ints]:
        made = np.minimum(k, tokens - 1 - start)
        accepted = np.minimum(lengths[run, start], made)
        rank = ranks[run, start + accepted]
        tried = (accepted < made).astype(np.int64)
        guesses = fanout[np.minimum(accepted, len(fanout) - 1)]
        hit = (rank > tried) & (rank <= tried + guesses)
        left = np.minimum(k, tokens - 2 - start - accepted)
        kind = np.where(hit & (left > 0), most + 2, -(-np.maximum(left, 0) // timing.block_tokens))
        return start + accepted + 1, np.where(start == tokens - 1, most + 1, kind)

    return _walked(len(ranks), tokens, step)


def ssd_kinds(timing: Timing) -> list[Kind]:
    """See :func:`ssd_steps`."""
    t1, t2 = timing.drafter_ns, timing.target_ns
    most = -(-timing.lookahead // timing.block_tokens)
    guessing = most + 1  # forwards
    begun = min(guessing, t2 // t1 + 1)  # of them until the verdict
    kinds = [Kind(t2, t2 + fresh * t1, begun + fresh) for fresh in range(most + 1)]
    return [*kinds, Kind(t2, t2, 0), Kind(t2, max(t2, guessing * t1), guessing)]


def ssd_opening(timing: Timing, tokens: int) -> int:
    """The forwards before the first pass."""
    return -(-min(timing.lookahead, tokens - 1) // timing.block_tokens)


@dataclasses.dataclass(frozen=True)
class _Mean:
    """A drafter whose confidence in a candidate is the mean for its rank."""

    acceptance: Acceptance

    def guesses_behind(self, _: Node, _depth: int, count: int) -> list[int]:
        """Candidates that tell nothing."""
        return list(range(1, count + 1))

    def chances_behind(self, _: Node, _depth: int, count: int) -> list[float]:
        """See :meth:`dsim.model.script.Script.chances`."""
        return self.acceptance.chances(self.acceptance.rate, count)


def _tree(shape: TreeShape, acceptance: Acceptance, levels: int) -> Ints:
    """The nodes of a tree of so many levels: int64 (nodes, rank), the child's number or -1."""
    root = Node(None, None, position=-1)
    growth, feed = Growth(shape, root), [root]
    for depth in range(1, levels + 1):
        feed = growth.level(_Mean(acceptance), feed, depth)  # type: ignore[arg-type]
    nodes = [root, *growth.kept()]
    number = {node: i for i, node in enumerate(nodes)}
    table = np.full((len(nodes), MAX_RANK + 1), -1, np.int64)
    for node in nodes:
        for child in node.children:
            if child.rank < MAX_RANK:  # the last column is for all ranks from there on
                table[number[node], child.rank] = number[child]
    return table


def tree_steps(timing: Timing, draws: Draws) -> Steps:
    """Rounds of trees; the kind is the number of levels."""
    ranks, tokens, shape = draws.ranks, draws.ranks.shape[1], timing.tree
    deepest = shape.levels
    trees = [
        [_tree(shape, one, levels) for levels in range(deepest + 1)] for one in draws.acceptance
    ]
    size = max(len(table) for row in trees for table in row)
    tables = np.full((len(trees), deepest + 1, size, MAX_RANK + 1), -1, np.int64)
    for group, levels in itertools.product(range(len(trees)), range(deepest + 1)):
        tables[group, levels, : len(trees[group][levels])] = trees[group][levels]

    def step(run: Ints, start: Ints) -> tuple[Ints, Ints]:
        levels = np.minimum(deepest, tokens - 1 - start)
        group = run % len(trees)
        node, accepted = np.zeros_like(start), np.zeros_like(start)
        for depth in range(int(levels.max(initial=0))):
            at = np.minimum(start + depth, tokens - 1)
            rank = np.minimum(ranks[run, at], MAX_RANK)
            node = np.where(node < 0, -1, tables[group, levels, node, rank])
            accepted += node >= 0
        return start + accepted + 1, levels

    return _walked(len(ranks), tokens, step)


def tree_kinds(timing: Timing) -> list[Kind]:
    """See :func:`tree_steps`."""
    deepest = timing.tree.levels
    kinds = _one_after_the_other(timing, -(-deepest // timing.block_tokens))
    return [kinds[-(-levels // timing.block_tokens)] for levels in range(deepest + 1)]


def _nothing(_: Timing, _tokens: int) -> int:
    return 0


@dataclasses.dataclass(frozen=True)
class RoundsForm:
    """The vector form of an orchestration that goes by rounds; see :class:`Form`.

    Attributes:
        steps: the rounds of runs, which depend on the *shape* of a timing alone.
        kinds: what each kind of round takes.
        shape: what of a timing the rounds depend on.
        opening: forwards of the drafter before the first round.
        by_confidence: whether it goes by the confidence of single drafts, if there is any.
    """

    steps: Callable[[Timing, Draws], Steps]
    kinds: Callable[[Timing], list[Kind]]
    shape: Callable[[Timing], Any]
    opening: Callable[[Timing, int], int] = _nothing
    by_confidence: bool = False

    def takes(self, case: Case) -> bool:
        """Whether the form takes *case*."""
        unsure = self.by_confidence and case.policy.quality and not case.tree.paths
        branches = max([case.tree.branches, *(max(path) for path in case.tree.paths)])
        return case.acceptance.plain and not case.has_first and not unsure and branches < MAX_RANK

    def totals(self, timings: Sequence[Timing], branches: Branches) -> Totals:
        """Totals of many timings; each has a row of its own."""
        draws, runs, tokens = branches.ranked, branches.runs, branches.tokens
        walked: dict[Any, tuple[Any, Ints, Ints]] = {}
        rows: dict[str, list[Ints]] = {name: [] for name in ("time", "passes", "drafts", "own")}
        for timing in timings:
            key = self.shape(timing)
            if key not in walked:
                steps = self.steps(timing, draws)
                passes = np.bincount(steps.run, minlength=runs)
                last = np.zeros(runs, np.int64)
                last[steps.run] = steps.kind  # the last one stays
                size = len(self.kinds(timing))
                cells = np.bincount(steps.kind * runs + steps.run, minlength=size * runs)
                walked[key] = cells.reshape(size, runs), passes, last
            counts, passes, last = walked[key]
            kinds = np.array(self.kinds(timing), np.int64)
            opening = self.opening(timing, tokens)
            time = kinds[:, 1] @ counts + opening * timing.drafter_ns
            rows["time"].append(time + kinds[last, 0] - kinds[last, 1])
            rows["passes"].append(passes)
            rows["drafts"].append((kinds[:, 2] @ counts + opening) * timing.block_tokens)
            rows["own"].append(kinds[:, 3] @ counts)
        found = {name: np.stack(values).astype(np.int64) for name, values in rows.items()}
        return Totals.unscaled(
            np.arange(len(timings)),
            time=found["time"],
            passes=found["passes"],
            drafts=found["drafts"],
            drafts_in_output=tokens - found["own"],
        )

    def settled_ns(self, timing: Timing, draws: Draws) -> Ints:
        """When every token settles; see :class:`Form`."""
        steps, kinds = self.steps(timing, draws), self.kinds(timing)
        runs, tokens = draws.ranks.shape
        settled = np.zeros((runs, tokens), np.int64)
        now = np.full(runs, self.opening(timing, tokens) * timing.drafter_ns)
        for run, start, stop, kind in self._each(steps):
            settled[run, start:stop] = now[run] + kinds[kind].settled_ns
            now[run] += kinds[kind].ended_ns
        return settled

    @staticmethod
    def _each(steps: Steps) -> Iterator[tuple[int, int, int, int]]:
        return zip(*(column.tolist() for column in steps), strict=True)


def _blocks(timing: Timing) -> tuple[Any, ...]:
    return timing.lookahead, timing.block_tokens


SI_BLOCKS = RoundsForm(si_steps, si_kinds, _blocks)
PEARL = RoundsForm(pearl_steps, pearl_kinds, _blocks)
SSD = RoundsForm(ssd_steps, ssd_kinds, lambda t: (*_blocks(t), t.fanout), ssd_opening)
TREE = RoundsForm(tree_steps, tree_kinds, lambda t: (t.tree, t.block_tokens), by_confidence=True)
