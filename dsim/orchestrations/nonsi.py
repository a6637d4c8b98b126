"""non-SI: plain decoding, one target pass per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.orchestrations.declaration import Orchestration, Traits, Work
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import ServerPort, Setup
    from dsim.model.case import Case
    from dsim.model.script import Script


def nonsi(target: ServerPort, output: Output) -> Generator[Forward]:
    """Generate ``output.wanted`` tokens with one pass each, one after the other."""
    verify = target.backend.verify
    while not output.finished:
        settled = output.settled
        forward = target.forward(settled, output.wanted - settled - 1)
        yield forward
        _, token = verify(forward, settled, ())
        output.settle(0, token)


def start(setup: Setup) -> None:
    """Schedule a run."""
    setup.env.process(nonsi(setup.target(), setup.output))


def work(script: Script) -> Work:
    """One pass a token."""
    return Work([1] * len(script.accepted), 0, exact=True)


def why(case: Case, _others: Collection[str]) -> str:
    """Why it is the fastest."""
    return (
        f"at this acceptance the drafts ({to_ms(case.drafter.latency_ns):g} ms each) cost more "
        f"than the passes ({to_ms(case.target.latency_ns):g} ms each) that they save"
    )


ORCHESTRATION = Orchestration(
    name="nonsi",
    title="non-SI",
    colour="#8b929c",
    meaning="plain decoding: one pass a token",
    start=start,
    traits=Traits(drafts=False, lockstep=True),
    work=work,
    why=why,
    vector="dsim.engines.vector.alternating:NONSI",
)
