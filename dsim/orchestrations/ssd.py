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
    from collections.abc import Collection, Generator

    from simpy.events import Event, Process

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
        self.draft: Forward | None = None  # of the guessing, under way
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
            guessing: Process | None = None
            if settled < last:
                guessing = self.env.process(self._guess(plan.tokens))
            yield forward
            accepted, token = self.target.backend.verify(forward, settled, tokens[settled:])
            if plan.judged is not None:
                plan.judged(accepted, made)
            output.settle(accepted, token)
            end = min(output.settled + plan.tokens, last)
            if output.finished or end <= output.settled:
                if self.draft is not None:
                    drafter.cancel(self.draft)
                if output.finished:
                    return
            elif guessing is not None and self._hit(settled, accepted, made):
                yield guessing
                add_block(self._prepared(end, settled), tokens, end, plan.ends)
            else:
                if self.draft is not None and drafter.backend.preemptible:
                    drafter.cancel(self.draft)
                if guessing is not None:
                    yield guessing
                yield from draft_up_to(end, drafter, output, plan)

    def _guess(self, count: int) -> Generator[Forward]:
        """Guess the outcome of the pass under way, and draft *count* tokens behind each guess."""
        width = sum(self.guesses(accepted) for accepted in range(count + 1))
        forwards = -(-count // self.block_tokens)  # rounded up
        for fed in (range(count + 1), *[range(width)] * forwards):
            self.draft = draft = self.drafter.forward(self.output.settled, 0, None, fed)
            yield draft
            self.draft = None
            if draft.cancelled:
                return

    def _hit(self, settled: int, accepted: int, made: int) -> bool:
        """Whether the target's own token, behind *accepted* of *made* drafts, was guessed."""
        before = Node(None, None, position=settled + accepted - 1)
        tried = 0 if accepted == made else 1  # the first candidate was the draft, and wrong
        count = tried + self.guesses(accepted)
        return 0 in self.guesser.guesses_behind(before, accepted + 1, count)[tried:]

    def _prepared(self, end: int, settled: int) -> list[Any]:
        """The drafts behind the right guess: made when *settled* tokens were settled."""
        tokens = self.output.tokens
        made: list[Any] = []
        for position in range(len(tokens), end):
            before = Node(None, None, position=position - 1)
            guess = self.guesser.guesses_behind(before, position - settled + 1, 1)
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
