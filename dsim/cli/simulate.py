"""``dsim simulate``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from dsim.cli.options import Number, OrchestrationName, Whole, Word, numbers_in, paths_in
from dsim.cli.progress import counting
from dsim.cli.shared import (
    acceptance_option,
    draft_options,
    dtype_option,
    engine_option,
    gpu_option,
    json_option,
    latency_options,
    lookahead_options,
    named_drafter_option,
    plugin_option,
    preemptible_option,
    rank_shares_option,
    seed_option,
    set_option,
    timeline_option,
    tp_option,
)
from dsim.errors import Problem, UserError
from dsim.study.presets import PRESETS
from dsim.words import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Which option stands for which setting.
OPTIONS = {
    "tokens": "tokens",
    "lookahead": "lookahead",
    "lookahead_policy": "lookahead_policy",
    "targets": "targets",
    "target_latency": "target.latency_ms",
    "drafter_latency": "drafter.latency_ms",
    "target": "target.model",
    "drafter": "drafter.model",
    "gpu": "gpu",
    "tp": "tp",
    "dtype": "dtype",
    "target_first_latency": "target.first_latency_ms",
    "drafter_first_latency": "drafter.first_latency_ms",
    "acceptance": "acceptance.rate",
    "rank_shares": "acceptance.rank_shares",
    "accepts": "acceptance.trace",
    "repeats": "repeats",
    "seed": "seed",
    "preemptible": "preemptible",
    "engine": "engine",
    "method": "method",
    "block_tokens": "drafter.block_tokens",
    "patience": "patience",
    "tree_paths": "tree.paths",
    "tree_depth": "tree.depth",
    "tree_branches": "tree.branches",
    "tree_nodes": "tree.nodes",
    "tree_deviations": "tree.deviations",
    "ssd_fanout": "ssd.fanout",
}


def by_option(error: UserError) -> UserError:
    """*error* with each setting called by the option that stands for it."""
    names = {key: f"--{option.replace('_', '-')}" for option, key in OPTIONS.items()}
    problems: list[Problem | str] = []
    for problem in error.problems:
        if isinstance(problem, str) or problem.source != "settings":
            problems.append(problem)
        elif problem.key in names:
            problems.append(Problem(names[problem.key], "", problem.what))
        else:
            problems.append(problem._replace(source="--set"))
    return UserError(*problems)


@click.command()
@click.option(
    "--algorithm",
    "algorithms",
    type=OrchestrationName(),
    multiple=True,
    help="Algorithm to simulate; repeatable.  [default: nonsi, si, dsi, and those of plugins]",
)
@click.option(
    "--tokens",
    type=Whole(1),
    help="Number of tokens to generate.  [default: 100; the length of --accepts]",
)
@lookahead_options
@click.option(
    "--method",
    "methods",
    type=Word(PRESETS),
    multiple=True,
    help="Settings and orchestration of a method that people know by name (dsim presets).",
)
@click.option(
    "--targets",
    default="7",
    show_default=True,
    metavar="S",
    help="Number of target servers of DSI; or enough: so many that no pass waits.",
)
@latency_options(
    ".  [default: 30, or estimated from --target]",
    ".  [default: 3, or estimated from --drafter]",
    type=Number(0, min_open=True),
    metavar="MS",
)
@click.option(
    "--pair",
    metavar="TARGET/DRAFTER",
    help="Latencies and acceptance rate of a pair that somebody has measured, like "
    "Llama-3.1-8B/Llama-3.2-1B; with /PROMPTS for one of its data sets.",
)
@click.option(
    "--target",
    metavar="MODEL",
    help="Target by name, like llama-3.3-70b, or a folder with a config.json; with --gpu.",
)
@named_drafter_option
@gpu_option("; with --target")
@tp_option()
@dtype_option
@click.option(
    "--target-first-latency",
    type=Number(0, min_open=True),
    metavar="MS",
    help="Latency of the target's first pass (prefill), in ms.",
)
@click.option(
    "--drafter-first-latency",
    type=Number(0, min_open=True),
    metavar="MS",
    help="Latency of the drafter's first forward (prefill), in ms.",
)
@acceptance_option(".  [default: 0.8]", type=Number(0, 1), metavar="P")
@rank_shares_option("never")
@click.option(
    "--accepts",
    metavar="110101…",
    help="Use these draws instead, by position: 1 accepted, 0 rejected; 2, 3, …: the target's "
    "token is the drafter's second, third … choice; at least N of them.",
)
@draft_options
@click.option(
    "--ssd-fanout",
    metavar="F",
    help="Guesses of SSD of the target's own token: a number, or one after 0, 1, … accepted "
    "drafts (3,2,1).  [default: 1]",
)
@click.option(
    "--repeats",
    type=Whole(1),
    help="Number of runs with random draws of their own.  [default: 20; 1 with --accepts]",
)
@seed_option
@preemptible_option(default=True)
@engine_option
@set_option()
@json_option()
@click.option("--settled", is_flag=True, help="With --json: print when every token settled.")
@timeline_option(" of the first repeat")
@plugin_option
def simulate(
    algorithms: Sequence[str],
    overrides: Sequence[str],
    as_json: bool,
    settled: bool,
    timeline: Path | None,
    pair: str | None,
    methods: Sequence[str],
    **options: object,
) -> None:
    """Simulate one case and compare the algorithms.

    Without options it simulates three algorithms on one plausible case.
    """
    from dsim.orchestrations.plugins import left_out
    from dsim.tasks import simulate as task
    from dsim.tasks.check import doubts

    if settled and not as_json:
        raise UserError("--settled goes with --json")
    if options["accepts"] is not None and options["acceptance"] is not None:
        raise UserError("give either --acceptance or --accepts")
    if len(methods) > 1:
        raise UserError(Problem("--method", "", f"takes one method, got {listed(methods)}"))
    options["method"] = methods[0] if methods else None
    options["tree_paths"] = paths_in(options["tree_paths"])
    options["ssd_fanout"] = numbers_in("--ssd-fanout", options["ssd_fanout"])
    source_of = click.get_current_context().get_parameter_source
    if options["method"] is not None and source_of("lookahead") == ParameterSource.DEFAULT:
        options["lookahead"] = None  # the method's own takes its place
    named = {
        key: f"--{option.replace('_', '-')}"
        for option, key in OPTIONS.items()
        if options[option] is not None and source_of(option) != ParameterSource.DEFAULT
    }
    if twice := task.said_twice(named, overrides):
        raise UserError(*twice)
    targets = str(options["targets"])
    options["targets"] = int(targets) if targets.isdecimal() else targets
    settings = {OPTIONS[name]: value for name, value in options.items() if value is not None}
    profile = None if pair is None else task.pair_of(pair, settings)
    given = {**profile, **settings} if profile else settings
    try:
        study = task.study_from(given, overrides)
        case = task.case_in(study)
    except UserError as error:
        raise by_option(error) from None
    names = task.in_order(algorithms, str(options["method"] or ""))
    progress = counting("runs")
    outcomes = task.outcomes(case, names, str(options["engine"] or "auto"), progress)
    if as_json:
        with_settled = settled or options["accepts"] is not None
        click.echo(task.as_json(case, outcomes, settled=with_settled))
    else:
        click.echo(task.as_text(case, outcomes))
        if options["accepts"] is None:
            told = task.without_effect(study, names, settings)
            if (preset := PRESETS.get(str(options["method"]))) and preset.note:
                told.append(f"{preset.title}: {preset.note}.")
            for line in [*told, *left_out(names, "--algorithm")]:
                click.echo(line)
    for line in doubts(names):
        click.echo(line, err=True)
    if timeline is not None:
        task.write_timeline(case, names, timeline)
        if not as_json:
            click.echo(f"timeline: {timeline}")
