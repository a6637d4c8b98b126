"""Charts: a table in, Altair charts out. Nothing here simulates, reads or writes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import pandas as pd

from dsim.errors import UserError
from dsim.orchestrations import ORCHESTRATIONS
from dsim.study.results import BY_NAME, NAMES, column_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dsim.study.study import Chart, Study

COLOURS = {name: o.colour for name, o in ORCHESTRATIONS.items()}
INK = "#1b2430"
PINK, PALE_PINK, PALE_BLUE, BLUE = "#d6317f", "#f9cfe1", "#dbe8f3", "#0b4f8f"
# What may follow from other settings, and is an axis only if it does not.
DERIVED = ("targets", "drafter_latency_ms", "target_latency_ms", "acceptance_rate")
HEIGHT_PX = 300
WIDTH_PX = 460  # of pictures; on a page a chart is as wide as there is room
LABELS = {
    "drafter_latency_relative": "drafter latency / target latency",
    "drafter_latency_ms": "drafter latency (ms)",
    "target_latency_ms": "target latency (ms)",
    "acceptance_rate": "acceptance rate",
    "lookahead": "lookahead (drafts per block)",
    "targets": "target servers",
    "tokens": "tokens",
    "latency_mean_ms": "latency (ms)",
    "ms_per_token": "ms per token",
    "speedup_vs_nonsi": "speed-up over non-SI",
    "speedup_vs_si": "speed-up over SI",
    "peak_targets": "target servers busy at once",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart, ready to be drawn.

    Attributes:
        name: for file names; letters, digits and dashes.
        title, caption: what it shows; what is compared, and what the colours mean.
        chart: the chart, without a size.
        marks: how many marks carry data.
        height, width: in pixels, where the usual ones do not fit.
    """

    name: str
    title: str
    caption: str
    chart: alt.Chart | alt.LayerChart
    marks: int
    height: int = 0
    width: int = 0


def label(column: str) -> str:
    """What an axis of *column* is called."""
    if column in LABELS:
        return LABELS[column]
    unit = BY_NAME[column].unit if column in BY_NAME else ""
    words = column.removesuffix("_ms").replace("_", " ")
    return f"{words} ({unit})" if unit else words


def _words(column: str) -> str:
    """:func:`label` without what stands in brackets."""
    return label(column).partition(" (")[0]


def axes_of(study: Study) -> list[str]:
    """The columns of a study's axes, the variant among them."""
    variant = ["variant"] if study.variants[0][0] else []
    return [*variant, *(column_of(axis.key) for axis in study.grid)]


def axes_in(frame: pd.DataFrame) -> list[str]:
    """The columns that must be axes of results that come without a study.

    Settings with more than one value; but not those that follow from others, like a latency in ms
    that goes along with a relative one, or the servers that are enough for a lookahead.
    """
    outcomes = {column.name for column in BY_NAME.values() if column.kind == "outcome"}
    ignored = outcomes | {"algorithm", "engine", "backend", "published_speedup_vs_si"}
    names = [str(name) for name in frame.columns if name not in ignored]
    axes = [name for name in names if frame[name].nunique(dropna=False) > 1]
    first = [name for name in DERIVED if name in axes]
    for name in [*first, *(n for n in axes if n not in (*first, "variant", "lookahead"))]:
        others = [other for other in axes if other != name]
        if name in DERIVED or "variant" in others:
            by = others if name in DERIVED else ["variant"]
            if by and (frame.groupby(by, observed=True)[name].nunique(dropna=False) <= 1).all():
                axes = others
    return axes


def best(frame: pd.DataFrame, axes: Sequence[str], minimise: Sequence[str]) -> pd.DataFrame:
    """Every algorithm at its best over some axes: lowest mean latency.

    Among equals fewer servers win, then the smaller value of each axis. The speed-ups are those of
    best against best.

    Args:
        frame: the results.
        axes: the columns that tell cases apart.
        minimise: those of them to take the best over.

    Raises:
        UserError: two rows are about the same case.
    """
    if frame.duplicated(["algorithm", *axes]).any():
        twice = frame[frame.duplicated(["algorithm", *axes], keep=False)].iloc[0]
        at = ", ".join(f"{name} {twice[name]}" for name in ["algorithm", *axes])
        raise UserError(f"two rows are about the same case: {at}")
    others = [name for name in axes if name not in minimise]
    keys = ["algorithm", *others]
    # Names come in the order of the study: there is none among themselves.
    places = {
        name: {value: place for place, value in enumerate(frame[name].unique())}
        for name in others
        if not is_number(frame[name])
    }
    if minimise:
        lowest = frame.groupby(keys, observed=True, sort=False)["latency_mean_ms"].transform("min")
        frame = frame[frame["latency_mean_ms"] == lowest]
        order = [c for c in ("peak_targets", *minimise) if c in frame]
        frame = frame.sort_values(order, kind="stable").drop_duplicates(keys)
    frame = frame.sort_values(
        keys,
        kind="stable",
        key=lambda c: c.map(places[c.name]).astype(int) if c.name in places else c,
    ).reset_index(drop=True)
    for name in ("nonsi", "si"):
        reference = frame.loc[frame["algorithm"] == name, [*others, "latency_mean_ms"]]
        if others:
            merged = frame[others].merge(reference, "left", others)["latency_mean_ms"].to_numpy()
        else:
            merged = reference["latency_mean_ms"].to_numpy() if len(reference) else np.array(np.nan)
        frame[f"speedup_vs_{name}"] = merged / frame["latency_mean_ms"].to_numpy()
    return frame


def draw(chart: Chart, frame: pd.DataFrame, axes: Sequence[str], number: int = 1) -> list[Panel]:
    """Draw what a study asks for.

    Args:
        chart: what to draw; it has been checked.
        frame: the results, at their best.
        axes: the columns that tell its rows apart, besides the algorithm.
        number: of the chart in its study.

    Returns:
        One panel for each variant and each combination of axes that the chart itself lacks; none
        where there is nothing to show.
    """
    two = chart.kind in ("heatmap", "map")
    shown = {column_of(chart.x)} | ({column_of(chart.y)} if two else set())
    if chart.kind == "published":
        shown |= set(axes)  # a line a variant: whatever tells variants apart belongs to it
    rest = [name for name in axes if name not in shown and frame[name].nunique() > 1]
    panels: list[Panel] = []
    for which, part in _parts(frame, rest):
        title = chart.title or _default_title(chart)
        if which:
            title = f"{title}: {which}" if chart.title else f"{title} ({which})"
        suffix = f"-{len(panels) + 1}" if rest else ""
        if chart.kind == "published":
            drawn, caption, marks = _published(chart, part, axes)
        else:
            drawn, caption, marks = _KINDS[chart.kind](chart, part)
        if not marks:
            continue
        panels.append(
            Panel(
                name=f"{number:02d}-{_slug(chart)}{suffix}",
                title=title,
                caption=chart.caption or caption,
                chart=drawn,
                marks=marks,
            )
        )
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
            yield ", ".join(map(_describe, rest, point)), frame[mask]


def _describe(name: str, value: Any) -> str:
    if name == "variant":
        return str(value)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{_words(name)} {shown}"


def _slug(chart: Chart) -> str:
    if chart.kind == "published":
        return "published"
    if chart.kind == "map":
        return f"{chart.show}-{chart.value}".replace("_", "-")
    words = [chart.show, "vs", chart.against] if chart.kind == "heatmap" else [chart.kind, chart.y]
    return "-".join(words).replace("_", "-")


def _default_title(chart: Chart) -> str:
    if chart.kind == "heatmap":
        against = "the better of non-SI and SI" if chart.against == "best" else chart.against
        return f"{NAMES[chart.show]} against {NAMES.get(against, against)}"
    if chart.kind == "map":
        best_of = "best " if chart.value == "lookahead" else ""
        return f"{NAMES[chart.show]}: {best_of}{_words(chart.value)}"
    what = label(chart.y)
    if chart.kind == "published":
        return f"{what[:1].upper()}{what[1:]}: dsim and the publication"
    if chart.kind == "marginal":
        return f"{NAMES[chart.show]}: what each further step adds to the {what}"
    return f"{what[:1].upper()}{what[1:]} over the {_words(column_of(chart.x))}"


def _edges(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper edge of the cell of each of the sorted *values*."""
    if len(values) == 1:
        return values - 0.5, values + 0.5
    middles = (values[1:] + values[:-1]) / 2
    low = np.concatenate([[values[0] - (middles[0] - values[0])], middles])
    high = np.concatenate([middles, [values[-1] + (values[-1] - middles[-1])]])
    return np.round(low, 9), np.round(high, 9)


def compare(frame: pd.DataFrame, show: str, against: str, keys: Sequence[str]) -> pd.DataFrame:
    """One row for each point of *keys*: how much faster *show* is than *against*.

    Columns: the keys, ``speedup``, ``lookahead`` and ``servers`` of *show*, ``other``, the name of
    what it is compared with, and ``other_lookahead``, if that is SI.
    """
    keys = list(keys)

    def of(algorithm: str) -> pd.DataFrame:
        return frame[frame["algorithm"] == algorithm].set_index(keys)

    mine = of(show)
    names = ["nonsi", "si"] if against == "best" else [against]
    latencies = pd.concat([of(name)["latency_mean_ms"].rename(name) for name in names], axis=1)
    latencies = latencies.reindex(mine.index)
    table = pd.DataFrame(index=mine.index)
    if latencies.empty:
        return table.assign(speedup=[], other=[]).reset_index()
    table["speedup"] = latencies.min(axis=1) / mine["latency_mean_ms"]
    better = latencies.idxmin(axis=1)
    table["other"] = better.map(NAMES)
    if "lookahead" in frame and "si" in names:
        theirs = of("si")["lookahead"].reindex(mine.index).astype(float)
        table["other_lookahead"] = theirs.where(better == "si")
    for column, source in (("lookahead", "lookahead"), ("servers", "peak_targets")):
        if source in mine:
            table[column] = mine[source]
    return table.reset_index()


def _heatmap(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart, str, int]:
    x, y = column_of(chart.x), column_of(chart.y)
    table = compare(frame, chart.show, chart.against, [x, y]).dropna(subset=["speedup"])
    if table.empty:
        return alt.Chart(table), "", 0
    edges = _cells(table, x, y)
    table["speedup"] = table["speedup"].round(4)
    low, high = float(table["speedup"].min()), float(table["speedup"].max())
    top = max(high, 1.01)  # of the scale, which needs some length
    domain: list[float]
    if low < 1:
        domain, colours = [low, 0.9999, 1, top], [PINK, PALE_PINK, PALE_BLUE, BLUE]
    else:
        domain, colours = [1, top], [PALE_BLUE, BLUE]
    show = NAMES[chart.show]
    tooltip = [
        alt.Tooltip("speedup:Q", title=f"speed-up of {show}", format=".3f"),
        alt.Tooltip(f"{x}:Q", title=label(x)),
        alt.Tooltip(f"{y}:Q", title=label(y)),
        alt.Tooltip("other:N", title="compared with"),
    ]
    if chart.show != "nonsi" and "lookahead" in table:
        tooltip.append(alt.Tooltip("lookahead:Q", title=f"best lookahead of {show}"))
    if "other_lookahead" in table:
        tooltip.append(alt.Tooltip("other_lookahead:Q", title="best lookahead of SI"))
    if chart.show == "dsi" and "servers" in table:
        tooltip.append(alt.Tooltip("servers:Q", title="target servers busy at once"))
    drawn = (
        alt.Chart(table)
        .mark_rect(strokeWidth=0, clip=True)
        .encode(
            **_places(frame, x, y, edges),
            color=alt.Color(
                "speedup:Q",
                scale=alt.Scale(type="log", domain=domain, range=colours, clamp=True),
                legend=alt.Legend(
                    title=f"{show} is … × as fast",
                    orient="top",
                    gradientLength=220,
                    format=".2~f",
                ),
            ),
            tooltip=tooltip,
        )
    )
    against = "the better of non-SI and SI" if chart.against == "best" else NAMES[chart.against]
    slower = float((table["speedup"] < 1).mean())
    if high < 1:
        verdict = f"{show} is slower everywhere: the darker the pink, the slower."
    elif low < 1:
        verdict = f"Pink: {show} is slower ({slower:.0%} of the map); blue: it is faster."
    elif high == 1:
        verdict = f"{show} is as fast everywhere."
    else:
        verdict = f"The darker the blue, the faster; {show} is nowhere slower."
    caption = (
        f"Latency of {against} divided by the latency of {show}, at most {high:.2f}×. {verdict} "
        "Point at a cell for its numbers."
    )
    return drawn, caption, len(table)


def _cells(table: pd.DataFrame, x: str, y: str) -> dict[str, list[float]]:
    """Give *table* the edges of its cells, ``x0``, ``x1``, ``y0``, ``y1``; those of the map."""
    edges = {}
    for name, column in (("x", x), ("y", y)):
        values = np.sort(table[column].unique()).astype(float)
        at = np.searchsorted(values, table[column])
        lower, upper = _edges(values)
        # Each cell reaches a little under its neighbours, so that no seams show between them.
        table[f"{name}0"] = lower[at]
        table[f"{name}1"] = upper[at] + 0.1 * (upper[at] - lower[at])
        edges[name] = [float(lower[0]), float(upper[-1])]
    return edges


def _places(frame: pd.DataFrame, x: str, y: str, edges: dict[str, list[float]]) -> dict[str, Any]:
    """Where :func:`_cells` are drawn."""

    def scale(name: str) -> alt.Scale:
        return alt.Scale(domain=edges[name], nice=False, zero=False)

    return {
        "x": alt.X("x0:Q", title=label(x), scale=scale("x"), axis=_ticks(frame[x], grid=False)),
        "x2": "x1:Q",
        "y": alt.Y("y0:Q", title=label(y), scale=scale("y"), axis=_ticks(frame[y], grid=False)),
        "y2": "y1:Q",
    }


def _map(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart, str, int]:
    x, y, value = column_of(chart.x), column_of(chart.y), chart.value
    columns = list(dict.fromkeys([x, y, value, "latency_mean_ms"]))
    table = frame.loc[frame["algorithm"] == chart.show, columns].dropna().copy()
    if table.empty:
        return alt.Chart(table), "", 0
    edges = _cells(table, x, y)
    table[value] = table[value].round(6)
    low, high = float(table[value].min()), float(table[value].max())
    what = f"{'best ' if value == 'lookahead' else ''}{_words(value)}"
    drawn = (
        alt.Chart(table)
        .mark_rect(strokeWidth=0, clip=True)
        .encode(
            **_places(frame, x, y, edges),
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
        f"The {what} of {NAMES[chart.show]}, from {low:g} to {high:g}. "
        "Point at a cell for its numbers."
    )
    return drawn, caption, len(table)


def is_number(values: pd.Series[Any]) -> bool:
    """Whether *values* have an order and distances; names and switches have none."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _ticks(values: pd.Series[Any], *, grid: bool = True) -> alt.Axis:
    """An axis with ticks at whole numbers, if the values are whole."""
    if pd.api.types.is_integer_dtype(values):
        return alt.Axis(grid=grid, tickMinStep=1, format="d")
    return alt.Axis(grid=grid)


def _colour(frame: pd.DataFrame) -> alt.Color:
    present = [name for name in NAMES if (frame["algorithm"] == name).any()]
    return alt.Color(
        "name:N",
        title=None,
        scale=alt.Scale(domain=[NAMES[n] for n in present], range=[COLOURS[n] for n in present]),
        legend=alt.Legend(orient="top"),
    )


def _lines(chart: Chart, frame: pd.DataFrame) -> tuple[alt.LayerChart, str, int]:
    x, y = column_of(chart.x), chart.y
    columns = [x, y, "algorithm", "lookahead", "targets", "peak_targets"]
    table = frame[[c for c in dict.fromkeys(columns) if c in frame]].dropna(subset=[y]).copy()
    table["name"] = table["algorithm"].astype(str).map(NAMES)
    table[y] = table[y].round(6)
    tooltip = [
        alt.Tooltip("name:N", title="algorithm"),
        alt.Tooltip(f"{x}:{'Q' if is_number(frame[x]) else 'N'}", title=label(x)),
        alt.Tooltip(f"{y}:Q", title=label(y), format=".4~g"),
    ]
    tooltip += [
        alt.Tooltip(f"{name}:Q", title=label(name))
        for name in ("lookahead", "peak_targets")
        if name in table and name not in (x, y)
    ]
    base = alt.Chart(table).encode(
        x=(
            alt.X(
                f"{x}:Q",
                title=label(x),
                scale=alt.Scale(nice=False, zero=False, padding=8),
                axis=_ticks(frame[x]),
            )
            if is_number(frame[x])
            else alt.X(f"{x}:N", title=label(x), sort=None, axis=alt.Axis(labelAngle=0))
        ),
        y=alt.Y(f"{y}:Q", title=label(y), scale=alt.Scale(zero=y.startswith("wasted"))),
        color=_colour(table),
        tooltip=tooltip,
    )
    if is_number(frame[x]):
        points = base.mark_point(filled=True, size=42, opacity=1)
        drawn = base.mark_line(strokeWidth=2) + points
    else:  # nothing lies between two names
        drawn = alt.layer(base.mark_point(filled=True, size=110, opacity=1))
    better = "higher is better" if y.startswith("speedup") else "lower is better"
    caption = f"The {label(y)} of each algorithm over the {_words(x)}; {better}."
    return drawn, caption, len(table)


def _marginal(chart: Chart, frame: pd.DataFrame) -> tuple[alt.Chart, str, int]:
    x, y = column_of(chart.x), chart.y
    table = frame.loc[frame["algorithm"] == chart.show, [x, y]].sort_values(x)
    table["gain"] = table[y].diff().round(6)
    table["before"] = table[x].shift()
    table = table.dropna()
    drawn = (
        alt.Chart(table)
        .mark_bar(color=COLOURS[chart.show])
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
        f"What each further step of the {_words(x)} adds to the {label(y)} of "
        f"{NAMES[chart.show]}: where the bars vanish, more is of no use."
    )
    return drawn, caption, len(table)


def _variants(chart: Chart, frame: pd.DataFrame) -> tuple[alt.LayerChart, str, int]:
    table = frame[["variant", "algorithm", chart.y]].dropna().copy()
    table["variant"], table["name"] = table["variant"].astype(str), table["algorithm"].map(NAMES)
    table[chart.y] = table[chart.y].round(6)
    names = [name for name in NAMES.values() if (table["name"] == name).any()]
    order = list(dict.fromkeys(table["variant"]))
    y = alt.Y("variant:N", sort=order, title=None, axis=alt.Axis(labelLimit=300))
    x = alt.X(f"{chart.y}:Q", title=label(chart.y), scale=alt.Scale(zero=False, padding=20))
    colour = alt.Color(
        "name:N",
        title=None,
        scale=alt.Scale(domain=names, range=[c for a, c in COLOURS.items() if NAMES[a] in names]),
        legend=alt.Legend(orient="top"),
    )
    first = table[table["variant"] == order[0]] if order else table
    base = alt.Chart(first).mark_rule(strokeDash=[4, 3]).encode(x=x, color=colour)
    dots = (
        alt.Chart(table)
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour,
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("name:N", title="algorithm"),
                alt.Tooltip(f"{chart.y}:Q", title=label(chart.y), format=".4~g"),
            ],
        )
    )
    at = f" The dashed lines stand at {order[0]}." if order else ""
    return base + dots, f"The {label(chart.y)} of each variant.{at}", len(table)


def _published(
    chart: Chart, frame: pd.DataFrame, axes: Sequence[str] = ()
) -> tuple[alt.LayerChart, str, int]:
    published = f"published_{chart.y}"
    frame = frame.reset_index(drop=True)  # tables that were put together repeat their numbers
    table = frame.loc[frame["algorithm"] == "dsi", ["variant", chart.y, published]].dropna()
    table["variant"] = table["variant"].astype(str)
    ours, theirs, colours = "dsim, simulated", "published", [COLOURS["dsi"], PINK]
    values = {ours: table[chart.y].round(4), theirs: table[published]}
    ideal_name, aside = "same draws, simulated", ""
    if "simulated_latency_mean_ms" in frame:
        ours = "dsim, real waits"
        keys = ["variant", *(name for name in axes if name != "variant")]
        ideal = frame.set_index(keys)["simulated_latency_mean_ms"]
        of = {name: ideal[(frame["algorithm"] == name).to_numpy()] for name in ("si", "dsi")}
        at = frame.loc[table.index].set_index(keys).index
        same = of["si"].reindex(at).to_numpy() / of["dsi"].reindex(at).to_numpy()
        values = {
            ideal_name: pd.Series(same, table.index).round(4),
            ours: table[chart.y].round(4),
            theirs: table[published],
        }
        colours = [INK, COLOURS["dsi"], PINK]
        aside = " Dark rim: the same draws in simulated time."
    long = pd.concat([table.assign(who=who, value=value) for who, value in values.items()])
    order = list(dict.fromkeys(table["variant"]))
    y = alt.Y("variant:N", sort=order, title=None, axis=alt.Axis(labelLimit=260))
    scale = alt.Scale(zero=False, padding=20)
    gaps = (
        alt.Chart(table)
        .mark_rule(color="#9aa4b0", strokeWidth=2)
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
                scale=alt.Scale(domain=list(values), range=colours),
                legend=alt.Legend(orient="top"),
            ),
            tooltip=[
                alt.Tooltip("variant:N"),
                alt.Tooltip("who:N", title="from"),
                alt.Tooltip("value:Q", title=label(chart.y), format=".2f"),
            ],
        )
    )
    caption = (
        "The speed-up of DSI over SI, each at its best: dsim's (blue) beside the published one "
        f"(pink). The longer the grey line, the further apart they are.{aside}"
    )
    return gaps + dots, caption, len(long)


_KINDS: dict[str, Any] = {
    "heatmap": _heatmap,
    "map": _map,
    "lines": _lines,
    "marginal": _marginal,
    "variants": _variants,
    "published": _published,
}


def guess(frame: pd.DataFrame, axes: Sequence[str]) -> tuple[list[str], list[Chart]]:
    """Charts for results that come without a study.

    Returns:
        What to minimise over, and the charts; none where nothing varies that can be an axis.
    """
    from dsim.study.study import Chart

    numeric = [name for name in axes if is_number(frame[name])]
    minimise = ["lookahead"] if "lookahead" in numeric and len(numeric) > 1 else []
    free = [name for name in numeric if name not in minimise]
    present = set(frame["algorithm"].unique())
    if len(free) >= 2:
        x, y = free[0], free[1]
        pairs = [("si", "nonsi"), ("dsi", "si"), ("dsi", "nonsi")]
        wanted = [pair for pair in pairs if set(pair) <= present]
        if present >= {"nonsi", "si", "dsi"}:
            wanted.append(("dsi", "best"))
        return minimise, [
            Chart(kind="heatmap", x=x, y=y, show=show, against=against) for show, against in wanted
        ]
    if free:
        return minimise, [Chart(kind="lines", x=free[0], y="latency_mean_ms")]
    return minimise, []


FATES = {
    "draft, accepted": "#2f7fc1",
    "draft, rejected": "#a9cbe8",
    "pass": "#2e8b62",
    "cancelled": "#d9a441",
    "prefill": "#8b929c",
}


def timeline(
    spans: pd.DataFrame, rejections: pd.DataFrame, *, longest_ms: float, most_spans: int
) -> Panel:
    """Who did what when: one lane a server, what was cancelled in another colour.

    Args:
        spans: columns lane, start_ms, end_ms, fate (see :data:`FATES`), what (a sentence), in order
            of starting.
        rejections: columns time_ms, what; drawn as lines across the lanes.
        longest_ms: where the time axis ends, so that several timelines can be compared.
        most_spans: how many spans to draw at most, the first ones.

    Returns:
        A panel that has no name and title yet.
    """
    cut = ""
    if len(spans) > most_spans:
        until_ms = float(spans["start_ms"].iloc[most_spans])
        cut = f" Only what began in the first {until_ms:.0f} ms is shown."
        spans, rejections = spans[:most_spans], rejections[rejections["time_ms"] <= until_ms]
        longest_ms = float(spans["end_ms"].max())
    lanes = list(pd.unique(spans["lane"]))
    fates = [fate for fate in FATES if (spans["fate"] == fate).any()]
    chart: alt.Chart | alt.LayerChart = (
        alt.Chart(spans)
        .mark_bar(cornerRadius=2, stroke="white", strokeWidth=0.5, strokeOpacity=0.5)
        .encode(
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
                scale=alt.Scale(domain=fates, range=[FATES[fate] for fate in fates]),
                legend=alt.Legend(orient="top", columns=2),
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
    caption = "One lane a server."
    if not rejections.empty:
        caption += " Dashed pink lines: a draft is rejected, and what was built on it is void."
        chart += (
            alt.Chart(rejections)
            .mark_rule(color=PINK, strokeDash=[4, 3], strokeWidth=1.5)
            .encode(
                x="time_ms:Q",
                tooltip=[
                    alt.Tooltip("time_ms:Q", title="rejection at (ms)", format=".6~g"),
                    alt.Tooltip("what:N", title="what"),
                ],
            )
        )
    return Panel(
        name="",
        title="",
        caption=f"{caption}{cut} Point at a bar for what it is.",
        chart=chart,
        marks=len(spans),
        height=max(60, 34 * len(lanes)),
    )
