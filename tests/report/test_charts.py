"""Charts by their specifications, without a browser."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest

from dsim.report import analysis, charts, deployments, style
from dsim.report.lanes import lanes
from dsim.report.vega import Vega, specification
from dsim.study import labels
from dsim.study.columns import column_of
from dsim.study.deployment_settings import DEPLOYMENT_SETTINGS
from dsim.study.loader import loads
from dsim.study.requests import Backlog
from dsim.study.settings import SETTINGS
from dsim.study.study import Chart
from dsim.tasks.run import plot, run_study

LOAD = pd.DataFrame(
    {
        "variant": [""] * 4,
        "algorithm": ["nonsi", "nonsi", "dsi", "dsi"],
        "workload_rate_per_s": [1.0, 2.0] * 2,
        "goodput_per_s": [0.9, 1.8, 1.0, 2.0],
        "throughput_per_s": [1.0, 2.0, 1.0, 2.0],
        "throughput_ci95_per_s": [0.1, 0.2, 0.1, 0.2],
    }
)
HEATMAP = Chart(kind="heatmap", x="drafter.latency_ms", y="acceptance.rate", against="nonsi")
CELLS = pd.DataFrame(
    [
        (algorithm, x, y, ms, 0.5)
        for x in (1.5, 3.0, 6.0)
        for y in (0.2, 0.8)
        for algorithm, ms in (("nonsi", 100.0), ("dsi", 60.0 + 30.0 * (x > 2) + 10.4 * (x > 5)))
    ],
    columns="algorithm drafter_latency_ms acceptance_rate latency_mean_ms latency_ci95_ms".split(),
)


def marks(panel):
    return [layer["mark"]["type"] for layer in specification(panel, width=400)["layer"]]


def test_bars_are_drawn_only_where_there_are_intervals():
    for y, bars in (("goodput_per_s", False), ("throughput_per_s", True)):
        chart = Chart(kind="lines", x="workload.rate_per_s", y=y)
        (panel,) = charts.draw(chart, LOAD, ["workload_rate_per_s"])
        assert ("rule" in marks(panel)) is bars
        assert ("Bars: 95 % intervals" in panel.caption) is bars
        assert ("No 95 % intervals" in panel.caption) is not bars


def test_bars_are_as_long_as_the_interval():
    chart = Chart(kind="lines", x="workload.rate_per_s", y="throughput_per_s")
    (panel,) = charts.draw(chart, LOAD, ["workload_rate_per_s"])
    table = panel.chart.data
    assert table["low"].tolist() == [0.9, 1.8, 0.9, 1.8]
    assert table["high"].tolist() == [1.1, 2.2, 1.1, 2.2]


@pytest.mark.parametrize(
    ("status", "words"),
    [("ok", "Points without a value are left out."), ("refused", "more than can be served.")],
)
def test_a_caption_says_why_a_line_ends(status, words):
    frame = LOAD.assign(throughput_per_s=[1.0, float("nan"), 1.0, 2.0])
    if status == "refused":
        frame = frame.assign(status=["steady", "refused", "steady", "steady"])
    chart = Chart(kind="lines", x="workload.rate_per_s", y="throughput_per_s")
    (panel,) = charts.draw(chart, frame, ["workload_rate_per_s"])
    assert panel.caption.endswith(words)
    assert ("served" in panel.caption) is (status == "refused")


@pytest.mark.parametrize(("above_ms", "certain"), [(0.0, "0.0%"), (3.0, "33.3%")])
def test_a_map_counts_slower_cells_as_the_table_does(above_ms, certain):
    axes = ["drafter_latency_ms", "acceptance_rate"]
    slow = (CELLS["algorithm"] == "dsi") & (CELLS["drafter_latency_ms"] > 5)
    frame = CELLS.assign(latency_mean_ms=CELLS["latency_mean_ms"] + above_ms * slow)
    at_best = analysis.best(frame, axes, [])
    table = analysis.summarise(at_best, [])
    assert table is not None
    assert table.rows[1][:2] == ["DSI", certain]
    (panel,) = charts.draw(HEATMAP, at_best, axes)
    assert f"slower (33.3% of the map; {certain} by more than the 95 % interval)" in panel.caption


def map_of(*speedups, half_ms=0.5):
    """A heat map of DSI against non-SI with these speed-ups, one a column."""
    frame = pd.DataFrame(
        [
            (name, x, 0.5, 100.0 if name == "nonsi" else 100.0 / speedup, half_ms)
            for x, speedup in enumerate(speedups)
            for name in ("nonsi", "dsi")
        ],
        columns=CELLS.columns,
    )
    axes = ["drafter_latency_ms", "acceptance_rate"]
    (panel,) = charts.draw(HEATMAP, analysis.best(frame, axes, []), axes)
    spec = specification(panel, width=400)
    return panel, spec, spec["layer"][0] if "layer" in spec else spec


@pytest.mark.parametrize("almost", [1.0, 1 + 1e-9, 1.0004, 0.9996])
def test_what_is_equally_fast_is_neither_pink_nor_blue(almost):
    panel, _, cells = map_of(almost, 1.2, 0.9)
    color = cells["encoding"]["color"]
    assert color["condition"] == {"test": "datum.speedup === 1", "value": style.EQUAL}
    assert [row["speedup"] for row in cells["data"]["values"]] == [1.0, 1.2, 0.9]
    assert "Grey: equally fast, at 1 of 3 points." in panel.caption
    assert "slower (33.3% of the map" in panel.caption
    panel, _, _ = map_of(1.0006, 1.2)
    assert "Grey" not in panel.caption


@pytest.mark.parametrize("speedups", [(0.5, 0.9), (0.5, 1.0), (0.9, 1.2), (1.0, 1.003), (1.2, 3.0)])
def test_the_colours_of_a_map_end_where_its_values_do(speedups):
    _, _, cells = map_of(*speedups)
    domain = cells["encoding"]["color"]["scale"]["domain"]
    assert (domain[0], domain[-1]) == (speedups[0], min(speedups[1], domain[-1]))
    assert domain == sorted(set(domain))
    assert domain[-1] == pytest.approx(speedups[1], abs=5e-4)


def test_a_map_of_a_single_colour_has_no_legend():
    panel, _, cells = map_of(1.0, 1.0)
    assert cells["encoding"]["color"]["legend"] is None
    assert "Grey: both are equally fast, at all 2 points." in panel.caption
    assert "blue" not in panel.caption.lower()


def test_cells_within_the_interval_have_a_dot():
    panel, spec, _ = map_of(1.002, 1.2, 0.999, 1.0)
    (dots,) = spec["layer"][1:]
    assert [(row["xm"], row["ym"]) for row in dots["data"]["values"]] == [(0, 0.5), (2, 0.5)]
    assert "A dot: faster or slower by no more than the 95 % interval (2 of 4" in panel.caption
    panel, spec, _ = map_of(1.2, 0.9)
    assert "layer" not in spec
    assert "dot" not in panel.caption
    panel, spec, _ = map_of(*np.linspace(1.002, 1.2, 700))  # so many would make a page slow
    assert "layer" not in spec
    assert "differ by no more than the 95 % interval" in panel.caption


def test_sentences_keep_names():
    assert labels.sentence("speed-up over SI") == "Speed-up over SI"
    assert labels.sentence("p99 latency") == "p99 latency"


def test_axes_are_titled_in_words():
    for column in ("workload_rate_per_s", "cluster_drafter_mtbf_s", "ttft_p99_ms", "slo_ttft_ms"):
        assert "_" not in labels.label(column)
        assert "." not in labels.label(column)
    assert labels.label("ttft_p99_ms") == "p99 TTFT (ms)"


def test_axes_of_settings_are_in_words():
    raw = re.compile(r"\b(cv|ci95|len|max|(?<!at )most|mtbf|mttr|ngram|ssd|us|watts|(\w+) \2)\b")
    for setting in [*SETTINGS, *DEPLOYMENT_SETTINGS]:
        if setting.sweep:
            text = labels.label(column_of(setting.key))
            assert not raw.search(text), text
            if setting.unit in ("ms", "s", "µs", "W"):
                assert text.endswith(f"({setting.unit})"), text


def test_few_values_are_the_ticks():
    assert style.ticks(pd.Series([6.0, 1.5, 3.0])).to_dict()["values"] == [1.5, 3.0, 6.0]
    assert "values" not in style.ticks(pd.Series(range(40))).to_dict()
    # Whole numbers that are floats: ticks at 0.5, 1.5, … were the edges of the cells.
    assert style.ticks(pd.Series([float(n) for n in range(1, 17)])).to_dict()["tickMinStep"] == 1
    assert "tickMinStep" not in style.ticks(pd.Series([n / 20 for n in range(20)])).to_dict()
    (panel,) = charts.draw(HEATMAP, CELLS, ["drafter_latency_ms", "acceptance_rate"])
    axes = specification(panel, width=400)["layer"][0]["encoding"]
    assert axes["x"]["axis"]["values"] == [1.5, 3.0, 6.0]
    assert axes["y"]["axis"]["values"] == [0.2, 0.8]


def test_a_legend_shows_long_names_whole():
    names = ["EAGLE-3 on the target's GPUs, 4 drafts", "SI with a 1B drafter on its own GPU", "x"]
    legend = style.legend(names).to_dict()
    assert legend["columns"] == 1
    assert legend["labelLimit"] > 7 * max(map(len, names))
    assert style.legend(["non-SI", "SI", "DSI"]).to_dict()["columns"] == 3
    frame = LOAD.assign(series=[names[0]] * 2 + [names[1]] * 2)
    chart = Chart(kind="lines", x="workload.rate_per_s", y="goodput_per_s")
    (panel,) = charts.draw(chart, frame, ["workload_rate_per_s"])
    layer, *_ = specification(panel, width=400)["layer"]
    assert layer["encoding"]["color"]["legend"] == style.legend(names[:2]).to_dict()


def test_names_that_no_orchestration_claims_have_colours_of_their_own():
    found = style.colours(["dsi", "eagle", "dsi", "medusa"])
    assert len(set(found)) == 4


def test_control_characters_do_not_end_the_process():
    chart = Chart(kind="lines", x="workload.rate_per_s", y="goodput_per_s", title="a\0b \\u0000")
    (panel,) = charts.draw(chart, LOAD, ["workload_rate_per_s"])
    with lanes() as at_work:
        png, svg = Vega(at_work).pictures(panel)()
    assert png.startswith(b"\x89PNG")
    assert "a\ufffdb \\u0000" in svg


def test_large_data_are_short_on_a_page():
    frame = pd.concat([LOAD.assign(workload_rate_per_s=float(i)) for i in range(400)])
    frame = frame[~frame.duplicated(["algorithm", "workload_rate_per_s"])]
    chart = Chart(kind="lines", x="workload.rate_per_s", y="goodput_per_s")
    (panel,) = charts.draw(chart, frame, ["workload_rate_per_s"])
    data = specification(panel, width=400)["data"]
    assert data["format"]["type"] == "csv"
    assert len(data["values"].splitlines()) == 1 + len(frame)
    assert len(json.dumps(data)) < 60 * len(frame)


def backlog(rate, requests):
    over_time = np.array([[0.0, requests, 0, 0], [1.0, requests, 0, 0]])
    point = {"workload.rate_per_s": rate}
    return Backlog(f"at {rate}", "si", point, over_time)


def test_the_backlog_names_its_points_and_is_left_out_where_there_is_none():
    chart = Chart(kind="lines", x="workload.rate_per_s", y="goodput_per_s")

    def last(*backlogs):
        made = deployments.charts_of([chart], ["workload.rate_per_s"], LOAD, backlogs)
        return made[-1][1]()[-1]

    same = last(backlog(2, 1.0), backlog(2, 0.0)._replace(variant="other"))
    assert same.title == "Backlog over time (request rate 2 requests / s)"
    other = last(backlog(2, 1.0), backlog(3, 0.0))
    assert other.title == "Backlog over time"
    names = set(other.chart.data["series"])
    assert names == {"at 2, request rate 2 requests / s", "at 3, request rate 3 requests / s"}
    assert "backlog" not in last(backlog(2, 0.0)).name


@pytest.mark.parametrize("grid", ["lookahead = [1, 2, 3]\nacceptance.rate = [0.2, 0.8]"])
def test_a_study_without_charts_has_some(tmp_path, grid):
    run_study(loads(f"tokens = 10\n[grid]\n{grid}\n"), tmp_path / "out")
    assert list((tmp_path / "out").glob("*.svg"))


def test_a_heat_map_over_the_lookahead_against_si(tmp_path):
    study = loads(
        "tokens = 10\n[grid]\nacceptance.rate = [0.5, 0.9]\nlookahead = [1, 2]\n[[charts]]\n"
        'kind = "heatmap"\nx = "lookahead"\ny = "acceptance.rate"\nshow = "dsi"\nagainst = "si"\n'
    )
    run_study(study, tmp_path / "out")
    assert (tmp_path / "out" / "01-dsi-vs-si.svg").is_file()


@pytest.mark.parametrize("head", ["a.b", "tokens,tokens", "a[0]"])
def test_own_columns_can_be_axes(tmp_path, head):
    path = tmp_path / "own.csv"
    rows = [("nonsi", 1, 10), ("nonsi", 2, 10), ("dsi", 1, 5), ("dsi", 2, 4)]
    cells = [f"{a},{','.join([str(x)] * (head.count(',') + 1))},{ms}" for a, x, ms in rows]
    path.write_text("\n".join([f"algorithm,{head},latency_mean_ms", *cells]))
    report, _ = plot(path)
    assert list(report.parent.glob("*.svg"))


@pytest.mark.parametrize(
    ("values", "multiples"),
    [
        ([1, 2, 4, 8, 16], True),
        ([0.5, 1, 2, 3, 4, 5, 6], False),
        ([1, 2, 4], False),
        ([0, 1, 2, 4, 8], False),
        ([2, 4, 6, 10], False),
    ],
)
def test_steps_of_a_factor_get_a_logarithmic_axis(values, multiples):
    frame = pd.DataFrame({"workload_users": values})
    scale = style.along(frame, "workload_users").to_dict()["scale"]
    assert (scale.get("type") == "log") == multiples


def winners_of(*points, value="latency_mean_ms"):
    """The map of winners where non-SI, SI and DSI take these times; its panel and its spec."""
    rows = [
        (name, number, 0.5, 3, ms, 0.04)  # a difference is known to 0.04 times the root of 2
        for number, times in enumerate(points)
        for name, ms in zip(("nonsi", "si", "dsi"), times, strict=True)
    ]
    columns = [*CELLS.columns[:3], "targets", *CELLS.columns[3:]]
    chart = Chart(kind="winners", x=HEATMAP.x, y=HEATMAP.y, value=value)
    (panel,) = charts.draw(chart, pd.DataFrame(rows, columns=columns), [])
    return panel, specification(panel, width=400)


def test_winners_within_the_interval_have_the_dot_of_other_maps():
    panel, spec = winners_of((9, 8, 6), (9, 6.05, 6), (9, 6.07, 6), (9, 6, 6))
    cells, dots = spec["layer"]
    found = cells["data"]["values"]
    assert [row["winner"] for row in found] == ["DSI", "DSI", "DSI", "SI"]
    assert [row["next"] for row in found] == ["SI", "SI", "SI", "DSI"]
    assert [row["sure"][:3] for row in found] == ["yes", "no:", "yes", "no:"]
    middles = [((row["x0"] + row["x1"]) / 2, (row["y0"] + row["y1"]) / 2) for row in found]
    marked = [(row["xm"], row["ym"]) for row in dots["data"]["values"]]
    assert marked == [middles[1], middles[3]]
    assert dots["mark"] == map_of(1.002, 1.2)[1]["layer"][1]["mark"]
    titles = [field["title"] for field in cells["encoding"]["tooltip"]]
    assert titles[:4] == ["first", "next", "times as good as the next", "a clear lead"]
    counted = "won: DSI 75% (50% by more than the 95 % interval), SI 25% (0%). A dot: the best two"
    assert counted in panel.caption
    assert "by no more than that interval (2 of 4 points)" in panel.caption
    panel, spec = winners_of((9, 8, 6), (9, 5, 6))
    assert "layer" not in spec
    assert "Share of points won: DSI 50%, SI 50%." in panel.caption


def test_the_interval_of_winners_per_device_is_per_device():
    """Four devices for 6 ± 0.04 ms are 24 ± 0.16, and 24.1 ± 0.04 is not clearly more."""
    panel, _ = winners_of((24.1, 30, 6), (24.2, 30, 6), value="per_device")
    assert "DSI 100% (50% by more than the 95 % interval). A dot" in panel.caption


def test_winners_at_so_many_points_that_dots_would_be_slow_are_counted_in_words():
    panel, spec = winners_of(*[(9, 8, 6), (9, 6, 6)] * 350)
    assert "layer" not in spec
    words = "The others: the best two differ by no more than that interval (350 of 700 points)"
    assert words in panel.caption
