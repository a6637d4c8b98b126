"""Stored results, drawn again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study.executors import Store
from dsim.study.grid import run_grid
from dsim.study.loader import loads
from dsim.tasks.run import plot, run_study
from tests.tasks.test_run import SMALL, contents


def test_plot_draws_a_folder_again(small, tmp_path):
    report, (lines, _) = plot(small, tmp_path / "again")
    again = contents(tmp_path / "again")
    for name, content in contents(small).items():
        if name.startswith("01-") or name == "report.html":
            assert again[name] == content, name
    assert report.name == "report.html"
    assert any(line.startswith("DSI") for line in lines)


def test_plot_takes_a_csv_alone(small, tmp_path):
    """With no study beside it: the charts follow from the columns."""
    table = pd.read_csv(small / "results.csv")
    path = tmp_path / "mine.csv"
    table[
        ["algorithm", "drafter_latency_ms", "acceptance_rate", "lookahead", "latency_mean_ms"]
    ].to_csv(path, index=False)
    report, _ = plot(path)
    assert report == tmp_path / "mine-charts" / "report.html"
    names = {path.name for path in report.parent.glob("*.svg")}
    assert names == {
        "01-si-vs-nonsi.svg",
        "02-dsi-vs-si.svg",
        "03-dsi-vs-nonsi.svg",
        "04-dsi-vs-best.svg",
    }


@pytest.mark.parametrize("separator", [",", ";"])
def test_plot_takes_measurements_of_an_unknown_algorithm(tmp_path, separator):
    rows = ["algorithm,lookahead,latency_mean_ms", "si,1,9", "si,2,8", "eagle,1,7", "eagle,2,6"]
    path = tmp_path / "mine.csv"
    path.write_text("\n".join(rows).replace(",", separator))
    report, _ = plot(path)
    assert "eagle" in report.read_text()
    assert list(report.parent.glob("*.svg"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: "),
        (
            "algorithm,lookahead\nsi,1\n",
            "latency_mean_ms: this column is missing (time to the last token, mean)",
        ),
        ("latency_mean_ms\n3\n", "algorithm: this column is missing (name of the orchestration)"),
        (
            "algorithm,latency_mean_ms\nsi,fast\nsi,3\n",
            "latency_mean_ms: line 2: expected numbers, got 'fast'",
        ),
        (
            "algorithm,latency_mean_ms\nsi,0\n",
            "latency_mean_ms: line 2: expected latencies above 0, got 0",
        ),
        (
            "algorithm,lookahead,latency_mean_ms\nsi,1e400,3\ndsi,1,2\n",
            "lookahead: expected numbers of at most 2e+308, got inf",
        ),
        ("algorithm,latency_mean_ms\n", "has no rows"),
        (
            "algorithm,lookahead,latency_mean_ms\nsi,1,3\nsi,1,4\nsi,2,4\n",
            "two rows are about the same case: algorithm si, lookahead 1",
        ),
        ("", "is not a results table"),
    ],
)
def test_plot_names_what_is_wrong(tmp_path, content, message):
    path = tmp_path / "x.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        plot(path)
    assert message in str(caught.value)
    assert not list((tmp_path / "x-charts").glob("*"))


def test_a_folder_without_results(tmp_path):
    with pytest.raises(UserError, match=r"holds no results\.parquet"):
        plot(tmp_path)


def test_a_store_that_keeps_nothing():
    store = Store()
    store.put(0, np.zeros(1))
    assert store.get(0) is None


def test_one_repeat_has_no_interval_and_can_be_drawn_again(tmp_path):
    run_study(loads(SMALL, overrides=["repeats=1"]), tmp_path / "out")
    first = contents(tmp_path / "out")
    plot(tmp_path / "out")
    assert contents(tmp_path / "out") == first
    plot(tmp_path / "out" / "results.csv", tmp_path / "again")


def test_rows_that_no_two_algorithms_share(tmp_path):
    path = tmp_path / "apart.csv"
    path.write_text("algorithm,load,latency_mean_ms\nnonsi,1,3\nsi,2,2\ndsi,3,1\n")
    report, _ = plot(path)
    assert "No point was simulated with two algorithms" in report.read_text()


def test_results_in_which_nothing_varies_have_no_chart(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("algorithm,lookahead,latency_mean_ms\nsi,1,3\ndsi,1,2\n")
    _, (lines, _) = plot(path)
    assert "There is no chart: no setting varies that could be an axis." in lines


def test_plot_does_not_write_over_other_results(small, tmp_path):
    (tmp_path / "mine.csv").write_bytes((small / "results.csv").read_bytes())
    before = contents(small)
    with pytest.raises(UserError, match="holds something other than charts: provenance.json"):
        plot(tmp_path / "mine.csv", small)
    assert contents(small) == before
    plot(tmp_path / "mine.csv")
    plot(tmp_path / "mine.csv")  # over its own charts it may


def test_a_run_that_was_killed_at_its_very_ends(tmp_path):
    """Before the study was noted, or after everything was in place: nothing to resume."""
    folder = tmp_path / "out"
    (folder / ".unfinished").mkdir(parents=True)
    run_study(loads(SMALL), folder)
    whole = contents(folder)
    (folder / ".unfinished").mkdir()
    run_study(loads(SMALL), folder)
    assert contents(folder) == whole


@pytest.mark.parametrize("place", ["/proc/dsim", "/dev/null/dsim"])
def test_a_folder_that_cannot_be_made(place):
    with pytest.raises(UserError, match="cannot be written to: "):
        run_study(loads(SMALL), Path(place))


def test_traces_over_several_lengths():
    text = """
    algorithms = ["dsi"]
    acceptance.model = "trace"
    acceptance.trace = "1100111100"
    repeats = 1
    [grid]
    tokens = [4, 10]
    """
    table = run_grid(loads(text)).table.to_pandas()
    assert table["acceptance_rate"].tolist() == [0.5, 0.6]


@pytest.mark.parametrize("first", ["1", ""])
def test_who_measured_plain_decoding_once_has_measured_it_for_every_lookahead(tmp_path, first):
    """Speed-ups came from the one point that had the same lookahead, in silence."""
    rows = f"nonsi,{first},6010\nsi,1,4100\nsi,2,3500\nsi,4,3200\n"
    (tmp_path / "m.csv").write_text("algorithm,lookahead,latency_mean_ms\n" + rows)
    words = ["plot", str(tmp_path / "m.csv"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "SI is 1.47× to 1.88× as fast as non-SI (median 1.72×)" in result.output
