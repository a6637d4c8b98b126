"""The columns of results: of studies of one request, of real waits, and of deployments."""

from __future__ import annotations

import dataclasses

from dsim.deployment.metrics import WITH_INTERVALS
from dsim.orchestrations import REFERENCES


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the results.

    Attributes:
        name: its name.
        dtype: ``string``, ``int64`` or ``float64``.
        unit: the unit, or nothing.
        kind: ``setting`` (what was simulated) or ``outcome``.
        meaning: what it says.
    """

    name: str
    dtype: str
    unit: str
    kind: str
    meaning: str


def _column(name: str, dtype: str, unit: str, kind: str, meaning: str) -> Column:
    return Column(name=name, dtype=dtype, unit=unit, kind=kind, meaning=meaning)


COLUMNS = (
    _column(
        "variant", "string", "", "setting", "name of the study's variant; empty if it has none"
    ),
    _column("algorithm", "string", "", "setting", "name of the orchestration"),
    _column("engine", "string", "", "setting", "the engine that ran: vector or events"),
    _column("backend", "string", "", "setting", "what a forward was: simulated or wallclock"),
    _column("tokens", "int64", "tokens", "setting", "N, tokens generated"),
    _column("repeats", "int64", "", "setting", "runs that the row sums up"),
    _column("target_latency_ms", "float64", "ms", "setting", "mean latency of a target pass"),
    _column("drafter_latency_ms", "float64", "ms", "setting", "mean latency of a draft"),
    _column("acceptance_rate", "float64", "", "setting", "acceptance rate"),
    _column("lookahead", "int64", "tokens", "setting", "drafts per block (nonsi does not use it)"),
    _column(
        "targets",
        "int64",
        "servers",
        "setting",
        "S, number of target servers of dsi (nonsi and si use one)",
    ),
    _column("latency_mean_ms", "float64", "ms", "outcome", "time to the last token, mean"),
    _column(
        "latency_mean_ci95_ms",
        "float64",
        "ms",
        "outcome",
        "half width of the 95 % interval of latency_mean_ms",
    ),
    _column("latency_std_ms", "float64", "ms", "outcome", "standard deviation of the latency"),
    _column("latency_min_ms", "float64", "ms", "outcome", "smallest latency of the repeats"),
    _column("latency_max_ms", "float64", "ms", "outcome", "largest latency of the repeats"),
    _column("ms_per_token", "float64", "ms", "outcome", "latency_mean_ms / tokens"),
    _column("speedup_vs_nonsi", "float64", "×", "outcome", "mean latency of nonsi / of this row"),
    _column(
        "speedup_vs_si", "float64", "×", "outcome", "mean latency of si, same case / of this row"
    ),
    _column("target_passes", "float64", "passes", "outcome", "target passes begun, mean"),
    _column("wasted_passes", "float64", "passes", "outcome", "target passes cancelled, mean"),
    _column("drafts", "float64", "tokens", "outcome", "drafts begun, mean"),
    _column("wasted_drafts", "float64", "tokens", "outcome", "drafts not in the output, mean"),
    _column("peak_targets", "int64", "servers", "outcome", "most target servers busy at once"),
)
# Of results with latency tables only, of texts and of deployments.
BEYOND = _column(
    "beyond_table_share",
    "float64",
    "",
    "outcome",
    "share of a model's forwards that were wider than its latency table (of the model with most)",
)
# Of results of the wall-clock backend only.
WALLCLOCK_COLUMNS = (
    _column(
        "simulated_latency_mean_ms",
        "float64",
        "ms",
        "outcome",
        "latency_mean_ms of the same draws in simulated time",
    ),
    _column("overhead_mean", "float64", "", "outcome", "latency_mean_ms / simulated - 1"),
    _column("overhead_worst", "float64", "", "outcome", "the same, of the worst run"),
    _column("oversleep_mean_ms", "float64", "ms", "outcome", "by how much a wait overshot, mean"),
    _column("oversleep_worst_ms", "float64", "ms", "outcome", "by how much a wait overshot, worst"),
    _column(
        "handover_mean_ms",
        "float64",
        "ms",
        "outcome",
        "from the end of a wait to when the algorithm heard of it, mean; part of the next wait",
    ),
    _column(
        "stalls",
        "float64",
        "runs",
        "outcome",
        "runs that were repeated because the machine stalled",
    ),
)
# The tables of deployments. QUANTITIES are measured for every request.
QUANTITIES = {
    "ttft": "time from arrival to the first token",
    "tpot": "time per output token after the first",
    "latency": "time from arrival to the last token",
}
STATISTICS = ("mean", "p50", "p90", "p99")


def _outcome(name: str, unit: str, meaning: str, dtype: str = "float64") -> Column:
    return _column(name, dtype, unit, "outcome", meaning)


def _with_interval(column: Column) -> tuple[Column, Column]:
    """*column*, and the column of its interval."""
    stem = column.name.removesuffix("_ms")
    name = f"{stem}_ci95" + ("_ms" if stem != column.name else "")
    meaning = f"half width of the 95 % interval of {column.name}"
    return column, _column(name, "float64", column.unit, "outcome", meaning)


VERSUS = _outcome(
    f"speedup_vs_{REFERENCES[0]}",
    "×",
    "mean latency of non-SI with the same target at the same point / of this row",
)
STATUS = "status"  # only results of deployments have this column
DEPLOYMENT_SETTINGS = (
    COLUMNS[0],
    COLUMNS[1],
    _column("lookahead", "int64", "tokens", "setting", "drafts per block"),
    _outcome("gpus", "GPUs", "GPUs reserved"),
    _outcome("requests", "requests", "requests sent in each run", "int64"),
    _column("repeats", "int64", "", "setting", "runs that the row sums up"),
    _outcome(
        "status", "", "ok; backlog grows: it cannot keep up; refused: not simulated", "string"
    ),
    _outcome("offered_target", "", "offered load of the target servers"),
    _outcome("offered_drafter", "", "offered load of the busiest drafter servers"),
)
DEPLOYMENT_COLUMNS = (
    *(
        column
        for quantity, meaning in QUANTITIES.items()
        for statistic in STATISTICS
        for column in _with_interval(
            _outcome(f"{quantity}_{statistic}_ms", "ms", f"{meaning}, {statistic}")
        )
    ),
    *(
        column
        for name, unit, meaning in (
            ("throughput_per_s", "requests / s", "requests finished"),
            ("tokens_per_s", "tokens / s", "tokens of finished requests"),
            ("goodput_per_s", "requests / s", "requests that met the SLO"),
            ("good_share", "", "share of the requests sent that met the SLO"),
            ("lost", "requests", "requests lost to failures"),
            ("turned_away", "requests", "requests rejected by admission control"),
            ("target_utilisation", "", "share of time in which target servers computed"),
            ("drafter_utilisation", "", "share of time in which drafter servers computed"),
            (
                "more_drafter_utilisation",
                "",
                "share of time in which servers of further drafters computed",
            ),
            ("in_system", "requests", "requests in the system, mean over time"),
            ("target_queue", "forwards", "forwards that wait for a target server, mean over time"),
            (
                "drafter_queue",
                "forwards",
                "forwards that wait for a drafter server, mean over time",
            ),
            (
                "more_drafter_queue",
                "forwards",
                "forwards that wait for a server of a further drafter, mean over time",
            ),
            ("wasted_pass_share", "", "share of the passes begun that were cancelled"),
            ("wasted_draft_share", "", "share of the drafts begun that are not in the output"),
            ("passes_per_token", "passes", "passes begun per token of the output"),
            ("drafts_per_token", "drafts", "drafts begun per token of the output"),
            ("preemptions", "", "replicas: how often a request was evicted, mean"),
            ("batch", "requests", "replicas: requests in a step, mean"),
            ("gpu_seconds_per_token", "GPU-s", "GPU time reserved per token"),
            ("busy_gpu_seconds_per_token", "GPU-s", "GPU time per token in which GPUs computed"),
            ("price_per_million", "", "price of a million tokens, until the last request is done"),
            ("joules_per_request", "J", "energy per request, if watts are given"),
            ("kwh_per_million", "kWh", "energy per million tokens, if watts are given"),
            (
                "interval_requests",
                "requests",
                "requests that each run takes for an interval of a mean, a rate or a share; a p99 "
                "takes 10 times as many",
            ),
            (
                "backlog",
                "",
                "growth of the backlog over the run, in units of its mean; above 1: unstable",
            ),
        )
        for column in (
            _with_interval(_outcome(name, unit, meaning))
            if name in WITH_INTERVALS
            else (_outcome(name, unit, meaning),)
        )
    ),
    VERSUS,
)
BY_NAME = {
    column.name: column
    for column in (
        *DEPLOYMENT_SETTINGS,
        *DEPLOYMENT_COLUMNS,
        *COLUMNS,
        BEYOND,
        *WALLCLOCK_COLUMNS,
    )
}


def column_of(key: str) -> str:
    """The column that holds the setting *key* (``drafter.latency_ms`` → ``drafter_latency_ms``)."""
    return key.replace(".", "_")
