"""``dsim reproduce``."""

from __future__ import annotations

from pathlib import Path

import click

from dsim.cli.options import Whole


@click.command()
@click.option(
    "--fast", is_flag=True, help="Leave out real waits and real models; takes under a minute."
)
@click.option(
    "--waits",
    type=Whole(0),
    metavar="N",
    help="Number of runs of Table 1 in real time, over a minute each.  [default: 3; 0 with --fast]",
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
    help="Write a page of what is the same on every machine, like docs/reproduction.md.",
)
@click.option("--open", "open_", is_flag=True, help="Open the report in a browser.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
def reproduce(
    fast: bool, waits: int | None, out: Path, markdown: Path | None, open_: bool, quiet: bool
) -> None:
    """Reproduce the four experiments of the paper, claim by claim.

    Counts forward passes (Figure 1), times Table 1 in simulated and in real time, measures
    acceptance rate and latency of the available models. For each claim it prints what was
    published, what dsim finds, and why they differ.
    """
    from dsim.files import write_whole
    from dsim.tasks.reproduce import page
    from dsim.tasks.reproduce.run import reproduce as run

    found = run(
        fast=fast,
        waits=waits,
        folder=out,
        progress=lambda now: None if quiet else click.echo(f"… {now}", err=True),
    )
    report = out / "report.html"
    page.write_report(found, report)
    if markdown is not None:
        command = f"dsim reproduce --fast --markdown {markdown.as_posix()}"
        write_whole(markdown, page.as_markdown(found, command), "--markdown")
    if not quiet:
        click.echo(page.as_text(found))
        click.echo(f"\nreport: {report}")
    if open_:
        click.launch(str(report))
