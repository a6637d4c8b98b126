"""Forwards are SimPy events of their own: an orchestration may keep them and combine them."""

from __future__ import annotations

import dataclasses

import pytest

from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment
from dsim.deployment.workload import Workload
from dsim.engines.simulate import run_events
from dsim.errors import PluginError
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.orchestrations import ORCHESTRATIONS, Orchestration

CASE = Case(
    tokens=4,
    lookahead=1,
    targets=1,
    target=Latency(latency_ns=10),
    drafter=Latency(latency_ns=2),
    acceptance=Acceptance(rate=1.0),
    repeats=1,
    seed=0,
    preemptible=True,
)


@pytest.fixture
def keeper(monkeypatch):
    """An orchestration that keeps each draft and looks at it before and after its end."""
    seen = []

    def keep(setup):
        drafter, target, output = setup.drafter(), setup.target(), setup.output
        kept = []
        while not output.finished:
            settled = output.settled
            draft = None
            if output.wanted - settled > 1:
                draft = drafter.forward(settled)
                kept.append(draft)
                seen.append((draft.triggered, draft.processed))
                with pytest.raises(AttributeError):
                    draft.value  # noqa: B018
                with pytest.raises(AttributeError):
                    draft.ok  # noqa: B018
            forward = target.forward(settled)
            yield forward if draft is None else draft & forward
            assert forward.triggered
            assert forward.ok
            assert forward.value is None
            output.settle(*target.backend.verify(forward, settled, ()))
        seen.append([one.first for one in kept])
        seen.append([one.triggered for one in kept])

    own = Orchestration(
        name="keeper",
        title="keeper",
        colour="#aa3377",
        meaning="keeps its forwards",
        start=lambda setup: setup.env.process(keep(setup)),
    )
    monkeypatch.setitem(ORCHESTRATIONS, "keeper", own)
    return seen


@pytest.mark.parametrize("keep_history", [False, True])
def test_a_kept_forward_stays_what_it_was(keeper, keep_history) -> None:
    run = run_events(CASE, "keeper", 0, keep_history=keep_history)
    assert run.output.settled_ns == [10, 20, 30, 40]  # the draft is done while the pass runs
    assert keeper == [(False, False)] * 3 + [[0, 1, 2], [True] * 3]


def test_a_kept_forward_of_a_shared_server_stays_what_it_was(keeper) -> None:
    deployment = Deployment(
        algorithm="keeper", target=CASE.target, drafter=CASE.drafter, acceptance=CASE.acceptance
    )
    serve(deployment, Workload(arrivals="trace", trace=((0, 0, 4),)))
    assert keeper == [(False, False)] * 3 + [[0, 1, 2], [True] * 3]


def test_a_pool_that_is_busy_says_so(monkeypatch) -> None:
    def greedy(setup):
        for _ in range(CASE.targets + 1):
            setup.targets().forward(0)

    own = dataclasses.replace(ORCHESTRATIONS["dsi"], name="greedy", start=greedy)
    monkeypatch.setitem(ORCHESTRATIONS, "greedy", own)
    with pytest.raises(PluginError, match=f"of which all {CASE.targets} are busy: look at free"):
        run_events(CASE, "greedy", 0)


def test_a_server_does_one_forward_at_a_time(monkeypatch) -> None:
    def hasty(setup):
        setup.drafter().forward(0)
        setup.drafter().forward(0)

    own = dataclasses.replace(ORCHESTRATIONS["si"], name="hasty", start=hasty)
    monkeypatch.setitem(ORCHESTRATIONS, "hasty", own)
    with pytest.raises(PluginError, match="the drafter was asked for two forwards at once"):
        run_events(CASE, "hasty", 0)
