"""How long the forwards of a step take."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.model.roofline import Roofline


class Batch(NamedTuple):
    """What one forward is fed.

    Attributes:
        prefill_tokens: tokens of prompts, and of texts that are computed again.
        decode_tokens: tokens of requests that decode, drafts among them.
        sequences: requests that take part.
        sampled_tokens: tokens for which the forward says what comes next.
        context_tokens: sum over the requests of the tokens in the KV cache before it.
        attended_tokens: sum over the requests of ``n (c + n / 2)``, for ``n`` tokens after ``c``.
    """

    prefill_tokens: int
    decode_tokens: int
    sequences: int
    sampled_tokens: int
    context_tokens: int
    attended_tokens: float

    @property
    def tokens(self) -> int:
        """All tokens that the forward is fed."""
        return self.prefill_tokens + self.decode_tokens


Cost = Callable[[Batch], int]  # nanoseconds, at least 1


def linear(coefficients_us: Sequence[float]) -> Cost:
    """``base + prefill tokens · each + decoding tokens · each``.

    Args:
        coefficients_us: these three, in µs.
    """
    base, prefill, decode = (1e3 * us for us in coefficients_us)

    def cost(batch: Batch) -> int:
        ns = round(base + prefill * batch[0] + decode * batch[1])
        return ns if ns > 0 else 1

    return cost


def estimated(roofline: Roofline) -> Cost:
    """What a model and its GPUs alone say, for tokens and contexts."""

    def cost(batch: Batch) -> int:
        prefill, decode, _, sampled, context, attended = batch
        return roofline.forward_ns(prefill + decode, attended, context, sampled)

    return cost


def by_width(sample: int | Callable[[int, bool], int]) -> Cost:
    """A latency model (see :meth:`dsim.model.latency.Latency.sampler`), at all tokens together."""
    if not callable(sample):
        return lambda _: sample
    return lambda batch: sample(batch.prefill_tokens + batch.decode_tokens, False)
