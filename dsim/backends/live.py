"""A live SimPy environment: its events are the replies of workers, its clock is the real one.

The orchestrations run in it as they do in a simulation. What they ask of a server goes to a worker
through a :class:`dsim.backends.lines.Line`; the worker's reply becomes an event, at the time stamp
that the worker gave it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import simpy
from simpy.core import EmptySchedule

from dsim.backends.lines import SystemClock
from dsim.errors import EngineError
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.backends.lines import Clock, Line, Reply
    from dsim.events.forward import Forward


class LiveEnvironment(simpy.Environment):
    """A :class:`simpy.Environment` that waits for workers. Time is ``int`` ns since its making.

    ``step()`` waits for whichever comes first, the next scheduled event or a worker's message, and
    then takes the earliest event, as any SimPy environment does. Nothing is ever triggered from
    another thread: messages are read here, in the order of their time stamps, and scheduled.

    Args:
        lines: the workers that may be asked.
        clock: where the time comes from.
        watchdog_ns: how long a worker may take for one request.

    Attributes:
        lateness_ns: for each reply, how long after its time stamp it was read.
    """

    def __init__(
        self,
        lines: Sequence[Line] = (),
        *,
        clock: Clock | None = None,
        watchdog_ns: int = 120 * NS_PER_S,
    ) -> None:
        super().__init__()
        self.clock: Clock = clock or SystemClock()
        self.lines = list(lines)
        self.watchdog_ns = watchdog_ns
        self.lateness_ns: list[int] = []
        self.zero_ns = self.clock.now_ns()

    def ask(
        self,
        line: Line,
        forward: Forward,
        request: Any,
        answered: Callable[[Forward, Reply], None],
        ahead: int = 0,
    ) -> None:
        """Have the worker at *line* do *forward*; the event happens when its reply comes.

        Args:
            line: the worker, idle or running ahead.
            forward: the event.
            request: what to do; sent as (serial number, request).
            answered: called with the forward and its reply just before it is scheduled.
            ahead: how many forwards the worker does after it without being asked, if it gets no
                message; :meth:`take` claims them.

        Raises:
            RuntimeError: the worker is busy.
            EngineError: the worker is gone.
        """
        self._await(line, forward, answered)
        line.request(request, ahead)

    def take(
        self, line: Line, forward: Forward, answered: Callable[[Forward, Reply], None]
    ) -> None:
        """Take for *forward* what the worker at *line* does next unasked.

        Raises:
            RuntimeError: the worker is busy, or does nothing unasked.
        """
        if not line.ahead:
            raise RuntimeError(f"{line.name} does nothing unasked")
        self._await(line, forward, answered)
        line.serial += 1
        line.ahead -= 1
        if line.early:
            self._arrive(line, line.early.popleft(), self.clock.now_ns())

    def halt(self, line: Line) -> None:
        """Let the worker at *line* do no more than what has been asked for or taken.

        Raises:
            EngineError: the worker is gone.
        """
        if line.ahead:
            line.ahead = 0
            line.post((line.serial, None))

    def _await(
        self, line: Line, forward: Forward, answered: Callable[[Forward, Reply], None]
    ) -> None:
        if line.forward is not None:
            raise RuntimeError(f"{line.name} was asked for two forwards at once")
        line.forward, line.answered = forward, answered
        line.asked_ns = self.clock.now_ns()

    def step(self) -> None:
        """Wait for what comes first, and let it happen.

        Raises:
            EmptySchedule: nothing is scheduled and no worker is busy.
            EngineError: a worker died, failed, or took longer than the watchdog allows.
        """
        while True:
            next_ns = self._queue[0][0] if self._queue else None
            # What a worker may send now cannot come before an event that is due already.
            if next_ns is not None and next_ns <= self._now:
                break
            busy = [line for line in self.lines if line.forward is not None]
            if not busy and next_ns is None:
                raise EmptySchedule
            now_ns = self.clock.now_ns()
            ends = [line.asked_ns + self.watchdog_ns for line in busy]
            ends += [] if next_ns is None else [int(next_ns) + self.zero_ns]
            self._receive(busy, max(0, min(ends) - now_ns))
            now_ns = self.clock.now_ns()
            if self._queue and int(self._queue[0][0]) + self.zero_ns <= now_ns:
                break
            self._watch(busy)
        super().step()

    def _receive(self, busy: Sequence[Line], timeout_ns: int) -> None:
        """Read what has come from *busy* workers within *timeout_ns*, and schedule it.

        Raises:
            EngineError: a worker died or failed.
        """
        waited = {id(line.pipe): line for line in busy}
        waited |= {id(line.sentinel): line for line in busy if line.sentinel is not None}
        objects = [o for line in busy for o in (line.pipe, line.sentinel) if o is not None]
        ready = list(self.clock.wait(objects, timeout_ns))
        arrivals = []
        for line in {waited[id(o)].rank: waited[id(o)] for o in ready}.values():
            replies = line.read(ready=any(o is line.pipe for o in ready))
            arrivals += [(reply, line) for reply in replies]
            if not replies and line.sentinel is not None:
                # The pipe is empty and still something was ready: the worker is dead.
                raise line.died()
        read_ns = self.clock.now_ns()
        for reply, line in sorted(arrivals, key=lambda a: (a[0].end_ns, a[1].rank)):
            self._arrive(line, reply, read_ns)

    def _arrive(self, line: Line, reply: Reply, read_ns: int) -> None:
        forward, answered = line.forward, line.answered
        if line.serial < reply.serial <= line.serial + line.ahead:
            line.early.append(reply)
            return
        if forward is None or reply.serial != line.serial:
            line.dropped += 1  # late, or sent twice: nobody waits for it
            return
        if reply.error is not None:
            raise EngineError(f"{line.name} failed {line.task}: {reply.error}")
        line.forward = line.answered = None
        self.lateness_ns.append(read_ns - reply.end_ns)
        if answered is not None:
            answered(forward, reply)
        # A message that was overtaken by a later one cannot happen in the past.
        delay_ns = max(0, reply.end_ns - self.zero_ns - int(self._now))
        self.schedule(forward, forward.servers.priority, delay_ns)  # type: ignore[arg-type]

    def _watch(self, busy: Sequence[Line]) -> None:
        now_ns = self.clock.now_ns()
        for line in busy:
            if line.forward is not None and now_ns - line.asked_ns >= self.watchdog_ns:
                limit_s = self.watchdog_ns / NS_PER_S
                raise EngineError(f"{line.name} hangs {line.task}: no answer in {limit_s:g} s")

    def drain(self) -> None:
        """Wait until no worker is busy; what they answer is dropped.

        A cancelled forward runs to its end, so a run may be over while workers are not.

        Raises:
            EngineError: a worker died, failed, or took too long.
        """
        for line in self.lines:
            self.halt(line)
        while busy := [line for line in self.lines if line.forward is not None]:
            deadline_ns = min(line.asked_ns for line in busy) + self.watchdog_ns
            self._receive(busy, max(0, deadline_ns - self.clock.now_ns()))
            self._watch(busy)
