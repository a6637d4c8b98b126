"""Verification rules, on a tiny vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dsim.backends.torch.sampling import (
    Sampling,
    choose,
    gumbel,
    probabilities,
    scaled,
    softmax,
    uniforms,
)
from dsim.backends.torch.verify import (
    RULES,
    Answer,
    Lenient,
    Match,
    Rejection,
    TopN,
    rule_of,
    verify,
)
from dsim.errors import UserError

VOCAB = 5
P = np.log([0.4, 0.3, 0.2, 0.09, 0.01])
Q = np.log([0.1, 0.5, 0.2, 0.15, 0.05])
logits = st.lists(st.floats(-4, 4), min_size=VOCAB, max_size=VOCAB, unique=True).map(np.array)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.integers(0, 6),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**63 - 1),
)


def settled(rule, position: int, p=P, q=Q) -> tuple[int, bool]:
    """The token that settles at *position*, and whether it was a draft."""
    draft = rule.draft(q, position)
    accepted, token = verify(rule, [rule.own(p, position)], [draft], position)
    return (draft.token, True) if accepted else (token, False)


def is_sample_of(tokens, distribution) -> float:
    counts = np.bincount(tokens, minlength=VOCAB)
    possible = distribution > 0
    assert not counts[~possible].any(), "an impossible token"
    expected = distribution[possible] * len(tokens)
    return float(stats.chisquare(counts[possible], expected).pvalue)


@given(row=logits, position=st.integers(0, 1000), sampling=samplings)
def test_match_settles_what_the_target_alone_would_choose(row, position, sampling) -> None:
    rule = Match(sampling)
    for q in (row, row[::-1]):
        token, was_draft = settled(rule, position, p=row, q=q)
        assert token == choose(row, position, sampling)
        assert was_draft == (token == choose(q, position, sampling))


@given(row=logits, position=st.integers(0, 1000), sampling=samplings)
def test_same_logits_always_match_and_rejection_never_rejects_them(row, position, sampling) -> None:
    for rule in (Match(sampling), Rejection(sampling), Lenient(sampling), TopN(sampling, VOCAB)):
        assert settled(rule, position, p=row, q=row)[1]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=1.0),
        Sampling(temperature=0.5, seed=3),
        Sampling(temperature=2.0, top_k=3, seed=4),
        Sampling(temperature=1.0, top_p=0.8, seed=5),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["match", "rejection"])
def test_lossless_rules_give_the_target_distribution(name: str, sampling: Sampling) -> None:
    rule = rule_of(name, sampling)
    tokens, drafts = zip(*(settled(rule, i) for i in range(6_000)), strict=True)
    assert is_sample_of(tokens, probabilities(P, sampling)) > 1e-4
    assert 0.05 < np.mean(drafts) < 0.95
    assert rule.lossless


def test_rejection_accepts_as_often_as_the_paper_says() -> None:
    # Leviathan et al., theorem 3.5: the acceptance rate is Σ min(p, q).
    sampling = Sampling(temperature=1.0)
    expected = float(np.minimum(np.exp(P), np.exp(Q)).sum())
    accepted = sum(settled(Rejection(sampling), i)[1] for i in range(6_000))
    assert stats.binomtest(accepted, 6_000, expected).pvalue > 1e-4


def test_shared_noise_matches_more_often_than_independent_samples_would() -> None:
    sampling = Sampling(temperature=1.0)
    matched = sum(settled(Match(sampling), i)[1] for i in range(6_000))
    assert matched / 6_000 > float(np.exp(P) @ np.exp(Q)) + 0.1


def test_rejection_of_a_longer_run_is_lossless_too() -> None:
    # Two positions: the second is a sample of the target's, whatever happened at the first.
    rule = Rejection(Sampling(temperature=1.0, seed=9))
    second = []
    for i in range(0, 12_000, 2):
        drafts = [rule.draft(Q, i), rule.draft(Q, i + 1)]
        accepted, token = verify(rule, [rule.own(P, i), rule.own(P, i + 1)], drafts, i)
        if accepted >= 1:
            second.append(drafts[1].token if accepted == 2 else token)
    assert len(second) > 2000
    assert is_sample_of(second, np.exp(P)) > 1e-4


def test_leniency_one_is_speculative_sampling_and_less_accepts_more() -> None:
    sampling = Sampling(temperature=1.0)
    kept = {
        leniency: [settled(Lenient(sampling, leniency), i) for i in range(3000)]
        for leniency in (0.25, 0.5, 1.0)
    }
    assert kept[1.0] == [settled(Rejection(sampling), i) for i in range(3000)]
    share = {leniency: np.mean([d for _, d in runs]) for leniency, runs in kept.items()}
    assert share[0.25] > share[0.5] > share[1.0]
    assert is_sample_of([t for t, _ in kept[0.25]], np.exp(P)) < 1e-6, "it is lossy"
    assert not Lenient().lossless


def test_greedy_leniency() -> None:
    p = np.log([0.5, 0.3, 0.2, 1e-9, 1e-9])
    for leniency, stands in ((0.599, True), (0.601, False)):
        token, was_draft = settled(Lenient(Sampling(), leniency), 0, p=p, q=np.eye(VOCAB)[1])
        assert (token, was_draft) == ((1, True) if stands else (0, False))


def test_top_n() -> None:
    drafts = {t: np.eye(VOCAB)[t] for t in range(VOCAB)}
    for n in range(1, VOCAB + 1):
        stood = [t for t in drafts if settled(TopN(Sampling(), n), 0, p=P, q=drafts[t])[1]]
        assert stood == list(range(n))


@given(row=logits, sampling=samplings.filter(lambda s: s.temperature > 0))
def test_top_k_and_top_p_keep_the_likeliest(row, sampling) -> None:
    kept = np.isfinite(scaled(row, sampling))
    assert kept[np.argmax(row)]
    assert row[kept].min() > row[~kept].max(initial=-np.inf)
    if sampling.top_k:
        assert kept.sum() <= sampling.top_k
    else:
        p = softmax(row / sampling.temperature)
        assert p[kept].sum() >= sampling.top_p - 1e-9
        assert p[kept].sum() - p[kept].min() < sampling.top_p + 1e-9, "one less would have done"


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63 - 1), position=st.integers(0, 10**6), use=st.integers(0, 3))
def test_noise_is_finite_and_the_same_for_a_smaller_vocabulary(seed, position, use) -> None:
    noise = gumbel(seed, position, use, 100)
    assert np.isfinite(noise).all()
    assert (gumbel(seed, position, use, 40) == noise[:40]).all()
    assert 0 < uniforms(seed, position, use, 1)[0] < 1
    assert not (gumbel(seed, position + 1, use, 100) == noise).any()
    assert not (gumbel(seed, position, (use + 1) % 4, 100) == noise).any()


def test_verify_counts_and_gives_the_next_token() -> None:
    target = [Answer(3), Answer(1), Answer(4)]
    drafts = [Answer(3), Answer(1)]
    assert verify(Match(), target, drafts, 0) == (2, 4)
    assert verify(Match(), target[:2], drafts, 0) == (2, -1)
    assert verify(Match(), target, [Answer(3), Answer(2)], 0) == (1, 1)
    assert verify(Match(), target, [Answer(0), Answer(1)], 0) == (0, 3)
    assert verify(Match(), target, [], 0) == (0, 3)


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(UserError) as caught:
        rule_of("mach", Sampling(temperature=-1, top_k=-1, top_p=0, seed=2**63), leniency=0, n=0)
    text = str(caught.value)
    for word in (
        "seed",
        "temperature",
        "top-k",
        "top-p",
        "leniency",
        "top-n",
        'did you mean "match"',
    ):
        assert word in text
    assert [rule_of(name, Sampling()).name for name in RULES] == list(RULES)
