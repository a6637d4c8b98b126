"""``dsim advise --gpu``: what is tried, what is said of it, and what is wrong with a question."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.study.executors import Executor
from dsim.tasks.serving import answer, page, search, trials
from dsim.tasks.serving.question import ask, densest
from dsim.tasks.serving.trials import Layout, Task, layouts, split, trial
from tests.deployment.test_traces import burstgpt

SMALL = {"target": "llama-3.2-1b", "drafter": None, "gpu": "l4", "gpus": 2, "tokens": 20}


def question(**more):
    return ask(**{**SMALL, "prompt_tokens": 200, "rate": 4.0, **more})


@pytest.fixture(scope="module")
def advice():
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("SCREENED", 40), ("SWEPT", 40), ("LIMITED", 40), ("CONFIRMED", 80)):
            patch.setattr(search, name, count)
        asked = question(slo_ttft_ms=300.0, slo_tpot_ms=40.0)
        return search.advise(asked, Executor(), lambda *_: None)


def test_an_answer_that_is_not_the_fastest_names_the_fastest(advice):
    slow, fast = (
        dataclasses.replace(advice.best, layout=layout, e2e_mean=e2e, slack=0.5)
        for layout, e2e in ((Layout(tp=1, replicas=2), 900.0), (Layout(tp=2, replicas=1), 300.0))
    )
    rooms = {slow.layout: 3.0, fast.layout: 2.0}
    found = dataclasses.replace(advice, ranking=[slow, fast], screened=[slow, fast], others={})
    found = dataclasses.replace(found, headroom=rooms)
    assert (
        f"At this load {fast.layout} is 3 times as fast (mean E2E 300 ms), and keeps the SLO up to "
        "2 × the load." in answer.verdict(found)
    )
    assert f"One replica of the fastest, {fast.layout}:" in answer.as_text(found)
    late = dataclasses.replace(fast, slack=1.1)
    for ranking in ([fast, slow], [slow, late]):
        same = dataclasses.replace(found, ranking=ranking)
        assert "times as fast" not in answer.verdict(same)


def test_layouts_use_the_gpus():
    found = layouts(question(gpus=6))
    assert {one.tp for one in found} == {1, 2, 4}
    assert all(one.gpus <= 6 < one.gpus + one.tp for one in found)
    chains = {one.drafts for one in found if not one.chooses and not one.preset}
    assert chains == {0, 1, 2, 3, 5, 7}
    assert {(one.preset, one.drafts) for one in found if one.preset} == {
        ("ngram", 3),
        ("ngram", 5),
        ("eagle3", 59),
        ("sglang", 7),
    }
    assert not any(one.preset == "eagle3" for one in layouts(question(drafter="mtp")))
    assert [one.readers for one in split(Layout(tp=1, replicas=6))] == [1, 3]
    assert split(Layout(tp=1, replicas=1)) == []


def test_a_replica_is_of_one_host_unless_it_needs_more():
    """16 GPUs were one host, whose links made TP 16 the best."""
    found = layouts(question(target="llama-3.3-70b", gpu="h100", gpus=16))
    assert {one.tp for one in found} == {2, 4, 8}
    large = question(target="deepseek-v3", gpu="h100", gpus=16)
    assert {one.tp for one in layouts(large)} == {16}
    assert "TP 16 reaches beyond one host, which has 8 GPUs: links" in large.estimate(16).warning
    assert question().estimate(2).warning == ""


def test_a_trial_of_one_request_is_its_steps():
    """A prompt and 19 tokens, each in a step, and what passes outside of steps."""
    asked = question(rate=0.001)
    one = trial(asked, Task(Layout(tp=1, replicas=1), 1))
    roofline = asked.estimate(1).target
    first = roofline.forward_ns(200, 200 * 200 / 2, 0, 1) / 1e6
    steps = [roofline.step_ns([(1, c)]) / 1e6 for c in range(200, 219)]
    constants = roofline.constants
    busy, host = first + sum(steps), constants.request_us / 1e3
    outside = host + constants.waits * busy / 20 * busy / (busy + host)
    assert one.ttft_p50 == pytest.approx(first + outside)
    assert one.e2e_mean == pytest.approx(first + sum(steps) + outside)
    assert one.tpot_p50 == pytest.approx(sum(steps) / 19)
    assert one.batch == 1
    rare = question(rate=0.001, seed=3)
    idle = trial(rare, Task(Layout(tp=1, replicas=1), 5))
    assert idle.ttft_p50 == pytest.approx(first + host, rel=0.01)  # nobody waits for a step


@pytest.mark.parametrize("preset", ["ngram", "eagle3"])
def test_a_trial_of_a_preset_drafts_as_the_preset_says(preset):
    """Without a mistake a tree settles 9 tokens a step, n-grams 6; n-grams cost 20 µs each."""
    drafts = {"ngram": 5, "eagle3": 59}[preset]
    asked = question(rate=0.001, acceptance=1.0, tokens=55, copied=1.0)
    layout = Layout(tp=1, replicas=1, drafts=drafts, preset=preset)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(trials.PRESETS["ngram"].settings, "acceptance.copied_rate", 1.0)
        patch.setitem(trials.PRESETS["ngram"].settings, "acceptance.chance_match", 1.0)
        patch.setitem(trials.PRESETS["ngram"].settings, "acceptance.chance_rate", 1.0)
        one = trial(asked, Task(layout, 1))
    steps = {"ngram": 9, "eagle3": 6}[preset]
    plain = trial(asked, Task(Layout(tp=1, replicas=1), 1))
    assert one.batch == plain.batch == 1
    a_step = one.tpot_p50 * 54 / steps
    assert plain.tpot_p50 < a_step < 4 * plain.tpot_p50
    if preset == "ngram":
        roofline = asked.estimate(1).target
        mean = sum(roofline.step_ns([(6, 200 + 6 * i)]) for i in range(9)) / 9e6
        assert a_step == pytest.approx(mean + 44 * 0.02 / 9, rel=0.002)


def test_trees_live_on_further_choices():
    """Chains do not."""

    def wait_ms(layout, shares):
        more = {} if shares is None else {"rank_shares": shares}
        asked = question(rate=0.001, acceptance=0.6, tokens=55, **more)
        return trial(asked, Task(layout, 1)).tpot_p50

    tree = Layout(tp=1, replicas=1, drafts=59, preset="eagle3")
    chain = Layout(tp=1, replicas=1, drafts=3)
    assert wait_ms(tree, (0.9, 0.1)) < 0.85 * wait_ms(tree, (0.0,))
    assert wait_ms(tree, None) == wait_ms(tree, (0.4, 0.2, 0.1))
    assert wait_ms(chain, (0.9, 0.1)) == wait_ms(chain, (0.0,))


def test_of_layouts_with_about_the_same_headroom_the_fastest_is_best():
    def one(tp, e2e):
        return dataclasses.replace(base, layout=Layout(tp=tp, replicas=1), e2e_mean=e2e)

    base = trial(question(), Task(Layout(tp=1, replicas=1), 5))
    base = dataclasses.replace(base, slack=0.5)
    slow, fast, poor = one(1, 300.0), one(2, 100.0), one(4, 50.0)
    headroom = {slow.layout: 1.19, fast.layout: 1.04, poor.layout: 0.9}
    assert search.ranked([slow, fast, poor], headroom) == [fast, slow, poor]


def test_more_load_is_never_faster():
    asked = question()
    times = [trial(asked, Task(Layout(tp=1, replicas=1), 60, s)).e2e_mean for s in (0.5, 2, 16)]
    assert times == sorted(times)


def test_the_densest_requests_are_taken():
    asked = question()
    rows = asked.replay.requests
    part = densest(asked.replay, 50).requests
    spans = [rows[n + 49][0] - rows[n][0] for n in range(len(rows) - 49)]
    assert (len(part), part[0][0], part[-1][0]) == (50, 0, min(spans))
    assert densest(asked.replay, 10**6) is asked.replay


def test_the_answer(advice):
    best = advice.best
    assert best.slack <= 1
    assert best.ttft_p99 <= 300
    assert "It keeps the SLO at every load tried, up to 8 × this one." in answer.verdict(advice)
    assert {one.layout.tp for one in advice.screened} == {1, 2}
    kept = [one.scale for one in advice.curves[best.layout] if one.slack <= 1]
    assert advice.headroom[best.layout] >= max(kept)
    text = "\n".join(answer.as_text(advice))
    assert "meta-llama/Llama-3.2-1B-Instruct" in text
    assert all(f"\n{method}  " in text for method in ("none", "tree of 59 drafts a step"))
    assert "\n5 drafts a step, by n-grams  " in text
    assert "depends on the acceptance rate (0.8" in text
    document = json.loads(answer.as_json(advice))
    assert document["keeps_slo"] is True
    assert document["ranking"][0]["name"] == str(best.layout)
    panel = page.pareto_panel(advice)
    assert panel.marks == len(advice.curves) * len(search.SCALES)
    assert "No 95 % intervals: 40 requests are too few." in panel.caption


def test_intervals_are_drawn_where_requests_are_enough(advice):
    layout = advice.best.layout
    points = [trial(advice.question, Task(layout, 150, scale)) for scale in (1.0, 8.0)]
    assert all(0 < one.tpot_p50_ci95 < one.tpot_p50 for one in points)
    panel = page.pareto_panel(dataclasses.replace(advice, curves={layout: points}))
    assert "Bars: 95 % intervals of TPOT, each of one run of up to 150 requests" in panel.caption
    rows = next(iter(panel.chart.to_dict()["datasets"].values()))
    for row, one in zip(rows, points, strict=True):
        assert row["high"] - row["low"] == pytest.approx(2 * one.tpot_p50_ci95)
    points = [dataclasses.replace(one, tpot_p50_ci95=2 * one.tpot_p50) for one in points]
    panel = page.pareto_panel(dataclasses.replace(advice, curves={layout: points}))
    rows = next(iter(panel.chart.to_dict()["datasets"].values()))
    assert [row["low"] for row in rows] == pytest.approx([one.tpot_p50 / 10 for one in points])
    assert "reaches down to 0, which is not on this axis, is drawn down to a tenth" in panel.caption


def test_workers_change_nothing(advice, monkeypatch):
    asked = advice.question
    tasks = [Task(Layout(tp=1, replicas=2), 40), Task(Layout(tp=2, replicas=1, drafts=3), 40)]
    found = {}
    Executor(jobs=2).each(search.prepare, asked, tasks, search.Store(), found.__setitem__)
    assert [found[n] for n in (0, 1)] == [trial(asked, task) for task in tasks]


def test_an_slo_that_nothing_keeps_names_the_closest(monkeypatch):
    for name in ("SCREENED", "SWEPT", "CONFIRMED"):
        monkeypatch.setattr(search, name, 10)
    found = search.advise(question(slo_tpot_ms=0.01), Executor(), lambda *_: None)
    assert answer.verdict(found).startswith("No layout of 2 GPUs keeps p99 TPOT ≤ 0.01 ms. Of ")
    assert found.headroom[found.best.layout] == 0
    assert math.isfinite(found.best.slack)


def test_launch_commands_say_what_was_simulated():
    asked = question(dtype="fp8", drafter="mtp")
    vllm, sglang = answer.commands(asked, Layout(tp=2, replicas=1, drafts=3))
    assert "--tensor-parallel-size 2" in vllm
    assert '{"method": "mtp", "num_speculative_tokens": 3}' in vllm
    assert "--quantization fp8" in vllm
    assert "--speculative-num-draft-tokens 4" in sglang
    vllm, sglang = answer.commands(asked, Layout(tp=1, replicas=1, drafts=5, preset="ngram"))
    assert '"method": "ngram", "num_speculative_tokens": 5' in vllm
    assert "--speculative-algorithm NGRAM --speculative-num-draft-tokens 6" in sglang
    asked = question()
    _, sglang = answer.commands(asked, Layout(tp=1, replicas=1, drafts=7, preset="sglang"))
    tree = "--speculative-num-steps 5 --speculative-eagle-topk 4 --speculative-num-draft-tokens 8"
    assert "--speculative-algorithm EAGLE3 --speculative-draft-model-path PATH" in sglang
    assert tree in sglang
    plain, _ = answer.commands(asked, Layout(tp=1, replicas=2))
    assert "speculative" not in plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--gpu h100", "--target: is missing"),
        ("--gpu h10 --target llama-3.1-8b", '--gpu: expected one of .*did you mean "h100"'),
        ("--gpu h100 --target lama-3.1-8b", '--target: expected .*did you mean "llama-3.1-8b"'),
        ("--gpu h100 --gpus 1 --target llama-3.3-70b", "64.2 GiB are missing; fits at tp = 2, 4"),
        ("--gpu h100 --target yi-34b --objective price", "--objective: has no meaning together"),
        ("--gpu h100 --target yi-34b --trace no.csv", "no.csv: cannot be read"),
        ("--gpu h100 --target yi-34b --acceptance 2", "--acceptance: expected a number from 0 to"),
        ("--gpu h100 --target yi-34b --rank-shares 0.9,0.2", "--rank-shares: .*at most 1 together"),
        ("--gpu h100 --target yi-34b --rate 0", "--rate: expected a number above 0, got 0"),
        ("--gpu h100 --target yi-34b --rate -3", "--rate: expected a number above 0, got -3"),
        ("--slo-ttft 3", "--slo-ttft: goes together with --gpu"),
        ("--trace no.csv", "--trace: goes together with --gpu"),
        ("--gpu h100 --target yi-34b --from 3", "--from: goes together with --trace"),
    ],
)
def test_wrong_questions_are_explained(words, message):
    result = CliRunner().invoke(main, ["advise", *words.split()])
    assert result.exit_code == 2
    assert re.search(message, result.output), result.output


def test_a_trace_is_the_load(tmp_path):
    path = tmp_path / "burst.csv"
    path.write_text(burstgpt([(n * 10, 50 + n, 1 + n % 5) for n in range(30)]))
    asked = ask(**{**SMALL, "tokens": None, "trace": path, "from_s": 5.0, "rate_scale": 2.0})
    assert asked.replay.requests[0][1] == 55
    assert asked.rate_per_s == pytest.approx(2.0)
    assert trial(asked, Task(Layout(tp=1, replicas=2), 10)).requests == 10
