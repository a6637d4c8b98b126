"""Strategies: small whole numbers, so that ties are frequent."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from dsim.engines.vector import Timing
from dsim.model import POLICIES
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy

latencies = st.integers(1, 12)
first_latencies = st.none() | st.integers(1, 30)


@st.composite
def policies(draw, names=POLICIES):
    """Any way to choose the lookahead."""
    return Policy(
        name=draw(st.sampled_from(names)),
        most=draw(st.integers(1, 6)),
        threshold=draw(st.sampled_from([0.0, 0.4, 0.7, 1.0])),
        quality=draw(st.sampled_from([0.0, 0.3, 0.9, 1.0])),
    )


@st.composite
def timings(draw, *, first=True):
    """Any timing; the drafter may be slower than the target."""
    return Timing(
        drafter_ns=draw(latencies),
        target_ns=draw(latencies),
        lookahead=draw(st.integers(1, 8)),
        targets=draw(st.integers(1, 6)),
        drafter_first_ns=draw(first_latencies) if first else None,
        target_first_ns=draw(first_latencies) if first else None,
    )


@st.composite
def draws(draw, most_tokens=16, runs=None):
    """bool (runs, tokens): by a rate, so that runs of accepted drafts get long, too."""
    tokens = draw(st.integers(1, most_tokens))
    count = runs or draw(st.integers(1, 3))
    rows = [
        draw(
            st.just([True] * tokens)
            | st.just([False] * tokens)
            | st.lists(st.booleans(), min_size=tokens, max_size=tokens)
            | st.lists(st.integers(0, 9).map(bool), min_size=tokens, max_size=tokens)
        )
        for _ in range(count)
    ]
    return np.array(rows, dtype=np.bool_)


def case_of(timing, accepts, *, preemptible=True, targets=None):
    """The case of a timing and of draws, which it replays."""
    traces = tuple("".join("01"[int(a)] for a in row) for row in np.atleast_2d(accepts))
    return Case(
        tokens=len(traces[0]),
        lookahead=timing.lookahead,
        targets=targets or timing.targets,
        target=Latency(latency_ns=timing.target_ns, first_ns=timing.target_first_ns),
        drafter=Latency(latency_ns=timing.drafter_ns, first_ns=timing.drafter_first_ns),
        acceptance=Acceptance(model="trace", traces=traces),
        repeats=len(traces),
        seed=0,
        preemptible=preemptible,
    )
