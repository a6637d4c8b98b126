"""Who wins where: a colour for the fastest orchestration of each cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from dsim.orchestrations import ORCHESTRATIONS, REFERENCES, title_of
from dsim.report.analysis import in_order, is_equal, known_interval
from dsim.report.maps import MAX_DOTS, cells, dots, places
from dsim.report.style import colour
from dsim.study.columns import column_of
from dsim.study.labels import label
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.study.study import Chart


def winners(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart | alt.LayerChart, str, int]:
    """The fastest orchestration of each cell, and its lead: chart, caption and number of cells.

    A cell whose best two are as fast, or differ by no more than the 95 % interval, has a dot.

    Args:
        chart: with ``value`` = ``per_device``, the tokens per second of each device count.
        frame: every orchestration at its best, one row for each cell.
    """
    x, y = column_of(chart.x), column_of(chart.y)
    per_device = chart.value == "per_device"
    found = frame.dropna(subset=["latency_mean_ms"]).copy()
    interval = known_interval("latency_mean_ms", frame)
    found["half"] = found[interval].fillna(0.0) if interval else 0.0
    found["algorithm"] = found["algorithm"].astype(str)
    names = in_order(found["algorithm"])
    if per_device:
        traits = {name: ORCHESTRATIONS[name].traits for name in names if name in ORCHESTRATIONS}
        devices = [
            traits[name].devices(int(targets)) if name in traits else 1
            for name, targets in zip(found["algorithm"], found["targets"], strict=True)
        ]
        found["latency_mean_ms"] *= devices
        found["half"] *= devices
    both = found.pivot_table(index=[x, y], columns="algorithm", values=["latency_mean_ms", "half"])
    wide = both["latency_mean_ms"][names]
    if wide.empty or len(names) < 2:
        return alt.Chart(pd.DataFrame({x: [], y: []})), "", 0
    times = wide.fillna(np.inf).to_numpy()
    order = np.sort(times, axis=1)
    table = wide.index.to_frame(index=False)
    first, second = times.argsort(axis=1, kind="stable")[:, :2].T
    table["winner"] = [title_of(names[i]) for i in first]
    table["next"] = [title_of(names[i]) for i in second]
    table["lead"] = (order[:, 1] / order[:, 0]).round(4)
    halves, at = both["half"][names].fillna(0.0).to_numpy(), np.arange(len(table))
    noise = np.hypot(halves[at, first], halves[at, second])
    unclear = is_equal(table["lead"]) | (order[:, 1] - order[:, 0] <= noise)
    known = "yes" if interval else "no interval is known"
    table["sure"] = np.where(unclear, "no: within the 95 % interval", known)
    base = times[:, names.index(REFERENCES[0])] if REFERENCES[0] in names else order[:, 0]
    tooltip = [
        alt.Tooltip("winner:N", title="first"),
        alt.Tooltip("next:N", title="next"),
        alt.Tooltip("lead:Q", title="times as good as the next", format=".3f"),
        alt.Tooltip("sure:N", title="a clear lead"),
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
                legend=alt.Legend(
                    title="… × as good as the next", orient="top", format=".2~f", tickCount=3
                ),
            ),
            tooltip=tooltip,
        )
    )
    layers: alt.Chart | alt.LayerChart = drawn
    if unclear.any() and len(table) <= MAX_DOTS:
        layers = drawn + dots(table[unclear], frame, x, y, edges)
    what = "most tokens per second and device" if per_device else "lowest latency"
    caption = (
        f"The algorithm of the {what}, each at its best. {_counted(table['winner'], unclear)} The "
        "paler, the smaller the lead. Hover over a cell for all, click to mark it in every map."
    )
    return layers, caption, len(table)


def _counted(winner: pd.Series[str], unclear: pd.Series[bool]) -> str:
    """How many cells each has won, how many of them clearly, and what a dot means."""
    won, clearly = winner.value_counts(), winner[~unclear].value_counts()
    count = len(winner)
    if not unclear.any():
        parts = ", ".join(f"{name} {of / count:.0%}" for name, of in won.items())
        return f"Share of points won: {parts}."
    parts, by_more = "", " by more than the 95 % interval"
    for name, of in won.items():
        parts += f", {name} {of / count:.0%} ({clearly.get(name, 0) / count:.0%}{by_more})"
        by_more = ""
    mark = "A dot" if count <= MAX_DOTS else "The others"
    return (
        f"Share of points won: {parts[2:]}. {mark}: the best two differ by no more than that "
        f"interval ({unclear.sum():,} of {plural(count, 'point')}), so either may be the best."
    )
