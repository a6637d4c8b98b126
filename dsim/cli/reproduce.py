"""``dsim reproduce``."""

from __future__ import annotations

from pathlib import Path

import click

from dsim.cli.options import Whole
from dsim.cli.shared import file_option, json_option, open_option, quiet_option
from dsim.errors import Problem, UserError

ALL = "all"  # what --field without a file stands for


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
    "--field",
    is_flag=False,
    flag_value=ALL,
    metavar="[FILE.csv]",
    help="Only predict other people's measurements: those that ship, or the rows of a file in the "
    "columns of one of them.",
)
@json_option(help="With --field: print the rows as JSON.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results/reproduction"),
    show_default=True,
    help="Folder for the report.",
)
@file_option(
    "--markdown",
    "markdown",
    "FILE.md",
    "Write a page of what is the same on every machine, like dsim docs reproduction or, "
    "with --field, dsim docs field-measurements.",
)
@open_option
@quiet_option
def reproduce(
    fast: bool,
    waits: int | None,
    field: str | None,
    as_json: bool,
    out: Path,
    markdown: Path | None,
    open_: bool,
    quiet: bool,
) -> None:
    """Reproduce the four experiments of the paper, claim by claim.

    Counts forward passes (Figure 1), times Table 1 in simulated and in real time, measures
    acceptance rate and latency of the available models. For each claim it prints what was
    published, what dsim finds, and why they differ. A second page, which --field makes alone, says
    what dsim would have predicted of other people's measurements, row by row.
    """
    from dsim.files import write_whole
    from dsim.tasks.field import page as field_page
    from dsim.tasks.field import rows as field_rows
    from dsim.tasks.reproduce import page
    from dsim.tasks.reproduce.run import reproduce as run

    def progress(now: str) -> None:
        if not quiet:
            click.echo(f"… {now}", err=True)

    if as_json and field is None:
        raise UserError(Problem("--json", "", "goes together with --field"))
    own = Path(field) if field not in (None, ALL) else None
    if own and markdown:
        raise UserError(Problem("--markdown", "", "goes with --field without a file"))
    claims = None if field else run(fast=fast, waits=waits, folder=out, progress=progress)
    found = field_rows.predict_file(own) if own else field_rows.predict_shipped(progress)
    if as_json:
        click.echo(field_rows.as_json(found))
        return
    text = field_page.as_text(found) if claims is None else page.as_text(claims)
    if not quiet:
        click.echo(text)
    report = out / "field.html"
    field_page.write_report(found, report, whole=own is None)
    if claims is None:
        page.seal(out)
    else:
        report = out / "report.html"
        page.write_report(claims, report)
    if markdown is not None:
        what = " --field" if field else ""
        command = f"dsim reproduce --fast{what} --markdown {markdown.as_posix()}"
        content = (
            page.as_markdown(claims, command) if claims else field_page.as_markdown(found, command)
        )
        write_whole(markdown, content, "--markdown")
    if not quiet:
        click.echo(f"\nreport: {report}")
    if open_:
        click.launch(str(report))
