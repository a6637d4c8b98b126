"""Lines to workers: pipes, what goes through them, and the clock that all processes share."""

from __future__ import annotations

import pickle
import select
import time
from collections import deque
from multiprocessing import connection
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dsim.errors import EngineError
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from dsim.events.forward import Forward


class Reply(NamedTuple):
    """What a worker sends back for one request.

    Attributes:
        serial: the number of the request.
        start_ns, end_ns: stamps of the clock that all processes share, taken by the worker when it
            began and when the device had finished.
        value: the answer; what it is, the backend knows.
        error: what went wrong, in words; ``None`` if nothing did.
    """

    serial: int
    start_ns: int
    end_ns: int
    value: Any = None
    error: str | None = None


HAVE_POLL = hasattr(select, "poll")  # not on Windows


class Pipe:
    """One end of a pipe: a connection, but quicker when the processor's caches are cold.

    A forward pass leaves no cache line as it was, so what is done between two of them costs several
    times what a loop would measure: every call that is left out counts.

    Args:
        end: the connection; both of its ends must be wrapped.
    """

    def __init__(self, end: connection.Connection[Any, Any]) -> None:
        self.end = end
        self._poll: select.poll | None = None
        self._make_poll()

    def _make_poll(self) -> None:
        if HAVE_POLL:
            self._poll = select.poll()
            self._poll.register(self.end.fileno(), select.POLLIN)

    def __getstate__(self) -> connection.Connection[Any, Any]:
        return self.end

    def __setstate__(self, end: connection.Connection[Any, Any]) -> None:
        self.__init__(end)  # type: ignore[misc]

    def send(self, message: Any) -> None:
        """Send *message*: plain data, best of built-in types, which are quick to pack."""
        self.end.send_bytes(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def recv(self) -> Any:
        """The next message; waits for it."""
        return pickle.loads(self.end.recv_bytes())  # noqa: S301 (from our own child process)

    def poll(self, timeout_s: float = 0) -> bool:
        """Whether there is a message, or the end of them."""
        if self._poll is None:
            return self.end.poll(timeout_s)
        return bool(self._poll.poll(timeout_s * 1000))

    def fileno(self) -> int:
        """For those who wait for several."""
        return self.end.fileno()

    def close(self) -> None:
        """Close this end."""
        self.end.close()


class Clock(Protocol):
    """Where a live environment has its time from."""

    def now_ns(self) -> int:
        """Nanoseconds on the clock that stamps the replies."""

    def wait(self, objects: Sequence[Any], timeout_ns: int | None) -> Iterable[Any]:
        """Wait until one of *objects* is ready, or *timeout_ns* have passed (``None``: for ever).

        Returns:
            Those that are ready.
        """


class SystemClock:
    """The clock of the machine; ``perf_counter`` is the same one in all of its processes."""

    def __init__(self) -> None:
        self._polls: dict[tuple[int, ...], select.poll] = {}  # the same few are waited for

    def now_ns(self) -> int:
        """See :class:`Clock`."""
        return time.perf_counter_ns()

    def wait(self, objects: Sequence[Any], timeout_ns: int | None) -> Iterable[Any]:
        """See :class:`Clock`."""
        if not HAVE_POLL:
            ends = {getattr(o, "end", o): o for o in objects}
            timeout_s = None if timeout_ns is None else timeout_ns / NS_PER_S
            return [ends[o] for o in connection.wait(list(ends), timeout_s)]
        by_number = {o if isinstance(o, int) else o.fileno(): o for o in objects}
        poll = self._polls.get(numbers := tuple(by_number))
        if poll is None:
            poll = self._polls[numbers] = select.poll()
            for number in numbers:
                poll.register(number, select.POLLIN)
        ready = poll.poll(None if timeout_ns is None else timeout_ns / 1e6)
        return [by_number[number] for number, _ in ready]


class Line:
    """The parent's end of the pipe to one worker.

    Args:
        name: what errors call the worker, like ``target 2``.
        rank: its place among answers with the same time stamp.
        pipe: where requests go and replies (:class:`Reply`, or a plain tuple of its parts, or a
            list of such) come from: anything with ``send``, ``recv`` and ``poll`` that the clock
            can wait for.
        sentinel: becomes ready when the worker dies; ``None`` if it cannot die on its own.
        exit_reason: says how the worker died.

    Attributes:
        forward: the forward that the worker is asked for; ``None``: none.
        serial: the number of the last request.
        ahead: how many more requests the worker answers without being asked, numbered on from
            ``serial``; it stops when it gets a message.
        early: replies to what has not been claimed yet, in order.
        dropped: how many replies nobody waited for (late or sent twice).
    """

    def __init__(
        self,
        name: str,
        rank: int,
        pipe: Any,
        sentinel: Any = None,
        exit_reason: Callable[[], str] = lambda: "it is gone",
    ) -> None:
        self.name = name
        self.rank = rank
        self.pipe = pipe
        self.sentinel = sentinel
        self.exit_reason = exit_reason
        self.forward: Forward | None = None
        self.answered: Callable[[Forward, Reply], None] | None = None
        self.serial = 0
        self.ahead = 0
        self.early: deque[Reply] = deque()
        self._last = 0  # no number up to this one may be used again
        self.asked_ns = 0
        self.dropped = 0

    @property
    def task(self) -> str:
        """What the worker is at, for errors."""
        forward = self.forward
        if forward is None:
            return "while idle"
        if forward.servers.role == "drafter":
            return f"drafting token {forward.first}"
        return f"in the pass over {forward.end} tokens, {forward.first} of them settled"

    def request(self, request: Any, ahead: int = 0) -> None:
        """Send *request*, under a number of its own.

        Args:
            request: what to do.
            ahead: how many requests that follow from it the worker will answer unasked.

        Raises:
            EngineError: the worker is gone.
        """
        self.forget()
        self.serial = self._last + 1
        self.ahead = ahead
        self._last = self.serial + ahead
        self.post((self.serial, request))

    def forget(self) -> None:
        """Drop what nobody is going to claim."""
        self.dropped += len(self.early)
        self.early.clear()

    def post(self, message: Any) -> None:
        """Send *message*.

        Raises:
            EngineError: the worker is gone.
        """
        try:
            self.pipe.send(message)
        except (OSError, ValueError) as error:
            raise self.died() from error

    def died(self) -> EngineError:
        """The error that says so."""
        return EngineError(f"{self.name} died {self.task}: {self.exit_reason()}")

    def read(self, *, ready: bool = False) -> list[Reply]:
        """Every reply that has come, at least up to that to the last request.

        Args:
            ready: the pipe is known to be ready, so it need not be asked.

        Raises:
            EngineError: the worker has closed its end, or what it sent is no reply.
        """
        replies = []
        try:
            while ready or self.pipe.poll(0):
                ready = False
                message = self.pipe.recv()
                parts = message if isinstance(message, list) else [message]
                if wrong := [part for part in parts if not isinstance(part, tuple)]:
                    raise EngineError(f"{self.name} sent {type(wrong[0]).__name__}, not a reply")
                replies += [Reply(*part) for part in parts]
                if replies and replies[-1].serial >= self.serial:
                    break  # no more is due; another look would cost as much as this one
        except (EOFError, OSError) as error:
            if not replies:
                raise self.died() from error
        return replies


def exchange(
    lines: Sequence[Line],
    requests: Sequence[Any] | None,
    *,
    timeout_ns: int = 120 * NS_PER_S,
    clock: Clock | None = None,
) -> list[Reply]:
    """Send one request to each of *lines*, outside of any run, and wait for all replies.

    Without *requests* nothing is sent: what is waited for is what workers say of themselves.

    Raises:
        EngineError: a worker died, failed, or did not answer in time.
    """
    clock = clock or SystemClock()
    deadline_ns = clock.now_ns() + timeout_ns
    for line, request in zip(lines, requests or (), strict=requests is not None):
        line.request(request)
    replies: dict[int, Reply] = {}
    while waiting := [line for line in lines if line.rank not in replies]:
        left_ns = deadline_ns - clock.now_ns()
        if left_ns <= 0:
            raise EngineError(f"{waiting[0].name} hangs: no answer in {timeout_ns / NS_PER_S:g} s")
        objects = [o for line in waiting for o in (line.pipe, line.sentinel) if o is not None]
        ready = {id(o) for o in clock.wait(objects, left_ns)}
        for line in waiting:
            if id(line.pipe) not in ready and id(line.sentinel) not in ready:
                continue
            found = line.read()
            if not found and id(line.sentinel) in ready:
                raise line.died()
            for reply in found:
                if reply.serial != line.serial:
                    line.dropped += 1
                elif reply.error is not None:
                    raise EngineError(f"{line.name} failed: {reply.error}")
                else:
                    replies[line.rank] = reply
    return [replies[line.rank] for line in lines]
