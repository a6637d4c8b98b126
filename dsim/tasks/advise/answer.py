"""The answer of ``dsim advise``: the verdict, what would change it, tables and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from typing import TYPE_CHECKING

from dsim.deployment import intervals
from dsim.model.latency import beyond_note
from dsim.report.tables import text_table
from dsim.study.columns import BEYOND
from dsim.tasks.advise.layouts import candidates
from dsim.tasks.advise.search import (
    TIE,
    kwh_per_million,
    pareto,
    price_per_million,
    search,
    value,
)
from dsim.tasks.advise.sensitivity import MAX_TRIED, sensitivity
from dsim.units import to_ms
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.tasks.advise.forecast import Forecast
    from dsim.tasks.advise.layouts import Layout
    from dsim.tasks.advise.question import Question
    from dsim.tasks.advise.search import Confirmed

TEXT_WIDTH = 100  # of text on a terminal


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer.

    Attributes:
        question: what was asked.
        ranking: simulated layouts, the best first.
        forecasts: forecasts of all layouts.
        pareto: layouts of the ranking that no other beats in both latency and GPU time per token.
        sensitivity: sentences: what would change the answer.
        verdict: the answer in one sentence.
    """

    question: Question
    ranking: Sequence[Confirmed]
    forecasts: Sequence[Forecast]
    pareto: Sequence[Confirmed]
    sensitivity: Sequence[str]
    verdict: str


def advise(
    question: Question, progress: Callable[[int, int], None] = lambda _done, _all: None
) -> Advice:
    """Answer *question*.

    Args:
        question: what is asked.
        progress: called with how many of how many steps are done: the estimate, the simulation of
            each of the best layouts, and each other acceptance rate and drafter that is tried.
    """
    steps = 0

    def searched(done: int, count: int) -> None:
        nonlocal steps
        steps = count
        progress(done, count + MAX_TRIED)

    def tried(count: int) -> None:
        progress(steps + count, steps + MAX_TRIED)

    expected, ranking = search(question, searched)
    change = sensitivity(question, expected, ranking, tried)
    tried(MAX_TRIED)
    return Advice(
        question=question,
        ranking=ranking,
        forecasts=expected,
        pareto=pareto(ranking),
        sensitivity=change,
        verdict=_verdict(question, ranking, expected),
    )


def _verdict(question: Question, ranking: Sequence[Confirmed], expected: Sequence[Forecast]) -> str:
    on = f"on {plural(question.gpus, 'GPU')}"
    size = f" All at batch size {question.batch}." if question.loaded else ""
    if question.loaded and question.batch == 1:
        size += " Servers of today batch many requests: say --batch 64, or --gpu for replicas."
    elif question.loaded and not (question.target_table or question.sequence_ns):
        size += " A pass over many tokens takes as long as one over a single one (--width-cost)."
    if not ranking:
        most = max(expected, key=lambda one: one.most_per_s)
        return (
            f"No layout {on} sustains {question.rate_per_s:g} requests/s. The best one, "
            f"{most.layout}, sustains {most.most_per_s:.3g} requests/s.{size}"
        )
    best = ranking[0]
    mine = best.layout.orchestration
    if not best.metrics.stable:
        return (
            f"No layout {on} sustains this load. The best one is {best.layout} "
            f"({_figure(question, best)}, and growing).{size}"
        )
    others = []
    for orchestration in candidates():
        title = orchestration.title
        if orchestration == mine:
            continue
        other = next((one for one in ranking if one.layout.orchestration == orchestration), None)
        if other is not None:
            others.append(f"{title} at its best: {_figure(question, other)}")
        elif question.tokens > 1:
            there = any(one.layout.orchestration == orchestration for one in expected)
            spare = "needs GPUs of its own for a drafter"
            why = "cannot sustain this load" if there else spare
            others.append(f"{title} {why}")
    close = ""
    runner_up = next((one for one in ranking if one.layout.orchestration != mine), None)
    if runner_up is not None and _is_close(question, best, runner_up):
        close = f" (not significantly better than {runner_up.layout.orchestration.title})"
    do = "Run" if mine.traits.drafts else "Don't speculate: run"
    answer = "; ".join([f"{do} {best.layout}: {_figure(question, best)}{close}", *others])
    return f"{answer}.{size}"


def _figure(question: Question, one: Confirmed) -> str:
    if question.objective == "throughput":
        return f"{one.most_per_s:.3g} requests/s"
    if question.objective == "price":
        price = price_per_million(question, one)
        words = f", {price:.2f} per million tokens" if question.price_per_gpu_hour else ""
        return f"{one.gpu_seconds_per_token:.3g} GPU-seconds per token{words}"
    if question.objective == "slo" and question.slo_ns is not None:
        slo_s, gpus = to_ms(question.slo_ns) / 1000, plural(one.layout.gpus, "GPU")
        return f"{one.metrics.good_share:.0%} of requests meet the {slo_s:g} s SLO on {gpus}"
    if question.objective == "p99":
        return f"p99 {one.metrics.latency['p99'].value:.0f} ms"
    return f"{one.latency_ms:.0f} ms per request"


def _is_close(question: Question, best: Confirmed, other: Confirmed) -> bool:
    if question.objective == "latency":
        # Request by request: both layouts served the same ones.
        more = intervals.of_mean([other.latencies_ms - best.latencies_ms])
        return more.value < max(TIE * best.latency_ms, 0.0 if math.isnan(more.ci95) else more.ci95)
    if question.objective == "p99":
        best_ms, ms = (of.metrics.latency["p99"].value for of in (best, other))
        return ms < (1 + TIE) * best_ms
    if question.objective == "throughput":
        return other.most_per_s > (1 - TIE) * best.most_per_s
    if question.objective == "price":
        return other.gpu_seconds_per_token < (1 + TIE) * best.gpu_seconds_per_token
    return value(question, best)[:3] == value(question, other)[:3]


def as_rows(advice: Advice) -> list[dict[str, object]]:
    """The ranking, one row per simulated layout."""
    front = {one.layout for one in advice.pareto}
    rows: list[dict[str, object]] = []
    for one in advice.ranking:
        m = one.metrics
        rows.append(
            {
                **dataclasses.asdict(one.layout),
                "gpus": one.layout.gpus,
                "latency_mean_ms": one.latency_ms,
                "latency_mean_ci95_ms": m.latency["mean"].ci95,
                "latency_p99_ms": m.latency["p99"].value,
                "estimated_ms": to_ms(one.forecast.latency_ns),
                "most_per_s": one.most_per_s,
                "estimated_most_per_s": one.forecast.most_per_s,
                "gpu_seconds_per_token": one.gpu_seconds_per_token,
                "price_per_million": price_per_million(advice.question, one),
                "kwh_per_million": kwh_per_million(advice.question, one),
                "good_share": m.good_share,
                "target_utilisation": m.target_utilisation,
                "drafter_utilisation": m.drafter_utilisation,
                "wasted_passes": m.wasted_pass_share,
                "stable": m.stable,
                "pareto": one.layout in front,
                "requests": one.requests,
                "same_with_drafter_gpus": sorted(more.drafter_gpus for more in one.with_idle),
                BEYOND.name: m.beyond_table_share,
            }
        )
    return rows


def as_json(advice: Advice) -> str:
    """The answer as one JSON object."""
    q = advice.question
    rows = [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}
        for row in as_rows(advice)
    ]
    return json.dumps(
        {
            "verdict": advice.verdict,
            "pair": {
                "source": q.source,
                "target_latency_ms": to_ms(q.target_ns),
                "target_latency_by_width_ms": [[w, to_ms(ns)] for w, ns in q.target_table],
                "drafter_latency_ms": to_ms(q.drafter_ns),
                "acceptance": q.acceptance,
            },
            "batch": q.batch,
            "sensitivity": list(advice.sensitivity),
            "layouts_estimated": len(advice.forecasts),
            "ranking": rows,
        }
    )


def table(advice: Advice) -> tuple[list[str], list[list[str]]]:
    """Heads and rows of the ranking for people."""
    q = advice.question
    front = {one.layout for one in advice.pareto}

    trees = any(one.layout.nodes for one in advice.ranking)

    def row(one: Confirmed) -> dict[str, str]:
        m, layout = one.metrics, one.layout
        mean = m.latency["mean"]
        interval = "" if math.isnan(mean.ci95) else f" ± {mean.ci95:.0f}"
        cells = {
            "algorithm": layout.orchestration.title,
            "lookahead": str(layout.lookahead or "–"),
            **({"nodes, depth": _tree(layout)} if trees else {}),
            "targets": str(layout.targets),
            "GPUs each": str(layout.degree),
            "drafter GPUs": str(layout.drafter_gpus)
            if layout.drafter_gpus
            else ("same" if layout.orchestration.traits.drafts else "–"),
            "GPUs": str(layout.gpus),
            "latency (ms)": f"{mean.value:.0f}{interval}{'' if m.stable else ' ↗'}",
            "p99 (ms)": f"{m.latency['p99'].value:.0f}",
            "estimate (ms)": f"{to_ms(one.forecast.latency_ns):.0f}",
        }
        if q.objective == "throughput":
            cells["requests/s"] = f"{one.most_per_s:.3g}"
        if q.objective == "slo":
            cells["SLO met"] = f"{m.good_share:.0%}"
        if q.watts is not None:
            cells["kWh/M tokens"] = f"{kwh_per_million(q, one):.3g}"
        if q.price_per_gpu_hour:
            cells["price/M tokens"] = f"{price_per_million(q, one):.4g}"
        return cells | {
            "GPU-s/1k tokens": f"{1000 * one.gpu_seconds_per_token:.4g}",
            "targets busy": f"{m.target_utilisation:.0%}",
            "waste": f"{m.wasted_pass_share:.0%}",
            "Pareto": "●" if layout in front else "",
        }

    rows = [row(one) for one in advice.ranking]
    return list(rows[0]) if rows else [], [list(cells.values()) for cells in rows]


def _tree(layout: Layout) -> str:
    return f"{layout.nodes}, {layout.depth}" if layout.nodes else "–"


def as_text(advice: Advice) -> list[str]:
    """The answer in lines for people."""
    facts = ", ".join(f"{name} {value}" for name, value in advice.question.facts())
    lines = [*textwrap.wrap(f"Given: {facts}.", TEXT_WIDTH), "", advice.verdict, ""]
    if advice.ranking:
        lines += [*text_table(*table(advice)), "", *advice.sensitivity, reading(advice)]
    return lines


def reading(advice: Advice) -> str:
    """How the table of the ranking is to be read."""
    estimated = plural(len(advice.forecasts), "layout")
    was = "was" if len(advice.forecasts) == 1 else "were"
    this = "this one" if len(advice.ranking) == 1 else f"these {len(advice.ranking)}"
    most = max(one.metrics.beyond_table_share for one in advice.ranking)
    beyond = beyond_note(most, "these simulations")
    idle = ""
    if count := sum(len(one.with_idle) for one in advice.ranking):
        idle = (
            f" {plural(count, 'more layout')} {'is' if count == 1 else 'are'} not shown: the same "
        )
        idle += "as one of these, with more GPUs for drafters, which would stay idle."
    return (
        f"{estimated} {was} estimated, and {this} simulated{_intervals(advice)}{idle} "
        "What would change the answer is estimated, not simulated: ask again with it to be sure."
        f"{' ' * bool(beyond)}{beyond}"
    )


def _intervals(advice: Advice) -> str:
    """What the figures of the latency are."""
    means = [one.metrics.latency["mean"] for one in advice.ranking]
    without = sum(math.isnan(mean.ci95) for mean in means)
    if without < len(means):
        few = " (– where the requests are too few)" if without else ""
        return f"; latency: mean ± 95 % interval{few}."
    requests = advice.ranking[0].requests
    return f", with {requests:,} requests each: too few for 95 % intervals of the mean latency."
