"""The command line: a thin skin over the library, and the only place that knows exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim import __version__
from dsim.errors import EngineError, Problem, UserError
from dsim.orchestrations import ORCHESTRATIONS, POLICIES
from dsim.words import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.study.executors import Executor

CLAIM_FAILED, USER_MISTAKE, FAILURE, INTERRUPTED = 1, 2, 3, 130
ALGORITHMS = ("nonsi", "si", "dsi")


class Group(click.Group):
    """Commands whose errors become exit codes: 2 for a user's mistake, 3 for a failure of ours."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and leave with its exit code."""
        kwargs["standalone_mode"] = False
        try:
            try:
                code = super().main(*args, **kwargs)
            except SystemExit as leave:
                # Click's way to say that whoever reads our output has enough of it.
                sys.exit(0 if leave.code == 1 else leave.code)
        except click.exceptions.Exit as leave:
            sys.exit(leave.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(INTERRUPTED)
        except click.ClickException as error:
            error.show()
            sys.exit(USER_MISTAKE)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(USER_MISTAKE)
        except EngineError as error:
            click.echo(f"failure: {error}", err=True)
            sys.exit(FAILURE)
        except Exception as error:
            import traceback

            click.echo(f"failure: {type(error).__name__}: {error}", err=True)
            log = Path("dsim-failure.log")
            try:
                log.write_text(traceback.format_exc(), encoding="utf-8")
                click.echo(f"This is a mistake of dsim's; the details are in {log}.", err=True)
            except OSError:
                click.echo(traceback.format_exc(), err=True)
            sys.exit(FAILURE)
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or name the nearest one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from dsim.words import nearest

            if args and "No such command" in error.message:
                hint = nearest(args[0], self.list_commands(ctx))
                raise click.UsageError(error.message.rstrip(".") + hint, ctx) from None
            raise


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dsim")
@click.option(
    "--plugin",
    "plugins",
    metavar="MODULE",
    multiple=True,
    help="A module of yours that adds an orchestration; see docs/orchestrations.md.",
)
def main(plugins: tuple[str, ...]) -> None:
    """Simulate speculative decoding: non-SI, SI and DSI under one clock.

    Start with: dsim simulate. Then: dsim run studies/heatmap.toml
    """
    if plugins:
        from dsim.orchestrations.plugins import load

        load(list(plugins))


class OrchestrationName(click.ParamType):  # type: ignore[type-arg]  # of click 8.5 on
    """The name of an orchestration, those of plugins as well."""

    name = "name"

    def convert(self, value: str, param: Any, ctx: Any) -> str:
        """Check that it is known."""
        if value not in ORCHESTRATIONS:
            from dsim.words import nearest

            names = list(ORCHESTRATIONS)
            hint = nearest(value, names)
            self.fail(f"{value!r} is not one of {', '.join(names)}{hint}", param, ctx)
        return value


def _interrupted(command: str, folder: Path) -> int:
    """Say how to go on."""
    from dsim.orchestrations.plugins import options

    command = f"dsim {options()}{command} --resume {folder}"
    click.echo(f"interrupted; go on with: {command}", err=True)
    return INTERRUPTED


def study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that read a study."""
    for option in (
        click.option(
            "--set",
            "overrides",
            metavar="KEY=VALUE",
            multiple=True,
            help="Set any setting, several times; see dsim settings. Values as in TOML.",
        ),
        click.option(
            "--engine",
            type=click.Choice(["auto", "vector", "events"]),
            help="Which engine simulates.  [default: auto]",
        ),
        click.option(
            "--backend",
            type=click.Choice(["simulated", "wallclock"]),
            help="wallclock: real waits instead, one case at a time.  [default: simulated]",
        ),
    ):
        command = option(command)
    return command


def executor_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that run many cases."""
    for option in (
        click.option(
            "--ray-address",
            metavar="ADDRESS",
            help="With --executor ray: of a cluster that is there.  [one is started here]",
        ),
        click.option(
            "--executor",
            type=click.Choice(["processes", "ray"]),
            default="processes",
            help="What runs cases: processes of this machine, or Ray.  [default: processes]",
        ),
        click.option("--jobs", type=click.IntRange(1), help="Worker processes.  [all cores]"),
    ):
        command = option(command)
    return command


def executor_of(name: str, jobs: int | None, ray_address: str | None) -> Executor:
    """What runs the cases, by the options.

    Raises:
        UserError: it is not installed.
    """
    from dsim.study.executors import Executor
    from dsim.system import available_cores

    if ray_address is not None and name != "ray":
        raise click.UsageError("--ray-address goes with --executor ray")
    if ray_address is not None and jobs is not None:
        raise click.UsageError("--jobs is about this machine; a Ray cluster knows its own size")
    executor = Executor(name=name, jobs=jobs or len(available_cores()), ray_address=ray_address)
    executor.check()
    return executor


@main.command()
@click.argument("study", type=click.Path(path_type=Path), required=False, metavar="STUDY.toml")
@study_options
@click.option("--out", type=click.Path(path_type=Path), help="Results folder.  [results/STUDY]")
@executor_options
@click.option("--csv", is_flag=True, help="Write results.csv even for 200,000 rows or more.")
@click.option("--force", is_flag=True, help="Replace other results in the folder.")
@click.option("--yes", is_flag=True, help="Wait for real, even if it takes over 15 minutes.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on with the interrupted run in DIR.",
)
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
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

    from dsim.study import study as studies
    from dsim.tasks import waits as realtime
    from dsim.tasks.run import RunInterrupted, run_study, unfinished_study

    if resume is not None:
        if study is not None or overrides or engine or backend or out:
            raise click.UsageError(
                "--resume takes the study, --set, --engine, --backend and --out from its folder"
            )
        loaded, folder = unfinished_study(resume), resume
    elif study is None:
        raise click.UsageError("name a study, like studies/heatmap.toml")
    else:
        if engine:
            overrides = [*overrides, f'engine="{engine}"']
        if backend:
            overrides = [*overrides, f'backend="{backend}"']
        loaded = studies.load(study, overrides)
        folder = out or default_folder(study, overrides, loaded.to_toml())
    wallclock = loaded.settings["backend"] == "wallclock"
    source = click.get_current_context().get_parameter_source
    if wallclock:
        for name in ("executor", "jobs", "ray_address"):
            if source(name) is click.core.ParameterSource.COMMANDLINE:
                option = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{option} is for simulation; real waits go one by one")
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


@main.command()
@click.argument("study", type=click.Path(path_type=Path), required=False, metavar="STUDY.toml")
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set any setting, several times; see dsim settings --load.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Results folder.  [results/STUDY]")
@executor_options
@click.option("--force", is_flag=True, help="Replace other results in the folder.")
@click.option(
    "--resume",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Go on with the interrupted run in DIR.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.json",
    help="Write who did what when, for ui.perfetto.dev.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, and write no folder.")
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
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

    from dsim.study import load_study as studies
    from dsim.tasks import load as loads
    from dsim.tasks.run import RunInterrupted

    if resume is not None:
        if study is not None or overrides or out or as_json:
            raise click.UsageError(
                "--resume takes the study, --set and --out from its folder, and writes one"
            )
        loaded, folder = loads.unfinished_study(resume), resume
    elif study is None:
        raise click.UsageError("name a study, like studies/load.toml")
    else:
        loaded = studies.load(study, overrides)
        folder = out or default_folder(study, overrides, loaded.study.to_toml())
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


@main.command()
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
def advise(**options: Any) -> None:
    """What should I run? The best algorithm, lookahead, servers and tensor parallelism.

    Estimates every layout that the GPUs allow, simulates the best of them under the load, and says
    in one sentence what to run, or not to speculate.
    """
    from dsim.tasks.advise import advise as advising

    question = advising.question_of(options)
    advice = advising.advise(question)
    if options["out"] is not None:
        advising.write_page(advice, options["out"])
    if options["as_json"]:
        click.echo(advising.as_json(advice))
        return
    for line in advising.as_text(advice):
        click.echo(line)
    if options["out"] is not None:
        click.echo(f"page: {options['out']}")


@main.command()
@click.argument("results", type=click.Path(path_type=Path), metavar="DIR|FILE")
@click.option("--out", type=click.Path(path_type=Path), help="Where to.  [the folder itself]")
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
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


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--load", "of_load", is_flag=True, help="Those of dsim load as well.")
@click.argument("pattern", required=False)
def settings(as_json: bool, of_load: bool, pattern: str | None) -> None:
    """List every setting of a study: default, unit, range and meaning.

    With PATTERN only those whose name contains it.
    """
    from dsim.study.study import CHART_SETTINGS, SETTINGS
    from dsim.words import nearest, show

    more: tuple[Any, ...] = ()
    if of_load:
        from dsim.study.load_study import LOAD_SETTINGS as more  # noqa: N811
    listed = [
        *SETTINGS,
        *more,
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


@main.command()
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


COMPILE_HELP = "Compile the models (CUDA graphs on a GPU). Starts slowly."


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of the commands that run real models."""
    for option in reversed(
        (
            click.option("--target", metavar="MODEL", help="Folder, .gguf file or hub id."),
            click.option(
                "--drafter",
                metavar="MODEL",
                help="Likewise; or ngram; or skip:1,3 or skip:auto=2, the target without layers.",
            ),
            click.option("--dtype", default="float32", show_default=True, metavar="TYPE"),
            click.option("--revision", help="Of a target on the hub."),
            click.option(
                "--trust-remote-code", is_flag=True, help="Run code that comes with a model."
            ),
            click.option(
                "--devices",
                default="cpu",
                show_default=True,
                metavar="D1,D2…",
                help="The drafter's, then the targets': cpu, cuda:0, mps.",
            ),
            click.option("--targets", type=click.IntRange(1), help="Target servers.  [all cores]"),
            click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
            click.option("--share", is_flag=True, help="Workers may share cores and GPUs."),
            click.option(
                "--watchdog",
                type=click.FloatRange(0, min_open=True),
                default=120.0,
                show_default=True,
                metavar="S",
                help="Give up when one forward takes longer.",
            ),
            click.option("--compile", is_flag=True, help=COMPILE_HELP),
            click.option("--temperature", type=float, default=0.0, show_default=True),
            click.option("--top-k", type=int, default=0, help="0: all tokens.", show_default=True),
            click.option("--top-p", type=float, default=1.0, show_default=True),
            click.option("--seed", type=click.IntRange(0), default=0, show_default=True),
            click.option(
                "--rule",
                default="match",
                show_default=True,
                help="How drafts are judged: match, rejection, lenient, top-n.",
            ),
            click.option("--leniency", type=float, default=0.5, help="Of --rule lenient."),
            click.option("--top-n", type=int, default=3, help="Of --rule top-n."),
        )
    ):
        command = option(command)
    return command


@main.command()
@click.argument("prompt")
@click.option("--algorithm", type=click.Choice(ALGORITHMS), default="dsi", show_default=True)
@click.option("--lookahead", type=click.IntRange(1), default=5, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=128, show_default=True)
@click.option("--compare", is_flag=True, help="Run all three algorithms, and compare them.")
@click.option("--chat", is_flag=True, help="The prompt is a user's turn of a conversation.")
@click.option("--ignore-eos", is_flag=True, help="Go on after an end-of-text token.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object an algorithm.")
@click.option(
    "--timeline",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Draw who did what when.",
)
@model_options
def generate(prompt: str, **options: Any) -> None:
    """Generate text with real models, a process for each server.

    Without --target the pair of models that ships is used.
    """
    from dsim.tasks import generate as generation

    rule = generation.rule_from_options(options)
    names = ALGORITHMS if options["compare"] else (options["algorithm"],)
    pair = generation.pair_from_options(options)
    ids = generation.encode(pair, prompt, chat=options["chat"])
    with generation.fleet_of(pair, options, names, len(ids) + options["tokens"]) as fleet:
        quiet = options["as_json"]
        made = generation.generate(
            fleet,
            ids,
            names,
            rule,
            tokens=options["tokens"],
            lookahead=options["lookahead"],
            ignore_eos=options["ignore_eos"],
            write=None if quiet else lambda piece: click.echo(piece, nl=False),
        )
        if options["timeline"] is not None:
            described = f"{fleet.pair.target}, {fleet.pair.drafter}; {options['tokens']} tokens."
            generation.write_timeline(made, options["timeline"], described)
        if quiet:
            click.echo(generation.as_json(made))
            return
        click.echo("\n\n" + generation.as_text(made, rule, fleet))


@main.command()
@click.argument("study", type=click.Path(path_type=Path), required=False, metavar="[STUDY.toml]")
@click.option("--backend", type=click.Choice(["wallclock", "torch"]), help="What to measure.")
@click.option("--tokens", type=int, help="N, tokens of each text.")
@click.option("--prompts", type=int, help="Texts that are predicted and measured.")
@click.option("--target", metavar="MODEL", help="As in dsim generate.")
@click.option("--drafter", metavar="MODEL", help="As in dsim generate.")
@click.option("--prompt-set", metavar="NAME|FILE", help="A set that ships, all, or a JSONL file.")
@click.option("--share", is_flag=True, default=None, help="Workers may share cores and GPUs.")
@click.option("--compile", is_flag=True, default=None, help=COMPILE_HELP)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--report",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write the chart of predicted against measured, and timelines of both.",
)
@click.option("--quiet", is_flag=True, help="Say nothing of the progress.")
def validate(
    study: Path | None, as_json: bool, report: Path | None, quiet: bool, **options: Any
) -> None:
    """Predict wall times by simulation, measure them, and compare.

    Leaves with 1 when a claim fails. STUDY is a file like studies/validate.toml.
    """
    from dsim.tasks.validate import validate as validation

    inner = {"target", "drafter", "prompt_set", "share", "compile"}
    given = {f"torch.{k}" if k in inner else k: v for k, v in options.items()}
    found = validation.validate(
        validation.load(study, given),
        progress=lambda what: None if quiet else click.echo(f"… {what}", err=True),
    )
    if report is not None:
        validation.write_report(found, report)
    click.echo(validation.as_json(found) if as_json else validation.as_text(found))
    if not found.holds:
        raise click.exceptions.Exit(CLAIM_FAILED)


@main.group()
def measure() -> None:
    """Measure real models: latency and acceptance rate, for studies to use."""


def numbers(_: click.Context, option: click.Parameter, value: str) -> list[int]:
    """A list of whole numbers above 0, from text."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(Problem(f"--{option.name}", "", f"expected numbers above 0, got {value!r}"))
    return sorted({int(part) for part in parts})


def measure_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What the measuring commands take to measure the pairs of a study."""
    for option in (
        click.option(
            "--out",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("results/profiles"),
            show_default=True,
            help="Folder for the profiles of a study's pairs.",
        ),
        click.option(
            "--pair", "pairs", multiple=True, help="Pairs of the study, or all.  [as it says]"
        ),
        click.argument("study", type=click.Path(path_type=Path), required=False),
    ):
        command = option(command)
    return command


# What the measuring commands heed when they measure a study; the rest, the study says.
WITH_STUDY = {"study", "pairs", "out", "tokens", "prompts", "dtype", "seed", "repeats", "as_json"}
WITH_STUDY |= {"devices", "targets", "threads", "share", "watchdog"}
ONLY_WITH_STUDY = {"pairs", "out"}


def refuse_ignored(study: Path | None) -> None:
    """See that no option was given that would be ignored with *study*, or without one.

    Raises:
        click.UsageError: one was.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if study is None and name in ONLY_WITH_STUDY:
            raise click.UsageError(f"{parameter.opts[0]} needs a STUDY", context)
        if study is not None and name not in WITH_STUDY:
            what = f"{parameter.opts[0]} has no meaning with a STUDY, which says what to measure"
            raise click.UsageError(what, context)


def measure_pairs(what: str, study: Path, pairs: Sequence[str], options: dict[str, Any]) -> None:
    """Measure the pairs of *study*; each becomes a profile."""
    from dsim.tasks import generate as generation
    from dsim.tasks.measure import study as measuring

    context = click.get_current_context()
    given = {
        key: options[key]
        for key in ("tokens", "prompts", "dtype", "seed", "repeats")
        if context.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE
    }
    loaded = measuring.load(study, given)
    found = []
    for one in measuring.run(
        loaded,
        what,
        pairs,
        options["out"],
        lambda pair: generation.fleet_of(
            pair, options | {"targets": options["targets"] or 1}, ["nonsi"]
        ),
        progress=lambda now: click.echo(f"… {now}", err=True),
    ):
        if one.skipped:
            click.echo(f"  skipped: {one.skipped}", err=True)
        found.append(one)
    if options["as_json"]:
        for one in found:
            click.echo(one.profile.to_json() if one.profile else "", nl=False)
        return
    click.echo(measuring.as_text(found, what))


@measure.command()
@click.option("--model", metavar="MODEL", help="What to measure.  [the target that ships]")
@click.option("--widths", default="1,2,3,4,6,8,16", show_default=True, callback=numbers)
@click.option("--contexts", default="32,128", show_default=True, callback=numbers)
@click.option("--repeats", type=click.IntRange(1), default=20, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=32, show_default=True)
@click.option("--prompts", type=click.IntRange(1), default=5, show_default=True)
@click.option("--prompt-set", default="stories", show_default=True, metavar="NAME|all|FILE")
@click.option("--co-running", type=click.IntRange(0), default=0, help="Beside so many others.")
@click.option("--as", "role", type=click.Choice(["target", "drafter"]), default="target")
@click.option("--toml", is_flag=True, help="Print settings of a study.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@measure_options
@model_options
def latency(
    study: Path | None,
    pairs: Sequence[str],
    model: str | None,
    widths: list[int],
    contexts: list[int],
    **options: Any,
) -> None:
    """Measure how long forwards take, over width and context, alone and under load.

    With a STUDY like studies/latency.toml: of every pair that it lists; each gets a profile, which
    dsim run --set pair=FILE reads.
    """
    refuse_ignored(study)
    if study is not None:
        measure_pairs("latency", study, pairs, options)
        return
    from dsim.backends.torch import prompts
    from dsim.tasks import generate as generation
    from dsim.tasks.measure import measure as measuring

    known = prompts.load(options["prompt_set"], "--prompt-set")[: options["prompts"]]
    options |= {
        "target": model or options["target"],
        "drafter": "ngram",
        "targets": 1 + options["co_running"],
    }
    pair = generation.pair_from_options(options)
    ids = [generation.encode(pair, prompt.text, chat=False) for prompt in known]
    longest = max(max(map(len, ids)) + options["tokens"], max(contexts) + max(widths))
    with generation.fleet_of(pair, options, ["nonsi"], longest) as fleet:
        table = measuring.latency(
            fleet,
            ids,
            tokens=options["tokens"],
            widths=widths,
            contexts=contexts,
            repeats=options["repeats"],
        )
    if options["as_json"]:
        click.echo(measuring.latency_json(table))
    elif options["toml"]:
        click.echo(measuring.latency_toml(table, options["role"]), nl=False)
    else:
        click.echo(measuring.latency_text(table))


@measure.command()
@click.option("--tokens", type=click.IntRange(2), default=64, show_default=True)
@click.option("--prompts", type=click.IntRange(2), help="Only the first so many.")
@click.option("--prompt-set", default="stories", show_default=True, metavar="NAME|all|FILE")
@click.option("--chat", is_flag=True, help="Each prompt is a user's turn of a conversation.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the draws, for acceptance.trace_file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@measure_options
@model_options
def acceptance(
    study: Path | None, pairs: Sequence[str], trace: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure how often the target accepts the drafter's tokens.

    With a STUDY like studies/acceptance.toml: of every pair that it lists; each gets a profile,
    which dsim run --set pair=FILE reads.
    """
    refuse_ignored(study)
    if study is not None:
        measure_pairs("acceptance", study, pairs, options | {"as_json": as_json})
        return
    from dsim.backends.torch import prompts
    from dsim.tasks import generate as generation
    from dsim.tasks.measure import measure as measuring

    rule = generation.rule_from_options(options)
    known = prompts.load(options["prompt_set"], "--prompt-set")[: options["prompts"]]
    pair = generation.pair_from_options(options)
    ids = [generation.encode(pair, p.text, chat=options["chat"]) for p in known]
    options["targets"] = options["targets"] or 1
    longest = max(map(len, ids)) + options["tokens"]
    with generation.fleet_of(pair, options, ["nonsi"], longest) as fleet:
        report = measuring.acceptance(
            fleet,
            [(p.task, one) for p, one in zip(known, ids, strict=True)],
            rule,
            tokens=options["tokens"],
        )
    if trace is not None:
        measuring.write_traces(report, trace)
    if as_json:
        import json

        click.echo(json.dumps(report.as_dict))
        return
    click.echo(measuring.acceptance_text(report))


@main.command()
@click.option("--fast", is_flag=True, help="No real waits, no real models: under a minute.")
@click.option(
    "--waits",
    type=click.IntRange(0),
    metavar="N",
    help="Runs of Table 1 in real time, over a minute each.  [default: 3; 0 with --fast]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results/reproduction"),
    show_default=True,
    help="Folder for the report.",
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.md",
    help="Write what is the same on every machine, like docs/reproduction.md.",
)
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def reproduce(
    fast: bool, waits: int | None, out: Path, markdown: Path | None, open_: bool, quiet: bool
) -> None:
    """Reproduce the four experiments of the paper, claim by claim.

    Counts forward passes (Figure 1), times Table 1 in simulated and in real time, measures
    acceptance rate and latency of the models at hand, and says of each claim what was published,
    what dsim finds, and why they differ.
    """
    from dsim.files import write_whole
    from dsim.tasks.reproduce import reproduce as reproducing

    found = reproducing.reproduce(
        fast=fast,
        waits=waits,
        folder=out,
        progress=lambda now: None if quiet else click.echo(f"… {now}", err=True),
    )
    report = out / "report.html"
    reproducing.write_report(found, report)
    if markdown is not None:
        command = f"dsim reproduce --fast --markdown {markdown.as_posix()}"
        write_whole(markdown, reproducing.as_markdown(found, command), "--markdown")
    if not quiet:
        click.echo(reproducing.as_text(found))
        click.echo(f"\nreport: {report}")
    if open_:
        click.launch(str(report))


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes dsim's commands in your shell.

    For bash: dsim completion bash > ~/.dsim-complete.bash, and source that in ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise UserError(Problem("completion", "", f"click knows no completion for {shell}"))
    click.echo(found(main, {}, "dsim", "_DSIM_COMPLETE").source())
