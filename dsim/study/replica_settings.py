"""What a study says of replicas: their settings, what they are built of, and what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.deployment.replica.spec import DRAFT_POLICIES, ROUTERS, ReplicaSpec
from dsim.deployment.spec import FleetSpec
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.declaration import LOOKAHEAD
from dsim.study.named import estimate_of
from dsim.study.setting import Setting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.setting import Problems

MAX_REPLICAS = 10_000


def _whole(key: str, default: int, unit: str, meaning: str, low: int, high: int = 10**9) -> Setting:
    return Setting(
        key=key, type="int", default=default, unit=unit, meaning=meaning, low=low, high=high
    )


def _time(key: str, unit: str, meaning: str, default: float = 0.0, high: float = 1e9) -> Setting:
    return Setting(
        key=key, type="float", default=default, low=0, high=high, unit=unit, meaning=meaning
    )


def _above_zero(key: str, default: float, unit: str, meaning: str) -> Setting:
    return Setting(
        key=key, type="float", default=default, low=0, above=True, unit=unit, meaning=meaning
    )


def _linear(key: str, length: int, meaning: str) -> Setting:
    return Setting(
        key=key,
        type="coefficients",
        default=None,
        length=length,
        unit="µs",
        sweep=False,
        meaning=meaning,
    )


REPLICA_SETTINGS: tuple[Setting, ...] = (
    _whole(
        "replica.count",
        0,
        "replicas",
        "replicas that serve the algorithms that can step in one (dsim docs replicas); other "
        "algorithms run on the servers of [cluster]; 0: all do; 1 if only the table replica is "
        "there",
        low=0,
        high=MAX_REPLICAS,
    ),
    _whole(
        "replica.prefill_count",
        0,
        "replicas",
        "further replicas that only read prompts and give the first token; the KV cache is sent to "
        "the others; 0: every replica does both",
        low=0,
        high=MAX_REPLICAS,
    ),
    _above_zero(
        "replica.link_gb_s",
        50.0,
        "GB/s",
        "bandwidth at which the KV cache of a prompt is sent between replicas",
    ),
    _time("replica.link_us", "µs", "latency of sending the KV cache of a prompt"),
    Setting(
        key="replica.kv_token_bytes",
        type="float",
        default=0.0,
        low=0,
        unit="bytes",
        meaning="size of the KV cache of a token, all GPUs of a replica together; names of models "
        "and GPUs set it",
    ),
    _whole(
        "replica.max_count",
        0,
        "replicas",
        "autoscaling: more replicas are started, up to this number, while requests wait; one more "
        "than replica.count is stopped when it is idle and nobody waits; 0: none",
        low=0,
        high=MAX_REPLICAS,
    ),
    _whole(
        "replica.prefill_max_count",
        0,
        "replicas",
        "autoscaling of the replicas that only read prompts, by their own queue, in the same way; "
        "0: none",
        low=0,
        high=MAX_REPLICAS,
    ),
    _above_zero(
        "replica.scale_queue",
        4.0,
        "requests",
        "autoscaling: another replica is started when more requests than this wait for each",
    ),
    _time("replica.startup_s", "s", "autoscaling: how long it takes to start a replica", 60.0, 1e6),
    Setting(
        key="replica.gpus",
        type="float",
        default=1.0,
        low=0,
        unit="GPUs",
        meaning="number of GPUs of one replica, which hold target and drafter",
    ),
    _whole(
        "replica.max_seqs",
        128,
        "requests",
        "requests that run at once on a replica (vLLM: max_num_seqs)",
        low=1,
    ),
    _whole(
        "replica.max_batched_tokens",
        2048,
        "tokens",
        "tokens that a step feeds to the target at most (vLLM: max_num_batched_tokens)",
        low=1,
    ),
    _whole(
        "replica.long_prefill_threshold",
        0,
        "tokens",
        "tokens of one prompt that a step reads at most; 0: no limit",
        low=0,
    ),
    _whole("replica.block_size", 16, "tokens", "tokens of a KV block", low=1),
    _whole("replica.kv_blocks", 0, "blocks", "KV blocks of a replica; 0: no limit", low=0),
    Setting(
        key="replica.prefix_cache",
        type="bool",
        default=True,
        meaning="keep KV blocks, and share them among requests whose prompts begin alike",
    ),
    _whole(
        "replica.max_model_len",
        0,
        "tokens",
        "prompt and answer that a request may have; longer ones are refused; 0: no limit; where "
        "target.model gives the latencies, what that model was made for, if dsim knows",
        low=0,
    ),
    Setting(
        key="replica.router",
        type="str",
        default=ROUTERS[0],
        choices=ROUTERS,
        meaning="which replica a request goes to: in turn; to the one with the fewest requests; "
        "with the fewest tokens that are yet to be read or written; with the longest beginning "
        "of the prompt in its prefix cache",
    ),
    Setting(
        key="replica.api_us",
        type="coefficients",
        default=[0.0, 0.0, 0.0],
        length=3,
        unit="µs",
        sweep=False,
        meaning="time outside of the scheduler: [0] + [1] · prompt tokens before a request is "
        "queued, and [2] for each token of the answer; names of models and GPUs set it",
    ),
    _time("replica.host_us", "µs", "time of each step in which no forward runs"),
    Setting(
        key="replica.drafts_by_batch",
        type="list of [requests, drafts]",
        default=None,
        sweep=False,
        unit="requests, tokens",
        meaning="number of drafts of each request by the number of decoding requests, instead of "
        "the lookahead "
        "(vLLM: num_speculative_tokens_per_batch_size)",
    ),
    Setting(
        key="replica.draft_policy",
        type="str",
        default=DRAFT_POLICIES[0],
        choices=DRAFT_POLICIES,
        meaning="fixed: lookahead drafts, or by replica.drafts_by_batch; goodput: up to lookahead, "
        "the number with the most expected tokens in a unit of time (SmartSpec)",
    ),
    _linear(
        "target.linear_us",
        3,
        "replicas: a step of the target takes [0] + [1] · prefill tokens + [2] · decoding tokens; "
        "not set: what the latency model says of all its tokens",
    ),
    _linear(
        "drafter.linear_us",
        2,
        "replicas: a forward of the drafter takes [0] + [1] · tokens; not set: what the latency "
        "model says of all its tokens",
    ),
    *(
        Setting(
            key=f"{model}.roofline",
            type="bool",
            default=False,
            sweep=False,
            meaning=f"replicas: forwards take what {model}.model and gpu say, by tokens and "
            "context; set where these names give the latencies",
        )
        for model in ("target", "drafter")
    ),
    Setting(
        key="drafter.features",
        type="bool",
        default=False,
        meaning="replicas: the drafter reads the target's features (EAGLE, MTP), and so every new "
        "token again",
    ),
    Setting(
        key="drafter.ngram_us",
        type="float",
        default=None,
        low=0,
        high=1e9,
        unit="µs",
        meaning="replicas: drafting is a look-up of n-grams; time per draft",
    ),
)


def on_replicas(values: Mapping[str, Any], algorithm: str) -> bool:
    """Whether *algorithm* is served by replicas."""
    return bool(values["replica.count"]) and ORCHESTRATIONS[algorithm].traits.lockstep


def replica_of(values: Mapping[str, Any]) -> ReplicaSpec:
    """The replicas that settings by key describe."""

    def numbers(key: str) -> Any:
        return None if values[key] is None else tuple(values[key])

    found = None
    if values["target.roofline"] or values["drafter.roofline"]:
        found = estimate_of(values, "study")
    same = (
        "count",
        "prefill_count",
        "link_gb_s",
        "link_us",
        "kv_token_bytes",
        "max_count",
        "prefill_max_count",
        "scale_queue",
        "startup_s",
        "gpus",
        "max_seqs",
        "max_batched_tokens",
        "long_prefill_threshold",
        "block_size",
        "kv_blocks",
        "prefix_cache",
        "max_model_len",
        "router",
        "host_us",
        "draft_policy",
    )
    return ReplicaSpec(
        **{name: values[f"replica.{name}"] for name in same},
        drafts_by_batch=tuple((a, b) for a, b in values["replica.drafts_by_batch"] or ()),
        api_us=tuple(values["replica.api_us"]),
        target_us=numbers("target.linear_us"),
        drafter_us=numbers("drafter.linear_us"),
        target=found.target if found and values["target.roofline"] else None,
        drafter=found.drafter if found and values["drafter.roofline"] else None,
        features=values["drafter.features"],
        ngram_us=values["drafter.ngram_us"],
    )


def as_fleet(values: Mapping[str, Any], replica: ReplicaSpec, *, drafts: bool = False) -> FleetSpec:
    """Replicas as a fleet: how many there are, their GPUs, and what these draw.

    The drafter is on the GPUs of the target, and so has none of its own.
    """
    if drafts:
        return FleetSpec(servers=replica.most, gpus=0.0, watts=0.0, idle_watts=0.0)
    return FleetSpec(
        servers=replica.most,
        gpus=replica.gpus,
        watts=values["cluster.target_watts"],
        idle_watts=values["cluster.target_idle_watts"],
    )


def any_on_fleets(of: Mapping[str, Sequence[Any]]) -> bool:
    """Whether any algorithm runs on the servers of the table cluster."""
    (algorithms,) = of["algorithms"]
    lockstep = (ORCHESTRATIONS[name].traits.lockstep for name in algorithms)
    return not min(of["replica.count"]) or not all(lockstep)


def _lockstep(of: Mapping[str, Sequence[Any]]) -> list[str]:
    """The algorithms that run on replicas."""
    (algorithms,) = of["algorithms"]
    used = max(of["replica.count"]) > 0
    return [name for name in algorithms if used and ORCHESTRATIONS[name].traits.lockstep]


def check_replicas(
    problems: Problems,
    where: str,
    of: Mapping[str, Sequence[Any]],
    variants: Sequence[Mapping[str, Sequence[Any]]],
) -> None:
    """What is said of replicas goes together.

    Args:
        problems: takes what is wrong.
        where: the variant, for messages.
        of: the values that each setting takes in it.
        variants: the same of all variants, as what has no meaning in one may have in others.
    """
    lockstep = _lockstep(of)
    used = any(max(one["replica.count"]) > 0 for one in variants)
    if used and not any(map(_lockstep, variants)):
        known = [name for name, one in ORCHESTRATIONS.items() if one.traits.lockstep]
        problems.add(f"{where}replica.count", f"no algorithm runs on replicas; {known} do")
    defaults = {setting.key: setting.default for setting in REPLICA_SETTINGS}
    if not used and max(of["workload.prefix_groups"]):
        problems.add(f"{where}workload.prefix_groups", "has no meaning without replicas")
    keys = ["target.linear_us", "drafter.linear_us", "drafter.ngram_us"]
    keys += ["drafter.features"] if of["target.model"] == (None,) else []  # a name may set it
    for key in keys:
        if not used and any(value != defaults[key] for value in of[key]):
            problems.add(f"{where}{key}", "has no meaning without replicas: replica.count is 0")
    if not lockstep:
        return
    if of["replica.drafts_by_batch"] != (None,) and "goodput" in of["replica.draft_policy"]:
        what = 'has no meaning beside replica.draft_policy = "goodput"'
        problems.add(f"{where}replica.drafts_by_batch", what)
    shaped = [n for n in lockstep if ORCHESTRATIONS[n].traits.drafts]
    shaped = [n for n in shaped if LOOKAHEAD[0] not in ORCHESTRATIONS[n].reads]
    if shaped and "goodput" in of["replica.draft_policy"]:
        what = f'"goodput" chooses a number of drafts, and "{shaped[0]}" has a shape of its own'
        problems.add(f"{where}replica.draft_policy", what)
    drafting = any(ORCHESTRATIONS[name].traits.drafts for name in lockstep)
    if drafting and set(of["lookahead_policy"]) != {"fixed"}:
        what = 'expected "fixed" on replicas, where replica.draft_policy chooses'
        problems.add(f"{where}lookahead_policy", what)
    if set(of["workload.arrivals"]) != {"trace"} and not min(of["workload.prompt_tokens"]):
        problems.add(f"{where}workload.prompt_tokens", "expected at least 1 on replicas, got 0")
    for kind in ("", "prefill_"):
        key, start = f"replica.{kind}max_count", f"replica.{kind}count"
        most, least = [value for value in of[key] if value], max(of[start])
        if most and not min(of[start]):
            problems.add(f"{where}{key}", f"expected {start} of at least 1 beside it")
        elif most and min(most) < least:
            problems.add(f"{where}{key}", f"expected at least {least} ({start})")
    for key, default in _FLEETS_ONLY.items():
        if not any(map(any_on_fleets, variants)) and any(value != default for value in of[key]):
            problems.add(f"{where}{key}", "has no meaning for replicas")


# What is said of fleets, and has no counterpart in replicas, with the default.
_FLEETS_ONLY: Mapping[str, Any] = {
    "cluster.target_batch": 1,
    "cluster.drafter_batch": 1,
    "cluster.target_kv_tokens": 0,
    "cluster.drafter_kv_tokens": 0,
    "cluster.target_prefill_ms": 0.0,
    "cluster.drafter_prefill_ms": 0.0,
    "cluster.network_ms": 0.0,
    "cluster.dispatch_ms": 0.0,
    "cluster.hosts": 0,
    "cluster.drafter_mtbf_s": 0.0,
    "cluster.max_active": 0,
    "cluster.link_ms": None,
}
