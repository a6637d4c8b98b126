"""The offered load of a deployment: the work that arrives, over the work that can be done."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.cluster import draws_of
from dsim.deployment.workload import request_key
from dsim.model.acceptance import run_lengths
from dsim.model.lookahead import mean_rate
from dsim.orchestrations import ORCHESTRATIONS
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from dsim.deployment.spec import Deployment, Faults
    from dsim.deployment.workload import Workload

SAMPLE = 400  # requests from which the mean work of one is estimated


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """Offered load: the work that arrives in a unit of time, over what can be done in it.

    Attributes:
        target, drafter: of each fleet. 1 or more cannot be served.
        exact: whether that is the load itself (non-SI, SI). DSI makes fewer and larger passes the
            busier it is; batches are full only where forwards wait, and servers on one host slow
            each other only where they compute at once; where servers have to read what others have
            cached, that depends on who serves whom; and a failure interrupts long batches more
            often than short ones: then these are the least that will do.
        most_per_s: the arrival rate at which the larger of the two is 1.
    """

    target: float
    drafter: float
    exact: bool
    most_per_s: float

    @property
    def worst(self) -> tuple[str, float]:
        """The busier fleet, and its load."""
        return max(("target", self.target), ("drafter", self.drafter), key=lambda pair: pair[1])


def offered_load(deployment: Deployment, workload: Workload) -> Load | None:
    """The offered load of an open workload; ``None`` where arrivals wait for answers (closed).

    The mean work of a request is counted on the acceptance draws of some requests, evenly over the
    run, forward by forward: non-SI needs one pass a token; SI one pass and ``m`` drafts a round;
    DSI at least one pass for each rejection and one more, and a draft for each one accepted; with
    several drafters a token counts as rejected where none of them is right, and any may make the
    draft. A pass takes its mean latency (by a table that of its width: in DSI of one pass over all
    that is settled between two rejections, since several cost no less) with the dispatch, the
    network and, in a full batch, what each sequence adds. Of servers that fail the time in which
    they are up counts, and what a failure interrupts is done again; failures at known times are
    left out.
    """
    if workload.arrivals == "closed" or workload.count < 2:
        return None
    if deployment.max_active and deployment.max_waiting is not None:
        return None  # what is too much is turned away
    d = deployment
    arrivals = workload.arrival_ns(d.seed, 0)
    if workload.arrivals == "trace":
        span_ns = int(arrivals[-1] - arrivals[0])
        if span_ns <= 0:
            return None
        rate_per_s = (workload.count - 1) * NS_PER_S / span_ns
    else:
        rate_per_s = workload.rate_per_s
    prompts, outputs = workload.lengths(d.seed, 0)
    rates = workload.rates(d.seed, 0, d.acceptance)
    some = min(SAMPLE, workload.count)
    # The widths of all their passes. Of non-SI the whole workload is known.
    orchestration = ORCHESTRATIONS[d.algorithm]
    plain = not orchestration.traits.drafts
    widths: list[int] = [1] if plain else []
    drafts, exact = 0, True
    numbers = np.linspace(0, workload.count - 1, 0 if plain else some).round().astype(int)
    for number in numbers.tolist():
        n = int(outputs[number])
        rate = float(rates[number])
        draws = draws_of(d, 0, number, n, rate)
        if d.acceptance.model == "trace":
            rate = mean_rate(d.acceptance)
        key = request_key(0, number)
        plan = d.policy.plan_of(d.lookahead, draws, rate, d.seed, key)
        own = [
            pool.drafter.draws(draws, mean_rate(d.acceptance), d.seed, key, further)
            for further, pool in enumerate(d.more_pools)
        ]
        draws = np.logical_or.reduce([draws, *own])
        work = orchestration.work(run_lengths(draws), plan)
        widths += work.widths
        drafts += work.drafts
        exact = exact and work.exact
    each = float(outputs.mean()) if plain else len(widths) / some
    counts = np.bincount(widths)
    pass_ns = float(
        np.average([mean_ns(d, "target", width) for width in range(len(counts))], weights=counts)
    )
    width = round(float(np.mean(widths)))
    tokens = float(prompts.mean() + outputs.mean() / 2)
    b = d.targets.max_batch
    together = pass_ns + (b - 1) * d.targets.sequence_ns + b * d.targets.context_ns * tokens
    if d.target.model == "table":
        together += d.target.at_width(width * b) - d.target.at_width(width)
    held = together + d.overhead_ns
    if orchestration.traits.drafts and (d.network_ns or d.link_ns):
        held += 2 * (float(np.mean(d.link_ns)) if d.link_ns else d.network_ns)
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
    per_ns = rate_per_s / NS_PER_S
    up = d.targets.servers * availability(d.faults)
    held = with_repeats_ns(held, d.faults)
    target = per_ns * (each * held / b + prefill["target"]) / up
    latencies = [mean_ns(d, "drafter", 1), *(p.drafter.latency.latency_ns for p in d.more_pools)]
    faults = [d.drafter_faults, *(pool.faults for pool in d.more_pools)]
    # All pools together: what a request takes, in drafts, and how many drafts they make in a ns.
    wanted, made = drafts / some, 0.0
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
        exact=exact
        and not prefill["target"]
        and d.target.model != "table"
        and not interrupted
        and not d.hosts
        and all(spec.max_batch == 1 and not spec.context_ns for spec in (d.targets, d.drafters)),
        most_per_s=rate_per_s / max(target, drafter),
    )


def availability(faults: Faults) -> float:
    """The part of the time in which a server that fails and recovers is up."""
    return faults.mtbf_ns / (faults.mtbf_ns + faults.mttr_ns) if faults.mtbf_ns else 1.0


def with_repeats_ns(held_ns: float, faults: Faults) -> float:
    """How long work of *held_ns* holds servers until it is done, though failures interrupt it.

    Begun anew each time, work of length ``h`` takes ``m (exp(h / m) - 1)`` in the mean where times
    to failure are exponential with mean ``m``. Without retry it is given up instead.
    """
    if not faults.mtbf_ns or not faults.retry:
        return held_ns
    return faults.mtbf_ns * float(np.expm1(min(held_ns / faults.mtbf_ns, 700.0)))


def mean_ns(deployment: Deployment, model: str, width: int) -> float:
    """The mean latency (ns) of one forward over *width* tokens."""
    latency = deployment.target if model == "target" else deployment.drafter
    return float(latency.at_width(width) if latency.model == "table" else latency.latency_ns)
