"""One request's share of a fleet, as its orchestration asks it for forwards."""

from __future__ import annotations

from functools import partial
from heapq import heappush
from typing import TYPE_CHECKING, Any

from simpy.events import Event

from dsim.deployment.calls import Call, Share
from dsim.events.forward import Over
from dsim.events.order import RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dsim.deployment.calls import Entry
    from dsim.deployment.cost import RequestBackend
    from dsim.deployment.fleet import Fleet
    from dsim.events.forward import Forward
    from dsim.events.output import Output


class FleetShare(Share):
    """A share of *fleet*; the other arguments are those of :class:`Share`."""

    def __init__(self, fleet: Fleet, backend: RequestBackend, output: Output, **more: Any) -> None:
        role, priority = fleet.role, fleet.priority
        super().__init__(fleet.env, backend, output, role=role, priority=priority, **more)
        self.fleet = fleet
        fleet.shares.add(self)


def _nothing(_: Any) -> None:
    """Called where a batch has freed the server of a forward already."""


class SharedServer(FleetShare):
    """For an orchestration that waits for each forward before it asks again.

    The counterpart of :class:`dsim.events.servers.Server`, for servers that requests share.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guesses = self.backend.guesses
        self._block = self.backend.block
        self._constant_ns = self.backend.constant_ns
        self._events, self._eid = self.env._queue, self.env._eid
        self._call = Call(self, -1)
        self._on_end: Callable[[Any], None] = self.fleet.release if self.fleet.fast else _nothing

    @property
    def live(self) -> int:  # type: ignore[override]
        """Number of forwards that were asked for and have not ended: one, or none."""
        return int(self._call.callbacks is not None)

    def forward(
        self, first: int, _ahead: int = 0, _block: Any = None, fed: Sequence[Any] | None = None
    ) -> Call:
        """A forward over the text so far, for the tokens from *first* on; it may have to queue.

        Raises:
            RuntimeError: the last forward has not ended.
        """
        if self._call.callbacks is not None:
            raise RuntimeError(f"the {self.role} was asked for two forwards at once")
        fleet, ended = self.fleet, [self._on_end]
        call = self._call = Call(self, -1, first, len(self.tokens), ended)
        call.after = ended
        if fed is not None:
            call.fed = fed
        elif self._block is not None:
            call.tokens = made = self._block(first, self.output.settled)
            call.token = made[0] if made else None
        elif self._guesses is not None:
            call.token = self._guesses[first]
        if self.closed:
            return call  # which never happens
        if fleet.fast:
            if fleet.free and not fleet.queue.waiting:
                # What ``fleet.place`` does, without the call: this runs for every single draft.
                call.server = server = fleet.free.pop()
                if server >= fleet.peak_busy:
                    fleet.peak_busy = server + 1
                call.start_ns = now = self.env._now
                self.begun += 1
                latency_ns = self._constant_ns or self.backend.latency_of(call, server)
                heappush(self._events, (now + latency_ns, self.priority, next(self._eid), call))
                return call
        else:
            call.asked_ns = self.env._now
            if fleet.free and not fleet.queue.waiting and not fleet.batching:
                fleet.place(call)
                return call
        call.entry = fleet.wait(self, partial(fleet.resume, call))
        return call

    def cancel(self, forward: Forward) -> None:
        """Give up *forward*: at once if it has not begun or is preemptible, else at its end."""
        call: Call = forward  # type: ignore[assignment]
        if call.cancelled or call.callbacks is None:
            return
        call.cancelled = True
        fleet, waiting = self.fleet, call.after[1:]
        if call.entry is not None:
            fleet.queue.leave(call.entry)
            call.entry = None
        else:
            self.cancelled += 1
            if not fleet.preemptible:
                return
            fleet.take_off(call)
        call.callbacks = Over(call)
        self._call = Call(self, -1)
        self._call.callbacks = None  # type: ignore[assignment]
        notice = Event(self.env)
        notice._ok, notice._value, notice.callbacks = True, call, [*waiting, fleet.serve]
        self.env.schedule(notice, RESTART)  # type: ignore[arg-type]

    def withdraw_all(self) -> None:
        """See :class:`Share`."""
        call = self._call
        if self.live:
            call.after[1:] = []
            if not call.cancelled:
                self.cancel(call)


class SharedPool(FleetShare):
    """For passes of DSI, several of which may be under way at once.

    The counterpart of :class:`dsim.events.servers.Pool`, for servers that requests share.

    Args:
        max_passes: how many passes of this request may be under way at once (``S``).
    """

    live = 0

    def __init__(self, *args: Any, max_passes: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.max_passes = max_passes
        self.under_way = 0
        self.since_ns = -1  # since when this request has waited for the pass being dispatched
        self.callbacks: list[Callable[[Any], None]] = [self._ended]
        self.entry: Entry | None = None
        self.calls: dict[Call, None] = {}  # a set in order, so that runs are reproducible

    @property
    def free(self) -> bool:
        """Whether a pass may begin at this very instant."""
        fleet = self.fleet
        if fleet.serving is self:
            return self.under_way < self.max_passes
        if fleet.queue.waiting or fleet.batching or self.closed:
            return False
        return self.under_way < self.max_passes and bool(fleet.free)

    def wait(self, dispatch: Callable[[], None], /) -> None:
        """Queue, unless this request waits already, or for a pass of its own to end."""
        if self.entry is None and self.under_way < self.max_passes and not self.closed:
            self.entry = self.fleet.wait(self, partial(self._resume, dispatch))

    def _resume(self, dispatch: Callable[[], None]) -> None:
        if self.entry is not None:
            self.since_ns = self.entry.since_ns
        self.entry = None
        if not self.output.finished:
            dispatch()
        self.since_ns = -1

    def forward(
        self, first: int, fed: Sequence[Any] | None = None, *, is_pass: bool = True
    ) -> Call:
        """Begin a pass over the text so far, for the tokens from *first* on."""
        after = [*self.callbacks]
        call = Call(self, -1, first, len(self.tokens), after)
        call.after = after
        if fed is not None:
            call.fed = fed
        if not is_pass:
            call.is_pass = False
        call.asked_ns = self.since_ns if self.since_ns >= 0 else self.env._now  # type: ignore[assignment]
        self.under_way += 1
        self.live += 1
        self.calls[call] = None
        self.fleet.place(call)
        return call

    def prefill(self) -> None:
        """Let every free server that this request may use read the prompt; this is no pass."""
        while self.free:
            self.forward(0, is_pass=False)

    def _ended(self, call: Call) -> None:
        call.ended = True
        self.under_way -= 1
        self.calls.pop(call, None)
        if not call.cancelled:
            self.live -= 1
        if self.fleet.fast:
            self.fleet.release(call)

    def cancel(self, forwards: Iterable[Forward]) -> None:
        """Give up *forwards*: at once if they do not run or are preemptible, else at their ends."""
        for forward in forwards:
            self._cancel(forward)  # type: ignore[arg-type]

    def _cancel(self, call: Call) -> None:
        call.cancelled = True
        fleet = self.fleet
        self.cancelled += 1
        if call.ended:  # before its turn, and now nobody asks for its verdict
            return
        self.live -= 1
        if call.entry is not None:  # thrown back by a failure
            fleet.queue.leave(call.entry)
            call.entry = None
        elif fleet.preemptible:
            fleet.take_off(call)
        else:
            return
        call.callbacks = Over(call)
        call.ended = True
        self.under_way -= 1
        self.calls.pop(call, None)

    def withdraw_all(self) -> None:
        """See :class:`Share`."""
        self.leave_queue()
        for call in sorted(self.calls, key=lambda call: call.start_ns):
            call.after[1:] = []
            if not call.cancelled:
                self._cancel(call)

    def leave_queue(self) -> None:
        """See :class:`Share`."""
        if self.entry is not None:
            self.fleet.queue.leave(self.entry)
            self.entry = None
