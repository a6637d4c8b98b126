"""How charts look: colours, axes and legends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from dsim.orchestrations import ORCHESTRATIONS
from dsim.report.analysis import is_number
from dsim.study.labels import label

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

INK, GREY = "#1b2430", "#9aa4b0"
PINK, PALE_PINK, PALE_BLUE, BLUE = "#d6317f", "#f9cfe1", "#dbe8f3", "#0b4f8f"
EQUAL = "rgb(185, 189, 194)"  # neither pink nor blue, and darker than the palest of them
# For names that no orchestration claims, and for further variants of one that does.
PALETTE = ("#8b5fbf", "#c0504d", "#b8860b", "#4bacc6", "#2e8b62", "#7a6a53", "#d6317f")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
HEIGHT_PX = 300
WIDTH_PX = 460  # of pictures; on a page a chart is as wide as there is room
LEGEND_PX = 420  # what a legend takes before it is broken
NUMBER = "format(datum.value, ',~r')"  # of ticks; as a format, Vega would write 100 as 1e+2
MIN_LOG_VALUES, MIN_LOG_SPAN, MIN_LOG_STEP = 4, 8, 1.45  # of a logarithmic axis
MAX_OWN_TICKS = 12  # values of an axis, from which on its ticks are at round numbers instead


def colours(algorithms: Iterable[str]) -> list[str]:
    """A colour for each of *algorithms*: its own the first time, then others.

    Names that no orchestration claims get colours of a palette.
    """
    found: list[str] = []
    for name in algorithms:
        own = [ORCHESTRATIONS[name].colour] if name in ORCHESTRATIONS else []
        free = [colour for colour in (*own, *PALETTE) if colour not in found]
        found.append(free[0] if free else PALETTE[len(found) % len(PALETTE)])
    return found


def shape(field: str, names: Sequence[str]) -> alt.Shape:
    """Shapes of points, for those who cannot tell the colours apart; legends join :func:`colour`.

    Args:
        field: name of the field that holds *names*.
        names: what it holds, in order.
    """
    shapes = list(itertools.islice(itertools.cycle(SHAPES), len(names)))
    scale = alt.Scale(domain=list(names), range=shapes)
    return alt.Shape(f"{field}:N", title=None, scale=scale, legend=legend(list(names)))


def colour(field: str, names: Mapping[str, str]) -> alt.Color:
    """Colours, and their legend, of the field that holds *names*.

    Args:
        field: name of the field.
        names: the algorithm of each name, in order.
    """
    return alt.Color(
        f"{field}:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=colours(names.values())),
        legend=legend(list(names)),
    )


def legend(names: list[str]) -> alt.Legend:
    """A legend above the chart that shows *names* whole, in as many rows as they need."""
    widest = int(max((len(name) for name in names), default=1) * 6.4) + 26
    columns = min(max(1, LEGEND_PX // widest), max(1, len(names)))
    return alt.Legend(orient="top", columns=columns, labelLimit=LEGEND_PX)


def ticks(values: pd.Series[Any], *, grid: bool = True) -> alt.Axis:
    """An axis with ticks at its own values where they are few, and at whole numbers if they are."""
    own = sorted(pd.unique(values.dropna()).tolist())
    if len(own) <= MAX_OWN_TICKS:
        return alt.Axis(grid=grid, values=own, labelExpr=NUMBER, labelOverlap="greedy")
    if all(float(value).is_integer() for value in own):  # never at the edges of a map's cells
        return alt.Axis(grid=grid, tickMinStep=1, format="d")
    return alt.Axis(grid=grid)


def are_multiples(values: Sequence[float]) -> bool:
    """Whether *values*, in order, are steps like 1, 2, 4, 8, 16 that want a logarithmic axis."""
    if len(values) < MIN_LOG_VALUES or values[0] <= 0 or values[-1] < MIN_LOG_SPAN * values[0]:
        return False
    return all(b >= MIN_LOG_STEP * a for a, b in itertools.pairwise(values))


def along(frame: pd.DataFrame, x: str) -> alt.X:
    """The horizontal axis over the column *x*: of numbers, or of names in their order."""
    if not is_number(frame[x]):
        return alt.X(f"{x}:N", title=label(x), sort=None, axis=alt.Axis(labelAngle=0))
    own = sorted(pd.unique(frame[x].dropna()).tolist())
    steps = alt.Scale(type="log") if are_multiples(own) else alt.Scale(zero=False)
    scale = alt.Scale(**steps.to_dict(), nice=False, padding=8)
    return alt.X(f"{x}:Q", title=label(x), scale=scale, axis=ticks(frame[x]))
