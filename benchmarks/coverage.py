"""How often 95 % intervals hold the truth, on queues whose truth is known.

``python benchmarks/coverage.py [--repeats N] [--requests N,N…] [--runs N,N…]`` simulates M/M/1,
M/D/1 and M/M/4 (by the recursions of Lindley and of Kiefer and Wolfowitz, many runs at once), has
``dsim.deployment.metrics`` measure the runs, and prints for each queue, length and number of runs
which percentage of the intervals held the truth; "–" where not every run had one, and in the last
column the number of requests that it takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import numpy as np
from numpy.typing import NDArray

from dsim.deployment.metrics import measure
from dsim.deployment.outcome import RunCounts, Tally
from dsim.deployment.spec import Deployment, FleetSpec, Slo
from dsim.deployment.workload import Workload
from dsim.model.latency import Latency

SERVICE_NS = 10**9
WARM_UP = 0.1
TRUTH_RUNS, TRUTH_REQUESTS = 500, 20_000  # where there is no closed form
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Queue:
    """A queue: its name, its servers, whether service takes a constant time, and its load."""

    name: str
    servers: int
    constant: bool
    load: float

    def simulate(self, seed: int, runs: int, requests: int) -> tuple[Floats, Floats, Floats]:
        """Arrivals, service times and ends, float64 (requests, runs), in service times."""
        rng = np.random.default_rng([seed, self.servers, int(self.constant), int(100 * self.load)])
        gaps = rng.exponential(1 / (self.load * self.servers), (requests, runs))
        arrivals = gaps.cumsum(axis=0)
        shape = (requests, runs)
        services = np.ones(shape) if self.constant else rng.exponential(1.0, shape)
        free, column = np.zeros((self.servers, runs)), np.arange(runs)
        ends = np.empty(shape)
        for i in range(requests):
            first = free.argmin(axis=0)
            ends[i] = np.maximum(arrivals[i], free[first, column]) + services[i]
            free[first, column] = ends[i]
        return arrivals, services, ends

    def truth(self, slo: float, runs: int = TRUTH_RUNS) -> dict[str, float]:
        """The steady state: times in service times, rates for each of them."""
        rate = self.load * self.servers
        known = {"throughput_per_s": rate, "target_utilisation": self.load}
        if self.servers == 1 and not self.constant:
            mean = 1 / (1 - self.load)
            known |= {"mean": mean, "good_share": 1 - math.exp(-slo / mean)}
            known |= {f"p{q}": -mean * math.log(1 - q / 100) for q in (50, 90, 99)}
        else:
            arrivals, _, ends = self.simulate(10**6, runs, TRUTH_REQUESTS)
            times = (ends - arrivals)[TRUTH_REQUESTS // 4 :]
            known |= {"mean": float(times.mean()), "good_share": float((times <= slo).mean())}
            known |= {f"p{q}": float(np.percentile(times, q)) for q in (50, 90, 99)}
        if self.servers == 1 and self.constant:
            known["mean"] = 1 + self.load / 2 / (1 - self.load)  # Pollaczek-Khinchine
        return known | {"in_system": rate * known["mean"]}


QUEUES = [
    Queue(name, servers, constant, load)
    for name, servers, constant in (("M/M/1", 1, False), ("M/D/1", 1, True), ("M/M/4", 4, False))
    for load in (0.5, 0.8, 0.9)
]
COLUMNS = ("mean", "p50", "p90", "p99", "throughput_per_s", "good_share")
COLUMNS += ("target_utilisation", "in_system")


def counts(queue: Queue, arrivals: Floats, services: Floats, ends: Floats) -> RunCounts:
    """One run as the simulation stores it."""
    n = len(arrivals)
    ns = [(values * SERVICE_NS).astype(np.int64) for values in (arrivals, ends)]
    ones, zeros = np.ones(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
    end_ns = int(ns[1].max())
    busy = tuple([int(services.sum() * SERVICE_NS)] + [0] * (queue.servers - 1))
    idle = Tally(count=1, busy_ns=(0,), queue_area_ns=0)
    return RunCounts(
        arrival_ns=ns[0],
        start_ns=ns[0],
        first_token_ns=ns[1],
        done_ns=ns[1],
        left_ns=ns[1],
        prompt_tokens=zeros,
        output_tokens=ones,
        fate=zeros,
        passes=ones,
        wasted_passes=zeros,
        drafts=zeros,
        wasted_drafts=zeros,
        preemptions=zeros,
        found=np.zeros((n, 3), dtype=np.int64),
        tallies=(Tally(count=queue.servers, busy_ns=busy, queue_area_ns=0), idle),
        end_ns=end_ns,
        in_system_area_ns=int((ns[1] - ns[0]).sum()),
        events=n,
    )


def coverage(
    queue: Queue, truth: dict[str, float], slo: float, requests: int, runs: int, repeats: int
) -> tuple[dict[str, float], float]:
    """The part of intervals that hold the truth (NaN: no interval), and the requests it takes."""
    deployment = Deployment(
        algorithm="nonsi",
        target=Latency(
            latency_ns=SERVICE_NS, model="constant" if queue.constant else "gamma", cv=1.0
        ),
        targets=FleetSpec(servers=queue.servers),
        slo=Slo(latency_ns=int(slo * SERVICE_NS)),
    )
    workload = Workload(requests=requests, rate_per_s=queue.load * queue.servers)
    simulated = queue.simulate(requests, runs * repeats, requests)
    hits: dict[str, list[bool]] = {name: [] for name in COLUMNS}
    needed = math.nan
    for number in range(repeats):
        some = [
            counts(queue, *(values[:, number * runs + i] for values in simulated))
            for i in range(runs)
        ]
        m = measure(deployment, some, warm_up=WARM_UP, workload=workload, load=queue.load)
        needed = m.interval_requests
        for name in COLUMNS:
            times = name in m.latency
            value = m.latency[name].value / 1e3 if times else getattr(m, name)
            half = m.latency[name].ci95 / 1e3 if times else m.intervals[name]
            if not math.isnan(half):
                hits[name].append(abs(value - truth[name]) <= half)
    # An interval that only some runs have would hide those that do not.
    return {
        name: float(np.mean(found)) if len(found) == repeats else math.nan
        for name, found in hits.items()
    }, needed


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--requests", default="500,1000,2000,5000,10000")
    parser.add_argument("--runs", default="1,3")
    options = parser.parse_args()
    print("| queue | load | runs | requests | " + " | ".join(COLUMNS) + " | takes |")
    print("|---|---|---|---|" + "---|" * (len(COLUMNS) + 1))
    for queue in QUEUES:
        slo = 2 / (1 - queue.load) / queue.servers + 1
        truth = queue.truth(slo)
        for runs in map(int, options.runs.split(",")):
            for requests in map(int, options.requests.split(",")):
                found, needed = coverage(queue, truth, slo, requests, runs, options.repeats)
                cells = [
                    "–" if math.isnan(found[name]) else f"{100 * found[name]:.1f}"
                    for name in COLUMNS
                ]
                head = f"| {queue.name} | {queue.load} | {runs} | {requests:,} | "
                print(head + " | ".join(cells) + f" | {needed:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
