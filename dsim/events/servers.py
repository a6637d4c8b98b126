"""Servers that one text has to itself: what the algorithms ask for forwards.

For servers that requests share see :mod:`dsim.deployment.shares`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simpy.events import Event

from dsim.events.forward import Forward, Over
from dsim.events.order import RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import simpy

    from dsim.events.forward import Backend
    from dsim.events.output import Output


_NEW = Forward.__new__


class Servers:
    """What one server and a pool of them have in common.

    Args:
        env: the environment of the run.
        backend: what answers the forwards.
        output: the text being generated.
        role: ``"drafter"`` or ``"target"``.
        priority: where an ended forward stands among what happens at the same instant.
        keep_history: whether to keep every forward, for a timeline.

    Attributes:
        begun, cancelled: how many forwards were begun, and how many of those were cancelled.
        peak_busy: the largest number of them that were busy at once.
        history: every forward in order of beginning, if asked for; else ``None``.
    """

    peak_busy: int

    def __init__(
        self,
        env: simpy.Environment,
        backend: Backend,
        output: Output,
        *,
        role: str,
        priority: int,
        keep_history: bool = False,
    ) -> None:
        self.env = env
        self.backend = backend
        self.output = output
        self.tokens = output.tokens
        self.role = role
        self.priority = priority
        self.begin = backend.attach(self)
        self.begun = 0
        self.cancelled = 0
        self.history: list[Forward] | None = [] if keep_history else None

    def _remember(self, forward: Forward) -> None:
        if self.history is not None:
            forward.start_ns = self.env._now  # type: ignore[assignment]
            self.history.append(forward)


class Server(Servers):
    """One server, asked by one process that waits for each forward before it asks again."""

    peak_busy = 1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._forward = Forward(self, 0)

    def forward(
        self,
        first: int,
        ahead: int = 0,
        block: tuple[int, int, int] | None = None,
        fed: Sequence[Any] | None = None,
        /,
    ) -> Forward:
        """See :class:`dsim.events.ports.ServerPort`."""
        if self._forward.callbacks is not None:
            raise RuntimeError(f"the {self.role} was asked for two forwards at once")
        # What ``Forward(self, 0, first, len(self.tokens), [])`` does, without the call: this runs
        # for every single draft.
        self._forward = forward = _NEW(Forward)
        forward.callbacks = []
        forward.servers = self
        forward.first = first
        forward.end = len(self.tokens)
        if ahead:
            forward.ahead = ahead
        if block is not None:
            forward.block = block
        if fed is not None:
            forward.fed = fed
        if self.history is not None:
            self._remember(forward)
            forward.callbacks.append(self._note_end)
        self.begun += 1
        self.begin(forward)
        return forward

    def _note_end(self, forward: Any) -> None:
        forward.end_ns = self.env._now

    def cancel(self, forward: Forward) -> None:
        """See :class:`dsim.events.ports.ServerPort`.

        If the backend is preemptible, the server is free at once, and whoever waits for the forward
        is called at this instant. Otherwise the forward runs to its end, and its answer is ignored.
        A forward that has ended stays as it is.
        """
        if forward.cancelled or forward.callbacks is None:
            return
        forward.cancelled = True
        self.cancelled += 1
        self.backend.cancel(forward)
        if self.backend.preemptible:
            notice = Event(self.env)
            notice._ok, notice._value, notice.callbacks = True, forward, forward.callbacks
            self.env.schedule(notice, RESTART)  # type: ignore[arg-type]
            forward.callbacks = Over(forward)
            forward.end_ns = self.env._now  # type: ignore[assignment]
            self._forward = Forward(self, 0)


class Pool(Servers):
    """Several servers of one model; a forward goes to one that is free.

    Args:
        count: how many servers there are.

    Attributes:
        callbacks: called with each forward that ends by itself, its server being free again.
        free: the numbers of the free servers; the last is taken first, so that the same few
            servers, whose caches are warm, do most of the work.
    """

    def __init__(self, *args: Any, count: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.count = count
        self.free = list(range(count - 1, -1, -1))
        self.fewest_free = count
        self.callbacks: list[Callable[[Any], None]] = [self._release]

    def forward(self, first: int, fed: Sequence[Any] | None = None) -> Forward:
        """See :class:`dsim.events.ports.PoolPort`."""
        free = self.free
        try:
            server = free.pop()
        except IndexError:
            what = f"forward on the {self.role}, of which all {self.count} are busy: look at free, "
            raise IndexError(what + "or wait for one that ends, before the forward") from None
        forward = Forward(self, server, first, len(self.tokens), self.callbacks.copy())
        if fed is not None:
            forward.fed = fed
        self.begun += 1
        if len(free) < self.fewest_free:  # noqa: PLR1730 (min() costs a call a pass)
            self.fewest_free = len(free)
        if self.history is not None:
            self._remember(forward)
        self.begin(forward)
        return forward

    @property
    def peak_busy(self) -> int:  # type: ignore[override]
        """The largest number of servers that were busy at once."""
        return self.count - self.fewest_free

    def wait(self, dispatch: Callable[[], None], /) -> None:
        """Do nothing: this pool's one user looks for a free server after each end anyway.

        Where several requests share the servers, they queue (:mod:`dsim.deployment.fleet`).
        """

    def prefill(self) -> None:
        """See :class:`dsim.events.ports.PoolPort`. The servers are busy meanwhile."""
        while self.free:
            self.forward(0).is_pass = False
            self.begun -= 1

    def _release(self, forward: Any) -> None:
        forward.ended = True
        self.free.append(forward.server)
        if self.history is not None:
            forward.end_ns = self.env._now

    def cancel(self, forwards: Iterable[Forward]) -> None:
        """See :class:`dsim.events.ports.PoolPort`.

        If the backend is preemptible, the servers of those that are still running are free at once.
        Otherwise they run to their ends, and their answers are ignored.
        """
        now, free, preemptible = self.env._now, self.free, self.backend.preemptible
        for forward in forwards:
            forward.cancelled = True
            self.cancelled += 1
            if preemptible and not forward.ended:
                forward.callbacks = Over(forward)
                forward.ended = True
                forward.end_ns = now  # type: ignore[assignment]
                free.append(forward.server)
