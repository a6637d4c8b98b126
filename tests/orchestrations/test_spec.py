"""The rules and theorems of docs/model.md."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dsim.engines import vector
from dsim.engines.simulate import COUNTS, simulate_case
from dsim.engines.vector import Timing
from dsim.model import closed_forms as theory
from dsim.model.acceptance import Acceptance
from dsim.orchestrations import orchestration_of
from dsim.tasks.simulate import case_in, study_from
from tests.strategies import case_of, draws, timings

ENGINES = ("events", "vector")

# t1 = 3, t2 = 10, N = 6, many servers: draws, lookahead, then non-SI, SI, DSI.
WORKED = """
111111 1 60 39 25
111111 2 60 32 25
111111 3 60 32 25
000000 1 60 75 60
000000 2 60 87 60
000000 3 60 96 60
110111 1 60 49 32
110111 2 60 32 32
110111 3 60 35 35
101101 1 60 49 39
101101 2 60 42 42
101101 3 60 48 48
111011 1 60 39 32
111011 2 60 45 35
111011 3 60 32 32
""".strip().split("\n")


def bits(text):
    return np.array([[c == "1" for c in text]])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("line", WORKED)
def test_worked_cases(line, engine):
    accepts, lookahead, *expected = line.split()
    timing = Timing(drafter_ns=3, target_ns=10, lookahead=int(lookahead), targets=10)
    case = case_of(timing, bits(accepts))
    found = [int(simulate_case(case, a, engine).latency_ns[0]) for a in ("nonsi", "si", "dsi")]
    assert found == [int(e) for e in expected]


@pytest.mark.parametrize("engine", ENGINES)
def test_settle_times_by_hand(engine):
    """Worked out on paper: t1 = 3, t2 = 10, k = 2, draws 110111, S = 3.

    SI: drafts 0, 1 (6), pass until 16 settles 0, 1 and the target's 2. Drafts 3, 4 until 22, pass
    until 32 settles 3, 4, 5.
    DSI: pass over nothing 0-10, over two drafts 6-16, over four 12-22, over all five 15-25 (the
    last draft is made at 15, and a server is free since 10). At 10 position 0 settles (and the
    draft for it stands); at 16 positions 1 and 2, where the draft does not stand: two passes are
    cancelled. The new branch's passes: 16-26 (nothing; settles 3), 22-32 (two drafts, the last;
    settles 4 and 5).
    """
    timing = Timing(drafter_ns=3, target_ns=10, lookahead=2, targets=3)
    case = case_of(timing, bits("110111"))
    assert simulate_case(case, "nonsi", engine).settled_ns.tolist() == [[10, 20, 30, 40, 50, 60]]
    assert simulate_case(case, "si", engine).settled_ns.tolist() == [[16, 16, 16, 32, 32, 32]]
    dsi = simulate_case(case, "dsi", engine)
    assert dsi.settled_ns.tolist() == [[10, 16, 16, 26, 32, 32]]
    counts = {name: int(getattr(dsi, name)[0]) for name in COUNTS}
    assert counts == {
        "target_passes": 6,
        "wasted_passes": 2,
        "drafts": 7,
        "wasted_drafts": 3,
        "peak_targets": 3,
    }


@pytest.mark.parametrize("engine", ENGINES)
def test_too_few_servers_by_hand(engine):
    """One server, t1 = 2, t2 = 5, k = 1, all accepted, N = 8: drafts pile up.

    Passes: 0-5 over nothing, 5-10 over two drafts (made at 2, 4), 10-15 over five, 15-20 over
    seven (all). Settled: 0 at 5; 1, 2 at 10; 3, 4, 5 at 15; 6, 7 at 20.
    """
    timing = Timing(drafter_ns=2, target_ns=5, lookahead=1, targets=1)
    outcome = simulate_case(case_of(timing, bits("11111111")), "dsi", engine)
    assert outcome.settled_ns.tolist() == [[5, 10, 10, 15, 15, 15, 20, 20]]
    assert int(outcome.target_passes[0]) == 4
    assert int(outcome.peak_targets[0]) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_first_token_latency_by_hand(engine):
    """t1 = 3 (first 5), t2 = 10 (first 20), k = 2, N = 5, two servers, all accepted.

    non-SI 20 + 4·10. SI: drafts until 8, pass until 28 (three tokens); one draft until 31, pass
    until 41. DSI: at 20 position 0 settles, drafts were made at 5, 8, 11, 14 (the last); the pass
    over all four runs 20-30.
    """
    timing = Timing(
        drafter_ns=3,
        target_ns=10,
        lookahead=2,
        targets=2,
        drafter_first_ns=5,
        target_first_ns=20,
    )
    case = case_of(timing, bits("11111"))
    assert simulate_case(case, "nonsi", engine).settled_ns.tolist() == [[20, 30, 40, 50, 60]]
    assert simulate_case(case, "si", engine).settled_ns.tolist() == [[28, 28, 28, 41, 41]]
    assert simulate_case(case, "dsi", engine).settled_ns.tolist() == [[20, 30, 30, 30, 30]]


def test_not_preemptible_by_hand():
    """t1 = 3, t2 = 10, k = 1, one server, draws 011, N = 3, no preemption.

    Pass 0-10 over nothing; drafts at 3, 6 (the last). At 10 position 0 is rejected; a new branch,
    whose first pass takes the server that has just become free, 10-20, and settles position 1. The
    drafter, idle, drafts position 1 until 13. At 20 position 1 stands; the pass over it, 20-30.
    """
    timing = Timing(drafter_ns=3, target_ns=10, lookahead=1, targets=1)
    outcome = simulate_case(case_of(timing, bits("011"), preemptible=False), "dsi")
    assert outcome.engine == "events"
    assert outcome.settled_ns.tolist() == [[10, 20, 30]]


def test_not_preemptible_waits_by_hand():
    """t1 = 2, t2 = 10, k = 1, two servers, draws 0111, N = 4, no preemption.

    Passes: 0-10 over nothing, 2-12 over one draft; no server for the second and third draft (4, 6,
    the last). At 10 position 0 is rejected; the new branch's first pass takes the free server,
    10-20. The cancelled pass holds its server until 12. The drafter, idle, drafts 1, 2 at 12, 14
    (the last). At 12 the draft (first) finds no server free; then the server becomes free: a pass
    over one draft, 12-22. At 14 no server. At 20 position 1 settles, its draft stands; pass over
    two drafts 20-30. At 22 position 2 settles, its draft stands. At 30 position 3.
    """
    timing = Timing(drafter_ns=2, target_ns=10, lookahead=1, targets=2)
    outcome = simulate_case(case_of(timing, bits("0111"), preemptible=False), "dsi")
    assert outcome.settled_ns.tolist() == [[10, 20, 22, 30]]
    assert int(outcome.target_passes[0]) == 5
    assert int(outcome.wasted_passes[0]) == 1


def test_a_draft_begun_at_the_instant_of_the_rejection_has_begun():
    """t1 = 5, t2 = 10, k = 1, draws 01111, N = 5, many servers, no preemption.

    At 10 the second draft ends, the third begins, and then position 0 is rejected. The drafter is
    at the third draft until 15, and only then drafts position 1: at 20, 2 at 25, 3 at 30.
    With preemption it would draft position 1 until 15. The new branch's passes: 10-20 over
    nothing; at 20 position 1 settles, its draft, made at that instant, stands; 20-30, 25-35, 30-40.
    """
    timing = Timing(drafter_ns=5, target_ns=10, lookahead=1, targets=9)
    case = case_of(timing, bits("01111"), preemptible=False)
    assert simulate_case(case, "dsi").settled_ns.tolist() == [[10, 20, 30, 35, 40]]
    preempted = case_of(timing, bits("01111"))
    assert simulate_case(preempted, "dsi").settled_ns.tolist() == [[10, 20, 25, 30, 35]]


@given(timings(first=False), draws())
def test_dsi_is_never_slower_than_nonsi(timing, accepts):
    assume(timing.drafter_ns <= timing.target_ns)
    latency = vector.form_of("dsi").settled_ns(timing, vector.Branches.of(accepts).ranked)[:, -1]
    assert (latency <= accepts.shape[1] * timing.target_ns).all()


@given(timings(first=False), draws())
def test_a_slow_drafter_makes_dsi_nonsi(timing, accepts):
    assume(timing.drafter_ns > timing.target_ns)
    dsi = simulate_case(case_of(timing, accepts), "dsi", "events").settled_ns
    nonsi = simulate_case(case_of(timing, accepts), "nonsi", "events").settled_ns
    assert (dsi == nonsi).all()


@st.composite
def roomy(draw):
    """A timing with ``k·t1 ≤ t2`` and enough servers."""
    drafter = draw(st.integers(1, 6))
    lookahead = draw(st.integers(1, 6))
    target = draw(st.integers(lookahead * drafter, lookahead * drafter + 30))
    enough = theory.targets_enough(drafter, target, lookahead)
    return Timing(
        drafter_ns=drafter,
        target_ns=target,
        lookahead=lookahead,
        targets=enough + draw(st.integers(0, 2)),
    )


@given(roomy(), draws(runs=1))
def test_with_enough_servers_dsi_is_a_sum_over_branches(timing, accepts):
    settled, total = 0, 0
    row = accepts[0].tolist()
    while settled < len(row):
        left = len(row) - 1 - settled
        n = 0
        while n < left and row[settled + n]:
            n += 1
        total += theory.dsi_branch_ns(
            timing.drafter_ns, timing.target_ns, timing.lookahead, n, left
        )
        settled += n + 1
    assert int(simulate_case(case_of(timing, accepts), "dsi", "events").latency_ns[0]) == total


@given(roomy(), draws())
def test_with_enough_servers_dsi_is_never_slower_than_si(timing, accepts):
    case = case_of(timing, accepts)
    dsi, si = simulate_case(case, "dsi", "events"), simulate_case(case, "si", "events")
    assert (dsi.latency_ns <= si.latency_ns).all()


@given(roomy(), draws(), st.integers(1, 4))
def test_more_servers_than_enough_change_nothing(timing, accepts, more):
    few = simulate_case(case_of(timing, accepts), "dsi", "events")
    many = simulate_case(case_of(timing, accepts, targets=timing.targets + more), "dsi", "events")
    assert (few.settled_ns == many.settled_ns).all()


@given(
    drafter=st.integers(1, 6),
    target=st.integers(1, 40),
    lookahead=st.integers(1, 9),
    block_tokens=st.integers(1, 5),
    accepts=draws(runs=1, most_tokens=30),
)
def test_servers_are_enough_for_drafts_of_several_tokens(
    drafter, target, lookahead, block_tokens, accepts
):
    """A draft of 15 tokens was taken for one of one token, and 3 servers for enough."""
    enough = theory.targets_enough(drafter, target, lookahead, block_tokens)
    timing = Timing(drafter_ns=drafter, target_ns=target, lookahead=lookahead, targets=enough)
    few = dataclasses.replace(case_of(timing, accepts), block_tokens=block_tokens)
    many = dataclasses.replace(few, targets=enough + 5)
    assert (
        simulate_case(few, "dsi", "events").settled_ns
        == simulate_case(many, "dsi", "events").settled_ns
    ).all()


def test_what_dsi_says_of_its_servers_knows_blocks():
    timing = Timing(drafter_ns=1_000_000, target_ns=18_000_000, lookahead=15, targets=3)
    case = dataclasses.replace(case_of(timing, [[True] * 61]), block_tokens=15)
    words = orchestration_of("dsi").why(case, ["si"])
    assert "it keeps drafting (15 tokens every 1 ms) while target passes (18 ms each)" in words
    assert "with 19 target servers instead of 3 no pass would have to wait" in words
    enough = {"drafter.block_tokens": 15, "targets": "enough", "lookahead": 15}
    enough |= {"drafter.latency_ms": 1.0, "target.latency_ms": 18.0}
    assert case_in(study_from(enough)).targets == 19


@given(timings(), draws(), st.integers(2, 9))
def test_scaling_the_latencies_scales_the_settle_times(timing, accepts, factor):
    def times(value):
        return None if value is None else value * factor

    scaled = Timing(
        drafter_ns=timing.drafter_ns * factor,
        target_ns=timing.target_ns * factor,
        lookahead=timing.lookahead,
        targets=timing.targets,
        drafter_first_ns=times(timing.drafter_first_ns),
        target_first_ns=times(timing.target_first_ns),
    )
    for algorithm in ("nonsi", "si", "dsi"):
        plain = simulate_case(case_of(timing, accepts), algorithm, "events").settled_ns
        assert (
            simulate_case(case_of(scaled, accepts), algorithm, "events").settled_ns
            == plain * factor
        ).all()


@pytest.mark.parametrize("acceptance", [0.0, 0.3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("drafter_ns", [1, 37, 100])
def test_proposition_1(acceptance, drafter_ns):
    """Lookahead 1 and enough servers: the mean is the paper's, within Monte Carlo error."""
    tokens, repeats = 400, 400
    timing = Timing(drafter_ns=drafter_ns, target_ns=100, lookahead=1, targets=200)
    found = Acceptance(rate=acceptance).draws(7, repeats, tokens)
    latency = vector.form_of("dsi").totals([timing], vector.Branches.of(found)).latency_ns()[0]
    expected = theory.dsi_expected(drafter_ns, 100, acceptance, tokens)
    error = latency.std() / np.sqrt(repeats)
    assert abs(latency.mean() - expected) <= 4 * error + 1e-9


@pytest.mark.parametrize("acceptance", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("lookahead", [1, 4, 16])
def test_si_per_token(acceptance, lookahead):
    tokens, repeats = 4000, 60
    timing = Timing(drafter_ns=10, target_ns=100, lookahead=lookahead, targets=1)
    found = Acceptance(rate=acceptance).draws(3, repeats, tokens)
    latency = (
        vector.form_of("si").totals([timing], vector.Branches.of(found)).latency_ns()[0] / tokens
    )
    expected = theory.si_per_token(10, 100, acceptance, lookahead)
    # The last round is cut short: by less than one round in the whole text.
    slack = (lookahead * 10 + 100) / tokens
    assert abs(latency.mean() - expected) <= 4 * latency.std() / np.sqrt(repeats) + slack
