r"""A run as a trace for ui.perfetto.dev (the Chrome trace event format, JSON).

There is one track per server or replica, and per request. Forwards and batches are slices on the
track of their server, with a flow from each request at the moment in which it asked. Outages are
slices, time in a queue is an asynchronous slice, rejections are instants, and the lengths of the
queues are counters.
Times are in µs.

How Perfetto reads the format, found by opening traces in it: Perfetto cuts times to whole ns. A
track with ``tid`` 0 has no name, and one whose ``tid`` is its ``pid`` goes first. A slice that
overlaps another of its track without being inside it is dropped. A flow ends at the innermost slice
of its moment, or at an instant if there is one (so a batch is one slice, and servers have no
instants). ``\u`` in a text is no character. An ``id`` of an asynchronous slice belongs to no
process. Slices whose names differ in numbers only have the same colour.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from dsim.deployment.outages import FURTHER, server_name
from dsim.deployment.outcome import LOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dsim.deployment.fleet import Fleet, LogRow
    from dsim.deployment.outcome import RunRecord
    from dsim.deployment.replica.replica import Step

SERVERS, REQUESTS = 1, 2  # the two processes of each case
FIRST_TID = 100  # beyond all pids
Event = dict[str, Any]


def trace(runs: Sequence[tuple[str, RunRecord]]) -> dict[str, Any]:
    """The trace of some runs, one group of tracks for each.

    Args:
        runs: names and runs; the name of a single run may be empty.

    Raises:
        ValueError: a run kept no log.
    """
    events: list[Event] = []
    for number, (name, run) in enumerate(runs):
        kind = _ReplicaTracer if run.replicas else _Tracer
        events += kind(2 * number, name, run).events()
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"made_by": "dsim"}}


def _us(ns: int) -> float:
    """A time in µs, a quarter of a ns more, so that nothing is lost where it is cut to ns."""
    return (ns + 0.25) / 1e3


class _Tracer:
    def __init__(self, before: int, name: str, run: RunRecord) -> None:
        self.fleets = [*run.fleets[1:], *run.fleets[:1]]
        if None in [*(fleet.log for fleet in self.fleets), *(one.log for one in run.replicas)]:
            raise ValueError("the run kept no log")
        self.name = name
        self.run = run
        self.servers, self.requests = before + SERVERS, before + REQUESTS
        self.flow = before << 40
        self.first_tid: dict[Fleet, int] = {}
        tid = FIRST_TID + 1
        for fleet in self.fleets:
            self.first_tid[fleet] = tid
            tid += fleet.count

    def events(self) -> Iterator[Event]:
        yield from self._names()
        yield from self._requests()
        for fleet in self.fleets:
            yield from self._forwards(fleet)
            yield from self._queue(fleet)
        yield from self._instants()

    def _names(self) -> Iterator[Event]:
        def named(pid: int, kind: str, tid: int, **args: Any) -> Event:
            return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}

        for pid, what in ((self.servers, "servers"), (self.requests, "requests")):
            name = f"{what}: {self.name}" if self.name else what
            yield named(pid, "process_name", FIRST_TID, name=name)
            yield named(pid, "process_sort_index", FIRST_TID, sort_index=pid)
        for tid, name in self._tracks():
            yield named(self.servers, "thread_name", tid, name=name)
            yield named(self.servers, "thread_sort_index", tid, sort_index=tid)
        for request in range(len(self.run.fate)):
            tid = _tid(request)
            yield named(self.requests, "thread_name", tid, name=f"request {request + 1}")
            yield named(self.requests, "thread_sort_index", tid, sort_index=tid)

    def _tracks(self) -> Iterator[tuple[int, str]]:
        """The tracks of the servers: number and name."""
        for fleet in self.fleets:
            for server in range(fleet.count):
                yield self.first_tid[fleet] + server, server_name(fleet.role, server + 1)

    def _requests(self) -> Iterator[Event]:
        run = self.run
        for request in range(len(run.fate)):
            came, let_in = int(run.arrival_ns[request]), int(run.start_ns[request])
            over = int(run.left_ns[request])
            tokens = int(run.output_tokens[request])
            what = "request that is lost" if run.fate[request] == LOST else "request"
            if let_in < 0:
                continue
            yield {
                "ph": "X",
                "cat": "request",
                "name": f"{what} {request + 1}",
                "pid": self.requests,
                "tid": _tid(request),
                "ts": _us(came),
                "dur": _us(over - came),
                "args": {
                    "prompt_tokens": int(run.prompt_tokens[request]),
                    "output_tokens": tokens,
                    "passes": int(run.passes[request]),
                    "drafts": int(run.drafts[request]),
                },
            }
            if let_in > came:
                yield {
                    "ph": "X",
                    "cat": "queue",
                    "name": "waits for admission",
                    "pid": self.requests,
                    "tid": _tid(request),
                    "ts": _us(came),
                    "dur": _us(let_in - came),
                    "args": {},
                }

    def _forwards(self, fleet: Fleet) -> Iterator[Event]:
        for server, from_ns, to_ns in fleet.outage_log:
            span = {"ts": _us(from_ns), "dur": _us(to_ns - from_ns)}
            track = self._server(fleet, server)
            yield {"ph": "X", "cat": "outage", "name": "down", **track, **span, "args": {}}
        # A server begins one batch at a time, except for withdrawn ones, which have no length.
        begun = sorted(
            (row for row in fleet.log or () if row.end_ns > row.start_ns >= 0), key=_begun
        )
        for (server, start_ns), batch in itertools.groupby(begun, _begun):
            members = list(batch)
            track = self._server(fleet, server)
            several = len(members) > 1
            yield {
                "ph": "X",
                "cat": f"{fleet.role},batch" if several else f"{members[0].what},{members[0].fate}",
                "name": f"batch of {len(members)}" if several else _words(members[0]),
                **track,
                "ts": _us(start_ns),
                "dur": _us(max(row.end_ns for row in members) - start_ns),
                "args": {f"request {row.request + 1}": _words(row) for row in members},
            }
            for row in members:
                request, asked_ns = row.request, row.asked_ns
                self.flow += 1
                link = {"cat": "ask", "name": "asks", "id": self.flow}
                asker = {"pid": self.requests, "tid": _tid(request), "ts": _us(asked_ns)}
                yield {"ph": "s", **link, **asker}
                yield {"ph": "f", "bp": "e", **link, **track, "ts": _us(start_ns)}
                if start_ns > asked_ns:
                    wait = {
                        "cat": "queue",
                        "name": f"waits for {_one_of(fleet)}",
                        "id2": {"local": self.flow},
                        **track,  # with the servers, as the queue is
                    }
                    args = {"request": request + 1}
                    yield {"ph": "b", **wait, "ts": _us(asked_ns), "args": args}
                    yield {"ph": "e", **wait, "ts": _us(start_ns)}

    def _instants(self) -> Iterator[Event]:
        run = self.run
        for request in range(len(run.fate)):
            track = {"pid": self.requests, "tid": _tid(request)}
            if run.start_ns[request] < 0:
                yield _instant(track, int(run.arrival_ns[request]), "rejected at admission")
            for at_ns in run.rejected_ns[request] if run.rejected_ns else ():
                yield _instant(track, at_ns, "rejection")
        for fleet in self.fleets:
            for row in fleet.log or ():
                if row.end_ns == row.start_ns:
                    track = {"pid": self.requests, "tid": _tid(row.request)}
                    yield _instant(track, row.start_ns, _words(row))

    def _server(self, fleet: Fleet, server: int) -> Event:
        return {"pid": self.servers, "tid": self.first_tid[fleet] + server}

    def _queue(self, fleet: Fleet) -> Iterator[Event]:
        changes: dict[int, int] = {}
        for row in fleet.log or ():
            if row.start_ns > row.asked_ns:
                changes[row.asked_ns] = changes.get(row.asked_ns, 0) + 1
                changes[row.start_ns] = changes.get(row.start_ns, 0) - 1
        waiting = 0
        for at_ns in sorted(changes):
            waiting += changes[at_ns]
            yield {
                "ph": "C",
                "name": "forwards that wait for",
                "pid": self.servers,
                "tid": FIRST_TID,
                "ts": _us(at_ns),
                "args": {_one_of(fleet): waiting},
            }


class _ReplicaTracer(_Tracer):
    """A track for each replica: its steps, and in them the target's forward and the drafting."""

    def _tracks(self) -> Iterator[tuple[int, str]]:
        for number in range(len(self.run.replicas)):
            yield FIRST_TID + 1 + number, f"replica {number + 1}"

    def events(self) -> Iterator[Event]:
        yield from self._names()
        yield from self._requests()
        for (tid, name), replica in zip(self._tracks(), self.run.replicas, strict=True):
            track = {"pid": self.servers, "tid": tid}
            for step in replica.log or ():
                yield from _step(track, name, step)
        yield from self._instants()


def _step(track: Event, replica: str, step: Step) -> Iterator[Event]:
    """One step of a replica: slices, and what it made of its batch and its budget."""
    tokens = sum(width for _, width, _, _ in step.fed)
    members = {
        f"request {number + 1}": f"{width} tokens, {drafts} of them drafts; {settled} settled"
        for number, width, drafts, settled in step.fed
    }
    for name, from_ns, to_ns, args in (
        (f"step of {len(step.fed)}", step.start_ns, step.end_ns, members),
        ("target", step.start_ns, step.target_ns, {"tokens": tokens}),
        ("drafting", step.target_ns, step.end_ns, {}),
    ):
        if to_ns > from_ns:
            span = {"ts": _us(from_ns), "dur": _us(to_ns - from_ns)}
            yield {"ph": "X", "cat": "step", "name": name, **track, **span, "args": args}
    for what, count in (
        ("requests in a step", len(step.fed)),
        ("tokens in a step", tokens),
        ("requests that wait", step.waiting),
    ):
        counter = {"ph": "C", "name": f"{what} of {replica}", **track, "ts": _us(step.start_ns)}
        yield {**counter, "args": {what: count}}


def _instant(track: Event, at_ns: int, name: str) -> Event:
    return {"ph": "i", "s": "t", "cat": "instant", "name": name, **track, "ts": _us(at_ns)}


def _begun(row: LogRow) -> tuple[int, int]:
    """Where and when a forward was begun: forwards of a batch have this in common."""
    return row.server, row.start_ns


def _words(row: LogRow) -> str:
    """What a forward is, and how it ended unless it was done."""
    own = {"target": f"pass {row.first} to {row.end}", "prefill": row.what}
    name = own.get(row.what, f"draft {row.first}")
    return name if row.fate == "done" else f"{name} ({row.fate})"


def _one_of(fleet: Fleet) -> str:
    """One server of a fleet, in words."""
    return fleet.role if fleet.role.startswith(FURTHER) else f"a {fleet.role}"


def _tid(request: int) -> int:
    """The track of a request (from 0 on; people count from 1)."""
    return FIRST_TID + 1 + request
