"""SSD: speculative speculative decoding ("Saguaro"), and its code.

While the target verifies a block, the drafter guesses the outcome, the target's own token included,
and drafts the next block behind each guess. The rules are in ``docs/field.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.events.tree import Node
from dsim.orchestrations.declaration import LOOKAHEAD, Orchestration, Traits
from dsim.orchestrations.drafting import add_block, draft_up_to
from dsim.orchestrations.tree import tree_backend
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence

    from simpy.events import Event

    from dsim.events.forward import Forward
    from dsim.events.ports import Setup
    from dsim.model.case import Case


class SSD:
    """One run of SSD. Making it schedules it.

    Args:
        setup: the text and its servers.
    """

    def __init__(self, setup: Setup) -> None:
        self.env = setup.env
        self.output = setup.output
        self.plan = setup.plan
        self.drafter = setup.drafter()
        self.guesser = tree_backend(self.drafter)
        self.target = setup.target()
        self.fanout = setup.decoding.fanout
        self.block_tokens = setup.decoding.block_tokens
        self.before = Node(None, None)  # the token before those that are asked about
        self.feeds: dict[int, list[Sequence[Any]]] = {}  # of the guessing, by its lookahead
        self.left: Iterator[Sequence[Any]] = iter(())  # what its forwards to come are to read
        self.draft: Forward | None = None  # its forward under way
        self.ask, self.guessed = self.drafter.forward, self._guess  # for each draft: bound once
        setup.env.process(self._run())

    def guesses(self, accepted: int) -> int:
        """How many guesses of the target's own token there are behind *accepted* drafts."""
        return self.fanout[min(accepted, len(self.fanout) - 1)]

    def _run(self) -> Generator[Event]:
        output, tokens, drafter, plan = self.output, self.output.tokens, self.drafter, self.plan
        last = output.wanted - 1  # the one position that never needs a draft
        yield from draft_up_to(min(plan.tokens, last), drafter, output, plan)
        while True:
            settled, made = output.settled, len(tokens) - output.settled
            forward = self.target.forward(settled)
            if guessing := settled < last:
                self.left = iter(self.feeds.get(plan.tokens) or self._feeds(plan.tokens))
                self._guess()
            yield forward
            accepted, token = self.target.backend.verify(forward, settled, tokens[settled:])
            if plan.judged is not None:
                plan.judged(accepted, made)
            output.settle(accepted, token)
            end = min(output.settled + plan.tokens, last)
            if output.finished or end <= output.settled:
                self._stop_guessing()
                if output.finished:
                    return
            elif guessing and self._hit(settled, accepted, made):
                while self.draft is not None:
                    yield self.draft
                add_block(self._prepared(end, settled), tokens, end, plan.ends)
            else:
                if drafter.backend.preemptible:
                    self._stop_guessing()
                while self.draft is not None:
                    yield self.draft
                yield from draft_up_to(end, drafter, output, plan)

    def _feeds(self, count: int) -> list[Sequence[Any]]:
        """What the forwards of the guessing read that draft *count* tokens behind each guess."""
        width = sum(self.guesses(accepted) for accepted in range(count + 1))
        forwards = -(-count // self.block_tokens)  # rounded up
        self.feeds[count] = [range(count + 1), *[range(width)] * forwards]
        return self.feeds[count]

    def _guess(self, _: Any = None) -> None:
        """Begin the next forward of the guessing, if there is one left."""
        for fed in self.left:
            self.draft = draft = self.ask(self.output.settled, 0, None, fed)
            draft.callbacks.append(self.guessed)
            return
        self.draft = None

    def _stop_guessing(self) -> None:
        self.left = iter(())
        if self.draft is not None:
            self.drafter.cancel(self.draft)
            self.draft = None

    def _hit(self, settled: int, accepted: int, made: int) -> bool:
        """Whether the target's own token, behind *accepted* of *made* drafts, was guessed."""
        self.before.position = settled + accepted - 1
        tried = 0 if accepted == made else 1  # the first candidate was the draft, and wrong
        count = tried + self.guesses(accepted)
        return 0 in self.guesser.guesses_behind(self.before, accepted + 1, count)[tried:]

    def _prepared(self, end: int, settled: int) -> list[Any]:
        """The drafts behind the right guess: made when *settled* tokens were settled."""
        tokens = self.output.tokens
        made: list[Any] = []
        for position in range(len(tokens), end):
            self.before.position = position - 1
            guess = self.guesser.guesses_behind(self.before, position - settled + 1, 1)
            if not guess:
                break
            made += guess
        return made


def why(case: Case, _: Collection[str]) -> str:
    """Why it is the fastest."""
    return (
        f"during each pass ({to_ms(case.target.latency_ns):g} ms) the drafter guesses the outcome "
        f"and drafts behind it ({to_ms(case.drafter.latency_ns):g} ms a forward), so that a right "
        "guess has the next drafts there at once"
    )


ORCHESTRATION = Orchestration(
    name="ssd",
    title="SSD",
    colour="#43a7c2",
    meaning="the next block is drafted behind guesses of the verdict while the target verifies",
    start=SSD,
    reads=(*LOOKAHEAD, "ssd.fanout", "preemptible"),
    traits=Traits(overlaps=True, live=False),
    why=why,
    vector="dsim.engines.vector.rounds:SSD",
)
