"""The layouts that given GPUs allow: orchestration, lookahead, servers and tensor parallelism."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import TYPE_CHECKING

from dsim.deployment.spec import Deployment, FleetSpec, Slo
from dsim.model.acceptance import Acceptance
from dsim.model.case import TreeShape
from dsim.model.latency import Latency
from dsim.orchestrations import ORCHESTRATIONS, Orchestration
from dsim.orchestrations.declaration import LOOKAHEAD, TREE
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.tasks.advise.question import Question

LOOKAHEADS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20)
DRAFTER_GPUS = (0, 1, 2, 4)  # 0: on the GPUs of the targets
TREES = tuple((nodes, depth) for nodes in (4, 8, 16, 32) for depth in (3, 5, 8) if depth <= nodes)
SHARED = (1.0, 2.0)  # slowdown of target and drafter on the same GPUs, alone and both at once


def candidates() -> list[Orchestration]:
    """The orchestrations that layouts can be estimated for, by their vector form."""
    return [one for one in ORCHESTRATIONS.values() if one.vector]


@dataclasses.dataclass(frozen=True, kw_only=True, order=True)
class Layout:
    """One way to use the GPUs.

    Attributes:
        algorithm: name of the orchestration.
        lookahead: ``k`` (0 for an orchestration that has none).
        nodes, depth: of the tree, at most (0 for an orchestration whose tree has no such limits).
        targets: number of target servers.
        degree: GPUs of each target server (tensor parallelism).
        drafter_gpus: number of GPUs that hold drafters; 0: each target's GPUs hold one, too.
    """

    algorithm: str
    lookahead: int = 0
    targets: int
    degree: int
    drafter_gpus: int
    nodes: int = 0
    depth: int = 0

    @property
    def orchestration(self) -> Orchestration:
        """The orchestration."""
        return ORCHESTRATIONS[self.algorithm]

    @property
    def width(self) -> int:
        """Tokens of a pass over all that was drafted."""
        return (self.nodes or self.lookahead) + 1

    @property
    def tree(self) -> TreeShape:
        """The tree of drafts, of an orchestration that has one."""
        return TreeShape(nodes=self.nodes, depth=self.depth) if self.nodes else TreeShape()

    @property
    def gpus(self) -> int:
        """Number of GPUs of the layout."""
        return self.targets * self.degree + self.drafter_gpus

    def __str__(self) -> str:
        on = plural(self.targets, "target server")
        on += f" of {self.degree} GPUs" if self.degree > 1 else ""
        title = self.orchestration.title
        if not self.orchestration.traits.drafts:
            return f"{title} on {on}"
        gpus = f"and {plural(self.drafter_gpus, 'GPU')} for drafters"
        gpus = gpus if self.drafter_gpus else "with a drafter on the same GPUs"
        how = f"{title} with lookahead {self.lookahead}" if self.lookahead else title
        if self.nodes:
            how = f"a {title} of {self.nodes} nodes and depth {self.depth}"
        return f"{how} on {on} {gpus}"


def layouts(question: Question) -> list[Layout]:
    """Every layout that the GPUs allow, larger numbers of servers in steps."""
    found = []
    lookaheads = [k for k in LOOKAHEADS if k < question.tokens]
    speculative = [one.name for one in candidates() if one.traits.drafts and lookaheads]
    plain = [one.name for one in candidates() if not one.traits.drafts]
    degree = question.gpus_per_target
    while degree <= question.gpus:
        for targets, name in itertools.product(_steps(question.gpus // degree), plain):
            found.append(Layout(algorithm=name, targets=targets, degree=degree, drafter_gpus=0))
        for gpus in DRAFTER_GPUS:
            steps = _steps((question.gpus - gpus) // degree)
            for targets, name in itertools.product(steps, speculative):
                reads = ORCHESTRATIONS[name].reads
                # Where drafting and passes overlap they would only be in each other's way.
                if not gpus and ORCHESTRATIONS[name].traits.overlaps:
                    continue
                one = Layout(algorithm=name, targets=targets, degree=degree, drafter_gpus=gpus)
                if LOOKAHEAD[0] in reads:
                    found += [dataclasses.replace(one, lookahead=k) for k in lookaheads]
                elif TREE[0] in reads:
                    found += [dataclasses.replace(one, nodes=n, depth=d) for n, d in TREES]
                else:
                    found.append(one)
        degree *= 2
    return found


def _steps(most: int) -> list[int]:
    """1 … *most*: all up to 4, then ever fewer, and *most* itself."""
    steps, at = [], 1
    while at < most:
        steps.append(at)
        at = at + 1 if at < 4 else max(at + 1, round(at * 1.3))
    return [*steps, most] if most >= 1 else []


def pass_latency(question: Question, degree: int) -> Latency:
    """The latency model of target passes on *degree* GPUs."""
    doublings = math.log2(degree / question.gpus_per_target)
    table = question.target_table or ((1, question.target_ns),)
    model = "table" if question.target_table else "constant"
    return _faster(model, table, question.tp_gain**doublings)


@functools.lru_cache(maxsize=64)  # every layout asks for one of few, and it sorts its table
def _faster(model: str, table: tuple[tuple[int, int], ...], gain: float) -> Latency:
    """A latency by width, *gain* times as fast as *table* says."""
    faster = tuple((width, max(1, round(ns / gain))) for width, ns in table)
    scaled = Latency(model=model, table=faster)
    return dataclasses.replace(scaled, latency_ns=scaled.at_width(1))


def deployment_of(question: Question, layout: Layout) -> Deployment:
    """The deployment of *layout*, for the event engine."""
    shared = layout.orchestration.traits.drafts and not layout.drafter_gpus
    drafters = layout.drafter_gpus * question.drafters_per_gpu
    tree = layout.tree
    if not question.rank_shares and not question.target_table:
        # Second choices that are never right, and whose place in a pass costs nothing, change
        # nothing: but a simulation that grows them takes several times as long.
        tree = dataclasses.replace(tree, branches=1)
    return Deployment(
        algorithm=layout.algorithm,
        lookahead=max(1, layout.lookahead),
        most_passes=layout.targets,
        target=pass_latency(question, layout.degree),
        drafter=Latency(latency_ns=question.drafter_ns),
        acceptance=Acceptance(rate=question.acceptance, rank_shares=question.rank_shares),
        seed=question.seed,
        preemptible=question.preemptible,
        tree=tree,
        targets=FleetSpec(
            servers=layout.targets,
            max_batch=question.batch,
            sequence_ns=question.sequence_ns,
            gpus=layout.degree,
        ),
        drafters=FleetSpec(
            servers=layout.targets if shared else max(1, drafters),
            max_batch=question.batch,
            gpus=0.0 if shared else 1 / question.drafters_per_gpu,
        ),
        hosts=layout.targets if shared else 0,
        slowdown=SHARED if shared else (1.0,),
        price_per_gpu_hour=question.price_per_gpu_hour,
        slo=Slo(latency_ns=question.slo_ns),
    )
