"""Lookahead that adapts: what each policy does, and that it never sees the future."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.deployment.offered_load import offered_load
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, FleetSpec
from dsim.deployment.workload import Length, Workload
from dsim.engines.simulate import engine_for, run_events, simulate_case
from dsim.engines.vector import Timing
from dsim.errors import UserError
from dsim.model import POLICIES
from dsim.model.acceptance import Uniforms
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy, confidences, quality_of
from dsim.study import loader as study
from tests.strategies import case_of, draws, policies, timings

ADAPTIVE = POLICIES[1:]
WORKED = Timing(drafter_ns=3, target_ns=10)


def with_policy(timing, accepts, policy):
    return dataclasses.replace(case_of(timing, accepts), policy=policy)


def bits(text):
    return np.array([[c == "1" for c in text]])


@pytest.mark.parametrize(
    ("policy", "lookahead", "accepts", "rounds", "si_ns"),
    [
        # 1 draft and a pass (13), all accepted: k = 3; then 3 drafts and a pass (19).
        (Policy(name="heuristic"), 1, "111111", [1, 3], 32),
        (Policy(name="heuristic", most=2), 1, "111111", [1, 2, 0], 39),
        # k = 3, 2, 1, 1, 1, and the last token needs no draft.
        (Policy(name="heuristic"), 3, "000000", [3, 2, 1, 1, 1, 0], 84),
        # 3, half of it, …
        (Policy(name="aimd"), 3, "000000", [3, 1, 1, 1, 1, 0], 81),
        # 1 and 1 settle 2 each, all accepted: k = 2, 3 (but one draft is all there is room for).
        (Policy(name="aimd"), 1, "111111", [1, 2, 0], 39),
        (Policy(name="aimd", most=1), 1, "111111", [1, 1, 1], 39),
        # It knows: a block ends with the first draft that is wrong.
        (Policy(name="confidence", quality=1, threshold=0.5), 5, "110111", [3, 2], 35),
        (Policy(name="confidence", quality=1, threshold=0.5), 5, "000000", [1, 1, 1, 1, 1, 0], 75),
    ],
)
def test_si_by_hand(policy, lookahead, accepts, rounds, si_ns):
    """The drafts of each round, and when the last token settles (t1 = 3, t2 = 10)."""
    timing = dataclasses.replace(WORKED, lookahead=lookahead)
    case = with_policy(timing, bits(accepts), policy)
    run = run_events(case, "si", 0, keep_history=True)
    assert [f.end - f.first for f in run.target.history] == rounds
    assert run.output.settled_ns[-1] == si_ns


@pytest.mark.parametrize(
    ("policy", "lookahead", "accepts", "passes"),
    [
        # Drafts end at 3, 6, 9, …. The pass at 0 covers nothing and, at 10, finds the draft of
        # position 0 right: k = 3, so that the block after that of 12 ends at 21. By then verdicts
        # at 13, 16 and 19 have made it 9. At 31 no pass is in flight (rule 2d), and at 33 the
        # drafter is at its end.
        (
            Policy(name="heuristic"),
            1,
            "111111111111",
            [(0, 0), (3, 1), (6, 2), (9, 3), (12, 4), (21, 7), (31, 10), (33, 11)],
        ),
        # Unsure of the draft of position 1 (which ends at 6), it sends a pass over it at once: its
        # rejection is known at 16.
        (
            Policy(name="confidence", quality=1, threshold=0.5),
            5,
            "101111",
            [(0, 0), (6, 2), (15, 5), (16, 2), (25, 5)],
        ),
    ],
)
def test_dsi_by_hand(policy, lookahead, accepts, passes):
    """When each pass begins, and over how many tokens."""
    timing = dataclasses.replace(WORKED, lookahead=lookahead, targets=9)
    run = run_events(with_policy(timing, bits(accepts), policy), "dsi", 0, keep_history=True)
    assert [(f.start_ns, f.end) for f in run.target.history] == passes


@given(timings(), draws(), policies(ADAPTIVE))
def test_dsi_is_never_slower_than_nonsi(timing, accepts, policy):
    """Rule 2d does that, whatever the lookahead is."""
    timing = dataclasses.replace(
        timing,
        drafter_ns=min(timing.drafter_ns, timing.target_ns),
        drafter_first_ns=None,
        target_first_ns=None,
    )
    case = with_policy(timing, accepts, policy)
    dsi, nonsi = simulate_case(case, "dsi"), simulate_case(case, "nonsi")
    assert (dsi.settled_ns <= nonsi.settled_ns).all()
    assert (np.diff(dsi.settled_ns, axis=1) >= 0).all()


@given(timings(), draws(runs=1), policies(ADAPTIVE), st.data())
def test_policies_do_not_see_the_future(timing, accepts, policy, data):
    """Runs whose draws agree up to a position are one until that position is judged.

    For the confidence, which is about drafts, until it is drafted.
    """
    tokens = accepts.shape[1]
    agreed = data.draw(st.integers(0, tokens - 1))
    others = accepts.copy()
    others[:, agreed:] ^= True
    policy = dataclasses.replace(policy, quality=1.0)  # the signal is the draw, and nothing else
    for algorithm in ("si", "dsi"):
        runs = [
            run_events(with_policy(timing, a, policy), algorithm, 0, keep_history=True)
            for a in (accepts, others)
        ]
        if policy.name == "confidence":
            ends = [
                f.end_ns for r in runs for f in r.drafter.history if f.first >= agreed <= f.end_ns
            ]
        else:
            ends = [r.output.settled_ns[agreed] for r in runs]
        until = min(ends, default=None)

        def begun(run, until=until):
            return [
                (f.servers.role, f.start_ns, f.first, f.end)
                for servers in (run.drafter, run.target)
                for f in servers.history
                if until is None or f.start_ns < until
            ]

        assert begun(runs[0]) == begun(runs[1])


@given(timings(), draws(), st.integers(1, 8))
def test_policies_that_cannot_move_are_fixed(timing, accepts, lookahead):
    """Growth that is capped at 1, and confidence that is never below the threshold."""
    timing = dataclasses.replace(timing, lookahead=lookahead)
    still = [Policy(name="confidence", threshold=0.0)]
    if lookahead == 1:
        still += [Policy(name="aimd", most=1), Policy(name="heuristic", most=1)]
    for algorithm in ("si", "dsi"):
        fixed = simulate_case(case_of(timing, accepts), algorithm, "events")
        for policy in still:
            same = simulate_case(with_policy(timing, accepts, policy), algorithm, "events")
            for name in ("settled_ns", "target_passes", "drafts"):
                assert getattr(same, name).tolist() == getattr(fixed, name).tolist()


@pytest.mark.parametrize("rate", [0.3, 0.8])
@pytest.mark.parametrize("quality", [0.1, 0.5, 0.9])
def test_confidence_is_right_on_average(rate, quality):
    """Of the drafts with confidence c the part c is accepted; it explains what it is said to."""
    n = 200_000
    accepted = Uniforms(1, 0).next(n) < rate
    found = confidences(accepted, rate, quality, Uniforms(2, 0).next(n))
    assert ((found >= 0) & (found <= 1)).all()
    explained = found.var() / accepted.var()
    assert explained == pytest.approx(quality, rel=0.03)
    assert quality_of(found, accepted) == pytest.approx(quality, rel=0.03)
    for low in np.arange(0, 1, 0.1):
        some = (found >= low) & (found < low + 0.1)
        if some.sum() > 2000:
            spread = 5 * np.sqrt(0.25 / some.sum())
            assert accepted[some].mean() == pytest.approx(found[some].mean(), abs=spread)


def test_confidence_at_its_ends():
    accepted = np.array([True, False, True])
    u = np.array([0.1, 0.5, 0.9])
    assert confidences(accepted, 0.7, 0.0, u).tolist() == [0.7] * 3
    assert confidences(accepted, 0.7, 1.0, u).tolist() == [1.0, 0.0, 1.0]
    assert confidences(accepted, 1.0, 0.5, u).tolist() == [1.0] * 3
    assert quality_of(u, accepted[:1].repeat(3)) == quality_of(np.full(3, 0.7), accepted) == 0
    assert quality_of(1.0 - accepted, accepted) == pytest.approx(1)


def test_the_vector_engine_leaves_adaptive_cases_to_the_events():
    case = with_policy(WORKED, bits("1101"), Policy(name="aimd"))
    assert engine_for(case) == "events"
    with pytest.raises(ValueError, match="fixed lookahead"):
        simulate_case(case, "si", "vector")
    with pytest.raises(UserError, match='lookahead only, but lookahead_policy is "aimd"'):
        study.loads('engine = "vector"\nlookahead_policy = "aimd"')
    with pytest.raises(UserError, match='did you mean "lookahead_policy"'):
        study.loads('lookahed_policy = "aimd"')


def test_enough_targets_are_enough_for_the_smallest_lookahead():
    plain = {"target.latency_ms": 10.0, "drafter.latency_ms": 1.0, "targets": "enough"}
    assert study.make_case(plain).targets == 3
    assert study.make_case({**plain, "lookahead_policy": "aimd"}).targets == 11


@pytest.mark.parametrize("name", POLICIES)
def test_the_offered_load_of_si_counts_the_rounds_that_are_made(name):
    d = Deployment(
        algorithm="si",
        policy=Policy(name=name),
        target=Latency(latency_ns=1000),
        targets=FleetSpec(servers=3),
    )
    workload = Workload(requests=40, rate_per_s=1000, output=Length(mean_tokens=30))
    run = serve(d, workload)
    offered = offered_load(d, workload)
    assert offered.target == pytest.approx(run.passes.mean() * 1000 * 1000 / 1e9 / 3)
    assert offered.drafter == pytest.approx(run.drafts.mean() * 100_000 * 1000 / 1e9)


def test_a_grid_of_policies():
    text = """
    tokens = 40
    repeats = 3
    [grid]
    lookahead_policy = ["fixed", "heuristic", "aimd", "confidence"]
    """
    from dsim.study.grid import run_grid

    table = run_grid(study.loads(text)).table.to_pandas()
    engines = table.groupby("lookahead_policy", observed=True)["engine"].unique()
    assert engines["fixed"].tolist() == ["vector"]
    assert all(engines[name].tolist() == ["events"] for name in ADAPTIVE)
    si = table[table["algorithm"] == "si"].set_index("lookahead_policy")["drafts"]
    assert si.nunique() == 4


@pytest.mark.parametrize("name", ["heuristic", "aimd"])
def test_a_verdict_on_no_draft_tells_nothing(name):
    plan = Policy(name=name).plan(4)
    plan.judged(0, 0)
    assert plan.tokens == 4
    plan.judged(2, 2)
    assert plan.tokens > 4


def test_a_start_above_the_bound_stays_until_a_rejection():
    plan = Policy(name="aimd", most=3).plan(8)
    plan.judged(8, 8)
    assert plan.tokens == 8
    plan.judged(0, 1)
    assert plan.tokens == 4
