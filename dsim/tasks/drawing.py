"""Results of either kind as charts, tables and a page; used by ``dsim run`` and ``dsim plot``."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, NamedTuple

from dsim.model.latency import MAX_BEYOND, beyond_note
from dsim.orchestrations import ORCHESTRATIONS, title_of
from dsim.report import analysis, answers, charts, deployments
from dsim.report import page as pages
from dsim.report import requests as request_tables
from dsim.report.tables import TextTable, settings_rows, text_table
from dsim.study.build import falling_notes, tables_of
from dsim.study.columns import BEYOND, DEPLOYMENT_SETTINGS, column_of
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.idle import idle_settings, never_right
from dsim.study.labels import words
from dsim.study.named import warning_of
from dsim.study.results import of_deployments
from dsim.study.settings import SETTINGS
from dsim.tasks import waits
from dsim.tasks.check import doubts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    import pandas as pd

    from dsim.report.charts import Panel
    from dsim.report.lanes import AtWork
    from dsim.study.requests import Backlog
    from dsim.study.study import Study

TEXT_WIDTH = 100  # of text on a terminal


class Drawn(NamedTuple):
    """What was drawn.

    Attributes:
        lines: the summary, for people.
        failed: a sentence for each chart that could not be drawn.
    """

    lines: list[str]
    failed: list[str]


class View(NamedTuple):
    """What a page shows of results, whatever their kind.

    Attributes:
        title: heading where the study has none.
        facts: (name, value) pairs under the heading.
        notes: what a reader must not overlook.
        answer: what came out, in one or two sentences.
        tables: tables below the charts.
        charts: for each chart its number and a function that makes its panels.
    """

    title: str
    facts: list[tuple[str, str]]
    notes: list[str]
    answer: Sequence[str]
    tables: Sequence[TextTable]
    charts: Iterable[tuple[int, Callable[[], list[Panel]]]]


def draw_into(
    folder: Path,
    frame: pd.DataFrame,
    study: Study | None,
    record: str,
    at_work: AtWork | None,
    *,
    left_out: int = 0,
    refusals: Sequence[str] | None = None,
    backlogs: Sequence[Backlog] = (),
    title: str = "",
) -> Drawn:
    """Draw the charts and the report of results.

    A chart that cannot be drawn is named on the page, and takes nothing else with it.

    Args:
        folder: where to write; it exists.
        frame: the results.
        study: the study that they come from, if known.
        record: their provenance, as JSON, if known.
        at_work: the processes that draw; started here if need be.
        left_out: how many cases were left out for their number of target servers.
        refusals: why cases of a deployment were not simulated; ``None``: told from the results.
        backlogs: backlogs of the cases of a deployment.
        title: heading, without a study.
    """
    view = view_of(frame, study, left_out=left_out, refusals=refusals, backlogs=backlogs)
    view.notes.extend(table_notes(frame, study))
    panels: list[Panel] = []
    failed: list[str] = []
    shown = list(view.notes)
    for number, make in view.charts:
        try:
            made = make()
        except Exception as error:  # whatever is wrong with a chart, the results stay
            failed.append(f"Chart {number} cannot be drawn: {type(error).__name__}: {error}.")
            continue
        panels += made
        if not made:
            shown.append(f"Chart {number} has nothing to show: no such case was simulated.")
    settings = DEPLOYMENT.settings if of_deployments(frame) else SETTINGS

    def page(of_charts: Sequence[str]) -> pages.Page:
        return pages.Page(
            title=(study.settings["title"] if study else title) or view.title,
            description=study.settings["description"] if study else "",
            facts=view.facts,
            notes=[*shown, *failed, *of_charts],
            answer=view.answer,
            after=[*view.tables, *_algorithms(frame)],
            settings=settings_rows(settings, study) if study else (),
            provenance=record,
            study=study.to_toml() if study else "",
        )

    failed += pages.write_report(folder, panels, page, at_work)
    lines = [*(wrapped for told in view.answer for wrapped in textwrap.wrap(told, TEXT_WIDTH))]
    lines += [*shown, *failed, ""]
    for table in view.tables:
        lines += text_table(table.head, table.rows)
        if table.numbers:
            lines += [*textwrap.wrap(table.caption, TEXT_WIDTH), ""]
    return Drawn(lines[:-1] if lines and not lines[-1] else lines, failed)


def _algorithms(frame: pd.DataFrame) -> list[TextTable]:
    """What each algorithm of a table does, for a page that a stranger reads."""
    names = [name for name in frame["algorithm"].unique() if name in ORCHESTRATIONS]
    rows = [(title_of(name), ORCHESTRATIONS[name].meaning) for name in names]
    told = TextTable(title="Algorithms", head=("algorithm", "what it does"), rows=rows)
    return [told] if names else []


def table_notes(frame: pd.DataFrame, study: Study | None) -> list[str]:
    """Sentences on what a reader of the results might take for something else.

    On latency tables that fall, forwards wider than they are, models that do not go together, and
    settings without effect, or that are missing.
    """
    notes = []
    if study is not None:
        variants = [study.of_variant(number) for number in range(len(study.variants))]
        notes = [note for one in variants for note in falling_notes(tables_of(one))]
        notes += filter(None, map(warning_of, variants))
        swept = {axis.key: axis.values for axis in study.grid}
        names = [name for one in variants for name in one["algorithms"]]
        notes += [*doubts(names), *idle_settings(variants, swept), *never_right(variants)]
        notes = list(dict.fromkeys(notes))
    if BEYOND.name in frame:
        of = f"{(frame[BEYOND.name] > MAX_BEYOND).sum():,} of {len(frame):,} rows"
        notes += filter(None, [beyond_note(frame[BEYOND.name].max(), of)])
    return notes


def view_of(
    frame: pd.DataFrame,
    study: Study | None,
    *,
    left_out: int = 0,
    refusals: Sequence[str] | None = None,
    backlogs: Sequence[Backlog] = (),
) -> View:
    """What a page shows of results; for the arguments see :func:`draw_into`."""
    if of_deployments(frame):
        return _of_deployment(frame, study, refusals, backlogs)
    return _of_texts(frame, study, left_out)


def _of_texts(frame: pd.DataFrame, study: Study | None, left_out: int) -> View:
    frame = frame if study else analysis.plain_columns(frame)
    axes = analysis.axes_of(study) if study else analysis.axes_in(frame)
    frame = frame if study else analysis.spread(frame, axes)
    minimise = [column_of(key) for key in study.settings["minimise"]] if study else []
    wanted = list(study.charts) if study else []
    if not wanted:
        further, wanted = analysis.guess(frame, [name for name in axes if name not in minimise])
        minimise += further
    at_best = analysis.best(frame, axes, minimise)
    shown = [name for name in axes if name not in minimise]
    notes = []
    if left_out:
        limit = study.settings["max_targets"] if study else "?"
        notes.append(
            f"{left_out:,} DSI cases were left out: they have more than {limit} target servers "
            "(settings targets and max_targets)."
        )
    if not wanted:
        notes.append("There is no chart: no setting varies that could be an axis.")
    notes += [*analysis.at_the_edge(frame, at_best, minimise), *waits.notes(frame)]
    facts = [("rows", f"{len(frame):,}")]
    if study is not None:
        facts = [
            ("cases", f"{study.case_count:,}"),
            ("tokens", _span(frame, "tokens")),
            ("repeats", f"{study.settings['repeats']:,}"),
            ("seed", str(study.settings["seed"])),
        ]
    if "backend" in frame and set(frame["backend"].unique()) != {"simulated"}:
        facts.append(("backend", " and ".join(sorted(map(str, frame["backend"].unique())))))
    if "engine" in frame:
        facts.append(("engine", " and ".join(sorted(map(str, frame["engine"].unique())))))
    over = [words(axis) for axis in minimise]
    if over:
        facts.append(("each algorithm at its best", ", ".join(over)))
    summary = analysis.summarise(at_best, minimise)
    return View(
        title="Results of dsim",
        facts=facts,
        notes=notes,
        answer=answers.of_texts(at_best, shown, study.charts if study else ()),
        tables=[one for one in (analysis.of_variants(at_best, shown), summary) if one],
        charts=[
            (n, lambda n=n, chart=chart: charts.draw(chart, at_best, shown, n))  # type: ignore[misc]
            for n, chart in enumerate(wanted, 1)
        ],
    )


def _of_deployment(
    frame: pd.DataFrame,
    study: Study | None,
    refusals: Sequence[str] | None,
    backlogs: Sequence[Backlog],
) -> View:
    if "variant" not in frame:
        frame = frame.assign(variant="")
    known = {column.name for column in DEPLOYMENT_SETTINGS}
    if study is None:
        columns = list(frame.columns)
        axes = [c for c in columns[: columns.index("gpus")] if c not in known]
    else:
        axes = [axis.key for axis in study.grid]
    facts = [
        ("cases", f"{len(frame):,}"),
        ("requests", f"{int(frame['requests'].iloc[0]):,}"),
        ("repeats", str(int(frame["repeats"].iloc[0]))),
    ]
    if study is not None:
        facts.append(("seed", str(study.settings["seed"])))
    wanted = study.charts if study else ()
    return View(
        title="A deployment under load",
        facts=facts,
        notes=request_tables.notes(frame, axes, refusals),
        answer=answers.of_deployments(
            frame, deployments.series_of(frame), [column_of(axis) for axis in axes]
        ),
        tables=request_tables.tables(frame, axes),
        charts=deployments.charts_of(wanted, axes, frame, backlogs),
    )


def _span(frame: pd.DataFrame, column: str) -> str:
    low, high = frame[column].min(), frame[column].max()
    return f"{low:,}" if low == high else f"{low:,} … {high:,}"
