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
        starting: how many of them are being started.
        limbo: requests that wait for any replica to be up.
    """

    def __init__(self, replicas: Sequence[Replica], router: str, count: int) -> None:
        self.replicas = replicas
        self.up = list(replicas[:count])
        self.starting = 0
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

    def start(self, now_ns: int) -> Replica | None:
        """Reserve a replica that is not, if there is one; it will be up later."""
        idle = next((one for one in self.replicas if one not in self._since_ns), None)
        if idle is not None:
            self._since_ns[idle] = now_ns
            self.starting += 1
        return idle

    def stop(self, replica: Replica, now_ns: int) -> None:
        """Give an idle *replica* back."""
        self.up.remove(replica)
        replica.forget()
        self._reserved_ns += now_ns - self._since_ns.pop(replica)

    def rise(self, replica: Replica) -> None:
        """*replica* is up now, or again."""
        self.up = [one for one in self.replicas if one in self.up or one is replica]

    def reserved_ns(self, now_ns: int) -> int:
        """For how long replicas were reserved, all together, up to now."""
        return self._reserved_ns + sum(now_ns - since for since in self._since_ns.values())
