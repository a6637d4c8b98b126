"""A deployment: which algorithm runs on how many servers, and what disturbs it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency
from dsim.model.lookahead import FIXED, Policy
from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from dsim.model.drafters import MoreDrafter


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleetSpec:
    """The servers of one model.

    Attributes:
        servers: how many.
        discipline: of the queue before them; see :data:`dsim.deployment.fleet.DISCIPLINES`.
        max_batch: most forwards of one batch.
        context_ns: what a batch takes longer for each token of context.
        sequence_ns: what it takes longer for each forward but the first.
        prefill_token_ns: what reading one token of the prompt takes; 0: the latency's own
            ``first_ns`` counts, if there is one.
        kv_tokens: what the KV memory of a server holds; 0: no limit.
        affinity: prefer a free server that has cached the request's text.
        gpus: of each server.
        watts, idle_watts: what one GPU draws while its server computes, and while it does not;
            ``None``: energy is not counted.
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
        mtbf_ns, mttr_ns: means of the exponential times to failure and to recovery; 0: none.
        plan: (server, fails at ns, recovers at ns, or -1 for never) of failures that are told
            beforehand.
        retry: whether what a failure interrupts is done again elsewhere; else the request is lost.
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
        drafter: how fast it is, and how its guesses fare.
        servers: where it runs.
        faults: of these.
    """

    drafter: MoreDrafter
    servers: FleetSpec = FleetSpec()
    faults: Faults = Faults()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slo:
    """What a request must keep to count as good; ``None``: no such bound.

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
class Deployment:
    """What serves the requests. Every effect is off by default, which leaves the ideal model.

    Attributes:
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        lookahead: ``k``, and
        policy: whether and how it adapts.
        most_passes: ``S``, how many passes of one request may be under way at once (DSI).
        target, drafter: latencies.
        acceptance: how drafts fare.
        seed: of everything random.
        preemptible: whether a cancelled forward frees its server at once.
        targets, drafters: the fleets, and
        more_drafters: those of further drafters; only multi-drafter DSI has them.
        network_ns, network_cv: one-way delay between drafter and targets, and its spread
            (lognormal); for each link the same, unless
        link_ns: one mean for each target server.
        overhead_ns: what each dispatch of a target pass costs.
        hosts: how many hosts share the servers (targets first, dealt in turn); 0: one each.
        slowdown: of servers that compute on one host at once; see
            :class:`dsim.deployment.host.Host`.
        faults: of target servers, and
        drafter_faults: of drafter servers. A text of DSI goes on without a drafter (rule 2d).
        max_active: requests served at once, others waiting before the door; 0: no limit.
        max_waiting: how many may wait there, others being turned away; ``None``: no limit.
        price_per_gpu_hour: in whatever currency.
        slo: what counts as good.
    """

    algorithm: str = "dsi"
    lookahead: int = 5
    policy: Policy = FIXED
    most_passes: int = 7
    target: Latency = dataclasses.field(default_factory=Latency)
    drafter: Latency = dataclasses.field(default_factory=lambda: Latency(latency_ns=100_000))
    acceptance: Acceptance = dataclasses.field(default_factory=Acceptance)
    seed: int = 0
    preemptible: bool = True
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
        """How many GPUs are reserved."""
        return sum(spec.servers * spec.gpus for spec in (self.targets, *self.drafter_specs))
