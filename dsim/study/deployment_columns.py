"""Columns of the table of a deployment study."""

from __future__ import annotations

from dsim.deployment.metrics import WITH_INTERVALS

QUANTITIES = {
    "ttft": "time from arrival to the first token",
    "tpot": "time per output token after the first",
    "latency": "time from arrival to the last token",
}
STATISTICS = ("mean", "p50", "p90", "p99")
# Columns of the table beside what tells cases apart: (unit, meaning).
OUTCOMES: dict[str, tuple[str, str]] = {
    **{
        f"{quantity}_{statistic}{suffix}_ms": (
            "ms",
            f"{meaning}, {statistic}" + (": half width of its 95 % interval" if suffix else ""),
        )
        for quantity, meaning in QUANTITIES.items()
        for statistic in STATISTICS
        for suffix in ("", "_ci95")
    },
    "throughput_per_s": ("requests / s", "requests finished"),
    "tokens_per_s": ("tokens / s", "tokens of finished requests"),
    "goodput_per_s": ("requests / s", "requests that kept the SLO"),
    "good_share": ("", "the part of the requests sent that kept the SLO"),
    "lost": ("requests", "lost to failures"),
    "turned_away": ("requests", "turned away at the door"),
    "target_utilisation": ("", "the share of time in which target servers computed"),
    "drafter_utilisation": ("", "the share of time in which drafter servers computed"),
    "more_drafter_utilisation": ("", "the same of further drafters' servers (multidsi)"),
    "in_system": ("requests", "requests in the system, mean over time"),
    "target_queue": ("forwards", "forwards that wait for a target server, mean over time"),
    "drafter_queue": ("forwards", "forwards that wait for a drafter server, mean over time"),
    "more_drafter_queue": ("forwards", "the same of further drafters' servers (multidsi)"),
    "wasted_passes": ("", "the part of the passes begun that were cancelled"),
    "wasted_drafts": ("", "the part of the drafts begun that are not in the output"),
    "passes_per_token": ("passes", "passes begun for each token of the output"),
    "drafts_per_token": ("drafts", "drafts begun for each token of the output"),
    "gpu_seconds_per_token": ("GPU-s", "GPU time reserved for each token"),
    "busy_gpu_seconds_per_token": ("GPU-s", "the part of it in which GPUs computed"),
    "price_per_million": ("", "price of a million tokens"),
    "joules_per_request": ("J", "energy for each request, if watts are given"),
    "kwh_per_million": ("kWh", "energy for a million tokens, if watts are given"),
    "backlog": ("", "growth of the backlog over the run, in units of its mean; above 1: unstable"),
}
OUTCOMES = {
    name: said
    for column, (unit, meaning) in OUTCOMES.items()
    for name, said in (
        (column, (unit, meaning)),
        (f"{column}_ci95", (unit, f"{meaning}: half width of its 95 % interval")),
    )
    if name in OUTCOMES or column in WITH_INTERVALS
}
