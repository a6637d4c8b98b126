"""The engines agree with each other, and what they do makes sense."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dsim.engines import vector
from dsim.engines.simulate import COUNTS, Outcome, run_events, simulate_case
from dsim.engines.vector import Timing
from dsim.events.trace import rejections, spans
from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency
from tests import plain
from tests.strategies import case_of, draws, timings

ALGORITHMS = ("nonsi", "si", "dsi")


def everything(outcome: Outcome):
    fields = [f.name for f in dataclasses.fields(outcome) if f.name not in ("algorithm", "engine")]
    return {name: np.asarray(getattr(outcome, name)).tolist() for name in fields}


@given(timings(), draws())
@example(  # the drafter is behind at the prefill, and only there
    Timing(
        drafter_ns=1,
        target_ns=3,
        lookahead=2,
        targets=2,
        drafter_first_ns=9,
        target_first_ns=4,
    ),
    np.array([[True] * 8]),
)
def test_the_vector_engine_equals_the_event_engine(timing, accepts):
    """Settle time by settle time, and every count."""
    case = case_of(timing, accepts)
    for algorithm in ALGORITHMS:
        by_events = simulate_case(case, algorithm, "events")
        assert everything(simulate_case(case, algorithm, "vector")) == everything(by_events)


@given(timings(), draws(), st.booleans())
@example(  # the cancelled pass holds one of the two servers until 8
    Timing(drafter_ns=1, target_ns=3, lookahead=2, targets=2),
    np.array([[False, True, True]]),
    False,
)
def test_the_event_engine_equals_the_rules_written_plainly(timing, accepts, preemptible):
    """Preemptible or not, with or without first-token latencies."""
    case = case_of(timing, accepts, preemptible=preemptible)
    for algorithm in ALGORITHMS:
        outcome = simulate_case(case, algorithm, "events")
        for r, row in enumerate(accepts.tolist()):
            times, passes, wasted, drafts = plain.settle_times(
                algorithm, timing, row, preemptible=preemptible
            )
            assert outcome.settled_ns[r].tolist() == times
            assert int(outcome.target_passes[r]) == passes
            assert int(outcome.wasted_passes[r]) == wasted
            assert int(outcome.drafts[r]) == drafts


@st.composite
def patient(draw):
    """Timings with blocks and patience; the prompt is cached."""
    more = {"block_tokens": draw(st.integers(1, 3)), "patience": draw(st.integers(0, 5))}
    return dataclasses.replace(draw(timings(first=False)), **more)


@given(
    st.lists(timings(), min_size=1, max_size=6) | st.lists(patient(), min_size=1, max_size=6),
    draws(most_tokens=40),
)
def test_timings_side_by_side_equal_timings_alone(many, accepts):
    branches = vector.Branches.of(accepts)
    for algorithm in (*ALGORITHMS, "pipespec"):
        together = vector.form_of(algorithm).totals(many, branches)
        latency = together.latency_ns()
        for i, timing in enumerate(many):
            alone = vector.form_of(algorithm).totals([timing], branches)
            assert (latency[i] == alone.latency_ns()[0]).all()
            for name in COUNTS:
                row = getattr(together, name)[together.row[i]]
                assert (row == getattr(alone, name)[alone.row[0]]).all()


@given(timings(first=False), st.integers(0, 2**32), st.sampled_from([0.0, 0.5, 0.9, 0.99]))
def test_long_texts(timing, seed, rate):
    """Branches far from the end of the text take the way of the histogram."""
    accepts = np.random.default_rng(seed).random((2, 150)) < rate
    case = case_of(timing, accepts)
    for algorithm in ("si", "dsi"):
        by_events = simulate_case(case, algorithm, "events")
        assert everything(simulate_case(case, algorithm, "vector")) == everything(by_events)


@pytest.mark.parametrize("spread", [0.0, 0.1])
def test_repeats_are_simulated_in_parts_that_make_no_difference(monkeypatch, spread):
    case = dataclasses.replace(
        case_of(Timing(drafter_ns=2, target_ns=9, lookahead=3, targets=2), np.ones((1, 50), bool)),
        acceptance=Acceptance(rate=0.7, spread=spread),
        repeats=7,
    )
    done: list[int] = []
    whole = simulate_case(case, "dsi", "vector", done.append)
    assert done == [7]
    monkeypatch.setattr("dsim.engines.simulate.PART_TOKENS", 120)  # two repeats
    in_parts = simulate_case(case, "dsi", "vector", done.append)
    assert done == [7, 2, 4, 6, 7]
    assert everything(in_parts) == everything(whole)
    assert everything(simulate_case(case, "dsi", "events", done.append)) == everything(whole)
    assert done[5:] == [1, 2, 3, 4, 5, 6, 7]


def test_many_kinds_of_branches_are_summed_in_pieces(monkeypatch):
    monkeypatch.setattr("dsim.engines.vector.branches.KINDS_AT_ONCE", 3)
    monkeypatch.setattr("dsim.engines.vector.overlapping.SCHEDULES_AT_ONCE", 2)
    accepts = np.random.default_rng(5).random((4, 60)) < 0.8
    many = [
        Timing(drafter_ns=t1, target_ns=10, lookahead=k, targets=s)
        for t1 in (1, 3, 7)
        for k in (1, 4)
        for s in (1, 2, 9)
    ]
    totals = vector.form_of("dsi").totals(many, vector.Branches.of(accepts))
    for i, timing in enumerate(many):
        by_events = simulate_case(case_of(timing, accepts), "dsi", "events")
        assert (totals.latency_ns(slice(i, i + 1))[0] == by_events.latency_ns).all()


@st.composite
def any_case(draw):
    """Cases for the event engine: preemptible or not, random and width-dependent latencies."""
    case = case_of(draw(timings()), draw(draws()), preemptible=draw(st.booleans()))
    models = st.sampled_from(
        [
            {},
            {"model": "lognormal", "cv": 0.5, "latency_ns": 20},
            {"model": "gamma", "cv": 0.7, "latency_ns": 20},
            {"model": "empirical", "samples_ns": (3, 3, 8, 30)},
            {"model": "table", "table": ((1, 5), (4, 9), (8, 30))},
        ]
    )
    return dataclasses.replace(
        case,
        target=dataclasses.replace(case.target, **draw(models)),
        drafter=dataclasses.replace(case.drafter, **draw(models)),
    )


@given(any_case())
def test_what_must_always_hold(case):
    for algorithm in ALGORITHMS:
        run = run_events(case, algorithm, 0, keep_history=True)
        output, target, drafter = run.output, run.target, run.drafter
        # Every position settles once, in order, and nothing else does.
        assert output.settled == len(output.settled_ns) == len(output.tokens) == case.tokens
        assert output.settled_ns == sorted(output.settled_ns)
        # No server does two things at once.
        busy_until: dict[tuple[str, int], int] = {}
        over_ns = output.settled_ns[-1]
        for forward in [*target.history, *drafter.history]:
            server = (forward.servers.role, forward.server)
            assert forward.start_ns >= busy_until.get(server, 0)
            busy_until[server] = over_ns + 1 if forward.end_ns < 0 else forward.end_ns
        assert all(f.server < case.targets for f in target.history)
        # Passes are useful or wasted; a useful one settles something.
        passes = [f for f in target.history if f.is_pass]
        assert len(passes) == target.begun
        assert sum(f.cancelled for f in passes) == target.cancelled
        assert 1 <= target.begun - target.cancelled <= case.tokens
        # Drafts are in the output or wasted.
        assert 0 <= output.accepted <= drafter.begun
        assert len(drafter.history) == drafter.begun
        # The output has the draws that it should have: it is what the target alone would say.
        accepted = case.acceptance.draws(0, 1, case.tokens)[0]
        if algorithm != "nonsi":
            assert output.accepted <= int(accepted[:-1].sum())


@given(any_case())
def test_a_history_changes_nothing(case):
    for algorithm in ALGORITHMS:
        plain, kept = (run_events(case, algorithm, 0, keep_history=k) for k in (False, True))
        assert plain.output.settled_ns == kept.output.settled_ns
        assert plain.counts == kept.counts


@given(any_case())
def test_the_timeline_accounts_for_every_draft(case):
    for algorithm in ("si", "dsi"):
        run = run_events(case, algorithm, 0, keep_history=True)
        rows = spans(run.output, run.drafter, run.target)
        fates = [row["fate"] for row in rows]
        assert fates.count("draft, accepted") == run.output.accepted
        assert len(rejections(run.output)) == len(run.output.rejections)
        assert all(0 <= row["start_ns"] <= row["end_ns"] for row in rows)


def test_a_timeline_by_hand():
    """t1 = 3, t2 = 10, k = 2, draws 110111, S = 3 (see test_spec): the rejection is at 16."""
    timing = Timing(drafter_ns=3, target_ns=10, lookahead=2, targets=3)
    case = case_of(timing, np.array([[c == "1" for c in "110111"]]))
    run = run_events(case, "dsi", 0, keep_history=True)
    rows = [
        (row["lane"], row["start_ns"], row["end_ns"], row["fate"])
        for row in spans(run.output, run.drafter, run.target)
    ]
    assert sorted(rows) == sorted(
        [
            ("target 1", 0, 10, "pass"),
            ("target 2", 6, 16, "pass"),
            ("target 1", 12, 16, "cancelled"),
            ("target 3", 15, 16, "cancelled"),
            ("target 3", 16, 26, "pass"),
            ("target 1", 22, 32, "pass"),
            ("drafter", 0, 3, "draft, accepted"),
            ("drafter", 3, 6, "draft, accepted"),
            ("drafter", 6, 9, "draft, rejected"),
            ("drafter", 9, 12, "draft, rejected"),
            ("drafter", 12, 15, "draft, rejected"),
            ("drafter", 16, 19, "draft, accepted"),
            ("drafter", 19, 22, "draft, accepted"),
        ]
    )
    assert rejections(run.output) == [{"time_ns": 16, "what": "draft of token 2 rejected"}]


def test_the_vector_engine_says_what_it_does_not_take():
    timing = Timing(drafter_ns=1, target_ns=2)
    case = case_of(timing, np.array([[True, False]]), preemptible=False)
    with pytest.raises(ValueError, match="constant latencies, preemptible servers and a fixed"):
        simulate_case(case, "dsi", "vector")
    random = dataclasses.replace(case, preemptible=True, target=Latency(model="gamma", cv=1.0))
    with pytest.raises(ValueError, match="constant latencies"):
        simulate_case(random, "dsi", "vector")
    assert simulate_case(random, "dsi").engine == "events"


# Scheduled events per settled token; every one costs time. A case that needs more than before has
# to have a reason.
BUDGET = [
    ("nonsi", 0.0, 1, 1, 1.01),
    ("si", 0.8, 5, 1, 1.66),  # drafts and passes
    ("dsi", 1.0, 5, 7, 1.21),  # a draft a token, a pass for five
    ("dsi", 0.8, 5, 7, 4.5),
    ("dsi", 0.0, 5, 7, 15.01),  # a token: eleven drafts, three passes, one word to the drafter
    ("pearl", 0.8, 10, 1, 4.2),
    ("pearl", 0.0, 10, 1, 11.0),  # a token: ten drafts, a pass
    ("pipespec", 0.8, 5, 1, 4.15),
    ("pipespec", 0.0, 5, 1, 16.0),  # a token: fourteen drafts, a pass, one turn at its end
    ("ssd", 0.8, 5, 1, 2.95),
    ("ssd", 0.0, 5, 1, 12.0),  # a token: six forwards of the guessing, five drafts, a pass
]


@pytest.mark.parametrize(("algorithm", "rate", "lookahead", "targets", "budget"), BUDGET)
def test_event_budget(algorithm, rate, lookahead, targets, budget):
    tokens = 4000
    accepts = np.random.default_rng(1).random((1, tokens)) < rate
    timing = Timing(drafter_ns=1, target_ns=10, lookahead=lookahead, targets=targets)
    run = run_events(case_of(timing, accepts), algorithm, 0)
    assert run.events / tokens <= budget
    # No more than the forwards, the start of a process, and one wake-up for each rejection, or for
    # each pass that ends together with a draft.
    forwards = run.target.begun + run.drafter.begun
    turns = run.target.begun if algorithm == "pipespec" else len(run.output.rejections)
    assert run.events <= forwards + turns + 3
