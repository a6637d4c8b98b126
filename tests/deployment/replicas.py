"""Replicas and what is asked of them, for property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from dsim.deployment.replay import Text
from dsim.deployment.replica.spec import ReplicaSpec
from dsim.deployment.workload import Workload
from dsim.model.acceptance import Acceptance
from dsim.model.case import TreeShape

SHORTAGE = st.sampled_from([0, 6, 9, 14])


@st.composite
def specs(draw):
    rows = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=3)))
    table = tuple((first, draw(st.integers(0, 4))) for first in rows)
    return ReplicaSpec(
        max_seqs=draw(st.integers(1, 6)),
        max_batched_tokens=draw(st.sampled_from([1, 3, 7, 16, 64])),
        long_prefill_threshold=draw(st.sampled_from([0, 0, 1, 5])),
        block_size=draw(st.sampled_from([1, 2, 4])),
        kv_blocks=draw(SHORTAGE),
        prefix_cache=draw(st.booleans()),
        drafts_by_batch=draw(st.sampled_from([(), table])),
        target_us=tuple(draw(st.tuples(*[st.integers(1, 9)] * 3))),
        drafter_us=(draw(st.integers(0, 3)) + 0.5, draw(st.integers(0, 2))),
        features=draw(st.booleans()),
        host_us=draw(st.sampled_from([0.0, 2.0])),
    )


@st.composite
def replayed(draw):
    """Requests that come in a rush, many with a common beginning."""
    requests, texts, at_ns = [], [], 0
    for number in range(draw(st.integers(1, 8))):
        at_ns += draw(st.sampled_from([0, 0, 1_000, 7_000, 40_000]))
        prompt, output = draw(st.integers(1, 12)), draw(st.integers(1, 9))
        accepts = "".join(draw(st.lists(st.sampled_from("011"), min_size=output, max_size=output)))
        group = draw(st.sampled_from(["", "a", "b"]))
        shared = draw(st.integers(0, prompt)) if group else 0
        requests.append((at_ns, prompt, output))
        texts.append(Text(str(number), group, shared, accepts))
    return Workload(arrivals="trace", trace=tuple(requests), texts=tuple(texts))


algorithms = st.sampled_from(["nonsi", "si"])


@st.composite
def tree_shapes(draw):
    """A tree by confidence, or of paths."""
    paths = draw(st.sampled_from([(), ((1,), (2,), (1, 1), (1, 2), (2, 1))]))
    return TreeShape(
        paths=paths,
        depth=draw(st.integers(1, 4)),
        branches=draw(st.integers(1, 3)) if not paths else 2,
        nodes=draw(st.sampled_from([None, 3, 6])),
    )


@st.composite
def acceptances_of_shapes(draw):
    """Ranks, rates by depth, and drafts that may be missing."""
    model = draw(st.sampled_from(["bernoulli", "lookup"]))
    return Acceptance(
        model=model,
        rate=draw(st.sampled_from([0.3, 0.7, 1.0])),
        by_depth=draw(st.sampled_from([(), (0.9, 0.6, 0.2)])) if model == "bernoulli" else (),
        rank_shares=draw(st.sampled_from([(), (0.5, 0.2)])),
        copied_tokens=4.0,
        new_tokens=4.0,
        copied_rate=0.9,
        chance_match=0.5,
        chance_rate=0.3,
    )
