"""The commands about studies and their results: run, load, plot, verify, settings, studies."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim.cli.options import NewFile, Number, OrchestrationName, StudyFile, executor_of
from dsim.cli.progress import counting
from dsim.cli.shared import (
    executor_options,
    file_option,
    json_option,
    open_option,
    plugin_option,
    quiet_option,
    study_options,
    with_options,
)
from dsim.errors import EngineError, UserError
from dsim.system import interrupted_code, last_words
from dsim.words import duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dsim.tasks.drawing import Drawn

DIFFERENT = 1  # exit code of dsim verify


def _how_to_go_on(folder: Path) -> str:
    from dsim.orchestrations.plugins import options

    return f"interrupted; go on with: dsim {options()}run --resume {folder}"


run_options = with_options(
    click.option(
        "--out", type=click.Path(path_type=Path), help="Results folder.  [default: results/STUDY]"
    ),
    executor_options,
    click.option(
        "--precision",
        type=Number(0, 1, min_open=True),
        metavar="X",
        help="Deployments: repeat each case until the 95 % interval of workload.precision_of "
        "(latency_mean_ms) is at most ± X of the value: 0.02 for ± 2 %.",
    ),
    click.option("--csv", is_flag=True, help="Write results.csv even for 200,000 rows or more."),
    click.option("--force", is_flag=True, help="Replace other results in the folder."),
    click.option("--yes", is_flag=True, help="Run even if the real-time waits exceed 15 minutes."),
    click.option(
        "--resume",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Resume the interrupted run in DIR.",
    ),
    file_option(
        "--trace",
        "trace",
        "FILE.json[.gz]",
        "Deployments: write a trace of every server, for ui.perfetto.dev; .gz is smaller.",
        NewFile(".json", ".json.gz"),
    ),
    file_option(
        "--requests",
        "requests_file",
        "FILE.csv",
        "Deployments: write a row for each request: its times and its outcome.",
        NewFile(".csv"),
    ),
    json_option(help="Deployments: print one JSON object, and write no folder."),
    open_option,
    quiet_option,
    plugin_option,
)
# Options that fit one kind of study only, and why they do not fit the other.
OF_TEXTS = {
    "engine": "a deployment is simulated by the event engine",
    "backend": "a deployment is simulated",
    "yes": "a deployment is simulated, without waits",
    "csv": "results.csv of a deployment is always written",
}
OF_DEPLOYMENTS = {
    "precision": "repeats says how often each case is run",
    "trace": "dsim simulate --timeline draws a single request",
    "requests_file": "it has no requests",
    "as_json": "dsim simulate --json prints a single case",
}
LONG_S = 30.0  # of simulation, from which on a word is said before it begins
OF_SIMULATION = ("executor", "jobs", "ray_address")


def _given(names: Iterable[str]) -> list[tuple[str, str]]:
    """Those of *names* that the command line gives: parameter and option."""
    context = click.get_current_context()
    return [
        (name, parameter.opts[0])
        for name in names
        for parameter in context.command.params
        if parameter.name == name
        and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
    ]


@click.command()
@click.argument("study", type=StudyFile(), required=False, metavar="STUDY")
@study_options
@run_options
def run(study: Path | None, **options: Any) -> None:
    """Run a study: its whole grid of cases, to a results folder with a report.

    A study with a table workload, cluster, replica or slo is of a deployment: many requests on
    servers that they share (dsim docs cluster). Any other study follows single requests.

    The folder gets results.parquet (and results.csv while there are under 200,000 rows),
    report.html, every chart as PNG and SVG, the resolved study.toml and provenance.json.
    """
    _run(study, **options)


def _run(
    study: Path | None,
    *,
    overrides: Sequence[str],
    engine: str | None,
    backend: str | None,
    out: Path | None,
    jobs: int | None,
    executor: str,
    ray_address: str | None,
    csv: bool,
    precision: float | None,
    force: bool,
    yes: bool,
    resume: Path | None,
    trace: Path | None,
    requests_file: Path | None,
    as_json: bool,
    open_: bool,
    quiet: bool,
) -> None:
    from dsim.orchestrations.plugins import left_out
    from dsim.study import loader as studies
    from dsim.study import request_size, requests
    from dsim.study.deployment_settings import DEPLOYMENT
    from dsim.study.folder import RunInterrupted, unfinished_study
    from dsim.tasks import waits
    from dsim.tasks.check import doubts
    from dsim.tasks.request_rows import write_requests
    from dsim.tasks.run import run_study, write_trace

    def say(what: str) -> None:
        if not quiet:
            click.echo(f"… trace: {what}", err=True)

    if resume is not None:
        if study is not None or overrides or engine or backend or out or as_json or precision:
            raise UserError(
                "--resume takes all from its folder, so it goes without a study, --set, --engine, "
                "--backend, --out, --precision and --json"
            )
        loaded, folder = unfinished_study(resume), resume
    elif study is None:
        raise UserError("name a study, like heatmap or my.toml; see dsim studies")
    else:
        loaded = studies.load(study, overrides)
        if loaded.kind != DEPLOYMENT.name:
            more = [f'{k}="{v}"' for k, v in (("engine", engine), ("backend", backend)) if v]
            overrides = [*overrides, *more]
            loaded = studies.load(study, overrides) if more else loaded
        elif precision is not None:
            overrides = [*overrides, f"workload.precision={precision}"]
            loaded = studies.load(study, overrides)
        folder = out or default_folder(study, overrides, loaded.to_toml())
    of_requests = loaded.kind == DEPLOYMENT.name
    if not quiet:
        variants = [loaded.of_variant(number) for number in range(len(loaded.variants))]
        compared = dict.fromkeys(name for one in variants for name in one["algorithms"])
        for told in [*left_out(compared), *doubts(compared)]:
            click.echo(f"… {told}", err=True)
    unfit, kind = (OF_TEXTS, "a deployment") if of_requests else (OF_DEPLOYMENTS, "single requests")
    for name, option in _given(unfit):
        raise UserError(f"{option}: this is a study of {kind}: {unfit[name]}")
    wallclock = not of_requests and loaded.settings["backend"] == "wallclock"
    if wallclock:
        for _, option in _given(OF_SIMULATION):
            raise UserError(f"{option} is for simulation; real waits go one by one")
    workers = executor_of(executor, jobs, ray_address)
    if as_json:
        found = requests.run_cases(loaded, executor=workers, keep_runs=requests_file is not None)
        if requests_file is not None:
            write_requests(found, requests_file)
        if trace is not None:
            write_trace(found, trace, say)
        click.echo(requests.as_json(found))
        return
    every = list(loaded.cases()) if of_requests else []
    total = float(len(every) if of_requests else loaded.case_count)
    if every and not quiet:
        needed_s = request_size.needed_s(every, workers.jobs, loaded.settings["max_load"])
        if needed_s >= LONG_S:
            click.echo(f"… about {duration(needed_s)} of simulation", err=True)
    if wallclock:
        total = waits.check(loaded, yes=yes or resume is not None)
        if not quiet:
            click.echo(f"… real waits of about {duration(total)}", err=True)
    shown = counting("cases" if not wallclock else "seconds of waits")
    done = 0.0

    def progress(more: float) -> None:
        nonlocal done
        done += more
        if not quiet:
            shown(done, total)

    how_to_go_on = _how_to_go_on(folder)
    try:
        with last_words(how_to_go_on):
            finished = run_study(
                loaded,
                folder,
                executor=workers,
                csv=csv,
                force=force,
                resume=resume is not None,
                progress=progress,
                keep_runs=requests_file is not None,
            )
    except RunInterrupted:
        progress(total)
        click.echo(how_to_go_on, err=True)
        sys.exit(interrupted_code())
    if not quiet:
        for line in finished.lines:
            click.echo(line)
        click.echo(f"\n{finished.cases:,} cases, {finished.rows:,} rows: {finished.folder}")
        click.echo(f"report: {finished.report}")
    if requests_file is not None:
        write_requests(finished.requests, requests_file)
        if not quiet:
            click.echo(f"requests: {requests_file}")
    if trace is not None:
        write_trace(finished.requests, trace, say)
        if not quiet:
            click.echo(f"trace: {trace} (open it at ui.perfetto.dev)")
    if open_:
        click.launch(str(finished.report))
    if finished.failed:
        raise EngineError(
            f"the results are complete, but the report is not: {' '.join(finished.failed)}"
        )


def default_folder(study: Path, overrides: Sequence[str], resolved: str) -> Path:
    """``results/NAME``, and for a study that was changed on the way a name of its own."""
    if not overrides:
        return Path("results") / study.stem
    import hashlib

    return Path("results") / f"{study.stem}-{hashlib.sha256(resolved.encode()).hexdigest()[:8]}"


@click.command(hidden=True)
@click.argument("study", type=StudyFile(), required=False, metavar="STUDY")
@study_options
@run_options
def load(study: Path | None, **options: Any) -> None:
    """Run a study of a deployment: the former name of dsim run."""
    if not options["quiet"]:
        click.echo("dsim load is now dsim run, which takes every study", err=True)
    _run(study, **options)


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="DIR|FILE…")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Folder of the charts.  [default: the folder of results; FILE-charts]",
)
@open_option
@plugin_option
def plot(results: tuple[str, ...], out: Path | None, open_: bool) -> None:
    """Draw charts again from stored results, without simulating.

    DIR is a results folder of dsim run, of either kind of study; FILE a CSV or Parquet file with
    the columns that dsim docs results describes. Several of them, or JSON of another tool: the page
    that dsim compare makes.
    """
    from dsim.tasks.run import plot as draw_again

    if len(results) > 1 or results[0].endswith(".json"):
        _compare(results, out or Path(COMPARISON), open_=open_)
        return
    _say(*draw_again(Path(results[0]), out), open_=open_)


COMPARISON = "results/comparison"


@click.command()
@click.argument("results", nargs=-1, required=True, metavar="[NAME=]DIR|FILE…")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=COMPARISON,
    show_default=True,
    help="Folder of the report.",
)
@click.option(
    "--measured",
    type=OrchestrationName(),
    help="The algorithm of the servers that other tools measured (JSON); without it, their times "
    "are compared with those of every algorithm.",
)
@open_option
@plugin_option
def compare(results: tuple[str, ...], out: Path, measured: str | None, open_: bool) -> None:
    """Compare several runs, or runs and measurements, on one page.

    The others are compared with the first one; differences have intervals. Each is a results folder
    of dsim run; a CSV or Parquet file with columns algorithm (any names) and latency_mean_ms, and
    more if you have them; or JSON of vllm bench serve, guidellm, genai-perf or aiperf. Measured and
    simulated TTFT, TPOT and E2E latency stand side by side. NAME= gives a result a name.
    """
    if len(results) < 2:
        raise UserError("compare: expected at least two results, got 1; dsim plot draws one")
    _compare(results, out, open_=open_, measured=measured or "")


def _compare(results: Sequence[str], out: Path, *, open_: bool, measured: str = "") -> None:
    from dsim.tasks.compare import compare as side_by_side

    _say(*side_by_side(results, out, measured), open_=open_)


def _say(report: Path, drawn: Drawn, *, open_: bool) -> None:
    for line in drawn.lines:
        click.echo(line)
    click.echo(f"report: {report}")
    if open_:
        click.launch(str(report))
    if drawn.failed:
        raise EngineError(f"the report is not complete: {' '.join(drawn.failed)}")


@click.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR")
def verify(results: Path) -> None:
    """Check that no file of a results folder has changed.

    DIR is a results folder of dsim run or dsim reproduce; its provenance.json has the hashes. Names
    every file that is missing, changed or extra. Exits with status 1 if there is such a file, and
    with 2 if there are no hashes to check.
    """
    from dsim.study.seal import differences, files_of

    found = differences(results)
    for one in found:
        click.echo(f"{one.what}: {one.name}")
    if found:
        raise click.exceptions.Exit(DIFFERENT)
    click.echo(f"{results}: all {len(files_of(results))} files are as they were written")


@click.command()
@json_option(help="Print one JSON list.")
@click.option("--load", is_flag=True, hidden=True, expose_value=False)  # all are listed
@click.argument("pattern", required=False)
def settings(as_json: bool, pattern: str | None) -> None:
    """List every setting of a study: default, unit, range and meaning.

    Settings of deployments (tables workload, cluster, replica and slo) are included.

    With PATTERN only those whose name contains it.
    """
    from dsim.study.deployment_settings import DEPLOYMENT_SETTINGS
    from dsim.study.settings import CHART_SETTINGS, OF_ONE_CASE, SETTINGS
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
            "default_of_one_case": OF_ONE_CASE.get(s.key, s.default),
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
        if (of_one := row["default_of_one_case"]) != row["default"]:
            default += f" (dsim simulate: {show(of_one)})"
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


@click.command()
@click.argument("page", required=False)
def docs(page: str | None) -> None:
    """Print a document that comes with dsim, or list them.

    PAGE is one of the names that are listed, like results or orchestrations.
    """
    from dsim.study import shipped

    if page is not None:
        click.echo_via_pager(shipped.page(page))
        return
    pages = shipped.pages()
    for name, title in pages.items():
        click.echo(f"{name:{max(map(len, pages))}}  {title}")


@click.command()
@json_option()
def presets(as_json: bool) -> None:
    """List methods by the names that people use, with their settings.

    A study says method = "eagle3"; dsim simulate takes --method eagle3.
    """
    import dataclasses
    import json

    from dsim.orchestrations import ORCHESTRATIONS
    from dsim.study.presets import PRESETS
    from dsim.study.study import inline

    if as_json:
        listed = [dataclasses.asdict(preset) for preset in PRESETS.values()]
        click.echo(json.dumps({"presets": listed}))
        return
    for preset in PRESETS.values():
        orchestration = ORCHESTRATIONS[preset.orchestration]
        live = "simulated and live" if orchestration.traits.live else "simulated only"
        click.secho(f"{preset.name}: {preset.title}", bold=True)
        click.echo(f"    {orchestration.meaning} (orchestration {orchestration.name}; {live})")
        for key, value in preset.settings.items():
            click.echo(f"    {key} = {inline(value)}")
        click.echo(f"    {preset.note}")
        click.echo(click.style(f"    {preset.source}", dim=True))
