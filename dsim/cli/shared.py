"""Options that several commands take: each is declared here once, and says the same everywhere.

Where commands differ in a default, it is an argument of the declaration.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim.cli.options import NewFile, Number, Shares, Whole, Word
from dsim.model import POLICIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def load_plugins(_: click.Context, __: click.Parameter, names: Sequence[str]) -> None:
    """Import the modules that ``--plugin`` names, before other options are read."""
    if names:
        from dsim.orchestrations.plugins import load

        load(list(names))


plugin_option = click.option(
    "--plugin",
    metavar="MODULE|FILE.py",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=load_plugins,
    help="Load a module that adds an orchestration; repeatable.",
)


def set_option(of: str = "") -> Callable[..., Any]:
    """``--set``, which overrides settings.

    Args:
        of: how to list the settings, after ``dsim settings``.
    """
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        help=f"Override any setting; repeatable. See dsim settings{of}. Values as in TOML.",
    )


def with_options(*options: Callable[..., Any]) -> Callable[..., Any]:
    """One decorator for several *options*, in the order in which the help lists them."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def option_of(name: str, *names: str, **how: Any) -> Callable[..., Callable[..., Any]]:
    """What declares the option *name*; a command may add or change what is its own.

    Args:
        name: the option.
        *names: the parameter, where it is called otherwise.
        **how: type, form and help, as click.option takes them.
    """

    def declare(**own: Any) -> Callable[..., Any]:
        return click.option(name, *names, **{**how, **own})

    return declare


def file_option(
    name: str, parameter: str, metavar: str, what: str, path: click.Path | None = None
) -> Callable[..., Any]:
    """An option that names a file to write or to read.

    Args:
        name: the option.
        parameter: the parameter of the command.
        metavar: how the help shows the file.
        what: the help.
        path: its type, where it is more than a file.
    """
    path = path or click.Path(path_type=Path, dir_okay=False)
    return click.option(name, parameter, type=path, metavar=metavar, help=what)


json_option = option_of("--json", "as_json", is_flag=True, help="Print one JSON object.")
open_option = click.option("--open", "open_", is_flag=True, help="Open the page in a browser.")
quiet_option = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


def page_option(what: str) -> Callable[..., Any]:
    """``--out``, which names the page to write.

    Args:
        what: the help.
    """
    return file_option("--out", "out", "FILE.html", what, NewFile(".html", ".htm"))


def page_options(what: str) -> Callable[..., Any]:
    """Options of a command that prints, or writes a page.

    Args:
        what: help of ``--out``.
    """
    return with_options(json_option(), page_option(what), open_option)


def say(
    lines: Sequence[str], out: Path | None, write: Callable[[Path], None], *, as_json: bool
) -> None:
    """Print an answer, then write its page, which must not cost the answer if it cannot be drawn.

    Args:
        lines: the answer.
        out: where the page belongs; ``None``: nowhere.
        write: writes it.
        as_json: whether the answer is JSON, beside which nothing is printed.
    """
    for line in lines:
        click.echo(line)
    if out is not None:
        write(out)
        if not as_json:
            click.echo(f"page: {out}")


def timeline_option(of: str = "") -> Callable[..., Any]:
    """``--timeline``, which names the page to draw.

    Args:
        of: what the timeline shows, after "Draw a timeline".
    """
    what = f"Draw a timeline{of}: one lane per server."
    return file_option("--timeline", "timeline", "FILE.html", what, NewFile(".html", ".htm"))


jobs_option = click.option(
    "--jobs",
    type=Whole(1),
    metavar="N",
    help="Number of worker processes.  [default: all cores]",
)
engine_option = click.option(
    "--engine",
    type=Word(["auto", "vector", "events"]),
    help="Engine that simulates.  [default: auto]",
)
seed_option = click.option(
    "--seed", type=Whole(0), default=0, show_default=True, help="Seed of the random draws."
)
preemptible_option = option_of(
    "--preemptible/--no-preemptible",
    show_default=True,
    help="Whether a cancelled pass frees its server at once (a GPU cannot do that).",
)
chat_option = click.option(
    "--chat", is_flag=True, help="Treat the prompt as a user's turn in a chat."
)
prompt_set_option = option_of(
    "--prompt-set",
    metavar="NAME|all|FILE",
    show_default=True,
    help="A set of prompts that ships, or all, or a JSONL file.",
)


# The part of a trace of requests that is used, and how fast it is played.
trace_part_options = with_options(
    click.option(
        "--from",
        "from_s",
        type=Number(0),
        default=0.0,
        show_default=True,
        metavar="S",
        help="Start of the part of the trace to use, in seconds.",
    ),
    click.option(
        "--for",
        "for_s",
        type=Number(0, min_open=True),
        metavar="S",
        help="Length of the part of the trace to use, in seconds.  [default: to its end]",
    ),
    click.option(
        "--rate-scale",
        type=Number(0, min_open=True),
        default=1.0,
        show_default=True,
        metavar="X",
        help="Multiply the request rate by X.",
    ),
)


# One case: the times of its models, and how often drafts are accepted.
def latency_option(model: str, what: str, more: str, **how: Any) -> Callable[..., Any]:
    """The latency of a *model*, given as a number.

    Args:
        model: ``target`` or ``drafter``.
        what: what takes this time.
        more: what else the help says: another form of the value, the default.
        **how: type and form of the value.
    """
    return click.option(f"--{model}-latency", help=f"Latency of one {what}, in ms{more}", **how)


def latency_options(target: str, drafter: str, **how: Any) -> Callable[..., Any]:
    """``--target-latency`` and ``--drafter-latency``.

    Args:
        target: what else the help of ``--target-latency`` says.
        drafter: what else the help of ``--drafter-latency`` says.
        **how: type and form of the value.
    """
    return with_options(
        latency_option("target", "target pass", target, **how),
        latency_option("drafter", "draft token", drafter, **how),
    )


def acceptance_option(more: str, **how: Any) -> Callable[..., Any]:
    """``--acceptance``.

    Args:
        more: what else the help says: another form of the value, the default.
        **how: type and form of the value.
    """
    what = f"Probability that the target accepts a draft token{more}"
    return click.option("--acceptance", help=what, **how)


def rank_shares_option(default: str) -> Callable[..., Any]:
    """``--rank-shares``.

    Args:
        default: what holds without the option.
    """
    return click.option(
        "--rank-shares",
        type=Shares(),
        metavar="S2,S3,…",
        help="Where the drafter's first choice is wrong, how often its second, third, … is right, "
        f"e.g. 0.45,0.2: what trees live on.  [default: {default}]",
    )


lookahead_options = with_options(
    click.option(
        "--lookahead",
        type=Whole(1),
        default=5,
        show_default=True,
        help="Draft tokens per target pass; also called --gamma, --draft-length or "
        "--num-speculative-tokens.",
    ),
    click.option(
        "--lookahead-policy",
        type=Word(POLICIES),
        default=POLICIES[0],
        show_default=True,
        help="Whether and how the lookahead adapts.",
    ),
)


# Models and GPUs by name, whose latency is estimated.
def gpu_option(more: str = "", **how: Any) -> Callable[..., Any]:
    """``--gpu``.

    Args:
        more: what else the help says.
        **how: the default.
    """
    return click.option("--gpu", metavar="NAME", help=f"Type of the GPUs, e.g. h100{more}.", **how)


tp_option = option_of(
    "--tp",
    type=Whole(1, 1024),
    metavar="N",
    help="Tensor parallelism: number of GPUs that share each layer.  [default: 1]",
)
dtype_option = click.option(
    "--dtype",
    metavar="TYPE",
    help="Type of the target's weights: bf16, fp8, int8, int4, fp4.  [default: as published]",
)
named_drafter_option = click.option(
    "--drafter",
    metavar="NAME",
    help="Drafter on the same GPUs: eagle3, mtp, medusa, or a model by name.",
)


# Models that run.
def real_models(default: str) -> Callable[..., Any]:
    """``--target`` and ``--drafter`` of the commands that run real models.

    Args:
        default: what the default target is.
    """
    return with_options(
        click.option(
            "--target",
            metavar="MODEL",
            help=f"Target model: a folder, a .gguf file or a hub id.  [default: {default}]",
        ),
        click.option(
            "--drafter",
            metavar="MODEL",
            help="Drafter model: a folder, a .gguf file or a hub id; or eagle:FOLDER, an "
            "EAGLE-3 head of the target; or ngram; or skip:1,3 or skip:auto=2, the target "
            "without some layers; or module:Class, your own.",
        ),
    )


share_option = option_of("--share", is_flag=True, help="Let several workers share a core or a GPU.")
compile_option = option_of(
    "--compile",
    is_flag=True,
    help="Compile the models (CUDA graphs on a GPU); the start takes longer.",
)


# Options of the commands that read a study.
study_options = with_options(
    click.option(
        "--backend",
        type=Word(["simulated", "wallclock"]),
        help="wallclock: wait in real time instead, one case at a time.  [default: simulated]",
    ),
    engine_option,
    set_option(),
)


# Options of the commands that run many cases.
executor_options = with_options(
    jobs_option,
    click.option(
        "--executor",
        type=Word(["processes", "ray"]),
        default="processes",
        show_default=True,
        help="What runs the cases: processes of this machine, or Ray.",
    ),
    click.option(
        "--ray-address",
        metavar="ADDRESS",
        help="Address of a running Ray cluster (with --executor ray).  "
        "[default: start a local one]",
    ),
)


# Options of the drafts of one text: blocks, patience and trees.
draft_options = with_options(
    click.option(
        "--block-tokens",
        type=Whole(1),
        help="Draft tokens that one forward of the drafter makes.  [default: 1]",
    ),
    click.option(
        "--patience",
        type=Whole(0),
        help="Draft tokens that the first pass of a branch of DSI waits for.  [default: 0]",
    ),
    click.option(
        "--tree-paths",
        metavar="1;2;1,1",
        help="Nodes of a static tree: the ranks from the root to each.",
    ),
    click.option("--tree-depth", type=Whole(1), help="Levels of a tree, at most.  [default: 5]"),
    click.option(
        "--tree-branches",
        type=Whole(1),
        help="Candidates of each node that the drafter reads.  [default: 2]",
    ),
    click.option("--tree-nodes", type=Whole(1), help="Nodes of a tree, at most.  [default: all]"),
    click.option(
        "--tree-deviations",
        type=Whole(0),
        help="Second choices (or later ones) on a path of DSI over trees.  [default: 1]",
    ),
)


# Options of the commands that run real models.
model_options = with_options(
    real_models("a small one that ships"),
    click.option(
        "--dtype",
        default="float32",
        show_default=True,
        metavar="TYPE",
        help="Number format of the weights.",
    ),
    click.option("--revision", help="Revision of a target on the hub."),
    click.option("--trust-remote-code", is_flag=True, help="Run code that comes with a model."),
    click.option(
        "--devices",
        default="cpu",
        show_default=True,
        metavar="D1,D2…",
        help="Device of the drafter, then those of the targets: cpu, cuda:0, mps.",
    ),
    click.option(
        "--targets", type=Whole(1), help="Number of target servers.  [default: all cores]"
    ),
    click.option(
        "--threads",
        type=Whole(1),
        default=1,
        show_default=True,
        help="Threads of each worker on a CPU.",
    ),
    share_option(),
    click.option(
        "--watchdog",
        type=Number(0, min_open=True),
        metavar="S",
        help="Give up when loading the models, or one forward, takes longer than this many "
        "seconds.  [default: 900 and 120]",
    ),
    compile_option(),
    click.option(
        "--temperature",
        type=Number(),
        default=0.0,
        show_default=True,
        help="Sampling temperature; 0 is greedy.",
    ),
    click.option(
        "--top-k",
        type=Whole(),
        default=0,
        show_default=True,
        help="Sample from this many most likely tokens; 0: from all.",
    ),
    click.option(
        "--top-p",
        type=Number(),
        default=1.0,
        show_default=True,
        help="Sample from the most likely tokens that have this probability together.",
    ),
    seed_option,
    click.option(
        "--rule",
        default="match",
        show_default=True,
        help="How drafts are judged: match, rejection, lenient, top-n.",
    ),
    click.option(
        "--leniency",
        type=Number(),
        default=0.5,
        show_default=True,
        help="Leniency of --rule lenient.",
    ),
    click.option(
        "--top-n",
        type=Whole(),
        default=3,
        show_default=True,
        help="Number of tokens that --rule top-n accepts.",
    ),
)
