"""What ``dsim simulate`` says of one case."""

from __future__ import annotations

import warnings

import pytest
from click.testing import CliRunner

import dsim
from dsim.cli.main import main


def said(words, code=0):
    result = CliRunner().invoke(main, ["simulate", *words.split()])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--acceptance 0.7 --set acceptance.mean_length=2.8 --set acceptance.at_lookahead=5",
            "--acceptance: cannot be given together with acceptance.mean_length=2.8",
        ),
        (
            "--drafter-latency 4 --set drafter.latency_relative=0.5",
            "--drafter-latency: cannot be given together with drafter.latency_relative=0.5",
        ),
        (
            "--lookahead 3 --set lookahead=4",
            "--lookahead: cannot be given together with lookahead=4",
        ),
    ],
)
def test_one_thing_is_said_once(words, told):
    """What came last won, in silence."""
    assert said(words, 2) == f"error: {told}\n"
    *others, last = words.split(" --set ", 1)
    said(f"--set {last}")  # a default gives way
    said(others[0])


def test_one_thing_is_said_once_in_python():
    length = {"acceptance_mean_length": 2.8, "acceptance_at_lookahead": 5}
    with pytest.raises(dsim.UserError, match="acceptance: cannot be given together with"):
        dsim.simulate(acceptance=0.7, **length)
    with pytest.raises(dsim.UserError, match="cannot be given together with target.latency_ms=30"):
        dsim.simulate(target_ms=45, target_latency_ms=30)
    with warnings.catch_warnings(action="error"):
        assert dsim.simulate(**length).case.acceptance.rate == pytest.approx(0.69, abs=0.02)
        by_key = dsim.simulate(acceptance=0.7, set={"acceptance.rate": 0.5})  # as documented
    assert by_key.case.acceptance.rate == 0.5


def test_one_repeat_explains_nothing():
    words = "--acceptance 0.14 --lookahead 1 --algorithm nonsi --algorithm si"
    for seed in range(5):
        (told,) = [
            line
            for line in said(f"{words} --repeats 1 --seed {seed}").splitlines()
            if " is fastest" in line
        ]
        assert told.endswith("in this one repeat; --repeats 20 tells whether that is chance.") or (
            "so little that it hardly counts" in told
        )
    assert "tells whether that is chance" not in said(
        "--accepts 1101 --algorithm nonsi --algorithm si"
    )
    assert "tells whether that is chance" not in said("--acceptance 1 --repeats 1")


def test_what_decides_a_tree_is_said():
    assert "depth 5, confidence quality 0\n" in said(
        "--algorithm tree --rank-shares 0.4 --set confidence_quality=0"
    )


def test_a_variation_in_percent_is_refused():
    told = said("--set target.latency_model=gamma --set target.latency_cv=20", 2)
    assert "target.latency_cv: expected a number above 0, up to 5, got 20" in told


def test_what_there_is_to_know_of_a_method_is_said():
    """PEARL's own lookahead, and the time of a search, were in ``dsim presets`` alone."""
    for method, words in (
        ("pearl", "PEARL: lookahead is its γ; by its own rule that is round(t2 / t1), which"),
        ("ngram", "n-grams, prompt lookup: there is not always a draft; drafter.latency_ms is"),
    ):
        found = CliRunner().invoke(
            main, ["simulate", "--method", method, "--tokens", "4", "--repeats", "2"]
        )
        assert any(line.startswith(words) for line in found.output.splitlines())


def test_one_recorded_text_has_no_interval():
    words = "simulate --accepts 110100 --tokens 6 --repeats 100".split()
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "±" not in result.output
    assert "mean over 100 repeats of 1 recorded text (" in result.output


def test_a_method_that_is_taken_for_an_algorithm_is_said_to_be_one():
    result = CliRunner().invoke(main, ["simulate", "--algorithm", "eagle3"])
    assert result.exit_code == 2
    assert "got eagle3; it is a method: --method eagle3" in result.output
