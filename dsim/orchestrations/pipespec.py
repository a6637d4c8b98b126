"""PipeSpec: drafter and target, each at its own pace (McDanel et al., arXiv 2505.01572, its code).

Its forerunner is AMUSD (arXiv 2410.17375). The drafter never aborts a step. The target waits after
every pass until the drafter's step has ended, and until ``lookahead`` tokens are there to verify.
With further drafters it is a pipeline (``pipeline.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.events.order import AFTER_PASSES
from dsim.orchestrations.declaration import FURTHER_DRAFTERS, LOOKAHEAD, Orchestration, Traits
from dsim.orchestrations.drafting import a_draft_makes, add_block
from dsim.orchestrations.pipeline import pipe
from dsim.orchestrations.verdict import settle_verdict
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection

    from simpy.events import Event

    from dsim.events.ports import Setup
    from dsim.model.case import Case


class PipeSpec:
    """One run of PipeSpec with one drafter. Making it schedules it.

    Args:
        setup: the text and its servers.
    """

    def __init__(self, setup: Setup) -> None:
        self.env = setup.env
        self.output = setup.output
        self.tokens = setup.output.tokens
        self.plan = setup.plan
        self.drafter = setup.drafter()
        self.target = setup.target()
        self.last = self.output.wanted - 1  # the one position that never needs a draft
        self.ended, self.over = self._drafted, self._judge  # each is called very often: bound once
        self.step: Event | None = None  # the draft under way, or the turn after it
        self.void: Event | None = None  # a draft that stands behind another text by now
        self.waits = True  # the target, until the drafter has compared, or for drafts
        self._draft()

    def _draft(self, _: Any = None) -> None:
        """Begin the next draft, unless the text is drafted to its end."""
        position = len(self.tokens)
        if position < self.last:
            self.step = draft = self.drafter.forward(position)
            draft.callbacks.append(self.ended)
        else:
            self.step = None
        if self.waits:
            self._verify()

    def _drafted(self, draft: Any) -> None:
        """The draft has ended; unless the target has settled a token of its own, it stands."""
        env, has_guess = self.env, True
        if draft is not self.void:
            if draft.tokens is None:
                self.tokens.append(draft.token)
            else:
                has_guess = add_block(draft.tokens, self.tokens, self.last, None)
        if not has_guess:
            self.step = None  # it asks again behind the next verdict
        elif env._queue and env._queue[0][0] <= env._now:
            # A pass that ends at this very instant comes first: its verdict is compared before the
            # next draft begins.
            self.step = turn = env.event()
            turn._ok, turn._value = True, None
            turn.callbacks.append(self._draft)
            env.schedule(turn, AFTER_PASSES)  # type: ignore[arg-type]
        else:
            self._draft()
            return
        if self.waits:
            self._verify()

    def _verify(self) -> None:
        """Begin the next pass, unless there is a draft to wait for."""
        settled = self.output.settled
        if self.step is None or len(self.tokens) >= min(settled + self.plan.tokens - 1, self.last):
            self.waits = False
            self.target.forward(settled).callbacks.append(self.over)

    def _judge(self, forward: Any) -> None:
        """A pass has ended; the drafter compares when its step has."""
        if not settle_verdict(forward, self.target, self.output, self.plan):
            self.void = self.step
        if not self.output.finished:
            self.waits = True
            if self.step is None:
                self._draft()


def start(setup: Setup) -> None:
    """Schedule a run."""
    (pipe if setup.further_drafters else PipeSpec)(setup)


def why(case: Case, _: Collection[str]) -> str:
    """Why it is the fastest."""
    return (
        f"it keeps drafting ({a_draft_makes(case)} every {to_ms(case.drafter.latency_ns):g} ms) "
        f"while its one target verifies ({to_ms(case.target.latency_ns):g} ms a pass)"
    )


ORCHESTRATION = Orchestration(
    name="pipespec",
    title="PipeSpec",
    colour="#574d94",
    meaning="drafter and one target at paces of their own; a pass takes all that is drafted",
    start=start,
    reads=(*LOOKAHEAD, *FURTHER_DRAFTERS),
    traits=Traits(overlaps=True, further_drafters=True),
    why=why,
    vector="dsim.engines.vector.paces:PIPESPEC",
)
