"""The wall-clock backend: a forward is a real wait in a worker, a verdict comes from draws.

This is the experiment of the paper (its models were replaced by waits, one thread a server). What
it adds to the simulation is the cost of orchestration: messages, wake-ups, and the parent's work.
"""

from __future__ import annotations

import threading
import time
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

from dsim.acceptance import DRAFTER_STREAM, TARGET_STREAM, run_lengths
from dsim.backends.simulated import Simulated
from dsim.events.live import NS_PER_S, Line, LiveEnvironment, Reply
from dsim.events.output import Output
from dsim.events.start import start
from dsim.simulate import Run, plan_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from numpy.typing import NDArray

    from dsim.events.server import Forward, Servers
    from dsim.study import Case

SLEEP_SLACK_NS = 60_000  # what a sleep oversleeps at least; the rest is waited out by yielding


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
            ours, theirs = Pipe()
            thread = threading.Thread(target=_wait_for_ever, args=(theirs,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
            self.lines.append(Line(name, rank, ours))
        self.drafter, *self.targets = self.lines

    def close(self) -> None:
        """End the threads. Their last wait, if they are at one, is over first."""
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


def _wait_for_ever(pipe: Any) -> None:
    while (message := pipe.recv()) is not None:
        serial, latency_ns = message
        start_ns = time.perf_counter_ns()
        wait_until(start_ns + latency_ns)
        pipe.send(Reply(serial, start_ns, time.perf_counter_ns()))
    pipe.close()


def wait_until(end_ns: int) -> None:
    """Wait until ``perf_counter_ns()`` is *end_ns*: by sleeping, but for the last bit."""
    while (left_ns := end_ns - time.perf_counter_ns()) > 0:
        time.sleep(max(0, left_ns - SLEEP_SLACK_NS) / NS_PER_S)


class Wallclock(Simulated):
    """Stands behind the servers of one model; a simulated backend whose latencies pass for real.

    Args:
        env: the live environment of the run.
        lines: the workers of this model's servers, by the number of the server.
        latency_ns, run_lengths: as in :class:`dsim.backends.simulated.Simulated`.
    """

    def __init__(
        self,
        env: LiveEnvironment,
        lines: Sequence[Line],
        latency_ns: Any,
        run_lengths: Sequence[int],
    ) -> None:
        super().__init__(env, latency_ns, run_lengths, preemptible=False)
        self.live = env
        self.lines = lines

    def attach(self, _: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.server.Backend`."""
        latency_ns = self._latency_ns

        def begin(forward: Forward) -> None:
            wait_ns = latency_ns
            if callable(wait_ns):
                prefill = forward.server not in self._cached
                wait_ns = wait_ns(self.width(forward), prefill)
            self.live.ask(self.lines[forward.server], forward, wait_ns, lambda *_: None)

        return begin


def run_wallclock(
    case: Case,
    algorithm: str,
    repeat: int,
    waiters: Waiters,
    draws: NDArray[Any] | None = None,
    *,
    keep_history: bool = False,
) -> Run:
    """One run of *case* in real time; as :func:`dsim.simulate.run_events`, but waiting.

    Cancelled waits go on to their end, so what predicts this run has ``preemptible = False``. When
    it returns, the waiters are idle again.

    Raises:
        ValueError: there are fewer waiters than the case has target servers.
        EngineError: a worker did not answer in time.
    """
    if algorithm == "dsi" and case.targets > len(waiters.targets):
        raise ValueError(f"{case.targets} target servers, but {len(waiters.targets)} waiters")
    if draws is None:
        draws = case.acceptance.draws(case.seed, repeat + 1, case.tokens)[repeat]
    lengths = run_lengths(draws)
    env = LiveEnvironment(waiters.lines)
    output = Output(env, case.tokens)
    (drafter, *_), target = start(
        algorithm,
        env,
        output,
        drafter_backend=Wallclock(
            env,
            [waiters.drafter],
            case.drafter.sampler(case.seed, repeat, DRAFTER_STREAM),
            lengths,
        ),
        target_backend=Wallclock(
            env,
            waiters.targets,
            case.target.sampler(case.seed, repeat, TARGET_STREAM),
            lengths,
        ),
        lookahead=case.lookahead,
        targets=case.targets,
        prefill=case.target.first_ns is not None,
        keep_history=keep_history,
        plan=plan_of(case, repeat, draws),
    )
    env.run(until=output.done)
    env.drain()
    return Run(output=output, target=target, drafter=drafter, events=0)
