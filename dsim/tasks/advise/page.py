"""The answer of ``dsim advise`` as a page with a chart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import pandas as pd

from dsim.report import page as report
from dsim.report.charts import Panel
from dsim.report.style import NUMBER, colour, legend
from dsim.report.tables import TextTable
from dsim.tasks.advise.answer import as_rows, reading, table
from dsim.tasks.advise.layouts import candidates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.tasks.advise.answer import Advice


APART = 0.06  # of the height: labels closer than that would overlap
ROOM = 0.9  # for the leftmost label, of what the marks take


def labels(advice: Advice) -> list[str]:
    """What is written at each layout of the front, in order; empty where labels would overlap.

    A label stands to the lower left of its mark, where no mark can be: it would be better in both.
    """
    highest = max(one.latency_ms for one in advice.ranking)
    found, last_ms = [], float("inf")
    for one in advice.pareto:
        layout = one.layout
        text = f"{layout.targets}×{layout.degree}"
        text += f"+{layout.drafter_gpus}" if layout.drafter_gpus else ""
        text += f", k={layout.lookahead}" if layout.lookahead else ""
        text += f", {layout.nodes} nodes" if layout.nodes else ""
        fits = last_ms - one.latency_ms > APART * highest
        found.append(text if fits else "")
        last_ms = one.latency_ms if fits else last_ms
    return found


def _with_room(values: Sequence[float]) -> alt.Scale:
    """A scale over *values*, with room for a label at the left, also on a phone.

    It does not reach below zero: where the room would, the steps are of a factor.
    """
    low, high = min(values), max(values)
    span = max(high - low, 0.1 * high)
    if low > ROOM * span:
        return alt.Scale(domain=[low - ROOM * span, high + 0.1 * span], nice=False, zero=False)
    factor = max(high / low, 1.1)
    domain = [low / factor**ROOM, high * factor**0.1]
    return alt.Scale(type="log", domain=domain, nice=False)


def pareto_panel(advice: Advice) -> Panel:
    """Latency against the GPU time reserved per token, one mark per simulated layout."""
    frame = pd.DataFrame(as_rows(advice))
    frame["gpu_s"] = 1000 * frame["gpu_seconds_per_token"]
    frame = frame.round(6)
    frame["name"] = [one.layout.orchestration.title for one in advice.ranking]
    frame["layout"] = [str(one.layout) for one in advice.ranking]
    frame["kind"] = frame["pareto"].map({True: "Pareto-optimal", False: "dominated"})
    ticks = alt.Axis(tickCount=6, labelExpr=NUMBER, labelOverlap="greedy")
    room = _with_room(frame["gpu_s"].tolist())
    x = alt.X("gpu_s:Q", title="GPU-seconds reserved per 1,000 tokens", axis=ticks, scale=room)
    latency = "mean latency of a request (ms)"
    y = alt.Y("latency_mean_ms:Q", title=latency)
    names = {one.title: one.name for one in candidates()}
    kinds = ["Pareto-optimal", "dominated"]
    shapes = alt.Scale(domain=kinds, range=["circle", "cross"])
    points = (
        alt.Chart(frame)
        .mark_point(filled=True, size=80, opacity=1)
        .encode(
            x=x,
            y=y,
            color=colour("name", names),
            shape=alt.Shape("kind:N", title=None, scale=shapes, legend=legend(kinds)),
            tooltip=[
                alt.Tooltip("layout:N", title="layout"),
                alt.Tooltip("latency_mean_ms:Q", title="latency (ms)", format=".4~g"),
                alt.Tooltip("gpu_s:Q", title="GPU-s per 1,000 tokens", format=".4~g"),
            ],
        )
    )
    frame["low"] = (frame["latency_mean_ms"] - frame["latency_mean_ci95_ms"]).clip(lower=0)
    frame["high"] = frame["latency_mean_ms"] + frame["latency_mean_ci95_ms"]
    known = frame[frame["latency_mean_ci95_ms"] > 0]
    bars = (
        alt.Chart(known)
        .mark_rule(strokeWidth=1.2)
        .encode(x=x, y=alt.Y("low:Q", title=latency), y2="high:Q", color=colour("name", names))
    )
    noise = "Bars: 95 % intervals." if len(known) else "No 95 % intervals: too few requests."
    front = (
        alt.Chart(frame[frame["pareto"]].sort_values("gpu_s"))
        .mark_line(color="#8b929c", strokeDash=[4, 3])
        .encode(x=x, y=y)
    )
    front += (
        alt.Chart(
            pd.DataFrame(
                {
                    "gpu_s": [1000 * one.gpu_seconds_per_token for one in advice.pareto],
                    "latency_mean_ms": [one.latency_ms for one in advice.pareto],
                    "label": labels(advice),
                }
            )
        )
        .mark_text(align="right", baseline="top", dx=-8, dy=2)
        .encode(x=x, y=y, text="label:N")
    )
    return Panel(
        name="01-pareto",
        title="Latency against GPU time",
        caption="Simulated layouts; lower is faster, further left is cheaper. Dots on the dashed "
        "line are Pareto-optimal: no other layout is as good in both and better in one. Crosses "
        "are dominated by such a layout. Labels, of those on the line where there is room for one: "
        f"target servers × GPUs each + GPUs for drafters, lookahead k. {noise} "
        "Hover over a mark for its layout.",
        chart=front + points + bars if len(known) else front + points,
        marks=len(frame),
    )


def write_page(advice: Advice, path: Path) -> None:
    """Write the answer as one HTML page.

    Raises:
        UserError: the file cannot be written.
    """
    head, rows = table(advice)
    at_a_glance = TextTable(
        title="At a glance",
        caption=reading(advice),
        head=head,
        rows=rows,
        numbers=True,
    )
    page = report.Page(
        title="What should I run?",
        answer=[advice.verdict, *advice.sensitivity],
        facts=advice.question.facts(),
        after=[at_a_glance] if rows else (),
    )
    panels = [pareto_panel(advice)] if advice.ranking else []
    report.write(path, page, panels, option="--out")
