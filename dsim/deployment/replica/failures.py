"""When a replica fails, and when it is up again."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.workload import FAULTS, uniforms

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dsim.deployment.spec import Faults


def failures(faults: Faults, seed: int, replication: int, number: int) -> Iterator[tuple[int, int]]:
    """The outages of one replica, in order: (fails at ns, up again at ns, or -1 for never).

    Outages that touch are one. Random ones are those of the target server with this number.

    Args:
        faults: when replicas fail.
        seed: seed of the run.
        replication: number of the replication.
        number: number of the replica.
    """
    plan = sorted((fails, up) for server, fails, up in faults.plan if server == number)
    fails_ns, up_ns = -1, -1
    for begin_ns, end_ns in heapq.merge(plan, _random(faults, seed, replication, number)):
        if fails_ns < 0:
            fails_ns, up_ns = begin_ns, end_ns
        elif begin_ns <= up_ns:
            up_ns = max(up_ns, end_ns) if end_ns >= 0 else -1
        else:
            yield fails_ns, up_ns
            fails_ns, up_ns = begin_ns, end_ns
        if up_ns < 0:
            break
    if fails_ns >= 0:
        yield fails_ns, up_ns


def _random(faults: Faults, seed: int, replication: int, number: int) -> Iterator[tuple[int, int]]:
    at_ns, stream = 0, uniforms(seed, replication, FAULTS, number)
    while faults.mtbf_ns:
        up, down = -np.log1p(-stream.next(2))
        fails_ns = at_ns + max(1, round(up * faults.mtbf_ns))
        at_ns = fails_ns + max(1, round(down * faults.mttr_ns))
        yield fails_ns, at_ns
