"""What a request on a replica drafts in a step, where that is not simply one token a forward."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

from dsim.backends.simulated import Simulated
from dsim.events.environment import Environment
from dsim.events.tree import Node
from dsim.model.acceptance import run_lengths
from dsim.orchestrations.tree import Growth

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dsim.model.script import Script


class Speculation(Protocol):
    """The drafts of one request.

    Attributes:
        rereads: whether the first forward of the drafter feeds every token that settled in the last
            step, whatever the drafter made of them.
    """

    rereads: bool

    def draft(self, settled: int, most: int) -> tuple[int, list[int]]:
        """Draft behind *settled* tokens of the answer, for *most* positions at most.

        Returns:
            How many tokens are to be verified, and how many each forward of the drafter feeds (of
            the first: 0; that is told by what is new to the drafter).
        """

    def stand(self, drafts: int) -> int:
        """How many of the first *drafts* of what was drafted last stand."""


class Chain:
    """Drafts behind one another, of which a forward makes a block, or none."""

    rereads = False

    def __init__(self, script: Script) -> None:
        self._block = script.block_of(0)
        self._guesses: list[int] = []  # 0 for the target's own token

    def draft(self, settled: int, most: int) -> tuple[int, list[int]]:
        """See :class:`Speculation`."""
        guesses: list[int] = []
        feeds, made = [], 0
        while len(guesses) < most:
            feeds.append(made)
            first = settled + len(guesses)
            block = self._block(first, settled) if self._block is not None else []
            block = block[: most - len(guesses)]
            if not block:
                break
            guesses += block
            made = len(block)
        self._guesses = guesses
        return len(guesses), feeds

    def stand(self, drafts: int) -> int:
        """See :class:`Speculation`."""
        return sum(1 for _ in itertools.takewhile(lambda g: not g, self._guesses[:drafts]))


class Looked:
    """One draft a forward, behind one another, as long as there are any; the same at every depth.

    Args:
        ranks: rank of the draft for each position: 1 if it stands, below 0 if there is none.
    """

    rereads = False

    def __init__(self, ranks: NDArray[np.int8]) -> None:
        self._there = run_lengths(ranks >= 0)
        self._stand = run_lengths(ranks == 1)

    def draft(self, settled: int, most: int) -> tuple[int, list[int]]:
        """See :class:`Speculation`."""
        self._settled, there = settled, self._there[settled]
        if there >= most:
            return most, [0, *[1] * (most - 1)] if most else []
        return there, [0, *[1] * there]  # the last forward finds nothing

    def stand(self, drafts: int) -> int:
        """See :class:`Speculation`."""
        return min(drafts, self._stand[self._settled])


class Tree:
    """A tree, drafted level by level."""

    rereads = True

    def __init__(self, script: Script) -> None:
        self._guesser = Simulated(Environment(), 1, script=script)
        self._shape = script.decoding.tree
        self._block = script.decoding.block_tokens
        self._deepest = max(map(len, self._shape.paths), default=self._shape.depth)

    def draft(self, settled: int, most: int) -> tuple[int, list[int]]:
        """See :class:`Speculation`."""
        self._root = root = Node(None, None, position=settled - 1)
        growth, feed, feeds = Growth(self._shape, root), [root], []
        for depth in range(1, min(self._deepest, most) + 1):
            if (depth - 1) % self._block == 0:
                feeds.append(len(feed) if depth > 1 else 0)
            feed = growth.level(self._guesser, feed, depth)
            if not feed:
                break
        self._kept = growth.kept()
        return len(self._kept), feeds

    def stand(self, drafts: int) -> int:
        """See :class:`Speculation`."""
        verified, node, count = {*self._kept[:drafts]}, self._root, 0
        while True:
            right = (child for child in node.children if child in verified and not child.token)
            found = next(right, None)
            if found is None:
                return count
            node, count = found, count + 1


Shapes = dict[int, tuple[dict[tuple[int, ...], int], list[int]]]


class StaticTree(Tree):
    """A tree that is the same in every step, but for its depth at the end of an answer.

    Args:
        shapes: by the number of levels: the places of its nodes in the order of verification, by
            their ranks, and what each forward of the drafter feeds. All requests share it.
        script: the text.
    """

    def __init__(self, shapes: Shapes, script: Script) -> None:
        super().__init__(script)
        self._shapes = shapes
        self._rank = script.rank
        self._tokens = script.ranks.shape[1]

    def draft(self, settled: int, most: int) -> tuple[int, list[int]]:
        """See :class:`Speculation`."""
        levels = min(self._deepest, most)
        if levels not in self._shapes:
            _, feeds = super().draft(settled, most)
            self._shapes[levels] = {n.path: place for place, n in enumerate(self._kept)}, feeds
        self._settled, (self._places, feeds) = settled, self._shapes[levels]
        return len(self._places), feeds

    def stand(self, drafts: int) -> int:
        """See :class:`Speculation`."""
        path: tuple[int, ...] = ()
        while True:
            depth = len(path)
            wanted = self._settled + depth
            rank = self._rank(wanted, depth + 1) if wanted < self._tokens else 0
            path = (*path, rank)
            if self._places.get(path, drafts) >= drafts:
                return depth
