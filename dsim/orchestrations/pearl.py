"""PEARL: parallel speculative decoding in lock step (Liu et al., arXiv 2408.11850, and its code).

A step: the target makes one pass over the *pending* drafts while the drafter makes *fresh* ones
behind them. Both end before the step does; nothing is cut short. There is no bonus token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.orchestrations.declaration import LOOKAHEAD, Orchestration, Traits
from dsim.orchestrations.drafting import draft_up_to
from dsim.orchestrations.verdict import settle_verdict
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import ServerPort, Setup
    from dsim.model.case import Case
    from dsim.model.lookahead import Plan


def pearl(
    drafter: ServerPort, target: ServerPort, output: Output, plan: Plan
) -> Generator[Forward]:
    """Verify what is pending while up to ``plan.tokens`` fresh drafts are made, and again."""
    last = output.wanted - 1  # the one position that never needs a draft
    while not output.finished:
        forward = target.forward(output.settled)
        end = min(len(output.tokens) + plan.tokens, last)
        yield from draft_up_to(end, drafter, output, plan)
        yield forward
        settle_verdict(forward, target, output, plan)  # judges the first fresh draft as well


def start(setup: Setup) -> None:
    """Schedule a run."""
    setup.env.process(pearl(setup.drafter(), setup.target(), setup.output, setup.plan))


def why(case: Case, _: Collection[str]) -> str:
    """Why it is the fastest."""
    return (
        f"each pass ({to_ms(case.target.latency_ns):g} ms) has the next drafts "
        f"({to_ms(case.drafter.latency_ns):g} ms each) made beside it, so that drafting costs no "
        "time until a draft is rejected"
    )


ORCHESTRATION = Orchestration(
    name="pearl",
    title="PEARL",
    colour="#a65572",
    meaning="drafter and target in lock step: a block is drafted while the one before is verified",
    start=start,
    reads=LOOKAHEAD,
    traits=Traits(overlaps=True),
    why=why,
    vector="dsim.engines.vector.rounds:PEARL",
)
