"""A fleet: the servers of one model, shared by many requests, with a queue before them.

An algorithm of :mod:`dsim.events` asks its request's *share* of a fleet for forwards, as it would
ask a :class:`dsim.events.server.Server` or :class:`~dsim.events.server.Pool` of its own. If a
server is free, the forward begins at that very instant; otherwise it queues. A pass of DSI is not
made before its turn comes, so that it covers all that is drafted by then (spec, rule 2).

Two ways of running a forward lead to the same times. The *plain* one schedules the forward itself
and is taken where nothing but latency matters; it costs no more than a run of a single request.
The *general* one goes through a :class:`Batch` and knows batching, the network, contention, KV
memory and failures.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from functools import partial
from heapq import heappush
from typing import TYPE_CHECKING, Any

from simpy.events import Event

from dsim.events.environment import PASS, RESTART
from dsim.events.server import Forward, Servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import simpy

    from dsim.deployment.cost import GuessingBackend, RequestBackend
    from dsim.deployment.host import Host
    from dsim.events.output import Output

DISCIPLINES = ("fifo", "lifo", "shortest", "first-pass")
FORM = PASS + 2  # batches are formed when all else of the instant has happened


class Call(Forward):
    """One forward that a request asks of a fleet.

    Attributes:
        asked_ns: when it was asked for.
        after: its callbacks, still at hand while they are called.
        entry: its place in the queue, while it waits there.
        batch: what it runs in, on the general way.
    """

    asked_ns = 0
    after: list[Callable[[Any], None]]
    entry: Entry | None = None
    batch: Batch | None = None
    servers: Share


class Entry:
    """One place in a queue.

    Attributes:
        share: of whom.
        resume: what to do when the turn has come.
        number: the order of coming; negative for a call that a failure has thrown back.
        gone: nobody waits here any more.
        since_ns: when it came.
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

    Attributes:
        fleet, server: where it runs.
        calls: the forwards in it.
        start_ns, work_ns: when it was sent, and how long the server computes.
        out_ns, back_ns: how long it is on the way there (with the dispatch), and back.
    """

    _ok = True
    _value = None

    def __init__(self, fleet: Fleet, server: int, calls: list[Call]) -> None:
        self.env = fleet.env
        self.fleet = fleet
        self.server = server
        self.calls = calls
        self.start_ns: int = fleet.env._now  # type: ignore[assignment]
        self.work_ns = self.out_ns = self.back_ns = 0
        self.callbacks = [fleet.batch_ended]


class Fleet:
    """The servers of one model.

    Args:
        env: the environment of the run.
        role: ``"target"``, ``"drafter"`` or ``"further drafter 1"`` and so on.
        priority: where an ended forward stands among what happens at the same instant.
        count: how many servers there are.
        preemptible: whether a cancelled forward frees its server at once.
        discipline: who is next: ``fifo``, ``lifo``, ``shortest`` (fewest tokens to go) or
            ``first-pass`` (requests with no pass in flight go first).
        max_batch: most forwards of one batch.
        delay_ns: the time on the way to a server or back, drawn anew each time, by server number.
        overhead_ns: what each dispatch costs.
        context_ns, sequence_ns: what a batch takes longer for each token of context, and for each
            forward but the first.
        kv_tokens: the tokens that the KV memory of one server holds; 0: no limit.
        affinity: prefer a free server that has cached the request's text.
        hosts: for each server the host whose other servers slow it, or none.
        retry: whether a forward whose server fails is done again elsewhere; else its request is
            lost.
        lost: called with the share of a request that is lost.
        general: take the general way even where the plain one would do.
        keep_log: keep what every server did, for a trace.

    Attributes:
        free: numbers of the servers that are idle and up; the last is taken first.
        down: numbers of the servers that have failed.
        waiting: how many wait.
        retried: how many forwards a failure threw back.
        busy_ns: for each server, how long it has computed.
        wasted_ns: how much of all that was for cancelled forwards (where whole batches are).
        queue_area_ns: the integral of ``waiting`` over time.
        waited_ns, waits: the time that entries spent in the queue, and how many there were.
        peak_kv: the most tokens that the KV memory of one server held.
        log: one row for each forward; see :mod:`dsim.deployment.perfetto`.
        outage_log: (server, from, to) of each outage, likewise.
    """

    def __init__(
        self,
        env: simpy.Environment,
        *,
        role: str,
        priority: int,
        count: int,
        preemptible: bool = True,
        discipline: str = "fifo",
        max_batch: int = 1,
        delay_ns: Callable[[int], int] | None = None,
        overhead_ns: int = 0,
        context_ns: float = 0.0,
        sequence_ns: int = 0,
        kv_tokens: int = 0,
        affinity: bool = False,
        hosts: list[Host] | None = None,
        faults: bool = False,
        retry: bool = True,
        lost: Callable[[Share], None] = lambda _: None,
        general: bool = False,
        keep_log: bool = False,
    ) -> None:
        self.env = env
        self.role = role
        self.priority = priority
        self.count = count
        self.preemptible = preemptible
        self.discipline = discipline
        self.max_batch = max_batch
        self.delay_ns = delay_ns
        self.overhead_ns = overhead_ns
        self.context_ns = context_ns
        self.sequence_ns = sequence_ns
        self.kv_tokens = kv_tokens
        self.affinity = affinity
        self.hosts = hosts
        self.retry = retry
        self.lost = lost
        self.batching = max_batch > 1
        self.plain = not (
            general
            or self.batching
            or delay_ns
            or overhead_ns
            or context_ns
            or sequence_ns
            or kv_tokens
            or affinity
            or hosts
            or faults
            or keep_log
        )
        self.free = list(range(count - 1, -1, -1))
        self.down: set[int] = set()
        self.outages = [0] * count  # that hold each server, for they may overlap
        self.running: dict[int, Batch] = {}
        self.shares: set[Share] = set()
        self.waiting = 0
        self.serving: Share | None = None
        self.retried = 0
        self.busy_ns = [0] * count
        self.wasted_ns = 0
        self.queue_area_ns = self.waited_ns = self.waits = 0
        self.fewest_free = count
        self.peak_kv = 0
        self.log: list[tuple[Any, ...]] | None = [] if keep_log else None
        self.outage_log: list[tuple[int, int, int]] = []
        self._down_since_ns: dict[int, int] = {}
        self._kv: list[OrderedDict[Share, int]] = [OrderedDict() for _ in range(count)]
        self._entries: deque[Entry] = deque()
        self._queue = env._queue
        self._eid = env._eid
        self._numbers = 0
        self._thrown_back = 0
        self._queue_changed_ns = 0
        self._forming: list[Call] | None = None
        self._members: set[Share] = set()
        self._need = 0
        self._form_scheduled = False

    @property
    def busy(self) -> int:
        """How many servers are at work."""
        return self.count - len(self.free) - len(self.down)

    # -- the queue ---------------------------------------------------------------------------

    def enqueue(self, share: Share, resume: Callable[[], None], *, front: bool = False) -> Entry:
        """Let *share* wait until its turn comes, then call *resume*."""
        now: int = self.env._now  # type: ignore[assignment]
        self._count_queue(now, 1)
        if front:
            self._thrown_back -= 1
            entry = Entry(share, resume, self._thrown_back, now)
            self._entries.appendleft(entry)
        else:
            self._numbers += 1
            entry = Entry(share, resume, self._numbers, now)
            self._entries.append(entry)
        if self.batching:
            self._form_soon()
        return entry

    def leave(self, entry: Entry) -> None:
        """Take *entry* out of the queue."""
        if not entry.gone:
            entry.gone = True
            now: int = self.env._now  # type: ignore[assignment]
            self._count_queue(now, -1)
            self.waited_ns += now - entry.since_ns
            self.waits += 1

    def _count_queue(self, now: int, change: int) -> None:
        self.queue_area_ns += self.waiting * (now - self._queue_changed_ns)
        self._queue_changed_ns = now
        self.waiting += change

    def serve(self, _: Event | None = None) -> None:
        """Hand free servers to those that wait, as the discipline has it."""
        if self.batching:
            self._form_soon()
            return
        while self.free and self.waiting:
            entry = self._next()
            if entry is None:
                return
            self.leave(entry)
            self.serving = entry.share
            entry.resume()
            self.serving = None

    def _next(self, allowed: Callable[[Entry], bool] | None = None) -> Entry | None:
        """Who is next, still in the queue (but no longer in ``_entries`` if it is taken)."""
        entries = self._entries
        if self.discipline == "fifo" and allowed is None:
            while entries:
                entry = entries.popleft()
                if not entry.gone:
                    return entry
            return None
        best: Entry | None = None
        rank = _RANKS[self.discipline]
        live = [entry for entry in entries if not entry.gone]
        for entry in live:
            if (allowed is None or allowed(entry)) and (best is None or rank(entry) < rank(best)):
                best = entry
        self._entries = deque(entry for entry in live if entry is not best)
        return best

    # -- the plain way -------------------------------------------------------------------------

    def resume(self, call: Call) -> None:
        """The turn of *call*, which has waited, has come."""
        call.entry = None
        self.place(call)

    def place(self, call: Call) -> None:
        """Begin *call* on a free server, or put it into the batch that is being formed."""
        if not self.plain:
            if self._forming is None:
                self._start([call])
            else:
                self._forming.append(call)
            return
        free = self.free
        call.server = server = free.pop()
        if len(free) < self.fewest_free:  # noqa: PLR1730 (min() costs a call a forward)
            self.fewest_free = len(free)
        call.start_ns = now = self.env._now  # type: ignore[assignment]
        share = call.servers
        share.begun += call.is_pass
        backend = share.backend
        latency_ns = backend.constant_ns or backend.latency_of(call, server)
        heappush(self._queue, (now + latency_ns, self.priority, next(self._eid), call))  # type: ignore[misc]

    def release(self, call: Call) -> None:
        """The server of *call* is idle again (the plain way)."""
        server = call.server
        elapsed: int = self.env._now - call.start_ns  # type: ignore[assignment]
        self.busy_ns[server] += elapsed
        if call.cancelled:
            self.wasted_ns += elapsed
        self.free.append(server)

    # -- the general way -----------------------------------------------------------------------

    def _form_soon(self) -> None:
        if self.waiting and self.free and not self._form_scheduled:
            self._form_scheduled = True
            event = Event(self.env)
            event._ok, event._value, event.callbacks = True, None, [self._form]
            self.env.schedule(event, FORM)  # type: ignore[arg-type]

    def _form(self, _: Event) -> None:
        """Give each free server as many of those that wait as go into a batch."""
        self._form_scheduled = False
        while self.free and self.waiting:
            self._forming, self._members, self._need = [], set(), 0
            while len(self._forming) < self.max_batch and self.waiting:
                entry = self._next(self._fits)
                if entry is None:
                    break
                self.leave(entry)
                self._members.add(entry.share)
                self._need += entry.share.kv_tokens()
                self.serving = entry.share
                entry.resume()
                self.serving = None
            calls, self._forming = self._forming, None
            if not calls:
                break
            self._start(calls)

    def _fits(self, entry: Entry) -> bool:
        """Whether *entry* can join the batch that is being formed."""
        if entry.share in self._members:
            return False
        free_tokens = self.kv_tokens - self._need
        return not self.kv_tokens or not self._members or entry.share.kv_tokens() <= free_tokens

    def _start(self, calls: list[Call]) -> None:
        server = self._pick(calls)
        batch = Batch(self, server, calls)
        self.running[server] = batch
        self.fewest_free = min(self.fewest_free, self.count - len(self.running))
        now: int = self.env._now  # type: ignore[assignment]
        for call in calls:
            if call.is_pass and call.start_ns < 0:
                call.servers.begun += 1
            call.server, call.batch, call.start_ns = server, batch, now
        if self.kv_tokens:
            self._remember(server, {call.servers: None for call in calls})
        batch.work_ns = self._work_ns(calls, server)
        if self.delay_ns and any(call.servers.remote for call in calls):
            batch.out_ns, batch.back_ns = self.delay_ns(server), self.delay_ns(server)
        batch.out_ns += self.overhead_ns
        if self.hosts is None:
            total = batch.out_ns + batch.work_ns + batch.back_ns
            self.env.schedule(batch, self.priority, total)  # type: ignore[arg-type]
        elif batch.out_ns:
            arrival = Event(self.env)
            arrival._ok, arrival._value = True, batch
            arrival.callbacks = [lambda _: self._arrive(batch)]
            self.env.schedule(arrival, self.priority, batch.out_ns)  # type: ignore[arg-type]
        else:
            self._arrive(batch)

    def _pick(self, calls: list[Call]) -> int:
        """A free server: with affinity the one that has most of the first request cached."""
        free = self.free
        if not self.affinity:
            return free.pop()
        cached = calls[0].servers.backend.cached_tokens
        best = max(range(len(free)), key=lambda i: (cached(free[i]), i))
        return free.pop(best)

    def _arrive(self, batch: Batch) -> None:
        if self.hosts is not None and self.running.get(batch.server) is batch:
            self.hosts[batch.server].start(batch)

    def _work_ns(self, calls: list[Call], server: int) -> int:
        """How long a batch takes: ``t2(w, c, b)``; see docs/cluster.md."""
        if len(calls) == 1:
            work_ns = calls[0].servers.backend.latency_of(calls[0], server)
        else:
            work_ns = calls[0].servers.backend.together_ns(calls, server)
        if self.context_ns:
            context = sum(call.servers.context_tokens(call) for call in calls)
            work_ns += round(self.context_ns * context)
        return work_ns + self.sequence_ns * (len(calls) - 1)

    def _remember(self, server: int, members: dict[Share, None]) -> None:
        """Make room in the server's KV memory: drop what was not used for longest."""
        kept = self._kv[server]
        for share in members:
            kept[share] = share.kv_tokens()
            kept.move_to_end(share)
        used = sum(kept.values())
        for victim in [share for share in kept if share not in members]:
            if used <= self.kv_tokens:
                break
            used -= kept.pop(victim)
            victim.backend.forget(server)
        self.peak_kv = max(self.peak_kv, used)

    def batch_ended(self, event: Event) -> None:
        """A batch is done, and its answer is back."""
        batch: Batch = event  # type: ignore[assignment]
        self._account(batch, finished=True)
        self.free.append(batch.server)
        for call in batch.calls:
            if call.batch is batch:
                call.batch = None
                self._note(call, "cancelled" if call.cancelled else "done")
                fire(call)
        if self.waiting:
            self.serve()

    def _account(self, batch: Batch, *, finished: bool) -> None:
        del self.running[batch.server]
        now: int = self.env._now  # type: ignore[assignment]
        elapsed = now - batch.start_ns
        if self.hosts is not None:
            busy = max(0, elapsed - batch.out_ns - (batch.back_ns if finished else 0))
        else:
            busy = max(0, min(elapsed - batch.out_ns, batch.work_ns))
        self.busy_ns[batch.server] += busy
        if all(call.cancelled for call in batch.calls):
            self.wasted_ns += busy
        if self.kv_tokens:
            for call in batch.calls:
                if call.servers.closed or call.servers.text.finished:
                    self._kv[batch.server].pop(call.servers, None)

    def _note(self, call: Call, fate: str) -> None:
        if self.log is not None:
            what = self.role if call.is_pass else "prefill"
            self.log.append(
                (
                    call.server,
                    call.servers.request,
                    what,
                    call.first,
                    call.end,
                    call.asked_ns,
                    call.start_ns,
                    self.env._now,
                    fate,
                )
            )

    def note_running(self) -> None:
        """Log what is still running, and who is still down, when the run is over."""
        for server in sorted(self._down_since_ns):
            self._note_outage(server)
        for batch in self.running.values():
            for call in batch.calls:
                if call.batch is batch:
                    self._note(call, "running")

    def take_off(self, call: Call) -> None:
        """Take the cancelled *call* off its server, which is free if it does nothing else."""
        batch = call.batch
        if self.plain:
            self.release(call)
            return
        if batch is None:  # its server has failed under it
            return
        call.batch = None
        self._note(call, "cancelled")
        if all(other.batch is not batch for other in batch.calls):
            self._abort(batch)
            self.free.append(batch.server)

    def _abort(self, batch: Batch) -> None:
        batch.callbacks = []  # its end, if it was scheduled, will do nothing
        if self.hosts is not None:
            self.hosts[batch.server].stop(batch)
        self._account(batch, finished=False)

    # -- failures ------------------------------------------------------------------------------

    def fail(self, server: int) -> None:
        """*server* fails: what it was at is done again elsewhere, or its requests are lost."""
        self.outages[server] += 1
        if server in self.down:
            return
        self.down.add(server)
        self._down_since_ns[server] = self.env._now  # type: ignore[assignment]
        self._kv[server].clear()
        for share in self.shares:
            share.backend.forget(server)
        if server in self.free:
            self.free.remove(server)
            return
        batch = self.running[server]
        calls = [call for call in batch.calls if call.batch is batch]
        self._abort(batch)
        for call in reversed(calls):
            call.batch = None
            self._note(call, "failed")
            share = call.servers
            if call.cancelled or not call.is_pass:
                fire(call)
            elif self.retry:
                self.retried += 1
                call.entry = self.enqueue(share, partial(self.resume, call), front=True)
            else:
                self.lost(share)
        self.serve()

    def _note_outage(self, server: int) -> None:
        since_ns = self._down_since_ns.pop(server)
        if self.log is not None:
            self.outage_log.append((server, since_ns, self.env._now))  # type: ignore[arg-type]

    def recover(self, server: int) -> None:
        """One outage of *server* is over; with the last it is back, its memory empty."""
        self.outages[server] -= 1
        if not self.outages[server]:
            self.down.remove(server)
            self._note_outage(server)
            self.free.append(server)
            self.serve()

    def close(self, share: Share, *, lost: bool = False) -> None:
        """The request of *share* is over."""
        if lost:
            share.closed = True
            share.withdraw_all()
        share.leave_queue()
        self.shares.discard(share)
        if self.kv_tokens:
            for server, kept in enumerate(self._kv):
                batch = self.running.get(server)
                if batch is None or all(call.servers is not share for call in batch.calls):
                    kept.pop(share, None)

    @property
    def peak_busy(self) -> int:
        """The largest number of servers that were busy at once."""
        return self.count - self.fewest_free


_RANKS: dict[str, Callable[[Entry], tuple[Any, ...]]] = {
    "fifo": lambda e: (e.number,),
    "lifo": lambda e: (e.number > 0, -e.number),
    "shortest": lambda e: (e.number > 0, e.share.text.wanted - e.share.text.settled, e.number),
    "first-pass": lambda e: (e.number > 0, e.share.live > 0, e.number),
}


def fire(call: Call) -> None:
    """Let *call* happen now, as the environment would."""
    callbacks: Iterable[Callable[[Any], None]] | None = call.callbacks
    call.callbacks = None  # type: ignore[assignment]
    for callback in callbacks or ():
        callback(call)


class Share(Servers):
    """What one request sees of a fleet.

    Args:
        fleet: the servers.
        backend: the request's own: verdicts, and what its forwards cost.
        output: the request's text, or what its further drafter takes the text to be.
        request: its number.
        text: the request's text, where *output* is not.
        prompt_tokens: how long its prompt is.
        remote: whether what it asks goes over the network.

    Attributes:
        closed: the request is lost.
        live: forwards that are asked for and neither ended nor cancelled.
    """

    backend: RequestBackend

    def __init__(
        self,
        fleet: Fleet,
        backend: RequestBackend,
        output: Output,
        *,
        request: int,
        text: Output | None = None,
        prompt_tokens: int = 0,
        remote: bool = True,
    ) -> None:
        super().__init__(fleet.env, backend, output, role=fleet.role, priority=fleet.priority)
        self.fleet = fleet
        self.request = request
        self.text: Output = text or output
        self.prompt_tokens = prompt_tokens
        self.remote = remote
        self.closed = False
        self.live: int = 0
        fleet.shares.add(self)

    def context_tokens(self, call: Call) -> int:
        """How many tokens of context *call* reads."""
        return self.prompt_tokens + call.end

    def kv_tokens(self) -> int:
        """How much KV memory the request needs on a server for its next forward."""
        return self.prompt_tokens + len(self.tokens)

    def withdraw_all(self) -> None:
        """Give up everything that was asked for, without telling anyone."""
        raise NotImplementedError

    def leave_queue(self) -> None:
        """Wait no longer for a server."""


class OneAtATime(Share):
    """For an algorithm that waits for each forward before it asks again.

    Stands in for :class:`dsim.events.server.Server`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._call = Call(self, -1)
        self._on_end: Callable[[Any], None] = self._ended

    def forward(self, first: int, _ahead: int = 0, _block: Any = None) -> Call:
        """A forward over the text so far, for the tokens from *first* on; it may have to queue.

        Raises:
            RuntimeError: the last one has not ended.
        """
        call, fleet = self._call, self.fleet
        if call.callbacks is not None:
            raise RuntimeError(f"the {self.role} was asked for two forwards at once")
        if call.cancelled or not fleet.plain:
            # On the plain way, an event that has happened and that nobody keeps serves again.
            call = self._call = Call(self, -1)
        call.callbacks = call.after = [self._on_end]
        call.first = first
        call.end = len(self.tokens)
        if self.closed:
            return call  # which never happens
        self.live = 1
        call.asked_ns = self.env._now
        if fleet.free and not fleet.waiting and not fleet.batching:
            fleet.place(call)
        else:
            call.entry = fleet.enqueue(self, partial(fleet.resume, call))
        return call

    def _ended(self, call: Call) -> None:
        self.live = 0
        fleet = self.fleet
        if fleet.plain:
            fleet.release(call)
            if fleet.waiting:
                # After whoever waits for this call: they may want to queue before it is decided.
                call.after.append(fleet.serve)

    def cancel(self, forward: Forward) -> None:
        """Give up *forward*: at once if it has not begun or is preemptible, else at its end."""
        call: Call = forward  # type: ignore[assignment]
        if call.cancelled:
            return
        call.cancelled = True
        fleet = self.fleet
        if call.entry is not None:
            fleet.leave(call.entry)
            call.entry = None
        else:
            self.cancelled += 1
            if not fleet.preemptible:
                return
            fleet.take_off(call)
        self.live = 0
        waiting = call.after[1:]
        call.callbacks = []
        self._call = Call(self, -1)
        self._call.callbacks = None  # type: ignore[assignment]
        told = Event(self.env)
        told._ok, told._value, told.callbacks = True, call, [*waiting, fleet.serve]
        self.env.schedule(told, RESTART)  # type: ignore[arg-type]

    def withdraw_all(self) -> None:
        """See :class:`Share`."""
        call = self._call
        if self.live:
            call.after[1:] = []
            if not call.cancelled:
                self.cancel(call)


class Guesser(OneAtATime):
    """One of several drafters, whose drafts are told apart."""

    backend: GuessingBackend

    def forward(self, first: int, _ahead: int = 0, _block: Any = None) -> Call:
        """See :class:`OneAtATime`."""
        call = super().forward(first)
        call.token = self.backend.guess(first)
        return call


class Several(Share):
    """For DSI's passes, several of which may be under way at once.

    Stands in for :class:`dsim.events.server.Pool`.

    Args:
        most: how many passes of this request may be under way at once (``S``).
    """

    def __init__(self, *args: Any, most: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most = most
        self.under_way = 0
        self.since_ns = -1  # since when this request has waited for the pass being dispatched
        self.peak_busy = 0
        self.callbacks: list[Callable[[Any], None]] = [self._ended]
        self.entry: Entry | None = None
        self.calls: dict[Call, None] = {}  # a set in order, so that runs are reproducible

    @property
    def free(self) -> bool:
        """Whether a pass may begin at this very instant."""
        fleet = self.fleet
        if fleet.serving is self:
            return self.under_way < self.most
        if fleet.waiting or fleet.batching or self.closed:
            return False
        return self.under_way < self.most and bool(fleet.free)

    def wait(self, dispatch: Callable[[], None], /) -> None:
        """Queue, unless this request waits already, or for a pass of its own to end."""
        if self.entry is None and self.under_way < self.most and not self.closed:
            self.entry = self.fleet.enqueue(self, partial(self._resume, dispatch))

    def _resume(self, dispatch: Callable[[], None]) -> None:
        if self.entry is not None:
            self.since_ns = self.entry.since_ns
        self.entry = None
        if not self.output.finished:
            dispatch()
        self.since_ns = -1

    def forward(self, first: int) -> Call:
        """Begin a pass over the text so far, for the tokens from *first* on."""
        call = self._new(first)
        self.fleet.place(call)
        return call

    def _new(self, first: int) -> Call:
        call = Call(self, -1)
        call.callbacks = call.after = [*self.callbacks]
        call.first = first
        call.end = len(self.tokens)
        call.asked_ns = self.since_ns if self.since_ns >= 0 else self.env._now  # type: ignore[assignment]
        self.under_way += 1
        self.live += 1
        self.calls[call] = None
        self.peak_busy = max(self.peak_busy, self.under_way)
        return call

    def prefill(self) -> None:
        """Let every free server that this request may use read the prompt; it is no pass."""
        while self.free:
            call = self._new(0)
            call.is_pass = False
            self.fleet.place(call)

    def _ended(self, call: Call) -> None:
        call.ended = True
        self.under_way -= 1
        self.calls.pop(call, None)
        if not call.cancelled:
            self.live -= 1
        fleet = self.fleet
        if fleet.plain:
            fleet.release(call)
            if fleet.waiting:
                call.after.append(fleet.serve)

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
            fleet.leave(call.entry)
            call.entry = None
        elif fleet.preemptible:
            fleet.take_off(call)
        else:
            return
        call.callbacks = []
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
            self.fleet.leave(self.entry)
            self.entry = None
