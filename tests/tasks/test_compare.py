"""Results of several runs, and measurements of other tools, side by side."""

from __future__ import annotations

import json
import math
import warnings

import pandas as pd
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.report import comparison, comparison_charts
from dsim.report.comparison import differences, verdict
from dsim.study.loader import loads
from dsim.study.measurements import read_measurements
from dsim.tasks.compare import compare, source
from dsim.tasks.run import run_study

# As `vllm bench serve --save-result --percentile-metrics ttft,tpot,itl,e2el` writes it, shortened.
VLLM = {
    "date": "20260801-101112",
    "backend": "vllm",
    "model_id": "m",
    "num_prompts": 100,
    "request_rate": 2.0,
    "max_concurrency": None,
    "duration": 50.0,
    "completed": 100,
    "request_throughput": 1.9,
    "request_goodput": None,
    "output_throughput": 190.0,
    **{f"mean_{q}_ms": v for q, v in (("ttft", 50.0), ("tpot", 11.0), ("itl", 30.0))},
    **{f"median_{q}_ms": v for q, v in (("ttft", 45.0), ("tpot", 10.5), ("itl", 29.0))},
    **{f"std_{q}_ms": v for q, v in (("ttft", 10.0), ("tpot", 1.0), ("itl", 3.0))},
    **{f"p99_{q}_ms": v for q, v in (("ttft", 90.0), ("tpot", 14.0), ("itl", 40.0))},
}
DETAILED = {"ttfts": [0.05, 0.06, 0.0], "itls": [[0.01, 0.02], [0.02, 0.03], []]}
DETAILED["errors"] = ["", "", "timed out"]


def summary(mean, std=1.0, count=100):
    """One distribution as guidellm writes it, of requests that were successful."""
    percentiles = {"p50": mean, "p90": 1.2 * mean, "p95": 1.3 * mean, "p99": 1.5 * mean}
    told = {"mean": mean, "std_dev": std, "count": count, "percentiles": percentiles}
    return {"successful": told, "errored": {"mean": 0.0}}


def guidellm(*rates):
    return {
        "metadata": {"version": 2, "guidellm_version": "0.6.0"},
        "benchmarks": [
            {
                "type_": "generative_benchmark",
                "config": {"strategy": {"type_": "constant", "rate": rate}},
                "metrics": {
                    "request_latency": summary(1.0 + rate, 0.2),  # in seconds
                    "time_to_first_token_ms": summary(50.0),
                    "time_per_output_token_ms": summary(12.0),
                    "inter_token_latency_ms": summary(11.0),
                    "requests_per_second": summary(rate),
                    "output_tokens_per_second": summary(100 * rate),
                },
            }
            for rate in rates
        ],
    }


def statistics(mean, unit="ms", **more):
    return {
        "unit": unit,
        "avg": mean,
        "p50": mean,
        "p90": mean,
        "p99": 2 * mean,
        "std": 1.0,
        **more,
    }


GENAI_PERF = {
    "request_throughput": {"unit": "requests/sec", "avg": 4.0},
    "request_latency": statistics(2000.0),
    "time_to_first_token": statistics(50.0),
    "inter_token_latency": statistics(11.0),
    "output_token_throughput": {"unit": "tokens/sec", "avg": 400.0},
    "request_count": {"unit": "count", "avg": 25},
    "input_config": {"perf_analyzer": {"stimulus": {"concurrency": 8}}},
}
AIPERF = {
    **{k: v for k, v in GENAI_PERF.items() if k != "input_config"},
    "schema_version": "1.3",
    "request_latency": statistics(2.0, "sec", count=25),
    "input_config": {"loadgen": {"request_rate": 4.0}},
}


def written(folder, name, value):
    path = folder / f"{name}.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_vllm(tmp_path):
    (row,) = read_measurements(written(tmp_path, "v", VLLM)).to_dict("records")
    assert row["algorithm"] == "measured"
    assert (row["ttft_mean_ms"], row["ttft_p50_ms"], row["ttft_p99_ms"]) == (50.0, 45.0, 90.0)
    assert (row["tpot_mean_ms"], row["itl_mean_ms"]) == (11.0, 30.0)
    assert row["ttft_mean_ci95_ms"] == pytest.approx(1.96)
    assert (row["workload_rate_per_s"], row["tokens_per_s"]) == (2.0, 190.0)
    assert "latency_mean_ms" not in row  # it was not asked for
    assert "workload_users" not in row


def test_vllm_with_details_and_appended(tmp_path):
    """The time to the last token comes from what is kept per request; failures do not count."""
    text = "\n".join(json.dumps(VLLM | DETAILED | {"request_rate": rate}) for rate in ("inf", 4))
    rows = read_measurements(written(tmp_path, "v", text))
    assert rows["latency_mean_ms"].tolist() == pytest.approx([95.0, 95.0])
    assert math.isnan(rows["workload_rate_per_s"][0])
    assert rows["workload_rate_per_s"][1] == 4


def test_guidellm(tmp_path):
    """Its ITL is what others call TPOT; its latency of requests is in seconds."""
    rows = read_measurements(written(tmp_path, "g", guidellm(1.0, 2.0)))
    assert rows["workload_rate_per_s"].tolist() == [1.0, 2.0]
    assert rows["latency_mean_ms"].tolist() == [2000.0, 3000.0]
    assert rows["latency_p99_ms"].tolist() == [3000.0, 4500.0]
    assert rows["latency_mean_ci95_ms"].tolist() == pytest.approx([39.2, 39.2])
    assert rows["tpot_mean_ms"].tolist() == [11.0, 11.0]


@pytest.mark.parametrize(
    ("record", "load"),
    [(GENAI_PERF, ("workload_users", 8)), (AIPERF, ("workload_rate_per_s", 4))],
)
def test_genai_perf_and_aiperf(tmp_path, record, load):
    (row,) = read_measurements(written(tmp_path, "p", record)).to_dict("records")
    assert (row["latency_mean_ms"], row["latency_p99_ms"]) == (2000.0, 4000.0)
    assert (row["tpot_mean_ms"], row["ttft_p50_ms"]) == (11.0, 50.0)
    assert row["latency_mean_ci95_ms"] == pytest.approx(
        1.96 * (1000 if "schema_version" in record else 1) / 5
    )
    assert row[load[0]] == load[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("", "is empty"),
        ("[1]", "expected a JSON object"),
        ('{"a": 1, "b": 2}', "got an object with a, b"),
        ('{"benchmarks": []}', "holds no latencies"),
    ],
)
def test_other_json_is_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_measurements(written(tmp_path, "x", text))


def csv(folder, name, text):
    path = folder / f"{name}.csv"
    path.write_text(text)
    return str(path)


MINE = "algorithm,lookahead,latency_mean_ms,latency_mean_ci95_ms\n"


def test_the_same_points_are_compared_with_intervals(tmp_path):
    one = source(csv(tmp_path, "a", MINE + "si,1,100,3\nsi,2,90,3\neagle,1,80,1\n"))
    other = source(csv(tmp_path, "b", MINE + "si,1,110,4\nsi,2,91,4\nsi,3,70,1\n"))
    table, keys = differences(one, other)
    assert keys == ["algorithm", "lookahead"]
    assert table["difference"].tolist() == [10, 1]
    assert table["difference_half"].tolist() == [5, 5]
    assert table["percent"].tolist() == pytest.approx([10, 100 / 90])
    sentence = verdict(one, other, table)
    assert "lower than in a in 0 of 2 points and higher in 1" in sentence


def test_other_names_of_algorithms_are_compared_with_all(tmp_path):
    one = source(csv(tmp_path, "a", "algorithm,latency_mean_ms\neagle,80\n"))
    other = source(csv(tmp_path, "b", "algorithm,latency_mean_ms\nsi,100\ndsi,60\n"))
    table, _ = differences(one, other)
    assert dict(zip(table["algorithm"], table["percent"], strict=True)) == pytest.approx(
        {"eagle | SI": 25.0, "eagle | DSI": -25.0}
    )


def test_what_differs_between_files_without_a_study_is_said(tmp_path):
    """Texts of 100 tokens were compared with texts of 50, in silence; 1 and 1.0 with a warning."""
    head = "algorithm,tokens,acceptance_rate,latency_mean_ms\n"
    (tmp_path / "mine.csv").write_text(f"{head}si,100,1,900\nsi,100,0,1900\n")
    (tmp_path / "other.csv").write_text(f"{head}si,50,1.0,450\nsi,50,0.5,700\n")
    one, other = (source(str(tmp_path / f"{name}.csv")) for name in ("mine", "other"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table, _ = differences(one, other)
    assert len(table) == 1
    assert comparison.changed(one, other) == "other differs from mine in: tokens 50 (100)."
    assert comparison.changed(one, one) == ""


def test_points_that_never_meet(tmp_path):
    one = source(csv(tmp_path, "a", "algorithm,lookahead,latency_mean_ms\nsi,1,9\nsi,2,8\n"))
    other = source(csv(tmp_path, "b", "algorithm,lookahead,latency_mean_ms\nsi,3,9\nsi,4,8\n"))
    table, _ = differences(one, other)
    assert "no point in common" in verdict(one, other, table)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sim") / "simulated"
    study = """
algorithms = ["si", "dsi"]
repeats = 3
target.latency_ms = 20
drafter.latency_ms = 2
tokens = 20
workload = {requests = 60}
cluster = {targets = 4, drafters = 4}
[grid]
workload.rate_per_s = [1, 2]
"""
    run_study(loads(study), folder)
    return folder


def test_measured_and_simulated_on_one_page(tmp_path, simulated):
    path = written(tmp_path, "bench", VLLM | DETAILED)
    report, (lines, _) = compare([f"my vLLM={path}", str(simulated)], tmp_path / "out")
    page = report.read_text()
    assert lines[0].startswith("simulated: the mean latency is lower than in my vLLM in")
    for words in ("my vLLM", "mean TTFT (ms)", "mean TPOT (ms)", "measured | DSI"):
        assert words in page
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert set(table["quantity"]) >= {"ttft_mean_ms", "tpot_mean_ms", "latency_mean_ms"}
    assert set(table["algorithm"]) == {"measured | SI", "measured | DSI"}
    assert len(table[table["quantity"] == "ttft_mean_ms"]) == 2  # the rate that both have
    names = sorted(path.name for path in report.parent.glob("*.svg"))
    assert names[0] == "01-lines-latency-mean-ms.svg"


def test_a_measurement_at_one_rate_is_a_point_there(tmp_path, simulated):
    """One that knows no rate is drawn along all of them."""
    one = source(str(simulated))
    rows = "algorithm,workload_rate_per_s,latency_mean_ms\nmine,{},900\n"
    for rate, places in (("2", {2.0}), ("", {1.0, 2.0})):
        other = source(csv(tmp_path, f"b{rate}", rows.format(rate)))
        chart = comparison_charts.panels([one, other])[0].chart.to_dict()
        (table,) = (t for t in chart["datasets"].values() if "series" in t[0])
        found = {row["workload_rate_per_s"] for row in table if row["series"].startswith("b")}
        assert found == places


def test_a_file_that_is_no_table_is_told_in_one_line(tmp_path):
    with pytest.raises(UserError) as caught:
        source(csv(tmp_path, "a", "algorithm,latency_mean_ms\nsi,1,190\nsi,2,3,4,5\n"))
    assert str(caught.value).endswith("saw 5")
    assert "\n" not in str(caught.value)


def test_a_verdict_tells_variants_apart(tmp_path):
    head = "variant,algorithm,workload_rate_per_s,latency_mean_ms\n"
    rows = "plain,nonsi,{0},40\nEAGLE-3,si,{0},10\nsmall,si,{0},16\n"
    one = source(csv(tmp_path, "a", head + "".join(rows.format(rate) for rate in (1, 2))))
    other = source(csv(tmp_path, "b", "algorithm,workload_rate_per_s,latency_mean_ms\nmine,2,20\n"))
    text = verdict(one, other, differences(one, other)[0])
    assert text.endswith("differences: plain -50.0 %; EAGLE-3 +100.0 %; small +25.0 %.")
    alone = source(csv(tmp_path, "c", "algorithm,latency_mean_ms\nmine,20\n"))
    assert "median differences: plain -50.0 %;" in verdict(one, alone, differences(one, alone)[0])


def test_algorithms_go_by_the_names_that_dsim_prints(tmp_path):
    """They were crossed: non-SI of one with DSI of the other, without a word."""
    one = source(csv(tmp_path, "a", "algorithm,latency_mean_ms\nnonsi,30\nsi,20\ndsi,10\n"))
    other = source(csv(tmp_path, "b", "algorithm,latency_mean_ms\nnon-SI,33\n Si,22\nDSI,11\n"))
    table, _ = differences(one, other)
    assert table["percent"].tolist() == pytest.approx([10, 10, 10])
    assert comparison.crossed(one, other) == ""
    strange = source(csv(tmp_path, "c", "algorithm,latency_mean_ms\nmine,33\nyours,22\n"))
    assert comparison.crossed(one, strange) == (
        "No algorithm of c (mine, yours) has the name of one of a (DSI, non-SI, SI), so each is "
        "compared with each."
    )
    _, (lines, _) = compare([str(tmp_path / "a.csv"), str(tmp_path / "c.csv")], tmp_path / "out")
    assert any(line.startswith("No algorithm of c") for line in lines)


def test_a_server_can_be_said_to_run_an_algorithm(tmp_path, simulated):
    """It was compared with all, and the median of all differences stood in the first sentence."""
    path = str(written(tmp_path, "bench", VLLM | DETAILED))
    _, (lines, _) = compare([str(simulated), path], tmp_path / "out")
    assert (
        "No algorithm of bench (measured) has the name of one of simulated (SI, DSI), so each is "
        "compared with each. Say with --measured what the measured server runs."
    ) in lines
    words = ["compare", str(simulated), path, "--out", str(tmp_path / "out"), "--measured", "si"]
    found = CliRunner().invoke(main, words)
    assert found.exit_code == 0, found.output
    assert "No algorithm" not in found.output
    table = pd.read_csv(tmp_path / "out" / "comparison.csv")
    assert set(table["algorithm"]) == {"SI"}


def test_grids_of_which_the_best_was_taken_are_told_apart(tmp_path):
    study = 'algorithms = ["si"]\nrepeats = 2\ntokens = 20\nminimise = ["lookahead"]\n'
    for name, grid in (("long", [1, 4, 9]), ("short", [1, 4])):
        made = loads(f"{study}[grid]\nlookahead = {grid}\nacceptance.rate = [0.2, 0.9]\n")
        run_study(made, tmp_path / name)
    one, other = (source(str(tmp_path / name)) for name in ("long", "short"))
    told = "short differs from long in: lookahead the best of 1, 4 (the best of 1, 4, 9)."
    assert comparison.changed(one, other) == told
    assert comparison.changed(one, one) == ""


def test_commands(tmp_path, simulated):
    out = ["--out", str(tmp_path / "c")]
    found = CliRunner().invoke(main, ["compare", str(simulated), f"again={simulated}", *out])
    assert found.exit_code == 0, found.output
    assert "lower than in simulated in 0 of 4 points and higher in 0" in found.output
    path = written(tmp_path, "sweep", guidellm(1.0, 2.0))
    found = CliRunner().invoke(main, ["plot", str(path), *out])
    assert found.exit_code == 0, found.output
    assert (tmp_path / "c" / "01-lines-latency-mean-ms.svg").is_file()
    assert CliRunner().invoke(main, ["compare", str(simulated)]).exit_code == 2
    (tmp_path / "c" / "mine.txt").write_text("")
    found = CliRunner().invoke(main, ["plot", str(path), *out])
    assert found.exit_code == 2
    assert "mine.txt" in found.output


def test_axes_that_keep_no_rows_apart_are_said(tmp_path):
    """A column called acceptance met every acceptance rate of the other, in silence."""
    head = "algorithm,{},latency_mean_ms\n"
    one = source(csv(tmp_path, "mine", head.format("acceptance") + "si,0.6,39\nsi,0.7,32\n"))
    other = source(csv(tmp_path, "its", head.format("acceptance_rate") + "si,0.6,4\nsi,0.7,3\n"))
    told = comparison.apart(one, other)
    assert told.startswith("its has no acceptance, which mine varies; mine has no acceptance rate")
    assert told.endswith(
        '"acceptance" of mine the acceptance rate? Then call the column acceptance_rate.'
    )
    assert comparison.apart(other, other) == ""
    _, (lines, _) = compare(
        [csv(tmp_path, "mine", (tmp_path / "mine.csv").read_text()), str(tmp_path / "its.csv")],
        tmp_path / "out",
    )
    assert told in lines


@pytest.mark.parametrize(
    ("value", "hint"), [("63%", "write 0.63"), ("0,63", "write 0.63, with a decimal point")]
)
def test_numbers_as_spreadsheets_write_them_are_refused(tmp_path, value, hint):
    text = f"algorithm;acceptance.rate;latency_mean_ms\nsi;{value};39\n"
    with pytest.raises(
        UserError, match=f"acceptance.rate: line 2: expected numbers, got '{value}'; {hint}"
    ):
        source(csv(tmp_path, "mine", text))


def test_an_algorithm_that_takes_no_lookahead_is_compared_at_each(tmp_path):
    """A blank lookahead of non-SI dropped its row without a word."""
    head = "algorithm,lookahead,latency_mean_ms\n"
    one = source(csv(tmp_path, "mine", f"{head}nonsi,,60\nsi,1,41\nsi,2,35\n"))
    other = source(csv(tmp_path, "its", f"{head}nonsi,1,66\nnonsi,2,66\nsi,1,41\nsi,2,35\n"))
    table, _ = differences(one, other)
    assert table["percent"].tolist() == pytest.approx([10, 10, 0, 0])


def test_a_measurement_under_another_load_is_said(tmp_path, simulated):
    """A burst of short prompts was compared with a Poisson load of long ones, in silence."""
    folder = tmp_path / "one"
    study = (simulated / "study.toml").read_text("utf-8").partition("[grid]")[0]
    run_study(loads(study, overrides=["workload.rate_per_s=1.5", "algorithms=['si']"]), folder)
    bench = VLLM | {"request_rate": 1.51, "completed": 4}
    bench |= {"total_input_tokens": 0, "total_output_tokens": 82}

    def told(**more):
        one = source(str(written(tmp_path, "bench", bench | more)))
        return comparison.changed(one, source(str(folder)))

    assert told() == ""  # within a few percent
    assert told(request_rate="inf") == (
        "one differs from bench in: requests a second 1.5 (all at once)."
    )
    assert "tokens of an answer 20 (50)" in told(total_output_tokens=200)
    assert "requests a second 1.5 (3)" in told(request_rate=3)


def test_requests_that_failed_are_told(tmp_path, simulated):
    """Latencies of the 60 % that were answered stood beside those of all."""
    for completed, told in ((100, False), (60, True)):
        path = written(tmp_path, "bench", VLLM | DETAILED | {"completed": completed})
        _, (lines, _) = compare([str(path), str(simulated)], tmp_path / f"out{completed}")
        words = "40 of 100 requests of bench failed; its times are of the others."
        assert (words in lines) == told


def test_the_rate_of_a_bench_is_no_unknown_column(tmp_path, simulated):
    path = written(tmp_path, "bench", VLLM | DETAILED)
    _, (lines, _) = compare([str(path), str(simulated)], tmp_path / "out")
    assert not any("Not compared" in line for line in lines)
