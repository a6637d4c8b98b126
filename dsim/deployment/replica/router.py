"""Routers: which replica a request goes to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.deployment.replica.replica import Replica
    from dsim.deployment.replica.request import Request

    Router = Callable[[Request, Sequence[Replica]], Replica]


def router_of(name: str) -> Router:
    """What chooses the replica for each request, of those that are up.

    Of equals the first is taken.

    Args:
        name: ``round-robin``; ``least-requests`` (that wait or run); ``least-tokens`` (that are yet
            to be read or written); ``longest-prefix`` (the most tokens in the prefix cache, of
            equals the one with the fewest requests).
    """

    def requests(replica: Replica) -> int:
        return len(replica.waiting) + len(replica.running)

    if name == "round-robin":
        turn = itertools.count()
        return lambda _, replicas: replicas[next(turn) % len(replicas)]
    if name == "least-requests":
        return lambda _, replicas: min(replicas, key=requests)
    if name == "least-tokens":
        return lambda _, replicas: min(replicas, key=lambda one: one.outstanding)
    if name == "longest-prefix":
        return lambda request, replicas: min(
            replicas, key=lambda one: (-one.blocks.hits(request), requests(one))
        )
    raise ValueError(f"unknown router {name!r}")
