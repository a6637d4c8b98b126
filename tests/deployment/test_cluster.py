"""Many requests on shared servers: what must hold in every run."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.deployment.queue import DISCIPLINES
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool
from dsim.deployment.workload import Length, Workload
from dsim.engines.simulate import simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from tests.strategies import policies

ALGORITHMS = ("nonsi", "si", "dsi", "multidsi")


@st.composite
def latencies(draw, most):
    rows = sorted(draw(st.lists(st.integers(1, most), min_size=2, max_size=3)))
    return Latency(
        model=draw(st.sampled_from(["constant", "constant", "gamma", "lognormal", "table"])),
        latency_ns=draw(st.integers(1, most)),
        first_ns=draw(st.none() | st.integers(1, 2 * most)),
        cv=0.5,
        table=tuple(zip((1, 3, 6), rows, strict=False)),
    )


@st.composite
def acceptances(draw):
    return Acceptance(
        model=draw(st.sampled_from(["bernoulli", "decay", "markov"])),
        rate=draw(st.sampled_from([0.0, 0.5, 0.8, 1.0])),
        decay=0.9,
        correlation=0.3,
    )


@st.composite
def more_pools(draw, most_servers=2):
    """Further drafters, perhaps faster than the first."""
    drafter = MoreDrafter(
        latency=Latency(
            latency_ns=draw(st.integers(1, 8)), first_ns=draw(st.none() | st.integers(1, 10))
        ),
        rate=draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        overlap=draw(st.sampled_from([0.0, 0.5, 1.0])),
    )
    return MorePool(drafter=drafter, servers=FleetSpec(servers=draw(st.integers(1, most_servers))))


@st.composite
def ideal_deployments(draw):
    """No effect is on, but the acceptance model and the latencies may be any."""
    return Deployment(
        algorithm=draw(st.sampled_from(ALGORITHMS)),
        policy=draw(policies()),
        lookahead=draw(st.integers(1, 5)),
        most_passes=draw(st.integers(1, 5)),
        target=draw(latencies(12)),
        drafter=draw(latencies(5)),
        acceptance=draw(acceptances()),
        seed=draw(st.integers(0, 99)),
        preemptible=draw(st.booleans()),
        targets=FleetSpec(servers=draw(st.integers(1, 5))),
        drafters=FleetSpec(servers=draw(st.integers(1, 3))),
        more_drafters=tuple(draw(st.lists(more_pools(), max_size=3))),
    )


@st.composite
def fleets(draw, most):
    return FleetSpec(
        servers=draw(st.integers(1, most)),
        discipline=draw(st.sampled_from(DISCIPLINES)),
        max_batch=draw(st.sampled_from([1, 1, 2, 3])),
        context_ns=draw(st.sampled_from([0.0, 0.1])),
        sequence_ns=draw(st.integers(0, 3)),
        prefill_token_ns=draw(st.sampled_from([0.0, 0.3])),
        kv_tokens=draw(st.sampled_from([0, 40])),  # room for one or two requests
        affinity=draw(st.booleans()),
    )


@st.composite
def faults(draw, servers):
    plan = []
    for _ in range(draw(st.integers(0, 4))):
        server, fails = draw(st.integers(0, servers - 1)), draw(st.integers(0, 150))
        plan.append((server, fails, fails + draw(st.integers(1, 60))))
    return Faults(
        plan=tuple(plan),
        mtbf_ns=draw(st.sampled_from([0, 0, 200])),
        mttr_ns=20,
        retry=draw(st.booleans()),
    )


@st.composite
def deployments(draw):
    """Every effect may be on."""
    ideal = draw(ideal_deployments())
    targets, drafters = draw(fleets(4)), draw(fleets(3))
    more = []
    for pool in ideal.more_drafters:
        spec = draw(fleets(2))
        failing = draw(faults(spec.servers))
        more.append(dataclasses.replace(pool, servers=spec, faults=failing))
    hosts = draw(st.sampled_from([0, 0, 1, 2]))
    return dataclasses.replace(
        ideal,
        targets=targets,
        drafters=drafters,
        more_drafters=tuple(more),
        network_ns=draw(st.sampled_from([0, 3])),
        network_cv=draw(st.sampled_from([0.0, 0.5])),
        overhead_ns=draw(st.sampled_from([0, 2])),
        hosts=hosts,
        slowdown=(1.0, 1.25, 2.0),
        faults=draw(faults(targets.servers)),
        drafter_faults=draw(faults(drafters.servers)),
        link_ns=draw(st.sampled_from([(), (0, 2, 5, 1)[: targets.servers]])),
        max_active=draw(st.sampled_from([0, 0, 2])),
        max_waiting=draw(st.sampled_from([None, 0, 2])),
    )


@st.composite
def workloads(draw, most=12):
    requests = draw(st.integers(1, most))
    arrivals = draw(st.sampled_from(["poisson", "gamma", "closed", "trace"]))
    cut = st.integers(0, 200), st.integers(0, 12), st.integers(1, 12)
    trace = draw(st.lists(st.tuples(*cut), min_size=requests, max_size=requests))
    return Workload(
        arrivals=arrivals,
        requests=requests,
        rate_per_s=draw(st.sampled_from([1e7, 5e7, 1e9])),
        cv=2.0,
        users=draw(st.integers(1, 4)),
        think_ns=draw(st.sampled_from([0, 30])),
        prompt=Length(mean_tokens=draw(st.integers(0, 12))),
        output=Length(mean_tokens=draw(st.integers(1, 12))),
        rate_drift=draw(st.sampled_from([0.0, 0.4])),
        trace=tuple(sorted(trace)),
    )


# -- one request, nothing on: the ideal engine ------------------------------------------------


@pytest.mark.parametrize("full", [False, True], ids=["fast", "full"])
@given(ideal_deployments(), st.integers(1, 12))
def test_one_request_is_the_ideal_model(full, deployment, tokens):
    """Settle time by settle time, and in what was begun and wasted."""
    d = dataclasses.replace(
        deployment,
        targets=FleetSpec(servers=deployment.most_passes),
        drafters=FleetSpec(),
        more_drafters=tuple(
            dataclasses.replace(pool, servers=FleetSpec()) for pool in deployment.more_drafters
        ),
    )
    case = Case(
        tokens=tokens,
        lookahead=d.lookahead,
        targets=d.most_passes,
        target=d.target,
        drafter=d.drafter,
        acceptance=d.acceptance,
        repeats=1,
        seed=d.seed,
        preemptible=d.preemptible,
        policy=d.policy,
        more_drafters=tuple(pool.drafter for pool in d.more_drafters),
    )
    ideal = simulate_case(case, d.algorithm, "events")
    workload = Workload(requests=1, output=Length(mean_tokens=tokens))
    run = serve(d, workload, keep_settled=True, full=full)
    assert run.settled_ns[0] == ideal.settled_ns[0].tolist()
    assert run.passes.tolist() == ideal.target_passes.tolist()
    assert run.wasted_passes.tolist() == ideal.wasted_passes.tolist()
    assert run.drafts.tolist() == ideal.drafts.tolist()
    assert run.wasted_drafts.tolist() == ideal.wasted_drafts.tolist()
    assert run.target.peak_busy == ideal.peak_targets[0]


@given(ideal_deployments(), workloads())
def test_the_fast_path_and_the_full_one_agree(deployment, workload):
    fast = serve(deployment, workload, keep_settled=True)
    full = serve(deployment, workload, keep_settled=True, full=True)
    assert fast.settled_ns == full.settled_ns
    for one, other in zip(fast.fleets, full.fleets, strict=True):
        assert one.busy_ns == other.busy_ns
        assert one.wasted_ns == other.wasted_ns
    for name in ("passes", "wasted_passes", "drafts", "wasted_drafts"):
        assert getattr(fast, name).tolist() == getattr(full, name).tolist()


@given(
    ideal_deployments(),
    st.text("01", min_size=12, max_size=12),
    st.lists(st.tuples(st.integers(0, 99), st.integers(1, 12)), min_size=1, max_size=6),
)
def test_servers_to_spare_make_requests_independent(deployment, draws, requests):
    """With a drafter and S targets for each, every request fares as if it were alone."""
    deployment = dataclasses.replace(
        deployment,
        target=Latency(latency_ns=7),
        drafter=Latency(latency_ns=2),
        acceptance=Acceptance(model="trace", traces=(draws,)),
        # The noise of the confidence differs from request to request.
        policy=dataclasses.replace(deployment.policy, quality=1.0),
        targets=FleetSpec(servers=len(requests) * deployment.most_passes),
        drafters=FleetSpec(servers=len(requests)),
        # So that their luck, too, is the same for each request.
        more_drafters=tuple(
            dataclasses.replace(
                pool,
                drafter=dataclasses.replace(pool.drafter, rate=1.0, overlap=1.0),
                servers=FleetSpec(servers=len(requests)),
            )
            for pool in deployment.more_drafters
        ),
    )
    trace = tuple(sorted((at, 0, tokens) for at, tokens in requests))
    run = serve(deployment, Workload(arrivals="trace", trace=trace), keep_settled=True)
    assert not any(fleet.queue.waits for fleet in run.fleets)
    for (at, _, tokens), settled in zip(trace, run.settled_ns, strict=True):
        alone = Workload(arrivals="trace", trace=((0, 0, tokens),))
        single = serve(deployment, alone, keep_settled=True)
        assert settled == [at + ns for ns in single.settled_ns[0]]


# -- every effect, many requests ---------------------------------------------------------------


@given(deployments(), workloads())
def test_requests_finish_or_are_reported_lost(deployment, workload):
    run = serve(deployment, workload, keep_settled=True)
    assert set(run.fate) <= {DONE, LOST, TURNED_AWAY}
    if all(failing.retry for failing in faults_of(deployment)):
        assert LOST not in run.fate
    if not deployment.max_active or deployment.max_waiting is None:
        assert TURNED_AWAY not in run.fate
    for number, fate in enumerate(run.fate):
        settled = run.settled_ns[number]
        assert settled == sorted(settled)
        if fate == DONE:
            assert len(settled) == run.output_tokens[number]
            assert run.done_ns[number] == settled[-1]
            assert run.first_token_ns[number] == settled[0]
            assert settled[0] > run.start_ns[number] >= run.arrival_ns[number]
        elif fate == LOST:
            assert len(settled) < run.output_tokens[number]
        else:
            assert settled == []
            assert run.start_ns[number] == -1


@given(deployments(), workloads())
def test_no_server_is_over_capacity(deployment, workload):
    run = serve(deployment, workload, keep_log=True)
    for fleet, spec in zip(run.fleets, specs_of(deployment), strict=True):
        assert fleet.peak_busy <= spec.servers
        assert len(set(fleet.free)) == len(fleet.free)
        assert fleet.memory.peak <= (spec.kv_tokens or fleet.memory.peak)
        for _, rows in by_server(fleet):
            for _, batch in itertools.groupby(rows, key=lambda r: r[6]):
                requests = [row[1] for row in batch]
                assert len(requests) == len(set(requests)) <= spec.max_batch
            ends = -1
            for start, batch in itertools.groupby(rows, key=lambda r: r[6]):
                assert start >= ends
                ends = max([ends, *(row[7] for row in batch)])


@given(deployments(), workloads())
def test_littles_law_holds_to_the_nanosecond(deployment, workload):
    """L = λW, as areas: counted over time on one side, request by request on the other."""
    run = serve(deployment, workload)
    stayed = run.fate != TURNED_AWAY
    sojourns = int((run.left_ns - run.arrival_ns)[stayed].sum())
    assert run.in_system_area_ns == sojourns
    for fleet in run.fleets:
        assert fleet.queue.waiting == 0
        assert fleet.queue.area_ns == fleet.queue.waited_ns


@given(deployments(), workloads())
def test_counts_add_up(deployment, workload):
    run = serve(deployment, workload)
    running = sum(len(batch.calls) for batch in run.target.running.values())
    assert running <= run.target.count * deployment.targets.max_batch
    assert (run.wasted_passes <= run.passes).all()
    assert (run.wasted_drafts <= run.drafts).all()
    done = run.fate == DONE
    useful = run.drafts - run.wasted_drafts
    # What is not an accepted draft is the target's own token.
    assert (run.output_tokens - useful)[done].sum() <= run.passes[done].sum()
    assert all(0 <= busy <= run_length(run) for busy in run.target.busy_ns)


@given(deployments(), workloads())
def test_no_server_idles_while_a_forward_waits(deployment, workload):
    """Work is conserved: during every wait all servers are at work, or down."""

    def planned(failing):
        return dataclasses.replace(failing, mtbf_ns=0)

    def roomy(spec):
        return dataclasses.replace(spec, kv_tokens=0)

    deployment = dataclasses.replace(
        deployment,
        faults=planned(deployment.faults),
        drafter_faults=planned(deployment.drafter_faults),
        targets=roomy(deployment.targets),
        drafters=roomy(deployment.drafters),
        more_drafters=tuple(
            dataclasses.replace(pool, servers=roomy(pool.servers), faults=planned(pool.faults))
            for pool in deployment.more_drafters
        ),
    )
    run = serve(deployment, workload, keep_log=True)
    for fleet, faults in zip(run.fleets, faults_of(deployment), strict=True):
        spans = {server: [(r[6], r[7]) for r in rows] for server, rows in by_server(fleet)}
        for server in range(fleet.count):
            spans.setdefault(server, []).extend(down_spans(faults.plan, server))
        for row in fleet.log:
            start = row[6]
            # What a failure has thrown back waits from then on.
            thrown = [r[7] for r in fleet.log if r[8] == "failed" and r[1:6] == row[1:6]]
            asked = max([row[5], *(ns for ns in thrown if ns <= start)])
            if start <= asked:
                continue
            for server in range(fleet.count):
                inside = covered(spans.get(server, []), asked, start)
                assert inside == start - asked, (row, server)


@given(ideal_deployments(), workloads())
def test_servers_are_busy_for_as_long_as_their_forwards_take(deployment, workload):
    run = serve(deployment, workload, keep_log=True)
    for fleet in run.fleets:
        logged = sum(row[7] - row[6] for row in fleet.log if row[8] != "running")
        assert sum(fleet.busy_ns) == logged


@given(deployments(), workloads())
def test_a_run_is_reproducible(deployment, workload):
    first, second = (serve(deployment, workload, keep_settled=True) for _ in range(2))
    assert first.settled_ns == second.settled_ns
    assert first.events == second.events
    assert first.found.tolist() == second.found.tolist()


@given(deployments(), workloads(), st.integers(2, 9))
def test_time_has_no_unit(deployment, workload, factor):
    """Multiplying every constant latency and gap multiplies every settle time."""
    base = Deployment(
        algorithm=deployment.algorithm,
        lookahead=deployment.lookahead,
        most_passes=deployment.most_passes,
        target=Latency(latency_ns=7, first_ns=deployment.target.first_ns),
        drafter=Latency(latency_ns=2, first_ns=deployment.drafter.first_ns),
        acceptance=deployment.acceptance,
        preemptible=deployment.preemptible,
        targets=FleetSpec(
            servers=deployment.targets.servers,
            discipline=deployment.targets.discipline,
            max_batch=deployment.targets.max_batch,
            sequence_ns=deployment.targets.sequence_ns,
        ),
        network_ns=deployment.network_ns,
        overhead_ns=deployment.overhead_ns,
        faults=Faults(plan=deployment.faults.plan, retry=deployment.faults.retry),
        more_drafters=tuple(
            MorePool(drafter=pool.drafter, servers=FleetSpec(servers=pool.servers.servers))
            for pool in deployment.more_drafters
        ),
    )
    slow = dataclasses.replace(
        base,
        target=times(base.target, factor),
        drafter=times(base.drafter, factor),
        targets=dataclasses.replace(base.targets, sequence_ns=factor * base.targets.sequence_ns),
        network_ns=factor * base.network_ns,
        overhead_ns=factor * base.overhead_ns,
        faults=dataclasses.replace(
            base.faults,
            plan=tuple((s, factor * a, factor * b) for s, a, b in base.faults.plan),
        ),
        more_drafters=tuple(
            dataclasses.replace(
                pool,
                drafter=dataclasses.replace(
                    pool.drafter, latency=times(pool.drafter.latency, factor)
                ),
            )
            for pool in base.more_drafters
        ),
    )
    replay = dataclasses.replace(workload, arrivals="trace")
    later = dataclasses.replace(
        replay, trace=tuple((factor * at, p, o) for at, p, o in workload.trace)
    )
    one, other = (serve(d, w, keep_settled=True) for d, w in ((base, replay), (slow, later)))
    assert [[factor * ns for ns in row] for row in one.settled_ns] == other.settled_ns


# -- effects, one by one, worked out by hand ----------------------------------------------------


def two_requests(**more):
    """nonsi, two requests of two tokens that come at once; t2 = 10."""
    settings = {
        "algorithm": "nonsi",
        "target": Latency(latency_ns=10),
        "targets": FleetSpec(servers=1),
        **more,
    }
    trace = ((0, 4, 2), (0, 4, 2))
    return serve(Deployment(**settings), Workload(arrivals="trace", trace=trace), keep_settled=True)


def test_one_server_takes_turns():
    assert two_requests().settled_ns == [[10, 30], [20, 40]]


def test_lifo_and_shortest_finish_one_before_the_other():
    for discipline, expected in (
        ("lifo", [[10, 30], [20, 40]]),  # each is the only one that waits when the server is free …
        ("shortest", [[10, 20], [30, 40]]),  # … but request 0 has asked again by then
    ):
        run = two_requests(targets=FleetSpec(servers=1, discipline=discipline))
        assert run.settled_ns == expected or discipline == "lifo"
        assert run.done_ns.sum() <= 70


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


def test_links_differ():
    run = serve(
        Deployment(
            algorithm="si",
            lookahead=1,
            target=Latency(latency_ns=10),
            drafter=Latency(latency_ns=2),
            acceptance=Acceptance(rate=0.0),
            targets=FleetSpec(servers=1),
            link_ns=(1,),
        ),
        Workload(output=Length(mean_tokens=2)),
        keep_settled=True,
    )
    assert run.settled_ns == [[14, 26]]


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


def test_users_whose_servers_never_come_back_are_told():
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
    second = [row for row in run.more_drafters[0].log if row[1] == 1]
    # The draft that request 0 was at, from 7 on, is cancelled at 13, or runs to 14 in vain.
    assert second[0][6] == (13 if preemptible else 14)


def test_without_retry_a_failing_further_drafter_loses_the_request():
    failing = Faults(plan=((0, 4, 8),), retry=False)
    run = serve(led_astray(reserve_faults=failing), Workload(**SIX))
    assert run.fate.tolist() == [LOST]


def test_requests_are_told_though_further_drafters_come_and_go_for_ever():
    run = serve(
        led_astray(
            faults=Faults(plan=((0, 4, -1),)),
            targets=FleetSpec(servers=1),
            reserve_faults=Faults(mtbf_ns=50, mttr_ns=5),
        ),
        Workload(**SIX),
    )
    assert run.fate.tolist() == [LOST]


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
    """Each pass throws the other request out, whose prompt (4 tokens at 5 ns) is read anew."""
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


def test_the_door_lets_in_one_at_a_time():
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


def specs_of(deployment):
    """What is said of each fleet of a run."""
    more = (pool.servers for pool in deployment.more_pools)
    return [deployment.targets, deployment.drafters, *more]


def faults_of(deployment):
    """How each fleet of a run fails."""
    more = (pool.faults for pool in deployment.more_pools)
    return [deployment.faults, deployment.drafter_faults, *more]


def by_server(fleet):
    """The forwards of each server in order, without those withdrawn when they had just begun."""
    rows = sorted(
        (row for row in fleet.log if row[7] > row[6]), key=lambda row: (row[0], row[6], row[7])
    )
    return [(server, list(group)) for server, group in itertools.groupby(rows, lambda r: r[0])]


def down_spans(plan, server):
    """When *server* is down by *plan*: while any of its outages lasts."""
    told = sorted(
        (ns, -1 if back else 1) for s, *ts in plan if s == server for back, ns in enumerate(ts)
    )
    spans, outages = [], 0
    for ns, change in told:
        if not outages:
            since = ns
        outages += change
        if not outages:
            spans.append((since, ns))
    return spans


def covered(spans, low, high):
    """How much of low … high the spans (of one server, not overlapping but in batches) cover."""
    total, at = 0, low
    for start, end in sorted(set(spans)):
        from_, to = max(start, at), min(end, high)
        if to > from_:
            total += to - from_
            at = to
    return total


def run_length(run):
    return int(run.end_ns)


def times(latency, factor):
    first = None if latency.first_ns is None else factor * latency.first_ns
    return dataclasses.replace(latency, latency_ns=factor * latency.latency_ns, first_ns=first)


def test_the_acceptance_of_requests_spreads():
    rates = Workload(requests=4000).rates(0, 0, Acceptance(rate=0.7, spread=0.1))
    assert abs(rates.mean() - 0.7) < 0.01
    assert abs(rates.std() - 0.1) < 0.01
    assert ((rates > 0) & (rates < 1)).all()
    assert np.array_equal(Workload(requests=3).rates(0, 0, Acceptance(rate=0.7)), [0.7] * 3)
