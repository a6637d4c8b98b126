"""Pairs of models by name, by measured files and by numbers, as ``dsim advise`` takes them."""

from __future__ import annotations

import dataclasses
import json

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study import loader as study
from dsim.study import pairs, profile
from dsim.tasks.advise import search
from dsim.tasks.advise.forecast import forecasts
from dsim.tasks.advise.layouts import deployment_of, layouts, pass_latency
from dsim.tasks.advise.question import Question
from dsim.tasks.measure.acceptance import AcceptanceReport, acceptance_json
from dsim.tasks.measure.latency import LatencyTable, latency_json
from tests import ROOT

QUICK = ["--gpus", "3", "--tokens", "20", "--json"]


@pytest.fixture(autouse=True)
def few_events(monkeypatch):
    monkeypatch.setattr(search, "MAX_EVENTS", 20_000)


def advise(*words):
    outcome = CliRunner().invoke(main, ["advise", *words, *QUICK])
    assert outcome.exit_code == 0, outcome.output
    return json.loads(outcome.stdout)


def mistake(*words):
    outcome = CliRunner().invoke(main, ["advise", *words, *QUICK])
    assert outcome.exit_code == 2
    assert "Traceback" not in outcome.output
    return outcome.output


def test_the_papers_pairs_are_those_of_the_study():
    known = {
        (pair.target.latency_ms, pair.drafter.latency_ms, pair.acceptance.rate, pair.prompts)
        for pair in pairs.shipped()
        if "2405.14105" in pair.source
    }
    table = study.load(ROOT / "studies" / "table1.toml")
    wanted = {
        (own["target.latency_ms"], own["drafter.latency_ms"], own["acceptance.rate"], name[1])
        for name, own in ((name.split(", "), own) for name, own in table.variants)
    }
    assert known == wanted
    assert len(known) == 10


def test_a_pair_is_found_by_any_of_its_names():
    assert pairs.find("vicuna-13b", None).prompts == "CNN-DM"
    assert pairs.find(None, "starcoder-168m", "mbpp").target.latency_ms == 21.0
    assert pairs.find("Phi3-14B", "Phi3-4B", "Alpaca").acceptance.rate == 0.87


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Vicuna13B", None), '--target: expected one of .*; did you mean "Vicuna-13B"'),
        (("Vicuna-7B", "vicuna-86m"), '--drafter: expected one of Vicuna-68M; .*"Vicuna-68M"'),
        (("Vicuna-7B", None, "MBPP"), "--dataset: expected one of CNN-DM, Alpaca; got"),
        (("gpt", None), 'got "gpt"$'),
    ],
)
def test_unknown_names_are_told_the_nearest(names, message):
    with pytest.raises(UserError, match=message):
        pairs.find(*names)


def test_advice_for_a_pair_by_name():
    found = advise("--target", "Vicuna-13B", "--dataset", "Alpaca")["pair"]
    assert (found["target_latency_ms"], found["drafter_latency_ms"]) == (33.3, 2.5)
    assert found["acceptance"] == 0.58
    assert "Table 1" in found["source"]
    text = CliRunner().invoke(main, ["advise", "--target", "Phi3-14B", *QUICK[:-1]]).stdout
    assert text.startswith("Given: pair Phi3-14B and Phi3-4B on HumanEval (Timor et al.")


def test_a_number_wins_over_a_name():
    found = advise("--target", "Vicuna-13B", "--drafter-latency", "9", "--acceptance", "0.9")
    assert found["pair"]["target_latency_ms"] == 37.7
    assert (found["pair"]["drafter_latency_ms"], found["pair"]["acceptance"]) == (9, 0.9)


def test_nothing_given_is_the_default():
    found = advise()["pair"]
    assert (found["target_latency_ms"], found["drafter_latency_ms"]) == (30, 3)
    assert (found["acceptance"], found["source"]) == (0.8, "")


PROFILE = {
    "format": "dsim profile 1",
    "name": "mine",
    "source": "a test",
    "target": {"model": "t", "latency_ms": 9.0, "latency_by_width_ms": [[1, 10.0], [11, 20.0]]},
    "drafter": {"model": "d", "latency_ms": 2.0},
    "acceptance": {"rate": 0.7},
}


def test_advice_for_a_profile(tmp_path):
    path = tmp_path / "pair.json"
    path.write_text(json.dumps(PROFILE))
    found = advise("--pair", str(path))["pair"]
    assert found["target_latency_by_width_ms"] == [[1, 10.0], [11, 20.0]]
    assert (found["target_latency_ms"], found["drafter_latency_ms"]) == (10, 2)
    assert found["source"] == "mine (a test)"
    path.write_text(json.dumps({k: v for k, v in PROFILE.items() if k != "acceptance"}))
    assert "--acceptance: is missing: mine has no acceptance" in mistake("--pair", str(path))
    assert advise("--pair", str(path), "--acceptance", "0.5")["pair"]["acceptance"] == 0.5
    for other in (["--target", "Vicuna-7B"], ["--dataset", "CNN-DM"]):
        assert "give either --pair or" in mistake("--pair", str(path), *other)


def test_what_dsim_measure_prints_is_read(tmp_path):
    rows = [
        {"width": w, "context": c, "co_running": n, "p25_ms": 1.0, "p50_ms": ms, "p75_ms": 99.0}
        for c, n, factor in ((32, 0, 1), (128, 0, 2), (128, 3, 3))
        for w, ms in ((1, 4.0 * factor), (8, 6.0 * factor))
    ]
    table = LatencyTable(
        model="m", parameters=7, ttft_ms=[30.0, 50.0], tpot_ms=[5.0], rows=rows, notes=[]
    )
    latency = tmp_path / "latency.json"
    latency.write_text(latency_json(table, "target", "stories"))
    read = profile.read(latency)
    assert (read.name, read.prompts, read.drafter) == ("m", "stories", None)
    assert read.target == table.profile
    assert read.target.latency_by_width_ms == ((1, 12.0), (8, 18.0))
    assert (read.target.latency_ms, read.target.first_latency_ms) == (5.0, 40.0)
    assert read.target.measured["rows"] == rows
    import numpy as np

    report = AcceptanceReport(
        target="t", drafter="d", rule="match", tasks=["a"], ranks=np.array([[1, 0]])
    )
    acceptance = tmp_path / "acceptance.json"
    acceptance.write_text(acceptance_json(report, "stories"))
    assert profile.read(acceptance).acceptance == report.profile
    assert report.profile.measured["traces"] == ["10"]
    words = ["--target-latency", str(latency), "--acceptance", str(acceptance)]
    found = advise(*words)["pair"]
    assert found["target_latency_by_width_ms"] == [[1, 12.0], [8, 18.0]]
    assert (found["drafter_latency_ms"], found["acceptance"]) == (3, 0.5)
    # One for the other, and things that are neither.
    drafter = advise("--drafter-latency", str(latency), *words[2:])["pair"]
    assert drafter["drafter_latency_ms"] == 12
    # Of former versions, which printed these tables alone.
    latency.write_text(json.dumps(dataclasses.asdict(table)))
    found["source"] = ""
    acceptance.write_text(
        json.dumps(
            {"target": "t", "drafter": "d", "rule": "match", "prompts": 1, "tokens": 2, "rate": 0.5}
            | {"ci95": None, "paper_rate": 0.5, "rank_shares": [], "traces": ["10"]}
        )
    )
    assert profile.read(latency).target == table.profile
    former = profile.read(acceptance).acceptance
    assert (former.rate, former.target, former.measured["rule"]) == (0.5, "t", "match")
    assert advise(*words)["pair"] | {"source": ""} == found
    assert "not what dsim measure latency --json prints" in mistake("--target-latency", words[3])
    assert "not what dsim measure acceptance --json" in mistake("--acceptance", words[1])
    for text, what in (
        ("[]", "is no profile"),
        ("{", "is not JSON"),
        ('{"model": "m", "tpot_ms": [1], "rows": []}', "rows: expected tables with width"),
        ('{"model": "m", "tpot_ms": [1], "rows": [{"width": 1}]}', "rows: expected tables with"),
        (json.dumps({"model": "m", "rows": rows, "tpot_ms": []}), "tpot_ms: expected a list of"),
    ):
        latency.write_text(text)
        assert what in mistake("--target-latency", str(latency))
    acceptance.write_text('{"target": "t", "drafter": "d", "rate": 2}')
    assert "rate: expected a number from 0 to 1, got 2" in mistake("--acceptance", str(acceptance))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target-latency", "-1"), "--target-latency: expected a number > 0, got -1"),
        (("--drafter-latency", "nan"), "--drafter-latency: expected a number > 0, got nan"),
        (("--acceptance", "1.5"), "--acceptance: expected a number from 0 to 1, got 1.5"),
        (("--target-latency", "none.json"), "expected a number or a file that dsim measure wrote"),
        (("--pair", "none.json"), "none.json: cannot be read"),
    ],
)
def test_mistakes_are_named(words, message):
    assert message in mistake(*words)


def test_a_measured_table_makes_wide_passes_dear():
    """Estimates take a pass over k + 1 tokens, the event engine each pass over what it covers."""
    table = ((1, 10_000_000), (11, 60_000_000))
    question = Question(
        target_ns=10_000_000,
        drafter_ns=1_000_000,
        acceptance=0.8,
        gpus=3,
        tokens=20,
        tp_gain=2.0,
        target_table=table,
    )
    assert pass_latency(question, 1).at_width(1) == 10_000_000
    assert pass_latency(question, 1).at_width(6) == 35_000_000
    assert pass_latency(question, 2).at_width(6) == 17_500_000
    some = [one for one in layouts(question) if one.targets == 1 and one.degree == 1]
    by_k = {
        one.layout.lookahead: one.latency_ns
        for one in forecasts(question, some)
        if one.layout.algorithm in ("nonsi", "si") and one.layout.drafter_gpus <= 1
    }
    assert by_k[0] == 20 * 10_000_000
    assert by_k[1] < by_k[0] < by_k[10]  # and by no table k = 10 would be faster than non-SI
    flat = forecasts(dataclasses.replace(question, target_table=()), some)
    assert all(one.latency_ns < by_k[0] for one in flat if one.layout.lookahead == 10)
    target = deployment_of(question, some[0]).target
    assert (target.model, target.table) == ("table", table)


def simulated(*words):
    outcome = CliRunner().invoke(main, ["simulate", *words])
    return outcome, outcome.output.splitlines()[0]


def test_simulate_takes_a_pair_by_name():
    _, case = simulated("--pair", "llama-3.1-8b/llama-3.2-1b")
    assert case.startswith("100 tokens; target 26.455 ms, drafter 11.081 ms, acceptance 0.936;")
    assert (
        simulated("--pair", "Qwen3-32B/Qwen3-1.7B/CNNDM")[1]
        != (simulated("--pair", "Qwen3-32B/Qwen3-1.7B/AIME")[1])
    )
    assert (
        simulated("--pair", "Qwen3-32B/Qwen3-1.7B")[1]
        == (simulated("--pair", "Qwen3-32B and Qwen3-1.7B")[1])
    )


def test_what_is_given_beside_a_pair_wins():
    words = ["--pair", "Vicuna-13B/Vicuna-68M", "--target-latency", "20", "--set", "tokens=7"]
    assert simulated(*words)[1].startswith(
        "7 tokens; target 20 ms, drafter 2.5 ms, acceptance 0.63"
    )
    assert "recorded draws" in simulated("--pair", "Vicuna-13B/Vicuna-68M", "--accepts", "101")[1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--pair", "Vicuna-13B/Vicuna-68"], 'did you mean "Vicuna-13B/Vicuna-68M"?'),
        (["--pair", "?"], "expected one of the pair that ships, Vicuna-13B/Vicuna-68M"),
        (["--pair", "Vicuna-13B/Vicuna-68M", "--drafter", "eagle3"], "goes without --target"),
    ],
)
def test_what_is_wrong_with_a_pair(words, says):
    outcome, _ = simulated(*words)
    assert outcome.exit_code == 2
    assert says in outcome.output
    assert "--pair" in outcome.output
