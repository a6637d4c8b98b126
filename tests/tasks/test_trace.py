"""``dsim trace``: what it says of a trace, and what it draws."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.deployment.replay import read_replay
from dsim.tasks.trace import sentences, summary
from dsim.tasks.trace_page import panels
from tests.deployment.test_traces import azure, burstgpt, own


def run(path, *words):
    return CliRunner().invoke(main, ["trace", str(path), *map(str, words)])


def of(text):
    return summary(read_replay(text))


def test_rates_and_lengths_worked_by_hand(tmp_path):
    """Five requests in 40 s, four of them answered."""
    path = tmp_path / "burst.csv"
    path.write_text(burstgpt([(0, 10, 1), (100, 20, 3), (150, 9, 0), (200, 30, 5), (400, 40, 7)]))
    found = json.loads(run(path, "--json").output)
    assert (found["format"], found["requests"], found["failed"]) == ("BurstGPT", 4, 1)
    assert (found["span_s"], found["rate_per_s"]) == (40, 3 / 40)
    assert found["prompt_tokens"]["mean"] == 25
    assert (found["prompt_tokens"]["p50"], found["prompt_tokens"]["max"]) == (25, 40)
    assert found["output_tokens"]["total"] == 16
    gaps = [10, 10, 20]
    assert found["gap_cv"] == pytest.approx(np.std(gaps) / np.mean(gaps))
    assert found["shared_prefix_share"] is None
    part = json.loads(run(path, "--json", "--from", 5, "--for", 20, "--rate-scale", 2).output)
    assert (part["requests"], part["span_s"]) == (2, 5)


def test_bursts_are_told_from_even_gaps():
    even = of(own([(n * 1000, 1, 1) for n in range(500)]))
    bursts = of(own([(n // 50 * 1_000_000 + n, 1, 1) for n in range(500)]))
    random = np.random.default_rng(0).exponential(1000, 3000).cumsum().astype(int)
    poisson = of(own([(int(at), 1, 1) for at in random]))
    assert even.gap_cv == pytest.approx(0, abs=1e-6)
    assert even.dispersion < 0.1
    assert bursts.gap_cv > 3
    assert bursts.dispersion > 10
    assert poisson.gap_cv == pytest.approx(1, abs=0.1)
    assert poisson.dispersion == pytest.approx(1, abs=0.5)
    kinds = ("more even than", "in bursts", "about as a Poisson")
    for found, kind in zip((even, bursts, poisson), kinds, strict=True):
        assert any(kind in line for line in sentences(found))


def test_prefixes_that_prompts_share():
    def line(hashes, prompt):
        row = {"timestamp": 0, "input_length": prompt, "output_length": 1, "hash_ids": hashes}
        return json.dumps(row) + "\n"

    # 512 + 512 tokens again; of the third prompt nothing, as it begins differently.
    text = line([1, 2, 3], 1100) + line([1, 2, 4], 1100) + line([5, 2, 3], 1100)
    assert of(text).shared == pytest.approx(1024 / 3300)
    assert of(line([1], 100) * 2).shared == 0.5
    head = "arrival_ms,prompt_tokens,output_tokens,prefix_group,prefix_tokens\n"
    groups = of(head + "0,50,1,a,30\n1,50,1,a,20\n2,50,1,b,40\n3,50,1,,0\n4,50,1,a,30\n")
    assert groups.shared == pytest.approx((20 + 30) / 250)


@pytest.mark.parametrize("rows", [[(0, 5, 1)], [(0, 5, 1)] * 3, [(0, 0, 1), (9, 0, 1)]])
def test_small_traces_are_no_trouble(rows):
    found = of(own(rows))
    assert sentences(found)
    assert all(panel.chart.to_dict() for panel in panels(found))


def test_the_charts_show_every_request():
    found = of(azure([(n * 10**6, 10 + n, 1 + n % 3) for n in range(40)]))
    rate, lengths, gaps = panels(found)
    frame = rate.chart.layer[0].data if hasattr(rate.chart, "layer") else rate.chart.data
    assert math.isclose(frame["rate"].sum() * found.bin_s, 40)
    assert lengths.chart.data.groupby("kind")["share"].sum().tolist() == pytest.approx([1, 1])
    for _, part in lengths.chart.data.groupby("kind"):
        steps = part["tokens"].map(math.log).diff().dropna()
        assert steps.tolist() == pytest.approx([steps.mean()] * 40)
    assert "40 ranges of length. The axis is logarithmic" in lengths.caption
    assert "equally wide" in lengths.caption
    assert set(gaps.chart.data["kind"]) == {"trace", "Poisson"}


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("TIMESTAMP,ContextTokens\n", (), "expected a column GeneratedTokens"),
        (own([(2, 1, 1), (1, 1, 1)]), (), "line 3: times go back"),
        (own([(0, 1, 1)]), ("--from", 5), "no request comes in that time; the trace has 0 s"),
        (own([(0, 1, 1)]), ("--rate-scale", 0), "--rate-scale: expected a number above 0"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, text, words, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    result = run(path, *words)
    assert result.exit_code == 2
    assert message in result.output
