"""The tree of drafts of DSI over trees: what grows below a root that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.events.tree import Node
from dsim.orchestrations.tree import by_chance

if TYPE_CHECKING:
    from dsim.events.forward import Forward, TreeBackend
    from dsim.model.case import TreeShape


class GrowingTree:
    """A tree below a root that moves down, and the drafter's reading of it.

    Args:
        shape: which candidates are nodes.
        guesser: what answers the drafter's forwards.
        last: position of the last token of the text, for which no draft is needed.
        levels: how many levels one forward of the drafter makes.

    Attributes:
        root: the last settled token.
        nodes: the root and all nodes below it.
        unread: those that no draft has read, or is at, and behind which there is room.
        chain: the main chain: from the root along first choices.
        begun: how many passes have been begun; the caller counts them.
        covering: number of the branch's last pass; 0: it has none.
        sent: how many nodes of the main chain that pass covers.
    """

    def __init__(self, shape: TreeShape, guesser: TreeBackend, last: int, levels: int) -> None:
        self.shape = shape
        self.guesser = guesser
        self.last = last
        self.levels = levels
        self.begun = self.surveys = 0

    def plant(self, settled: int) -> None:
        """A new branch: its root is the last of *settled* tokens, and no pass covers it."""
        self.covering = 0
        self.root = Node(None, None, position=settled - 1, since=self.begun)
        self.survey()

    def covered(self) -> None:
        """A pass over all nodes begins."""
        self.begun += 1
        self.covering, self.sent = self.begun, len(self.chain)

    def descend(self, child: Node) -> None:
        """Make *child* of the root the root; :meth:`survey` is to follow."""
        self.root = child
        self._open(child)
        self._first_choice(child)

    def survey(self) -> None:
        """Find what is on the tree below the root, and what of it no draft has read."""
        self.surveys += 1
        self.nodes, self.unread = [self.root], []
        for node in self.nodes:  # which grows
            node.survey = self.surveys
            self._open(node)
            self.nodes += node.children
            if not node.asked and node.position < self.last - 1:
                self.unread.append(node)
        self.chain = [self.root]
        self._lengthen()
        self._prune()
        self.sent = sum(node.since < self.covering for node in self.chain)

    def read(self, draft: Forward, level: list[Node]) -> None:
        """Note what the ended *draft* guesses behind each node of *level*, which it has read."""
        guesses, count = self.guesser.guesses_behind, self.shape.branches
        for _ in range(self.levels):
            below: list[Node] = []
            for node in level:
                node.asked = True
                node.guesses = guesses(node, node.position + 2 - draft.first, count)
                if node.survey == self.surveys:  # otherwise the root has left it
                    self._open(node)
                    below += node.children
            for node in below:
                node.survey = self.surveys
            self.nodes += below
            level = [node for node in below if node.position < self.last - 1]
        self.unread += level
        self._lengthen()
        self._prune()

    def _open(self, node: Node) -> None:
        """Make nodes of the candidates of *node* that are allowed by now."""
        if node.guesses is None or node.position >= self.last - 1:
            return
        deviates = node.deviations - self.root.deviations < self.shape.deviations
        count = min(self.shape.branches if deviates else 1, len(node.guesses))
        if node.opened >= count:
            return
        chances = [1.0] * count
        if self.shape.nodes is not None:
            depth = node.position + 1 - self.root.position
            chances = [*self.guesser.chances_behind(node, depth, count)]
        for rank in range(node.opened + 1, count + 1):
            token = node.guesses[rank - 1]
            node.children.append(Node(node, token, rank, chances[rank - 1], since=self.begun))
        node.opened = count

    def _first_choice(self, node: Node) -> Node | None:
        """What is behind *node* on the main chain; if it was taken off before, it is back."""
        if node.children and node.children[0].rank == 1:
            return node.children[0]
        if not node.guesses or node.position >= self.last - 1:
            return None
        chance = 1.0
        if self.shape.nodes is not None:
            depth = node.position + 1 - self.root.position
            (chance,) = self.guesser.chances_behind(node, depth, 1)
        child = Node(node, node.guesses[0], 1, chance, since=self.begun)
        node.children.insert(0, child)
        return child

    def _lengthen(self) -> None:
        node = self._first_choice(self.chain[-1])
        while node is not None:
            if node.survey != self.surveys:
                node.survey = self.surveys
                self.nodes.append(node)
                if node.position < self.last - 1:
                    self.unread.append(node)
            self.chain.append(node)
            node = self._first_choice(node)

    def _prune(self) -> None:
        """Of a tree that is too large the surest nodes stay, the main chain always."""
        most = self.shape.nodes
        if most is None or len(self.nodes) <= most + 1:
            return
        main = {*self.chain}
        others = sorted(
            (node for node in self.nodes if node not in main),
            key=lambda node: by_chance(node, self.root),
        )
        stay = {*self.chain, *others[: max(0, most + 1 - len(main))]}
        for node in self.nodes:
            if node in stay:
                node.children = [child for child in node.children if child in stay]
            else:
                node.survey = 0
        self.nodes = [node for node in self.nodes if node in stay]
        self.unread = [node for node in self.unread if node in stay]
