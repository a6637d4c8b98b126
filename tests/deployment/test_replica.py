"""Replicas: the engine against a plain program of the rules, and the laws of every run."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.deployment import perfetto
from dsim.deployment.outcome import DONE
from dsim.deployment.replica.blocks import CachedBlocks
from dsim.deployment.replica.serve import costs_of, drafting_of
from dsim.deployment.replica.spec import ROUTERS, ReplicaSpec
from dsim.deployment.request_rows import Text
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment
from dsim.deployment.workload import Length, Workload
from dsim.engines.simulate import simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from tests.deployment import plain_replica

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


@settings(max_examples=250)
@given(specs(), replayed(), algorithms, st.integers(1, 4))
def test_the_engine_keeps_to_the_plain_program(spec, workload, algorithm, lookahead):
    deployment = Deployment(algorithm=algorithm, lookahead=lookahead, replica=spec)
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    texts, steps = plainly(deployment, workload)
    assert [text.settled for text in texts] == run.settled_ns
    assert [text.preemptions for text in texts] == list(run.preemptions)
    (replica,) = run.replicas
    assert [(step.start_ns, step.end_ns) for step in replica.log] == steps


@settings(max_examples=120)
@given(specs(), replayed(), algorithms, st.integers(1, 3), st.sampled_from(ROUTERS))
def test_the_laws_hold_in_every_run(spec, workload, algorithm, count, router):
    spec = dataclasses.replace(spec, count=count, router=router)
    deployment = Deployment(algorithm=algorithm, lookahead=3, replica=spec)
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    for number, (_, prompt, output) in enumerate(workload.trace):
        refused = spec.refuses(prompt, output)
        assert (run.fate[number] != DONE) == refused
        settled = run.settled_ns[number]
        assert settled == sorted(settled)  # in order
        assert len(settled) == (0 if refused else output)  # once; and nobody starves
        if not refused:
            assert (settled[0], settled[-1]) == (run.first_token_ns[number], run.done_ns[number])
            assert run.arrival_ns[number] <= run.start_ns[number] < settled[0]
    for replica in run.replicas:
        for step in replica.log:
            assert sum(tokens for _, tokens, _, _ in step.fed) <= spec.max_batched_tokens
            assert len(step.fed) <= spec.max_seqs
            assert step.start_ns < step.target_ns <= step.end_ns
        for one, other in itertools.pairwise(replica.log):
            assert one.end_ns <= other.start_ns
        assert replica.busy_ns == sum(step.end_ns - step.start_ns for step in replica.log)
        assert replica.outstanding == 0  # work is conserved: all of it was done
        assert not replica.running
        assert not replica.waiting
        if spec.kv_blocks:
            assert replica.blocks.free == spec.kv_blocks
        if isinstance(replica.blocks, CachedBlocks):
            assert not any(replica.blocks._users.values())
    # Little's law: requests in the system over time, and the time that each spends there.
    done = run.fate == DONE
    assert run.in_system_area_ns == int((run.done_ns - run.arrival_ns)[done].sum())


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

    def by_width(base, each):
        rows = ((w, 1000 * (base + each * w)) for w in range(1, 9))
        return Latency(model="table", table=tuple(rows))

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


def test_routers_choose():
    """Three requests at once on two replicas; then one whose beginning the second has cached."""
    spec = ReplicaSpec(block_size=4, count=2, target_us=(10, 1, 2))
    texts = (Text("a"), Text("b", "g", 8), Text("c"), Text("d", "g", 8))
    trace = ((0, 30, 1), (0, 9, 1), (0, 9, 1), (90_000, 9, 1))
    workload = Workload(arrivals="trace", trace=trace, texts=texts)

    def chosen(router):
        deployment = Deployment(algorithm="nonsi", replica=dataclasses.replace(spec, router=router))
        run = serve(deployment, workload, keep_log=True)
        return [[row[0] for s in replica.log for row in s.fed] for replica in run.replicas]

    assert chosen("round-robin") == [[0, 2], [1, 3]]
    assert chosen("least-requests") == [[0, 2, 3], [1]]
    assert chosen("least-tokens") == [[0, 3], [1, 2]]
    assert chosen("longest-prefix") == [[0, 2], [1, 3]]


def test_a_trace_has_a_track_for_each_replica():
    spec = ReplicaSpec(count=2, target_us=(10, 1, 2), drafter_us=(3, 1))
    workload = Workload(requests=9, rate_per_s=20_000, prompt=Length(mean_tokens=20))
    run = serve(Deployment(algorithm="si", replica=spec), workload, keep_log=True)
    events = json.loads(json.dumps(perfetto.trace([("", run)])))["traceEvents"]
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    for number, replica in enumerate(run.replicas, 1):
        own = [e for e in events if named.get((e["pid"], e["tid"])) == f"replica {number}"]
        steps = [e for e in own if e["name"].startswith("step of")]
        assert len(steps) == len(replica.log) == replica.steps
        assert round(sum(e["dur"] for e in steps)) == replica.busy_ns // 1000
        targets = [e for e in own if e["name"] == "target"]
        assert [e["ts"] for e in targets] == [e["ts"] for e in steps]
        counted = [e for e in own if e["ph"] == "C" and e["name"].startswith("tokens in a step")]
        assert [e["args"]["tokens in a step"] for e in counted] == [
            e["args"]["tokens"] for e in targets
        ]


def test_goodput_drafts_less_the_larger_the_batch():
    """A token of the target is dear: at batch 1 drafts are nearly free, at 64 they are not."""
    deployment = Deployment(algorithm="si", lookahead=5)
    spec = ReplicaSpec(target_us=(6000, 25, 200), drafter_us=(100, 1), draft_policy="goodput")
    costs = costs_of(deployment, spec, 0)
    drafting = drafting_of(deployment, spec, *costs)
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
