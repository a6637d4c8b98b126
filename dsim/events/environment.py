"""The clock of a simulated run: SimPy's, with a tight loop and a count of what was scheduled."""

from __future__ import annotations

from heapq import heappop
from typing import Any

import simpy
from simpy.core import EmptySchedule
from simpy.events import Event

# What happens first at one instant (spec, "Ties"): a branch that restarts, then finished drafts,
# then finished passes; passes among themselves in the order in which they were dispatched.
RESTART, DRAFT, PASS = 0, 1, 2


class Environment(simpy.Environment):
    """A :class:`simpy.Environment` whose time is an ``int`` count of nanoseconds.

    ``run(until=event)`` does what SimPy's does. It is written out here because SimPy calls
    ``step()`` for each event, and that call is a sixth of the time of a simulation of ours.
    """

    def run(self, until: Any = None) -> Any:
        """Run to *until* (an event), or as SimPy does for any other kind of *until*.

        Raises:
            RuntimeError: no event is left and *until* has not happened.
        """
        if not isinstance(until, Event):
            return super().run(until)
        queue = self._queue
        while until.callbacks is not None:
            if not queue:
                raise RuntimeError("the simulation ran dry before it was done") from EmptySchedule()
            self._now, _, _, event = heappop(queue)
            callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
            for callback in callbacks:
                callback(event)
            if not event._ok and not hasattr(event, "_defused"):
                raise event._value
        return until.value

    @property
    def scheduled(self) -> int:
        """How many events have been scheduled so far (the currency of the event budget)."""
        return int(repr(self._eid)[6:-1])
