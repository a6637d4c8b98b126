"""Replicas: the engine against a plain program of the rules, and the laws of every run."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.deployment.cluster import ranks_of
from dsim.deployment.replica import setup
from dsim.deployment.replica.setup import costs_of, drafting_of
from dsim.deployment.replica.spec import ReplicaSpec
from dsim.deployment.request_rows import Text
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment
from dsim.deployment.workload import Workload
from dsim.engines.simulate import run_events, simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from tests.deployment import plain_replica
from tests.deployment.replicas import (
    acceptances_of_shapes,
    algorithms,
    replayed,
    specs,
    tree_shapes,
)


def plainly(deployment, workload):
    """The same by the plain program: the texts that it served, and its steps."""
    spec = deployment.replica
    texts = [
        plain_replica.Text(number, *row, text.group, text.shared, [c == "1" for c in text.accepts])
        for number, (row, text) in enumerate(zip(workload.trace, workload.texts, strict=True))
    ]
    b0, b1, b2 = spec.target_us
    d0, d1 = spec.drafter_us

    def drafts_for(requests):
        found = deployment.lookahead
        for place, (first, tokens) in enumerate(spec.drafts_by_batch):
            if requests >= first or not place:
                found = tokens
        return found

    steps = plain_replica.run(
        texts,
        {
            "max_seqs": spec.max_seqs,
            "budget": spec.max_batched_tokens,
            "threshold": spec.long_prefill_threshold,
            "blocks": spec.kv_blocks or 10_000,
            "size": spec.block_size,
            "cache": spec.prefix_cache,
            "features": spec.features,
        },
        lambda prefill, decode: round(1e3 * (spec.host_us + b0 + b1 * prefill + b2 * decode)),
        lambda tokens: max(1, round(1e3 * (d0 + d1 * tokens))),
        drafts_for if deployment.algorithm == "si" else None,
    )
    return texts, steps


def test_a_draft_that_fell_is_read_again_after_steps_without_drafts():
    """Two requests get no drafts, three get two each: the drafter was said to know a token more."""
    trace = ((0, 1, 6), (0, 1, 4), (0, 1, 1), (0, 1, 1), (0, 1, 5), (0, 1, 2))
    texts = tuple(Text(name=str(n), accepts="0" * row[2]) for n, row in enumerate(trace))
    spec = ReplicaSpec(
        max_seqs=3,
        max_batched_tokens=7,
        block_size=1,
        drafts_by_batch=((1, 0), (2, 0), (3, 2)),
        target_us=(1, 1, 1),
        drafter_us=(0.5, 1),
    )
    deployment = Deployment(algorithm="si", lookahead=1, replica=spec)
    workload = Workload(arrivals="trace", trace=trace, texts=texts)
    run = serve(deployment, workload, keep_settled=True)
    assert run.settled_ns[0] == [4000, 8000, 19000, 27000, 33500, 38500]
    assert [text.settled for text in plainly(deployment, workload)[0]] == run.settled_ns


@settings(max_examples=150)
@given(specs(), replayed(), algorithms, st.integers(1, 4))
def test_the_engine_keeps_to_the_plain_program(spec, workload, algorithm, lookahead):
    deployment = Deployment(algorithm=algorithm, lookahead=lookahead, replica=spec)
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    texts, steps = plainly(deployment, workload)
    assert [text.settled for text in texts] == run.settled_ns
    assert [text.preemptions for text in texts] == list(run.preemptions)
    (replica,) = run.replicas
    assert [(step.start_ns, step.end_ns) for step in replica.log] == steps


def by_width(base_us, each_us):
    """The latency of a forward that takes so long, and so much more for each token."""
    rows = ((w, 1000 * (base_us + each_us * w)) for w in range(1, 99))
    return Latency(model="table", table=tuple(rows))


@settings(max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 25),
    st.integers(1, 6),
    st.lists(st.booleans(), min_size=25, max_size=25),
    st.tuples(st.integers(1, 50), st.integers(0, 9)),
    st.tuples(st.integers(0, 9), st.integers(0, 3)),
)
def test_one_request_alone_is_its_first_step_and_then_si(
    prompt, output, lookahead, accepts, target_us, drafter_us
):
    """Times of SI come from dsim's own, event by event, with latencies by width."""
    (b0, b2), (d0, d1) = target_us, (drafter_us[0] + 1, drafter_us[1])
    spec = ReplicaSpec(
        target_us=(b0, 7, b2), drafter_us=(d0, d1), drafts_by_batch=((1, lookahead),)
    )
    bits = "".join("01"[bit] for bit in accepts)
    workload = Workload(
        arrivals="trace", trace=((0, prompt, output),), texts=(Text("", "", 0, bits),)
    )
    run = serve(
        Deployment(algorithm="si", lookahead=lookahead, replica=spec), workload, keep_log=True
    )
    first_ns = 1000 * (b0 + 7 * prompt)

    alone_ns = [first_ns]
    if output > 1:
        case = Case(
            tokens=output - 1,
            repeats=1,
            targets=1,
            lookahead=lookahead,
            target=by_width(b0, b2),
            drafter=by_width(d0, d1),
            acceptance=Acceptance(model="trace", traces=(bits[1:],)),
        )
        alone = simulate_case(case, "si", "events").settled_ns[0]
        alone_ns += [first_ns + ns for ns in alone.tolist()]
    assert run.done_ns[0] == alone_ns[-1]
    # Tokens settle with their step, which goes on to draft: in SI, that is the next round.
    (replica,) = run.replicas
    said_ns = [step.target_ns for step in replica.log for _ in range(step.fed[0][3])]
    assert said_ns == alone_ns


@settings(max_examples=150)
@given(
    st.integers(1, 25),
    st.integers(1, 5),
    st.sampled_from(["si", "tree"]),
    acceptances_of_shapes(),
    st.integers(1, 3),
    tree_shapes(),
    st.integers(0, 99),
)
def test_trees_blocks_and_missing_drafts_alone_are_as_on_a_server_of_their_own(
    output, lookahead, algorithm, acceptance, block_tokens, shape, seed
):
    """The law above, for everything that can be drafted; times by dsim's own orchestrations."""
    spec = ReplicaSpec(target_us=(50, 7, 3), drafter_us=(4, 1))
    decoding = {
        "lookahead": lookahead,
        "acceptance": acceptance,
        "block_tokens": block_tokens,
        "tree": shape,
        "policy": Policy(quality=0.0),
        "seed": seed,
    }
    deployment = Deployment(algorithm=algorithm, replica=spec, **decoding)
    workload = Workload(arrivals="trace", trace=((0, 10, output),))
    run = serve(deployment, workload, keep_log=True)
    rate = float(workload.rates(seed, 0, acceptance)[0])
    ranks = ranks_of(deployment, 0, 0, output, rate)
    said_ns = [step.target_ns for step in run.replicas[0].log for _ in range(step.fed[0][3])]
    first_ns = 1000 * (50 + 7 * 10)

    alone_ns = [first_ns]
    if output > 1:
        case = Case(
            tokens=output - 1,
            repeats=1,
            targets=1,
            target=by_width(50, 3),
            drafter=by_width(4, 1),
            **decoding,
        )
        alone = run_events(case, algorithm, 0, ranks[:, 1:])
        alone_ns += [first_ns + ns for ns in alone.output.settled_ns]
    assert said_ns == alone_ns
    assert run.done_ns[0] == alone_ns[-1]


def test_the_worked_case():
    """Budget 8, blocks of 4: a prompt of 10 is read in two chunks, the second beside a decoder."""
    spec = ReplicaSpec(max_batched_tokens=8, block_size=4, target_us=(10, 1, 2), drafter_us=(3, 0))
    workload = Workload(
        arrivals="trace",
        trace=((0, 10, 2), (0, 1, 3)),
        texts=(Text("a", "", 0, "00"), Text("b", "", 0, "011")),
    )
    plain = serve(Deployment(algorithm="nonsi", replica=spec), workload, keep_settled=True)
    # 8 tokens of a (18 µs); 2 of a and 1 of b (13); one each (14); the last of b (12).
    assert plain.settled_ns == [[31_000, 45_000], [31_000, 45_000, 57_000]]
    drafting = serve(Deployment(algorithm="si", replica=spec), workload, keep_settled=True)
    # b has a draft after its first token, a none, as one token is left: 31 + 3, then 10 + 2 · 3.
    assert drafting.settled_ns == [[34_000, 50_000], [34_000, 50_000, 50_000]]


def test_an_evicted_request_is_back_at_the_head_of_the_queue():
    """Two requests of 3 + 4 tokens, and blocks of 2: 5 are too few for both at their ends."""
    spec = ReplicaSpec(block_size=2, kv_blocks=5, target_us=(10, 1, 2), prefix_cache=False)
    workload = Workload(arrivals="trace", trace=((0, 3, 4), (0, 3, 4), (1000, 1, 1)))
    run = serve(Deployment(algorithm="nonsi", replica=spec), workload, keep_settled=True)
    # The prompts of a and b (16 µs); one token each, and c (15). Then a takes the last block, and b
    # evicts itself (12), is still short of blocks (12), and reads 5 tokens again (15).
    assert run.settled_ns[0] == [16_000, 31_000, 43_000, 55_000]
    assert run.settled_ns[1] == [16_000, 31_000, 70_000, 82_000]
    assert list(run.preemptions) == [0, 1, 0]


@pytest.mark.parametrize("cached", [True, False])
def test_a_common_beginning_is_read_once(cached):
    """Two prompts of 9 with 8 tokens in common, blocks of 4: the second reads one token."""
    spec = ReplicaSpec(block_size=4, target_us=(10, 1, 2), prefix_cache=cached)
    texts = (Text("a", "g", 8), Text("b", "g", 8))
    workload = Workload(arrivals="trace", trace=((0, 9, 1), (50_000, 9, 1)), texts=texts)
    run = serve(Deployment(algorithm="nonsi", replica=spec), workload)
    assert list(run.done_ns - run.arrival_ns) == [19_000, 11_000 if cached else 19_000]


def test_the_drafter_attends_to_all_that_it_has_not_read(monkeypatch):
    """``n`` tokens after ``c`` attend to ``n (c + n / 2)``, as those of the target."""
    batches = []

    def spied(*_):
        def cost(batch):
            batches.append(batch)
            return 1_000

        return (lambda batch: 5_000 if batch.tokens else 1), cost

    monkeypatch.setattr(setup, "costs_of", spied)
    workload = Workload(arrivals="trace", trace=((0, 9, 6),), texts=(Text("", "", 0, "011111"),))
    deployment = Deployment(algorithm="si", lookahead=2, replica=ReplicaSpec())
    serve(deployment, workload)
    assert {batch.decode_tokens for batch in batches} == {1, 2}
    for batch in batches:
        n, c = batch.decode_tokens, batch.context_tokens
        assert batch.attended_tokens == n * (c + n / 2)


def test_goodput_drafts_less_the_larger_the_batch():
    """A token of the target is dear: at batch 1 drafts are nearly free, at 64 they are not."""
    deployment = Deployment(algorithm="si", lookahead=5)
    spec = ReplicaSpec(target_us=(6000, 25, 200), drafter_us=(100, 1), draft_policy="goodput")
    _, drafter = costs_of(deployment, spec, 0)
    drafting = drafting_of(deployment, spec, drafter)
    chosen = [drafting.tokens(requests) for requests in (1, 8, 64, 512)]
    assert chosen == sorted(chosen, reverse=True)
    assert (chosen[0], chosen[-1]) == (5, 0)
    for _ in range(5000):
        drafting.judged(0, 5)  # nothing stands any more
    assert drafting.tokens(1) == 0


def test_looked_up_drafts_cost_what_they_are_told_to():
    spec = ReplicaSpec(target_us=(10, 1, 2), ngram_us=20.0)
    workload = Workload(arrivals="trace", trace=((0, 1, 4),), texts=(Text("", "", 0, "0000"),))
    run = serve(Deployment(algorithm="si", lookahead=3, replica=spec), workload, keep_settled=True)
    # 11 and 2 drafts; 10 + 3 · 2 and 1 draft; 10 + 2 · 2; 10 + 2.
    assert run.settled_ns == [[51_000, 87_000, 101_000, 113_000]]
