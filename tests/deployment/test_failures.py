"""Servers that fail, one case at a time, worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from dsim.deployment.outcome import DONE, LOST
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from tests.deployment.examples import two_requests


def test_what_a_failure_interrupts_is_done_elsewhere():
    faults = Faults(plan=((0, 4, 100),))
    run = two_requests(targets=FleetSpec(servers=2), faults=faults)
    # Server 0 has request 0; at 4 it fails, server 1 is free at 10 and takes the thrown-back
    # pass first, then both take turns there.
    assert run.settled_ns == [[20, 40], [10, 30]]
    assert run.target.retried == 1
    assert set(run.fate) == {DONE}


def test_a_server_is_back_when_the_last_of_its_outages_is_over():
    for plan in (((0, 4, 50), (0, 15, 16)), ((0, 4, 20), (0, 20, 50)), ((0, 4, 50),)):
        run = two_requests(faults=Faults(plan=plan))
        assert run.settled_ns == [[60, 80], [70, 90]], plan
        assert run.target.retried == 1


def test_a_server_that_is_gone_for_good_stays_away_whatever_else_fails():
    run = two_requests(faults=Faults(plan=((0, 10, -1),), mtbf_ns=5, mttr_ns=1))
    assert set(run.fate) == {LOST}
    assert set(run.target.down) == {0}


def test_what_a_failure_throws_back_goes_first():
    """Request 2 has waited since 0; request 0, whose server fails at 4, still goes before it."""
    run = serve(
        Deployment(
            algorithm="nonsi",
            target=Latency(latency_ns=10),
            targets=FleetSpec(servers=2),
            faults=Faults(plan=((0, 4, 100),)),
        ),
        Workload(arrivals="trace", trace=((0, 0, 1),) * 3),
        keep_settled=True,
    )
    assert run.settled_ns == [[20], [10], [30]]


def test_without_retry_a_failure_loses_the_request():
    faults = Faults(plan=((0, 4, 100),), retry=False)
    run = two_requests(targets=FleetSpec(servers=2), faults=faults)
    assert run.fate.tolist() == [LOST, DONE]
    assert run.settled_ns == [[], [10, 20]]


def test_servers_that_never_come_back_lose_everything():
    run = two_requests(faults=Faults(plan=((0, 15, -1),)))
    assert run.fate.tolist() == [LOST, LOST]
    assert run.settled_ns == [[10], []]


def test_users_whose_servers_never_come_back_lose_every_request():
    """Each asks again after a loss, until all requests are sent; none is forgotten."""
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(latency_ns=10),
        targets=FleetSpec(),
        faults=Faults(plan=((0, 15, -1),)),
        max_active=1,
    )
    workload = Workload(arrivals="closed", users=2, requests=5, output=Length(mean_tokens=1))
    run = serve(deployment, workload)
    assert run.fate.tolist() == [DONE, LOST, LOST, LOST, LOST]


def alone(algorithm, **more):
    """One request of 4 tokens, all drafts right; passes of 10, drafts of 3, lookahead 3."""
    deployment = Deployment(
        algorithm=algorithm,
        lookahead=3,
        target=Latency(latency_ns=10),
        drafter=Latency(latency_ns=3),
        acceptance=Acceptance(rate=1.0),
        **more,
    )
    return serve(deployment, Workload(output=Length(mean_tokens=4)), keep_settled=True)


@pytest.mark.parametrize(
    ("algorithm", "drafters", "plan", "settled", "retried"),
    [
        ("si", 1, (), [19, 19, 19, 19], 0),
        ("dsi", 1, (), [10, 19, 19, 19], 0),
        # The second draft, of 3 to 6, is lost at 4; the drafter does it again from 8 to 11.
        ("si", 1, ((0, 4, 8),), [24, 24, 24, 24], 1),
        # Another drafter server does it at once, from 4 to 7.
        ("si", 2, ((0, 4, 8),), [20, 20, 20, 20], 1),
        # DSI has one draft at 4. The pass of 0 ends at 10 and settles it; a pass over it goes out
        # then (rule 2d). The drafter, back at 8, makes two more by 14, and a pass covers them.
        ("dsi", 1, ((0, 4, 8),), [10, 20, 24, 24], 1),
        # It is not back before the end: each pass settles one token, after the first.
        ("dsi", 1, ((0, 4, 100),), [10, 20, 30, 40], 1),
        ("dsi", 1, ((0, 0, -1),), [10, 20, 30, 40], 0),
    ],
)
def test_a_drafter_that_fails_by_hand(algorithm, drafters, plan, settled, retried):
    """What it was at is done again, elsewhere or once it is back; DSI goes on meanwhile."""
    run = alone(algorithm, drafters=FleetSpec(servers=drafters), drafter_faults=Faults(plan=plan))
    assert run.settled_ns == [settled]
    assert run.drafter.retried == retried
    assert set(run.fate) == {DONE}


def test_si_is_lost_without_a_drafter_for_ever():
    """Even while targets fail and come back for ever; DSI is not."""
    forever = Faults(plan=((0, 4, -1),))
    for more in ({}, {"faults": Faults(mtbf_ns=50, mttr_ns=5)}):
        assert alone("si", drafter_faults=forever, **more).fate.tolist() == [LOST]
        assert alone("dsi", drafter_faults=forever, **more).fate.tolist() == [DONE]


def test_without_retry_a_failing_drafter_loses_the_request():
    faults = Faults(plan=((0, 4, 8),), retry=False)
    assert alone("si", drafter_faults=faults).fate.tolist() == [LOST]


# Drafts of 1 and 3, passes of 10, k = 9; six tokens; the leader's first guess is wrong. As in
# test_multidsi.py, where the single run settles at 10, 20, 20, 20, 22, 22.
SIX = {"arrivals": "trace", "trace": ((0, 0, 6),)}


def led_astray(**more):
    """The leader replays 011111; the reserve, of another pool, is always right."""
    pool = MorePool(
        drafter=MoreDrafter(latency=Latency(latency_ns=3), rate=1.0),
        servers=FleetSpec(servers=more.pop("reserves", 1)),
        faults=more.pop("reserve_faults", Faults()),
    )
    return Deployment(
        algorithm="multidsi",
        lookahead=9,
        target=Latency(latency_ns=10),
        drafter=Latency(latency_ns=1),
        acceptance=Acceptance(model="trace", traces=("011111",)),
        more_drafters=(pool,),
        **more,
    )


@pytest.mark.parametrize(
    ("plan", "settled", "retried"),
    [
        ((), [10, 20, 20, 20, 22, 22], 0),
        # Down from 4 to 5, the second draft of the reserve (3 to 6) is done again from 5 to 8: two
        # drafts at 10, so the pass of 10 covers positions 0 and 1, and settles three tokens; the
        # leader drafts positions 2, 3 and 4 by 13.
        (((0, 4, 5),), [10, 20, 20, 23, 23, 23], 1),
        # Never back: one draft, right, and no longer than what is settled at 10: as DSI alone.
        (((0, 4, -1),), [10, 20, 24, 24, 24, 24], 1),
        (((0, 0, -1),), [10, 20, 24, 24, 24, 24], 0),
    ],
)
def test_a_further_drafter_that_fails_by_hand(plan, settled, retried):
    """What it was at is done again; the text goes on without it."""
    run = serve(led_astray(reserve_faults=Faults(plan=plan)), Workload(**SIX), keep_settled=True)
    assert run.settled_ns == [settled]
    assert run.more_drafters[0].retried == retried
    assert run.drafter.retried == 0


def test_a_further_drafter_serves_one_request_at_a_time():
    """Two requests at once, a leader and S targets for each, one reserve for both.

    It takes turns: drafts end at 3 and 9 for request 0, at 6 for request 1. At 10 request 0 has
    two drafts of it, of which position 0 is settled: the pass covers 1 and it is done as if the
    reserve were slower; request 1 has none beyond what is settled.
    """
    workload = Workload(arrivals="trace", trace=((0, 0, 6), (0, 0, 6)))
    more = {"targets": FleetSpec(servers=14), "drafters": FleetSpec(servers=2)}
    both = serve(led_astray(reserves=2, **more), workload, keep_settled=True)
    assert both.settled_ns == [[10, 20, 20, 20, 22, 22]] * 2
    one = serve(led_astray(**more), workload, keep_settled=True)
    assert one.settled_ns == [[10, 20, 20, 23, 23, 23], [10, 20, 24, 24, 24, 24]]


@pytest.mark.parametrize("preemptible", [False, True])
def test_a_request_that_is_done_leaves_no_draft_behind(preemptible):
    """Its reserve, far from the end of the text, does not go on for it; the next one has it."""
    deployment = dataclasses.replace(
        led_astray(preemptible=preemptible), acceptance=Acceptance(rate=1.0)
    )
    deployment = dataclasses.replace(
        deployment,
        more_drafters=(
            dataclasses.replace(
                deployment.more_drafters[0],
                drafter=MoreDrafter(latency=Latency(latency_ns=7), rate=1.0),
            ),
        ),
    )
    workload = Workload(arrivals="trace", trace=((0, 0, 4), (13, 0, 4)))
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    assert run.settled_ns == [[10, 13, 13, 13], [23, 26, 26, 26]]
    second = [row for row in run.more_drafters[0].log if row.request == 1]
    # The draft that request 0 was at, from 7 on, is cancelled at 13, or runs to 14 and is wasted.
    assert second[0].start_ns == (13 if preemptible else 14)


def test_without_retry_a_failing_further_drafter_loses_the_request():
    failing = Faults(plan=((0, 4, 8),), retry=False)
    run = serve(led_astray(reserve_faults=failing), Workload(**SIX))
    assert run.fate.tolist() == [LOST]


def test_requests_end_though_further_drafters_come_and_go_for_ever():
    run = serve(
        led_astray(
            faults=Faults(plan=((0, 4, -1),)),
            targets=FleetSpec(servers=1),
            reserve_faults=Faults(mtbf_ns=50, mttr_ns=5),
        ),
        Workload(**SIX),
    )
    assert run.fate.tolist() == [LOST]
