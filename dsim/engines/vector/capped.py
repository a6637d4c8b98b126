"""DSI over trees with a limit of nodes: the states that a tree goes through, each made once.

With one deviation at most, a tree is its main chain and lines beside it: behind some node of the
chain, or the root, a rank other than 1, and first choices from there on. Where the drafter's
confidence says no more than the mean of a rank, which of them stay does not depend on the draws.
So runs meet the same trees again and again: a tree knows those that come next.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from dsim.engines.vector.moving import Run
from dsim.engines.vector.schedules import FAR
from dsim.events.tree import doubt_of
from dsim.model.lookahead import mean_rate
from dsim.orchestrations.tree import rounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.engines.vector.timing import Timing
    from dsim.model.acceptance import Acceptance
    from dsim.model.case import TreeShape

UNREAD, READING, READ = range(3)  # what the drafter does with the last node of a line


class Line(NamedTuple):
    """A line beside the main chain.

    Attributes:
        above: how many nodes of the chain, the root not counted, are above it.
        rank: rank of its first node; the others have rank 1.
        nodes: how many they are.
        end: ``UNREAD``, ``READING`` or ``READ``, which may be because what follows was taken off.
    """

    above: int
    rank: int
    nodes: int
    end: int


class State(NamedTuple):
    """A tree below its root.

    Attributes:
        room: levels that it may have; one more than the limit of nodes stands for all above.
        chain: nodes of its main chain; of a tree that has come to be nothing else, and to be as
            large as the limit, the limit.
        end: see :class:`Line`; of the chain.
        lines: those beside it.
        busy: whether the drafter is at a forward.
    """

    room: int
    chain: int
    end: int
    lines: tuple[Line, ...] = ()
    busy: bool = True

    def line(self, rank: int) -> Line | None:
        """The line that begins with the root's child of *rank*."""
        return next((one for one in self.lines if one.rank == rank and not one.above), None)


class Tree:
    """A state, and what was found of it.

    Attributes:
        state: the state.
        bare: whether it stays a chain, with no room beside it for more.
        path: what it is after 0, 1, … ended forwards of the drafter, as far as known; the last one
            stays as it is: the drafter has ended, or it is bare.
        moves: what it is when the root has moved, by rank and room.
        rooted: what it is when all that is allowed below the new root is found.
    """

    __slots__ = ("bare", "moves", "path", "rooted", "state")

    def __init__(self, state: State, most: int) -> None:
        self.state = state
        self.bare = not state.lines and state.chain >= most and state.end != UNREAD
        self.path = [self]
        self.moves: dict[tuple[int, int], Tree | None] = {}
        self.rooted: Tree | None = None


class Trees:
    """All trees of one shape by one drafter.

    Args:
        shape: the shape; it has a limit of nodes.
        acceptance: how sure the drafter is of its candidates.
    """

    def __init__(self, shape: TreeShape, acceptance: Acceptance) -> None:
        self.most = shape.nodes or 0
        self.branches = shape.branches if shape.deviations else 1
        chances = acceptance.chances(mean_rate(acceptance), self.branches)
        self.doubts = [0, *map(doubt_of, chances)]
        self.known: dict[State, Tree] = {}
        self.chains: dict[tuple[int, int], Tree] = {}

    def tree(self, state: State) -> Tree:
        """The tree that is in *state*."""
        room = min(state.room, self.most + 1)
        if not state.lines and state.end != UNREAD:
            state = state._replace(room=room, chain=min(state.chain, self.most))
        elif room != state.room:
            state = state._replace(room=room)
        if state not in self.known:
            self.known[state] = Tree(state, self.most)
        return self.known[state]

    def chain(self, room: int, nodes: int) -> Tree:
        """The tree that is nothing but a chain, whose end the drafter reads if there is *room*."""
        key = room, nodes
        if key not in self.chains:
            grows = nodes < room
            state = State(max(room, 0), nodes, READING if grows else READ, busy=grows)
            self.chains[key] = self.tree(state)
        return self.chains[key]

    def after(self, tree: Tree, forwards: int) -> tuple[Tree, int]:
        """*tree* after so many ended *forwards*, or fewer if it does not change any more: which?"""
        path = tree.path
        while len(path) <= forwards and path[-1].state.busy and not path[-1].bare:
            path.append(self._read(path[-1].state))
        forwards = min(forwards, len(path) - 1)
        return path[forwards], forwards

    def _read(self, old: State) -> Tree:
        """A forward of the drafter ends, and the next one begins."""
        chain, lines = old.chain, []
        for line in old.lines:
            grows = line.end == READING
            lines.append(line._replace(nodes=line.nodes + 1, end=UNREAD) if grows else line)
        end = old.end
        if end == READING:
            lines += [Line(chain, rank, 1, UNREAD) for rank in range(2, self.branches + 1)]
            chain, end = chain + 1, UNREAD
        state = State(old.room, chain, end, tuple(self._pruned(chain, lines)))
        return self.tree(self._fed(state))

    def _pruned(self, chain: int, lines: list[Line]) -> list[Line]:
        """What stays of *lines*: the surest nodes."""
        if chain + sum(line.nodes for line in lines) <= self.most:
            return lines
        first = self.doubts[1]
        nodes = [  # in order of chance, depth and path
            (rounded(depth * first + self.doubts[line.rank]), depth, -line.above, line.rank, number)
            for number, line in enumerate(lines)
            for depth in range(line.above, line.above + line.nodes)
        ]
        kept = [0] * len(lines)
        for *_, number in sorted(nodes)[: max(0, self.most - chain)]:
            kept[number] += 1
        both = zip(lines, kept, strict=True)
        return [
            line if count == line.nodes else line._replace(nodes=count, end=READ)
            for line, count in both
            if count
        ]

    @staticmethod
    def _fed(state: State) -> State:
        """A forward over all that is unread begins, if there is anything."""
        room, chain, end, lines, _ = state
        if end == UNREAD:
            end = READING if chain < room else READ
        fed = [
            line._replace(end=READING if line.above + line.nodes < room else READ)
            if line.end == UNREAD
            else line
            for line in lines
        ]
        busy = end == READING or any(line.end == READING for line in fed)
        return State(room, chain, end, tuple(fed), busy)

    def move(self, tree: Tree, rank: int, room: int) -> Tree | None:
        """The root moves to its child of *rank*; then there is *room*. ``None``: it has none."""
        key = rank, min(room, self.most + 1)
        if key not in tree.moves:
            state = self._moved(tree.state, rank, room)
            tree.moves[key] = None if state is None else self.tree(state)
        return tree.moves[key]

    def _moved(self, old: State, rank: int, room: int) -> State | None:
        if rank == 1:
            if not old.chain:
                return None
            left = [line._replace(above=line.above - 1) for line in old.lines if line.above]
            return State(room, old.chain - 1, old.end, tuple(left), old.busy)
        found = old.line(rank)
        if found is None:
            return None
        chain, end = found.nodes - 1, found.end
        was_cut = end == READ and chain < room
        lines = tuple(
            Line(above, other, 1, UNREAD)
            for above in range(chain + was_cut)
            for other in range(2, self.branches + 1)
        )
        # What follows on the chain is back, if it was taken off.
        return State(room, chain + was_cut, UNREAD if was_cut else end, lines, old.busy)

    def rooted(self, tree: Tree) -> Tree:
        """*tree* when all that is allowed below its new root is found; an idle drafter begins."""
        if tree.rooted is None:
            state = tree.state
            state = state._replace(lines=tuple(self._pruned(state.chain, [*state.lines])))
            tree.rooted = self.tree(state if state.busy else self._fed(state))
        return tree.rooted


class CappedRun(Run):
    """One run, where the tree has a limit of nodes.

    The chain's nodes are made at regular times, but where one of them was taken off and came back.

    Args:
        timing: the timing.
        ranks: which candidate for each position is right.
        trees: the trees of its drafter.
    """

    def __init__(self, timing: Timing, ranks: Sequence[int], trees: Trees) -> None:
        self.trees = trees
        super().__init__(timing, ranks)

    def plant(self) -> None:
        """See :class:`Run`."""
        self.root, self.since = len(self.settled_ns) - 1, 0
        self.begun = self.now
        self.tree = self.trees.chain(self.last - 1 - self.root, 0)
        self.next = self.now + self.t1  # when the drafter's forward ends, if it is busy
        self.ended = 0  # forwards in this branch
        self.opened = (-1, 0, 0)
        # When the chain's nodes are made: that at a position, and the others up to a cut; what came
        # back behind it: time and passes begun before; and when the one behind that is made.
        self.line, self.cut, self.back = (self.root + 1, self.next), self.last, (FAR, 0, FAR)

    def forwards(self) -> int:
        """See :class:`Run`."""
        return self.ended + self.tree.state.busy

    def made_ns(self, position: int) -> int:
        """See :class:`Run`."""
        return self.now if position <= self.root else self._made_ns(position)

    def _made_ns(self, position: int) -> int:
        if position >= self.last:
            return FAR
        behind = position - self.cut
        if behind > 1:
            return self.back[2] + (behind - 2) * self.t1
        return self.back[0] if behind == 1 else self.line[1] + (position - self.line[0]) * self.t1

    def reach(self, time_ns: int) -> int:
        """See :class:`Run`."""
        position, made = self.line
        end = position + (time_ns - made) // self.t1
        if end > self.cut:
            back, _, resumes = self.back
            end = self.cut + (time_ns >= back)
            if time_ns >= resumes:
                end += 1 + (time_ns - resumes) // self.t1
        return max(self.root, min(end, self.last - 1))

    def advance(self) -> None:
        """See what the tree is now."""
        if not self.tree.state.busy or self.now < self.next:
            return
        most = (self.now - self.next) // self.t1 + 1
        self.tree, ended = self.trees.after(self.tree, most)
        if self.tree.bare:
            nodes = self.reach(self.now) - self.root
            self.tree, ended = self.trees.chain(self.last - 1 - self.root, nodes), most
            if not self.tree.state.busy:
                ended = (self._made_ns(self.last - 1) - self.next) // self.t1 + 1
        self.ended += ended
        self.next += ended * self.t1

    def verdict(self, number: int) -> bool:
        """See :class:`Run`."""
        self.advance()
        now, begun = self.now, len(self.begins)
        following = self.next if self.tree.state.busy else now
        while self.since < number:
            self.settled_ns.append(now)
            child = self.root + 1
            if child >= self.last or not self.step(self.ranks[child], following):
                return False
        self.tree = self.trees.rooted(self.tree)
        if following == now and self.tree.state.busy:
            self.next = now + self.t1
        self.cancel()
        if self.root <= self.cut < self.sent and self.back[1] >= begun:
            self.sent = self.cut
        return True

    def step(self, rank: int, following: int) -> bool:
        """The root moves to its child of *rank*, if that is a node."""
        child, before, begun = self.root + 1, self.tree, len(self.begins)
        room, at = self.last - 1 - child, self._made_ns(child)
        if before.bare and rank == 1:
            moved = self.trees.chain(room, self.reach(self.now) - child)
        else:
            moved = self.trees.move(before, rank, room) if rank > 0 else None  # type: ignore[assignment]
        if moved is None:
            return False
        self.root, self.tree = child, moved
        made = self.back[1] if child == self.cut + 1 else bisect_left(self.begins, at)
        if rank == 1:
            self.since = made
            return True
        # It became a node with the first choice, or at the last deviation.
        opened, forward, since = self.opened
        forward, self.since = (at, made) if opened < at else (forward, since)
        self.opened = self.now, following, begun
        self.line, self.cut = (child + 1, forward + self.t1), self.last
        line = before.state.line(rank)
        if line is not None and line.end == READ and line.nodes <= room:
            self.cut, self.back = child + line.nodes - 1, (self.now, begun, following + self.t1)
        return True
