"""A forward that is given up: when its server is free, and whoever yields it goes on."""

from __future__ import annotations

import dataclasses

import pytest

from dsim.engines.simulate import run_events
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.orchestrations import ORCHESTRATIONS, Orchestration, Traits
from dsim.tasks.check import check

MS = 1_000_000
CASE = Case(
    tokens=60,
    lookahead=1,
    targets=1,
    drafter=Latency(latency_ns=3 * MS),
    target=Latency(latency_ns=30 * MS),
    acceptance=Acceptance(by_depth=(1.0, 0.0)),
    repeats=1,
    preemptible=True,
)


def eager(setup, *, yields=True):
    """SI that makes one more draft while a pass runs, and gives it up if the pass ends first."""
    drafter, target, output = setup.drafter(), setup.target(), setup.output
    tokens, verify, plan = output.tokens, target.backend.verify, setup.plan
    while not output.finished:
        settled = output.settled
        while len(tokens) < min(settled + plan.tokens, output.wanted - 1):
            draft = drafter.forward(len(tokens))
            yield draft
            tokens.append(draft.token)
        forward = target.forward(settled)
        more = drafter.forward(len(tokens)) if len(tokens) < output.wanted - 1 else None
        yield forward
        accepted, token = verify(forward, settled, tokens[settled:])
        output.settle(accepted, token)
        if more is not None:
            drafter.cancel(more)  # of no use, or too late: it may have ended long ago
            if yields:
                yield more


@pytest.fixture
def named(monkeypatch):
    made = Orchestration(
        name="eager",
        title="Eager",
        colour="#123456",
        meaning="",
        start=lambda setup: setup.env.process(eager(setup)),
        reads=("lookahead", "preemptible"),
        traits=Traits(overlaps=True),
    )
    monkeypatch.setitem(ORCHESTRATIONS, "eager", made)


def test_who_yields_a_forward_that_was_cancelled_goes_on_at_once(named) -> None:
    """It went on where the forward would have ended: a slow drafter held everything up."""

    def latency_ms(drafter_ms, *, preemptible):
        drafter = Latency(latency_ns=drafter_ms * MS)
        case = dataclasses.replace(CASE, drafter=drafter, preemptible=preemptible)
        return run_events(case, "eager", 0).output.settled_ns[-1] // MS

    # A round is a draft and a pass of 30 ms, and settles two tokens. One more draft of 20 ms beside
    # the pass is over before it.
    assert latency_ms(20, preemptible=True) == latency_ms(20, preemptible=False) == 30 * (20 + 30)
    # One of 40 ms is given up, or waited for to its end.
    assert latency_ms(40, preemptible=True) == 30 * (40 + 30)
    assert latency_ms(40, preemptible=False) == 29 * (40 + 40) + 40 + 30


def test_requests_that_share_servers_do_not_wait_for_what_was_cancelled(named, monkeypatch) -> None:
    """A forward that was given up while it queued never happened: its request stood still."""
    monkeypatch.setattr("dsim.tasks.check.LARGER", 20)
    monkeypatch.setattr("dsim.engines.laws.MAX_SMALL_TOKENS", 3)
    assert [one.problem for one in check("eager") if one.problem] == []
