"""Many repeats of a case, and variants that have their own number of them."""

from __future__ import annotations

import math

import pytest

from dsim.study.grid import run_grid
from dsim.study.loader import loads
from tests.study.test_executors import Kept

MANY_REPEATS = """
tokens = 12
repeats = 7
[target]
latency_model = "gamma"
latency_cv = 0.4
[grid]
lookahead = [1, 4]
targets = [1, 3]
[[variants]]
name = "many"
[[variants]]
name = "few"
repeats = 2
"""


def test_a_case_of_many_repeats_is_cut_into_tasks(monkeypatch):
    """So that all cores work on it, and an interruption loses little; the table is the same."""
    study = loads(MANY_REPEATS)
    whole = run_grid(study).table
    monkeypatch.setattr("dsim.study.grid.TASK_TOKENS", 2 * 12)
    store, steps = Kept({}), []
    assert run_grid(study, store=store, progress=steps.append).table.equals(whole)
    assert len(store.put_in) == 4 * 4 + 4  # 2, 2, 2 and 1 repeats of each case; "few" whole
    assert sum(steps) == pytest.approx(8)
    others = {number: runs for number, runs in store.known.items() if number % 2}  # come first
    assert run_grid(study, store=Kept(others)).table.equals(whole)


def test_a_variant_has_the_interval_of_its_own_repeats():
    table = run_grid(loads(MANY_REPEATS)).table.to_pandas().set_index("variant")
    few = run_grid(loads(MANY_REPEATS, overrides=["repeats=2"])).table.to_pandas()
    few = few.set_index("variant")
    for column in ("repeats", "latency_mean_ms", "latency_mean_ci95_ms"):
        assert table.loc["few", column].tolist() == few.loc["few", column].tolist()
    assert (
        table.loc["many", "latency_mean_ms"].tolist() != few.loc["many", "latency_mean_ms"].tolist()
    )


TEXTS = """
algorithms = ["si"]
tokens = 8
target.latency_ms = 20
drafter.latency_ms = 2
acceptance = {model = "trace", trace = ["11011011", "00110001", "11111111"]}
"""


def test_texts_that_are_replayed_again_tell_nothing_new():
    """Two recorded texts and 200 repeats had an interval a hundredth as wide as those texts'."""

    def half(repeats):
        (row,) = run_grid(loads(TEXTS, overrides=[f"repeats={repeats}"])).table.to_pylist()
        return row["latency_mean_ci95_ms"]

    three = half(3)
    assert three > 1
    for repeats in (6, 99, 300):
        assert half(repeats) == pytest.approx(three)
    assert half(200) == pytest.approx(three, rel=0.02)
    assert half(2) > three  # of fewer texts
    one = TEXTS.replace('"00110001", "11111111"', "")
    (row,) = run_grid(loads(one, overrides=["repeats=9"])).table.to_pylist()
    assert math.isnan(row["latency_mean_ci95_ms"])
