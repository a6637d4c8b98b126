"""Multi-drafter DSI: with one drafter it is DSI; what further ones add, and what they can cost."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.backends.simulated import Simulated
from dsim.backends.wallclock import Waiters, run_wallclock
from dsim.engines.simulate import COUNTS, run_events, simulate_case
from dsim.engines.vector import Timing
from dsim.errors import UserError
from dsim.events.environment import Environment
from dsim.events.output import Output
from dsim.events.trace import spans
from dsim.model.acceptance import Uniforms
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.model.lookahead import Plan
from dsim.orchestrations import ORCHESTRATIONS, Orchestration, register
from dsim.orchestrations.start import start
from dsim.study import checks
from dsim.study import loader as study
from dsim.study.settings import BY_KEY
from dsim.tasks import waits as realtime
from dsim.tasks.simulate import as_text
from tests.strategies import case_of, draws, policies, timings


def run(latencies, target, accepts, *, k=1, servers=9, preemptible=True):
    """Settle times and the passes (begin, first position, end) of drafters, the fastest first."""
    env = Environment()
    output = Output(env, len(accepts[0]))
    guessing = [
        Simulated(env, ns, (), [0 if right else number for right in row], preemptible=preemptible)
        for number, (ns, row) in enumerate(zip(latencies, accepts, strict=True), 1)
    ]
    _, pool = start(
        "multidsi",
        env,
        output,
        drafter_backends=guessing,
        target_backend=Simulated(env, target, preemptible=preemptible),
        plan=Plan(k),
        targets=servers,
        keep_history=True,
    )
    env.run(until=output.done)
    return output.settled_ns, [(f.start_ns, f.first, f.end) for f in pool.history]


def bits(text):
    return [c == "1" for c in text]


def test_another_drafter_takes_over_by_hand():
    """Drafts of 1 and 3, passes of 10, k = 9.

    At 10 the first draft is rejected. The other drafter has been right three times by then (at 3,
    6, 9), so the next pass covers three tokens, and the first goes on behind them: it is at its
    end at 12.
    """
    settled, passes = run([1, 3], 10, [bits("011111"), bits("111111")], k=9)
    assert passes == [(0, 0, 0), (5, 0, 5), (10, 1, 3), (12, 1, 5)]
    assert settled == [10, 20, 20, 20, 22, 22]
    alone, passes = run([1], 10, [bits("011111")], k=9)
    assert passes == [(0, 0, 0), (5, 0, 5), (10, 1, 1), (14, 1, 5)]
    assert alone == [10, 20, 24, 24, 24, 24]


def test_a_chain_that_is_wrong_starts_anew_behind_the_settled_text_by_hand():
    """The other drafter is wrong at once; at 10 it begins at position 1, and at 20 it is right.

    Its drafts of positions 1 and 2 end at 14 and 18. The first draft of position 1 is rejected at
    20; so the pass then covers positions 0 to 2.
    """
    settled, passes = run([1, 4], 10, [bits("000111"), bits("011111")], k=9)
    assert passes == [(0, 0, 0), (5, 0, 5), (10, 1, 1), (14, 1, 5), (20, 2, 3), (22, 2, 5)]
    assert settled == [10, 20, 30, 30, 32, 32]


def test_of_several_chains_the_longest_takes_over_by_hand():
    """Drafters of 4 and 3 behind one of 1 (as one would not sort them): 2 and 3 drafts by 10."""
    rows = [bits("011111"), bits("111111"), bits("111111")]
    assert run([1, 4, 3], 10, rows, k=9)[1][2] == (10, 1, 3)
    assert run([1, 4, 4], 10, rows, k=9)[1][2] == (10, 1, 2)


def test_a_chain_that_ends_where_the_settled_text_ends_lives_on_by_hand():
    """Drafts of 1 and 4, passes of 6, k = 9; the first drafter is always wrong, the other never.

    At 6 position 0 settles, which is all that the other has drafted (at 4). Its chain agrees, so it
    goes on: positions 1 and 2 are drafted at 8 and 12. At 12 the first is wrong about position 1,
    and the other takes over with position 2.
    """
    settled, passes = run([1, 4], 6, [bits("0000"), bits("1111")], k=9)
    assert passes == [(0, 0, 0), (3, 0, 3), (6, 1, 1), (8, 1, 3), (12, 2, 3)]
    assert settled == [6, 12, 18, 18]


def test_without_further_drafters_it_says_so():
    case = case_of(Timing(drafter_ns=1, target_ns=6), np.array([[True] * 4]))
    outcomes = [simulate_case(case, name) for name in ("nonsi", "multidsi")]
    note = "multi-drafter DSI has no further drafters here, so only the first one drafts"
    assert note in as_text(case, outcomes)
    more = (MoreDrafter(latency=Latency(latency_ns=4), rate=0.5),)
    assert note not in as_text(dataclasses.replace(case, more_drafters=more), outcomes)
    assert note not in as_text(case, outcomes[:1])


def test_the_smallest_case_in_which_a_further_drafter_does_harm():
    """It takes over with a draft that is wrong where the first drafter's would have been right."""
    first, other = bits("010"), bits("100")
    assert run([1], 2, [first], servers=2)[0] == [2, 4, 5]
    assert run([1, 1], 2, [first, other], servers=2)[0] == [2, 4, 6]


@given(timings(), draws(), st.booleans(), policies())
def test_with_one_drafter_it_is_dsi(timing, accepts, preemptible, policy):
    """Settle time by settle time, in every count, and in every event."""
    case = dataclasses.replace(case_of(timing, accepts, preemptible=preemptible), policy=policy)
    dsi, multi = (simulate_case(case, name, "events") for name in ("dsi", "multidsi"))
    for name in ("settled_ns", *COUNTS):
        assert getattr(dsi, name).tolist() == getattr(multi, name).tolist()


@st.composite
def several(draw, *, nested):
    """Latencies (sorted), draws (drafter by drafter) of up to 4 drafters, and the rest."""
    target = draw(st.integers(1, 12))
    first = draw(st.integers(1, target))
    more = draw(st.lists(st.integers(first, 14), min_size=1, max_size=3))
    tokens = draw(st.integers(1, 12))
    row = st.lists(st.integers(0, 3).map(bool), min_size=tokens, max_size=tokens)
    rows = draw(st.lists(row, min_size=1 + len(more), max_size=1 + len(more)))
    if nested:
        rows = np.logical_or.accumulate(np.array(rows), axis=0).tolist()
    rest = {"k": draw(st.integers(1, 5)), "servers": draw(st.integers(1, 5))}
    return [first, *sorted(more)], target, rows, rest


@given(several(nested=True))
def test_better_drafters_never_slow_the_first(case):
    """Where each is right wherever the one before it is: position by position, for any k and S."""
    latencies, target, rows, rest = case
    several = run(latencies, target, rows, **rest)[0]
    alone = run(latencies[:1], target, rows[:1], **rest)[0]
    assert all(a <= b for a, b in zip(several, alone, strict=True))


@given(several(nested=False), st.booleans())
def test_it_is_never_slower_than_nonsi(case, preemptible):
    """Whatever the drafters do; and every token settles once, in order, not before a pass."""
    latencies, target, rows, rest = case
    settled, passes = run(latencies, target, rows, preemptible=preemptible, **rest)
    assert len(settled) == len(rows[0])
    assert settled == sorted(settled)
    assert settled[0] == target
    if preemptible:
        assert all(ns <= target * (i + 1) for i, ns in enumerate(settled))
    for begin, first, end in passes:
        assert first <= end < len(settled)
        before, by_then = (sum(test(ns) for ns in settled) for test in (begin.__gt__, begin.__ge__))
        assert before <= first <= by_then  # over a prefix that is settled


@pytest.mark.parametrize("overlap", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("rate", [0.3, 0.7, 0.9])
def test_draws_of_further_drafters(rate, overlap):
    """They keep their rate, and overlap as much as is said."""
    first = Uniforms(5, 0).next(100_000) < 0.7
    more = MoreDrafter(latency=Latency(), rate=rate, overlap=overlap)
    drawn = more.draws(first, 0.7, 5, 0, 0)
    assert drawn.mean() == pytest.approx(rate, abs=0.008)
    better = first if rate < 0.7 else drawn
    worse = drawn if rate < 0.7 else first
    wrong = (worse & ~better).mean()  # never, where they share their draws
    independent = min(rate, 0.7) * (1 - max(rate, 0.7))
    assert wrong == pytest.approx((1 - overlap) * independent, abs=0.005)
    assert (more.draws(first[:50], 0.7, 5, 0, 0) == drawn[:50]).all()
    assert (more.draws(first, 0.7, 5, 0, 1) != drawn).any() or overlap == 1.0


SETTINGS = {
    "tokens": 60,
    "repeats": 20,
    "target.latency_ms": 30.0,
    "drafter.latency_ms": 3.0,
    "acceptance.rate": 0.6,
    "algorithms": ["dsi", "multidsi"],
    "more_drafters.latency_ms": [9.0, 15.0],
    "more_drafters.acceptance_rate": [0.9, 0.95],
}


def test_a_better_drafter_helps_and_its_drafts_are_counted():
    case = study.make_case(SETTINGS)
    dsi, multi = simulate_case(case, "dsi"), simulate_case(case, "multidsi")
    assert multi.engine == "events"
    assert multi.latency_ns.mean() < 0.8 * dsi.latency_ns.mean()
    done = run_events(case, "multidsi", 0, keep_history=True)
    drafters = (done.drafter, *done.more_drafters)
    assert done.counts[2] == sum(one.begun for one in drafters)
    lanes = {row["lane"] for row in spans(done.output, *drafters, done.target)}
    assert {"drafter", "drafter 2", "drafter 3", "target 1"} <= lanes


def test_the_fastest_leads_however_they_are_given():
    swapped = SETTINGS | {
        "drafter.latency_ms": 9.0,
        "acceptance.rate": 0.9,
        "more_drafters.latency_ms": 3.0,
        "more_drafters.acceptance_rate": 0.6,
    }
    done = run_events(study.make_case(swapped), "multidsi", 0, keep_history=True)
    assert done.drafter.history[0].end_ns == 3_000_000


MISTAKES = {
    "missing": (
        {"more_drafters.latency_ms": None},
        "latency_ms: is missing: the algorithms",
    ),
    "different": ({"more_drafters.latency_ms": 4.0}, "acceptance_rate: expected one for each of"),
    "no rate": ({"more_drafters.acceptance_rate": [0.5, 1.5]}, "a number from 0 to 1, got 1.5"),
    "vector": ({"engine": "vector"}, 'but algorithms has "multidsi"'),
    "name": ({"algorithms": ["multdsi"]}, 'did you mean "multidsi"'),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    more, message = MISTAKES[name]
    settings = {k: v for k, v in (SETTINGS | more).items() if v is not None}
    with pytest.raises(UserError) as caught:
        study.make_study(settings)
    assert message in str(caught.value)


def test_orchestrations_read_settings_that_there_are():
    for orchestration in ORCHESTRATIONS.values():
        assert set(orchestration.reads) <= set(BY_KEY)
        assert callable(orchestration.starter())


def test_an_orchestration_of_ones_own():
    """As docs/orchestrations.md tells it."""
    mine = Orchestration(
        name="half",
        title="half",
        colour="#123456",
        meaning="for this test",
        start="tests.orchestrations.test_multidsi:start_mine",
    )
    register(mine)
    try:
        with pytest.raises(ValueError, match="'half' already"):
            register(mine)
        case = case_of(Timing(drafter_ns=3, target_ns=10), np.array([bits("1111")]))
        outcome = simulate_case(case, "half")
        assert (outcome.engine, outcome.settled_ns[0].tolist()) == ("events", [10, 20, 30, 40])
        assert checks._needs_events({"algorithms": [["half"]]}) == 'algorithms has "half"'
        case = study.make_case({"tokens": 2, "repeats": 1, "target.latency_ms": 2.0, "targets": 3})
        with Waiters(1) as waiters:
            found = realtime.measure(case, "half", waiters)
        assert 4.0 in found  # simulated
        again = dataclasses.replace(case, targets=2, lookahead=9)
        assert realtime._read_by("half", again) == realtime._read_by("half", case)
    finally:
        del ORCHESTRATIONS["half"]


def start_mine(setup):
    def process():
        target, output = setup.target(), setup.output
        while not output.finished:
            forward = target.forward(output.settled)
            yield forward
            _, token = target.backend.verify(forward, output.settled, ())
            output.settle(0, token)

    setup.env.process(process())


def test_it_does_not_run_in_real_time():
    with pytest.raises(UserError, match="algorithms: multi-drafter DSI is simulated only"):
        realtime.check(study.make_study(SETTINGS | {"tokens": 2, "repeats": 1}))
    with Waiters(1) as waiters, pytest.raises(ValueError, match="simulated only"):
        run_wallclock(study.make_case(SETTINGS), "multidsi", 0, waiters)


def test_cases_with_too_many_targets_are_left_out():
    from dsim.study.grid import run_grid

    few = run_grid(study.make_study(SETTINGS | {"targets": 9, "max_targets": 8}))
    assert (few.left_out, len(few.table)) == (2, 0)
