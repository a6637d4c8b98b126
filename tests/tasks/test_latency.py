"""``dsim latency``: what it prints, what it draws, and what it says of wrong names."""

from __future__ import annotations

import json
import re

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.model.estimate import estimate
from dsim.tasks.latency_page import panels


def run(*words):
    return CliRunner().invoke(main, ["latency", *map(str, words)])


def found(*words):
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.output)


def test_json_has_times_the_knee_and_the_memory():
    answer = found("meta-llama/Llama-3.3-70B-Instruct", "--tp", 4, "--dtype", "fp8")
    assert (answer["model"], answer["gpu"], answer["dtype"]) == ("llama-3.3-70b", "h100", "fp8")
    memory = answer["memory_gib"]
    parts = memory["weights"] + memory["activations"] + memory["kv"]
    assert parts == pytest.approx(memory["usable"])
    times = {(r["kind"], r["tokens"], r["context"]): r["latency_ms"] for r in answer["rows"]}
    assert times["decode", 1, 0] < times["decode", 256, 0] < times["decode", 256, 16_000]
    knee = answer["knee_tokens"]
    assert times["prefill", 128, 0] < times["prefill", 512, 0]
    assert 128 < knee < 512


def test_text_says_what_fits_and_what_is_missing():
    result = run("llama-3.1-8b", "--gpu", "rtx-4090", "--drafter", "eagle3")
    assert result.exit_code == 0, result.output
    assert "eagle3 head of llama-3.1-8b" in result.output
    assert "–: the KV cache does not hold" in result.output
    widened = run("llama-3.1-8b", "--gpu", "a100", "--dtype", "fp8")
    assert "a100-80gb has no fp8 arithmetic" in widened.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lama-3-8b"], 'MODEL: expected the name of a model.*did you mean "llama-3-8b"'),
        (["yi-34b", "--gpu", "h101"], '--gpu: expected one of .*did you mean "h100"'),
        (["yi-34b", "--tp", "3"], "--tp: tp = 3 does not divide the 56 heads .* 1, 2, 4, 8, 56"),
        (["yi-34b", "--dtype", "fp9"], '--dtype: expected one of .*did you mean "fp8"'),
        (["yi-34b", "--drafter", "eagel"], "--drafter: expected eagle3, mtp, medusa or a model"),
        (["llama-3.3-70b"], r"does not fit on 1 GPU .* 61\.\d GiB are missing; fits at tp = 2, 4"),
        (["deepseek-v3", "--gpu", "l4"], "fits at tp = 64"),
        (["llama-3.1-405b", "--gpu", "l4", "--dtype", "fp32"], "does not fit at any tp up to 64"),
    ],
)
def test_wrong_words_are_explained(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output


def test_all_problems_are_said_at_once():
    result = run("lama", "--gpu", "h101", "--dtype", "fp9")
    assert all(name in result.output for name in ("MODEL:", "--gpu:", "--dtype:"))


def test_the_roofline_is_drawn_with_its_knee():
    drawn = panels(estimate("llama-3.1-8b", "h100"))
    assert [panel.name for panel in drawn] == ["01-decode", "02-tokens"]
    knee = drawn[1].chart.to_dict()["layer"][1]
    assert knee["mark"]["type"] == "rule"
