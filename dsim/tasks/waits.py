"""A study on the wall-clock backend: every forward is a real wait, one case at a time.

Beside each run the same draws are simulated, so that the table says what real time added. What an
algorithm does not read (``Orchestration.reads``) makes no difference to its waits: non-SI is run
once for all lookaheads and target servers, SI once for all target servers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.backends.wallclock import Waiters, run_wallclock
from dsim.engines.simulate import run_events
from dsim.errors import Problem, UserError
from dsim.model.lookahead import FIXED
from dsim.model.statistics import summarise
from dsim.orchestrations import ORCHESTRATIONS, READABLE
from dsim.study.columns import WALLCLOCK_COLUMNS
from dsim.study.executors import Store
from dsim.study.grid import OUTCOMES, empty_grid
from dsim.words import duration, plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from dsim.model.case import Case
    from dsim.study.results import StudyResult
    from dsim.study.study import Study

MAX_S = 15 * 60  # of waiting, without being asked to
MAX_TARGETS = 128  # threads
STALL_NS = 20_000_000  # a wait that overshoots so far: the machine stood still
MAX_RETRIES = 3
STALLED = f"because the machine stalled for more than {STALL_NS // 1_000_000} ms"
SAMPLE_CASES, SAMPLE_TOKENS = 48, 2000  # what the estimate of the time looks at
EXTRA = tuple(column.name for column in WALLCLOCK_COLUMNS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One algorithm on one case, all repeats; and every case of the grid that it answers."""

    algorithm: int
    case: Case
    numbers: list[int]


def check(study: Study, *, yes: bool = False) -> float:
    """See that the waits of *study* come to an end in time.

    Args:
        study: a study on the wall-clock backend.
        yes: however long they take.

    Returns:
        How many seconds of waiting it is, about.

    Raises:
        UserError: too many, or too many target servers, or an algorithm cannot wait.
    """
    for name in study.settings["algorithms"]:
        if not ORCHESTRATIONS[name].traits.live:
            what = f"{ORCHESTRATIONS[name].title} is simulated only; leave it out, or the backend"
            raise UserError(Problem(study.source, "algorithms", what))
        if ORCHESTRATIONS[name].traits.further_drafters and _has_further(study):
            title = ORCHESTRATIONS[name].title
            what = f"{title} with further drafters is simulated only; leave it out, or them"
            raise UserError(Problem(study.source, "algorithms", what))
    needed_s = estimate_s(study)
    if needed_s <= MAX_S or yes:
        return needed_s
    repeats = study.settings["repeats"]
    ways = []
    if 1 <= (fewer := int(repeats * MAX_S / needed_s)) < repeats:
        ways.append(f"--set repeats={fewer}")
    if study.grid and not ways:
        longest = max(study.grid, key=lambda axis: len(axis.values))
        ways.append(
            f"--set repeats=1 and fewer values for --set grid.{longest.key}=[…] "
            f"(it has {len(longest.values):,})"
        )
    ways.append("--yes to wait all the same")
    raise UserError(
        Problem(
            study.source,
            "backend",
            f'"wallclock" would wait for about {duration(needed_s)} ({study.case_count:,} cases, '
            f"{repeats:,} repeats, one after the other), over {duration(MAX_S)}; "
            f"make it coarser: {', or '.join(ways)}",
        )
    )


def estimate_s(study: Study) -> float:
    """How long the waits of *study* take, about: simulated on a sample of its cases."""
    grid, total = empty_grid(study), study.case_count
    numbers = np.unique(np.linspace(0, total - 1, min(SAMPLE_CASES, total)).round().astype(int))
    sample_ns = dict.fromkeys(grid.algorithms, 0.0)
    for number in numbers:
        _, case = grid.case_at(int(number))
        scale = max(1.0, case.tokens / SAMPLE_TOKENS)
        case = dataclasses.replace(case, tokens=min(case.tokens, SAMPLE_TOKENS))
        limit = study.settings["max_targets"]
        for name in grid.algorithms:
            if _over(limit, name, case):
                continue
            sample_ns[name] += scale * run_events(case, name, 0).output.settled_ns[-1]
    seconds = 0.0
    for name, ns in sample_ns.items():
        again = math.prod(len(axis.values) for axis in study.grid if not _reads(name, axis.key))
        seconds += ns / 1e9 / len(numbers) * total / again
    return seconds * float(study.settings["repeats"])


def jobs_of(study: Study, grid: Any) -> list[Job]:
    """What has to be run, in the order of the grid."""
    jobs: dict[Any, Job] = {}
    limit = study.settings["max_targets"]
    for number in range(study.case_count):
        where, case = grid.case_at(number)
        grid.note(where, case)
        for a, name in enumerate(grid.algorithms):
            if _over(limit, name, case):
                continue
            key = (name, _read_by(name, case))
            jobs.setdefault(key, Job(algorithm=a, case=case, numbers=[])).numbers.append(number)
    return list(jobs.values())


def _has_further(study: Study) -> bool:
    key = "more_drafters.latency_ms"
    everywhere = [study.settings, *(own for _, own in study.variants)]
    return any(own.get(key) for own in everywhere) or key in [axis.key for axis in study.grid]


def _over(limit: int | None, algorithm: str, case: Case) -> bool:
    """Whether *algorithm* would make use of more target servers than *limit*."""
    several = ORCHESTRATIONS[algorithm].traits.several_targets
    return several and limit is not None and case.targets > limit


def _read_by(algorithm: str, case: Case) -> Case:
    """*case*, with what *algorithm* does not read made equal."""
    settings = {"targets": 1, "preemptible": False, "lookahead": 1, "lookahead_policy": "fixed"}
    same: dict[str, Any] = {k: v for k, v in settings.items() if not _reads(algorithm, k)}
    if same.pop("lookahead_policy", None):
        same["policy"] = FIXED
    if not ORCHESTRATIONS[algorithm].traits.further_drafters:
        same["more_drafters"] = ()
    if not ORCHESTRATIONS[algorithm].traits.drafts:
        same |= {"drafter": case.target, "acceptance": None}
    return dataclasses.replace(case, **same)


def _reads(algorithm: str, key: str) -> bool:
    """Whether the waits of *algorithm* depend on the setting *key*."""
    if key in READABLE:
        return key in ORCHESTRATIONS[algorithm].reads
    drafts = ORCHESTRATIONS[algorithm].traits.drafts
    return drafts or not key.startswith(("drafter.", "acceptance."))


def run_grid(
    study: Study,
    *,
    store: Store | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> StudyResult:
    """Run all cases of *study* in real time, one after the other.

    Args:
        study: the study.
        store: where finished jobs are kept, to go on from after an interruption.
        progress: called with the simulated seconds of each run that has ended.

    Raises:
        UserError: a case has too many target servers.
        EngineError: a wait never ended.
    """
    store = store or Store()
    grid = empty_grid(study)
    extra = {name: np.full_like(grid.outcomes["latency_mean_ms"], np.nan) for name in EXTRA}
    jobs = jobs_of(study, grid)
    takes = [ORCHESTRATIONS[name].traits.several_targets for name in grid.algorithms]
    most = max([1, *(j.case.targets for j in jobs if takes[j.algorithm])])
    if most > MAX_TARGETS:
        raise UserError(
            Problem(
                study.source,
                "targets",
                f"{most:,} target servers are more than the {MAX_TARGETS} that can wait for real; "
                f"leave such cases out with --set max_targets={MAX_TARGETS}",
            )
        )
    with Waiters(most) as waiters, _quiet():
        for number, job in enumerate(jobs):
            name = grid.algorithms[job.algorithm]
            found = store.get(number)
            if found is None:
                found = measure(job.case, name, waiters, progress)
                store.put(number, found)
            else:
                progress(float(found[len(OUTCOMES)]) / 1e3 * job.case.repeats)
            for at, into in ((0, grid.outcomes), (len(OUTCOMES), extra)):
                for value, values in zip(found[at:], into.values(), strict=False):
                    values.reshape(len(grid.algorithms), -1)[job.algorithm, job.numbers] = value
    return grid.result(extra)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No collection of garbage in the middle of a wait."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure(
    case: Case,
    algorithm: str,
    waiters: Waiters,
    progress: Callable[[float], None] = lambda _: None,
) -> NDArray[np.float64]:
    """All repeats of *case*: float64, the outcomes and then those of real time (:data:`EXTRA`)."""
    ranks = case.acceptance.ranks(case.seed, case.repeats, case.tokens)
    runs, ideal_ns, beyond, stalls = [], [], [], 0
    for repeat in range(case.repeats):
        ideal = run_events(case, algorithm, repeat, ranks[repeat])
        ideal_ns.append(ideal.output.settled_ns[-1])
        beyond.append(ideal.beyond_share)
        run = run_wallclock(case, algorithm, repeat, waiters, ranks[repeat])
        for _ in range(MAX_RETRIES):
            if max(run.oversleep_ns, default=0) <= STALL_NS:
                break
            stalls += 1
            run = run_wallclock(case, algorithm, repeat, waiters, ranks[repeat])
        runs.append(run)
        progress(ideal_ns[-1] / 1e9)
    latency_ns = np.array([[run.output.settled_ns[-1] for run in runs]])
    counts = np.array([run.counts for run in runs])
    overhead = latency_ns[0] / np.array(ideal_ns) - 1
    oversleep_ns = np.concatenate([run.oversleep_ns for run in runs])
    handover_ns = np.concatenate([run.handover_ns for run in runs])
    statistics = [values[0] for values in summarise(latency_ns)]
    return np.array(
        [
            *statistics,
            *counts[:, :-1].mean(axis=0),
            counts[:, -1].max(),
            np.mean(beyond),
            np.mean(ideal_ns) / 1e6,
            latency_ns.sum() / sum(ideal_ns) - 1,
            overhead[np.abs(overhead).argmax()],
            oversleep_ns.mean() / 1e6,
            oversleep_ns.max() / 1e6,
            handover_ns.mean() / 1e6,
            stalls,
        ]
    )


def _repeated(count: int) -> str:
    return f"{plural(count, 'run')} {'was' if count == 1 else 'were'}"


def notes(frame: Any) -> list[str]:
    """What a reader of wall-clock results must know of them, in sentences."""
    if not set(EXTRA) <= set(frame):
        return []
    told = frame.dropna(subset=[*EXTRA])
    if told.empty:
        return []
    ratio = told["latency_mean_ms"].sum() / told["simulated_latency_mean_ms"].sum() - 1
    by_case = told["overhead_mean"]
    worst = by_case.loc[by_case.abs().idxmax()]
    run = told.loc[told["overhead_worst"].abs().idxmax(), "overhead_worst"]
    mean_ms, worst_ms = told["oversleep_mean_ms"].mean(), told["oversleep_worst_ms"].max()
    stalls = told.drop_duplicates(["latency_mean_ms", "algorithm"])["stalls"].sum()
    return [
        f"Real waits, one case at a time: they overshot by {mean_ms:.3f} ms in the mean, "
        f"{worst_ms:.2f} ms at worst. Against simulated time of the same draws, the table as a "
        f"whole took {ratio:+.2%}, the worst case {worst:+.2%}, the worst single run {run:+.2%}."
        + (f" {_repeated(round(stalls))} repeated {STALLED}." if stalls else "")
    ]
