"""Timelines of finished runs, simulated or real, on one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.events.trace import rejections, spans

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.charts import Panel

MOST_SPANS = 3000


def panel(name: str, title: str, run: Any) -> Panel:
    """Who did what when in *run*, whose servers kept their history.

    Args:
        name: for file names.
        title: heading.
        run: a :class:`dsim.simulate.Run` or a :class:`dsim.backends.torch.LiveRun`.
    """
    import pandas as pd

    from dsim import charts

    rows = pd.DataFrame(spans(run.output, run.drafter, run.target)[:MOST_SPANS])
    marks = pd.DataFrame(rejections(run.output), columns=["time_ns", "what"])
    for frame, columns in ((rows, ("start", "end")), (marks, ("time",))):
        for column in columns:
            frame[f"{column}_ms"] = frame.pop(f"{column}_ns") / 1e6
    marks = marks[marks["time_ms"] <= rows["end_ms"].max()]
    return charts.Panel(
        name=name,
        title=title,
        caption="One lane a server. Amber: cancelled work; pale blue: drafts that were rejected; "
        "dashed pink lines: rejections. Point at a bar for what it is.",
        chart=charts.timeline(rows, marks),
        marks=len(rows),
        height=max(90, 34 * rows["lane"].nunique()),
    )


def write_page(
    path: Path,
    title: str,
    description: str,
    panels: Sequence[Panel],
    facts: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
    option: str = "--timeline",
) -> None:
    """Write a page of *panels* to *path*; nothing half-written is left.

    Raises:
        UserError: the file cannot be written.
    """
    from dsim import report

    page = report.Page(title=title, description=description, facts=facts, notes=notes)
    text = report.html(page, panels, wide=True)
    half = path.with_name(path.name + ".half")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        problem = Problem(option, "", f"{path} cannot be written: {error.strerror}")
        raise UserError(problem) from None
