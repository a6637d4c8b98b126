"""Latencies of a pair of models by their names: nothing was measured, nothing is needed."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

from dsim.errors import Problem, UserError
from dsim.model.drafter_shapes import HEADS, drafter_shape, mtp
from dsim.model.gpu import DTYPE_BYTES, HOST_GPUS, gpu_of
from dsim.model.roofline import GIB, Memory, Roofline, memory_of, possible_tp
from dsim.model.shape import shape_of
from dsim.words import nearest, plural, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dsim.model.gpu import Gpu
    from dsim.model.shape import Shape

T = TypeVar("T")
DTYPES = tuple(DTYPE_BYTES)
KV_DTYPES = ("bf16", "fp16", "fp8")
PADDED = 1.02  # times as many tokens: one vocabulary, filled up to a round number
MAX_TP = 64  # looked through for one at which a model fits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """What names say of latencies.

    Attributes:
        target: the target's roofline.
        drafter: the drafter's, on the same GPUs; ``None``: there is none.
        memory: what the memory of each GPU is used for.
        is_head: whether the drafter lives on the target's features (EAGLE-3, MTP, Medusa).
    """

    target: Roofline
    drafter: Roofline | None
    memory: Memory
    is_head: bool = False

    @property
    def warning(self) -> str:
        """What makes the estimate doubtful, in sentences; else empty."""
        return " ".join(filter(None, (self._other_tokens, self._no_module, self._other_hosts)))

    @property
    def _other_hosts(self) -> str:
        if self.target.tp <= HOST_GPUS:
            return ""
        return (
            f"TP {self.target.tp} reaches beyond one host, which has {HOST_GPUS} GPUs: links "
            "between hosts are slower, and are taken for links of one host here."
        )

    @property
    def _no_module(self) -> str:
        """A sentence where the target has no MTP module that could draft; else empty."""
        shape = self.target.shape
        if self.drafter is None or not self.is_head or shape.mtp_modules:
            return ""
        if self.drafter.shape != mtp(shape):
            return ""
        return (
            f"{shape.name} comes without an MTP module (its config has no "
            "num_nextn_predict_layers), and vLLM and SGLang do not start it with one. The numbers "
            "are of a module like DeepSeek-V3's, trained for it."
        )

    @property
    def _other_tokens(self) -> str:
        """A sentence where the drafter's tokens cannot be the target's; else empty."""
        if self.drafter is None or self.is_head:
            return ""
        one, other = (part.shape for part in (self.target, self.drafter))
        few, many = sorted((one.vocabulary, other.vocabulary))
        if many <= PADDED * few:
            return ""
        return (
            f"{one.name} has {one.vocabulary:,} tokens in its vocabulary and {other.name} "
            f"{other.vocabulary:,}: its drafts are not tokens of the target, and vLLM and SGLang "
            "refuse the pair. The numbers are of a drafter of that size with the target's own "
            "vocabulary."
        )


def estimate(
    model: str,
    gpu: str,
    *,
    tp: int = 1,
    dtype: str | None = None,
    kv_dtype: str = "bf16",
    drafter: str | None = None,
    utilisation: float = 0.9,
    max_batched_tokens: int = 2048,
    names: Mapping[str, tuple[str, str]] | None = None,
) -> Estimate:
    """The rooflines of a target and its drafter.

    Args:
        model: name of the target, or a folder with a ``config.json``.
        gpu: name of the GPU.
        tp: number of GPUs that share the target's layers; a drafter has as many, if its heads
            can be divided like that, else as many as can.
        dtype: type of the target's weights; ``None``: what the model is published in.
        kv_dtype: type of the KV cache.
        drafter: ``eagle3``, ``mtp``, ``medusa``, or a model like the target; ``None``: none.
        utilisation: the part of the memory that the server may use.
        max_batched_tokens: tokens of the largest forward.
        names: what messages call the arguments: (source, key) of each; else their names.

    Raises:
        UserError: with all problems: a name is unknown, *tp* divides no heads, or the models do
            not fit (with what is missing, and where they do fit).
    """
    problems: list[Problem] = []

    def wrong(argument: str, what: str) -> None:
        source, key = (names or {}).get(argument, (argument, ""))
        problems.append(Problem(source, key, what))

    def attempt(argument: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except ValueError as error:
            wrong(argument, str(error))
        return None

    card = attempt("gpu", lambda: gpu_of(gpu))
    shape = attempt("model", lambda: shape_of(model))
    for argument, value, known in (("dtype", dtype, DTYPES), ("kv_dtype", kv_dtype, KV_DTYPES)):
        if value is not None and value not in known:
            hint = nearest(value, known)
            wrong(argument, f"expected one of {', '.join(known)}, got {show(value)}{hint}")
    head = None
    if drafter is not None and shape is not None:
        head = attempt("drafter", lambda: drafter_shape(drafter, shape))
    if shape is None or card is None or problems:
        raise UserError(*problems)
    dtype = dtype or shape.dtype

    def rooflines(tp: int) -> tuple[Roofline, Roofline | None]:
        target = Roofline(shape=shape, gpu=card, tp=tp, dtype=dtype, kv_dtype=kv_dtype)
        return target, drafter_roofline(head, target) if head else None

    both = attempt("tp", lambda: rooflines(tp))
    if both is None:
        raise UserError(*problems)

    def memory(tp: int) -> Memory:
        target, other = rooflines(tp)
        return memory_of(
            target, other, utilisation=utilisation, max_batched_tokens=max_batched_tokens
        )

    found = memory(tp)
    if found.kv_blocks() < 1:
        fits = [n for n in possible_tp(shape) if n <= MAX_TP and memory(n).kv_blocks()]
        beside = head.name if head is not None else ""
        wrong("tp", _misfit(shape, beside, card, tp, dtype, found, fits))
        raise UserError(*problems)
    return Estimate(target=both[0], drafter=both[1], memory=found, is_head=drafter in HEADS)


def drafter_roofline(shape: Shape, target: Roofline) -> Roofline:
    """The roofline of a drafter on the target's GPUs, in the type that the drafter is published in.

    A head drafts within the target's step and pays no overhead of a step of its own.
    """
    tp = max(n for n in possible_tp(shape) if n <= target.tp)
    is_head = shape.name.endswith(f" of {target.shape.name}")
    constants = dataclasses.replace(target.constants, step_us=0.0) if is_head else target.constants
    return dataclasses.replace(target, shape=shape, tp=tp, dtype=shape.dtype, constants=constants)


def _misfit(
    shape: Shape, beside: str, gpu: Gpu, tp: int, dtype: str, memory: Memory, fits: list[int]
) -> str:
    """That *shape*, and the drafter *beside* it, do not fit."""
    missing = (16 * memory.kv_bytes_per_token - memory.left) / GIB  # for one KV block
    where = (
        f"fits at tp = {', '.join(map(str, fits))}"
        if fits
        else (f"does not fit at any tp up to {MAX_TP}")
    )
    return (
        f"{shape.name} in {dtype}{f' with {beside}' if beside else ''} does not fit on "
        f"{plural(tp, 'GPU')} of type {gpu.name}: each has "
        f"{memory.usable / GIB:.1f} GiB for the server, weights need {memory.weights / GIB:.1f} "
        f"and working memory {memory.activations / GIB:.1f}, so {missing:.1f} GiB are missing; "
        f"{where}"
    )
