"""PipeSpec with further drafters: a pipeline of models.

Each middle model verifies the one before it and drafts for the one behind it, by the loops of
``pipespec.py``; a text taken over travels down the chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.events.order import AFTER_PASSES
from dsim.orchestrations.verdict import settle_verdict

if TYPE_CHECKING:
    from collections.abc import Generator

    from simpy.events import Event

    from dsim.events.forward import Forward
    from dsim.events.ports import ServerPort, Setup


class Stage:
    """A model before the target. Making it schedules it.

    Attributes:
        before: the model whose drafts it verifies; ``None``: it only drafts.
        chain: its text: what it has drafted, or taken over from the model behind it.
        theirs: while the model behind it waits for it to compare, that model's text.
        dry: it has no guess, and asks again when it has compared.
    """

    def __init__(self, setup: Setup, server: ServerPort, before: Stage | None) -> None:
        self.env, self.output, self.plan = setup.env, setup.output, setup.plan
        self.server, self.before = server, before
        self.last = setup.output.wanted - 1  # the one position that never needs a draft
        self.chain: list[Any] = []
        self.theirs: list[Any] | None = None
        self.dry = False
        self.changed = setup.env.event()  # the chain, or who waits
        self.forward: Forward | None = None
        setup.env.process(self._working())

    def compare(self, text: list[Any]) -> Generator[Event]:
        """Have it compare its text with *text*, which it does when its step has ended."""
        self.theirs = text
        self.tell()
        while self.theirs is not None:
            yield self.changed

    def enough(self, have: int) -> bool:
        """Whether its chain is long enough for a model that has *have* tokens."""
        return self.dry or len(self.chain) >= min(have + self.plan.tokens - 1, self.last)

    def tell(self) -> None:
        """Wake whoever waits for a change."""
        happened, self.changed = self.changed, self.env.event()
        happened.succeed()

    def continues(self, text: list[Any]) -> list[Any]:
        """Its drafts behind *text*; none if it is not of that text."""
        return self.chain[len(text) :] if self.chain[: len(text)] == text else []

    def _working(self) -> Generator[Event]:
        chain, before = self.chain, self.before
        while not self.output.finished:
            if self.theirs is not None:
                if chain[: len(self.theirs)] != self.theirs:
                    chain[:] = self.theirs
                self.theirs, self.dry = None, False
                self.tell()
                if before is not None:
                    yield from before.compare(chain.copy())
                continue
            if len(chain) >= self.last or self.dry or (before and not before.enough(len(chain))):
                yield before.changed | self.changed if before else self.changed
                continue
            drafts = before.continues(chain) if before else []
            self.forward = forward = self.server.forward(len(chain))
            yield forward
            self.forward = None
            if forward.cancelled:
                return
            made = forward.tokens
            if made is None:
                accepted, token = self.server.backend.verify(forward, len(chain), drafts)
                made = [*drafts[:accepted], token]
            chain += made[: self.last - len(chain)]
            self.dry = not made
            self.tell()
            # A pass that ends at this instant comes first: its verdict is compared with.
            turn = self.env.event()
            turn._ok, turn._value = True, None
            self.env.schedule(turn, AFTER_PASSES)  # type: ignore[arg-type]
            yield turn
            if before is not None:
                yield from before.compare(chain.copy())


def verifying(setup: Setup, target: ServerPort, stages: list[Stage]) -> Generator[Event]:
    """The target: passes over the chain of the last model before it."""
    output, tokens, last = setup.output, setup.output.tokens, stages[-1]
    while True:
        while not last.enough(output.settled):
            yield last.changed
        tokens += last.continues(tokens)
        forward = target.forward(output.settled)
        yield forward
        if last.chain[: forward.end] == tokens:
            tokens += last.chain[forward.end :]
        settle_verdict(forward, target, output, setup.plan)
        del tokens[output.settled :]
        if output.finished:
            break
        yield from last.compare(tokens.copy())
    for stage in (one for one in stages if one.forward is not None):
        stage.server.cancel(stage.forward)


def pipe(setup: Setup) -> None:
    """Schedule a run by stages, with any number of drafters."""
    stages: list[Stage] = []
    for number in range(setup.further_drafters + 1):
        stages.append(Stage(setup, setup.drafter(number), stages[-1] if stages else None))
    setup.env.process(verifying(setup, setup.target(), stages))
