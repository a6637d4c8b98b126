"""The command line: commands, exit codes, and the plugins of the user."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from dsim.cli.advise import advise
from dsim.cli.check import check
from dsim.cli.latency import latency
from dsim.cli.models import generate, measure, validate
from dsim.cli.options import Word, by_our_names, message_of
from dsim.cli.reproduce import reproduce
from dsim.cli.shared import plugin_option
from dsim.cli.simulate import simulate
from dsim.cli.studies import compare, docs, load, plot, presets, run, settings, studies, verify
from dsim.cli.trace import trace
from dsim.errors import EngineError, Problem, UserError
from dsim.system import interrupted_code, stop_on_signals
from dsim.version import VERSION

USER_MISTAKE, FAILURE = 2, 3


class Group(click.Group):
    """Commands whose errors become exit codes: 2 for a user's mistake, 3 for a failure of ours."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command line and leave with its exit code."""
        kwargs["standalone_mode"] = False
        try:
            try:
                with stop_on_signals():
                    code = super().main(*args, **kwargs)
            except SystemExit as leave:
                # Click's way to say that whoever reads our output has enough of it.
                sys.exit(0 if leave.code == 1 else leave.code)
        except click.exceptions.Exit as leave:
            sys.exit(leave.exit_code)
        except click.Abort:
            click.echo("interrupted", err=True)
            sys.exit(interrupted_code())
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(USER_MISTAKE)
        except click.ClickException as error:
            click.echo(f"error: {message_of(error)}", err=True)
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
                click.echo(f"This is a bug in dsim; the details are in {log}.", err=True)
            except OSError:
                click.echo(traceback.format_exc(), err=True)
            sys.exit(FAILURE)
        sys.exit(code if isinstance(code, int) else 0)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """Find the command, or name the nearest one; options may have the names of other tools."""
        try:
            name, command, rest = super().resolve_command(ctx, args)
            return name, command, by_our_names(command, rest) if command else rest
        except click.UsageError as error:
            from dsim.words import nearest

            if args and "No such command" in error.message:
                hint = nearest(args[0], self.list_commands(ctx))
                raise click.UsageError(error.message.rstrip(".") + hint, ctx) from None
            raise


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, prog_name="dsim")
@plugin_option
def main() -> None:
    """Simulate speculative decoding: non-SI, SI and DSI under one clock.

    Start with: dsim simulate. Then: dsim run heatmap. Tutorials: dsim docs tutorial-drafter,
    tutorial-deployment, tutorial-orchestration. All pages: dsim docs
    """


@click.command()
@click.argument("shell", type=Word(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes dsim's commands in your shell.

    For bash: dsim completion bash > ~/.dsim-complete.bash, and source that in ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise UserError(Problem("completion", "", f"click knows no completion for {shell}"))
    click.echo(found(main, {}, "dsim", "_DSIM_COMPLETE").source())


for _command in (
    run,
    load,
    advise,
    latency,
    trace,
    plot,
    compare,
    check,
    verify,
    settings,
    presets,
    studies,
    docs,
    simulate,
    generate,
    validate,
    measure,
    reproduce,
):
    main.add_command(_command)
main.add_command(completion)
