"""The answer of ``dsim trace`` as a page with charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from dsim.report import page as report
from dsim.report.charts import Panel
from dsim.report.style import GREY, PALETTE, legend
from dsim.tasks.trace import sentences

if TYPE_CHECKING:
    from pathlib import Path

    from dsim.tasks.trace import Summary

LENGTH_BINS = 40


def panels(found: Summary) -> list[Panel]:
    """Requests over time, the lengths of prompts and answers, and the gaps."""
    drawn = [_rates(found), _lengths(found)]
    gaps = np.diff(found.arrivals_s)
    if len(gaps) > 1 and gaps.any():
        drawn.append(_gaps(gaps))
    return drawn


def _rates(found: Summary) -> Panel:
    at = np.arange(len(found.counts)) * found.bin_s
    frame = pd.DataFrame({"s": at, "rate": found.counts / found.bin_s})
    steps = alt.Chart(frame).mark_area(
        interpolate="step-after", color=PALETTE[3], opacity=0.5, line={"color": PALETTE[3]}
    )
    mean = pd.DataFrame({"rate": [len(found.prompts) / (len(found.counts) * found.bin_s)]})
    rule = alt.Chart(mean).mark_rule(color=GREY, strokeDash=[4, 3]).encode(y="rate:Q")
    chart = steps.encode(x=alt.X("s:Q", title="time (s)"), y=alt.Y("rate:Q", title="requests / s"))
    return Panel(
        name="01-rate",
        title="Requests over time",
        caption=f"Rate in each {found.bin_s:g} s; the dashed line is the mean.",
        chart=chart + rule,
        marks=len(frame),
    )


def _lengths(found: Summary) -> Panel:
    both = (("prompts", found.prompts), ("answers", found.outputs))
    longest = max(int(tokens.max()) for _, tokens in both)
    edges = np.geomspace(1, longest + 1, LENGTH_BINS + 1)
    rows = []
    for name, tokens in both:
        shares = np.histogram(np.maximum(tokens, 1), edges)[0] / len(tokens)
        rows += [
            {"kind": name, "tokens": float(low), "share": float(share)}
            for low, share in zip(edges, [*shares, 0.0], strict=True)
        ]
    names = [name for name, _ in both]
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("tokens:Q", scale=alt.Scale(type="log"), title="tokens"),
            y=alt.Y("share:Q", title="share of the requests", axis=alt.Axis(format="%")),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=names, range=list(PALETTE[:2])),
                legend=legend(names),
            ),
        )
    )
    return Panel(
        name="02-lengths",
        title="Lengths of prompts and answers",
        caption=f"How large a share of the requests falls into each of {LENGTH_BINS} ranges of "
        "length. The axis is logarithmic, and the ranges are equally wide on it.",
        chart=chart,
        marks=len(rows),
    )


def _gaps(gaps: np.ndarray) -> Panel:
    quantiles = np.linspace(0, 0.999, 200)
    rows = [
        {"kind": "trace", "gap": float(gap), "below": float(q)}
        for q, gap in zip(quantiles, np.quantile(gaps, quantiles), strict=True)
    ]
    rows += [
        {"kind": "Poisson", "gap": float(-np.log1p(-q) * gaps.mean()), "below": float(q)}
        for q in quantiles
    ]
    names = ["trace", "Poisson"]
    chart = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line()
        .encode(
            x=alt.X("gap:Q", title="time between requests (s)"),
            y=alt.Y("below:Q", title="share of gaps up to this", axis=alt.Axis(format="%")),
            color=alt.Color(
                "kind:N",
                title=None,
                scale=alt.Scale(domain=names, range=[PALETTE[3], GREY]),
                legend=legend(names),
            ),
        )
    )
    return Panel(
        name="03-gaps",
        title="Time between requests",
        caption="How many gaps are at most so long, in the trace and in a Poisson process of the "
        "same rate. Steeper at first and flatter later: bursts.",
        chart=chart,
        marks=len(rows),
    )


def write_page(found: Summary, source: str, path: Path) -> None:
    """Write the summary as one HTML page.

    Raises:
        UserError: the file cannot be written.
    """
    page = report.Page(title="What is in this trace?", description=source, answer=sentences(found))
    report.write(path, page, panels(found), option="--out")
