"""What came of a workload: counts and times request by request, and what the servers did."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dsim.deployment.fleet import Fleet
    from dsim.deployment.replica.replica import Replica

    Ints = NDArray[np.int64]

DONE, LOST, TURNED_AWAY = 0, 1, 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """What the servers of one fleet did.

    Attributes:
        count: number of servers.
        busy_ns: for each server, how long it computed.
        queue_area_ns: the integral over time of the number of forwards that wait for a server.
        beyond, forwards: with a latency table: how many forwards (of whole batches) were wider than
            it, and how many there were.
        reserved_ns: for how long servers were reserved, all together; 0: all of them, always.
    """

    count: int
    busy_ns: tuple[int, ...]
    queue_area_ns: int
    beyond: int = 0
    forwards: int = 0
    reserved_ns: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunCounts:
    """What came of a workload, in numbers, as they are stored and sent from process to process.

    Arrays have one element per request, in order of arrival.

    Attributes:
        arrival_ns, start_ns, first_token_ns, done_ns, left_ns: int64; -1 where there was no such
            moment. *start_ns* is when the request was admitted, *left_ns* when it was done or lost.
        prompt_tokens, output_tokens: int64.
        fate: int64; DONE, LOST or TURNED_AWAY.
        passes, wasted_passes, drafts, wasted_drafts: int64.
        preemptions: int64; how often a replica evicted the request (always 0 on fleets).
        found: int64, shape (requests, 3): number of requests in the system, of forwards that waited
            for a target server, and of those that waited for a drafter server (of any pool), when
            the request arrived.
        tallies: of the target, the drafter (idle in non-SI), and the further drafters.
        end_ns: when the last request was over.
        in_system_area_ns: the integral over time of the number of requests in the system.
        events: number of events that were scheduled; of replicas, of steps.
    """

    arrival_ns: Ints
    start_ns: Ints
    first_token_ns: Ints
    done_ns: Ints
    left_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    fate: Ints
    passes: Ints
    wasted_passes: Ints
    drafts: Ints
    wasted_drafts: Ints
    preemptions: Ints
    found: Ints
    tallies: tuple[Tally, ...]
    end_ns: int
    in_system_area_ns: int
    events: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunRecord(RunCounts):
    """What came of a workload, and the servers that served it.

    Attributes:
        settled_ns, rejected_ns: for each request, when its tokens settled and when its drafts were
            rejected (empty unless asked for).
        fleets: the target's fleet, the drafter's, and those of further drafters; none of replicas.
        replicas: the replicas; none of fleets.
    """

    settled_ns: list[list[int]]
    rejected_ns: list[list[int]]
    fleets: tuple[Fleet, ...]
    replicas: tuple[Replica, ...]

    @property
    def target(self) -> Fleet:
        """The target's fleet."""
        return self.fleets[0]

    @property
    def drafter(self) -> Fleet:
        """The fleet of the first drafter."""
        return self.fleets[1]

    @property
    def more_drafters(self) -> tuple[Fleet, ...]:
        """The fleets of further drafters."""
        return self.fleets[2:]
