"""``--precision``: runs until an interval is narrow enough, or a word that it is not."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.study.loader import loads
from dsim.study.precision import MAX_RUNS, reached, runs_for
from dsim.study.requests import _tasks, run_cases, table
from tests.study.test_executors import Kept

STUDY = """
algorithms = ["nonsi"]
tokens = 1
repeats = 1
target.latency_ms = 10
target.latency_model = "gamma"
target.latency_cv = 1.0
cluster.targets = 1
workload.requests = 300
[grid]
workload.rate_per_s = [10.0, 50.0]
"""


@pytest.mark.parametrize("what", ["latency_mean_ms", "latency_p90_ms", "in_system"])
def test_runs_go_on_until_the_interval_is_narrow(what):
    """And no longer than that: a quarter of them would not have done."""
    text = STUDY.replace(
        "[grid]", f'workload.precision = 0.1\nworkload.precision_of = "{what}"\n[grid]'
    )
    frame = table(run_cases(loads(text)))
    half = f"{what[:-3]}_ci95_ms" if what.endswith("_ms") else f"{what}_ci95"
    assert (frame[half] <= 0.1 * frame[what]).all()
    assert frame["repeats"].is_monotonic_increasing  # the busier, the more
    assert frame["repeats"].max() > 1
    short = text.replace("repeats = 1", f"repeats = {frame['repeats'].max() // 4}")
    short = short.replace("workload.precision = 0.1", "")
    row = table(run_cases(loads(short))).iloc[-1]
    assert not row[half] <= 0.1 * row[what]


def test_an_interrupted_run_goes_on_where_it_was():
    study = loads(STUDY.replace("[grid]", "workload.precision = 0.2\n[grid]"))
    store = Kept({})
    whole = run_cases(study, store=store)
    runs = sum(one.case.replications for one in whole)
    assert runs > len(_tasks(list(study.cases())))
    assert sorted(store.put_in) == list(range(runs))
    half = Kept({n: part for n, part in store.known.items() if n % 2})
    again = run_cases(study, store=half)
    assert sorted(half.put_in) == [n for n in range(runs) if not n % 2]
    pd.testing.assert_frame_equal(table(again), table(whole))


def test_the_command_says_how_precise_it_is(tmp_path):
    (tmp_path / "study.toml").write_text(STUDY)

    def dsim(*more):
        words = ["run", str(tmp_path / "study.toml"), *more]
        return CliRunner().invoke(main, words)

    result = dsim("--precision", "0.2", "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "latency_mean_ms is known to ± 20.0% in 2 cases." in result.output.replace("\n", " ")
    rows = json.loads(dsim("--precision", "0.2", "--json").output)["cases"]
    assert all(row["latency_mean_ci95_ms"] < 0.2 * row["latency_mean_ms"] for row in rows)
    assert dsim("--precision", "1.5").exit_code == 2
    assert dsim("--set", 'workload.precision_of="lost"').exit_code == 2
    single = CliRunner().invoke(main, ["run", "heatmap", "--precision", "0.1"])
    assert single.exit_code == 2
    assert "--precision: this is a study of single requests" in single.output


def test_what_cannot_be_reached_is_said():
    """Runs that are too short for any interval: more of them do not help for ever."""
    (one,) = run_cases(loads(STUDY.replace("= 300", "= 20").replace("10.0, 50.0", "90.0")))
    assert math.isnan(one.metrics.latency["mean"].ci95)
    assert runs_for(one.metrics, "latency_mean_ms", 0.1, 1) == 4
    assert runs_for(one.metrics, "latency_mean_ms", 0.1, MAX_RUNS) == MAX_RUNS
    assert runs_for(one.metrics, "latency_mean_ms", 0.1, 2 * MAX_RUNS) == 2 * MAX_RUNS
    (line,) = reached([("x", one.metrics, MAX_RUNS)], "latency_mean_ms", 0.1)
    assert "has no interval after 200 runs: each run takes more requests" in line
