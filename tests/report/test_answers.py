"""The sentences that open a report."""

from __future__ import annotations

import pandas as pd
import pytest

from dsim.report import analysis, answers
from dsim.study.study import Chart

AXES = ["acceptance_rate"]


def sentences(*rows, half_ms=0.5, show="si", against="nonsi"):
    """What is told of points with the latencies of non-SI, SI and DSI in *rows*."""
    frame = pd.DataFrame(
        [
            (name, float(x), ms, half_ms)
            for x, row in enumerate(rows)
            for name, ms in zip(("nonsi", "si", "dsi"), row, strict=True)
        ],
        columns=["algorithm", *AXES, "latency_mean_ms", "latency_ci95_ms"],
    )
    chart = Chart(kind="heatmap", x="acceptance.rate", y="lookahead", show=show, against=against)
    charts = [Chart(kind="lines", x="acceptance.rate", y="latency_mean_ms"), chart] * bool(show)
    return answers.of_texts(analysis.best(frame, AXES, []), AXES, charts)


ROWS = ((100.0, 50.0, 40.0), (100.0, 100.0, 90.0), (100.0, 125.0, 99.9), (100.0, 100.2, 101.0))


def test_ties_and_points_that_lack_an_algorithm_are_told():
    """Non-SI was "the fastest" at points where DSI took as long to the nanosecond."""
    told = sentences((100.0, 100.0, 120.0), (100.0, 80.0, None), *ROWS)
    assert told[1].startswith("At 1 of them several are equally fast, of which the first")
    assert told[2] == "At 1 of them not every algorithm has a row."
    assert not any("equally fast, of which" in line for line in sentences(*ROWS))


def test_the_fastest_at_how_many_points():
    first, *_ = sentences(*ROWS)
    assert first == (
        "Of 4 grid points, DSI is the fastest at 3 (at 2 by more than the 95 % interval), "
        "non-SI at 1 (at none by more than the 95 % interval)."
    )


def test_without_intervals_nothing_is_significant():
    """One repeat was "slower by more than the 95 % interval"."""
    first, asked, last = sentences(*ROWS[:2], half_ms=float("nan"))
    assert first == (
        "Of 2 grid points, DSI is the fastest at 2; no interval is known, so it may be chance."
    )
    assert "significantly" not in asked + last
    assert "Of 2 points it is faster at 1, slower at none, and equally fast at 1." in asked


def test_of_equals_the_simpler_is_the_fastest():
    """A map said so, and the sentence above it named another."""
    first, *_ = sentences((100.0, 120.0, 100.0), (100.0, 120.0, 90.0))
    assert "non-SI is the fastest at 1 (at none by" in first
    assert "DSI at 1 (at 1 by" in first


def test_what_the_first_map_asks_is_told_second():
    _, asked, *more = sentences(*ROWS)
    assert asked == (
        "SI is 0.80× to 2.00× as fast as non-SI (median 1.00×). Of 4 points it is significantly "
        "faster at 1, slower at 1, and equally fast at 1."
    )
    assert [one.split(" is ")[0] for one in more] == ["DSI"]
    _, asked = sentences(*ROWS[:2], show="dsi", against="nonsi")  # once is enough
    assert asked.startswith("DSI is 1.11× to 2.50× as fast as non-SI")
    _, asked, _ = sentences(*ROWS, show="dsi", against="best")
    assert "as fast as the better of non-SI and SI" in asked


def test_equal_everywhere_is_told_in_a_word():
    _, asked, _ = sentences((50.0, 50.0, 40.0), (60.0, 60.0, 40.0))
    assert asked == "SI is as fast as non-SI at all of 2 points."


@pytest.mark.parametrize("show", ["", "multidsi"])
def test_nothing_is_told_of_what_was_not_asked_or_not_simulated(show):
    assert len(sentences(*ROWS, show=show)) == 2


def served(axis, *rows, half_ms=0.5):
    """What is told of a deployment with the E2E latencies of non-SI and SI in *rows*, by value."""
    frame = pd.DataFrame(
        [
            (value, status, ms, half_ms)
            for value, *both in rows
            for ms, status in ((ms, "ok" if ms else "saturated") for ms in both)
        ],
        columns=[axis, "status", "latency_mean_ms", "latency_ci95_ms"],
    )
    series = pd.Series(["non-SI", "SI"] * len(rows))
    return answers.of_deployments(frame, series, [axis])


def test_a_deployment_is_told_at_both_ends_of_what_is_no_load():
    """The last acceptance rate alone was told, at which drafting looks best."""
    low, high = served(
        "acceptance_rate", (0.3, 600.0, 620.0), (0.6, 600.0, 400.0), (0.9, 600.0, 200.0)
    )
    assert low.startswith(
        "At an acceptance rate of 0.3, mean E2E latency: non-SI 600.0 ± 0.5 ms; SI"
    )
    assert high.startswith(
        "At an acceptance rate of 0.9, mean E2E latency: SI 200.0 ± 0.5 ms; non-"
    )
    (only,) = served("acceptance_rate", (0.9, 600.0, 200.0))
    assert only.startswith("Mean E2E latency: SI 200.0 ± 0.5 ms; non-SI 600.0")


def test_a_deployment_is_told_at_the_highest_load_that_all_carry():
    told = served("rate_per_s", (1.0, 600.0, 300.0), (2.0, 700.0, 320.0), (3.0, None, 400.0))
    assert len(told) == 2
    assert told[0].startswith("At a rate of 2 per second, mean E2E latency: SI 320.0")
    assert told[1].endswith("sustained, of those tried: SI up to 3; non-SI up to 2.")


def test_a_deployment_is_told_by_the_slo_of_its_study():
    """A load was "sustained" at which 3 % of the requests kept the SLO."""
    rates = [(1.0, 1.0, 1.0), (2.0, 1.0, 2.0), (3.0, 0.1, 2.9)]  # with what keeps the SLO
    frame = pd.DataFrame(
        [(rate, "ok", 600.0, rate, good) for rate, *both in rates for good in both],
        columns=["rate_per_s", "status", "latency_mean_ms", "throughput_per_s", "goodput_per_s"],
    )
    series = pd.Series(["non-SI", "SI"] * len(rates))
    told = answers.of_deployments(frame, series, ["rate_per_s"])
    assert told[-1].startswith("99% of the requests keep the SLO, by rate: SI up to 2;")
    assert told[-1].endswith("non-SI up to 1.")
    late = frame.assign(goodput_per_s=0.0)
    assert answers.of_deployments(late, series, ["rate_per_s"])[-1].endswith("SI at none.")
    free = frame.assign(goodput_per_s=float("nan"))
    assert "SLO" not in "".join(answers.of_deployments(free, series, ["rate_per_s"]))


def test_unequal_hardware_is_told_with_the_latencies():
    """DSI on 32 GPUs was said to be faster than SI on 4, and nothing else."""
    frame = pd.DataFrame({"status": "ok", "latency_mean_ms": [1339.0, 1526.0], "gpus": [32.0, 4.0]})
    (told,) = answers.of_deployments(frame, pd.Series(["DSI", "SI"]), [])
    assert told.startswith("Mean E2E latency: DSI 1,339 ms on 32 GPUs; SI 1,526 ms on 4 GPUs")
    (told,) = answers.of_deployments(frame.assign(gpus=4.0), pd.Series(["DSI", "SI"]), [])
    assert "GPU" not in told
