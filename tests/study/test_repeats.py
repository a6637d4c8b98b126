"""Many repeats of a case, and variants that have their own number of them."""

from __future__ import annotations

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
