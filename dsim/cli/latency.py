"""``dsim latency``."""

from __future__ import annotations

from pathlib import Path

import click

from dsim.cli.options import Number, Whole
from dsim.cli.shared import (
    dtype_option,
    gpu_option,
    named_drafter_option,
    page_options,
    say,
    tp_option,
)

NAMES = {"model": ("MODEL", ""), "gpu": ("--gpu", ""), "tp": ("--tp", ""), "dtype": ("--dtype", "")}
NAMES |= {"kv_dtype": ("--kv-dtype", ""), "drafter": ("--drafter", "")}


@click.command()
@click.argument("model")
@gpu_option(default="h100", show_default=True)
@tp_option(default=1)
@dtype_option
@click.option(
    "--kv-dtype", default="bf16", show_default=True, metavar="TYPE", help="Type of the KV cache."
)
@named_drafter_option
@click.option(
    "--memory",
    "utilisation",
    type=Number(0.05, 1),
    default=0.9,
    show_default=True,
    help="Part of the GPU memory that the server may use (gpu_memory_utilization).",
)
@click.option(
    "--max-batched-tokens",
    type=Whole(1),
    default=2048,
    show_default=True,
    help="Tokens of the largest forward (max_num_batched_tokens).",
)
@page_options("Write a page with the roofline drawn.")
def latency(
    *,
    model: str,
    gpu: str,
    tp: int,
    dtype: str | None,
    kv_dtype: str,
    drafter: str | None,
    utilisation: float,
    max_batched_tokens: int,
    as_json: bool,
    out: Path | None,
    open_: bool,
) -> None:
    """Estimate the pass latency of MODEL on given GPUs.

    MODEL is the name of a model (llama-3.3-70b, Qwen/Qwen3-8B) or a folder with a config.json.
    Nothing is measured. Prints the time over batch and context, the number of tokens from which
    arithmetic takes longer than memory, and the memory that is left for the KV cache.
    """
    from dsim.model.estimate import estimate
    from dsim.tasks import latency as task

    found = estimate(
        model,
        gpu,
        tp=tp,
        dtype=dtype,
        kv_dtype=kv_dtype,
        drafter=drafter,
        utilisation=utilisation,
        max_batched_tokens=max_batched_tokens,
        names=NAMES,
    )
    out = out or (Path("latency.html") if open_ else None)

    def write(path: Path) -> None:
        from dsim.tasks.latency_page import write_page

        write_page(found, path)

    lines = [task.as_json(found)] if as_json else task.as_text(found)
    say(lines, out, write, as_json=as_json)
    if open_:
        click.launch(str(out))
