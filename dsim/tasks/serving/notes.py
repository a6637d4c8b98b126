"""What ``dsim advise --gpu`` says beside its answer: what else was found, what it hangs on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dsim.model.gpu import gpu_of
from dsim.tasks.serving.launch import MAX_SEQS
from dsim.tasks.serving.search import BELOW, SAME, SCALES, TIE, closest
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.tasks.serving.search import Advice
    from dsim.tasks.serving.trials import Trial

CLEARLY = 1.05  # times the load of another, before it counts as more
OFF = 1.08  # times a bound: what the estimate of TTFT is off by, in the median
WORTH = 1.1  # times as fast: from when on a layout that misses a bound by less than OFF is named
SHORT_MS = {"--slo-ttft": 10.0, "--slo-tpot": 1.0}  # shorter ones were probably meant in seconds


def times(value: float) -> str:
    """A scale of the load in words."""
    if value == BELOW:
        return "under 1 ×"
    if math.isinf(value):
        return f"{max(SCALES):g} × or more"
    return f"{value:.3g} ×" if value else f"under {min(SCALES):g} ×"


def part(advice: Advice, count: int) -> str:
    """*count* requests in words: a part of the load, or all of it."""
    if count >= len(advice.question.replay.requests):
        return f"all {count:,} requests"
    return f"the {count:,} requests that come closest together"


def wait(one: Trial) -> str:
    """The mean E2E latency of *one* in words."""
    return f"{one.e2e_mean / 1e3:.2f} s" if one.e2e_mean >= 1000 else f"{one.e2e_mean:.0f} ms"


def notes(advice: Advice) -> list[str]:
    """What else was found, and what the answer hangs on."""
    question = advice.question
    lines = [found] if (found := question.estimate(advice.best.layout.tp).warning) else []
    enough = next((one for one in advice.fewer if one.slack <= 1), None)
    if enough is not None:
        layout, gpus = enough.layout, plural(enough.layout.gpus, "GPU")
        cost = f", {price(advice, enough):.3g} per million tokens" if question.price else ""
        lines.append(
            f"{gpus} {'is' if layout.gpus == 1 else 'are'} enough for the SLO: {layout}, p99 TTFT "
            f"{enough.ttft_p99:.0f} ms, p99 TPOT {enough.tpot_p99:.1f} ms, mean E2E "
            f"{enough.e2e_mean:,.0f} ms{cost}. Ask with --gpus {layout.gpus} for the best of so "
            "many."
        )
    elif advice.fewer and advice.best.slack <= 1:
        lines.append("Nothing that was tried on fewer GPUs keeps the SLO.")
    lines += [*_in_seconds(advice), *_as_good(advice), *_nearly(advice), *_crossover(advice)]
    lines += [*_at_other_rates(advice), *_at_the_edge(advice)]
    gpu = gpu_of(question.gpu)
    trust = (
        "on H100 the estimate of latencies is off by 5 % (ITL) to 8 % (TTFT) in the median, "
        "without speculation, and by more with it"
        if gpu.name == "h100"
        else f"the estimate of latencies was fitted on H100, and is a guess on {gpu.name}"
    )
    shares = ", ".join(f"{share:g}" for share in question.rank_shares)
    lines.append(
        f"The answer depends on the acceptance rate ({question.acceptance:g}, the same at every "
        f"draft), for trees on how often further choices are right ({shares}: --rank-shares), for "
        f"n-grams on the copied part of an answer ({question.copied:.0%}), and on the latencies: "
        f"{trust} (dsim docs latency, dsim docs field-measurements). Measure both before you buy, "
        "and ask again with them: with another rate, another load is kept."
    )
    return lines


def price(advice: Advice, one: Trial) -> float:
    """Price of a million tokens of answers, at the load of *one*."""
    tokens_per_hour = 3600 * one.tokens_per_gpu_s
    return 1e6 * advice.question.price / tokens_per_hour if tokens_per_hour else math.inf


def _in_seconds(advice: Advice) -> list[str]:
    """A note where a bound of the SLO looks as if it were in seconds."""
    question = advice.question
    bounds = (("--slo-ttft", question.slo_ttft_ms), ("--slo-tpot", question.slo_tpot_ms))
    return [
        f"{name} is in ms, and {bound:g} ms is very short. If that is in seconds, say "
        f"{1000 * bound:g}."
        for name, bound in bounds
        if bound is not None and bound < SHORT_MS[name]
    ]


def _as_good(advice: Advice) -> list[str]:
    """Other ways to speculate that are as good as the answer."""
    best = advice.best.layout
    (here, *_) = (one for one in advice.screened if one.layout == best)
    alike = [
        one
        for one in closest(advice.screened, advice.allowed)
        if one.layout != best
        and not one.layout.chooses
        and abs(one.e2e_mean / here.e2e_mean - 1) < SAME
        if not advice.has_slo
        or (
            one.slack <= max(advice.allowed, here.slack) and advice.headroom.get(one.layout, 1) >= 1
        )
    ]
    if not alike:
        return []
    names = "; ".join(f"{one.layout} ({wait(one)})" for one in alike[:3])
    return [
        f"As fast within {SAME:.0%} (mean E2E {wait(here)}, of "
        f"{part(advice, here.requests)}): {names}. What sets them apart is less than what "
        "the estimate is off by: measure them."
    ]


def _nearly(advice: Advice) -> list[str]:
    """A faster layout that misses the SLO by less than what is known of the latencies."""
    if not advice.has_slo or advice.best.slack > 1:
        return []
    best = advice.best
    near = [one for one in advice.ranking if 1 < one.slack <= OFF]
    other = min(near, key=lambda one: one.e2e_mean, default=best)
    if other.e2e_mean * WORTH > best.e2e_mean:
        return []
    return [
        f"{other.layout} misses the SLO by {other.slack - 1:.1%}, less than what the estimate of "
        f"latencies may be off by, and would be {best.e2e_mean / other.e2e_mean:.2g} times as fast "
        f"(mean E2E {wait(other)}): measure it, too."
    ]


def _crossover(advice: Advice) -> list[str]:
    """Up to which load speculation is faster than plain decoding."""
    found, tp = advice.crossover, advice.best.layout.tp
    if found is None:
        return []
    ways = " or ".join(one.method for one in found.ways)
    first = f"Speculation ({ways}) is faster than plain decoding (mean E2E)"
    clash = _clash(advice)
    if found.batch > MAX_SEQS / 2:
        clash += f" A replica runs at most {MAX_SEQS} requests at once here; with more at once, "
        clash += "plain decoding gains more than speculation."
    if found.scale is None:
        loads = ", ".join(f"{scale:g}" for scale in SCALES if scale <= found.compared)
        above = f"; at {found.piled_up:g} × requests pile up with all" if found.piled_up else ""
        return [
            f"{first} at every load that was compared ({loads} × this one; TP {tp}){above}.{clash}"
        ]
    if found.scale <= min(SCALES):
        return [
            f"Speculation ({ways}) is slower than plain decoding (mean E2E) already at "
            f"{min(SCALES):g} × this load (TP {tp}).{clash}"
        ]
    return [
        f"{first} up to about {found.scale:.2g} × this load, "
        f"{found.scale * advice.question.rate_per_s:.3g} requests/s in the mean (TP {tp}); above "
        f"it, plain decoding is faster.{clash}"
    ]


def _clash(advice: Advice) -> str:
    """Plain decoding keeps the SLO at more load than the speculation that is faster."""
    alike = {one: room for one, room in advice.headroom.items() if one.tp == advice.best.layout.tp}
    plain = max((room for one, room in alike.items() if not one.drafts), default=0.0)
    drafting = {one: room for one, room in alike.items() if one.drafts}
    if not advice.has_slo or not drafting or roomier(advice):  # that says so already
        return ""
    first = advice.best.layout
    other = first if first in drafting else max(drafting, key=lambda one: drafting[one])
    if plain <= CLEARLY * drafting[other]:
        return ""
    return (
        f" Yet plain decoding keeps the SLO up to more load, {times(plain)} against "
        f"{times(drafting[other])} with {other.method}."
    )


def roomier(advice: Advice) -> str:
    """The layout that carries the most load, where the best is a faster one."""
    best, room = advice.best, advice.headroom
    other = max(advice.ranking, key=lambda one: room[one.layout])
    if other.slack > 1 or room[other.layout] <= (1 + TIE) * room[best.layout]:
        return ""
    return (
        f" {other.layout} keeps it up to {times(room[other.layout])} the load, at "
        f"{other.e2e_mean / best.e2e_mean:.2g} times the mean E2E ({other.e2e_mean:,.0f} ms)."
    )


def _at_other_rates(advice: Advice) -> list[str]:
    """At which acceptance rates another way to speculate is the best."""
    bounded, allowed = advice.has_slo, advice.allowed
    found = []
    for flip in advice.flips:
        wins, stays = flip.wins, flip.stays
        more = ""
        if bounded and stays.slack > allowed:
            keeps = wins.slack <= allowed and advice.best.slack <= 1
            more = ", which does not keep the SLO" if keeps else ", which misses the SLO by more"
        found.append(
            f"of {flip.rate:g}: {wins.layout.method} ({wait(wins)} against {wait(stays)} "
            f"of {stays.layout.method}{more})"
        )
    if not found:
        return []
    count = advice.ways[0].requests
    return [
        f"With an acceptance rate {'; '.join(found)}. Mean E2E at TP {advice.best.layout.tp}, "
        f"of {part(advice, count)}."
    ]


def _at_the_edge(advice: Advice) -> list[str]:
    """Whether still more drafts would be better, where the best layout has the most."""
    best, beyond = advice.best.layout, advice.beyond
    if beyond is None:
        return []
    same = next(one for one in advice.screened if one.layout == best)
    change = beyond.e2e_mean / same.e2e_mean - 1
    says = f"{abs(change):.0%} {'faster' if change < 0 else 'slower'}"
    return [
        f"{best.drafts} drafts a step are the most that were compared. {beyond.layout.drafts} "
        f"would be {says if abs(change) >= 0.005 else 'as fast'} ({wait(beyond)} against "
        f"{wait(same)}, mean E2E), if drafts that far ahead were accepted as often as the "
        "first."
    ]
