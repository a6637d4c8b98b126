"""What a replica is: its scheduler, its KV memory, and how it drafts."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsim.model.roofline import Roofline

ROUTERS = ("round-robin", "least-requests", "least-tokens", "longest-prefix")
DRAFT_POLICIES = ("fixed", "goodput")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplicaSpec:
    """Replicas that are alike. Each is one or more GPUs that hold target and drafter.

    Attributes:
        count: number of replicas; those that decode, where others read the prompts.
        prefill_count: replicas that only read prompts and give the first token; 0: all do all.
        link_gb_s: bandwidth at which the KV cache of a prompt is sent from these to others, GB/s.
        link_us: latency of sending it.
        kv_token_bytes: size of the KV cache of a token, in bytes.
        max_count: more replicas are started, up to this number, while requests queue; 0: none.
        prefill_max_count: the same of those that only read prompts.
        scale_queue: requests that wait for each replica, above which another one is started. One
            more than *count* is stopped when it is idle and nobody waits.
        startup_s: how long it takes to start a replica.
        gpus: number of GPUs of each.
        max_seqs: requests that run at once on a replica (vLLM's ``max_num_seqs``).
        max_batched_tokens: tokens that a step feeds to the target at most.
        long_prefill_threshold: tokens of one prompt that a step reads at most; 0: no limit.
        block_size: tokens of a KV block.
        kv_blocks: KV blocks of a replica; 0: no limit.
        prefix_cache: whether blocks are kept and shared by requests that begin alike.
        max_model_len: tokens of prompt and answer that a request may have; 0: no limit.
        router: which replica a request goes to, one of :data:`ROUTERS`.
        api_us: time outside of the scheduler: for each request, and for each token of its prompt,
            before it joins the queue, and for each token of the answer when it is out.
        host_us: time of a step in which no forward runs.
        drafts_by_batch: (requests, drafts) in order of requests: from that number of decoding
            requests on, that number of drafts each; empty: the lookahead, always.
        draft_policy: one of :data:`DRAFT_POLICIES`.
        target_us: ``(b0, b1, b2)``: a step of the target takes
            ``b0 + b1 · prefill tokens + b2 · decoding tokens`` µs; ``None``: by the latency model.
        drafter_us: ``(d0, d1)``: a forward of the drafter takes ``d0 + d1 · tokens`` µs; ``None``:
            by the latency model.
        target, drafter: rooflines that say how long forwards take, where there are no such
            coefficients; ``None``: the latency model does.
        features: the drafter reads the target's features (EAGLE, MTP), so it is fed every new
            token once more after the target has read it.
        ngram_us: drafting is a look-up that takes so many µs a draft, and no forward; ``None``:
            the drafter is a model.
    """

    count: int = 1
    prefill_count: int = 0
    link_gb_s: float = 50.0
    link_us: float = 0.0
    kv_token_bytes: float = 0.0
    max_count: int = 0
    prefill_max_count: int = 0
    scale_queue: float = 4.0
    startup_s: float = 60.0
    gpus: float = 1.0
    max_seqs: int = 128
    max_batched_tokens: int = 2048
    long_prefill_threshold: int = 0
    block_size: int = 16
    kv_blocks: int = 0
    prefix_cache: bool = True
    max_model_len: int = 0
    router: str = "round-robin"
    api_us: tuple[float, float, float] = (0.0, 0.0, 0.0)
    host_us: float = 0.0
    drafts_by_batch: tuple[tuple[int, int], ...] = ()
    draft_policy: str = "fixed"
    target_us: tuple[float, float, float] | None = None
    drafter_us: tuple[float, float] | None = None
    target: Roofline | None = None
    drafter: Roofline | None = None
    features: bool = False
    ngram_us: float | None = None

    @property
    def readers(self) -> int:
        """The largest number of replicas that only read prompts."""
        return max(self.prefill_count, self.prefill_max_count)

    @property
    def most(self) -> int:
        """The largest number of replicas that there are at once."""
        return self.readers + max(self.count, self.max_count)

    def refuses(self, prompt_tokens: int, output_tokens: int) -> bool:
        """Whether a request is refused at arrival, as it could never be finished.

        The last token of an answer needs no place in the KV cache.
        """
        needed = -(-(prompt_tokens + output_tokens - 1) // self.block_size)
        too_long = 0 < self.max_model_len < prompt_tokens + output_tokens
        return too_long or 0 < self.kv_blocks < needed
