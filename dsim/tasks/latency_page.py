"""The answer of ``dsim latency`` as a page with charts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt
import pandas as pd

from dsim.report import page as report
from dsim.report.charts import Panel
from dsim.report.style import GREY, PALETTE, legend
from dsim.tasks.latency import CONTEXTS, decode_ns, facts, headline, prompt_ns
from dsim.units import to_ms

if TYPE_CHECKING:
    from pathlib import Path

    from dsim.model.estimate import Estimate

TOKENS = [2**n for n in range(14)]


def panels(estimate: Estimate) -> list[Panel]:
    """Time over sequences at several contexts, and over the tokens of a prompt with the knee."""
    target = estimate.target
    rows = [
        {"tokens": n, "context": f"{c:,}", "ms": to_ms(decode_ns(target, n, c))}
        for c in CONTEXTS
        for n in TOKENS[:10]
    ]
    names = [f"{c:,}" for c in CONTEXTS]
    x = alt.X("tokens:Q", scale=alt.Scale(type="log", base=2), title="sequences, one token each")
    y = alt.Y("ms:Q", scale=alt.Scale(type="log"), title="time of a forward (ms)")
    decode = (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(point=True)
        .encode(
            x=x,
            y=y,
            color=alt.Color(
                "context:N",
                title="context of each (tokens)",
                scale=alt.Scale(domain=names, range=list(PALETTE[: len(names)])),
                legend=legend(names),
            ),
            tooltip=["tokens:Q", "context:N", alt.Tooltip("ms:Q", format=".4~g")],
        )
    )
    prompts = pd.DataFrame({"tokens": TOKENS, "ms": [to_ms(prompt_ns(target, n)) for n in TOKENS]})
    prefill = (
        alt.Chart(prompts)
        .mark_line(point={"color": PALETTE[0]}, color=PALETTE[0])
        .encode(
            x=x.title("tokens in a forward"),
            y=y,
            tooltip=["tokens:Q", alt.Tooltip("ms:Q", format=".4~g")],
        )
    )
    knee = target.knee_tokens()
    layers: list[alt.Chart] = [prefill]
    if knee:
        rule = alt.Chart(pd.DataFrame({"tokens": [knee]}))
        layers.append(rule.mark_rule(color=GREY, strokeDash=[4, 3]).encode(x="tokens:Q"))
    return [
        Panel(
            name="01-decode",
            title="Decoding: time over the batch",
            caption="Each sequence feeds one token. Flat: reading the weights decides, and further "
            "sequences are nearly free; rising: reading the KV caches, or arithmetic, decides.",
            chart=decode,
            marks=len(rows),
        ),
        Panel(
            name="02-tokens",
            title="Roofline: time over the tokens of a forward",
            caption="One prompt without a context. The dashed line is the knee: to its right, "
            "arithmetic takes longer than memory.",
            chart=alt.layer(*layers),
            marks=len(prompts),
        ),
    ]


def write_page(estimate: Estimate, path: Path) -> None:
    """Write the answer as one HTML page.

    Raises:
        UserError: the file cannot be written.
    """
    page = report.Page(
        title="How long does a forward take?",
        description=headline(estimate),
        answer=facts(estimate),
    )
    report.write(path, page, panels(estimate), option="--out")
