"""What ``dsim advise`` says would change its answer."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest

from dsim.tasks.advise import sensitivity as module
from dsim.tasks.advise.layouts import Layout
from dsim.tasks.advise.question import Question
from dsim.tasks.advise.sensitivity import FACTORS, GAINS, RATES, sensitivity, what_ifs

MS = 1_000_000
ASKED = Question(target_ns=30 * MS, drafter_ns=3 * MS, acceptance=0.8, gpus=4, tokens=40)
SI = Layout(algorithm="si", lookahead=3, targets=2, degree=2, drafter_gpus=0)


def changed(question):
    """The one thing in which *question* differs from :data:`ASKED`."""
    before, after = dataclasses.asdict(ASKED), dataclasses.asdict(question)
    ((name, value),) = {name: after[name] for name in after if after[name] != before[name]}.items()
    return name, value


@pytest.mark.parametrize("several", [False, True])
def test_one_thing_at_a_time_ever_further_from_what_was_asked(several):
    seen = {}
    for direction in what_ifs(ASKED, several_degrees=several):
        names, values = zip(*(changed(one.question) for one in direction), strict=True)
        assert len({*names}) == 1
        given = getattr(ASKED, names[0])
        far = [abs(value / given - 1) for value in values]
        assert far == sorted(far)
        assert len({value > given for value in values}) == 1  # one direction only
        seen.setdefault(names[0], set()).update(values)
    assert seen.pop("acceptance") == {*RATES} - {0.8}
    assert seen.pop("drafter_ns") == {round(3 * MS * f) for x in FACTORS for f in (x, 1 / x)}
    assert seen == ({"tp_gain": {*GAINS} - {1.7}} if several else {})


def found(monkeypatch, best):
    """The sentences where *best* says which algorithm is the best one for a question."""
    monkeypatch.setattr(module, "forecasts", lambda *_: [])
    monkeypatch.setattr(module, "corrections", lambda *_: {})
    for name in ("corrected", "favoured"):
        monkeypatch.setattr(module, name, lambda one, _: one)
    monkeypatch.setattr(module, "best_algorithm", lambda question, _: best(question))
    steps = []
    expected = [SimpleNamespace(layout=SI)]
    said = sensitivity(ASKED, expected, expected, steps.append)
    assert steps == [*range(1, len(steps) + 1)]
    return said, len(steps)


def test_the_nearest_change_is_said_and_nothing_beyond_it(monkeypatch):
    def best(question):
        if question.acceptance < 0.62 or question.drafter_ns < MS:
            return "nonsi"
        return None if question.tp_gain > 1.7 else "si"

    said, tried = found(monkeypatch, best)
    assert said == [
        "At an acceptance rate of 0.6 or less, the answer would probably be non-SI.",
        "With drafts 4 times as fast (0.75 ms each), the answer would probably be non-SI.",
        "With passes 2 times as fast on twice the GPUs (--tp-gain), the answer would probably be "
        "that no layout sustains this load.",
    ]
    # 0.75, 0.7, 0.65, 0.6; 0.85 … 1; slower; faster; the gains below; above.
    assert tried == 4 + 4 + 4 + 3 + 4 + 1


def test_where_nothing_changes_the_answer_that_is_said(monkeypatch):
    (said,), tried = found(monkeypatch, lambda _: "si")
    assert said == (
        "No other acceptance rate, no drafts up to 8 times as fast or as slow, and no other gain "
        "by more GPUs for a pass would change the algorithm."
    )
    assert tried == 20 + 8 + 5


def test_estimates_that_contradict_the_simulation_are_a_close_call(monkeypatch):
    (said,), tried = found(monkeypatch, lambda _: "nonsi")
    assert said.startswith("Close call: the analytical estimate favours non-SI, the simulation SI,")
    assert tried == 0  # the estimates of the question itself are there
