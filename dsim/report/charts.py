"""Charts: a table in, Altair charts out. Nothing here simulates, reads or writes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from dsim.orchestrations import COMPARED, title_of
from dsim.report import maps, winners
from dsim.report.analysis import in_order, interval_of, is_number, other_of
from dsim.report.style import GREY, INK, PINK, along, colour, colours, legend, shape
from dsim.study.columns import BY_NAME, STATUS, column_of
from dsim.study.labels import describe, label, sentence, words

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dsim.study.study import Chart

AnyChart = alt.Chart | alt.LayerChart | alt.FacetChart
MIN_SLIDER_VALUES = 3  # of an axis that no chart has; fewer are shown side by side
NO_INTERVALS = " No 95 % intervals: none are computed for this number."
Drawn = tuple[AnyChart, str, int]  # a chart, its caption, its number of marks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart, ready to be drawn.

    Attributes:
        name: name of its files: letters, digits and dashes.
        title, caption: what the chart shows; what is compared, and what the colours mean.
        chart: the chart, without a size.
        marks: how many marks carry data.
        height, width: in pixels, where the usual ones do not fit.
        at: of axes that get a slider on the page: their names, and their values here.
    """

    name: str
    title: str
    caption: str
    chart: AnyChart
    marks: int
    height: int = 0
    width: int = 0
    at: Sequence[tuple[str, float]] = ()


def draw(chart: Chart, frame: pd.DataFrame, axes: Sequence[str], number: int = 1) -> list[Panel]:
    """Draw what a study asks for.

    Args:
        chart: the chart; it has been checked.
        frame: the results, at their best. A column ``series`` names the lines of line charts; else
            there is one line for each algorithm.
        axes: the columns that tell rows of one algorithm or series apart.
        number: number of the chart in its study.

    Returns:
        One panel for each combination of axes that the chart itself lacks; none where there is
        nothing to show.
    """
    two = chart.kind in ("heatmap", "map", "winners")
    shown = {column_of(chart.x)} | ({column_of(chart.y)} if two else set())
    if chart.kind == "published":
        shown |= set(axes)  # a line a variant: whatever tells variants apart belongs to it
    rest = [name for name in axes if name not in shown and frame[name].nunique() > 1]
    panels: list[Panel] = []
    numbers = [name for name in rest if is_number(frame[name])]
    slid = [name for name in numbers if frame[name].nunique() >= MIN_SLIDER_VALUES]
    for which, part in _parts(frame, rest):
        title = chart.title or _default_title(chart)
        if which:
            title = f"{title}: {which}" if chart.title else f"{title} ({which})"
        suffix = f"-{len(panels) + 1}" if rest else ""
        if chart.kind == "published":
            drawn, caption, marks = _published(chart, part, axes)
        else:
            whole = (frame,) if chart.kind == "lines" else ()
            drawn, caption, marks = _KINDS[chart.kind](chart, part, *whole)
        if not marks:
            continue
        panels.append(
            Panel(
                name=f"{number:02d}-{_slug(chart)}{suffix}",
                title=title,
                caption=chart.caption or caption,
                chart=drawn,
                marks=marks,
                at=[(label(name), part[name].iloc[0].item()) for name in slid],
            )
        )
    if chart.kind == "heatmap":
        maps.on_one_scale([panel.chart for panel in panels])
    return panels


def _parts(frame: pd.DataFrame, rest: list[str]) -> Iterator[tuple[str, pd.DataFrame]]:
    if not rest:
        yield "", frame
        return
    values = [list(pd.unique(frame[name])) for name in rest]
    for point in itertools.product(*values):
        mask = np.ones(len(frame), np.bool_)
        for name, value in zip(rest, point, strict=True):
            mask &= (frame[name] == value).to_numpy()
        if mask.any():
            yield ", ".join(map(describe, rest, point)), frame[mask]


def _slug(chart: Chart) -> str:
    if chart.kind == "published":
        return "published"
    parts = {
        "heatmap": [chart.show, "vs", chart.against],
        "map": [chart.show, chart.value],
        "winners": ["winners", *(["per-device"] if chart.value == "per_device" else [])],
    }
    slug = "-".join(parts.get(chart.kind, [chart.kind, chart.y]))
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in slug)


def _default_title(chart: Chart) -> str:
    show, what = title_of(chart.show), label(chart.y)
    if chart.kind == "heatmap":
        return f"{show} against {other_of(chart.against)}"
    if chart.kind == "map":
        return f"{show}: {maps.value_of(chart)}"
    if chart.kind == "winners":
        return "Which is fastest" if chart.value != "per_device" else "Which does most per device"
    if chart.kind == "published":
        return f"{sentence(what)}: dsim and the publication"
    if chart.kind == "marginal":
        return f"{show}: what each further step adds to the {what}"
    return f"{sentence(what)} by {words(column_of(chart.x))}"


def _lines(chart: Chart, frame: pd.DataFrame, whole: pd.DataFrame) -> Drawn:
    x, y = column_of(chart.x), chart.y
    interval = interval_of(y, frame.columns)
    further = [n for n in ("lookahead", "peak_targets") if n in frame and n not in (x, y)]
    wanted = [x, y, "algorithm", "series", *further, interval]
    table = frame[[c for c in dict.fromkeys(wanted) if c in frame]].dropna(subset=[y]).copy()
    if "series" not in table:
        names = {title_of(name): name for name in in_order(table["algorithm"])}
        table["series"] = table["algorithm"].astype(str).map(title_of)
    else:
        names = dict(zip(frame["series"], frame["algorithm"], strict=True))
    caption = f"{sentence(label(y))} by {words(x)}"
    if better := _better(y):
        caption += f"; {better} is better"
    caption += "."
    if is_noisy(y) and not interval:
        caption += NO_INTERVALS
    if interval and table[interval].isna().all():
        caption += " No 95 % intervals: too few repeats or requests."
    if interval and table[interval].gt(0).any():
        caption += " Bars: 95 % intervals."
        table["low"] = (table[y] - table[interval]).clip(lower=0).round(6)
        most = 1.0 if y.endswith(("share", "utilisation")) else None
        table["high"] = (table[y] + table[interval]).clip(upper=most).round(6)
    if STATUS in frame and (frame[STATUS] == "refused").any():
        caption += " Where a line ends, the load is more than can be served."
    elif len(table) < len(frame):
        caption += " Points without a value are left out."
    table[y] = table[y].round(6)
    table = table.drop(columns=[interval] if interval else [])
    numbers = is_number(frame[x])
    tooltip = [
        alt.Tooltip("series:N", title="what"),
        alt.Tooltip(f"{x}:{'Q' if numbers else 'N'}", title=label(x)),
        alt.Tooltip(f"{y}:Q", title=label(y), format=".4~g"),
        *(alt.Tooltip(f"{name}:Q", title=label(name)) for name in further),
    ]
    scale = alt.Scale(zero=y.startswith("wasted"))
    if len(whole) > len(frame):  # one of several panels, which share their scale
        low, high = _extent(whole, y, interval)
        scale = alt.Scale(domain=[0 if y.startswith("wasted") else low, high])
    base = alt.Chart(table).encode(x=along(frame, x), color=colour("series", names))
    up = base.encode(y=alt.Y(f"{y}:Q", title=label(y), scale=scale), tooltip=tooltip)
    # Nothing lies between two names.
    layers = [up.mark_line(strokeWidth=2)] if numbers else []
    points = up.mark_point(filled=True, size=48 if numbers else 110, opacity=1)
    layers.append(points.encode(shape=shape("series", list(names))))
    if "low" in table:
        layers.append(base.mark_rule(strokeWidth=1.2).encode(y="low:Q", y2="high:Q"))
    return alt.layer(*layers), caption, len(table)


def _extent(frame: pd.DataFrame, y: str, interval: str) -> tuple[float, float]:
    """The smallest and largest value of *y*, its intervals included."""
    half = frame[interval].fillna(0.0) if interval else 0.0
    low, high = float((frame[y] - half).min()), float((frame[y] + half).max())
    return round(max(low, 0.0) if low < 0 <= frame[y].min() else low, 6), round(high, 6)


def is_noisy(column: str) -> bool:
    """Whether *column* differs from run to run: an outcome, but for what is certain."""
    return column in BY_NAME and BY_NAME[column].kind == "outcome"


def _better(column: str) -> str:
    """Which values of *column* are better: ``higher``, ``lower``, or nothing where that depends."""
    if column.startswith(("speedup", "throughput", "goodput", "good_share", "tokens_per")):
        return "higher"
    return "" if column.endswith(("utilisation", "tokens")) else "lower"


def _marginal(chart: Chart, frame: pd.DataFrame) -> Drawn:
    x, y = column_of(chart.x), chart.y
    table = frame.loc[frame["algorithm"] == chart.show, [x, y]].sort_values(x)
    table["gain"] = table[y].diff().round(6)
    table["before"] = table[x].shift()
    table = table.dropna()
    drawn = (
        alt.Chart(table)
        .mark_bar(color=colours([chart.show])[0])
        .encode(
            x=alt.X(f"{x}:O", title=label(x), axis=alt.Axis(labelAngle=0)),
            y=alt.Y("gain:Q", title=f"gain in {label(y)}"),
            tooltip=[
                alt.Tooltip("before:Q", title="from"),
                alt.Tooltip(f"{x}:Q", title="to"),
                alt.Tooltip("gain:Q", title=f"gain in {label(y)}", format=".4~g"),
                alt.Tooltip(f"{y}:Q", title=label(y), format=".4~g"),
            ],
        )
    )
    caption = (
        f"What each step to a larger value of {words(x)} adds to the {label(y)} of "
        f"{title_of(chart.show)}. A step without a bar adds nothing.{NO_INTERVALS}"
    )
    return drawn, caption, len(table)


def _variants(chart: Chart, frame: pd.DataFrame) -> Drawn:
    interval = interval_of(chart.y, frame.columns)
    wanted = ["variant", "algorithm", chart.y, *([interval] if interval else [])]
    table = frame[wanted].dropna(subset=[chart.y]).copy()
    names = {title_of(name): name for name in in_order(table["algorithm"])}
    table["name"] = table["algorithm"].astype(str).map(title_of)
    table["variant"] = table["variant"].astype(str)
    noisy = bool(interval) and bool(table[interval].gt(0).any())
    if noisy:
        table["low"] = (table[chart.y] - table[interval]).clip(lower=0).round(6)
        table["high"] = (table[chart.y] + table[interval]).round(6)
    table = table.drop(columns=[interval] if interval else [])
    table[chart.y] = table[chart.y].round(6)
    order = list(dict.fromkeys(table["variant"]))
    y = alt.Y("variant:N", sort=order, title=None, axis=alt.Axis(labelLimit=300))
    x = alt.X(f"{chart.y}:Q", title=label(chart.y), scale=alt.Scale(zero=False, padding=20))
    first = table[table["variant"] == order[0]] if order else table
    base = alt.Chart(first).mark_rule(strokeDash=[4, 3]).encode(x=x, color=colour("name", names))
    dots = (
        alt.Chart(table)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour("name", names),
            shape=shape("name", list(names)),
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("name:N", title="algorithm"),
                alt.Tooltip(f"{chart.y}:Q", title=label(chart.y), format=".4~g"),
            ],
        )
    )
    at = f" Dashed lines mark the baseline, {order[0].rstrip('.')}." if order else ""
    bars = (
        [
            alt.Chart(table)
            .mark_rule(strokeWidth=1.2)
            .encode(
                x=alt.X("low:Q", title=label(chart.y)),
                x2="high:Q",
                y=y,
                color=colour("name", names),
            )
        ]
        if noisy
        else []
    )
    caption = f"{sentence(label(chart.y))} of each variant.{at}"
    caption += " Bars: 95 % intervals." * noisy
    caption += NO_INTERVALS * (is_noisy(chart.y) and not interval)
    return alt.layer(base, *bars, dots), caption, len(table)


def _published(chart: Chart, frame: pd.DataFrame, axes: Sequence[str] = ()) -> Drawn:
    published = f"published_{chart.y}"
    _, reference, subject = COMPARED  # the paper's three
    ours_colour = colours([subject])[0]
    frame = frame.reset_index(drop=True)  # tables that were put together repeat their numbers
    table = frame.loc[frame["algorithm"] == subject, ["variant", chart.y, published]].dropna()
    table["variant"] = table["variant"].astype(str)
    ours, theirs, shades = "dsim, simulated", "published", [ours_colour, PINK]
    values = {ours: table[chart.y].round(4), theirs: table[published]}
    ideal_name, aside = "same draws, simulated", ""
    if "simulated_latency_mean_ms" in frame:
        ours = "dsim, real waits"
        keys = ["variant", *(name for name in axes if name != "variant")]
        ideal = frame.set_index(keys)["simulated_latency_mean_ms"]
        of = {name: ideal[(frame["algorithm"] == name).to_numpy()] for name in (reference, subject)}
        at = frame.loc[table.index].set_index(keys).index
        same = of[reference].reindex(at).to_numpy() / of[subject].reindex(at).to_numpy()
        values = {
            ideal_name: pd.Series(same, table.index).round(4),
            ours: table[chart.y].round(4),
            theirs: table[published],
        }
        shades = [INK, ours_colour, PINK]
        aside = " Dark rim: the same draws in simulated time."
    long = pd.concat([table.assign(who=who, value=value) for who, value in values.items()])
    order = list(dict.fromkeys(table["variant"]))
    y = alt.Y("variant:N", sort=order, title=None, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(zero=False, padding=20)
    gaps = (
        alt.Chart(table)
        .mark_rule(color=GREY, strokeWidth=2)
        .encode(x=alt.X(f"{chart.y}:Q", title=label(chart.y), scale=scale), x2=published, y=y)
    )
    dots = (
        alt.Chart(long)
        .mark_point(filled=True, opacity=1)
        .encode(
            x=alt.X("value:Q", title=label(chart.y), scale=scale),
            y=y,
            size=alt.condition(alt.datum.who == ideal_name, alt.value(230), alt.value(90)),
            color=alt.Color(
                "who:N",
                title=None,
                scale=alt.Scale(domain=list(values), range=shades),
                legend=legend(list(values)),
            ),
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("who:N", title="from"),
                alt.Tooltip("value:Q", title=label(chart.y), format=".2f"),
            ],
        )
    )
    caption = (
        f"The speed-up of {title_of(subject)} over {title_of(reference)}, each at its best: "
        "dsim's (blue) beside the published one (pink). The longer the grey line, the further "
        f"apart they are.{aside}"
    )
    return gaps + dots, caption, len(long)


_KINDS: dict[str, Any] = {
    "heatmap": maps.heatmap,
    "map": maps.value_map,
    "winners": winners.winners,
    "lines": _lines,
    "marginal": _marginal,
    "variants": _variants,
}
