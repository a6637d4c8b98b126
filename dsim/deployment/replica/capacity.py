"""What replicas can do at most: requests a second of a saturated one, without a simulation.

Some requests are run alone, by the rules of :mod:`dsim.deployment.replica.replica`, and what each
forward is fed is written down. A saturated replica feeds the same, of all its requests at once.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.deployment.cluster import ranks_of
from dsim.deployment.replica.cost import Batch
from dsim.deployment.replica.replica import Replica
from dsim.deployment.replica.request import Request
from dsim.deployment.replica.setup import costs_of, drafting_of, shape_of
from dsim.deployment.request_rows import HASHED_TOKENS
from dsim.deployment.workload import request_key
from dsim.model.acceptance import run_lengths
from dsim.model.script import script_of
from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from dsim.deployment.replica.spec import ReplicaSpec
    from dsim.deployment.spec import Deployment
    from dsim.deployment.workload import Workload

    Sums = NDArray[np.float64]  # of the fields of Batch

SAMPLE_TOKENS = 10_000  # of requests that are run alone, or a bit more
MIN_SAMPLE = 24  # of them
UNLIMITED = 1 << 40


class Capacity(NamedTuple):
    """What one replica of a pool can do at most.

    Attributes:
        per_ns: requests.
        drafting: the part of the time in which it drafts.
    """

    per_ns: float
    drafting: float


class _Mean(NamedTuple):
    """What a request is fed in the mean: by the target, and by each drafter forward of a step."""

    target: Sums
    drafts: list[Sums]


class _Asked(NamedTuple):
    """What requests ask of a pool: int64 each, of those that are not refused."""

    numbers: NDArray[np.int64]
    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]
    cached: NDArray[np.int64]  # tokens of prompts that others have computed before


def capacities(d: Deployment, spec: ReplicaSpec, workload: Workload) -> list[Capacity]:
    """What a replica of each pool can do: those that decode first; empty: no request fits.

    Caches count as large enough for every beginning that comes again, evictions as free, and
    requests as evenly spread, so that no replica can do more, but for noise of the sample.
    """
    prompts, outputs = workload.lengths(d.seed, 0)
    fits = [not spec.refuses(p, o) for p, o in zip(prompts.tolist(), outputs.tolist(), strict=True)]
    numbers = np.flatnonzero(fits)
    if not len(numbers):
        return []
    cached = np.zeros(len(prompts), dtype=np.int64)
    if spec.prefix_cache:
        cached = np.minimum(_repeated(workload, d.seed), prompts - 1)
    whole = _Asked(numbers, prompts[numbers], outputs[numbers], cached[numbers])
    if not spec.readers:
        return [_capacity(d, spec, workload, whole)]
    decoding = whole._replace(cached=whole.prompts)
    decoding = _Asked(*(column[whole.outputs > 1] for column in decoding))
    reading = whole._replace(outputs=np.ones_like(whole.outputs))
    return [_capacity(d, spec, workload, one) for one in (decoding, reading)]


def _repeated(workload: Workload, seed: int) -> NDArray[np.int64]:
    """How many tokens at the beginning of each prompt an earlier prompt has, too."""
    known: set[str | int] = set()
    found = []
    for text in workload.prompt_texts(seed, 0):
        if text.hashes:
            seen = next((i for i, h in enumerate(text.hashes) if h not in known), len(text.hashes))
            known.update(text.hashes)
            found.append(seen * HASHED_TOKENS)
        else:
            found.append(text.shared if text.group in known else 0)
            known.add(text.group)
    return np.array(found, dtype=np.int64)


def _capacity(d: Deployment, spec: ReplicaSpec, workload: Workload, asked: _Asked) -> Capacity:
    if not len(asked.numbers):
        return Capacity(np.inf, 0.0)
    target, drafter = costs_of(d, spec, None)
    drafts = ORCHESTRATIONS[d.algorithm].traits.drafts
    drafting = drafting_of(d, spec, drafter) if drafts and asked.outputs.max() > 1 else None
    of: dict[int, _Mean] = {}
    best, room = Capacity(0.0, 0.0), spec.max_seqs
    batches = {*(1 << i for i in range(spec.max_seqs.bit_length())), spec.max_seqs}
    batches |= {first - 1 for first, _ in spec.drafts_by_batch if 1 < first <= spec.max_seqs}
    for running in sorted(batches):
        most = drafting.tokens(running) if drafting is not None else 0
        if most not in of:
            of[most] = _mean(d, spec, workload, asked, most)
        mean = of[most]
        prefill, decode, passes, sampled, context, _ = mean.target
        if spec.kv_blocks:
            held = (context + prefill + decode) / passes
            held -= float(np.where(asked.cached < asked.prompts, asked.cached, 0).mean())
            room = max(1, int(spec.kv_blocks * spec.block_size / max(held, 1.0)))
        batch = min(running, room)
        chunks = 0.0
        if spec.long_prefill_threshold:
            fed = asked.prompts - asked.cached
            chunks = float(np.maximum(0, -(-fed // spec.long_prefill_threshold) - 1).mean())
        each = min(batch / (passes + chunks), spec.max_batched_tokens / (prefill + decode))
        read_ns = spec.host_us * 1e3 + _took(target, mean.target, each)
        draft_ns = 0.0
        if drafting is not None and drafting.lookup_ns is not None:
            draft_ns = drafting.lookup_ns * each * (sampled - passes)
        elif drafting is not None:
            draft_ns = sum(_took(drafter, sums, each) for sums in mean.drafts)
        per_ns = each / (read_ns + draft_ns)
        if per_ns > best.per_ns:
            best = Capacity(per_ns, draft_ns / (read_ns + draft_ns))
        if running >= room:
            break
    return best


def _took(cost: Callable[[Batch], int], sums: Sums, each: float) -> float:
    """The mean time of a forward in which that part of the work of a request is done.

    Where not every step has one, one is for a whole request.
    """
    share = min(1.0, each * float(sums[2]))
    if not share:
        return 0.0
    return cost(Batch._make((sums * (each / share)).tolist())) * share


def _mean(d: Deployment, spec: ReplicaSpec, workload: Workload, asked: _Asked, most: int) -> _Mean:
    """What a request is fed in the mean, with up to *most* drafts a step."""
    count = max(MIN_SAMPLE, int(SAMPLE_TOKENS / asked.outputs.mean()))
    count = min(count, len(asked.numbers))
    places = ((np.arange(count) + 0.5) * len(asked.numbers) / count).astype(int)
    some = np.argsort(asked.outputs, kind="stable")[places]  # of all lengths
    rates, shape = workload.rates(d.seed, 0, d.acceptance), shape_of(d)
    drafts = ORCHESTRATIONS[d.algorithm].traits.drafts
    of_prompts, of_target = np.zeros(6), np.zeros(6)
    of_drafts: list[Sums] = []
    spec = dataclasses.replace(
        spec,
        kv_blocks=0,
        prefix_cache=False,
        max_batched_tokens=UNLIMITED,
        long_prefill_threshold=0,
    )
    for place in some.tolist():
        number, prompt, output, cached = (int(column[place]) for column in asked)
        request = Request(number, prompt, output, [], sent=cached)
        if drafts and output > 1:
            rate, accepts = float(rates[number]), workload.text(number).accepts
            ranks = ranks_of(d, 0, number, output, rate, accepts)
            if shape is not None:
                request.speculation = shape(script_of(d, ranks, request_key(0, number), rate=rate))
            else:
                request.lengths = run_lengths(ranks[0] == 1)
        read: list[Batch] = []
        drafted: list[Batch] = []
        replica = _alone(d, spec, read, drafted, most if drafts and output > 1 else None)
        replica.arrives(request)
        while request.known < request.end:
            drafted.clear()
            replica.begin(0)
            replica.end()
            of_drafts += [np.zeros(6) for _ in range(len(drafted) - len(of_drafts))]
            for sums, batch in zip(of_drafts, drafted, strict=False):
                np.add(sums, batch, out=sums)
        for batch in read:
            sums = of_prompts if batch.prefill_tokens else of_target
            np.add(sums, batch, out=sums)
    if of_prompts[0]:  # prompts are known of all requests, not only of some
        fed = (asked.prompts - asked.cached).astype(float)
        attended = fed * (asked.cached + fed / 2)
        of_prompts[[0, 4, 5]] = [count * float(one.mean()) for one in (fed, asked.cached, attended)]
    return _Mean((of_prompts + of_target) / count, [sums / count for sums in of_drafts])


def _alone(
    d: Deployment, spec: ReplicaSpec, read: list[Batch], drafted: list[Batch], most: int | None
) -> Replica:
    """A replica that writes down what its forwards are fed, in place of a time."""

    def into(batches: list[Batch]) -> Callable[[Batch], int]:
        def cost(batch: Batch) -> int:
            batches.append(batch)
            return 1

        return cost

    how = None
    if most is not None:
        drafting = drafting_of(d, spec, into(drafted))
        if drafting is not None:
            how = drafting._replace(tokens=lambda _: most, judged=None)
    return Replica(spec, into(read), how)
