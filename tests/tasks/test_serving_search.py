"""How ``dsim advise --gpu`` chooses: by which part of the load, and with what reserve."""

from __future__ import annotations

import dataclasses
import math

import pytest

from dsim.tasks.serving import answer, search
from dsim.tasks.serving.crossover import Crossover, crossover_of
from dsim.tasks.serving.notes import notes
from dsim.tasks.serving.trials import Layout, Task, trial
from tests.tasks.test_serving import question

CHAIN = Layout(tp=1, replicas=2, drafts=7)
SHORT = Layout(tp=1, replicas=2, drafts=2)
PLAIN = Layout(tp=1, replicas=2)


@pytest.fixture(scope="module")
def base():
    return trial(question(slo_ttft_ms=300.0), Task(PLAIN, 20))


@pytest.fixture
def made(base):
    def one(layout, e2e=1000.0, slack=0.5, **more):
        return dataclasses.replace(base, layout=layout, e2e_mean=e2e, slack=slack, **more)

    return one


def runner(made, limits):
    """Trials whose slack is 1 at the *limits*, and how many there were."""
    tasks = []

    def run(some):
        tasks.extend(some)
        return [
            made(t.layout, slack=(t.scale / limits[t.layout]) ** 3, scale=t.scale) for t in some
        ]

    return run, tasks


def test_the_fastest_with_a_reserve_is_best_though_another_carries_more(made):
    """Plain decoding carried 16 % more load, and was the answer at 3 times the latency."""
    fast, slow = made(CHAIN, 946.0), made(PLAIN, 3169.0)
    rank = search.ranked
    assert rank([slow, fast], {CHAIN: 1.73, PLAIN: 2.0})[0] == fast
    assert rank([slow, fast], {CHAIN: 1.1, PLAIN: 2.0})[0] == slow
    assert rank([slow, fast], {CHAIN: 1.1, PLAIN: 1.2})[0] == fast  # none has much
    assert rank([slow, fast], {CHAIN: 0.0, PLAIN: math.inf})[0] == slow


def test_the_fastest_of_the_closest_is_simulated_where_none_keeps_the_slo(made):
    """One draft a step was 3 % closer than seven, at twice the latency, and alone in the end."""
    fast, close = made(CHAIN, 872.0, slack=1.27), made(SHORT, 1721.0, slack=1.24)
    far = made(dataclasses.replace(CHAIN, drafts=9), 774.0, slack=1.65)
    assert search._finalists([close, fast, far, made(PLAIN, 2979.0, slack=1.22)])[0] == CHAIN
    assert search.as_close([close, fast]) == search.AS_FAR * 1.24
    assert search.as_close([close, made(PLAIN, slack=0.9)]) == 1.0


def test_where_none_keeps_the_slo_the_fastest_of_the_closest_is_best(made):
    """Plain decoding was 5 % closer, at three times the latency."""
    fast, slow = made(CHAIN, 1236.0, slack=1.25), made(PLAIN, 4059.0, slack=1.18)
    rooms = {CHAIN: 0.66, PLAIN: 0.69}
    assert search.ranked([slow, fast], rooms) == [fast, slow]
    assert search.ranked([slow, fast], {CHAIN: 0.5, PLAIN: 0.69}) == [fast, slow]
    far = dataclasses.replace(fast, slack=1.25 * 1.18 + 0.01)
    assert search.ranked([slow, far], rooms) == [slow, far]
    kept = dataclasses.replace(slow, slack=0.99)
    assert search.ranked([kept, dataclasses.replace(fast, slack=1.01)], rooms)[0] == kept


def test_a_number_of_drafts_that_no_server_chooses_must_be_worth_it(made):
    chosen = dataclasses.replace(CHAIN, chooses=True)
    for e2e, best in ((995.0, CHAIN), (985.0, chosen)):
        assert search.closest([made(chosen, e2e), made(CHAIN)])[0].layout == best


@pytest.mark.parametrize("limit", [1.04, 1.3, 1.85, 3.3, 7.9])
@pytest.mark.parametrize("rough", [0.4, 1.0, 1.7, math.inf])
def test_the_highest_load_is_found_whatever_was_known_of_it(made, limit, rough):
    run, tasks = runner(made, {CHAIN: limit, PLAIN: 20.0})
    found = search._limits(run, {CHAIN: rough, PLAIN: rough})
    assert found[CHAIN] == pytest.approx(limit, rel=0.05)
    assert found[PLAIN] == math.inf
    assert len(tasks) <= 2 * search.GUESSES
    assert {task.requests for task in tasks} == {search.LIMITED}


@pytest.mark.parametrize("limit", [0.3, 0.53, 0.8, 0.95])
def test_a_load_below_the_given_one_is_found_as_precisely(made, limit):
    """It was 0.64, of a few requests, where the others said 0.85."""
    run, tasks = runner(made, {CHAIN: limit})
    (found,) = search._limits(run, {CHAIN: 0.64}, {CHAIN: False}).values()
    assert found == (0.0 if limit < 0.5 else pytest.approx(limit, rel=0.01))
    assert len(tasks) <= search.GUESSES


@pytest.mark.parametrize(("limit", "found"), [(0.97, 1.0), (1.02, 1.02)])
def test_the_load_itself_is_tried_before_fewer_requests_deny_it(made, limit, found):
    run, tasks = runner(made, {CHAIN: limit})
    assert search._limits(run, {CHAIN: 1.0})[CHAIN] == pytest.approx(found, rel=0.01)
    assert tasks[-1].scale == 1.0


WAYS = [Layout(tp=1, replicas=2, drafts=drafts) for drafts in (7, 5, 3, 2, 1, 0)]


def confirmed(made, limits, tried):
    """What tries WAYS, each of which keeps the SLO up to one of *limits* times the load."""
    run, tasks = runner(made, dict(zip(WAYS, limits, strict=True)))
    found = search._Confirmed(run, True, {})
    found.add([WAYS[at] for at in tried])
    return found, tasks


@pytest.mark.parametrize("most", [2, 3, 5])
def test_what_is_faster_than_the_one_that_keeps_the_slo_may_keep_it_too(made, most):
    """7 drafts missed the SLO and 1 kept it; 2 kept it as well, and were never tried."""
    screened = [made(one, 1000.0 + 100 * place, slack=1.2) for place, one in enumerate(WAYS)]
    screened.append(made(Layout(tp=2, replicas=1, drafts=2), 1250.0))
    alike = search._alike(screened[::-1], WAYS[0])
    assert [one.layout for one in alike] == WAYS
    found, tasks = confirmed(made, [1.5 if one.drafts <= most else 0.9 for one in WAYS], [0, 4])
    del tasks[:]
    found.refine(alike)
    kept = [one.layout.drafts for one in found.known.values() if one.slack <= 1]
    assert max(kept) == most
    assert len(found.known) <= 4
    assert len(tasks) <= 2 * (1 + search.GUESSES)


@pytest.mark.parametrize("reserve", [2, 3, 5, 7])
def test_what_is_faster_than_the_one_with_reserve_may_have_it_too(made, reserve):
    """7 drafts kept the SLO up to 1.1 times the load, and 1 up to 1.3: 2 as well was not tried."""
    screened = [made(one, 1000.0 + 100 * place) for place, one in enumerate(WAYS)]
    found, _ = confirmed(made, [1.3 if one.drafts <= reserve else 1.1 for one in WAYS], [0, 4])
    found.refine(screened)
    room = {one.drafts for one, room in found.headroom.items() if room >= search.RESERVE}
    assert max(room) == reserve


def test_nothing_more_is_tried_where_no_layout_keeps_the_slo(made):
    found, tasks = confirmed(made, [0.9] * len(WAYS), [0, 4])
    count = len(tasks)
    found.refine([made(one) for one in WAYS])
    assert len(tasks) == count
    assert found.fastest.layout in (WAYS[0], WAYS[4])


def test_a_faster_layout_that_misses_by_less_than_the_estimate_is_off_is_named(advice, made):
    slow, fast = made(SHORT, 2385.0, slack=0.97), made(CHAIN, 1279.0, slack=1.07)
    found = dataclasses.replace(advice, ranking=[slow, fast], headroom={SHORT: 1, CHAIN: 0.9})
    assert (
        "TP 1, 2 replicas, 7 drafts a step misses the SLO by 7.0%, less than what the estimate of "
        "latencies may be off by, and would be 1.9 times as fast (mean E2E 1.28 s): measure it"
    ) in "\n".join(notes(found))
    for other in (made(CHAIN, 1279.0, slack=1.09), made(CHAIN, 2300.0, slack=1.07)):
        found = dataclasses.replace(found, ranking=[slow, other])
        assert "misses the SLO by" not in "\n".join(notes(found))


def test_a_bound_in_seconds_is_asked_about(advice):
    assert "in seconds" not in "\n".join(notes(advice))
    asked = question(slo_ttft_ms=0.5, slo_tpot_ms=0.04)
    text = "\n".join(notes(dataclasses.replace(advice, question=asked)))
    assert "--slo-ttft is in ms, and 0.5 ms is very short. If that is in seconds, say 500." in text
    assert "--slo-tpot is in ms, and 0.04 ms is very short. If that is in seconds, say 40." in text


def test_a_load_that_the_busiest_requests_miss_is_still_kept(made):
    """All requests keep the SLO, which is known; the busiest 4,000 do not."""
    run, _ = runner(made, {CHAIN: 0.9})
    assert search._limits(run, {CHAIN: 0.9}) == {CHAIN: 1.0}


def test_the_fastest_goes_on_though_the_busiest_requests_miss_the_slo(made):
    screened = [made(CHAIN, 900.0, slack=1.1), made(SHORT, slack=0.9), made(PLAIN, 3000.0)]
    assert search._finalists(screened) == [SHORT, PLAIN, CHAIN]


def test_fewer_gpus_are_bisected_whatever_their_degree(made):
    """The best was TP 2 × 2, of which one did not do: "with fewer replicas"; TP 1 × 2 did."""
    best = Layout(tp=2, replicas=6, drafts=3)
    one = Layout(tp=1, replicas=12, drafts=2)

    def limits(of_two, of_one):
        return {dataclasses.replace(best, replicas=n): n * of_two for n in range(1, 7)} | {
            dataclasses.replace(one, replicas=n): n * of_one for n in range(1, 13)
        }

    screened = [made(best), made(one, 2000.0)]
    for of_two, of_one, gpus, tp in ((0.21, 0.2, 5, 1), (0.3, 0.05, 8, 2), (0.1, 0.05, None, None)):
        run, tasks = runner(made, limits(of_two, of_one))
        found = search._fewer(run, best, screened)
        kept = next((one.layout for one in found if one.slack <= 1), None)
        assert (kept.gpus, kept.tp) == (gpus, tp) if gpus else kept is None
        assert len(tasks) <= 2 * 4
        assert [one.layout.gpus for one in found] == sorted(one.layout.gpus for one in found)


def curve(made, layout, latencies, waiting):
    return [
        made(layout, e2e, scale=scale, waiting=part, requests=1200, batch=90.0)
        for scale, e2e, part in zip(search.SCALES, latencies, waiting, strict=True)
    ]


def test_loads_at_which_requests_pile_up_with_both_are_not_compared(made):
    kept, over = [0.0] * 5, [0.0, 0.0, 0.1, 0.3, 0.6]
    plain = curve(made, PLAIN, [300, 310, 400, 900, 1000], over)
    for waiting, compared, piled_up in ((kept, 8.0, None), (over, 1.0, 2.0)):
        drafting = curve(made, CHAIN, [100, 110, 200, 400, 800], waiting)
        found = crossover_of({PLAIN: plain, CHAIN: drafting}, CHAIN)
        assert found == Crossover(None, compared, 90.0, [CHAIN], piled_up)
    drafting = curve(made, CHAIN, [100, 110, 800, 900, 990], kept)
    found = crossover_of({PLAIN: plain, CHAIN: drafting}, CHAIN)
    gains = math.log(310 / 110), math.log(400 / 800)
    assert found.scale == pytest.approx(2 ** (gains[0] / (gains[0] - gains[1])))
    assert crossover_of({CHAIN: drafting}, CHAIN) is None
    # A tree gets slow under load; there is a chain that does not.
    short = curve(made, SHORT, [200, 220, 230, 300, 400], kept)
    found = crossover_of({PLAIN: plain, SHORT: short, CHAIN: drafting}, CHAIN)
    assert (found.scale, found.compared, found.ways) == (None, 8.0, [CHAIN, SHORT])
    few = dataclasses.replace(plain[-1], requests=12, waiting=0.5)
    assert (plain[-1].piles_up, few.piles_up) == (True, False)


@pytest.fixture
def advice(made):
    """7 drafts keep the SLO over all requests; the busiest 400 miss it with 7, not with 2."""
    asked = question(slo_ttft_ms=300.0)
    table = [made(CHAIN, 1216.0, slack=1.18), made(SHORT, 1743.0, slack=1.01), made(PLAIN, 3900.0)]
    return search.Advice(
        question=asked,
        ranking=[made(CHAIN, 1173.0, slack=0.97), made(PLAIN, 3836.0, slack=0.9)],
        screened=table,
        curves={},
        headroom={CHAIN: 1.02, PLAIN: 1.3},
        limited=20,
        fewer=[],
        others={0.7: table, 0.9: [dataclasses.replace(one, slack=1.25) for one in table]},
        beyond=None,
        crossover=Crossover(None, 2.0, 90.0, [CHAIN, SHORT], 4.0),
    )


def test_the_answer_is_what_other_acceptance_rates_are_compared_with(advice, made):
    """It was compared with plain decoding, which the busiest requests favour."""
    assert advice.flips == []
    faster = [made(CHAIN, 1600.0, slack=1.2), made(SHORT, 1500.0, slack=1.1), made(PLAIN, 3900.0)]
    late = [made(CHAIN, 1600.0, slack=1.9), made(SHORT, 1700.0, slack=1.1), made(PLAIN, 3900.0)]
    found = dataclasses.replace(advice, others={0.6: late, 0.7: faster})
    assert [(one.rate, one.wins.layout, one.stays.layout) for one in found.flips] == [
        (0.6, SHORT, CHAIN),
        (0.7, SHORT, CHAIN),
    ]
    text = "\n".join(notes(found))
    assert (
        "of 0.6: 2 drafts a step (1.70 s against 1.60 s of 7 drafts a step, which does not" in text
    )
    assert "of 0.7: 2 drafts a step (1.50 s against 1.60 s of 7 drafts a step)." in text


def test_what_is_said_of_loads_is_what_was_compared(advice):
    text = "\n".join(notes(advice))
    assert "Speculation (7 drafts a step or 2 drafts a step) is faster than plain" in text
    assert "at every load that was compared (0.5, 1, 2 × this one; TP 1); at 4 × requests" in text
    assert "pile up with all." in text
    assert "Yet plain" not in text  # the verdict says so
    less = dataclasses.replace(advice, headroom={CHAIN: 1.02, PLAIN: 1.1})
    assert "Yet plain decoding keeps the SLO up to more load" in "\n".join(notes(less))
    assert "A replica runs at most 128 requests at once here" in text
    quick = dataclasses.replace(advice, crossover=Crossover(None, 8.0, 9.0))
    assert "pile up" not in "\n".join(notes(quick))
    assert "at most 128" not in "\n".join(notes(quick))
    slower = dataclasses.replace(advice, crossover=Crossover(0.5, 0.5, 9.0))
    assert "slower than plain decoding (mean E2E) already at 0.5 ×" in notes(slower)[0]


def test_a_verdict_tells_its_reserve_and_who_has_more(advice):
    text = answer.verdict(advice)
    assert "up to 1.02 × the load, by the 20 requests that come closest together (the same" in text
    assert "), which is little reserve." in text
    assert f"{PLAIN} keeps it up to 1.3 × the load, at 3.3 times the mean E2E (3,836 ms)." in text
    ample = dataclasses.replace(advice, headroom={CHAIN: 2.0, PLAIN: 2.1})
    assert "little reserve" not in answer.verdict(ample)
    assert "keeps it up to" not in answer.verdict(ample)


def test_a_load_that_is_kept_over_all_alone_is_said_so(advice):
    """It read "up to 1 × the load", where fewer requests said less."""
    best = dataclasses.replace(advice.best, requests=80)
    found = dataclasses.replace(advice, ranking=[best], headroom={CHAIN: 1.0})
    text = answer.verdict(found)
    assert "keeps the SLO over all requests, and not on the 20 requests that come closest" in text
    assert "up to 1 ×" not in text


def test_where_no_layout_keeps_the_slo_the_load_that_one_keeps_is_told(advice):
    far = [dataclasses.replace(one, slack=1.6) for one in advice.ranking]
    found = dataclasses.replace(advice, ranking=far, headroom={CHAIN: 0.0, PLAIN: 0.68})
    rate = f"{0.68 * advice.question.rate_per_s:.3g} requests/s"
    text = f"{PLAIN} carries the most of these: 0.68 × the load ({rate})."
    assert text in answer.verdict(found)
    none = dataclasses.replace(found, headroom={CHAIN: 0.0, PLAIN: 0.0})
    assert "carries the most" not in answer.verdict(none)


def test_ways_that_are_as_fast_are_named(advice, made):
    alike = dataclasses.replace(CHAIN, preset="sglang")
    table = [*advice.screened, made(alike, 1220.0, slack=1.2)]
    text = "\n".join(notes(dataclasses.replace(advice, screened=table)))
    assert "As fast within 1% (mean E2E 1.22 s, of the 20 requests" in text
    assert f"): {alike} (1.22 s). What sets them apart" in text
    assert "As fast" not in "\n".join(notes(advice))
    # Without an SLO slack is the mean E2E, and nobody has headroom: both left it out.
    asked = dataclasses.replace(advice.question, slo_ttft_ms=None)
    table = [made(CHAIN, 1216.0, slack=1.216), made(alike, 1220.0, slack=1.22)]
    free = dataclasses.replace(advice, question=asked, screened=table, headroom={alike: 0.0})
    free = dataclasses.replace(free, ranking=[made(CHAIN, 1173.0, slack=1.173)], crossover=None)
    assert f"): {alike} (1.22 s). What sets" in "\n".join(notes(free))


def test_prices_are_of_tokens_at_this_load(advice):
    assert "price/M tok" not in "\n".join(answer.as_text(advice))
    asked = dataclasses.replace(advice.question, price=3.0)
    best = dataclasses.replace(advice.best, tokens_per_s=100.0)
    found = dataclasses.replace(advice, question=asked, ranking=[best])
    # Two GPUs at 3 an hour, 360,000 tokens an hour.
    assert answer.rows(found)[0][-1] == f"{6 / 0.36:.3g}"
    assert "price/M tok" in answer.head(found)
    assert "GPU-hours at 3; a load that keeps the GPUs busier" in answer.reading(found)


def test_what_is_kept_over_all_alone_is_said_so_in_the_table(advice, made):
    """ "1 ×" was said to be by the busiest requests, which miss the SLO."""
    best = made(CHAIN, 1173.0, slack=0.97, requests=500)
    found = dataclasses.replace(advice, ranking=[best], headroom={CHAIN: 1.0})
    assert answer.rows(found)[0][8] == "1 ×, over all"
    assert "over all: not by these, but by all together" in answer.reading(found)
    assert "there is no reserve" in answer.verdict(found)
    assert answer.rows(advice)[0][8] == "1.02 ×"
    assert "over all:" not in answer.reading(advice)


def test_a_p99_of_few_requests_near_its_bound_decides_nothing(advice, made):
    """An hour's traffic kept the SLO on one stretch and missed it on the next, without a word."""
    told = "p99 of 607 requests hangs on 7 requests, the slowest"

    def said(slack, requests):
        best = made(CHAIN, 1173.0, slack=slack, requests=requests)
        return answer.verdict(dataclasses.replace(advice, ranking=[best]))

    for slack in (0.9, 1.01):
        assert told in said(slack, 607)
        assert "hangs on" not in said(slack, 2000)
    for slack in (0.5, 2.0):
        assert "hangs on" not in said(slack, 607)
