"""Deployments and workloads of any kind, for property tests."""

from __future__ import annotations

import dataclasses

from hypothesis import strategies as st

from dsim.deployment.queue import DISCIPLINES
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.orchestrations import ORCHESTRATIONS
from tests.strategies import policies


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
        algorithm=draw(st.sampled_from(sorted(ORCHESTRATIONS))),
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
