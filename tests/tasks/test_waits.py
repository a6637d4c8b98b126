"""Studies on the wall-clock backend."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study.columns import WALLCLOCK_COLUMNS
from dsim.study.folder import PartStore, RunInterrupted, unfinished_study
from dsim.study.grid import OUTCOMES, Store, empty_grid
from dsim.study.grid import run_grid as simulate
from dsim.study.loader import loads
from dsim.study.results import read_results
from dsim.tasks import waits as realtime
from dsim.tasks.run import run_study
from tests.pages import specifications

pytestmark = pytest.mark.wallclock

SMALL = """
backend = "wallclock"
tokens = 6
repeats = 2
minimise = ["lookahead", "targets"]
[target]
latency_ms = 2.0
[drafter]
latency_ms = 0.5
[grid]
lookahead = [1, 3]
targets = [1, 2]
[[variants]]
name = "good"
acceptance.rate = 0.9
published.speedup_vs_si = 1.5
[[variants]]
name = "poor"
acceptance.rate = 0.3
published.speedup_vs_si = 1.2
[[charts]]
kind = "published"
x = "variant"
y = "speedup_vs_si"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("real") / "out"
    waited = []
    run_study(loads(SMALL), out, progress=waited.append)
    # What the progress bar is told: the simulated seconds of every run.
    table = read_results(out / "results.parquet")
    once = table.drop_duplicates(["variant", "algorithm", "simulated_latency_mean_ms"])
    assert sum(waited) >= once["simulated_latency_mean_ms"].sum() / 1e3
    return out


def test_the_table_is_that_of_the_simulation_but_for_time(folder):
    real = read_results(folder / "results.parquet")
    ideal = simulate(loads(SMALL.replace("wallclock", "simulated"))).table.to_pandas()
    assert set(real["backend"]) == {"wallclock"}
    assert set(ideal["backend"]) == {"simulated"}
    assert [c for c in real.columns if c not in ideal] == [c.name for c in WALLCLOCK_COLUMNS]
    for column in ("variant", "algorithm", "tokens", "lookahead", "targets", "acceptance_rate"):
        assert real[column].tolist() == ideal[column].tolist()
    # The very draws were simulated beside the waits.
    assert real["simulated_latency_mean_ms"].tolist() == ideal["latency_mean_ms"].tolist()
    waits = real[real["algorithm"] != "dsi"]
    assert (waits["latency_mean_ms"] > waits["simulated_latency_mean_ms"]).all()
    assert (real["oversleep_worst_ms"] >= real["oversleep_mean_ms"]).all()
    # Passes and drafts are those of the draws, not of the clock.
    assert waits["drafts"].tolist() == ideal.loc[waits.index, "drafts"].tolist()
    assert waits["target_passes"].tolist() == ideal.loc[waits.index, "target_passes"].tolist()


DEEP = """
backend = "wallclock"
algorithms = ["si", "dsi", "tree"]
tokens = 12
repeats = 2
lookahead = 3
target.latency_ms = 2.0
drafter.latency_ms = 0.5
[[variants]]
name = "by depth"
acceptance.by_depth = [0.6, 0.1]
[[variants]]
name = "by position"
acceptance.per_position = [0.6, 0.06]
[[variants]]
name = "look-up"
acceptance.model = "lookup"
acceptance.copied_tokens = 3
acceptance.new_tokens = 2
[[variants]]
name = "ranks"
acceptance.rate = 0.3
acceptance.rank_shares = [0.7, 0.2]
"""


def test_all_of_the_acceptance_counts():
    """Waits knew first choices at depth 1 alone, and so did what they were compared with."""
    real = realtime.run_grid(loads(DEEP)).table.to_pandas()
    ideal = simulate(loads(DEEP.replace("wallclock", "simulated"))).table.to_pandas()
    assert real["simulated_latency_mean_ms"].tolist() == ideal["latency_mean_ms"].tolist()
    of_si = real["algorithm"] == "si"
    for count in ("drafts", "target_passes"):
        assert real.loc[of_si, count].tolist() == ideal.loc[of_si, count].tolist()


def test_what_an_algorithm_does_not_read_is_run_once():
    study = loads(SMALL)
    grid = empty_grid(study)
    jobs = realtime.jobs_of(study, grid)
    by = [grid.algorithms[job.algorithm] for job in jobs]
    # non-SI: one of all (it does not even read the acceptance); SI: a variant and a lookahead.
    assert {name: by.count(name) for name in grid.algorithms} == {"nonsi": 1, "si": 4, "dsi": 8}
    answered = sorted(
        (grid.algorithms[job.algorithm], number) for job in jobs for number in job.numbers
    )
    assert answered == sorted((name, n) for name in grid.algorithms for n in range(8))


def test_provenance_and_report_name_the_backend(folder):
    record = json.loads((folder / "provenance.json").read_text())
    assert record["backend"] == "wallclock"
    assert record["rows_by_engine"] == {"events": 24}
    page = (folder / "report.html").read_text()
    assert "Real waits, one case at a time: they overshot by" in page
    assert "same draws, simulated" in json.dumps(specifications(folder / "report.html"))


def test_an_interrupted_run_goes_on_where_it_was(tmp_path):
    seen = []

    def stop_soon(seconds):
        seen.append(seconds)
        if len(seen) == 5:
            raise KeyboardInterrupt

    out = tmp_path / "out"
    with pytest.raises(RunInterrupted):
        run_study(loads(SMALL), out, progress=stop_soon)
    parts = out / ".unfinished"
    assert len(list(parts.glob("part-*"))) == 2  # two jobs of two repeats each had ended
    first = PartStore(parts, loads(SMALL).to_toml()).get(0)
    run_study(unfinished_study(out), out, resume=True)
    table = read_results(out / "results.parquet")
    assert table["latency_mean_ms"][0] == first[OUTCOMES.index("latency_mean_ms")]
    assert not (out / ".unfinished").exists()


def test_cases_with_too_many_servers_are_left_out():
    text = SMALL.replace("tokens = 6", "tokens = 3\nmax_targets = 1")
    result = realtime.run_grid(loads(text))
    table = result.table.to_pandas()
    assert result.left_out == 4
    assert set(table.loc[table["algorithm"] == "dsi", "targets"]) == {1}
    assert table["latency_mean_ms"].notna().all()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["repeats=100000"],
            ["100,000 repeats", "over 15 minutes", "--set repeats=", "--yes"],
        ),
        (
            ["repeats=1", "tokens=100000", "targets=2", "target.latency_ms=100"],
            ["--set repeats=1 and fewer values for --set grid.lookahead=[…] (it has 2)"],
        ),
    ],
)
def test_absurd_waits_are_refused_at_once(overrides, words):
    study = loads(SMALL, overrides=overrides)
    with pytest.raises(UserError) as caught:
        realtime.check(study)
    for word in words:
        assert word in str(caught.value)
    assert realtime.check(study, yes=True) > realtime.MAX_S


def test_the_estimate_is_what_the_waits_come_to():
    study = loads(SMALL, overrides=["tokens=500"])
    simulated = loads(SMALL, overrides=["tokens=500", "backend=simulated"])
    table = simulate(simulated).table.to_pandas()
    # Of all rows, those that are run: non-SI once a variant, SI once for both numbers of targets.
    shares = {"nonsi": 4, "si": 2, "dsi": 1}
    rows = table["latency_mean_ms"] / table["algorithm"].astype(str).map(shares)
    assert realtime.estimate_s(study) == pytest.approx(rows.sum() * 2 / 1e3, rel=0.05)


def test_too_many_servers_to_wait():
    study = loads(SMALL, overrides=["targets=5000"])
    with pytest.raises(UserError, match=r"targets: 5,000 target servers .* --set max_targets=128"):
        realtime.run_grid(study, store=Store())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--backend wallclok", "--backend: expected one of simulated, wallclock, got wallclok"),
        ("--backend wallclock --engine vector", 'engine: "vector" simulates; backend is'),
        ("--backend wallclock --jobs 2", "--jobs is for simulation; real waits go one by one"),
        ("--backend wallclock --executor ray", "--executor is for simulation"),
        ("--backend wallclock --set repeats=100000", "make it coarser: --set repeats="),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, words, message):
    path = tmp_path / "s.toml"
    path.write_text(SMALL)
    result = CliRunner().invoke(main, ["run", str(path), *words.split()])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "results").exists()


def test_the_command(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text(SMALL.replace('backend = "wallclock"\n', ""))
    out = tmp_path / "out"
    words = ["run", str(path), "--backend", "wallclock", "--out", str(out)]
    result = CliRunner().invoke(main, [*words, "--set", "repeats=1"])
    assert result.exit_code == 0, result.stderr
    assert "real waits of about" in result.stderr
    assert "they overshot by" in result.stdout
    assert 'backend = "wallclock"' in (out / "study.toml").read_text()


def test_nothing_is_noted_of_results_that_lack_a_column():
    frame = pd.DataFrame({name: [1.0] for name in realtime.EXTRA})
    frame = frame.assign(latency_mean_ms=2.0, algorithm="si")
    assert len(realtime.notes(frame)) == 1
    assert realtime.notes(frame.drop(columns="simulated_latency_mean_ms")) == []
    assert realtime.notes(frame.assign(oversleep_mean_ms=np.nan)) == []


def test_a_run_in_which_the_machine_stood_still_is_done_again(monkeypatch):
    real, runs = realtime.run_wallclock, []

    def stalling(*args):
        run = real(*args)
        runs.append(run)
        if len(runs) == 2:
            run.oversleep_ns.append(realtime.STALL_NS + 1)
        return run

    monkeypatch.setattr(realtime, "run_wallclock", stalling)
    study = loads(SMALL, overrides=["tokens=3", "lookahead=1", "targets=1"])
    table = realtime.run_grid(study).table.to_pandas()
    once = table.drop_duplicates(["algorithm", "latency_mean_ms"])
    assert once["stalls"].sum() == 1
    assert table["oversleep_worst_ms"].max() * 1e6 <= realtime.STALL_NS
    assert "1 run was repeated because the machine stalled" in realtime.notes(table)[0]
