"""A workload on replicas: one run, from step to step."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.cluster import ranks_of
from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY, RunRecord, Tally
from dsim.deployment.replica.failures import failures
from dsim.deployment.replica.pool import Pool
from dsim.deployment.replica.request import Request
from dsim.deployment.replica.setup import replica_of, shape_of
from dsim.deployment.workload import request_key
from dsim.errors import EngineError
from dsim.model.acceptance import run_lengths
from dsim.model.script import script_of
from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from dsim.deployment.replica.replica import Replica
    from dsim.deployment.replica.spec import ReplicaSpec
    from dsim.deployment.spec import Deployment
    from dsim.deployment.workload import Workload

# What happens first at one instant.
FAIL, RISE, STEP, COME = range(4)
MAX_FAILURES = 100_000  # without a token that settles in between


def serve(
    deployment: Deployment,
    spec: ReplicaSpec,
    workload: Workload,
    replication: int = 0,
    *,
    keep_settled: bool = False,
    keep_log: bool = False,
) -> RunRecord:
    """Simulate *workload* on replicas until every request is over.

    Args:
        deployment: what serves.
        spec: its replicas.
        workload: what is asked.
        replication: which of several independent runs.
        keep_settled: keep when every token settled.
        keep_log: keep every step, for a trace.
    """
    return _Run(deployment, spec, workload, replication, keep_settled, keep_log).run()


class _Run:
    def __init__(
        self,
        deployment: Deployment,
        spec: ReplicaSpec,
        workload: Workload,
        replication: int,
        keep_settled: bool,
        keep_log: bool,
    ) -> None:
        self.deployment, self.spec, self.workload = deployment, spec, workload
        self.replication = replication
        seed, count = deployment.seed, workload.count
        failing = bool(deployment.faults)
        self.replicas = [
            replica_of(
                deployment,
                spec,
                request_key(replication, number),
                drafts=number >= spec.readers,
                keep_fed=keep_settled or failing,
                keep_log=keep_log,
            )
            for number in range(spec.most)
        ]
        self.number_of = {replica: number for number, replica in enumerate(self.replicas)}
        split = spec.readers
        self.pools = [Pool(self.replicas[split:], spec.router, spec.count)]
        if split:
            self.pools.append(Pool(self.replicas[:split], spec.router, spec.prefill_count))
        self.events: list[tuple[int, int, int, int]] = []  # (ns, what, number, epoch)
        self.epochs = [0] * spec.most  # of each replica: how often it has failed
        self.stepping = [False] * spec.most
        self.coming: dict[int, Request] = {}  # requests that have arrived, and are not queued yet
        self.moving: dict[int, Request] = {}  # requests whose KV cache is under way
        self.api_ns = [1e3 * us for us in spec.api_us]
        self.token_ns = round(self.api_ns[2])
        prompts, outputs = workload.lengths(seed, replication)
        self.prompts, self.outputs = prompts.tolist(), outputs.tolist()
        self.texts = workload.prompt_texts(seed, replication)
        self.rates = workload.rates(seed, replication, deployment.acceptance).tolist()
        self.columns = {
            name: [-1] * count
            for name in ("arrival_ns", "start_ns", "first_token_ns", "done_ns", "left_ns")
        }
        self.fate = [DONE] * count
        self.drafts = ORCHESTRATIONS[deployment.algorithm].traits.drafts
        self.shape = shape_of(deployment)
        self.counts = np.zeros((count, 4), dtype=np.int64)
        self.found = np.zeros((count, 3), dtype=np.int64)
        self.settled: list[list[int]] = [[] for _ in range(count if keep_settled else 0)]
        self.in_system = 0
        self.over = 0
        self.areas_ns = [0, 0]  # over time: requests in the system, and those that wait
        self.now = 0
        self.failures = 0  # since a token has settled

    def run(self) -> RunRecord:
        """See :func:`serve`."""
        workload, events, d = self.workload, self.events, self.deployment
        arrivals = workload.arrival_ns(d.seed, self.replication).tolist()
        self.later: deque[int] = deque()
        if workload.arrivals == "closed":
            self.later.extend(range(workload.users, workload.count))
            arrivals = arrivals[: workload.users]
        self.thinking = workload.thinking_ns(d.seed, self.replication)
        events += [(at, COME, number, 0) for number, at in enumerate(arrivals)]
        self.failures_of = [
            failures(d.faults, d.seed, self.replication, n) for n in range(self.spec.most)
        ]
        for number in range(self.spec.most):
            self._next_failure(number)
        heapq.heapify(events)
        do = {FAIL: self._fails, RISE: self._rises, STEP: self._ended, COME: self._comes}
        while self.over < workload.count:
            if not events:
                self._strand()
                continue
            now = events[0][0]
            self._count_to(now)
            ready: dict[int, None] = {}
            while events and events[0][0] == now:
                _, what, number, epoch = heapq.heappop(events)
                for replica in do[what](number, epoch):
                    ready[self.number_of[replica]] = None
            for number in ready:
                self._begin(number)
        return self._result()

    def _strand(self) -> None:
        """Nothing happens any more: the requests that are left wait for replicas that are gone."""
        left = [request for pool in self.pools for request in pool.limbo]
        if not left:
            raise EngineError(f"{self.in_system} requests wait for replicas that are idle")
        for pool in self.pools:
            pool.limbo = []
        for request in left:
            self._leaves(request, LOST)

    def _begin(self, number: int) -> None:
        """Let a replica begin a step, if it has anything to do."""
        replica = self.replicas[number]
        if self.stepping[number] or not (replica.running or replica.waiting):
            return
        self.stepping[number] = True
        ends_ns = replica.begin(self.now)
        heapq.heappush(self.events, (ends_ns, STEP, number, self.epochs[number]))
        start_ns = self.columns["start_ns"]
        for request in replica.admitted:
            if start_ns[request.number] < 0:
                start_ns[request.number] = self.now

    def _pool_of(self, number: int) -> Pool:
        return self.pools[number < self.spec.readers]

    def _count_to(self, now: int) -> None:
        """Bring the sums over time up to *now*."""
        waiting = sum(pool.waiting for pool in self.pools)
        for i, count in enumerate((self.in_system, waiting)):
            self.areas_ns[i] += count * (now - self.now)
        self.now = now

    # -- what happens; each returns the replicas that may have something to do -------------------

    def _comes(self, number: int, _: int) -> list[Replica]:
        """A request arrives or joins the queue, or its KV cache is where it decodes."""
        joins = self.coming.pop(number, None)
        if joins is not None:
            return self._give(self.pools[-1], joins)
        moved = self.moving.pop(number, None)
        if moved is not None:
            return self._give(self.pools[0], moved)
        self.columns["arrival_ns"][number] = self.now
        self.found[number, :2] = self.in_system, sum(pool.waiting for pool in self.pools)
        prompt, output = self.prompts[number], self.outputs[number]
        if self.spec.refuses(prompt, output):
            self.fate[number] = TURNED_AWAY
            self._is_over()
            return []
        self.in_system += 1
        split = len(self.pools) > 1
        request = self._request(number, 1 if split else output)
        delay_ns = round(self.api_ns[0] + self.api_ns[1] * prompt)
        if delay_ns:
            self.coming[number] = request
            joins_ns = self.now + delay_ns
            heapq.heappush(self.events, (joins_ns, COME, number, 0))
            return []
        return self._give(self.pools[-1], request)

    def _request(self, number: int, output: int, sent: int = 0) -> Request:
        text, prompt, d = self.texts[number], self.prompts[number], self.deployment
        request = Request(number, prompt, output, [], text.group, text.shared, text.hashes, sent)
        if self.drafts and output > 1:
            rate, key = self.rates[number], request_key(self.replication, number)
            ranks = ranks_of(d, self.replication, number, output, rate, text.accepts)
            if self.shape is not None:
                request.speculation = self.shape(script_of(d, ranks, key, rate=rate))
            else:
                request.lengths = run_lengths(ranks[0] == 1)
        return request

    def _give(self, pool: Pool, request: Request) -> list[Replica]:
        chosen = pool.give(request)
        started = pool.start(self.now, self.spec.scale_queue)
        if started is not None:
            at_ns, number = self.now + round(self.spec.startup_s * 1e9), self.number_of[started]
            heapq.heappush(self.events, (at_ns, RISE, number, self.epochs[number]))
        return [] if chosen is None else [chosen]

    def _ended(self, number: int, epoch: int) -> list[Replica]:
        """A step is over."""
        if epoch != self.epochs[number]:
            return []  # the replica failed meanwhile
        replica = self.replicas[number]
        self.stepping[number] = False
        self.failures = 0
        if self.settled:
            for one, _, _, settled in replica.fed:
                self.settled[one] += [self.now] * settled
        for request in replica.first:
            self.columns["first_token_ns"][request.number] = self.now + self.token_ns
        replica.end()
        for request in replica.finished:
            output = self.outputs[request.number]
            if request.end < request.prompt + output:  # only the prompt was to be read
                self._send(request, output)
            else:
                self.columns["done_ns"][request.number] = self.now + self.token_ns * output
                self._leaves(request, DONE)
        self._pool_of(number).stop_idle(replica, self.now)
        return [replica]

    def _send(self, request: Request, output: int) -> None:
        """Send the KV cache of a prompt to the replicas that decode."""
        spec, number = self.spec, request.number
        self._add_counts(request)
        link_ns = spec.link_us * 1e3 + spec.kv_token_bytes * request.prompt / spec.link_gb_s
        self.moving[number] = self._request(number, output, sent=request.prompt)
        heapq.heappush(self.events, (self.now + round(link_ns), COME, number, 0))

    def _add_counts(self, request: Request) -> None:
        self.counts[request.number] += (
            request.passes,
            request.drafted,
            request.drafted - request.accepted,
            request.preemptions,
        )

    def _leaves(self, request: Request, fate: int) -> None:
        number = request.number
        self.columns["left_ns"][number] = self.now
        self.fate[number] = fate
        self._add_counts(request)
        self.in_system -= 1
        self._is_over()

    def _is_over(self) -> None:
        self.over += 1
        if self.later:
            think_ns = next(self.thinking) if self.workload.think_ns else 0
            event = (self.now + think_ns, COME, self.later.popleft(), 0)
            heapq.heappush(self.events, event)

    # -- replicas that come and go ---------------------------------------------------------------

    def _next_failure(self, number: int) -> None:
        """Schedule the next failure of a replica, and its recovery."""
        outage = next(self.failures_of[number], None)
        if outage is not None:
            heapq.heappush(self.events, (outage[0], FAIL, number, outage[1]))

    def _fails(self, number: int, until_ns: int) -> list[Replica]:
        """A replica fails. What ran or waited there goes elsewhere, or is lost."""
        replica, pool = self.replicas[number], self._pool_of(number)
        self.failures += 1
        if self.failures > MAX_FAILURES:
            raise EngineError(f"{self.failures:,} failures in a row interrupt every single step")
        if replica not in pool.up:  # it is not running
            self._next_failure(number)
            return []
        interrupted, waiting = replica.fail(self.now if self.stepping[number] else -1)
        self.epochs[number] += 1
        self.stepping[number] = False
        pool.up.remove(replica)
        if until_ns >= 0:
            event = (max(self.now, until_ns), RISE, number, self.epochs[number])
            heapq.heappush(self.events, event)
        touched: list[Replica] = []
        for request in interrupted if not self.deployment.faults.retry else ():
            self._leaves(request, LOST)
        for request in (*(interrupted if self.deployment.faults.retry else ()), *waiting):
            touched += self._give(pool, request)
        return touched

    def _rises(self, number: int, epoch: int) -> list[Replica]:
        """A replica is up: started, or recovered."""
        if epoch != self.epochs[number]:
            return []
        pool, replica = self._pool_of(number), self.replicas[number]
        recovered = replica not in pool.starting
        pool.rise(replica)
        waiting, pool.limbo = pool.limbo, []
        touched = [one for request in waiting for one in self._give(pool, request)]
        if recovered:
            self._next_failure(number)
            pool.stop_idle(replica, self.now)
        return touched

    def _result(self) -> RunRecord:
        columns = {name: np.array(values, dtype=np.int64) for name, values in self.columns.items()}
        order = np.argsort(columns["arrival_ns"], kind="stable")
        names = ("passes", "drafts", "wasted_drafts", "preemptions")
        rows = {
            **columns,
            **dict(zip(names, self.counts.T, strict=True)),
            "prompt_tokens": np.array(self.prompts, dtype=np.int64),
            "output_tokens": np.array(self.outputs, dtype=np.int64),
            "wasted_passes": np.zeros(len(order), dtype=np.int64),
            "fate": np.array(self.fate, dtype=np.int64),
            "found": self.found,
        }
        scales = any(len(pool.replicas) > pool.count for pool in self.pools)
        reserved_ns = sum(pool.reserved_ns(self.now) for pool in self.pools) if scales else 0
        busy_ns = tuple(replica.busy_ns for replica in self.replicas)
        drafting_ns = tuple(replica.drafting_ns for replica in self.replicas)
        count = len(self.replicas)
        return RunRecord(
            **{name: column[order] for name, column in rows.items()},
            settled_ns=[self.settled[i] for i in order] if self.settled else [],
            rejected_ns=[[] for _ in order] if self.settled else [],
            tallies=(
                Tally(
                    count=count,
                    busy_ns=busy_ns,
                    queue_area_ns=self.areas_ns[1],
                    reserved_ns=reserved_ns,
                ),
                Tally(count=count, busy_ns=drafting_ns, queue_area_ns=0, reserved_ns=reserved_ns),
            ),
            fleets=(),
            replicas=tuple(self.replicas),
            end_ns=max(self.now, *self.columns["done_ns"]),
            in_system_area_ns=self.areas_ns[0],
            events=sum(replica.steps for replica in self.replicas),
        )
