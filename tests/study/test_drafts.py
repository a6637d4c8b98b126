"""Settings of drafts: rates as people have them, methods by name, options, studies of the field."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.engines.simulate import simulate_case
from dsim.errors import UserError
from dsim.model.closed_forms import si_tokens_per_round
from dsim.report import charts
from dsim.study.grid import run_grid
from dsim.study.loader import loads, make_case
from dsim.study.presets import PRESETS


def refused(text):
    with pytest.raises(UserError) as error:
        loads(text, "s.toml")
    return str(error.value)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=6))
def test_chances_by_position_are_products_of_rates_by_depth(rates):
    chances, running = [], 1.0
    for rate in rates:
        running *= rate
        chances.append(running)
    found = make_case({"acceptance.per_position": chances}).acceptance
    assert found.by_depth == pytest.approx(rates)


@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_mean_lengths_are_those_of_si(rate, lookahead):
    length = si_tokens_per_round(rate, lookahead)
    found = make_case({"acceptance.mean_length": length, "acceptance.at_lookahead": lookahead})
    assert found.acceptance.rate == pytest.approx(rate, abs=1e-6)
    assert make_case({"acceptance.mean_run": 1 / (1 - rate)}).acceptance.rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per_position = [0.5, 0.7]", "expected chances that never rise, got 0.7 behind 0.5"),
        ("mean_length = 7.0\nat_lookahead = 5", "expected from 1 to 6 (acceptance.at_lookahead"),
        ("mean_length = 3.0", "acceptance.at_lookahead: is missing"),
        ("rank_shares = [0.8, 0.5]", "expected shares whose sum is at most 1, got 1.3"),
        ("by_depth = [0.5]\nspread = 0.1", "goes with acceptance.spread = 0, not 0.1"),
        ("rate = 0.5\nby_depth = [0.5]", 'cannot be set together with "acceptance.rate"'),
        ('trace = "12"\n[tree]\npaths = [[2, 1]]', "[2, 1] is there without its parent [2]"),
        ("rate = 0.5\n[tree]\npaths = [[1], [1]]", "tree.paths: duplicate path"),
        ("rate = 0.5\n[tree]\npaths = [[0]]", "expected a list of paths, each of ranks from 1 on"),
    ],
)
def test_impossible_rates_and_trees_are_named(text, message):
    assert message in refused(f"[acceptance]\n{text}")


@pytest.mark.parametrize("name", PRESETS)
def test_a_method_is_its_orchestration_and_settings(name):
    study = loads(f'method = "{name}"\n')
    assert PRESETS[name].orchestration in study.settings["algorithms"]
    for key, value in PRESETS[name].settings.items():
        assert study.settings[key] == value


def test_what_contradicts_a_method_is_named():
    assert 'tree.depth: 3 contradicts method = "eagle3", which has 8' in refused(
        'method = "eagle3"\ntree.depth = 3\n'
    )
    assert 'expected "tree" among them' in refused('method = "eagle3"\nalgorithms = ["si"]\n')
    told = CliRunner().invoke(main, ["presets", "--json"]).output
    assert [one["name"] for one in json.loads(told)["presets"]] == [*PRESETS]


def test_another_value_of_what_a_method_sets_takes_its_orchestration():
    """The way out of "contradicts", and of an axis of the grid that nobody had set."""
    swept = refused('method = "ssd"\n[grid]\nlookahead = [1, 2]\n')
    assert 'lookahead: is set by method = "ssd", and is an axis of the grid as well; for' in swept
    assert 'leave method out: algorithm "ssd" with ssd.fanout = 3' in swept
    assert 'leave method out: algorithm "si"' in refused('method = "mtp"\nlookahead = 3\n')
    told = CliRunner().invoke(main, ["simulate", "--method", "mtp", "--method", "ngram"])
    assert told.exit_code == 2
    assert "--method: takes one method, got mtp and ngram" in told.output


def test_what_a_chart_of_another_kind_shows_is_refused():
    """A heat map with ``value`` drew something else."""
    study = "grid.lookahead = [1, 2]\ngrid.acceptance.rate = [0.5, 0.9]\n[[charts]]\n"
    axes = 'x = "lookahead"\ny = "acceptance.rate"\n'
    told = refused(f'{study}kind = "heatmap"\nvalue = "speedup_vs_si"\n{axes}')
    assert 'charts[0].value: has no effect: kind is "heatmap"; it matters with "map" or' in told
    loads(f'{study}kind = "heatmap"\nvalue = "lookahead"\n{axes}')  # as by default


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["acceptance.by_depth=[0.9,0.1]"], "acceptance 0.9, 0.1 by depth; lookahead"),
        (["acceptance.per_position=[0.5,0.3]"], "acceptance 0.5, 0.6 by depth; lookahead"),
        (
            ['acceptance.model="decay"', "acceptance.decay=0.3"],
            "acceptance 0.8, times 0.3 for each further draft; lookahead",
        ),
        (
            ['acceptance.model="markov"', "acceptance.correlation=0.5"],
            "acceptance 0.8 in streaks (correlation 0.5); lookahead",
        ),
    ],
)
def test_the_heading_says_how_drafts_fare(settings, words):
    """It had the first rate alone."""
    more = [word for one in settings for word in ("--set", one)]
    found = CliRunner().invoke(main, ["simulate", "--tokens", "4", *more])
    assert words in found.output


def test_options_of_one_case():
    words = "simulate --accepts 211211 --target-latency 10 --drafter-latency 3 --json"
    tree = "--algorithm tree --tree-paths 1;2;1,1;1,2;2,1"
    ssd = "--algorithm ssd --lookahead 2 --ssd-fanout 2"
    patient = "--algorithm dsi --lookahead 1 --targets 1 --patience 2"
    blocks = "--algorithm si --lookahead 4 --block-tokens 4"
    for options, expected in (
        (tree, [16, 16, 16, 32, 32, 32]),
        (patient, [16, 32, 32, 32, 45, 45]),
    ):
        found = json.loads(CliRunner().invoke(main, [*words.split(), *options.split()]).output)
        assert found["cases"][0]["settled_ns"][0] == [ms * 10**6 for ms in expected]
    for options, draws, expected in (
        (ssd, "112131", [16, 16, 16, 26, 26, 36]),
        (blocks, "112131", [13, 13, 13, 26, 26, 36]),
    ):
        own = words.replace("211211", draws).split()
        found = json.loads(CliRunner().invoke(main, [*own, *options.split()]).output)
        assert found["cases"][0]["settled_ns"][0] == [ms * 10**6 for ms in expected]


MIXED = """
algorithms = ["nonsi", "si", "treedsi", "tree", "dsi"]
tokens = 12
repeats = 2
confidence_quality = 0.0
[acceptance]
rank_shares = [0.5]
[tree]
deviations = 2
[grid]
acceptance.rate = [0.4, 0.9]
lookahead = [1, 3]
targets = [1, 3]
tree.depth = [1, 3]
"""


def test_each_orchestration_has_its_engine_and_every_case_its_outcome():
    """Also where an axis makes no difference to the orchestration, and is not run again."""
    table = run_grid(loads(MIXED)).table.to_pandas()
    assert set(zip(table["algorithm"], table["engine"], strict=True)) == {
        *((name, "vector") for name in ("nonsi", "si", "tree", "dsi")),
        ("treedsi", "events"),
    }
    for row in table.itertuples():
        case = make_case(
            {
                "tokens": 12,
                "repeats": 2,
                "confidence_quality": 0.0,
                "target.latency_ms": 1.0,
                "drafter.latency_ms": 0.1,
                "acceptance.rank_shares": [0.5],
                "acceptance.rate": row.acceptance_rate,
                "lookahead": int(row.lookahead),
                "targets": int(row.targets),
                "tree.depth": int(row.tree_depth),
                "tree.deviations": 2,
            }
        )
        outcome = simulate_case(case, row.algorithm, "events")
        assert row.latency_mean_ms == pytest.approx(outcome.latency_ns.mean() / 1e6)
        assert row.drafts == outcome.drafts.mean()


def test_the_chart_of_winners_names_who_is_first():
    text = MIXED + (
        '[[charts]]\nkind = "winners"\nx = "acceptance.rate"\ny = "lookahead"\n'
        '[[charts]]\nkind = "winners"\nx = "acceptance.rate"\ny = "lookahead"\n'
        'value = "per_device"\n'
    )
    study = loads(text)
    rows = [
        {
            "algorithm": name,
            "acceptance_rate": rate,
            "lookahead": 1,
            "targets": 3,
            "latency_mean_ms": latency,
        }
        for name, latencies in (("nonsi", (9.0, 9.0)), ("si", (8.0, 4.0)), ("dsi", (6.0, 5.0)))
        for rate, latency in zip((0.4, 0.9), latencies, strict=True)
    ]
    frame = pd.DataFrame(rows)
    (fast,), (thrifty,) = (charts.draw(chart, frame, []) for chart in study.charts)
    # DSI keeps four devices, so that its 6.0 ms are 24 device milliseconds.
    assert list(fast.chart.data["winner"]) == ["DSI", "SI"]
    assert list(thrifty.chart.data["winner"]) == ["SI", "SI"]
    assert fast.chart.data["lead"].tolist() == pytest.approx([8 / 6, 5 / 4], abs=1e-4)
