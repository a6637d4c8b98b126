"""What a deployment's users and its owner want to know, from finished runs."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.model.statistics import half_width
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from dsim.deployment.outcome import RunCounts, Tally
    from dsim.deployment.spec import Deployment, FleetSpec

    Floats = NDArray[np.float64]

BATCHES = 20
LEAST_PER_BATCH, LEAST_BATCHES, LEAST_IN_TAIL = 10, 5, 5
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
JOULES_PER_KWH = 3.6e6
DRIFT_REQUESTS = 200  # fewer say nothing about whether a backlog grows


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value and the half width of its 95 % interval (NaN where there is none)."""

    value: float
    ci95: float = math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """One deployment under one workload. Times are in ms.

    Of times of requests, throughput and goodput the warm-up is left out; all else is about whole
    runs.

    Attributes:
        ttft, tpot, latency: by ``mean``, ``p50``, ``p90`` and ``p99``: time from arrival to the
            first token; time per output token after the first; time from arrival to the last token.
        requests, lost, turned_away: how many were sent, lost to a failure, or turned away.
        throughput_per_s, tokens_per_s: requests and tokens finished in a second.
        goodput_per_s, good_share: requests that kept the SLO, in a second and as a part of all
            that were sent; NaN without an SLO.
        target_utilisation, drafter_utilisation, more_drafter_utilisation: the share of time in
            which servers computed; NaN where there are no further drafters.
        in_system, target_queue, drafter_queue, more_drafter_queue: means over time.
        wasted_passes, wasted_drafts: shares of what was begun.
        passes_per_token, drafts_per_token: begun, for each token of the output.
        gpu_seconds_per_token: GPU time reserved for each token; and
        busy_gpu_seconds_per_token: the part of it in which GPUs computed.
        price_per_million: tokens, at the deployment's price of a GPU-hour (0 if there is none).
        joules_per_request, kwh_per_million: energy for each finished request and for a million
            tokens, by the watts of the GPUs that are reserved; NaN where none are given.
        backlog: how much the number of requests in the system grew over the run, as a part of its
            mean; see :func:`backlog_growth`.
    """

    ttft: dict[str, Estimate]
    tpot: dict[str, Estimate]
    latency: dict[str, Estimate]
    requests: int
    lost: int
    turned_away: int
    throughput_per_s: Estimate
    tokens_per_s: float
    goodput_per_s: float
    good_share: float
    target_utilisation: float
    drafter_utilisation: float
    more_drafter_utilisation: float
    in_system: float
    target_queue: float
    drafter_queue: float
    more_drafter_queue: float
    wasted_passes: float
    wasted_drafts: float
    passes_per_token: float
    drafts_per_token: float
    gpu_seconds_per_token: float
    busy_gpu_seconds_per_token: float
    price_per_million: float
    joules_per_request: float
    kwh_per_million: float
    backlog: float

    @property
    def stable(self) -> bool:
        """Whether the backlog did not grow all through the run."""
        return not self.backlog > 1.0


def measure(deployment: Deployment, runs: Sequence[RunCounts], *, warm_up: float = 0.0) -> Metrics:
    """Metrics of one deployment from independent runs of it.

    Intervals come from the runs, if there are at least three; else from the means of 20 batches of
    consecutive requests (if each has at least 10), with Student's t. For a quantile there are as
    many batches, from 5 to 20, as have 5 requests beyond it; with fewer there is no interval.

    Args:
        deployment: what ran.
        runs: its replications.
        warm_up: the part of each run's requests, from the first on, that is left out of times,
            throughput and goodput.
    """
    kept = [_Cut(run, warm_up) for run in runs]

    def estimates(per_request: Callable[[_Cut], Floats]) -> dict[str, Estimate]:
        values = [per_request(cut) for cut in kept]
        return {
            "mean": _estimate(values, np.mean),
            **{
                name: _estimate(values, lambda x, q=q: np.quantile(x, q), 1 - q)  # type: ignore[misc]
                for name, q in QUANTILES.items()
            },
        }

    tokens = sum(cut.tokens for cut in kept)
    seconds = sum(cut.seconds for cut in kept)
    span_ns = sum(run.end_ns for run in runs)
    all_tokens = sum(int(run.output_tokens[run.fate == DONE].sum()) for run in runs)
    passes, wasted_passes, drafts, wasted_drafts = (
        int(sum(getattr(run, name).sum() for run in runs))
        for name in ("passes", "wasted_passes", "drafts", "wasted_drafts")
    )
    busy_gpu_ns = sum(
        spec.gpus * sum(tally.busy_ns) for run in runs for spec, tally in _pools(deployment, run)
    )

    def utilisation(first: int, last: int | None) -> float:
        """Of some fleets in all runs."""
        tallies = [tally for run in runs for tally in run.tallies[first:last]]
        busy_ns = sum(sum(tally.busy_ns) for tally in tallies)
        servers = sum(tally.count for tally in tallies) // len(runs)
        return _ratio(busy_ns, span_ns * servers)

    def queue(first: int, last: int | None) -> float:
        """How many forwards wait for them, mean over time."""
        area_ns = sum(tally.queue_area_ns for run in runs for tally in run.tallies[first:last])
        return _ratio(area_ns, span_ns)

    more = len(runs[0].tallies) > 2
    gpu_s_per_token = _ratio(deployment.gpus * span_ns / NS_PER_S, all_tokens)
    joules = sum(energy_joules(deployment, run) for run in runs)
    good = [cut.good(deployment) for cut in kept] if deployment.slo else None
    sent = sum(cut.sent for cut in kept)
    rates = [_ratio(cut.done, cut.seconds) for cut in kept]
    return Metrics(
        ttft=estimates(lambda cut: cut.ttft_ms),
        tpot=estimates(lambda cut: cut.tpot_ms),
        latency=estimates(lambda cut: cut.latency_ms),
        requests=sum(len(run.fate) for run in runs),
        lost=sum(int((run.fate == LOST).sum()) for run in runs),
        turned_away=sum(int((run.fate == TURNED_AWAY).sum()) for run in runs),
        throughput_per_s=Estimate(
            value=_ratio(sum(cut.done for cut in kept), seconds),
            ci95=float(half_width(np.std(rates, ddof=1), len(rates)))
            if len(rates) >= 3
            else math.nan,
        ),
        tokens_per_s=_ratio(tokens, seconds),
        goodput_per_s=_ratio(sum(good), seconds) if good is not None else math.nan,
        good_share=_ratio(sum(good), sent) if good is not None else math.nan,
        target_utilisation=utilisation(0, 1),
        drafter_utilisation=utilisation(1, 2),
        more_drafter_utilisation=utilisation(2, None) if more else math.nan,
        in_system=_ratio(sum(run.in_system_area_ns for run in runs), span_ns),
        target_queue=queue(0, 1),
        drafter_queue=queue(1, 2),
        more_drafter_queue=queue(2, None) if more else math.nan,
        wasted_passes=_ratio(wasted_passes, passes),
        wasted_drafts=_ratio(wasted_drafts, drafts),
        passes_per_token=_ratio(passes, all_tokens),
        drafts_per_token=_ratio(drafts, all_tokens),
        gpu_seconds_per_token=gpu_s_per_token,
        busy_gpu_seconds_per_token=_ratio(busy_gpu_ns / NS_PER_S, all_tokens),
        price_per_million=gpu_s_per_token * 1e6 / 3600 * deployment.price_per_gpu_hour,
        joules_per_request=_ratio(joules, sum(int((run.fate == DONE).sum()) for run in runs)),
        kwh_per_million=_ratio(joules, all_tokens) * 1e6 / JOULES_PER_KWH,
        backlog=max(map(backlog_growth, runs)),
    )


def _pools(deployment: Deployment, run: RunCounts) -> Iterator[tuple[FleetSpec, Tally]]:
    """What is reserved: each kind of server, and what its servers did. Non-SI has no drafters."""
    return zip((deployment.targets, *deployment.drafter_specs), run.tallies, strict=False)


def energy_joules(deployment: Deployment, run: RunCounts) -> float:
    """What the GPUs of a run drew from its first moment to its last; NaN where that is not known.

    A server that is down counts as idle.
    """
    joules = 0.0
    for spec, tally in _pools(deployment, run):
        if spec.watts is None or spec.idle_watts is None:
            return math.nan
        busy_s = sum(tally.busy_ns) / NS_PER_S
        idle_s = run.end_ns / NS_PER_S * spec.servers - busy_s
        joules += spec.gpus * (busy_s * spec.watts + idle_s * spec.idle_watts)
    return joules


class _Cut:
    """What times, throughput and goodput are about: the requests after the warm-up."""

    def __init__(self, run: RunCounts, warm_up: float) -> None:
        first = min(int(len(run.fate) * warm_up), len(run.fate) - 1)
        done = run.fate == DONE
        done[:first] = False
        self.sent = len(run.fate) - first
        self.done = int(done.sum())
        self.lengths = run.output_tokens[done]
        self.tokens = int(self.lengths.sum())
        arrival = run.arrival_ns[done]
        self.ttft_ns = run.first_token_ns[done] - arrival
        self.latency_ns = run.done_ns[done] - arrival
        self.ttft_ms, self.latency_ms = self.ttft_ns / 1e6, self.latency_ns / 1e6
        longer = self.lengths > 1
        later_ns = self.latency_ns - self.ttft_ns
        self.tpot_ms = later_ns[longer] / 1e6 / (self.lengths[longer] - 1)
        since_ns = int(run.arrival_ns[first]) if first else 0
        self.seconds = (run.end_ns - since_ns) / NS_PER_S

    def good(self, deployment: Deployment) -> int:
        """How many requests kept the SLO."""
        slo = deployment.slo
        kept = np.ones(self.done, dtype=np.bool_)
        for bound_ns, values_ns, times in (
            (slo.ttft_ns, self.ttft_ns, 1),
            (slo.tpot_ns, self.latency_ns - self.ttft_ns, self.lengths - 1),
            (slo.latency_ns, self.latency_ns, 1),
        ):
            if bound_ns is not None:  # in whole numbers: who keeps it exactly, keeps it
                kept &= values_ns <= bound_ns * times
        return int(kept.sum())


def _estimate(
    values: Sequence[Floats], statistic: Callable[[Floats], float], tail: float = 1.0
) -> Estimate:
    """A statistic over all requests, with an interval from runs or from batches.

    Args:
        values: of each run.
        statistic: what is made of them.
        tail: the part of the values beyond the statistic, for a quantile: batches in which too few
            lie there understate how uncertain it is, so they are made larger, or there is none.
    """
    pooled = np.concatenate(list(values))
    if not len(pooled):
        return Estimate(value=math.nan)
    parts: Sequence[Floats] = [part for part in values if len(part)]
    if len(values) < 3:
        count = min(BATCHES, int(len(pooled) * tail / LEAST_IN_TAIL) if tail < 1 else BATCHES)
        count -= count % len(values)  # as many of each run
        if count < LEAST_BATCHES or len(pooled) // count < LEAST_PER_BATCH:
            return Estimate(value=float(statistic(pooled)))
        parts = [part for run in values for part in _batches(run, count // len(values))]
    each = np.array([statistic(part) for part in parts])
    return Estimate(
        value=float(statistic(pooled)), ci95=float(half_width(np.std(each, ddof=1), len(each)))
    )


def _batches(values: Floats, count: int) -> list[Floats]:
    size = len(values) // count
    return [values[i * size : (i + 1) * size] for i in range(count)] if size else []


def backlog_growth(run: RunCounts) -> float:
    """How much the backlog grew: a straight line's rise over the run, in units of its mean.

    The line is fitted to the number of requests that each arrival found. A stable system gives
    about 0; one whose backlog grows from nothing throughout gives 2. NaN for a short run.
    """
    found = run.found[:, 0].astype(float)
    if len(found) < DRIFT_REQUESTS or found.mean() < 1:
        return math.nan if len(found) < DRIFT_REQUESTS else 0.0
    at = np.linspace(-0.5, 0.5, len(found))
    rise = float((at * found).sum() / (at * at).sum())
    return rise / float(found.mean())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
