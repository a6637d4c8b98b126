"""The queues against closed forms of queueing theory, within the simulation's own intervals.

Seeds are fixed, so these either hold or do not: 95 % intervals of five runs, widened by a half
because several are checked.
"""

from __future__ import annotations

import itertools
import math

import pytest

from dsim.cluster.deployment import Deployment, FleetSpec
from dsim.cluster.metrics import measure
from dsim.cluster.serve import serve
from dsim.cluster.theory import erlang_b, erlang_c, mg1_wait, mmc_wait, offered_load
from dsim.cluster.workload import Length, Workload
from dsim.latency import Latency

MS = 1_000_000
EXPONENTIAL = Latency(model="gamma", cv=1.0, latency_ns=10 * MS)
CONSTANT = Latency(latency_ns=10 * MS)


def queue(latency, servers, rate_per_s, requests=6000, runs=5, **more):
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


@pytest.mark.parametrize("case", CASES)
def test_mean_latency(case):
    latency, servers, rate, expected = CASES[case]
    metrics, _ = queue(latency, servers, rate)
    mean = metrics.latency["mean"]
    assert abs(mean.value - expected) < 1.5 * mean.ci95
    assert mean.ci95 < 0.25 * expected  # or the test would say nothing
    assert metrics.target_utilisation == pytest.approx(rate * 0.010 / servers, rel=0.05)


@pytest.mark.parametrize("discipline", ["lifo", "shortest", "first-pass"])
def test_the_mean_does_not_depend_on_the_order(discipline):
    """With one service each, no order that ignores service times changes the mean wait."""
    metrics, _ = queue(EXPONENTIAL, 1, 70.0, discipline=discipline)
    mean = metrics.latency["mean"]
    assert abs(mean.value - (10 + mg1_wait(0.7, 10.0, 1))) < 1.5 * mean.ci95


def test_lifo_spreads_latencies_more_than_fifo():
    fifo, _ = queue(EXPONENTIAL, 1, 70.0)
    lifo, _ = queue(EXPONENTIAL, 1, 70.0, discipline="lifo")
    assert lifo.latency["p99"].value > 1.5 * fifo.latency["p99"].value


@pytest.mark.parametrize("latency", [EXPONENTIAL, CONSTANT], ids=["exponential", "constant"])
def test_erlang_loss(latency):
    """M/G/4/4: the share turned away depends on the mean service time alone."""
    metrics, served = queue(latency, 4, 300.0, max_active=4, max_waiting=0)
    shares = [run.fate.tolist().count(2) / len(run.fate) for run in served]
    mean = sum(shares) / len(shares)
    spread = math.sqrt(sum((s - mean) ** 2 for s in shares) / (len(shares) - 1))
    assert abs(mean - erlang_b(4, 3.0)) < 1.5 * 2.776 * spread / math.sqrt(len(shares))
    assert metrics.turned_away == sum(run.fate.tolist().count(2) for run in served)


@pytest.mark.parametrize("latency", [EXPONENTIAL, CONSTANT], ids=["exponential", "constant"])
def test_processor_sharing(latency):
    """M/G/1-PS: servers enough, one host that they share evenly: E[T] = E[S] / (1 - load)."""
    metrics, served = queue(
        latency, 60, 60.0, requests=3000, hosts=1, slowdown=tuple(float(m) for m in range(1, 61))
    )
    assert max(run.target.peak_busy for run in served) < 60
    mean = metrics.latency["mean"]
    assert abs(mean.value - 10 / (1 - 0.6)) < 1.5 * mean.ci95


def test_arrivals_see_time_averages():
    """PASTA: what Poisson arrivals find is the average over time."""
    metrics, served = queue(EXPONENTIAL, 1, 70.0)
    found = sum(run.found[:, 0].mean() for run in served) / len(served)
    assert found == pytest.approx(metrics.in_system, rel=0.03)
    assert found == pytest.approx(0.7 / 0.3, rel=0.15)


def test_littles_law_in_seconds():
    metrics, served = queue(EXPONENTIAL, 4, 300.0)
    for run in served:
        rate = len(run.fate) / run.end_ns
        assert rate * (run.left_ns - run.arrival_ns).mean() == pytest.approx(
            run.in_system_area_ns / run.end_ns, rel=1e-9
        )
    assert metrics.in_system == pytest.approx(3 + erlang_c(4, 3.0) * 3, rel=0.15)


def test_a_closed_loop_is_never_overloaded():
    """Machine repair with one server: C users, no thinking: the server is always busy."""
    deployment = Deployment(algorithm="nonsi", target=CONSTANT, targets=FleetSpec(), seed=1)
    workload = Workload(arrivals="closed", requests=500, users=5, output=Length(mean_tokens=1))
    run = serve(deployment, workload)
    metrics = measure(deployment, [run])
    assert metrics.target_utilisation == 1
    assert run.end_ns == 500 * 10 * MS
    assert metrics.throughput_per_s.value == pytest.approx(100)
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
