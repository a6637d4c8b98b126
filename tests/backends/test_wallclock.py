"""The wall-clock backend: the same runs as simulated ones, but in real time."""

from __future__ import annotations

import dataclasses
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.backends.wallclock import Waiters, run_wallclock
from dsim.engines.simulate import run_events
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency

pytestmark = pytest.mark.wallclock

MS = 1_000_000


def case_of(
    accepts: str,
    *,
    lookahead: int,
    targets: int,
    t1: int = MS // 2,
    t2: int = 2 * MS,
    preemptible: bool = False,
):
    return Case(
        tokens=len(accepts),
        lookahead=lookahead,
        targets=targets,
        drafter=Latency(latency_ns=t1),
        target=Latency(latency_ns=t2),
        acceptance=Acceptance(model="trace", traces=(accepts,)),
        repeats=1,
        seed=0,
        preemptible=preemptible,
    )


@pytest.fixture(scope="module")
def waiters():
    with Waiters(3) as threads:
        yield threads


@settings(max_examples=25, deadline=None)
@given(
    accepts=st.text("01", min_size=1, max_size=12),
    lookahead=st.integers(1, 4),
    targets=st.integers(1, 3),
    algorithm=st.sampled_from(["nonsi", "si", "dsi"]),
    preemptible=st.booleans(),
)
def test_real_waits_never_beat_the_simulation(
    waiters, accepts: str, lookahead: int, targets: int, algorithm: str, preemptible: bool
) -> None:
    case = case_of(accepts, lookahead=lookahead, targets=targets, preemptible=preemptible)
    live = run_wallclock(case, algorithm, 0, waiters)
    simulated = run_events(case, algorithm, 0)
    assert len(live.output.settled_ns) == case.tokens
    assert live.output.settled_ns == sorted(live.output.settled_ns)
    if algorithm != "dsi":  # which of several servers gets a pass is a matter of chance in DSI
        assert live.counts == simulated.counts
        waits = zip(live.output.settled_ns, simulated.output.settled_ns, strict=True)
        assert all(real >= ideal for real, ideal in waits)
    assert all(line.forward is None for line in waiters.lines)  # drained


@settings(max_examples=10, deadline=None)
@given(
    acceptance=st.sampled_from(
        [
            Acceptance(by_depth=(0.7, 0.1)),
            Acceptance(model="lookup", copied_tokens=3, new_tokens=2, chance_match=0.5),
            Acceptance(rate=0.4, rank_shares=(0.6, 0.3)),
        ]
    ),
    algorithm=st.sampled_from(["si", "pearl", "tree"]),
    seed=st.integers(0, 9),
)
def test_ranks_depths_and_positions_without_a_draft_count(
    waiters, acceptance, algorithm, seed
) -> None:
    case = dataclasses.replace(
        case_of("1" * 12, lookahead=3, targets=1), acceptance=acceptance, seed=seed
    )
    live = run_wallclock(case, algorithm, 0, waiters)
    simulated = run_events(case, algorithm, 0)
    assert live.counts == simulated.counts
    assert live.output.rejections == simulated.output.rejections


@settings(max_examples=10, deadline=None)
@given(accepts=st.text("01", min_size=1, max_size=10), lookahead=st.integers(1, 4))
def test_the_text_settles_by_the_draws(waiters, accepts: str, lookahead: int) -> None:
    # Every token that settled as a draft is one that the draws accept.
    live = run_wallclock(case_of(accepts, lookahead=lookahead, targets=2), "dsi", 0, waiters)
    output = live.output
    assert output.accepted <= accepts[:-1].count("1")
    assert all(accepts[position] == "0" for position in output.rejections)


def test_a_cancelled_wait_is_ended_where_servers_are_preemptible(waiters) -> None:
    # No draft is accepted: at the end the drafter is at a draft that would take much longer.
    slow = case_of("00", lookahead=1, targets=1, t1=300 * MS, t2=MS, preemptible=True)
    dropped = waiters.drafter.dropped
    run_wallclock(slow, "dsi", 0, waiters)
    assert waiters.drafter.dropped == dropped  # it never came to its end
    assert all(line.forward is None for line in waiters.lines)
    # And whatever it might have said late disturbs nobody.
    again = run_wallclock(case_of("11", lookahead=1, targets=1), "si", 0, waiters)
    assert again.counts == run_events(case_of("11", lookahead=1, targets=1), "si", 0).counts


def test_a_preempted_server_serves_the_next_branch_at_once(waiters) -> None:
    # Both servers are at passes of the branch that dies when its second draft is rejected. The new
    # branch's first pass takes the place of one of them, or else has to wait for its end.
    times = {"t1": 4 * MS, "t2": 30 * MS}
    ends = {}
    for preemptible in (True, False):
        case = case_of("1010", lookahead=1, targets=2, preemptible=preemptible, **times)
        live = run_wallclock(case, "dsi", 0, waiters)
        ends[preemptible] = live.output.settled_ns[-1]
        assert ends[preemptible] >= run_events(case, "dsi", 0).output.settled_ns[-1]
        assert live.target.cancelled > 0
    assert ends[True] < ends[False]


def test_overshoot_and_handover_are_noted(waiters) -> None:
    run = run_wallclock(case_of("1111", lookahead=1, targets=1), "si", 0, waiters)
    # Two rounds of a draft and a pass, all waited for to their ends.
    assert len(run.oversleep_ns) == len(run.handover_ns) == run.counts[0] + run.counts[2]
    assert min(run.oversleep_ns) >= 0
    assert min(run.handover_ns) >= 0
    # Nothing overlaps in SI: what a run takes longer is what its waits overshot.
    ideal = run_events(case_of("1111", lookahead=1, targets=1), "si", 0).output.settled_ns[-1]
    assert run.output.settled_ns[-1] == ideal + sum(run.oversleep_ns)


def test_too_few_waiters() -> None:
    with Waiters(1) as waiters, pytest.raises(ValueError, match="2 target servers, but 1"):
        run_wallclock(case_of("11", lookahead=1, targets=2), "dsi", 0, waiters)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    with Waiters(2) as waiters:
        assert threading.active_count() == before + 3
        run_wallclock(case_of("1011", lookahead=2, targets=2), "dsi", 0, waiters)
    assert threading.active_count() == before
