"""All cases of a deployment: requests in, results table out."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dsim.deployment.metrics import Metrics, measure
from dsim.deployment.offered_load import Load, availability, offered_load
from dsim.deployment.outcome import RunCounts, Tally
from dsim.deployment.serve import serve
from dsim.errors import Problem, UserError
from dsim.orchestrations import REFERENCES
from dsim.study import precision as precisions
from dsim.study.columns import (
    BEYOND,
    DEPLOYMENT_COLUMNS,
    QUANTITIES,
    STATISTICS,
    VERSUS,
    column_of,
)
from dsim.study.executors import Executor, Store
from dsim.study.results import StudyResult
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd

    from dsim.study.study import DeploymentCase, Study

OUTCOMES = tuple(column.name for column in DEPLOYMENT_COLUMNS if column is not VERSUS)
BINS = 100
BACKLOG_FILE = "backlog.parquet"
OVER_TIME = ("time_s", "in_system", "target", "drafter")
HERE = Executor()  # in this process


class CaseResult(NamedTuple):
    """What came of one case.

    Attributes:
        case: the case.
        offered: its offered load, where that is known.
        refused: why it was not simulated; empty if it was.
        metrics: its metrics; ``None`` if it was refused.
        runs: its replications, where these are kept.
        over_time: float64 (bins, 4): time (s), requests in the system, and forwards that wait for a
            target and for a drafter server, as arrivals of the first replication found them.
    """

    case: DeploymentCase
    offered: Load | None
    refused: str
    metrics: Metrics | None
    over_time: np.ndarray | None
    runs: Sequence[RunCounts] = ()

    @property
    def status(self) -> str:
        """``ok``, ``backlog grows`` or ``refused``."""
        if self.metrics is None:
            return "refused"
        return "backlog grows" if self.overloaded or not self.metrics.stable else "ok"

    @property
    def overloaded(self) -> str:
        """That replicas are asked for more than they can do, in words, or nothing.

        They are simulated all the same: a trace ends at some time.
        """
        return self.offered.overload(self.case.deployment.faults) if self.offered else ""

    @property
    def busy_link(self) -> str:
        """That replicas for prompts send too much for transfers not to wait, or nothing."""
        return self.offered.busy_link if self.offered and not self.overloaded else ""


def refusal(case: DeploymentCase, offered: Load | None, max_load: float = 1.0) -> str:
    """Why *case* cannot be served, in words, or nothing."""
    if offered is None or offered.replicas or offered.worst[1] < max_load:
        return ""
    fleet, load = offered.worst
    d = case.deployment
    specs = [d.targets] if fleet == "target" else d.drafter_specs
    servers = sum(spec.servers for spec in specs)
    least = "" if offered.exact else "at least "
    over = "overloaded" if load >= 1 else f"loaded above max_load = {max_load:g}"
    more = math.ceil(servers * load / max_load + 1e-9)
    failing = d.faults if fleet == "target" else d.drafter_faults
    up = f" (each is up for {availability(failing):.1%} of the time)" if failing.mtbf_ns else ""
    return (
        f"the {plural(servers, f'{fleet} server')} {'is' if servers == 1 else 'are'} {over} "
        f"({least}{load:.0%}{up}), so the queue would grow without bound. "
        f"Use fewer than {offered.most_per_s * max_load:.3g} requests / s, "
        f"or {more if more > servers else more + 1} {fleet} servers or more"
        + (" (of each drafter as many times more)" if len(specs) > 1 else "")
    )


def check(case: DeploymentCase) -> str:
    """What else is wrong with *case*, known only once its lengths are drawn, or nothing."""
    deployment, workload = case.deployment, case.workload
    replica = deployment.replica
    for replication in range(case.replications):
        prompts, outputs = workload.lengths(deployment.seed, replication)
        longest = int((prompts + outputs).max())
        if replica is not None:
            if not prompts.min():
                return "prompt_tokens: expected at least 1 on replicas, got 0"
            if all(map(replica.refuses, prompts.tolist(), outputs.tolist())):
                most = replica.max_model_len
                return (
                    f"replica.kv_blocks, replica.max_model_len: no request fits: the shortest has "
                    f"{int((prompts + outputs).min())} tokens (prompt and answer), and a replica "
                    f"has {replica.kv_blocks or 'any number of'} blocks of {replica.block_size}"
                    + (f", for a model of at most {most:,} tokens" if most else "")
                )
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


def replicate(case: DeploymentCase, replication: int, max_load: float = 1.0) -> Replicated:
    """Simulate one replication of *case*, unless its load cannot be served."""
    offered = offered_load(case.deployment, case.workload)
    refused = refusal(case, offered, max_load)
    run = None if refused else serve(case.deployment, case.workload, replication)
    return Replicated(offered, refused, run)


def _result_of(case: DeploymentCase, parts: Sequence[Replicated], *, keep_runs: bool) -> CaseResult:
    """The result of *case* from all its replications."""
    offered, refused, _ = parts[0]
    runs = [part.run for part in parts if part.run is not None]
    if not runs:
        return CaseResult(case, offered, refused, None, None)
    metrics = measure(
        case.deployment,
        runs,
        warm_up=case.warm_up,
        workload=case.workload,
        load=offered.worst[1] if offered and not offered.replicas else None,
    )
    kept = runs if keep_runs else ()
    return CaseResult(case, offered, "", metrics, _over_time(runs[0]), kept)


def _over_time(run: RunCounts) -> np.ndarray:
    bins = min(BINS, len(run.fate))
    rows = np.column_stack([run.arrival_ns / 1e9, run.found])
    return np.array([part.mean(axis=0) for part in np.array_split(rows, bins)])


class Backlog(NamedTuple):
    """How full one deployment was over time.

    Attributes:
        variant, algorithm: what was simulated.
        point: its values of the axes, by setting.
        runs: its replications, where these are kept.
        over_time: float64 (bins, 4): time (s), requests in the system, and forwards that wait for a
            target server and for a drafter server.
    """

    variant: str
    algorithm: str
    point: Mapping[str, Any]
    over_time: np.ndarray


class Replicated(NamedTuple):
    """One replication of a case: the offered load, why it was refused, or the run."""

    offered: Load | None
    refused: str
    run: RunCounts | None


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


class SimulatedOnly(Store):
    """Refusals are not stored: recomputing one is as fast as reading it."""

    def __init__(self, store: Store, first: int = 0) -> None:
        self.store = store
        self.first = first  # number of the first task

    def get(self, number: int) -> Any:
        """See :class:`dsim.study.executors.Store`."""
        return self.store.get(self.first + number)

    def put(self, number: int, result: str) -> None:
        """See :class:`dsim.study.executors.Store`."""
        if not json.loads(result)["refused"]:
            self.store.put(self.first + number, result)


def run_cases(
    study: Study,
    *,
    executor: Executor = HERE,
    store: Store | None = None,
    progress: Callable[[int], None] = lambda _: None,
    keep_runs: bool = False,
) -> list[CaseResult]:
    """Every case of *study*, in order, wherever they are simulated.

    Args:
        study: a study of a deployment.
        executor: runs the replications of the cases.
        store: where finished runs are kept, to go on from after an interruption.
        progress: called with the number of cases that have just been finished.
        keep_runs: keep what came of every single request.

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
    precision, measure_ = (study.settings[f"workload.{k}"] for k in ("precision", "precision_of"))
    tasks, first = _tasks(cases), 0
    by_number: dict[int, CaseResult] = {}
    parts: dict[int, dict[int, Replicated]] = {number: {} for number in range(len(cases))}

    def done(task: int, text: str) -> None:
        number, replication = tasks[task]
        parts[number][replication] = unpacked(text)
        case = cases[number]
        if len(parts[number]) < case.replications:
            return
        of_case = parts[number]
        each = [of_case[r] for r in range(case.replications)]
        by_number[number] = one = _result_of(case, each, keep_runs=keep_runs)
        runs = case.replications
        if precision and one.metrics is not None:
            runs = precisions.runs_for(one.metrics, measure_, precision, runs)
        if runs == case.replications:
            del parts[number]
            progress(1)
        else:
            cases[number] = dataclasses.replace(case, replications=runs)

    while tasks:
        kept = SimulatedOnly(store or Store(), first)
        executor.for_work(work).each(_prepare, study, tasks, kept, done)
        first += len(tasks)
        tasks = [
            (number, r)
            for number, known in parts.items()
            for r in range(len(known), cases[number].replications)
        ]
    found = [by_number[number] for number in range(len(cases))]
    if all(one.metrics is None for one in found):
        raise UserError(*(Problem(study.source, one.case.name, one.refused) for one in found))
    return found


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


def table(found: Sequence[CaseResult]) -> pd.DataFrame:
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
                BEYOND.name: metrics.beyond_table_share if metrics else math.nan,
            }
        )
    _compare(rows, found)
    frame = pd.DataFrame(rows)
    deployments = [one.case.deployment for one in found]
    tables = any("table" in (d.target.model, d.drafter.model) for d in deployments)
    return frame if tables else frame.drop(columns=BEYOND.name)


def _compare(rows: Sequence[dict[str, Any]], found: Sequence[CaseResult]) -> None:
    """Put in the speed-up over non-SI at the same point."""
    references: dict[tuple[Any, ...], list[tuple[CaseResult, float]]] = {}
    points = [tuple(one.case.point.items()) for one in found]
    for row, one, point in zip(rows, found, points, strict=True):
        if row["algorithm"] == REFERENCES[0]:
            references.setdefault(point, []).append((one, row["latency_mean_ms"]))
    for row, one, point in zip(rows, found, points, strict=True):
        known = [
            (other.case.variant, ms)
            for other, ms in references.get(point, ())
            if _target_of(other.case) == _target_of(one.case)
        ]
        own = dict(known).get(one.case.variant, known[0][1] if len(known) == 1 else math.nan)
        row[VERSUS.name] = own / row["latency_mean_ms"]


def _target_of(case: DeploymentCase) -> tuple[Any, ...]:
    """What the target is, and how long its forwards take."""
    replica = case.deployment.replica
    return case.deployment.target, replica and (replica.target, replica.target_us)


def precision_notes(study: Study, found: Sequence[CaseResult]) -> list[str]:
    """Whether intervals are as narrow as *study* asks for, in sentences."""
    if not (precision := study.settings["workload.precision"]):
        return []
    served = [(o.case.name, o.metrics, o.case.replications) for o in found if o.metrics]
    return precisions.reached(served, study.settings["workload.precision_of"], precision)


def refusals(found: Sequence[CaseResult]) -> list[str]:
    """Why cases were not simulated, and which were under too much load, in sentences."""
    fields = {"Not simulated": "refused", "Overloaded": "overloaded", "Busy link": "busy_link"}
    lines = []
    for what, field in fields.items():
        alike: dict[tuple[str, str], list[CaseResult]] = {}
        for one in found:
            if getattr(one, field):
                series = one.case.variant, one.case.deployment.algorithm
                alike.setdefault(series, []).append(one)
        for first, *more in alike.values():
            also = f" (and {plural(len(more), 'further case')} of it)" if more else ""
            lines.append(f"{what}: {first.case.title}{also}: {getattr(first, field)}.")
    return lines


def backlogs(found: Sequence[CaseResult]) -> list[Backlog]:
    """The backlogs of the cases that were simulated."""
    return [
        Backlog(one.case.variant, one.case.deployment.algorithm, one.case.point, one.over_time)
        for one in found
        if one.over_time is not None
    ]


def run_deployment(
    study: Study,
    *,
    executor: Executor = HERE,
    store: Store | None = None,
    progress: Callable[[int], None] = lambda _: None,
    keep_runs: bool = False,
) -> StudyResult:
    """Run every case of a deployment; see :func:`run_cases`, of whose results it makes a table.

    Raises:
        UserError: a case cannot be simulated, or none can be served.
    """
    import pyarrow as pa

    found = run_cases(study, executor=executor, store=store, progress=progress, keep_runs=keep_runs)
    arrow = pa.Table.from_pandas(table(found), preserve_index=False)
    return StudyResult(
        table=arrow.replace_schema_metadata(None),
        cases=len(found),
        left_out=0,
        engines={"events": len(found)},
        refusals=[*precision_notes(study, found), *refusals(found)],
        backlogs=backlogs(found),
        requests=found,
    )


def write_backlogs(path: Path, found: Sequence[Backlog]) -> None:
    """Write backlogs as Parquet, so that their chart can be drawn again."""
    import pandas as pd

    parts = [
        pd.DataFrame(one.over_time, columns=list(OVER_TIME)).assign(
            variant=one.variant, algorithm=one.algorithm, **one.point
        )
        for one in found
    ]
    pd.concat(parts).to_parquet(path, index=False)


def read_backlogs(path: Path) -> list[Backlog]:
    """The backlogs in *path*; none if there is no such file."""
    import pandas as pd

    if not path.is_file():
        return []
    frame = pd.read_parquet(path)
    keys = [name for name in frame.columns if name not in OVER_TIME]
    axes = keys[2:]
    found = []
    for key, part in frame.groupby(keys, sort=False):
        variant, algorithm, *values = key
        point = dict(zip(axes, values, strict=True))
        over_time = part[list(OVER_TIME)].to_numpy()
        found.append(Backlog(str(variant), str(algorithm), point, over_time))
    return found


def as_json(found: Sequence[CaseResult]) -> str:
    """One JSON object; what is not known is null."""
    rows = [
        {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
        for row in table(found).to_dict("records")
    ]
    why = {
        name: [{"case": one.case.name, "why": of} for one in found if (of := getattr(one, name))]
        for name in ("refused", "overloaded")
    }
    return json.dumps({"cases": rows, **why})
