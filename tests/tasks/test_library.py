"""The Python interface, as a user of the library meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

import dsim
from dsim.cli.main import main
from dsim.errors import UserError
from tests import ROOT

SMALL = {
    "tokens": 20,
    "repeats": 2,
    "grid": {"acceptance.rate": [0.5, 0.9], "lookahead": [1, 2, 4]},
    "minimise": ["lookahead"],
}


def test_one_case_is_that_of_the_command_line():
    words = "simulate --json --settled --algorithm dsi".split()
    (case,) = json.loads(CliRunner().invoke(main, words).output)["cases"]
    outcome = dsim.simulate("dsi")
    assert outcome.latency_ns.tolist() == case["latency_ns"]
    assert outcome.settled_ns.tolist() == case["settled_ns"]


def test_keywords_are_settings():
    outcome = dsim.simulate(
        "dsi", target_ms=10, drafter_ms=3, lookahead=2, targets=3, tokens=6, repeats=1,
        acceptance_model="trace", set={"acceptance.trace": "110111"},
    )  # fmt: skip
    assert outcome.latency_ns.tolist() == [32_000_000]
    varied = dsim.simulate(target_latency_model="gamma", set={"target.latency_cv": np.float64(0.3)})
    assert varied.engine == "events"
    assert len(set(varied.latency_ns.tolist())) == 20


def test_an_outcome_has_a_table_and_a_timeline():
    outcome = dsim.simulate("dsi", tokens=10, repeats=3)
    assert outcome.table["latency_ms"].tolist() == (outcome.latency_ns / 1e6).tolist()
    assert outcome.table["drafts"].tolist() == outcome.drafts.tolist()
    assert "start_ms" in json.dumps(outcome.timeline(2).to_dict())
    assert "vega" in json.dumps(outcome._repr_mimebundle_())
    lines = repr(outcome).splitlines()
    assert lines[0].startswith("DSI, 3 repeats (vector engine): 10 tokens;")
    assert lines[3].split()[:3] == ["latency", "(ms)", f"{outcome.latency_ns.mean() / 1e6:,.1f}"]
    with pytest.raises(dsim.UserError, match="expected a number from 0 to 2, got 3"):
        outcome.timeline(3)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"lookahed": 3}, 'simulate: lookahed: unknown keyword; did you mean "lookahead"?'),
        ({"acceptance": 80}, "simulate: acceptance: expected a number from 0 to 1, got 80"),
        ({"target_ms": -1}, "simulate: target_ms: expected a number above 0, got -1"),
        ({"set": {"drafter.latency_modle": "gamma"}}, 'did you mean "drafter.latency_model"?'),
        ({"algorithm": "DSI"}, 'did you mean "dsi"?'),
    ],
)
def test_mistakes_name_the_keyword(keywords, message):
    with pytest.raises(dsim.UserError, match=re.escape(message)):
        dsim.simulate(**keywords)


def test_a_setting_without_effect_is_warned_of():
    for way in ({"target_latency_cv": 0.2}, {"set": {"target.latency_cv": 0.2}}):
        with pytest.warns(UserWarning, match='target.latency_cv has no effect: .* "constant"'):
            dsim.simulate("nonsi", **way)
    noisy = dsim.simulate("nonsi", target_latency_cv=0.2, target_latency_model="gamma")
    assert noisy.latency_ns.std() > 0


def test_a_case_by_an_unknown_algorithm_names_the_nearest():
    with pytest.raises(dsim.UserError, match='did you mean "dsi"'):
        dsim.simulate_case(dsim.make_case({}), "DSI")


def test_a_study_from_a_file_a_dictionary_or_text_is_the_same():
    study = dsim.Study.from_dict(SMALL)
    assert dsim.Study.from_toml(study.to_toml()).to_toml() == study.to_toml()
    assert dsim.loads(study.to_toml()) == dsim.Study.from_toml(study.to_toml())
    assert isinstance(dsim.load(ROOT / "studies" / "sanity.toml"), dsim.Study)
    by_tables = dsim.Study.from_dict({"target": {"latency_ms": 9.0}, "drafter.latency_ms": 2.0})
    assert by_tables.settings["target.latency_ms"] == 9.0
    assert by_tables.settings["drafter.latency_ms"] == 2.0


def test_running_a_study_gives_table_charts_and_a_folder(tmp_path):
    results = dsim.run(SMALL)
    assert len(results.table) == 2 * 3 * 3
    assert results.charts
    assert "vega" in json.dumps(results._repr_mimebundle_())
    printed = repr(results).splitlines()
    assert printed[1].split()[:3] == ["algorithm", "acceptance_rate", "lookahead"]
    assert printed[-1] == "… and 6 rows more: .table"
    report = results.save(tmp_path / "out")
    again = dsim.run_study(dsim.Study.from_dict(SMALL), tmp_path / "again")
    assert report.name == "report.html"
    for name in ("results.csv", "study.toml"):
        assert (tmp_path / "out" / name).read_bytes() == (again.folder / name).read_bytes()
    assert len(dsim.run(ROOT / "studies" / "sanity.toml", set={"repeats": 2}).table) == 33


def test_a_deployment_is_run_like_any_other_study(tmp_path):
    results = dsim.run("load", set={"workload.requests": 20, "algorithms": ["nonsi", "dsi"]})
    assert set(results.table["algorithm"]) == {"nonsi", "dsi"}
    assert len(results.charts) == 5
    assert results.save(tmp_path / "out").is_file()


def test_names_are_listed_and_documented():
    assert set(dsim.__all__) < set(dir(dsim))
    page = (ROOT / "docs" / "library.md").read_text()
    for name in dsim.__all__:
        assert f"`dsim.{name}" in page
        assert getattr(dsim, name).__doc__
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_one_case_has_the_same_defaults_everywhere():
    import json

    from click.testing import CliRunner

    from dsim.cli.main import main

    case = dsim.make_case({})
    assert case == dsim.simulate().case
    shown = json.loads(CliRunner().invoke(main, ["simulate", "--json"]).output)
    (dsi,) = (one for one in shown["cases"] if one["algorithm"] == "dsi")
    assert dsi["latency_ns"] == dsim.simulate_case(case, "dsi").latency_ns.tolist()
    relative = dsim.make_case({"drafter.latency_relative": 0.5})
    assert relative.drafter.latency_ns * 2 == relative.target.latency_ns == case.target.latency_ns


def test_a_method_sets_what_nobody_gave():
    """The default lookahead was said to contradict the method's."""
    assert dsim.simulate("si", method="mtp", repeats=2).case.lookahead == 1
    assert dsim.simulate("si", set={"method": "mtp"}, repeats=2).case.lookahead == 1
    with pytest.raises(UserError, match="contradicts method"):
        dsim.simulate("si", method="mtp", lookahead=3)
