"""What should I run? Algorithm, lookahead, servers and tensor-parallel degree for given GPUs.

Every layout that the GPUs allow is *estimated*: the ideal latency and work of a request come from
the vector engine, the waiting from M/M/c with the Allen-Cunneen correction (half of it, as passes
take a constant time). The best of them are then *confirmed* by the event engine, and only confirmed
numbers are ranked and reported.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.deployment.metrics import DRIFT_REQUESTS, JOULES_PER_KWH, Metrics, measure
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, FleetSpec, Slo
from dsim.deployment.theory import erlang_c, offered_load
from dsim.deployment.workload import Length, Workload
from dsim.engines import vector
from dsim.errors import Problem, UserError
from dsim.files import write_whole
from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency
from dsim.study.load_study import LEAST_RATE_PER_S
from dsim.study.profile import AcceptanceProfile, ModelProfile, Profile
from dsim.study.results import NAMES
from dsim.units import NS_PER_S, to_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from dsim.report.charts import Panel

ALGORITHMS = ("nonsi", "si", "dsi")
OBJECTIVES = ("latency", "throughput", "price", "slo")
LOOKAHEADS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
REPEATS = 12  # draws from which a layout is estimated
EVENTS = 700_000  # that confirmations may take in all
LEAST_REQUESTS, MOST_REQUESTS = 60, 1000
FINALISTS, PER_ALGORITHM, MOST_FINALISTS = 5, 2, 12
RATES = tuple(round(0.05 * i, 2) for i in range(21))  # acceptance rates tried for the sensitivity
FACTORS = (1.4, 2.0, 4.0, 8.0)  # and how many times as fast, or as slow, drafts are tried
MOST = 1e9  # of any number that an option gives
TIE = 0.02  # better by less than this is no better


DEFAULT_PAIR = Profile(
    name="",
    target=ModelProfile(model="", latency_ms=30.0),
    drafter=ModelProfile(model="", latency_ms=3.0),
    acceptance=AcceptanceProfile(rate=0.8),
)
PARTS = {  # what has to be known of a pair, and the option that says it
    "target": "--target-latency",
    "drafter": "--drafter-latency",
    "acceptance": "--acceptance",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is given.

    Attributes:
        target_ns: latency of a target pass on *gpus_per_target* GPUs, the least that hold it.
        target_table: that by width, as in :class:`dsim.model.latency.Latency`; empty: all alike.
        drafter_ns: latency of one draft.
        acceptance: acceptance rate.
        gpus: how many there are.
        gpus_per_target: the least that hold a target.
        tp_gain: how many times as fast a pass is on twice as many GPUs (1 … 2).
        drafters_per_gpu: drafter servers that one GPU holds.
        rate_per_s: requests that arrive in a second (Poisson); ``None``: one after the other.
        tokens: of each answer.
        objective: ``latency`` (least mean), ``throughput`` (most requests in a second, with users
            who never pause), ``price`` (least GPU time reserved for a token) or ``slo`` (the
            largest share of requests within *slo_ns*; among equals the fewest GPUs).
        slo_ns: time to the last token.
        batch, sequence_ns: most forwards of a target's batch, and what each but the first adds.
        preemptible: whether a cancelled forward frees its server at once.
        price_per_gpu_hour: in whatever currency.
        watts, idle_watts: what a GPU draws while it computes and while it does not, if known.
        seed: of everything random.
        source: what the numbers are of and where they come from, in words, if that is known.
    """

    target_ns: int
    drafter_ns: int
    acceptance: float
    gpus: int
    gpus_per_target: int = 1
    tp_gain: float = 1.7
    drafters_per_gpu: int = 1
    rate_per_s: float | None = None
    tokens: int = 100
    objective: str = "latency"
    slo_ns: int | None = None
    batch: int = 1
    sequence_ns: int = 0
    preemptible: bool = False
    price_per_gpu_hour: float = 0.0
    watts: float | None = None
    idle_watts: float | None = None
    seed: int = 0
    target_table: tuple[tuple[int, int], ...] = ()
    source: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Layout:
    """One way to use the GPUs.

    Attributes:
        algorithm: ``nonsi``, ``si`` or ``dsi``.
        lookahead: ``k`` (0 for non-SI).
        targets: target servers.
        degree: GPUs of each (tensor-parallel).
        drafter_gpus: GPUs that hold drafters.
    """

    algorithm: str
    lookahead: int
    targets: int
    degree: int
    drafter_gpus: int

    @property
    def gpus(self) -> int:
        """How many it takes."""
        return self.targets * self.degree + self.drafter_gpus

    def __str__(self) -> str:
        s = "s" if self.targets > 1 else ""
        on = f"{self.targets} target server{s}"
        on += f" of {self.degree} GPUs" if self.degree > 1 else ""
        if self.algorithm == "nonsi":
            return f"non-SI on {on}"
        gpus = f"{self.drafter_gpus} GPU{'s' if self.drafter_gpus > 1 else ''} for drafters"
        return f"{NAMES[self.algorithm]} with lookahead {self.lookahead} on {on} and {gpus}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a layout is expected to do; see the module.

    Attributes:
        layout: it.
        latency_ns: mean time to the last token; infinite where the load is too much.
        most_per_s: requests in a second that it carries at most.
        gpu_seconds_per_token: GPU time reserved for each token.
    """

    layout: Layout
    latency_ns: float
    most_per_s: float
    gpu_seconds_per_token: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confirmed:
    """What the event engine says of a layout.

    Attributes:
        layout: it; *estimate* is what was expected.
        metrics: of the run under the load that was asked about,
        most_per_s: and requests in a second with users who never pause (asked only where the
            objective is throughput; else NaN).
        gpu_seconds_per_token: GPU time reserved for each token: in this run, and for arrivals at
            a rate what that comes to in the long run.
        requests: simulated.
    """

    layout: Layout
    estimate: Estimate
    metrics: Metrics
    most_per_s: float
    gpu_seconds_per_token: float
    requests: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer.

    Attributes:
        question: what was asked.
        ranking: confirmed layouts, the best first.
        estimates: of all layouts.
        pareto: those of the ranking that no other beats in both latency and GPU time per token.
        sensitivity: sentences: what would change the answer.
        verdict: the answer in one sentence.
    """

    question: Question
    ranking: Sequence[Confirmed]
    estimates: Sequence[Estimate]
    pareto: Sequence[Confirmed]
    sensitivity: Sequence[str]
    verdict: str


def layouts(question: Question) -> list[Layout]:
    """Every layout that the GPUs allow, larger numbers of servers in steps."""
    found = []
    degree = question.gpus_per_target
    while degree <= question.gpus:
        steps = _steps(question.gpus // degree)
        found += [_layout("nonsi", 0, targets, degree, 0) for targets in steps]
        for drafter_gpus in (1, 2, 4):
            for targets in _steps((question.gpus - drafter_gpus) // degree):
                for algorithm, k in itertools.product(("si", "dsi"), LOOKAHEADS):
                    if k < question.tokens:
                        found.append(_layout(algorithm, k, targets, degree, drafter_gpus))
        degree *= 2
    return found


def _layout(algorithm: str, lookahead: int, targets: int, degree: int, drafters: int) -> Layout:
    return Layout(
        algorithm=algorithm,
        lookahead=lookahead,
        targets=targets,
        degree=degree,
        drafter_gpus=drafters,
    )


def _steps(most: int) -> list[int]:
    """1 … *most*: all up to 4, then ever fewer, and *most* itself."""
    steps, at = [], 1
    while at < most:
        steps.append(at)
        at = at + 1 if at < 4 else max(at + 1, round(at * 1.3))
    return [*steps, most] if most >= 1 else []


def pass_ns(question: Question, degree: int, width: int = 1) -> int:
    """The latency of a target pass over *width* tokens on *degree* GPUs."""
    return pass_latency(question, degree).at_width(width)


def pass_latency(question: Question, degree: int) -> Latency:
    """The latency model of target passes on *degree* GPUs."""
    doublings = math.log2(degree / question.gpus_per_target)
    gain: float = question.tp_gain**doublings
    table = question.target_table or ((1, question.target_ns),)
    scaled = tuple((width, max(1, round(ns / gain))) for width, ns in table)
    return Latency(
        model="table" if question.target_table else "constant",
        latency_ns=scaled[0][1],
        table=scaled,
    )


def _block_ns(question: Question, layout: Layout) -> int:
    """The latency of a pass over a block of *layout*'s lookahead."""
    return pass_ns(question, layout.degree, layout.lookahead + 1)


class _Work:
    """What a request comes to on servers of its own: by timing, from the vector engine."""

    def __init__(self, question: Question, acceptance: float, drafter_ns: int) -> None:
        self.question = question
        self.drafter_ns = drafter_ns
        draws = Acceptance(rate=acceptance).draws(question.seed, REPEATS, question.tokens)
        self.branches = vector.Branches.of(draws)
        rejected = ~draws[:, :-1]
        # DSI can do with one pass for each rejection, and one more.
        self.least_passes = float(rejected.sum(axis=1).mean()) + 1

    def of(self, wanted: Iterable[Layout]) -> list[tuple[float, float, float]]:
        """Mean latency (ns), passes and drafts of each layout."""
        wanted = list(wanted)
        found: dict[Layout, tuple[float, float, float]] = {}
        for algorithm in ("nonsi", "si", "dsi"):
            own = [layout for layout in wanted if layout.algorithm == algorithm]
            keys = {self._timing(layout): None for layout in own}
            if not keys:
                continue
            timings = list(keys)
            totals = vector.TOTALS[algorithm](timings, self.branches)
            latency = totals.latency_ns().mean(axis=1)
            passes = totals.target_passes[totals.row].mean(axis=1)
            drafts = totals.drafts[totals.row].mean(axis=1)
            at = {timing: i for i, timing in enumerate(timings)}
            for layout in own:
                i = at[self._timing(layout)]
                found[layout] = (float(latency[i]), float(passes[i]), float(drafts[i]))
        return [found[layout] for layout in wanted]

    def _timing(self, layout: Layout) -> vector.Timing:
        return vector.Timing(
            drafter_ns=self.drafter_ns,
            target_ns=_block_ns(self.question, layout),
            lookahead=max(1, layout.lookahead),
            targets=layout.targets if layout.algorithm == "dsi" else 1,
        )


def estimate(
    question: Question,
    wanted: Sequence[Layout],
    *,
    acceptance: float | None = None,
    drafter_ns: int | None = None,
) -> list[Estimate]:
    """Estimate layouts.

    Args:
        question: what is given.
        wanted: the layouts.
        acceptance: another acceptance rate than is given.
        drafter_ns: another latency of a draft.
    """
    p = question.acceptance if acceptance is None else acceptance
    t1 = drafter_ns or question.drafter_ns
    work = _Work(question, p, t1)
    return [
        _estimate(question, layout, one, work.least_passes, t1)
        for layout, one in zip(wanted, work.of(wanted), strict=True)
    ]


def _estimate(
    question: Question,
    layout: Layout,
    work: tuple[float, float, float],
    least_passes: float,
    drafter_ns: int,
) -> Estimate:
    alone_ns, passes, drafts = work
    t2, b = _block_ns(question, layout), question.batch
    share_ns = (t2 + (b - 1) * question.sequence_ns) / b  # of a full batch
    drafters = layout.drafter_gpus * question.drafters_per_gpu
    least = least_passes if layout.algorithm == "dsi" else passes
    least_drafts = question.tokens - least_passes if layout.algorithm == "dsi" else drafts
    target_ns, draft_ns = least * share_ns / layout.targets, 0.0
    if layout.algorithm != "nonsi":
        draft_ns = least_drafts * drafter_ns / drafters
    most_per_s = NS_PER_S / max(target_ns, draft_ns)
    rate = question.rate_per_s
    if rate is None:
        gpu_s = layout.gpus * alone_ns / NS_PER_S / question.tokens
        return Estimate(
            layout=layout,
            latency_ns=alone_ns,
            most_per_s=most_per_s,
            gpu_seconds_per_token=gpu_s,
        )
    latency_ns = math.inf
    per_ns = rate / NS_PER_S
    if rate < most_per_s:
        if layout.algorithm == "dsi":
            # Idle servers are given more passes than are needed; busy ones are not.
            room = min(1.0, layout.targets / (per_ns * passes * share_ns))
            passes = max(least, passes * room)
            room = min(1.0, drafters / (per_ns * drafts * drafter_ns)) if drafts else 1.0
            drafts = max(least_drafts, drafts * room)
        latency_ns = (
            alone_ns
            + least * _wait_ns(per_ns * passes * share_ns, layout.targets, t2)
            + least_drafts * _wait_ns(per_ns * drafts * drafter_ns, drafters, drafter_ns)
        )
    return Estimate(
        layout=layout,
        latency_ns=latency_ns,
        most_per_s=most_per_s,
        gpu_seconds_per_token=layout.gpus / (rate * question.tokens),
    )


def _wait_ns(offered: float, servers: int, service_ns: float) -> float:
    """Mean wait before a forward: M/D/c, by half of M/M/c (Allen-Cunneen)."""
    if not servers or not offered:
        return 0.0
    offered = min(offered, 0.97 * servers)
    return erlang_c(servers, offered) * service_ns / (servers - offered) / 2


def worth(question: Question, one: Estimate) -> tuple[float, ...]:
    """What the objective makes of an estimate: the smaller the better."""
    late = math.isinf(one.latency_ns)
    if question.objective == "throughput":
        return (-one.most_per_s, one.latency_ns)
    if question.objective == "price":
        return (late, one.gpu_seconds_per_token, one.latency_ns)
    if question.objective == "slo" and question.slo_ns is not None:
        # Of what is likely to keep the bound, the fewest GPUs; else what comes nearest to it.
        over = max(1.0, 1.3 * one.latency_ns / question.slo_ns)
        return (late, over, one.layout.gpus, one.latency_ns)
    return (late, one.latency_ns, one.layout.gpus)


def deployment_of(question: Question, layout: Layout) -> Deployment:
    """The layout as the event engine takes it."""
    return Deployment(
        algorithm=layout.algorithm,
        lookahead=max(1, layout.lookahead),
        most_passes=layout.targets,
        target=pass_latency(question, layout.degree),
        drafter=Latency(latency_ns=question.drafter_ns),
        acceptance=Acceptance(rate=question.acceptance),
        seed=question.seed,
        preemptible=question.preemptible,
        targets=FleetSpec(
            servers=layout.targets,
            max_batch=question.batch,
            sequence_ns=question.sequence_ns,
            gpus=layout.degree,
        ),
        drafters=FleetSpec(
            servers=max(1, layout.drafter_gpus * question.drafters_per_gpu),
            gpus=1 / question.drafters_per_gpu,
        ),
        price_per_gpu_hour=question.price_per_gpu_hour,
        slo=Slo(latency_ns=question.slo_ns),
    )


def confirm(question: Question, one: Estimate, requests: int) -> Confirmed:
    """Ask the event engine about a layout."""
    deployment = deployment_of(question, one.layout)
    output = Length(mean_tokens=question.tokens)
    if question.rate_per_s is None:
        workload = Workload(arrivals="closed", users=1, requests=requests, output=output)
    else:
        workload = Workload(requests=requests, rate_per_s=question.rate_per_s, output=output)
    most_per_s = math.nan
    if question.objective == "throughput":
        users = 4 * one.layout.targets * question.batch
        busy = Workload(
            arrivals="closed", users=users, requests=max(requests, 4 * users), output=output
        )
        run = serve(deployment, busy)
        # From the time when all are at work to the time when the first has no more to send.
        finished = np.sort(run.done_ns)[users:-users]
        most_per_s = float((len(finished) - 1) / (finished[-1] - finished[0]) * NS_PER_S)
        if question.rate_per_s is None:
            workload = busy
    metrics = measure(deployment, [serve(deployment, workload)], warm_up=0.1)
    gpu_s = metrics.gpu_seconds_per_token
    if question.rate_per_s is not None:
        gpu_s = one.layout.gpus / (question.rate_per_s * question.tokens)
    return Confirmed(
        layout=one.layout,
        estimate=one,
        metrics=metrics,
        most_per_s=most_per_s,
        gpu_seconds_per_token=gpu_s,
        requests=requests,
    )


def value(question: Question, one: Confirmed) -> tuple[float, ...]:
    """What the objective makes of a confirmed layout: the smaller the better."""
    m = one.metrics
    unstable = not m.stable
    latency = m.latency["mean"].value
    if question.objective == "throughput":
        return (-one.most_per_s, latency)
    if question.objective == "price":
        return (unstable, round(one.gpu_seconds_per_token, 9), latency)
    if question.objective == "slo":
        return (unstable, -round(m.good_share, 2), one.layout.gpus, latency)
    return (unstable, latency, one.layout.gpus)


def advise(question: Question) -> Advice:
    """Answer *question*."""
    wanted = layouts(question)
    estimates = sorted(
        estimate(question, wanted), key=lambda one: (worth(question, one), one.layout)
    )
    served = [one for one in estimates if math.isfinite(one.latency_ns)]
    finalists = _finalists(served)
    requests = _requests(question, finalists)
    confirmed = [
        confirm(question, one, requests) for one in finalists if _is_served(question, one.layout)
    ]
    ranking = sorted(confirmed, key=lambda one: (value(question, one), one.layout))
    return Advice(
        question=question,
        ranking=ranking,
        estimates=estimates,
        pareto=_pareto(ranking),
        sensitivity=_sensitivity(question, wanted, ranking),
        verdict=_verdict(question, ranking, estimates),
    )


def _is_served(question: Question, layout: Layout) -> bool:
    """Whether the offered load of *layout*, as ``dsim load`` sees it, is below 1."""
    if question.rate_per_s is None:
        return True
    output = Length(mean_tokens=question.tokens)
    workload = Workload(requests=200, rate_per_s=question.rate_per_s, output=output)
    load = offered_load(deployment_of(question, layout), workload)
    return load is None or load.worst[1] < 1


def _finalists(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The best, the best of each algorithm, and what may be on the Pareto front.

    Of layouts that differ in the lookahead alone only the best is taken.
    """

    def servers(one: Estimate) -> tuple[object, ...]:
        layout = one.layout
        return layout.algorithm, layout.targets, layout.degree, layout.drafter_gpus

    best: dict[tuple[object, ...], Estimate] = {}
    for one in estimates:
        best.setdefault(servers(one), one)
    estimates = list(best.values())
    chosen = dict.fromkeys(one.layout for one in estimates[:FINALISTS])
    for algorithm in ALGORITHMS:
        own = [one for one in estimates if one.layout.algorithm == algorithm]
        chosen |= dict.fromkeys(one.layout for one in own[:PER_ALGORITHM])
    least = math.inf
    for one in sorted(estimates, key=lambda e: (e.gpu_seconds_per_token, e.latency_ns)):
        if one.latency_ns < (1 - TIE) * least and len(chosen) < MOST_FINALISTS:
            least = one.latency_ns
            chosen[one.layout] = None
    return [one for one in estimates if one.layout in chosen]


def _requests(question: Question, finalists: Sequence[Estimate]) -> int:
    """How many requests each can be asked, the same for all, so that they meet the same luck."""
    per_token = {"nonsi": 1.1, "si": 1.6, "dsi": 4.5}
    each = [question.tokens * per_token[one.layout.algorithm] + 10 for one in finalists]
    if question.objective == "throughput":
        each = [2 * events for events in each]
    # Whether a queue grows for ever takes so many to see; a single user never waits.
    least = LEAST_REQUESTS if question.rate_per_s is None else DRIFT_REQUESTS
    return int(min(MOST_REQUESTS, max(least, EVENTS / max(1.0, sum(each)))))


def _pareto(ranking: Sequence[Confirmed]) -> list[Confirmed]:
    front: list[Confirmed] = []
    stable = [one for one in ranking if one.metrics.stable]
    for one in sorted(
        stable,
        key=lambda c: (c.gpu_seconds_per_token, c.metrics.latency["mean"].value),
    ):
        latency = one.metrics.latency["mean"].value
        if not front or latency < front[-1].metrics.latency["mean"].value:
            front.append(one)
    return front


def _best_algorithm(question: Question, estimates: Sequence[Estimate]) -> str | None:
    """The algorithm of the best estimate, non-SI where that is as good."""
    served = [one for one in estimates if math.isfinite(one.latency_ns)]
    if not served:
        return None
    return min(served, key=lambda one: (worth(question, one), one.layout)).layout.algorithm


def _sensitivity(
    question: Question, wanted: Sequence[Layout], ranking: Sequence[Confirmed]
) -> list[str]:
    """What acceptance rate or drafter latency would change the answer, by the estimates."""
    if not ranking:
        return []
    now = ranking[0].layout.algorithm
    by_estimate = _best_algorithm(question, estimate(question, wanted))
    if by_estimate != now:
        other = f"{NAMES[by_estimate]} instead" if by_estimate else "that nothing does"
        return [
            f"It is a close call: the estimates, which tell what would change the answer, say "
            f"{other}."
        ]
    sentences = []

    def add(what: str, best: str | None) -> None:
        answer = NAMES[best] if best else "that nothing carries this load"
        sentences.append(f"{what}, the answer would be {answer}.")

    for step, more in ((-1, "or less"), (1, "or more")):
        for p in [p for p in RATES if (p - question.acceptance) * step > 1e-9][::step]:
            best = _best_algorithm(question, estimate(question, wanted, acceptance=p))
            if best != now:
                add(f"At an acceptance rate of {p:g}{f' {more}' if 0 < p < 1 else ''}", best)
                break
    for speed in (False, True):
        for factor in FACTORS:
            drafter_ns = max(1, round(question.drafter_ns * (1 / factor if speed else factor)))
            best = _best_algorithm(question, estimate(question, wanted, drafter_ns=drafter_ns))
            if best != now:
                what = f"{factor:g} times as {'fast' if speed else 'slow'}"
                add(f"With drafts {what} ({drafter_ns / 1e6:.3g} ms each)", best)
                break
    if not sentences:
        sentences.append(
            f"No other acceptance rate, and no drafts up to {FACTORS[-1]:g} times as fast or as "
            "slow, would change the algorithm."
        )
    return sentences


def _verdict(
    question: Question, ranking: Sequence[Confirmed], estimates: Sequence[Estimate]
) -> str:
    if not ranking:
        most = max(estimates, key=lambda one: one.most_per_s)
        return (
            f"Nothing on {question.gpus} GPUs carries {question.rate_per_s:g} requests / s: "
            f"{most.layout} comes nearest, with at most {most.most_per_s:.3g}."
        )
    best = ranking[0]
    m = best.metrics
    others = []
    for algorithm in ("nonsi", "si", "dsi"):
        other = next((one for one in ranking if one.layout.algorithm == algorithm), None)
        if algorithm != best.layout.algorithm and other is not None:
            others.append(f"{NAMES[algorithm]} at its best: {_figure(question, other)}")
        elif algorithm != best.layout.algorithm and question.tokens > 1:
            there = any(one.layout.algorithm == algorithm for one in estimates)
            why = "cannot carry this load" if there else "needs a further GPU, for a drafter"
            others.append(f"{NAMES[algorithm]} {why}")
    do = "Don't speculate: run" if best.layout.algorithm == "nonsi" else "Run"
    close = ""
    runner_up = next(
        (one for one in ranking if one.layout.algorithm != best.layout.algorithm), None
    )
    if runner_up is not None and _is_close(question, best, runner_up):
        close = f" (but {NAMES[runner_up.layout.algorithm]} is as good within the interval)"
    if not m.stable:
        return (
            f"No layout on {question.gpus} GPUs keeps up with this load; {best.layout} comes "
            f"nearest ({_figure(question, best)}, and growing)."
        )
    return "; ".join([f"{do} {best.layout}: {_figure(question, best)}", *others]) + f"{close}."


def _figure(question: Question, one: Confirmed) -> str:
    m = one.metrics
    if question.objective == "throughput":
        return f"{one.most_per_s:.3g} requests / s"
    if question.objective == "price":
        price = f", {_price(question, one):.2f} a million" if question.price_per_gpu_hour else ""
        return f"{one.gpu_seconds_per_token:.3g} GPU-seconds a token{price}"
    if question.objective == "slo":
        return f"{m.good_share:.0%} of requests in time on {one.layout.gpus} GPUs"
    return f"{m.latency['mean'].value:.0f} ms a request"


def _price(question: Question, one: Confirmed) -> float:
    return one.gpu_seconds_per_token * 1e6 / 3600 * question.price_per_gpu_hour


def _kwh(question: Question, one: Confirmed) -> float:
    """Energy for a million tokens, in the long run; NaN where the watts are not known."""
    if question.watts is None or question.idle_watts is None:
        return math.nan
    more = (question.watts - question.idle_watts) * one.metrics.busy_gpu_seconds_per_token
    joules = question.idle_watts * one.gpu_seconds_per_token + more
    return joules * 1e6 / JOULES_PER_KWH


def _is_close(question: Question, best: Confirmed, other: Confirmed) -> bool:
    if question.objective == "latency":
        a, b = best.metrics.latency["mean"], other.metrics.latency["mean"]
        return b.value - a.value < max(
            TIE * a.value, *(x for x in (a.ci95, b.ci95) if not math.isnan(x)), 0.0
        )
    if question.objective == "throughput":
        return other.most_per_s > (1 - TIE) * best.most_per_s
    if question.objective == "price":
        a_s, b_s = (c.gpu_seconds_per_token for c in (best, other))
        return b_s < (1 + TIE) * a_s
    return value(question, best)[:3] == value(question, other)[:3]


def question_of(options: Mapping[str, Any]) -> Question:
    """The question that command-line options ask.

    Raises:
        UserError: with a problem for each option that is wrong.
    """
    problems = []
    least = {"rate": LEAST_RATE_PER_S, "slo": 1e-6, "batch_cost": 0, "price": 0}
    for name, low in (least | {"watts": 0, "idle_watts": 0}).items():
        value = options[name]
        if value is not None and not low <= value <= MOST:
            what = f"expected a number from {low:g} to {MOST:g}, got {value:g}"
            problems.append(Problem(f"--{name.replace('_', '-')}", "", what))
    if options["objective"] == "slo" and options["slo"] is None:
        problems.append(Problem("--slo", "", 'is missing: the objective is "slo"'))
    if options["gpus_per_target"] > options["gpus"]:
        problems.append(
            Problem(
                "--gpus-per-target",
                "",
                f"expected at most {options['gpus']} (--gpus), got {options['gpus_per_target']}",
            )
        )
    watts, idle = options["watts"], options["idle_watts"]
    if (watts is None) != (idle is None):
        missing = "--watts" if watts is None else "--idle-watts"
        problems.append(Problem(missing, "", "is missing: energy takes both"))
    elif watts is not None and idle > watts:
        problems.append(
            Problem("--idle-watts", "", f"expected at most {watts:g} (--watts), got {idle:g}")
        )
    pair = pair_of(options, problems)
    if problems:
        raise UserError(*problems)
    target, drafter = pair.target, pair.drafter
    assert target is not None  # noqa: S101  (pair_of sees to it)
    assert drafter is not None  # noqa: S101
    assert pair.acceptance is not None  # noqa: S101
    table = tuple((width, to_ns(ms)) for width, ms in target.latency_by_width_ms)
    drafts = drafter.latency_by_width_ms
    return Question(
        target_ns=table[0][1] if table else to_ns(target.latency_ms),
        target_table=table,
        drafter_ns=to_ns(drafts[0][1] if drafts else drafter.latency_ms),
        acceptance=pair.acceptance.rate,
        source=_described(pair),
        gpus=options["gpus"],
        gpus_per_target=options["gpus_per_target"],
        tp_gain=options["tp_gain"],
        drafters_per_gpu=options["drafters_per_gpu"],
        rate_per_s=options["rate"],
        tokens=options["tokens"],
        objective=options["objective"],
        slo_ns=None if options["slo"] is None else to_ns(options["slo"]),
        batch=options["batch"],
        sequence_ns=round(options["batch_cost"] * 1e6),
        preemptible=options["preemptible"],
        price_per_gpu_hour=options["price"],
        watts=options["watts"],
        idle_watts=options["idle_watts"],
        seed=options["seed"],
    )


def pair_of(options: Mapping[str, Any], problems: list[Problem]) -> Profile:
    """The pair that options give, by name, by file and by number; a number wins over the rest.

    What is wrong with the numbers is added to *problems*.

    Raises:
        UserError: a file cannot be read, or a name is not known.
    """
    from dsim.study import pairs, profile

    found = Profile(name="")
    if options["pair"] is not None:
        if options["target"] or options["drafter"] or options["dataset"]:
            raise UserError("give either --pair or --target, --drafter and --dataset")
        found = profile.read(options["pair"])
    elif options["target"] or options["drafter"] or options["dataset"]:
        found = pairs.find(options["target"], options["drafter"], options["dataset"])
    for role in ("target", "drafter"):
        option, given = f"--{role}-latency", options[f"{role}_latency"]
        if given is None:
            continue
        number = _number(given)
        if number is None:
            model = pairs.latency_of(_file(option, given))
        elif math.isfinite(number) and number > 0:
            model = ModelProfile(model="", latency_ms=number)
        else:
            problems.append(Problem(option, "", f"expected a number > 0, got {given}"))
            continue
        parts: dict[str, Any] = {role: model}
        found = dataclasses.replace(found, **parts)
    if options["acceptance"] is not None:
        number = _number(options["acceptance"])
        if number is None:
            rate = pairs.acceptance_of(_file("--acceptance", options["acceptance"]))
        elif 0 <= number <= 1:
            rate = AcceptanceProfile(rate=number)
        else:
            wrong = f"expected a number from 0 to 1, got {options['acceptance']}"
            problems.append(Problem("--acceptance", "", wrong))
            rate = AcceptanceProfile(rate=0.0)
        found = dataclasses.replace(found, acceptance=rate)
    if found.name:
        for part, option in PARTS.items():
            if getattr(found, part) is None:
                what = f"is missing: {found.name} has no {part.replace('_', ' ')}"
                problems.append(Problem(option, "", what))
    defaults = {part: getattr(DEFAULT_PAIR, part) for part in PARTS if not getattr(found, part)}
    return dataclasses.replace(found, **defaults)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _file(option: str, name: str) -> Path:
    from pathlib import Path

    path = Path(name)
    if not path.is_file():
        what = f"expected a number or a file that dsim measure wrote, got {name!r}"
        raise UserError(Problem(option, "", what))
    return path


def _described(pair: Profile) -> str:
    """What the numbers are of, in one line; nothing where they were given one by one."""
    if not pair.name:
        return ""
    on = f" on {pair.prompts}" if pair.prompts else ""
    return f"{pair.name}{on} ({pair.source})" if pair.source else f"{pair.name}{on}"


def as_rows(advice: Advice) -> list[dict[str, object]]:
    """The ranking, one row for each confirmed layout."""
    front = {one.layout for one in advice.pareto}
    rows: list[dict[str, object]] = []
    for one in advice.ranking:
        m = one.metrics
        rows.append(
            {
                **dataclasses.asdict(one.layout),
                "gpus": one.layout.gpus,
                "latency_mean_ms": m.latency["mean"].value,
                "latency_mean_ci95_ms": m.latency["mean"].ci95,
                "latency_p99_ms": m.latency["p99"].value,
                "estimated_ms": one.estimate.latency_ns / 1e6,
                "most_per_s": one.most_per_s,
                "estimated_most_per_s": one.estimate.most_per_s,
                "gpu_seconds_per_token": one.gpu_seconds_per_token,
                "price_per_million": _price(advice.question, one),
                "kwh_per_million": _kwh(advice.question, one),
                "good_share": m.good_share,
                "target_utilisation": m.target_utilisation,
                "drafter_utilisation": m.drafter_utilisation,
                "wasted_passes": m.wasted_passes,
                "stable": m.stable,
                "pareto": one.layout in front,
                "requests": one.requests,
            }
        )
    return rows


def as_json(advice: Advice) -> str:
    """One JSON object."""
    import json

    rows = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in as_rows(advice)
    ]
    return json.dumps(
        {
            "verdict": advice.verdict,
            "pair": {
                "source": advice.question.source,
                "target_latency_ms": advice.question.target_ns / 1e6,
                "target_latency_by_width_ms": [
                    [width, ns / 1e6] for width, ns in advice.question.target_table
                ],
                "drafter_latency_ms": advice.question.drafter_ns / 1e6,
                "acceptance": advice.question.acceptance,
            },
            "sensitivity": list(advice.sensitivity),
            "layouts_estimated": len(advice.estimates),
            "ranking": rows,
        }
    )


def table(advice: Advice) -> tuple[list[str], list[list[str]]]:
    """Heads and rows for people."""
    question = advice.question
    head = [
        "algorithm",
        "k",
        "targets",
        "GPUs each",
        "drafter GPUs",
        "GPUs",
        "latency",
        "p99",
        "estimate",
    ]
    more = {"throughput": ["req/s"], "slo": ["in time"]}.get(question.objective, []).copy()
    with_energy = question.watts is not None
    more += ["kWh/M"] if with_energy else []
    head += [*more, "GPU-s/token", "targets busy", "waste", "Pareto"]
    front = {one.layout for one in advice.pareto}
    rows = []
    for one in advice.ranking:
        m, layout = one.metrics, one.layout
        mean = m.latency["mean"]
        interval = "" if math.isnan(mean.ci95) else f" ± {mean.ci95:.0f}"
        row = [NAMES[layout.algorithm], str(layout.lookahead or "–"), str(layout.targets)]
        row += [str(layout.degree), str(layout.drafter_gpus or "–"), str(layout.gpus)]
        row += [f"{mean.value:.0f}{interval}{'' if m.stable else ' ↗'}"]
        row += [f"{m.latency['p99'].value:.0f}", f"{one.estimate.latency_ns / 1e6:.0f}"]
        if question.objective == "throughput":
            row.append(f"{one.most_per_s:.3g}")
        if question.objective == "slo":
            row.append(f"{m.good_share:.0%}")
        if with_energy:
            row.append(f"{_kwh(question, one):.3g}")
        row += [f"{one.gpu_seconds_per_token:.4g}", f"{m.target_utilisation:.0%}"]
        row += [f"{m.wasted_passes:.0%}", "●" if layout in front else ""]
        rows.append(row)
    return head, rows


def _given(q: Question) -> str:
    """The numbers of a pair that was looked up."""
    by_width = ""
    if q.target_table:
        width, ns = q.target_table[-1]
        by_width = f" (to {ns / 1e6:g} ms at a width of {width})"
    return (
        f"{q.source}: target {q.target_ns / 1e6:g} ms{by_width}, drafter {q.drafter_ns / 1e6:g} "
        f"ms, acceptance rate {q.acceptance:g}"
    )


def as_text(advice: Advice) -> list[str]:
    """The answer in lines for people."""
    lines = [advice.verdict, ""]
    if advice.question.source:
        lines = [*textwrap.wrap(_given(advice.question), 100), "", *lines]
    if advice.ranking:
        from tabulate import tabulate

        head, rows = table(advice)
        aligned = ("left", *["right"] * (len(head) - 1))
        text = tabulate(rows, head, disable_numparse=True, colalign=aligned)
        lines += [*text.splitlines(), ""]
        lines += advice.sensitivity
        lines += [
            f"{len(advice.estimates):,} layouts were estimated, and these {len(advice.ranking)} "
            "simulated; latencies in ms (mean ± 95 % interval). The sensitivity is by the "
            "estimates."
        ]
    return lines


def pareto_panel(advice: Advice) -> Panel:
    """Latency against the GPU time reserved for each token."""
    import altair as alt
    import pandas as pd

    from dsim.report.charts import COLOURS, Panel

    frame = pd.DataFrame(as_rows(advice)).round(6)
    frame["name"] = frame["algorithm"].map(NAMES)
    frame["layout"] = [str(one.layout) for one in advice.ranking]
    scale = alt.Scale(
        domain=[NAMES[name] for name in ALGORITHMS], range=[COLOURS[name] for name in ALGORITHMS]
    )
    base = alt.Chart(frame).encode(
        x=alt.X("gpu_seconds_per_token:Q", title="GPU-seconds reserved for a token"),
        y=alt.Y("latency_mean_ms:Q", title="mean latency of a request (ms)"),
    )
    points = base.mark_point(filled=True, size=80, opacity=1).encode(
        color=alt.Color("name:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
        shape=alt.Shape(
            "pareto:N",
            legend=None,
            scale=alt.Scale(domain=[False, True], range=["cross", "circle"]),
        ),
        tooltip=[
            alt.Tooltip("layout:N", title="layout"),
            alt.Tooltip("latency_mean_ms:Q", title="latency (ms)", format=".4~g"),
            alt.Tooltip("gpu_seconds_per_token:Q", title="GPU-s per token", format=".4~g"),
        ],
    )
    front = (
        alt.Chart(frame[frame["pareto"]].sort_values("gpu_seconds_per_token"))
        .mark_line(color="#8b929c", strokeDash=[4, 3])
        .encode(x="gpu_seconds_per_token:Q", y="latency_mean_ms:Q")
    )
    return Panel(
        name="01-pareto",
        title="Latency against GPU time",
        caption="Simulated layouts. Those on the dashed line are beaten by no other in both; "
        "crosses are. Point at one for what it is.",
        chart=front + points,
        marks=len(frame),
    )


def write_page(advice: Advice, path: Path) -> None:
    """Write the answer as one HTML page.

    Raises:
        UserError: the file cannot be written.
    """
    from dsim.report import page as report

    q = advice.question
    head, rows = table(advice)
    page = report.Page(
        title="What should I run?",
        description=advice.verdict,
        facts=[
            *([("pair", q.source)] if q.source else []),
            ("target", f"{q.target_ns / 1e6:g} ms"),
            ("drafter", f"{q.drafter_ns / 1e6:g} ms"),
            ("acceptance rate", f"{q.acceptance:g}"),
            ("GPUs", str(q.gpus)),
            ("load", "one at a time" if q.rate_per_s is None else f"{q.rate_per_s:g} requests / s"),
            ("objective", q.objective),
        ],
        summary={"head": head, "rows": rows} if rows else None,
        summary_caption=" ".join(advice.sensitivity),
    )
    panels = [pareto_panel(advice)] if advice.ranking else []
    write_whole(path, report.html(page, panels), "--out")
