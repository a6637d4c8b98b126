"""Effects of a deployment, one by one, worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from dsim.deployment import queue
from dsim.deployment.calls import Entry
from dsim.deployment.outcome import DONE, TURNED_AWAY
from dsim.deployment.queue import DISCIPLINES
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, FleetSpec
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency
from tests.deployment.examples import two_requests


def test_one_server_takes_turns():
    assert two_requests().settled_ns == [[10, 30], [20, 40]]


@pytest.mark.parametrize(
    ("discipline", "settled"),
    [
        # At 10 request 1 has waited since 1, request 2 since 2, and request 0 asks again.
        ("fifo", [[10, 40], [20, 50, 60], [30]]),
        ("lifo", [[10, 20], [40, 50, 60], [30]]),
        # One token to go for requests 2 and 0 each: the one that has waited longer goes first.
        ("shortest", [[10, 30], [40, 50, 60], [20]]),
        # None that waits for each pass has one in flight while it waits: as fifo.
        ("first-pass", [[10, 40], [20, 50, 60], [30]]),
    ],
)
def test_who_is_next_by_each_discipline(discipline, settled):
    """One server, passes of 10, requests of 2, 3 and 1 tokens that come at 0, 1 and 2."""
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(latency_ns=10),
        targets=FleetSpec(servers=1, discipline=discipline),
    )
    workload = Workload(arrivals="trace", trace=((0, 0, 2), (1, 0, 3), (2, 0, 1)))
    assert serve(deployment, workload, keep_settled=True).settled_ns == settled


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_a_batch_is_formed_from_one_look_at_the_queue(discipline, monkeypatch):
    """Of 200 that wait, 16 join a batch: looking at all of them for each took 16 times as long."""
    looks = 0

    class Watched(Entry):
        @property
        def gone(self):
            nonlocal looks
            looks += 1
            return self.is_gone

        @gone.setter
        def gone(self, value):
            self.is_gone = value

    monkeypatch.setattr(queue, "Entry", Watched)
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(latency_ns=10),
        targets=FleetSpec(servers=1, max_batch=16, discipline=discipline),
    )
    users, tokens = 200, 4
    workload = Workload(
        arrivals="closed", users=users, requests=users, output=Length(mean_tokens=tokens)
    )
    batches = serve(deployment, workload).end_ns // 10
    assert looks <= 2 * users * batches + 3 * users * tokens


def test_a_batch_serves_both_at_once():
    run = two_requests(targets=FleetSpec(servers=1, max_batch=2))
    assert run.settled_ns == [[10, 20], [10, 20]]
    run = two_requests(targets=FleetSpec(servers=1, max_batch=2, sequence_ns=3))
    assert run.settled_ns == [[13, 26], [13, 26]]


def test_context_costs():
    """A pass at position i reads 4 + i tokens of context, here at 1 ns each."""
    run = two_requests(targets=FleetSpec(servers=2, context_ns=1.0))
    assert run.settled_ns == [[14, 29], [14, 29]]


def test_the_dispatch_costs_and_the_network_does_not_touch_nonsi():
    run = two_requests(targets=FleetSpec(servers=2), overhead_ns=1, network_ns=5)
    assert run.settled_ns == [[11, 22], [11, 22]]
    assert run.target.busy_ns == [20, 20]


def test_si_waits_for_the_network_both_ways():
    deployment = Deployment(
        algorithm="si",
        lookahead=1,
        target=Latency(latency_ns=10),
        drafter=Latency(latency_ns=2),
        acceptance=Acceptance(rate=1.0),
        targets=FleetSpec(),
        network_ns=3,
    )
    run = serve(deployment, Workload(output=Length(mean_tokens=3)), keep_settled=True)
    # A round: 2 + 3 + 10 + 3 settles two tokens; the last needs no draft: 3 + 10 + 3.
    assert run.settled_ns == [[18, 18, 34]]


def test_servers_of_one_host_slow_each_other():
    """Both compute for 10 ns at half speed; alone the second pass of each would take 10."""
    run = two_requests(targets=FleetSpec(servers=2), hosts=1, slowdown=(1.0, 2.0))
    assert run.settled_ns == [[20, 40], [20, 40]]
    apart = two_requests(targets=FleetSpec(servers=2), hosts=2, slowdown=(1.0, 2.0))
    assert apart.settled_ns == [[10, 20], [10, 20]]


def test_a_late_comer_slows_who_is_there():
    """Alone for 4 ns, then shared: the first has 6 left, which take 12."""
    run = serve(
        Deployment(
            algorithm="nonsi",
            target=Latency(latency_ns=10),
            targets=FleetSpec(servers=2),
            hosts=1,
            slowdown=(1.0, 2.0),
        ),
        Workload(arrivals="trace", trace=((0, 0, 1), (4, 0, 1))),
        keep_settled=True,
    )
    assert run.settled_ns == [[16], [20]]


def test_each_link_has_its_own_delay():
    """Two requests at once, one pass each; target 1 is 4 away, target 2 not at all."""
    run = serve(
        Deployment(
            algorithm="si",
            target=Latency(latency_ns=10),
            targets=FleetSpec(servers=2),
            drafters=FleetSpec(servers=2),
            link_ns=(4, 0),
        ),
        Workload(arrivals="trace", trace=((0, 0, 1), (0, 0, 1))),
        keep_settled=True,
    )
    assert run.settled_ns == [[18], [10]]


def test_reading_a_short_prompt_takes_as_long_as_any_forward():
    run = two_requests(targets=FleetSpec(servers=2, prefill_token_ns=0.5))
    assert run.settled_ns == [[10, 20], [10, 20]]


def test_a_full_kv_memory_makes_servers_read_again():
    """Each pass throws the other request out, whose prompt (4 tokens at 5 ns) is read again."""
    roomy = FleetSpec(servers=1, prefill_token_ns=5.0, kv_tokens=100)
    tight = dataclasses.replace(roomy, kv_tokens=6)
    assert two_requests(targets=roomy).settled_ns == [[20, 50], [40, 60]]
    # Again 20 for the prompt and 5 for the token that was settled.
    assert two_requests(targets=tight).settled_ns == [[20, 65], [40, 90]]


def test_affinity_goes_where_the_prompt_is():
    spec = FleetSpec(servers=2, prefill_token_ns=5.0)
    trace = ((0, 4, 2), (5, 4, 3))
    for affinity, last in ((False, 65), (True, 45)):
        run = serve(
            Deployment(
                algorithm="nonsi",
                target=Latency(latency_ns=10),
                targets=dataclasses.replace(spec, affinity=affinity),
            ),
            Workload(arrivals="trace", trace=trace),
            keep_settled=True,
        )
        assert run.settled_ns[1][-1] <= last
    assert run.settled_ns == [[20, 30], [25, 35, 45]]


def test_requests_are_admitted_one_at_a_time():
    run = two_requests(targets=FleetSpec(servers=2), max_active=1)
    assert run.settled_ns == [[10, 20], [30, 40]]
    assert run.start_ns.tolist() == [0, 20]
    run = two_requests(targets=FleetSpec(servers=2), max_active=1, max_waiting=0)
    assert run.fate.tolist() == [DONE, TURNED_AWAY]


def test_a_request_of_dsi_covers_all_that_is_drafted_when_its_turn_comes():
    """One target, t1 = 1, t2 = 10, k = 1, nothing rejected: drafts pile up and go out together."""
    deployment = Deployment(
        lookahead=1,
        most_passes=1,
        target=Latency(latency_ns=10),
        drafter=Latency(latency_ns=1),
        acceptance=Acceptance(rate=1.0),
        targets=FleetSpec(servers=1),
        drafters=FleetSpec(servers=2),
    )
    trace = ((0, 0, 6), (0, 0, 6))
    run = serve(deployment, Workload(arrivals="trace", trace=trace), keep_settled=True)
    # 0–10 the bare pass of request 0; 10–20 that of 1, by then over all 5 drafts: done at once.
    assert run.settled_ns == [[10, 30, 30, 30, 30, 30], [20] * 6]
    assert run.passes.tolist() == [2, 1]


def test_a_first_pass_overtakes():
    """Request 0 may have two passes under way; with ``first-pass`` request 1 goes before."""
    trace = ((0, 0, 20), (3, 0, 1))
    ends = {}
    for discipline in ("fifo", "first-pass"):
        deployment = Deployment(
            lookahead=1,
            most_passes=3,
            target=Latency(latency_ns=10),
            drafter=Latency(latency_ns=1),
            acceptance=Acceptance(rate=1.0),
            targets=FleetSpec(servers=2, discipline=discipline),
        )
        run = serve(deployment, Workload(arrivals="trace", trace=trace), keep_settled=True)
        ends[discipline] = run.settled_ns[1][0]
    # Request 0 has passes from 0 and from 1 on, and waits for a third since 2.
    assert ends == {"fifo": 21, "first-pass": 20}
