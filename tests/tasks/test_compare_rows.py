"""dsim compare: which rows meet, and which meet nothing."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from dsim.errors import UserError
from dsim.report import comparison_charts
from dsim.study.loader import loads
from dsim.tasks.compare import compare, source
from dsim.tasks.run import run_study
from tests.tasks.test_compare import csv

STUDY = """
algorithms = ["nonsi", "si", "dsi"]
repeats = 2
tokens = 30
target.latency_ms = 40
drafter.latency_ms = 3
{}
[grid]
targets = [1, 2, 4]
lookahead = [1, 2, 5]
"""


@pytest.fixture(scope="module", params=['minimise = ["lookahead"]', ""])
def swept(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("swept") / "swept"
    run_study(loads(STUDY.format(request.param)), folder)
    return folder


def simulated_at(folder, algorithm, targets, lookahead):
    frame = pd.read_parquet(folder / "results.parquet")
    at = (frame["targets"] == targets) & (frame["lookahead"] == lookahead)
    return float(frame[at & (frame["algorithm"] == algorithm)]["latency_mean_ms"].iloc[0])


def test_blanks_agree_with_every_value_and_lookaheads_with_their_own(tmp_path, swept):
    """Non-SI twice as slow and SI 2.5 times: "0.3 % lower", as one row in three was compared."""
    head = "algorithm,targets,lookahead,latency_mean_ms\n"
    mine = csv(tmp_path, "mine", head + "nonsi,,,16000\nsi,,5,9000\ndsi,4,2,2850\n")
    _, (lines, _) = compare([mine, str(swept)], tmp_path / "out")
    assert not any("compared with nothing" in line for line in lines)
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    values = table.groupby("algorithm")["value"].unique().map(list)
    assert values["non-SI"] == [1200.0]
    assert values["SI"] == [simulated_at(swept, "si", 1, 5)]
    assert values["DSI"] == [simulated_at(swept, "dsi", 4, 2)]
    _, (lines, _) = compare([str(swept), mine], tmp_path / "back")
    back = pd.read_csv(tmp_path / "back" / "comparison.csv")
    assert len(back) == len(table)
    assert set(back["value"]) == set(table["reference"])
    report = (tmp_path / "back" / "report.html").read_text("utf-8")
    assert "nan" not in re.findall(r">([^<]{1,8})<", report)


def test_rows_that_are_compared_with_nothing_are_named(tmp_path, swept):
    head = "algorithm,targets,lookahead,latency_mean_ms\n"
    rows = "vanilla,1,1,16000\nspeculative,1,5,9000\ndsi,4,2,2850\ndsi,4,3,2850\n"
    mine = csv(tmp_path, "mine", head + rows)
    for order in ([mine, str(swept)], [str(swept), mine]):
        _, (lines, _) = compare(order, tmp_path / "out")
        (told,) = (line for line in lines if "compared with nothing" in line)
        assert told.startswith("3 of the 4 rows of mine are compared with nothing, as swept has no")
        rows = told.rstrip(".").partition(": ")[2].split("; ")
        assert {", ".join(sorted(row.split(", "))) for row in rows} == {
            "lookahead 1, target servers 1, vanilla",
            "lookahead 5, speculative, target servers 1",
            "DSI, lookahead 3, target servers 4",
        }


def test_a_chart_has_no_lines_of_values_that_one_source_alone_knows(tmp_path, swept):
    """A grid over twelve lookaheads drew twelve lines of each algorithm, most without a partner."""
    head = "algorithm,targets,lookahead,latency_mean_ms\n"
    mine = source(csv(tmp_path, "mine", head + "si,,5,9000\ndsi,4,2,2850\n"))
    panels = comparison_charts.panels([mine, source(str(swept))])
    for panel in panels:
        tables = panel.chart.to_dict()["datasets"].values()
        rows = [row for table in tables for row in table if "series" in row]
        assert len({row["series"] for row in rows}) <= 5
        assert {row["algorithm"] for row in rows} >= {"si", "dsi"}


@pytest.mark.parametrize("rows", ["si,5,{}", "si,,5,{}\nsi,,2,{}\nsi,,1,{}"])
def test_a_lookahead_that_was_measured_is_compared_with_itself(tmp_path, swept, rows):
    """A copy of the simulated value at 8 was "12.5 % higher": than the best, at 4."""
    one_each = rows.count(",") == 2
    head = f"algorithm,{'' if one_each else 'targets,'}lookahead,latency_mean_ms"
    lookaheads = [5] if one_each else [5, 2, 1]
    values = [simulated_at(swept, "si", 1, at) for at in lookaheads]
    mine = csv(tmp_path, "mine", f"{head}\n{rows.format(*values)}\n")
    for order in ([mine, str(swept)], [str(swept), mine]):
        compare(order, tmp_path / "out")
        table = pd.read_csv(tmp_path / "out" / "comparison.csv")
        assert set(table["algorithm"]) == {"SI"}
        assert table["percent"].abs().max() < 1e-9
        assert len(table) % len(lookaheads) == 0


@pytest.mark.parametrize("name", ["num_speculative_tokens", "gamma", "k"])
def test_a_lookahead_goes_by_its_other_names(tmp_path, swept, name):
    """It was left out, and the best lookahead was compared: "18.5 % higher"."""
    values = [simulated_at(swept, "si", 1, at) for at in (1, 5)]
    rows = f"si,1,1,{values[0]}\nsi,5,1,{values[1]}\n"
    mine = csv(tmp_path, "mine", f"algorithm,{name},targets,latency_mean_ms\n{rows}")
    compare([str(swept), mine], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert len(table) == 2
    assert table["percent"].abs().max() < 1e-9


def test_columns_of_other_names_are_told(tmp_path, swept):
    """What nobody knows was left out in silence."""
    mine = csv(tmp_path, "mine", "algorithm,lookahead,acceptance,latency_mean_ms\nsi,2,0.4,2442\n")
    _, (lines, _) = compare([str(swept), mine], tmp_path / "out")
    assert any(line.endswith("acceptance (acceptance_rate?) of mine.") for line in lines)
    known = csv(tmp_path, "known", "algorithm,lookahead,latency_mean_ms\nsi,2,2442\n")
    _, (lines, _) = compare([str(swept), known], tmp_path / "out")
    assert not any("Not compared" in line for line in lines)


def test_separators_of_thousands_are_no_decimal_points(tmp_path):
    with pytest.raises(UserError, match="got '2,010'; write 2010, without separators"):
        source(csv(tmp_path, "mine", 'algorithm,latency_mean_ms\nsi,"2,010"\n'))
