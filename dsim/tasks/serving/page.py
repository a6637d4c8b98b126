"""The answer of ``dsim advise --gpu`` as a page with charts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from dsim.report import page as report
from dsim.report.charts import Panel
from dsim.report.style import NUMBER, PALETTE, legend
from dsim.report.tables import TextTable
from dsim.tasks.serving.answer import (
    BEST_HEAD,
    METHODS_HEAD,
    bests,
    bests_title,
    compared,
    head,
    methods,
    methods_reading,
    reading,
    rows,
    verdict,
)
from dsim.tasks.serving.launch import launch, remarks
from dsim.tasks.serving.notes import notes

if TYPE_CHECKING:
    from pathlib import Path

    from dsim.tasks.serving.search import Advice


def pareto_panel(advice: Advice) -> Panel:
    """Throughput of a GPU against the time per token, a line for each finalist over the load."""
    names = [layout.short for layout in advice.curves]
    frame = pd.DataFrame(
        [
            {
                "layout": layout.short,
                "load": f"{one.scale:g} ×",
                "scale": one.scale,
                "tpot": one.tpot_p50,
                "low": max(one.tpot_p50 - (one.tpot_p50_ci95 or math.nan), one.tpot_p50 / 10),
                "high": one.tpot_p50 + (one.tpot_p50_ci95 or math.nan),
                "ttft": one.ttft_p99,
                "tokens": one.tokens_per_gpu_s,
            }
            for layout, curve in advice.curves.items()
            for one in curve
        ]
    )
    colours = [PALETTE[number % len(PALETTE)] for number in range(len(names))]
    log = alt.Scale(type="log", nice=False, padding=10)
    ticks = alt.Axis(tickCount=6, labelExpr=NUMBER, labelOverlap="greedy")
    base = alt.Chart(frame).encode(
        y=alt.Y("tokens:Q", title="tokens / s per GPU", scale=log, axis=ticks),
        color=alt.Color(
            "layout:N",
            title=None,
            scale=alt.Scale(domain=names, range=colours),
            legend=legend(names),
        ),
        tooltip=[
            alt.Tooltip("layout:N"),
            alt.Tooltip("load:N", title="load"),
            alt.Tooltip("tpot:Q", title="TPOT p50 (ms)", format=".4~g"),
            alt.Tooltip("low:Q", title="… from (95 % interval)", format=".4~g"),
            alt.Tooltip("high:Q", title="… to", format=".4~g"),
            alt.Tooltip("ttft:Q", title="TTFT p99 (ms)", format=".4~g"),
            alt.Tooltip("tokens:Q", title="tokens / s per GPU", format=".4~g"),
        ],
    )
    if len(names) > len(PALETTE):  # colours come again: dashed
        dashes = [[4, 3] if number >= len(PALETTE) else [1, 0] for number in range(len(names))]
        scale = alt.Scale(domain=names, range=dashes)
        base = base.encode(
            strokeDash=alt.StrokeDash("layout:N", title=None, scale=scale, legend=legend(names))
        )
    x: dict[str, Any] = {"title": "TPOT p50 (ms)", "scale": log, "axis": ticks}
    line = base.mark_line(point=True).encode(x=alt.X("tpot:Q", **x), order="scale:Q")
    layers = [line]
    requests = max(one.requests for curve in advice.curves.values() for one in curve)
    caption = (
        "One line per layout (TP × replicas: speculation); its points are loads, from half of the "
        "given load to eight times as much, each twice the one before; point at one for its load. "
        "Further up is cheaper, further left is faster. "
    )
    if frame["high"].notna().any():  # of bars that are nowhere the browser would complain
        bars = base.mark_rule(strokeWidth=1.2).encode(x=alt.X("low:Q", **x), x2="high:Q")
        layers.insert(0, bars)
        caption += (
            f"Bars: 95 % intervals of TPOT, each of one run of up to {requests:,} requests. The "
            "throughput has none: all layouts are given the same requests. A wide bar: "
            "requests that come one after another fared alike, as under overload, and the times "
            "of one run say little of others. An interval that reaches down to 0, which "
            "is not on this axis, is drawn down to a tenth of the value."
        )
    else:
        caption += f"No 95 % intervals: {requests:,} requests are too few."
    return Panel(
        name="01-pareto",
        title="Throughput of a GPU against time per token",
        caption=caption,
        chart=alt.layer(*layers),
        marks=len(frame),
    )


def write_page(advice: Advice, path: Path) -> None:
    """Write the answer as one HTML page.

    Raises:
        UserError: the file cannot be written.
    """
    question = advice.question
    tables = [
        TextTable(
            title="At a glance",
            caption=reading(advice),
            head=head(advice),
            rows=rows(advice),
            numbers=True,
        ),
        TextTable(
            title=compared(advice),
            caption=f"Times in ms. {methods_reading(advice)}",
            head=METHODS_HEAD,
            rows=methods(advice),
            numbers=True,
        ),
        TextTable(
            title="Launch commands of one replica",
            caption=" ".join(remarks(advice, advice.best.layout)),
            head=("server", "command"),
            rows=[list(row) for row in launch(advice, advice.best.layout)],
        ),
    ]
    if len(others := bests(advice)) > 1:
        best = TextTable(
            title=bests_title(advice),
            caption="Times in ms.",
            head=BEST_HEAD,
            rows=others,
            numbers=True,
        )
        tables.insert(2, best)
    page = report.Page(
        title="How should I serve it?",
        description=f"{question.target} on {question.gpus} × {question.gpu}; {question.load}.",
        answer=[verdict(advice), *notes(advice)],
        after=tables,
    )
    report.write(path, page, [pareto_panel(advice)], option="--out")
