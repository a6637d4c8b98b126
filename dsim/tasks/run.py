"""``dsim run`` and ``dsim plot``: a study to a results folder, and a results folder drawn again."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dsim.deployment import perfetto
from dsim.deployment.serve import serve
from dsim.errors import Problem, UserError
from dsim.files import write_whole
from dsim.report.lanes import lanes
from dsim.study import loader as studies
from dsim.study import requests
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.folder import charts_folder, move_in, new_folder, results_folder
from dsim.study.grid import HERE, run_grid
from dsim.study.results import MAX_CSV_ROWS, provenance, read_results, write_csv, write_table
from dsim.study.seal import PROVENANCE, sealed, unsealed
from dsim.tasks import waits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dsim.report.lanes import AtWork
    from dsim.study.executors import Executor, Store
    from dsim.study.requests import CaseResult
    from dsim.study.results import StudyResult
    from dsim.study.study import Study
    from dsim.tasks.drawing import Drawn

MAX_TRACED = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finished:
    """What a run left behind.

    Attributes:
        folder: the results folder.
        report: the HTML page.
        cases, rows, left_out: of the grid; see :class:`dsim.study.results.StudyResult`.
        lines: the summary, for people.
        failed: what could not be drawn; the results themselves are complete.
        requests: results of the cases of a deployment; otherwise empty.
    """

    folder: Path
    report: Path
    cases: int
    rows: int
    left_out: int
    lines: Sequence[str]
    failed: Sequence[str] = ()
    requests: Sequence[CaseResult] = ()


def simulate(
    study: Study,
    *,
    executor: Executor = HERE,
    store: Store | None = None,
    progress: Callable[[float], None] = lambda _: None,
    keep_runs: bool = False,
) -> StudyResult:
    """Run all cases of *study*, of either kind.

    Args:
        study: the study.
        executor: runs the cases.
        store: keeps finished parts, to go on from after an interruption.
        progress: called with the number of cases that have just been finished; on the wall-clock
            backend with the seconds that were just waited.
        keep_runs: of a deployment: keep what came of every single request.

    Raises:
        UserError: a case cannot be simulated, or none can be served.
    """
    if study.kind == DEPLOYMENT.name:
        return requests.run_deployment(
            study, executor=executor, store=store, progress=progress, keep_runs=keep_runs
        )
    if study.settings["backend"] == "wallclock":
        return waits.run_grid(study, store=store, progress=progress)
    return run_grid(study, executor=executor, store=store, progress=progress)


def _load_what_draws() -> None:
    """Load large libraries, which the end of a run needs, while its cases are simulated."""
    with contextlib.suppress(ImportError):  # whoever needs it will say so
        import scipy.special  # noqa: F401

        import dsim.tasks.drawing  # noqa: F401


def run_study(
    study: Study,
    folder: Path,
    *,
    executor: Executor = HERE,
    csv: bool = False,
    force: bool = False,
    resume: bool = False,
    progress: Callable[[float], None] = lambda _: None,
    keep_runs: bool = False,
) -> Finished:
    """Run *study* and write its results folder.

    Args:
        study: the study.
        folder: the results folder; made if need be.
        executor: runs the cases.
        csv: write a CSV file even for many rows.
        force: replace other results in *folder*.
        resume: go on with what an interrupted run finished.
        progress: see :func:`simulate`.
        keep_runs: see :func:`simulate`.

    Raises:
        UserError: a case cannot be simulated, none can be served, the folder holds something else
            or is in use, or the disk is full.
        RunInterrupted: Ctrl-C; what was finished is kept.
    """
    resolved = study.to_toml()
    with (
        results_folder(folder, resolved, force=force, resume=resume) as store,
        lanes() if study.charts or study.grid else contextlib.nullcontext() as at_work,
    ):
        if at_work is not None:
            threading.Thread(target=_load_what_draws, daemon=True).start()
        result = simulate(
            study, executor=executor, store=store, progress=progress, keep_runs=keep_runs
        )
        finished = write_results(study, resolved, result, folder, at_work, csv=csv)
        if executor.name == "ray" and not result.engines.get("events") and not result.requests:
            note = "The vector engine ran all cases in this process; Ray was not used."
            finished = dataclasses.replace(finished, lines=[note, *finished.lines])
        if store.unusable:
            note = f"{store.unusable} damaged or foreign parts of an earlier run were not used."
            finished = dataclasses.replace(finished, lines=[note, *finished.lines])
        return finished


def write_results(
    study: Study,
    resolved: str,
    result: StudyResult,
    folder: Path,
    at_work: AtWork | None,
    *,
    csv: bool,
) -> Finished:
    """Write everything next door, then move it into *folder*, the provenance last."""
    new = new_folder(folder)
    (new / "study.toml").write_text(resolved, encoding="utf-8")
    if csv or result.table.num_rows < MAX_CSV_ROWS:
        write_csv(new / "results.csv", result.table)
    if result.backlogs:
        requests.write_backlogs(new / requests.BACKLOG_FILE, result.backlogs)
    record = provenance(resolved, result.engines, study.settings)
    with ThreadPoolExecutor(1) as beside:  # a large table takes as long as its charts
        written = beside.submit(write_table, new / "results.parquet", result.table)
        from dsim.tasks.drawing import draw_into

        drawn = draw_into(
            new,
            result.table.to_pandas(split_blocks=True),
            study,
            record,
            at_work,
            left_out=result.left_out,
            refusals=result.refusals,
            backlogs=result.backlogs,
        )
        written.result()
    (new / PROVENANCE).write_text(sealed(record, new), encoding="utf-8")
    move_in(folder)
    return Finished(
        folder=folder,
        report=folder / "report.html",
        cases=result.cases,
        rows=result.table.num_rows,
        left_out=result.left_out,
        lines=drawn.lines,
        failed=drawn.failed,
        requests=result.requests,
    )


def plot(path: Path, out: Path | None = None) -> tuple[Path, Drawn]:
    """Draw stored results again, without simulating.

    Args:
        path: a results folder, or a CSV or Parquet file with the documented columns.
        out: where to; by default the results folder itself, or ``NAME-charts`` beside the file.

    Returns:
        The report, and what was drawn.

    Raises:
        UserError: there are no results, or they cannot be read.
    """
    from dsim.tasks.drawing import draw_into

    study, record, stored, left_out, backlogs = None, "", "", 0, []
    if path.is_dir():
        results = path / "results.parquet"
        if not results.is_file():
            raise UserError(Problem(str(path), "", "holds no results.parquet"))
        frame = read_results(results)
        if (path / "study.toml").is_file():
            study = studies.load(path / "study.toml")
            if study.kind == DEPLOYMENT.name:
                backlogs = requests.read_backlogs(path / requests.BACKLOG_FILE)
            else:
                left_out = study.case_count * len(study.settings["algorithms"]) - len(frame)
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stored = (path / PROVENANCE).read_text(encoding="utf-8")
            record = unsealed(stored)
    else:
        frame = read_results(path)
    folder = out or (path if path.is_dir() else path.with_name(f"{path.stem}-charts"))
    ours = None if folder == path else {"report.html"}
    kept = {"results.csv", requests.BACKLOG_FILE}
    with charts_folder(folder, ours=ours, kept=kept) as new:
        drawn = draw_into(
            new,
            frame,
            study,
            record,
            None,
            left_out=left_out,
            backlogs=backlogs,
            title=f"Results in {path.name}",
        )
        if folder == path and "files" in json.loads(stored or "{}"):
            (new / PROVENANCE).write_text(sealed(stored, new), encoding="utf-8")
    return folder / "report.html", drawn


def write_trace(
    found: Sequence[CaseResult], path: Path, progress: Callable[[str], None] = lambda _: None
) -> None:
    """Write the first replication of every case that can be served as a trace for Perfetto.

    Args:
        found: results of the cases.
        path: where to; compressed if its name ends with ``.gz`` (Perfetto reads both).
        progress: called with each case that is simulated again, for its log; then with *path*.

    Raises:
        UserError: there are too many cases, or the file cannot be written.
    """
    cases = [one.case for one in found if not one.refused]
    if len(cases) > MAX_TRACED:
        what = f"expected at most {MAX_TRACED} cases, got {len(cases)}; choose with --set"
        raise UserError(Problem("--trace", "", what))
    runs = []
    for case in cases:
        progress(case.name)
        run = serve(case.deployment, case.workload, keep_settled=True, keep_log=True)
        runs.append((case.short_name if len(cases) > 1 else "", run))
    progress(str(path))
    text = json.dumps(perfetto.trace(runs), separators=(",", ":"), ensure_ascii=False)
    content = gzip.compress(text.encode(), 1, mtime=0) if path.suffix == ".gz" else text
    write_whole(path, content, "--trace")
