"""``dsim advise``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsim.cli.options import Number, Whole, Word
from dsim.cli.progress import counting
from dsim.cli.shared import (
    acceptance_option,
    dtype_option,
    file_option,
    gpu_option,
    jobs_option,
    json_option,
    latency_options,
    page_option,
    plugin_option,
    preemptible_option,
    rank_shares_option,
    say,
    seed_option,
    trace_part_options,
)
from dsim.errors import Problem, UserError

if TYPE_CHECKING:
    from pathlib import Path

# Options that go with --gpu only, and others that have a meaning there.
SERVING = ["gpu", "dtype", "trace", "from_s", "for_s", "rate_scale", "prompt_tokens"]
SERVING += ["slo_ttft_ms", "slo_tpot_ms", "copied", "jobs"]
SHARED = (
    "target",
    "drafter",
    "acceptance",
    "rank_shares",
    "gpus",
    "rate",
    "tokens",
    "price",
    "seed",
)


def _option(name: str) -> str:
    """The option of the parameter *name*."""
    command = click.get_current_context().command
    return next(p.opts[0] for p in command.params if p.name == name)


def _is_given(name: str) -> bool:
    """Whether the command line says something of the parameter *name*."""
    source = click.get_current_context().get_parameter_source(name)
    return source is click.core.ParameterSource.COMMANDLINE


def _serve(options: dict[str, Any], as_json: bool, out: Path | None) -> None:
    """Advise on replicas, by the *options* that are given."""
    from dsim.study.executors import Executor
    from dsim.system import available_cores
    from dsim.tasks.serving import answer, question, search

    for name in options:
        if name not in (*SERVING, *SHARED):
            what = "has no meaning together with --gpu"
            if name == "gpus_per_target":
                what += ", which tries each degree that the model fits on"
            raise UserError(Problem(_option(name), "", what))
    for name in ("from_s", "for_s"):
        if name in options and "trace" not in options:
            raise UserError(Problem(_option(name), "", "goes together with --trace"))
    jobs = options.pop("jobs", None) or len(available_cores())
    if "acceptance" in options:
        try:
            options["acceptance"] = Number(0, 1).convert(options["acceptance"], None, None)
        except click.BadParameter as error:
            raise UserError(Problem("--acceptance", "", error.message)) from None
    asked = question.ask(**{"target": None, "drafter": None, "gpus": 8, **options})

    advice = search.advise(asked, Executor(jobs=jobs), counting("trials simulated"))

    def write(path: Path) -> None:
        from dsim.tasks.serving.page import write_page

        write_page(advice, path)

    lines = [answer.as_json(advice)] if as_json else answer.as_text(advice)
    say(lines, out, write, as_json=as_json)


def _untried(*, of_servers: bool) -> list[str]:
    """A sentence on each orchestration of a plugin that is not tried."""
    from dsim.orchestrations import ORCHESTRATIONS
    from dsim.orchestrations.plugins import orchestrations

    needs = "methods that servers of models have" if of_servers else "what has a vector form"
    return [
        f"{name}, of a plugin, is not tried: dsim advise tries {needs}; a study simulates it under "
        "load, with workload.rate_per_s (see dsim docs tutorial-orchestration)"
        for name in orchestrations()
        if of_servers or not ORCHESTRATIONS[name].vector
    ]


@click.command()
@click.option(
    "--target",
    metavar="NAME",
    help="Target of a pair whose numbers ship, e.g. Vicuna-13B; with --gpu any model, e.g. "
    "llama-3.3-70b, or a folder with a config.json.",
)
@click.option(
    "--drafter",
    metavar="NAME",
    help="Drafter of that pair, e.g. Vicuna-68M; with --gpu eagle3, mtp, medusa or a model.",
)
@click.option("--dataset", metavar="NAME", help="Dataset, if the pair has several, e.g. Alpaca.")
@file_option("--pair", "pair", "FILE", "A measured profile of both models.")
@latency_options(
    "; or the file that dsim measure latency --json printed.  [default: 30]",
    "; or a file of the same kind.  [default: 3]",
    metavar="MS|FILE",
)
@acceptance_option(
    "; or the file that dsim measure acceptance --json printed.  [default: 0.8]", metavar="P|FILE"
)
@rank_shares_option("as in the file of --acceptance, else never; with --gpu 0.4,0.2,0.1")
@click.option("--gpus", type=Whole(1, 4096), default=8, show_default=True, help="Number of GPUs.")
@click.option(
    "--gpus-per-target",
    type=Whole(1),
    default=1,
    show_default=True,
    help="Minimum number of GPUs (TP degree) for one copy of the target; --target-latency must be "
    "measured at this degree.",
)
@click.option(
    "--tp-gain",
    type=Number(1, 2),
    default=1.7,
    show_default=True,
    help="How many times as fast a pass is on twice as many GPUs (tensor parallelism).",
)
@click.option(
    "--drafters-per-gpu",
    type=Whole(1, 64),
    default=1,
    show_default=True,
    help="Number of drafter servers that one GPU holds.",
)
@click.option(
    "--rate",
    type=Number(),
    metavar="R",
    help="Requests per second.  [default: one request at a time; 1 with --gpu]",
)
@click.option(
    "--tokens",
    type=Whole(1, 100_000),
    default=100,
    help="Number of tokens to generate per request.  [default: 100; 250 with --gpu]",
)
@click.option(
    "--objective",
    type=Word(["latency", "p99", "throughput", "price", "slo"]),
    default="latency",
    show_default=True,
    help="What to optimise.",
)
@click.option(
    "--slo",
    type=Number(),
    metavar="MS",
    help="End-to-end latency target, in ms, for --objective slo.",
)
@click.option(
    "--batch",
    type=Whole(1, 4096),
    default=1,
    show_default=True,
    help="Maximum batch size of a target server (sequences per pass).",
)
@click.option(
    "--batch-cost",
    type=Number(0),
    default=0.0,
    show_default=True,
    metavar="MS",
    help="Extra latency per additional sequence in the batch, in ms.",
)
@click.option(
    "--width-cost",
    type=Number(0),
    default=0.0,
    show_default=True,
    metavar="MS",
    help="Extra latency of a pass per additional token that it verifies, of all its sequences, in "
    "ms.",
)
@click.option("--price", type=Number(0), default=0.0, help="Price of a GPU-hour, in any currency.")
@click.option("--watts", type=Number(0), metavar="W", help="GPU power under load, in watts.")
@click.option("--idle-watts", type=Number(0), metavar="W", help="GPU power when idle, in watts.")
@preemptible_option(default=False)
@seed_option
@json_option()
@page_option("Write a page with the Pareto front.")
@gpu_option(
    ": advise on replicas that serve many requests in lock step (vLLM, SGLang), with estimated "
    "latencies. The options below go with it"
)
@dtype_option
@file_option("--trace", "trace", "FILE", "The requests: a trace, as dsim trace reads it.")
@trace_part_options
@click.option(
    "--prompt-tokens",
    type=Whole(1),
    metavar="N",
    help="Without a trace: number of tokens of each prompt.  [default: 1000]",
)
@click.option(
    "--slo-ttft",
    "slo_ttft_ms",
    type=Number(0, min_open=True),
    metavar="MS",
    help="Bound on the p99 of TTFT, the time to the first token.",
)
@click.option(
    "--slo-tpot",
    "slo_tpot_ms",
    type=Number(0, min_open=True),
    metavar="MS",
    help="Bound on the p99 of TPOT, the time per further token of a request.",
)
@click.option(
    "--copied",
    type=Number(0, 1, min_open=True),
    metavar="SHARE",
    help="Share of an answer that repeats earlier text, where n-grams have drafts.  "
    "[default: 0.33]",
)
@jobs_option
@plugin_option
def advise(*, as_json: bool, out: Path | None, **options: Any) -> None:
    """Recommend what to run on given GPUs under a given load.

    Estimates every layout that the GPUs allow (algorithm, lookahead, servers, tensor parallelism),
    simulates the best of them under the load, and says in one sentence what to run.

    With --gpu: tensor parallelism, replicas, speculation and prefill replicas for a load and an
    SLO, with launch commands of vLLM and SGLang. For example: dsim advise --target llama-3.3-70b
    --gpu h100 --gpus 8 --trace azure.csv --slo-ttft 500 --slo-tpot 40
    """
    given = {name for name in options if _is_given(name)}
    for told in _untried(of_servers=options["gpu"] is not None):
        click.echo(f"… {told}", err=True)
    if options["gpu"] is not None:
        _serve({name: options[name] for name in given}, as_json, out)
        return
    for name in SERVING:
        if name in given:
            raise UserError(Problem(_option(name), "", "goes together with --gpu"))
    options = {name: value for name, value in options.items() if name not in SERVING}
    from dsim.tasks.advise import answer, question

    advice = answer.advise(question.ask(**options), counting("steps"))

    def write(path: Path) -> None:
        from dsim.tasks.advise import page

        page.write_page(advice, path)

    lines = [answer.as_json(advice)] if as_json else answer.as_text(advice)
    say(lines, out, write, as_json=as_json)
