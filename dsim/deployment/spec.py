"""A deployment: which algorithm runs on how many servers, and what disturbs it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.model.case import Decoding
from dsim.orchestrations import DEFAULT, ORCHESTRATIONS

if TYPE_CHECKING:
    from dsim.deployment.replica.spec import ReplicaSpec
    from dsim.model.drafters import MoreDrafter


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """The servers of one model.

    Attributes:
        servers: number of servers.
        discipline: who is next in the queue; see :data:`dsim.deployment.queue.DISCIPLINES`.
        max_batch: maximum batch size.
        context_ns: extra latency of a batch per token of context.
        sequence_ns: extra latency of a batch per additional sequence.
        prefill_token_ns: time to read one token of the prompt; 0: the latency's own ``first_ns``
            counts, if there is one.
        kv_tokens: capacity of a server's KV memory in tokens; 0: no limit.
        affinity: prefer a free server that has cached the request's text.
        gpus: number of GPUs of each server.
        watts: power of one GPU while its server computes; ``None``: energy is not counted.
        idle_watts: power of one GPU while its server is idle; ``None``: energy is not counted.
    """

    servers: int = 1
    discipline: str = "fifo"
    max_batch: int = 1
    context_ns: float = 0.0
    sequence_ns: int = 0
    prefill_token_ns: float = 0.0
    kv_tokens: int = 0
    affinity: bool = False
    gpus: float = 1.0
    watts: float | None = None
    idle_watts: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """Failures of the servers of one fleet.

    Attributes:
        mtbf_ns: mean of the exponential times to failure; 0: no random failures.
        mttr_ns: mean of the exponential times to recovery.
        plan: failures at known times: (server, fails at ns, recovers at ns, or -1 for never).
        retry: whether what a failure interrupts is done again elsewhere; otherwise the request is
            lost.
    """

    mtbf_ns: int = 0
    mttr_ns: int = 0
    plan: tuple[tuple[int, int, int], ...] = ()
    retry: bool = True

    def __bool__(self) -> bool:
        return bool(self.mtbf_ns or self.plan)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MorePool:
    """A further drafter (multi-drafter DSI), and servers of its own.

    Attributes:
        drafter: its latency and its acceptance.
        servers: the servers that it runs on.
        faults: failures of these servers.
    """

    drafter: MoreDrafter
    servers: FleetSpec = FleetSpec()
    faults: Faults = Faults()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slo:
    """The bounds that a good request keeps; ``None``: no such bound.

    Attributes:
        ttft_ns: time to the first token.
        tpot_ns: time per output token after the first.
        latency_ns: time to the last token.
    """

    ttft_ns: int | None = None
    tpot_ns: int | None = None
    latency_ns: int | None = None

    def __bool__(self) -> bool:
        return any(bound is not None for bound in (self.ttft_ns, self.tpot_ns, self.latency_ns))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Deployment(Decoding):
    """What serves the requests. Every effect is off by default, which leaves the ideal model.

    Attributes (beside those of :class:`dsim.model.case.Decoding`):
        algorithm: name of the orchestration.
        most_passes: ``S``, how many passes of one request may be under way at once (DSI).
        targets, drafters: the fleets of the two models.
        more_drafters: further drafters, for algorithms that make use of them.
        network_ns: mean one-way delay between drafters and target servers.
        network_cv: coefficient of variation of that delay (lognormal).
        link_ns: mean delay for each target server, in place of *network_ns*.
        overhead_ns: cost of each dispatch of a target pass.
        hosts: how many hosts share the servers (targets first, dealt in turn); 0: one each.
        slowdown: slowdown by the number of servers of one host that compute at once; see
            :class:`dsim.deployment.host.Host`.
        faults: failures of target servers.
        drafter_faults: failures of drafter servers. DSI goes on without a drafter (rule 2d).
        max_active: how many requests are served at once, others waiting for admission; 0: no limit.
        max_waiting: how many may wait for admission, others being rejected; ``None``: no limit.
        price_per_gpu_hour: price of one GPU for an hour, in any currency.
        slo: the bounds that a good request keeps.
        replica: replicas that serve in place of the fleets, each with target and drafter; *targets*
            and *drafters* then say only how many servers and GPUs these are.
    """

    algorithm: str = DEFAULT
    most_passes: int = 7
    targets: FleetSpec = FleetSpec(servers=7)
    drafters: FleetSpec = FleetSpec()
    more_drafters: tuple[MorePool, ...] = ()
    network_ns: int = 0
    network_cv: float = 0.0
    link_ns: tuple[int, ...] = ()
    overhead_ns: int = 0
    hosts: int = 0
    slowdown: tuple[float, ...] = (1.0,)
    faults: Faults = Faults()
    drafter_faults: Faults = Faults()
    max_active: int = 0
    max_waiting: int | None = None
    price_per_gpu_hour: float = 0.0
    slo: Slo = Slo()
    replica: ReplicaSpec | None = None

    @property
    def more_pools(self) -> tuple[MorePool, ...]:
        """The pools of further drafters that the algorithm makes use of."""
        takes = ORCHESTRATIONS[self.algorithm].traits.further_drafters
        return self.more_drafters if takes else ()

    @property
    def drafter_specs(self) -> tuple[FleetSpec, ...]:
        """The fleets of drafters that are reserved, the first one's first; non-SI has none."""
        if not ORCHESTRATIONS[self.algorithm].traits.drafts:
            return ()
        return (self.drafters, *(pool.servers for pool in self.more_pools))

    @property
    def gpus(self) -> float:
        """Number of GPUs that are reserved."""
        return sum(spec.servers * spec.gpus for spec in (self.targets, *self.drafter_specs))
