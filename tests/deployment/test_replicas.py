"""Several replicas: routers, failures, replicas for prompts alone, and autoscaling."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.deployment import perfetto
from dsim.deployment.metrics import measure
from dsim.deployment.offered_load import offered_load
from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.deployment.replay import Text
from dsim.deployment.replica.blocks import CachedBlocks
from dsim.deployment.replica.spec import ROUTERS, ReplicaSpec
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from tests.deployment.replicas import algorithms, replayed, specs


@st.composite
def pools(draw):
    """Several replicas, perhaps some for prompts alone, perhaps as many as are needed."""
    count, split = draw(st.integers(1, 3)), draw(st.sampled_from([0, 0, 1, 2]))
    most, readers = (
        n + draw(st.integers(0, 2)) if n and draw(st.booleans()) else 0 for n in (count, split)
    )
    return dataclasses.replace(
        draw(specs()),
        count=count,
        prefill_count=split,
        max_count=most,
        prefill_max_count=readers,
        router=draw(st.sampled_from(ROUTERS)),
        link_us=draw(st.sampled_from([0.0, 3.0])),
        kv_token_bytes=draw(st.sampled_from([0.0, 1000.0])),
        link_gb_s=1.0,
        scale_queue=0.5,
        startup_s=draw(st.sampled_from([0.0, 2e-5])),
    )


@st.composite
def failing(draw, most):
    """Outages that end, some at random."""
    times = st.tuples(st.integers(0, most - 1), st.integers(0, 90_000), st.integers(1, 40_000))
    plan = tuple((n, at, at + lasts) for n, at, lasts in draw(st.lists(times, max_size=4)))
    mtbf_ns = draw(st.sampled_from([0, 0, 0, 400_000]))
    return Faults(plan=plan, mtbf_ns=mtbf_ns, mttr_ns=20_000)


@settings(max_examples=120)
@given(pools(), replayed(), algorithms, st.data())
def test_the_laws_hold_in_every_run(spec, workload, algorithm, data):
    faults = data.draw(failing(spec.most))
    deployment = Deployment(algorithm=algorithm, lookahead=3, replica=spec, faults=faults)
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    for number, (_, prompt, output) in enumerate(workload.trace):
        refused = spec.refuses(prompt, output)
        assert run.fate[number] == (TURNED_AWAY if refused else DONE)
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


def test_prompts_are_read_elsewhere():
    """A prompt of 10 (20 µs), its KV cache (10 µs and 5 of latency), then two tokens (12 each)."""
    spec = ReplicaSpec(
        prefill_count=1,
        target_us=(10, 1, 2),
        link_us=5.0,
        kv_token_bytes=1000.0,
        link_gb_s=1.0,
    )
    workload = Workload(arrivals="trace", trace=((0, 10, 3), (0, 10, 1)))
    run = serve(Deployment(algorithm="nonsi", replica=spec), workload, keep_settled=True)
    assert run.settled_ns == [[30_000, 57_000, 69_000], [30_000]]
    assert [replica.steps for replica in run.replicas] == [1, 2]


def test_what_a_failure_interrupts_is_done_elsewhere():
    """The first of two replicas fails in its second step: what had settled by then stays so."""
    spec = ReplicaSpec(count=2, target_us=(10, 1, 2))
    workload = Workload(arrivals="trace", trace=((0, 5, 3),))
    faults = Faults(plan=((0, 20_000, 25_000),))
    run = serve(
        Deployment(algorithm="nonsi", replica=spec, faults=faults), workload, keep_settled=True
    )
    # 15 µs, and 5 that are lost; at 20 the other replica reads prompt and first token again (16).
    assert run.settled_ns == [[15_000, 36_000, 48_000]]
    assert [replica.busy_ns for replica in run.replicas] == [20_000, 28_000]
    lost = serve(
        Deployment(
            algorithm="nonsi", replica=spec, faults=dataclasses.replace(faults, retry=False)
        ),
        workload,
    )
    assert list(lost.fate) == [LOST]
    gone = Faults(plan=((0, 20_000, -1), (1, 0, -1)))
    run = serve(Deployment(algorithm="nonsi", replica=spec, faults=gone), workload)
    assert list(run.fate) == [LOST]


def test_replicas_are_started_while_requests_queue_and_stopped_when_idle():
    spec = ReplicaSpec(
        max_count=3, max_seqs=1, scale_queue=1.0, startup_s=1e-4, target_us=(10, 1, 2)
    )
    rush = tuple((at, 1, 10) for at in range(0, 400_000, 20_000))
    workload = Workload(arrivals="trace", trace=(*rush, (5_000_000, 1, 10)))
    deployment = Deployment(
        algorithm="nonsi",
        replica=dataclasses.replace(spec, router="least-requests"),
        targets=FleetSpec(servers=3, gpus=2.0),
        drafters=FleetSpec(servers=3, gpus=0.0),
    )
    run = serve(deployment, workload, keep_log=True)
    begun = [replica.log[0].start_ns for replica in run.replicas]
    assert begun[0] == 0
    assert 100_000 <= begun[1] < begun[2]  # each takes 0.1 ms to start
    assert sum(replica.log[-1].end_ns > 5_000_000 for replica in run.replicas) == 1
    (target, _) = run.tallies
    # All three for the rush of about 1 ms; then one.
    assert run.end_ns + 1_000_000 < target.reserved_ns < run.end_ns + 3_000_000
    metrics = measure(deployment, [run])
    tokens = int(run.output_tokens.sum())
    assert abs(metrics.gpu_seconds_per_token - 2 * target.reserved_ns / 1e9 / tokens) < 1e-15
    alone = serve(
        dataclasses.replace(deployment, replica=ReplicaSpec(max_seqs=1, target_us=(10, 1, 2))),
        workload,
    )
    assert run.done_ns.mean() < alone.done_ns.mean()


def test_replicas_for_prompts_are_started_by_their_own_queue():
    """Prompts of 100 tokens take 110 µs and come every 20; answers of 2 tokens, 12 µs."""
    spec = ReplicaSpec(
        prefill_count=1,
        prefill_max_count=3,
        scale_queue=2.0,
        startup_s=1e-4,
        max_seqs=1,
        router="least-requests",
        target_us=(10, 1, 2),
    )
    rush = tuple((at, 100, 2) for at in range(0, 2_000_000, 20_000))
    workload = Workload(arrivals="trace", trace=rush)
    run = serve(Deployment(algorithm="nonsi", replica=spec), workload)
    assert len(run.replicas) == 4
    assert all(replica.steps for replica in run.replicas)
    fixed = dataclasses.replace(spec, prefill_max_count=0)
    alone = serve(Deployment(algorithm="nonsi", replica=fixed), workload)
    assert run.end_ns < 0.5 * alone.end_ns
    # One reads and one decodes all the time; two more read from about 0.2 ms on.
    assert 3 * run.end_ns < run.tallies[0].reserved_ns < 4 * run.end_ns


def test_another_replica_takes_the_place_of_one_that_failed():
    """It fails at 20 µs for good. Another one takes 50 µs to start; then 16 and 12 as before."""
    spec = ReplicaSpec(max_count=2, startup_s=5e-5, target_us=(10, 1, 2))
    workload = Workload(arrivals="trace", trace=((0, 5, 3),))
    faults = Faults(plan=((0, 20_000, -1),))
    deployment = Deployment(algorithm="nonsi", replica=spec, faults=faults)
    run = serve(deployment, workload, keep_settled=True)
    assert run.settled_ns == [[15_000, 86_000, 98_000]]
    assert run.tallies[0].reserved_ns == 98_000 + 78_000  # one that has failed stays reserved
    # It is up again before the other has started, and so works on; the other is never used.
    back = dataclasses.replace(deployment, faults=Faults(plan=((0, 20_000, 30_000),)))
    run = serve(back, workload, keep_settled=True)
    assert run.settled_ns == [[15_000, 46_000, 58_000]]
    assert [replica.steps for replica in run.replicas] == [4, 0]


@settings(max_examples=40)
@given(specs(), st.integers(0, 3), algorithms, st.integers(0, 5))
def test_no_replica_does_more_than_its_offered_load_says(spec, readers, algorithm, seed):
    """A queue that never empties: requests end no faster than the load says."""
    spec = dataclasses.replace(
        spec, prefix_cache=False, kv_blocks=0, prefill_count=readers, max_batched_tokens=64
    )
    workload = Workload(requests=300, rate_per_s=1e6, prompt=Length(mean_tokens=9))
    workload = dataclasses.replace(workload, output=Length(mean_tokens=8))
    deployment = Deployment(algorithm=algorithm, lookahead=3, replica=spec, seed=seed)
    load = offered_load(deployment, workload)
    done_ns = np.sort(serve(deployment, workload).done_ns)
    per_s = 270e9 / (done_ns[284] - done_ns[14])
    assert 0 <= load.drafter < load.target
    assert per_s < 1.08 * load.most_per_s  # of other requests than those of the sample


def test_the_largest_batch_that_still_drafts_may_carry_the_most():
    """12 requests with 3 drafts each; from 13 on there are none, and less is done."""
    workload = Workload(requests=50, rate_per_s=1.0, prompt=Length(mean_tokens=1))
    workload = dataclasses.replace(workload, output=Length(mean_tokens=41))

    def most_per_s(**more):
        spec = ReplicaSpec(target_us=(1000, 0, 1), drafter_us=(1, 0), **more)
        return offered_load(
            Deployment(algorithm="si", replica=spec, acceptance=Acceptance(rate=1.0)), workload
        ).most_per_s

    most = most_per_s(max_seqs=24, drafts_by_batch=((1, 3), (13, 0)))
    assert most == most_per_s(max_seqs=12, drafts_by_batch=((1, 3),))
    assert most > 1.2 * most_per_s(max_seqs=8, drafts_by_batch=((1, 3),))
    assert most > 1.2 * most_per_s(max_seqs=24, drafts_by_batch=((1, 0),))


def test_time_outside_of_the_scheduler_counts():
    """5 µs and 10 tokens at 2 µs before the queue; 3 µs for each token that is out."""
    workload = Workload(arrivals="trace", trace=((1_000, 10, 2),))
    spec = ReplicaSpec(target_us=(10, 1, 2), api_us=(5.0, 2.0, 3.0))
    run = serve(Deployment(algorithm="nonsi", replica=spec), workload)
    assert run.first_token_ns[0] == 1_000 + 25_000 + 20_000 + 3_000
    assert run.done_ns[0] == 1_000 + 25_000 + 20_000 + 12_000 + 6_000
    assert run.end_ns == run.done_ns[0]


def test_a_replica_that_takes_one_request_is_a_queue():
    """M/D/1: one token a request, steps of a constant length, load 0.7 (Pollaczek-Khinchine)."""
    spec = ReplicaSpec(max_seqs=1, target_us=(1000, 0, 0))
    workload = Workload(requests=20_000, rate_per_s=700, prompt=Length(mean_tokens=1))
    workload = dataclasses.replace(workload, output=Length(mean_tokens=1))
    deployment = Deployment(algorithm="nonsi", replica=spec)
    run = serve(deployment, workload)
    load = offered_load(deployment, workload)
    assert abs(load.target - 0.7) < 1e-9
    assert abs(load.most_per_s - 1000) < 1e-6
    waits_ms = (run.start_ns - run.arrival_ns) / 1e6
    expected_ms = 0.7 / (2 * (1 - 0.7))
    assert abs(waits_ms.mean() / expected_ms - 1) < 0.06
    assert abs(run.tallies[0].busy_ns[0] / run.end_ns - 0.7) < 0.02
