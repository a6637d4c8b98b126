"""Deployments under load: events a second, and whether the cost grows with the requests alone.

The reference is plain SimPy that waits for as many timeouts, in one process, and decides nothing.
Times are those of one core (process time); both are timed in turn.

    python benchmarks/cluster.py            # up to 10,000 requests of 100 tokens
    python benchmarks/cluster.py --most 2000
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

import simpy

from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, FleetSpec
from dsim.deployment.workload import Length, Workload
from dsim.model.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Iterator

MS = 1_000_000
RATES = {"nonsi": 2.0, "si": 5.0, "dsi": 2.0}


def waits(env: simpy.Environment, count: int) -> Iterator[simpy.Event]:
    """Wait *count* times."""
    for _ in range(count):
        yield env.timeout(1)


def plain_s(count: int) -> float:
    """Seconds that plain SimPy takes for *count* timeouts."""
    env = simpy.Environment()
    env.process(waits(env, count))
    begin = time.process_time()
    env.run()
    return time.process_time() - begin


def main() -> None:
    """Print a line for each algorithm and number of requests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=10_000, help="requests of the longest run")
    most = parser.parse_args().most
    print("100 tokens a request; 8 targets (30 ms), 8 drafters (3 ms), acceptance 0.8, k = 5")
    print(
        "algorithm  requests     events   seconds   s/million events   of plain SimPy   ms/request"
    )
    for algorithm, rate in RATES.items():
        for requests in (most // 8, most // 4, most // 2, most):
            deployment = Deployment(
                algorithm=algorithm,
                most_passes=8,
                target=Latency(latency_ns=30 * MS),
                drafter=Latency(latency_ns=3 * MS),
                targets=FleetSpec(servers=8),
                drafters=FleetSpec(servers=8),
            )
            workload = Workload(requests=requests, rate_per_s=rate, output=Length(mean_tokens=100))
            begin = time.process_time()
            run = serve(deployment, workload)
            took = time.process_time() - begin
            reference = plain_s(run.events)
            print(
                f"{algorithm:9} {requests:9,} {run.events:10,} {took:9.2f} "
                f"{took / run.events * 1e6:18.2f} {took / reference:15.1f}× "
                f"{took / requests * 1e3:12.2f}"
            )


if __name__ == "__main__":
    main()
