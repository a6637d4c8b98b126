"""The queues against closed forms of queueing theory, within the simulation's own intervals.

Every comparison is a t-test over independent runs, and there are many: each is made at the level
FAMILY / len(CHECKS) (Bonferroni), so that a right simulator fails *any* of them with a chance of at
most 5 % for one choice of seeds. The seeds are fixed, so a test either holds or does not.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
from scipy.special import stdtrit

from dsim.deployment.metrics import measure
from dsim.deployment.offered_load import offered_load
from dsim.deployment.outcome import TURNED_AWAY
from dsim.deployment.queueing import erlang_b, erlang_c, mg1_wait, mmc_wait
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency

MS = 1_000_000
# More runs make the quantile of Student's t smaller: as good an interval from fewer requests.
RUNS, REQUESTS = 16, 1200
EXPONENTIAL = Latency(model="gamma", cv=1.0, latency_ns=10 * MS)
CONSTANT = Latency(latency_ns=10 * MS)


FAMILY = 0.05  # chance that a right simulator fails any of CHECKS, for seeds drawn at random
ORDERS = ("lifo", "shortest", "first-pass")
SERVICES = {"exponential": EXPONENTIAL, "constant": CONSTANT}


@functools.cache  # several tests look at the same runs
def queue(latency, servers, rate_per_s, requests=REQUESTS, runs=RUNS, **more):
    """Requests of one token each under non-SI: one service each."""
    deployment = Deployment(
        algorithm="nonsi",
        target=latency,
        targets=FleetSpec(servers=servers, discipline=more.pop("discipline", "fifo")),
        seed=7,
        **more,
    )
    workload = Workload(requests=requests, rate_per_s=rate_per_s, output=Length(mean_tokens=1))
    served = [serve(deployment, workload, r) for r in range(runs)]
    return measure(deployment, served, warm_up=0.1), served


CASES = {
    "M/M/1 at 0.5": (EXPONENTIAL, 1, 50.0, 10 + mg1_wait(0.5, 10.0, 1)),
    "M/M/1 at 0.8": (EXPONENTIAL, 1, 80.0, 10 + mg1_wait(0.8, 10.0, 1)),
    "M/D/1 at 0.8": (CONSTANT, 1, 80.0, 10 + mg1_wait(0.8, 10.0, 0)),
    "M/M/4 at 0.75": (EXPONENTIAL, 4, 300.0, 10 + mmc_wait(4, 3.0, 10.0)),
    "M/M/16 at 0.9": (EXPONENTIAL, 16, 1440.0, 10 + mmc_wait(16, 14.4, 10.0)),
}


CHECKS = (
    *(f"{case}: {what}" for case in CASES for what in ("latency", "utilisation")),
    *ORDERS,
    *(f"{what}, {service}" for what in ("loss", "sharing") for service in SERVICES),
    "arrivals see averages",
    "number in the system",
    "number in the system, 4 servers",
)


def half_width_of(check, values):
    """Of the interval of the mean of independent *values*, at the level of one of the CHECKS."""
    assert check in CHECKS  # or it would not be counted
    n = len(values)
    return stdtrit(n - 1, 1 - FAMILY / len(CHECKS) / 2) * np.std(values, ddof=1) / np.sqrt(n)


def holds(check, values, expected):
    return abs(np.mean(values) - expected) <= half_width_of(check, values)


def latencies(served):
    return [latency_of(run) for run in served]


def latency_of(run):
    """Mean latency (ms) of one run after its first tenth."""
    first = len(run.fate) // 10
    return float((run.done_ns[first:] - run.arrival_ns[first:]).mean() / 1e6)


@pytest.mark.parametrize("case", CASES)
def test_mean_latency(case):
    latency, servers, rate, expected = CASES[case]
    # Sixteen servers begin idle and end idle for a while, which short runs would show.
    longer = {"requests": 4000, "runs": 8} if servers == 16 else {}
    metrics, served = queue(latency, servers, rate, **longer)
    values = latencies(served)
    assert holds(f"{case}: latency", values, expected)
    assert half_width_of(f"{case}: latency", values) < 0.25 * expected  # or it would say nothing
    assert metrics.latency["mean"].value == pytest.approx(np.mean(values))
    busy = [sum(run.target.busy_ns) / servers / run.end_ns for run in served]
    assert holds(f"{case}: utilisation", busy, rate * 0.010 / servers)


@pytest.mark.parametrize("discipline", ORDERS)
def test_the_mean_does_not_depend_on_the_order(discipline):
    """With one service each, no order that ignores service times changes the mean wait."""
    _, served = queue(EXPONENTIAL, 1, 70.0, discipline=discipline)
    assert holds(discipline, latencies(served), 10 + mg1_wait(0.7, 10.0, 1))


def test_a_wrong_simulator_would_fail():
    """The comparisons have power: a tenth off the mean is noticed."""
    latency, servers, rate, expected = CASES["M/M/1 at 0.5"]
    _, served = queue(latency, servers, rate)
    for wrong in (0.9, 1.1):
        assert not holds("M/M/1 at 0.5: latency", latencies(served), wrong * expected)


def test_lifo_spreads_latencies_more_than_fifo():
    fifo, _ = queue(EXPONENTIAL, 1, 70.0)
    lifo, _ = queue(EXPONENTIAL, 1, 70.0, discipline="lifo")
    assert lifo.latency["p99"].value > 1.5 * fifo.latency["p99"].value


@pytest.mark.parametrize("service", SERVICES)
def test_erlang_loss(service):
    """M/G/4/4: the share of rejected requests depends on the mean service time alone."""
    metrics, served = queue(SERVICES[service], 4, 300.0, max_active=4, max_waiting=0)
    turned_away = [int((run.fate == TURNED_AWAY).sum()) for run in served]
    shares = [count / len(run.fate) for count, run in zip(turned_away, served, strict=True)]
    assert holds(f"loss, {service}", shares, erlang_b(4, 3.0))
    assert metrics.turned_away == sum(turned_away)


@pytest.mark.parametrize("service", SERVICES)
def test_processor_sharing(service):
    """M/G/1-PS: servers enough, one host that they share evenly: E[T] = E[S] / (1 - load)."""
    slowdown = tuple(float(m) for m in range(1, 61))
    _, served = queue(SERVICES[service], 60, 60.0, requests=800, hosts=1, slowdown=slowdown)
    assert max(run.target.peak_busy for run in served) < 60
    assert holds(f"sharing, {service}", latencies(served), 10 / (1 - 0.6))


def test_arrivals_see_time_averages():
    """PASTA: what Poisson arrivals find is the average over time."""
    _, served = queue(EXPONENTIAL, 1, 70.0)
    over_time = np.array([run.in_system_area_ns / run.end_ns for run in served])
    found = np.array([run.found[:, 0].mean() for run in served])
    assert holds("arrivals see averages", found - over_time, 0.0)
    assert holds("number in the system", over_time, 0.7 / 0.3)


def test_littles_law_in_every_run():
    _, served = queue(EXPONENTIAL, 4, 300.0)
    for run in served:
        rate = len(run.fate) / run.end_ns
        assert rate * (run.left_ns - run.arrival_ns).mean() == pytest.approx(
            run.in_system_area_ns / run.end_ns, rel=1e-9
        )
    in_system = [run.in_system_area_ns / run.end_ns for run in served]
    assert holds("number in the system, 4 servers", in_system, 3 + erlang_c(4, 3.0) * 3)


def test_a_closed_loop_is_never_overloaded():
    """Machine repair with one server: C users, no thinking: the server is always busy."""
    deployment = Deployment(algorithm="nonsi", target=CONSTANT, targets=FleetSpec(), seed=1)
    workload = Workload(arrivals="closed", requests=500, users=5, output=Length(mean_tokens=1))
    run = serve(deployment, workload)
    metrics = measure(deployment, [run])
    assert metrics.target_utilisation == 1
    assert run.end_ns == 500 * 10 * MS
    assert metrics.throughput_per_s == pytest.approx(100)
    assert offered_load(deployment, workload) is None


def test_closed_forms():
    """Against sums written out, and the special cases that textbooks give."""
    assert mg1_wait(0.5, 1.0, 1) == pytest.approx(1.0)
    assert mg1_wait(0.5, 1.0, 0) == pytest.approx(0.5)
    for servers, offered in itertools.product((1, 2, 5), (0.3, 0.9)):
        terms = [offered**n / math.factorial(n) for n in range(servers + 1)]
        assert erlang_b(servers, offered) == pytest.approx(terms[-1] / sum(terms))
        tail = terms[-1] / (1 - offered / servers)
        assert erlang_c(servers, offered) == pytest.approx(tail / (sum(terms[:-1]) + tail))
    assert mmc_wait(1, 0.6, 2.0) == pytest.approx(mg1_wait(0.6, 2.0, 1))


@pytest.mark.parametrize("algorithm", ["nonsi", "si"])
def test_the_offered_load_is_the_utilisation(algorithm):
    """Where it is exact, and all requests are in the sample."""
    deployment = Deployment(
        algorithm=algorithm,
        lookahead=3,
        target=CONSTANT,
        drafter=Latency(latency_ns=2 * MS),
        targets=FleetSpec(servers=3),
        drafters=FleetSpec(servers=2),
    )
    workload = Workload(requests=400, rate_per_s=3.0, output=Length(mean_tokens=50))
    load = offered_load(deployment, workload)
    run = serve(deployment, workload)
    seconds = int(run.arrival_ns[-1]) / 1e9
    per_s = 400 / seconds / 3.0  # how far this run's arrivals are from the rate
    for fleet, offered in ((run.target, load.target), (run.drafter, load.drafter)):
        busy = sum(fleet.busy_ns) / fleet.count / 1e9 / seconds
        assert busy == pytest.approx(offered * per_s, rel=1e-6)
    assert load.exact
    assert load.most_per_s == pytest.approx(3.0 / load.worst[1])


@pytest.mark.parametrize(
    ("mtbf_ns", "mttr_ns", "requests"),  # as many as give hundreds of failures
    [(4000 * MS, 1000 * MS, 2500), (60 * MS, 20 * MS, 800)],
)
@pytest.mark.parametrize("algorithm", ["nonsi", "si"])
def test_the_most_that_failing_servers_can_serve(algorithm, mtbf_ns, mttr_ns, requests):
    """Users enough to keep every server busy: what they get is the rate at which the load is 1.

    Passes take 10 ms; in the second case one in seven is interrupted and begun again.
    """
    failing = Faults(mtbf_ns=mtbf_ns, mttr_ns=mttr_ns)
    deployment = Deployment(
        algorithm=algorithm,
        lookahead=3,
        target=CONSTANT,
        drafter=Latency(latency_ns=2 * MS),
        targets=FleetSpec(servers=4),
        drafters=FleetSpec(servers=4),
        faults=failing,
        drafter_faults=failing if algorithm == "si" else Faults(),
    )
    workload = Workload(requests=requests, rate_per_s=1.0, output=Length(mean_tokens=20))
    load = offered_load(deployment, workload)
    run = serve(deployment, dataclasses.replace(workload, arrivals="closed", users=60))
    per_s = len(run.fate) / (run.end_ns / 1e9)
    assert per_s == pytest.approx(load.most_per_s, rel=0.05)
    assert not load.exact
    spared = dataclasses.replace(deployment, faults=Faults(), drafter_faults=Faults())
    assert offered_load(spared, workload).most_per_s > 1.2 * load.most_per_s


@pytest.mark.parametrize("algorithm", ["si", "dsi"])
@pytest.mark.parametrize("drift", [-1.0, 0.0, 1.0])
def test_what_is_offered_is_no_more_than_what_keeps_servers_busy(algorithm, drift):
    """Where passes cost by their width, and requests get easier or harder to draft for."""
    deployment = Deployment(
        algorithm=algorithm,
        lookahead=30,
        acceptance=Acceptance(rate=0.5 if drift else 0.9),
        target=Latency(
            model="table", latency_ns=MS, table=((1, 39 * MS), (8, 68 * MS), (16, 90 * MS))
        ),
        drafter=Latency(latency_ns=MS),
        targets=FleetSpec(servers=4),
        drafters=FleetSpec(servers=4),
    )
    workload = Workload(
        requests=2000, rate_per_s=0.8, output=Length(mean_tokens=20), rate_drift=drift
    )
    load = offered_load(deployment, workload)
    run = serve(deployment, workload)
    busy = sum(run.target.busy_ns) / 4 / int(run.arrival_ns[-1])
    assert not load.exact
    assert load.target <= 1.03 * busy  # of its arrivals, not of their rate
    if algorithm == "si":
        assert load.target >= 0.9 * busy


def test_only_what_is_the_load_itself_is_called_so():
    workload = Workload(requests=50, rate_per_s=1.0, output=Length(mean_tokens=5))
    plain = Deployment(algorithm="nonsi", target=CONSTANT, targets=FleetSpec(servers=2))
    assert offered_load(plain, workload).exact
    for more in (
        {"hosts": 1, "slowdown": (1.0, 1.9)},
        {"targets": FleetSpec(servers=2, max_batch=8)},
        {"targets": FleetSpec(servers=2, context_ns=10.0)},
    ):
        assert not offered_load(dataclasses.replace(plain, **more), workload).exact


def test_dsi_does_with_its_least_load_at_most_what_it_is_given():
    """The least load of DSI is below what it makes of idle servers."""
    deployment = Deployment(
        lookahead=2,
        target=CONSTANT,
        drafter=Latency(latency_ns=2 * MS),
        targets=FleetSpec(servers=8),
        drafters=FleetSpec(servers=8),
    )
    workload = Workload(requests=300, rate_per_s=1.0, output=Length(mean_tokens=50))
    load = offered_load(deployment, workload)
    run = serve(deployment, workload)
    busy = sum(run.target.busy_ns) / 8 / (run.arrival_ns[-1])
    assert not load.exact
    assert load.target < busy
