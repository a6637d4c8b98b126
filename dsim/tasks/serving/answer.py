"""The answer of ``dsim advise --gpu``: the verdict, tables, launch commands, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any

from dsim.report.tables import text_table
from dsim.tasks.serving.launch import commands, instead, launch, remarks, spoken
from dsim.tasks.serving.notes import notes, part, price, roomier, times
from dsim.tasks.serving.search import AS_FAR, RESERVE, SAME, SCALES, TIE, closest
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.tasks.serving.question import Question
    from dsim.tasks.serving.search import Advice
    from dsim.tasks.serving.trials import Trial

MANY = 100  # times, from when on a factor has no decimals
FEW_REQUESTS, NEAR_BOUND = 2000, 1.4  # a p99 of fewer, and nearer than that factor, may be chance
METHODS_HEAD = ("speculation", "TTFT p99", "TPOT p50", "p99", "E2E")
HEAD = ("layout", "TTFT p50", "p99", "TPOT p50", "p99", "E2E", "tok/s/GPU", "batch", "up to")
PRICE_HEAD = "price/M tok"
BEST_HEAD = ("layout", "TTFT p99", "TPOT p99", "E2E", "why not")


def _slo(question: Question) -> str:
    bounds = (("TTFT", question.slo_ttft_ms), ("TPOT", question.slo_tpot_ms))
    return " and ".join(f"p99 {name} ≤ {bound:g} ms" for name, bound in bounds if bound is not None)


def _refused(best: Trial) -> str:
    """How many requests are in none of the times."""
    if best.served == 1:
        return ""
    return (
        f" It refuses {round((1 - best.served) * best.requests):,} of {best.requests:,} requests, "
        "which do not fit into its memory, or are longer than the model was made for; they are in "
        "none of these times."
    )


def verdict(advice: Advice) -> str:
    """The answer in one or two sentences."""
    question, best = advice.question, advice.best
    found = (
        f"p99 TTFT {best.ttft_p99:.0f} ms, p99 TPOT {best.tpot_p99:.1f} ms, mean E2E "
        f"{best.e2e_mean:,.0f} ms"
    )
    if not advice.has_slo:
        return f"Run {best.layout}: {found}{_rate(advice)}.{_refused(best)}"
    if best.served < 1 and math.isinf(best.slack):
        return (
            f"No layout of {plural(question.gpus, 'GPU')} serves every request, and so none keeps "
            f"{_slo(question)}. The best is {best.layout}: {found}{_rate(advice)}.{_refused(best)}"
        )
    if best.slack > 1:
        return (
            f"No layout of {plural(question.gpus, 'GPU')} keeps {_slo(question)}. Of those within "
            f"{AS_FAR - 1:.0%} of the closest, the fastest is {best.layout}: {found}"
            f"{_rate(advice)}. That is {_many(best.slack)} times what is allowed.{_carried(advice)}"
            f"{_few(best)}"
        )
    room = advice.headroom[best.layout]
    limit = f" It keeps the SLO at every load tried, up to {max(SCALES):g} × this one"
    if math.isfinite(room):
        limit = f" It keeps the SLO up to {times(room)} the load, by {part(advice, advice.limited)}"
        limit += " (the same arrivals, sped up: "
        limit += f"{room * question.rate_per_s:.3g} requests/s in the mean, more in busy stretches)"
        limit += ", which is little reserve" if room < RESERVE else ""
        if _only_over_all(advice, best):
            limit = (
                f" It keeps the SLO over all requests, and not on {part(advice, advice.limited)}"
            )
            limit += ": there is no reserve"
    others = _faster(advice) or roomier(advice)
    return (
        f"Run {best.layout}: {found} ({_slo(question)}){_rate(advice)}.{limit}.{others}{_few(best)}"
    )


def _many(factor: float) -> str:
    """A factor in words: 1.3, or 1,300."""
    return f"{factor:,.0f}" if factor >= MANY else f"{factor:.2g}"


def _few(best: Trial) -> str:
    """What a p99 of few requests is worth, where it is near its bound."""
    if best.requests >= FEW_REQUESTS or not 1 / NEAR_BOUND < best.slack < NEAR_BOUND:
        return ""
    slowest = round(0.01 * (best.requests - 1)) + 1
    return (
        f" A p99 of {best.requests:,} requests hangs on {plural(slowest, 'request')}, the slowest: "
        "with others like them it may be on the other side of the SLO. Ask with more of the trace."
    )


def _carried(advice: Advice) -> str:
    """The highest load within the SLO, where no layout keeps it at the load itself."""
    room = {one.layout: advice.headroom[one.layout] for one in advice.ranking}
    most = max(room, key=lambda one: room[one])
    if not room[most]:
        return ""
    return (
        f" Within the SLO, {most} carries the most of these: {times(room[most])} the load "
        f"({room[most] * advice.question.rate_per_s:.3g} requests/s)."
    )


def _rate(advice: Advice) -> str:
    """The acceptance rate, where the best layout depends on it."""
    if not advice.best.layout.uses_acceptance:
        return ""
    return f", at an acceptance rate of {advice.question.acceptance:g}"


def faster(advice: Advice) -> Trial | None:
    """The fastest layout that keeps the SLO, where the best is another, which carries more load."""
    if not advice.has_slo or advice.best.slack > 1:
        return None
    other = min((one for one in advice.ranking if one.slack <= 1), key=lambda one: one.e2e_mean)
    return other if other.e2e_mean * (1 + SAME) < advice.best.e2e_mean else None


def _faster(advice: Advice) -> str:
    best, other = advice.best, faster(advice)
    if other is None:
        return ""
    room = times(advice.headroom[other.layout])
    return (
        " It is chosen for its reserve. At this load "
        f"{other.layout} is {best.e2e_mean / other.e2e_mean:.2g} times as fast (mean E2E "
        f"{other.e2e_mean:,.0f} ms), and keeps the SLO up to {room} the load."
    )


def head(advice: Advice) -> tuple[str, ...]:
    """Names of the columns of :func:`rows`."""
    return (*HEAD, PRICE_HEAD) if advice.question.price else HEAD


def _only_over_all(advice: Advice, one: Trial) -> bool:
    """Whether *one* keeps the SLO over all requests, and not on the busiest of them."""
    return advice.headroom[one.layout] == 1 and advice.limited < one.requests


def _up_to(advice: Advice, one: Trial) -> str:
    return f"{times(advice.headroom[one.layout])}{', over all' * _only_over_all(advice, one)}"


def rows(advice: Advice) -> list[list[str]]:
    """The finalists, the best first."""
    return [
        [
            str(one.layout),
            f"{one.ttft_p50:.0f}",
            f"{one.ttft_p99:.0f}",
            f"{one.tpot_p50:.1f}",
            f"{one.tpot_p99:.1f}",
            f"{one.e2e_mean:,.0f}",
            f"{one.tokens_per_gpu_s:,.0f}",
            f"{one.batch:.1f}",
            _up_to(advice, one) if advice.has_slo else "–",
            *([f"{price(advice, one):.3g}"] if advice.question.price else ()),
        ]
        for one in advice.ranking
    ]


def methods(advice: Advice) -> list[list[str]]:
    """Every way to speculate at the degree of the best layout, the fastest first."""
    best = advice.best.layout
    alike = (one for one in advice.screened if one.layout.tp == best.tp and not one.layout.readers)
    return [
        [
            one.layout.method,
            f"{one.ttft_p99:.0f}",
            f"{one.tpot_p50:.1f}",
            f"{one.tpot_p99:.1f}",
            f"{one.e2e_mean:,.0f}",
        ]
        for one in sorted(alike, key=lambda one: one.e2e_mean)
    ]


def bests(advice: Advice) -> list[list[str]]:
    """The best layout of each way to share out the GPUs, the answer first, with why it lost."""
    kinds: dict[str, list[Trial]] = {}
    for one in closest(advice.screened, advice.allowed):
        kinds.setdefault(one.layout.sharing, []).append(one)
    chosen = advice.best.layout
    mine = next(one for one in kinds.pop(chosen.sharing) if one.layout == chosen)
    found = [mine, *(trials[0] for trials in kinds.values())]
    return [
        [
            str(one.layout),
            f"{one.ttft_p99:,.0f}",
            f"{one.tpot_p99:,.1f}",
            f"{one.e2e_mean:,.0f}",
            why_not(advice, one, mine),
        ]
        for one in found
    ]


def why_not(advice: Advice, one: Trial, mine: Trial) -> str:
    """Why *one* is not the answer, *mine*."""
    if one.layout == mine.layout:
        kept = one.slack > 1 >= advice.best.slack
        return "the answer (keeps the SLO over all)" if advice.has_slo and kept else "the answer"
    question = advice.question
    if one.served < 1:
        return f"refuses {1 - one.served:.0%} of the requests"
    room, best = (advice.headroom.get(a.layout, math.nan) for a in (one, mine))
    if advice.has_slo and one.slack > advice.allowed:
        late = [
            ("TTFT", one.ttft_p99, question.slo_ttft_ms),
            ("TPOT", one.tpot_p99, question.slo_tpot_ms),
        ]
        names = [name for name, value, bound in late if bound is not None and value > bound]
        more = " by more" if advice.best.slack > 1 else ""
        return f"misses the SLO{more} ({' and '.join(names)})"
    slower = one.e2e_mean / mine.e2e_mean
    if advice.has_slo and room < 1 <= best:
        return f"{'misses' if one.slack > 1 else 'keeps'} the SLO here, and misses it over all"
    if advice.has_slo and room < RESERVE and room * (1 + TIE) < best:
        return f"so, it keeps the SLO only up to {times(room)}"
    if slower > 1:
        much = f"{slower:.2g} times the E2E" if slower >= 1.2 else f"{slower - 1:.0%} more E2E"
        return f"slower ({much})"
    return "slower on more of the load" if one.layout in advice.headroom else "about as good"


def bests_title(advice: Advice) -> str:
    """What the table of the ways to share out the GPUs has."""
    return f"The best of each TP × replicas, of {part(advice, advice.screened[0].requests)}"


def as_text(advice: Advice) -> list[str]:
    """The answer for a terminal."""
    question, best = advice.question, advice.best.layout
    load = f"{question.load}; {question.rate_per_s:.3g} requests/s in the mean"
    lines = [verdict(advice), "", f"Load: {load}.", "", *text_table(head(advice), rows(advice)), ""]
    lines += [reading(advice), "", f"{compared(advice)}:", ""]
    lines += [*text_table(METHODS_HEAD, methods(advice)), "", methods_reading(advice), ""]
    if len(others := bests(advice)) > 1:
        lines += [f"{bests_title(advice)}:", "", *text_table(BEST_HEAD, others), ""]
    lines += [*notes(advice), "", "One replica:"]
    lines += [f"  {command}" for _, command in launch(advice, best)]
    lines += [f"  ({remark})" for remark in remarks(advice, best)]
    if other := faster(advice):
        lines += ["", f"One replica of the fastest, {other.layout}:"]
        lines += [f"  {command}" for _, command in launch(advice, other.layout)]
    return lines


def reading(advice: Advice) -> str:
    """How the table of the finalists is to be read."""
    text = (
        f"Times in ms, of {part(advice, advice.best.requests)}. TPOT: time per token of a "
        "request, after its first one. batch: requests in a step, mean. TTFT and E2E have a step "
        "of waiting that vLLM was found to have where replicas are busy; a study of the same "
        "layout (dsim run) has none."
    )
    if advice.has_slo:
        only = any(_only_over_all(advice, one) for one in advice.ranking)
        also = "; over all: not by these, but by all together" * only
        text += (
            " up to: the load up to which the SLO is kept, in multiples of the given one, to a few "
            f"percent, by {part(advice, advice.limited)}{also}. The answer is the layout with the "
            f"lowest mean E2E of those that keep the SLO up to {RESERVE:g} × the load; where none "
            f"does, of those within {TIE:.0%} of the highest load; where none keeps it at this "
            f"load, of those whose p99 is within {AS_FAR - 1:.0%} of the closest."
        )
    if advice.question.price:
        text += (
            f" {PRICE_HEAD}: price of a million tokens of answers at this load, with GPU-hours at "
            f"{advice.question.price:g}; a load that keeps the GPUs busier makes tokens cheaper."
        )
    return text


def compared(advice: Advice) -> str:
    """What the table of the ways to speculate compares."""
    load = part(advice, advice.ways[0].requests)
    return f"Ways to speculate at TP {advice.best.layout.tp}, on {load}"


def methods_reading(advice: Advice) -> str:
    """How the table of the ways to speculate is to be read, beside the one before it."""
    best, found = advice.best, []
    here = next((one for one in advice.screened if one.layout == best.layout), best)
    if here.requests < best.requests:
        text = (
            f"These {here.requests:,} requests are those of the {best.requests:,} above that come "
            "closest together, which need not be those with the longest prompts"
        )
        ttft = [f"{one.ttft_p99:.0f} ms" for one in (here, best)]
        if ttft[0] != ttft[1]:
            text += (
                f"; the p99 TTFT with {spoken(best.layout)} is {ttft[0]} here and {ttft[1]} there"
            )
        found.append(f"{text}.")
    layouts = [one.layout for one in advice.ways]
    if any(one.chooses for one in layouts):
        found.append(
            "chosen: every step drafts as many tokens as promise the most accepted tokens a second "
            "(goodput)."
        )
    if any(one.preset and one.uses_acceptance for one in layouts):
        found.append("tree: the drafts of a step are alternatives as well as successors.")
    return " ".join(found)


def _commands(advice: Advice) -> dict[str, str]:
    """Commands by server; where vLLM cannot launch the answer, also what it can."""
    layout = advice.best.layout
    found = dict(zip(("vllm", "sglang"), commands(advice.question, layout), strict=True))
    if other := instead(advice, layout):
        found["vllm_instead"] = commands(advice.question, other.layout)[0]
    return found


def as_json(advice: Advice) -> str:
    """The answer as one JSON object."""

    def finite(value: Any) -> Any:
        return None if isinstance(value, float) and not math.isfinite(value) else value

    def plain(one: Trial) -> dict[str, Any]:
        values = {**dataclasses.asdict(one.layout), **dataclasses.asdict(one)}
        del values["layout"]
        values |= {"gpus": one.layout.gpus, "tokens_per_gpu_s": one.tokens_per_gpu_s}
        return {"name": str(one.layout), **{key: finite(value) for key, value in values.items()}}

    best = advice.best
    document = {
        "verdict": verdict(advice),
        "notes": notes(advice),
        "keeps_slo": best.slack <= 1 if advice.has_slo else None,
        "rate_per_s": advice.question.rate_per_s,
        "max_load": finite(advice.headroom[best.layout]) if advice.has_slo else None,
        "acceptance": advice.question.acceptance,
        "flips": [
            {"acceptance": one.rate, "wins": plain(one.wins), "stays": plain(one.stays)}
            for one in advice.flips
        ],
        "other_acceptance": {
            f"{rate:g}": [plain(one) for one in trials] for rate, trials in advice.others.items()
        },
        "more_drafts": None if advice.beyond is None else plain(advice.beyond),
        "crossover": advice.crossover and advice.crossover.scale,
        "crossover_compared_to": advice.crossover and advice.crossover.compared,
        "price_per_million_tokens": finite(price(advice, best)) if advice.question.price else None,
        "ranking": [plain(one) for one in advice.ranking],
        "screened": [plain(one) for one in advice.screened],
        "curves": [plain(one) for curve in advice.curves.values() for one in curve],
        "fewer": [plain(one) for one in advice.fewer],
        "best_of_each": [
            dict(zip(("name", "ttft_p99", "tpot_p99", "e2e_mean", "why_not"), row, strict=True))
            for row in bests(advice)
        ],
        "commands": _commands(advice),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
