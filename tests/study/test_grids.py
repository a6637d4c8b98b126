"""Axes of the grid, overrides, and studies that are written down."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.errors import UserError
from dsim.study import loader as studies
from dsim.study.axis_values import expand
from dsim.study.build import case_of
from dsim.study.loader import load, loads
from dsim.study.setting import Problems
from dsim.study.settings import BY_KEY, SETTINGS
from tests.study.test_study import SHIPPED, TITLES, axis, problems


def test_axes():
    assert axis("lookahead = [3, 1]") == (3, 1)
    assert axis("lookahead = {start = 1, stop = 7, step = 2}") == (1, 3, 5, 7)
    assert axis("lookahead = {start = 1, stop = 8, step = 2}") == (1, 3, 5, 7)
    assert axis("lookahead = {start = 1, stop = 9, count = 3}") == (1, 5, 9)
    assert axis("lookahead = {start = 4, stop = 9, count = 1}") == (4,)
    assert axis("lookahead = {start = 3, stop = 1, step = -1}") == (3, 2, 1)
    assert axis("preemptible = [true, false]") == (True, False)
    rates = axis("acceptance.rate = {start = 0.05, stop = 1.0, step = 0.05}")
    assert rates == tuple(float(f"{i * 5 / 100:.2f}") for i in range(1, 21))


@given(
    st.integers(-1000, 1000), st.integers(1, 60), st.integers(1, 200), st.sampled_from([1, 10, 100])
)
def test_ranges_have_the_values_that_a_person_expects(start, step, count, scale):
    """Steps of 0.01 give 0.07 and not 0.07000000000000001."""
    low, by, stop = start / scale, step / scale, (start + step * (count - 1)) / scale
    written = {"start": low, "stop": stop, "step": by}
    values = expand(Problems("s"), "x", written, BY_KEY["acceptance.rate"])
    if count > 1:
        assert values == [(start + step * i) / scale for i in range(count)]


def test_overrides_win():
    text = """
    minimise = ["lookahead"]
    [drafter]
    latency_relative = 0.2
    [grid]
    lookahead = [1, 2, 3]
    seed = [1, 2]
    [[variants]]
    name = "a"
    acceptance.rate = 0.1
    """
    study = loads(
        text,
        overrides=[
            "lookahead=4",
            "drafter.latency_ms=0.05",
            "acceptance.rate = 0.7",
            "grid.tokens=[5, 6]",
            "drafter.latency_model=gamma",
            "drafter.latency_cv=0.5",
            'title="x = y"',
        ],
    )
    assert [a.key for a in study.grid] == ["seed", "tokens"]
    values = study.of_variant(0)
    assert values["lookahead"] == 4
    assert values["minimise"] == []
    assert values["drafter.latency_ms"] == 0.05
    assert values["drafter.latency_relative"] is None
    assert values["acceptance.rate"] == 0.7
    assert values["drafter.latency_model"] == "gamma"
    assert values["title"] == "x = y"


def test_targets_in_words():
    def targets(word, lookahead):
        text = f'targets = "{word}"\nlookahead = {lookahead}\n[drafter]\nlatency_relative = 0.3'
        return case_of(loads(text).of_variant(0)).targets

    assert [targets("paper", k) for k in (1, 2, 3, 4)] == [4, 2, 2, 1]
    assert [targets("enough", k) for k in (1, 2, 3, 4)] == [5, 3, 3, 2]


def test_first_latencies():
    text = "[target]\nlatency_ms = 10\nfirst_latency_ratio = 2.5\n[drafter]\nfirst_latency_ms = 7"
    case = case_of(loads(text).of_variant(0))
    assert (case.target.first_ns, case.drafter.first_ns) == (25_000_000, 7_000_000)
    assert case_of(loads("").of_variant(0)).target.first_ns is None


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_studies_can_be_read_and_written_down(path):
    if "[workload]" in path.read_text():
        study = studies.load(path)
        assert study.kind == "deployment"
        again = studies.loads(study.to_toml())
    else:
        study = load(path)
        again = loads(study.to_toml())
    assert again.to_toml() == study.to_toml()
    assert again.grid == study.grid
    assert again.charts == study.charts
    assert again.variants == study.variants
    assert dict(again.settings) == dict(study.settings)
    assert study.settings["title"]
    assert study.charts or study.settings.get("workload.trace")


@given(TITLES, TITLES.filter(bool), st.floats(1e-9, 1e9), st.floats(0, 1))
def test_what_is_written_down_is_read_back(title, name, latency_ms, rate):
    document = {
        "title": title,
        "target": {"latency_ms": latency_ms},
        "grid": {"lookahead": [2, 1], "acceptance": {"rate": [rate]}},
        "variants": [{"name": name, "tokens": 7}],
        "charts": [{"kind": "lines", "x": "lookahead", "y": "drafts", "title": name}],
    }
    study = studies._Loader("s", Path()).study(document, ())
    again = loads(study.to_toml())
    assert dict(again.settings) == dict(study.settings)
    assert (again.grid, again.variants, again.charts) == (study.grid, study.variants, study.charts)


def test_defaults_are_valid():
    for setting in SETTINGS:
        if setting.default is not None:
            assert setting.problem(setting.default) is None, setting.key
        assert setting.meaning
        assert setting.expected


def test_a_resolved_study_is_toml_with_every_setting():
    document = tomllib.loads(loads("").to_toml())
    for setting in SETTINGS:
        table = document
        for part in setting.key.split("."):
            table = table.get(part) if isinstance(table, dict) else None
        if setting.default is not None and setting.key != "drafter.latency_ms":
            assert table == setting.default, setting.key


def test_a_study_of_another_command_is_named_once():
    """Not once for each of its settings."""
    found = problems('prompts = 3\n[[pairs]]\nname = "a"\n[[sets]]\nname = "b"')
    assert found == ["s.toml: pairs: this is a study of dsim measure"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("tokens = 3", "text"),
        ("[cluster]\ntargets = 3", "deployment"),
        ("slo.latency_ms = 3", "deployment"),
        ("[grid]\nworkload.rate_per_s = [1.0, 2.0]", "deployment"),
        ('[[variants]]\nname = "a"\ncluster.targets = 3', "deployment"),
    ],
)
def test_the_tables_decide_the_kind(text, kind):
    assert loads(text).kind == kind


def test_variants_that_set_algorithms_lose_their_names_with_them():
    """Or rows would be called "non-SI, 8 targets | SI"."""
    text = """
    [workload]
    requests = 3
    [[variants]]
    name = "non-SI, 8 targets"
    algorithms = ["nonsi"]
    cluster.targets = 8
    [[variants]]
    name = "SI"
    algorithms = ["si"]
    [[variants]]
    name = "DSI"
    algorithms = ["dsi"]
    """
    study = loads(text, overrides=['algorithms=["si", "dsi"]'])
    assert study.variants == (("targets 8", {"cluster.targets": 8}), ("no settings of its own", {}))
    assert [name for name, _ in loads(text).variants] == ["non-SI, 8 targets", "SI", "DSI"]


def test_charts_of_an_axis_that_an_override_ends_are_left_out():
    """``dsim run heatmap --set drafter.latency_relative=0.1`` was refused by each chart."""
    text = """
minimise = ["lookahead"]
[grid]
acceptance.rate = [0.2, 0.9]
drafter.latency_relative = [0.1, 0.5]
lookahead = [1, 2]
[[charts]]
kind = "map"
x = "acceptance.rate"
y = "drafter.latency_relative"
show = "si"
[[charts]]
kind = "lines"
x = "acceptance.rate"
y = "latency_mean_ms"
"""
    assert len(loads(text).charts) == 2
    study = loads(text, overrides=["drafter.latency_relative=0.1"])
    assert [chart.kind for chart in study.charts] == ["lines"]
    assert [axis.key for axis in study.grid] == ["acceptance.rate", "lookahead"]
    assert len(loads(text, overrides=["grid.drafter.latency_relative=[0.1, 0.3]"]).charts) == 2
    with pytest.raises(UserError, match="charts"):
        loads(text.replace('x = "acceptance.rate"', "x = [1]"), overrides=["tokens=9"])
