"""``dsim advise``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dsim.cli.options import Number, Whole, Word, plugin_option, seed_option


@click.command()
@click.option(
    "--target", metavar="NAME", help="Target of a pair whose numbers ship, e.g. Vicuna-13B."
)
@click.option("--drafter", metavar="NAME", help="Drafter of that pair, e.g. Vicuna-68M.")
@click.option("--dataset", metavar="NAME", help="Dataset, if the pair has several, e.g. Alpaca.")
@click.option(
    "--pair",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A measured profile of both models.",
)
@click.option(
    "--target-latency",
    metavar="MS|FILE",
    help="Latency of one target pass, in ms; or the file that dsim measure latency --json printed."
    "  [default: 30]",
)
@click.option(
    "--drafter-latency",
    metavar="MS|FILE",
    help="Latency of one draft token, in ms; or such a file.  [default: 3]",
)
@click.option(
    "--acceptance",
    metavar="P|FILE",
    help="Acceptance rate; or the file that dsim measure acceptance --json printed."
    "  [default: 0.8]",
)
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
    help="Requests per second.  [default: one request at a time]",
)
@click.option(
    "--tokens",
    type=Whole(1, 100_000),
    default=100,
    show_default=True,
    help="Number of tokens that a request generates.",
)
@click.option(
    "--objective",
    type=Word(["latency", "throughput", "price", "slo"]),
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
@click.option("--price", type=Number(0), default=0.0, help="Price of a GPU-hour, in any currency.")
@click.option("--watts", type=Number(0), metavar="W", help="GPU power under load, in watts.")
@click.option("--idle-watts", type=Number(0), metavar="W", help="GPU power when idle, in watts.")
@click.option(
    "--preemptible/--no-preemptible",
    default=False,
    show_default=True,
    help="Whether a cancelled pass frees its server at once (a GPU cannot do that).",
)
@seed_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write a page with the Pareto front.",
)
@plugin_option
def advise(*, as_json: bool, out: Path | None, **options: Any) -> None:
    """Recommend what to run: algorithm, lookahead, servers and tensor parallelism.

    Estimates every layout that the GPUs allow, simulates the best of them under the load, and says
    in one sentence what to run, or not to speculate.
    """
    from dsim.tasks.advise import answer, question

    def progress(done: int, count: int) -> None:
        if sys.stderr.isatty():
            text = f"simulating layout {done + 1} of {count}" if done < count else ""
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    advice = answer.advise(question.ask(**options), progress)
    if out is not None:
        from dsim.tasks.advise import page

        page.write_page(advice, out)
    lines = [answer.as_json(advice)] if as_json else answer.as_text(advice)
    for line in lines:
        click.echo(line)
    if out is not None and not as_json:
        click.echo(f"page: {out}")
