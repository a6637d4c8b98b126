"""What results say, without drawing anything."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.report import analysis


@pytest.mark.parametrize(
    ("column", "interval"),
    [
        ("latency_p99_ms", "latency_p99_ci95_ms"),
        ("latency_mean_ms", "latency_ci95_ms"),
        ("goodput_per_s", "goodput_ci95_per_s"),
        ("good_share", "good_share_ci95"),
        ("price_per_million", ""),
        ("target_passes", ""),
    ],
)
def test_an_interval_is_a_column_of_its_own(column, interval):
    """A column without one has none: it is never its own interval."""
    columns = ["latency_p99_ms", "latency_p99_ci95_ms", "latency_mean_ms", "latency_ci95_ms"]
    columns += ["goodput_per_s", "goodput_ci95_per_s", "good_share", "good_share_ci95"]
    columns += ["price_per_million", "target_passes"]
    assert analysis.interval_of(column, columns) == interval


@pytest.mark.parametrize("against", ["si", "best", "nonsi"])
def test_an_algorithm_is_compared_over_the_lookahead(against):
    frame = pd.DataFrame(
        {
            "algorithm": ["nonsi", "nonsi", "si", "si", "dsi", "dsi"],
            "lookahead": [1, 2] * 3,
            "acceptance_rate": [0.5] * 6,
            "latency_mean_ms": [10.0, 10.0, 12.0, 8.0, 5.0, 4.0],
        }
    )
    found = analysis.compare(frame, "dsi", against, ["lookahead", "acceptance_rate"])
    theirs = {"si": [12.0, 8.0], "best": [10.0, 8.0], "nonsi": [10.0, 10.0]}[against]
    assert found["speedup"].tolist() == [theirs[0] / 5, theirs[1] / 4]
    assert found["lookahead"].tolist() == [1, 2]


def test_only_points_where_both_were_simulated_are_compared():
    frame = pd.DataFrame(
        {
            "algorithm": ["nonsi", "dsi", "dsi"],
            "acceptance_rate": [0.1, 0.5, 0.1],
            "latency_mean_ms": [10.0, 5.0, 4.0],
        }
    )
    found = analysis.compare(frame, "dsi", "best", ["acceptance_rate"])
    assert found["acceptance_rate"].tolist() == [0.1]
    assert found["other"].tolist() == ["non-SI"]


def test_slower_within_the_noise_is_not_slower():
    frame = pd.DataFrame(
        {
            "algorithm": ["nonsi", "dsi"] * 2,
            "acceptance_rate": [0.1, 0.1, 0.2, 0.2],
            "latency_mean_ms": [100.0, 100.4, 100.0, 103.0],
            "latency_ci95_ms": [0.5, 0.5, 0.5, 0.5],
            "ms_per_token": [10.0, 10.04, 10.0, 10.3],
        }
    )
    at_best = analysis.best(frame, ["acceptance_rate"], [])
    per_token = at_best["ms_per_token_ci95"] / at_best["latency_ci95_ms"]
    assert per_token.to_numpy() == pytest.approx(0.1)  # of 10 tokens
    halves = at_best.set_index(["algorithm", "acceptance_rate"])["speedup_vs_nonsi_ci95"]
    assert halves["nonsi"].tolist() == [0.0, 0.0]  # nothing is faster than itself
    assert halves["dsi"].tolist() == pytest.approx([0.007029, 0.006766], abs=1e-6)
    table = analysis.summarise(at_best, [])
    assert table is not None
    (row,) = (row for row in table.rows if row[0] == "DSI")
    assert row[1] == "50.0%"  # by the means alone it would be 100 %
    assert "95 % interval" in table.caption


def test_the_best_lookaheads_are_in_the_table():
    frame = pd.DataFrame(
        [
            (name, p, k, 100.0 if name == "nonsi" else 50.0 + abs(k - 2 - 2 * (p > 0.5)))
            for name in ("nonsi", "si", "eagle")
            for p in (0.1, 0.9)
            for k in (1, 2, 4, 8)
        ],
        columns=["algorithm", "acceptance_rate", "lookahead", "latency_mean_ms"],
    )
    at_best = analysis.best(frame, ["acceptance_rate", "lookahead"], ["lookahead"])
    table = analysis.summarise(at_best, ["lookahead"])
    assert table is not None
    assert table.head[:2] == ["algorithm", "best lookahead"]
    assert [row[1] for row in table.rows] == ["–", "2 to 4", "2 to 4"]
    table = analysis.summarise(at_best[at_best["acceptance_rate"] == 0.1], ["lookahead"])
    assert [row[1] for row in table.rows] == ["–", "2", "2"]
    assert "best lookahead" not in analysis.summarise(at_best, []).head


def test_a_best_value_that_is_the_largest_tried_is_told():
    """SI gets faster up to 16 drafts; with up to 4 of them DSI seemed twice as fast."""
    frame = pd.DataFrame(
        [
            (name, p, k, 50.0 + abs(k - best))
            for name, best in (("nonsi", 1), ("si", 16), ("dsi", 2))
            for p in (0.1, 0.9)
            for k in (1, 2, 4 if p < 0.5 else 8)
        ],
        columns=["algorithm", "acceptance_rate", "lookahead", "latency_mean_ms"],
    )
    at_best = analysis.best(frame, ["acceptance_rate", "lookahead"], ["lookahead"])
    assert analysis.at_the_edge(frame, at_best, ["lookahead"]) == [
        "The best lookahead is the largest that was tried (8) of SI at 1 of 2 points: with larger "
        "ones it may be faster there."
    ]
    assert analysis.at_the_edge(frame, at_best, []) == []
    one = frame[frame["lookahead"] == 2]
    assert analysis.at_the_edge(one, one, ["lookahead"]) == []


def test_every_axis_that_was_tuned_is_in_the_table():
    """Of each orchestration those that it reads."""
    columns = ["lookahead", "tree_depth", "tree_nodes"]
    frame = pd.DataFrame(
        [
            (name, p, k, depth, nodes, 100 + abs(k - 2) + abs(depth - 5) + abs(nodes - 8 - 8 * p))
            for name in ("nonsi", "si", "tree")
            for p in (0, 1)
            for k in (1, 2)
            for depth in (3, 5)
            for nodes in (8, 16)
        ],
        columns=["algorithm", "acceptance_rate", *columns, "latency_mean_ms"],
    )
    axes = ["acceptance_rate", *columns]
    table = analysis.summarise(analysis.best(frame, axes, columns), columns)
    assert table is not None
    assert table.head[1] == "at its best"
    found = {row[0]: row[1] for row in table.rows}
    assert found == {
        "non-SI": "–",
        "SI": "lookahead 2",
        "tree": "depth 5, nodes 8 to 16",
    }
    table = analysis.summarise(analysis.best(frame, axes, columns[1:2]), columns[1:2])
    assert table is not None
    assert table.head[1] == "best depth of the tree"
    assert {row[0]: row[1] for row in table.rows} == {
        "non-SI": "–",
        "SI": "–",
        "tree": "5",
    }


def test_names_that_no_orchestration_claims_are_summarised_last():
    frame = pd.DataFrame(
        {
            "algorithm": ["eagle", "nonsi"],
            "tokens": [10, 10],
            "latency_mean_ms": [5.0, 10.0],
        }
    )
    table = analysis.summarise(analysis.best(frame, [], []), [])
    assert table is not None
    assert [row[0] for row in table.rows] == ["non-SI", "eagle"]


def test_columns_get_names_that_charts_can_take():
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["a.b", "a_b", "tokens.1", "x[0]"])
    assert list(analysis.plain_columns(frame)) == ["a_b", "a_b_", "tokens_1", "x_0_"]


def test_what_cannot_be_compared_is_left_open():
    frame = pd.DataFrame(
        {
            "algorithm": ["nonsi", "dsi"],
            "acceptance_rate": [0.1, 0.2],
            "latency_mean_ms": [10.0, 5.0],
        }
    )
    table = analysis.summarise(analysis.best(frame, ["acceptance_rate"], []), [])
    assert table is not None
    assert table.rows[1] == ["DSI", "–", "–", "–", "–"]


@settings(max_examples=100)
@given(
    st.lists(st.integers(-3, 3), min_size=9, max_size=40),
    st.sampled_from([1, 12]),
    st.sampled_from([1, 1 / 3, np.nan, 10**6]),
)
def test_rows_are_numbered_alike_where_their_values_are_alike(values, length, factor):
    """Whichever way is shorter: by the numbers themselves, by runs of the same, or one by one."""
    column = pd.Series(np.repeat(values, length))
    column = column.where(column > 0) if np.isnan(factor) else column * factor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(analysis, "MANY", 8)
        codes, size = analysis._codes(column)
    expected, known = pd.factorize(column, use_na_sentinel=False)
    assert len(codes) == len(column)
    assert len(set(zip(codes, expected, strict=True))) == len(set(codes)) == len(known)
    assert 0 <= min(codes) <= max(codes) < size
