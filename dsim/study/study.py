"""Studies: strict TOML in, checked settings and a grid of cases out.

:data:`SETTINGS` is the one list of what can be set. The loader checks against it, ``--set`` goes
through it, and ``dsim settings`` prints it.
"""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.model.acceptance import Acceptance
from dsim.model.closed_forms import targets_enough, targets_equation1
from dsim.model.drafters import MOST_MORE, MoreDrafter
from dsim.model.latency import Latency
from dsim.model.lookahead import FIXED, Policy
from dsim.orchestrations import ORCHESTRATIONS, POLICIES
from dsim.units import NS_PER_MS, to_ns
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ALGORITHMS = ("nonsi", "si", "dsi")  # what is compared unless something else is asked for
NAMED = tuple(ORCHESTRATIONS)
ENGINES = ("auto", "vector", "events")
BACKENDS = ("simulated", "wallclock")
LATENCY_MODELS = ("constant", "lognormal", "gamma", "empirical", "table")
ACCEPTANCE_MODELS = ("bernoulli", "decay", "markov", "phases", "trace")
CHART_KINDS = ("heatmap", "map", "lines", "marginal", "variants", "published")
MOST_IN_RANGE = 1_000_000
MOST_DRAWS = 50_000_000  # of one case, all repeats together
LONGEST_NS = 2**53  # up to there whole numbers are exact in float64, too: 104 days


LISTED = {"float or list": "float", "int or list": "int"}  # types, and those of their members


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """One thing that a study can set.

    Attributes:
        key: its dotted path in the file.
        type: ``int``, ``float``, ``bool``, ``str``, or a description of a richer form.
        default: ``None``: not set.
        low, high: bounds; *above* says that *low* itself is excluded, *below* that *high* is.
        choices: the words it may be; for numbers, words that are allowed besides.
        sweep: whether it can be an axis of the grid.
    """

    key: str
    type: str
    default: Any
    meaning: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False
    choices: tuple[str, ...] = ()
    sweep: bool = True

    @property
    def range(self) -> str:
        """The values it takes, for people."""
        numbers = ""
        if self.type in ("int", "float", *LISTED) and self.low is not None:
            low = f"{self.low:,g}" if self.low < 10**6 else f"{self.low:,.0f}"
            numbers = f"{'above' if self.above else 'at least'} {low}"
            if self.high is not None:
                high = f"{int(self.high):,}" if self.high >= 10**6 else f"{self.high:g}"
                numbers = f"from {low} to {'below ' if self.below else ''}{high}"
        return " or ".join(filter(None, (numbers, " | ".join(self.choices))))

    def problem(self, value: Any) -> str | None:
        """What is wrong with *value*: ``None``, or "expected …, got …"."""
        wrong = f"expected {self.expected}, got {show(value)}"
        if self.type in ("int", "float"):
            if isinstance(value, str) and value in self.choices:
                return None
            if isinstance(value, bool) or not isinstance(value, int | float):
                return wrong
            if not math.isfinite(value) or (self.type == "int" and value != int(value)):
                return wrong
            if self.low is not None and (value < self.low or (self.above and value == self.low)):
                return wrong
            if self.high is not None and (value > self.high or (self.below and value == self.high)):
                return wrong
            return None
        if self.type in LISTED:
            one = dataclasses.replace(self, type=LISTED[self.type])
            several = value if isinstance(value, list) else [value]
            found = [one.problem(v) for v in several] or [wrong]
            return next(filter(None, found), None)
        if self.type == "bool":
            return None if isinstance(value, bool) else wrong
        if self.type == "str":
            if not isinstance(value, str):
                return wrong
            if self.choices and value not in self.choices:
                return wrong + nearest(value, self.choices)
            return None
        if self.type == "list of str":
            if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
                return wrong
            bad = [v for v in value if self.choices and v not in self.choices]
            if bad:
                return f"expected {self.expected}, got {show(bad[0])}" + nearest(
                    bad[0], self.choices
                )
            if self.key == "algorithms" and not value:
                return wrong
            return None
        if self.type == "list of float":
            good = isinstance(value, list) and value and all(is_latency(v) for v in value)
            return None if good else wrong
        if self.type == "list of delays":
            good = isinstance(value, list) and value and all(v == 0 or is_latency(v) for v in value)
            return None if good and not any(isinstance(v, bool) for v in value) else wrong
        if self.type == "list of tables":
            good = isinstance(value, list) and all(isinstance(v, dict) for v in value)
            return None if good else wrong
        if self.type == "list of [width, ms]":
            good = isinstance(value, list) and value and all(is_row(row) for row in value)
            if not good:
                return wrong
            widths = [row[0] for row in value]
            return None if widths == sorted(set(widths)) else f"{wrong}; widths must increase"
        if self.type == "list of traces":
            traces = value if isinstance(value, list) else [value]
            good = traces and all(isinstance(t, str) and re.fullmatch("[01]+", t) for t in traces)
            return None if good else wrong
        raise AssertionError(self.type)

    @property
    def expected(self) -> str:
        """What it should be, for error messages."""
        what = {
            "int": "a whole number",
            "float": "a number",
            "float or list": "a number or a list of numbers",
            "int or list": "a whole number or a list of whole numbers",
            "bool": "true or false",
            "str": "a text",
            "list of str": "a list of words",
            "list of float": "a list of latencies above 0",
            "list of delays": "a list of delays of at least 0",
            "list of tables": "a list of tables",
            "list of [width, ms]": "a list of [width, ms] pairs, both above 0",
            "list of traces": "a text of 0 and 1, or a list of such",
        }[self.type]
        if self.type == "str" and self.choices:
            return "one of " + ", ".join(f'"{c}"' for c in self.choices)
        if self.type == "list of str" and self.choices:
            return "a list of " + ", ".join(f'"{c}"' for c in self.choices)
        numbers = Setting.range.fget(dataclasses.replace(self, choices=()))  # type: ignore[attr-defined]
        words = "".join(f' or "{c}"' for c in self.choices)
        return f"{what}{' ' + numbers if numbers else ''}{words}"


def make_study(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Study:
    """A study of one case from settings by key, with ``key=value`` *overrides*.

    Raises:
        UserError: with all problems that were found.
    """
    return _Loader("settings", Path()).study(dict(settings), overrides)


def make_case(settings: Mapping[str, Any]) -> Case:
    """The case that settings by key describe, like ``{"drafter.latency_ms": 3.0}``.

    What is not given is at its default.

    Raises:
        UserError: with all problems that were found.
    """
    return case_of(make_study(settings).of_variant(0))


def exact(values: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """*values*, with whole numbers as ``int`` and others as ``float``, however written."""
    types = {"int": int, "float": float}
    return {
        key: value if isinstance(value, str) else types.get(known[key].type, lambda v: v)(value)
        for key, value in values.items()
    }


def is_latency(value: Any) -> bool:
    """Whether *value* can be a latency in ms."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


def is_row(row: Any) -> bool:
    """Whether *row* is a [width, ms] pair."""
    return (
        isinstance(row, list)
        and len(row) == 2
        and isinstance(row[0], int)
        and all(is_latency(v) for v in row)
    )


def _model_settings(model: str) -> tuple[Setting, ...]:
    relative = (
        (
            Setting(
                key="drafter.latency_relative",
                type="float",
                default=None,
                low=0,
                above=True,
                unit="× target",
                meaning="instead of drafter.latency_ms: latency as a part of the target's",
            ),
        )
        if model == "drafter"
        else ()
    )
    what = "one target pass" if model == "target" else "one drafter forward (one draft)"
    return (
        Setting(
            key=f"{model}.latency_ms",
            type="float",
            default=1.0 if model == "target" else 0.1,
            low=0,
            above=True,
            unit="ms",
            meaning=f"latency of {what}; its mean where it is random",
        ),
        *relative,
        Setting(
            key=f"{model}.first_latency_ms",
            type="float",
            default=None,
            low=0,
            above=True,
            unit="ms",
            meaning="latency of a server's first forward, which reads the prompt; "
            "not set: the prompt counts as cached",
        ),
        Setting(
            key=f"{model}.first_latency_ratio",
            type="float",
            default=None,
            low=0,
            above=True,
            unit="× latency",
            meaning=f"instead of {model}.first_latency_ms: as a multiple of the latency "
            "(the ratio TTFT / TPOT)",
        ),
        Setting(
            key=f"{model}.latency_model",
            type="str",
            default="constant",
            choices=LATENCY_MODELS,
            meaning="how the latency of a forward comes about",
        ),
        Setting(
            key=f"{model}.latency_cv",
            type="float",
            default=None,
            low=0,
            above=True,
            unit="",
            meaning="lognormal, gamma: standard deviation / mean",
        ),
        Setting(
            key=f"{model}.latency_samples_ms",
            type="list of float",
            default=None,
            unit="ms",
            sweep=False,
            meaning="empirical: measured latencies, drawn with equal chances",
        ),
        Setting(
            key=f"{model}.latency_samples_file",
            type="str",
            default=None,
            sweep=False,
            meaning="empirical: a CSV file with a column latency_ms (or one column only)",
        ),
        Setting(
            key=f"{model}.latency_by_width_ms",
            type="list of [width, ms]",
            default=None,
            unit="tokens, ms",
            sweep=False,
            meaning="table: latency over the tokens that a forward feeds, linear in between",
        ),
    )


SETTINGS: tuple[Setting, ...] = (
    Setting(key="title", type="str", default="", sweep=False, meaning="heading of the report"),
    Setting(
        key="description",
        type="str",
        default="",
        sweep=False,
        meaning="what the study asks, in a few sentences; shown under the heading",
    ),
    Setting(
        key="algorithms",
        type="list of str",
        default=list(ALGORITHMS),
        choices=NAMED,
        sweep=False,
        meaning="what to simulate",
    ),
    Setting(
        key="engine",
        type="str",
        default="auto",
        choices=ENGINES,
        sweep=False,
        meaning="auto: the vector engine for constant latencies, preemptible servers and a fixed "
        "lookahead, the event engine for all else",
    ),
    Setting(
        key="backend",
        type="str",
        default="simulated",
        choices=BACKENDS,
        sweep=False,
        meaning="what a forward is: simulated, or wallclock: a real wait in a thread, one case at "
        "a time",
    ),
    Setting(
        key="tokens",
        type="int",
        default=1000,
        low=1,
        high=10_000_000,
        unit="tokens",
        meaning="N, to generate",
    ),
    Setting(
        key="repeats",
        type="int",
        default=5,
        low=1,
        high=1_000_000,
        sweep=False,
        meaning="runs of each case, each with draws of its own",
    ),
    Setting(
        key="seed",
        type="int",
        default=0,
        low=0,
        high=2**53,
        meaning="of the draws; all algorithms and cases meet the same luck",
    ),
    Setting(
        key="lookahead",
        type="int",
        default=5,
        low=1,
        high=10_000_000,
        unit="tokens",
        meaning="k, drafts per block; where it adapts, of the first block",
    ),
    Setting(
        key="lookahead_policy",
        type="str",
        default="fixed",
        choices=POLICIES,
        meaning="fixed; heuristic: 2 more after a verdict that accepts all, 1 less after a "
        "rejection (as in transformers); aimd: 1 more, or half; confidence: a block also ends "
        "with a draft of which the drafter is unsure",
    ),
    Setting(
        key="lookahead_most",
        type="int",
        default=20,
        low=1,
        high=10_000_000,
        unit="tokens",
        meaning="heuristic, aimd: the lookahead grows no larger than this",
    ),
    Setting(
        key="confidence_threshold",
        type="float",
        default=0.4,
        low=0,
        high=1,
        meaning="confidence: a block ends with a draft whose confidence is below this",
    ),
    Setting(
        key="confidence_quality",
        type="float",
        default=0.3,
        low=0,
        high=1,
        meaning="confidence: the part of the variance of the draws that it explains; 0: it says "
        "nothing, 1: it knows",
    ),
    Setting(
        key="targets",
        type="int",
        default=7,
        low=1,
        high=1_000_000,
        choices=("enough", "paper"),
        unit="servers",
        meaning="S, target servers of DSI; enough: with which no pass ever waits, "
        "⌈t2/(k·t1)⌉ + 1; paper: its Equation 1, ⌈t2/(k·t1)⌉",
    ),
    Setting(
        key="max_targets",
        type="int",
        default=None,
        low=1,
        unit="servers",
        sweep=False,
        meaning="leave out DSI cases that have more target servers than this, and say how many",
    ),
    Setting(
        key="preemptible",
        type="bool",
        default=True,
        meaning="a cancelled forward frees its server at once (the paper's assumption); "
        "false: it runs to its end, as on a GPU",
    ),
    Setting(
        key="pair",
        type="str",
        default=None,
        sweep=False,
        meaning="a file that dsim measure wrote: latencies of target and drafter and the "
        "acceptance rate; what is set beside it wins, but --set pair=FILE wins over the study",
    ),
    *_model_settings("target"),
    *_model_settings("drafter"),
    Setting(
        key="more_drafters.latency_ms",
        type="float or list",
        default=None,
        low=0,
        above=True,
        unit="ms",
        meaning="multidsi: latencies of a draft of further drafters, one or a list",
    ),
    Setting(
        key="more_drafters.acceptance_rate",
        type="float or list",
        default=None,
        low=0,
        high=1,
        meaning="multidsi: their acceptance rates, as many",
    ),
    Setting(
        key="more_drafters.overlap",
        type="float",
        default=0.0,
        low=0,
        high=1,
        meaning="multidsi: how alike their luck is; 0: independent of the first drafter's; "
        "1: of two drafters the better is right wherever the other is",
    ),
    Setting(
        key="acceptance.model",
        type="str",
        default="bernoulli",
        choices=ACCEPTANCE_MODELS,
        meaning="bernoulli: independent; decay: the rate falls along a branch; "
        "markov: luck in streaks; phases: easy and hard stretches of text; trace: replay",
    ),
    Setting(
        key="acceptance.rate",
        type="float",
        default=0.8,
        low=0,
        high=1,
        meaning="p, the chance that a draft is the target's token, given a right prefix",
    ),
    Setting(
        key="acceptance.decay",
        type="float",
        default=None,
        low=0,
        high=1,
        meaning="decay: factor on the rate for each further draft of a branch",
    ),
    Setting(
        key="acceptance.correlation",
        type="float",
        default=None,
        low=0,
        high=1,
        below=True,
        meaning="markov: correlation of neighbouring draws",
    ),
    Setting(
        key="acceptance.swing",
        type="float",
        default=None,
        low=0,
        high=1,
        meaning="phases: how far the rates of easy and hard stretches lie from the mean, as a part "
        "of what there is room for",
    ),
    Setting(
        key="acceptance.phase_tokens",
        type="float",
        default=50.0,
        low=1,
        unit="tokens",
        meaning="phases: mean length of a stretch (geometric)",
    ),
    Setting(
        key="acceptance.spread",
        type="float",
        default=0.0,
        low=0,
        high=0.5,
        meaning="standard deviation of the rate over repeats (dsim load: over requests), a beta "
        "distribution",
    ),
    Setting(
        key="acceptance.trace",
        type="list of traces",
        default=None,
        sweep=False,
        meaning="trace: recorded draws by position, 1 accepted, 0 rejected; "
        "repeat r replays number r",
    ),
    Setting(
        key="acceptance.trace_file",
        type="str",
        default=None,
        sweep=False,
        meaning="trace: a text file with one such line for each prompt",
    ),
    Setting(
        key="published.speedup_vs_si",
        type="float",
        default=None,
        low=0,
        above=True,
        sweep=False,
        unit="×",
        meaning="what somebody else found for the speed-up of DSI over SI; shown beside ours, "
        "and used for nothing else",
    ),
    Setting(
        key="minimise",
        type="list of str",
        default=[],
        sweep=False,
        meaning="axes of the grid over which every algorithm is taken at its best in charts "
        "and summary",
    ),
    Setting(
        key="max_cases",
        type="int",
        default=3_000_000,
        low=1,
        unit="cases",
        sweep=False,
        meaning="refuse to run more cases than this",
    ),
)
BY_KEY = {s.key: s for s in SETTINGS}
# Of each pair at most one can be set; ``--set`` of one takes the other away.
ALTERNATIVES = {
    a: b
    for pair in (
        ("drafter.latency_ms", "drafter.latency_relative"),
        ("drafter.first_latency_ms", "drafter.first_latency_ratio"),
        ("target.first_latency_ms", "target.first_latency_ratio"),
        ("drafter.latency_samples_ms", "drafter.latency_samples_file"),
        ("target.latency_samples_ms", "target.latency_samples_file"),
        ("acceptance.trace", "acceptance.trace_file"),
        ("workload.trace", "workload.trace_file"),
        ("cluster.network_ms", "cluster.link_ms"),
    )
    for a, b in (pair, pair[::-1])
}
TABLES = ("target", "drafter", "more_drafters", "acceptance", "published")
MODEL_TABLES = ("target.", "drafter.")
PAIR_TABLES = ("target.", "drafter.", "acceptance.")  # what a measured pair says
LOAD_TABLES = ("workload", "cluster", "slo")  # of the studies of dsim load
MEASURE_TABLES = ("pairs", "sets")  # of those of dsim measure
VALIDATE_TABLES = ("wallclock", "torch")  # of those of dsim validate

CHART_SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="kind",
        type="str",
        default=None,
        choices=CHART_KINDS,
        meaning="heatmap: a ratio of two latencies over two axes; map: a column over two axes, "
        "like the best lookahead; lines: a column over an axis; "
        "marginal: what each further step of an axis adds to a column; "
        "variants: a column, side by side for each variant; "
        "published: ours beside the published value, a line for each variant",
    ),
    Setting(key="title", type="str", default="", meaning="title of the chart"),
    Setting(key="caption", type="str", default="", meaning="text under the chart"),
    Setting(key="x", type="str", default=None, meaning="the axis of the grid across, or variant"),
    Setting(
        key="y",
        type="str",
        default=None,
        meaning="heatmap, map: the axis of the grid upwards; else the column of the results",
    ),
    Setting(
        key="show",
        type="str",
        default="dsi",
        choices=NAMED,
        meaning="heatmap, map, marginal: the algorithm",
    ),
    Setting(
        key="against",
        type="str",
        default="nonsi",
        choices=(*NAMED, "best"),
        meaning="heatmap: what it is compared with; best: the better of non-SI and SI",
    ),
    Setting(
        key="value",
        type="str",
        default="lookahead",
        meaning="map: the column of the results, or lookahead, the best one",
    ),
)
CHART_BY_KEY = {s.key: s for s in CHART_SETTINGS}


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
    show: str = "dsi"
    against: str = "nonsi"
    value: str = "lookahead"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One point of the grid, ready to be simulated by any algorithm.

    Attributes:
        tokens: ``N``.
        lookahead: ``k``.
        targets: ``S``, of DSI.
        target, drafter: latencies.
        acceptance: how drafts fare.
        repeats, seed: of the draws.
        preemptible: whether a cancelled forward frees its server at once.
        policy: whether and how the lookahead adapts.
        more_drafters: those that multi-drafter DSI has beside the first.
    """

    tokens: int
    lookahead: int
    targets: int
    target: Latency
    drafter: Latency
    acceptance: Acceptance
    repeats: int
    seed: int
    preemptible: bool
    policy: Policy = FIXED
    more_drafters: tuple[MoreDrafter, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """A checked study.

    Attributes:
        settings: every setting by key, defaults filled in, data files read in.
        grid: the axes, the first varying slowest.
        variants: (name, settings that differ) pairs, over each of which the grid is taken; at
            least one.
        charts: what to draw.
        ranges: the axes as the file has them, to be written down again.
        source: where it came from, for messages.
    """

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

    def of_variant(self, number: int) -> dict[str, Any]:
        """The settings of variant *number*."""
        own = self.variants[number][1]
        replaced = {ALTERNATIVES[key]: None for key in own if key in ALTERNATIVES}
        return {**self.settings, **replaced, **own}

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
        blocks += [("[[variants]]", {"name": n, **own}) for n, own in self.variants if n]
        for chart in self.charts:
            blocks.append(("[[charts]]", {k: v for k, v in vars(chart).items() if v}))
        for head, values in blocks:
            lines = [f"{key} = {_inline(value)}" for key, value in values.items()]
            text += "\n".join(["", head, *lines, ""])
        return text


def _inline(values: Any) -> str:
    """A value in one line of TOML."""
    if isinstance(values, dict):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in values.items()) + " }"
    return json.dumps(values, ensure_ascii=False).replace("\x7f", "\\u007f")


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
        known: the settings by key, in order.
        tables: the names of their tables.
    """

    known: Mapping[str, Setting] = BY_KEY
    tables: tuple[str, ...] = TABLES

    def __init__(self, source: str, folder: Path) -> None:
        self.source = source
        self.folder = folder
        self.problems: list[Problem] = []
        self.swept: set[str] = set()  # the axes of the grid
        self.set_apart: set[str] = set()  # by --set, which wins over every pair

    def complain(self, key: str, what: str, source: str | None = None) -> None:
        self.problems.append(Problem(source or self.source, key, what))

    def study(self, document: dict[str, Any], overrides: Sequence[str]) -> Study:
        charts = self.table_list(document, "charts")
        variants = self.table_list(document, "variants")
        grid = document.pop("grid", {})
        if not isinstance(grid, dict):
            self.complain("grid", f"expected a table of axes, got {show(grid)}")
            grid = {}
        values = self.flatten(document, self.known)
        ranges = self.flatten(grid, self.known, "grid.")
        differing = [
            (v.pop("name", None), self.flatten(v, self.known, "variants.")) for v in variants
        ]
        for override in sorted(overrides, key=lambda text: not text.startswith("pair=")):
            self.override(override, values, ranges, [own for _, own in differing])
        self.check_values(values)
        for number, (name, own) in enumerate(differing):
            if not isinstance(name, str) or not name:
                got = "nothing" if name is None else show(name)
                self.complain(f"variants[{number}].name", f"expected a text, got {got}")
            self.check_values(own, f"variants[{number}].")
            for key in own.keys() & ranges.keys():
                self.complain(f"variants[{number}].{key}", "is an axis of the grid as well")
        names = [name for name, _ in differing]
        if len(set(map(str, names))) < len(names):
            self.complain("variants", "two variants have the same name")
        axes = [self.axis(key, value) for key, value in ranges.items()]
        for key in ranges:
            if ALTERNATIVES.get(key) in {**values, **ranges}:
                self.complain(f"grid.{key}", f'cannot be set together with "{ALTERNATIVES[key]}"')
            if key in values:
                self.complain(key, "is set, and is an axis of the grid as well")
        minimise = values.get("minimise", [])
        for key in minimise if isinstance(minimise, list) else []:
            if key not in ranges:
                self.complain(
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
                    if "pair" not in own and ALTERNATIVES.get(key) not in own:
                        own.setdefault(key, value)
        for _, own in differing:
            self.read_files(own)
        for own in variants_with_pairs:
            for model in MODEL_TABLES:
                kind = f"{model}latency_model"
                latency = f"{model}latency_ms" in own and f"{model}latency_by_width_ms" not in own
                if latency and values.get(kind) == "table" and kind not in self.swept:
                    own.setdefault(kind, "constant")
        self.stop_at_problems()
        values = exact(values, self.known)
        differing = [(name, exact(own, self.known)) for name, own in differing]
        settings = {s.key: values.get(s.key, s.default) for s in self.known.values()}
        for key in {**values, **ranges}:
            if key in ALTERNATIVES:
                settings[ALTERNATIVES[key]] = None
        study = Study(
            settings=settings,
            grid=tuple(axis for axis in axes if axis is not None),
            variants=tuple(differing) or (("", {}),),
            charts=drawn,
            ranges=ranges,
            source=self.source,
        )
        self.check_charts(study)
        self.check_together(study)
        self.stop_at_problems()
        return study

    def stop_at_problems(self) -> None:
        if self.problems:
            raise UserError(*self.problems)

    def table_list(self, document: dict[str, Any], name: str) -> list[dict[str, Any]]:
        tables = document.pop(name, [])
        if isinstance(tables, list) and all(isinstance(t, dict) for t in tables):
            return tables
        self.complain(name, f"expected a list of tables ([[{name}]]), got {show(tables)}")
        return []

    def flatten(
        self, table: dict[str, Any], known: Mapping[str, Setting], where: str = ""
    ) -> dict[str, Any]:
        """Dotted keys of known settings; complains about all others."""
        flat: dict[str, Any] = {}
        for name, value in table.items():
            if name in self.tables and isinstance(value, dict):
                flat |= {f"{name}.{k}": v for k, v in value.items()}
            else:
                flat[name] = value
        for key in list(flat):
            if key not in known:
                hint = nearest(key, list(known))
                first = key.partition(".")[0]
                if first in LOAD_TABLES and first not in self.tables:
                    hint = "; this is a load study: use dsim load"
                elif first in MEASURE_TABLES:
                    hint = "; this is a study of dsim measure"
                elif first in VALIDATE_TABLES:
                    hint = "; this is a study of dsim validate"
                self.complain(where + key, f"unknown setting{hint}")
                del flat[key]
        return flat

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
            self.complain(text, "expected key=value", "--set")
            return
        try:
            value = tomllib.loads(f"value = {written.strip()}")["value"]
        except tomllib.TOMLDecodeError:
            value = written.strip()  # a word need not be quoted
        is_axis = key.startswith("grid.")
        key = key.removeprefix("grid.")
        if key not in self.known:
            self.complain(key, f"unknown setting{nearest(key, list(self.known))}", "--set")
            return
        for table in (values, ranges, *variants):
            table.pop(key, None)
            table.pop(ALTERNATIVES.get(key, ""), None)
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
                self.complain(where + key, wrong)
            other = ALTERNATIVES.get(key)
            if other in values and key < str(other):
                self.complain(where + key, f'cannot be set together with "{other}"')

    def axis(self, key: str, written: Any) -> Axis | None:
        """The values of one axis of the grid."""
        where, setting = f"grid.{key}", self.known[key]
        if not setting.sweep:
            self.complain(where, "cannot be an axis of the grid")
            return None
        values = self.expand(where, written, setting)
        if values is None:
            return None
        if not values:
            self.complain(where, "the axis is empty")
            return None
        for value in values:
            wrong = setting.problem(value)
            if setting.type == "int" and isinstance(value, str):
                wrong = f"expected whole numbers, got {show(value)}"
            if setting.type in LISTED and isinstance(value, list):
                wrong = f"expected numbers, got {show(value)}; take lists as variants"
            if wrong:
                self.complain(where, wrong)
                return None
        if setting.type == "int":
            values = [int(v) for v in values]
        elif setting.type == "float":
            values = [float(v) for v in values]
        if len(set(values)) < len(values):
            self.complain(where, "a value stands there twice")
            return None
        return Axis(key=key, values=tuple(values))

    def expand(self, where: str, written: Any, setting: Setting) -> list[Any] | None:
        if isinstance(written, list):
            return written
        if not isinstance(written, dict) or setting.type not in ("int", "float"):
            self.complain(where, f"expected a list or {{start, stop, step}}, got {show(written)}")
            return None
        names = ("start", "stop", "step", "count")
        unknown = [name for name in written if name not in names]
        for name in unknown:
            self.complain(f"{where}.{name}", f"unknown{nearest(name, names)}")
        bad = [
            name
            for name in names
            if name in written
            and (
                isinstance(written[name], bool)
                or not isinstance(written[name], int | float)
                or not math.isfinite(written[name])
            )
        ]
        for name in bad:
            self.complain(f"{where}.{name}", f"expected a number, got {show(written[name])}")
        if unknown or bad:
            return None
        if set(written) not in ({"start", "stop", "step"}, {"start", "stop", "count"}):
            self.complain(
                where,
                f"expected {{start, stop, step}} or {{start, stop, count}}, got {show(written)}",
            )
            return None
        start, stop = written["start"], written["stop"]
        if "count" in written:
            count = written["count"]
            if count != int(count) or not 1 <= count <= MOST_IN_RANGE:
                self.complain(
                    f"{where}.count", f"expected 1 to {MOST_IN_RANGE:,}, got {show(count)}"
                )
                return None
            step = (stop - start) / (count - 1) if count > 1 else 0
        else:
            step = written["step"]
            if step == 0 or (stop - start) * step < 0:
                self.complain(
                    f"{where}.step",
                    f"the range never ends: it goes from {start:g} to {stop:g} "
                    f"in steps of {step:g}",
                )
                return None
            if (stop - start) / step > MOST_IN_RANGE:
                self.complain(
                    where, f"the range has over {MOST_IN_RANGE:,} values; make the step larger"
                )
                return None
            count = math.floor((stop - start) / step + 1e-9) + 1
        # Rounded, so that 3 · 0.05 is 0.15 in tables and in nanoseconds.
        return [
            start + i * step if isinstance(start + step, int) else round(start + i * step, 12)
            for i in range(int(count))
        ]

    def chart(self, number: int, table: dict[str, Any]) -> Chart | None:
        where = f"charts[{number}]."
        found = len(self.problems)
        for key, value in table.items():
            if key not in CHART_BY_KEY:
                self.complain(where + key, f"unknown setting{nearest(key, list(CHART_BY_KEY))}")
            elif wrong := CHART_BY_KEY[key].problem(value):
                self.complain(where + key, wrong)
        for key in ("kind", "x", "y"):
            if key not in table:
                self.complain(where + key, f"is missing: {CHART_BY_KEY[key].meaning}")
        return Chart(**table) if len(self.problems) == found else None

    def check_charts(self, study: Study) -> None:
        from dsim.study.results import COLUMNS

        axes = {axis.key for axis in study.grid} - set(study.settings["minimise"])
        algorithms = study.settings["algorithms"]
        columns = [column.name for column in COLUMNS if column.kind == "outcome"]
        for number, chart in enumerate(study.charts):
            where = f"charts[{number}]"
            if chart.kind == "published":
                if chart.x != "variant" or not study.variants[0][0]:
                    self.complain(f"{where}.x", 'expected "variant", and variants in the study')
                if chart.y != "speedup_vs_si":
                    self.complain(f"{where}.y", f'expected "speedup_vs_si", got {show(chart.y)}')
                continue
            if chart.kind == "variants":
                if chart.x != "variant" or not study.variants[0][0]:
                    self.complain(f"{where}.x", 'expected "variant", and variants in the study')
            elif chart.x not in axes:
                self.complain(
                    f"{where}.x",
                    f"expected an axis of the grid that is not minimised over, "
                    f"got {show(chart.x)}{nearest(chart.x, sorted(axes))}",
                )
            if chart.kind in ("heatmap", "map"):
                if chart.y not in axes or chart.y == chart.x:
                    self.complain(
                        f"{where}.y",
                        f"expected another axis of the grid, got {show(chart.y)}"
                        f"{nearest(chart.y, sorted(axes - {chart.x}))}",
                    )
                for name, key in (("x", chart.x), ("y", chart.y)):
                    if key in axes and BY_KEY[key].type not in ("int", "float"):
                        self.complain(f"{where}.{name}", f"{show(key)} is no axis of numbers")
                if chart.kind == "map":
                    self.check_algorithms(where, {chart.show}, algorithms)
                    if chart.value not in (known := ["lookahead", *columns]):
                        self.complain(
                            f"{where}.value",
                            f"expected a column of the results, got {show(chart.value)}"
                            f"{nearest(chart.value, known)}",
                        )
                    continue
                needed = {"nonsi", "si"} if chart.against == "best" else {chart.against}
                self.check_algorithms(where, {chart.show} | needed, algorithms)
                continue
            if chart.y.startswith("speedup_vs_"):
                self.check_algorithms(where, {chart.y.removeprefix("speedup_vs_")}, algorithms)
            if chart.kind == "marginal":
                self.check_algorithms(where, {chart.show}, algorithms)
            if chart.y not in columns:
                self.complain(
                    f"{where}.y",
                    f"expected a column of the results, got {show(chart.y)}"
                    f"{nearest(chart.y, columns)}",
                )

    def check_algorithms(self, where: str, needed: set[str], algorithms: list[str]) -> None:
        missing = needed & set(NAMED) - set(algorithms)
        if missing:
            self.complain(where, f"needs the algorithm {', '.join(sorted(missing))}")

    def check_drafters(
        self, where: str, values: Mapping[str, Sequence[Any]], algorithm: str
    ) -> None:
        def counts(key: str) -> set[int]:
            return {
                0 if v is None else len(v) if isinstance(v, list) else 1
                for v in values[f"more_drafters.{key}"]
            }

        latencies, rates = counts("latency_ms"), counts("acceptance_rate")
        for key, count in (("latency_ms", latencies), ("acceptance_rate", rates)):
            if 0 in count:
                what = f'is missing: the algorithms have "{algorithm}"'
                self.complain(f"{where}more_drafters.{key}", what)
        if not self.problems and (latencies != rates or len(latencies) > 1):
            self.complain(
                f"{where}more_drafters.acceptance_rate",
                f"expected one for each of more_drafters.latency_ms ({max(latencies)}), "
                f"got {max(rates)}",
            )
        if max(latencies) > MOST_MORE:
            self.complain(
                f"{where}more_drafters.latency_ms",
                f"expected at most {MOST_MORE} drafters, got {max(latencies)}",
            )

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
        name = values.pop("pair", None)
        of_pair = self.read_pair(name, values) if isinstance(name, str) else {}
        values |= of_pair
        return of_pair

    def read_pair(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """What a profile says, where *values* say nothing else."""
        from dsim.study import profile

        path = self.folder / name
        try:
            found = profile.read(path if path.exists() else Path(name))
        except UserError as error:
            self.problems += [p for p in error.problems if isinstance(p, Problem)]
            return {}
        given = {*values, *self.swept, *self.set_apart}
        for part in found.missing():
            role = part.partition(" ")[0]
            if not any(key.startswith(f"{role}.") for key in given):
                self.complain("pair", f"{name} does not say: {part}")
        return found.settings(given)

    def read(self, key: str, name: str, reader: Any) -> Any:
        path = self.folder / name
        try:
            return reader(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.complain(key, f"{path} cannot be read: {error.strerror}")
        except ValueError as error:
            self.complain(key, f"{path}: {error}")
        return None

    def check_together(self, study: Study) -> None:
        """What is right only together with other settings."""
        limit = study.settings["max_cases"]
        if study.case_count > limit:
            longest = max(study.grid, key=lambda axis: len(axis.values))
            self.complain(
                "grid",
                f"makes {study.case_count:,} cases, more than max_cases = {limit:,}; "
                f"grid.{longest.key} has {len(longest.values):,} values, "
                "which is the first thing to cut",
            )
            return
        swept = {axis.key: axis.values for axis in study.grid}
        for number, (name, own) in enumerate(study.variants):
            where = f"variants[{number}]." if name else ""
            values = {k: (v,) for k, v in study.of_variant(number).items()} | swept
            for model in ("target", "drafter"):
                for kind, needs in (
                    ("lognormal", "latency_cv"),
                    ("gamma", "latency_cv"),
                    ("empirical", "latency_samples_ms"),
                    ("table", "latency_by_width_ms"),
                ):
                    key = f"{model}.{needs}"
                    if kind in values[f"{model}.latency_model"] and values[key] == (None,):
                        at = f"{where if any(k.startswith(model) for k in own) else ''}{key}"
                        self.complain(at, f'is missing: the latency model is "{kind}"')
            for kind, needs in (
                ("decay", "decay"),
                ("markov", "correlation"),
                ("phases", "swing"),
                ("trace", "trace"),
            ):
                key = f"acceptance.{needs}"
                if kind in values["acceptance.model"] and values[key] == (None,):
                    self.complain(where + key, f'is missing: the acceptance model is "{kind}"')
            if "trace" in values["acceptance.model"] and max(values["acceptance.spread"]):
                self.complain(where + "acceptance.spread", "has no meaning for a trace")
            if "trace" in values["acceptance.model"] and values["acceptance.trace"] != (None,):
                (traces,) = values["acceptance.trace"]
                shortest = min(map(len, [traces] if isinstance(traces, str) else traces))
                if shortest < max(values["tokens"]):
                    self.complain(
                        where + "acceptance.trace",
                        f"expected at least {max(values['tokens'])} draws (tokens), got {shortest}",
                    )
            further = [
                n for n in values["algorithms"][0] if ORCHESTRATIONS[n].takes_further_drafters
            ]
            if further and not self.problems:
                self.check_drafters(where, values, further[0])
            if study.settings["engine"] == "vector" and (why := _needs_events(values)):
                what = "constant latencies, preemptible servers and a fixed lookahead only"
                self.complain("engine", f'"vector" takes {what}, but {why}')
            if study.settings["engine"] == "vector" and study.settings["backend"] == "wallclock":
                self.complain("engine", '"vector" simulates; backend is "wallclock"')
            tokens, repeats = max(values["tokens"]), study.settings["repeats"]
            if tokens * repeats > MOST_DRAWS:
                self.complain(
                    where + "tokens",
                    f"{tokens:,} tokens × {repeats:,} repeats are more than {MOST_DRAWS:,} draws",
                )
            if not self.problems and _longest_ns(values) > LONGEST_NS:
                self.complain(
                    where + "tokens",
                    f"{tokens:,} tokens may take over 104 days by the latencies that were given, "
                    "more than dsim counts exactly; take fewer tokens or shorter latencies",
                )


def _longest_ns(values: Mapping[str, Sequence[Any]]) -> float:
    """An upper bound of a latency (ns) of any algorithm, where latencies are not random."""

    def longest_ms(model: str) -> float:
        by_name = {n: values[f"{model}.{n}"] for n in ("latency_ms", "first_latency_ms")}
        found = [v for column in by_name.values() for v in column if v is not None]
        for name in ("latency_samples_ms", "latency_by_width_ms"):
            for data in filter(None, values[f"{model}.{name}"]):
                found += [row[1] if isinstance(row, list) else row for row in data]
        ratios = [v for v in values[f"{model}.first_latency_ratio"] if v is not None]
        return float(max(found, default=0.0) * max([1.0, *ratios]))

    target_ms, drafter_ms = longest_ms("target"), longest_ms("drafter")
    parts = [v for v in values["drafter.latency_relative"] if v is not None]
    drafter_ms = max([drafter_ms, *(float(part) * target_ms for part in parts)])
    tokens = int(max(values["tokens"]))
    largest = ["lookahead", *(["lookahead_most"] if _grows(values) else [])]
    drafts = min(tokens, int(max(v for key in largest for v in values[key])))
    return float(tokens * (drafts * drafter_ms + target_ms) * NS_PER_MS)


def _grows(values: Mapping[str, Sequence[Any]]) -> bool:
    return bool({"heuristic", "aimd"} & set(values["lookahead_policy"]))


def _needs_events(values: Mapping[str, Sequence[Any]]) -> str | None:
    from dsim.engines import vector

    for name in values["algorithms"][0]:
        if name not in vector.TOTALS:
            return f"algorithms has {show(name)}"
    for model in ("target", "drafter"):
        for kind in values[f"{model}.latency_model"]:
            if kind != "constant":
                return f'{model}.latency_model is "{kind}"'
    for policy in values["lookahead_policy"]:
        if policy != "fixed":
            return f'lookahead_policy is "{policy}"'
    return "preemptible is false" if False in values["preemptible"] else None


def read_samples(text: str) -> list[float]:
    """Latencies (ms) from the text of a CSV file.

    Raises:
        ValueError: it has no such column, or something in it is not a latency.
    """
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        raise ValueError("the file is empty")
    column = 0
    try:
        float(rows[0][0])
    except ValueError:
        header = [name.strip() for name in rows.pop(0)]
        if "latency_ms" in header:
            column = header.index("latency_ms")
        elif len(header) > 1:
            raise ValueError(f"expected a column latency_ms, got {', '.join(header)}") from None
    samples = [float(row[column]) for row in rows]
    if not samples or not all(map(is_latency, samples)):
        raise ValueError("expected latencies in ms, all above 0")
    return samples


def read_traces(text: str) -> list[str]:
    """Acceptance traces from the lines of a text file.

    Raises:
        ValueError: a line is not made of 0 and 1.
    """
    traces = [line.strip() for line in text.splitlines() if line.strip()]
    if not traces or not all(re.fullmatch("[01]+", trace) for trace in traces):
        raise ValueError("expected lines of 0 and 1")
    return traces


def latency_of(values: Mapping[str, Any], model: str) -> Latency:
    """The latency model of the ``target`` or the ``drafter``, from settings by key.

    Raises:
        ValueError: a latency is not above zero.
    """

    def get(name: str) -> Any:
        return values[f"{model}.{name}"]

    latency_ms = get("latency_ms")
    if model == "drafter" and values["drafter.latency_relative"] is not None:
        latency_ms = values["drafter.latency_relative"] * values["target.latency_ms"]
    kind = get("latency_model")
    samples = tuple(to_ns(ms) for ms in get("latency_samples_ms") or ())
    table = tuple((int(w), to_ns(ms)) for w, ms in get("latency_by_width_ms") or ())
    if kind == "empirical":
        latency_ns = max(1, round(sum(samples) / len(samples)))
    elif kind == "table":
        latency_ns = table[0][1]
    else:
        latency_ns = to_ns(latency_ms)
    first_ns = None
    if get("first_latency_ms") is not None:
        first_ns = to_ns(get("first_latency_ms"))
    elif get("first_latency_ratio") is not None:
        first_ns = max(1, round(get("first_latency_ratio") * latency_ns))
    return Latency(
        model=kind,
        latency_ns=latency_ns,
        first_ns=first_ns,
        cv=get("latency_cv") or 0.0,
        samples_ns=samples if kind == "empirical" else (),
        table=table if kind == "table" else (),
    )


def acceptance_of(values: Mapping[str, Any]) -> Acceptance:
    """The acceptance model, from settings by key."""
    traces = values["acceptance.trace"] or ()
    return Acceptance(
        model=values["acceptance.model"],
        rate=values["acceptance.rate"],
        decay=1.0 if values["acceptance.decay"] is None else values["acceptance.decay"],
        correlation=values["acceptance.correlation"] or 0.0,
        swing=values["acceptance.swing"] or 0.0,
        phase_tokens=values["acceptance.phase_tokens"],
        spread=values["acceptance.spread"],
        traces=(traces,) if isinstance(traces, str) else tuple(traces),
    )


def targets_of(targets: int | str, lookahead: int, drafter: Latency, target: Latency) -> int:
    """``S``, where a word stands for it (the mean latencies count).

    ``enough``: no pass ever waits; ``paper``: Equation 1 of the paper.
    """
    if isinstance(targets, int):
        return targets
    rule = targets_enough if targets == "enough" else targets_equation1
    return rule(drafter.latency_ns, target.latency_ns, lookahead)


def policy_of(values: Mapping[str, Any]) -> Policy:
    """How the lookahead is chosen, from settings by key."""
    return Policy(
        name=values["lookahead_policy"],
        most=values["lookahead_most"],
        threshold=values["confidence_threshold"],
        quality=values["confidence_quality"],
    )


def more_drafters_of(values: Mapping[str, Any]) -> tuple[MoreDrafter, ...]:
    """The further drafters, from settings by key.

    A prompt takes them as many times a draft as it takes the first one.
    """

    def listed(key: str) -> list[float]:
        value = values[f"more_drafters.{key}"]
        return [] if value is None else value if isinstance(value, list) else [value]

    first = latency_of(values, "drafter")
    found = []
    for latency_ms, rate in zip(listed("latency_ms"), listed("acceptance_rate"), strict=True):
        latency_ns = to_ns(latency_ms)
        first_ns = first.first_ns and max(1, round(first.first_ns * latency_ns / first.latency_ns))
        found.append(
            MoreDrafter(
                latency=Latency(latency_ns=latency_ns, first_ns=first_ns),
                rate=rate,
                overlap=values["more_drafters.overlap"],
            )
        )
    return tuple(found)


def case_of(values: Mapping[str, Any]) -> Case:
    """The case that settings by key describe."""
    target, drafter = latency_of(values, "target"), latency_of(values, "drafter")
    policy = policy_of(values)
    least = 1 if policy.adapts else values["lookahead"]  # what may ask for most servers
    return Case(
        tokens=values["tokens"],
        lookahead=values["lookahead"],
        targets=targets_of(values["targets"], least, drafter, target),
        policy=policy,
        more_drafters=more_drafters_of(values),
        target=target,
        drafter=drafter,
        acceptance=acceptance_of(values),
        repeats=values["repeats"],
        seed=values["seed"],
        preemptible=values["preemptible"],
    )


def points(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination of the values of *axes*, the first varying slowest."""
    keys = [axis.key for axis in axes]
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip(keys, values, strict=True))
