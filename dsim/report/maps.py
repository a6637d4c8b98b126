"""Maps: a colour for each cell over two axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from dsim.orchestrations import REFERENCES, may_read, title_of
from dsim.report.analysis import BEST, compare, is_equal, other_of
from dsim.report.style import BLUE, EQUAL, INK, PALE_BLUE, PALE_PINK, PINK, ticks
from dsim.study.columns import column_of
from dsim.study.labels import label, words
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.study import Chart


OVERLAP = 0.1  # the part of a cell that reaches under its neighbours
MAX_DOTS = 600  # cells of a map, above which dots in them would make its page slow
BELOW = 0.9996  # the slowest that is shown as 1.000, and so is equal


def heatmap(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart | alt.LayerChart, str, int]:
    """How many times as fast one algorithm is as another: chart, caption and number of cells.

    Its colours are up to :func:`on_one_scale`.
    """
    x, y = column_of(chart.x), column_of(chart.y)
    table = compare(frame, chart.show, chart.against, [x, y]).dropna(subset=["speedup"])
    if table.empty:
        return alt.Chart(table), "", 0
    edges = cells(table, x, y)
    equal = is_equal(table["speedup"])
    table["speedup"] = table["speedup"].round(4).mask(equal, 1.0)
    high = float(table["speedup"].max())
    slower = f"{(table['speedup'] < 1).mean():.1%} of the map"
    if "slower" in table:
        slower += f"; {table.pop('slower').mean():.1%} by more than the 95 % interval"
    unclear = table.pop("unclear") & ~equal if "unclear" in table else equal & False
    show, against = title_of(chart.show), other_of(chart.against)
    tooltip = [
        alt.Tooltip("speedup:Q", title=f"speed-up of {show}", format=".3f"),
        alt.Tooltip(f"{x}:Q", title=label(x)),
        alt.Tooltip(f"{y}:Q", title=label(y)),
        alt.Tooltip("other:N", title="compared with"),
    ]
    if may_read(chart.show, "lookahead") and "lookahead" in table:
        tooltip.append(alt.Tooltip("lookahead:Q", title=f"best lookahead of {show}"))
    if "other_lookahead" in table:
        names = REFERENCES if chart.against == BEST else (chart.against,)
        other = title_of(next(name for name in names if may_read(name, "lookahead")))
        tooltip.append(alt.Tooltip("other_lookahead:Q", title=f"best lookahead of {other}"))
    if "servers" in table and table["servers"].max() > 1:
        tooltip.append(alt.Tooltip("servers:Q", title=label("peak_targets")))
    drawn = (
        alt.Chart(table)
        .mark_rect(strokeWidth=0, clip=True, aria=False)
        .encode(
            **places(frame, x, y, edges),
            color=alt.Color(
                "speedup:Q",
                title=f"{show} is … × as fast",
                condition={"test": "datum.speedup === 1", "value": EQUAL},
            ),
            tooltip=tooltip,
        )
    )
    if equal.all():
        verdict = f"Grey: both are equally fast, at {_all_of(len(table))}."
    elif high < 1:
        verdict = f"{show} is slower everywhere: the darker the pink, the slower."
    elif (table["speedup"] < 1).any():
        verdict = f"Pink: {show} is slower ({slower})"
        verdict += f"; blue: {show} is faster." if high > 1 else "; nowhere is it faster."
    else:
        verdict = f"The darker the blue, the faster; {show} is nowhere slower."
    if equal.any() and not equal.all():
        verdict += f" Grey: equally fast, at {equal.sum():,} of {plural(len(table), 'point')}."
    layers: alt.Chart | alt.LayerChart = drawn
    if unclear.any() and len(table) <= MAX_DOTS:
        layers = drawn + dots(table[unclear], frame, x, y, edges)
        verdict += (
            f" A dot: faster or slower by no more than the 95 % interval ({unclear.sum():,} of "
            f"{plural(len(table), 'point')})."
        )
    elif unclear.any():
        verdict += f" {unclear.mean():.1%} differ by no more than the 95 % interval."
    caption = (
        f"Latency of {against} divided by the latency of {show}, at most {high:.2f}×. {verdict} "
        "Hover over a cell for its numbers, click to mark it in every map."
    )
    return layers, caption, len(table)


def _all_of(count: int) -> str:
    return f"all {plural(count, 'point')}" if count > 1 else "its only point"


def dots(
    table: pd.DataFrame,
    frame: pd.DataFrame,
    x: str,
    y: str,
    edges: Mapping[str, list[float]],
) -> alt.Chart:
    """A dot at the point of each of the :func:`cells` of *table*, to be seen on every colour."""
    points = pd.DataFrame({"xm": table[x], "ym": table[y]}).astype(float).round(9)
    at = places(frame, x, y, edges)
    across, upwards = at["x"].copy(), at["y"].copy()
    across["shorthand"], upwards["shorthand"] = "xm:Q", "ym:Q"
    marks: alt.Chart = (
        alt.Chart(points)
        .mark_arc(
            radius=3, theta=0, theta2=6.2832, fill="white", stroke=INK, strokeWidth=1, aria=False
        )
        .encode(x=across, y=upwards)
    )
    return marks


def on_one_scale(charts: Sequence[Any]) -> None:
    """Give the panels of one heat map their colours: the same for the same speed-ups.

    The scale ends where the speed-ups do; of a single colour there is nothing to tell.
    """
    maps: list[Any] = [getattr(chart, "layer", [chart])[0] for chart in charts]
    low = min((float(one.data["speedup"].min()) for one in maps), default=1.0)
    high = max((float(one.data["speedup"].max()) for one in maps), default=1.0)
    for one in maps:
        colour = one.encoding.color
        colour["scale"] = _scale(low, high)
        colour["legend"] = None
        if low < high:
            colour["legend"] = alt.Legend(
                orient="top", gradientLength=220, format=".2~f" if high > 1.1 * low else ".3~f"
            )


def _scale(low: float, high: float) -> alt.Scale:
    """Pink below 1, blue above; pale next to 1."""
    if low == high:  # a scale needs some length
        low, high = min(low, 1.0), max(high, 1.0) if low != 1 else 2.0
    domain, colours = [], []
    if low < 1:
        domain, colours = [low, min(high, BELOW)], [PINK, PALE_PINK]
    if high > 1:
        domain, colours = [*domain, max(low, 1.0), high], [*colours, PALE_BLUE, BLUE]
    return alt.Scale(type="log", domain=domain, range=colours, clamp=True)


def value_map(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart, str, int]:
    """One outcome of one algorithm: chart, caption and number of cells."""
    x, y, value = column_of(chart.x), column_of(chart.y), chart.value
    columns = list(dict.fromkeys([x, y, value, "latency_mean_ms"]))
    table = frame.loc[frame["algorithm"] == chart.show, columns].dropna().copy()
    if table.empty:
        return alt.Chart(table), "", 0
    edges = cells(table, x, y)
    table[value] = table[value].round(6)
    table["latency_mean_ms"] = table["latency_mean_ms"].round(6)
    low, high = float(table[value].min()), float(table[value].max())
    what = value_of(chart)
    drawn = (
        alt.Chart(table)
        .mark_rect(strokeWidth=0, clip=True, aria=False)
        .encode(
            **places(frame, x, y, edges),
            color=alt.Color(
                f"{value}:Q",
                scale=alt.Scale(scheme="viridis", type="log" if 0 < low < high / 8 else "linear"),
                legend=alt.Legend(title=what, orient="top", gradientLength=220),
            ),
            tooltip=[
                alt.Tooltip(f"{value}:Q", title=what),
                alt.Tooltip(f"{x}:Q", title=label(x)),
                alt.Tooltip(f"{y}:Q", title=label(y)),
                alt.Tooltip("latency_mean_ms:Q", title=label("latency_mean_ms"), format=".4~g"),
            ],
        )
    )
    caption = (
        f"The {what} of {title_of(chart.show)}, from {low:g} to {high:g}. "
        "Hover over a cell for its numbers, click to mark it in every map."
    )
    return drawn, caption, len(table)


def value_of(chart: Chart) -> str:
    """What a map shows, in words."""
    return f"{'best ' if chart.value == 'lookahead' else ''}{words(chart.value)}"


def _edges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the cell of each of the sorted *values*."""
    if len(values) == 1:
        return values - 0.5, values + 0.5
    middles = (values[1:] + values[:-1]) / 2
    low = np.concatenate([[values[0] - (middles[0] - values[0])], middles])
    high = np.concatenate([middles, [values[-1] + (values[-1] - middles[-1])]])
    return np.round(low, 9), np.round(high, 9)


def cells(table: pd.DataFrame, x: str, y: str, overlap: float = OVERLAP) -> dict[str, list[float]]:
    """Give *table* the edges of its cells, ``x0``, ``x1``, ``y0``, ``y1``; those of the map.

    Args:
        table: one row a cell.
        x: the column across.
        y: the column upwards.
        overlap: the part of a cell's size that reaches under its neighbours, so that no seams show
            between opaque cells.
    """
    edges = {}
    for name, column in (("x", x), ("y", y)):
        values = np.sort(table[column].unique()).astype(float)
        at = np.searchsorted(values, table[column])
        lower, upper = _edges(values)
        table[f"{name}0"] = lower[at]
        table[f"{name}1"] = np.round(upper[at] + overlap * (upper[at] - lower[at]), 9)
        edges[name] = [float(lower[0]), float(upper[-1])]
    return edges


def places(frame: pd.DataFrame, x: str, y: str, edges: Mapping[str, list[float]]) -> dict[str, Any]:
    """Where :func:`cells` are drawn."""

    def scale(name: str) -> alt.Scale:
        return alt.Scale(domain=edges[name], nice=False, zero=False)

    return {
        "x": alt.X("x0:Q", title=label(x), scale=scale("x"), axis=ticks(frame[x], grid=False)),
        "x2": "x1:Q",
        "y": alt.Y("y0:Q", title=label(y), scale=scale("y"), axis=ticks(frame[y], grid=False)),
        "y2": "y1:Q",
    }
