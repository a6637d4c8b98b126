"""Trees, SSD, DSI over trees, blocks and patience: worked cases, plain programs, laws."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.engines.simulate import run_events, simulate_case
from dsim.events.run import COUNTS
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case, TreeShape
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from tests import plain_field as plain

SMALL_TREE = ((1,), (2,), (1, 1), (1, 2), (2, 1))
TEXTS = "111111 000000 110111 112131 211211 122112".split()
# t1 = 3, t2 = 10; settle times from an independent program of the rules
SSD_TIMES = {
    1: ("16 16 16 26 26 26", "16 32 48 64 77 87", "16 16 16 32 32 32", "16 16 16 32 32 42"),
    2: ("16 16 16 26 26 26", "16 32 48 64 77 87", "16 16 16 32 32 32", "16 16 16 26 26 36"),
}
SI_TIMES = {
    2: ("16 16 16 16 16 26", "16 32 48 61 74 84", "16 16 16 29 29 29", "16 16 16 29 29 39"),
    4: ("13 13 13 13 13 23", "13 26 39 52 65 75", "13 13 13 26 26 26", "13 13 13 26 26 36"),
}
TREE_TIMES = {
    False: {
        "111111": "16 16 16 32 32 32",
        "000000": "16 32 48 64 77 87",
        "211211": "16 16 16 32 32 32",
        "122112": "16 16 16 32 32 32",
    },
    True: {  # forwards of 2 + w, passes of 9 + w at width w
        "111111": "22 22 22 46 46 46",
        "000000": "22 44 66 88 103 113",
        "211211": "22 22 22 46 46 46",
        "122112": "22 22 22 46 46 46",
    },
}
TREEDSI_TIMES = {  # by k, S, F, and whether the width counts
    (1, 7, 2, False): {
        "111111": "10 13 16 19 22 25",
        "000000": "10 20 30 40 50 60",
        "112131": "10 13 16 19 22 32",
        "211211": "10 13 16 19 22 25",
        "122112": "10 13 16 25 28 31",
    },
    (1, 1, 2, False): {
        "111111": "10 20 20 20 30 30",
        "000000": "10 20 30 40 50 60",
        "112131": "10 20 20 20 30 40",
        "211211": "10 20 20 20 30 30",
        "122112": "10 20 20 30 40 40",
    },
    (2, 7, 3, False): {
        "111111": "10 16 16 22 22 25",
        "000000": "10 20 30 40 50 60",
        "112131": "10 16 16 22 22 32",
        "211211": "10 16 16 22 22 25",
        "122112": "10 16 16 26 32 32",
    },
    (1, 7, 2, True): {
        "111111": "10 15 22 27 32 41",
        "000000": "10 20 30 40 50 60",
        "112131": "10 15 22 27 32 42",
        "211211": "10 15 22 26 32 41",
        "122112": "10 15 22 31 40 40",
    },
}


def by_width(first, at_one):
    return Latency(
        model="table", latency_ns=at_one, table=((1, at_one), (400, at_one + 399 * first))
    )


def case(ranks, t1=3, t2=10, lookahead=1, targets=1, **more):
    t1, t2 = (Latency(latency_ns=t) if isinstance(t, int) else t for t in (t1, t2))
    acceptance = Acceptance(model="trace", traces=("".join(map(str, ranks)),))
    return Case(
        **{
            "tokens": len(ranks),
            "repeats": 1,
            "target": t2,
            "drafter": t1,
            "acceptance": acceptance,
            "lookahead": lookahead,
            "targets": targets,
        }
        | more
    )


def settled(name, ranks, **settings):
    return run_events(case(ranks, **settings), name, 0).output.settled_ns


def times(text):
    return [int(time) for time in text.split()]


def test_worked_cases_of_ssd_and_blocks():
    for i, ranks in enumerate(TEXTS[:4]):
        for fanout, expected in SSD_TIMES.items():
            assert settled("ssd", ranks, lookahead=2, fanout=(fanout,)) == times(expected[i])
        for size, expected in SI_TIMES.items():
            assert settled("si", ranks, lookahead=4, block_tokens=size) == times(expected[i])


def test_worked_cases_of_trees():
    shape = TreeShape(paths=SMALL_TREE)
    for widths, rows in TREE_TIMES.items():
        latencies = {"t1": by_width(1, 3), "t2": by_width(1, 10)} if widths else {}
        for ranks, expected in rows.items():
            assert settled("tree", ranks, tree=shape, **latencies) == times(expected)


def test_worked_cases_of_dsi_over_trees():
    for (k, servers, branches, widths), rows in TREEDSI_TIMES.items():
        latencies = {"t1": by_width(1, 3), "t2": by_width(1, 10)} if widths else {}
        shape = TreeShape(branches=branches)
        for ranks, expected in rows.items():
            got = settled("treedsi", ranks, lookahead=k, targets=servers, tree=shape, **latencies)
            assert got == times(expected), (k, servers, branches, widths, ranks)


def test_worked_cases_of_patience():
    for name, ranks, expected in (
        ("treedsi", "211211", "16 16 16 26 26 36"),
        ("dsi", "211211", "16 32 32 32 45 45"),
        ("treedsi", "111111", "16 16 16 26 26 26"),
        ("dsi", "111111", "16 16 16 26 26 26"),
        ("treedsi", "000000", "16 32 48 64 77 87"),
        ("dsi", "000000", "16 32 48 64 77 87"),
    ):
        assert settled(name, ranks, patience=2) == times(expected)


ANY_RANKS = st.lists(st.sampled_from([0, 1, 1, 1, 2, 2, 3]), min_size=1, max_size=14)
LATENCIES = {"t1": st.integers(1, 12), "t2": st.integers(1, 12)}


@given(
    **LATENCIES,
    ranks=ANY_RANKS,
    k=st.integers(1, 6),
    preemptible=st.booleans(),
    fanout=st.lists(st.integers(1, 3), min_size=1, max_size=7),
)
def test_ssd_is_the_plain_program(t1, t2, ranks, k, fanout, preemptible):
    """Settle times and passes are those of the plain program, ties included."""
    text = case(ranks, t1, t2, k, fanout=tuple(fanout), preemptible=preemptible)
    run = run_events(text, "ssd", 0)
    each = [fanout[min(n, len(fanout) - 1)] for n in range(k + 1)]
    expected = plain.ssd(t1, t2, ranks, k, each, preemptible=preemptible)
    assert run.output.settled_ns == expected.times
    assert run.target.begun == expected.passes


@st.composite
def paths(draw):
    """Nodes of a tree, each with those above it."""
    found = {()}
    for _ in range(draw(st.integers(1, 9))):
        found.add((*draw(st.sampled_from(sorted(found))), draw(st.integers(1, 3))))
    return tuple(sorted(found - {()}, key=lambda path: (len(path), path)))


@given(**LATENCIES, ranks=ANY_RANKS, nodes=paths(), slope=st.integers(0, 3))
def test_a_static_tree_is_the_plain_program(t1, t2, ranks, nodes, slope):
    shape = TreeShape(paths=nodes, branches=3)
    run = run_events(case(ranks, by_width(slope, t1), by_width(slope, t2), tree=shape), "tree", 0)
    widths = [lambda w, t=t: t + (w - 1) * slope for t in (t1, t2)]
    expected = plain.tree(*widths, ranks, nodes)
    assert run.output.settled_ns == expected.times
    assert (run.target.begun, run.drafter.begun) == (expected.passes, expected.forwards)


def best_paths(rate, shares, levels, branches, nodes):
    """The nodes of a tree by the mean chances of ranks: each level's best grow, the best stay."""
    chance = (None, rate, *((1 - rate) * share for share in shares))

    def order(path):
        product = 1.0
        for rank in path:
            product *= chance[rank]
        return (-round(product, 12), len(path), path)

    grown, found = [()], []
    for _ in range(levels):
        new = [(*path, rank) for path in grown for rank in range(1, branches + 1)]
        grown = sorted(new, key=order)[:branches]
        found += new
    return set(sorted(found, key=order)[:nodes])


@given(
    ranks=ANY_RANKS,
    rate=st.sampled_from([0.3, 0.6, 0.9]),
    depth=st.integers(1, 4),
    branches=st.integers(1, 3),
    nodes=st.integers(1, 9),
)
def test_a_tree_by_confidence_keeps_the_surest_nodes(ranks, rate, depth, branches, nodes):
    """With a confidence that says nothing of single drafts: round by round, by a plain loop."""
    shares, now, expected = (0.5, 0.3), 0, []
    while len(expected) < len(ranks):
        v = len(expected)
        levels = min(depth, len(ranks) - 1 - v)
        kept = best_paths(rate, shares, levels, branches, nodes)
        now += 3 * levels + 10
        n = 0
        while tuple(ranks[v : v + n + 1]) in kept:
            n += 1
        expected += [now] * (n + 1)
    text = case(
        ranks,
        acceptance=Acceptance(rate=rate, rank_shares=shares),
        policy=Policy(quality=0.0),
        tree=TreeShape(depth=depth, branches=branches, nodes=nodes),
    )
    run = run_events(text, "tree", 0, np.array([ranks], np.int8))
    assert run.output.settled_ns == expected


@given(
    **LATENCIES,
    ranks=ANY_RANKS,
    k=st.integers(1, 4),
    servers=st.integers(1, 6),
    nodes=st.integers(1, 12),
)
def test_a_cap_on_the_tree_of_dsi(t1, t2, ranks, k, servers, nodes):
    """No pass is wider than the cap allows; one node leaves DSI, and a wide cap changes nothing."""
    free = TreeShape(branches=2, deviations=1)
    capped = dataclasses.replace(free, nodes=nodes)
    text = case(ranks, t1, t2, k, servers, tree=capped, acceptance=Acceptance())
    draws = np.array([ranks], np.int8)
    run = run_events(text, "treedsi", 0, draws, keep_history=True)
    for forward in run.target.history:
        widest = max(node.position for node in forward.fed) - forward.fed[0].position
        assert len(forward.fed) <= max(nodes, widest) + 1
    alone = run_events(
        dataclasses.replace(text, tree=dataclasses.replace(free, nodes=1)), "treedsi", 0, draws
    )
    assert alone.output.settled_ns == run_events(text, "dsi", 0, draws).output.settled_ns
    wide = dataclasses.replace(text, tree=dataclasses.replace(free, nodes=10_000))
    unbound = run_events(dataclasses.replace(text, tree=free), "treedsi", 0, draws)
    assert run_events(wide, "treedsi", 0, draws).output.settled_ns == unbound.output.settled_ns


@settings(max_examples=150)
@given(
    **LATENCIES,
    ranks=ANY_RANKS,
    k=st.integers(1, 5),
    servers=st.integers(1, 6),
    branches=st.integers(1, 3),
    deviations=st.integers(0, 2),
    patience=st.integers(0, 4),
    preemptible=st.booleans(),
    slope=st.integers(0, 1),
)
def test_dsi_over_trees_is_the_plain_program(
    t1, t2, ranks, k, servers, branches, deviations, patience, preemptible, slope
):
    shape = TreeShape(branches=branches, deviations=deviations)
    text = case(
        ranks,
        by_width(slope, t1),
        by_width(slope, t2),
        k,
        servers,
        tree=shape,
        patience=patience,
        preemptible=preemptible,
    )
    run = run_events(text, "treedsi", 0)
    widths = [lambda w, t=t: t + (w - 1) * slope for t in (t1, t2)]
    expected = plain.treedsi(
        *widths, ranks, k, servers, branches, deviations, patience=patience, preemptible=preemptible
    )
    assert run.output.settled_ns == expected.times
    assert (run.target.begun, run.drafter.begun) == (expected.passes, expected.forwards)


@given(
    **LATENCIES,
    ranks=ANY_RANKS,
    k=st.integers(1, 5),
    servers=st.integers(1, 6),
    patience=st.integers(0, 4),
    size=st.integers(1, 4),
    preemptible=st.booleans(),
)
def test_dsi_with_patience_and_blocks_is_the_plain_program(
    t1, t2, ranks, k, servers, patience, size, preemptible
):
    text = case(
        ranks, t1, t2, k, servers, patience=patience, block_tokens=size, preemptible=preemptible
    )
    run = run_events(text, "dsi", 0)
    expected = plain.dsi(
        t1, t2, ranks, k, servers, patience=patience, block_tokens=size, preemptible=preemptible
    )
    assert run.output.settled_ns == expected.times
    assert (run.target.begun, run.drafter.begun) == (expected.passes, expected.forwards)


@given(**LATENCIES, ranks=ANY_RANKS, k=st.integers(1, 5), size=st.integers(1, 6))
def test_si_with_blocks_is_the_plain_program(t1, t2, ranks, k, size):
    run = run_events(case(ranks, t1, t2, k, block_tokens=size), "si", 0)
    expected = plain.si(t1, t2, ranks, k, block_tokens=size)
    assert run.output.settled_ns == expected.times
    assert (run.target.begun, run.drafter.begun) == (expected.passes, expected.forwards)


@st.composite
def vector_cases(draw):
    shape = TreeShape(
        paths=draw(st.one_of(st.just(()), paths())),
        depth=draw(st.integers(1, 5)),
        branches=3,
        nodes=draw(st.one_of(st.none(), st.integers(1, 12))),
    )
    return Case(
        tokens=draw(st.integers(1, 40)),
        repeats=2,
        targets=draw(st.integers(1, 5)),
        seed=draw(st.integers(0, 99)),
        target=Latency(latency_ns=draw(LATENCIES["t2"])),
        drafter=Latency(latency_ns=draw(LATENCIES["t1"])),
        acceptance=Acceptance(rate=draw(st.sampled_from([0.3, 0.7, 0.9])), rank_shares=(0.5, 0.3)),
        lookahead=draw(st.integers(1, 6)),
        policy=Policy(quality=0.0),
        tree=shape,
        block_tokens=draw(st.integers(1, 4)),
        patience=draw(st.integers(0, 7)),
        fanout=tuple(draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))),
    )


@pytest.mark.parametrize("name", ["si", "pearl", "pipespec", "ssd", "tree", "dsi"])
@settings(max_examples=80)
@given(case=vector_cases())
def test_the_vector_engine_equals_the_event_engine(name, case):
    """Settle time by settle time, and every count."""
    by_vector, by_events = (simulate_case(case, name, engine) for engine in ("vector", "events"))
    for column in ("settled_ns", "latency_ns", *COUNTS):
        assert getattr(by_vector, column).tolist() == getattr(by_events, column).tolist(), column


RANDOM = Latency(model="lognormal", latency_ns=1_000_000, cv=0.5)


@given(ranks=ANY_RANKS, k=st.integers(1, 6), seed=st.integers(0, 9))
def test_a_tree_that_is_a_chain_is_si(ranks, k, seed):
    """With latencies of one random draw a forward, too."""
    chain = TreeShape(paths=tuple((1,) * depth for depth in range(1, k + 1)), branches=1)
    text = case(ranks, RANDOM, RANDOM, k, tree=chain, seed=seed)
    assert (
        run_events(text, "tree", 0).output.settled_ns == run_events(text, "si", 0).output.settled_ns
    )


@given(
    ranks=ANY_RANKS,
    k=st.integers(1, 4),
    servers=st.integers(1, 6),
    seed=st.integers(0, 9),
    patience=st.integers(0, 3),
)
def test_dsi_over_trees_with_one_branch_is_dsi(ranks, k, servers, seed, patience):
    """With random latencies, too."""
    shape = TreeShape(branches=1, deviations=0)
    text = case(ranks, RANDOM, RANDOM, k, servers, tree=shape, seed=seed, patience=patience)
    trees, dsi = (run_events(text, name, 0) for name in ("treedsi", "dsi"))
    assert trees.output.settled_ns == dsi.output.settled_ns
    assert trees.counts == dsi.counts


@settings(max_examples=150)
@given(
    **LATENCIES,
    ranks=ANY_RANKS,
    k=st.integers(1, 5),
    servers=st.integers(1, 6),
    branches=st.integers(2, 3),
    deviations=st.integers(1, 2),
)
def test_the_law_of_dsi_over_trees(t1, t2, ranks, k, servers, branches, deviations):
    """Every token settles no later than by DSI, where latencies do not go by the width."""
    shape = TreeShape(branches=branches, deviations=deviations)
    text = case(ranks, t1, t2, k, servers, tree=shape)
    trees, dsi = (run_events(text, name, 0).output.settled_ns for name in ("treedsi", "dsi"))
    assert all(a <= b for a, b in zip(trees, dsi, strict=True))


@given(k=st.integers(1, 6), t1=st.integers(1, 4), ranks=ANY_RANKS, t2=st.integers(1, 30))
def test_laws_of_the_field(k, t1, t2, ranks):
    """Where drafting fits beside a pass: PEARL beats non-SI, SSD beats SI, DSI beats PEARL."""
    text = case(ranks, t1, t2, k)
    end = {
        name: run_events(text, name, 0).output.settled_ns[-1]
        for name in ("nonsi", "si", "pearl", "ssd")
    }
    dsi = run_events(dataclasses.replace(text, lookahead=1), "dsi", 0).output.settled_ns[-1]
    if k * t1 <= t2:
        assert end["pearl"] <= end["nonsi"]
        assert dsi <= end["pearl"]
    if k * t1 == t2:
        assert dsi == end["pearl"]
    if (k + 1) * t1 <= t2:
        assert end["ssd"] <= end["si"]


def test_a_static_tree_settles_as_many_tokens_as_its_closed_form():
    """1 + the sum over nodes of the product of their chances, a round."""
    p, shares = 0.7, (0.4, 0.2)
    chance = {1: p, 2: 0.3 * 0.4, 3: 0.3 * 0.2}
    nodes = ((1,), (2,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (3,))
    expected = 1 + sum(float(np.prod([chance[rank] for rank in path])) for path in nodes)
    text = Case(
        tokens=40_000,
        repeats=4,
        targets=1,
        acceptance=Acceptance(rate=p, rank_shares=shares),
        tree=TreeShape(paths=nodes, branches=3),
    )
    passes = simulate_case(text, "tree", "events").target_passes
    assert 40_000 / passes.mean() == pytest.approx(expected, rel=0.01)


@given(st.integers(0, 5), st.floats(0.05, 0.95), st.lists(st.floats(0, 0.3), max_size=3))
def test_the_first_rank_is_the_draft(seed, rate, shares):
    """Chains meet the very draws that they met before; ranks have their shares."""
    plain_draws = Acceptance(rate=rate).draws(seed, 2, 3000)
    ranks = Acceptance(rate=rate, rank_shares=tuple(shares)).ranks(seed, 2, 3000)
    assert np.array_equal(ranks[:, 0] == 1, plain_draws)
    for number, share in enumerate(shares, 2):
        expected = (1 - rate) * share
        assert abs((ranks == number).mean() - expected) < 5 * (expected / 6000) ** 0.5 + 1e-3


def test_rates_by_depth():
    """The draft that stands at depth d of a round of SI is accepted as often as by_depth says."""
    by_depth = (0.9, 0.5, 0.2)
    text = Case(
        tokens=30_000, repeats=1, targets=1, lookahead=4, acceptance=Acceptance(by_depth=by_depth)
    )
    passes = simulate_case(text, "si").target_passes[0]
    expected = 1 + 0.9 + 0.9 * 0.5 + 0.9 * 0.5 * 0.2 + 0.9 * 0.5 * 0.2 * 0.2
    assert 30_000 / passes == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", ["si", "dsi", "pearl", "pipespec", "ssd", "tree", "treedsi"])
@pytest.mark.parametrize("patience", [0, 3])
def test_a_drafter_that_has_no_draft(name, patience):
    """Where there never is one, each token takes a pass, and the empty forwards."""
    lookup = Acceptance(model="lookup", copied_tokens=1, new_tokens=1e9, chance_match=0.0)
    text = Case(tokens=30, repeats=1, targets=3, acceptance=lookup, patience=patience)
    run = run_events(text, name, 0)
    assert run.output.settled == 30
    assert run.target.begun == 30
    mixed = dataclasses.replace(
        lookup, copied_tokens=8, copied_rate=1.0, new_tokens=5, chance_match=0.5, chance_rate=0.2
    )
    run = run_events(dataclasses.replace(text, acceptance=mixed, tokens=400), name, 0)
    assert run.target.begun - run.target.cancelled < 330
