"""A forward, and what answers it, whatever stands behind the servers.

A :class:`Backend` decides what a forward *is*: an event after a sampled latency, a real wait, or a
real forward pass. The algorithms see none of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from simpy.events import Event

from dsim.events.order import RESTART

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import simpy

    from dsim.events.output import Output
    from dsim.events.tree import Node


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


class TreeBackend(Backend, Protocol):
    """A backend that can say what is behind the nodes of a tree of drafts."""

    def guesses_behind(self, node: Node, depth: int, count: int, /) -> Sequence[Any]:
        """The *count* best guesses for the token behind *node*, which a draft has read.

        Args:
            node: the node of a tree of drafts.
            depth: depth of these drafts: 1 for the first token that was not settled when the draft
                began.
            count: how many.

        Returns:
            Tokens; none if the drafter has no guess here.
        """

    def chances_behind(self, node: Node, depth: int, count: int, /) -> Sequence[float]:
        """How sure the drafter is of each of its :meth:`guesses_behind` *node*, in 0 … 1."""

    def follow(self, forward: Forward, node: Node, /) -> tuple[Node | None, Any]:
        """The target's verdict behind *node*, which the ended pass *forward* has read.

        Returns:
            The child of the node that is the target's token, if there is one; and that token.
        """


class Over(list[Any]):
    """The callbacks of a forward that was taken off its server: whoever comes late is called now.

    A forward that nobody wants has no end of its own any more, only its place in the schedule,
    which does nothing. A process that yields it afterwards goes on at this instant.

    Args:
        forward: the forward.
    """

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.forward = forward

    def append(self, callback: Callable[[Any], None], /) -> None:
        """Have *callback* called at this instant."""
        forward = self.forward
        notice = Event(forward.env)
        notice._ok, notice._value = True, forward
        notice.callbacks = [lambda _: callback(forward)]
        forward.env.schedule(notice, RESTART)  # type: ignore[arg-type]


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
        token: what a draft guessed; ``None`` if that is nothing. (In most simulations nobody looks
            at tokens, and it is ``None`` always.)
        tokens: what a draft guessed where that is not always one token: a block of tokens, or
            nothing. ``None``: it is ``token``.
        fed: what the forward reads where that is not the end of the text: nodes of a tree of
            drafts, for example. Its width is their number.
        start_ns, end_ns: when it began and ended, if the servers keep a history.
    """

    # All forwards have these. In the dictionary of each object they would cost more, the more
    # other orchestrations of the same process have put there.
    __slots__ = ("callbacks", "end", "first", "servers")

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
    tokens: Sequence[Any] | None = None
    fed: Sequence[Any] | None = None
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
