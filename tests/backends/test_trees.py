"""Trees of drafts, and blocks of them, by the rules that judge them: lossless, on toy models."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dsim.backends.torch.decoders import Guesser, Lookup
from dsim.backends.torch.nodes import Asked
from dsim.backends.torch.sampling import Candidates, Sampling, choose, guessed, probabilities
from dsim.backends.torch.verify import Lenient, Match, Rejection, TopN
from dsim.model.case import Decoding, TreeShape
from dsim.orchestrations import ORCHESTRATIONS
from tests.backends.toy import PROMPT, Toy, run

VOCAB = 5
P = np.log([0.4, 0.3, 0.2, 0.09, 0.01])
Q = np.log([0.1, 0.5, 0.2, 0.15, 0.05])
TREES = [name for name, one in ORCHESTRATIONS.items() if one.traits.live and one.trees]
CHAINS = [
    name
    for name, one in ORCHESTRATIONS.items()
    if one.traits.live and one.traits.drafts and not one.trees
]
PATHS = ((1,), (2,), (3,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (1, 1, 2))
samplings = st.sampled_from(
    [Sampling(), Sampling(temperature=0.7, seed=3), Sampling(temperature=1.0, top_k=3, seed=4)]
)
shapes = st.one_of(
    st.builds(
        TreeShape,
        depth=st.integers(1, 4),
        branches=st.integers(1, 6),  # more than there are tokens
        nodes=st.one_of(st.none(), st.integers(1, 12)),
        deviations=st.integers(0, 2),
    ),
    st.just(TreeShape(paths=PATHS, branches=3)),
)


def alone(model, sampling, tokens):
    text = [*PROMPT]
    for position in range(tokens):
        text.append(choose(model.after(text), position, sampling))
    return text[len(PROMPT) :]


@settings(deadline=None)
@given(
    algorithm=st.sampled_from(TREES),
    shape=shapes,
    sampling=samplings,
    seed=st.integers(0, 99),
    noise=st.sampled_from([0.0, 0.3, 2.0]),
    k=st.integers(1, 4),
    servers=st.integers(1, 3),
    times=st.tuples(st.integers(1, 9), st.integers(1, 30)),
    patience=st.integers(0, 2),
)
def test_trees_settle_the_tokens_of_the_target(
    algorithm, shape, sampling, seed, noise, k, servers, times, patience
):
    target = Toy(VOCAB, seed)
    drafter = Toy(VOCAB, seed + 1, like=target, noise=noise)
    decoding = Decoding(tree=shape, patience=patience)
    found, shared = run(
        algorithm,
        target,
        drafter,
        Match(sampling),
        15,
        decoding=decoding,
        k=k,
        servers=servers,
        times=times,
    )
    assert found == alone(target, sampling, 15)
    if noise == 0:  # its first choice is always the target's: the noise is shared
        assert not shared.misses


@settings(deadline=None, max_examples=50)
@given(
    algorithm=st.sampled_from(TREES + CHAINS),
    sampling=samplings,
    seed=st.integers(0, 99),
    block=st.integers(2, 4),
    branches=st.integers(1, 3),
    k=st.integers(1, 5),
)
def test_blocks_settle_the_tokens_of_the_target(algorithm, sampling, seed, block, branches, k):
    target = Toy(VOCAB, seed)
    decoding = Decoding(tree=TreeShape(branches=branches), block_tokens=block)
    drafter = Guesser(Lookup(), VOCAB)
    found, _ = run(algorithm, target, drafter, Match(sampling), 15, decoding=decoding, k=k)
    assert found == alone(target, sampling, 15)


@pytest.mark.parametrize(
    ("algorithm", "shape"),
    [
        ("si", TreeShape()),
        ("dsi", TreeShape()),
        ("tree", TreeShape(paths=PATHS, branches=3)),
        ("tree", TreeShape(paths=((1,), (2,), (2, 1)), branches=2)),
        ("treedsi", TreeShape(branches=3, deviations=1)),
        ("treedsi", TreeShape(branches=2, deviations=2)),
    ],
)
def test_rejection_is_lossless_in_distribution_on_trees(algorithm, shape):
    """All texts of three tokens come as often as the target alone would write them."""
    vocab, texts = 3, 1_200
    target, drafter = Toy(vocab, 5), Toy(vocab, 6)
    counts = Counter(
        tuple(
            run(
                algorithm,
                target,
                drafter,
                Rejection(Sampling(temperature=1.0, seed=seed)),
                4,
                decoding=Decoding(tree=shape),
            )[0][:3]
        )
        for seed in range(texts)
    )
    expected = {}
    for text in np.ndindex(vocab, vocab, vocab):
        chance, before = 1.0, [*PROMPT]
        for token in text:
            chance *= probabilities(target.after(before), Sampling(temperature=1.0))[token]
            before.append(token)
        expected[text] = chance * texts
    often = [text for text, count in expected.items() if count >= 5]
    rest = [text for text in expected if text not in often]
    seen = [*(counts[text] for text in often), sum(counts[text] for text in rest)]
    wanted = [*(expected[text] for text in often), sum(expected[text] for text in rest)]
    assert stats.chisquare(seen, wanted).pvalue > 1e-4


def settled(rule, position, nodes=lambda tokens: tokens, count=3):
    """The token that settles at *position*, where *nodes* says which candidates are on the tree."""
    drafts = rule.candidates(Q, position, count)
    return rule.among(rule.own(P, position), drafts, nodes(drafts.tokens), position)


def chance(rule, nodes):
    counts = np.bincount([settled(rule, i, nodes) for i in range(3_000)], minlength=VOCAB)
    return stats.chisquare(counts, np.exp(P) * 3_000).pvalue


def test_whichever_ranks_are_on_the_tree_rejection_samples_the_target():
    rule = Rejection(Sampling(temperature=1.0, seed=1))
    for ranks in ([0], [1], [0, 1], [0, 2], [1, 2], [0, 1, 2], []):
        assert chance(rule, lambda tokens, at=ranks: [tokens[i] for i in at]) > 1e-4, ranks
    # Not so where what a candidate is decides whether it is on the tree: hence ``any_tree``.
    assert chance(rule, lambda tokens: [t for t in tokens if t < 2]) < 1e-6
    assert not rule.any_tree
    assert Match().any_tree


def test_more_candidates_are_accepted_more_often():
    rule = Rejection(Sampling(temperature=1.0, seed=2))
    stood = []
    for count in (1, 2, 3, 4):
        drafts = [rule.candidates(Q, i, count) for i in range(2_000)]
        stood.append(
            np.mean(
                [
                    rule.among(rule.own(P, i), d, d.tokens, i) in d.tokens
                    for i, d in enumerate(drafts)
                ]
            )
        )
    assert stood == sorted(stood)
    assert stood[1] > stood[0] + 0.03


@given(
    row=st.lists(st.floats(-4, 4), min_size=VOCAB, max_size=VOCAB, unique=True).map(np.array),
    sampling=samplings,
    count=st.integers(1, 7),
    position=st.integers(0, 99),
)
def test_candidates_are_different_and_begin_with_the_draft(row, sampling, count, position):
    most = min(count, VOCAB, sampling.top_k if sampling.temperature and sampling.top_k else VOCAB)
    for rule in (Match(sampling), Rejection(sampling), Lenient(sampling), TopN(sampling, 2)):
        found = rule.candidates(row, position, count)
        assert len(set(found.tokens)) == len(found.tokens) == most
        assert found.tokens[0] == rule.draft(row, position).token
        assert found.chances == sorted(found.chances, reverse=True)
        assert 0 <= found.chances[-1] <= sum(found.chances) <= 1 + 1e-9
        own = rule.own(row, position)
        if sampling.temperature == 0 and rule.lossless:
            for nodes in (found.tokens, found.tokens[1:]):
                assert rule.among(own, found, nodes, position) == own.token
        single = rule.candidates(row, position, 1)
        assert rule.among(own, single, single.tokens, position) == rule.judge(
            own, rule.draft(row, position), position
        )


def test_no_logit_above_minus_infinity_is_no_guess():
    nothing = np.full(VOCAB, -np.inf)
    assert guessed(nothing, 0, Sampling(), 2) == Candidates([], [])
    assert Rejection(Sampling(temperature=1.0)).candidates(nothing, 0, 2).tokens == []


def test_lookup_candidates():
    """The longest end of the text that has occurred comes first, then the last occurrence."""
    text = [1, 2, 7, 3, 2, 8, 1, 2]
    assert Lookup().candidates(text, 3) == [7, 8]
    assert Lookup().candidates(text, 1) == [Lookup().guess(text)] == [7]
    assert Lookup().candidates([4], 2) == [4]


def test_a_drafter_of_ones_own_may_make_blocks_and_candidates():
    class Mine:
        def guess(self, tokens):
            return len(tokens) % VOCAB

        def block(self, _, count):
            return [4] * (count - 1)  # fewer than asked for

        def candidates(self, _, count):
            return [1, 1, 3, 2][: count + 1]

    drafter = Guesser(Mine(), VOCAB)
    logits, _ = drafter.read_nodes(Asked([0, 1], [], [-1], 1, 3))
    assert [guessed(row, 0, Sampling(), 1).tokens for row in logits] == [[4], [4], []]
    logits, _ = drafter.read_nodes(Asked([0, 1], [(-1, 2)], [-1, 0], 2, 1))
    assert [guessed(row, 0, Sampling(), 2).tokens for row in logits] == [[1, 3], [1, 3]]
    del Mine.block, Mine.candidates
    logits, _ = drafter.read_nodes(Asked([0, 1], [(-1, 2)], [-1, 0], 2, 2))
    assert [guessed(row, 0, Sampling(), 2).tokens for row in logits] == [[2], [3], [3], [4]]
