"""Settings that are set and change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study.idle import DECIDES, READ, idle_settings
from dsim.study.loader import load, loads
from dsim.study.settings import BY_KEY

STUDIES = Path(__file__).parents[2] / "studies"


def notes(text):
    return of(loads(text))


def of(study):
    variants = [study.of_variant(number) for number in range(len(study.variants))]
    return idle_settings(variants, {axis.key: axis.values for axis in study.grid})


def test_what_lacks_its_partner_is_named():
    """It was ignored in silence, and shown in the report as if it mattered."""
    (one,) = notes("target.latency_cv = 0.2")
    assert one == (
        'target.latency_cv has no effect: target.latency_model is "constant"; it matters with '
        '"lognormal" or "gamma".'
    )
    assert notes("target = {latency_cv = 0.2, latency_model = 'gamma'}") == []
    (one,) = notes("more_drafters = {latency_ms = [8], acceptance_rate = [0.8]}")
    assert one.startswith("more_drafters.latency_ms has no effect on non-SI, SI, DSI; it matters")
    assert notes("tree.depth = 3")[0].startswith("tree.depth has no effect on non-SI, SI, DSI; ")
    assert notes("tree.depth = 3\nalgorithms = ['nonsi', 'tree']") == []
    assert notes("targets = 3") == []
    assert notes("targets = 3\nalgorithms = ['nonsi', 'si']")[0].startswith("targets has no effect")


def test_what_matters_in_some_case_is_not_named():
    swept = "target.latency_cv = 0.2\n[grid]\ntarget.latency_model = ['constant', 'gamma']"
    assert notes(swept) == []
    variants = "target.latency_cv = 0.2\n[[variants]]\nname = 'a'\n[[variants]]\nname = 'b'\n"
    assert len(notes(variants)) == 1
    assert notes(f"{variants}target.latency_model = 'lognormal'\n") == []
    swept = "algorithms = ['nonsi', 'si']\n[grid]\nacceptance.decay = [0.8, 0.9]\n"
    assert notes(swept)[0].startswith('acceptance.decay has no effect: acceptance.model is "bern')


def test_no_study_that_ships_sets_what_has_no_effect():
    for path in STUDIES.glob("*.toml"):
        try:
            study = load(path)
        except UserError:  # of another command
            continue
        assert of(study) == [], path


def test_every_rule_is_of_settings_that_there_are():
    assert {*DECIDES, *READ} <= BY_KEY.keys()
    for other, kinds in DECIDES.values():
        assert {*kinds} <= {*BY_KEY[other].choices}


@pytest.mark.parametrize("command", ["simulate", "run sanity"])
def test_a_user_reads_it(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), "--set", "drafter.latency_cv=0.3", "--set", "repeats=2"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "drafter.latency_cv has no effect: drafter.latency_model is" in result.output
    if command == "run sanity":
        (page,) = tmp_path.glob("results/*/report.html")
        assert "drafter.latency_cv has no effect" in page.read_text("utf-8")
