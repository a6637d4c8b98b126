"""A pool of replicas that are alike: who is up, who gets which request, and what is reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.deployment.replica.router import router_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.deployment.replica.replica import Replica
    from dsim.deployment.replica.request import Request


class Pool:
    """Replicas that share their requests.

    Args:
        replicas: all of them.
        router: name of the router.
        count: how many of them are there from the start.

    Attributes:
        up: those that serve, in order.
        starting: those that are being started.
        limbo: requests that wait for any replica to be up.
    """

    def __init__(self, replicas: Sequence[Replica], router: str, count: int) -> None:
        self.replicas = replicas
        self.count = count
        self.up = list(replicas[:count])
        self.starting: set[Replica] = set()
        self.limbo: list[Request] = []
        self._route = router_of(router)
        self._since_ns = dict.fromkeys(self.up, 0)  # replicas that are reserved
        self._reserved_ns = 0

    @property
    def waiting(self) -> int:
        """Requests that wait for admission, or for a replica."""
        return sum(len(one.waiting) for one in self.up) + len(self.limbo)

    def give(self, request: Request) -> Replica | None:
        """Give *request* to a replica; ``None``: none is up, and it waits."""
        if not self.up:
            self.limbo.append(request)
            return None
        chosen = self._route(request, self.up)
        chosen.arrives(request)
        return chosen

    def start(self, now_ns: int, most_waiting: float) -> Replica | None:
        """Reserve another replica, which will be up later, if there is one and it is needed.

        Args:
            now_ns: when that is.
            most_waiting: requests that may wait for each replica that is up or being started.
        """
        there = len(self.up) + len(self.starting)
        if len(self._since_ns) == len(self.replicas) or self.waiting <= most_waiting * there:
            return None
        more = next(one for one in self.replicas if one not in self._since_ns)
        self._since_ns[more] = now_ns
        self.starting.add(more)
        return more

    def stop_idle(self, replica: Replica, now_ns: int) -> None:
        """Give *replica* back, if there are more than at the start, and nobody needs it."""
        busy = replica.running or replica.waiting or self.waiting
        if busy or len(self.up) <= self.count:
            return
        self.up.remove(replica)
        replica.forget()
        self._reserved_ns += now_ns - self._since_ns.pop(replica)

    def rise(self, replica: Replica) -> None:
        """*replica* is up now, or again."""
        self.starting.discard(replica)
        self.up = [one for one in self.replicas if one in self.up or one is replica]

    def reserved_ns(self, now_ns: int) -> int:
        """For how long replicas were reserved, all together, up to now."""
        return self._reserved_ns + sum(now_ns - since for since in self._since_ns.values())
