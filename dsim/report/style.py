"""How charts look: words for columns, colours, axes and legends."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from dsim.orchestrations import ORCHESTRATIONS
from dsim.report.analysis import is_number
from dsim.study.columns import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

INK, GREY = "#1b2430", "#9aa4b0"
PINK, PALE_PINK, PALE_BLUE, BLUE = "#d6317f", "#f9cfe1", "#dbe8f3", "#0b4f8f"
# For names that no orchestration claims, and for further variants of one that does.
PALETTE = ("#8b5fbf", "#c0504d", "#b8860b", "#4bacc6", "#2e8b62", "#7a6a53", "#d6317f")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
HEIGHT_PX = 300
WIDTH_PX = 460  # of pictures; on a page a chart is as wide as there is room
LEGEND_PX = 420  # what a legend takes before it is broken
NUMBER = "format(datum.value, ',~r')"  # of ticks; as a format, Vega would write 100 as 1e+2
MIN_LOG_VALUES, MIN_LOG_SPAN, MIN_LOG_STEP = 4, 8, 1.45  # of a logarithmic axis
MAX_OWN_TICKS = 12  # values of an axis, from which on its ticks are at round numbers instead
LABELS = {
    "drafter_latency_relative": "drafter latency / target latency",
    "drafter_latency_ms": "drafter latency (ms)",
    "target_latency_ms": "target latency (ms)",
    "more_drafters_latency_ms": "latency of the further drafters (ms)",
    "acceptance_rate": "acceptance rate",
    "lookahead": "lookahead (drafts per block)",
    "targets": "target servers",
    "tokens": "tokens",
    "latency_mean_ms": "mean latency (ms)",
    **{f"latency_{p}_ms": f"{p} E2E latency (ms)" for p in ("p50", "p90", "p99")},
    "latency_std_ms": "standard deviation of the latency (ms)",
    "ms_per_token": "time per token (ms)",
    "speedup_vs_nonsi": "speed-up over non-SI",
    "speedup_vs_si": "speed-up over SI",
    "peak_targets": "peak busy target servers",
    "workload_rate_per_s": "request rate (requests / s)",
    "workload_users": "concurrent users",
    "replica_max_seqs": "largest batch (requests)",
    "replica_max_batched_tokens": "token budget of a step (tokens)",
    "replica_count": "replicas",
    "preemptions": "evictions per request",
    "batch": "requests in a step",
    "cluster_targets": "target servers",
    "cluster_drafters": "drafter servers",
    "cluster_network_ms": "network latency (ms)",
    "cluster_target_mtbf_s": "mean time between failures of a target server (s)",
    "cluster_drafter_mtbf_s": "mean time between failures of a drafter server (s)",
    "throughput_per_s": "throughput (requests / s)",
    "tokens_per_s": "throughput (tokens / s)",
    "goodput_per_s": "goodput (requests / s within the SLO)",
    "good_share": "share of requests within the SLO",
    "lost": "requests lost to failures",
    "turned_away": "rejected requests",
    "target_utilisation": "utilisation of target servers",
    "drafter_utilisation": "utilisation of drafter servers",
    "more_drafter_utilisation": "utilisation of further drafters' servers",
    "in_system": "requests in the system",
    "target_queue": "passes that wait for a target server",
    "drafter_queue": "drafts that wait for a drafter server",
    "more_drafter_queue": "drafts that wait for a further drafter's server",
    "gpu_seconds_per_token": "GPU time reserved per token (GPU-s)",
    "busy_gpu_seconds_per_token": "GPU time computing per token (GPU-s)",
    "price_per_million": "price of a million tokens",
    "joules_per_request": "energy per request (J)",
    "kwh_per_million": "energy per million tokens (kWh)",
    "backlog": "growth of the backlog (in units of its mean)",
}
TABLES = ("workload_", "cluster_", "slo_")  # tables of settings, whose name says nothing more
ACRONYMS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "itl": "ITL",
    "gpu": "GPU",
    "gpus": "GPUs",
    "kv": "KV",
    "slo": "SLO",
}
UNITS = {"_per_s": "per second", "_ms": "ms", "_s": "s", "_watts": "W"}


def label(column: str) -> str:
    """Title of an axis over *column*: words, and the unit in brackets."""
    if column in LABELS:
        return LABELS[column]
    unit = BY_NAME[column].unit if column in BY_NAME else ""
    rest = next((column.removeprefix(t) for t in TABLES if column.startswith(t)), column)
    for suffix, of_suffix in UNITS.items():
        if rest.endswith(suffix):
            rest, unit = rest.removesuffix(suffix), unit or of_suffix
            break
    words = [ACRONYMS.get(word, word) for word in rest.split("_") if word]
    if words[-1:] and words[-1] in ("mean", "p50", "p90", "p99"):
        words = [words[-1], *words[:-1]]
    return f"{' '.join(words)} ({unit})" if unit else " ".join(words)


def words(column: str) -> str:
    """:func:`label` without the unit."""
    return label(column).partition(" (")[0]


def sentence(text: str) -> str:
    """*text* with a capital letter at its start, unless it starts with a name like p99."""
    named = any(letter.isdigit() for letter in text.partition(" ")[0])
    return text if named else f"{text[:1].upper()}{text[1:]}"


def describe(name: str, value: Any) -> str:
    """One value of the axis *name*, in words."""
    if name == "variant":
        return str(value)
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{words(name)} {shown}"


def colours(algorithms: Iterable[str]) -> list[str]:
    """A colour for each of *algorithms*: its own the first time, then others.

    Names that no orchestration claims get colours of a palette.
    """
    found: list[str] = []
    for name in algorithms:
        own = [ORCHESTRATIONS[name].colour] if name in ORCHESTRATIONS else []
        free = [colour for colour in (*own, *PALETTE) if colour not in found]
        found.append(free[0] if free else PALETTE[len(found) % len(PALETTE)])
    return found


def shape(field: str, names: Sequence[str]) -> alt.Shape:
    """Shapes of points, for those who cannot tell the colours apart; legends join :func:`colour`.

    Args:
        field: name of the field that holds *names*.
        names: what it holds, in order.
    """
    shapes = list(itertools.islice(itertools.cycle(SHAPES), len(names)))
    scale = alt.Scale(domain=list(names), range=shapes)
    return alt.Shape(f"{field}:N", title=None, scale=scale, legend=legend(list(names)))


def colour(field: str, names: Mapping[str, str]) -> alt.Color:
    """Colours, and their legend, of the field that holds *names*.

    Args:
        field: name of the field.
        names: the algorithm of each name, in order.
    """
    return alt.Color(
        f"{field}:N",
        title=None,
        scale=alt.Scale(domain=list(names), range=colours(names.values())),
        legend=legend(list(names)),
    )


def legend(names: list[str]) -> alt.Legend:
    """A legend above the chart that shows *names* whole, in as many rows as they need."""
    widest = int(max((len(name) for name in names), default=1) * 6.4) + 26
    columns = min(max(1, LEGEND_PX // widest), max(1, len(names)))
    return alt.Legend(orient="top", columns=columns, labelLimit=LEGEND_PX)


def ticks(values: pd.Series[Any], *, grid: bool = True) -> alt.Axis:
    """An axis with ticks at its own values where they are few, and at whole numbers if they are."""
    own = sorted(pd.unique(values.dropna()).tolist())
    if len(own) <= MAX_OWN_TICKS:
        return alt.Axis(grid=grid, values=own, labelExpr=NUMBER)
    if pd.api.types.is_integer_dtype(values):
        return alt.Axis(grid=grid, tickMinStep=1, format="d")
    return alt.Axis(grid=grid)


def are_multiples(values: Sequence[float]) -> bool:
    """Whether *values*, in order, are steps like 1, 2, 4, 8, 16 that want a logarithmic axis."""
    if len(values) < MIN_LOG_VALUES or values[0] <= 0 or values[-1] < MIN_LOG_SPAN * values[0]:
        return False
    return all(b >= MIN_LOG_STEP * a for a, b in itertools.pairwise(values))


def along(frame: pd.DataFrame, x: str) -> alt.X:
    """The horizontal axis over the column *x*: of numbers, or of names in their order."""
    if not is_number(frame[x]):
        return alt.X(f"{x}:N", title=label(x), sort=None, axis=alt.Axis(labelAngle=0))
    own = sorted(pd.unique(frame[x].dropna()).tolist())
    steps = alt.Scale(type="log") if are_multiples(own) else alt.Scale(zero=False)
    scale = alt.Scale(**steps.to_dict(), nice=False, padding=8)
    return alt.X(f"{x}:Q", title=label(x), scale=scale, axis=ticks(frame[x]))
