"""Routers: which replica a request goes to."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.deployment.replica.replica import Replica
    from dsim.deployment.replica.request import Request


def router_of(name: str, replicas: Sequence[Replica]) -> Callable[[Request], int]:
    """What chooses the number of the replica for each request that arrives.

    Args:
        name: ``round-robin``; ``least-requests`` (that wait or run); ``least-tokens`` (that are yet
            to be read or written); ``longest-prefix`` (the most tokens in the prefix cache, of
            equals the one with the fewest requests). Of equals the first is taken.
        replicas: those to choose from.
    """
    if name == "round-robin":
        turn = itertools.cycle(range(len(replicas)))
        return lambda _: next(turn)

    def requests(number: int) -> int:
        return len(replicas[number].waiting) + len(replicas[number].running)

    numbers = range(len(replicas))
    if name == "least-requests":
        return lambda _: min(numbers, key=requests)
    if name == "least-tokens":
        return lambda _: min(numbers, key=lambda number: replicas[number].outstanding)
    if name == "longest-prefix":
        return lambda request: min(
            numbers, key=lambda number: (-replicas[number].blocks.hits(request), requests(number))
        )
    raise ValueError(f"unknown router {name!r}")
