"""Multi-drafter DSI: several drafters of different speed and accuracy, one text.

The paper's Algorithm 1 has ``m`` models and grows a tree of threads: at every prefix every model
starts. Here each drafter has one server and grows one chain; the rules M1 to M5 are in
``docs/model.md``. With a single drafter it is DSI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.orchestrations.declaration import (
    FURTHER_DRAFTERS,
    LOOKAHEAD,
    PASSES,
    Orchestration,
    Traits,
)
from dsim.orchestrations.dsi import DSI

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Sequence

    import simpy
    from simpy.events import Event

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import PoolPort, ServerPort, Setup
    from dsim.model.case import Case
    from dsim.model.lookahead import Plan


class Reserve:
    """A drafter that does not lead: it grows a chain of its own behind the settled text.

    Args:
        env: the environment of the run.
        server: its server; ``server.output`` is its chain: the settled tokens that it knows, then
            its own drafts.
    """

    def __init__(self, env: simpy.Environment, server: ServerPort) -> None:
        self.env = env
        self.server = server
        self.chain = server.output
        self.settled = 0  # how many tokens of the chain are known to be the text's
        self.draft: Forward | None = None
        self.more: Event | None = None
        env.process(self._drafting())

    def _drafting(self) -> Generator[Event, Forward, None]:
        """Rule M1: it never waits, but at the end of the text."""
        tokens, last, ask = self.chain.tokens, self.chain.wanted - 1, self.server.forward
        while True:
            position = len(tokens)
            if position >= last:
                self.draft, self.more = None, self.env.event()
                yield self.more
                continue
            self.draft = draft = ask(position)
            yield draft
            if not draft.cancelled:
                made = [draft.token] if draft.tokens is None else draft.tokens
                tokens.extend(made[: last - position])

    def review(self, output: Output) -> None:
        """Rule M3: a chain that disagrees with what is settled dies, and starts again there."""
        tokens, text, end = self.chain.tokens, output.tokens, output.settled
        wrong = next(
            (i for i in range(self.settled, end) if i >= len(tokens) or tokens[i] != text[i]), None
        )
        self.settled = end
        if wrong is None:
            return
        if wrong < len(tokens):
            self.chain.rejections.append(wrong)
            del tokens[wrong:]
        tokens.extend(text[wrong:end])
        if self.draft is not None:
            self.server.cancel(self.draft)  # rule 5, too: its server may have other requests
        elif self.more is not None and not output.finished:
            self.more.succeed()


class MultiDSI(DSI):
    """One run of multi-drafter DSI. Making it schedules it.

    Args:
        env: the environment of the run.
        drafters: a server for each drafter, the fastest first. That one leads, on the text itself;
            each other has an output of its own.
        targets: the target servers.
        output: the text to generate.
        plan: where ``k`` comes from.
        prefill, patience: see :class:`dsim.orchestrations.dsi.DSI`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        drafters: Sequence[ServerPort],
        targets: PoolPort,
        output: Output,
        plan: Plan,
        *,
        prefill: bool = False,
        patience: int = 0,
    ) -> None:
        leader, *others = drafters
        super().__init__(env, leader, targets, output, plan, prefill=prefill, patience=patience)
        self.reserves = [Reserve(env, server) for server in others]

    def _review(self) -> None:
        for reserve in self.reserves:
            reserve.review(self.output)

    def _pass_ended(self, event: Event) -> None:
        super()._pass_ended(event)
        self._review()

    def _restart(self) -> None:
        """Rule M4: the longest chain that agrees takes over, if it has a draft that is not settled.

        Of chains of one length that of the faster drafter.
        """
        self._review()
        settled = self.output.settled
        chains = (reserve.chain.tokens for reserve in self.reserves)
        longest = max(chains, key=len, default=())
        self.tokens.extend(longest[settled:])
        super()._restart()


def start(setup: Setup) -> None:
    """Schedule a run."""
    drafters = [setup.drafter(number) for number in range(setup.further_drafters + 1)]
    targets = setup.targets()
    MultiDSI(
        setup.env,
        drafters,
        targets,
        setup.output,
        setup.plan,
        prefill=setup.prefill,
        patience=setup.decoding.patience,
    )


def why(_case: Case, _others: Collection[str]) -> str:
    """Why it is the fastest."""
    return (
        "where the first drafter is wrong, the drafts of another one that is right take over, "
        "so that fewer rejections make it begin again"
    )


ORCHESTRATION = Orchestration(
    name="multidsi",
    title="multi-drafter DSI",
    colour="#277a4b",
    meaning="DSI with further drafters, one of which takes over where the first is wrong",
    start=start,
    reads=(*LOOKAHEAD, *PASSES, *FURTHER_DRAFTERS),
    traits=Traits(
        overlaps=True, several_targets=True, further_drafters=True, needs_further=True, live=False
    ),
    why=why,
)
