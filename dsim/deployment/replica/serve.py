"""A workload on replicas: one run, from step to step."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.cluster import ranks_of
from dsim.deployment.outcome import DONE, TURNED_AWAY, RunRecord, Tally
from dsim.deployment.replica.cost import Batch, by_width, estimated, linear
from dsim.deployment.replica.drafting import Goodput, by_batch
from dsim.deployment.replica.replica import Drafting, Replica
from dsim.deployment.replica.request import Request
from dsim.deployment.replica.router import router_of
from dsim.deployment.workload import request_key
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM, run_lengths
from dsim.model.lookahead import mean_rate
from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.deployment.replica.cost import Cost
    from dsim.deployment.replica.spec import ReplicaSpec
    from dsim.deployment.spec import Deployment
    from dsim.deployment.workload import Workload
    from dsim.model.latency import Latency
    from dsim.model.roofline import Roofline


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


def costs_of(deployment: Deployment, spec: ReplicaSpec, key: int) -> tuple[Cost, Cost]:
    """How long forwards of the target and of the drafter take.

    Args:
        deployment: what serves.
        spec: its replicas.
        key: what stands for the repeat in random latencies.
    """
    d = deployment
    drafter_us = None if spec.drafter_us is None else (*spec.drafter_us, spec.drafter_us[1])

    def cost(
        latency: Latency, stream: int, roofline: Roofline | None, us: Sequence[float] | None
    ) -> Cost:
        if us is not None:
            return linear(us)
        if roofline is not None:
            return estimated(roofline)
        return by_width(latency.sampler(d.seed, key, stream))

    return (
        cost(d.target, TARGET_STREAM, spec.target, spec.target_us),
        cost(d.drafter, DRAFTER_STREAM, spec.drafter, drafter_us),
    )


def drafting_of(
    deployment: Deployment, spec: ReplicaSpec, target: Cost, drafter: Cost
) -> Drafting | None:
    """How a replica drafts; ``None`` where its orchestration does not."""
    if not ORCHESTRATIONS[deployment.algorithm].traits.drafts:
        return None
    most = deployment.lookahead
    lookup_ns = None if spec.ngram_us is None else spec.ngram_us * 1e3
    how = Drafting(lambda _: most, drafter, spec.features, lookup_ns=lookup_ns)
    if spec.draft_policy == "goodput":

        def step_ns(requests: int, drafts: int) -> float:
            width = requests * (1 + drafts)
            ns = spec.host_us * 1e3 + target(Batch(0, width, requests, width, 0, 0.0))
            if lookup_ns is not None:
                return ns + lookup_ns * requests * drafts
            return ns + drafts * drafter(Batch(0, requests, requests, requests, 0, 0.0))

        policy = Goodput(most, step_ns, mean_rate(deployment.acceptance))
        return how._replace(tokens=policy.tokens, judged=policy.judged)
    return how._replace(tokens=by_batch(spec.drafts_by_batch)) if spec.drafts_by_batch else how


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
        self.replicas = [self._replica(n, keep_settled, keep_log) for n in range(spec.count)]
        self.route = router_of(spec.router, self.replicas)
        prompts, outputs = workload.lengths(seed, replication)
        self.prompts, self.outputs = prompts.tolist(), outputs.tolist()
        self.rates = workload.rates(seed, replication, deployment.acceptance).tolist()
        self.columns = {
            name: [-1] * count for name in ("arrival_ns", "start_ns", "first_token_ns", "done_ns")
        }
        self.fate = [DONE] * count
        self.drafts = ORCHESTRATIONS[deployment.algorithm].traits.drafts
        self.counts = np.zeros((count, 4), dtype=np.int64)
        self.found = np.zeros((count, 3), dtype=np.int64)
        self.settled: list[list[int]] = [[] for _ in range(count if keep_settled else 0)]
        self.in_system = 0
        self.areas_ns = [0, 0]  # over time: requests in the system, and those that wait
        self.now = 0

    def _replica(self, number: int, keep_settled: bool, keep_log: bool) -> Replica:
        key = request_key(self.replication, number)
        target, drafter = costs_of(self.deployment, self.spec, key)
        return Replica(
            self.spec,
            target,
            drafting_of(self.deployment, self.spec, target, drafter),
            host_ns=round(self.spec.host_us * 1e3),
            keep_fed=keep_settled,
            keep_log=keep_log,
        )

    def run(self) -> RunRecord:
        workload, replicas = self.workload, self.replicas
        arrivals = list(
            zip(
                workload.arrival_ns(self.deployment.seed, self.replication).tolist(),
                range(workload.count),
                strict=True,
            )
        )
        later: list[tuple[int, int]] = []
        if workload.arrivals == "closed":
            later = arrivals[workload.users :][::-1]
            arrivals = arrivals[: workload.users]
        thinking = workload.thinking_ns(self.deployment.seed, self.replication)
        ends: list[tuple[int, int]] = []  # of the steps under way: (ns, replica)
        while arrivals or ends:
            now = min(at[0][0] for at in (arrivals, ends) if at)
            self._count_to(now)
            ready = []
            while ends and ends[0][0] == now:
                _, number = heapq.heappop(ends)
                ready.append(number)
                for _ in range(self._ended(replicas[number], now)):
                    if later:
                        think_ns = next(thinking) if workload.think_ns else 0
                        heapq.heappush(arrivals, (now + think_ns, later.pop()[1]))
            while arrivals and arrivals[0][0] == now:
                _, number = heapq.heappop(arrivals)
                chosen = self._arrives(number, now)
                if chosen < 0:
                    if later:
                        heapq.heappush(arrivals, (now, later.pop()[1]))
                elif chosen not in ready and all(chosen != one for _, one in ends):
                    ready.append(chosen)
            for number in ready:
                replica = replicas[number]
                if replica.running or replica.waiting:
                    heapq.heappush(ends, (replica.begin(now), number))
                    for request in replica.admitted:
                        if not request.preemptions:
                            self.columns["start_ns"][request.number] = now
        return self._result()

    def _count_to(self, now: int) -> None:
        """Bring the sums over time up to *now*."""
        for i, count in enumerate((self.in_system, self._waiting())):
            self.areas_ns[i] += count * (now - self.now)
        self.now = now

    def _waiting(self) -> int:
        return sum(len(replica.waiting) for replica in self.replicas)

    def _arrives(self, number: int, now: int) -> int:
        """A request arrives; returns the number of its replica, or -1: it is refused."""
        self.columns["arrival_ns"][number] = now
        self.found[number, :2] = self.in_system, self._waiting()
        prompt, output = self.prompts[number], self.outputs[number]
        if self.spec.refuses(prompt, output):
            self.fate[number] = TURNED_AWAY
            return -1
        text, lengths = self.workload.text(number), []
        if self.drafts:
            rate, accepts = self.rates[number], text.accepts
            ranks = ranks_of(self.deployment, self.replication, number, output, rate, accepts)
            lengths = run_lengths(ranks[0] == 1)
        request = Request(number, prompt, output, lengths, text.group, text.shared, text.hashes)
        chosen = self.route(request)
        self.replicas[chosen].arrives(request)
        self.in_system += 1
        return chosen

    def _ended(self, replica: Replica, now: int) -> int:
        """A step is over; returns how many requests it finished."""
        columns = self.columns
        if self.settled:
            for number, _, _, settled in replica.fed:
                self.settled[number] += [now] * settled
        for request in replica.first:
            columns["first_token_ns"][request.number] = now
        for request in replica.finished:
            columns["done_ns"][request.number] = now
            self.counts[request.number] = (
                request.passes,
                request.drafted,
                request.drafted - request.accepted,
                request.preemptions,
            )
        replica.end()
        self.in_system -= len(replica.finished)
        return len(replica.finished)

    def _result(self) -> RunRecord:
        columns = {name: np.array(values, dtype=np.int64) for name, values in self.columns.items()}
        order = np.argsort(columns["arrival_ns"], kind="stable")
        names = ("passes", "drafts", "wasted_drafts", "preemptions")
        rows = {
            **columns,
            **dict(zip(names, self.counts.T, strict=True)),
            "left_ns": columns["done_ns"],
            "prompt_tokens": np.array(self.prompts, dtype=np.int64),
            "output_tokens": np.array(self.outputs, dtype=np.int64),
            "wasted_passes": np.zeros(len(order), dtype=np.int64),
            "fate": np.array(self.fate, dtype=np.int64),
            "found": self.found,
        }
        busy_ns = tuple(replica.busy_ns for replica in self.replicas)
        drafting_ns = tuple(replica.drafting_ns for replica in self.replicas)
        count = len(self.replicas)
        return RunRecord(
            **{name: column[order] for name, column in rows.items()},
            settled_ns=[self.settled[i] for i in order] if self.settled else [],
            rejected_ns=[[] for _ in order] if self.settled else [],
            tallies=(
                Tally(count=count, busy_ns=busy_ns, queue_area_ns=self.areas_ns[1]),
                Tally(count=count, busy_ns=drafting_ns, queue_area_ns=0),
            ),
            fleets=(),
            replicas=tuple(self.replicas),
            end_ns=self.now,
            in_system_area_ns=self.areas_ns[0],
            events=sum(replica.steps for replica in self.replicas),
        )
