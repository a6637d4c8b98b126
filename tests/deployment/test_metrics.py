"""What finished runs come to: metrics by hand, and their 95 % intervals."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys

import numpy as np
import pytest

from dsim.deployment import intervals
from dsim.deployment.metrics import (
    BY_RUN,
    DRIFT_REQUESTS,
    WITH_INTERVALS,
    _Cut,
    backlog_growth,
    measure,
)
from dsim.deployment.run_length import correlated_requests
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool, Slo
from dsim.deployment.workload import Length, Workload
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from tests import ROOT

QUEUE = Deployment(  # M/M/1 where answers are one token long
    algorithm="nonsi",
    target=Latency(model="gamma", cv=1.0, latency_ns=10**7),
    targets=FleetSpec(),
)
ONE_TOKEN = Length(mean_tokens=1)


def test_metrics_of_a_run_worked_out_by_hand():
    """One server, t2 = 10 ms: request 0 (2 tokens) at 0, request 1 (1 token) at 5."""
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(latency_ns=10**7),
        targets=FleetSpec(gpus=2),
        price_per_gpu_hour=3.6,
        slo=Slo(latency_ns=15 * 10**6),
    )
    workload = Workload(arrivals="trace", trace=((0, 0, 2), (5 * 10**6, 0, 1)))
    m = measure(deployment, [serve(deployment, workload)])
    # Settled: 10 and 30; 20. Request 1 goes between, since it waits since 5.
    assert m.ttft["mean"].value == pytest.approx((10 + 15) / 2)
    assert m.tpot["mean"].value == pytest.approx(20)  # request 1 has none
    assert m.latency["mean"].value == pytest.approx((30 + 15) / 2)
    assert m.throughput_per_s == pytest.approx(2 / 0.030)
    assert m.goodput_per_s == pytest.approx(1 / 0.030)
    assert m.good_share == 0.5
    assert m.target_utilisation == 1
    assert m.in_system == pytest.approx((30 + 15) / 30)
    assert m.target_queue == pytest.approx((5 + 10) / 30)
    assert m.gpu_seconds_per_token == pytest.approx(2 * 0.030 / 3)
    assert m.price_per_million == pytest.approx(2 * 0.030 / 3 * 1e6 / 3600 * 3.6)
    assert math.isnan(m.latency["mean"].ci95)


@pytest.mark.parametrize("ns", [33_300_000, 7_700_000, 10_000_000])
def test_who_keeps_a_bound_exactly_keeps_it(ns):
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(latency_ns=ns),
        targets=FleetSpec(),
        slo=Slo(ttft_ns=ns, tpot_ns=ns),
    )
    trace = tuple((200 * ns * i, 0, length) for i, length in enumerate(range(1, 101)))
    run = serve(deployment, Workload(arrivals="trace", trace=trace))
    assert measure(deployment, [run]).good_share == 1
    late = dataclasses.replace(deployment, slo=Slo(tpot_ns=ns - 1))
    assert measure(late, [run]).good_share == 0.01  # the text of one token has none


def test_the_warm_up_is_cut():
    deployment = Deployment(
        algorithm="nonsi", target=Latency(latency_ns=10**7), targets=FleetSpec()
    )
    trace = tuple((10**9 * i, 0, 5 if i < 5 else 1) for i in range(10))
    run = serve(deployment, Workload(arrivals="trace", trace=trace))
    assert measure(deployment, [run]).latency["mean"].value == pytest.approx(30)
    assert measure(deployment, [run], warm_up=0.5).latency["mean"].value == pytest.approx(10)


def test_throughput_of_a_queue_that_only_drains():
    """The requests of the warm-up take servers long after the first of the others arrived."""
    deployment = Deployment(
        algorithm="nonsi", target=Latency(latency_ns=10**7), targets=FleetSpec()
    )
    trace = tuple((i, 0, 1) for i in range(1000))
    run = serve(deployment, Workload(arrivals="trace", trace=trace))
    for warm_up in (0, 0.1, 0.5):
        assert measure(deployment, [run], warm_up=warm_up).throughput_per_s == pytest.approx(100)


def test_energy_worked_out_by_hand():
    """One target of 2 GPUs at work for 30 of 35 ms, 5 idle ones of a fleet of two for 70 in all."""
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(latency_ns=10**7),
        targets=FleetSpec(servers=2, gpus=2, watts=700.0, idle_watts=100.0),
        drafters=FleetSpec(watts=1e9, idle_watts=1e9),  # non-SI has none
    )
    workload = Workload(arrivals="trace", trace=((0, 0, 2), (25 * 10**6, 0, 1)))
    m = measure(deployment, [serve(deployment, workload)])
    joules = 2 * (0.030 * 700 + (2 * 0.035 - 0.030) * 100)
    assert m.joules_per_request == pytest.approx(joules / 2)
    assert m.kwh_per_million == pytest.approx(joules / 3 * 1e6 / 3.6e6)


def test_a_server_that_always_computes_draws_what_it_draws_computing():
    """One user under SI: either the target or the drafter computes, at every moment."""
    spec = FleetSpec(watts=500.0, idle_watts=0.0)
    deployment = Deployment(algorithm="si", targets=spec, drafters=spec)
    run = serve(deployment, Workload(arrivals="closed", users=1, requests=5))
    m = measure(deployment, [run])
    assert m.joules_per_request * 5 == pytest.approx(500.0 * run.end_ns / 1e9)


def test_further_drafters_cost_what_they_take():
    """Each GPU draws as much as any, at work or not: energy is GPUs times time."""
    spec = FleetSpec(watts=100.0, idle_watts=100.0)
    pool = MorePool(
        drafter=MoreDrafter(latency=Latency(latency_ns=300_000), rate=0.9),
        servers=dataclasses.replace(spec, servers=3, gpus=0.5),
    )
    deployment = Deployment(
        algorithm="multidsi",
        targets=spec,
        drafters=spec,
        more_drafters=(pool,),
        price_per_gpu_hour=2.0,
    )
    run = serve(deployment, Workload(requests=4, rate_per_s=20.0))
    m = measure(deployment, [run])
    hours = run.end_ns / 3.6e12
    assert m.joules_per_request * 4 == pytest.approx(3.5 * 100 * hours * 3600)
    assert m.price_per_million == pytest.approx(3.5 * 2.0 * hours / 400 * 1e6)
    (fleet,) = run.more_drafters
    assert m.more_drafter_utilisation == pytest.approx(sum(fleet.busy_ns) / 3 / run.end_ns)
    assert m.more_drafter_utilisation > 0
    busy = sum(
        sum(f.busy_ns) * s.gpus for f, s in zip(run.fleets, (spec, spec, pool.servers), strict=True)
    )
    assert m.busy_gpu_seconds_per_token == pytest.approx(busy / 1e9 / 400)
    alone = dataclasses.replace(deployment, algorithm="dsi")
    assert math.isnan(measure(alone, [serve(alone, Workload())]).more_drafter_utilisation)


def test_a_growing_backlog_is_noticed():
    """Twice the work that a server can do, simulated on purpose."""
    deployment = Deployment(
        algorithm="nonsi", target=Latency(latency_ns=10**7), targets=FleetSpec()
    )
    workload = Workload(requests=400, rate_per_s=200.0, output=Length(mean_tokens=1))
    over = serve(deployment, workload)
    assert backlog_growth(over) > 1.5
    assert not measure(deployment, [over]).stable
    calm = serve(deployment, Workload(requests=400, rate_per_s=50.0, output=Length(mean_tokens=1)))
    assert measure(deployment, [calm]).stable
    short = serve(deployment, Workload(requests=DRIFT_REQUESTS - 1, output=Length(mean_tokens=1)))
    assert math.isnan(backlog_growth(short))


@pytest.mark.parametrize("seed", range(6))
def test_a_backlog_that_drains_is_no_overload(seed):
    """A load of 0.6 "cannot keep up" after an outage long past."""

    def growth(rate_per_s, **more):
        deployment = Deployment(
            algorithm="nonsi",
            target=Latency(latency_ns=3 * 10**7),
            targets=FleetSpec(),
            seed=seed,
            **more,
        )
        lengths = Length(mean_tokens=50)
        return backlog_growth(
            serve(deployment, Workload(requests=1200, rate_per_s=rate_per_s, output=lengths))
        )

    assert growth(0.5) <= 1
    outage = Faults(plan=((0, 1800 * 10**9, 2000 * 10**9),))
    assert growth(0.4, faults=outage) <= 1
    assert growth(0.8) > 1  # a load of 1.2


# -- intervals -------------------------------------------------------------------------------------


def queue(requests, rate_per_s=30.0, replication=0, **more):
    workload = Workload(requests=requests, rate_per_s=rate_per_s, output=ONE_TOKEN)
    return serve(dataclasses.replace(QUEUE, **more), workload, replication)


def test_intervals_cover_the_truth():
    """Of 20 intervals by batches, 95 % are meant to hold; by far most do."""
    hits = {"latency": 0, "throughput_per_s": 0, "good_share": 0, "gpu_seconds_per_token": 0}
    priced = dataclasses.replace(QUEUE, slo=Slo(latency_ns=15 * 10**6))
    truth = {"throughput_per_s": 30.0, "good_share": 1 - math.exp(-1.05)}
    truth["gpu_seconds_per_token"] = 1 / 30
    for replication in range(20):
        m = measure(priced, [queue(1000, replication=replication)], warm_up=0.1, load=0.3)
        mean = m.latency["mean"]
        hits["latency"] += abs(mean.value - 10 / 0.7) < mean.ci95
        for name, value in truth.items():
            hits[name] += abs(getattr(m, name) - value) < m.intervals[name]
    assert all(count >= 17 for count in hits.values()), hits


def benchmark():
    """``benchmarks/coverage.py``, which is no package."""
    spec = importlib.util.spec_from_file_location("coverage_", ROOT / "benchmarks/coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_"] = module
    spec.loader.exec_module(module)
    return module


def test_a_small_table_of_coverage():
    """M/M/1 and M/M/4 at a load of 0.5: of 200 intervals each, 95 % hold, give or take 5 %.

    Twenty batches whose correlation was not looked at held the mean in 90 %, p90 in 87 %.
    """
    coverage = benchmark()
    for queue in (coverage.QUEUES[0], coverage.QUEUES[6]):
        truth = queue.truth(2.0, 50)
        for runs, requests in ((1, 2000), (3, 700)):
            found, needed = coverage.coverage(queue, truth, 2.0, requests, runs, 200)
            assert needed < requests
            given = {name: share for name, share in found.items() if not math.isnan(share)}
            assert {"mean", "p50", "p90", "good_share", "throughput_per_s"} <= set(given)
            assert ("in_system" in given) is (runs == 3)
            assert all(0.9 <= share <= 0.995 for share in given.values()), given


@pytest.mark.parametrize(("load", "requests"), [(0.8, 2000), (0.9, 10_000), (1.0, 10_000)])
def test_busy_queues_have_no_interval_but_a_length(load, requests):
    """Near saturation an interval takes more requests, as 1 / (1 - load)² more."""
    coverage = benchmark()
    queue = coverage.Queue("M/M/1", 1, constant=False, load=load)
    truth = dict.fromkeys(coverage.COLUMNS, math.nan)
    found, needed = coverage.coverage(queue, truth, 1.0, requests, 1, 3)
    assert all(math.isnan(share) for share in found.values())
    law = 120 * 4 * load / (1 - load) ** 2 / 0.9 if load < 1 else math.inf
    assert needed == pytest.approx(law, rel=0.15)


def test_how_long_runs_have_to_be_where_the_load_is_not_known():
    """In a closed loop a queue has at most its users; elsewhere the queue of the run tells."""
    workload = Workload(arrivals="closed", users=4, requests=50, output=ONE_TOKEN)
    run = serve(QUEUE, workload)
    assert correlated_requests(QUEUE, workload, None, [run]) == 9
    calm, busy = (queue(2000, rate) for rate in (10.0, 95.0))
    found = [correlated_requests(QUEUE, None, None, [one]) for one in (calm, busy)]
    assert 3 < found[0] < 20
    assert found[1] > 100
    faulty = dataclasses.replace(QUEUE, faults=Faults(mtbf_ns=9 * 10**9, mttr_ns=10**9))
    workload = Workload(requests=100, rate_per_s=30.0, output=ONE_TOKEN)
    more = [correlated_requests(one, workload, 0.3, [calm]) for one in (QUEUE, faulty)]
    assert more[1] - more[0] == pytest.approx(10.0 * 2000 / calm.end_ns * 1e9)


def test_there_is_no_interval_without_ground():
    """Too few requests, in all or beyond a quantile."""
    few, many = (measure(QUEUE, [queue(requests)], load=0.3) for requests in (99, 1500))
    assert math.isnan(few.latency["mean"].ci95)
    assert all(math.isnan(half) for half in few.intervals.values())
    for name, there in (("p50", True), ("p90", True), ("p99", False)):
        assert math.isnan(many.latency[name].ci95) is not there
    assert many.intervals["throughput_per_s"] > 0
    # What is known of whole runs only takes two of them.
    assert all(math.isnan(many.intervals[name]) for name in BY_RUN)
    two = measure(QUEUE, [queue(1000, replication=r) for r in range(2)], load=0.3)
    for name in ("target_utilisation", "in_system", "target_queue", "busy_gpu_seconds_per_token"):
        assert two.intervals[name] > 0
    assert math.isnan(two.intervals["more_drafter_queue"])
    assert math.isnan(two.intervals["joules_per_request"])


def test_what_does_not_vary_has_no_width():
    """non-SI begins one pass per token, whatever happens: the interval is a point."""
    constant = dataclasses.replace(QUEUE, target=Latency(latency_ns=10**7))
    for runs in (1, 3):
        served = [serve(constant, Workload(requests=900, rate_per_s=0.5), r) for r in range(runs)]
        m = measure(constant, served, load=0.5)
        assert m.passes_per_token == 1.0
        assert m.intervals["passes_per_token"] == 0.0
        assert m.intervals["wasted_pass_share"] == 0.0
        assert 0 < m.intervals["gpu_seconds_per_token"] < m.gpu_seconds_per_token / 4


def test_the_interval_of_runs_worked_out_by_hand():
    """Three runs of 100, 100 and 100 passes per 50, 40 and 60 tokens: t(2) s / √3, linearised."""
    above, below = np.array([[100.0]] * 3), np.array([[50.0], [40.0], [60.0]])
    off = [(100 - 2 * tokens) / 50 for tokens in (50, 40, 60)]
    expected = 4.302652729911275 * np.std(off, ddof=1) / math.sqrt(3)
    assert intervals.of_ratio(above, below) == pytest.approx(expected)
    assert math.isnan(intervals.of_ratio(above[:1], below[:1]))
    assert math.isnan(intervals.of_ratio(above, 0 * below))


def test_every_metric_that_may_have_an_interval_has_one_or_none():
    m = measure(QUEUE, [queue(300)])
    assert tuple(m.intervals) == WITH_INTERVALS
    assert all(hasattr(m, name) for name in WITH_INTERVALS)


def test_batches_share_out_all_time_and_all_requests():
    """Their sums are the ratios themselves."""
    deployment = dataclasses.replace(
        QUEUE, slo=Slo(latency_ns=2 * 10**7), price_per_gpu_hour=2.0, max_active=2, max_waiting=1
    )
    run = queue(500, 90.0, max_active=2, max_waiting=1)
    m = measure(deployment, [run])
    assert m.turned_away > 0
    for name, (above, below) in _Cut(run, 0.0).parts(deployment, 10).items():
        assert len(above) == len(below) == 10
        if below.sum():  # non-SI has no drafts
            assert above.sum() / below.sum() == pytest.approx(getattr(m, name))


def test_a_request_keeps_an_slo_only_where_there_is_one():
    """Bounds that are left out bound nothing; without any, nothing is said of good requests."""
    every = {"ttft_ns": 10**6, "tpot_ns": 10**6, "latency_ns": 10**6}
    assert not Slo()
    assert Slo(**every)
    for name, bound in every.items():
        assert Slo(**{name: bound})
    run = serve(QUEUE, Workload(requests=300, rate_per_s=1.0))
    assert math.isnan(measure(QUEUE, [run]).goodput_per_s)
    strict = dataclasses.replace(QUEUE, slo=Slo(**every))
    assert measure(strict, [run]).goodput_per_s == 0
