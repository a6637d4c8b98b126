"""Options of other names, the types of values, and what several commands make of them."""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dsim.errors import UserError
from dsim.orchestrations import ORCHESTRATIONS
from dsim.words import nearest

if TYPE_CHECKING:
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
PERCENT = 10, 100  # a share from the one to the other was probably meant in percent
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
    hint = ""
    if (low, high) == (0, 1):
        with contextlib.suppress(ValueError):
            percent = float(str(value).rstrip("%"))
            if PERCENT[0] <= percent <= PERCENT[1]:
                hint = f"; did you mean {percent / 100:g}?"
    return f"expected {what}, got {value}{hint}"


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


class Shares(click.ParamType):  # type: ignore[type-arg]  # of click 8.5 on
    """Parts of a whole, with commas between them."""

    name = "shares"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The numbers that *value* says."""
        try:
            shares = [float(part) for part in value.split(",")]
        except ValueError:
            shares = [math.nan]
        if not all(0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            what = "numbers from 0 to 1 with commas between, at most 1 together"
            self.fail(f"expected {what}, got {value!r}", param, ctx)
        return shares


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


class NewFile(click.Path):
    """A file to write, in a folder that there is: that is known before the work.

    A file that is there already is replaced only if its name ends like one of ours.

    Args:
        endings: how such names end.
    """

    def __init__(self, *endings: str) -> None:
        super().__init__(path_type=Path, dir_okay=False)
        self.endings = endings

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path of the file."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"{path} cannot be written: there is no folder {path.parent}", param, ctx)
        if path.exists() and not path.name.endswith(self.endings):
            known = " or ".join(self.endings)
            self.fail(f"{path} is there already, and its name does not end in {known}", param, ctx)
        return path


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
            from dsim.study.presets import PRESETS

            hint = nearest(value, names) or "; for one of your own, give --plugin FILE.py"
            if value in PRESETS:
                hint = f"; it is a method: --method {value} (a setting in studies)"
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
