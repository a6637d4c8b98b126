"""Servers: what the algorithms ask for forward passes, whatever stands behind them.

A :class:`Backend` decides what a forward *is*: an event after a sampled latency, a real wait, or a
real forward pass. The algorithms see none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from simpy.events import Event

from dsim.events.environment import RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import simpy

    from dsim.events.output import Output


class Backend(Protocol):
    """What stands behind the servers of one model during one run."""

    preemptible: bool

    def attach(self, servers: Servers) -> Callable[[Forward], None]:
        """Serve *servers*.

        Returns:
            A function that starts a forward of theirs, and schedules it in its environment for
            when it is finished, with the priority that the servers have.
        """

    def verify(self, forward: Forward, /, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """Judge *drafts*, the guesses for positions ``first, first + 1, …``.

        *forward* is an ended pass with context end ``forward.end``, so there are at most
        ``forward.end + 1 - first`` drafts; the last may be for the position after its context.

        Returns:
            How many of the drafts stand, counted from the first; and the target's own token at the
            position after those (which means nothing if all ``forward.end + 1 - first`` stand).
        """

    def cancel(self, forward: Forward, /) -> None:
        """Told that nobody wants the answer of *forward*, a draft, any more."""


class Forward(Event):
    """One forward of one server: the event that happens when it ends.

    Attributes:
        servers: the servers that it was asked of.
        server: the number of the server that does it.
        first: the first position whose token is wanted.
        end: the context end: the forward reads tokens ``0 .. end - 1``.
        cancelled: nobody wants its answer any more. Cancellation is a value, not an interrupt.
        ended: whether it ended, or was taken off its server (kept up to date by :class:`Pool`).
        is_pass: whether it settles something; false where it only reads the prompt.
        ahead: how many forwards, each over one token more, its asker is going to want after it
            unless a verdict intervenes. A hint: a real server need not be idle until it is asked.
        block: a hint to a server that has both models: (settled, drafts, wanted). Its asker
            alternates: with this many tokens settled it wants at most *drafts* drafts, then the
            target's pass over them, and so on until *wanted* tokens are settled.
        token: what a draft guessed.
        start_ns, end_ns: when it began and ended, if the servers keep a history.
    """

    # Few forwards ever change these, so they cost nothing until they do.
    _ok = True
    _value = None
    cancelled = False
    ended = False
    is_pass = True
    ahead = 0
    block: tuple[int, int, int] | None = None
    token: Any = None
    start_ns = -1
    end_ns = -1

    def __init__(
        self,
        servers: Servers,
        server: int,
        first: int = 0,
        end: int = 0,
        callbacks: list[Callable[[Any], None]] | None = None,
    ) -> None:
        self.callbacks = callbacks  # type: ignore[assignment]  # None: not begun yet
        self.servers = servers
        self.server = server
        self.first = first
        self.end = end

    @property
    def env(self) -> simpy.Environment:  # type: ignore[override]
        """The environment it lives in."""
        return self.servers.env


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
        self, first: int, ahead: int = 0, block: tuple[int, int, int] | None = None
    ) -> Forward:
        """Begin a forward over the text so far, for the tokens from *first* on.

        Args:
            first: the first position whose token is wanted.
            ahead: see :class:`Forward`.
            block: likewise.

        Raises:
            RuntimeError: the server is at another forward.
        """
        forward = self._forward
        if forward.callbacks is not None:
            raise RuntimeError(f"the {self.role} was asked for two forwards at once")
        if self.history is None and not forward.cancelled:
            forward.callbacks = []  # an event that has happened and that nobody keeps serves again
        else:
            forward = self._forward = Forward(self, 0)
            forward.callbacks = []
            if self.history is not None:
                self._remember(forward)
                forward.callbacks.append(self._note_end)
        forward.first = first
        forward.end = len(self.tokens)
        forward.ahead = ahead
        forward.block = block
        self.begun += 1
        self.begin(forward)
        return forward

    def _note_end(self, forward: Any) -> None:
        forward.end_ns = self.env._now

    def cancel(self, forward: Forward) -> None:
        """Give up *forward*, which has not ended: its answer is not wanted.

        If the backend is preemptible, the server is free at once, and who waits for it is told at
        this instant. Otherwise it runs to its end, in vain.
        """
        if forward.cancelled:
            return
        forward.cancelled = True
        self.cancelled += 1
        self.backend.cancel(forward)
        if self.backend.preemptible:
            told = Event(self.env)
            told._ok, told._value, told.callbacks = True, forward, forward.callbacks
            self.env.schedule(told, RESTART)  # type: ignore[arg-type]
            forward.callbacks = []  # its place in the schedule stays, and does nothing
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

    def forward(self, first: int) -> Forward:
        """Begin a forward over the text so far, for the tokens from *first* on.

        Raises:
            IndexError: no server is free.
        """
        free = self.free
        forward = Forward(self, free.pop(), first, len(self.tokens), self.callbacks.copy())
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
        """See to it that *dispatch* is called when a server is free and it is its turn.

        This pool has one user, who looks for a free server after each end anyway; so there is
        nothing to do. Where several share one, it is a queue (:mod:`dsim.deployment.fleet`).
        """

    def prefill(self) -> None:
        """Let every free server read the prompt. It is busy meanwhile; this is not a pass."""
        while self.free:
            self.forward(0).is_pass = False
            self.begun -= 1

    def _release(self, forward: Any) -> None:
        forward.ended = True
        self.free.append(forward.server)
        if self.history is not None:
            forward.end_ns = self.env._now

    def cancel(self, forwards: Iterable[Forward]) -> None:
        """Give up *forwards*: their answers are not wanted.

        If the backend is preemptible, the servers of those that are still running are free at once.
        Otherwise they run to their ends, in vain.
        """
        now, free, preemptible = self.env._now, self.free, self.backend.preemptible
        for forward in forwards:
            forward.cancelled = True
            self.cancelled += 1
            if preemptible and not forward.ended:
                forward.callbacks = []  # its place in the schedule stays, and does nothing
                forward.ended = True
                forward.end_ns = now  # type: ignore[assignment]
                free.append(forward.server)
