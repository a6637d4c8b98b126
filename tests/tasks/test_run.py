"""Results folders: what is in them, and what happens when something goes wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dsim.tasks.run as runs
from dsim.engines.simulate import simulate_case
from dsim.errors import UserError
from dsim.study.build import case_of
from dsim.study.columns import COLUMNS
from dsim.study.executors import Executor
from dsim.study.folder import PartStore, RunInterrupted, unfinished_study
from dsim.study.grid import run_grid
from dsim.study.loader import load, loads
from dsim.study.results import read_results
from dsim.study.study import points
from dsim.tasks.run import run_study
from tests import ROOT, said
from tests.lanes import DRAW_NOTHING

SMALL = """
title = "Small"
tokens = 20
repeats = 2
minimise = ["lookahead"]
[target]
latency_ms = 1.0
[grid]
drafter.latency_relative = [0.2, 0.5]
acceptance.rate = [0.3, 0.9]
lookahead = [1, 3]
[[charts]]
kind = "heatmap"
x = "drafter.latency_relative"
y = "acceptance.rate"
show = "dsi"
against = "best"
"""
# Slow enough to be interrupted, and not for the vector engine.
RANDOM = """
title = "Random"
tokens = 30
repeats = 3
[target]
latency_model = "gamma"
latency_cv = 0.4
[grid]
lookahead = { start = 1, stop = 8, step = 1 }
acceptance.rate = { start = 0.1, stop = 0.9, step = 0.1 }
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_what_is_in_a_results_folder(small):
    assert sorted(contents(small)) == [
        "01-dsi-vs-best.png",
        "01-dsi-vs-best.svg",
        "provenance.json",
        "report.html",
        "results.csv",
        "results.parquet",
        "study.toml",
    ]
    record = json.loads((small / "provenance.json").read_text())
    assert record["seed"] == 0
    assert record["rows_by_engine"] == {"vector": 24}
    assert {"python", "dsim", "numpy", "simpy"} <= set(record["versions"])
    assert load(small / "study.toml").to_toml() == loads(SMALL).to_toml()
    assert (small / "01-dsi-vs-best.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_what_single_cases_are(small):
    study = loads(SMALL)
    table = read_results(small / "results.parquet")
    assert len(table) == study.case_count * 3
    for point in points(study.grid):
        case = case_of(study.of_variant(0) | point)
        for algorithm in ("nonsi", "si", "dsi"):
            rows = table[
                (table["algorithm"] == algorithm)
                & (table["drafter_latency_relative"] == point["drafter.latency_relative"])
                & (table["acceptance_rate"] == point["acceptance.rate"])
                & (table["lookahead"] == point["lookahead"])
            ]
            assert len(rows) == 1
            row = rows.iloc[0]
            outcome = simulate_case(case, algorithm, "events")
            assert row["latency_mean_ms"] == outcome.latency_ns.sum() / 2 / 1e6
            assert row["latency_max_ms"] == outcome.latency_ns.max() / 1e6
            assert row["wasted_drafts"] == outcome.wasted_drafts.mean()
            assert row["peak_targets"] == outcome.peak_targets.max()
            assert row["drafter_latency_ms"] == case.drafter.latency_ns / 1e6
            nonsi = simulate_case(case, "nonsi").latency_ns.mean()
            assert row["speedup_vs_nonsi"] == pytest.approx(nonsi / outcome.latency_ns.mean())


def test_engines_give_the_same_table():
    by = {
        engine: run_grid(loads(SMALL, overrides=[f"engine={engine}"])).table.drop_columns(
            ["engine"]
        )
        for engine in ("vector", "events")
    }
    assert by["vector"].equals(by["events"])


@st.composite
def studies(draw):
    """Studies with axes of all kinds in any order."""
    axes = {
        "drafter.latency_ms": [0.1, 0.35, 1.2],
        "target.latency_ms": [1.0, 2.0],
        "acceptance.rate": [0.0, 0.6, 1.0],
        "lookahead": [1, 2, 7],
        "targets": [1, 4],
        "tokens": [3, 12],
        "seed": [0, 9],
        "preemptible": [True, False],
    }
    keys = draw(st.permutations(sorted(axes)))[: draw(st.integers(1, 5))]
    lines = [f"{key} = {json.dumps(axes[key])}" for key in keys]
    variants = draw(st.booleans())
    text = "repeats = 2\ntokens = 9\n" if "tokens" not in keys else "repeats = 2\n"
    text += "max_targets = 2\n" if draw(st.booleans()) else ""
    text += "[grid]\n" + "\n".join(lines) + "\n"
    if variants:
        text += (
            '[[variants]]\nname = "a"\n[[variants]]\nname = "b"\ndrafter.first_latency_ms = 3.0\n'
        )
    return loads(text)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(studies())
def test_every_row_is_in_its_place(study):
    result = run_grid(study)
    table = result.table.to_pandas()
    assert len(table) == study.case_count * 3 - result.left_out
    limit = study.settings["max_targets"]
    left_out = 0
    for number, (name, _) in enumerate(study.variants):
        for point in points(study.grid):
            case = case_of(study.of_variant(number) | point)
            mask = (table["variant"] == name).to_numpy()
            for key, value in point.items():
                mask = mask & (table[key.replace(".", "_")] == value).to_numpy()
            rows = table[mask].set_index("algorithm")
            for algorithm in ("nonsi", "si", "dsi"):
                if algorithm == "dsi" and limit is not None and case.targets > limit:
                    left_out += 1
                    assert algorithm not in rows.index
                    continue
                outcome = simulate_case(case, algorithm, "events")
                assert rows.loc[algorithm, "latency_mean_ms"] == outcome.latency_ns.mean() / 1e6
                assert rows.loc[algorithm, "drafts"] == outcome.drafts.mean()
                assert rows.loc[algorithm, "targets"] == case.targets
    assert left_out == result.left_out


def test_the_number_of_workers_changes_nothing(tmp_path):
    study = loads(RANDOM, overrides=["tokens=240"])  # enough work for workers to be started
    for jobs in (1, 2):
        run_study(study, tmp_path / str(jobs), executor=Executor(jobs=jobs))
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


class StopAfter:
    """A progress callback that stops the run like Ctrl-C."""

    def __init__(self, calls):
        self.left = calls

    def __call__(self, _):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("text", [SMALL, RANDOM], ids=["vector", "events"])
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, text, monkeypatch):
    study = loads(text)
    run_study(study, tmp_path / "whole")
    folder = tmp_path / "cut"
    with pytest.raises(RunInterrupted):
        run_study(study, folder, progress=StopAfter(5 if text == RANDOM else 1))
    assert [path.name for path in folder.iterdir()] == [".unfinished"]
    # Nobody writes over it by accident.
    with pytest.raises(UserError, match=f"go on with: dsim run --resume {folder}"):
        run_study(study, folder)
    before = len(list((folder / ".unfinished").glob("part-*")))
    assert before == (5 if text == RANDOM else 0)
    done = []
    monkeypatch.setattr(
        PartStore,
        "put",
        lambda self, number, _, put=PartStore.put: (
            done.append(number),
            put(self, number, _),
        )[1],
    )
    run_study(unfinished_study(folder), folder, resume=True)
    assert contents(folder) == contents(tmp_path / "whole")
    if text == RANDOM:
        assert len(done) == study.case_count - before  # nothing finished is done again
    with pytest.raises(UserError, match="is finished already"):
        unfinished_study(folder)


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path):
    """SIGKILL, in the middle, with workers."""
    (tmp_path / "study.toml").write_text(RANDOM.replace("tokens = 30", "tokens = 250"))
    command = [sys.executable, "-m", "dsim", "run", "study.toml", "--jobs", "2", "--quiet"]
    process = subprocess.Popen([*command, "--out", "cut"], cwd=tmp_path, start_new_session=True)
    unfinished = tmp_path / "cut" / ".unfinished"
    for _ in range(6000):
        if len(list(unfinished.glob("part-*"))) >= 3 or process.poll() is not None:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"
    left = {path.name for path in (tmp_path / "cut").iterdir()}
    assert left == {".unfinished", ".lock"}  # which the next run removes
    subprocess.run([*command[:4], "--resume", "cut", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([*command, "--out", "whole"], cwd=tmp_path, check=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_control_c_says_how_to_go_on(tmp_path):
    (tmp_path / "study.toml").write_text(RANDOM.replace("tokens = 30", "tokens = 3000"))
    command = [sys.executable, "-m", "dsim", "run", "study.toml", "--jobs", "2", "--out", "cut"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    unfinished = tmp_path / "cut" / ".unfinished"
    for _ in range(6000):
        if list(unfinished.glob("part-*")) or process.poll() is not None:
            break
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said(errors) == "interrupted; go on with: dsim run --resume cut"


def test_running_again_is_fine_and_another_study_is_not(tmp_path):
    folder = tmp_path / "out"
    run_study(loads(SMALL), folder)
    first = contents(folder)
    run_study(loads(SMALL), folder)
    assert contents(folder) == first
    other = loads(SMALL, overrides=["seed=1"])
    with pytest.raises(UserError, match="holds the results of another study"):
        run_study(other, folder)
    assert contents(folder) == first
    run_study(other, folder, force=True)
    assert contents(folder)["results.parquet"] != first["results.parquet"]


def test_files_of_an_earlier_study_do_not_stay(tmp_path):
    folder = tmp_path / "out"
    run_study(loads(SMALL), folder)
    without_charts = loads(SMALL.split("[[charts]]", maxsplit=1)[0])
    run_study(without_charts, folder, force=True)
    fresh = run_study(without_charts, tmp_path / "fresh").folder
    assert {path.name for path in folder.iterdir()} == {path.name for path in fresh.iterdir()}


def test_a_folder_that_holds_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(UserError, match="holds something other than results of dsim"):
        run_study(loads(SMALL), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UserError, match="is not a folder"):
        run_study(loads(SMALL), tmp_path / "thesis.tex")


@pytest.mark.parametrize("which", ["results.parquet", "results.csv", "report.html", "study.toml"])
def test_a_full_disk_leaves_no_half_file(tmp_path, monkeypatch, which):
    """Whichever file it is that does not fit any more."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fails(path, *_args, **_kwargs):
        Path(path).write_bytes(b"half")
        raise full

    if which == "results.parquet":
        monkeypatch.setattr(runs, "write_table", fails)
    elif which == "results.csv":
        monkeypatch.setattr(runs, "write_csv", fails)
    else:
        write = Path.write_text

        def write_text(self, *args, **kwargs):
            if self.name == which:
                raise full
            return write(self, *args, **kwargs)

        monkeypatch.setattr(Path, "write_text", write_text)
    folder = tmp_path / "out"
    with pytest.raises(UserError, match="there is no room for the results"):
        run_study(loads(SMALL), folder)
    assert not folder.exists()


def test_a_full_disk_keeps_what_was_finished(tmp_path, monkeypatch):
    study, folder = loads(RANDOM), tmp_path / "out"
    save, saved = np.save, []

    def fails(file, *args, **kwargs):
        if len(saved) == 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(1)
        save(file, *args, **kwargs)

    monkeypatch.setattr(np, "save", fails)
    with pytest.raises(UserError, match="there is no room"):
        run_study(study, folder)
    names = sorted(path.name for path in (folder / ".unfinished").iterdir())
    assert names == [f"part-00000{i}" for i in range(4)] + ["study.toml"]
    monkeypatch.undo()
    run_study(unfinished_study(folder), folder, resume=True)
    run_study(study, tmp_path / "whole")
    assert contents(folder) == contents(tmp_path / "whole")


def test_a_real_full_disk(tmp_path):
    """A limit on the size of files: the system itself refuses."""
    (tmp_path / "study.toml").write_text(SMALL)
    code = DRAW_NOTHING + (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
        "sys.argv[0] = 'dsim'; from dsim.cli.main import main; main()"
    )
    found = subprocess.run(
        [sys.executable, "-B", "-c", code, "run", "study.toml", "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2, found.stderr
    assert "error: out: there is no room for the results (File too large)" in found.stderr
    assert not (tmp_path / "out").exists()


def test_many_rows_are_not_written_as_csv_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "MAX_CSV_ROWS", 10)
    run_study(loads(SMALL), tmp_path / "a")
    run_study(loads(SMALL), tmp_path / "b", csv=True)
    assert not (tmp_path / "a" / "results.csv").exists()
    assert (tmp_path / "b" / "results.csv").exists()


def test_csv_and_parquet_say_the_same(small):
    a, b = (read_results(small / f"results.{kind}") for kind in ("csv", "parquet"))
    assert list(a) == list(b)
    for name in a:
        assert a[name].astype(object).tolist() == b[name].astype(object).tolist(), name


def test_every_column_is_documented(small):
    documented = {column.name: column for column in COLUMNS}
    table = pd.read_parquet(small / "results.parquet")
    axes = {"drafter_latency_relative"}
    assert set(table) == set(documented) | axes
    for name, column in documented.items():
        kind = "string" if table[name].dtype == "category" else str(table[name].dtype)
        assert kind == column.dtype, name
    text = (ROOT / "docs" / "results.md").read_text()
    for name, column in documented.items():
        assert f"| `{name}` |" in text
        assert column.meaning in text
