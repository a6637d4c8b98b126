"""From a deployment to its replicas: costs of forwards, and how they draft."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dsim.deployment.replica.cost import Batch, by_width, estimated, linear
from dsim.deployment.replica.drafting import Goodput, by_batch
from dsim.deployment.replica.replica import Drafting, Replica
from dsim.deployment.replica.speculation import Chain, Looked, StaticTree, Tree
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM
from dsim.model.lookahead import mean_rate
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.declaration import LOOKAHEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.deployment.replica.cost import Cost
    from dsim.deployment.replica.spec import ReplicaSpec
    from dsim.deployment.replica.speculation import Speculation
    from dsim.deployment.spec import Deployment
    from dsim.model.latency import Latency
    from dsim.model.roofline import Roofline
    from dsim.model.script import Script

ANY = 1 << 30  # levels of a tree, which has a depth of its own


def costs_of(deployment: Deployment, spec: ReplicaSpec, key: int | None) -> tuple[Cost, Cost]:
    """How long forwards of the target and of the drafter take.

    Args:
        deployment: what serves.
        spec: its replicas.
        key: what stands for the repeat in random latencies; ``None``: their means.
    """
    d = deployment
    drafter_us = None if spec.drafter_us is None else (*spec.drafter_us, spec.drafter_us[1])

    def cost(
        latency: Latency, stream: int, roofline: Roofline | None, us: Sequence[float] | None
    ) -> Cost:
        if us is not None:
            return linear(us)
        if roofline is not None:
            return estimated(roofline)
        if key is not None:
            return by_width(latency.sampler(d.seed, key, stream))
        if latency.model == "table":
            return by_width(lambda width, _: latency.at_width(round(width)))  # of means, too
        return by_width(latency.latency_ns)

    return (
        cost(d.target, TARGET_STREAM, spec.target, spec.target_us),
        cost(d.drafter, DRAFTER_STREAM, spec.drafter, drafter_us),
    )


def drafting_of(deployment: Deployment, spec: ReplicaSpec, cost: Cost) -> Drafting | None:
    """How a replica drafts, by forwards of this *cost*; ``None``: its orchestration does not."""
    if not ORCHESTRATIONS[deployment.algorithm].traits.drafts:
        return None
    chain = LOOKAHEAD[0] in ORCHESTRATIONS[deployment.algorithm].reads
    most = deployment.lookahead if chain else ANY
    lookup_ns = None if spec.ngram_us is None else spec.ngram_us * 1e3
    how = Drafting(lambda _: most, cost, spec.features, lookup_ns=lookup_ns)
    if spec.draft_policy == "goodput":
        target, drafter = costs_of(deployment, spec, None)

        def step_ns(requests: int, drafts: int) -> float:
            width = requests * (1 + drafts)
            ns = spec.host_us * 1e3 + target(Batch(0, width, requests, width, 0, 0.0))
            if lookup_ns is not None:
                return ns + lookup_ns * requests * drafts
            return ns + drafts * drafter(Batch(0, requests, requests, requests, 0, 0.0))

        policy = Goodput(most, step_ns, mean_rate(deployment.acceptance))
        return how._replace(tokens=policy.tokens, judged=policy.judged)
    return how._replace(tokens=by_batch(spec.drafts_by_batch)) if spec.drafts_by_batch else how


def shape_of(deployment: Deployment) -> Callable[[Script], Speculation] | None:
    """What the drafts of a request are made by; ``None``: always one token a forward."""
    d = deployment
    if LOOKAHEAD[0] not in ORCHESTRATIONS[d.algorithm].reads:
        # Without confidence, and where there is always a draft, every tree is the same.
        static = d.tree.paths or not d.policy.quality
        return partial(StaticTree, {}) if static and d.acceptance.model != "lookup" else Tree
    if d.block_tokens > 1 or d.acceptance.by_depth:
        return Chain
    return None if d.acceptance.plain else lambda script: Looked(script.ranks[0])


def replica_of(
    deployment: Deployment,
    spec: ReplicaSpec,
    key: int,
    *,
    drafts: bool,
    keep_fed: bool,
    keep_log: bool,
) -> Replica:
    """One replica.

    Args:
        deployment: what serves.
        spec: its replicas.
        key: what stands for the repeat in random latencies.
        drafts: whether the replica drafts, if its orchestration does.
        keep_fed: see :class:`dsim.deployment.replica.replica.Replica`.
        keep_log: see there.
    """
    target, drafter = costs_of(deployment, spec, key)
    return Replica(
        spec,
        target,
        drafting_of(deployment, spec, drafter) if drafts else None,
        host_ns=round(spec.host_us * 1e3),
        keep_fed=keep_fed,
        keep_log=keep_log,
    )
