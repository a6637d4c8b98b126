"""Options that several commands take, and the types of their values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsim.study.executors import Executor


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
