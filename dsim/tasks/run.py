"""A study and its results folder: fresh, resumed, or drawn again."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from typing import TYPE_CHECKING

import numpy as np

from dsim.errors import Problem, UserError
from dsim.orchestrations.plugins import options
from dsim.report.tables import text_table
from dsim.study import loader as studies
from dsim.study.columns import column_of
from dsim.study.executors import Executor, Store
from dsim.study.grid import HERE, run_grid
from dsim.study.results import MAX_CSV_ROWS, provenance, read_results, write_csv, write_table
from dsim.tasks import waits as realtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from dsim.report.vega import Vega
    from dsim.study.grid import GridResult
    from dsim.study.study import Study

UNFINISHED = ".unfinished"
CHART_FILES = ("[0-9][0-9]-*.png", "[0-9][0-9]-*.svg")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RunInterrupted(Exception):  # noqa: N818 (no error)
    """The run was stopped before its end; what was finished is kept in *folder*."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run left behind.

    Attributes:
        folder: the results folder.
        report: the HTML page.
        cases, rows, left_out: of the grid; see :class:`dsim.study.grid.GridResult`.
        lines: the summary, for people.
    """

    folder: Path
    report: Path
    cases: int
    rows: int
    left_out: int
    lines: Sequence[str]


class ChunkStore(Store):
    """Finished chunks as files, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, number: int) -> NDArray[np.float64] | None:
        """See :class:`dsim.study.executors.Store`."""
        try:
            outcomes: NDArray[np.float64] = np.load(self._path(number), allow_pickle=False)
        except FileNotFoundError:
            return None
        return outcomes

    def put(self, number: int, outcomes: NDArray[np.float64]) -> None:
        """See :class:`dsim.study.executors.Store`."""
        path = self._path(number)
        half = path.with_suffix(".half")
        with half.open("wb") as file:
            np.save(file, outcomes, allow_pickle=False)
        half.replace(path)

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:04d}.npy"


def run_study(
    study: Study,
    folder: Path,
    *,
    executor: Executor = HERE,
    csv: bool = False,
    force: bool = False,
    resume: bool = False,
    progress: Callable[[float], None] = lambda _: None,
) -> Finished:
    """Run *study* and write its results folder.

    Args:
        study: the study.
        folder: where to; made if need be.
        executor: what runs the cases.
        csv: write a CSV file even for many rows.
        force: take the place of other results in *folder*.
        resume: go on with what an interrupted run finished.
        progress: called with the number of cases that have just been finished; on the wall-clock
            backend with the seconds that were just waited.

    Raises:
        UserError: the folder holds something else, or the disk is full.
        RunInterrupted: Ctrl-C; what was finished is kept.
    """
    resolved = study.to_toml()
    with (
        contextlib.ExitStack() as stack,
        results_folder(folder, resolved, "run", force=force, resume=resume) as work,
    ):
        vega = None
        if study.charts or study.grid:
            from dsim.report.vega import Vega

            vega = stack.enter_context(Vega())
        store = ChunkStore(work)
        if study.settings["backend"] == "wallclock":
            result = realtime.run_grid(study, store=store, progress=progress)
        else:
            result = run_grid(study, executor=executor, store=store, progress=progress)
        return write_results(study, resolved, result, folder, vega, csv=csv)


@contextlib.contextmanager
def results_folder(
    folder: Path, resolved: str, command: str, *, force: bool, resume: bool
) -> Iterator[Path]:
    """The place beside the results in which a run keeps what it has finished, and its study.

    Args:
        folder: of the results; made if need be.
        resolved: the study.
        command: which one writes there, to say how to go on: ``run`` or ``load``.
        force: take the place of other results.
        resume: go on with what an interrupted run finished.

    Raises:
        UserError: the folder holds something else, or the disk is full.
        RunInterrupted: Ctrl-C; what was finished is kept.
    """
    if not resume:
        _claim(folder, resolved, command, force=force)
    made_folder = not folder.exists()
    work = folder / UNFINISHED
    try:
        with _full_disk(folder):
            work.mkdir(parents=True, exist_ok=True)
            (work / "study.toml").write_text(resolved, encoding="utf-8")
            yield work
    except KeyboardInterrupt:
        raise RunInterrupted(folder) from None
    except UserError:
        _tidy(folder, work, made_folder=made_folder)
        raise


@contextlib.contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise UserError(
                Problem(
                    str(folder),
                    "",
                    f"there is no room for the results ({os.strerror(error.errno)}); "
                    "no half-written file was left; make room, or choose another place with --out",
                )
            ) from None
        raise UserError(
            Problem(str(folder), "", f"cannot be written to: {error.strerror or error}")
        ) from None


def _tidy(folder: Path, work: Path, *, made_folder: bool) -> None:
    """After a failure to write: leave finished chunks, and nothing else of ours."""
    shutil.rmtree(work / "new", ignore_errors=True)
    for half in work.glob("*.half"):
        half.unlink(missing_ok=True)
    if not any(work.glob("chunk-*")):
        shutil.rmtree(work, ignore_errors=True)
        if made_folder:
            with contextlib.suppress(OSError):
                folder.rmdir()


def _claim(folder: Path, resolved: str, command: str, *, force: bool) -> None:
    """See to it that *folder* may be written to.

    Raises:
        UserError: it may not.
    """

    def refuse(what: str) -> UserError:
        return UserError(Problem(str(folder), "", what))

    if not folder.exists():
        return
    if not folder.is_dir():
        raise refuse("is not a folder; choose another place with --out")
    unfinished = folder / UNFINISHED
    if unfinished.is_dir() and not (unfinished / "study.toml").is_file():
        shutil.rmtree(unfinished)  # of a run that was killed before it began, or after its end
    names = {path.name for path in folder.iterdir()}
    if unfinished.is_dir():
        if not force:
            raise refuse(
                f"holds an unfinished run; go on with: dsim {options()}{command} "
                f"--resume {folder}\nor start again with --force"
            )
        shutil.rmtree(unfinished)
        return
    if not names:
        return
    if "provenance.json" not in names or "results.parquet" not in names:
        raise refuse(
            "exists and holds something other than results of dsim; choose another place with --out"
        )
    try:
        same = (folder / "study.toml").read_text(encoding="utf-8") == resolved
    except OSError:
        same = False
    if not same and not force:
        raise refuse(
            "holds the results of another study; choose another place with --out, "
            "or replace them with --force"
        )


def unfinished_study(folder: Path) -> Study:
    """The study of the interrupted run in *folder*.

    Raises:
        UserError: there is none, or it is one of ``dsim load``.
    """
    study = studies.load(unfinished(folder))
    if study.kind == "deployment":
        what = f"holds a run of another command; go on with: dsim load --resume {folder}"
        raise UserError(Problem(str(folder), "", what))
    return study


def unfinished(folder: Path) -> Path:
    """The file with the study of the interrupted run in *folder*.

    Raises:
        UserError: there is none.
    """
    path = folder / UNFINISHED / "study.toml"
    if not path.is_file():
        done = (folder / "provenance.json").is_file()
        raise UserError(
            Problem(str(folder), "", "is finished already" if done else "holds no unfinished run")
        )
    return path


def write_results(
    study: Study,
    resolved: str,
    result: GridResult,
    folder: Path,
    vega: Vega | None,
    *,
    csv: bool,
) -> Finished:
    """Write everything next door, then move it into *folder*, the provenance last."""
    new = folder / UNFINISHED / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    write_table(new / "results.parquet", result.table)
    if csv or result.table.num_rows < MAX_CSV_ROWS:
        write_csv(new / "results.csv", result.table)
    (new / "study.toml").write_text(resolved, encoding="utf-8")
    record = provenance(resolved, result.engines, study.settings)
    frame = result.table.to_pandas(split_blocks=True)
    lines = draw_into(new, frame, study, record, vega, left_out=result.left_out)
    (new / "provenance.json").write_text(record, encoding="utf-8")
    move_in(folder)
    return Finished(
        folder=folder,
        report=folder / "report.html",
        cases=result.cases,
        rows=result.table.num_rows,
        left_out=result.left_out,
        lines=lines,
    )


def move_in(folder: Path) -> None:
    """Move what was written next door into *folder*, the provenance last."""
    work = folder / UNFINISHED
    moved = sorted((work / "new").iterdir(), key=lambda path: path.name == "provenance.json")
    _remove_old(folder, {path.name for path in moved})
    for path in moved:
        path.replace(folder / path.name)
    (work / "study.toml").unlink()  # from here on there is nothing to resume
    shutil.rmtree(work)


def _remove_old(folder: Path, new: set[str]) -> None:
    """Remove what an earlier run wrote and this one does not."""
    for pattern in ("results.csv", *CHART_FILES):
        for path in folder.glob(pattern):
            if path.name not in new:
                path.unlink()


def draw_into(
    folder: Path,
    frame: pd.DataFrame,
    study: Study | None,
    record: str,
    vega: Vega | None,
    *,
    left_out: int = 0,
    title: str = "",
) -> list[str]:
    """Draw the charts and the report of results.

    Args:
        folder: where to write; it exists.
        frame: the results.
        study: the study they come from, if known.
        record: their provenance, as JSON, if known.
        vega: the process that draws; started here if need be.
        left_out: how many DSI cases were left out.
        title: heading, without a study.

    Returns:
        The summary, in lines for people.
    """
    from dsim.report import analysis, charts
    from dsim.report import page as report
    from dsim.report.tables import settings_rows
    from dsim.report.vega import Vega
    from dsim.study.settings import SETTINGS

    frame = frame if study else analysis.plain_columns(frame)
    axes = analysis.axes_of(study) if study else analysis.axes_in(frame)
    minimise = [column_of(key) for key in study.settings["minimise"]] if study else []
    wanted = list(study.charts) if study else []
    if not wanted:
        left = [name for name in axes if name not in minimise]
        further, wanted = analysis.guess(frame, left)
        minimise += further
    at_best = analysis.best(frame, axes, minimise)
    shown = [name for name in axes if name not in minimise]
    panels, notes = [], []
    for number, chart in enumerate(wanted, 1):
        drawn = charts.draw(chart, at_best, shown, number)
        panels += drawn
        if not drawn:
            notes.append(f"Chart {number} has nothing to show: no such case was simulated.")
    if not wanted:
        notes.append("There is no chart: no setting varies that could be an axis.")
    summary = analysis.summarise(at_best, minimise)
    notes += realtime.notes(frame)
    if left_out:
        notes.insert(
            0,
            f"{left_out:,} DSI cases were left out: they need more than max_targets = "
            f"{study.settings['max_targets'] if study else '?'} target servers.",
        )
    facts = [("rows", f"{len(frame):,}")]
    if study is not None:
        facts = [
            ("cases", f"{study.case_count:,}"),
            ("tokens", _span(frame, "tokens")),
            ("repeats", f"{study.settings['repeats']:,}"),
            ("seed", str(study.settings["seed"])),
        ]
    if "backend" in frame and set(frame["backend"]) != {"simulated"}:
        facts.append(("backend", " and ".join(sorted(map(str, frame["backend"].unique())))))
    if "engine" in frame:
        facts.append(("engine", " and ".join(sorted(map(str, frame["engine"].unique())))))
    if minimise:
        facts.append(("each algorithm at its best", ", ".join(minimise)))
    page = report.Page(
        title=(study.settings["title"] if study else title) or "Results of dsim",
        description=study.settings["description"] if study else "",
        facts=facts,
        notes=notes,
        before=[summary] if summary else (),
        settings=settings_rows(SETTINGS, study) if study else (),
        provenance=record,
        study=study.to_toml() if study else "",
    )
    with contextlib.ExitStack() as stack:
        if panels:
            vega = vega or stack.enter_context(Vega())
            pictures = [vega.pictures(panel) for panel in panels]
            text = report.html(page, panels, vega.script())
            for panel, made in zip(panels, pictures, strict=True):
                png, svg = made.result()
                (folder / f"{panel.name}.png").write_bytes(png)
                (folder / f"{panel.name}.svg").write_text(svg, encoding="utf-8")
        else:
            text = report.html(page, panels)
    (folder / "report.html").write_text(text, encoding="utf-8")
    lines = list(notes)
    if summary:
        lines += text_table(summary.head, summary.rows)
    return lines


def _span(frame: pd.DataFrame, column: str) -> str:
    low, high = frame[column].min(), frame[column].max()
    return f"{low:,}" if low == high else f"{low:,} … {high:,}"


def plot(path: Path, out: Path | None = None) -> tuple[Path, list[str]]:
    """Draw stored results again, without simulating.

    Args:
        path: a results folder, or a CSV or Parquet file with the documented columns.
        out: where to; by default the results folder itself, or ``NAME-charts`` beside the file.

    Returns:
        The report and the summary.

    Raises:
        UserError: there are no results, or they cannot be read.
    """
    study, record, left_out = None, "", 0
    if path.is_dir():
        results = path / "results.parquet"
        if not results.is_file():
            raise UserError(Problem(str(path), "", "holds no results.parquet"))
        frame = read_results(results)
        if (path / "study.toml").is_file():
            study = studies.load(path / "study.toml")
            left_out = study.case_count * len(study.settings["algorithms"]) - len(frame)
        with contextlib.suppress(OSError):
            record = (path / "provenance.json").read_text(encoding="utf-8")
    else:
        frame = read_results(path)
    folder = out or (path if path.is_dir() else path.with_name(f"{path.stem}-charts"))
    if folder != path and folder.is_dir():
        ours = {"report.html", *(p.name for glob in CHART_FILES for p in folder.glob(glob))}
        if other := {p.name for p in folder.iterdir()} - ours:
            raise UserError(
                Problem(str(folder), "", f"holds something other than charts: {min(other)}")
            )
    with _full_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / ".drawing"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            lines = draw_into(
                new, frame, study, record, None, left_out=left_out, title=f"Results in {path.name}"
            )
            _remove_old(folder, {file.name for file in new.iterdir()} | {"results.csv"})
            for file in new.iterdir():
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return folder / "report.html", lines
