"""What requests ask of shared servers: calls, places in a queue, batches, and shares.

A :class:`Share` is what one request sees of a fleet. Its subclasses, which ask for forwards, are in
:mod:`dsim.deployment.shares`; the fleet itself is in :mod:`dsim.deployment.fleet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simpy.events import Event

from dsim.events.forward import Forward
from dsim.events.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import simpy

    from dsim.deployment.cost import RequestBackend
    from dsim.events.output import Output


class Call(Forward):
    """One forward that a request asks of a fleet.

    Attributes:
        asked_ns: when the forward was asked for.
        after: the list of callbacks. SimPy sets ``callbacks`` to ``None`` before it calls them.
        entry: the place of the call in the queue, while the call waits there.
        batch: the batch that the call runs in, on the full path.
    """

    asked_ns = 0
    after: list[Callable[[Any], None]]
    entry: Entry | None = None
    batch: Batch | None = None
    servers: Share


class Entry:
    """One place in a queue.

    Attributes:
        share: the share that waits.
        resume: called when the turn of this entry has come.
        number: the order of arrival; negative for a call that a failure has thrown back.
        gone: whether nobody waits here any more.
        since_ns: when the entry joined the queue.
    """

    __slots__ = ("gone", "number", "resume", "share", "since_ns")

    def __init__(
        self, share: Share, resume: Callable[[], None], number: int, since_ns: int
    ) -> None:
        self.share = share
        self.resume = resume
        self.number = number
        self.since_ns = since_ns
        self.gone = False


class Batch(Event):
    """What one server does at a time: the forwards of one or several requests.

    Args:
        env: the environment of the run.
        server: number of the server.
        calls: the forwards in the batch.
        priority: priority of the batch's end among the events of an instant.
        ended: called with the batch when its answer is back.

    Attributes:
        start_ns: when the batch was sent.
        work_ns: how long the server computes.
        out_ns: how long the batch is on the way to the server, with the dispatch.
        back_ns: how long its answer is on the way back.
    """

    _ok = True
    _value = None

    def __init__(
        self,
        env: simpy.Environment,
        server: int,
        calls: list[Call],
        priority: int,
        ended: Callable[[Event], None],
    ) -> None:
        self.env = env
        self.server = server
        self.calls = calls
        self.priority = priority
        self.start_ns: int = env._now  # type: ignore[assignment]
        self.work_ns = self.out_ns = self.back_ns = 0
        self.callbacks = [ended]

    def remaining(self) -> list[Call]:
        """The calls that were not taken off the batch."""
        return [call for call in self.calls if call.batch is self]


class Share(Servers):
    """What one request sees of a fleet.

    Args:
        env: the environment of the run.
        backend: the request's own backend: its verdicts, and the latencies of its forwards.
        output: the request's text, or the text as a further drafter of the request guesses it.
        role: role of the fleet, such as ``"target"``.
        priority: priority of an ended forward among the events of an instant.
        request: number of the request.
        text: the request's text, where *output* is a further drafter's.
        prompt_tokens: length of the request's prompt.
        remote: whether forwards of this share go over the network.

    Attributes:
        closed: whether the request is lost.
        live: number of forwards that were asked for and have neither ended nor been cancelled.
    """

    backend: RequestBackend
    live: int

    def __init__(
        self,
        env: simpy.Environment,
        backend: RequestBackend,
        output: Output,
        *,
        role: str,
        priority: int,
        request: int,
        text: Output | None = None,
        prompt_tokens: int = 0,
        remote: bool = True,
    ) -> None:
        super().__init__(env, backend, output, role=role, priority=priority)
        self.request = request
        self.text: Output = text or output
        self.prompt_tokens = prompt_tokens
        self.remote = remote
        self.closed = False

    def context_tokens(self, call: Call) -> int:
        """How many tokens of context *call* reads."""
        return self.prompt_tokens + call.end

    def kv_tokens(self) -> int:
        """How much KV memory (tokens) the request needs on a server for its next forward."""
        return self.prompt_tokens + len(self.tokens)

    def withdraw_all(self) -> None:
        """Give up everything that was asked for, without calling anyone back."""
        raise NotImplementedError

    def leave_queue(self) -> None:
        """Wait no longer for a server."""


def fire(call: Call) -> None:
    """Call back whoever waits for *call*, as the environment does when an event happens."""
    callbacks: Iterable[Callable[[Any], None]] | None = call.callbacks
    call.callbacks = None  # type: ignore[assignment]
    for callback in callbacks or ():
        callback(call)


def together_ns(calls: list[Call], server: int) -> int:
    """How long *calls* of several requests take as one batch on *server*.

    Calls that read their prompt add up, because reading is bound by arithmetic. The others run as
    one forward over all their tokens: with a latency table, as the table says for the sum of their
    widths; with other latency models, as long as the longest of them.
    """
    prefills, longest, width = 0, 0, 0
    latency = calls[0].servers.backend.latency
    for call in calls:
        backend = call.servers.backend
        if backend.reads_prompt(server):
            prefills += backend.latency_of(call, server)
        elif latency.model == "table":
            width += backend.width(call)
        else:
            longest = max(longest, backend.latency_of(call, server))
    if width:
        longest = calls[0].servers.backend.sample.at_width(width)
    return prefills + longest
