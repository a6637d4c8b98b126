"""A load study: its cases in, a table and a report out."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import textwrap
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.deployment.metrics import Metrics, measure
from dsim.deployment.offered_load import Load, availability, offered_load
from dsim.deployment.outcome import RunCounts, Tally
from dsim.deployment.serve import serve
from dsim.errors import Problem, UserError
from dsim.files import write_whole
from dsim.orchestrations import title_of
from dsim.report.tables import TextTable, settings_rows, text_table
from dsim.study import loader as studies
from dsim.study.columns import DEPLOYMENT_COLUMNS, QUANTITIES, STATISTICS, column_of
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.executors import Executor, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd

    from dsim.report.charts import Panel
    from dsim.study.study import DeploymentCase, Study

OUTCOMES = tuple(column.name for column in DEPLOYMENT_COLUMNS)
STATUSES = ("ok", "backlog grows", "refused")
BINS = 100
TEXT_WIDTH = 100  # of text on a terminal
MOST_TRACED = 12
HERE = Executor()  # in this process


class Answer(NamedTuple):
    """What came of one case.

    Attributes:
        case: it.
        offered: its offered load, where that is known.
        refused: why it was not simulated, or nothing.
        metrics: else what it came to,
        over_time: and float64 (bins, 4): time (s), requests in the system, and forwards that wait
            for a target and for a drafter server, as arrivals of the first replication found them.
        events: how many events were scheduled.
    """

    case: DeploymentCase
    offered: Load | None
    refused: str
    metrics: Metrics | None
    over_time: np.ndarray | None
    events: int

    @property
    def status(self) -> str:
        """One of :data:`STATUSES`."""
        if self.metrics is None:
            return "refused"
        return "ok" if self.metrics.stable else "backlog grows"


def refusal(case: DeploymentCase, offered: Load | None, max_load: float = 1.0) -> str:
    """Why *case* cannot be served, in words, or nothing."""
    if offered is None or offered.worst[1] < max_load:
        return ""
    fleet, load = offered.worst
    d = case.deployment
    specs = [d.targets] if fleet == "target" else d.drafter_specs
    servers = sum(spec.servers for spec in specs)
    least = "" if offered.exact else "at least "
    more = math.ceil(servers * load / max_load + 1e-9)
    failing = d.faults if fleet == "target" else d.drafter_faults
    up = f" (each is up for {availability(failing):.1%} of the time)" if failing.mtbf_ns else ""
    return (
        f"the offered load of the {servers} {fleet} "
        f"server{'s' if servers > 1 else ''} is {least}{load:.2f}{up}: "
        f"more work arrives than can be done, and the queue would grow for ever. "
        f"It takes fewer than {offered.most_per_s * max_load:.3g} requests / s, "
        f"or {more if more > servers else more + 1} {fleet} servers or more"
        + (" (of each drafter as many times more)" if len(specs) > 1 else "")
    )


def check(case: DeploymentCase) -> str:
    """What else is wrong with *case*, known only once its lengths are drawn, or nothing."""
    deployment, workload = case.deployment, case.workload
    for replication in range(case.replications):
        prompts, outputs = workload.lengths(deployment.seed, replication)
        longest = int((prompts + outputs).max())
        for model, spec in (("target", deployment.targets), ("drafter", deployment.drafters)):
            if 0 < spec.kv_tokens < longest:
                return (
                    f"cluster.{model}_kv_tokens: expected room for the longest request "
                    f"({longest} tokens), got {spec.kv_tokens}"
                )
        if deployment.acceptance.model == "trace":
            shortest, most = min(map(len, deployment.acceptance.traces)), int(outputs.max())
            if shortest < most:
                return (
                    f"acceptance.trace: expected at least {most} draws (the longest answer), "
                    f"got {shortest}"
                )
    return ""


def answer(case: DeploymentCase, max_load: float = 1.0) -> Answer:
    """Simulate *case*, unless its load cannot be served."""
    return _answered(case, [replicate(case, r, max_load) for r in range(case.replications)])


def replicate(case: DeploymentCase, replication: int, max_load: float = 1.0) -> Replicated:
    """Simulate one replication of *case*, unless its load cannot be served."""
    offered = offered_load(case.deployment, case.workload)
    refused = refusal(case, offered, max_load)
    run = None if refused else serve(case.deployment, case.workload, replication)
    return Replicated(offered, refused, run)


def _answered(case: DeploymentCase, parts: Sequence[Replicated]) -> Answer:
    """The answer to *case* from all its replications."""
    offered, refused, _ = parts[0]
    runs = [part.run for part in parts if part.run is not None]
    if not runs:
        return Answer(case, offered, refused, None, None, 0)
    metrics = measure(case.deployment, runs, warm_up=case.warm_up)
    return Answer(case, offered, "", metrics, _over_time(runs[0]), sum(run.events for run in runs))


def _over_time(run: RunCounts) -> np.ndarray:
    bins = min(BINS, len(run.fate))
    rows = np.column_stack([run.arrival_ns / 1e9, run.found])
    return np.array([part.mean(axis=0) for part in np.array_split(rows, bins)])


class Replicated(NamedTuple):
    """What came of one replication of a case: the offered load, why it was refused, or the run."""

    offered: Load | None
    refused: str
    run: RunCounts | None


class RunStore(Store):
    """Finished runs as files, each written whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, number: int) -> str | None:
        """See :class:`dsim.study.executors.Store`."""
        try:
            return self._path(number).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def put(self, number: int, result: str) -> None:
        """See :class:`dsim.study.executors.Store`. A refusal is told as quickly as it is read."""
        if json.loads(result)["refused"]:
            return
        half = self._path(number).with_suffix(".half")
        half.write_text(result, encoding="utf-8")
        half.replace(self._path(number))

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:04d}.json"


def packed(one: Replicated) -> str:
    """*one* as JSON: what workers send and what is kept. No digit is lost."""
    run = None
    if one.run is not None:
        values = {f.name: getattr(one.run, f.name) for f in dataclasses.fields(RunCounts)}
        run = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in values.items()}
        run["tallies"] = [dataclasses.asdict(tally) for tally in one.run.tallies]
    offered = dataclasses.asdict(one.offered) if one.offered else None
    return json.dumps({"offered": offered, "refused": one.refused, "run": run})


def unpacked(text: str) -> Replicated:
    """What :func:`packed` made *text* of."""
    record = json.loads(text)
    run = record["run"]
    if run is not None:
        tallies = (Tally(**{**t, "busy_ns": tuple(t["busy_ns"])}) for t in run.pop("tallies"))
        arrays = {k: np.array(v, dtype=np.int64) for k, v in run.items() if isinstance(v, list)}
        run = RunCounts(**{**run, **arrays, "tallies": tuple(tallies)})
    offered = Load(**record["offered"]) if record["offered"] else None
    return Replicated(offered, record["refused"], run)


def _tasks(cases: Sequence[DeploymentCase]) -> list[tuple[int, int]]:
    """What there is to simulate: (number of the case, replication)."""
    return [(number, r) for number, case in enumerate(cases) for r in range(case.replications)]


def _prepare(study: Study) -> Callable[[tuple[int, int]], str]:
    """What simulates a replication of a case of *study*."""
    cases, max_load = list(study.cases()), study.settings["max_load"]

    def do(task: tuple[int, int]) -> str:
        number, replication = task
        return packed(replicate(cases[number], replication, max_load))

    return do


def answers(
    study: Study,
    *,
    executor: Executor = HERE,
    store: Store | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Every case of *study*, in order, wherever they are simulated.

    Args:
        study: the study.
        executor: what runs the replications of the cases.
        store: where finished runs are kept, to go on from after an interruption.
        progress: called with the number of cases that have just been finished.

    Raises:
        UserError: a case cannot be simulated, or none can be served.
    """
    cases = list(study.cases())
    problems = [Problem(study.source, case.name, what) for case in cases if (what := check(case))]
    if problems:
        raise UserError(*problems)
    work = sum(
        one.workload.count * one.replications * max(1, one.workload.output.mean_tokens)
        for one in cases
    )
    tasks = _tasks(cases)
    by_number: dict[int, Answer] = {}
    parts: dict[int, dict[int, Replicated]] = {number: {} for number in range(len(cases))}

    def done(task: int, text: str) -> None:
        number, replication = tasks[task]
        parts[number][replication] = unpacked(text)
        case = cases[number]
        if len(parts[number]) == case.replications:
            of_case = parts.pop(number)
            by_number[number] = _answered(case, [of_case[r] for r in range(case.replications)])
            progress(1)

    executor.for_work(work).each(_prepare, study, tasks, store or Store(), done)
    found = [by_number[number] for number in range(len(cases))]
    if all(one.metrics is None for one in found):
        raise UserError(*(Problem(study.source, one.case.name, one.refused) for one in found))
    return found


def run_load(
    study: Study,
    folder: Path,
    *,
    executor: Executor = HERE,
    force: bool = False,
    resume: bool = False,
    progress: Callable[[int], None] = lambda _: None,
) -> tuple[Path, list[Answer]]:
    """Run *study* and write its results folder.

    Args:
        study: the study.
        folder: where to; made if need be.
        executor: what runs the cases.
        force: take the place of other results in *folder*.
        resume: go on with what an interrupted run finished.
        progress: called with the number of cases that have just been finished.

    Returns:
        The report, and the answer to every case.

    Raises:
        UserError: a case cannot be simulated, none can be served, the folder holds something else,
            or the disk is full.
        dsim.tasks.run.RunInterrupted: Ctrl-C; what was finished is kept.
    """
    from dsim.tasks.run import results_folder

    resolved = study.to_toml()
    with results_folder(folder, resolved, "load", force=force, resume=resume) as work:
        found = answers(study, executor=executor, store=RunStore(work), progress=progress)
        return write_results(study, found, folder), found


def unfinished_study(folder: Path) -> Study:
    """The study of the interrupted run in *folder*.

    Raises:
        UserError: there is none, or it is one of ``dsim run``.
    """
    from dsim.tasks.run import unfinished

    path = unfinished(folder)
    study = studies.load(path)
    if study.kind != "deployment":
        what = f"holds a run of another command; go on with: dsim run --resume {folder}"
        raise UserError(Problem(str(folder), "", what))
    return study


def values_of(metrics: Metrics) -> dict[str, float]:
    """The columns of :data:`OUTCOMES`."""
    row: dict[str, float] = {}
    for quantity in QUANTITIES:
        for statistic in STATISTICS:
            estimate = getattr(metrics, quantity)[statistic]
            row[f"{quantity}_{statistic}_ms"] = estimate.value
            row[f"{quantity}_{statistic}_ci95_ms"] = estimate.ci95
    row |= {f"{name}_ci95": half for name, half in metrics.intervals.items()}
    for name in OUTCOMES:
        if name not in row:
            row[name] = float(getattr(metrics, name))
    return {name: row[name] for name in OUTCOMES}


def table(found: Sequence[Answer]) -> pd.DataFrame:
    """One row for each case."""
    import pandas as pd

    rows = []
    for one in found:
        d, metrics = one.case.deployment, one.metrics
        rows.append(
            {
                "variant": one.case.variant,
                "algorithm": d.algorithm,
                **{column_of(key): value for key, value in one.case.point.items()},
                "lookahead": d.lookahead,
                "gpus": d.gpus,
                "requests": one.case.workload.count,
                "repeats": one.case.replications,
                "status": one.status,
                "offered_target": one.offered.target if one.offered else math.nan,
                "offered_drafter": one.offered.drafter if one.offered else math.nan,
                **(values_of(metrics) if metrics else dict.fromkeys(OUTCOMES, math.nan)),
            }
        )
    return pd.DataFrame(rows)


def notes(found: Sequence[Answer]) -> list[str]:
    """What the reader of the results must not overlook."""
    lines = [f"Not simulated: {one.case.name}: {one.refused}." for one in found if one.refused]
    lines += [
        f"The backlog grew all through the run of {one.case.name}: it cannot keep up, and its "
        "latencies say only how long this run was."
        for one in found
        if one.status == "backlog grows"
    ]
    return lines


def tables(found: Sequence[Answer]) -> tuple[TextTable, TextTable]:
    """For people: how fast requests are served, and what that takes."""
    axes = list(found[0].case.point)
    with_slo = any(one.case.deployment.slo for one in found)
    with_more = any(one.case.deployment.more_pools for one in found)
    with_price = any(one.case.deployment.price_per_gpu_hour for one in found)
    with_energy = any(m and not math.isnan(m.kwh_per_million) for _, _, _, m, *_ in found)
    heads = [*(["variant"] if found[0].case.variant else []), "algorithm"]
    heads += [axis.rpartition(".")[2] for axis in axes]
    fast_heads = [*heads, "TTFT p50", "p99", "TPOT", "latency", "p99", "req/s", "tok/s"]
    fast_heads += ["goodput/s"] if with_slo else []
    takes_heads = [*heads, "GPUs", "targets", "drafters", *(["further"] if with_more else [])]
    takes_heads += ["waste", *(["price / M tokens"] if with_price else [])]
    takes_heads += ["J / request", "kWh / M tokens"] if with_energy else []
    fast, takes = [], []
    for one in found:
        d, m = one.case.deployment, one.metrics
        name = [*([one.case.variant] if one.case.variant else []), title_of(d.algorithm)]
        name += [f"{v:g}" if isinstance(v, float) else str(v) for v in one.case.point.values()]
        if m is None:
            load = one.offered.worst[1] if one.offered else math.nan
            row = [*name, f"load {load:.2f}"]
            fast.append(row + ["–"] * (len(fast_heads) - len(row)))
            row = [*name, f"{d.gpus:g}"]
            takes.append(row + ["–"] * (len(takes_heads) - len(row)))
            continue
        mean = m.latency["mean"]
        interval = "" if math.isnan(mean.ci95) else f" ± {mean.ci95:.0f}"
        row = [
            *name,
            f"{m.ttft['p50'].value:.0f}",
            f"{m.ttft['p99'].value:.0f}",
            f"{m.tpot['mean'].value:.1f}",
            f"{mean.value:.0f}{interval}{'' if m.stable else ' ↗'}",
            f"{m.latency['p99'].value:.0f}",
            f"{m.throughput_per_s:.2f}",
            f"{m.tokens_per_s:.0f}",
        ]
        fast.append(row + ([f"{m.goodput_per_s:.2f}"] if with_slo else []))
        row = [*name, f"{d.gpus:g}", f"{m.target_utilisation:.0%}"]
        row += [f"{m.drafter_utilisation:.0%}" if d.drafter_specs else "–"]
        if with_more:
            row += [f"{m.more_drafter_utilisation:.0%}" if d.more_pools else "–"]
        row += ["–" if math.isnan(m.wasted_pass_share) else f"{m.wasted_pass_share:.0%}"]
        row += [f"{m.price_per_million:.2f}"] if with_price else []
        if with_energy:
            row += [f"{m.joules_per_request:.4g}", f"{m.kwh_per_million:.3g}"]
        takes.append(row)
    caption = [TAKES]
    caption += [OF_FURTHER] if with_more else []
    caption += [OF_PRICE] if with_price else []
    caption += [OF_ENERGY] if with_energy else []
    return (
        TextTable(title="At a glance", caption=FAST, head=fast_heads, rows=fast, numbers=True),
        TextTable(
            title="What it takes",
            caption=" ".join(caption),
            head=takes_heads,
            rows=takes,
            numbers=True,
        ),
    )


FAST = (
    "Times in ms: to the first token (TTFT), per output token after it (TPOT), to the last token "
    "(latency: mean ± 95 % interval). Requests and tokens finished in a second. "
    "↗: the backlog grows. load: more work arrives than can be done; not simulated."
)
TAKES = (
    "GPUs: reserved. targets, drafters: the share of the time in which their servers computed. "
    "waste: passes that were cancelled."
)
OF_FURTHER = "further: as drafters, of further drafters' servers."
OF_PRICE = (
    "price / M tokens: cluster.price_per_gpu_hour × the GPUs reserved, idle or not, × the hours "
    "from the first moment of the run to the last, for a million tokens of finished requests."
)
OF_ENERGY = (
    "J / request, kWh / M tokens: what these GPUs drew in that time, cluster.*_watts while their "
    "server computed and cluster.*_idle_watts while it did not, for a finished request and for a "
    "million of their tokens. The warm-up counts in price and energy."
)


def as_text(found: Sequence[Answer]) -> list[str]:
    """The results in lines for people."""
    lines = notes(found)
    for one in tables(found):
        lines += [*text_table(one.head, one.rows), *textwrap.wrap(one.caption, TEXT_WIDTH), ""]
    return lines[:-1]


def as_json(found: Sequence[Answer]) -> str:
    """One JSON object; what is not known is null."""
    rows = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in table(found).to_dict("records")
    ]
    refused = [{"case": one.case.name, "why": one.refused} for one in found if one.refused]
    return json.dumps({"cases": rows, "refused": refused})


def write_trace(found: Sequence[Answer], path: Path) -> None:
    """Write the first replication of every case that can be served as a trace for Perfetto.

    Raises:
        UserError: there are too many cases, or the file cannot be written.
    """
    from dsim.deployment import perfetto

    cases = [one.case for one in found if not one.refused]
    if len(cases) > MOST_TRACED:
        raise UserError(
            Problem(
                "--trace",
                "",
                f"expected at most {MOST_TRACED} cases, got {len(cases)}; choose with --set",
            )
        )
    runs = [
        (
            c.short_name if len(cases) > 1 else "",
            serve(c.deployment, c.workload, keep_settled=True, keep_log=True),
        )
        for c in cases
    ]
    text = json.dumps(perfetto.trace(runs), separators=(",", ":"), ensure_ascii=False)
    write_whole(path, text, "--trace")


def panels_of(study: Study, found: Sequence[Answer], frame: pd.DataFrame) -> list[Panel]:
    """The charts of *study*; *frame* is the table of what was *found*."""
    from dsim.report import deployments

    backlogs = [
        deployments.Backlog(
            one.case.variant, one.case.deployment.algorithm, one.case.point, one.over_time
        )
        for one in found
        if one.over_time is not None
    ]
    axes = [axis.key for axis in study.grid]
    return deployments.panels(study.charts, axes, frame, backlogs)


def write_results(study: Study, found: Sequence[Answer], folder: Path) -> Path:
    """Write table, report, charts, study and provenance next door, then move them into *folder*."""
    import pyarrow as pa

    from dsim.report import page as report
    from dsim.report.vega import Vega
    from dsim.study.results import provenance, write_csv, write_table
    from dsim.tasks.run import UNFINISHED, move_in

    resolved = study.to_toml()
    frame = table(found)
    panels = panels_of(study, found, frame)
    fast, takes = tables(found)
    record = provenance(resolved, {"events": len(frame)}, {**study.settings, "engine": "events"})
    page = report.Page(
        title=study.settings["title"] or "A deployment under load",
        description=study.settings["description"],
        facts=[
            ("cases", f"{len(found):,}"),
            ("requests", f"{found[0].case.workload.count:,}"),
            ("repeats", str(found[0].case.replications)),
            ("seed", str(found[0].case.deployment.seed)),
        ],
        notes=notes(found),
        after=[fast, takes],
        settings=settings_rows(DEPLOYMENT.settings, study),
        provenance=record,
        study=resolved,
    )
    new = folder / UNFINISHED / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    arrow = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    write_table(new / "results.parquet", arrow)
    write_csv(new / "results.csv", arrow)
    (new / "study.toml").write_text(resolved, encoding="utf-8")
    with Vega() as vega:
        drawn = [vega.pictures(panel) for panel in panels]
        (new / "report.html").write_text(report.html(page, panels, vega.script()), encoding="utf-8")
        for panel, pictures in zip(panels, drawn, strict=True):
            png, svg = pictures.result()
            (new / f"{panel.name}.png").write_bytes(png)
            (new / f"{panel.name}.svg").write_text(svg, encoding="utf-8")
    (new / "provenance.json").write_text(record, encoding="utf-8")
    move_in(folder)
    return folder / "report.html"
