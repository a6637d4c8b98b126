"""What ``dsim advise --gpu`` says: where the answer flips, and what is compared with what."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import pytest

from dsim.study.executors import Executor
from dsim.tasks.serving import answer, launch, page, search
from dsim.tasks.serving.crossover import Crossover
from dsim.tasks.serving.notes import notes as every_note
from dsim.tasks.serving.trials import BEYOND, DRAFTS, Layout, Task, layouts, split, trial
from tests.tasks.test_serving import question

CHAIN = Layout(tp=1, replicas=2, drafts=7)
TREE = Layout(tp=1, replicas=2, drafts=7, preset="sglang")
SHORT = Layout(tp=1, replicas=2, drafts=2)
PLAIN = Layout(tp=1, replicas=2)
STEPS: list[tuple[int, int]] = []  # of the progress bar


@pytest.fixture(scope="module")
def advice():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SCREENED", "SWEPT", "LIMITED", "CONFIRMED"):
            patch.setattr(search, name, 12)
        asked = question(slo_ttft_ms=300.0, slo_tpot_ms=40.0)
        STEPS.clear()
        return search.advise(asked, Executor(), lambda done, of: STEPS.append((done, of)))


@pytest.fixture
def made(advice):
    """An advice of two ways to speculate and none, on two replicas: the chain is the best."""

    def one(layout, e2e, slack=0.5):
        return dataclasses.replace(advice.best, layout=layout, e2e_mean=e2e, slack=slack)

    def table(chain, tree, slack=0.5):
        return [one(CHAIN, chain, slack), one(TREE, tree), one(PLAIN, 4000.0)]

    return dataclasses.replace(
        advice,
        ranking=[one(CHAIN, 1040.0)],
        screened=table(1249.0, 1315.0),
        headroom={CHAIN: 1.3, PLAIN: 1.41},
        curves={CHAIN: [], PLAIN: []},
        others={0.6: table(2113.0, 1903.0), 0.7: table(1650.0, 1640.0), 0.9: table(900.0, 980.0)},
        beyond=one(dataclasses.replace(CHAIN, drafts=BEYOND), 1237.0),
    ), table


def notes(advice):
    return "\n".join(every_note(advice))


def test_acceptance_rates_are_named_at_which_the_answer_is_another(made):
    """At 0.7 the tree is 0.6 % faster, which is no other answer."""
    found, table = made
    text = notes(found)
    flip = "of 0.6: tree of 7 drafts a step (1.90 s against 2.11 s of 7 drafts a step). Mean E2E"
    assert f"With an acceptance rate {flip}" in text
    assert "of 0.7" not in text
    assert "of 0.9" not in text
    (flip,) = json.loads(answer.as_json(found))["flips"]
    assert (flip["acceptance"], flip["wins"]["preset"]) == (0.6, "sglang")
    assert flip["stays"]["e2e_mean"] == 2113.0
    late = dataclasses.replace(found, others={0.6: table(1000.0, 1903.0, slack=1.2)})
    assert ", which does not keep the SLO)" in notes(late)
    assert "With an acceptance rate" not in notes(dataclasses.replace(found, others={}))


def test_the_page_and_the_terminal_say_where_the_answer_is_another(made, advice, tmp_path):
    other = dataclasses.replace(advice.best, layout=Layout(tp=2, replicas=1))
    screened = [*made[0].screened, other]
    found = dataclasses.replace(made[0], curves=advice.curves, screened=screened)
    path = tmp_path / "advice.html"
    page.write_page(found, path)
    for text in (path.read_text("utf-8"), "\n".join(answer.as_text(found))):
        assert "With an acceptance rate of 0.6: tree of 7 drafts a step" in text
        assert "The best of each TP × replicas" in text
        assert "PATH-OF-EAGLE3-HEAD: a folder" in text


def test_ways_that_beat_the_answer_on_a_little_of_the_load_are_no_flips(made):
    """The tree is the answer, because it carries more load; the chain leads the table."""
    found, table = made
    tree = next(one for one in found.screened if one.layout == TREE)
    others = {0.6: table(1000.0, 1903.0), 0.9: [*table(900.0, 5000.0)]}
    (flip,) = dataclasses.replace(found, ranking=[tree], others=others).flips
    assert (flip.rate, flip.wins.layout, flip.stays.layout) == (0.9, PLAIN, TREE)


def test_every_way_to_speculate_is_simulated_at_other_acceptance_rates(advice):
    assert list(advice.others) == [0.6, 0.7, 0.9]
    ways = {one.layout: one for one in advice.ways}
    assert {one.tp for one in ways} == {advice.best.layout.tp}
    for rate, trials in advice.others.items():
        assert {one.layout for one in trials} == set(ways)
        asked = dataclasses.replace(advice.question, acceptance=rate)
        for one in trials:
            assert one == trial(asked, Task(one.layout, 12))
    assert set(json.loads(answer.as_json(advice))["other_acceptance"]) == {"0.6", "0.7", "0.9"}


def test_all_trials_count_into_the_progress_bar(advice):
    assert [done for done, _ in STEPS] == list(range(1, len(STEPS) + 1))
    drafting = sum(one.layout.uses_acceptance for one in advice.ways)
    begun = sorted({of for _, of in STEPS})
    assert 3 * drafting in [b - a for a, b in itertools.pairwise(begun)]
    assert STEPS[-1][0] == STEPS[-1][1]


def test_the_most_drafts_are_named_and_what_more_would_bring(made, advice):
    found, _ = made
    text = notes(found)
    assert "7 drafts a step are the most that were compared. 10 would be 1% faster (1.24 s " in text
    slow = dataclasses.replace(found.beyond, e2e_mean=1300.0)
    assert "10 would be 4% slower" in notes(dataclasses.replace(found, beyond=slow))
    assert "the most that were" not in notes(dataclasses.replace(found, beyond=None))

    def run(tasks):
        return [trial(advice.question, task) for task in tasks]

    edge = Layout(tp=1, replicas=2, drafts=max(DRAFTS))
    assert search._beyond(run, edge).layout.drafts == BEYOND
    for fewer in (PLAIN, TREE, dataclasses.replace(edge, drafts=5)):
        assert search._beyond(run, fewer) is None


def test_times_of_the_whole_load_are_not_those_of_a_part(made):
    found, _ = made
    count = len(found.question.replay.requests)
    whole = dataclasses.replace(found.best, requests=count)
    assert f"Times in ms, of all {count:,} requests." in answer.reading(
        dataclasses.replace(found, ranking=[whole])
    )
    assert "of the 12 requests that come closest together." in answer.reading(found)


def test_a_load_that_is_kept_is_the_same_arrivals_faster(made):
    found, _ = made
    rate = f"{1.3 * found.question.rate_per_s:.3g} requests/s in the mean"
    text = answer.verdict(found)
    assert f"closest together (the same arrivals, sped up: {rate}" in text
    assert "It keeps the SLO up to 1.3 × the load, by the 12 requests that come closest" in text


def test_plain_decoding_that_carries_more_load_is_named_beside_speculation_that_is_faster(made):
    found, _ = made
    never = Crossover(None, 8.0, 3.0, [CHAIN])
    found = dataclasses.replace(found, crossover=never)
    clash = "Yet plain decoding keeps the SLO up to more load, 1.41 × against 1.3 × with 7 drafts"
    first = "Speculation (7 drafts a step) is faster than plain decoding (mean E2E) at every load"
    assert first in notes(found)
    assert clash in notes(found)
    assert clash in notes(
        dataclasses.replace(found, crossover=dataclasses.replace(never, scale=2.0))
    )
    for plain in (1.35, 1.3, 1.2):
        alike = dataclasses.replace(found, headroom={CHAIN: 1.3, PLAIN: plain})
        assert "Yet plain" not in notes(alike)
    free = dataclasses.replace(found.question, slo_ttft_ms=None, slo_tpot_ms=None)
    assert "Yet plain" not in notes(dataclasses.replace(found, question=free))


def test_two_times_of_one_layout_are_connected(made):
    """The best of 400 requests and of all: the smaller table is of the busiest."""
    found, _ = made
    assert "come closest together" not in answer.methods_reading(found)
    more = dataclasses.replace(found.best, requests=80, ttft_p99=362.0)
    here = dataclasses.replace(found.screened[0], ttft_p99=483.0)
    found = dataclasses.replace(found, ranking=[more], screened=[here, *found.screened[1:]])
    assert (
        "which need not be those with the longest prompts; the p99 TTFT with 7 drafts a step is "
        "483 ms here and 362 ms there." in answer.methods_reading(found)
    )


def test_the_best_of_each_way_to_share_out_the_gpus_says_why_it_lost(made):
    found, _ = made
    mine = found.screened[0]

    def loser(tp, replicas, **more):
        return dataclasses.replace(mine, layout=Layout(tp=tp, replicas=replicas), **more)

    late = loser(2, 1, slack=1.5, ttft_p99=450.0, tpot_p99=10.0)
    slow = loser(4, 1, e2e_mean=2498.0)
    full = loser(8, 1, served=0.9, slack=9.0)
    weak = loser(16, 1, e2e_mean=900.0)
    found = dataclasses.replace(
        found,
        screened=[*found.screened, late, slow, full, weak, loser(2, 1, slack=2.0)],
        headroom={CHAIN: 1.3, weak.layout: 1.1},
    )
    assert {row[0]: row[-1] for row in answer.bests(found)} == {
        "TP 1, 2 replicas, 7 drafts a step": "the answer",
        "TP 2, 1 replica, no speculation": "misses the SLO (TTFT)",
        "TP 4, 1 replica, no speculation": "slower (2 times the E2E)",
        "TP 8, 1 replica, no speculation": "refuses 10% of the requests",
        "TP 16, 1 replica, no speculation": "so, it keeps the SLO only up to 1.1 ×",
    }
    assert answer.bests(found)[0][-1] == "the answer"
    assert "\nThe best of each TP × replicas, " in "\n".join(answer.as_text(found))
    names = [one["why_not"] for one in json.loads(answer.as_json(found))["best_of_each"]]
    assert sorted(names)[-1] == "the answer"


def test_where_vllm_has_no_tree_its_best_other_way_is_launched(made):
    found, table = made
    chain, tree, plain = table(1400.0, 1000.0)
    short = dataclasses.replace(chain, layout=SHORT, e2e_mean=1500.0)
    found = dataclasses.replace(found, ranking=[tree, short, chain, plain])
    room = {TREE: 1.3, SHORT: 1.3, CHAIN: 1.1, PLAIN: 1.4}
    found = dataclasses.replace(found, headroom=room)
    rows = launch.launch(found, TREE)
    assert rows[1][1].startswith("# best that vLLM can launch: 2 drafts a step, 50% slower")
    # Beside another answer, the fastest is to be as fast as can be.
    found = dataclasses.replace(found, ranking=[short, tree, chain, plain])
    rows = launch.launch(found, TREE)
    assert [server for server, _ in rows] == ["vLLM", "vLLM", "vLLM", "SGLang"]
    assert rows[0][1].startswith("# vLLM has no flags for this tree")
    assert rows[1][1].startswith("# best that vLLM can launch: 7 drafts a step, 40% slower")
    assert rows[2][1] == launch.commands(found.question, CHAIN)[0]
    assert '"num_speculative_tokens": 7' in rows[2][1]
    assert "misses the SLO" not in rows[1][1]
    late = [dataclasses.replace(one, slack=1.1) for one in (tree, chain)]
    found = dataclasses.replace(found, ranking=late)
    assert "it misses the SLO" in launch.launch(found, TREE)[1][1]
    assert json.loads(answer.as_json(found))["commands"]["vllm_instead"] == rows[2][1]
    assert [server for server, _ in launch.launch(found, CHAIN)] == ["vLLM", "SGLang"]


def test_sglang_has_the_same_limits_and_a_head_has_a_source(made):
    found, _ = made
    vllm, sglang = launch.commands(found.question, CHAIN)
    assert "--max-num-seqs 128 --max-num-batched-tokens 2048" in vllm
    assert "--max-running-requests 128 --chunked-prefill-size 2048" in sglang
    (remark,) = launch.remarks(found, CHAIN)
    assert "PATH-OF-EAGLE3-HEAD" in sglang
    assert remark.startswith("PATH-OF-EAGLE3-HEAD")
    assert "huggingface.co/yuhuili" in remark
    assert launch.remarks(found, PLAIN) == []


def test_commands_name_what_a_server_can_load():
    """SGLang serves EAGLE's trees and small models, by their names on the hub; no Medusa."""
    asked = question(drafter="llama-3.2-1b", target="llama-3.1-8b", gpu="h100")
    for command in launch.commands(asked, CHAIN):
        assert "meta-llama/Llama-3.2-1B-Instruct" in command
    assert "--speculative-algorithm STANDALONE" in launch.commands(asked, CHAIN)[1]
    tree = dataclasses.replace(CHAIN, preset="specinfer", drafts=20)
    assert all(command.startswith("# ") for command in launch.commands(asked, tree))
    medusa = dataclasses.replace(asked, drafter="medusa")
    vllm, sglang = launch.commands(medusa, CHAIN)
    assert '"method": "medusa", "model": "PATH-OF-MEDUSA-HEAD"' in vllm
    assert sglang == "# SGLang does not serve Medusa's heads"


def test_more_layouts_than_colours_are_told_apart_by_dashes(advice):
    points = next(iter(advice.curves.values()))
    many = {Layout(tp=tp, replicas=1, drafts=k): points for tp in (1, 2, 4) for k in (0, 1, 7)}
    for count in (7, 9):
        found = dataclasses.replace(advice, curves=dict(list(many.items())[:count]))
        encoding = page.pareto_panel(found).chart.to_dict()["layer"][0]["encoding"]
        colours = encoding["color"]["scale"]["range"]
        dashes = encoding.get("strokeDash", {"scale": {"range": [[1, 0]] * count}})["scale"][
            "range"
        ]
        assert len({(c, tuple(d)) for c, d in zip(colours, dashes, strict=True)}) == count
        assert ("strokeDash" in encoding) == (count > 7)


def test_a_legend_on_a_phone_holds_every_layout(advice):
    """A phone of 390 pixels has 240 for names, 6.4 a letter; longer ones are broken."""
    asked = question(gpu="h100", gpus=64, target="llama-3.1-8b")
    every = [one for whole in layouts(asked) for one in (whole, *split(whole))]
    names = {one.short for one in every}
    assert len(names) == len(every)
    assert max(map(len, names)) <= (240 - 26) / 6.4
    assert {"TP 4 × 16: 7 drafts", "TP 4 × 8 + 8: 7 drafts"} <= names
    chart = page.pareto_panel(advice).chart.to_dict()
    (rows,) = chart["datasets"].values()
    assert {row["layout"] for row in rows} == {one.short for one in advice.curves}


def test_requests_that_are_refused_are_in_the_first_sentences(made):
    """Half of the prompts did not fit, and p99 TTFT was said to be 28 ms."""
    found, _ = made
    half = dataclasses.replace(found.best, served=0.5, requests=100, slack=math.inf)
    told = answer.verdict(dataclasses.replace(found, ranking=[half]))
    assert "serves every request" in told
    assert "refuses 50 of 100 requests, which do not fit" in told
    assert "inf" not in told
    assert "refuses" not in answer.verdict(found)
