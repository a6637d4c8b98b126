"""The Python interface: ``dsim.simulate``, ``dsim.run``, and the objects that they return."""

from __future__ import annotations

import dataclasses
import math
import warnings
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.engines import simulate as engine_room
from dsim.errors import Problem, UserError
from dsim.events.run import COUNTS
from dsim.model.statistics import half_width
from dsim.orchestrations import DEFAULT, ORCHESTRATIONS, orchestration_of
from dsim.report.tables import text_table
from dsim.study import loader
from dsim.study import study as studies
from dsim.study.columns import column_of
from dsim.study.executors import Executor
from dsim.study.folder import results_folder
from dsim.study.idle import never_right
from dsim.study.presets import PRESETS
from dsim.study.settings import BY_KEY
from dsim.study.shipped import path_of
from dsim.tasks.check import doubts
from dsim.tasks.simulate import case_in, describe, said_twice, study_from, without_effect
from dsim.words import nearest, plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import altair as alt
    import pandas as pd

    from dsim.model.case import Case
    from dsim.report.charts import Panel
    from dsim.study.results import StudyResult

# Keywords of `simulate` that are shorter than the names of their settings.
SHORT = {
    "target_ms": "target.latency_ms",
    "drafter_ms": "drafter.latency_ms",
    "acceptance": "acceptance.rate",
}
MAX_SHOWN = 12  # rows of results that are printed
SHOWN = (
    *("latency_mean_ms", "speedup_vs_nonsi", "speedup_vs_si", "ttft_p50_ms", "tpot_mean_ms"),
    *("latency_p99_ms", "tokens_per_s", "good_share"),
)
OF_STUDIES = ("title", "description", "algorithms", "backend", "engine", "max_targets", "minimise")
KEYWORDS = {
    **{key.replace(".", "_"): key for key in BY_KEY if key not in OF_STUDIES},
    **SHORT,
}


class Study(studies.Study):
    """A checked study; see :class:`dsim.study.study.Study`.

    Make one with :meth:`load`, :meth:`from_dict` or :meth:`from_toml`.
    """

    @classmethod
    def load(cls, path: Path | str, *, set: Mapping[str, Any] | None = None) -> Study:  # noqa: A002
        """Read a study from a TOML file.

        Args:
            path: path of the file, or the name of a study that comes with dsim.
            set: settings to override, by key.

        Raises:
            UserError: with all problems that were found.
        """
        return cls._of(loader.load(path_of(path), overrides_of(set)))

    @classmethod
    def from_toml(
        cls,
        text: str,
        *,
        set: Mapping[str, Any] | None = None,  # noqa: A002
        folder: Path | str = ".",
    ) -> Study:
        """Read a study from TOML text.

        Args:
            text: the text.
            set: settings to override, by key.
            folder: folder of the data files that the text names.

        Raises:
            UserError: with all problems that were found.
        """
        return cls._of(loader.loads(text, "study", overrides_of(set), Path(folder)))

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        *,
        set: Mapping[str, Any] | None = None,  # noqa: A002
        folder: Path | str = ".",
    ) -> Study:
        """Make a study from a dictionary with the structure of the TOML file.

        Args:
            values: the tables of the study; keys may be dotted.
            set: settings to override, by key.
            folder: folder of the data files that *values* name.

        Raises:
            UserError: with all problems that were found.
        """
        import tomli_w

        return cls.from_toml(tomli_w.dumps(_nested(values)), set=set, folder=folder)

    @classmethod
    def _of(cls, study: studies.Study) -> Study:
        return cls(**{field.name: getattr(study, field.name) for field in dataclasses.fields(cls)})


def load(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read the study at *path*, with ``key=value`` *overrides*; see :meth:`Study.load`."""
    return Study._of(loader.load(path_of(path), overrides))


def loads(
    text: str, source: str = "study", overrides: Sequence[str] = (), folder: Path = Path()
) -> Study:
    """Read a study from TOML *text*; see :meth:`Study.from_toml`."""
    return Study._of(loader.loads(text, source, overrides, folder))


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """*values* with dotted keys made tables, but in ``grid`` and lists, which keep their order."""
    root: dict[str, Any] = {}
    for key, value in values.items():
        *path, name = key.split(".")
        table = root
        for part in path:
            table = table.setdefault(part, {})
        if isinstance(value, dict):
            table.setdefault(name, {}).update(value if name == "grid" else _nested(value))
        else:
            table[name] = plain(value)
    return root


def plain(value: Any) -> Any:
    """*value* without NumPy's types."""
    return value.tolist() if hasattr(value, "tolist") else value


def overrides_of(settings: Mapping[str, Any] | None) -> list[str]:
    """*settings* as ``key=value`` texts."""
    return [f"{key}={studies.inline(plain(value))}" for key, value in (settings or {}).items()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome(engine_room.Outcome):
    """The simulated repeats of one case; each array has one element per repeat.

    Attributes:
        case: the case that was simulated.
    """

    case: Case

    @property
    def table(self) -> pd.DataFrame:
        """One row per repeat: latency (ms), passes and drafts, and how many were wasted."""
        import pandas as pd

        columns = {name: getattr(self, name) for name in COUNTS}
        latency_ms = self.latency_ns / 1e6
        return pd.DataFrame({"repeat": range(len(latency_ms)), "latency_ms": latency_ms, **columns})

    def timeline(self, repeat: int = 0) -> alt.Chart | alt.LayerChart:
        """A chart of one repeat, with one lane per server.

        Args:
            repeat: number of the repeat, from 0.

        Raises:
            UserError: there is no such repeat.
        """
        from dsim.report import timeline

        if not 0 <= repeat < self.case.repeats:
            what = f"expected a number from 0 to {self.case.repeats - 1}, got {repeat}"
            raise UserError(Problem("timeline", "repeat", what))
        run = engine_room.run_events(self.case, self.algorithm, repeat, keep_history=True)
        title = ORCHESTRATIONS[self.algorithm].title
        chart: alt.Chart | alt.LayerChart
        chart = _sized(timeline.panel("timeline", f"{title}, repeat {repeat}", run), width=700)
        return chart

    def __repr__(self) -> str:
        """The case, and a small table: mean, 95 % interval and extremes over the repeats."""
        rows = []
        latency_ms = self.latency_ns / 1e6
        texts = self.case.acceptance.texts(len(latency_ms))
        counts = [(name.replace("_", " "), getattr(self, name)) for name in COUNTS]
        for name, values in [("latency (ms)", latency_ms), *counts]:
            std = values.std(ddof=1) if texts > 1 else math.nan
            half = half_width(std, len(values), texts)
            known = "" if math.isnan(half) else f"{half:,.1f}"
            ends = (f"{value:,.1f}" for value in (values.min(), values.max()))
            rows.append([name, f"{values.mean():,.1f}", known, *ends])
        head = ["", "mean", "± 95 %", "smallest", "largest"]
        title = ORCHESTRATIONS[self.algorithm].title
        repeats = plural(len(latency_ms), "repeat")
        first = (
            f"{title}, {repeats} ({self.engine} engine): {describe(self.case, [self.algorithm])}"
        )
        return "\n".join([first, *text_table(head, rows)])

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """What a notebook shows: the timeline of the first repeat."""
        return _bundle(self.timeline(), repr(self), *args, **kwargs)


def simulate(
    algorithm: str = DEFAULT,
    *,
    target_ms: float = 30.0,
    drafter_ms: float = 3.0,
    acceptance: float = 0.8,
    lookahead: int = 5,
    targets: int | str = 7,
    tokens: int = 100,
    repeats: int = 20,
    seed: int = 0,
    preemptible: bool = True,
    engine: str = "auto",
    set: Mapping[str, Any] | None = None,  # noqa: A002
    **others: Any,
) -> Outcome:
    """Simulate one case by one algorithm.

    Args:
        algorithm: name of the algorithm (orchestration).
        target_ms: latency of one target pass, in ms.
        drafter_ms: latency of one draft token, in ms.
        acceptance: probability that the target accepts a draft token.
        lookahead: draft tokens per target pass.
        targets: number of target servers, or ``enough``.
        tokens: number of tokens to generate.
        repeats: number of runs with random draws of their own.
        seed: seed of the random draws.
        preemptible: whether a cancelled pass frees its server at once.
        engine: ``auto``, ``vector`` or ``events``.
        set: further settings by key, like ``{"drafter.latency_model": "gamma"}``; see
            ``dsim settings``. They win over the keywords.
        others: further settings by name, with an underscore in place of each dot.

    Raises:
        UserError: an unknown algorithm or setting, or a value that is not valid.

    Warns:
        UserWarning: a setting has no effect.
    """
    given = {
        "target_ms": target_ms,
        "drafter_ms": drafter_ms,
        "acceptance": acceptance,
        "lookahead": lookahead,
        "targets": targets,
        "tokens": tokens,
        "repeats": repeats,
        "seed": seed,
        "preemptible": preemptible,
    }
    for name in others:
        if name not in KEYWORDS:
            what = f"unknown keyword{nearest(name, [*given, 'engine', 'set', *KEYWORDS])}"
            raise UserError(Problem("simulate", name, what))
    further = overrides_of({KEYWORDS[name]: value for name, value in others.items()})
    overrides = [*further, *overrides_of(set)]
    defaults = simulate.__kwdefaults__ or {}
    method = (set or {}).get("method", others.get("method"))
    of_method = PRESETS[method].settings if method in PRESETS else {}
    settings = {
        KEYWORDS[name]: plain(value)
        for name, value in given.items()
        if KEYWORDS[name] not in of_method or value != defaults[name]  # which nobody gave
    }
    chosen = {KEYWORDS[name]: name for name, value in given.items() if value != defaults[name]}
    apart = [text for text in overrides_of(set) if text.partition("=")[0] not in chosen]
    if twice := said_twice(chosen, [*further, *apart]):
        raise UserError(*twice)
    try:
        study = study_from(settings, overrides)
        case = case_in(study)
    except UserError as error:
        raise UserError(*(_by_keyword(problem) for problem in error.problems)) from None
    found = simulate_case(case, algorithm, engine)
    one = study.of_variant(0) | {"algorithms": [algorithm]}
    for told in [
        *doubts([algorithm]),
        *without_effect(study, [algorithm]),
        *never_right([one]),
    ]:
        warnings.warn(told, stacklevel=2)
    return found


def _by_keyword(problem: Problem | str) -> Problem | str:
    """*problem* with its setting called by the keyword that stands for it."""
    if isinstance(problem, str) or problem.source not in ("settings", "--set"):
        return problem
    short = {key: name for name, key in SHORT.items()}
    return Problem("simulate", short.get(problem.key, problem.key), problem.what)


def simulate_case(case: Case, algorithm: str, engine: str = "auto") -> Outcome:
    """Simulate all repeats of *case*.

    Args:
        case: the case to simulate.
        algorithm: name of the algorithm (orchestration).
        engine: ``auto``, ``vector`` or ``events``.

    Raises:
        UserError: there is no such algorithm.
        ValueError: the vector engine cannot take this case.
    """
    orchestration_of(algorithm)
    found = engine_room.simulate_case(case, algorithm, engine)
    return Outcome(**vars(found), case=case)


class Results:
    """The results of a study.

    Attributes:
        study: the study that was run.
    """

    def __init__(self, study: studies.Study, found: StudyResult) -> None:
        self.study = study
        self._found = found

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per case and algorithm; ``docs/results.md`` describes the columns."""
        frame: pd.DataFrame = self._found.table.to_pandas()
        return frame

    @cached_property
    def charts(self) -> list[alt.Chart]:
        """The charts that the study asks for, or those that fit its axes."""
        from dsim.tasks.drawing import view_of

        view = view_of(self.table, self.study, backlogs=self._found.backlogs)
        return [_sized(panel) for _, make in view.charts for panel in make()]

    def save(self, folder: Path | str, *, force: bool = False) -> Path:
        """Write a results folder like that of ``dsim run``.

        Args:
            folder: the folder; made if need be.
            force: whether to replace other results in it.

        Returns:
            The path of the report.

        Raises:
            UserError: the folder holds something else, or cannot be written to.
        """
        from dsim.tasks import run as running

        folder = Path(folder)
        resolved = self.study.to_toml()
        with results_folder(folder, resolved, force=force, resume=False):
            return running.write_results(
                self.study, resolved, self._found, folder, None, csv=False
            ).report

    def __repr__(self) -> str:
        """The title, and a small table: the axes, and what users wait for."""
        title = self.study.settings["title"] or "Results"
        first = (
            f"{title}: {plural(self.study.case_count, 'case')}, {plural(len(self.table), 'row')}"
        )
        frame = self.table.head(MAX_SHOWN)
        axes = [column_of(axis.key) for axis in self.study.grid]
        keys = [*(["variant"] if self.study.variants[0][0] else []), "algorithm", *axes]
        shown = [name for name in (*keys, *SHOWN) if name in frame and frame[name].notna().any()]
        rows = []
        for row in frame.to_dict("records"):
            cells = [f"{v:.5g}" if isinstance(v := row[n], float) else str(v) for n in shown]
            at, half = shown.index("latency_mean_ms"), row.get("latency_mean_ci95_ms", math.nan)
            cells[at] += "" if math.isnan(half) else f" ± {half:.2g}"
            rows.append(cells)
        lines = [first, *text_table(shown, rows, left=keys.index("algorithm") + 1)]
        more = len(self.table) - len(frame)
        return "\n".join([*lines, *([f"… and {plural(more, 'row')} more: .table"] if more else [])])

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """What a notebook shows: the charts, or the table where there is none."""
        import altair as alt

        if not self.charts:
            return {"text/plain": repr(self), "text/html": self.table.to_html(max_rows=20)}
        shown = self.charts[0]
        if len(self.charts) > 1:
            shown = alt.vconcat(*self.charts).resolve_scale(color="independent")
        return _bundle(shown, repr(self), *args, **kwargs)


def _bundle(chart: Any, text: str, *args: Any, **kwargs: Any) -> Any:
    """What *chart* shows of itself, with *text* where only text can be shown."""
    found = chart._repr_mimebundle_(*args, **kwargs)
    data = found[0] if isinstance(found, tuple) else found
    data["text/plain"] = text
    return found


def run(
    study: Path | str | Mapping[str, Any] | studies.Study,
    *,
    set: Mapping[str, Any] | None = None,  # noqa: A002
    jobs: int = 1,
) -> Results:
    """Run a study: its whole grid of cases.

    Args:
        study: path of a study, the name of one that ships, a study, or a dictionary with the
            structure of its file.
        set: settings to override, by key; not for a :class:`Study`, which takes them when it is
            made.
        jobs: number of worker processes. In a script, more than 1 needs
            ``if __name__ == "__main__":``.

    Raises:
        UserError: with all problems of the study that were found.
    """
    if isinstance(study, studies.Study):
        if set:
            raise UserError("run: give `set` where the study is made: Study.load(path, set=…)")
        checked = study
    elif isinstance(study, str | Path):
        checked = Study.load(study, set=set)
    else:
        checked = Study.from_dict(study, set=set)
    from dsim.tasks.run import simulate as run_cases

    return Results(checked, run_cases(checked, executor=Executor(jobs=jobs)))


def _sized(panel: Panel, width: int = 0) -> Any:
    """The chart of *panel* with a title and a size."""
    from dsim.report.style import HEIGHT_PX, WIDTH_PX

    return panel.chart.properties(
        title=panel.title, width=width or panel.width or WIDTH_PX, height=panel.height or HEIGHT_PX
    )
