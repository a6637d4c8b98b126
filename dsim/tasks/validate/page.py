"""A validation for people: JSON, lines for the terminal, the page."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from dsim.model.latency import beyond_note
from dsim.orchestrations import title_of
from dsim.report.tables import text_table
from dsim.tasks.validate.calibration import COUNTS
from dsim.units import to_ms
from dsim.words import plural

if TYPE_CHECKING:
    from pathlib import Path

    from dsim.tasks.validate.result import Row, Validation


def as_json(found: Validation) -> str:
    """One JSON object."""
    return json.dumps(
        {
            "rows": [row.as_dict for row in found.rows],
            "claims": [claim._asdict() for claim in found.claims],
            "calibration": {
                "acceptance_rate": found.calibration.rate,
                "drafts": found.calibration.drafts,
                "acceptance_model": found.calibration.streaks.form,
                "acceptance_fit": dataclasses.asdict(found.calibration.streaks.acceptance),
                "held_out_log_likelihood": found.calibration.streaks.held_out,
                "latency_by_width_ms": {
                    f"{c}: {role}": [[width, ns / 1e6] for width, ns in cost.table]
                    for c, costs in found.calibration.costs.items()
                    for role, cost in costs.items()
                },
            },
            "predicted_at": found.prediction.made,
            "measured_at": found.measured,
            "prediction_sha256": found.prediction.sha256 or None,
            "covered": found.covered,
            "stalls": found.stalls,
            "acceptance_rate": found.rate,
            "repeatability": found.repeatability,
            "noise": found.noise,
            "statistics": {
                name: {
                    "median_text": one.median_text,
                    "worst_configuration": one.worst_configuration,
                    "where": str(one.where),
                }
                for name, one in found.statistics.items()
            },
            "settings": found.settings,
            "notes": found.notes,
        }
    )


def _predicted(row: Row) -> str:
    mean, interval = float(row.predicted_replay_ms.mean()), row.interval_ms
    if interval is None:
        return f"{mean:.1f} ms"
    return f"{mean:.1f} ± {(interval[1] - interval[0]) / 2:.1f} ms"


def when(found: Validation) -> str:
    """When it was predicted and measured, in a sentence; empty where both were done by turns."""
    made, sha256 = found.prediction.made, found.prediction.sha256
    if not sha256:
        return ""
    return (
        f"Predicted from {made[0]} to {made[1]} (SHA-256 of the file: {sha256}), measured from "
        f"{found.measured[0]} to {found.measured[1]}."
    )


def as_text(found: Validation) -> str:
    """Tables for people."""
    head = ["", "measured", "from the trace", "error", "a text", "noise", "from the rate", "error"]
    head.append("overhead")
    rows = []
    for row in found.rows:
        one = row.as_dict
        rows.append(
            [
                str(row.configuration),
                f"{one['measured_ms']:.1f} ± {one['measured_ci95_ms']:.1f} ms",
                _predicted(row),
                f"{one['error_replay']:+.1%}",
                f"{one['error_replay_median_abs']:.1%}",
                "" if one["noise_median_abs"] is None else f"{one['noise_median_abs']:.1%}",
                f"{one['predicted_rate_ms']:.1f} ms",
                f"{one['error_rate']:+.1%}",
                f"{one['orchestration']:.1%}",
            ]
        )
    tables = []
    for c, costs in found.calibration.costs.items():
        for role, cost in costs.items():
            curve = zip(*cost.curve[:2], strict=True)
            widths = ", ".join(f"{width}: {ns / 1e6:.2f}" for width, ns in [*curve][:8])
            tables.append(f"  {c}, {role}: {widths}")
    settings = found.settings
    lines = [
        f"{settings['backend']}: {settings['prompts']} texts of {settings['tokens']} tokens, "
        f"{settings['repeats']} × each; acceptance rate {found.calibration.rate:.3f} "
        f"({found.calibration.drafts} drafts of {settings['calibration_prompts']} other texts; "
        f"of these texts {found.rate:.3f})",
        *filter(None, [when(found)]),
        "",
        *text_table(head, rows),
        "",
        "measured: mean ± 95 % interval over texts; from the trace: ± the 95 % interval of the "
        "mean; a text: median error of a text; noise: what it would be, were the prediction right; "
        "overhead: "
        + (
            "wall time in which no worker was at a forward"
            if settings["backend"] == "torch"
            else "wall time beyond the simulation with exactly these latencies"
        ),
        "calibrated latency (ms) by width in tokens, with the way to the worker and back:",
        *tables,
        "",
    ]
    lines += [
        f"{claim.claim}: {claim.verdict}: {claim.detail}"
        if claim.holds is None
        else f"{claim.verdict}: {claim.claim}: {claim.detail}"
        for claim in found.claims
    ]
    if found.covered is not None:
        lines.append(f"Of the texts {found.covered:.0%} are in the 95 % intervals of predictions.")
    if (streaks := found.calibration.streaks).held_out:
        lines.append(
            f"From the rate, drafts are drawn as: {streaks.form} (the likeliest of "
            f"{len(streaks.held_out)} models on texts that were left out of the fit)."
        )
    beyond = max(row.predicted.beyond_share for row in found.rows)
    if settings["backend"] == "torch":  # waits take as long at any width
        lines += filter(None, [beyond_note(beyond, "the predictions")])
    if found.repeatability is not None:
        lines.append(
            f"Repeated measurements of a text differ by {found.repeatability:.1%} (median)"
            + (
                "."
                if found.noise is None
                else f", the faster half of {settings['repeats']} by {found.noise:.1%}; no "
                "prediction can be more accurate than that."
            )
        )
    if settings["repeats"] > 1:
        others = [
            f"with the {name} the median text is off by {one.median_text:.1%} and the worst "
            f"configuration by {one.worst_configuration:+.1%}"
            for name, one in found.statistics.items()
            if name != COUNTS
        ]
        lines.append(f"Of the repeats the {COUNTS} counts; {', '.join(others)}.")
    lines += [f"mind: {note}" for note in found.notes]
    return "\n".join(lines)


def write_report(found: Validation, path: Path) -> None:
    """Write the page with the 45° chart and the timelines of the first text.

    Raises:
        UserError: it cannot be written.
    """
    from dsim.report import page, timeline
    from dsim.report.charts import Panel

    chart, marks = scatter(found)
    panels = [
        Panel(
            name="01-predicted-measured",
            title="Predicted against measured wall time",
            caption="Each dot is one text in one configuration, predicted from its acceptance "
            "trace; rings are means predicted from the acceptance rate alone. On the dashed line, "
            "prediction equals measurement.",
            chart=chart,
            marks=marks,
            height=420,
        )
    ]
    ends_ms = [to_ms(run.output.settled_ns[-1]) for runs in found.first.values() for run in runs]
    for number, (c, runs) in enumerate(found.first.items(), 1):
        for word, run in zip(("predicted", "measured"), runs, strict=True):
            panels.append(
                timeline.panel(
                    f"{number + 1:02d}-{word}",
                    f"{c}, {word}: {to_ms(run.output.settled_ns[-1]):.1f} ms",
                    run,
                    max(ends_ms),
                )
            )
    facts = [(claim.claim, claim.verdict) for claim in found.claims]
    notes = [
        *filter(None, [when(found)]),
        *found.notes,
        *(f"{c.claim}: {c.detail}" for c in found.claims if not c.holds),
    ]
    counted = found.statistics[COUNTS]
    held = sum(bool(claim.holds) for claim in found.claims)
    answer = (
        f"Predicted from acceptance traces, the wall time of the median text is off by "
        f"{counted.median_text:.1%}, that of the worst configuration by "
        f"{counted.worst_configuration:+.1%}"
    )
    if found.repeatability is not None:
        answer += f"; repeated measurements of a text differ by {found.repeatability:.1%} (median)"
    made = page.Page(
        title="How well the simulation predicts",
        answer=[f"{answer}. {held} of {plural(len(found.claims), 'claim')} hold."],
        description=as_text(found).splitlines()[0] + ". Timelines: the first text.",
        facts=facts,
        notes=notes,
    )
    page.write(path, made, panels, option="--report", wide=True)


def scatter(found: Validation) -> tuple[Any, int]:
    """The chart with the 45° line, and how many points it has."""
    import altair as alt
    import pandas as pd

    from dsim.report.style import colour

    texts = pd.DataFrame(
        {
            "name": row.configuration.algorithm,
            "algorithm": title_of(row.configuration.algorithm),
            "configuration": str(row.configuration),
            "measured": measured,
            "predicted": predicted,
        }
        for row in found.rows
        for measured, predicted in zip(row.measured_ms, row.predicted_replay_ms, strict=True)
    )
    means = pd.DataFrame(
        {
            "algorithm": title_of(row.configuration.algorithm),
            "configuration": str(row.configuration),
            "measured": float(row.measured_ms.mean()),
            "predicted": row.predicted.rate_ms,
        }
        for row in found.rows
    )
    top = float(max(texts[["measured", "predicted"]].max().max(), means["predicted"].max())) * 1.05
    line = alt.Chart(pd.DataFrame({"measured": [0, top], "predicted": [0, top]})).mark_line(
        color="#b9c1cb", strokeDash=[5, 4]
    )
    names = {title_of(name): name for name in dict.fromkeys(texts["name"])}
    encoding = {
        "x": alt.X("measured:Q", title="measured (ms)", scale=alt.Scale(domain=[0, top])),
        "y": alt.Y("predicted:Q", title="predicted (ms)", scale=alt.Scale(domain=[0, top])),
        "color": colour("algorithm", names),
        "tooltip": [
            alt.Tooltip("configuration:N"),
            alt.Tooltip("measured:Q", title="measured (ms)", format=".5~g"),
            alt.Tooltip("predicted:Q", title="predicted (ms)", format=".5~g"),
        ],
    }
    points = alt.Chart(texts).mark_circle(size=36, opacity=0.65).encode(**encoding)
    rings = alt.Chart(means).mark_point(size=160, strokeWidth=2).encode(**encoding)
    return line.encode(x="measured:Q", y="predicted:Q") + points + rings, len(texts) + len(means)
