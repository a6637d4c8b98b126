"""Words for columns: titles of axes, of charts and of tables."""

from __future__ import annotations

from typing import Any

from dsim.study.columns import BY_NAME

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
    "peak_targets": "most target servers busy at once",
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
    # Settings that can be an axis, where their keys say too little.
    "lookahead_most": "largest lookahead (drafts per block)",
    "confidence_threshold": "confidence below which a block ends",
    "confidence_quality": "how well confidence predicts acceptance (share of variance)",
    "preemptible": "cancelled passes free their server at once",
    **{
        f"{model}_{key}": f"{what} of {whose}{unit}"
        for model, whose in (("target", "a target pass"), ("drafter", "a draft"))
        for key, what, unit in (
            ("latency_cv", "variation of the latency", " (standard deviation / mean)"),
            ("latency_model", "distribution of the latency", ""),
        )
    },
    "target_first_latency_ms": "latency of the target's first pass (ms)",
    "drafter_first_latency_ms": "latency of the drafter's first forward (ms)",
    "target_first_latency_ratio": "latency of the target's first pass (× later ones)",
    "drafter_first_latency_ratio": "latency of the drafter's first forward (× later ones)",
    "more_drafters_acceptance_rate": "acceptance rate of the further drafters",
    "more_drafters_overlap": "correlation of the drafters' acceptances",
    "acceptance_decay": "acceptance of each further draft (× the one before)",
    "acceptance_correlation": "correlation of acceptance of neighbouring tokens",
    "acceptance_swing": "difference between easy and hard stretches (share of the largest)",
    "acceptance_phase_tokens": "mean length of easy and hard stretches (tokens)",
    "acceptance_spread": "spread of the acceptance rate over texts (standard deviation)",
    "acceptance_mean_length": "acceptance length τ (tokens per target pass)",
    "acceptance_at_lookahead": "lookahead at which τ was measured (drafts per pass)",
    "acceptance_mean_run": "tokens per rejection",
    "acceptance_copied_tokens": "mean length of copied stretches (tokens)",
    "acceptance_copied_rate": "acceptance rate in copied stretches",
    "acceptance_new_tokens": "mean length of new stretches (tokens)",
    "acceptance_chance_match": "chance of a draft in new stretches",
    "acceptance_chance_rate": "acceptance rate in new stretches",
    "drafter_block_tokens": "drafts per forward of the drafter",
    "drafter_features": "drafter reads the target's features",
    "drafter_ngram_us": "time to look up a draft (µs)",
    "patience": "patience (drafts that a first pass waits for)",
    "tree_depth": "depth of the tree (levels)",
    "tree_branches": "branches per node of the tree",
    "tree_nodes": "nodes of the tree",
    "tree_deviations": "second choices on a path",
    "ssd_fanout": "guesses of the target's own token",
    "workload_requests": "requests",
    "workload_cv": "burstiness of arrivals (standard deviation / mean)",
    "workload_think_ms": "time between answer and next request (ms)",
    "workload_prompt_tokens": "length of prompts (tokens)",
    "workload_prompt_cv": "variation of prompt lengths (standard deviation / mean)",
    "workload_output_cv": "variation of output lengths (standard deviation / mean)",
    "workload_prefix_groups": "groups of prompts that begin alike",
    "workload_prefix_tokens": "common beginning of prompts (tokens)",
    "workload_acceptance_drift": "rise of the acceptance rate over the run",
    "workload_rate_scale": "request rate (× that of the trace)",
    "workload_from_s": "start of the part of the trace (s)",
    "workload_for_s": "length of the part of the trace (s)",
    **{
        f"cluster_{server}_{key}": what.format(server)
        for server in ("target", "drafter")
        for key, what in (
            ("discipline", "queue discipline of {} servers"),
            ("batch", "largest batch of a {} server (forwards)"),
            ("context_ms", "extra latency of a {} forward (ms per 1,000 tokens of context)"),
            ("sequence_ms", "extra latency per further forward of a {} batch (ms)"),
            ("prefill_ms", "time to read the prompt on a {} server (ms per 1,000 tokens)"),
            ("kv_tokens", "KV memory of a {} server (tokens)"),
            ("watts", "power of a GPU of a {} server under load (W)"),
            ("idle_watts", "power of an idle GPU of a {} server (W)"),
            ("mttr_s", "mean time to repair of a {} server (s)"),
        )
    },
    "cluster_gpus_per_target": "GPUs per target server",
    "cluster_gpus_per_drafter": "GPUs per drafter server",
    "cluster_gpus_per_more_drafter": "GPUs per server of a further drafter",
    "cluster_more_drafters": "servers of each further drafter",
    "cluster_more_drafter_watts": "power of a GPU of a further drafter under load (W)",
    "cluster_more_drafter_idle_watts": "power of an idle GPU of a further drafter (W)",
    "cluster_affinity": "prefer servers that have cached the text",
    "cluster_network_cv": "variation of network latency (standard deviation / mean)",
    "cluster_dispatch_ms": "extra time per dispatch of a target pass (ms)",
    "cluster_hosts": "hosts",
    "cluster_mtbf_s": "mean time between failures of a target server (s)",
    "cluster_mttr_s": "mean time to repair of a target server (s)",
    "cluster_retry": "forwards of failed servers are repeated",
    "cluster_max_active": "requests that run at once, at most",
    "cluster_max_waiting": "requests that wait for admission, at most",
    "cluster_price_per_gpu_hour": "price of a GPU-hour",
    "replica_prefill_count": "prefill replicas",
    "replica_link_gb_s": "bandwidth between replicas (GB/s)",
    "replica_link_us": "latency between replicas (µs)",
    "replica_kv_token_bytes": "KV cache of a token (bytes)",
    "replica_max_count": "replicas, at most",
    "replica_prefill_max_count": "prefill replicas, at most",
    "replica_scale_queue": "waiting requests that start another replica",
    "replica_startup_s": "time to start a replica (s)",
    "replica_gpus": "GPUs per replica",
    "replica_long_prefill_threshold": "tokens of one prompt per step, at most",
    "replica_block_size": "size of a KV block (tokens)",
    "replica_kv_blocks": "KV blocks of a replica",
    "replica_prefix_cache": "prefix cache",
    "replica_max_model_len": "longest prompt and answer (tokens)",
    "replica_router": "router",
    "replica_host_us": "time of a step without a forward (µs)",
    "replica_draft_policy": "draft policy",
    "slo_ttft_ms": "SLO of TTFT (ms)",
    "slo_tpot_ms": "SLO of TPOT (ms)",
    "slo_latency_ms": "SLO of E2E latency (ms)",
    # Outcomes.
    "gpus": "GPUs",
    "requests": "requests",
    "offered_target": "offered load of target servers",
    "offered_drafter": "offered load of drafter servers",
    "wasted_pass_share": "share of passes that were cancelled",
    "wasted_draft_share": "share of drafts that were wasted",
    "passes_per_token": "target passes per token",
    "drafts_per_token": "drafts per token",
    "latency_min_ms": "smallest latency (ms)",
    "latency_max_ms": "largest latency (ms)",
    "target_passes": "target passes",
    "wasted_passes": "wasted target passes",
    "drafts": "drafts",
    "wasted_drafts": "wasted drafts",
    "beyond_table_share": "share of forwards beyond the latency table",
    "simulated_latency_mean_ms": "mean simulated latency (ms)",
    "overhead_mean": "mean overhead of real waits (share)",
    "overhead_worst": "largest overhead of real waits (share)",
    "oversleep_mean_ms": "mean overshoot of a wait (ms)",
    "oversleep_worst_ms": "largest overshoot of a wait (ms)",
    "handover_mean_ms": "mean time from a wait to the algorithm (ms)",
    "stalls": "repeated runs",
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
# Units that stand behind a value; what else is in brackets explains the words before it.
SHORT_UNITS = ("ms", "s", "µs", "W", "requests / s", "tokens", "bytes", "GB/s")


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
    if isinstance(value, int) and value >= 10_000:
        shown = f"{value:,}"
    unit = label(name).partition(" (")[2].removesuffix(")")
    return f"{words(name)} {shown}{f' {unit}' if unit in SHORT_UNITS else ''}"
