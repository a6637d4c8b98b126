"""Charts of several results side by side."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dsim.orchestrations import title_of
from dsim.report import charts
from dsim.report.analysis import is_number
from dsim.report.comparison import one_algorithm_each
from dsim.study.labels import describe, label, sentence
from dsim.study.study import Chart

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.report.charts import Panel
    from dsim.report.comparison import Source

CHARTED = ("latency_mean_ms", "ttft_p50_ms", "ttft_p99_ms", "tpot_mean_ms", "tokens_per_s")
MAX_PANELS = 24


def panels(sources: Sequence[Source]) -> list[Panel]:
    """Charts of the quantities that at least two of *sources* know: one line per source.

    A source that knows one value on the axis of a chart is a point there; one that knows none is
    drawn as the same value all along the axis.
    """
    shared = [n for n in sources[0].axes if all(n in s.frame for s in sources)]
    every = [n for s in sources for n in s.axes]
    numeric = [n for n in [*shared, *every] if any(_varies(s, n) for s in sources)]
    x = numeric[0] if numeric else "source"
    frames = []
    for source in _at_shared_values(sources, x):
        frame = source.frame.assign(source=source.name)
        if x not in source.axes and x != "source" and not _knows(source, x):
            values = pd.concat([s.frame[x] for s in sources if x in s.axes]).unique()
            frame = frame.drop(columns=x, errors="ignore")
            frame = frame.merge(pd.DataFrame({x: np.sort(values)}), how="cross")
        own = [n for n in source.axes if n not in (x, *shared) and frame[n].nunique() > 1]
        titles = frame["algorithm"].map(title_of)
        if "variant" in own and one_algorithm_each(frame):
            titles, own = frame["variant"], [n for n in own if n != "variant"]
        titles = titles if x == "source" else source.name + ": " + titles
        for name in own:
            titles = titles + ", " + frame[name].map(lambda v, name=name: describe(name, v))
        frames.append(frame.assign(series=titles))
    both = pd.concat(frames, ignore_index=True)
    rest = [n for n in shared if n != x]
    found: list[Panel] = []
    for quantity in CHARTED:
        if sum(quantity in s.frame for s in sources) < min(2, len(sources)):
            continue
        chart = Chart(kind="lines", x=x, y=quantity, title=sentence(label(quantity)))
        found += charts.draw(chart, both, rest, len(found) + 1)
    return found[:MAX_PANELS]


def _at_shared_values(sources: Sequence[Source], x: str) -> list[Source]:
    """The sources with the values alone that all have, on axes other than *x*, where there are any.

    A grid has a line for each of its values, most of which nobody else knows.
    """
    found = list(sources)
    names = dict.fromkeys(name for source in sources for name in source.axes if name != x)
    for name in names:
        if not all(name in source.frame and is_number(source.frame[name]) for source in found):
            continue
        values = [set(source.frame[name].dropna().round(9)) for source in found]
        shared = set.intersection(*values)
        if shared and len(shared) < max(map(len, values)):
            kept = [s.frame[name].isna() | s.frame[name].round(9).isin(shared) for s in found]
            found = [
                dataclasses.replace(source, frame=source.frame[rows])
                for source, rows in zip(found, kept, strict=True)
            ]
    return found


def _knows(source: Source, name: str) -> bool:
    frame = source.frame
    return name in frame and is_number(frame[name]) and bool(np.isfinite(frame[name]).all())


def _varies(source: Source, name: str) -> bool:
    frame = source.frame
    return name in frame and is_number(frame[name]) and frame[name].nunique() > 1
