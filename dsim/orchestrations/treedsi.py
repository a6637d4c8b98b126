"""DSI over trees: dsim's own.

DSI stops at the drafter's first choice. Here the drafter keeps its next choices, too, and drafts
behind them while the targets verify; every pass verifies the whole tree; only a token that is
nowhere on the tree restarts the branch. Rules and law are in ``docs/treedsi.md``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dsim.orchestrations.declaration import PASSES, TREE, Orchestration, Traits
from dsim.orchestrations.drafting import a_draft_makes
from dsim.orchestrations.growing import GrowingTree
from dsim.orchestrations.tree import tree_backend, work
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection

    from simpy.events import Event

    from dsim.events.forward import Forward
    from dsim.events.ports import Setup
    from dsim.model.case import Case


class TreeDSI:
    """One run of DSI over trees. Making it schedules it.

    Args:
        setup: the text and its servers.
    """

    def __init__(self, setup: Setup) -> None:
        self.output = setup.output
        self.plan = setup.plan
        self.patience = setup.decoding.patience
        self.drafter = setup.drafter()
        self.targets = setup.targets()
        self.judge = tree_backend(self.targets)
        self.last = self.output.wanted - 1  # the one position that never needs a draft
        decoding, guesser = setup.decoding, tree_backend(self.drafter)
        self.tree = GrowingTree(decoding.tree, guesser, self.last, decoding.block_tokens)
        self.in_flight: deque[tuple[int, Forward]] = deque()  # number and pass, by dispatch
        self.draft: Forward | None = None
        self.targets.callbacks.append(self._pass_ended)
        self.tree.plant(0)
        self._dispatch()
        if setup.prefill:
            self.targets.prefill()
        self._feed()

    def _feed(self) -> None:
        """Rule 2: the drafter never waits while there is a node that it has not read."""
        if self.draft is None and self.tree.unread:
            fed, self.tree.unread = self.tree.unread, []
            for node in fed:
                node.asked = True
            self.draft = self.drafter.forward(self.output.settled, 0, None, fed)
            self.draft.callbacks.append(self._drafted)

    def _drafted(self, _: Event) -> None:
        draft, self.draft = self.draft, None
        if self.output.finished:
            return
        if draft is not None and not draft.cancelled:
            self.tree.read(draft, [*(draft.fed or ())])
        self._feed()
        self._dispatch()

    def _dispatch(self) -> None:
        """Rule 3, DSI's rule 2 on the main chain: send a pass over the whole tree."""
        tree, end = self.tree, self.tree.chain[-1]
        new = len(tree.chain) - tree.sent
        ends = end.position >= self.last - 1  # there is no more to draft
        no_guess = end.guesses is not None and not end.guesses
        patient = len(tree.chain) > self.patience or ends or no_guess
        due = tree.covering and (new >= self.plan.tokens or (ends and new))
        if not due and (self.in_flight or not patient):
            return
        if not self.targets.free:
            self.targets.wait(self._dispatch)
            return
        tree.covered()
        forward = self.targets.forward(self.output.settled, tree.nodes.copy())
        self.in_flight.append((tree.begun, forward))

    def _pass_ended(self, _: Event) -> None:
        """Rule 4: verdicts in dispatch order, from the root down as far as the pass covers it."""
        in_flight, output, tree = self.in_flight, self.output, self.tree
        while in_flight and in_flight[0][1].ended:
            number, forward = in_flight.popleft()
            while tree.root.since < number:
                child, token = self.judge.follow(forward, tree.root)
                if child is None:
                    output.settle(0, token)
                    self._restart()
                    break
                output.tokens.append(token)
                output.settle_drafts(1)
                if output.finished:  # by a draft that ends the text
                    self._restart()
                    break
                tree.descend(child)
            else:
                tree.survey()
                gone = [one for one in in_flight if one[0] <= tree.root.since]
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
            self.tree.plant(self.output.settled)


def why(case: Case, _: Collection[str]) -> str:
    """Why it is the fastest."""
    behind = "also behind second choices, " if case.acceptance.has_second else ""
    return (
        f"it keeps drafting ({a_draft_makes(case, 'level')} every "
        f"{to_ms(case.drafter.latency_ns):g} ms), {behind}while passes "
        f"({to_ms(case.target.latency_ns):g} ms each) verify the whole tree, so only a token that "
        "is nowhere on the tree makes it begin again"
    )


ORCHESTRATION = Orchestration(
    name="treedsi",
    title="DSI over trees",
    colour="#1f5574",
    meaning="DSI that drafts behind the drafter's next choices, too, and verifies the whole tree",
    start=TreeDSI,
    reads=("lookahead", *PASSES, *TREE[2:], "tree.deviations", "confidence_quality"),
    traits=Traits(overlaps=True, several_targets=True),
    work=work,
    why=why,
    vector="dsim.engines.vector.trees:TREEDSI",
)
