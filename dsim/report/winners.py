"""Who wins where: a colour for the fastest orchestration of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from dsim.orchestrations import ORCHESTRATIONS, REFERENCES, title_of
from dsim.report.analysis import in_order
from dsim.report.maps import cells, places
from dsim.report.style import colour
from dsim.study.columns import column_of
from dsim.study.labels import label

if TYPE_CHECKING:
    from dsim.study.study import Chart

TIE = 1.005  # a lead of less hardly counts


def winners(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart, str, int]:
    """The fastest orchestration of each cell, and its lead: chart, caption and number of cells.

    Args:
        chart: with ``value`` = ``per_device``, the tokens per second of each device count.
        frame: every orchestration at its best, one row for each cell.
    """
    x, y = column_of(chart.x), column_of(chart.y)
    per_device = chart.value == "per_device"
    found = frame.dropna(subset=["latency_mean_ms"]).copy()
    found["algorithm"] = found["algorithm"].astype(str)
    names = in_order(found["algorithm"])
    if per_device:
        traits = {name: ORCHESTRATIONS[name].traits for name in names if name in ORCHESTRATIONS}
        devices = [
            traits[name].devices(int(targets)) if name in traits else 1
            for name, targets in zip(found["algorithm"], found["targets"], strict=True)
        ]
        found["latency_mean_ms"] *= devices
    wide = found.pivot_table(index=[x, y], columns="algorithm", values="latency_mean_ms")[names]
    if wide.empty or len(names) < 2:
        return alt.Chart(pd.DataFrame({x: [], y: []})), "", 0
    times = wide.fillna(np.inf).to_numpy()
    order = np.sort(times, axis=1)
    table = wide.index.to_frame(index=False)
    table["winner"] = [title_of(names[i]) for i in times.argmin(axis=1)]
    table["lead"] = (order[:, 1] / order[:, 0]).round(4)
    base = times[:, names.index(REFERENCES[0])] if REFERENCES[0] in names else order[:, 0]
    tooltip = [
        alt.Tooltip("winner:N", title="first"),
        alt.Tooltip("lead:Q", title="times as good as the next", format=".3f"),
        alt.Tooltip(f"{x}:Q", title=label(x)),
        alt.Tooltip(f"{y}:Q", title=label(y)),
    ]
    for number, name in enumerate(names):
        column = f"of_{name}"
        table[column] = (base / times[:, number]).round(4)
        what = "per device" if per_device else "speed-up"
        tooltip.append(alt.Tooltip(f"{column}:Q", title=f"{title_of(name)}, {what}", format=".2f"))
    edges = cells(table, x, y, overlap=0.0)
    shown = {title_of(name): name for name in names if title_of(name) in {*table["winner"]}}
    top = float(min(2.0, max(1.05, table["lead"].max())))
    drawn = (
        alt.Chart(table)
        .mark_rect(strokeWidth=0, clip=True, aria=False)
        .encode(
            **places(frame, x, y, edges),
            color=colour("winner", shown),
            opacity=alt.Opacity(
                "lead:Q",
                scale=alt.Scale(domain=[1, top], range=[0.25, 1], clamp=True),
                legend=alt.Legend(title="… × as good as the next", orient="top", format=".2~f"),
            ),
            tooltip=tooltip,
        )
    )
    shares = table["winner"].value_counts(normalize=True)
    parts = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
    close = (table["lead"] < TIE).mean()
    what = "most tokens per second and device" if per_device else "lowest latency"
    caption = (
        f"The {what}, each at its best: share of cells won: {parts}. The paler, the smaller the "
        f"lead; in {close:.0%} of the cells it is below {TIE - 1:.1%}. "
        "Hover over a cell for all, click to mark it in every map."
    )
    return drawn, caption, len(table)
