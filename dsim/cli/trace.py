"""``dsim trace``."""

from __future__ import annotations

from pathlib import Path

import click

from dsim.cli.shared import page_options, say, trace_part_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE")
@trace_part_options
@page_options("Write a page with charts.")
def trace(
    *,
    file: Path,
    from_s: float,
    for_s: float | None,
    rate_scale: float,
    as_json: bool,
    out: Path | None,
    open_: bool,
) -> None:
    """Summarise a trace of requests: rates, lengths, bursts.

    Also summarises prefixes that prompts share. FILE is dsim's own CSV, or a trace as Azure (2023,
    2024), BurstGPT or Mooncake publish it. In a study: workload.trace_file, workload.from_s,
    workload.for_s and workload.rate_scale.
    """
    from dsim.tasks import trace as task

    found = task.summary(task.read(file, from_s=from_s, for_s=for_s, rate_scale=rate_scale))
    out = out or (Path("trace.html") if open_ else None)

    def write(path: Path) -> None:
        from dsim.tasks.trace_page import write_page

        write_page(found, file.name, path)

    lines = [task.as_json(found)] if as_json else task.as_text(found)
    say(lines, out, write, as_json=as_json)
    if open_:
        click.launch(str(out))
