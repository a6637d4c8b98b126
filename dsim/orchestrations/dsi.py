"""DSI: distributed speculative inference (Timor et al., arXiv 2405.14105, Algorithm 1).

One drafter and ``S`` target servers, all running at the same time. The rules are numbered as in
``docs/model.md``.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from dsim.model.closed_forms import targets_enough
from dsim.orchestrations.declaration import LOOKAHEAD, PASSES, Orchestration, Traits
from dsim.orchestrations.drafting import a_draft_makes
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    import simpy
    from simpy.events import Event

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import PoolPort, ServerPort, Setup
    from dsim.model.case import Case
    from dsim.model.lookahead import Plan


class DSI:
    """One run of DSI. Making it schedules it; ``output.done`` happens at its end.

    Args:
        env: the environment of the run.
        drafter: one server of the drafter.
        targets: the target servers, at least one.
        output: the text to generate.
        plan: where ``k``, drafts per block, comes from.
        prefill: whether every target server has to read the prompt before it is of use.
        patience: drafts that the first pass of a branch, and one that no drafts ask for, waits for.
    """

    def __init__(
        self,
        env: simpy.Environment,
        drafter: ServerPort,
        targets: PoolPort,
        output: Output,
        plan: Plan,
        *,
        prefill: bool = False,
        patience: int = 0,
    ) -> None:
        self.env = env
        self.drafter = drafter
        self.targets = targets
        self.output = output
        self.tokens = output.tokens
        self.verify = targets.backend.verify
        self.plan = plan
        self.judged = plan.judged
        self.last = output.wanted - 1  # the one position that never needs a draft
        self.in_flight: deque[Forward] = deque()  # the branch's passes, in dispatch order
        self.patience = patience
        self.due = min(patience, self.last)  # how many tokens must be drafted for the next pass
        self.draft: Forward | None = None  # what the drafter is at,
        self.more: Event | None = None  # or else what it waits for
        targets.callbacks.append(self._pass_ended)
        self._dispatch()
        if prefill:
            targets.prefill()
        env.process(self._drafting())

    def _drafting(self) -> Generator[Event, Forward, None]:
        """Rule 1: the drafter never waits, but at the end of the text."""
        tokens, last, ask, ends = self.tokens, self.last, self.drafter.forward, self.plan.ends
        while True:
            position = len(tokens)
            if position >= last:
                self.draft, self.more = None, self.env.event()
                yield self.more
                continue
            self.draft = draft = ask(position, last - position - 1)
            yield draft
            if not draft.cancelled:
                if draft.tokens is None:
                    tokens.append(draft.token)
                elif draft.tokens:
                    tokens.extend(draft.tokens[: last - position])
                else:  # it has no guess here, and is asked again when more is settled
                    self.draft, self.more = None, self.env.event()
                    if not self.in_flight:
                        self.due = min(self.due, position)  # patience is of no use
                        self._dispatch()
                    yield self.more
                    continue
                if ends is not None and self.in_flight:
                    unsure = (i + 1 for i in range(position, len(tokens)) if ends(i))
                    self.due = min(self.due, next(unsure, self.due))  # the block ends here
                if len(tokens) >= self.due:
                    self._dispatch()
            elif self.output.finished:
                return

    def _dispatch(self) -> None:
        """Rule 2: send a pass over all that is drafted, if a server is free and there is a reason.

        (a) The branch has no pass yet, or (d) it has none in flight; (b) ``k`` drafts have not been
        dispatched, or (c) the last of all has not. With patience, (a) and (d) wait for drafts.
        """
        drafted = len(self.tokens)
        if drafted < self.due:
            return
        if not self.targets.free:
            self.targets.wait(self._dispatch)
            return
        self.in_flight.append(self.targets.forward(self.output.settled))
        due = drafted + self.plan.tokens
        self.due = due if due < self.last or drafted == self.last else self.last

    def _pass_ended(self, _: Event) -> None:
        """Rule 3: verdicts in dispatch order; then the server, free again, may take a new pass."""
        in_flight, output, tokens = self.in_flight, self.output, self.tokens
        while in_flight and in_flight[0].ended:
            forward = in_flight.popleft()
            settled, end = output.settled, forward.end + 1
            drafts = tokens[settled:end]
            accepted, token = self.verify(forward, settled, drafts)
            if self.judged is not None:
                self.judged(accepted, len(drafts))
            if accepted == end - settled:  # its own token, at ``end``, has been guessed as well
                output.settle_drafts(accepted)
                if output.finished:  # by a draft that ends the text
                    self._restart()
            else:
                output.settle(accepted, token)
                self._restart()
        if output.finished:
            return
        if not in_flight:
            self.due = min(self.due, output.settled + self.patience, self.last)
        if self.draft is None and len(tokens) < self.last:
            self._wake()
        if len(tokens) >= self.due:
            self._dispatch()

    def _restart(self) -> None:
        """Rules 4, 5: the branch dies with all its work; the next begins at this very instant."""
        self.targets.cancel(self.in_flight)
        self.in_flight.clear()
        if self.draft is not None:
            self.drafter.cancel(self.draft)
        if self.output.finished:
            return
        if self.draft is None:
            self._wake()
        self.due = min(self.output.settled + self.patience, self.last)
        self._dispatch()

    def _wake(self) -> None:
        """The drafter, which waits, can go on."""
        if self.more is not None:
            self.more.succeed()
            self.more = None


def start(setup: Setup) -> None:
    """Schedule a run."""
    targets = setup.targets()
    DSI(
        setup.env,
        setup.drafter(),
        targets,
        setup.output,
        setup.plan,
        prefill=setup.prefill,
        patience=setup.decoding.patience,
    )


def why(case: Case, others: Collection[str]) -> str:
    """Why it is the fastest."""
    t1, t2 = case.drafter.latency_ns, case.target.latency_ns
    enough = targets_enough(t1, t2, case.lookahead, case.block_tokens)
    # How many are enough is certain only where every forward takes as long as the last one.
    steady = case.target.is_constant and case.drafter.is_constant and not case.policy.adapts
    if not case.preemptible:
        end = ", though passes that are of no use hold their servers to their end"
    elif case.targets < enough:
        end = (
            f"; with {'' if steady else 'about '}{enough} target servers instead of {case.targets} "
            f"{'no' if steady else 'hardly a'} pass would have to wait for a server"
        )
    else:
        end = f", so it waits {'only' if steady else 'hardly but'} after a rejection"
    return (
        f"it keeps drafting ({a_draft_makes(case)} every {to_ms(t1):g} ms) while target passes "
        f"({to_ms(t2):g} ms each) verify{end}" + ("; SI waits for every pass" * ("si" in others))
    )


ORCHESTRATION = Orchestration(
    name="dsi",
    title="DSI",
    colour="#2f7fc1",
    meaning="draft on while target servers verify",
    start=start,
    reads=(*LOOKAHEAD, *PASSES),
    traits=Traits(overlaps=True, several_targets=True),
    why=why,
    vector="dsim.engines.vector.overlapping:DSI",
)
