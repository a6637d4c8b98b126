"""``dsim run`` and ``dsim plot`` take every kind of study; the tables of its file decide."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.report import charts
from dsim.study.folder import RunInterrupted
from dsim.study.loader import loads
from dsim.tasks.run import run_study
from tests import STUDIES

SMALL = ["--set", "workload.requests=30", "--jobs", "1"]


def dsim(*args):
    return CliRunner().invoke(main, [str(arg) for arg in args])


def pictures(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.svg")}


@pytest.mark.parametrize("name", ["load", "sanity"])
def test_results_are_drawn_again_as_they_were(tmp_path, name):
    out, again = tmp_path / "out", tmp_path / "again"
    more = SMALL if name == "load" else ["--set", "repeats=2"]
    assert dsim("run", STUDIES / f"{name}.toml", "--out", out, *more).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    result = dsim("plot", out, "--out", again)
    assert result.exit_code == 0, result.output
    assert pictures(again) == pictures(out)
    assert dsim("plot", out).exit_code == 0
    assert {path.name for path in out.iterdir()} == set(before)
    assert (out / "results.parquet").read_bytes() == before["results.parquet"]


def test_a_csv_of_a_deployment_is_drawn(tmp_path):
    out = tmp_path / "out"
    assert dsim("run", STUDIES / "load.toml", "--out", out, *SMALL).exit_code == 0
    result = dsim("plot", out / "results.csv")
    assert result.exit_code == 0, result.output
    page = (out / "results-charts" / "report.html").read_text()
    assert "At a glance" in page
    assert pictures(out / "results-charts")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("load", ["--engine", "vector"], "--engine: this is a study of a deployment"),
        ("load", ["--backend", "wallclock"], "--backend: this is a study of a deployment"),
        ("load", ["--csv"], "--csv: this is a study of a deployment"),
        ("sanity", ["--trace", "t.json"], "--trace: this is a study of single requests"),
        ("sanity", ["--json"], "--json: this is a study of single requests"),
    ],
)
def test_options_of_the_other_kind_are_refused_by_name(tmp_path, name, options, message):
    result = dsim("run", STUDIES / f"{name}.toml", "--out", tmp_path / "out", *options)
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "out").exists()


def test_the_former_name_says_the_new_one_once(tmp_path):
    result = dsim("load", STUDIES / "load.toml", "--out", tmp_path / "out", *SMALL)
    assert result.exit_code == 0, result.output
    assert result.output.count("dsim load is now dsim run") == 1
    assert "load" not in [line.split()[0] for line in dsim("--help").output.splitlines() if line]


def test_a_chart_that_fails_takes_nothing_with_it(tmp_path, monkeypatch):
    def fails(*_):
        raise KeyError("lookahead")

    monkeypatch.setitem(charts._KINDS, "lines", fails)
    out = tmp_path / "out"
    result = dsim("run", STUDIES / "sanity.toml", "--out", out, "--set", "repeats=2")
    assert result.exit_code == 3
    assert "the results are complete, but the report is not" in result.output
    assert {"results.parquet", "provenance.json", "report.html"} <= {p.name for p in out.iterdir()}
    assert "Chart 1 cannot be drawn: KeyError" in (out / "report.html").read_text()


def test_a_part_of_another_seed_is_computed_again(tmp_path):
    """Two runs that wrote into one folder before it had a lock."""
    text = "tokens = 30\nrepeats = 2\nengine = 'events'\n[grid]\nacceptance.rate = [0.3, 0.6]\n"
    whole, out = tmp_path / "whole", tmp_path / "out"
    run_study(loads(text), whole)
    work = out / ".unfinished"
    work.mkdir(parents=True)
    (work / "study.toml").write_text(loads(text).to_toml())
    other = loads(text, overrides=["seed=7"])

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(RunInterrupted):
        run_study(other, tmp_path / "cut", progress=stop)
    for part in (tmp_path / "cut" / ".unfinished").glob("part-*"):
        part.rename(work / part.name)
    finished = run_study(loads(text), out, resume=True)
    assert "1 damaged or foreign parts of an earlier run were not used." in finished.lines
    assert (out / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
