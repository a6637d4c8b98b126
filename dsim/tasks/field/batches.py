"""Speed-ups at larger batches: a replica steps all requests at once, with estimated latencies.

What a source does not say of acceptance is fitted to its runs at *other* batches; nothing else is,
but a time of each round where the framework is far from the roofline (EAGLE's own code).
"""

from __future__ import annotations

import itertools
import math
import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from dsim.deployment.serve import serve
from dsim.deployment.workload import Length, Workload
from dsim.errors import UserError
from dsim.model.acceptance import TYPICAL_RANK_SHARES
from dsim.model.closed_forms import rate_of_length
from dsim.orchestrations import REFERENCES
from dsim.report.tables import TextTable
from dsim.study.build import deployment_of
from dsim.study.loader import make_study
from dsim.study.presets import PRESETS
from dsim.tasks.field.source import CannotError, Prediction, number, text
from dsim.tasks.field.trees import gpu_in, model_in
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from dsim.tasks.field.source import Found, Row, Rows

HEAD, SMALL = "eagle3", "qwen-2.5-0.5b"  # drafters
BLOCKS, STATIC_TREE = "dflash", "eagle"  # presets
PROMPT_TOKENS, TOKENS = 200, 96
STEP = 0.05
RATES = tuple(step / 20 for step in range(4, 20))  # that are tried
LOOKAHEADS = (1, 2, 3, 4, 5)  # that are tried, where none is published
MAX_BATCH = 512
INCONSISTENT = "TensorRT-LLM tech blog 7"
MIN_REQUESTS = 12
HALVINGS = 7


class System(NamedTuple):
    """What runs: names of the target, its GPUs and the drafter, and how it drafts.

    Attributes:
        target, gpu, tp, drafter: as ``dsim latency`` has them.
        preset: a method of ``dsim presets``; empty: a chain.
        prompt: tokens of a prompt.
    """

    target: str
    gpu: str
    tp: int
    drafter: str
    preset: str
    prompt: int


@cache
def tokens_per_s(
    system: System, batch: int, lookahead: int, rate: float, round_us: float = 0.0
) -> tuple[float, float]:
    """Tokens a second of a replica with as many users as the batch, and tokens a pass of a request.

    Args:
        system: what runs.
        batch: requests at once.
        lookahead: drafts of a chain; 0: plain decoding.
        rate: acceptance rate.
        round_us: time of each step of speculation that the roofline does not have.
    """
    algorithm: str = REFERENCES[0]
    more: dict[str, Any] = {}
    if lookahead:
        algorithm = REFERENCES[1]
        more = {"lookahead": lookahead, "replica.host_us": round_us}
        if system.preset:
            algorithm = PRESETS[system.preset].orchestration
            more |= {**PRESETS[system.preset].settings, "confidence_quality": 0.0}
            more["acceptance.rank_shares"] = list(TYPICAL_RANK_SHARES)
    settings: dict[str, Any] = {
        "algorithms": [algorithm],
        "target.model": system.target,
        "gpu": system.gpu,
        "tp": system.tp,
        "drafter.model": system.drafter,
        "acceptance.rate": rate,
        "replica.count": 1,
        "replica.max_seqs": batch,
        "replica.max_batched_tokens": 16_384,
        "replica.kv_blocks": 0,
        "replica.prefix_cache": False,
        "workload.prompt_tokens": 1,
        **more,
    }
    try:
        deployment = deployment_of(make_study(settings).of_variant(0), algorithm)
    except UserError as error:
        raise CannotError(f"latencies cannot be estimated: {error}") from None
    workload = Workload(
        arrivals="closed",
        users=batch,
        requests=max(MIN_REQUESTS, 2 * batch),
        prompt=Length(mean_tokens=system.prompt),
        output=Length(mean_tokens=TOKENS),
    )
    run = serve(deployment, workload)
    tokens = float(run.output_tokens.sum())
    passes = float(run.passes.sum()) - len(run.passes)  # but for those over prompts
    return tokens * 1e9 / run.end_ns, (tokens - len(run.passes)) / max(1.0, passes)


def speedup(
    system: System, batch: int, lookahead: int, rate: float, round_us: float = 0.0
) -> float:
    """Tokens a second over those of plain decoding."""
    plain = tokens_per_s(system, batch, 0, 0.5)[0]
    return tokens_per_s(system, batch, lookahead, rate, round_us)[0] / plain


def batch_of(row: Row) -> int:
    """Requests at once.

    Raises:
        CannotError: it is no whole number.
    """
    value = number({"batch": text(row, "batch").split(" ")[0].rstrip("?")}, "batch")
    if value is None or not 1 <= value <= MAX_BATCH or value != int(value):
        if INCONSISTENT in text(row, "source"):
            raise CannotError(
                "its tokens a round (1.66 to 1.77) are below the speed-up (1.96) of the same runs"
            )
        missing = text(row, "any_missing_inputs") or "settings"
        raise CannotError(f"not published: a batch for each speed-up, {missing}")
    return int(value)


def system_of(row: Row) -> System:
    """What runs, by the names of the row.

    Raises:
        CannotError: one of them is not known.
    """
    pair, hardware = text(row, "model_pair").lower(), text(row, "hardware").lower()
    target, gpu = model_in(pair), gpu_in(hardware)
    method = text(row, "method").lower()
    if target is None or gpu is None:
        raise CannotError(f"not published: {text(row, 'any_missing_inputs') or 'model, hardware'}")
    several = re.match(r"(\d)x", hardware) or re.search(r"70b: tp(\d)", hardware)
    tp = int(several[1]) if several and ("70b" in target or hardware[1] == "x") else 1
    drafter, preset = HEAD, ""
    named = model_in(pair.partition(" / ")[2].split(",")[0])
    if "eagle-1" in method:
        preset = STATIC_TREE
    elif "dflash" in method:
        preset = BLOCKS
    elif "0.5b draft" in pair:
        drafter = SMALL
    elif named:
        drafter = named
    elif "eagle" not in method:
        raise CannotError(f"not published: {text(row, 'any_missing_inputs') or 'the drafter'}")
    thousands = re.search(r"(\d+)k in", pair)
    prompt = 1000 * int(thousands[1]) if thousands else PROMPT_TOKENS
    return System(target, gpu, tp, drafter, preset, prompt)


def lookahead_of(row: Row, system: System) -> int | None:
    """Drafts of a chain; ``None``: not published."""
    if system.preset:
        return int(PRESETS[system.preset].settings.get("lookahead", 1))
    found = re.search(r"k\s*=\s*(\d{1,2})\b", f"{text(row, 'method')} {text(row, 'settings')}")
    return max(1, int(found[1])) if found else None


def published_rate(row: Row) -> float | None:
    """The acceptance rate that the row has."""
    found = re.search(r"alpha\s*=\s*(0?\.\d+)", text(row, "alpha_or_tau").lower())
    return float(found[1]) if found else None


def published_length(row: Row) -> float | None:
    """Tokens a pass that the row has."""
    found = re.match(r"tau\s*=\s*(\d+(\.\d+)?)$", text(row, "alpha_or_tau").lower())
    return float(found[1]) if found else None


def rate_for(system: System, length: float) -> float:
    """The acceptance rate with which a request settles so many tokens a pass."""
    low, high = 0.01, 0.995
    for _ in range(HALVINGS):
        rate = (low + high) / 2
        made = tokens_per_s(system, 1, 1, rate)[1]
        low, high = (rate, high) if made < length else (low, rate)
    return round((low + high) / 2, 3)


def alike(row: Row, system: System, others: Rows) -> list[tuple[int, float, Row]]:
    """The same runs at other batches: batch, speed-up, and the row."""
    columns = ["source", "hardware", "method", "settings"]
    if system.prompt == PROMPT_TOKENS:  # else there is a run with prompts of another length
        columns.append("model_pair")
    found = []
    for other in others:
        if all(text(row, column) == text(other, column) for column in columns):
            measured = number(other, "measured_speedup")
            try:
                if measured and measured > 0:
                    found.append((batch_of(other), measured, other))
            except CannotError:
                continue
    return found


def predict(row: Row, others: Rows) -> Prediction:
    """The speed-up at the batch of *row*.

    Raises:
        CannotError: names or settings are not known, or there is no run at another batch.
    """
    batch, system = batch_of(row), system_of(row)
    known = alike(row, system, others)
    lookahead, rate = lookahead_of(row, system), published_rate(row)
    length, round_us = published_length(row), 0.0
    if length is not None and system.preset:
        rate = rate_for(system, length)
        notes = f"tokens a pass as published (rate {rate:.2f} of a draft)"
        if known:
            nearest = min(known, key=lambda run: run[0])[:2]  # batch 1, if there is one
            round_us = _round_us(system, *nearest, rate)
            notes += f"; {round_us:.0f} µs a round beside the roofline, fitted to the run at batch "
            notes += f"{nearest[0]}"
        return Prediction(speedup(system, batch, 1, rate, round_us), notes=notes)
    if rate is None and length is not None and lookahead and 1 < length < lookahead + 0.99:
        rate = rate_of_length(length, lookahead)
    if rate is not None and lookahead is not None:
        notes = f"acceptance rate {rate:.3f} and {plural(lookahead, 'draft')} a step, as published"
        return Prediction(speedup(system, batch, lookahead, rate), notes=notes)
    if not known:
        raise CannotError("no run at another batch that tells acceptance and settings")

    def off(k: int, p: float) -> float:
        total = 0.0
        for size, measured, other in known:
            own = published_rate(other) or p
            total += math.log(speedup(system_of(other), size, k, own) / measured) ** 2
        return total

    rates: Sequence[float] = [rate] if rate is not None else RATES
    tried = itertools.product([lookahead] if lookahead else LOOKAHEADS, rates)
    k, p = min(tried, key=lambda pair: off(*pair))
    if rate is None:
        nearer = [p - STEP / 2, p, p + STEP / 2]
        p = round(min(nearer, key=lambda close: off(k, round(close, 3))), 3)
    fitted = [f"acceptance rate {p:g}"] if rate is None else []
    fitted += [f"{plural(k, 'draft')} a step"] if lookahead is None else []
    notes = f"{' and '.join(fitted)}, fitted to {plural(len(known), 'run')} at other batches"
    return Prediction(speedup(system, batch, k, p), notes=notes)


def crossover(points: Sequence[tuple[int, float]]) -> str:
    """The batch at which a speed-up falls to 1, between two of *points*, in words."""
    for (low, before), (high, after) in itertools.pairwise(points):
        if before >= 1 > after:
            part = math.log(before) / math.log(before / after)
            return f"{low * (high / low) ** part:.0f}"
    return f"above {points[-1][0]}" if points[-1][1] >= 1 else f"below {points[0][0]}"


def tables(found: Sequence[Found]) -> list[TextTable]:
    """Where speculation stops paying, of each series of batches: measured and predicted."""
    series: dict[tuple[str, ...], list[Found]] = {}
    for one in found:
        if one.measured and one.predicted:
            key = tuple(text(one.row, c) for c in ("model_pair", "method", "hardware"))
            series.setdefault(key, []).append(one)
    rows = []
    for (pair, method, hardware), unsorted in series.items():
        of = sorted(unsorted, key=lambda one: batch_of(one.row))
        all_three = [(batch_of(one.row), one.measured or 0.0, one.predicted or 0.0) for one in of]
        right = sum((was >= 1) == (said >= 1) for _, was, said in all_three)
        both = ([row[:2] for row in all_three], [row[::2] for row in all_three])
        if len(of) > 1:
            signs = f"{right} of {len(of)}"
            rows.append([f"{pair}, {method}, {hardware}", signs, *map(crossover, both)])
    caption = (
        "On which side of 1 a speed-up lies, and the batch at which it falls to 1, between the "
        "batches that were run."
    )
    head = ("series", "sides right", "measured", "predicted")
    title = "Batches: where speculation stops paying"
    return [TextTable(title=title, caption=caption, head=head, rows=rows)]


def _round_us(system: System, batch: int, measured: float, rate: float) -> float:
    """The time of a round, beside the roofline, with which the speed-up is *measured*."""
    low, high = 0.0, 100_000.0
    for _ in range(2 * HALVINGS):
        middle = (low + high) / 2
        faster = speedup(system, batch, 1, rate, middle) > measured
        low, high = (middle, high) if faster else (low, middle)
    return round(low, -1)
