"""``dsim compare``: results of several runs, and measurements of other tools, on one page."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dsim.errors import Problem, UserError
from dsim.report import analysis, comparison, comparison_charts, comparison_names
from dsim.report import page as pages
from dsim.report.comparison import Source
from dsim.report.tables import text_table
from dsim.study import loader as studies
from dsim.study.columns import STATUS, column_of
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.folder import charts_folder
from dsim.study.measurements import ANSWER, PROMPT, RATE, read_bench
from dsim.study.results import read_results, write_csv
from dsim.tasks.drawing import Drawn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.study.study import Study

CSV = "comparison.csv"


def source(text: str, taken: Sequence[str] = (), measured: str = "") -> Source:
    """Read one of the results to compare.

    Args:
        text: a results folder, a CSV or Parquet file of results, or JSON that another tool wrote;
            with ``NAME=`` before it, what it is called.
        taken: names that others have.
        measured: the algorithm of servers that other tools measured, if it is known.

    Raises:
        UserError: it cannot be read.
    """
    name, _, rest = text.rpartition("=")
    path = Path(text if Path(text).exists() or not name else rest)
    name = name if name and path == Path(rest) else path.name.removesuffix(path.suffix)
    if name in taken:
        name = f"{path.resolve().parent.name}/{name}"
    if name in taken:
        raise UserError(Problem(text, "", f"a second one called {name}; write NAME={path}"))
    study, minimise, load, failures = None, [], {}, ""
    if path.is_dir():
        frame = read_results(path / "results.parquet")
        if (path / "study.toml").is_file():
            study = studies.load(path / "study.toml")
            minimise = [column_of(key) for key in study.settings.get("minimise", ())]
    elif path.suffix == ".json":
        bench = read_bench(path)
        frame, load = bench.frame, bench.load
        if bench.failed:
            failures = f"{bench.failed:,} of {bench.asked:,} requests of {name} failed; its times "
            failures += "are of the others."
        frame = frame.assign(algorithm=measured) if measured else frame
    else:
        frame = read_results(path)
        lookahead = next((name for name in comparison_names.LOOKAHEADS if name in frame), "")
        if lookahead and "lookahead" not in frame:
            frame = frame.rename(columns={lookahead: "lookahead"})
    if study is None:
        frame = analysis.plain_columns(frame)
    if STATUS in frame:
        frame = frame[frame[STATUS] != "refused"]
    if study is None:
        axes = analysis.axes_in(frame)
        frame = analysis.spread(frame, axes)
    else:
        axes = analysis.axes_of(study)
    whole = frame
    if study is None or study.kind != DEPLOYMENT.name:
        frame = analysis.best(frame, axes, minimise) if "latency_mean_ms" in frame else frame
    axes = [axis for axis in axes if axis not in minimise]
    plain = {name: str for name, kind in frame.dtypes.items() if kind == "category"}
    frame, whole = frame.astype(plain), whole.astype(plain)
    settings = dict(study.settings) if study else {}
    settings = {k: v for k, v in settings.items() if column_of(k) not in axes}
    for axis in study.grid if study else ():
        if column_of(axis.key) in minimise:
            tried = ", ".join(map(str, axis.values))
            settings[axis.key] = f"the best of {tried}"
    if study is not None and study.kind == DEPLOYMENT.name:
        load = _load(study, axes)
    return Source(
        name=name,
        load=load,
        failures=failures,
        frame=frame.reset_index(drop=True),
        axes=axes,
        settings=settings,
        whole=whole.reset_index(drop=True),
        minimised=minimise,
    )


def _load(study: Study, axes: Sequence[str]) -> dict[str, float]:
    """The load of a study that varies none of the settings that say it; else what is the same."""
    values = study.of_variant(0)
    if values["workload.arrivals"] not in ("poisson", "gamma") or "variant" in axes:
        return {}
    keys = {RATE: "workload.rate_per_s", PROMPT: "workload.prompt_tokens", ANSWER: "tokens"}
    return {name: float(values[key]) for name, key in keys.items() if column_of(key) not in axes}


def compare(texts: Sequence[str], out: Path, measured: str = "") -> tuple[Path, Drawn]:
    """Compare results with the first of them, on one page.

    Args:
        texts: what to compare; see :func:`source`.
        out: folder for the page, the charts and ``comparison.csv``.
        measured: see :func:`source`.

    Returns:
        The report, and what was drawn.

    Raises:
        UserError: results cannot be read, or *out* holds something else.
    """
    sources: list[Source] = []
    for text in texts:
        sources.append(source(text, [s.name for s in sources], measured))
    one, *others = sources
    pairs = [(one.beside(other), other.beside(one)) for other in others]
    found = [(*pair, *comparison.differences(*pair)) for pair in pairs]
    answer = [comparison.verdict(mine, theirs, table) for mine, theirs, table, _ in found]
    tell = (
        comparison.alone,
        comparison_names.unknown,
        comparison.crossed,
        comparison.apart,
        comparison.changed,
    )
    notes = list(filter(None, (say(*pair) for say in tell for pair in pairs)))
    notes += [one.failures for one in sources if one.failures]
    at_a_glance = comparison.glance(one, [(theirs, table) for _, theirs, table, _ in found])
    details = [comparison.detail(*each) for each in found]

    def page(of_charts: Sequence[str]) -> pages.Page:
        return pages.Page(
            title=" against ".join(s.name for s in reversed(sources))
            if len(sources) == 2
            else f"{len(sources)} results compared"
            if others
            else f"Results in {one.name}",
            answer=answer,
            notes=[*notes, *of_charts],
            facts=[(s.name, f"{len(s.frame):,} rows") for s in sources],
            after=[table for table in (at_a_glance, *details) if table],
        )

    charted = [
        functools.reduce(Source.beside, (s for s in sources if s is not source), source)
        for source in sources
    ]
    panels = comparison_charts.panels(charted)

    with charts_folder(out, ours={"report.html", CSV}) as new:
        failed = pages.write_report(new, panels, page)
        if found:
            import pyarrow as pa

            tables = [table.assign(source=other.name) for _, other, table, _ in found]
            every = pd.concat([table for table in tables if len(table)] or tables[:1])
            write_csv(new / CSV, pa.Table.from_pandas(every, preserve_index=False))
    lines = [*answer, *notes]
    if at_a_glance:
        lines += ["", *text_table(at_a_glance.head, at_a_glance.rows)]
    return out / "report.html", Drawn(lines, failed)
