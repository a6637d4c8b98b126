"""A saturated replica: seconds per million output tokens, and whether they grow with the requests.

Batch 64, 200 tokens of prompt and 200 of answer, all requests there from the start. The reference
is a plain Python loop that counts as many tokens in 64 objects, and decides nothing. Times are
those of one core (process time); both are timed in turn.

    python benchmarks/replica.py             # up to 5,000 requests, a million tokens
    python benchmarks/replica.py --most 100000
"""

from __future__ import annotations

import argparse
import resource
import time

from dsim.deployment.replica.spec import ReplicaSpec
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment
from dsim.deployment.workload import Workload

BATCH, PROMPT, OUTPUT = 64, 200, 200


class Counter:
    """What a request would be if nothing had to be decided."""

    __slots__ = ("computed", "known")

    def __init__(self) -> None:
        self.computed = self.known = 0


def plain_s(tokens: int) -> float:
    """Seconds that a plain loop takes to count *tokens* tokens, a step of the batch at a time."""
    batch = [Counter() for _ in range(BATCH)]
    begin = time.process_time()
    for _ in range(tokens // BATCH):
        for one in batch:
            one.computed += 1
            one.known += 1
    return time.process_time() - begin


def main() -> None:
    """Print a line for each algorithm and number of requests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=5_000, help="requests of the longest run")
    most = parser.parse_args().most
    spec = ReplicaSpec(
        max_seqs=BATCH, kv_blocks=2_000, target_us=(6000, 25, 30), drafter_us=(300, 1)
    )
    print("algorithm   requests      steps   seconds   s/million tokens   of a plain loop")
    for algorithm in ("nonsi", "si"):
        for requests in (most // 4, most // 2, most):
            workload = Workload(arrivals="trace", trace=((0, PROMPT, OUTPUT),) * requests)
            begin = time.process_time()
            run = serve(Deployment(algorithm=algorithm, replica=spec), workload)
            seconds = time.process_time() - begin
            tokens = requests * OUTPUT
            print(
                f"{algorithm:9} {requests:10,} {run.events:10,} {seconds:9.2f} "
                f"{seconds / tokens * 1e6:18.2f} {seconds / plain_s(tokens):17.1f}"
            )
    print(f"memory at most: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
