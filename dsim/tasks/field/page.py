"""Other people's measurements for people: lines for the terminal, the document, the page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.errors import Problem, UserError
from dsim.report.tables import TextTable, markdown_table, text_table
from dsim.tasks.field.source import median
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.report.charts import Panel
    from dsim.tasks.field.source import Found, Group

NEAR = 0.1  # of the error of a row
TITLE = "Other people's measurements, predicted"
HEAD = ("run", "measured", "predicted", "error")
WISHES = (
    "The time of every forward of each model, or at least the median by width, on the hardware of "
    "the run: of the plain decoder, of the drafter, and of the passes over drafts.",
    "The acceptance of every draft (a line of 0 and 1 a text), or at least tokens a pass together "
    "with the lookahead, for each data set. One number for all hides what a long text needs.",
    "The settings as the run had them: lookahead, tree, fan-out, batch, tensor parallelism, "
    "precision; from the program itself, not from its command line.",
    "What the clock includes: forwards over the prompts, the warm-up of the first text, the end.",
    "Tokens and texts, so that a time can be told from a rate.",
    "The same for the plain decoder in the same framework: a speed-up without it says little.",
)


def groups_of(found: Sequence[Found]) -> dict[Group, list[Found]]:
    """The rows by group, in their order."""
    groups: dict[Group, list[Found]] = {}
    for one in found:
        groups.setdefault(one.source.group(one.row), []).append(one)
    return groups


def verdict(group: Group, rows: Sequence[Found]) -> str:
    """One sentence on a group."""
    off = [(abs(one.error), one) for one in rows if one.error is not None]
    if not off:
        return f"None of {plural(len(rows), 'row')} is predicted."
    errors = [error for error, _ in off]
    rms = (sum(error**2 for error in errors) / len(errors)) ** 0.5
    worst = max(off, key=lambda pair: pair[0])[1]
    where = worst.source.label(worst.row)
    beyond = sum(error > group.limit for error in errors)
    return (
        f"{len(off)} of {plural(len(rows), 'row')} are predicted, off by {median(errors):.1%} in "
        f"the median, {rms:.1%} rms and {worst.error:+.1%} at worst ({where}); "
        f"{beyond} by more than {group.limit:.0%}."
    )


def tables_of(group: Group, rows: Sequence[Found]) -> list[TextTable]:
    """The rows of a group: predicted ones, the failed ones among them, and those that cannot be."""
    unit = rows[0].source.unit
    cells = [
        [
            one.source.label(one.row),
            "–" if one.measured is None else f"{one.measured:.4g}",
            f"{one.predicted:.4g}",
            "–"
            if one.error is None
            else f"{one.error:+.1%}" + (" ✗" if abs(one.error) > group.limit else ""),
        ]
        for one in rows
        if one.predicted is not None
    ]
    tables = []
    if cells:
        caption = f"In {unit}. ✗: off by more than {group.limit:.0%}."
        tables.append(
            TextTable(title=f"{group.name}: rows", caption=caption, head=HEAD, rows=cells)
        )
    reasons: dict[str, list[str]] = {}
    for one in rows:
        if one.predicted is None:
            reasons.setdefault(one.reason, []).append(one.source.label(one.row))
    if reasons:
        tables.append(
            TextTable(
                title=f"{group.name}: not predicted",
                caption="These rows cannot be predicted, because of what their sources do not say. "
                "What their authors would have to publish is named.",
                head=("why", "rows", "which"),
                rows=[
                    [why, str(len(names)), "; ".join(dict.fromkeys(names))]
                    for why, names in reasons.items()
                ],
            )
        )
    return tables


def further(found: Sequence[Found]) -> list[TextTable]:
    """What the sources have to say beyond their rows."""
    tables = []
    for source in dict.fromkeys(one.source for one in found):
        tables += source.tables([one for one in found if one.source is source])
    return [table for table in tables if table.rows]


def as_text(found: Sequence[Found]) -> str:
    """For the terminal."""
    lines = []
    for group, rows in groups_of(found).items():
        lines += ["", f"{group.name}: {verdict(group, rows)}", ""]
        for table in tables_of(group, rows):
            lines += [*text_table(table.head, table.rows, left=1), ""]
    return "\n".join(lines).strip("\n")


def as_markdown(found: Sequence[Found], command: str) -> str:
    """The page ``docs/field-measurements.md``.

    Args:
        found: every row that ships.
        command: the command that prints these numbers.
    """
    lines = [
        f"# {TITLE}",
        "",
        f"Written by `{command}`; a test writes it",
        "again and compares. The rows are in [dsim/published](../dsim/published/README.md), each",
        "with its source. A row is predicted from its own inputs and from *other* rows; what was",
        "measured of it is never used. No rule and no default of dsim was changed for a row. Where",
        "a number is fitted, the text says to how many rows; error is predicted / measured − 1.",
        "",
        "`dsim reproduce --fast --field my.csv --json` does the same with rows of your own, in the",
        "columns of any of these files.",
        "",
        "## Verdicts",
        "",
        *markdown_table(
            ("source", "verdict"),
            [[group.name, verdict(group, rows)] for group, rows in groups_of(found).items()],
        ),
    ]
    for group, rows in groups_of(found).items():
        lines += ["", f"## {group.name}", "", f"{group.what}", ""]
        for word, said in (
            ("Given", group.given),
            ("Filled in", group.filled),
            ("The rest", group.rest),
        ):
            lines += [f"*{word}:* {said}", ""] if said else []
        for table in tables_of(group, rows):
            lines += [table.caption, "", *markdown_table(table.head, table.rows), ""]
        lines.pop()
    for table in further(found):
        lines += ["", f"## {table.title}", "", table.caption, ""]
        lines += markdown_table(table.head, table.rows)
    lines += ["", "## What any paper should print", "", *(f"- {wish}" for wish in WISHES), ""]
    return "\n".join(lines)


def panels_of(found: Sequence[Found]) -> list[Panel]:
    """Predicted over measured, a chart for each group."""
    import altair as alt
    import pandas as pd

    from dsim.report.charts import Panel
    from dsim.report.style import BLUE, GREY

    panels = []
    for number, (group, rows) in enumerate(groups_of(found).items(), 1):
        frame = pd.DataFrame(
            [
                {
                    "run": one.source.label(one.row),
                    "measured": one.measured,
                    "predicted": one.predicted,
                    "error": one.error,
                }
                for one in rows
                if one.error is not None
            ]
        )
        if frame.empty:
            continue
        unit = rows[0].source.unit
        ends = frame[["measured", "predicted"]].to_numpy()
        scale = alt.Scale(domain=[ends.min() * 0.95, ends.max() * 1.05], type="log", nice=False)
        line = pd.DataFrame({"measured": scale["domain"], "predicted": scale["domain"]})
        axes = {
            name: axis(f"{name}:Q", title=f"{name} ({unit})", scale=scale)
            for name, axis in (("measured", alt.X), ("predicted", alt.Y))
        }
        tips = [
            alt.Tooltip("run:N"),
            alt.Tooltip("measured:Q", format=".4~g"),
            alt.Tooltip("predicted:Q", format=".4~g"),
            alt.Tooltip("error:Q", format="+.1%"),
        ]
        diagonal = alt.Chart(line).mark_line(color=GREY, strokeDash=[4, 4])
        points = alt.Chart(frame).mark_point(color=BLUE, size=36)
        panels.append(
            Panel(
                name=f"{number:02d}-predicted-measured",
                title=group.name,
                caption="One point per run; on the dashed line, prediction equals measurement.",
                chart=diagonal.encode(x=axes["measured"], y=axes["predicted"])
                + points.encode(x=axes["measured"], y=axes["predicted"], tooltip=tips),
                marks=len(frame),
            )
        )
    return panels


def write_report(found: Sequence[Found], path: Path, *, whole: bool = True) -> None:
    """Write the page with a chart for each group.

    Args:
        found: the rows.
        path: where to.
        whole: whether these are all rows that ship.

    Raises:
        UserError: it cannot be written.
    """
    from dsim.report import page as report

    groups = groups_of(found)
    verdicts = TextTable(
        title="Verdicts",
        head=("source", "verdict"),
        rows=[[group.name, verdict(group, rows)] for group, rows in groups.items()],
    )
    given = TextTable(
        title="What dsim is given, and what was filled in",
        caption="For each source: what was measured, what dsim is given, what was filled in, and "
        "what its rows do not tell.",
        head=("source", "", "in words"),
        rows=[
            [group.name, what, said]
            for group in groups
            for what, said in (
                ("measured", group.what),
                ("given", group.given),
                ("filled in", group.filled),
                ("the rest", group.rest),
            )
            if said
        ],
    )
    wishes = TextTable(
        title="What any paper should print", head=("what",), rows=[[wish] for wish in WISHES]
    )
    rows = [table for group, of in groups.items() for table in tables_of(group, of)]
    off = [abs(one.error) for one in found if one.error is not None]
    page = report.Page(
        title=TITLE,
        description="What dsim would have predicted of runs that other groups have published, row "
        "by row, and by how much it is off.",
        answer=[
            f"Of {plural(len(off), 'measurement')} that dsim predicts, half are off by at most "
            f"{median(off):.1%}, and {sum(e <= NEAR for e in off)} by at most {NEAR:.0%}."
        ]
        if off
        else (),
        after=[
            dataclasses.replace(table, marked=True)
            for table in (verdicts, given, *rows, *(further(found) if whole else ()), wishes)
        ],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = Problem("--out", "", f"{path.parent} cannot be made: {error.strerror}")
        raise UserError(problem) from None
    report.write(path, page, panels_of(found), option="--out")
