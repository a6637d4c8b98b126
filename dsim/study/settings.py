"""Everything that a study of single texts can set; ``dsim settings`` prints it."""

from __future__ import annotations

from collections import ChainMap
from typing import TYPE_CHECKING, Any

from dsim.model import POLICIES
from dsim.orchestrations import COMPARED, DEFAULT, ORCHESTRATIONS, REFERENCES
from dsim.study.draft_settings import DRAFTS, RATES
from dsim.study.named import NAMED_SETTINGS
from dsim.study.presets import PRESETS
from dsim.study.setting import Schema, Setting

if TYPE_CHECKING:
    from collections.abc import Iterable

BEST: ChainMap[str, Any] = ChainMap(
    {"best": None}, ORCHESTRATIONS
)  # the live list of names, and "best"
ENGINES = ("auto", "vector", "events")
BACKENDS = ("simulated", "wallclock")
LATENCY_MODELS = ("constant", "lognormal", "gamma", "empirical", "table")
# Those with latencies of their own, in these settings; the others spread around latency_ms.
OWN_LATENCIES = {"empirical": "latency_samples_ms", "table": "latency_by_width_ms"}
CHART_KINDS = ("heatmap", "map", "winners", "lines", "marginal", "variants", "published")


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
            meaning="distribution of the pass latency",
        ),
        Setting(
            key=f"{model}.latency_cv",
            type="float",
            default=None,
            low=0,
            high=5,
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
            meaning="table: latency by the number of tokens that a pass feeds, linear in between",
        ),
    )


# Where one case is described, not a grid (dsim simulate, dsim.simulate, make_case): one that is
# plausible and quick, in place of the unit of time and the repeats of a study.
OF_ONE_CASE: dict[str, Any] = {
    "tokens": 100,
    "repeats": 20,
    "target.latency_ms": 30.0,
    "drafter.latency_ms": 3.0,
}

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
        default=list(COMPARED),
        choices=ORCHESTRATIONS,
        sweep=False,
        meaning="the algorithms to simulate",
    ),
    Setting(
        key="method",
        type="str",
        default=None,
        choices=PRESETS,
        sweep=False,
        meaning="a method by the name people use: its orchestration and settings (dsim presets)",
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
        meaning="simulated: in simulated time; wallclock: in real time, with a sleep in place of "
        "each forward pass, one case at a time",
    ),
    Setting(
        key="tokens",
        type="int",
        default=1000,
        low=1,
        high=10_000_000,
        unit="tokens",
        meaning="N, the number of tokens to generate",
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
        meaning="seed of the random draws; all algorithms and cases see the same draws",
    ),
    Setting(
        key="lookahead",
        type="int",
        default=5,
        low=1,
        high=10_000_000,
        unit="tokens",
        meaning="k, drafts per block; with an adaptive policy, drafts of the first block",
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
        meaning="confidence: how well confidence predicts acceptance (share of variance "
        "explained); 0: not at all, 1: perfectly",
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
        "⌈t2/(k·t1)⌉ + 1; paper: its Equation 1, ⌈t2/(k·t1)⌉ (where a draft makes b tokens, ⌈k/b⌉ "
        "in place of k)",
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
        "acceptance rate; other settings of the study win over the file, --set pair=FILE over both",
    ),
    *NAMED_SETTINGS,
    *_model_settings("target"),
    *_model_settings("drafter"),
    Setting(
        key="more_drafters.latency_ms",
        type="float or list",
        default=None,
        low=0,
        above=True,
        unit="ms",
        meaning="multidsi: latency of one draft of each further drafter, a number or a list",
    ),
    Setting(
        key="more_drafters.acceptance_rate",
        type="float or list",
        default=None,
        low=0,
        high=1,
        meaning="multidsi: acceptance rate of each further drafter, as many numbers as latencies",
    ),
    Setting(
        key="more_drafters.overlap",
        type="float",
        default=0.0,
        low=0,
        high=1,
        meaning="multidsi: how correlated the drafters' acceptances are; 0: independent of the "
        "first drafter's; 1: of two drafters the better is right wherever the other is",
    ),
    *DRAFTS,
    Setting(
        key="published.speedup_vs_si",
        type="float",
        default=None,
        low=0,
        above=True,
        sweep=False,
        unit="×",
        meaning="published speed-up of DSI over SI; shown beside the simulated one, "
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
# Of each group at most one can be set; ``--set`` of one takes the others away.
ALTERNATIVES = {
    key: tuple(other for other in group if other != key)
    for group in (
        ("drafter.latency_ms", "drafter.latency_relative"),
        ("drafter.first_latency_ms", "drafter.first_latency_ratio"),
        ("target.first_latency_ms", "target.first_latency_ratio"),
        ("drafter.latency_samples_ms", "drafter.latency_samples_file"),
        ("target.latency_samples_ms", "target.latency_samples_file"),
        ("acceptance.trace", "acceptance.trace_file"),
        ("workload.trace", "workload.trace_file"),
        ("cluster.network_ms", "cluster.link_ms"),
        RATES,
    )
    for key in group
}


def without_others(keys: Iterable[str]) -> dict[str, None]:
    """The settings that *keys* take away, which are then not set."""
    return {other: None for key in keys for other in ALTERNATIVES.get(key, ())}


TABLES = tuple(dict.fromkeys(s.key.partition(".")[0] for s in SETTINGS if "." in s.key))
TEXT = Schema(name="text", settings=SETTINGS, tables=TABLES)
MODEL_TABLES = ("target.", "drafter.")
PAIR_TABLES = ("target.", "drafter.", "acceptance.")  # what a measured pair says
COMMAND_TABLES = {"measure": ("pairs", "sets"), "validate": ("wallclock", "torch")}
CHART_SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="kind",
        type="str",
        default=None,
        choices=CHART_KINDS,
        meaning="heatmap: a ratio of two latencies over two axes; map: a column over two axes, "
        "like the best lookahead; winners: which algorithm is fastest, and by how much, over two "
        "axes; lines: a column over an axis; "
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
        meaning="heatmap, map, winners: the axis of the grid upwards; else the column of the "
        "results",
    ),
    Setting(
        key="show",
        type="str",
        default=DEFAULT,
        choices=ORCHESTRATIONS,
        meaning="heatmap, map, marginal: the algorithm to show",
    ),
    Setting(
        key="against",
        type="str",
        default=REFERENCES[0],
        choices=BEST,
        meaning="heatmap: the algorithm to compare with; best: the better of non-SI and SI",
    ),
    Setting(
        key="value",
        type="str",
        default="lookahead",
        meaning="map: the column of the results, or lookahead, the best one; winners: "
        "latency_mean_ms, or per_device: by tokens per second and device",
    ),
)
# The kinds of charts that know some of these; the others all know.
KNOWN_BY = {
    "show": ("heatmap", "map", "marginal"),
    "against": ("heatmap",),
    "value": ("map", "winners"),
}
CHART_BY_KEY = {s.key: s for s in CHART_SETTINGS}
