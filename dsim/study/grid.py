"""All cases of a study: grid in, results table out.

The table does not depend on the number of workers, on the order in which cases are finished, or on
whether the run was interrupted.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dsim.engines import vector
from dsim.engines.simulate import engine_for, run_events
from dsim.events.run import COUNTS
from dsim.model.statistics import half_width, summarise
from dsim.orchestrations import ORCHESTRATIONS, READABLE, REFERENCES
from dsim.study.build import acceptance_of, case_of
from dsim.study.columns import BEYOND, COLUMNS, column_of
from dsim.study.executors import Executor, Store
from dsim.study.results import StudyResult
from dsim.study.study import Study, points
from dsim.study.timings import TIMING_KEYS, is_inner, timings_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from dsim.model.acceptance import Acceptance
    from dsim.model.case import Case

    Floats = NDArray[np.float64]

STATISTICS = ("latency_mean_ms", "latency_std_ms", "latency_min_ms", "latency_max_ms")
OUTCOMES = (*STATISTICS, *COUNTS, BEYOND.name)
CELLS_AT_ONCE = 2**22  # draws of one batch in the vector engine
TIMINGS_AT_ONCE = 512
CHUNKS = 256  # into how many pieces, at most, event cases are cut for workers and for resuming
TASK_TOKENS = 50_000  # by each algorithm, in one task, which takes seconds; a longer case is cut
HERE = Executor()  # in this process


class _Task(NamedTuple):
    """Work for the event engine: several whole cases, or one case and some of its repeats."""

    cases: list[int]
    some: range
    repeats: int  # of a case

    @property
    def whole(self) -> bool:
        return len(self.some) == self.repeats


class _Grid:
    """One study on its way to a table.

    Outcomes have the shape (algorithms, variants, *axes); what is known of a case beforehand has
    the shape (variants, *axes).
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.algorithms: list[str] = study.settings["algorithms"]
        self.shape = (len(study.variants), *study.shape)
        full = (len(self.algorithms), *self.shape)
        names = OUTCOMES if study.has_tables else OUTCOMES[:-1]  # beyond a table, if there is one
        self.outcomes = {name: np.empty(full) for name in names}
        self.targets = np.zeros(self.shape, np.int64)
        self.target_ms, self.drafter_ms = np.zeros(self.shape), np.zeros(self.shape)
        self.by_vector = np.zeros(full, np.bool_)
        self.keys = [axis.key for axis in study.grid]

    def blocks(self) -> Iterator[tuple[int, tuple[Any, ...], dict[str, Any]]]:
        """Blocks of cases with one engine: variant, index into the axes, settings."""
        outer = [axis for axis in self.study.grid if not is_inner(axis)]
        for variant in range(len(self.study.variants)):
            settings = self.study.of_variant(variant)
            for point in points(outer):
                yield variant, self.index_of(point), settings | point

    def index_of(self, point: Mapping[str, Any]) -> tuple[Any, ...]:
        """The index into the axes of all cases that have the values of *point*."""
        return tuple(
            axis.values.index(point[axis.key]) if axis.key in point else slice(None)
            for axis in self.study.grid
        )

    def note(self, where: tuple[Any, ...], case: Case) -> None:
        """Note what is known of a case before it runs."""
        self.targets[where] = case.targets
        self.target_ms[where] = case.target.latency_ns / 1e6
        self.drafter_ms[where] = case.drafter.latency_ns / 1e6

    # The vector engine

    def run_block(
        self,
        variant: int,
        index: tuple[Any, ...],
        settings: dict[str, Any],
        algorithms: Sequence[str],
    ) -> None:
        """Run a block by *algorithms* on the vector engine."""
        inner = [axis for axis in self.study.grid if is_inner(axis)]
        timing_axes = [axis for axis in inner if axis.key in TIMING_KEYS]
        draw_axes = [axis for axis in inner if axis.key not in TIMING_KEYS]
        # From (timing axes, draw axes) to the order of the grid.
        order = [axis.key for axis in timing_axes + draw_axes]
        transpose = [order.index(axis.key) for axis in inner]
        sizes = [len(axis.values) for axis in timing_axes + draw_axes]

        def spread(values: NDArray[Any]) -> NDArray[Any]:
            return values.reshape(sizes).transpose(transpose)

        timings = list(timings_of(settings, timing_axes))
        groups = [acceptance_of(settings | point) for point in points(draw_axes)]
        wide = np.ones(len(groups))
        where = (variant, *index)
        for array, values in (
            (self.targets, [t.targets for t in timings]),
            (self.target_ms, [t.target_ns / 1e6 for t in timings]),
            (self.drafter_ms, [t.drafter_ns / 1e6 for t in timings]),
        ):
            array[where] = spread(np.multiply.outer(np.array(values), wide))

        repeats, tokens = settings["repeats"], settings["tokens"]
        at_once = max(1, CELLS_AT_ONCE // (repeats * tokens))
        pieces = []
        for at in range(0, len(groups), at_once):
            some = groups[at : at + at_once]
            # Runs are numbered repeat by repeat, so that sums over repeats are sums of rows.
            ranks = [g.ranks(settings["seed"], repeats, tokens)[:, 0] for g in some]
            branches = vector.Branches.of(np.stack(ranks, axis=1).reshape(-1, tokens), some)
            pieces.append((slice(at, at + len(some)), branches))
        room = {name: np.zeros((len(timings), len(groups))) for name in self.outcomes}
        for algorithm in algorithms:
            a = self.algorithms.index(algorithm)
            self.by_vector[(a, *where)] = True
            for columns, branches in pieces:
                totals = vector.form_of(algorithm).totals(timings, branches)
                for name in COUNTS:
                    counts = getattr(totals, name).reshape(len(totals.time), repeats, -1)
                    reduced = counts.max(axis=1) if name == "peak_targets" else counts.mean(axis=1)
                    room[name][:, columns] = reduced[totals.row]
                for c in range(0, len(timings), TIMINGS_AT_ONCE):
                    rows = slice(c, c + TIMINGS_AT_ONCE)
                    latency_ns = totals.latency_ns(rows)
                    latency_ns = latency_ns.reshape(len(latency_ns), repeats, -1)
                    for name, statistic in zip(STATISTICS, summarise(latency_ns), strict=True):
                        room[name][rows, columns] = statistic
            for name, found in room.items():
                self.outcomes[name][(a, *where)] = spread(found)

    # The event engine

    def engine_of(self, case: Case, algorithm: str) -> str:
        """The engine that takes *case* by *algorithm*."""
        asked: str = self.study.settings["engine"]
        return engine_for(case, [algorithm]) if asked == "auto" else asked

    def case_at(self, number: int) -> tuple[tuple[int, ...], Case]:
        """Index and case of case *number* of the whole grid."""
        where = tuple(int(i) for i in np.unravel_index(number, self.shape))
        values = {a.key: a.values[i] for a, i in zip(self.study.grid, where[1:], strict=True)}
        return where, case_of(self.study.of_variant(where[0]) | values)

    def runs_of(self, number: int, repeats: range) -> NDArray[np.float64]:
        """Run *repeats* of case *number* on the event engine.

        Returns:
            float64 (algorithms, repeats, 2 + counts): latency (ns), counts, and the share of
            forwards beyond the measured widths. Empty (NaN) is what the vector engine fills, and
            cases that differ from another one only in what the algorithm does not read.
        """
        where, case = self.case_at(number)
        limit = self.study.settings["max_targets"]
        runs = np.full((len(self.algorithms), len(repeats), 2 + len(COUNTS)), np.nan)
        ranks = case.acceptance.ranks(case.seed, len(repeats), case.tokens, repeats.start)
        for a, algorithm in enumerate(self.algorithms):
            if self.engine_of(case, algorithm) == "vector" or self._repeats(where, algorithm):
                continue
            takes_targets = ORCHESTRATIONS[algorithm].traits.several_targets
            if takes_targets and limit is not None and case.targets > limit:
                continue
            for r, repeat in enumerate(repeats):
                run = run_events(case, algorithm, repeat, ranks[r])
                runs[a, r] = run.output.settled_ns[-1], *run.counts, run.beyond_share
        return runs

    def _unread(self, algorithm: str) -> list[int]:
        """The axes (of a case's index) whose values make no difference to *algorithm*."""
        reads = ORCHESTRATIONS[algorithm].reads
        keys = enumerate(self.keys, 1)
        return [axis for axis, key in keys if key in READABLE and key not in reads]

    def _repeats(self, where: Sequence[int], algorithm: str) -> bool:
        """Whether an earlier case is the same to *algorithm* as the one at *where*."""
        return any(where[axis] for axis in self._unread(algorithm))

    def spread(self) -> None:
        """Copy outcomes along axes whose values make no difference to an algorithm."""
        for a, algorithm in enumerate(self.algorithms):
            for axis, values in itertools.product(self._unread(algorithm), self.outcomes.values()):
                first = values[a].take([0], axis=axis)
                values[a] = np.where(self.by_vector[a], values[a], first)

    def run_events(
        self,
        numbers: NDArray[np.int64],
        executor: Executor,
        store: Store,
        progress: Callable[[float], None],
    ) -> None:
        """Run the cases *numbers* on the event engine, in tasks that *store* remembers."""
        tasks = list(self._tasks(numbers))
        parts: dict[int, dict[int, NDArray[np.float64]]] = {}

        def done(number: int, result: NDArray[np.float64]) -> None:
            task = tasks[number]
            progress(len(task.cases) * len(task.some) / task.repeats)
            if task.whole:
                self.fill(task.cases, result)
                return
            known = parts.setdefault(task.cases[0], {})
            known[task.some.start] = result
            if sum(part.shape[1] for part in known.values()) == task.repeats:
                runs = np.concatenate([known[start] for start in sorted(known)], axis=1)
                del parts[task.cases[0]]
                self.fill(task.cases, _outcomes(runs)[np.newaxis])

        work = sum(len(task.cases) * len(task.some) for task in tasks)
        tokens = self.study.settings["tokens"]
        executor.for_work(work * tokens).each(_prepare, self.study, tasks, store, done)

    def _tasks(self, numbers: NDArray[np.int64]) -> Iterator[_Task]:
        per_variant = math.prod(self.shape[1:])
        for chunk in np.array_split(numbers, min(CHUNKS, len(numbers))):
            for variant, cases in itertools.groupby(chunk.tolist(), lambda n: n // per_variant):
                settings = self.study.of_variant(variant)
                repeats, some = settings["repeats"], max(1, TASK_TOKENS // settings["tokens"])
                if some >= repeats:
                    yield _Task(list(cases), range(repeats), repeats)
                    continue
                for case, start in itertools.product(cases, range(0, repeats, some)):
                    yield _Task([case], range(start, min(start + some, repeats)), repeats)

    def fill(self, numbers: list[int], outcomes: NDArray[np.float64]) -> None:
        """Put the outcomes of cases *numbers* in their place."""
        cases = np.array(numbers)
        by_vector = self.by_vector.reshape(len(self.algorithms), -1)
        places = enumerate(self.outcomes.values())
        for a, (i, values) in itertools.product(range(len(self.algorithms)), places):
            flat = values.reshape(len(self.algorithms), -1)
            own = ~by_vector[a, cases]
            flat[a, cases[own]] = outcomes[own, a, i]

    # The table

    def result(self, extra: Mapping[str, Floats] | None = None) -> StudyResult:
        """The table of all that was run; *extra* columns have the shape of the outcomes."""
        import pyarrow as pa

        cases, full = math.prod(self.shape), (len(self.algorithms), *self.shape)
        settings, grid = self.study.settings, self.study.grid

        def flat(values: NDArray[Any]) -> NDArray[Any]:
            """From one value a case to one a row."""
            return np.broadcast_to(values, full).reshape(-1)

        def along(number: int, values: Sequence[Any]) -> NDArray[Any]:
            """The values of an axis, spread over the grid."""
            shape = [1] * len(self.shape)
            shape[number] = -1
            return np.array(values).reshape(shape)

        kept = np.ones(full, np.bool_)
        if settings["max_targets"] is not None:
            for number, name in enumerate(self.algorithms):
                if ORCHESTRATIONS[name].traits.several_targets:
                    kept[number] = self.targets <= settings["max_targets"]
        kept = kept.reshape(-1)
        rows = None if kept.all() else np.flatnonzero(kept)

        def column(values: NDArray[Any], words: Sequence[str] | None = None) -> pa.Array:
            values = values if rows is None else values[rows]
            if words is None:
                return pa.array(values)
            return pa.DictionaryArray.from_arrays(values, pa.array(words, pa.string()))

        names = [name for name, _ in self.study.variants]
        numbers = np.arange(len(self.algorithms), dtype=np.int32)
        columns = {
            "variant": column(flat(along(0, range(len(names))).astype(np.int32)), names),
            "algorithm": column(np.repeat(numbers, cases), self.algorithms),
            "engine": column(self.by_vector.reshape(-1).astype(np.int32), ["events", "vector"]),
            "backend": column(np.zeros(len(kept), np.int32), [settings["backend"]]),
        }
        given: dict[str, NDArray[Any]] = {}
        for number, axis in enumerate(grid, 1):
            given[column_of(axis.key)] = along(number, axis.values)
        variant_settings = [self.study.of_variant(v) for v in range(len(names))]
        for key in ("tokens", "repeats", "lookahead"):
            given.setdefault(key, along(0, [v[key] for v in variant_settings]))
        if "acceptance_rate" not in given:
            given["acceptance_rate"] = self._rates()
        published = [v["published.speedup_vs_si"] for v in variant_settings]
        if any(value is not None for value in published):
            values = [np.nan if value is None else value for value in published]
            given["published_speedup_vs_si"] = along(0, values)
        given |= {
            "targets": self.targets,
            "target_latency_ms": self.target_ms,
            "drafter_latency_ms": self.drafter_ms,
        }
        standard = [c.name for c in COLUMNS if c.kind == "setting" and c.name in given]
        order = [*standard, *(n for n in given if n not in standard)]
        with ThreadPoolExecutor(1) as beside:
            asked = beside.submit(lambda: {name: column(flat(given[name])) for name in order})
            outcomes = {**self._all_outcomes(given["tokens"]), **(extra or {})}
            found = {name: column(values.reshape(-1)) for name, values in outcomes.items()}
            columns |= asked.result() | found
        vectors = int(self.by_vector.reshape(-1)[slice(None) if rows is None else rows].sum())
        total = int(kept.sum())
        engines = {"events": total - vectors, "vector": vectors}
        return StudyResult(
            table=pa.table(columns),
            cases=cases,
            left_out=len(kept) - total,
            engines={name: count for name, count in engines.items() if count},
        )

    def _all_outcomes(self, tokens: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """The outcomes of the table, also those that follow from others, for texts of *tokens*."""
        latency, std = self.outcomes["latency_mean_ms"], self.outcomes["latency_std_ms"]
        repeats = [self.study.of_variant(v)["repeats"] for v in range(len(self.study.variants))]
        more = [1] * len(self.study.grid)
        reference = {name: latency[a] for a, name in enumerate(self.algorithms)}
        all_ = self.outcomes | {
            "latency_mean_ci95_ms": half_width(
                std, np.array(repeats).reshape(-1, *more), self._texts()
            ),
            "ms_per_token": latency / tokens,
        }
        with np.errstate(invalid="ignore"):
            for name in REFERENCES:
                all_[f"speedup_vs_{name}"] = reference.get(name, np.nan) / latency
        shown = (*COLUMNS, BEYOND) if self.study.has_tables else COLUMNS
        return {
            c.name: np.nan_to_num(all_[c.name]).astype(np.int64)
            if c.dtype == "int64"
            else all_[c.name]
            for c in shown
            if c.kind == "outcome"
        }

    def _texts(self) -> NDArray[np.float64]:
        """How many repeats have draws of their own."""
        return self._by_acceptance(lambda of, values: of.texts(values["repeats"]), ())

    def _rates(self) -> NDArray[np.float64]:
        """Acceptance rates where they are not an axis; of a trace, the share that was accepted."""

        def rate(of: Acceptance, values: Mapping[str, Any]) -> float:
            if of.model != "trace":
                return of.rate
            return float(of.draws(0, values["repeats"], values["tokens"]).mean())

        return self._by_acceptance(rate, ("tokens",))

    def _by_acceptance(
        self, what: Callable[[Acceptance, Mapping[str, Any]], float], more: Sequence[str]
    ) -> NDArray[np.float64]:
        """Something of each case that its acceptance and the axes *more* decide."""
        found = np.empty(self.shape)
        telling = [a for a in self.study.grid if a.key in more or a.key.startswith("acceptance.")]
        for variant in range(len(self.study.variants)):
            for point in points(telling):
                values = self.study.of_variant(variant) | point
                found[(variant, *self.index_of(point))] = what(acceptance_of(values), values)
        return found


def _prepare(study: Study) -> Callable[[_Task], NDArray[np.float64]]:
    """What does a task: the outcomes of whole cases, or the runs of some repeats of one."""
    grid = _Grid(study)

    def work(task: _Task) -> NDArray[np.float64]:
        if not task.whole:
            return grid.runs_of(task.cases[0], task.some)
        return np.stack([_outcomes(grid.runs_of(case, task.some)) for case in task.cases])

    return work


def _outcomes(runs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the runs of one case (see :meth:`_Grid.runs_of`): float64 (algorithms, outcomes)."""
    rows = np.full((len(runs), len(OUTCOMES)), np.nan)
    for row, of_algorithm in zip(rows, runs, strict=True):
        if np.isnan(of_algorithm[0, 0]):
            continue
        latency_ns, counts = of_algorithm[np.newaxis, :, 0].astype(np.int64), of_algorithm[:, 1:-1]
        row[: len(STATISTICS)] = [values[0] for values in summarise(latency_ns)]
        row[len(STATISTICS) : -2] = counts[:, :-1].mean(axis=0)
        row[-2:] = counts[:, -1].max(), of_algorithm[:, -1].mean()
    return rows


def empty_grid(study: Study) -> _Grid:
    """The grid of *study* with nothing in it yet."""
    grid = _Grid(study)
    for outcomes in grid.outcomes.values():
        outcomes[:] = np.nan
    return grid


def simulate_grid(
    study: Study,
    *,
    executor: Executor = HERE,
    store: Store | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> _Grid:
    """Simulate all cases of *study*; see :func:`run_grid`, which makes a table of it."""
    grid = _Grid(study)
    by_events = np.zeros(grid.shape, np.bool_)
    for variant, index, settings in grid.blocks():
        sample = case_of(settings | {a.key: a.values[0] for a in study.grid if is_inner(a)})
        taken = [name for name in grid.algorithms if grid.engine_of(sample, name) == "vector"]
        if taken:
            grid.run_block(variant, index, settings, taken)
        if len(taken) < len(grid.algorithms):
            by_events[(variant, *index)] = True
        else:
            progress(int(by_events[(variant, *index)].size))
    numbers = np.flatnonzero(by_events)
    for number in numbers:
        where, case = grid.case_at(int(number))
        grid.note(where, case)
    if len(numbers):
        grid.run_events(numbers, executor, store or Store(), progress)
        grid.spread()
    return grid


def run_grid(
    study: Study,
    *,
    executor: Executor = HERE,
    store: Store | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> StudyResult:
    """Run all cases of *study*.

    Args:
        study: the study.
        executor: what runs the cases of the event engine.
        store: where finished chunks are kept, to go on from after an interruption.
        progress: called with the number of cases that have just been finished.
    """
    return simulate_grid(study, executor=executor, store=store, progress=progress).result()
