"""The plain programs against the worked cases of the rules, and against each other.

What is held here the engines are compared with elsewhere.
"""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plain import settle_times
from tests.plain_field import dsi, nonsi, pearl, pipespec, si, ssd, tree, treedsi

# t1 = 3, t2 = 10: ranks, then the settle times of PEARL with lookahead 2 and 3, PipeSpec with 1
# and 3, SSD with k = 2 and a fan-out of 1 and 2, SI with k = 4 and blocks of 2 and 4.
FLAT = """
111111 | 10 20 20 30 30 40 | 10 20 20 20 30 30 | 10 22 22 22 22 32 | 16 16 16 26 26 26
       | 16 16 16 26 26 26 | 16 16 16 26 26 26 | 16 16 16 16 16 26 | 13 13 13 13 13 23
000000 | 10 20 30 40 50 60 | 10 20 30 40 50 60 | 10 22 34 44 54 64 | 16 32 48 64 77 87
       | 16 32 48 64 77 87 | 16 32 48 64 77 87 | 16 32 48 61 74 84 | 13 26 39 52 65 75
110111 | 10 20 20 30 40 40 | 10 20 20 30 40 40 | 10 22 22 32 42 42 | 16 16 16 32 32 32
       | 16 16 16 32 32 32 | 16 16 16 32 32 32 | 16 16 16 29 29 29 | 13 13 13 26 26 26
112131 | 10 20 20 30 40 50 | 10 20 20 30 40 50 | 10 22 22 32 42 52 | 16 16 16 32 32 42
       | 16 16 16 32 32 42 | 16 16 16 26 26 36 | 16 16 16 29 29 39 | 13 13 13 26 26 36
""".replace("\n       ", " ")

# A tree of fixed shape with widths, and with constant latencies.
TREE = """
111111 | 22 22 22 46 46 46  | 16 16 16 32 32 32
000000 | 22 44 66 88 103 113 | 16 32 48 64 77 87
211211 | 22 22 22 46 46 46  | 16 16 16 32 32 32
122112 | 22 22 22 46 46 46  | 16 16 16 32 32 32
"""

# DSI over trees, D = 1: k = 1, S = 7, F = 2; k = 1, S = 1, F = 2; k = 2, S = 7, F = 3; the first
# once more with widths.
TREEDSI = """
111111 | 10 13 16 19 22 25 | 10 20 20 20 30 30 | 10 16 16 22 22 25 | 10 15 22 27 32 41
000000 | 10 20 30 40 50 60 | 10 20 30 40 50 60 | 10 20 30 40 50 60 | 10 20 30 40 50 60
112131 | 10 13 16 19 22 32 | 10 20 20 20 30 40 | 10 16 16 22 22 32 | 10 15 22 27 32 42
211211 | 10 13 16 19 22 25 | 10 20 20 20 30 30 | 10 16 16 22 22 25 | 10 15 22 26 32 41
122112 | 10 13 16 25 28 31 | 10 20 20 30 40 40 | 10 16 16 26 32 32 | 10 15 22 31 40 40
"""

# Patience 2, S = 1, k = 1: DSI over trees with F = 2, D = 1, and DSI.
PATIENCE = """
211211 | 16 16 16 26 26 36 | 16 32 32 32 45 45
111111 | 16 16 16 26 26 26 | 16 16 16 26 26 26
000000 | 16 32 48 64 77 87 | 16 32 48 64 77 87
"""

PATHS = [(1,), (2,), (1, 1), (1, 2), (2, 1)]


def drafter_width(w):
    return 2 + w


def target_width(w):
    return 9 + w


def numbers(text):
    return [int(c) for c in text.strip()]


def rows(table):
    """Ranks, and the settle times of each column."""
    lines = [line.split("|") for line in table.strip().split("\n")]
    return [(numbers(r), [[int(t) for t in c.split()] for c in columns]) for r, *columns in lines]


def first_or_none(p, tokens):
    """Ranks 1 with chance *p*, else 0."""
    return (np.random.default_rng(1).random(tokens) < p).astype(int).tolist()


def times(*outcomes):
    return [outcome.times for outcome in outcomes]


@pytest.mark.parametrize(("r", "expected"), rows(FLAT))
def test_worked_cases(r, expected):
    assert expected == times(
        pearl(3, 10, r, 2),
        pearl(3, 10, r, 3),
        pipespec(3, 10, r, 1),
        pipespec(3, 10, r, 3),
        ssd(3, 10, r, 2, 1),
        ssd(3, 10, r, 2, 2),
        si(3, 10, r, 4, block_tokens=2),
        si(3, 10, r, 4, block_tokens=4),
    )


@pytest.mark.parametrize(("r", "expected"), rows(TREE))
def test_worked_trees(r, expected):
    found = times(tree(drafter_width, target_width, r, PATHS), tree(3, 10, r, PATHS))
    assert found == expected


@pytest.mark.parametrize(("r", "expected"), rows(TREEDSI))
def test_worked_dsi_over_trees(r, expected):
    assert expected == times(
        treedsi(3, 10, r, 1, 7, 2, 1),
        treedsi(3, 10, r, 1, 1, 2, 1),
        treedsi(3, 10, r, 2, 7, 3, 1),
        treedsi(drafter_width, target_width, r, 1, 7, 2, 1),
    )


@pytest.mark.parametrize(("r", "expected"), rows(PATIENCE))
def test_worked_patience(r, expected):
    found = times(treedsi(3, 10, r, 1, 1, 2, 1, patience=2), dsi(3, 10, r, 1, 1, patience=2))
    assert found == expected


def test_named_counterexamples():
    # PEARL with lookahead · t1 > t2 can beat DSI with one target server and k = 1.
    assert dsi(6, 7, numbers("111"), 1, 1).times[-1] == 21
    assert pearl(6, 7, numbers("111"), 4).times[-1] == 19
    # PipeSpec can be slower than non-SI, as it waits for drafts and for the drafter.
    assert pipespec(7, 9, numbers("123"), 6).times[-1] == 32
    assert pipespec(1, 1, numbers("00"), 2).times[-1] == 3
    assert pipespec(2, 3, numbers("000"), 1).times[-1] == 10
    # More branches can be slower on a path.
    assert treedsi(5, 20, numbers("322"), 4, 2, 2, 1).times[-1] == 45
    assert treedsi(5, 20, numbers("322"), 4, 2, 3, 1).times[-1] == 50
    # Where a cancelled pass holds its server, DSI over trees can be later than DSI.
    r = numbers("20011")
    assert dsi(2, 5, r, 4, 2, preemptible=False).times == [5, 10, 15, 20, 23]
    assert treedsi(2, 5, r, 4, 2, 2, 2, preemptible=False).times == [5, 10, 15, 20, 24]


def test_by_hand():
    """Rules, and readings of rules, that no worked case needs."""
    # The guessing outlasts the pass. Missed: drafts are made afresh at 7, or behind the guessing,
    # at 9; none are needed for the last pass, which does not wait.
    assert ssd(3, 4, numbers("000"), 1, 1).times == [7, 14, 18]
    assert ssd(3, 4, numbers("000"), 1, 1, preemptible=False).times == [7, 16, 20]
    # Hit, as the second choice is the first guess behind a wrong draft; the guessing takes three
    # forwards from 6 on, also where one draft is left to make.
    assert ssd(3, 4, numbers("211"), 2, 1).times == [10, 19, 19]
    assert ssd(3, 4, numbers("211"), 2, [0, 1, 1]).times == [10, 17, 17]
    # A level feeds the nodes that have a node below: here (1), in 3; the pass has a width of 4.
    paths = [(1,), (2,), (1, 1)]
    assert tree(drafter_width, target_width, numbers("111"), paths).times == [19, 19, 19]
    # A draft that ends with the pass: the target does not wait for the next one.
    assert pipespec(2, 4, numbers("00000"), 1).times == [4, 8, 12, 16, 20]
    # Nothing is in flight at 10, and three tokens are settled, three drafted: two more by 15.
    found = dsi(3, 4, numbers("11111111"), 4, 1, patience=2)
    assert found.times == [10, 10, 10, 19, 19, 19, 25, 25]


def test_pipespec_loses_with_few_acceptances():
    r = first_or_none(0.1, 20_000)
    found = nonsi(10, r).times[-1] / pipespec(3, 10, r, 1).times[-1]
    assert found == pytest.approx(0.84, abs=0.01)


def test_expected_speedup_of_pearl():
    for p, gamma in ((0.5, 2), (0.8, 3)):
        r = first_or_none(p, 100_000)
        found = nonsi(10, r).times[-1] / pearl(3, 10, r, gamma).times[-1]
        assert found == pytest.approx(1 / (1 - p) / (1 + p / (1 - p**gamma)), rel=0.02)


# ---------------------------------------------------------------------------------------- laws

latencies = st.integers(1, 12)
lookaheads = st.integers(1, 6)
servers = st.integers(1, 5)
patiences = st.integers(0, 5)
branches = st.integers(1, 3)
deviations = st.integers(0, 2)
texts = st.one_of(
    st.lists(st.sampled_from(choice), min_size=1, max_size=9)
    for choice in ([0, 1, 2, 3], [1, 1, 1, 1, 0, 2, 3], [1, 1, 1, 2])
)


def never_later(these, those):
    return all(this <= that for this, that in zip(these.times, those.times, strict=True))


@given(latencies, latencies, texts, lookaheads, servers, st.booleans())
def test_si_and_dsi_are_those_of_before(t1, t2, r, k, s, preemptible):
    timing = SimpleNamespace(
        drafter_ns=t1,
        target_ns=t2,
        lookahead=k,
        targets=s,
        drafter_first_ns=None,
        target_first_ns=None,
    )
    accepts = [rank == 1 for rank in r]
    settled, passes, _, drafts = settle_times("si", timing, accepts)
    assert si(t1, t2, r, k) == (settled, passes, drafts)
    settled, passes, _, drafts = settle_times("dsi", timing, accepts, preemptible=preemptible)
    assert dsi(t1, t2, r, k, s, preemptible=preemptible) == (settled, passes, drafts)


@given(
    latencies, latencies, texts, lookaheads, servers, branches, deviations, patiences, st.booleans()
)
def test_shape_and_scale(t1, t2, r, k, s, f, d, patience, preemptible):
    """Every token settles once, in order; latencies times 3 are settle times times 3."""

    def all_of(scale):
        a, b = scale * t1, scale * t2
        return [
            nonsi(b, r),
            si(a, b, r, k, block_tokens=f),
            pearl(a, b, r, k),
            pipespec(a, b, r, patience),
            ssd(a, b, r, k, d, preemptible=preemptible),
            tree(lambda w: scale * (t1 + w), lambda w: scale * (t2 + w), r, PATHS),
            dsi(a, b, r, k, s, block_tokens=f, patience=patience, preemptible=preemptible),
            treedsi(a, b, r, k, s, f, d, patience=patience, preemptible=preemptible),
            treedsi(
                lambda w: scale * (t1 + w),
                lambda w: scale * (t2 + w),
                r,
                k,
                s,
                f,
                d,
                patience=patience,
                preemptible=preemptible,
            ),
        ]

    for one, three in zip(all_of(1), all_of(3), strict=True):
        assert len(one.times) == len(r)
        assert all(a <= b for a, b in pairwise(one.times))
        assert three == ([3 * t for t in one.times], *one[1:])


@given(latencies, latencies, texts, lookaheads)
def test_chain_of_first_choices_is_si(t1, t2, r, k):
    assert tree(t1, t2, r, [(1,) * (d + 1) for d in range(k)]) == si(t1, t2, r, k)


@given(latencies, latencies, texts, lookaheads, servers, patiences, st.booleans())
def test_one_branch_is_dsi(t1, t2, r, k, s, patience, preemptible):
    settings = {"patience": patience, "preemptible": preemptible}
    assert treedsi(t1, t2, r, k, s, 1, 0, **settings) == dsi(t1, t2, r, k, s, **settings)


@given(latencies, latencies, texts, lookaheads, servers, branches, deviations)
def test_dsi_over_trees_is_never_later_than_dsi(t1, t2, r, k, s, f, d):
    found = treedsi(t1, t2, r, k, s, f, d)
    assert never_later(found, dsi(t1, t2, r, k, s))
    assert never_later(found, nonsi(t2, r))


@given(latencies, latencies, texts, lookaheads, servers, branches)
def test_dsi_is_never_later_than_non_si(t1, t2, r, k, s, b):
    assert never_later(dsi(t1, t2, r, k, s, block_tokens=b), nonsi(t2, r))


@given(latencies, st.integers(0, 9), texts, lookaheads)
def test_pearl_is_never_later_than_non_si(t1, more, r, gamma):
    t2 = gamma * t1 + more
    assert never_later(pearl(t1, t2, r, gamma), nonsi(t2, r))


@given(latencies, st.integers(0, 9), texts, lookaheads, st.integers(0, 3), st.booleans())
def test_ssd_is_never_later_than_si(t1, more, r, k, fanout, preemptible):
    t2 = (k + 1) * t1 + more
    found = ssd(t1, t2, r, k, fanout, preemptible=preemptible)
    assert never_later(found, si(t1, t2, r, k))
    if fanout == 0:  # never a hit
        assert found.times == si(t1, t2, r, k).times


@given(latencies, st.integers(0, 9), texts, lookaheads)
def test_pearl_and_dsi_with_one_target(t1, more, r, gamma):
    assert pearl(t1, gamma * t1, r, gamma).times == dsi(t1, gamma * t1, r, 1, 1).times
    t2 = gamma * t1 + more
    assert never_later(dsi(t1, t2, r, 1, 1), pearl(t1, t2, r, gamma))


@given(st.integers(0, 12), lookaheads)
def test_steps_of_pearl(n, gamma):
    """A run of n right drafts and a wrong one, and what follows: a step for a token."""
    r = [1] * n + [0] * (gamma + 2)
    t1, t2 = 1, gamma + 1
    steps = 1 if n == 0 else 2 + (n - 1) // gamma
    assert pearl(t1, t2, r, gamma).times[n] == steps * t2
