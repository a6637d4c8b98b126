"""A fleet: the servers of one model, shared by many requests, with a queue before them.

An orchestration asks its request's *share* of a fleet (:mod:`dsim.deployment.shares`) for forwards,
as it asks private servers (:mod:`dsim.events`). If a server is free, the forward begins at that
very instant; otherwise it queues. A pass of DSI is not made before its turn comes, so that it
covers all that is drafted by then (spec, rule 2).

Two ways of running a forward lead to the same times. The *fast path* schedules the forward itself
and is taken where nothing but latency matters. The *full path* goes through a
:class:`~dsim.deployment.calls.Batch` and knows batching, the network, contention, KV memory and
failures.
"""

from __future__ import annotations

from functools import partial
from heapq import heappush
from typing import TYPE_CHECKING, NamedTuple

from simpy.events import Event

from dsim.deployment.calls import Batch, fire, together_ns
from dsim.deployment.memory import KvMemory
from dsim.deployment.queue import Queue
from dsim.events.order import PASS

if TYPE_CHECKING:
    from collections.abc import Callable

    import simpy

    from dsim.deployment.calls import Call, Entry, Share
    from dsim.deployment.host import Host
    from dsim.deployment.spec import FleetSpec

FORM = PASS + 2  # batches are formed after everything else of the instant


class LogRow(NamedTuple):
    """What became of one forward.

    Attributes:
        server: number of the server.
        request: number of the request.
        what: role of the fleet, or ``prefill``.
        first, end: first position that was wanted, and end of the context.
        asked_ns, start_ns, end_ns: when the forward was asked for, begun and over.
        fate: ``done``, ``cancelled``, ``failed``, or ``running`` at the end of the run.
    """

    server: int
    request: int
    what: str
    first: int
    end: int
    asked_ns: int
    start_ns: int
    end_ns: int
    fate: str


class Fleet:
    """The servers of one model.

    Args:
        env: the environment of the run.
        spec: number of servers, discipline, batching, memory.
        role: ``"target"``, ``"drafter"`` or ``"further drafter 1"`` and so on.
        priority: priority of an ended forward among the events of an instant.
        preemptible: whether a cancelled forward frees its server at once.
        delay_ns: draws the time on the way to a server, or back, by the number of the server.
        overhead_ns: cost of each dispatch.
        hosts: the host of each server, whose other servers slow it; ``None``: none do.
        failing: whether servers may fail.
        retry: whether a forward whose server fails is done again; otherwise its request is lost.
        lost: called with the share of a request that is lost.
        full: take the full path even where the fast one would do.
        keep_log: keep what every server did, for a trace.

    Attributes:
        queue: the forwards that wait for a server.
        memory: the KV memory of the servers.
        free: numbers of the servers that are idle and up; the last is taken first.
        down: the servers that have failed, each with the time of its failure.
        running: the batch that each server is at (full path).
        serving: the share whose turn has come, while it is resumed.
        peak_busy: the largest number of servers that were busy at once.
        retried: number of forwards that a failure has thrown back.
        busy_ns: for each server, how long it has computed.
        wasted_ns: the part of all that time which was for cancelled forwards (whole batches).
        log: one row per forward, if a log is kept.
        outage_log: (server, from, to) of each outage, where a log is kept.
    """

    def __init__(
        self,
        env: simpy.Environment,
        spec: FleetSpec,
        *,
        role: str,
        priority: int,
        preemptible: bool = True,
        delay_ns: Callable[[int], int] | None = None,
        overhead_ns: int = 0,
        hosts: list[Host] | None = None,
        failing: bool = False,
        retry: bool = True,
        lost: Callable[[Share], None] = lambda _: None,
        full: bool = False,
        keep_log: bool = False,
    ) -> None:
        self.env = env
        self.spec = spec
        self.role = role
        self.priority = priority
        self.count = count = spec.servers
        self.preemptible = preemptible
        self.delay_ns = delay_ns
        self.overhead_ns = overhead_ns
        self.hosts = hosts
        self.retry = retry
        self.lost = lost
        self.batching = spec.max_batch > 1
        self.fast = not (
            full
            or self.batching
            or delay_ns
            or overhead_ns
            or spec.context_ns
            or spec.sequence_ns
            or spec.kv_tokens
            or spec.affinity
            or hosts
            or failing
            or keep_log
        )
        self.queue = Queue(env, spec.discipline)
        self.memory = KvMemory(spec.kv_tokens, count)
        self.free = list(range(count - 1, -1, -1))
        self.down: dict[int, int] = {}
        self.running: dict[int, Batch] = {}
        self.shares: set[Share] = set()
        self.serving: Share | None = None
        self.retried = 0
        self.busy_ns = [0] * count
        self.wasted_ns = 0
        self.peak_busy = 0
        self.log: list[LogRow] | None = [] if keep_log else None
        self.outage_log: list[tuple[int, int, int]] = []
        self._events = env._queue
        self._eid = env._eid
        self._forming: list[Call] | None = None
        self._form_scheduled = False

    @property
    def busy(self) -> int:
        """How many servers are at work."""
        return self.count - len(self.free) - len(self.down)

    # -- the queue ---------------------------------------------------------------------------

    def wait(self, share: Share, resume: Callable[[], None], *, front: bool = False) -> Entry:
        """Let *share* wait until its turn comes, then call *resume*."""
        entry = self.queue.join(share, resume, front=front)
        if self.batching:
            self._form_soon()
        return entry

    def serve(self, _: Event | None = None) -> None:
        """Give free servers to the forwards that wait, in the order of the discipline."""
        if self.batching:
            self._form_soon()
            return
        queue = self.queue
        while self.free and queue.waiting:
            if queue.rank is not None:
                queue.sort()
            entry = queue.pop()
            if entry is None:
                return
            queue.leave(entry)
            self.serving = entry.share
            entry.resume()
            self.serving = None

    def resume(self, call: Call) -> None:
        """The turn of *call*, which has waited, has come."""
        call.entry = None
        self.place(call)

    # -- the fast path -------------------------------------------------------------------------

    def place(self, call: Call) -> None:
        """Begin *call* on a free server, or put it into the batch that is being formed."""
        if not self.fast:
            if self._forming is None:
                self._start([call])
            else:
                self._forming.append(call)
            return
        call.server = server = self.free.pop()
        if server >= self.peak_busy:
            self.peak_busy = server + 1  # a higher number is taken only if all below are busy
        call.start_ns = now = self.env._now  # type: ignore[assignment]
        share = call.servers
        share.begun += call.is_pass
        backend = share.backend
        latency_ns = backend.constant_ns or backend.latency_of(call, server)
        heappush(self._events, (now + latency_ns, self.priority, next(self._eid), call))  # type: ignore[misc]

    def release(self, call: Call) -> None:
        """*call* has ended: its server is idle again, and takes the next one (fast path)."""
        server = call.server
        elapsed: int = self.env._now - call.start_ns  # type: ignore[assignment]
        self.busy_ns[server] += elapsed
        if call.cancelled:
            self.wasted_ns += elapsed
        self.free.append(server)
        if self.queue.waiting:
            # After whoever waits for this call: they may want to queue before the next is chosen.
            call.after.append(self.serve)

    # -- the full path -------------------------------------------------------------------------

    def _form_soon(self) -> None:
        if self.queue.waiting and self.free and not self._form_scheduled:
            self._form_scheduled = True
            event = Event(self.env)
            event._ok, event._value, event.callbacks = True, None, [self._form]
            self.env.schedule(event, FORM)  # type: ignore[arg-type]

    def _form(self, _: Event) -> None:
        """Give each free server as many of the waiting forwards as fit into a batch."""
        self._form_scheduled = False
        while self.free and self.queue.waiting:
            calls = self._next_batch()
            if not calls:
                break
            self._start(calls)

    def _next_batch(self) -> list[Call]:
        """The next batch, from one look at the queue.

        Resuming an entry changes the place of entries of its own request only, and a request joins
        a batch once: so the order holds, and what does not fit now does not fit later.
        """
        calls: list[Call] = []
        self._forming = calls
        members: set[Share] = set()
        room = self.spec.kv_tokens
        left_out = []
        self.queue.sort()
        while len(calls) < self.spec.max_batch:
            entry = self.queue.pop()
            if entry is None:
                break
            share = entry.share
            need = share.kv_tokens() if self.spec.kv_tokens else 0
            if share in members or (members and need > room):
                left_out.append(entry)
                continue
            room -= need
            members.add(share)
            self.queue.leave(entry)
            self.serving = share
            entry.resume()
            self.serving = None
        self.queue.put_back(left_out)
        self._forming = None
        return calls

    def _start(self, calls: list[Call]) -> None:
        server = self._pick(calls)
        batch = Batch(self.env, server, calls, self.priority, self._batch_ended)
        self.running[server] = batch
        self.peak_busy = max(self.peak_busy, len(self.running))
        now: int = self.env._now  # type: ignore[assignment]
        for call in calls:
            if call.is_pass and call.start_ns < 0:
                call.servers.begun += 1
            call.server, call.batch, call.start_ns = server, batch, now
        if self.memory.tokens:
            self.memory.keep(batch)
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
        if not self.spec.affinity:
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
            work_ns = together_ns(calls, server)
        if self.spec.context_ns:
            context = sum(call.servers.context_tokens(call) for call in calls)
            work_ns += round(self.spec.context_ns * context)
        return work_ns + self.spec.sequence_ns * (len(calls) - 1)

    def _batch_ended(self, event: Event) -> None:
        """A batch is done, and its answer is back."""
        batch: Batch = event  # type: ignore[assignment]
        self._account(batch, finished=True)
        self.free.append(batch.server)
        for call in batch.calls:
            if call.batch is batch:
                call.batch = None
                self._note(call, "cancelled" if call.cancelled else "done")
                fire(call)
        if self.queue.waiting:
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
        if self.memory.tokens:
            self.memory.free_finished(batch)

    def take_off(self, call: Call) -> None:
        """Take the cancelled *call* off its server, which is free if it does nothing else."""
        if self.fast:
            self.release(call)
            return
        batch = call.batch
        if batch is None:  # its server has failed
            return
        call.batch = None
        self._note(call, "cancelled")
        if not batch.remaining():
            self._abort(batch)
            self.free.append(batch.server)

    def _abort(self, batch: Batch) -> None:
        batch.callbacks = []  # the end of the batch, if it was scheduled, will do nothing
        if self.hosts is not None:
            self.hosts[batch.server].stop(batch)
        self._account(batch, finished=False)

    def close(self, share: Share, *, lost: bool = False) -> None:
        """The request of *share* is over."""
        if lost:
            share.closed = True
            share.withdraw_all()
        share.leave_queue()
        self.shares.discard(share)
        if self.memory.tokens:
            self.memory.free(share, self.running)

    # -- failures ------------------------------------------------------------------------------

    def fail(self, server: int) -> None:
        """*server* goes down: its forwards are done again elsewhere, or their requests are lost."""
        self.down[server] = self.env._now  # type: ignore[assignment]
        self.memory.clear(server)
        for share in self.shares:
            share.backend.forget(server)
        if server in self.free:
            self.free.remove(server)
            return
        batch = self.running[server]
        calls = batch.remaining()
        self._abort(batch)
        for call in reversed(calls):
            call.batch = None
            self._note(call, "failed")
            share = call.servers
            if call.cancelled or not call.is_pass:
                fire(call)
            elif self.retry:
                self.retried += 1
                call.entry = self.wait(share, partial(self.resume, call), front=True)
            else:
                self.lost(share)
        self.serve()

    def recover(self, server: int) -> None:
        """*server* is up again, with an empty memory."""
        self._note_outage(server)
        del self.down[server]
        self.free.append(server)
        self.serve()

    # -- the log -------------------------------------------------------------------------------

    def _note(self, call: Call, fate: str) -> None:
        if self.log is not None:
            self.log.append(
                LogRow(
                    server=call.server,
                    request=call.servers.request,
                    what=self.role if call.is_pass else "prefill",
                    first=call.first,
                    end=call.end,
                    asked_ns=call.asked_ns,
                    start_ns=call.start_ns,
                    end_ns=self.env._now,  # type: ignore[arg-type]
                    fate=fate,
                )
            )

    def _note_outage(self, server: int) -> None:
        if self.log is not None:
            self.outage_log.append((server, self.down[server], self.env._now))  # type: ignore[arg-type]

    def note_running(self) -> None:
        """Log what is still running, and which servers are still down, at the end of the run."""
        for server in sorted(self.down):
            self._note_outage(server)
        for batch in self.running.values():
            for call in batch.remaining():
                self._note(call, "running")
