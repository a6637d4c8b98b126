"""``dsim simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dsim.cli.options import OrchestrationName
from dsim.model import POLICIES
from dsim.orchestrations import ORCHESTRATIONS


@click.command()
@click.option(
    "--algorithm",
    "algorithms",
    type=OrchestrationName(),
    metavar=f"[{'|'.join(ORCHESTRATIONS)}]",
    multiple=True,
    help="What to simulate; repeatable.  [default: nonsi, si, dsi]",
)
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=None,
    help="N, tokens to generate.  [default: 100; the length of --accepts]",
)
@click.option("--lookahead", type=click.IntRange(1), default=5, show_default=True)
@click.option(
    "--lookahead-policy",
    type=click.Choice(POLICIES),
    default="fixed",
    show_default=True,
    help="Whether and how the lookahead adapts.",
)
@click.option(
    "--targets",
    default="7",
    show_default=True,
    metavar="S",
    help="Target servers of DSI: a number, or enough.",
)
@click.option("--target-latency", type=float, default=30.0, show_default=True, metavar="MS")
@click.option("--drafter-latency", type=float, default=3.0, show_default=True, metavar="MS")
@click.option("--target-first-latency", type=float, metavar="MS", help="Prefill of the target.")
@click.option("--drafter-first-latency", type=float, metavar="MS", help="Prefill of the drafter.")
@click.option("--acceptance", type=float, default=None, metavar="P", help="[default: 0.8]")
@click.option(
    "--accepts",
    metavar="110101…",
    help="Draws by position instead: 1 accepted, 0 rejected; at least N of them.",
)
@click.option(
    "--repeats", type=click.IntRange(1), default=None, help="[default: 20; 1 w. --accepts]"
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--preemptible/--no-preemptible", default=True, show_default=True)
@click.option(
    "--engine",
    type=click.Choice(["auto", "vector", "events"]),
    default="auto",
    show_default=True,
)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="As in dsim run.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--settled", is_flag=True, help="With --json: when every token settled.")
@click.option(
    "--timeline",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Draw who did what when, in the first repeat.",
)
@click.pass_context
def simulate(ctx: click.Context, /, **options: Any) -> None:
    """Simulate one case and compare the algorithms.

    With no options it is a sanity check: three algorithms on one plausible case.
    """
    from dsim.tasks import simulate as single

    given = {
        name
        for name in options
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    }
    if options["settled"] and not options["as_json"]:
        raise click.UsageError("--settled goes with --json")
    case, algorithms = single.case_from_options(options, given)
    outcomes = single.outcomes(case, algorithms, options["engine"])
    if options["timeline"] is not None:
        single.write_timeline(case, algorithms, options["timeline"])
    if options["as_json"]:
        with_settled = options["settled"] or options["accepts"] is not None
        click.echo(single.as_json(case, outcomes, settled=with_settled))
        return
    click.echo(single.as_text(case, outcomes))
    if options["timeline"] is not None:
        click.echo(f"timeline: {options['timeline']}")
