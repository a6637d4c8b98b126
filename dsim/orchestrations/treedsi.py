"""DSI over trees: dsim's own.

DSI stops at the drafter's first choice. Here the drafter keeps its next choices, too, and drafts
behind them while the targets verify; every pass verifies the whole tree; only a token that is
nowhere on the tree restarts the branch. Rules and law are in ``docs/treedsi.md``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dsim.events.tree import Node
from dsim.orchestrations.declaration import Orchestration, Traits, Work, least_work
from dsim.orchestrations.tree import by_chance, tree_backend
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection

    from simpy.events import Event

    from dsim.events.forward import Forward
    from dsim.events.ports import Setup
    from dsim.model.case import Case
    from dsim.model.script import Script


class TreeDSI:
    """One run of DSI over trees. Making it schedules it.

    Args:
        setup: the text and its servers.
    """

    def __init__(self, setup: Setup) -> None:
        self.output = setup.output
        self.plan = setup.plan
        self.shape = setup.decoding.tree
        self.patience = setup.decoding.patience
        self.levels = setup.decoding.block_tokens  # that one forward of the drafter makes
        self.drafter = setup.drafter()
        self.targets = setup.targets()
        self.guesser, self.judge = tree_backend(self.drafter), tree_backend(self.targets)
        self.last = self.output.wanted - 1  # the one position that never needs a draft
        self.in_flight: deque[tuple[int, Forward]] = deque()  # number and pass, by dispatch
        self.begun = 0  # passes dispatched, which numbers them
        self.surveys = 0
        self.draft: Forward | None = None
        self.targets.callbacks.append(self._pass_ended)
        self._plant()
        self._dispatch()
        if setup.prefill:
            self.targets.prefill()
        self._feed()

    def _plant(self) -> None:
        """A new branch: its root is the last settled token, and no pass covers it."""
        self.covering = 0  # number of the branch's last pass
        self.root = Node(None, None, position=self.output.settled - 1, since=self.begun)
        self._survey()

    def _survey(self) -> None:
        """What is on the tree below the root, and what of it no draft has read."""
        self.surveys += 1
        self.nodes, self.unread = [self.root], []
        for node in self.nodes:  # which grows
            node.survey = self.surveys
            self._open(node)
            self.nodes += node.children
            if not node.asked and node.position < self.last - 1:
                self.unread.append(node)
        self.chain = [self.root]  # the main chain: first choices all the way
        self._lengthen()
        self.sent = sum(node.since < self.covering for node in self.chain)

    def _open(self, node: Node) -> None:
        """Rule 1: the candidates of *node* that are allowed by now are nodes."""
        if node.guesses is None or node.position >= self.last - 1:
            return
        deviates = node.deviations - self.root.deviations < self.shape.deviations
        count = min(self.shape.branches if deviates else 1, len(node.guesses))
        if node.opened >= count:
            return
        chances = [1.0] * count
        if self.shape.nodes is not None:
            depth = node.position + 2 - self.output.settled
            chances = [*self.guesser.chances_behind(node, depth, count)]
        for rank in range(node.opened + 1, count + 1):
            token = node.guesses[rank - 1]
            node.children.append(Node(node, token, rank, chances[rank - 1], since=self.begun))
        node.opened = count

    def _lengthen(self) -> None:
        node = self.chain[-1]
        while node.children:  # the first of them is the first choice: it is never taken off
            node = node.children[0]
            self.chain.append(node)

    def _feed(self) -> None:
        """Rule 2: the drafter never waits while there is a node that it has not read."""
        if self.draft is None and self.unread:
            fed, self.unread = self.unread, []
            for node in fed:
                node.asked = True
            self.draft = self.drafter.forward(self.output.settled, 0, None, fed)
            self.draft.callbacks.append(self._drafted)

    def _drafted(self, _: Event) -> None:
        draft, self.draft = self.draft, None
        if self.output.finished:
            return
        if draft is not None and not draft.cancelled:
            self._grow(draft, [*(draft.fed or ())])
        self._feed()
        self._dispatch()

    def _grow(self, draft: Forward, level: list[Node]) -> None:
        """Each node that *draft* has read has candidates now, those that are gone as well."""
        guesses, count = self.guesser.guesses_behind, self.shape.branches
        for _ in range(self.levels):
            below: list[Node] = []
            for node in level:
                node.asked = True
                node.guesses = guesses(node, node.position + 2 - draft.first, count)
                if node.survey == self.surveys:
                    self._open(node)
                    below += node.children
            for node in below:
                node.survey = self.surveys
            self.nodes += below
            level = [node for node in below if node.position < self.last - 1]
        self.unread += level
        self._lengthen()
        self._prune()

    def _prune(self) -> None:
        """Of a tree that is too large the surest nodes stay, the main chain always."""
        most = self.shape.nodes
        if most is None or len(self.nodes) <= most + 1:
            return
        main = {*self.chain}
        others = sorted((node for node in self.nodes if node not in main), key=by_chance)
        stay = {*self.chain, *others[: max(0, most + 1 - len(main))]}
        for node in self.nodes:
            if node in stay:
                node.children = [child for child in node.children if child in stay]
            else:
                node.survey = 0
        self.nodes = [node for node in self.nodes if node in stay]
        self.unread = [node for node in self.unread if node in stay]

    def _dispatch(self) -> None:
        """Rule 3, DSI's rule 2 on the main chain: send a pass over the whole tree."""
        end, new = self.chain[-1], len(self.chain) - self.sent
        ends = end.position >= self.last - 1  # there is no more to draft
        no_guess = end.guesses is not None and not end.guesses
        patient = len(self.chain) > self.patience or ends or no_guess
        due = self.covering and (new >= self.plan.tokens or (ends and new))
        if not due and (self.in_flight or not patient):
            return
        if not self.targets.free:
            self.targets.wait(self._dispatch)
            return
        self.begun += 1
        self.covering, self.sent = self.begun, len(self.chain)
        forward = self.targets.forward(self.output.settled, self.nodes.copy())
        self.in_flight.append((self.begun, forward))

    def _pass_ended(self, _: Event) -> None:
        """Rule 4: verdicts in dispatch order, from the root down as far as the pass covers it."""
        in_flight, output = self.in_flight, self.output
        while in_flight and in_flight[0][1].ended:
            number, forward = in_flight.popleft()
            while self.root.since < number:
                child, token = self.judge.follow(forward, self.root)
                if child is None:
                    output.settle(0, token)
                    self._restart()
                    break
                output.tokens.append(token)
                output.settle_drafts(1)
                self.root = child
                self._open(child)
            else:
                self._survey()
                gone = [one for one in in_flight if one[0] <= self.root.since]
                self.targets.cancel([forward for _, forward in gone])
                for one in gone:
                    in_flight.remove(one)
        if not output.finished:
            self._feed()
            self._dispatch()

    def _restart(self) -> None:
        """The branch dies with all its work; the next begins at this very instant."""
        self.targets.cancel([forward for _, forward in self.in_flight])
        self.in_flight.clear()
        if self.draft is not None:
            self.drafter.cancel(self.draft)
        if not self.output.finished:
            self._plant()


def work(script: Script) -> Work:
    """A lower bound."""
    return least_work(script, script.decoding.tree.branches)


def why(case: Case, _: Collection[str]) -> str:
    """Why it is the fastest."""
    return (
        f"it goes on drafting (a level every {to_ms(case.drafter.latency_ns):g} ms) behind second "
        f"choices, too, while passes ({to_ms(case.target.latency_ns):g} ms each) verify the whole "
        "tree, so that only a token that is nowhere on the tree makes it wait for a pass"
    )


ORCHESTRATION = Orchestration(
    name="treedsi",
    title="DSI over trees",
    colour="#1b4f72",
    meaning="DSI that drafts behind the drafter's next choices, too, and verifies the whole tree",
    start=TreeDSI,
    reads=(
        "lookahead",
        "targets",
        "patience",
        "preemptible",
        "tree.branches",
        "tree.nodes",
        "tree.deviations",
        "confidence_quality",
    ),
    traits=Traits(overlaps=True, several_targets=True, live=False),
    work=work,
    why=why,
)
