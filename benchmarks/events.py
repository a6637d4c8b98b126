"""The event engine beside plain SimPy, which does nothing but wait for as many timeouts.

The reference has as many timeouts as the run has events, in as many processes as the run has
servers, of the same lengths; they decide nothing. CPU time is taken of both in turn, and the best
of each stands.

    python benchmarks/events.py
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import simpy

from dsim.engines.simulate import run_events
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKENS, TIMES = 100_000, 7
CASES = [
    ("nonsi", 0.8, 1, 1),
    ("si", 0.8, 5, 1),
    ("dsi", 0.95, 5, 4),
    ("dsi", 0.8, 5, 4),
    ("dsi", 0.5, 5, 4),
    ("dsi", 0.8, 1, 11),
    ("pearl", 0.8, 10, 1),
    ("pipespec", 0.8, 5, 1),
    ("ssd", 0.8, 5, 1),
]
DRAFTER_NS, TARGET_NS = 1_000, 10_000


def waits(env: simpy.Environment, count: int, delay_ns: int) -> Iterator[simpy.Event]:
    """Wait *count* times."""
    for _ in range(count):
        yield env.timeout(delay_ns)


def plain_s(drafts: int, passes: int, servers: int) -> float:
    """Seconds of CPU time that plain SimPy takes."""
    env = simpy.Environment()
    if drafts:
        env.process(waits(env, drafts, DRAFTER_NS))
    for server in range(servers):
        share = passes // servers + (server < passes % servers)
        env.process(waits(env, share, TARGET_NS))
    begin = time.process_time()
    env.run()
    return time.process_time() - begin


def main() -> None:
    """Print a line for each case."""
    print("algorithm  p     k   S   events/token   dsim µs/event   SimPy µs/event   ratio")
    for algorithm, rate, lookahead, targets in CASES:
        case = Case(
            tokens=TOKENS,
            lookahead=lookahead,
            targets=targets,
            target=Latency(latency_ns=TARGET_NS),
            drafter=Latency(latency_ns=DRAFTER_NS),
            acceptance=Acceptance(rate=rate),
            repeats=1,
            seed=0,
            preemptible=True,
        )
        draws = case.acceptance.draws(0, 1, TOKENS)[0]
        ours, plain, events = [], [], 0
        for _ in range(TIMES):
            begin = time.process_time()
            run = run_events(case, algorithm, 0, draws)
            ours.append(time.process_time() - begin)
            events = run.events
            plain.append(plain_s(events - run.target.begun, run.target.begun, targets))
        print(
            f"{algorithm:9}  {rate:4}  {lookahead:2}  {targets:2}   {events / TOKENS:12.2f}   "
            f"{min(ours) / events * 1e6:13.3f}   {min(plain) / events * 1e6:14.3f}   "
            f"{min(ours) / min(plain):5.2f}"
        )


if __name__ == "__main__":
    main()
