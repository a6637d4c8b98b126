"""How long a forward takes, from the GPU and the model alone: a roofline with few constants.

A forward over sequences that feed n tokens each on a context of c tokens takes ::

    step + layers · layer + max(FLOPs / (peak · e_f), bytes / (bandwidth · e_b)) + all-reduces

(two all-reduces a layer, if several GPUs share it). FLOPs and bytes are counted
(:meth:`Roofline.work`); the constants (:class:`Constants`) are the same for all models and GPUs.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from typing import TYPE_CHECKING, NamedTuple

from dsim.model.gpu import DTYPE_BYTES
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dsim.model.gpu import Gpu
    from dsim.model.shape import Shape

ACTIVATION_WIDTHS = 10  # widths that a layer reads and writes for a token, about
ACTIVATION_BYTES = 2.0  # activations, embedding and lm_head are kept in 16 bits
HEAD_BYTES = 2.0
GIB = 2**30
RUNTIME_BYTES = 0.7 * GIB  # libraries, communication buffers, CUDA graphs
SAMPLED_ROWS = 128  # requests whose logits are in memory at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constants:
    """What cannot be read off data sheets; fitted once (``benchmarks/fit_roofline.py``).

    Attributes:
        flops_efficiency: the part of the peak that matrix products reach, in (0, 1].
        bandwidth_efficiency: the part of the memory's bandwidth at which weights are read.
        kv_efficiency: the part of the memory's bandwidth at which the KV cache is read.
        link_efficiency: the part of the link's bandwidth that an all-reduce reaches.
        step_us: overhead of a forward, µs.
        layer_us: overhead of a layer, µs.
        expert_layer_us: further overhead of a layer with experts (routing, sorting), µs.
        reduce_us: latency of an all-reduce between two GPUs, µs; it grows with log2(TP).
        request_us: time of a request outside of forwards until its first token is out, µs.
        waits: steps that a new request waits, beyond the rest of the step that runs, since the
            next step is already put together (asynchronous scheduling).
    """

    flops_efficiency: float = 0.601
    bandwidth_efficiency: float = 0.849
    kv_efficiency: float = 0.672
    link_efficiency: float = 0.7
    step_us: float = 1070.0
    layer_us: float = 6.07
    expert_layer_us: float = 73.5
    reduce_us: float = 11.4
    request_us: float = 7460.0
    waits: float = 1.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, part = getattr(self, field.name), field.name.endswith("efficiency")
            if not (0 < value <= 1 if part else 0 <= value < math.inf):
                bounds = "above 0, at most 1" if part else "at least 0"
                raise ValueError(f"{field.name}: expected a number {bounds}, got {value}")


class Work(NamedTuple):
    """What one GPU has to do in a forward: FLOPs by type of arithmetic, and bytes."""

    matrix_flops: float
    attention_flops: float
    weight_bytes: float
    kv_bytes: float
    activation_bytes: float
    link_bytes: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """The time of forwards of one model on *tp* GPUs.

    Attributes:
        shape: shape of the model.
        gpu: the GPU.
        tp: tensor parallelism, the number of GPUs that share each layer.
        dtype: type of the weights: ``bf16``, ``fp8``, ``int8``, ``int4``, ``fp4``.
        kv_dtype: type of the KV cache.
        constants: the fitted constants.
    """

    shape: Shape
    gpu: Gpu
    tp: int = 1
    dtype: str = "bf16"
    kv_dtype: str = "bf16"
    constants: Constants = Constants()

    def __post_init__(self) -> None:
        for dtype in (self.dtype, self.kv_dtype):
            if dtype not in DTYPE_BYTES:
                raise ValueError(f"expected one of {', '.join(DTYPE_BYTES)}, got {show(dtype)}")
        fitting = possible_tp(self.shape)
        if self.tp not in fitting:
            raise ValueError(
                f"tp = {self.tp} does not divide the {self.shape.heads} heads of "
                f"{self.shape.name} ({self.shape.kv_heads} for keys and values); possible: "
                f"{', '.join(map(str, fitting))}"
            )

    @functools.cached_property
    def kv_bytes_per_token(self) -> float:
        """Bytes of the KV cache for a token on each GPU, all layers."""
        shards = min(self.tp, self.shape.kv_heads or 1)
        return self.shape.layers * self.shape.kv_elements * DTYPE_BYTES[self.kv_dtype] / shards

    @functools.cached_property
    def weight_bytes(self) -> float:
        """Bytes of the weights on each GPU; embedding and lm_head are never quantised."""
        heads = self.shape.own_head_parameters
        rest = (self.shape.parameters - heads) * DTYPE_BYTES[self.dtype]
        return (rest + heads * max(HEAD_BYTES, DTYPE_BYTES[self.dtype])) / self.tp

    def work(self, tokens: float, attended: float, context: float, sampled: float) -> Work:
        """FLOPs and bytes of each GPU in a forward.

        Args:
            tokens: Σ n, the tokens that are fed.
            attended: Σ n·(c + n/2), pairs of a token and a token that it attends to.
            context: Σ c, the tokens in the KV cache before.
            sampled: tokens for which the forward says what comes next (lm_head).
        """
        shape, tp = self.shape, self.tp
        each = DTYPE_BYTES[self.dtype]
        active = shape.always_parameters + shape.routed_parameters
        weights = (shape.always_parameters + shape.touched_parameters(tokens)) * each
        weights += shape.head_parameters * max(HEAD_BYTES, each) if sampled else 0.0
        pairs = 4 * shape.layers * shape.heads * shape.head_width
        row = shape.layers * shape.width * ACTIVATION_BYTES
        return Work(
            matrix_flops=2 * (active * tokens + shape.head_parameters * sampled) / tp,
            attention_flops=pairs * attended / tp,
            weight_bytes=weights / tp,
            kv_bytes=(context + 2 * tokens) * self.kv_bytes_per_token,
            activation_bytes=ACTIVATION_WIDTHS * row * tokens / tp,
            link_bytes=2 * row * tokens * 2 * (tp - 1) / tp,
        )

    @functools.cached_property
    def fixed_ns(self) -> float:
        """Time of a forward that computes nothing: overheads, and latencies of all-reduces."""
        c, layers = self.constants, self.shape.layers
        reduces = 2 * layers * c.reduce_us * math.log2(self.tp)
        experts = self.shape.expert_layers * c.expert_layer_us
        return 1e3 * (c.step_us + layers * c.layer_us + experts + reduces)

    def busy_ns(self, work: Work) -> tuple[float, float, float]:
        """How long arithmetic, memory and links are busy with *work*."""
        c, gpu = self.constants, self.gpu
        # 10¹² FLOP/s are 10³ FLOPs a nanosecond; 10⁹ bytes/s are one byte a nanosecond.
        compute = work.matrix_flops / gpu.peak_tflops(self.dtype)
        compute += work.attention_flops / gpu.peak_tflops("bf16")
        memory = (work.weight_bytes + work.activation_bytes) / c.bandwidth_efficiency
        memory += work.kv_bytes / c.kv_efficiency
        links = work.link_bytes / (gpu.link_gb_s * c.link_efficiency)
        return compute / (1e3 * c.flops_efficiency), memory / gpu.bandwidth_gb_s, links

    @functools.cached_property
    def _slopes(self) -> tuple[float, ...]:
        """What :meth:`forward_ns` needs: :meth:`busy_ns` is a sum, but for the experts' weights."""
        token = self.work(1, 0, 0, 0)._replace(weight_bytes=0)
        expert_bytes = self.shape.touched_parameters(math.inf) * DTYPE_BYTES[self.dtype] / self.tp
        experts = self.work(0, 0, 0, 0)._replace(weight_bytes=expert_bytes)
        by_token, by_pair, by_context, by_sample, fixed, all_experts = (
            self.busy_ns(work)
            for work in (
                token,
                self.work(0, 1, 0, 0),
                self.work(0, 0, 1, 0),
                self.work(0, 0, 0, 1),
                self.work(0, 0, 0, 0),
                experts,
            )
        )
        head = by_sample[1] - fixed[1]
        shape = self.shape
        missed = 1 - shape.experts_per_token / shape.experts if shape.experts else 0.0
        return (
            *(by_token[0], by_pair[0], by_sample[0]),
            *(fixed[1], head, by_token[1], by_context[1] - fixed[1], all_experts[1], missed),
            by_token[2],
        )

    def forward_ns(self, tokens: float, attended: float, context: float, sampled: float) -> int:
        """The time (ns, at least 1) of a forward; arguments as in :meth:`work`."""
        token, pair, sample, weights, head, token_memory, kv, experts, missed, link = self._slopes
        compute = token * tokens + pair * attended + sample * sampled
        memory = weights + token_memory * tokens + kv * context
        if sampled:
            memory += head
        if experts:
            memory += experts * (1 - missed**tokens)
        busy = compute if compute > memory else memory
        return max(1, round(self.fixed_ns + busy + link * tokens))

    def step_ns(self, sequences: Iterable[tuple[int, int]]) -> int:
        """The time (ns) of a forward over *sequences*: (tokens fed, context) of each.

        One token of each sequence is sampled. :meth:`forward_ns` takes the sums at once.
        """
        rows = list(sequences)
        return self.forward_ns(
            sum(n for n, _ in rows),
            sum(n * (c + n / 2) for n, c in rows),
            sum(c for _, c in rows),
            len(rows),
        )

    def knee_tokens(self) -> int:
        """Tokens from which on a forward without context is bound by arithmetic, not by memory.

        0: never within 2²⁰ tokens.
        """

        def bound(tokens: int) -> bool:
            compute, memory, _ = self.busy_ns(self.work(tokens, tokens / 2, 0, tokens))
            return compute >= memory

        return bisect.bisect_left(range(2**20), True, lo=1, key=bound) % 2**20


def possible_tp(shape: Shape) -> list[int]:
    """The degrees of tensor parallelism that divide the heads of *shape*.

    Heads for keys and values are divided, or copied to the GPUs.
    """
    heads, kv_heads = shape.heads, shape.kv_heads or 1
    divides = (n for n in range(1, heads + 1) if heads % n == 0)
    return [n for n in divides if kv_heads % n == 0 or n % kv_heads == 0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What the memory of the GPUs is used for; bytes on each GPU.

    Attributes:
        usable: what the server may use.
        weights: weights of target and drafter.
        activations: working memory of the largest forward.
        kv_bytes_per_token: KV cache of a token.
    """

    usable: float
    weights: float
    activations: float
    kv_bytes_per_token: float

    @property
    def left(self) -> float:
        """Bytes left for the KV cache; below 0: the model does not fit."""
        return self.usable - self.weights - self.activations

    def kv_blocks(self, block_tokens: int = 16) -> int:
        """KV blocks of *block_tokens* tokens that fit."""
        return max(0, int(self.left // (self.kv_bytes_per_token * block_tokens)))


def memory_of(
    target: Roofline,
    drafter: Roofline | None = None,
    *,
    utilisation: float = 0.9,
    max_batched_tokens: int = 2048,
) -> Memory:
    """The memory of a replica.

    Args:
        target: the target.
        drafter: a drafter on the same GPUs, if there is one.
        utilisation: the part of the memory that the server may use.
        max_batched_tokens: tokens of the largest forward.
    """
    shape = target.shape
    of_layer = shape.dense_parameters / max(1, shape.layers)
    inner = (of_layer + shape.expert_parameters * shape.experts_per_token) / shape.width
    row = ACTIVATION_BYTES * (ACTIVATION_WIDTHS * shape.width + inner / target.tp)
    logits = SAMPLED_ROWS * shape.vocabulary * 4 * 2.0
    both = (target, drafter) if drafter else (target,)
    return Memory(
        usable=target.gpu.memory_gib * GIB * utilisation,
        weights=sum(one.weight_bytes for one in both),
        activations=RUNTIME_BYTES + max_batched_tokens * row + logits,
        kv_bytes_per_token=sum(one.kv_bytes_per_token for one in both),
    )
