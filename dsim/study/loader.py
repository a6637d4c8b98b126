"""Strict TOML in, checked studies out; all problems of a file at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.study import named, profile
from dsim.study.axis_values import expand
from dsim.study.build import case_of
from dsim.study.checks import check_charts, check_together
from dsim.study.data import checked_trace, read_samples, read_traces
from dsim.study.deployment_checks import check_deployment, check_deployment_charts
from dsim.study.deployment_settings import DEPLOYMENT, DEPLOYMENT_TABLES
from dsim.study.presets import PRESETS, apply_presets, in_place_of
from dsim.study.setting import LISTED, Problems, Setting, exact, unprintable
from dsim.study.settings import (
    ALTERNATIVES,
    CHART_BY_KEY,
    COMMAND_TABLES,
    KNOWN_BY,
    MODEL_TABLES,
    OF_ONE_CASE,
    PAIR_TABLES,
    TEXT,
    without_others,
)
from dsim.study.study import Axis, Chart, Study
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.model.case import Case


def make_study(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Study:
    """A study of one case from settings by key, with ``key=value`` *overrides*.

    Raises:
        UserError: with all problems that were found.
    """
    return _Loader("settings", Path()).study(dict(settings), overrides)


def make_case(settings: Mapping[str, Any]) -> Case:
    """The case that settings by key describe, like ``{"drafter.latency_ms": 3.0}``.

    What is not given is as in ``dsim simulate`` (:data:`dsim.study.settings.OF_ONE_CASE`), else at
    its default.

    Raises:
        UserError: with all problems that were found.
    """
    return case_of(make_study(of_one_case(settings)).of_variant(0))


def of_one_case(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """*settings*, and what one case has in place of a study's defaults.

    Args:
        settings: values by key.
        overrides: ``key=value`` texts; a model that they name brings its own latency.
    """
    given = {*settings, *(text.partition("=")[0] for text in overrides)}
    values = dict(settings)
    for key, value in OF_ONE_CASE.items():
        instead = {*ALTERNATIVES.get(key, ()), key.replace(".latency_ms", ".model")} - {key}
        if not instead & given and not ("." in key and "pair" in settings):
            values.setdefault(key, value)
    return values


def load(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read the study at *path*, with ``key=value`` *overrides*.

    Raises:
        UserError: with all problems that were found.
    """
    path = Path(path)
    return loads(read_text(path), str(path), overrides, path.parent)


def parse(text: str, source: str) -> dict[str, Any]:
    """The TOML document *text*.

    Raises:
        UserError: it is not TOML.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(Problem(source, "", f"is not TOML: {error}")) from None
    except RecursionError:
        raise UserError(Problem(source, "", "is nested too deeply")) from None


def loads(
    text: str, source: str = "study", overrides: Sequence[str] = (), folder: Path = Path()
) -> Study:
    """The study that *text* (TOML) describes; data files are looked for in *folder*.

    Raises:
        UserError: with all problems that were found.
    """
    return _Loader(source, folder).study(parse(text, source), overrides)


class _Loader:
    """Checks one document and gathers its problems.

    Attributes:
        schema: what this kind of study can set; known once the tables of the file are.
        swept: keys of the axes of the grid.
        set_apart: keys that ``--set`` gave, which win over every pair.
    """

    def __init__(self, source: str, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.problems = Problems(source)
        self.schema = TEXT
        self.decides = ""  # the table of the file that makes it a study of a deployment
        self.swept: set[str] = set()
        self.set_apart: set[str] = set()

    @property
    def known(self) -> Mapping[str, Setting]:
        """The settings of this kind of study by key."""
        return self.schema.by_key

    def find_kind(self, tables: Sequence[Mapping[str, Any]]) -> None:
        """Decide by the tables of the file what kind of study it is.

        Args:
            tables: the document, its grid and its variants.

        Raises:
            UserError: it is a study of another command.
        """
        first = {key.partition(".")[0]: key for table in tables for key in table}
        for command, names in COMMAND_TABLES.items():
            for name in names:
                if name in first:
                    self.problems.add(name, f"this is a study of dsim {command}")
                    self.problems.stop()
        self.decides = next((name for name in DEPLOYMENT_TABLES if name in first), "")
        if self.decides:
            self.schema = DEPLOYMENT

    def study(self, document: dict[str, Any], overrides: Sequence[str]) -> Study:
        charts = self.table_list(document, "charts")
        variants = self.table_list(document, "variants")
        grid = document.pop("grid", {})
        if not isinstance(grid, dict):
            self.problems.add("grid", f"expected a table of axes, got {show(grid)}")
            grid = {}
        self.find_kind([document, grid, *variants])
        values = self.flatten(document)
        ranges = self.flatten(grid, "grid.")
        differing = [
            (variant.pop("name", None), self.flatten(variant, f"variants[{number}]."))
            for number, variant in enumerate(variants)
        ]
        written = [dict(own) for _, own in differing]
        before = [*ranges]
        for override in sorted(overrides, key=lambda text: not text.startswith("pair=")):
            self.override(override, values, ranges, [own for _, own in differing])
        # What --set gives one value is no axis any more, and charts of that axis are left out.
        gone = [key for key in before if key not in ranges]
        charts = [one for one in charts if not any(one.get(name) in gone for name in "xy")]
        differing = self.renamed(differing, written)
        apply_presets(values, [own for _, own in differing], self.problems)
        said = {key for table in (values, ranges, *(own for _, own in differing)) for key in table}
        if "replica.count" not in said and any(key.startswith("replica.") for key in said):
            values["replica.count"] = 1
        self.check_values(values)
        for number, (name, own) in enumerate(differing):
            if not isinstance(name, str) or not name:
                got = "nothing" if name is None else show(name)
                self.problems.add(f"variants[{number}].name", f"expected a text, got {got}")
            elif unprintable(name):
                wrong = f"holds a control character, got {show(name)}"
                self.problems.add(f"variants[{number}].name", wrong)
            self.check_values(own, f"variants[{number}].")
            for key in own.keys() & ranges.keys():
                self.problems.add(f"variants[{number}].{key}", "is an axis of the grid as well")
        names = [name for name, _ in differing]
        if len(set(map(str, names))) < len(names):
            self.problems.add("variants", "two variants have the same name")
        axes = [self.axis(key, value) for key, value in ranges.items()]
        for key in ranges:
            for other in {*ALTERNATIVES.get(key, ())} & {*values, *ranges}:
                self.problems.add(f"grid.{key}", f'cannot be set together with "{other}"')
            if key in values:
                preset = PRESETS.get(str(values.get("method")))
                if preset and key in preset.settings:
                    what = f'is set by method = "{preset.name}", and is an axis of the grid as well'
                    self.problems.add(key, f"{what}; {in_place_of(preset, key)}")
                else:
                    self.problems.add(key, "is set, and is an axis of the grid as well")
        minimise = values.get("minimise", [])
        for key in minimise if isinstance(minimise, list) else []:
            if key not in ranges:
                self.problems.add(
                    "minimise",
                    f"{show(key)} is not an axis of the grid{nearest(str(key), list(ranges))}",
                )
        drawn = tuple(filter(None, map(self.chart, range(len(charts)), charts)))
        self.swept = set(ranges)
        variants_with_pairs = [own for _, own in differing if "pair" in own]
        of_pair = self.read_files(values)
        if variants_with_pairs:
            # A variant's pair takes the place of the study's; it does not add to it.
            for key in [key for key in of_pair if key.startswith(MODEL_TABLES)]:
                value = values.pop(key)
                for _, own in differing:
                    if "pair" not in own and not own.keys() & {*ALTERNATIVES.get(key, ())}:
                        own.setdefault(key, value)
        for _, own in differing:
            self.read_files(own)
        given, shared = {*self.swept, *self.set_apart}, self.schema is DEPLOYMENT
        named.fill(values, [own for _, own in differing], given, self.problems, shared=shared)
        for own in variants_with_pairs:
            for model in MODEL_TABLES:
                kind = f"{model}latency_model"
                latency = f"{model}latency_ms" in own and f"{model}latency_by_width_ms" not in own
                if latency and values.get(kind) == "table" and kind not in self.swept:
                    own.setdefault(kind, "constant")
        self.problems.stop()
        values = exact(values, self.known)
        differing = [(name, exact(own, self.known)) for name, own in differing]
        settings = {s.key: values.get(s.key, s.default) for s in self.known.values()}
        settings |= without_others({**values, **ranges})
        study = Study(
            kind=self.schema.name,
            settings=settings,
            grid=tuple(axis for axis in axes if axis is not None),
            variants=tuple(differing) or (("", {}),),
            charts=drawn,
            ranges=ranges,
            source=self.source,
        )
        self.check(study)
        self.problems.stop()
        return study

    def table_list(self, document: dict[str, Any], name: str) -> list[dict[str, Any]]:
        tables = document.pop(name, [])
        if isinstance(tables, list) and all(isinstance(t, dict) for t in tables):
            return tables
        self.problems.add(name, f"expected a list of tables ([[{name}]]), got {show(tables)}")
        return []

    def flatten(self, table: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """The settings of *table* by key; notes those that this kind of study does not have."""
        flat: dict[str, Any] = {}
        for name, value in table.items():
            if name in self.schema.tables and isinstance(value, dict):
                flat |= {f"{name}.{k}": v for k, v in value.items()}
            else:
                flat[named.key_of(name, value)] = value
        for key in [key for key in flat if key not in self.known]:
            self.problems.add(where + key, self.unknown(key))
            del flat[key]
        return flat

    def unknown(self, key: str) -> str:
        """Why *key* is no setting of this kind of study."""
        if self.schema is DEPLOYMENT and key in TEXT.by_key:
            return (
                f"is a setting of single texts; the table [{self.decides}] makes this a study of a "
                "deployment"
            )
        if self.schema is TEXT and key in DEPLOYMENT.by_key:
            tables = ", ".join(f"[{name}]" for name in DEPLOYMENT_TABLES)
            return (
                "is a setting of a deployment; this is a study of single texts, as it has none of "
                f"the tables {tables}"
            )
        table, _, inner = key.partition(".")
        if inner and any(known.startswith(f"{inner.partition('.')[0]}.") for known in self.known):
            return (
                f"unknown setting: what follows [{table}] belongs to it; put {inner} above the "
                "first line with a table in brackets"
            )
        return f"unknown setting{nearest(key, list(self.known))}"

    def renamed(
        self, variants: Sequence[tuple[Any, dict[str, Any]]], written: Sequence[Mapping[str, Any]]
    ) -> list[tuple[Any, dict[str, Any]]]:
        """The variants, those that ``--set`` has changed named by the settings left to them.

        Args:
            variants: name and settings of each.
            written: their settings as the file has them.
        """
        found: list[tuple[Any, dict[str, Any]]] = []
        for (name, own), before in zip(variants, written, strict=True):
            title = name
            if "algorithms" in before and "algorithms" not in own:
                title = ", ".join(f"{k.rpartition('.')[2]} {show(v)}" for k, v in own.items())
                title = title or "no settings of its own"
            if title is name or (title, own) not in found:
                found.append((title, own))
        return found

    def override(
        self,
        text: str,
        values: dict[str, Any],
        ranges: dict[str, Any],
        variants: Sequence[dict[str, Any]],
    ) -> None:
        """Apply one ``key=value``. It wins over the file, its grid and its variants."""
        key, equals, written = text.partition("=")
        key = key.strip()
        if not equals:
            self.problems.add(text, "expected key=value", "--set")
            return
        try:
            value = tomllib.loads(f"value = {written.strip()}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = written.strip()  # a word need not be quoted
        is_axis = key.startswith("grid.")
        key = key.removeprefix("grid.")
        key = named.key_of(key, value)
        if key not in self.known:
            self.problems.add(key, self.unknown(key), "--set")
            return
        for table in (values, ranges, *variants):
            table.pop(key, None)
            for other in ALTERNATIVES.get(key, ()):
                table.pop(other, None)
            if key == "pair":
                for taken in [k for k in table if k.startswith(PAIR_TABLES)]:
                    del table[taken]
        if is_axis:
            ranges[key] = value
            return
        values[key] = value
        self.set_apart.add(key)
        minimise = values.get("minimise")
        if isinstance(minimise, list) and key in minimise:
            values["minimise"] = [k for k in minimise if k != key]

    def check_values(self, values: Mapping[str, Any], where: str = "") -> None:
        for key, value in values.items():
            setting = self.known[key]
            wrong = setting.problem(value)
            if wrong and isinstance(value, list | dict) and setting.sweep:
                wrong += f"; for several values use grid.{key}"
            if wrong:
                self.problems.add(where + key, wrong)
            for other in ALTERNATIVES.get(key, ()):
                if other in values and key < other:
                    self.problems.add(where + key, f'cannot be set together with "{other}"')

    def axis(self, key: str, written: Any) -> Axis | None:
        """The values of one axis of the grid."""
        where, setting = f"grid.{key}", self.known[key]
        if not setting.sweep:
            self.problems.add(where, "cannot be an axis of the grid")
            return None
        values = expand(self.problems, where, written, setting)
        if values is None:
            return None
        if not values:
            self.problems.add(where, "the axis is empty")
            return None
        for value in values:
            wrong = setting.problem(value)
            if setting.type == "int" and isinstance(value, str):
                wrong = f"expected whole numbers, got {show(value)}"
            if setting.type in LISTED and isinstance(value, list):
                wrong = f"expected numbers, got {show(value)}; take lists as variants"
            if wrong:
                self.problems.add(where, wrong)
                return None
        if setting.type == "int":
            values = [int(v) for v in values]
        elif setting.type == "float":
            values = [float(v) for v in values]
        if len(set(values)) < len(values):
            self.problems.add(where, "duplicate value")
            return None
        return Axis(key=key, values=tuple(values))

    def chart(self, number: int, table: dict[str, Any]) -> Chart | None:
        where = f"charts[{number}]."
        found = len(self.problems.found)
        for key, value in table.items():
            if key not in CHART_BY_KEY:
                hint = nearest(key, list(CHART_BY_KEY)) or f"; expected {', '.join(CHART_BY_KEY)}"
                self.problems.add(where + key, f"unknown setting{hint}")
            elif wrong := CHART_BY_KEY[key].problem(value):
                self.problems.add(where + key, wrong)
            elif (
                value != CHART_BY_KEY[key].default  # a study that was written down has them all
                and key in KNOWN_BY
                and table.get("kind") not in KNOWN_BY[key]
            ):
                kinds = " or ".join(map(show, KNOWN_BY[key]))
                what = f"has no effect: kind is {show(table.get('kind'))}; it matters with {kinds}"
                self.problems.add(where + key, what)
        for key in ("kind", "x", "y"):
            if key not in table:
                self.problems.add(where + key, f"is missing: {CHART_BY_KEY[key].meaning}")
        return Chart(**table) if len(self.problems.found) == found else None

    def check(self, study: Study) -> None:
        """What is right only together with other settings."""
        if study.kind == DEPLOYMENT.name:
            check_deployment_charts(self.problems, study)
            check_together(self.problems, study)
            if study.case_count <= study.settings["max_cases"]:
                check_deployment(self.problems, study)
        else:
            check_charts(self.problems, study)
            check_together(self.problems, study)

    def read_files(self, values: dict[str, Any]) -> dict[str, Any]:
        """Put the contents of data files in place of their names; what the pair says."""
        for model in ("target", "drafter"):
            name = values.pop(f"{model}.latency_samples_file", None)
            if isinstance(name, str):
                samples = self.read(f"{model}.latency_samples_file", name, read_samples)
                if samples is not None:
                    values[f"{model}.latency_samples_ms"] = samples
        name = values.pop("acceptance.trace_file", None)
        if isinstance(name, str):
            traces = self.read("acceptance.trace_file", name, read_traces)
            if traces is not None:
                values["acceptance.trace"] = traces
        name = values.pop("workload.trace_file", None)
        if isinstance(name, str):
            text = self.read("workload.trace_file", name, checked_trace)
            if text is not None:
                values["workload.trace"] = text
        elif isinstance(text := values.get("workload.trace"), str):
            try:
                checked_trace(text)
            except ValueError as error:
                self.problems.add("workload.trace", str(error))
        name = values.pop("pair", None)
        of_pair = self.read_pair(name, values) if isinstance(name, str) else {}
        values |= of_pair
        return of_pair

    def read_pair(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a profile says, where *values* say nothing else."""
        path = self.folder / name
        try:
            found = profile.read(path if path.exists() else Path(name))
        except (OSError, ValueError) as error:  # the name itself cannot be one of a file
            why = getattr(error, "strerror", None) or str(error)
            self.problems.add("pair", f"{show(name)} cannot be read: {why}")
            return {}
        except UserError as error:
            self.problems.found += [p for p in error.problems if isinstance(p, Problem)]
            return {}
        given = {*values, *self.swept, *self.set_apart}
        for part in found.missing():
            role = part.partition(" ")[0]
            if not any(key.startswith(f"{role}.") for key in given):
                self.problems.add("pair", f"{name} does not say: {part}")
        return found.settings(given)

    def read(self, key: str, name: str, reader: Any) -> Any:
        path = self.folder / name
        if not path.exists() and key in self.set_apart and Path(name).exists():
            path = Path(name)  # what the command line names may be in the working folder
        try:
            return reader(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.problems.add(key, f"{path} cannot be read: {error.strerror}")
        except ValueError as error:
            self.problems.add(key, f"{path}: {error}")
        return None
