"""A replica under a steady load, in closed form: what its users wait for, as a fixed point.

Requests that are alike arrive at even gaps. In the mean, decoding requests fill the batch, and
each new prompt makes some steps longer. The batch decides the time of a step, and the time of a
step, by Little's law, the batch: both are iterated until they agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dsim.model.roofline import Roofline

ROUNDS = 200
MAX_CHUNKS = 32
TOLERANCE = 1e-9
MAX_PREFILL = 0.95  # of the time, in steps with prompts; beyond, queues grow


class Steady(NamedTuple):
    """Means of a replica under a steady load.

    Attributes:
        ttft_ns: time to the first token.
        itl_ns: time between tokens.
        e2e_ns: time to the last token.
        batch: decoding requests in a step.
        stable: whether the load can be served.
    """

    ttft_ns: float
    itl_ns: float
    e2e_ns: float
    batch: float
    stable: bool


def steady(
    roofline: Roofline,
    rate_per_s: float,
    prompt_tokens: int,
    output_tokens: int,
    *,
    cached_tokens: int = 0,
    max_batched_tokens: int = 2048,
    max_seqs: int = 128,
    seconds: float = 0.0,
) -> Steady:
    """The means that users see.

    Args:
        roofline: time of forwards.
        rate_per_s: arrival rate.
        prompt_tokens: length of a prompt.
        output_tokens: length of an answer.
        cached_tokens: tokens of a prompt that the prefix cache has.
        max_batched_tokens: budget of a step.
        max_seqs: requests that run at once.
        seconds: how long the load goes on; where it cannot be served, a queue grows for so long.
    """
    rate, context = rate_per_s / 1e9, prompt_tokens + output_tokens / 2
    chunks, busy, batch, carried = [0.0], 0.0, 0.0, rate
    decode = float(roofline.forward_ns(1, context, context, 1))
    itl = decode
    for _ in range(ROUNDS):
        carried = min(rate, max_seqs / (output_tokens * itl))  # requests per ns that are admitted
        batch = carried * output_tokens * itl
        held = batch * context
        decode = float(roofline.forward_ns(batch, held, held, batch))
        room = max(1.0, max_batched_tokens - batch)
        count = math.ceil((prompt_tokens - cached_tokens) / room)
        # Of very many chunks the middle one stands for all.
        places = range(count) if count <= MAX_CHUNKS else [count // 2] * MAX_CHUNKS
        chunks = []
        for place in places:
            done = cached_tokens + place * room
            n, last = min(prompt_tokens - done, room), place == count - 1
            attended = held + n * (done + n / 2)
            ns = roofline.forward_ns(batch + n, attended, held + done, batch + last)
            chunks.append(ns * count / len(places))
        busy = carried * sum(chunks)
        if busy >= MAX_PREFILL:
            new = decode / (1 - MAX_PREFILL)
        else:
            new = 1 / (carried * count + (1 - busy) / decode)
        settled = abs(new - itl) <= TOLERANCE * new
        itl = (itl + new) / 2
        if settled:
            break
    c = roofline.constants
    rest = (1 - min(1.0, busy)) * decode / 2 + carried * sum(ns * ns for ns in chunks) / 2
    ttft = rest + sum(chunks) + c.waits * itl + 1e3 * c.request_us
    served = carried if busy < MAX_PREFILL else carried * MAX_PREFILL / busy
    queue = max(0.0, rate / served - 1) * seconds * 1e9 / 2  # mean wait in a queue that grows
    ttft += queue
    return Steady(
        ttft_ns=ttft,
        itl_ns=itl,
        e2e_ns=ttft + (output_tokens - 1) * itl,
        batch=batch,
        stable=served >= rate * (1 - 1e-6),
    )
