"""Tables of a deployment's results: how fast requests are served, and what that takes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dsim.orchestrations import ORCHESTRATIONS, title_of
from dsim.report.tables import TextTable
from dsim.study.columns import column_of
from dsim.study.labels import describe, words
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

FAST = (
    "Times in ms: to the first token (TTFT), per output token after it (TPOT: mean of requests), "
    "to the last token (latency: mean ± 95 % interval). Requests and tokens finished in a second. "
    "↗: the backlog grows. load: offered load of a case that was skipped, since its demand exceeds "
    "its capacity."
)
TAKES = (
    "GPUs: largest number reserved at once. Targets, drafters: part of the time in which their "
    "servers computed, be it for one request or for many. Waste: share of the passes that were "
    "cancelled."
)
OF_FURTHER = "Further: utilisation of the servers of further drafters."
BRIEF = 0.05  # of a run: a request that takes longer makes rates too high by about that part
OF_PRICE = (
    "Price / M tokens: the price of a GPU-hour × the hours for which GPUs were reserved, idle or "
    "not (a replica that autoscaling adds: from its start to its stop; all others: the whole run), "
    "for a million tokens of finished requests."
)
OF_ENERGY = (
    "J / request, kWh / M tokens: energy that these GPUs used in that time, at full power while "
    "their server computed and at idle power while it did not, for a finished request and "
    "for a million of their tokens. The warm-up counts in price and energy."
)


def tables(frame: pd.DataFrame, axes: Sequence[str]) -> tuple[TextTable, TextTable]:
    """For people: how fast requests are served, and what that takes.

    Args:
        frame: the results, one row a case.
        axes: the columns that tell its cases apart, the variant left out.
    """

    def any_of(column: str) -> bool:
        return bool(frame[column].notna().any()) if column in frame else False

    with_slo = any_of("goodput_per_s")
    with_more = any_of("more_drafter_utilisation")
    with_price = bool((frame["price_per_million"] > 0).any())
    with_energy = any_of("kwh_per_million")
    variants = bool(frame["variant"].any())
    heads = [*(["variant"] if variants else []), "algorithm"]
    heads += [words(column_of(axis)) for axis in axes]
    fast_heads = [*heads, "TTFT p50", "p99", "TPOT", "p99", "latency", "p99", "req/s", "tok/s"]
    fast_heads += ["goodput/s"] if with_slo else []
    takes_heads = [*heads, "GPUs", "targets", "drafters", *(["further"] if with_more else [])]
    takes_heads += ["waste", *(["price / M tokens"] if with_price else [])]
    takes_heads += ["J / request", "kWh / M tokens"] if with_energy else []
    fast, takes = [], []
    for row in frame.to_dict("records"):
        name = [*([row["variant"]] if variants else []), title_of(row["algorithm"])]
        name += [_value(row[column_of(axis)]) for axis in axes]
        if row["status"] == "refused":
            line = [*name, f"load {max(row['offered_target'], row['offered_drafter']):.2f}"]
            fast.append(line + ["–"] * (len(fast_heads) - len(line)))
            line = [*name, f"{row['gpus']:g}"]
            takes.append(line + ["–"] * (len(takes_heads) - len(line)))
            continue
        half = row["latency_mean_ci95_ms"]
        interval = "" if math.isnan(half) else f" ± {half:.0f}"
        grows = " ↗" if row["status"] == "backlog grows" else ""
        line = [
            *name,
            f"{row['ttft_p50_ms']:.0f}",
            f"{row['ttft_p99_ms']:.0f}",
            f"{row['tpot_mean_ms']:.1f}",
            f"{row['tpot_p99_ms']:.1f}",
            f"{row['latency_mean_ms']:.0f}{interval}{grows}",
            f"{row['latency_p99_ms']:.0f}",
            f"{row['throughput_per_s']:.2f}",
            f"{row['tokens_per_s']:.0f}",
        ]
        fast.append(line + ([f"{row['goodput_per_s']:.2f}"] if with_slo else []))
        own = ORCHESTRATIONS.get(row["algorithm"])
        drafts = own is None or own.traits.drafts
        line = [*name, f"{row['gpus']:g}", _share(row["target_utilisation"])]
        line += [_share(row["drafter_utilisation"]) if drafts else "–"]
        line += [_share(row["more_drafter_utilisation"])] if with_more else []
        line += [_share(row["wasted_pass_share"])]
        line += [f"{row['price_per_million']:.2f}"] if with_price else []
        if with_energy:
            line += [f"{row['joules_per_request']:.4g}", f"{row['kwh_per_million']:.3g}"]
        takes.append(line)
    caption = [TAKES]
    caption += [OF_FURTHER] if with_more else []
    caption += [OF_PRICE] if with_price else []
    caption += [OF_ENERGY] if with_energy else []
    return (
        TextTable(title="At a glance", caption=FAST, head=fast_heads, rows=fast, numbers=True),
        TextTable(
            title="What it takes",
            caption=" ".join(caption),
            head=takes_heads,
            rows=takes,
            numbers=True,
        ),
    )


def notes(
    frame: pd.DataFrame, axes: Sequence[str], refusals: Sequence[str] | None = None
) -> list[str]:
    """What the reader of the results must not overlook.

    Args:
        frame: the results, one row a case.
        axes: the settings that its grid varies.
        refusals: why cases were not simulated. ``None``: their offered load is all that is known.
    """
    skipped, growing, short, away, brief = [], [], [], [], []
    for row in frame.to_dict("records"):
        parts = [row["variant"], title_of(row["algorithm"])]
        parts += [describe(column_of(axis), row[column_of(axis)]) for axis in axes]
        name = ", ".join(dict.fromkeys(filter(None, parts)))
        if row["status"] != "refused" and (count := int(row["turned_away"])):
            sent = int(row["requests"] * row["repeats"])
            away.append(
                f"{name}: {count:,} of {sent:,} requests were rejected (more tokens than "
                "a replica's KV cache or the model takes, or admission control), and are in none "
                "of the times."
            )
        rate, mean_s = row["throughput_per_s"], row["latency_mean_ms"] / 1e3
        if row["status"] != "refused" and rate * mean_s > BRIEF * row["requests"]:
            brief.append(name)
        if row["status"] == "refused":
            load = max(row["offered_target"], row["offered_drafter"])
            skipped.append(f"Not simulated: {name}: the offered load is {load:.2f}.")
        elif row["status"] == "backlog grows" and row["offered_target"] >= 1:
            load = row["offered_target"]
            skipped.append(f"Overloaded: {name}: the offered load is at least {load:.2f}.")
        elif row["status"] == "backlog grows":
            growing.append(
                f"The backlog grew through the run of {name}, and had not drained at its end: it "
                "cannot keep up, or the run is too short to show that it can. Its "
                "latencies say only how long this run was."
            )
        elif math.isnan(row["latency_mean_ci95_ms"]):
            short.append(row.get("interval_requests", math.nan))
    lines = [*away, *(skipped if refusals is None else refusals), *growing]
    if brief:
        also = f" (and {plural(len(brief) - 1, 'further case')})" if len(brief) > 1 else ""
        lines.append(
            f"The run of {brief[0]}{also} is short beside the time that a request takes: requests "
            "and tokens a second are counted from the first finish to the last, and are too high. "
            "Take more workload.requests."
        )
    if known := [count for count in short if math.isfinite(count)]:
        most = float(f"{max(known):.1e}")
        some = len(short) < len(frame)
        which = f"{len(short)} of {len(frame)}" if some else f"All {len(frame)}"
        cases = f"{which} cases have" if len(frame) > 1 else "The one case has"
        lines.append(
            f"{cases} too few requests for a 95 % interval. An "
            f"interval of the mean takes up to {most:,.0f} requests per run (column "
            "interval_requests) or more repeats; one of the p99 takes 10 times as many."
        )
    return lines


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.0%}"
