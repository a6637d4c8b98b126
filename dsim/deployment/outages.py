"""Failures of servers: when they happen, and what servers are called."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from simpy.events import Event

from dsim.deployment.workload import FAULTS, uniforms

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import simpy

    from dsim.deployment.fleet import Fleet
    from dsim.deployment.spec import Faults

FAIL = -1  # priority of failures: before everything else of the instant
FURTHER = "further drafter"


def further_role(number: int) -> str:
    """The role of further drafter *number* (from 1 on)."""
    return f"{FURTHER} {number}"


def server_name(role: str, number: int) -> str:
    """The name of server *number* (from 1 on): ``target 2``, ``further drafter 1.2``.

    Args:
        role: role of the server's fleet.
        number: number of the server in the fleet.
    """
    return f"{role}{'.' if role.startswith(FURTHER) else ' '}{number}"


class Outages:
    """The failures of one fleet in one run. Outages of one server may overlap.

    Args:
        env: the environment of the run.
        fleet: the servers that fail.
        faults: when they fail.
        seed: seed of the run.
        replication: number of the replication.
        first_stream: number of the first server's stream of random numbers.
        all_stuck: whether no request can ever go on, however servers come and go.
    """

    def __init__(
        self,
        env: simpy.Environment,
        fleet: Fleet,
        faults: Faults,
        *,
        seed: int,
        replication: int,
        first_stream: int,
        all_stuck: Callable[[], bool],
    ) -> None:
        self.env = env
        self.fleet = fleet
        self.faults = faults
        self.gone: set[int] = set()  # servers that never come back
        self._seed, self._replication = seed, replication
        self._first_stream = first_stream
        self._all_stuck = all_stuck
        self._holding = [0] * fleet.count  # number of outages that hold each server down
        self._schedule()

    @property
    def all_gone(self) -> bool:
        """Whether no server of the fleet ever comes back."""
        return len(self.gone) == self.fleet.count

    def _schedule(self) -> None:
        # All failures first, so that a server is not up between outages that touch.
        for server, fails_ns, _ in self.faults.plan:
            self._at(fails_ns, self._fail, server)
        for server, fails_ns, recovers_ns in self.faults.plan:
            if recovers_ns >= 0:
                self._at(recovers_ns, self._recover, server)
            else:
                self._at(fails_ns, self.gone.add, server)
        if self.faults.mtbf_ns:
            for server in range(self.fleet.count):
                self.env.process(self._failing(server))

    def _at(self, at_ns: int, do: Callable[[int], None], server: int) -> None:
        event = Event(self.env)
        event._ok, event._value = True, None
        event.callbacks = [lambda _: do(server)]
        self.env.schedule(event, FAIL, at_ns)  # type: ignore[arg-type]

    def _failing(self, server: int) -> Generator[Event]:
        """*server* fails at random, again and again."""
        part = self._first_stream + server
        stream = uniforms(self._seed, self._replication, FAULTS, part)
        while server not in self.gone:
            up, down = -np.log1p(-stream.next(2))
            yield self.env.timeout(max(1, round(up * self.faults.mtbf_ns)))
            self._fail(server)
            yield self.env.timeout(max(1, round(down * self.faults.mttr_ns)))
            self._recover(server)
            if self._all_stuck():
                return

    def _fail(self, server: int) -> None:
        self._holding[server] += 1
        if self._holding[server] == 1:
            self.fleet.fail(server)

    def _recover(self, server: int) -> None:
        self._holding[server] -= 1
        if not self._holding[server]:
            self.fleet.recover(server)
