"""A workload on a deployment: one run of the event engine with many requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from simpy.events import Event

from dsim.deployment.cluster import Cluster, Request
from dsim.deployment.outages import Outages
from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY, RunRecord, Tally
from dsim.deployment.replica import serve as replicas
from dsim.errors import EngineError
from dsim.events.environment import Environment, NothingLeftError, StalledError
from dsim.events.order import PASS
from dsim.events.output import Output
from dsim.events.run import MAX_IDLE_EVENTS
from dsim.model.latency import beyond_of
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.blame import blaming

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsim.deployment.calls import Share
    from dsim.deployment.spec import Deployment
    from dsim.deployment.workload import Workload

ARRIVE = PASS + 1  # after all that ends at the instant, so that arrivals find what is left
STREAMS = 1 << 20  # streams of random numbers that are set apart for the failures of each fleet


def serve(
    deployment: Deployment,
    workload: Workload,
    replication: int = 0,
    *,
    keep_settled: bool = False,
    keep_log: bool = False,
    full: bool = False,
) -> RunRecord:
    """Simulate *workload* on *deployment* until every request is over.

    Args:
        deployment: what serves.
        workload: what is asked.
        replication: which of several independent runs.
        keep_settled: keep when every token settled.
        keep_log: keep what every server did, for a trace.
        full: take the full path of :mod:`dsim.deployment.fleet` even where the fast one would do.
    """
    if deployment.replica is not None:
        return replicas.serve(
            deployment,
            deployment.replica,
            workload,
            replication,
            keep_settled=keep_settled,
            keep_log=keep_log,
        )
    return _Run(deployment, workload, replication, keep_settled, keep_log=keep_log, full=full).run()


class _Run:
    def __init__(
        self,
        deployment: Deployment,
        workload: Workload,
        replication: int,
        keep_settled: bool,
        *,
        keep_log: bool,
        full: bool,
    ) -> None:
        self.deployment = deployment
        self.workload = workload
        self.replication = replication
        self.keep_settled = keep_settled
        self.env = env = Environment()
        self.start = ORCHESTRATIONS[deployment.algorithm].starter()
        self.cluster = Cluster(
            env, deployment, replication, lost=self._lost, full=full, keep_log=keep_log
        )
        self.fleets = self.cluster.fleets
        self.outages: list[Outages] = []
        seed, count = deployment.seed, workload.count
        self.arrivals = workload.arrival_ns(seed, replication).tolist()
        prompts, outputs = workload.lengths(seed, replication)
        self.prompts, self.outputs = prompts.tolist(), outputs.tolist()
        self.rates = workload.rates(seed, replication, deployment.acceptance).tolist()
        self.columns = {
            name: np.full(count, -1, dtype=np.int64)
            for name in ("arrival_ns", "start_ns", "first_token_ns", "done_ns", "left_ns", "fate")
        }
        self.counts = np.zeros((count, 4), dtype=np.int64)
        self.found = np.zeros((count, 3), dtype=np.int64)
        self.settled: list[list[int]] = [[] for _ in range(count if keep_settled else 0)]
        self.rejected: list[list[int]] = [[] for _ in range(count if keep_settled else 0)]
        self.requests: dict[int, Request] = {}  # those that are being served
        self.yet_to_come = 0  # number of arrivals that are scheduled
        self.active = 0
        self.admission: list[int] = []  # requests that wait to be admitted
        self.over = 0
        self.in_system = 0
        self.in_system_area_ns = 0
        self.in_system_changed_ns = 0
        self.end_ns = 0
        self.finished = env.event()

    def run(self) -> RunRecord:
        workload, env = self.workload, self.env
        if workload.arrivals == "closed":
            self.sent = 0
            self.thinking = workload.thinking_ns(self.deployment.seed, self.replication)
            for _ in range(min(workload.users, workload.count)):
                self._send_next(0)
        else:
            self._schedule_arrival(0)
        self.outages = [
            Outages(
                env,
                fleet,
                faults,
                seed=self.deployment.seed,
                replication=self.replication,
                first_stream=number * STREAMS,
                all_stuck=self._all_stuck,
            )
            for number, (fleet, faults) in enumerate(
                zip(self.fleets, self.cluster.faults, strict=True)
            )
        ]
        env.watch(self._progress, MAX_IDLE_EVENTS + 10 * max(self.outputs))
        with blaming(self.deployment.algorithm):
            while self.over < workload.count:
                try:
                    env.run(until=self.finished)
                except NothingLeftError:
                    self._strand()
                except StalledError as error:
                    name = self.deployment.algorithm
                    raise EngineError(f'{error} (orchestration "{name}")') from error
        return self._result()

    def _progress(self) -> int:
        settled = sum(request.output.settled for request in self.requests.values())
        return hash((self.over, self.yet_to_come, len(self.requests), settled))

    # -- arrivals and admission ----------------------------------------------------------------

    def _schedule(self, at_ns: int, do: Callable[[int], None], number: int) -> None:
        self.yet_to_come += 1
        event = Event(self.env)
        event._ok, event._value = True, None
        event.callbacks = [lambda _: do(number)]
        self.env.schedule(event, ARRIVE, at_ns - self.env._now)  # type: ignore[arg-type]

    def _schedule_arrival(self, number: int) -> None:
        if number < len(self.arrivals):
            self._schedule(self.arrivals[number], self._next_arrives, number)

    def _next_arrives(self, number: int) -> None:
        self._arrives(number)
        self._schedule_arrival(number + 1)

    def _send_next(self, delay_ns: int) -> None:
        if self.sent < self.workload.count:
            number, self.sent = self.sent, self.sent + 1
            now: int = self.env._now  # type: ignore[assignment]
            self._schedule(now + delay_ns, self._arrives, number)

    def _arrives(self, number: int) -> None:
        columns, deployment = self.columns, self.deployment
        now: int = self.env._now  # type: ignore[assignment]
        self.yet_to_come -= 1
        columns["arrival_ns"][number] = now
        target, *drafters = self.fleets
        self.found[number] = (
            self.active + len(self.admission),
            target.queue.waiting,
            sum(fleet.queue.waiting for fleet in drafters),
        )
        if deployment.max_active and self.active >= deployment.max_active:
            if deployment.max_waiting is None or len(self.admission) < deployment.max_waiting:
                self._count_system(1)
                self.admission.append(number)
                return
            columns["fate"][number] = TURNED_AWAY
            self._is_over()
            return
        self._count_system(1)
        self._admit(number)

    def _count_system(self, change: int) -> None:
        now: int = self.env._now  # type: ignore[assignment]
        self.in_system_area_ns += self.in_system * (now - self.in_system_changed_ns)
        self.in_system_changed_ns = now
        self.in_system += change

    def _admit(self, number: int) -> None:
        self.active += 1
        self.columns["start_ns"][number] = self.env._now
        output = Output(self.env, self.outputs[number])
        output.done.callbacks.append(lambda _: self._leaves(number, DONE))
        self.requests[number] = request = Request(
            self.cluster,
            number,
            output,
            self.rates[number],
            self.prompts[number],
            self.workload.text(number).accepts,
        )
        self.start(request)

    # -- ends ----------------------------------------------------------------------------------

    def _lost(self, share: Share) -> None:
        if share.request in self.requests:
            self._leaves(share.request, LOST)

    def _leaves(self, number: int, fate: int) -> None:
        now: int = self.env._now  # type: ignore[assignment]
        request = self.requests.pop(number)
        target, *drafters = request.shares
        output, columns = request.output, self.columns
        columns["fate"][number] = fate
        columns["left_ns"][number] = now
        if output.settled_ns:
            columns["first_token_ns"][number] = output.settled_ns[0]
        if fate == DONE:
            columns["done_ns"][number] = now
        drafts = sum(drafter.begun for drafter in drafters)
        self.counts[number] = (target.begun, target.cancelled, drafts, drafts - output.accepted)
        if self.keep_settled:
            self.settled[number] = output.settled_ns
            self.rejected[number] = [output.settled_ns[p] for p in output.rejections]
        for share in request.shares:
            share.fleet.close(share, lost=fate == LOST)
        self._count_system(-1)
        self.active -= 1
        if fate == LOST:
            self.cluster.target.serve()
        if self.admission:
            self._admit(self.admission.pop(0))
        self._is_over()

    def _is_over(self) -> None:
        self.over += 1
        self.end_ns = self.env._now  # type: ignore[assignment]
        if self.workload.arrivals == "closed":
            self._send_next(next(self.thinking) if self.workload.think_ns else 0)
        if self.over == self.workload.count:
            self.finished.succeed()

    # -- servers that never come back ------------------------------------------------------------

    def _all_stuck(self) -> bool:
        """Whether all requests that are left wait for servers that never come back."""
        lost = [one.fleet for one in self.outages if one.all_gone]
        if not lost or self.yet_to_come:
            return False
        return not any(f.busy or (f.queue.waiting and f not in lost) for f in self.fleets)

    def _strand(self) -> None:
        """No event is left: the requests that are left wait for servers that never come back."""
        # (No request depends on further drafters: DSI goes on without.)
        some_up = all(len(fleet.down) < fleet.count for fleet in self.fleets[:2])
        if not self.requests or some_up:
            raise EngineError(f"{len(self.requests)} requests wait for servers that are idle")
        while self.requests:
            self._leaves(next(iter(self.requests)), LOST)

    def _result(self) -> RunRecord:
        self._count_system(0)
        for fleet in self.fleets:
            fleet.note_running()
        order = np.argsort(self.columns["arrival_ns"], kind="stable")
        counts = self.counts[order].T
        rows = {name: column[order] for name, column in self.columns.items()}
        return RunRecord(
            **rows,
            prompt_tokens=np.array(self.prompts, dtype=np.int64)[order],
            output_tokens=np.array(self.outputs, dtype=np.int64)[order],
            passes=counts[0],
            wasted_passes=counts[1],
            drafts=counts[2],
            wasted_drafts=counts[3],
            preemptions=np.zeros(len(order), dtype=np.int64),
            settled_ns=[self.settled[i] for i in order] if self.keep_settled else [],
            rejected_ns=[self.rejected[i] for i in order] if self.keep_settled else [],
            found=self.found[order],
            tallies=tuple(
                Tally(
                    count=fleet.count,
                    busy_ns=tuple(fleet.busy_ns),
                    queue_area_ns=fleet.queue.area_ns,
                    **dict(zip(("beyond", "forwards"), beyond_of(model.sample), strict=True)),
                )
                for fleet, model in zip(self.fleets, self.cluster.models, strict=True)
            ),
            fleets=self.fleets,
            replicas=(),
            end_ns=self.end_ns,
            in_system_area_ns=self.in_system_area_ns,
            events=self.env.scheduled,
        )
