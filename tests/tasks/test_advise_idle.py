"""Layouts of ``dsim advise`` that differ in idle GPUs for drafters alone."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from dsim.orchestrations import ORCHESTRATIONS
from dsim.tasks.advise import answer, search
from dsim.tasks.advise.forecast import forecasts
from dsim.tasks.advise.layouts import Layout
from dsim.tasks.advise.question import Question

MS = 1_000_000
ASKED = Question(
    target_ns=30 * MS,
    drafter_ns=3 * MS,
    acceptance=0.8,
    gpus=8,
    tokens=40,
    rate_per_s=3.0,
    drafters_per_gpu=4,
)


@pytest.fixture(autouse=True)
def little_work(monkeypatch):
    monkeypatch.setattr(search, "MAX_EVENTS", 20_000)
    monkeypatch.setattr(answer, "sensitivity", lambda *_: [])
    for name in set(ORCHESTRATIONS) - {"nonsi", "si", "dsi"}:
        monkeypatch.delitem(ORCHESTRATIONS, name)


def test_layouts_that_differ_in_idle_gpus_for_drafters_are_one(monkeypatch):
    advice = answer.advise(ASKED)
    with monkeypatch.context() as patch:
        patch.setattr(search, "_but_for_drafters", lambda *_: False)
        every = answer.advise(ASKED)
    by_layout = {one.layout: one for one in every.ranking}
    left_out = [(idle, one) for one in advice.ranking for idle in one.with_idle]
    assert left_out
    assert {one.layout for one in advice.ranking} == {*by_layout} - {idle for idle, _ in left_out}
    for idle, one in left_out:  # what is shown is the cheaper of the same
        assert idle.gpus > one.layout.gpus
        assert np.array_equal(by_layout[idle].latencies_ms, one.latencies_ms)
        assert by_layout[idle].gpu_seconds_per_token > one.gpu_seconds_per_token
    assert advice.verdict == every.verdict
    are = "layout is" if len(left_out) == 1 else "layouts are"
    assert f" {len(left_out)} more {are} not shown: the same as one" in answer.reading(advice)
    assert "not shown" not in answer.reading(every)
    _, rows = answer.table(advice)
    assert len(rows) == len(every.ranking) - len(left_out)
    told = json.loads(answer.as_json(advice))["ranking"]
    assert sum(len(row["same_with_drafter_gpus"]) for row in told) == len(left_out)


def added(question, *drafter_gpus):
    """What is simulated of SI on one target, and what comes of it, of these layouts in turn."""
    found = []
    for gpus in drafter_gpus:
        layout = Layout(algorithm="si", lookahead=5, targets=1, degree=2, drafter_gpus=gpus)
        (one,) = forecasts(question, [layout])
        search._add(question, found, one, 60)
    return [(one.layout.drafter_gpus, [it.drafter_gpus for it in one.with_idle]) for one in found]


def test_what_would_be_idle_is_not_simulated(monkeypatch):
    simulated = []
    confirm = search.confirm

    def counted(question, one, requests):
        simulated.append(one.layout.drafter_gpus)
        return confirm(question, one, requests)

    monkeypatch.setattr(search, "confirm", counted)
    assert added(ASKED, 1, 2, 4) == [(1, [2, 4])]
    assert simulated == [1]
    # Simulated when they come first, and then not shown.
    assert added(ASKED, 4, 1, 2) == [(1, [4, 2])]
    assert simulated == [1, 4, 1]


def test_drafters_that_are_all_at_work_are_not_idle():
    """Where texts wait for the one drafter of one GPU, a second one is worth its GPU."""
    question = dataclasses.replace(ASKED, drafters_per_gpu=1, drafter_ns=10 * MS, rate_per_s=1.0)
    assert added(question, 1, 2)[0] == (1, [])
    # On the target's GPUs a drafter takes its time from the target, though a request that is alone
    # does not notice.
    assert added(dataclasses.replace(question, rate_per_s=None), 0, 1) == [(0, []), (1, [])]
