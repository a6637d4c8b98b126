"""``dsim advise``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click


@click.command()
@click.option("--target", metavar="NAME", help="Of a pair whose numbers ship, like Vicuna-13B.")
@click.option("--drafter", metavar="NAME", help="Likewise, like Vicuna-68M.")
@click.option("--dataset", metavar="NAME", help="Where a pair has several, like Alpaca.")
@click.option(
    "--pair",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A measured profile of both models.",
)
@click.option(
    "--target-latency",
    metavar="MS|FILE",
    help="Of a pass; or what dsim measure latency --json printed.  [default: 30]",
)
@click.option("--drafter-latency", metavar="MS|FILE", help="Of a draft.  [default: 3]")
@click.option(
    "--acceptance",
    metavar="P|FILE",
    help="Rate; or what dsim measure acceptance --json printed.  [default: 0.8]",
)
@click.option("--gpus", type=click.IntRange(1, 4096), default=8, show_default=True)
@click.option(
    "--gpus-per-target",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="The least that hold a target; --target-latency is on these.",
)
@click.option(
    "--tp-gain",
    type=click.FloatRange(1, 2),
    default=1.7,
    show_default=True,
    help="How many times as fast a pass is on twice as many GPUs (tensor parallelism).",
)
@click.option(
    "--drafters-per-gpu",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Drafter servers that one GPU holds.",
)
@click.option("--rate", type=float, metavar="R", help="Requests / s.  [default: one at a time]")
@click.option("--tokens", type=click.IntRange(1, 100_000), default=100, show_default=True)
@click.option(
    "--objective",
    type=click.Choice(["latency", "throughput", "price", "slo"]),
    default="latency",
    show_default=True,
)
@click.option("--slo", type=float, metavar="MS", help="Time to the last token, for slo.")
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    default=1,
    show_default=True,
    help="Most forwards that a target server does as one, and",
)
@click.option(
    "--batch-cost",
    type=click.FloatRange(0),
    default=0.0,
    metavar="MS",
    help="what each but the first adds.",
)
@click.option("--price", type=click.FloatRange(0), default=0.0, help="What a GPU-hour costs.")
@click.option(
    "--watts", type=click.FloatRange(0), metavar="W", help="What a GPU draws while it computes."
)
@click.option(
    "--idle-watts", type=click.FloatRange(0), metavar="W", help="What it draws while it does not."
)
@click.option("--preemptible/--no-preemptible", default=False, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write a page with the Pareto front.",
)
def advise(*, as_json: bool, out: Path | None, **options: Any) -> None:
    """What should I run? The best algorithm, lookahead, servers and tensor parallelism.

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
