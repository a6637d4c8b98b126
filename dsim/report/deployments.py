"""Charts of deployments: lines for each variant or algorithm, and the backlog over time."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from dsim.orchestrations import title_of
from dsim.report.analysis import is_number
from dsim.report.charts import Panel, draw
from dsim.report.style import colour
from dsim.study.columns import column_of
from dsim.study.labels import describe
from dsim.study.requests import OVER_TIME
from dsim.study.study import Chart

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.study.requests import Backlog

DEFAULT_Y = ("latency_mean_ms", "latency_p99_ms", "ttft_p99_ms", "tokens_per_s")


def charts_of(
    charts: Sequence[Chart], axes: Sequence[str], frame: pd.DataFrame, backlogs: Sequence[Backlog]
) -> list[tuple[int, Callable[[], list[Panel]]]]:
    """The charts that a study asks for, or some that it is likely to want.

    Args:
        charts: the charts of the study; if there are none, lines over its first axis of numbers.
        axes: the settings that its grid varies.
        frame: the results, one row a case.
        backlogs: the backlogs of the cases that were simulated.

    Returns:
        For each chart its number and a function that makes its panels.
    """
    frame = frame.assign(series=series_of(frame))
    columns = [column_of(key) for key in axes]
    wanted = list(charts)
    numeric = [c for c in columns if is_number(frame[c])]
    if not wanted and numeric:
        known = [y for y in DEFAULT_Y if y in frame]
        wanted = [Chart(kind="lines", x=numeric[0], y=y) for y in known]

    def lines(chart: Chart, number: int) -> list[Panel]:
        return [
            dataclasses.replace(panel, name=panel.name.replace("-lines-", "-", 1))
            for panel in draw(chart, frame, columns, number)
        ]

    made: list[tuple[int, Callable[[], list[Panel]]]] = [
        (number, partial(lines, chart, number)) for number, chart in enumerate(wanted, 1)
    ]
    number = len(wanted) + 1
    if any(one.over_time[:, 1].any() for one in backlogs):
        made.append((number, lambda: [_over_time(backlogs, number)]))
    return made


def series_of(frame: pd.DataFrame) -> pd.Series[str]:
    """What each row is called in legends: by its variant, its algorithm, or both."""
    algorithms = frame["algorithm"].map(title_of)
    variants = frame["variant"]
    if not variants.any():
        return algorithms
    if (frame.groupby("variant")["algorithm"].nunique() == 1).all():
        return variants
    return variants + ", " + algorithms


def _over_time(backlogs: Sequence[Backlog], number: int) -> Panel:
    """Requests in the system over time, in the last case of each series that was simulated."""
    last = {(one.variant, one.algorithm): one for one in backlogs}
    names = list(series_of(pd.DataFrame(list(last), columns=["variant", "algorithm"])))
    points = [
        ", ".join(describe(column_of(key), value) for key, value in one.point.items())
        for one in last.values()
    ]
    same = len(set(points)) == 1
    if not same:
        names = [f"{name}, {point}" for name, point in zip(names, points, strict=True)]
    parts = [
        pd.DataFrame(np.round(one.over_time, 4), columns=list(OVER_TIME)).assign(series=name)
        for name, one in zip(names, last.values(), strict=True)
    ]
    table = pd.concat(parts)
    chart = (
        alt.Chart(table)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("time_s:Q", title="time (s)"),
            y=alt.Y("in_system:Q", title="requests in the system"),
            color=colour("series", {n: k[1] for n, k in zip(names, last, strict=True)}),
            tooltip=[
                alt.Tooltip("series:N", title="what"),
                alt.Tooltip("time_s:Q", title="time (s)", format=".4~g"),
                alt.Tooltip("in_system:Q", title="requests in the system", format=".3~g"),
                alt.Tooltip("target:Q", title="waiting for a target server", format=".3~g"),
                alt.Tooltip("drafter:Q", title="waiting for a drafter server", format=".3~g"),
            ],
        )
    )
    return Panel(
        name=f"{number:02d}-backlog",
        title=f"Backlog over time{f' ({points[0]})' if same and points[0] else ''}",
        caption="Requests in the system when another one arrives, averaged over each hundredth of "
        f"the run.{' Of each line of the charts above, the last point.' * any(points)}",
        chart=chart,
        marks=len(table),
    )
