"""What ``dsim advise --gpu`` says: where the answer flips, and what is compared with what."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from dsim.study.executors import Executor
from dsim.tasks.serving import answer, search
from dsim.tasks.serving.trials import BEYOND, DRAFTS, Layout, Task, trial
from tests.tasks.test_serving import question

CHAIN = Layout(tp=1, replicas=2, drafts=7)
TREE = Layout(tp=1, replicas=2, drafts=7, preset="sglang")
PLAIN = Layout(tp=1, replicas=2)
STEPS: list[tuple[int, int]] = []  # of the progress bar


@pytest.fixture(scope="module")
def advice():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SCREENED", "SWEPT", "CONFIRMED"):
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
    return "\n".join(answer.notes(advice))


def test_acceptance_rates_are_named_at_which_the_answer_is_another(made):
    """At 0.7 the tree is 0.6 % faster, which is no other answer."""
    found, table = made
    text = notes(found)
    assert "With an acceptance rate of 0.6: tree of 7 " in text
    assert "(1.90 s against 2.11 s of " in text
    assert "of 0.7" not in text
    assert "of 0.9" not in text
    (flip,) = json.loads(answer.as_json(found))["flips"]
    assert (flip["acceptance"], flip["wins"]["preset"]) == (0.6, "sglang")
    assert flip["stays"]["e2e_mean"] == 2113.0
    late = dataclasses.replace(found, others={0.6: table(1000.0, 1903.0, slack=1.2)})
    assert ", which does not keep the SLO)" in notes(late)
    assert "With an acceptance rate" not in notes(dataclasses.replace(found, others={}))


def test_an_answer_that_is_not_the_best_of_the_table_flips_only_where_the_table_does(made):
    """Plain decoding is the answer, because it carries more load; the chain leads the table."""
    found, _ = made
    plain = next(one for one in found.screened if one.layout == PLAIN)
    (flip,) = dataclasses.replace(found, ranking=[plain]).flips
    assert (flip.rate, flip.stays.layout) == (0.6, CHAIN)


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
