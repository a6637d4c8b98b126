"""A checked study: its settings, the axes of its grid, its variants and charts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from typing import TYPE_CHECKING, Any

from dsim.orchestrations import DEFAULT, ORCHESTRATIONS, REFERENCES
from dsim.study.build import deployment_of, workload_of
from dsim.study.columns import column_of
from dsim.study.labels import describe
from dsim.study.settings import without_others
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dsim.deployment.spec import Deployment
    from dsim.deployment.workload import Workload


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of the grid: a setting and the values it takes."""

    key: str
    values: tuple[Any, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chart:
    """One chart that a study asks for; see :data:`CHART_SETTINGS`."""

    kind: str
    x: str
    y: str = ""
    title: str = ""
    caption: str = ""
    show: str = DEFAULT
    against: str = REFERENCES[0]
    value: str = "lookahead"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentCase:
    """One point of a study of a deployment, for one algorithm.

    Attributes:
        point: values of the axes of the grid, by key.
        variant: name of the variant; empty if the study has none.
        deployment: the servers and what disturbs them.
        workload: the requests.
        replications: number of runs, each with random draws of its own.
        warm_up: share of the requests that is left out of the metrics.
    """

    point: Mapping[str, Any]
    variant: str
    deployment: Deployment
    workload: Workload
    replications: int
    warm_up: float

    @property
    def name(self) -> str:
        """What tells it from others, for messages."""
        parts = [self.variant, self.deployment.algorithm]
        parts += [f"{key} = {show(value)}" for key, value in self.point.items()]
        return ", ".join(filter(None, parts))

    @property
    def title(self) -> str:
        """The same for people: words for keys, and titles of algorithms."""
        parts = [self.variant, ORCHESTRATIONS[self.deployment.algorithm].title]
        parts = [part for part in dict.fromkeys(parts) if part]
        return ", ".join([*parts, *(describe(column_of(k), v) for k, v in self.point.items())])

    @property
    def short_name(self) -> str:
        """The same where there is little room."""
        parts = [self.variant, ORCHESTRATIONS[self.deployment.algorithm].title]
        parts += [f"{key.rpartition('.')[2]} {show(value)}" for key, value in self.point.items()]
        return ", ".join(filter(None, parts))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A checked study.

    Attributes:
        kind: ``text``: single texts on servers of their own; ``deployment``: many requests on
            servers that they share.
        settings: every setting by key, defaults filled in, data files read in.
        grid: the axes, the first varying slowest.
        variants: (name, settings that differ) pairs, over each of which the grid is taken; at
            least one.
        charts: what to draw.
        ranges: the axes as the file has them, to be written down again.
        source: where it came from, for messages.
    """

    kind: str = "text"
    settings: Mapping[str, Any]
    grid: tuple[Axis, ...]
    variants: tuple[tuple[str, Mapping[str, Any]], ...]
    charts: tuple[Chart, ...]
    ranges: Mapping[str, Any]
    source: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The length of each axis of the grid."""
        return tuple(len(axis.values) for axis in self.grid)

    @property
    def case_count(self) -> int:
        """How many cases there are."""
        return math.prod(self.shape) * len(self.variants)

    @property
    def has_tables(self) -> bool:
        """Whether a latency comes from a table by width."""
        kinds = (f"{model}.latency_model" for model in ("target", "drafter"))
        swept = {axis.key: axis.values for axis in self.grid}
        return any(
            "table" in swept.get(kind, (self.of_variant(number)[kind],))
            for number in range(len(self.variants))
            for kind in kinds
        )

    def of_variant(self, number: int) -> dict[str, Any]:
        """The settings of variant *number*."""
        own = self.variants[number][1]
        return {**self.settings, **without_others(own), **own}

    def cases(self) -> Iterator[DeploymentCase]:
        """Every case of a deployment: for each variant and point of the grid, each algorithm."""
        for number, (name, _) in enumerate(self.variants):
            for point in points(self.grid):
                own = self.of_variant(number)
                values = {**own, **without_others(point), **point}
                for algorithm in values["algorithms"]:
                    yield DeploymentCase(
                        point=point,
                        variant=name,
                        deployment=deployment_of(values, algorithm),
                        workload=workload_of(values),
                        replications=values["repeats"],
                        warm_up=values["workload.warm_up"],
                    )

    def to_toml(self) -> str:
        """The study, resolved: every setting, with data files written out."""
        import tomli_w

        def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
            root: dict[str, Any] = {}
            for key, value in flat.items():
                *path, name = key.split(".")
                table = root
                for part in path:
                    table = table.setdefault(part, {})
                table[name] = value
            return root

        fixed = {k: v for k, v in self.settings.items() if v is not None and k not in self.ranges}
        text = tomli_w.dumps(nested(fixed))
        # By hand: the order of the axes counts, but tomli_w puts tables last, and short lists of
        # tables into one line.
        blocks = [("[grid]", self.ranges)] if self.ranges else []
        order = [*self.settings]
        for name, own in self.variants:
            ordered = {key: own[key] for key in sorted(own, key=order.index)}
            blocks += [("[[variants]]", {"name": name, **ordered})] if name else []
        for chart in self.charts:
            blocks.append(("[[charts]]", {k: v for k, v in vars(chart).items() if v}))
        for head, values in blocks:
            lines = [f"{key} = {inline(value)}" for key, value in values.items()]
            text += "\n".join(["", head, *lines, ""])
        return text


def inline(values: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(values, dict):
        return "{ " + ", ".join(f"{k} = {inline(v)}" for k, v in values.items()) + " }"
    return json.dumps(values, ensure_ascii=False).replace("\x7f", "\\u007f")


def points(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of *axes*, the first varying slowest."""
    keys = [axis.key for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(keys, values, strict=True))
