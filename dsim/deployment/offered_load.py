"""The offered load of a deployment: the work that arrives, over the work that can be done."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.deployment.cluster import ranks_of
from dsim.deployment.replica.capacity import capacities
from dsim.deployment.workload import request_key
from dsim.model.script import script_of
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.blame import work_of
from dsim.units import NS_PER_S
from dsim.words import plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dsim.deployment.replica.spec import ReplicaSpec
    from dsim.deployment.spec import Deployment, Faults
    from dsim.deployment.workload import Workload

BUSY_LINK = 0.3  # from when on transfers that do not wait for each other are too good to be true
SAMPLE = 400  # number of requests from which the mean work of one is estimated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """Offered load: the work that arrives per unit of time, over the work that can be done in it.

    Attributes:
        target, drafter: offered load of the two fleets. A load of 1 or more cannot be sustained.
        exact: whether these are the loads themselves (non-SI, SI); otherwise they are lower bounds.
            DSI makes fewer and larger passes the busier it is; batches are full only where forwards
            wait; servers of one host slow each other only where they compute at once; where servers
            have to read what others have cached, the work depends on who serves whom; and a failure
            interrupts long batches more often than short ones.
        most_per_s: the arrival rate at which the larger of the two loads is 1.
        replicas: how many replicas have this load; 0: fleets do. Of replicas the load of drafters
            is the part of it in which they draft.
        readers: whether these are the ones that only read prompts.
        link: part of the time in which each replica for prompts sends KV caches. 1 or more: the
            link cannot carry them.
    """

    target: float
    drafter: float
    exact: bool
    most_per_s: float
    replicas: int = 0
    readers: bool = False
    link: float = 0.0

    @property
    def busy_link(self) -> str:
        """That KV caches would wait for each other at the link, in words; or nothing."""
        if self.link < BUSY_LINK:
            return ""
        more = "more than it can carry: they would pile up" if self.link >= 1 else "a lot"
        return (
            f"each replica for prompts sends KV caches {self.link:.0%} of the time, {more}. "
            "They do not wait for each other in the simulation, so times are too short. Use a "
            "faster link (replica.link_gb_s), or more replicas for prompts"
        )

    def overload(self, faults: Faults) -> str:
        """That replicas are asked for more than they can do, in words, or nothing."""
        if not self.replicas:
            return ""
        if self.target < 1:
            return self.busy_link if self.link >= 1 else ""
        load, count = self.target, self.replicas
        name = plural(count, "replica") + (" for prompts" if self.readers else "")
        up = f" (each is up for {availability(faults):.1%} of the time)" if faults.mtbf_ns else ""
        return (
            f"{name} {'is' if count == 1 else 'are'} overloaded (at least {load:.0%}{up}), so the "
            "queue grows as long as requests arrive, and latencies depend on the length of the "
            f"run. Use fewer than {self.most_per_s:.3g} requests / s, or "
            f"{max(count + 1, math.ceil(count * load + 1e-9))} replicas or more"
        )

    @property
    def worst(self) -> tuple[str, float]:
        """The busier fleet, and its load."""
        return max(("target", self.target), ("drafter", self.drafter), key=lambda pair: pair[1])


class _MeanWork(NamedTuple):
    """The work of one request in the mean: passes, all widths of some passes, and drafts."""

    passes: float
    widths: list[int]
    drafts: float
    exact: bool


def offered_load(deployment: Deployment, workload: Workload) -> Load | None:
    """The offered load of an open workload; ``None`` where arrivals wait for answers (closed).

    Of replicas it is that of saturated ones (:mod:`dsim.deployment.replica.capacity`).

    The mean work of a request is counted on the acceptance draws of some requests, evenly over the
    run: non-SI needs one pass per token; SI one pass and ``m`` drafts per round; DSI at least one
    pass per rejection and one more, and a draft per accepted one; with several drafters a token
    counts as rejected where none of them is right, and any may make the draft. A pass takes its
    mean latency (with a table: by its width) with the dispatch, the network and, in a full batch,
    the cost of each sequence. Servers that fail count for the time in which they are up, and
    interrupted work is done again; failures at known times are left out.
    """
    d = deployment
    if workload.arrivals == "closed" or workload.count < 2:
        return None
    if d.max_active and d.max_waiting is not None:
        return None  # excess requests are rejected
    rate_per_s = _arrivals_per_s(d, workload)
    if rate_per_s is None:
        return None
    per_ns = rate_per_s / NS_PER_S
    if d.replica is not None:
        return _of_replicas(d, d.replica, workload, rate_per_s)
    prompts, outputs = workload.lengths(d.seed, 0)
    tokens = float(prompts.mean() + outputs.mean() / 2)  # of context, in the mean
    work = _mean_work(d, workload, outputs)
    # What every request has to read at least once, on one server.
    prefill = {
        model: float(prompts.mean()) * spec.prefill_token_ns
        if spec.prefill_token_ns
        else float(latency.first_ns or 0)
        for model, spec, latency in (
            ("target", d.targets, d.target),
            ("drafter", d.drafters, d.drafter),
        )
    }
    up = d.targets.servers * availability(d.faults)
    held = with_repeats_ns(_batch_ns(d, work.widths, tokens), d.faults)
    target = per_ns * (work.passes * held / d.targets.max_batch + prefill["target"]) / up
    latencies = [mean_ns(d, "drafter", 1), *(p.drafter.latency.latency_ns for p in d.more_pools)]
    faults = [d.drafter_faults, *(pool.faults for pool in d.more_pools)]
    # All pools together: what a request takes, in drafts, and how many drafts they make in a ns.
    wanted, made = work.drafts, 0.0
    for spec, draft_ns, failing in zip(d.drafter_specs, latencies, faults, strict=False):
        b = spec.max_batch
        held = draft_ns + (b - 1) * spec.sequence_ns + b * spec.context_ns * tokens
        each_ns = with_repeats_ns(held, failing) / b
        wanted += prefill["drafter"] * draft_ns / latencies[0] / each_ns
        made += spec.servers * availability(failing) / each_ns
    drafter = per_ns * wanted / made if made else 0.0
    interrupted = d.faults.mtbf_ns or d.drafter_faults.mtbf_ns
    return Load(
        target=target,
        drafter=drafter,
        exact=work.exact
        and not prefill["target"]
        and d.target.model != "table"
        and not interrupted
        and not d.hosts
        and all(spec.max_batch == 1 and not spec.context_ns for spec in (d.targets, d.drafters)),
        most_per_s=rate_per_s / max(target, drafter),
    )


def _of_replicas(
    d: Deployment, spec: ReplicaSpec, workload: Workload, rate_per_s: float
) -> Load | None:
    """The offered load of the busiest pool of replicas."""
    if d.faults.mtbf_ns and not d.faults.retry:
        return None  # what is interrupted is work that need not be done
    found = []
    pools = (spec.most - spec.readers, spec.readers)
    for readers, one in enumerate(capacities(d, spec, workload)):
        up = pools[readers] * availability(d.faults)
        load = rate_per_s / NS_PER_S / one.per_ns / up
        found.append((load, one.drafting * load, bool(readers)))
    if not found:
        return None
    target, drafter, readers = max(found)
    return Load(
        target=target,
        drafter=drafter,
        exact=False,
        most_per_s=rate_per_s / target,
        replicas=pools[readers],
        readers=readers,
        link=rate_per_s / NS_PER_S * _sending_ns(d, spec, workload) / (spec.readers or 1),
    )


def _sending_ns(d: Deployment, spec: ReplicaSpec, workload: Workload) -> float:
    """How long the KV cache of a prompt is sent, in the mean; 0: none is."""
    if not spec.readers:
        return 0.0
    prompts, _ = workload.lengths(d.seed, 0)
    return spec.kv_token_bytes * float(prompts.mean()) / spec.link_gb_s


def _arrivals_per_s(deployment: Deployment, workload: Workload) -> float | None:
    """The arrival rate; ``None`` where all requests of a trace arrive at once."""
    if workload.arrivals != "trace":
        return workload.rate_per_s
    arrivals = workload.arrival_ns(deployment.seed, 0)
    span_ns = int(arrivals[-1] - arrivals[0])
    return (workload.count - 1) * NS_PER_S / span_ns if span_ns > 0 else None


def _mean_work(d: Deployment, workload: Workload, outputs: NDArray[np.int64]) -> _MeanWork:
    if not ORCHESTRATIONS[d.algorithm].traits.drafts:  # all is known: a pass per token
        return _MeanWork(float(outputs.mean()), [1], 0.0, exact=True)
    some = min(SAMPLE, workload.count)
    rates = workload.rates(d.seed, 0, d.acceptance)
    widths: list[int] = []
    drafts, exact = 0, True
    for number in np.linspace(0, workload.count - 1, some).round().astype(int).tolist():
        rate = float(rates[number])
        accepts = workload.text(number).accepts
        ranks = ranks_of(d, 0, number, int(outputs[number]), rate, accepts)
        script = script_of(
            d,
            ranks,
            request_key(0, number),
            further=[pool.drafter for pool in d.more_pools],
            rate=rate if d.acceptance.model != "trace" else None,
        )
        work = work_of(d.algorithm, script)
        widths += work.widths
        drafts += work.drafts
        exact = exact and work.exact
    return _MeanWork(len(widths) / some, widths, drafts / some, exact)


def _batch_ns(d: Deployment, widths: list[int], tokens: float) -> float:
    """How long a full batch of target passes holds its server.

    Args:
        d: what serves.
        widths: widths of some passes.
        tokens: mean length of the context.
    """
    counts = np.bincount(widths)
    latencies = [mean_ns(d, "target", width) for width in range(len(counts))]
    b = d.targets.max_batch
    held = float(np.average(latencies, weights=counts))
    held += (b - 1) * d.targets.sequence_ns + b * d.targets.context_ns * tokens
    if d.target.model == "table":
        width = round(float(np.mean(widths)))
        held += d.target.at_width(width * b) - d.target.at_width(width)
    held += d.overhead_ns
    if ORCHESTRATIONS[d.algorithm].traits.drafts and (d.network_ns or d.link_ns):
        held += 2 * (float(np.mean(d.link_ns)) if d.link_ns else d.network_ns)
    return held


def availability(faults: Faults) -> float:
    """The share of time in which a server that fails and recovers is up."""
    return faults.mtbf_ns / (faults.mtbf_ns + faults.mttr_ns) if faults.mtbf_ns else 1.0


def with_repeats_ns(held_ns: float, faults: Faults) -> float:
    """How long work of *held_ns* holds servers until it is done, though failures interrupt it.

    Work of length ``h`` that begins again after each failure takes ``m (exp(h / m) - 1)`` in the
    mean, where times to failure are exponential with mean ``m``. Without retry it is given up.
    """
    if not faults.mtbf_ns or not faults.retry:
        return held_ns
    return faults.mtbf_ns * float(np.expm1(min(held_ns / faults.mtbf_ns, 700.0)))


def mean_ns(deployment: Deployment, model: str, width: int) -> float:
    """The mean latency (ns) of one forward over *width* tokens."""
    latency = deployment.target if model == "target" else deployment.drafter
    return float(latency.at_width(width) if latency.model == "table" else latency.latency_ns)
