"""The commands about studies and their results: run, load, plot, settings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim.cli.options import (
    StudyFile,
    executor_of,
    executor_options,
    plugin_option,
    set_option,
    study_options,
)
from dsim.errors import UserError
from dsim.words import duration

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


def _interrupted(command: str, folder: Path) -> int:
    """Say how to go on."""
    from dsim.orchestrations.plugins import options

    command = f"dsim {options()}{command} --resume {folder}"
    click.echo(f"interrupted; go on with: {command}", err=True)
    return INTERRUPTED


@click.command()
@click.argument("study", type=StudyFile(), required=False, metavar="STUDY")
@study_options
@click.option("--out", type=click.Path(path_type=Path), help="Results folder.  [results/STUDY]")
@executor_options
@click.option("--csv", is_flag=True, help="Write results.csv even for 200,000 rows or more.")
@click.option("--force", is_flag=True, help="Replace other results in the folder.")
@click.option("--yes", is_flag=True, help="Run even if the real-time waits exceed 15 minutes.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Resume the interrupted run in DIR.",
)
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@plugin_option
def run(
    study: Path | None,
    overrides: Sequence[str],
    engine: str | None,
    backend: str | None,
    out: Path | None,
    jobs: int | None,
    executor: str,
    ray_address: str | None,
    csv: bool,
    force: bool,
    yes: bool,
    resume: Path | None,
    open_: bool,
    quiet: bool,
) -> None:
    """Run a study: its whole grid of cases, to a results folder with a report.

    The folder gets results.parquet (and results.csv while there are under 200,000 rows),
    report.html, every chart as PNG and SVG, the resolved study.toml and provenance.json.
    """
    from tqdm import tqdm

    from dsim.study import loader as studies
    from dsim.tasks import waits as realtime
    from dsim.tasks.run import RunInterrupted, run_study, unfinished_study

    if resume is not None:
        if study is not None or overrides or engine or backend or out:
            raise UserError(
                "--resume takes the study, --set, --engine, --backend and --out from its folder"
            )
        loaded, folder = unfinished_study(resume), resume
    elif study is None:
        raise UserError("name a study, like heatmap or my.toml; see dsim studies")
    else:
        if engine:
            overrides = [*overrides, f'engine="{engine}"']
        if backend:
            overrides = [*overrides, f'backend="{backend}"']
        loaded = studies.load(study, overrides)
        if loaded.kind == "deployment":
            raise UserError(f"{study}: this is a study of a deployment: use dsim load")
        folder = out or default_folder(study, overrides, loaded.to_toml())
    wallclock = loaded.settings["backend"] == "wallclock"
    source = click.get_current_context().get_parameter_source
    if wallclock:
        for name in ("executor", "jobs", "ray_address"):
            if source(name) is click.core.ParameterSource.COMMANDLINE:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} is for simulation; real waits go one by one")
    workers = executor_of(executor, jobs, ray_address)
    total, unit = float(loaded.case_count), " cases"
    if wallclock:
        total, unit = realtime.check(loaded, yes=yes or resume is not None), " s"
        if not quiet:
            click.echo(f"… real waits of about {duration(total)}", err=True)
    bar = tqdm(
        total=round(total),
        unit=unit,
        bar_format="{l_bar}{bar}| {n:.0f}/{total}{unit} [{elapsed}<{remaining}]",
        disable=True if quiet else None,  # None: shown on a terminal only
        leave=False,
    )
    try:
        with bar:
            finished = run_study(
                loaded,
                folder,
                executor=workers,
                csv=csv,
                force=force,
                resume=resume is not None,
                progress=lambda cases: (bar.update(cases), None)[1],
            )
    except RunInterrupted:
        sys.exit(_interrupted("run", folder))
    if not quiet:
        for line in finished.lines:
            click.echo(line)
        click.echo(f"\n{finished.cases:,} cases, {finished.rows:,} rows: {finished.folder}")
        click.echo(f"report: {finished.report}")
    if open_:
        click.launch(str(finished.report))


def default_folder(study: Path, overrides: Sequence[str], resolved: str) -> Path:
    """``results/NAME``, and for a study that was changed on the way a name of its own."""
    if not overrides:
        return Path("results") / study.stem
    import hashlib

    return Path("results") / f"{study.stem}-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}"


@click.command()
@click.argument("study", type=StudyFile(), required=False, metavar="STUDY")
@set_option(" --load")
@click.option("--out", type=click.Path(path_type=Path), help="Results folder.  [results/STUDY]")
@executor_options
@click.option("--force", is_flag=True, help="Replace other results in the folder.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Resume the interrupted run in DIR.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write a trace of every server, for ui.perfetto.dev.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and write no folder.")
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@plugin_option
def load(
    study: Path | None,
    overrides: Sequence[str],
    out: Path | None,
    jobs: int | None,
    executor: str,
    ray_address: str | None,
    force: bool,
    resume: Path | None,
    trace: Path | None,
    as_json: bool,
    open_: bool,
    quiet: bool,
) -> None:
    """Run a load study: many requests on a deployment of shared servers.

    Says how long requests take (to the first token, per token, to the last), what the deployment
    delivers, what it wastes and what it costs. docs/cluster.md tells what is modelled.
    """
    from tqdm import tqdm

    from dsim.study import loader as studies
    from dsim.tasks import load as loads
    from dsim.tasks.run import RunInterrupted

    if resume is not None:
        if study is not None or overrides or out or as_json:
            raise UserError(
                "--resume takes the study, --set and --out from its folder, and writes one"
            )
        loaded, folder = loads.unfinished_study(resume), resume
    elif study is None:
        raise UserError("name a study, like load or my.toml; see dsim studies")
    else:
        loaded = studies.load(study, overrides)
        folder = out or default_folder(study, overrides, loaded.to_toml())
    workers = executor_of(executor, jobs, ray_address)
    total = len(list(loaded.cases()))
    bar = tqdm(total=total, unit=" cases", disable=True if quiet or as_json else None, leave=False)

    def progress(cases: int) -> None:
        bar.update(cases)

    if as_json:
        found = loads.answers(loaded, executor=workers)
        if trace is not None:
            loads.write_trace(found, trace)
        click.echo(loads.as_json(found))
        return
    try:
        with bar:
            report, found = loads.run_load(
                loaded,
                folder,
                executor=workers,
                force=force,
                resume=resume is not None,
                progress=progress,
            )
    except RunInterrupted:
        sys.exit(_interrupted("load", folder))
    if not quiet:
        for line in loads.as_text(found):
            click.echo(line)
        click.echo(f"\n{total:,} cases: {folder}")
        click.echo(f"report: {report}")
    if trace is not None:
        loads.write_trace(found, trace)
        if not quiet:
            click.echo(f"trace: {trace} (open it at ui.perfetto.dev)")
    if open_:
        click.launch(str(report))


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR|FILE")
@click.option("--out", type=click.Path(path_type=Path), help="Where to.  [the folder itself]")
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@plugin_option
def plot(results: Path, out: Path | None, open_: bool) -> None:
    """Draw charts again from stored results, without simulating.

    DIR is a results folder of dsim run; FILE a CSV or Parquet file with the columns that
    docs/results.md describes.
    """
    from dsim.tasks.run import plot as draw_again

    report, lines = draw_again(results, out)
    for line in lines:
        click.echo(line)
    click.echo(f"report: {report}")
    if open_:
        click.launch(str(report))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--load", is_flag=True, hidden=True, expose_value=False)  # all are listed
@click.argument("pattern", required=False)
def settings(as_json: bool, pattern: str | None) -> None:
    """List every setting of a study: default, unit, range and meaning.

    Settings of deployments (tables workload, cluster and slo) are included.

    With PATTERN only those whose name contains it.
    """
    from dsim.study.deployment_settings import DEPLOYMENT_SETTINGS
    from dsim.study.settings import CHART_SETTINGS, SETTINGS
    from dsim.words import nearest, show

    listed = [
        *SETTINGS,
        *DEPLOYMENT_SETTINGS,
        *(_renamed(s, f"charts[].{s.key}") for s in CHART_SETTINGS),
    ]
    if pattern:
        names = [s.key for s in listed]
        listed = [s for s in listed if pattern in s.key]
        if not listed:
            raise UserError(f"no setting is called {pattern!r}{nearest(pattern, names)}")
    rows = [
        {
            "key": s.key,
            "type": s.type,
            "default": s.default,
            "unit": s.unit,
            "range": s.range,
            "grid": s.sweep and not s.key.startswith("charts"),
            "meaning": s.meaning,
        }
        for s in listed
    ]
    if as_json:
        import json

        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        about = [row["type"]]
        if row["range"]:
            about.append(row["range"])
        if row["unit"]:
            about.append(f"in {row['unit']}")
        default = "not set" if row["default"] is None else show(row["default"])
        about.append(f"default {default}")
        if row["grid"]:
            about.append("can be an axis of the grid")
        click.secho(row["key"], bold=True)
        click.echo(f"    {row['meaning']}")
        click.echo(click.style(f"    {'; '.join(about)}", dim=True))


def _renamed(setting: Any, key: str) -> Any:
    import dataclasses

    return dataclasses.replace(setting, key=key)


@click.command()
@click.option("--copy", metavar="NAME", help="Copy this study into the working folder, to edit it.")
def studies(copy: str | None) -> None:
    """List the studies that come with dsim; dsim run takes them by name."""
    from dsim.study import shipped

    if copy is not None:
        for path in shipped.copy(copy, Path()):
            click.echo(f"copied: {path}")
        return
    names = shipped.names()
    for name in names:
        click.echo(f"{name:{max(map(len, names))}}  {shipped.title_of(name)}")
