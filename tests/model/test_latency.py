"""What forwards cost by width: never absurd, whatever the table says."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.engines.simulate import run_events, simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import MAX_BEYOND, Latency, never_falling
from dsim.orchestrations import ORCHESTRATIONS, REFERENCES
from dsim.study.build import case_of
from dsim.study.grid import run_grid
from dsim.study.loader import loads
from dsim.tasks import simulate as simulating
from dsim.tasks.run import run_study
from dsim.tasks.validate.bench import Forwarded
from dsim.tasks.validate.calibration import at_pace, fit

MS = 1_000_000
FAR = 200
FALLING = "[[1, 20], [2, 21], [3, 20]]"
numbers = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def table_of(rows, weights=()) -> Latency:
    return Latency(model="table", table=tuple(rows), weights=tuple(weights))


@st.composite
def tables(draw):
    """Any table, its rows in any order, some widths twice."""
    rows = draw(
        st.lists(st.tuples(st.integers(1, 24), st.integers(1, 10**6)), min_size=1, max_size=8)
    )
    return table_of(rows, draw(st.just(()) | st.tuples(*[st.integers(1, 99)] * len(rows))))


def noisy(rng) -> list[list[Forwarded]]:
    """Runs whose forwards cost what widths cost, but for a pace, noise, and now and then a lot."""
    base, slope = rng.uniform(1, 20), rng.choice([0.0, rng.uniform(0, 2)])
    widest = int(rng.integers(1, 14))
    runs = []
    for _ in range(rng.integers(1, 6)):
        widths = 1 + rng.integers(0, widest, rng.integers(1, 40))
        took = (base + slope * widths) * rng.uniform(0.5, 2) * rng.lognormal(0, 0.3, len(widths))
        took *= np.where(rng.random(len(widths)) < 0.05, rng.uniform(2, 30), 1.0)
        runs.append(
            [Forwarded("target", int(w), int(ns * MS)) for w, ns in zip(widths, took, strict=True)]
        )
    return runs


def test_a_table_that_never_falls_is_taken_as_it_is() -> None:
    cost = table_of([(1, 100), (5, 120), (9, 10**15 + 1)])
    assert {w: cost.at_width(w) for w in (0, 1, 2, 5, 9)} == {
        0: 100, 1: 100, 2: 105, 5: 120, 9: 10**15 + 1
    }  # fmt: skip


@given(values=numbers, weights=st.data())
def test_never_falling_is_the_nearest_that_never_falls(values, weights) -> None:
    weights = weights.draw(st.tuples(*[st.integers(1, 9)] * len(values)))
    found = never_falling(values, weights)
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(found))
    if values == sorted(values):
        assert found == values
    # What it pools keeps its weighted mean, and each block's later part is not above its mean:
    # the conditions of optimality of isotonic regression.
    assert np.average(found, weights=weights) == pytest.approx(np.average(values, weights=weights))
    for _, block in itertools.groupby(range(len(values)), key=lambda i: round(found[i], 6)):
        at = list(block)
        for cut in range(len(at)):
            tail = at[cut:]
            mean = np.average([values[i] for i in tail], weights=[weights[i] for i in tail])
            assert mean <= found[at[0]] + 1e-6


@given(cost=tables())
def test_a_cost_never_falls_with_the_width_and_stays_near_the_table(cost) -> None:
    along = [cost.at_width(w) for w in range(FAR)]
    assert along == sorted(along)
    low, high = min(ns for _, ns in cost.table), max(ns for _, ns in cost.table)
    widest = max(w for w, _ in cost.table)
    assert all(low <= ns <= high for ns in along[: widest + 1])
    # Beyond: at least the last, at most in proportion to the width.
    last = along[widest]
    assert all(last <= ns <= last * w / widest + 1 for w, ns in enumerate(along) if w > widest)


@given(cost=tables(), data=st.data(), more=st.integers(0, 10**5), times=st.integers(2, 5))
def test_a_cost_rises_with_what_was_measured(cost, data, more, times) -> None:
    row = data.draw(st.integers(0, len(cost.table) - 1))
    raised = [(w, ns + more * (i == row)) for i, (w, ns) in enumerate(cost.table)]
    other = table_of(raised, cost.weights)
    widest = max(w for w, _ in cost.table)
    assert all(cost.at_width(w) <= other.at_width(w) for w in range(widest + 1))
    slower = table_of([(w, ns * times) for w, ns in cost.table], cost.weights)
    for w in range(FAR):
        assert slower.at_width(w) == pytest.approx(cost.at_width(w) * times, abs=times * w + 2)


@given(cost=tables())
def test_rows_seen_twice_count_twice(cost) -> None:
    twice = table_of(cost.table * 2, cost.weights * 2)
    weights = cost.weights or (1,) * len(cost.table)
    heavy = table_of(cost.table, [2 * weight for weight in weights])
    for w in range(FAR):
        assert twice.at_width(w) == heavy.at_width(w) == pytest.approx(cost.at_width(w), abs=1)


def test_two_noisy_rows_at_the_end_do_not_run_away() -> None:
    for last in ((11, 7.3), (12, 4.3)), ((11, 4.3), (12, 7.3)):
        rows = [(w, 5.0 + 0.05 * w) for w in range(1, 11)] + list(last)
        cost = table_of([(w, round(ms * MS)) for w, ms in rows])
        for w in (13, 30, 60):
            assert 4.5 * MS < cost.at_width(w) < (7.5 + 0.3 * (w - 12)) * MS


def test_a_study_with_a_table_that_falls_takes_as_long_as_its_passes() -> None:
    text = f"""
    tokens = 100
    lookahead = 30
    repeats = 20
    acceptance.rate = 0.95
    target.latency_model = "table"
    target.latency_by_width_ms = {FALLING}
    drafter.latency_ms = 1
    """
    study = loads(text)
    case = case_of(study.of_variant(0))
    assert case.target.latency_ns == 20 * MS
    # 20, 20.5 and 20.5: by isotonic regression; beyond, a quarter of a millisecond a token.
    assert [case.target.at_width(w) / MS for w in (1, 2, 3, 7)] == [20, 20.5, 20.5, 21.5]
    outcome = simulate_case(case, "si")
    least_ns = outcome.target_passes * 20 * MS + outcome.drafts * MS
    assert (outcome.latency_ns >= least_ns).all()
    assert (outcome.latency_ns <= 1.5 * least_ns).all()


def test_the_smallest_case_that_ran_away() -> None:
    took = [(1, 5)] * 4 + [(2, 4)] * 4 + [(6, 8)]
    cost, (pace,) = fit([[Forwarded("target", w, ms * MS) for w, ms in took]])
    assert pace == 1
    assert 4 * MS <= cost.at_width(1) <= cost.at_width(6) <= 8 * MS
    assert np.median(cost.spread) == 1


def test_what_noisy_forwards_teach_is_never_absurd() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        runs = noisy(rng)
        cost, paces = fit(runs)
        along = [cost.at_width(w) for w in range(1, FAR)]
        took = [f.took_ns for run in runs for f in run]
        assert along == sorted(along)
        assert np.median(paces) == pytest.approx(1)
        assert np.median(cost.spread) == pytest.approx(1)
        assert along[0] >= 0.2 * min(took)
        # The forwards of each run, at their costs, add up to what they took.
        total = np.mean(cost.spread)
        for run, pace in zip(runs, paces, strict=True):
            own = at_pace(cost, pace)
            said = sum(own.at_width(f.width) for f in run) * total
            assert 1 / 3 < said / sum(f.took_ns for f in run) < 3


WIDE = """
tokens = 40
lookahead = 9
repeats = 3
acceptance.rate = 0.99
target.latency_model = "table"
target.latency_by_width_ms = [[1, 20], [4, 22]]
"""


def test_forwards_beyond_the_table_are_told(tmp_path) -> None:
    study = loads(WIDE)
    case = case_of(study.of_variant(0))
    drafting = next(name for name, o in ORCHESTRATIONS.items() if o.traits.drafts)
    run = run_events(case, drafting, 0, keep_history=True)
    widths = [f.end - f.first + 1 for f in run.target.history]
    assert run.beyond_share == sum(w > 4 for w in widths) / len(widths) > MAX_BEYOND
    text = simulating.as_text(case, [simulate_case(case, drafting)])
    assert "were wider than its latency table" in text
    finished = run_study(study, tmp_path / "wide")
    assert sum("were wider than its latency table" in line for line in finished.lines) == 1
    table = run_grid(study).table.to_pandas()
    assert table["beyond_table_share"].max() > MAX_BEYOND
    assert table.loc[table["algorithm"] == REFERENCES[0], "beyond_table_share"].max() == 0

    # A pass of those that take turns is no wider than the lookahead and one token more.
    narrow = loads(WIDE, overrides=["lookahead=3", f"algorithms={json.dumps(REFERENCES)}"])
    assert run_grid(narrow).table["beyond_table_share"].to_pylist() == [0] * len(REFERENCES)
    case = case_of(narrow.of_variant(0))
    assert "wider than" not in simulating.as_text(case, [simulate_case(case, drafting)])
    assert "beyond_table_share" not in run_grid(loads("tokens = 4\nrepeats = 2")).table.column_names


def test_batches_beyond_the_table_are_told(tmp_path) -> None:
    text = WIDE.replace("lookahead = 9", "lookahead = 2") + "cluster.target_batch = 8\n"
    text += "[workload]\nrequests = 40\nrate_per_s = 6\n"
    finished = run_study(loads(text), tmp_path / "load")
    assert sum("were wider than its latency table" in line for line in finished.lines) == 1


def test_a_table_that_falls_is_told(tmp_path) -> None:
    text = WIDE.replace("[[1, 20], [4, 22]]", FALLING).replace("lookahead = 9", "lookahead = 2")
    finished = run_study(loads(text), tmp_path / "falls")
    said = "target.latency_by_width_ms falls where forwards get wider, which is noise: it is taken "
    assert said + "as 20, 20.5, 20.5 ms." in finished.lines


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), tokens=st.integers(2, 25), k=st.integers(1, 12))
def test_no_run_is_shorter_than_what_cannot_overlap(seed, tokens, k) -> None:
    rng = np.random.default_rng(seed)
    costs = {
        role: table_of(
            [(w, int(ns)) for w, ns in enumerate(rng.lognormal(np.log(base), 0.4, 6), 1)]
        )
        for role, base in (("target", 20 * MS), ("drafter", 4 * MS))
    }
    case = Case(
        tokens=tokens,
        lookahead=k,
        targets=2,
        target=costs["target"],
        drafter=costs["drafter"],
        acceptance=Acceptance(rate=0.8),
        repeats=1,
        seed=seed,
        preemptible=False,
    )
    fastest = min(ns for _, ns in costs["target"].table)
    draft = min(ns for _, ns in costs["drafter"].table)
    for name, orchestration in ORCHESTRATIONS.items():
        run = run_events(case, name, 0, keep_history=True)
        took_ns = run.output.settled_ns[-1]
        if not orchestration.traits.overlaps:
            least = run.target.begun * fastest + run.drafter.begun * draft
            assert took_ns >= least
            slower = {
                role: table_of([(w, 3 * ns) for w, ns in cost.table])
                for role, cost in costs.items()
            }
            again = run_events(Case(**vars(case) | slower), name, 0)
            assert again.output.settled_ns[-1] == pytest.approx(3 * took_ns, rel=1e-5)
        else:
            assert took_ns >= fastest * (1 + len(run.output.rejections))
        everything = [f for s in (run.target, run.drafter, *run.more_drafters) for f in s.history]
        assert took_ns <= sum(
            max(f.end_ns, took_ns if f.end_ns < 0 else 0) - f.start_ns for f in everything
        )
