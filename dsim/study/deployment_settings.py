"""What a study of a deployment sets beside the settings of single texts: load, servers, SLO."""

from __future__ import annotations

from typing import Any

from dsim.deployment.queue import DISCIPLINES
from dsim.deployment.workload import ARRIVALS
from dsim.study.precision import PRECISE
from dsim.study.replica_settings import REPLICA_SETTINGS
from dsim.study.setting import Schema, Setting
from dsim.study.settings import SETTINGS, TABLES, TEXT

MAX_SERVERS = 100_000
MAX_TIMES = {"ms": 1e11, "s": 1e8}  # three years; an exponential draw with this mean fits 63 bits
MAX_WORKLOAD_S = 3e9  # in ns, with room to spare in 63 bits
MIN_RATE_PER_S = 1e-6


def _number(key: str, default: Any, unit: str, meaning: str, **more: Any) -> Setting:
    kind = "int" if isinstance(default, int) else "float"
    more = {"low": 0, "high": MAX_TIMES.get(unit), **more}
    return Setting(
        key=key, type=more.pop("type", kind), default=default, unit=unit, meaning=meaning, **more
    )


def _fleet_settings(model: str) -> tuple[Setting, ...]:
    plural = f"{model}s"
    return (
        _number(
            f"cluster.{plural}",
            7 if model == "target" else 1,
            "servers",
            f"{model} servers, shared by all requests",
            low=1,
            high=MAX_SERVERS,
        ),
        Setting(
            key=f"cluster.{model}_discipline",
            type="str",
            default="fifo",
            choices=DISCIPLINES,
            meaning=f"who is next when a {model} server is free: fifo, lifo, shortest (fewest "
            "tokens to go), first-pass (requests with none in flight go first)",
        ),
        _number(
            f"cluster.{model}_batch",
            1,
            "forwards",
            f"maximum batch size of a {model} server: forwards of different requests run as one",
            low=1,
        ),
        _number(
            f"cluster.{model}_context_ms",
            0.0,
            "ms / 1000 tokens",
            f"extra latency of a {model} forward per 1,000 tokens of context",
        ),
        _number(
            f"cluster.{model}_sequence_ms",
            0.0,
            "ms",
            f"extra latency of a {model} batch for each forward after the first",
        ),
        _number(
            f"cluster.{model}_prefill_ms",
            0.0,
            "ms / 1000 tokens",
            f"time to read the prompt on each {model} server that has not cached it; "
            f"0: {model}.first_latency_ms holds",
        ),
        _number(
            f"cluster.{model}_kv_tokens",
            0,
            "tokens",
            f"capacity of the KV memory of a {model} server; 0: no limit",
        ),
        _number(
            f"cluster.gpus_per_{model}",
            1.0,
            "GPUs",
            f"number of GPUs of one {model} server",
        ),
        _number(
            f"cluster.{model}_watts",
            None,
            "W",
            f"power of one GPU of a {model} server under load; not set: energy is not counted",
            type="float",
        ),
        _number(
            f"cluster.{model}_idle_watts",
            None,
            "W",
            f"power of one GPU of a {model} server when idle; not set: energy is not counted",
            type="float",
        ),
    )


def _of_more(name: str, unit: str, meaning: str) -> Setting:
    of_first = name.replace("more_", "")
    return Setting(
        key=f"cluster.{name}",
        type="float or list",
        default=None,
        low=0,
        unit=unit,
        meaning=f"multidsi: {meaning}, one number for all or a list; "
        f"not set: as cluster.{of_first}",
    )


DEPLOYMENT_SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="workload.arrivals",
        type="str",
        default="poisson",
        choices=ARRIVALS,
        meaning="poisson; gamma: with bursts; closed: users who wait for the answer; "
        "trace: replay workload.trace_file, or workload.trace",
    ),
    _number("workload.requests", 500, "requests", "number of requests sent", low=1, high=2**31),
    _number("workload.rate_per_s", 1.0, "requests / s", "mean arrival rate", low=MIN_RATE_PER_S),
    _number(
        "workload.cv",
        2.0,
        "",
        "gamma: standard deviation / mean of the time between arrivals",
        above=True,
    ),
    _number("workload.users", 8, "users", "closed: number of users", low=1),
    _number("workload.think_ms", 0.0, "ms", "closed: mean time between answer and next request"),
    _number("workload.prompt_tokens", 0, "tokens", "length of a prompt, or its mean", high=10**9),
    _number(
        "workload.prompt_cv",
        0.0,
        "",
        "standard deviation / mean of prompt lengths (lognormal); 0: constant",
    ),
    _number(
        "workload.prefix_groups",
        0,
        "groups",
        "replicas: number of groups of prompts that begin alike (system prompts); each request is "
        "of one of them, with equal chances; 0: no two prompts begin alike",
        high=10**9,
    ),
    _number(
        "workload.prefix_tokens",
        0,
        "tokens",
        "replicas: tokens at the beginning that the prompts of a group have in common",
        high=10**9,
    ),
    _number(
        "workload.output_cv",
        0.0,
        "",
        "standard deviation / mean of output lengths (lognormal, mean: tokens); 0: constant",
    ),
    _number(
        "workload.acceptance_drift",
        0.0,
        "",
        "by how much the acceptance rate rises (below 0: falls) from the first request to the last",
        low=-1,
        high=1,
    ),
    Setting(
        key="workload.trace_file",
        type="str",
        default=None,
        sweep=False,
        meaning="trace: a CSV file with columns arrival_ms (or arrival_s, arrival_us), "
        "prompt_tokens and output_tokens, and perhaps request_id, prefix_group, prefix_tokens and "
        "accepts; or a trace as Azure, BurstGPT or Mooncake publish it; the first request comes "
        "at 0",
    ),
    _number(
        "workload.rate_scale",
        1.0,
        "",
        "trace: how many times as often requests come; 2 halves every gap",
        above=True,
        high=1e6,
    ),
    _number(
        "workload.from_s", 0.0, "s", "trace: start of the part that is used; it becomes time 0"
    ),
    _number(
        "workload.for_s",
        None,
        "s",
        "trace: length of the part that is used, by the clock of the trace; not set: to its end",
        type="float",
        above=True,
    ),
    Setting(
        key="workload.trace",
        type="str",
        default=None,
        sweep=False,
        meaning="trace: the text of a trace file; a results folder keeps traces in this form",
    ),
    _number(
        "workload.warm_up",
        0.1,
        "",
        "the part of the requests, from the first on, left out of times, throughput and goodput",
        high=0.9,
        sweep=False,
    ),
    _number(
        "workload.precision",
        0.0,
        "",
        "add runs until the half width of the 95 % interval is at most this share of the value; "
        "0: as many runs as repeats says",
        high=1,
        sweep=False,
    ),
    Setting(
        key="workload.precision_of",
        type="str",
        default="latency_mean_ms",
        choices=PRECISE,
        sweep=False,
        meaning="the column that workload.precision is about",
    ),
    *_fleet_settings("target"),
    *_fleet_settings("drafter"),
    Setting(
        key="cluster.more_drafters",
        type="int or list",
        default=1,
        low=1,
        high=MAX_SERVERS,
        unit="servers",
        meaning="multidsi: servers of each further drafter, one number for all or a list; what "
        "else is said of drafter servers holds for them, with times in proportion to the latency",
    ),
    _of_more("gpus_per_more_drafter", "GPUs", "number of GPUs of one server of a further drafter"),
    _of_more("more_drafter_watts", "W", "power of one GPU of a further drafter under load"),
    _of_more("more_drafter_idle_watts", "W", "power of one GPU of a further drafter when idle"),
    Setting(
        key="cluster.affinity",
        type="bool",
        default=False,
        meaning="prefer a free target server that has cached the request's text",
    ),
    _number("cluster.network_ms", 0.0, "ms", "one-way delay between drafter and targets"),
    Setting(
        key="cluster.link_ms",
        type="list of delays",
        default=None,
        unit="ms",
        sweep=False,
        meaning="instead of cluster.network_ms: one delay for each target server's link",
    ),
    _number(
        "cluster.network_cv", 0.0, "", "standard deviation / mean of network delays (lognormal)"
    ),
    _number("cluster.dispatch_ms", 0.0, "ms", "extra time for each dispatch of a target pass"),
    _number(
        "cluster.hosts",
        0,
        "hosts",
        "number of hosts that all servers share; servers of a host slow each other; "
        "0: one host per server",
    ),
    Setting(
        key="cluster.slowdown",
        type="list of float",
        default=[1.0],
        sweep=False,
        meaning="how many times longer a forward takes while 1, 2, 3 … servers of its host "
        "compute; the last value holds for more",
    ),
    _number("cluster.mtbf_s", 0.0, "s", "mean time to a target server's failure; 0: none fails"),
    _number("cluster.mttr_s", 60.0, "s", "mean time to repair of a target server", above=True),
    _number(
        "cluster.drafter_mtbf_s", 0.0, "s", "mean time to a drafter server's failure; 0: none fails"
    ),
    _number(
        "cluster.drafter_mttr_s", 60.0, "s", "mean time to repair of a drafter server", above=True
    ),
    Setting(
        key="cluster.faults",
        type="list of tables",
        default=None,
        sweep=False,
        meaning='failures at known times, a table each: server ("target 2", "drafter 1", '
        '"further drafter 1.2"), at_s, and for_s; without for_s it never comes back',
    ),
    Setting(
        key="cluster.retry",
        type="bool",
        default=True,
        meaning="a forward whose server fails is repeated, on another server or when its server is "
        "back; false: the request of the forward is lost",
    ),
    _number(
        "cluster.max_active",
        0,
        "requests",
        "admission control: maximum number of requests that run at once; 0: no limit",
    ),
    _number(
        "cluster.max_waiting",
        None,
        "requests",
        "requests that may wait for admission; further ones are rejected; not set: no limit",
        type="int",
    ),
    _number("cluster.price_per_gpu_hour", 0.0, "", "price per GPU-hour, in any currency"),
    *REPLICA_SETTINGS,
    _number(
        "slo.ttft_ms",
        None,
        "ms",
        "goodput counts requests whose first token comes within this time",
    ),
    _number(
        "slo.tpot_ms",
        None,
        "ms",
        "goodput counts requests whose mean time per further token is within this",
    ),
    _number(
        "slo.latency_ms",
        None,
        "ms",
        "goodput counts requests whose last token comes within this time",
    ),
    _number(
        "max_load",
        1.0,
        "",
        "refuse cases whose offered load is this or more: their queues would grow without bound",
        above=True,
        sweep=False,
    ),
)
MORE_KEYS = (
    "cluster.more_drafters",
    "cluster.gpus_per_more_drafter",
    "cluster.more_drafter_watts",
    "cluster.more_drafter_idle_watts",
)
# Settings of single texts that a deployment has none of: it is simulated by events, always.
_LEFT_OUT = {"engine", "backend", "max_targets"}
DEPLOYMENT_TABLES = (
    "workload",
    "cluster",
    "replica",
    "slo",
)  # a file with one of them is of a deployment
DEPLOYMENT = Schema(
    name="deployment",
    settings=tuple(s for s in (*SETTINGS, *DEPLOYMENT_SETTINGS) if s.key not in _LEFT_OUT),
    tables=(*TABLES, *DEPLOYMENT_TABLES),
)
KINDS = {schema.name: schema for schema in (TEXT, DEPLOYMENT)}
