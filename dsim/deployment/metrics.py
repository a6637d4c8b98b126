"""What a deployment's users and its owner want to know, from finished runs."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment import intervals
from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.deployment.run_length import RunLength, correlated_requests
from dsim.model.latency import most_beyond
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from dsim.deployment.intervals import Estimate
    from dsim.deployment.outcome import RunCounts, Tally
    from dsim.deployment.spec import Deployment, FleetSpec
    from dsim.deployment.workload import Workload

    Floats = NDArray[np.float64]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
JOULES_PER_KWH = 3.6e6
DRIFT_REQUESTS = 200  # fewer say nothing about whether a backlog grows
LAST_PART = 0.2  # of a run, in which a backlog may drain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metrics:
    """One deployment under one workload. Times are in ms.

    Times of requests, throughput and goodput leave the warm-up out; all else is about whole runs.

    Attributes:
        ttft: time from arrival to the first token: ``mean``, ``p50``, ``p90`` and ``p99``.
        tpot: time per output token after the first, by the same statistics.
        latency: time from arrival to the last token, by the same statistics.
        requests, lost, turned_away: number of requests that were sent, lost to a failure, rejected.
        throughput_per_s, tokens_per_s: requests and tokens finished per second.
        goodput_per_s: requests per second that kept the SLO; NaN without an SLO.
        good_share: share of the requests sent that kept the SLO; NaN without an SLO.
        target_utilisation, drafter_utilisation, more_drafter_utilisation: share of time in which
            servers computed; NaN where there are no further drafters.
        in_system, target_queue, drafter_queue, more_drafter_queue: means over time.
        wasted_pass_share, wasted_draft_share: shares of the passes and drafts that were begun.
        passes_per_token, drafts_per_token: passes and drafts begun per token of the output.
        preemptions: how often a request was evicted from a replica, mean; NaN without replicas.
        batch: requests in a step of a replica, mean; NaN without replicas.
        gpu_seconds_per_token: GPU time reserved per token.
        busy_gpu_seconds_per_token: the part of that time in which GPUs computed.
        price_per_million: price of a million tokens (0 if the deployment has no price).
        joules_per_request, kwh_per_million: energy per finished request and per million tokens, by
            the watts of the GPUs that are reserved; NaN where no watts are given.
        backlog: growth of the number of requests in the system over the run, relative to its mean;
            see :func:`backlog_growth`.
        beyond_table_share: share of forwards (of whole batches) that were wider than the latency
            table of their model, of the model with most.
        interval_requests: how many requests each run takes for an interval of a mean, a rate
            or a share; a p99 takes ten times as many.
        intervals: half widths of 95 % intervals by the names of :data:`WITH_INTERVALS`; NaN where
            the runs do not allow for one.
    """

    ttft: dict[str, Estimate]
    tpot: dict[str, Estimate]
    latency: dict[str, Estimate]
    requests: int
    lost: int
    turned_away: int
    throughput_per_s: float
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
    wasted_pass_share: float
    wasted_draft_share: float
    passes_per_token: float
    drafts_per_token: float
    preemptions: float
    batch: float
    gpu_seconds_per_token: float
    busy_gpu_seconds_per_token: float
    price_per_million: float
    joules_per_request: float
    kwh_per_million: float
    backlog: float
    beyond_table_share: float
    interval_requests: float
    intervals: dict[str, float]

    @property
    def stable(self) -> bool:
        """Whether the backlog did not grow all through the run."""
        return not self.backlog > 1.0


# Metrics that are ratios of two sums: over requests, or over time, known for whole runs only.
BY_REQUEST = (
    "throughput_per_s",
    "tokens_per_s",
    "goodput_per_s",
    "good_share",
    "wasted_pass_share",
    "wasted_draft_share",
    "passes_per_token",
    "drafts_per_token",
    "preemptions",
    "gpu_seconds_per_token",
    "price_per_million",
)
BY_RUN = (
    "target_utilisation",
    "drafter_utilisation",
    "more_drafter_utilisation",
    "in_system",
    "target_queue",
    "drafter_queue",
    "more_drafter_queue",
    "batch",
    "busy_gpu_seconds_per_token",
    "joules_per_request",
    "kwh_per_million",
)
WITH_INTERVALS = (*BY_REQUEST, *BY_RUN)


def measure(
    deployment: Deployment,
    runs: Sequence[RunCounts],
    *,
    warm_up: float = 0.0,
    workload: Workload | None = None,
    load: float | None = None,
) -> Metrics:
    """Metrics of one deployment from independent runs of it.

    Intervals come from batches of consecutive requests (see :mod:`dsim.deployment.intervals`), or,
    for what is known of whole runs only, from two runs or more. There is none where runs are too
    short (see :mod:`dsim.deployment.run_length`).

    Args:
        deployment: what ran.
        runs: its replications.
        warm_up: share of each run's requests, from the first on, that is left out of times,
            throughput and goodput.
        workload: what was asked, if known; it tells how long runs have to be.
        load: the offered load of the busiest servers, if known.
    """
    kept = [_Cut(run, warm_up) for run in runs]
    length = RunLength(
        correlated=correlated_requests(deployment, workload, load, runs),
        per_run=min(cut.done for cut in kept),
        runs=len(runs),
    )

    def estimates(per_request: Callable[[_Cut], Floats]) -> dict[str, Estimate]:
        values = [per_request(cut) for cut in kept]
        quantiles = {
            name: intervals.of_quantile(values, q, length) for name, q in QUANTILES.items()
        }
        return {"mean": intervals.of_mean(values, length), **quantiles}

    sides = [cut.whole(deployment) for cut in kept]
    values = {
        name: _ratio(*(sum(one[name][side] for one in sides) for side in (0, 1)))
        for name in WITH_INTERVALS
    }
    span_ns = sum(run.end_ns for run in runs)
    tokens = sum(int(run.output_tokens[run.fate == DONE].sum()) for run in runs)
    gpu_ns = deployment.gpus * span_ns
    if any(run.tallies[0].reserved_ns for run in runs):
        gpu_ns = sum(_gpus(deployment, run) * run.end_ns for run in runs)
    gpu_s_per_token = _ratio(gpu_ns / NS_PER_S, tokens)
    busy_gpu_ns = sum(_busy_gpu_ns(deployment, run) for run in runs)
    joules = sum(energy_joules(deployment, run) for run in runs)
    values |= {
        "gpu_seconds_per_token": gpu_s_per_token,
        "busy_gpu_seconds_per_token": _ratio(busy_gpu_ns / NS_PER_S, tokens),
        "price_per_million": gpu_s_per_token * 1e6 / 3600 * deployment.price_per_gpu_hour,
        "kwh_per_million": _ratio(joules, tokens) * 1e6 / JOULES_PER_KWH,
    }
    return Metrics(
        ttft=estimates(lambda cut: cut.ttft_ms),
        tpot=estimates(lambda cut: cut.tpot_ms),
        latency=estimates(lambda cut: cut.latency_ms),
        requests=sum(len(run.fate) for run in runs),
        lost=sum(int((run.fate == LOST).sum()) for run in runs),
        turned_away=sum(int((run.fate == TURNED_AWAY).sum()) for run in runs),
        backlog=max(map(backlog_growth, runs)),
        beyond_table_share=most_beyond((t.beyond, t.forwards) for r in runs for t in r.tallies),
        interval_requests=length.needed() / (1 - warm_up) if warm_up < 1 else math.inf,
        intervals=_intervals(deployment, kept, sides, length),
        **values,
    )


def _intervals(
    deployment: Deployment,
    kept: Sequence[_Cut],
    sides: Sequence[dict[str, tuple[float, float]]],
    length: RunLength,
) -> dict[str, float]:
    """The half width of the interval of each metric of :data:`WITH_INTERVALS`."""
    found = dict.fromkeys(WITH_INTERVALS, math.nan)
    if not length.allows():
        return found
    if len(kept) > 1:
        for name in BY_RUN:
            above, below = (np.array([[one[name][i]] for one in sides]) for i in (0, 1))
            found[name] = intervals.of_ratio(above, below)
    each = intervals.batches_each(len(kept))
    if min(cut.done for cut in kept) >= each * intervals.MIN_PER_BATCH:
        parts = [cut.parts(deployment, each) for cut in kept]
        for name in parts[0]:
            above, below = (np.array([part[name][i] for part in parts]) for i in (0, 1))
            found[name] = intervals.of_ratio(above, below)
    good = [sum(one["good_share"][i] for one in sides) for i in (0, 1)]
    if not length.allows(_ratio(*good)):  # next to all or next to none are: too few to tell
        found["good_share"] = found["goodput_per_s"] = math.nan
    return found


def _gpus(deployment: Deployment, run: RunCounts) -> float:
    """Number of GPUs that were reserved, in the mean over a run."""
    if not run.tallies[0].reserved_ns:
        return deployment.gpus
    pools = _pools(deployment, run)
    return sum(spec.gpus * tally.reserved_ns for spec, tally in pools) / run.end_ns


def _busy_gpu_ns(deployment: Deployment, run: RunCounts) -> float:
    """GPU time in which GPUs computed."""
    return sum(spec.gpus * sum(tally.busy_ns) for spec, tally in _pools(deployment, run))


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
        idle_s = (tally.reserved_ns or run.end_ns * spec.servers) / NS_PER_S - busy_s
        joules += spec.gpus * (busy_s * spec.watts + idle_s * spec.idle_watts)
    return joules


class _Cut:
    """The requests after the warm-up, which times, throughput and goodput are about."""

    def __init__(self, run: RunCounts, warm_up: float) -> None:
        self.run = run
        self.first = first = min(int(len(run.fate) * warm_up), len(run.fate) - 1)
        self.is_done = run.fate == DONE
        self.is_done[:first] = False
        done = self.is_done
        self.sent = len(run.fate) - first
        self.done = int(done.sum())
        self.lengths = run.output_tokens[done]
        arrival = run.arrival_ns[done]
        self.ttft_ns = run.first_token_ns[done] - arrival
        self.latency_ns = run.done_ns[done] - arrival
        self.ttft_ms, self.latency_ms = self.ttft_ns / 1e6, self.latency_ns / 1e6
        longer = self.lengths > 1
        later_ns = self.latency_ns - self.ttft_ns
        self.tpot_ms = later_ns[longer] / 1e6 / (self.lengths[longer] - 1)
        # As many requests end from here on as are kept: while the queue grows, those of the warm-up
        # take servers long after the first of the others has arrived.
        self.over_ns = np.where(run.left_ns >= 0, run.left_ns, run.arrival_ns)
        ends_ns = np.partition(self.over_ns, first - 1)[first - 1] if first else 0
        self.since_ns = max(int(run.arrival_ns[first]), int(ends_ns)) if first else 0

    def good(self, deployment: Deployment) -> NDArray[np.bool_]:
        """Which of the finished requests kept the SLO."""
        slo = deployment.slo
        kept = np.ones(self.done, dtype=np.bool_)
        for bound_ns, values_ns, times in (
            (slo.ttft_ns, self.ttft_ns, 1),
            (slo.tpot_ns, self.latency_ns - self.ttft_ns, self.lengths - 1),
            (slo.latency_ns, self.latency_ns, 1),
        ):
            if bound_ns is not None:  # in whole numbers: a time equal to its bound keeps it
                kept &= values_ns <= bound_ns * times
        return kept

    def parts(self, deployment: Deployment, count: int) -> dict[str, tuple[Floats, Floats]]:
        """Both sides of the ratios of :data:`BY_REQUEST`, for *count* batches of requests.

        A batch has consecutive requests: by arrival, and where time is one side, by end, so that
        the batches take all the time there is.
        """
        run = self.run
        over_ns = self.over_ns

        def along(since_ns: int, first: int) -> tuple[NDArray[np.int64], Floats]:
            """Requests from *first* on by end, and the seconds that each batch of them takes."""
            order = first + np.argsort(over_ns[first:], kind="stable")
            ends = [max(over_ns[part[-1]], since_ns) for part in np.array_split(order, count)]
            return order, np.diff([since_ns, *ends[:-1], run.end_ns]) / NS_PER_S

        def sums(values: NDArray[Any]) -> Floats:
            return np.array([float(part.sum()) for part in np.array_split(values, count)])

        kept, seconds = along(self.since_ns, self.first)
        ended, all_seconds = along(0, 0)
        tokens = np.where(run.fate == DONE, run.output_tokens, 0)
        good = np.full(len(tokens), 0.0 if deployment.slo else math.nan)
        if deployment.slo:
            good[self.is_done] = self.good(deployment)
        replicas = deployment.replica is not None
        gpu_s, ended_tokens = _gpus(deployment, run) * all_seconds, sums(tokens[ended])
        price = gpu_s * 1e6 / 3600 * deployment.price_per_gpu_hour
        return {
            "throughput_per_s": (sums(self.is_done[kept]), seconds),
            "tokens_per_s": (sums(tokens[kept]), seconds),
            "goodput_per_s": (sums(good[kept]), seconds),
            "good_share": (sums(good[self.first :]), sums(np.ones(self.sent))),
            "wasted_pass_share": (sums(run.wasted_passes), sums(run.passes)),
            "wasted_draft_share": (sums(run.wasted_drafts), sums(run.drafts)),
            "passes_per_token": (sums(run.passes), sums(tokens)),
            "drafts_per_token": (sums(run.drafts), sums(tokens)),
            "preemptions": (sums(run.preemptions), sums(replicas * np.ones(len(tokens)))),
            "gpu_seconds_per_token": (gpu_s, ended_tokens),
            "price_per_million": (price, ended_tokens),
        }

    def whole(self, deployment: Deployment) -> dict[str, tuple[float, float]]:
        """Both sides of the ratios of :data:`WITH_INTERVALS`, for the whole run."""
        run, span_ns = self.run, self.run.end_ns
        found = {
            name: (float(a[0]), float(b[0])) for name, (a, b) in self.parts(deployment, 1).items()
        }
        done, tokens = int((run.fate == DONE).sum()), int(run.output_tokens[run.fate == DONE].sum())
        target, drafter, *more = run.tallies
        for role, tallies in (("target", [target]), ("drafter", [drafter]), ("more_drafter", more)):
            busy_ns = sum(sum(tally.busy_ns) for tally in tallies)
            area_ns = sum(tally.queue_area_ns for tally in tallies)
            reserved_ns = sum(tally.reserved_ns or span_ns * tally.count for tally in tallies)
            found[f"{role}_utilisation"] = (busy_ns, reserved_ns)
            found[f"{role}_queue"] = (area_ns, span_ns if tallies else 0)
        joules = energy_joules(deployment, run)
        steps = run.events if deployment.replica is not None else 0
        return found | {
            "batch": (int(run.passes.sum()), steps),
            "in_system": (run.in_system_area_ns, span_ns),
            "busy_gpu_seconds_per_token": (_busy_gpu_ns(deployment, run) / NS_PER_S, tokens),
            "joules_per_request": (joules, done),
            "kwh_per_million": (joules * 1e6 / JOULES_PER_KWH, tokens),
        }


def backlog_growth(run: RunCounts) -> float:
    """How much the backlog grew: a straight line's rise over the run, in units of its mean.

    The line is fitted to the number of requests that each arrival found. A stable system gives
    about 0; one whose backlog grows from nothing throughout gives 2. One that comes back below its
    mean in the last part of the run has drained, after an outage or by chance: at most 1. NaN for a
    short run.
    """
    found = run.found[:, 0].astype(float)
    if len(found) < DRIFT_REQUESTS or found.mean() < 1:
        return math.nan if len(found) < DRIFT_REQUESTS else 0.0
    at = np.linspace(-0.5, 0.5, len(found))
    rise = float((at * found).sum() / (at * at).sum())
    has_drained = found[-int(LAST_PART * len(found)) :].min() < found.mean()
    growth = rise / float(found.mean())
    return min(growth, 1.0) if has_drained else growth


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
