"""``dsim latency``: how long the forwards of a model take on given GPUs, nothing measured."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dsim.model.roofline import GIB
from dsim.report.tables import text_table
from dsim.units import to_ms
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.model.estimate import Estimate
    from dsim.model.roofline import Roofline

BATCHES = (1, 8, 32, 64, 128, 256)
CONTEXTS = (0, 1_000, 4_000, 16_000, 64_000)
PROMPTS = (128, 512, 2_048, 8_192)
BLOCK_TOKENS = 16


def decode_ns(roofline: Roofline, sequences: int, context: int) -> int:
    """A forward in which each of *sequences* sequences on *context* tokens feeds one token."""
    pairs = sequences * (context + 0.5)
    return roofline.forward_ns(sequences, pairs, sequences * context, sequences)


def prompt_ns(roofline: Roofline, tokens: int) -> int:
    """A forward that reads a prompt of *tokens* tokens."""
    return roofline.forward_ns(tokens, tokens * tokens / 2, 0, 1)


def rows_of(estimate: Estimate) -> list[dict[str, Any]]:
    """Times over tokens and context: one row each, for the target and then the drafter."""
    rows = []
    for role, roofline in (("target", estimate.target), ("drafter", estimate.drafter)):
        if roofline is None:
            continue
        kinds = [("decode", n, c, decode_ns(roofline, n, c)) for c in CONTEXTS for n in BATCHES]
        kinds += [("prefill", n, 0, prompt_ns(roofline, n)) for n in PROMPTS]
        rows += [
            {"model": role, "kind": kind, "tokens": n, "context": c, "latency_ms": to_ms(ns)}
            for kind, n, c, ns in kinds
        ]
    return rows


def as_json(estimate: Estimate) -> str:
    """The answer as one JSON object."""
    target, drafter, memory = estimate.target, estimate.drafter, estimate.memory
    found = {
        "model": target.shape.name,
        "parameters": target.shape.parameters,
        "drafter": drafter.shape.name if drafter else None,
        "gpu": target.gpu.name,
        "tp": target.tp,
        "dtype": target.dtype,
        "kv_dtype": target.kv_dtype,
        "knee_tokens": target.knee_tokens() or None,
        "memory_gib": {
            "usable": memory.usable / GIB,
            "weights": memory.weights / GIB,
            "activations": memory.activations / GIB,
            "kv": memory.left / GIB,
        },
        "kv_bytes_per_token": memory.kv_bytes_per_token,
        "kv_blocks": memory.kv_blocks(BLOCK_TOKENS),
        "constants": vars(target.constants),
        "rows": rows_of(estimate),
        "warning": estimate.warning or None,
    }
    return json.dumps(found, indent=1)


def headline(estimate: Estimate) -> str:
    """What was asked, in one line."""
    target = estimate.target
    gpus = f"{target.tp} × {target.gpu.title}" if target.tp > 1 else target.gpu.title
    return (
        f"{target.shape.name} ({target.shape.parameters / 1e9:.4g} · 10⁹ parameters) on {gpus}, "
        f"{target.dtype} weights, {target.kv_dtype} KV cache"
    )


def facts(estimate: Estimate) -> list[str]:
    """The knee, and what the memory is used for, in sentences."""
    target, memory = estimate.target, estimate.memory
    knee = target.knee_tokens()
    blocks = memory.kv_blocks(BLOCK_TOKENS)
    lines = [
        f"Knee: from {plural(knee, 'token')} in a forward on, arithmetic takes longer than reading "
        "the weights; below, a further token is nearly free."
        if knee
        else "Knee: none; reading the weights always takes longer than arithmetic.",
        f"Memory of each GPU: {memory.usable / GIB:.1f} GiB for the server; weights "
        f"{memory.weights / GIB:.1f}, working memory {memory.activations / GIB:.1f}, KV cache "
        f"{memory.left / GIB:.1f}: {plural(blocks, 'block')} of {BLOCK_TOKENS} tokens, "
        f"{plural(blocks * BLOCK_TOKENS, 'token')} in all.",
    ]
    if target.dtype not in ("fp32", "bf16", "fp16", *target.gpu.tflops):
        lines.append(
            f"{target.gpu.name} has no {target.dtype} arithmetic: weights are stored in "
            f"{target.dtype} and widened to bf16."
        )
    return lines


def as_text(estimate: Estimate) -> list[str]:
    """The answer for a terminal."""
    lines, room = [headline(estimate)], estimate.memory.kv_blocks(BLOCK_TOKENS) * BLOCK_TOKENS
    for role, roofline in (("target", estimate.target), ("drafter", estimate.drafter)):
        if roofline is None:
            continue
        name = "" if role == "target" else f" of the drafter ({roofline.shape.name})"
        lines += ["", f"Time of a forward{name} (ms); one token of each sequence:", ""]
        head = ["sequences", *(f"context {c:,}" for c in CONTEXTS)]
        cells = [
            [f"{to_ms(decode_ns(roofline, n, c)):.2f}" if n * c <= room else "–" for c in CONTEXTS]
            for n in BATCHES
        ]
        lines += text_table(head, [[f"{n}", *row] for n, row in zip(BATCHES, cells, strict=True)])
        read = ", ".join(f"{n:,} tokens {to_ms(prompt_ns(roofline, n)):.1f} ms" for n in PROMPTS)
        lines += ["", f"Reading a prompt: {read}."]
    lines += ["", "–: the KV cache does not hold so many tokens.", *facts(estimate)]
    lines += ["Estimated by a roofline (dsim docs latency); nothing was measured on this machine."]
    lines += [estimate.warning] if estimate.warning else []
    return lines
