"""Many requests on shared servers: what must hold in every run of every orchestration."""

from __future__ import annotations

import dataclasses
import itertools
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool
from dsim.deployment.workload import Length, Workload
from dsim.engines.simulate import simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.orchestrations import ORCHESTRATIONS
from tests.deployment.strategies import deployments, ideal_deployments, workloads

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
        # So that their random draws are the same for each request. No prompt is read: a forward
        # that holds its server to the end sends its request to another, which had to read it.
        more_drafters=tuple(
            dataclasses.replace(
                pool,
                drafter=dataclasses.replace(
                    pool.drafter,
                    latency=Latency(latency_ns=pool.drafter.latency.latency_ns),
                    rate=1.0,
                    overlap=1.0,
                ),
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
def test_laws_of_every_run(deployment, workload):
    """All on the same two runs: what makes them costs more than what looks at them."""
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    requests_finish_or_are_reported_lost(deployment, run)
    no_server_is_over_capacity(deployment, run)
    littles_law_holds_to_the_nanosecond(run)
    counts_add_up(deployment, run)
    # It is reproducible, and what is kept of it changes nothing.
    again = serve(deployment, workload)
    for name in ("events", "end_ns", "in_system_area_ns"):
        assert getattr(again, name) == getattr(run, name)
    for name in ("fate", "done_ns", "first_token_ns", "left_ns", "found", "passes", "drafts"):
        assert getattr(again, name).tolist() == getattr(run, name).tolist()


def requests_finish_or_are_reported_lost(deployment, run):
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


def no_server_is_over_capacity(deployment, run):
    for fleet, spec in zip(run.fleets, specs_of(deployment), strict=True):
        assert fleet.peak_busy <= spec.servers
        assert len(set(fleet.free)) == len(fleet.free)
        assert fleet.memory.peak <= (spec.kv_tokens or fleet.memory.peak)
        for _, rows in by_server(fleet):
            for _, batch in itertools.groupby(rows, key=lambda r: r.start_ns):
                requests = [row.request for row in batch]
                assert len(requests) == len(set(requests)) <= spec.max_batch
            ends = -1
            for start, batch in itertools.groupby(rows, key=lambda r: r.start_ns):
                assert start >= ends
                ends = max([ends, *(row.end_ns for row in batch)])


def littles_law_holds_to_the_nanosecond(run):
    """L = λW, as areas: counted over time on one side, request by request on the other."""
    stayed = run.fate != TURNED_AWAY
    sojourns = int((run.left_ns - run.arrival_ns)[stayed].sum())
    assert run.in_system_area_ns == sojourns
    for fleet in run.fleets:
        assert fleet.queue.waiting == 0
        assert fleet.queue.area_ns == fleet.queue.waited_ns


def counts_add_up(deployment, run):
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
        spans = {
            server: [(r.start_ns, r.end_ns) for r in rows] for server, rows in by_server(fleet)
        }
        for server in range(fleet.count):
            spans.setdefault(server, []).extend(down_spans(faults.plan, server))
        for row in fleet.log:
            start = row.start_ns
            # What a failure has thrown back waits from then on.
            thrown = [r.end_ns for r in fleet.log if r.fate == "failed" and r[1:6] == row[1:6]]
            asked = max([row.asked_ns, *(ns for ns in thrown if ns <= start)])
            if start <= asked:
                continue
            for server in range(fleet.count):
                inside = covered(spans.get(server, []), asked, start)
                assert inside == start - asked, (row, server)


@given(ideal_deployments(), workloads())
def test_servers_are_busy_for_as_long_as_their_forwards_take(deployment, workload):
    run = serve(deployment, workload, keep_log=True)
    for fleet in run.fleets:
        logged = sum(row.end_ns - row.start_ns for row in fleet.log if row.fate != "running")
        assert sum(fleet.busy_ns) == logged


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
        (row for row in fleet.log if row.end_ns > row.start_ns),
        key=lambda row: (row.server, row.start_ns, row.end_ns),
    )
    return [(server, list(group)) for server, group in itertools.groupby(rows, lambda r: r.server)]


def down_spans(plan, server):
    """When *server* is down by *plan*: while any of its outages lasts."""
    changes = sorted(
        (ns, -1 if back else 1) for s, *ts in plan if s == server for back, ns in enumerate(ts)
    )
    spans, outages = [], 0
    for ns, change in changes:
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


@pytest.mark.parametrize("algorithm", ORCHESTRATIONS)
def test_a_single_request_costs_little_more_than_on_private_servers(algorithm):
    """In calls of functions, which do not depend on the machine: 1.36 times as many at most."""
    case = Case(
        tokens=1000,
        lookahead=5,
        targets=7,
        target=Latency(latency_ns=300),
        drafter=Latency(latency_ns=30),
        acceptance=Acceptance(rate=0.8),
        repeats=1,
        seed=0,
        preemptible=True,
    )
    deployment = Deployment(
        algorithm=algorithm,
        target=case.target,
        drafter=case.drafter,
        acceptance=case.acceptance,
        targets=FleetSpec(servers=7),
    )
    workload = Workload(requests=1, output=Length(mean_tokens=1000))
    private = calls(lambda: simulate_case(case, algorithm, "events"))
    assert calls(lambda: serve(deployment, workload)) <= 1.36 * private


def calls(run):
    """How many functions *run* calls."""
    run()  # what happens once only does not count
    count = 0

    def profile(_frame, event, _arg):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count
