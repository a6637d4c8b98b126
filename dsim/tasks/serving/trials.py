"""Layouts that the GPUs allow, and what a simulation says of each."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.deployment.intervals import of_quantile
from dsim.deployment.outcome import DONE
from dsim.deployment.serve import serve
from dsim.deployment.workload import Workload
from dsim.orchestrations import REFERENCES
from dsim.study.build import deployment_of
from dsim.study.loader import make_study
from dsim.study.presets import PRESETS
from dsim.tasks.serving.question import densest
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsim.deployment.outcome import RunRecord
    from dsim.tasks.serving.question import Question

DRAFTS = (1, 2, 3, 5, 7)
MAX_DRAFTS = 7  # of the policy that chooses in every step
BEYOND = 10  # drafts that are tried only to say whether more than the most would be faster
NGRAM = "ngram"
NGRAM_DRAFTS = (3, 5)
NGRAM_US = 20.0  # of a draft
COPIED_TOKENS = 10.0  # of a stretch that is copied
# Trees that are tried, by the drafter: presets (dsim presets). MTP drafts chains.
TREES = {"eagle3": ("eagle3", "sglang"), "medusa": ("medusa",), "mtp": ()}
TREES_OF_MODELS = ("specinfer",)
WARM_UP = 0.1
PILED_UP, FEW = 0.05, 10  # part of the requests without a token when the last comes; how many


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """One way to use the GPUs.

    Attributes:
        tp: GPUs of a replica.
        replicas: replicas that decode.
        readers: further replicas that only read prompts; 0: every replica does both.
        drafts: drafts of a request in a step; 0: plain decoding.
        chooses: whether *drafts* is the most, and every step chooses (goodput).
        preset: method that makes the drafts, one of ``dsim presets``: n-grams, or a tree of the
            drafter of as many nodes; empty: the drafter makes a chain.
    """

    tp: int
    replicas: int
    readers: int = 0
    drafts: int = 0
    chooses: bool = False
    preset: str = ""

    @property
    def uses_acceptance(self) -> bool:
        """Whether the acceptance rate matters: n-grams and plain decoding do not know it."""
        return self.drafts > 0 and self.preset != NGRAM

    @property
    def is_tree(self) -> bool:
        """Whether the drafts of a step are a tree, which vLLM has no flags for."""
        return self.preset not in ("", NGRAM)

    @property
    def has_flags(self) -> bool:
        """Whether both servers can be told to draft like that."""
        return not self.is_tree and not self.chooses

    @property
    def is_at_edge(self) -> bool:
        """Whether it drafts a chain of as many tokens as are tried."""
        return self.drafts == max(DRAFTS) and not self.preset

    @property
    def gpus(self) -> int:
        """GPUs that it takes."""
        return self.tp * (self.replicas + self.readers)

    @property
    def method(self) -> str:
        """The speculation in words."""
        if not self.drafts:
            return "none"
        drafts = f"{plural(self.drafts, 'draft')} a step"
        if self.preset == NGRAM:
            return f"{drafts}, by n-grams"
        if self.preset:
            return f"tree of {drafts}"
        return f"up to {drafts}, chosen" if self.chooses else drafts

    @property
    def short(self) -> str:
        """The layout in few words, which a legend on a phone holds."""
        count = f"{self.replicas} + {self.readers}" if self.readers else f"{self.replicas}"
        drafts = plural(self.drafts, "draft") if self.drafts else "plain"
        if self.preset:
            drafts = f"{'n-grams,' if self.preset == NGRAM else 'tree of'} {self.drafts}"
        return f"TP {self.tp} × {count}: {'up to ' if self.chooses else ''}{drafts}"

    @property
    def sharing(self) -> str:
        """How the GPUs are shared out, in words."""
        decode = plural(self.replicas, "replica")
        if self.readers:
            decode = f"{decode} + {self.readers} for prompts"
        return f"TP {self.tp}, {decode}"

    def __str__(self) -> str:
        """The layout in words."""
        return f"{self.sharing}, {self.method if self.drafts else 'no speculation'}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """What a simulation says of one layout under one load. Times in ms.

    Attributes:
        layout: the layout.
        scale: how many times as often as asked requests came.
        requests: how many were simulated, the densest of the load.
        ttft_p50, ttft_p99, tpot_p50, tpot_p99, e2e_mean: what users see; the time per token of a
            request is that of its tokens after the first.
        tpot_p50_ci95: half width of the 95 % interval of ``tpot_p50``; ``None``: too few requests.
        tokens_per_s: tokens of answers, in all.
        batch: mean number of requests in a step.
        served: share of the requests that were not refused.
        waiting: share of the requests that had no token yet when the last one came.
        slack: the larger of p99 / bound over the bounds; above 1: the SLO is not kept. Without
            bounds, the mean E2E latency in seconds.
    """

    layout: Layout
    scale: float
    requests: int
    ttft_p50: float
    ttft_p99: float
    tpot_p50: float
    tpot_p50_ci95: float | None
    tpot_p99: float
    e2e_mean: float
    tokens_per_s: float
    batch: float
    served: float
    waiting: float
    slack: float

    @property
    def piles_up(self) -> bool:
        """Whether requests come faster than the layout serves them."""
        return self.waiting > PILED_UP and self.waiting * self.requests > FEW

    @property
    def tokens_per_gpu_s(self) -> float:
        """Tokens of answers that each GPU makes a second."""
        return self.tokens_per_s / self.layout.gpus


@dataclasses.dataclass(frozen=True)
class Task:
    """A trial to be made: a layout, how many requests, and how often they come.

    Attributes:
        layout, requests, scale: as in :class:`Trial`.
        acceptance: acceptance rate of the drafter; ``None``: as asked.
    """

    layout: Layout
    requests: int
    scale: float = 1.0
    acceptance: float | None = None


def layouts(question: Question) -> list[Layout]:
    """All layouts that use as many of the GPUs as they can, without replicas of their own kind."""
    found = []
    for tp in question.degrees:
        whole = Layout(tp=tp, replicas=question.gpus // tp)
        found.append(whole)
        found += [dataclasses.replace(whole, drafts=k) for k in DRAFTS]
        found.append(dataclasses.replace(whole, drafts=MAX_DRAFTS, chooses=True))
        found += [dataclasses.replace(whole, drafts=k, preset=NGRAM) for k in NGRAM_DRAFTS]
        found += [
            dataclasses.replace(whole, drafts=nodes_of(name), preset=name)
            for name in TREES.get(question.drafter, TREES_OF_MODELS)
        ]
    return found


def nodes_of(preset: str) -> int:
    """Nodes of the tree of *preset*."""
    settings = PRESETS[preset].settings
    return len(settings["tree.paths"]) if "tree.paths" in settings else settings["tree.nodes"]


def split(layout: Layout) -> list[Layout]:
    """The same with a part of the replicas for prompts only."""
    counts = sorted({max(1, layout.replicas // 4), layout.replicas // 2})
    return [
        dataclasses.replace(layout, replicas=layout.replicas - n, readers=n)
        for n in counts
        if 0 < n < layout.replicas
    ]


def prepare(question: Question) -> Callable[[Task], Trial]:
    """What makes trials, in a worker process or in this one."""
    return lambda task: trial(question, task)


def trial(question: Question, task: Task) -> Trial:
    """Simulate the densest requests of the load on a layout."""
    layout = task.layout
    replay = densest(question.replay, task.requests).window(rate_scale=task.scale)
    algorithm = REFERENCES[1] if layout.drafts else REFERENCES[0]
    more: dict[str, Any] = {"drafter.model": question.drafter}
    if layout.preset == NGRAM:
        more = {**PRESETS[NGRAM].settings, "drafter.ngram_us": NGRAM_US}
        more["acceptance.copied_tokens"] = COPIED_TOKENS
        more["acceptance.new_tokens"] = max(1.0, COPIED_TOKENS * (1 / question.copied - 1))
    elif layout.preset:
        algorithm = PRESETS[layout.preset].orchestration
        more |= PRESETS[layout.preset].settings
        more |= {"acceptance.rank_shares": list(question.rank_shares), "confidence_quality": 0.0}
    settings = {
        "algorithms": [algorithm],
        "seed": question.seed,
        "target.model": question.target,
        "gpu": question.gpu,
        "tp": layout.tp,
        **({"dtype": question.dtype} if question.dtype else {}),
        "acceptance.rate": question.acceptance if task.acceptance is None else task.acceptance,
        **more,
        "lookahead": layout.drafts if layout.drafts and layout.preset in ("", NGRAM) else 1,
        "replica.count": layout.replicas,
        "replica.prefill_count": layout.readers,
        "replica.router": "least-requests",
        "replica.draft_policy": "goodput" if layout.chooses else "fixed",
        "workload.prompt_tokens": 1,
    }
    deployment = deployment_of(make_study(settings).of_variant(0), algorithm)
    workload = Workload(arrivals="trace", trace=replay.requests, texts=replay.texts)
    return _measured(question, task, serve(deployment, workload))


def _measured(question: Question, task: Task, run: RunRecord) -> Trial:
    constants = question.estimate(task.layout.tp).target.constants
    done = (run.fate == DONE) & (np.arange(len(run.fate)) >= int(WARM_UP * len(run.fate)))
    busy_ns = sum(run.tallies[0].busy_ns)
    step_ms = busy_ns / max(1, run.events) / 1e6
    # Nobody waits for a step that is put together already where none runs. The time outside of
    # forwards is in replica.api_us.
    replicas = task.layout.replicas + task.layout.readers
    outside_ms = constants.waits * step_ms * min(1.0, busy_ns / (replicas * max(1, run.end_ns)))
    ttft = (run.first_token_ns - run.arrival_ns)[done] / 1e6 + outside_ms
    e2e = (run.done_ns - run.arrival_ns)[done] / 1e6 + outside_ms
    further = run.output_tokens[done] - 1
    tpot = (e2e - ttft)[further > 0] / further[further > 0]

    def at(values: np.ndarray, share: float) -> float:
        return float(np.quantile(values, share)) if len(values) else math.inf

    finished = run.fate == DONE
    bounds = [
        (at(values, 0.99), bound)
        for values, bound in ((ttft, question.slo_ttft_ms), (tpot, question.slo_tpot_ms))
        if bound is not None and (len(values) or not finished.any())
    ]
    served = float(finished.mean())
    mean = float(e2e.mean()) if len(e2e) else math.inf
    slack = max((value / bound for value, bound in bounds), default=mean / 1e3)
    span_s = run.end_ns / 1e9
    ci95 = of_quantile([tpot], 0.5).ci95
    return Trial(
        layout=task.layout,
        scale=task.scale,
        requests=len(run.fate),
        ttft_p50=at(ttft, 0.5),
        ttft_p99=at(ttft, 0.99),
        tpot_p50=at(tpot, 0.5) if len(tpot) else 0.0,
        tpot_p50_ci95=None if math.isnan(ci95) else ci95,
        tpot_p99=at(tpot, 0.99) if len(tpot) else 0.0,
        e2e_mean=mean,
        tokens_per_s=float(run.output_tokens[finished].sum()) / span_s if span_s else 0.0,
        batch=float(run.passes.sum()) / max(1, run.events),
        served=served,
        waiting=float((run.first_token_ns[finished] > run.arrival_ns.max()).mean())
        if finished.any()
        else 1.0,
        slack=slack if served == 1.0 else math.inf,
    )
