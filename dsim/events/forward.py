"""A forward, and what answers it, whatever stands behind the servers.

A :class:`Backend` decides what a forward *is*: an event after a sampled latency, a real wait, or a
real forward pass. The algorithms see none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from simpy.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import simpy

    from dsim.events.output import Output


class Asker(Protocol):
    """What a forward was asked of; see :class:`dsim.events.servers.Servers`."""

    env: simpy.Environment
    output: Output
    tokens: list[Any]
    role: str
    priority: int


class Backend(Protocol):
    """What stands behind the servers of one model during one run.

    Attributes:
        preemptible: whether a cancelled forward frees its server at once.
    """

    preemptible: bool

    def attach(self, servers: Any, /) -> Callable[[Forward], None]:
        """Serve *servers*.

        Returns:
            A function that begins a forward of these servers: it schedules the forward in its
            environment for its end, with the priority that the servers have.
        """

    def verify(self, forward: Forward, /, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """Judge *drafts*, the guesses for positions ``first, first + 1, …``.

        Args:
            forward: an ended pass with context end ``forward.end``, so there are at most
                ``forward.end + 1 - first`` drafts; the last may be for the position after its
                context.
            first: the position of the first draft.
            drafts: tokens.

        Returns:
            How many of the drafts stand, counted from the first; and the target's own token at the
            position after those (which means nothing if all ``forward.end + 1 - first`` stand).
        """

    def cancel(self, forward: Forward, /) -> None:
        """Called when nobody wants the answer of *forward*, a draft, any more."""


class Forward(Event):
    """One forward of one server: the event that happens when it ends.

    As SimPy has it, it is ``triggered`` and has a value (``None``) from its end on. Each forward is
    an object of its own, so it can be kept, and waited for together with others (``a & b``).

    Attributes:
        servers: the servers that it was asked of.
        server: the number of the server that does it.
        first: the first position whose token is wanted.
        end: the context end: the forward reads tokens ``0 .. end - 1``.
        cancelled: nobody wants its answer any more. Cancellation is a value, not an interrupt.
        ended: whether it ended, or was taken off its server (kept by pools only).
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
    server = 0
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
        servers: Asker,
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

    @property
    def triggered(self) -> bool:
        """Whether it has ended."""
        return self.callbacks is None

    @property
    def ok(self) -> bool:
        """Whether it ended well, as every forward does.

        Raises:
            AttributeError: it has not ended.
        """
        return self.value is None

    @property
    def value(self) -> None:
        """``None``.

        Raises:
            AttributeError: it has not ended.
        """
        if self.callbacks is not None:
            raise AttributeError(f"{self} has not ended")
