"""What a layout is expected to do, without simulating it.

The latency and work of a request alone come from the vector engine; the waiting comes from M/M/c
with the Allen-Cunneen correction (half of it, as passes take a constant time).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from dsim.deployment.queueing import erlang_c
from dsim.engines import vector
from dsim.model.acceptance import Acceptance
from dsim.tasks.advise.layouts import SHARED, candidates, pass_latency
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dsim.tasks.advise.layouts import Layout
    from dsim.tasks.advise.question import Question

REPEATS = 12  # random draws from which a layout is estimated
BATCH_ROUNDS = 12  # of a fixed point
MAX_OFFERED = 0.97  # of a server, in the estimate of the wait


@dataclasses.dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a layout is expected to do.

    Attributes:
        layout: the layout.
        latency_ns: mean time to the last token; infinite where the load is too much.
        most_per_s: the largest rate (requests per second) that the layout sustains.
        gpu_seconds_per_token: GPU time reserved per token.
    """

    layout: Layout
    latency_ns: float
    most_per_s: float
    gpu_seconds_per_token: float


class Work(NamedTuple):
    """What one request is on servers of its own: mean latency, passes and drafts."""

    latency_ns: float
    passes: float
    drafts: float


class _Works:
    """The work of a request on any layout, by the vector engine."""

    def __init__(self, question: Question) -> None:
        self.question = question
        drawn = Acceptance(rate=question.acceptance, rank_shares=question.rank_shares)
        ranks = drawn.ranks(question.seed, REPEATS, question.tokens)[:, 0]
        self.branches = vector.Branches.of(ranks, [drawn])
        # Where drafting overlaps passes, one pass per rejection and one more are enough.
        self.min_passes = float((ranks[:, :-1] != 1).sum(axis=1).mean()) + 1

    def of(self, wanted: Iterable[Layout]) -> list[Work]:
        """The work on each layout."""
        wanted = list(wanted)
        found: dict[Layout, Work] = {}
        for orchestration in candidates():
            own = [layout for layout in wanted if layout.algorithm == orchestration.name]
            if not own:
                continue
            by = [self._timing(layout) for layout in own]
            timings = list(dict.fromkeys(by))
            totals = vector.form_of(orchestration.name).totals(timings, self.branches)
            latency = totals.latency_ns().mean(axis=1)
            passes = totals.target_passes[totals.row].mean(axis=1)
            drafts = totals.drafts[totals.row].mean(axis=1)
            at = {timing: i for i, timing in enumerate(timings)}
            for layout, timing in zip(own, by, strict=True):
                i = at[timing]
                found[layout] = Work(float(latency[i]), float(passes[i]), float(drafts[i]))
        return [found[layout] for layout in wanted]

    def _timing(self, layout: Layout) -> vector.Timing:
        several = layout.orchestration.traits.several_targets
        return vector.Timing(
            drafter_ns=self.question.drafter_ns,
            target_ns=_block_ns(self.question, layout),
            lookahead=max(1, layout.lookahead),
            targets=layout.targets if several else 1,
            tree=layout.tree,
        )


def _block_ns(question: Question, layout: Layout) -> int:
    """The latency of a pass over a block of *layout*'s lookahead."""
    return pass_latency(question, layout.degree).at_width(layout.width)


def forecasts(question: Question, wanted: Sequence[Layout]) -> list[Forecast]:
    """What each layout is expected to do.

    Args:
        question: what is given.
        wanted: the layouts.
    """
    works = _Works(question)
    return [
        _forecast(question, layout, work, works.min_passes)
        for layout, work in zip(wanted, works.of(wanted), strict=True)
    ]


def _forecast(question: Question, layout: Layout, work: Work, min_passes: float) -> Forecast:
    alone_ns, passes, drafts = work
    slow_pass = 1.0
    traits = layout.orchestration.traits
    t2, t1, b = float(_block_ns(question, layout)), float(question.drafter_ns), question.batch
    full_ns = pass_latency(question, layout.degree).at_width(b * layout.width)
    share_ns = (full_ns + (b - 1) * question.sequence_ns) / b  # one sequence's, of a full batch
    shared = traits.drafts and not layout.drafter_gpus
    drafters = layout.targets if shared else layout.drafter_gpus * question.drafters_per_gpu
    least = min_passes if traits.overlaps else passes
    least_drafts = question.tokens - min_passes if traits.overlaps else drafts
    target_ns = least * share_ns / layout.targets
    draft_ns = least_drafts * t1 / b / drafters if traits.drafts else 0.0
    most_per_s = NS_PER_S / (target_ns + draft_ns if shared else max(target_ns, draft_ns))
    rate = question.rate_per_s
    if rate is None:
        latency_ns = alone_ns
        gpu_s = layout.gpus * alone_ns / NS_PER_S / question.tokens
    else:
        latency_ns = math.inf
        gpu_s = layout.gpus / (rate * question.tokens)
    if rate is not None and rate < most_per_s:
        per_ns = rate / NS_PER_S
        if shared:  # each computes more slowly while the other does
            passing = per_ns * passes / layout.targets
            drafting = per_ns * drafts / drafters
            share_ns *= _slowdowns(passing * share_ns, drafting * t1 / b, batches=False)[0]
            slow_pass, slow_draft = _slowdowns(passing * t2, drafting * t1, batches=b > 1)
            alone_ns += least * (slow_pass - 1) * t2 + least_drafts * (slow_draft - 1) * t1
            t2, t1 = t2 * slow_pass, t1 * slow_draft
        alone_ns += least * (_batch_ns(question, layout, per_ns * passes, slow_pass) - t2)
        if traits.overlaps:
            # Idle servers are given more passes than are needed; busy ones are not.
            room = min(1.0, layout.targets / (per_ns * passes * share_ns))
            passes = max(least, passes * room)
            room = min(1.0, b * drafters / (per_ns * drafts * t1)) if drafts else 1.0
            drafts = max(least_drafts, drafts * room)
        latency_ns = (
            alone_ns
            + least * _wait_ns(per_ns * passes * share_ns, layout.targets, t2)
            + least_drafts * _wait_ns(per_ns * drafts * t1 / b, drafters, t1)
        )
        if b > 1:  # a batch that computes is not joined
            latency_ns += least * traits.drafts * _rest_ns(per_ns * passes * t2, layout.targets, t2)
            busy = per_ns * drafts * t1
            latency_ns += least * traits.drafts * _rest_ns(busy, drafters, t1)
    return Forecast(
        layout=layout,
        latency_ns=latency_ns,
        most_per_s=most_per_s,
        gpu_seconds_per_token=gpu_s,
    )


def _wait_ns(offered: float, servers: int, service_ns: float) -> float:
    """Mean wait before a forward: M/D/c, by half of M/M/c (Allen-Cunneen)."""
    if not servers or not offered:
        return 0.0
    offered = min(offered, MAX_OFFERED * servers)
    return erlang_c(servers, offered) * service_ns / (servers - offered) / 2


def _slowdowns(pass_load: float, draft_load: float, *, batches: bool) -> tuple[float, float]:
    """How many times as long passes and drafts take on GPUs that they share.

    Args:
        pass_load: passes offered to a server, in times what it could do alone.
        draft_load: the same of drafts.
        batches: whether forwards that come meanwhile are taken together.
    """

    def slowdown(load: float) -> float:
        busy = _busy(load) if batches else min(1.0, load)
        return SHARED[0] + (SHARED[1] - SHARED[0]) * busy

    slow_pass = slow_draft = 1.0
    for _ in range(BATCH_ROUNDS):  # of a fixed point: each by how busy the other is
        slow_pass, slow_draft = slowdown(draft_load * slow_draft), slowdown(pass_load * slow_pass)
    return slow_pass, slow_draft


def _batch_ns(
    question: Question, layout: Layout, passes_per_ns: float, slowdown: float = 1.0
) -> float:
    """How long a pass over the mean batch takes: of what comes while a batch computes."""
    latency, found = pass_latency(question, layout.degree), float(_block_ns(question, layout))
    size = 0.0
    for _ in range(BATCH_ROUNDS):
        before = size
        size = min(float(question.batch), max(1.0, passes_per_ns * found / layout.targets))
        if size == before:
            break
        found = latency.at_width(round(size * layout.width)) + (size - 1) * question.sequence_ns
        found *= slowdown
    return found


def _rest_ns(offered: float, servers: int, batch_ns: float) -> float:
    """Mean rest of the batch that computes when a forward comes, where batches have no bound."""
    return _busy(offered / servers) * batch_ns / 2 if servers else 0.0


def _busy(offered: float) -> float:
    """The share of the time that a server is busy whose batches have no bound.

    While a batch of length ``t`` computes, the next has come with ``1 - exp(-a)``; so servers are
    busy for ``a exp(a) / (1 + a exp(a))`` of the time, with ``a`` of the offered load each.
    """
    busy = min(offered, 50.0)
    busy *= math.exp(busy)
    return busy / (1 + busy)


def worth(question: Question, one: Forecast) -> tuple[float, ...]:
    """How good a forecast is for the objective: the smaller the better."""
    late = math.isinf(one.latency_ns)
    if question.objective == "throughput":
        return (-one.most_per_s, one.latency_ns)
    if question.objective == "price":
        return (late, one.gpu_seconds_per_token, one.latency_ns)
    if question.objective == "slo" and question.slo_ns is not None:
        # Of what is likely to keep the bound, the fewest GPUs; else what comes nearest to it.
        over = max(1.0, 1.3 * one.latency_ns / question.slo_ns)
        return (late, over, one.layout.gpus, one.latency_ns)
    return (late, one.latency_ns, one.layout.gpus)


def best_algorithm(question: Question, found: Sequence[Forecast]) -> str | None:
    """The orchestration of the best forecast; ``None``: no layout sustains the load."""
    sustained = [one for one in found if math.isfinite(one.latency_ns)]
    if not sustained:
        return None
    return min(sustained, key=lambda one: (worth(question, one), one.layout)).layout.algorithm
