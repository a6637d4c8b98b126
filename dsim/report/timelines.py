"""Timelines of finished runs, simulated or real, on one page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dsim.events.trace import rejections, spans
from dsim.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.report.charts import Panel

MOST_SPANS = 3000


def panel(name: str, title: str, run: Any, longest_ms: float | None = None) -> Panel:
    """Who did what when in *run*, whose servers kept their history.

    Args:
        name: for file names.
        title: heading.
        run: a :class:`dsim.engines.simulate.Run` or a :class:`dsim.backends.torch.backend.LiveRun`.
        longest_ms: where the time axis ends; by default where the run does.
    """
    import pandas as pd

    from dsim.report import charts

    servers = (run.drafter, *getattr(run, "more_drafters", ()), run.target)
    rows = pd.DataFrame(spans(run.output, *servers))
    marks = pd.DataFrame(rejections(run.output), columns=["time_ns", "what"])
    for frame in (rows, marks):
        for column in [str(c) for c in frame if str(c).endswith("_ns")]:
            frame[column.replace("_ns", "_ms")] = frame.pop(column) / 1e6
    if longest_ms is None:
        longest_ms = run.output.settled_ns[-1] / 1e6
    drawn = charts.timeline(rows, marks, longest_ms=longest_ms, most_spans=MOST_SPANS)
    return dataclasses.replace(drawn, name=name, title=title)


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
    from dsim.report import page as report

    page = report.Page(title=title, description=description, facts=facts, notes=notes)
    text = report.html(page, panels, wide=True)
    write_whole(path, text, option)
