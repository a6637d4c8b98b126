"""DSI over trees on the vector engine, with and without a limit of nodes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dsim.engines import vector
from dsim.engines.simulate import COUNTS, engine_for, run_events, simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import TreeShape
from dsim.model.lookahead import Policy
from tests.orchestrations.test_field import case, vector_cases


def test_what_was_taken_off_is_back_on_the_main_chain():
    """The third choice's own first choice had no room on the tree, until the root moved there."""
    sure = Acceptance(rate=0.3, rank_shares=(0.5, 0.3))  # of the second choice more than the first
    shape = TreeShape(branches=3, nodes=4)
    text = case("312", 4, 11, 2, tree=shape, acceptance=sure, policy=Policy(quality=0.0))
    run = run_events(text, "treedsi", 0, np.array([[3, 1, 2]], np.int8))
    assert run.output.settled_ns == [11, 22, 22]


@settings(max_examples=150)
@given(
    case=vector_cases(),
    branches=st.integers(1, 4),
    deviations=st.integers(0, 1),
    nodes=st.sampled_from([None, 1, 2, 3, 4, 6, 8, 12, 16, 24, 10_000]),
)
@example(  # a node is read at the very instant at which a verdict opens what is behind it
    case("111211221313", 2, 4, 5, 2, patience=4, policy=Policy(quality=0.0)), 4, 1, None
)
@example(  # the drafter, idle, has more to read once a verdict moves the root to a deviation
    case("2000", 1, 3, 1, 1, policy=Policy(quality=0.0)), 2, 1, None
)
@example(  # a deviation is opened at the very instant at which it is read
    case("220", 1, 2, 1, 3, policy=Policy(quality=0.0)), 2, 1, None
)
def test_the_vector_engine_equals_the_event_engine_on_moving_trees(
    case, branches, deviations, nodes
):
    shape = TreeShape(branches=branches, deviations=deviations, nodes=nodes)
    case = dataclasses.replace(case, tree=shape, block_tokens=1)
    assert engine_for(case, ["treedsi"]) == "vector"
    by_vector, by_events = (simulate_case(case, "treedsi", e) for e in ("vector", "events"))
    for column in ("settled_ns", "latency_ns", *COUNTS):
        assert getattr(by_vector, column).tolist() == getattr(by_events, column).tolist(), column


@pytest.mark.parametrize(("more", "quality"), [({"nodes": 16}, 0.3), ({"deviations": 2}, 0.0)])
def test_moving_trees_of_other_kinds_are_left_to_events(more, quality):
    """A limit of nodes by the confidence of single drafts; two deviations."""
    text = case("1213", 3, 10, tree=TreeShape(**more), policy=Policy(quality=quality))
    assert engine_for(text, ["treedsi"]) == "events"


@settings(max_examples=100)
@given(
    tokens=st.integers(1, 40),
    rate=st.sampled_from([0, 0.4, 0.8, 1]),
    drafter_ns=st.integers(1, 30),
    timing=st.tuples(st.integers(1, 30), st.integers(1, 10), st.integers(1, 7)),
    branches=st.integers(1, 3),
    patience=st.sampled_from([0, 0, 1, 2, 5]),
)
def test_where_no_second_choice_is_right_dsi_over_trees_is_dsi(
    tokens, rate, drafter_ns, timing, branches, patience
):
    """Then its totals are those of DSI; a text with a second choice has all go run by run."""
    ranks = Acceptance(rate=rate).ranks(3, 4, tokens)[:, 0]
    target_ns, lookahead, targets = timing
    one = vector.Timing(
        drafter_ns=drafter_ns,
        target_ns=target_ns,
        lookahead=lookahead,
        targets=targets,
        patience=patience,
        tree=TreeShape(branches=branches),
    )
    form = vector.form_of("treedsi")
    quick = form.totals([one], vector.Branches.of(ranks.copy()))
    second = np.full((1, tokens), 2, np.int8)
    walked = form.totals([one], vector.Branches.of(np.vstack([ranks, second])))
    assert np.array_equal(quick.latency_ns(), walked.latency_ns()[:, :-1])
    counts = "target_passes", "wasted_passes", "drafts", "wasted_drafts", "peak_targets"
    for name in counts:
        (a,), (b,) = (getattr(found, name)[found.row] for found in (quick, walked))
        assert np.array_equal(a, b[:-1]), name
