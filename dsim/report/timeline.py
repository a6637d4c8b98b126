"""Timelines of finished runs, simulated or real: who did what when."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dsim.events.trace import rejections, spans
from dsim.report.charts import Panel
from dsim.report.style import PINK, legend
from dsim.units import NS_PER_MS, to_ms

MAX_SPANS = 3000
MIN_RIMMED = 1 / 150  # of the time axis; a shorter bar would vanish under its white rim
COLOURS = {
    "draft, accepted": "#2f7fc1",
    "draft, rejected": "#a9cbe8",
    "drafts of several choices": "#6a51a3",
    "pass": "#2e8b62",
    "cancelled": "#d9a441",
    "prefill": "#8b929c",
}


def panel(name: str, title: str, run: Any, longest_ms: float | None = None) -> Panel:
    """One lane per server of *run*, whose servers kept their history.

    Args:
        name: name for files.
        title: heading.
        run: a :class:`dsim.engines.simulate.Run` or a :class:`dsim.backends.torch.backend.LiveRun`.
        longest_ms: where the time axis ends, so that several timelines can be compared; by default
            where the run ends.
    """
    servers = (run.drafter, *getattr(run, "more_drafters", ()), run.target)
    rows = pd.DataFrame(spans(run.output, *servers))
    marks = pd.DataFrame(rejections(run.output), columns=["time_ns", "what"])
    for frame in (rows, marks):
        for column in [str(c) for c in frame if str(c).endswith("_ns")]:
            frame[column.replace("_ns", "_ms")] = frame.pop(column) / NS_PER_MS
    if longest_ms is None:
        longest_ms = to_ms(run.output.settled_ns[-1])
    caption = "One lane per server."
    cut = ""
    if len(rows) > MAX_SPANS:
        until_ms = float(rows["start_ms"].iloc[MAX_SPANS])
        cut = f" Only what began in the first {until_ms:.0f} ms is shown."
        rows, marks = rows[:MAX_SPANS], marks[marks["time_ms"] <= until_ms]
        longest_ms = float(rows["end_ms"].max())
    lanes = list(pd.unique(rows["lane"]))
    fates = [fate for fate in COLOURS if (rows["fate"] == fate).any()]
    chart: alt.Chart | alt.LayerChart = (
        alt.Chart(rows)
        .mark_bar(cornerRadius=2, stroke="white", strokeOpacity=0.5)
        .encode(
            strokeWidth=alt.condition(
                alt.datum.end_ms - alt.datum.start_ms > MIN_RIMMED * longest_ms,
                alt.value(0.5),
                alt.value(0),
            ),
            x=alt.X(
                "start_ms:Q",
                title="time (ms)",
                scale=alt.Scale(domain=[0, longest_ms], nice=False),
            ),
            x2="end_ms:Q",
            y=alt.Y("lane:N", sort=lanes, title=None),
            color=alt.Color(
                "fate:N",
                title=None,
                scale=alt.Scale(domain=fates, range=[COLOURS[fate] for fate in fates]),
                legend=legend(fates),
            ),
            tooltip=[
                alt.Tooltip("lane:N", title="server"),
                alt.Tooltip("what:N", title="what"),
                alt.Tooltip("fate:N", title="fate"),
                alt.Tooltip("start_ms:Q", title="from (ms)", format=".6~g"),
                alt.Tooltip("end_ms:Q", title="to (ms)", format=".6~g"),
            ],
        )
    )
    if not marks.empty:
        caption += " Dashed pink lines: a draft is rejected, and what was built on it is discarded."
        chart += (
            alt.Chart(marks)
            .mark_rule(color=PINK, strokeDash=[4, 3], strokeWidth=1)
            .encode(
                x="time_ms:Q",
                tooltip=[
                    alt.Tooltip("time_ms:Q", title="rejection at (ms)", format=".6~g"),
                    alt.Tooltip("what:N", title="what"),
                ],
            )
        )
    return Panel(
        name=name,
        title=title,
        caption=f"{caption}{cut} Hover over a bar for what it is.",
        chart=chart,
        marks=len(rows),
        height=max(60, 34 * len(lanes)),
    )
