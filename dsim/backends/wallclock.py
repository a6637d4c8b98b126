"""The wall-clock backend: a forward is a real wait in a thread, a verdict comes from draws.

This is the experiment of the paper (its models were replaced by waits, one thread a server). A wait
ends its latency after the instant at which the algorithm asked for it, so the way of a message to
the thread and back is part of the wait. What it adds to the simulation is what waits overshoot,
and orchestration that takes longer than the waits it hides in.
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from dsim.backends.lines import Line, Reply, exchange
from dsim.backends.live import LiveEnvironment
from dsim.backends.simulated import Simulated
from dsim.events.output import Output
from dsim.events.run import Run
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM
from dsim.model.script import script_of
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.blame import blaming
from dsim.orchestrations.start import start
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from dsim.events.forward import Forward
    from dsim.events.servers import Servers
    from dsim.model.case import Case

SLACK_NS = 300_000  # waits sleep up to here before their end; the rest is waited out by yielding


class Box:
    """What a :class:`dsim.backends.lines.Line` takes for its pipe, to a thread of this process.

    Nothing is pickled. The thread takes from :attr:`requests` and calls :meth:`reply`; all else is
    for the parent.
    """

    def __init__(self) -> None:
        self.requests: SimpleQueue[Any] = SimpleQueue()
        self._replies: deque[Reply] = deque()
        self._readable, self._writable = os.pipe()

    def reply(self, reply: Reply) -> None:
        """Answer, and wake the parent."""
        self._replies.append(reply)
        os.write(self._writable, b"\0")

    def send(self, message: Any) -> None:
        """Ask."""
        self.requests.put(message)

    def poll(self, _timeout_s: float = 0) -> bool:
        """Whether there is a reply."""
        return bool(self._replies)

    def recv(self) -> Reply:
        """The next reply."""
        os.read(self._readable, 1)
        return self._replies.popleft()

    def fileno(self) -> int:
        """What to wait for."""
        return self._readable

    def close(self) -> None:
        """Give back what the operating system lent."""
        os.close(self._readable)
        os.close(self._writable)


class Waiters:
    """Worker threads, one a server, that wait as long as they are told to.

    Args:
        targets: how many target servers there are, beside the one drafter.

    Attributes:
        drafter: the line to the drafter's thread.
        targets: the lines to those of the target servers.
    """

    def __init__(self, targets: int) -> None:
        names = ["drafter", *(f"target {i + 1}" for i in range(targets))]
        self.lines = []
        self._threads = []
        for rank, name in enumerate(names):
            box = Box()
            thread = threading.Thread(target=_wait_for_ever, args=(box,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
            self.lines.append(Line(name, rank, box))
        self.drafter, *self.targets = self.lines

    def stop(self) -> None:
        """End the waits that threads are still at; then all are idle."""
        exchange(self.lines, [0] * len(self.lines))
        for line in self.lines:
            line.forward = line.answered = None

    def close(self) -> None:
        """End the threads, and with them the waits they are at."""
        for line in self.lines:
            line.pipe.send(None)
        for line, thread in zip(self.lines, self._threads, strict=True):
            thread.join()
            line.pipe.close()

    def __enter__(self) -> Waiters:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


_COMPLETED = object()


def _wait_for_ever(box: Box) -> None:
    message = box.requests.get()
    while message is not None:
        serial, end_ns = message
        start_ns = time.perf_counter_ns()
        message = wait_until(end_ns, box.requests)
        if message is _COMPLETED:
            box.reply(Reply(serial, start_ns, time.perf_counter_ns()))
            message = box.requests.get()


def wait_until(end_ns: int, requests: SimpleQueue[Any]) -> Any:
    """Wait until ``perf_counter_ns()`` is *end_ns*: by sleeping, but for the last bit.

    Returns:
        The message that came meanwhile and ended the wait, or ``_COMPLETED``.
    """
    while (left_ns := end_ns - time.perf_counter_ns()) > 0:
        try:
            if left_ns > SLACK_NS:
                return requests.get(timeout=(left_ns - SLACK_NS) / NS_PER_S)
            return requests.get_nowait()
        except Empty:
            if left_ns <= SLACK_NS:
                time.sleep(0)
    return _COMPLETED


@dataclasses.dataclass(frozen=True, kw_only=True)
class WallclockRun(Run):
    """A finished run in real time.

    Attributes:
        oversleep_ns: for each wait that ended by itself, how much later than it should.
        handover_ns: for each of them, how long after its end the algorithm heard of it.
    """

    oversleep_ns: Sequence[int]
    handover_ns: Sequence[int]


class Wallclock(Simulated):
    """Stands behind the servers of one model; a simulated backend whose latencies pass for real.

    Args:
        env: the live environment of the run.
        lines: the threads of this model's servers, by the number of the server.
        latency_ns, run_lengths, more: as in
            :class:`dsim.backends.simulated.Simulated`. A new request ends the wait that its thread
            is at, so a cancelled wait need not be waited for.
        oversleep_ns: where to note how much later than they should waits end.
    """

    def __init__(
        self,
        env: LiveEnvironment,
        lines: Sequence[Line],
        latency_ns: Any,
        run_lengths: Sequence[int],
        *,
        oversleep_ns: list[int],
        **more: Any,
    ) -> None:
        super().__init__(env, latency_ns, run_lengths, **more)
        self.live = env
        self.lines = lines
        self.oversleep_ns = oversleep_ns

    def _beginner(self, _: Servers) -> Callable[[Forward], None]:
        latency_ns, live = self._latency_ns, self.live

        def begin(forward: Forward) -> None:
            wait_ns = latency_ns
            if callable(wait_ns):
                prefill = forward.server not in self._cached
                wait_ns = wait_ns(self.width(forward), prefill)
            line = self.lines[forward.server]
            if self.preemptible and line.forward is not None and line.forward.cancelled:
                line.forward = None  # whatever its thread still says of it is dropped
            end_ns = live.zero_ns + int(live.now) + wait_ns

            def answered(_: Forward, reply: Reply) -> None:
                self.oversleep_ns.append(reply.end_ns - end_ns)

            live.ask(line, forward, end_ns, answered)

        return begin


def run_wallclock(
    case: Case,
    algorithm: str,
    repeat: int,
    waiters: Waiters,
    ranks: NDArray[Any] | None = None,
    *,
    keep_history: bool = False,
) -> WallclockRun:
    """One run of *case* in real time; as ``run_events`` of the engines, but waiting.

    When it returns, the waiters are idle again: waits that are no longer wanted are ended, or, if
    the case is not preemptible, have gone on to their ends.

    Raises:
        ValueError: there are fewer waiters than the case has target servers, or the algorithm
            cannot run in real time.
        EngineError: a worker did not answer in time.
    """
    if not ORCHESTRATIONS[algorithm].traits.live:
        raise ValueError(f"{ORCHESTRATIONS[algorithm].title} is simulated only")
    if ORCHESTRATIONS[algorithm].traits.further_drafters and case.more_drafters:
        raise ValueError(f"{ORCHESTRATIONS[algorithm].title}: further drafters are simulated only")
    targets = case.targets if ORCHESTRATIONS[algorithm].traits.several_targets else 1
    if targets > len(waiters.targets):
        raise ValueError(f"{targets} target servers, but {len(waiters.targets)} waiters")
    if ranks is None:
        ranks = case.acceptance.ranks(case.seed, repeat + 1, case.tokens)[repeat]
    script = script_of(case, ranks, repeat)
    env = LiveEnvironment(waiters.lines)
    output = Output(env, case.tokens)
    oversleep_ns: list[int] = []

    def backend(lines: Sequence[Line], latency: Any, block: Any = None) -> Wallclock:
        return Wallclock(
            env,
            lines,
            latency,
            script.lengths,
            preemptible=case.preemptible,
            script=script,
            block=block,
            oversleep_ns=oversleep_ns,
        )

    (drafter, *_), target = start(
        algorithm,
        env,
        output,
        drafter_backends=[
            backend(
                [waiters.drafter],
                case.drafter.sampler(case.seed, repeat, DRAFTER_STREAM),
                script.block_of(0),
            )
        ],
        target_backend=backend(
            waiters.targets, case.target.sampler(case.seed, repeat, TARGET_STREAM)
        ),
        targets=targets,
        prefill=case.target.first_ns is not None,
        keep_history=keep_history,
        plan=script.plan,
        decoding=case,
    )
    with blaming(algorithm):
        env.run(until=output.done)
    if case.preemptible:
        waiters.stop()
    else:
        env.drain()
    return WallclockRun(
        output=output,
        target=target,
        drafter=drafter,
        events=0,
        oversleep_ns=oversleep_ns,
        handover_ns=env.lateness_ns,
    )
