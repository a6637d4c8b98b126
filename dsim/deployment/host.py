"""A host: servers that share hardware, and slow each other while they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simpy.events import Event

if TYPE_CHECKING:
    from collections.abc import Sequence

    import simpy

    from dsim.deployment.calls import Batch


class Host:
    """Processor sharing with a measured curve.

    While *m* servers compute, each does so at ``1 / slowdown[m - 1]`` of its speed alone.

    Args:
        env: the environment of the run.
        slowdown: slowdown by the number of servers that compute, from 1 on; the last value holds
            for all larger numbers.
    """

    def __init__(self, env: simpy.Environment, slowdown: Sequence[float]) -> None:
        self.env = env
        self.slowdown = tuple(slowdown)
        self._left_ns: dict[Batch, float] = {}  # the work left, as time alone on the host
        self._since_ns = 0
        self._alarm: Event | None = None

    def start(self, batch: Batch) -> None:
        """*batch* begins to compute."""
        self._advance()
        self._left_ns[batch] = batch.work_ns
        self._set_alarm()

    def stop(self, batch: Batch) -> None:
        """*batch* is given up."""
        self._advance()
        if self._left_ns.pop(batch, None) is not None:
            self._set_alarm()

    def _factor(self) -> float:
        return self.slowdown[min(len(self._left_ns), len(self.slowdown)) - 1]

    def _advance(self) -> None:
        now: int = self.env._now  # type: ignore[assignment]
        if self._left_ns and now > self._since_ns:
            done = (now - self._since_ns) / self._factor()
            for batch in self._left_ns:
                self._left_ns[batch] -= done
        self._since_ns = now

    def _set_alarm(self) -> None:
        """Wake when the first batch ends, if nothing comes between."""
        if self._alarm is not None:
            self._alarm.callbacks = []
            self._alarm = None
        if self._left_ns:
            # Up to the next whole nanosecond, so that none ends before its work is done; what
            # rounding leaves of the work (under a billionth of it) counts as done.
            wait_ns = max(0, -int(-(min(self._left_ns.values()) * self._factor()) // 1))
            self._alarm = alarm = Event(self.env)
            alarm._ok, alarm._value, alarm.callbacks = True, None, [self._wake]
            priority = next(iter(self._left_ns)).priority
            self.env.schedule(alarm, priority, wait_ns)  # type: ignore[arg-type]

    def _wake(self, _: Event) -> None:
        self._alarm = None
        self._advance()
        ended = [b for b, left in self._left_ns.items() if left <= 1e-9 * b.work_ns]
        for batch in ended:
            del self._left_ns[batch]
        self._set_alarm()
        for batch in ended:  # as events: the verdict of one may cancel another
            self.env.schedule(batch, batch.priority, batch.back_ns)  # type: ignore[arg-type]
