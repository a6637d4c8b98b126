"""What a deployment's users and its owner want to know, from finished runs."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment import intervals
from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from numpy.typing import NDArray

    from dsim.deployment.intervals import Estimate
    from dsim.deployment.outcome import RunCounts, Tally
    from dsim.deployment.spec import Deployment, FleetSpec

    Floats = NDArray[np.float64]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
JOULES_PER_KWH = 3.6e6
DRIFT_REQUESTS = 200  # fewer say nothing about whether a backlog grows


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
        wasted_passes, wasted_drafts: shares of the passes and drafts that were begun.
        passes_per_token, drafts_per_token: passes and drafts begun per token of the output.
        gpu_seconds_per_token: GPU time reserved per token.
        busy_gpu_seconds_per_token: the part of that time in which GPUs computed.
        price_per_million: price of a million tokens (0 if the deployment has no price).
        joules_per_request, kwh_per_million: energy per finished request and per million tokens, by
            the watts of the GPUs that are reserved; NaN where no watts are given.
        backlog: growth of the number of requests in the system over the run, relative to its mean;
            see :func:`backlog_growth`.
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
    intervals: dict[str, float]

    @property
    def stable(self) -> bool:
        """Whether the backlog did not grow all through the run."""
        return not self.backlog > 1.0


# Metrics that add up over parts of a run, request by request: each is a ratio of two sums. Those in
# the second line are known for whole runs only.
BY_REQUEST = (
    "throughput_per_s",
    "tokens_per_s",
    "goodput_per_s",
    "good_share",
    "wasted_passes",
    "wasted_drafts",
    "passes_per_token",
    "drafts_per_token",
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
    "busy_gpu_seconds_per_token",
    "joules_per_request",
    "kwh_per_million",
)
WITH_INTERVALS = (*BY_REQUEST, *BY_RUN)


def measure(deployment: Deployment, runs: Sequence[RunCounts], *, warm_up: float = 0.0) -> Metrics:
    """Metrics of one deployment from independent runs of it.

    Intervals come from the runs if there are at least three; otherwise from batches of consecutive
    requests (see :mod:`dsim.deployment.intervals`), or, for what is known of whole runs only, from
    two runs.

    Args:
        deployment: what ran.
        runs: its replications.
        warm_up: share of each run's requests, from the first on, that is left out of times,
            throughput and goodput.
    """
    kept = [_Cut(run, warm_up) for run in runs]

    def estimates(per_request: Callable[[_Cut], Floats]) -> dict[str, Estimate]:
        values = [per_request(cut) for cut in kept]
        quantiles = {name: intervals.of_quantile(values, q) for name, q in QUANTILES.items()}
        return {"mean": intervals.of_mean(values), **quantiles}

    tokens = sum(cut.tokens for cut in kept)
    seconds = sum(cut.seconds for cut in kept)
    span_ns = sum(run.end_ns for run in runs)
    all_tokens = sum(int(run.output_tokens[run.fate == DONE].sum()) for run in runs)
    passes, wasted_passes, drafts, wasted_drafts = (
        int(sum(getattr(run, name).sum() for run in runs))
        for name in ("passes", "wasted_passes", "drafts", "wasted_drafts")
    )
    busy_gpu_ns = sum(_busy_gpu_ns(deployment, run) for run in runs)

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
    good = [int(cut.good(deployment).sum()) for cut in kept] if deployment.slo else None
    sent = sum(cut.sent for cut in kept)
    return Metrics(
        ttft=estimates(lambda cut: cut.ttft_ms),
        tpot=estimates(lambda cut: cut.tpot_ms),
        latency=estimates(lambda cut: cut.latency_ms),
        requests=sum(len(run.fate) for run in runs),
        lost=sum(int((run.fate == LOST).sum()) for run in runs),
        turned_away=sum(int((run.fate == TURNED_AWAY).sum()) for run in runs),
        throughput_per_s=_ratio(sum(cut.done for cut in kept), seconds),
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
        intervals=_intervals(deployment, kept),
    )


def _intervals(deployment: Deployment, kept: Sequence[_Cut]) -> dict[str, float]:
    """The half width of the interval of each metric of :data:`WITH_INTERVALS`."""
    runs = [cut.run for cut in kept]
    found = dict.fromkeys(WITH_INTERVALS, math.nan)
    each = 1 if len(runs) >= intervals.MIN_RUNS else intervals.batches_each(len(runs))
    if all(len(run.fate) - cut.first >= each for cut, run in zip(kept, runs, strict=True)):
        parts = [cut.parts(deployment, each) for cut in kept]
        if each == 1 or min(cut.done for cut in kept) >= each * intervals.MIN_PER_BATCH:
            for name in parts[0]:
                above, below = (np.array([part[name][i] for part in parts]) for i in (0, 1))
                found[name] = intervals.of_ratio(above, below)
    if len(runs) > 1:
        for name, sides in _of_whole_runs(deployment, runs).items():
            above, below = (np.array([side]).T for side in zip(*sides, strict=True))
            found[name] = intervals.of_ratio(above, below)
    return found


def _of_whole_runs(
    deployment: Deployment, runs: Sequence[RunCounts]
) -> dict[str, list[tuple[float, float]]]:
    """Both sides of the ratios of :data:`BY_RUN`, for each run."""

    def tokens(run: RunCounts) -> float:
        return float(run.output_tokens[run.fate == DONE].sum())

    def busy(run: RunCounts, first: int, last: int | None) -> tuple[float, float]:
        tallies = run.tallies[first:last]
        servers = sum(tally.count for tally in tallies)
        return float(sum(sum(tally.busy_ns) for tally in tallies)), float(run.end_ns * servers)

    def queue(run: RunCounts, first: int, last: int | None) -> tuple[float, float]:
        return float(sum(tally.queue_area_ns for tally in run.tallies[first:last])), run.end_ns

    fleets: dict[str, tuple[int, int | None]] = {"target": (0, 1), "drafter": (1, 2)}
    if len(runs[0].tallies) > 2:
        fleets["more_drafter"] = (2, None)
    found: dict[str, list[tuple[float, float]]] = {
        "in_system": [(run.in_system_area_ns, run.end_ns) for run in runs],
        "busy_gpu_seconds_per_token": [
            (_busy_gpu_ns(deployment, run) / NS_PER_S, tokens(run)) for run in runs
        ],
    }
    for role, part in fleets.items():
        found[f"{role}_utilisation"] = [busy(run, *part) for run in runs]
        found[f"{role}_queue"] = [queue(run, *part) for run in runs]
    joules = [energy_joules(deployment, run) for run in runs]
    if not math.isnan(joules[0]):
        done = [float((run.fate == DONE).sum()) for run in runs]
        found["joules_per_request"] = list(zip(joules, done, strict=True))
        kwh = [one * 1e6 / JOULES_PER_KWH for one in joules]
        found["kwh_per_million"] = list(zip(kwh, map(tokens, runs), strict=True))
    return found


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
        idle_s = run.end_ns / NS_PER_S * spec.servers - busy_s
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
        self.tokens = int(self.lengths.sum())
        arrival = run.arrival_ns[done]
        self.ttft_ns = run.first_token_ns[done] - arrival
        self.latency_ns = run.done_ns[done] - arrival
        self.ttft_ms, self.latency_ms = self.ttft_ns / 1e6, self.latency_ns / 1e6
        longer = self.lengths > 1
        later_ns = self.latency_ns - self.ttft_ns
        self.tpot_ms = later_ns[longer] / 1e6 / (self.lengths[longer] - 1)
        self.since_ns = int(run.arrival_ns[first]) if first else 0
        self.seconds = (run.end_ns - self.since_ns) / NS_PER_S

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
        over_ns = np.where(run.left_ns >= 0, run.left_ns, run.arrival_ns)
        done = run.fate == DONE

        def along(since_ns: int, first: int) -> tuple[NDArray[np.int64], Floats]:
            """Requests from *first* on by end, and the seconds that each batch of them takes."""
            order = first + np.argsort(over_ns[first:], kind="stable")
            ends = [over_ns[part[-1]] for part in np.array_split(order, count)]
            return order, np.diff([since_ns, *ends]) / NS_PER_S

        def sums(values: NDArray[Any]) -> Floats:
            return np.array([float(part.sum()) for part in np.array_split(values, count)])

        kept, seconds = along(self.since_ns, self.first)
        whole, all_seconds = along(0, 0)
        tokens = np.where(done, run.output_tokens, 0)
        gpu_s, ended_tokens = deployment.gpus * all_seconds, sums(tokens[whole])
        price = gpu_s * 1e6 / 3600 * deployment.price_per_gpu_hour
        found = {
            "throughput_per_s": (sums(done[kept]), seconds),
            "tokens_per_s": (sums(tokens[kept]), seconds),
            "wasted_passes": (sums(run.wasted_passes), sums(run.passes)),
            "wasted_drafts": (sums(run.wasted_drafts), sums(run.drafts)),
            "passes_per_token": (sums(run.passes), sums(tokens)),
            "drafts_per_token": (sums(run.drafts), sums(tokens)),
            "gpu_seconds_per_token": (gpu_s, ended_tokens),
            "price_per_million": (price, ended_tokens),
        }
        if deployment.slo:
            good = np.zeros(len(run.fate))
            good[self.is_done] = self.good(deployment)
            found["goodput_per_s"] = (sums(good[kept]), seconds)
            sent = good[self.first :]
            found["good_share"] = (sums(sent), sums(np.ones(len(sent))))
        return found


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
