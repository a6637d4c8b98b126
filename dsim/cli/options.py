"""Options that several commands take, and the types of their values."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim.errors import UserError
from dsim.orchestrations import ORCHESTRATIONS
from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.study.executors import Executor


# The same options under the names that other tools and papers give them.
OTHER_NAMES = {
    "--gamma": "--lookahead",
    "--num-speculative-tokens": "--lookahead",
    "--speculative-tokens": "--lookahead",
    "--draft-length": "--lookahead",
    "--num-draft-tokens": "--lookahead",
    "--alpha": "--acceptance",
    "--acceptance-rate": "--acceptance",
    "--max-tokens": "--tokens",
    "--max-new-tokens": "--tokens",
    "--batch-size": "--batch",
    "--tensor-parallel-size": "--gpus-per-target",
    "--request-rate": "--rate",
    "--qps": "--rate",
}
# Options that people look for, and that are called otherwise here, but mean a little less or more.
FIELD_WORDS = {"--replicas": ("number of target servers", "--targets")}


def by_our_names(command: click.Command, args: list[str]) -> list[str]:
    """*args* with each option of :data:`OTHER_NAMES` that *command* lacks under its own name."""
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    renamed: list[str] = []
    for number, arg in enumerate(args):
        if arg == "--":
            return renamed + args[number:]
        name, equals, value = arg.partition("=")
        ours = OTHER_NAMES.get(name, name)
        renamed.append((ours if name not in known and ours in known else name) + equals + value)
    return renamed


def _expected(what: str, numbers: Any, value: Any) -> str:
    """What a number in the range *numbers* should be, and the *value* that was given instead."""
    low, high = numbers.min, numbers.max
    if low is not None and high is not None:
        what += f" from {low:,g} to {high:,g}"
    elif low is not None:
        what += f" {'above' if numbers.min_open else 'at least'} {low:,g}"
    return f"expected {what}, got {value}"


class Whole(click.IntRange):
    """A whole number."""

    name = "n"

    def _describe_range(self) -> str:  # click would show "x<=None"
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that *value* says."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(_expected("a whole number", self, value), param, ctx)


class Number(click.FloatRange):
    """A finite number."""

    name = "number"

    def _describe_range(self) -> str:  # click would show "x<=None"
        return "" if self.min is None and self.max is None else super()._describe_range()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that *value* says."""
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter:
            number = math.nan
        if not math.isfinite(number):
            self.fail(_expected("a number", self, value), param, ctx)
        return number


class Word(click.Choice):  # type: ignore[type-arg]  # of click 8.5 on
    """One of a few words."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Check that *value* is one of them."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            names = [str(choice) for choice in self.choices]
            hint = nearest(str(value), names)
            self.fail(f"expected one of {', '.join(names)}, got {value}{hint}", param, ctx)


class StudyFile(click.Path):
    """The file of a study: a path, or the name of a study that comes with dsim."""

    name = "study"

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of the file."""
        from dsim.study.shipped import path_of

        return super().convert(path_of(value), param, ctx)


class OrchestrationName(click.ParamType):  # type: ignore[type-arg]  # of click 8.5 on
    """The name of an orchestration, those of plugins included.

    Args:
        live: take only those that run on real models.
    """

    name = "name"

    def __init__(self, *, live: bool = False) -> None:
        self.live = live

    def names(self) -> list[str]:
        """The names that are valid now."""
        return [name for name, o in ORCHESTRATIONS.items() if o.traits.live or not self.live]

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:  # noqa: ARG002
        """How the help shows the value."""
        return f"[{'|'.join(self.names())}]"

    def convert(self, value: str, param: Any, ctx: Any) -> str:
        """Check that *value* is one of the names."""
        names = self.names()
        if value not in names:
            hint = nearest(value, names)
            self.fail(f"expected one of {', '.join(names)}, got {value}{hint}", param, ctx)
        return value


def message_of(error: click.ClickException) -> str:
    """What a wrong command line got wrong, in the words and the order of :class:`Problem`."""
    if isinstance(error, click.NoSuchOption):
        return f"No such option '{error.option_name}'{_instead_of(error)}"
    message = error.format_message().rstrip(".")
    if isinstance(error, click.MissingParameter):
        return message[:1].lower() + message[1:]
    if isinstance(error, click.BadParameter) and error.param is not None:
        names = [*error.param.opts, *error.param.secondary_opts]
        name = max(names, key=len) if isinstance(error.param, click.Option) else error.param.metavar
        return f"{name or error.param.name}: {error.message.rstrip('.')}"
    return message if message.startswith("No such") else message[:1].lower() + message[1:]


def _instead_of(error: click.NoSuchOption) -> str:
    """The option that was meant, as far as one can tell."""
    known: list[str] = []
    for param in error.ctx.command.params if error.ctx else ():
        known += [*param.opts, *param.secondary_opts]
    noun, option = FIELD_WORDS.get(error.option_name, ("", ""))
    if option in known:
        return f"; the {noun} is {option}"
    return nearest(error.option_name, [name for name in known if name.startswith("--")])


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


def page_options(what: str) -> Callable[..., Any]:
    """Options of a command that prints, or writes a page.

    Args:
        what: help of ``--out``.
    """
    return with_options(
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
        click.option(
            "--out",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE.html",
            help=what,
        ),
        click.option("--open", "open_", is_flag=True, help="Open the page in a browser."),
    )


# Options of the commands that read a study.
study_options = with_options(
    click.option(
        "--backend",
        type=Word(["simulated", "wallclock"]),
        help="wallclock: wait in real time instead, one case at a time.  [default: simulated]",
    ),
    click.option(
        "--engine",
        type=Word(["auto", "vector", "events"]),
        help="Engine that simulates.  [default: auto]",
    ),
    set_option(),
)


# Options of the commands that run many cases.
executor_options = with_options(
    click.option("--jobs", type=Whole(1), help="Number of worker processes.  [all cores]"),
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


def executor_of(name: str, jobs: int | None, ray_address: str | None) -> Executor:
    """The executor that the options ask for.

    Args:
        name: ``processes`` or ``ray``.
        jobs: number of worker processes; by default one for each core.
        ray_address: address of a Ray cluster that runs already.

    Raises:
        UserError: the executor is not installed.
    """
    from dsim.study.executors import Executor
    from dsim.system import available_cores

    if ray_address is not None and name != "ray":
        raise UserError("--ray-address goes with --executor ray")
    if ray_address is not None and jobs is not None:
        raise UserError("--jobs is about this machine; a Ray cluster knows its own size")
    executor = Executor(name=name, jobs=jobs or len(available_cores()), ray_address=ray_address)
    executor.check()
    return executor


def numbers_in(option: str, text: object) -> list[int] | None:
    """Whole numbers with commas between them."""
    if text is None:
        return None
    parts = str(text).split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"{option}: expected whole numbers like 2,1,1, got {text!r}")
    return [int(part) for part in parts]


def paths_in(text: object) -> list[list[int]] | None:
    """Paths with semicolons between them."""
    if text is None:
        return None
    return [numbers_in("--tree-paths", part) or [] for part in str(text).split(";")]


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


COMPILE_HELP = "Compile the models (CUDA graphs on a GPU); the start takes longer."


seed_option = click.option(
    "--seed", type=Whole(0), default=0, show_default=True, help="Seed of the random draws."
)

# Options of the commands that run real models.
model_options = with_options(
    click.option(
        "--target",
        metavar="MODEL",
        help="Target model: a folder, a .gguf file or a hub id.  [a small one that ships]",
    ),
    click.option(
        "--drafter",
        metavar="MODEL",
        help="Drafter model: a folder, a .gguf file or a hub id; or eagle:FOLDER, an "
        "EAGLE-3 head of the target; or ngram; or skip:1,3 or skip:auto=2, the target "
        "without some layers; or module:Class, your own.",
    ),
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
    click.option("--targets", type=Whole(1), help="Number of target servers.  [all cores]"),
    click.option(
        "--threads",
        type=Whole(1),
        default=1,
        show_default=True,
        help="Threads of each worker on a CPU.",
    ),
    click.option("--share", is_flag=True, help="Let several workers share a core or a GPU."),
    click.option(
        "--watchdog",
        type=Number(0, min_open=True),
        metavar="S",
        help="Give up when loading the models, or one forward, takes longer than this many "
        "seconds.  [900 and 120]",
    ),
    click.option("--compile", is_flag=True, help=COMPILE_HELP),
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
