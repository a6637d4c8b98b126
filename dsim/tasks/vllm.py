"""What users of a vLLM server wait for under an open-loop load, from names alone.

Rows are those of ``published/vllm_measured.csv``: runs of inference-perf against vLLM 0.15. Its
workloads repeat a few dozen prompts, each of a system prompt and a question, at even gaps
(inference-perf's ``shared_prefix`` profiles ``general`` and ``codegen``: 9 × 5 and 11 × 4 prompts,
100 tokens of system prompt). So a prompt is in the prefix cache when it comes again, unless the
requests in between have filled the memory.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from dsim.model.estimate import estimate
from dsim.model.steady import Steady, steady

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dsim.model.estimate import Estimate
    from dsim.model.roofline import Constants

MEASURES = ("ttft", "itl", "e2e")
DISTINCT_PROMPTS = 45
SYSTEM_TOKENS = 100
BLOCK_TOKENS = 16
MAX_NUMBER = 1e7  # of tokens, blocks, requests/s, seconds
MIN_RATE = 1e-6
DEFAULT_STAGE_S = 600.0
DTYPES = {"FP16": "bf16", "BF16": "bf16", "FP8": "fp8", "INT8": "int8", "W8A8": "int8"}
DTYPES |= {"INT4": "int4", "W4A16": "int4", "AWQ": "int4", "GPTQ": "int4"}


def number(
    row: Mapping[str, str], column: str, default: float | None = None, *, least: float = 1
) -> float:
    """The number in *column*.

    Raises:
        ValueError: there is none and no *default*, or no possible one.
    """
    text = (row.get(column) or "").strip()
    if not text and default is not None:
        return default
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{column}: expected a number, got {text or 'nothing'}") from None
    if not least <= value <= MAX_NUMBER:
        wanted = f"from {least:g} to {MAX_NUMBER:,.0f}"
        raise ValueError(f"{column}: expected a number {wanted}, got {text}")
    return value


def stages_of(row: Mapping[str, str]) -> list[tuple[float, float]]:
    """Rate (requests/s) and duration (s) of each stage of the load that *row* is about.

    Raises:
        ValueError: they cannot be read.
    """
    found = re.findall(r"([\d.]+)\s*req/s\s*x\s*([\d.]+)\s*s", row.get("stages") or "")
    stages = [
        (number({"stages": rate}, "stages", least=MIN_RATE), number({"stages": s}, "stages"))
        for rate, s in found
    ]
    which = (row.get("stage") or "all").strip()
    if which == "all" and stages:
        return stages
    if which.isdigit() and int(which) < len(stages):
        return [stages[int(which)]]
    return [(number(row, "stage_rate_rps", least=MIN_RATE), DEFAULT_STAGE_S)]


def estimate_of(row: Mapping[str, str]) -> Estimate:
    """The model on its GPUs.

    Raises:
        ValueError: a number is missing.
        UserError: a name is unknown, or the model does not fit.
    """
    precision = (row.get("precision") or "").strip().upper()
    return estimate(
        row["model"],
        row["hardware"],
        tp=int(number(row, "tp", 1)),
        dtype=DTYPES.get(precision),
        utilisation=min(1.0, number(row, "gpu_mem_util", 0.9, least=0.01)),
        max_batched_tokens=int(number(row, "max_num_batched_tokens", 2048)),
        names={"gpu": ("hardware", "")},
    )


def of_stage(row: Mapping[str, str], found: Estimate, rate_per_s: float, seconds: float) -> Steady:
    """What users wait for in one stage of the load."""
    prompt, output = int(number(row, "prompt_tokens")), int(number(row, "output_tokens"))
    blocks = number(row, "total_kv_blocks", found.memory.kv_blocks(BLOCK_TOKENS))
    kv_tokens = blocks * BLOCK_TOKENS
    whole = prompt + output

    def at(cached: int) -> Steady:
        return steady(
            found.target,
            rate_per_s / number(row, "dp", 1),
            prompt,
            output,
            cached_tokens=cached,
            max_batched_tokens=int(number(row, "max_num_batched_tokens", 2048)),
            max_seqs=max(1, int(min(number(row, "max_num_seqs", 128), kv_tokens // whole))),
            seconds=seconds,
        )

    hit = at((prompt - 1) // BLOCK_TOKENS * BLOCK_TOKENS)
    kept = kv_tokens - hit.batch * (prompt + output / 2)
    if DISTINCT_PROMPTS * whole <= kept:
        return hit
    return at(min(SYSTEM_TOKENS, prompt - 1) // BLOCK_TOKENS * BLOCK_TOKENS)


def predict_vllm(row: Mapping[str, str], constants: Constants | None = None) -> dict[str, float]:
    """Mean TTFT, ITL and E2E latency (ms) of a row.

    Args:
        row: cells by column; which of the measured ones are there does not matter.
        constants: of the roofline; ``None``: those that ship.

    Raises:
        ValueError: a number is missing.
        UserError: a name is unknown, or the model does not fit.
    """
    found = estimate_of(row)
    if constants is not None:
        target = dataclasses.replace(found.target, constants=constants)
        found = dataclasses.replace(found, target=target)
    total, sums = 0.0, dict.fromkeys(MEASURES, 0.0)
    for rate, seconds in stages_of(row):
        stage = of_stage(row, found, rate, seconds)
        weight = rate * seconds
        for measure in MEASURES:
            sums[measure] += weight * getattr(stage, f"{measure}_ns") / 1e6
        total += weight
    return {measure: value / total for measure, value in sums.items()}
