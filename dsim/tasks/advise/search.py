"""Find the best layouts: forecast them all, and simulate the best of them under the load.

A forecast under load can be far off. So what was simulated corrects the forecasts of the same
orchestration, and whatever then looks better than the best is simulated as well, as are the
lookaheads next to the best.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.intervals import Estimate
from dsim.deployment.metrics import DRIFT_REQUESTS, JOULES_PER_KWH, Metrics, measure
from dsim.deployment.offered_load import offered_load
from dsim.deployment.serve import serve
from dsim.deployment.workload import Length, Workload
from dsim.model.statistics import half_width
from dsim.tasks.advise.forecast import forecasts, worth
from dsim.tasks.advise.layouts import candidates, deployment_of, layouts
from dsim.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dsim.tasks.advise.forecast import Forecast
    from dsim.tasks.advise.layouts import Layout
    from dsim.tasks.advise.question import Question

Corrections = dict[tuple[str, bool | None], tuple[float, float]]
MAX_EVENTS = 700_000  # of all confirmations together
MIN_REQUESTS, MAX_REQUESTS = 60, 1000
BUSY_TOKENS, MIN_TOKENS = 60_000, 40  # of all answers of users who never pause, and of one
FINALISTS, PER_ALGORITHM, MAX_FINALISTS = 5, 2, 12
MORE = 4  # simulations after those of the first forecasts
WARM_UP = 0.1  # share of the requests
TIE = 0.02  # relative differences below this are none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What the event engine says of a layout.

    Attributes:
        layout: the layout.
        forecast: what was expected of it.
        metrics: metrics of a run under the load that was asked about.
        most_per_s: requests per second with users who never pause (simulated only for the objective
            ``throughput``; else NaN).
        gpu_seconds_per_token: GPU time reserved per token: in this run, and for arrivals at a rate
            in the long run.
        requests: number of requests that were simulated.
        latencies_ms: latency of each request after the warm-up; all layouts serve the same ones.
        drafters_busy: the largest number of drafter servers that were busy at once.
        with_idle: layouts that are the same with more GPUs for drafters, which would stay idle.
    """

    layout: Layout
    forecast: Forecast
    metrics: Metrics
    most_per_s: float
    gpu_seconds_per_token: float
    requests: int
    latencies_ms: NDArray[np.float64]
    drafters_busy: int = 0
    with_idle: tuple[Layout, ...] = ()

    @property
    def latency_ms(self) -> float:
        """Mean latency of a request."""
        return self.metrics.latency["mean"].value


def confirm(question: Question, one: Forecast, requests: int) -> Confirmed:
    """Simulate a layout.

    Args:
        question: what is given.
        one: forecast of the layout.
        requests: number of requests.
    """
    deployment = deployment_of(question, one.layout)
    output = Length(mean_tokens=question.tokens)
    if question.rate_per_s is None:
        workload = Workload(arrivals="closed", users=1, requests=requests, output=output)
    else:
        workload = Workload(requests=requests, rate_per_s=question.rate_per_s, output=output)
    most_per_s, part, drafters_busy = math.nan, 1.0, 0
    if question.objective == "throughput":
        users = 2 * one.layout.targets * question.batch
        busy = Workload(arrivals="closed", users=users, requests=max(requests, 4 * users))
        # Every token takes as long as any other, so that short answers tell of long ones.
        tokens = min(question.tokens, max(MIN_TOKENS, BUSY_TOKENS // busy.requests))
        busy = dataclasses.replace(busy, output=Length(mean_tokens=tokens))
        run = serve(deployment, busy)
        drafters_busy = run.drafter.peak_busy
        # From the time when all are at work to the time when the first has no more to send.
        finished = np.sort(run.done_ns)[users:-users]
        per_s = float((len(finished) - 1) / (finished[-1] - finished[0]) * NS_PER_S)
        most_per_s = per_s * tokens / question.tokens
        if question.rate_per_s is None:
            workload, part = busy, tokens / question.tokens
    run = serve(deployment, workload)
    offered = offered_load(deployment, workload)
    load = offered.worst[1] if offered else None
    metrics = measure(deployment, [run], warm_up=WARM_UP, workload=workload, load=load)
    if part < 1:
        whole = {
            k: Estimate(value=v.value / part, ci95=v.ci95 / part)
            for k, v in metrics.latency.items()
        }
        metrics = dataclasses.replace(metrics, latency=whole)
    gpu_s = metrics.gpu_seconds_per_token
    if question.rate_per_s is not None:
        gpu_s = one.layout.gpus / (question.rate_per_s * question.tokens)
    latencies = (run.done_ns - run.arrival_ns) / NS_PER_MS / part
    latencies = latencies[int(WARM_UP * len(run.fate)) :]
    if workload.users == 1 and workload.arrivals == "closed":  # requests that never meet
        ci95 = float(half_width(np.std(latencies, ddof=1), len(latencies)))
        alone = Estimate(value=float(np.mean(latencies)), ci95=ci95)
        metrics = dataclasses.replace(metrics, latency={**metrics.latency, "mean": alone})
    return Confirmed(
        layout=one.layout,
        forecast=one,
        metrics=metrics,
        most_per_s=most_per_s,
        gpu_seconds_per_token=gpu_s,
        requests=requests,
        latencies_ms=latencies,
        drafters_busy=max(drafters_busy, run.drafter.peak_busy),
    )


def value(question: Question, one: Confirmed) -> tuple[float, ...]:
    """How good a simulated layout is for the objective: the smaller the better."""
    unstable = not one.metrics.stable
    if question.objective == "throughput":
        return (-one.most_per_s, one.latency_ms)
    if question.objective == "p99":
        return (unstable, one.metrics.latency["p99"].value, one.layout.gpus)
    if question.objective == "price":
        return (unstable, round(one.gpu_seconds_per_token, 9), one.latency_ms)
    if question.objective == "slo":
        return (unstable, -round(one.metrics.good_share, 2), one.layout.gpus, one.latency_ms)
    return (unstable, one.latency_ms, one.layout.gpus)


def search(
    question: Question, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> tuple[list[Forecast], list[Confirmed]]:
    """Forecasts of all layouts and the simulated ones, both with the best first.

    Args:
        question: what is given.
        progress: called with how many of how many steps are done: the estimate, and the simulation
            of each of the best layouts.
    """
    progress(0, 1 + MAX_FINALISTS)
    expected = sorted(
        forecasts(question, layouts(question)), key=lambda one: (worth(question, one), one.layout)
    )
    finalists = _finalists([one for one in expected if math.isfinite(one.latency_ns)])
    requests = _requests(question, finalists)
    confirmed: list[Confirmed] = []
    # Those with few GPUs first: they say where more would stay idle.
    for number, one in enumerate(sorted(finalists, key=lambda one: one.layout.gpus)):
        progress(1 + number, 1 + len(finalists))
        if _is_sustained(question, one.layout):
            _add(question, confirmed, one, requests)
    for _ in range(MORE if confirmed else 0):
        another = _promising(question, expected, confirmed)
        if another is None:
            break
        _add(question, confirmed, another, requests)
    progress(1 + len(finalists), 1 + len(finalists))
    return expected, ranked(question, confirmed)


def _add(question: Question, confirmed: list[Confirmed], one: Forecast, requests: int) -> None:
    """Add the layout *one* to those that were simulated, as itself or as another with idle GPUs."""
    like = [other for other in confirmed if _but_for_drafters(one.layout, other.layout)]
    for other in like:
        servers = other.layout.drafter_gpus * question.drafters_per_gpu
        if other.layout.gpus < one.layout.gpus and other.drafters_busy < servers:
            _merge(confirmed, other, one.layout)
            return
    found = confirm(question, one, requests)
    confirmed.append(found)
    for other in like:
        if np.array_equal(found.latencies_ms, other.latencies_ms):
            few, many = sorted([found, other], key=lambda one: one.layout.gpus)
            confirmed[:] = [one for one in confirmed if one is not many]
            _merge(confirmed, few, many.layout, *many.with_idle)
            return


def _but_for_drafters(one: Layout, other: Layout) -> bool:
    """Whether layouts differ in nothing but in how many GPUs of their own drafters have."""
    if not (one.drafter_gpus and other.drafter_gpus):
        return False
    return dataclasses.replace(one, drafter_gpus=other.drafter_gpus) == other


def _merge(confirmed: list[Confirmed], one: Confirmed, *idle: Layout) -> None:
    """Say of *one* of those simulated that *idle* are the same, with GPUs that stay idle."""
    at = next(number for number, other in enumerate(confirmed) if other is one)
    confirmed[at] = dataclasses.replace(one, with_idle=(*one.with_idle, *idle))


def ranked(question: Question, confirmed: Sequence[Confirmed]) -> list[Confirmed]:
    """The simulated layouts, the best first."""
    return sorted(confirmed, key=lambda one: (value(question, one), one.layout))


def corrections(question: Question, confirmed: Sequence[Confirmed]) -> Corrections:
    """What the forecasts of latency and highest rate have to be multiplied by.

    So that they say what the simulation of the orchestration's best layout said: of those with the
    drafter on the targets' GPUs, of those with GPUs for drafters, and (``None``) of both.
    """
    factors: Corrections = {}
    for one in ranked(question, confirmed):
        latency = one.latency_ms * NS_PER_MS / one.forecast.latency_ns
        rate = one.most_per_s / one.forecast.most_per_s
        factor = (latency, 1.0 if math.isnan(rate) else rate)
        for apart in (bool(one.layout.drafter_gpus), None):
            factors.setdefault((one.layout.algorithm, apart), factor)
    return factors


def corrected(one: Forecast, factors: Corrections) -> Forecast:
    """The forecast *one* with the :func:`corrections`."""
    name, apart = one.layout.algorithm, bool(one.layout.drafter_gpus)
    latency, rate = factors.get((name, apart)) or factors.get((name, None)) or (1.0, 1.0)
    return dataclasses.replace(
        one, latency_ns=one.latency_ns * latency, most_per_s=one.most_per_s * rate
    )


def favoured(one: Forecast, name: str) -> Forecast:
    """The forecast *one*, better by the difference that is none if its orchestration is *name*."""
    factor = 1 + TIE if one.layout.algorithm == name else 1.0
    return dataclasses.replace(
        one, latency_ns=one.latency_ns / factor, most_per_s=one.most_per_s * factor
    )


def _promising(
    question: Question, expected: Sequence[Forecast], confirmed: Sequence[Confirmed]
) -> Forecast | None:
    """A layout that may be better than all that were simulated; ``None``: there is none."""
    best, factors = ranked(question, confirmed)[0], corrections(question, confirmed)
    known = {layout for one in confirmed for layout in (one.layout, *one.with_idle)}
    left = [one for one in expected if math.isfinite(one.latency_ns) and one.layout not in known]
    least = worth(question, corrected(best.forecast, factors))

    def hoped(one: Forecast) -> tuple[float, ...]:
        cautious = corrected(one, factors)
        return worth(
            question,
            dataclasses.replace(
                cautious,
                latency_ns=cautious.latency_ns * (1 + TIE),
                most_per_s=cautious.most_per_s * (1 - TIE),
            ),
        )

    better = [one for one in left if hoped(one) < least]
    for one in sorted(better, key=lambda one: (hoped(one), one.layout)):
        if _is_sustained(question, one.layout):
            return one
    alike = [one for one in expected if servers_of(one.layout) == servers_of(best.layout)]
    alike.sort(key=lambda one: _drafts(one.layout))
    at = [one.layout for one in alike].index(best.layout)
    beside = [one for one in alike[max(0, at - 1) : at + 2] if one in left]
    return next((one for one in beside if _is_sustained(question, one.layout)), None)


def _drafts(layout: Layout) -> tuple[int, ...]:
    """What layouts on the same servers are sorted by."""
    return layout.lookahead, layout.depth, layout.nodes


def servers_of(layout: Layout) -> tuple[object, ...]:
    """What layouts that differ in the lookahead or the tree alone have in common."""
    return layout.algorithm, layout.targets, layout.degree, layout.drafter_gpus


def _is_sustained(question: Question, layout: Layout) -> bool:
    """Whether the offered load of *layout*, as in a study of a deployment, is below 1."""
    if question.rate_per_s is None:
        return True
    output = Length(mean_tokens=question.tokens)
    workload = Workload(requests=200, rate_per_s=question.rate_per_s, output=output)
    load = offered_load(deployment_of(question, layout), workload)
    return load is None or load.worst[1] < 1


def _finalists(expected: Sequence[Forecast]) -> list[Forecast]:
    """The best, the best of each orchestration, and what may be on the Pareto front.

    Of layouts that differ in the lookahead or the tree alone only the best is taken.
    """
    best: dict[tuple[object, ...], Forecast] = {}
    for one in expected:
        best.setdefault(servers_of(one.layout), one)
    left = list(best.values())
    chosen = dict.fromkeys(one.layout for one in left[:FINALISTS])
    for orchestration in candidates():
        own = [one for one in left if one.layout.algorithm == orchestration.name]
        chosen |= dict.fromkeys(one.layout for one in own[:PER_ALGORITHM])
    least = math.inf
    for one in sorted(left, key=lambda e: (e.gpu_seconds_per_token, e.latency_ns)):
        if one.latency_ns < (1 - TIE) * least and len(chosen) < MAX_FINALISTS:
            least = one.latency_ns
            chosen[one.layout] = None
    return [one for one in left if one.layout in chosen]


def _events_per_token(layout: Layout) -> float:
    traits = layout.orchestration.traits
    return 4.5 if traits.overlaps else 1.6 if traits.drafts else 1.1


def _requests(question: Question, finalists: Sequence[Forecast]) -> int:
    """Number of requests of each layout: the same for all, so that they see the same draws."""
    each = [question.tokens * _events_per_token(one.layout) + 10 for one in finalists]
    if question.objective == "throughput":
        each = [2 * events for events in each]
    # It takes that many to see whether a queue grows for ever; a single user never waits.
    least = MIN_REQUESTS if question.rate_per_s is None else DRIFT_REQUESTS
    return int(min(MAX_REQUESTS, max(least, MAX_EVENTS / max(1.0, sum(each)))))


def pareto(ranking: Sequence[Confirmed]) -> list[Confirmed]:
    """Stable layouts that no other beats in both latency and GPU time per token."""
    front: list[Confirmed] = []
    stable = [one for one in ranking if one.metrics.stable]
    for one in sorted(stable, key=lambda c: (c.gpu_seconds_per_token, c.latency_ms)):
        if not front or one.latency_ms < front[-1].latency_ms:
            front.append(one)
    return front


def price_per_million(question: Question, one: Confirmed) -> float:
    """Price of a million tokens, in the long run; 0 where no price is known."""
    return one.gpu_seconds_per_token * 1e6 / 3600 * question.price_per_gpu_hour


def kwh_per_million(question: Question, one: Confirmed) -> float:
    """Energy for a million tokens, in the long run; NaN where the watts are not known."""
    if question.watts is None or question.idle_watts is None:
        return math.nan
    more = (question.watts - question.idle_watts) * one.metrics.busy_gpu_seconds_per_token
    joules = question.idle_watts * one.gpu_seconds_per_token + more
    return joules * 1e6 / JOULES_PER_KWH
