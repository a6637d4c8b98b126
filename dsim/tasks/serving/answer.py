"""The answer of ``dsim advise --gpu``: the verdict, tables, launch commands, JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
from typing import TYPE_CHECKING, Any

from dsim.model.gpu import gpu_of
from dsim.report.tables import text_table
from dsim.study.presets import PRESETS
from dsim.tasks.serving.search import BELOW, SCALES
from dsim.tasks.serving.trials import NGRAM
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.tasks.serving.question import Question
    from dsim.tasks.serving.search import Advice
    from dsim.tasks.serving.trials import Layout, Trial

METHODS_HEAD = ("speculation", "TTFT p99", "TPOT p50", "p99", "E2E")
HEAD = ("layout", "TTFT p50", "p99", "TPOT p50", "p99", "E2E", "tok/s/GPU", "batch", "up to")
MAX_SEQS, MAX_BATCHED_TOKENS = 128, 2048
METHODS = {"eagle3": "EAGLE3", "mtp": "NEXTN", NGRAM: "NGRAM"}  # in SGLang
PROMPT_LOOKUP_MAX = 4  # of vLLM: words that are looked up


def _slo(question: Question) -> str:
    bounds = (("TTFT", question.slo_ttft_ms), ("TPOT", question.slo_tpot_ms))
    return " and ".join(f"p99 {name} ≤ {bound:g} ms" for name, bound in bounds if bound is not None)


def times(value: float) -> str:
    """A scale of the load in words."""
    if value == BELOW:
        return "under 1 ×"
    if math.isinf(value):
        return f"{max(SCALES):g} × or more"
    return f"{value:.3g} ×" if value else "–"


def verdict(advice: Advice) -> str:
    """The answer in one or two sentences."""
    question, best = advice.question, advice.best
    found = (
        f"p99 TTFT {best.ttft_p99:.0f} ms, p99 TPOT {best.tpot_p99:.1f} ms, mean E2E "
        f"{best.e2e_mean:,.0f} ms"
    )
    if not advice.has_slo:
        return f"Run {best.layout}: {found}."
    if best.slack > 1:
        return (
            f"No layout of {plural(question.gpus, 'GPU')} keeps {_slo(question)}. The closest is "
            f"{best.layout}: {found}."
        )
    room = advice.headroom[best.layout]
    limit = f" It keeps the SLO at every load tried, up to {max(SCALES):g} × this one"
    if math.isfinite(room):
        limit = f" It keeps the SLO up to {times(room)} the load"
        limit += f" ({room * question.rate_per_s:.3g} requests/s)"
    return f"Run {best.layout}: {found} ({_slo(question)}).{limit}.{_faster(advice)}"


def faster(advice: Advice) -> Trial | None:
    """The fastest layout that keeps the SLO, where the best is another, which carries more load."""
    if not advice.has_slo or advice.best.slack > 1:
        return None
    other = min((one for one in advice.ranking if one.slack <= 1), key=lambda one: one.e2e_mean)
    return other if other.e2e_mean < advice.best.e2e_mean else None


def _faster(advice: Advice) -> str:
    best, other = advice.best, faster(advice)
    if other is None:
        return ""
    room = times(advice.headroom[other.layout])
    return (
        " It is chosen because it keeps the SLO up to the highest load. At this load "
        f"{other.layout} is {best.e2e_mean / other.e2e_mean:.2g} times as fast (mean E2E "
        f"{other.e2e_mean:,.0f} ms), and keeps the SLO up to {room} the load."
    )


def notes(advice: Advice) -> list[str]:
    """What else was found, and what the answer hangs on."""
    question, best, lines = advice.question, advice.best, []
    enough = next((one for one in advice.fewer if one.slack <= 1), None)
    if enough is not None:
        lines.append(
            f"With {plural(enough.layout.gpus, 'GPU')} it keeps the SLO too ({enough.layout}): "
            f"p99 TTFT {enough.ttft_p99:.0f} ms, p99 TPOT {enough.tpot_p99:.1f} ms."
        )
    elif advice.fewer:
        lines.append("With fewer replicas it does not keep the SLO.")
    if advice.crossover is None:
        lines.append(
            f"Speculation pays at every load tried, up to {max(SCALES):g} × this one "
            f"(TP {best.layout.tp}, mean E2E)."
        )
    elif not math.isnan(advice.crossover):
        lines.append(
            f"Speculation stops paying at about {advice.crossover:.2g} × this load, "
            f"{advice.crossover * question.rate_per_s:.3g} requests/s (TP {best.layout.tp}, mean "
            "E2E); above it, plain decoding is faster."
        )
    lines += [*_at_other_rates(advice), *_at_the_edge(advice)]
    gpu = gpu_of(question.gpu)
    trust = (
        "on H100 the estimate of latencies is off by 5 % (ITL) to 8 % (TTFT) in the median"
        if gpu.name == "h100"
        else f"the estimate of latencies was fitted on H100, and is a guess on {gpu.name}"
    )
    shares = ", ".join(f"{share:g}" for share in question.rank_shares)
    lines.append(
        f"The answer depends on the acceptance rate ({question.acceptance:g}, the same at every "
        f"draft), for trees on how often further choices are right ({shares}: --rank-shares), for "
        f"n-grams on the copied part of an answer ({question.copied:.0%}), and on the latencies: "
        f"{trust} (dsim docs latency). Measure both before you buy."
    )
    return lines


def _seconds(one: Trial) -> str:
    return f"{one.e2e_mean / 1e3:.2f} s"


def _at_other_rates(advice: Advice) -> list[str]:
    """At which acceptance rates another way to speculate is the best."""
    bounded = advice.has_slo
    found = []
    for flip in advice.flips:
        wins, stays = flip.wins, flip.stays
        more = ""
        if bounded and stays.slack > 1:
            more = ", which does not keep the SLO" if wins.slack <= 1 else ", further from the SLO"
        found.append(
            f"of {flip.rate:g}: {wins.layout.method} ({_seconds(wins)} against {_seconds(stays)} "
            f"of {stays.layout.method}{more})"
        )
    if not found:
        return []
    count = advice.ways[0].requests
    return [
        f"With an acceptance rate {'; '.join(found)}. Mean E2E at TP {advice.best.layout.tp}, "
        f"{_part(advice, count)}."
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
        f"would be {says if abs(change) >= 0.005 else 'as fast'} ({_seconds(beyond)} against "
        f"{_seconds(same)}, mean E2E), if drafts that far ahead were accepted as often as the "
        "first."
    ]


def _part(advice: Advice, count: int) -> str:
    """*count* requests in words: a part of the load, or all of it."""
    if count >= len(advice.question.replay.requests):
        return f"of all {count:,} requests"
    return f"of the {count:,} requests that come closest together"


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
            times(advice.headroom[one.layout]) if advice.has_slo else "–",
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


def commands(question: Question, layout: Layout) -> list[str]:
    """Launch commands of vLLM and SGLang that mean the same."""
    hub, drafter = question.hub, question.drafter
    lengths = f"--max-num-seqs {MAX_SEQS} --max-num-batched-tokens {MAX_BATCHED_TOKENS}"
    vllm = f"vllm serve {hub} --tensor-parallel-size {layout.tp} {lengths}"
    sglang = f"python -m sglang.launch_server --model-path {hub} --tp {layout.tp}"
    if question.dtype == "fp8":
        vllm, sglang = f"{vllm} --quantization fp8", f"{sglang} --quantization fp8"
    if layout.preset == NGRAM:
        config: dict[str, Any] = {"method": NGRAM, "num_speculative_tokens": layout.drafts}
        config["prompt_lookup_max"] = PROMPT_LOOKUP_MAX
        vllm += f" --speculative-config {shlex.quote(json.dumps(config))}"
        sglang += f" --speculative-algorithm {METHODS[NGRAM]}"
        sglang += f" --speculative-num-draft-tokens {layout.drafts + 1}"
    elif layout.preset:
        settings = PRESETS[layout.preset].settings
        vllm = f"# vLLM has no flags for this tree ({layout.preset} of dsim presets)"
        sglang += f" --speculative-algorithm {METHODS.get(drafter, 'EAGLE')}"
        sglang += f" --speculative-draft-model-path PATH-OF-{drafter.upper()}-HEAD"
        sglang += (
            f" --speculative-num-steps {settings.get('tree.depth', len(settings))}"
            f" --speculative-eagle-topk {settings.get('tree.branches', 1)}"
            f" --speculative-num-draft-tokens {layout.drafts + 1}"
        )
    elif layout.drafts:
        config = {"num_speculative_tokens": layout.drafts}
        if drafter in ("eagle3", "medusa"):
            config = {"method": drafter, "model": f"PATH-OF-{drafter.upper()}-HEAD", **config}
        elif drafter == "mtp":
            config = {"method": "mtp", **config}
        else:
            config = {"model": drafter, **config}
        vllm += f" --speculative-config {shlex.quote(json.dumps(config))}"
        sglang += f" --speculative-algorithm {METHODS.get(drafter, 'STANDALONE')}"
        if drafter != "mtp":
            sglang += f" --speculative-draft-model-path {config.get('model', drafter)}"
        sglang += (
            f" --speculative-num-steps {layout.drafts} --speculative-eagle-topk 1"
            f" --speculative-num-draft-tokens {layout.drafts + 1}"
        )
    return [vllm, sglang]


def as_text(advice: Advice) -> list[str]:
    """The answer for a terminal."""
    question, best = advice.question, advice.best.layout
    load = f"{question.load}; {question.rate_per_s:.3g} requests/s in the mean"
    lines = [verdict(advice), "", f"Load: {load}.", "", *text_table(HEAD, rows(advice)), ""]
    lines += [reading(advice), "", f"{compared(advice)}:", ""]
    lines += [*text_table(METHODS_HEAD, methods(advice)), "", *notes(advice), "", "One replica:"]
    lines += [f"  {command}" for command in commands(question, best)]
    if best.chooses:
        lines.append("  (neither chooses k in every step by goodput; this is its upper bound)")
    if best.readers:
        lines.append(f"  ({plural(best.readers, 'replica')} only for prompts: see their documents)")
    if other := faster(advice):
        lines += ["", f"One replica of the fastest, {other.layout}:"]
        lines += [f"  {command}" for command in commands(question, other.layout)]
    return lines


def reading(advice: Advice) -> str:
    """How the table of the finalists is to be read."""
    return (
        f"Times in ms, {_part(advice, advice.best.requests)}. TPOT: "
        "time per token of a request, after its first one. batch: requests in a step, mean. up to: "
        "the load up to which the SLO is kept, in multiples of the given one, roughly."
    )


def compared(advice: Advice) -> str:
    """What the table of the ways to speculate compares."""
    tp = advice.best.layout.tp
    return f"Ways to speculate at TP {tp}, on the 400 requests that come closest together"


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
        "crossover": None if advice.crossover is None else finite(advice.crossover),
        "ranking": [plain(one) for one in advice.ranking],
        "screened": [plain(one) for one in advice.screened],
        "curves": [plain(one) for curve in advice.curves.values() for one in curve],
        "fewer": [plain(one) for one in advice.fewer],
        "commands": dict(
            zip(("vllm", "sglang"), commands(advice.question, best.layout), strict=True)
        ),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
