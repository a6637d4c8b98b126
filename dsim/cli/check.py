"""``dsim check``."""

from __future__ import annotations

import click

from dsim.cli.progress import counting
from dsim.cli.shared import plugin_option


@click.command()
@click.argument("which", metavar="FILE.py|MODULE|NAME")
@plugin_option
def check(which: str) -> None:
    """Check an orchestration of your own against the common laws.

    FILE.py (or MODULE) declares it, as dsim docs orchestrations says. Every small case is tried,
    the smallest first, then random larger ones. Prints each law, whether it is kept, and the
    smallest case that breaks it. Exits with status 1 if a law is broken.
    """
    from dsim.orchestrations import ORCHESTRATIONS
    from dsim.tasks import check as checking

    known = which in ORCHESTRATIONS
    broken = False
    for name in checking.names_in(which):
        verdicts = checking.check(name, counting("cases"))
        for line in checking.lines(name, verdicts, "" if known else which):
            click.echo(line)
        broken |= any(one.problem for one in verdicts)
    if broken:
        click.get_current_context().exit(1)
