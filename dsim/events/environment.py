"""The clock of a simulated run: SimPy's, with a tight loop and a count of what was scheduled."""

from __future__ import annotations

import sys
from heapq import heappop
from itertools import repeat
from typing import TYPE_CHECKING, Any

import simpy
from simpy.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable


class NothingLeftError(RuntimeError):
    """No event is left, and what was waited for has not happened."""


class StalledError(RuntimeError):
    """Very many events, and no progress."""


class Environment(simpy.Environment):
    """A :class:`simpy.Environment` whose time is an ``int`` count of nanoseconds.

    ``run(until=event)`` does what SimPy's does. It is written out here because SimPy calls
    ``step()`` for each event, and that call is a sixth of the time of a simulation of ours.
    """

    def __init__(self) -> None:
        super().__init__()
        self._progress: Callable[[], int] = int
        self._patience = sys.maxsize

    def watch(self, progress: Callable[[], int], patience: int) -> None:
        """Give up when *progress* stays the same for *patience* events; see :meth:`run`."""
        self._progress, self._patience = progress, patience

    def run(self, until: Any = None) -> Any:
        """Run to *until* (an event), or as SimPy does for any other kind of *until*.

        Raises:
            NothingLeftError: no event is left and *until* has not happened.
            StalledError: the run makes no progress; see :meth:`watch`.
        """
        if not isinstance(until, Event):
            return super().run(until)
        queue = self._queue
        while until.callbacks is not None:
            before = self._progress()
            for _ in repeat(None, self._patience):
                if not queue:
                    raise NothingLeftError("no events are left")
                self._now, _, _, event = heappop(queue)
                callbacks, event.callbacks = event.callbacks, None  # type: ignore[assignment]
                for callback in callbacks:
                    callback(event)
                if not event._ok and not hasattr(event, "_defused"):
                    raise event._value
                if until.callbacks is None:
                    return until.value
            if self._progress() == before:
                raise StalledError(f"nothing was settled in {self._patience:,} events")
        return until.value

    @property
    def scheduled(self) -> int:
        """How many events have been scheduled so far (the currency of the event budget)."""
        return int(repr(self._eid)[6:-1])
