"""Charts of load studies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from dsim.report.charts import COLOURS, Panel, is_number
from dsim.study.load_study import BY_KEY
from dsim.study.results import NAMES, column_of
from dsim.tasks.load import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.study.load_study import LoadStudy
    from dsim.tasks.load import Answer

DEFAULT_Y = ("latency_mean_ms", "latency_p99_ms", "ttft_p99_ms", "tokens_per_s")
MORE_COLOURS = ("#2e8b62", "#8b5fbf", "#b8860b", "#c0504d", "#4bacc6")


def panels(study: LoadStudy, found: Sequence[Answer], frame: pd.DataFrame) -> list[Panel]:
    """The charts that *study* asks for, or some that it is likely to want.

    Where there is one axis (or several, over the first) every chart has one line for each algorithm
    or variant; without an axis, the backlog over time is drawn.
    """
    frame = frame.assign(series=_series(frame))
    axes = [axis.key for axis in study.study.grid]
    drawn = []
    wanted = [(c.x, c.y, c.title, c.caption) for c in study.study.charts]
    numeric = [a for a in axes if pd.api.types.is_numeric_dtype(frame[column_of(a)])]
    if not wanted and numeric:
        wanted = [(numeric[0], y, "", "") for y in DEFAULT_Y]
    for number, (key, y, title, caption) in enumerate(wanted, 1):
        others = [column_of(a) for a in axes if a != key]
        drawn += _lines(frame, key, y, others, number, title, caption)
    drawn.append(_over_time(found, len(wanted) + 1))
    return drawn


def _series(frame: pd.DataFrame) -> pd.Series[str]:
    algorithms = frame["algorithm"].map(NAMES)
    variants = frame["variant"]
    if not variants.any():
        return algorithms
    if (frame.groupby("variant")["algorithm"].nunique() == 1).all():
        return variants
    return variants + ", " + algorithms


def _colour(table: pd.DataFrame) -> alt.Color:
    names = list(pd.unique(table["series"]))
    first = dict(zip(table["series"], table["algorithm"], strict=True))
    colours: list[str] = []
    more = iter(MORE_COLOURS * len(names))
    for name in names:
        own = COLOURS[first[name]]
        colours.append(own if own not in colours else next(more))
    return alt.Color(
        "series:N",
        title=None,
        scale=alt.Scale(domain=names, range=colours),
        legend=alt.Legend(orient="top"),
    )


def _words(column: str) -> str:
    unit, _ = OUTCOMES[column]
    words = column.removesuffix("_ms").replace("_", " ")
    for name in ("ttft", "tpot"):
        words = words.replace(name, name.upper())
    return f"{words} ({unit})" if unit else words


def _lines(
    frame: pd.DataFrame,
    key: str,
    y: str,
    others: list[str],
    number: int,
    title: str,
    caption: str,
) -> list[Panel]:
    x = column_of(key)
    interval = y.replace("_ms", "_ci95_ms")
    keep = list(dict.fromkeys(["series", "algorithm", x, y, *others]))
    if interval in frame and interval != y:
        keep.append(interval)
    rows = frame[keep].dropna(subset=[y])
    drawn = []
    parts = list(rows.groupby(others)) if others else [((), rows)]
    for index, (point, part) in enumerate(parts, 1):
        unit = BY_KEY[key].unit
        across = f"{key} ({unit})" if unit else key
        numbers = is_number(part[x])
        along = (
            alt.X(f"{x}:Q", title=across, scale=alt.Scale(nice=False, zero=False, padding=8))
            if numbers
            else alt.X(f"{x}:N", title=across, sort=None, axis=alt.Axis(labelAngle=0))
        )
        base = alt.Chart(part.round(6)).encode(x=along, color=_colour(frame))
        tooltip = [
            alt.Tooltip("series:N", title="what"),
            alt.Tooltip(f"{x}:{'Q' if numbers else 'N'}", title=key),
            alt.Tooltip(f"{y}:Q", title=_words(y), format=".4~g"),
        ]
        up = alt.Y(f"{y}:Q", title=_words(y))
        points = base.mark_point(filled=True, size=42, opacity=1).encode(y=up, tooltip=tooltip)
        # Nothing lies between two names.
        lines = [base.mark_line(strokeWidth=2).encode(y=up)] if numbers else []
        chart: Any = alt.layer(*lines, points)
        if interval in part and part[interval].notna().any():
            low = (part[y] - part[interval]).clip(lower=0)
            bars = part.assign(low=low, high=part[y] + part[interval])
            chart += (
                alt.Chart(bars.dropna(subset=[interval]).round(6))
                .mark_rule(strokeWidth=1.2)
                .encode(x=along, y="low:Q", y2="high:Q", color=_colour(frame))
            )
        where = ", ".join(
            f"{n} {v:g}" if isinstance(v, float) else f"{n} {v}"
            for n, v in zip(others, point, strict=True)
        )
        heading = title or f"{_words(y).partition(' (')[0]} over {key}"
        drawn.append(
            Panel(
                name=f"{number:02d}-{y.replace('_', '-')}{f'-{index}' if others else ''}",
                title=f"{heading[:1].upper()}{heading[1:]}{f' ({where})' if where else ''}",
                caption=caption
                or f"{OUTCOMES[y][1][:1].upper()}{OUTCOMES[y][1][1:]}. Bars: 95 % intervals. Where "
                "a line ends, the load is more than can be served.",
                chart=chart,
                marks=len(part),
            )
        )
    return drawn


def _over_time(found: Sequence[Answer], number: int) -> Panel:
    """Requests in the system over time, in the last case of each series that was simulated."""
    rows = []
    last = {(one.case.variant, one.case.deployment.algorithm): one for one in found if one.metrics}
    frame = pd.DataFrame(
        [{"variant": variant, "algorithm": algorithm} for variant, algorithm in last]
    )
    names = list(_series(frame))
    for name, ((_, algorithm), one) in zip(names, last.items(), strict=True):
        assert one.over_time is not None  # noqa: S101
        for time_s, in_system, target, drafter in np.round(one.over_time, 4).tolist():
            rows.append(
                {
                    "series": name,
                    "algorithm": algorithm,
                    "time_s": time_s,
                    "in_system": in_system,
                    "target": target,
                    "drafter": drafter,
                }
            )
    table = pd.DataFrame(rows)
    chart = (
        alt.Chart(table)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("time_s:Q", title="time (s)"),
            y=alt.Y("in_system:Q", title="requests in the system"),
            color=_colour(table),
            tooltip=[
                alt.Tooltip("series:N", title="what"),
                alt.Tooltip("time_s:Q", title="time (s)", format=".4~g"),
                alt.Tooltip("in_system:Q", title="requests in the system", format=".3~g"),
                alt.Tooltip("target:Q", title="waiting for a target", format=".3~g"),
                alt.Tooltip("drafter:Q", title="waiting for a drafter", format=".3~g"),
            ],
        )
    )
    point = next(iter(last.values())).case.point
    where = ", ".join(f"{key} {value}" for key, value in point.items())
    return Panel(
        name=f"{number:02d}-backlog",
        title="The backlog over time"
        + (
            f" (the last case that is served: {where})"
            if where and len({tuple(o.case.point.items()) for o in last.values()}) == 1
            else ""
        ),
        caption="Requests in the system as arriving ones find them, averaged over a hundredth of "
        "the run; each series in its last case that was simulated.",
        chart=chart,
        marks=len(table),
    )
