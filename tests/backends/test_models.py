"""Latency and acceptance models: by their statistics, and by what they depend on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.backends.simulated import Simulated
from dsim.events.environment import Environment
from dsim.events.order import PASS
from dsim.events.output import Output
from dsim.events.servers import Pool, Server
from dsim.model.acceptance import Acceptance, Uniforms, run_lengths
from dsim.model.latency import Latency
from dsim.units import to_ns

seeds, repeats = st.integers(0, 2**63 - 1), st.integers(0, 1000)


@given(seeds, repeats, st.integers(0, 60), st.integers(0, 60))
def test_draws_depend_on_seed_repeat_and_position_only(seed, repeat, few, more):
    """Not on how many are asked for, nor in how many pieces."""
    whole = Uniforms(seed, repeat).next(few + more)
    pieces = Uniforms(seed, repeat)
    assert np.concatenate([pieces.next(few), pieces.next(more)]).tolist() == whole.tolist()


def test_the_stream_is_what_it_always_was():
    """If this fails, every published number of dsim changes with it."""
    found = [f"{u:.12f}" for u in Uniforms(0, 0).next(3)]
    assert found == ["0.011546754286", "0.241549196563", "0.111425855515"]
    assert f"{Uniforms(12345, 6, 2).next(1)[0]:.12f}" == "0.348477398828"


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_streams_differ(stream):
    others = [Uniforms(0, 0, s).next(8).tolist() for s in (0, 1, 2) if s != stream]
    mine = Uniforms(0, 0, stream).next(8).tolist()
    assert mine not in others
    assert mine != Uniforms(0, 1, stream).next(8).tolist()
    assert mine != Uniforms(1, 0, stream).next(8).tolist()


@given(seeds, st.integers(1, 4), st.integers(1, 40), st.integers(1, 40))
def test_models_keep_their_draws_when_more_tokens_are_asked_for(seed, count, few, more):
    for model in (
        Acceptance(rate=0.7),
        Acceptance(model="decay", rate=0.9, decay=0.8),
        Acceptance(model="markov", rate=0.7, correlation=0.5),
    ):
        short, long = (model.draws(seed, count, n) for n in (few, few + more))
        assert (long[:, :few] == short).all()


@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_rate_accepts_whatever_a_lower_one_does(seed, one, other):
    low, high = (Acceptance(rate=r).draws(seed, 2, 50) for r in sorted((one, other)))
    assert (high | ~low).all()


def test_bernoulli_statistics():
    found = Acceptance(rate=0.7).draws(1, 50, 4000)
    assert abs(found.mean() - 0.7) < 4 * np.sqrt(0.7 * 0.3 / found.size)
    neighbours = np.corrcoef(found[:, 1:].ravel(), found[:, :-1].ravel())[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(found.size)


def test_markov_statistics():
    found = Acceptance(model="markov", rate=0.7, correlation=0.6).draws(1, 50, 4000)
    # A chain with correlation c has (1 + c) / (1 - c) times the variance of the mean.
    error = np.sqrt(0.7 * 0.3 * (1.6 / 0.4) / found.size)
    assert abs(found.mean() - 0.7) < 4 * error
    neighbours = np.corrcoef(found[:, 1:].ravel(), found[:, :-1].ravel())[0, 1]
    assert abs(neighbours - 0.6) < 0.01


def test_decay_statistics():
    """Of the drafts at depth d of a branch, rate · decay^d are accepted."""
    found = Acceptance(model="decay", rate=0.9, decay=0.7).draws(1, 50, 4000)
    tries, hits = np.zeros(5), np.zeros(5)
    for row in found:
        depth = 0
        for accepted in row:
            if depth < 5:
                tries[depth] += 1
                hits[depth] += accepted
            depth = depth + 1 if accepted else 0
    expected = 0.9 * 0.7 ** np.arange(5)
    assert (np.abs(hits / tries - expected) < 4 * np.sqrt(expected * (1 - expected) / tries)).all()


def test_decay_without_decay_is_bernoulli():
    plain, decay = Acceptance(rate=0.6), Acceptance(model="decay", rate=0.6, decay=1.0)
    assert (plain.draws(3, 4, 100) == decay.draws(3, 4, 100)).all()


def test_traces_are_replayed_in_turn():
    model = Acceptance(model="trace", traces=("1100", "0011"))
    assert model.draws(0, 3, 3).astype(int).tolist() == [[1, 1, 0], [0, 0, 1], [1, 1, 0]]
    with pytest.raises(ValueError, match="4 draws, but 5 tokens"):
        model.draws(0, 1, 5)


@given(st.lists(st.booleans(), max_size=30))
def test_run_lengths(accepts):
    lengths = run_lengths(np.array(accepts, dtype=bool))
    for i, length in enumerate(lengths):
        assert all(accepts[i : i + length])
        assert i + length == len(accepts) or not accepts[i + length]


@pytest.mark.parametrize(("model", "cv"), [("lognormal", 0.3), ("lognormal", 1.0), ("gamma", 0.5)])
def test_random_latencies_have_their_mean_and_variation(model, cv):
    latency = Latency(model=model, latency_ns=10**9, cv=cv)
    sampler = latency.sampler(1, 0, 2)
    found = np.array([sampler(1, False) for _ in range(40_000)])
    error = cv / np.sqrt(len(found))
    assert abs(found.mean() / 1e9 - 1) < 4 * error
    assert abs(found.std() / found.mean() - cv) < 0.05 * cv + 0.02
    assert found.min() >= 1


def test_empirical_latencies_are_drawn_with_equal_chances():
    latency = Latency(model="empirical", samples_ns=(5, 7, 7, 100))
    sampler = latency.sampler(1, 0, 2)
    found = np.array([sampler(1, False) for _ in range(20_000)])
    shares = {value: float((found == value).mean()) for value in (5, 7, 100)}
    assert set(found.tolist()) == {5, 7, 100}
    assert shares == pytest.approx({5: 0.25, 7: 0.5, 100: 0.25}, abs=0.015)


def test_samples_do_not_depend_on_how_many_are_asked_for():
    latency = Latency(model="gamma", latency_ns=1000, cv=1.0)
    one, other = latency.sampler(1, 2, 1), latency.sampler(1, 2, 1)
    first = [one(1, False) for _ in range(9000)]
    assert first == [other(1, False) for _ in range(9000)]
    assert len(set(first)) > 1000


def test_a_table_is_linear_between_its_rows():
    latency = Latency(model="table", table=((1, 100), (5, 120), (9, 200)))
    widths = {0: 100, 1: 100, 2: 105, 5: 120, 7: 160, 9: 200, 11: 225}  # 12.5 a token beyond
    assert {w: latency.at_width(w) for w in widths} == widths
    assert Latency(model="table", table=((4, 50),)).at_width(99) == 50


def test_a_table_spreads_by_its_factors():
    latency = Latency(model="table", table=((1, 1000), (2, 2000)), spread=(0.5, 1.0, 1.5))
    one, other = latency.sampler(1, 2, 1), latency.sampler(1, 2, 1)
    first = [one(1 + i % 2, False) for i in range(9000)]
    assert first == [other(1 + i % 2, False) for i in range(9000)]
    assert set(first[::2]) == {500, 1000, 1500}
    assert np.mean(first[1::2]) == pytest.approx(2000, rel=0.02)
    assert [latency.sampler(1, 3, 1)(1, False) for _ in range(9)] != first[:9]


def test_a_first_latency_counts_once_per_server():
    sampler = Latency(latency_ns=5, first_ns=50).sampler(0, 0, 2)
    assert [sampler(1, True), sampler(1, False)] == [50, 5]
    table = Latency(model="table", table=((1, 7),), first_ns=70).sampler(0, 0, 2)
    assert [table(1, True), table(3, False)] == [70, 7]


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_a_latency_must_be_above_zero(bad):
    with pytest.raises(ValueError, match="above 0 ms"):
        to_ns(bad)


def test_milliseconds_become_whole_nanoseconds():
    assert [to_ns(ms) for ms in (1, 0.05, 0.1 + 0.2, 1e-9)] == [1_000_000, 50_000, 300_000, 1]


def widths_of(steps, count=1):
    """What a backend measures as widths while its servers do *steps* in turn."""
    env = Environment()
    output = Output(env, 100)
    seen = []

    def sample(width, prefill):
        seen.append((width, prefill))
        return 1

    backend = Simulated(env, sample, [0] * 101)
    pool = Pool(env, backend, output, role="target", priority=PASS, count=count)
    for settled, drafts, rejected in steps:
        del output.tokens[output.settled :]
        output.settled = settled
        output.tokens.extend([None] * (settled + drafts - len(output.tokens)))
        env.run(until=pool.forward(settled))
        if rejected is not None:
            output.rejections.append(rejected)
    return seen


def test_the_width_of_a_pass():
    """Its drafts and the last settled token; after a rejection, what the cache has lost."""
    assert widths_of([(0, 0, None), (1, 3, 2), (3, 0, None), (4, 2, None)]) == [
        (1, True),  # the last token of the prompt
        (4, False),  # one settled token, three drafts
        (1, False),  # tokens 0 and 1 are cached still, token 2 is the target's own
        (3, False),
    ]


def test_a_cache_has_lost_what_was_rejected_since():
    """Fed to 10, cut back to 4 while others verified, asked for position 8: from 4 on."""
    assert widths_of([(0, 10, 4), (8, 2, None)]) == [(11, True), (6, False)]


def test_a_server_that_verified_nothing_meanwhile_has_more_to_feed():
    env = Environment()
    output = Output(env, 100)
    seen = []
    backend = Simulated(env, lambda width, _: seen.append(width) or 10, [0] * 101)
    pool = Pool(env, backend, output, role="target", priority=PASS, count=2)
    first, second = pool.forward(0), pool.forward(0)
    env.run(until=second)
    output.settled = 6
    output.tokens.extend([None] * 8)
    third, fourth = pool.forward(6), pool.forward(6)
    env.run(until=fourth)
    # Both had fed nothing but the prompt: now all eight tokens.
    assert seen == [1, 1, 8, 8]
    assert {first.server, second.server} == {third.server, fourth.server} == {0, 1}


def test_a_server_refuses_two_forwards_at_once():
    env = Environment()
    output = Output(env, 10)
    backend = Simulated(env, 5, [0] * 11)
    server = Server(env, backend, output, role="drafter", priority=PASS)
    server.forward(0)
    with pytest.raises(RuntimeError, match="the drafter was asked for two forwards at once"):
        server.forward(0)
    pool = Pool(env, backend, output, role="target", priority=PASS, count=1)
    pool.forward(0)
    with pytest.raises(IndexError):
        pool.forward(0)


def test_a_run_that_never_ends_is_an_error():
    env = Environment()
    with pytest.raises(RuntimeError, match="no events are left"):
        env.run(until=env.event())


def test_an_error_in_a_process_comes_out():
    env = Environment()

    def fails():
        yield env.timeout(1)
        raise KeyError("boom")

    env.process(fails())
    with pytest.raises(KeyError, match="boom"):
        env.run(until=env.event())


def test_the_environment_still_runs_to_a_time_and_to_the_end():
    env = Environment()
    times = itertools.count()
    for delay in (1, 5, 9):
        env.timeout(delay).callbacks.append(lambda _: next(times))
    env.run(until=6)
    assert (env.now, next(times)) == (6, 2)
    env.run()
    assert env.now == 9
