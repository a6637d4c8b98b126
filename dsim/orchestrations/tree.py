"""Trees: SpecInfer (arXiv 2305.09781), Medusa (2401.10774), EAGLE 1 to 3 (2401.15077, 2503.01840).

One server for both models; nothing overlaps. Draft a tree level by level, verify all of it in one
pass, settle the path on which the target's tokens are found. The rules are in ``docs/field.md``.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, cast

from dsim.events.tree import NEVER, Node
from dsim.orchestrations.declaration import TREE, Orchestration, Traits, Work, least_work
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from dsim.events.forward import Forward, TreeBackend
    from dsim.events.output import Output
    from dsim.events.ports import PoolPort, ServerPort, Setup
    from dsim.model.case import Case, TreeShape
    from dsim.model.script import Script

ROUNDING = 2**10  # units of doubt


def tree_backend(servers: ServerPort | PoolPort) -> TreeBackend:
    """What answers the forwards of *servers*, which can be asked about trees."""
    return cast("TreeBackend", servers.backend)


def rounded(doubt: int) -> int:
    """*doubt* without what logarithms may be off by; where there is no chance, all is alike."""
    return min(doubt, NEVER) + ROUNDING // 2 >> ROUNDING.bit_length() - 1


def by_chance(node: Node, root: Node | None = None) -> tuple[int, int, tuple[int, ...]]:
    """A key that sorts the surest nodes first: of equals the less deep, then the lower ranks.

    Args:
        node: the node.
        root: the node from which on chances count; ``None``: the first root.
    """
    return rounded(node.doubt - (root.doubt if root else 0)), node.position, node.path


class Growth:
    """The tree of one round.

    Args:
        shape: which nodes it has.
        root: the last settled token.
    """

    def __init__(self, shape: TreeShape, root: Node) -> None:
        self.shape = shape
        self.root = root
        self.nodes: list[Node] = []

    def level(self, backend: TreeBackend, feed: list[Node], depth: int) -> list[Node]:
        """Give the nodes *feed* their children; return those that are expanded next."""
        count, known, new = self.shape.branches, self.shape.known, []
        for node in feed:
            tokens = backend.guesses_behind(node, depth, count)
            chances = [1.0] * count if known else backend.chances_behind(node, depth, count)
            found = zip(tokens, itertools.count(1), chances, strict=False)
            children = [Node(node, token, rank, chance) for token, rank, chance in found]
            if known:
                children = [child for child in children if child.path in known]
            node.children = children
            new += children
        self.nodes += new
        if not known:
            return sorted(new, key=by_chance)[:count]
        return [node for node in new if node.path in self.shape.expanded]

    def kept(self) -> list[Node]:
        """The nodes to verify; the others are taken off the tree."""
        most = self.shape.nodes
        if self.shape.paths or most is None or len(self.nodes) <= most:
            return self.nodes
        kept = sorted(self.nodes, key=by_chance)[:most]
        stay = {*kept}
        for node in (self.root, *kept):
            node.children = [child for child in node.children if child in stay]
        return kept


def tree(
    drafter: ServerPort, target: ServerPort, output: Output, shape: TreeShape, block_tokens: int
) -> Generator[Forward]:
    """Draft a tree, verify it in one pass, and again; nothing overlaps."""
    guesser, judge = tree_backend(drafter), tree_backend(target)
    while not output.finished:
        settled = output.settled
        root = Node(None, None, position=settled - 1)
        growth, feed = Growth(shape, root), [root]
        for depth in range(1, min(shape.levels, output.wanted - 1 - settled) + 1):
            if (depth - 1) % block_tokens == 0:  # a forward makes the next so many levels
                yield drafter.forward(settled, 0, None, feed if depth > 1 else None)
            feed = growth.level(guesser, feed, depth)
            if not feed:
                break
        forward = target.forward(settled, 0, None, [root, *growth.kept()])
        yield forward
        node: Node | None = root
        while node is not None:
            child, token = judge.follow(forward, node)
            if child is not None:
                output.tokens.append(token)
            node = child
        output.settle(len(output.tokens) - settled, token)


def start(setup: Setup) -> None:
    """Schedule a run."""
    decoding = setup.decoding
    setup.env.process(
        tree(setup.drafter(), setup.target(), setup.output, decoding.tree, decoding.block_tokens)
    )


def work(script: Script) -> Work:
    """A lower bound."""
    return least_work(script, script.decoding.tree.branches)


def why(case: Case, others: Collection[str]) -> str:
    """Why it is the fastest."""
    if not case.acceptance.has_second or case.tree.branches == 1:
        deeper = case.tree.levels > case.lookahead and "si" in others
        return (
            f"a pass verifies up to {case.tree.levels} drafts in a row, one of SI "
            f"{case.lookahead}; second choices have no part in it here"
            if deeper
            else ""
        )
    return (
        f"each pass ({to_ms(case.target.latency_ns):g} ms) verifies the drafter's second choices, "
        "too, so that fewer passes settle nothing but the target's own token"
    )


ORCHESTRATION = Orchestration(
    name="tree",
    title="tree",
    colour="#a69f4d",
    meaning="draft a tree level by level, verify it in one pass, and again; nothing overlaps",
    start=start,
    reads=(*TREE, "confidence_quality"),
    traits=Traits(lockstep=True),
    work=work,
    why=why,
    vector="dsim.engines.vector.rounds:TREE",
)
