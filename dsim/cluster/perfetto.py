"""A run as a trace for ui.perfetto.dev (the Chrome trace event format, JSON).

One track for each server and each request; forwards are slices on their server's track, with a flow
from the request at the moment in which it asked; time in a queue is an asynchronous slice;
rejections are instants; the lengths of the queues are counters. Times are in µs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.cluster.faults import server_name
from dsim.cluster.serve import DONE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dsim.cluster.fleet import Fleet
    from dsim.cluster.serve import Served

SERVERS, REQUESTS = 1, 2  # the two processes of each case
Event = dict[str, Any]


def trace(runs: Sequence[tuple[str, Served]]) -> dict[str, Any]:
    """The trace of some runs, one after the other under their names.

    Raises:
        ValueError: a run kept no log.
    """
    events: list[Event] = []
    for number, (name, run) in enumerate(runs):
        events += _Tracer(2 * number, name, run).events()
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"made_by": "dsim"}}


class _Tracer:
    def __init__(self, before: int, name: str, run: Served) -> None:
        target, *drafters = run.fleets
        self.fleets = [*drafters, target]
        if any(fleet.log is None for fleet in self.fleets):
            raise ValueError("the run kept no log")
        self.name = name
        self.run = run
        self.servers, self.requests = before + SERVERS, before + REQUESTS
        self.flow = before << 40

    def events(self) -> Iterator[Event]:
        yield from self._names()
        yield from self._requests()
        first = 0
        for fleet in self.fleets:
            yield from self._forwards(fleet, first)
            yield from self._queue(fleet)
            first += fleet.count

    def _names(self) -> Iterator[Event]:
        def named(pid: int, kind: str, tid: int, **args: Any) -> Event:
            return {"ph": "M", "name": kind, "pid": pid, "tid": tid, "args": args}

        for pid, what in ((self.servers, "servers"), (self.requests, "requests")):
            yield named(pid, "process_name", 0, name=f"{self.name}: {what}")
            yield named(pid, "process_sort_index", 0, sort_index=pid)
        tid = 0
        for fleet in self.fleets:
            for server in range(fleet.count):
                name = server_name(fleet.role, server + 1)
                yield named(self.servers, "thread_name", tid, name=name)
                yield named(self.servers, "thread_sort_index", tid, sort_index=tid)
                tid += 1
        for request in range(len(self.run.fate)):
            yield named(self.requests, "thread_name", request, name=f"request {request}")

    def _requests(self) -> Iterator[Event]:
        run = self.run
        for request in range(len(run.fate)):
            came, let_in = int(run.arrival_ns[request]), int(run.start_ns[request])
            over = int(run.done_ns[request]) if run.fate[request] == DONE else run.end_ns
            tokens = int(run.output_tokens[request])
            what = "request" if run.fate[request] == DONE else "request that is lost"
            if let_in < 0:
                yield self._instant(request, came, "turned away")
                continue
            yield {
                "ph": "X",
                "cat": "request",
                "name": f"{what} {request}",
                "pid": self.requests,
                "tid": request,
                "ts": came / 1e3,
                "dur": (over - came) / 1e3,
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
                    "name": "waits at the door",
                    "pid": self.requests,
                    "tid": request,
                    "ts": came / 1e3,
                    "dur": (let_in - came) / 1e3,
                    "args": {},
                }
            for at_ns in run.rejected_ns[request] if run.rejected_ns else ():
                yield self._instant(request, at_ns, "rejection")

    def _instant(self, request: int, at_ns: int, name: str) -> Event:
        return {
            "ph": "i",
            "s": "t",
            "cat": "request",
            "name": name,
            "pid": self.requests,
            "tid": request,
            "ts": at_ns / 1e3,
        }

    def _forwards(self, fleet: Fleet, first_tid: int) -> Iterator[Event]:
        for server, request, what, first, end, asked_ns, start_ns, end_ns, fate in fleet.log or ():
            if start_ns < 0:
                continue
            name = {"target": f"pass {first}…{end}", "prefill": what}.get(what, f"draft {first}")
            self.flow += 1
            yield {
                "ph": "X",
                "cat": f"{what},{fate}",
                "name": name if fate == "done" else f"{name} ({fate})",
                "pid": self.servers,
                "tid": first_tid + server,
                "ts": start_ns / 1e3,
                "dur": (end_ns - start_ns) / 1e3,
                "args": {"request": request, "first": first, "end": end, "fate": fate},
            }
            link = {"cat": "ask", "name": "asks", "id": self.flow}
            asked = {"pid": self.requests, "tid": request, "ts": asked_ns / 1e3}
            yield {"ph": "s", **link, **asked}
            begins = {"pid": self.servers, "tid": first_tid + server, "ts": start_ns / 1e3}
            yield {"ph": "f", "bp": "e", **link, **begins}
            if start_ns > asked_ns:
                wait = {
                    "cat": "queue",
                    "name": f"waits for a {fleet.role}",
                    "id": self.flow,
                    "pid": self.requests,
                    "tid": request,
                }
                yield {"ph": "b", **wait, "ts": asked_ns / 1e3}
                yield {"ph": "e", **wait, "ts": start_ns / 1e3}

    def _queue(self, fleet: Fleet) -> Iterator[Event]:
        changes: dict[int, int] = {}
        for *_, asked_ns, start_ns, _, _ in fleet.log or ():
            if start_ns > asked_ns:
                changes[asked_ns] = changes.get(asked_ns, 0) + 1
                changes[start_ns] = changes.get(start_ns, 0) - 1
        waiting = 0
        for at_ns in sorted(changes):
            waiting += changes[at_ns]
            yield {
                "ph": "C",
                "name": f"waiting for a {fleet.role}",
                "pid": self.servers,
                "tid": 0,
                "ts": at_ns / 1e3,
                "args": {"forwards": waiting},
            }
