"""The commands about real models: generate, validate, measure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim.cli.options import NewFile, OrchestrationName, StudyFile, Whole, Word, paths_in
from dsim.cli.progress import counting
from dsim.cli.shared import (
    chat_option,
    compile_option,
    draft_options,
    file_option,
    json_option,
    lookahead_options,
    model_options,
    plugin_option,
    prompt_set_option,
    real_models,
    share_option,
    timeline_option,
    with_options,
)
from dsim.errors import Problem, UserError
from dsim.orchestrations import DEFAULT, REFERENCES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.backends.torch.pair import Pair
    from dsim.backends.torch.verify import Rule
    from dsim.tasks.generate import Hardware

CLAIM_FAILED, TOO_NOISY = 1, 4


def pair_of(options: dict[str, Any]) -> Pair:
    """The models that *options* ask for."""
    from dsim.backends.torch import forks
    from dsim.backends.torch.models import specs
    from dsim.backends.torch.pair import load_pair

    names = ("dtype", "revision", "trust_remote_code")
    more = {name: options[name] for name in names}
    models = specs(options["target"], options["drafter"], **more)
    on_cpu = options["devices"] == "cpu" and not options["compile"]
    if on_cpu and any(model.has_model for model in models):
        forks.begin()  # it loads torch while this process loads tokenizers
    return load_pair(*models)


def rule_of(options: dict[str, Any]) -> Rule:
    """The verification rule that *options* ask for."""
    from dsim.backends.torch import verify
    from dsim.backends.torch.sampling import Sampling

    sampling = Sampling(
        **{name: options[name] for name in ("temperature", "top_k", "top_p", "seed")}
    )
    more = {"leniency": options["leniency"], "n": options["top_n"]}
    return verify.rule_of(options["rule"], sampling, **more)


def hardware_of(options: dict[str, Any], targets: int | None = None) -> Hardware:
    """The hardware that *options* ask for, with *targets* servers where they do not say."""
    from dsim.tasks.generate import Hardware

    return Hardware(
        devices=options["devices"],
        targets=options["targets"] or targets,
        threads=options["threads"],
        share=options["share"],
        watchdog_s=options["watchdog"],
        compiled=options["compile"],
    )


@click.command()
@click.argument("prompt")
@click.option(
    "--algorithm",
    type=OrchestrationName(live=True),
    default=DEFAULT,
    show_default=True,
    help="Algorithm to run.",
)
@lookahead_options
@click.option(
    "--tokens", type=Whole(1), default=128, show_default=True, help="Number of tokens to generate."
)
@click.option(
    "--compare", is_flag=True, help="Run several algorithms (those of the paper) and compare them."
)
@chat_option
@click.option("--ignore-eos", is_flag=True, help="Continue after an end-of-text token.")
@json_option(help="Print one JSON object per algorithm.")
@timeline_option()
@draft_options
@model_options
@plugin_option
def generate(prompt: str, **options: Any) -> None:
    """Generate text with real models, one process per server.

    Without --target, uses the small pair of models that ships.
    """
    from dsim.backends.torch.fitting import check_drafts, compared
    from dsim.model.lookahead import Policy
    from dsim.tasks import generate as generation

    rule = rule_of(options)
    options["tree_paths"] = paths_in(options["tree_paths"])
    decoding = generation.decoding_from_options(options)
    pair = pair_of(options)
    names = list(compared(pair.drafter)) if options["compare"] else []
    source = click.get_current_context().get_parameter_source("algorithm")
    if not names or source != click.core.ParameterSource.DEFAULT:  # its own beside those
        names = list(dict.fromkeys([*names, options["algorithm"]]))
    for name in names:
        check_drafts(name, decoding, pair.drafter, rule, compiled=options["compile"])
    ids = generation.encode(pair, prompt, chat=options["chat"])
    quiet = options["as_json"]
    if not quiet:
        click.echo(f"… starting {pair.target} and {pair.drafter}", err=True)
    with hardware_of(options).workers(pair, names, len(ids) + options["tokens"]) as workers:
        if not quiet:
            click.echo(prompt, nl=options["chat"])
        made = generation.generate(
            workers,
            ids,
            names,
            rule,
            tokens=options["tokens"],
            lookahead=options["lookahead"],
            policy=Policy(name=options["lookahead_policy"]),
            decoding=decoding,
            ignore_eos=options["ignore_eos"],
            write=None if quiet else lambda piece: click.echo(piece, nl=False),
        )
        if quiet:
            click.echo(generation.as_json(made))
        else:
            click.echo("\n\n" + generation.as_text(made, rule, workers))
        if options["timeline"] is not None:
            described = f"{pair.target}, {pair.drafter}; {options['tokens']} tokens."
            generation.write_timeline(made, options["timeline"], described)


@click.command()
@click.argument("study", type=StudyFile(), required=False, metavar="[STUDY.toml]")
@click.option("--backend", type=Word(["wallclock", "torch"]), help="What to measure.")
@click.option("--tokens", type=Whole(), help="Number of tokens to generate per text.")
@click.option("--prompts", type=Whole(), help="Number of texts to predict and to measure.")
@real_models("that of the study")
@prompt_set_option()
@share_option(default=None)
@compile_option(default=None)
@json_option()
@file_option(
    "--report",
    "report",
    "FILE.html",
    "Write a page with a chart of predicted against measured, and timelines of both.",
    NewFile(".html", ".htm"),
)
@file_option(
    "--predict",
    "predict",
    "FILE.json",
    "Calibrate, write the prediction, and measure nothing.",
    NewFile(".json"),
)
@click.option(
    "--against",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE.json",
    help="Measure, and compare with a prediction that --predict wrote.",
)
@click.option("--quick", is_flag=True, help="Fewer texts and repeats, wider tolerances.")
@click.option("--quiet", is_flag=True, help="Print no progress.")
@plugin_option
def validate(
    study: Path | None,
    as_json: bool,
    report: Path | None,
    predict: Path | None,
    against: Path | None,
    quick: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Predict wall times by simulation, measure them, and compare.

    Exits with status 1 if a claim fails, and with 4 if none fails, but the machine is too noisy to
    tell whether all hold. STUDY is a file, or the name of one that ships: validate,
    validate-smollm2.
    """
    from dsim.tasks.validate import page, prediction, run, settings

    if predict and (against or report):
        raise UserError(
            f"--predict measures nothing, so {'--against' if against else '--report'} has no use"
        )
    inner = {"target", "drafter", "prompt_set", "share", "compile"}
    given = {f"torch.{k}" if k in inner else k: v for k, v in options.items()}
    loaded = settings.load(study, given, quick=quick)

    def progress(what: str) -> None:
        if not quiet:
            click.echo(f"… {what}", err=True)

    if predict is not None:
        made = run.predict(loaded, progress=progress)
        sha256 = prediction.write(made, predict)
        click.echo(f"The prediction is in {predict} (SHA-256 {sha256}).")
        return
    known = None
    if against is not None:
        known = prediction.read(against)
        prediction.check_study(known, loaded, against)
    found = run.validate(loaded, against=known, progress=progress)
    click.echo(page.as_json(found) if as_json else page.as_text(found))
    if report is not None:
        page.write_report(found, report)
    if found.holds is not True:
        raise click.exceptions.Exit(TOO_NOISY if found.holds is None else CLAIM_FAILED)


@click.group()
def measure() -> None:
    """Measure real models: latency and acceptance rate, for studies to use."""


def numbers(_: click.Context, option: click.Parameter, value: str) -> list[int]:
    """A list of whole numbers above 0, from text."""
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(Problem(f"--{option.name}", "", f"expected numbers above 0, got {value!r}"))
    return sorted({int(part) for part in parts})


# What the measuring commands take to measure the pairs of a study.
measure_options = with_options(
    click.argument("study", type=StudyFile(), required=False),
    click.option(
        "--pair",
        "pairs",
        multiple=True,
        help='Pairs to measure, or "all".  [default: those in the study\'s `run` list]',
    ),
    click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path("results/profiles"),
        show_default=True,
        help="Folder for the profiles of a study's pairs.",
    ),
)


# What the measuring commands heed when they measure a study; the rest, the study says.
WITH_STUDY = {"study", "pairs", "out", "tokens", "prompts", "dtype", "seed", "repeats", "as_json"}
WITH_STUDY |= {"devices", "targets", "threads", "share", "watchdog"}
ONLY_WITH_STUDY = {"pairs", "out"}


def refuse_ignored(study: Path | None) -> None:
    """See that no option was given that would be ignored with *study*, or without one.

    Raises:
        UserError: one was.
    """
    context = click.get_current_context()
    for parameter in context.command.params:
        name = str(parameter.name)
        if context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        if study is None and name in ONLY_WITH_STUDY:
            raise UserError(f"{parameter.opts[0]} needs a STUDY")
        if study is not None and name not in WITH_STUDY:
            what = f"{parameter.opts[0]} has no meaning with a STUDY, which says what to measure"
            raise UserError(what)


def measure_pairs(what: str, study: Path, pairs: Sequence[str], options: dict[str, Any]) -> None:
    """Measure the pairs of *study*; each becomes a profile."""
    from dsim.tasks.measure import pairs as measuring
    from dsim.tasks.measure.settings import load

    context = click.get_current_context()
    given = {
        key: options[key]
        for key in ("tokens", "prompts", "dtype", "seed", "repeats")
        if context.get_parameter_source(key) is click.core.ParameterSource.COMMANDLINE
    }
    loaded = load(study, given)
    hardware = hardware_of(options, targets=1)
    found = []
    for one in measuring.run(
        loaded,
        what,
        pairs,
        options["out"],
        lambda pair: hardware.workers(pair, REFERENCES[:1]),
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
@click.option("--model", metavar="MODEL", help="Model to measure.  [the target that ships]")
@click.option(
    "--widths",
    default="1,2,3,4,6,8,16",
    show_default=True,
    callback=numbers,
    metavar="N,N…",
    help="Numbers of tokens in a forward.",
)
@click.option(
    "--contexts",
    default="32,128",
    show_default=True,
    callback=numbers,
    metavar="N,N…",
    help="Numbers of tokens before them.",
)
@click.option(
    "--repeats", type=Whole(1), default=20, show_default=True, help="Forwards per measurement."
)
@click.option(
    "--tokens",
    type=Whole(2),
    default=32,
    show_default=True,
    help="Number of tokens to generate per prompt.",
)
@click.option(
    "--prompts", type=Whole(1), default=5, show_default=True, help="Use only the first N prompts."
)
@prompt_set_option(default="stories")
@click.option("--co-running", type=Whole(0), default=0, help="Measure while N other workers run.")
@click.option(
    "--as",
    "role",
    type=Word(["target", "drafter"]),
    default="target",
    show_default=True,
    help="Which model's settings --toml and --json print.",
)
@click.option("--toml", is_flag=True, help="Print the result as settings of a study.")
@json_option()
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

    With a STUDY (like latency, which ships): of every pair that it lists; each gets a profile,
    which dsim run --set pair=FILE reads.
    """
    refuse_ignored(study)
    if study is not None:
        measure_pairs("latency", study, pairs, options)
        return
    from dsim.backends.torch import prompts
    from dsim.tasks import generate as generation
    from dsim.tasks.measure import latency as measuring

    known = prompts.load(options["prompt_set"], "--prompt-set")[: options["prompts"]]
    options |= {
        "target": model or options["target"],
        "drafter": "ngram",
        "targets": 1 + options["co_running"],
    }
    pair = pair_of(options)
    ids = [generation.encode(pair, prompt.text, chat=False) for prompt in known]
    longest = max(max(map(len, ids)) + options["tokens"], max(contexts) + max(widths))
    with hardware_of(options).workers(pair, REFERENCES[:1], longest) as workers:
        table = measuring.latency(
            workers,
            ids,
            tokens=options["tokens"],
            widths=widths,
            contexts=contexts,
            repeats=options["repeats"],
            progress=counting("measurements"),
        )
    if options["as_json"]:
        click.echo(measuring.latency_json(table, options["role"], options["prompt_set"]), nl=False)
    elif options["toml"]:
        click.echo(measuring.latency_toml(table, options["role"]), nl=False)
    else:
        click.echo(measuring.latency_text(table))


@measure.command()
@click.option(
    "--tokens",
    type=Whole(2),
    default=64,
    show_default=True,
    help="Number of tokens to generate per prompt.",
)
@click.option("--prompts", type=Whole(2), help="Use only the first N prompts.")
@prompt_set_option(default="stories")
@chat_option
@file_option(
    "--trace", "trace", "FILE", "Write the draws to a file that acceptance.trace_file reads."
)
@json_option()
@measure_options
@model_options
def acceptance(
    study: Path | None, pairs: Sequence[str], trace: Path | None, as_json: bool, **options: Any
) -> None:
    """Measure how often the target accepts the drafter's tokens.

    With a STUDY (like acceptance, which ships): of every pair that it lists; each gets a profile,
    which dsim run --set pair=FILE reads.
    """
    refuse_ignored(study)
    if study is not None:
        measure_pairs("acceptance", study, pairs, options | {"as_json": as_json})
        return
    from dsim.backends.torch import prompts
    from dsim.tasks import generate as generation
    from dsim.tasks.measure import acceptance as measuring

    rule = rule_of(options)
    known = prompts.load(options["prompt_set"], "--prompt-set")[: options["prompts"]]
    pair = pair_of(options)
    ids = [generation.encode(pair, p.text, chat=options["chat"]) for p in known]
    longest = max(map(len, ids)) + options["tokens"]
    with hardware_of(options, targets=1).workers(pair, REFERENCES[:1], longest) as workers:
        report = measuring.acceptance(
            workers,
            [(p.task, one) for p, one in zip(known, ids, strict=True)],
            rule,
            tokens=options["tokens"],
            progress=counting("prompts"),
        )
    if trace is not None:
        measuring.write_traces(report, trace)
    if as_json:
        click.echo(measuring.acceptance_json(report, options["prompt_set"]), nl=False)
        return
    click.echo(measuring.acceptance_text(report))
