"""``dsim advise``: layouts, estimates, confirmation and the verdict."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.deployment.metrics import measure
from dsim.deployment.serve import serve
from dsim.deployment.workload import Length, Workload
from dsim.orchestrations import ORCHESTRATIONS
from dsim.tasks.advise import answer, forecast, page, search
from dsim.tasks.advise.answer import advise
from dsim.tasks.advise.forecast import forecasts
from dsim.tasks.advise.layouts import Layout, deployment_of, layouts, pass_latency
from dsim.tasks.advise.question import OBJECTIVES, Question, ask

MS = 1_000_000
STABLE = SimpleNamespace(stable=True)
BASE = Question(target_ns=30 * MS, drafter_ns=3 * MS, acceptance=0.8, gpus=4, tokens=40)


@pytest.fixture(autouse=True)
def few_events(monkeypatch):
    monkeypatch.setattr(search, "MAX_EVENTS", 20_000)
    monkeypatch.setattr(search, "MORE", 4)


@pytest.fixture
def few_orchestrations(monkeypatch):
    """For what holds of any of them: most of the time goes into the others."""
    for name in set(ORCHESTRATIONS) - {"nonsi", "si", "dsi", "pearl"}:
        monkeypatch.delitem(ORCHESTRATIONS, name)


@functools.cache
def advice_on(question):
    """What several tests look at, found once; with the events of :func:`few_events`."""
    assert search.MORE == 4
    return advise(question)


@given(st.integers(1, 40), st.sampled_from([1, 2, 4]), st.integers(1, 30))
def test_layouts_fit_on_the_gpus(gpus, least, tokens):
    question = dataclasses.replace(BASE, gpus=gpus, gpus_per_target=least, tokens=tokens)
    found = layouts(question)
    assert len(set(found)) == len(found)
    for layout in found:
        assert 1 <= layout.gpus <= gpus
        assert layout.degree >= least
        assert layout.lookahead < tokens
        traits = layout.orchestration.traits
        assert layout.drafter_gpus or not traits.drafts or not traits.overlaps
        assert traits.drafts or not layout.drafter_gpus
    if gpus >= least:
        assert any(one.algorithm == "nonsi" and one.targets == gpus // least for one in found)


def test_tensor_parallelism_shortens_passes():
    question = dataclasses.replace(BASE, tp_gain=1.5, gpus_per_target=2)
    assert pass_latency(question, 2).latency_ns == 30 * MS
    assert pass_latency(question, 4).latency_ns == 20 * MS


@settings(max_examples=12)
@given(st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.integers(1, 12), st.booleans())
def test_without_load_and_preemptible_the_estimate_is_exact(p, drafter_ms, many):
    """One request after the other on the same draws: the ideal model itself."""
    question = dataclasses.replace(BASE, acceptance=p, drafter_ns=drafter_ms * MS, preemptible=True)
    some = layouts(question)[:: 17 if many else 23]
    requests = forecast.REPEATS
    for one in forecasts(question, some):
        deployment = deployment_of(question, one.layout)
        workload = Workload(
            arrivals="closed", users=1, requests=requests, output=Length(mean_tokens=40)
        )
        mean = measure(deployment, [serve(deployment, workload)]).latency["mean"].value
        assert mean == pytest.approx(one.latency_ns / 1e6, rel=1e-9)


@pytest.mark.usefixtures("few_orchestrations")
def test_the_best_is_best_of_what_was_confirmed():
    for objective in OBJECTIVES:
        question = dataclasses.replace(
            BASE, objective=objective, rate_per_s=1.0, slo_ns=1000 * MS, gpus=3, tokens=20
        )
        advice = advise(question)
        values = [search.value(question, one) for one in advice.ranking]
        assert values == sorted(values)
        assert {one.layout.algorithm for one in advice.ranking} >= {"nonsi", "si", "dsi", "pearl"}
        assert all(one.requests == advice.ranking[0].requests for one in advice.ranking)
        assert str(advice.ranking[0].layout) in advice.verdict


def test_estimates_far_from_the_simulation_do_not_decide(monkeypatch):
    """By far too good estimates SI is best here; what is simulated says otherwise of the rest."""
    monkeypatch.setattr(search, "MAX_EVENTS", 20_000)
    estimate = forecast._forecast

    def favouring_si(question, layout, *rest):
        found = estimate(question, layout, *rest)
        factor = 0.4 if layout.algorithm == "si" else 1.0
        return dataclasses.replace(found, latency_ns=found.latency_ns * factor)

    monkeypatch.setattr(forecast, "_forecast", favouring_si)
    question = dataclasses.replace(
        BASE, target_ns=18 * MS, drafter_ns=MS, acceptance=0.6, gpus=2, tokens=30
    )
    question = dataclasses.replace(question, rate_per_s=20.0, batch=64, sequence_ns=MS // 10)
    advice = advise(question)
    best = advice.ranking[0]
    assert forecast.best_algorithm(question, advice.forecasts) == "si" != best.layout.algorithm
    assert not any("Close call" in sentence for sentence in advice.sensitivity)
    factors = search.corrections(question, advice.ranking)
    assert factors["si", None][0] > 1.3 > 1.1 > factors["nonsi", None][0]
    right = [search.corrected(one, factors) for one in advice.forecasts]
    assert forecast.best_algorithm(question, right) == best.layout.algorithm
    tried = {one.layout for one in advice.ranking}
    beside = [one for one in right if one.layout not in tried]
    assert all(one.latency_ns * (1 + search.TIE) >= best.latency_ms * MS for one in beside)


@pytest.mark.usefixtures("few_orchestrations")
def test_progress_is_shown_from_the_estimate_to_the_end():
    seen = []
    advice = advise(BASE, lambda done, count: seen.append((done, count)))
    assert seen[0][0] == 0
    assert seen[-1][0] == seen[-1][1]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > len(advice.ranking) + 10  # the sensitivity takes as long as the rest


def test_requests_that_never_meet_have_an_interval():
    advice = advice_on(BASE)
    for one in advice.ranking:
        mean = one.metrics.latency["mean"]
        spread = one.latencies_ms.std(ddof=1) / len(one.latencies_ms) ** 0.5
        assert mean.ci95 == pytest.approx(1.97 * spread, rel=0.03)
        assert (mean.ci95 > 1e-9) == one.layout.orchestration.traits.drafts
    assert "mean ± 95 % interval" in answer.as_text(advice)[-1]


def test_what_is_recommended_comes_from_the_event_engine():
    question = dataclasses.replace(BASE, rate_per_s=1.0)
    best = advice_on(question).ranking[0]
    deployment = deployment_of(question, best.layout)
    workload = Workload(requests=best.requests, rate_per_s=1.0, output=Length(mean_tokens=40))
    again = measure(deployment, [serve(deployment, workload)], warm_up=0.1)
    assert again.latency["mean"] == best.metrics.latency["mean"]


def test_the_pareto_front_is_one():
    advice = advice_on(dataclasses.replace(BASE, rate_per_s=1.0))
    points = [
        (one.gpu_seconds_per_token, one.metrics.latency["mean"].value) for one in advice.pareto
    ]
    assert points == sorted(points)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    for one in advice.ranking:
        mine = (one.gpu_seconds_per_token, one.metrics.latency["mean"].value)
        assert any(x <= mine[0] and y <= mine[1] for x, y in points)


@pytest.mark.usefixtures("few_orchestrations")
def test_an_orchestration_of_a_plugin_is_advised_like_any_other(monkeypatch):
    """By its traits, its work and its vector form; its name stands nowhere."""
    mine = dataclasses.replace(ORCHESTRATIONS["dsi"], name="mine", title="My own")
    question = dataclasses.replace(BASE, acceptance=0.95, drafter_ns=MS, rate_per_s=1.0)
    with monkeypatch.context() as patched:
        patched.setitem(ORCHESTRATIONS, "mine", mine)
        patched.delitem(ORCHESTRATIONS, "dsi")
        advice = advise(question)
        assert any("My own" in str(one.layout) for one in advice.ranking)
    assert {one.layout.algorithm for one in advice.ranking} >= {"nonsi", "si", "mine"}
    again = advise(question)
    assert [one.latency_ms for one in again.ranking] == [one.latency_ms for one in advice.ranking]


def test_a_bad_drafter_is_advised_against():
    question = dataclasses.replace(BASE, acceptance=0.1, drafter_ns=25 * MS)
    assert advise(question).verdict.startswith("Don't speculate: run non-SI")


def test_a_good_drafter_is_advised():
    question = dataclasses.replace(BASE, acceptance=0.95, drafter_ns=MS, tp_gain=1.1)
    advice = advise(question)
    assert ORCHESTRATIONS[advice.ranking[0].layout.algorithm].traits.drafts
    assert advice.verdict.startswith("Run ")
    assert any("acceptance rate" in sentence for sentence in advice.sensitivity)


def test_a_load_that_no_layout_sustains_is_named():
    advice = advise(dataclasses.replace(BASE, rate_per_s=1000.0))
    assert advice.ranking == []
    assert advice.verdict.startswith("No layout on 4 GPUs sustains 1000 requests/s. The best one, ")
    assert " requests/s. All at batch size 1. Servers of today batch" in advice.verdict
    assert all(math.isinf(one.latency_ns) for one in advice.forecasts)


def test_advice_is_reproducible():
    question = dataclasses.replace(BASE, rate_per_s=1.0)
    assert answer.as_json(advice_on(question)) == answer.as_json(advise(question))


def test_the_command(tmp_path):
    page = tmp_path / "a.html"
    common = ["advise", "--gpus", "3", "--tokens", "20", "--rate", "1"]
    result = CliRunner().invoke(main, [*common, "--out", str(page)])
    assert result.exit_code == 0, result.output
    assert "layouts were estimated" in result.output
    assert "Latency against GPU time" in page.read_text()
    answer = json.loads(CliRunner().invoke(main, [*common, "--json"]).stdout)
    assert answer["verdict"] in result.output
    assert answer["ranking"][0]["gpus"] <= 3


def test_wrong_options_are_named_together():
    result = CliRunner().invoke(
        main,
        ["advise", "--objective", "slo", "--rate", "-1", "--gpus", "2", "--gpus-per-target", "4"],
    )
    assert result.exit_code == 2
    for part in (
        "--rate: expected a number from 1e-06 to",
        "--slo: is missing",
        "--gpus-per-target",
    ):
        assert part in result.output


@pytest.mark.parametrize("option", ["--price", "--batch-cost", "--rate", "--slo", "--watts"])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_numbers_that_are_not_finite_are_refused(option, value):
    result = CliRunner().invoke(main, ["advise", option, value, "--tokens", "20"])
    assert result.exit_code == 2
    assert f"{option}: expected a number" in result.output


@pytest.mark.usefixtures("few_orchestrations")
def test_enough_requests_are_sent_to_notice_a_growing_queue():
    # Long texts: the bound on events alone would leave too few.
    question = dataclasses.replace(BASE, tokens=300, rate_per_s=0.01, gpus=1)
    found = advise(question)
    assert all(one.requests >= 200 and one.metrics.backlog == 0 for one in found.ranking)


def test_a_drafter_on_the_targets_gpus_takes_its_share():
    """Alone it is as fast as on a GPU of its own; two requests slow each other."""
    question = dataclasses.replace(BASE, gpus=1, tokens=40, batch=8)
    layout = Layout(algorithm="si", lookahead=3, targets=1, degree=1, drafter_gpus=0)
    shared = deployment_of(question, layout)
    own = deployment_of(question, dataclasses.replace(layout, drafter_gpus=1))
    assert (shared.gpus, own.gpus) == (1, 2)
    one = Workload(arrivals="closed", users=1, requests=3, output=Length(mean_tokens=40))
    assert (serve(shared, one).done_ns == serve(own, one).done_ns).all()
    many = dataclasses.replace(one, users=8, requests=40)
    assert serve(shared, many).done_ns.mean() > 1.05 * serve(own, many).done_ns.mean()
    (forecast,) = forecasts(question, [layout])
    (apart,) = forecasts(question, [dataclasses.replace(layout, drafter_gpus=1)])
    assert forecast.most_per_s < apart.most_per_s


@pytest.mark.parametrize(
    ("rate_per_s", "batch", "lookahead", "degree"),
    [(5.0, 16, 3, 8), (2.0, 8, 2, 8), (2.0, 8, 5, 4), (8.0, 32, 5, 4), (0.3, 1, 3, 1)],
)
def test_an_estimate_knows_that_models_on_the_same_gpus_slow_each_other(
    rate_per_s, batch, lookahead, degree
):
    """Without that most were 0.5 to 0.7 times what is simulated."""
    question = dataclasses.replace(
        BASE, gpus=8, tokens=60, batch=batch, rate_per_s=rate_per_s, sequence_ns=MS // 3
    )
    layout = Layout(
        algorithm="si", lookahead=lookahead, targets=8 // degree, degree=degree, drafter_gpus=0
    )
    deployment = deployment_of(question, layout)
    workload = Workload(rate_per_s=rate_per_s, requests=300, output=Length(mean_tokens=60))
    simulated = measure(deployment, [serve(deployment, workload)]).latency["mean"].value
    (found,) = forecasts(question, [layout])
    assert 0.75 < found.latency_ns / MS / simulated < 1.35


def test_second_choices_are_what_trees_live_on():
    none = dataclasses.replace(BASE, acceptance=0.6, drafter_ns=MS, preemptible=True)
    some = dataclasses.replace(none, rank_shares=(0.5, 0.25))

    def best(question, name):
        own = [one for one in layouts(question) if one.algorithm == name]
        return min(forecasts(question, own), key=lambda one: one.latency_ns)

    for name in ("si", "dsi"):  # chains never ask for them
        assert best(some, name) == best(none, name)
    tree = best(some, "tree")
    assert tree.latency_ns < 0.8 * best(none, "tree").latency_ns
    # The estimate grows the tree by mean chances; the simulation by the drafter's confidence.
    workload = Workload(
        arrivals="closed", users=1, requests=forecast.REPEATS, output=Length(mean_tokens=40)
    )
    run = serve(deployment_of(some, tree.layout), workload)
    mean_ms = measure(deployment_of(some, tree.layout), [run]).latency["mean"].value
    assert 0.9 * tree.latency_ns / MS < mean_ms < tree.latency_ns / MS


def test_second_choices_as_an_option(tmp_path):
    assert ask(rank_shares=(0.45, 0.2)).rank_shares == (0.45, 0.2)
    measured = tmp_path / "acceptance.json"
    found = {"rate": 0.7, "rank_shares": [0.4, 0.1]}
    text = json.dumps({"format": "dsim profile 1", "name": "x", "acceptance": found})
    measured.write_text(text)
    assert ask(acceptance=str(measured)).rank_shares == (0.4, 0.1)
    assert ask(acceptance=str(measured), rank_shares=(0.3,)).rank_shares == (0.3,)
    assert ask().rank_shares == ()


def test_a_wide_pass_costs_what_is_said():
    asked = ask(target_latency="20", width_cost=0.5, batch=8)
    assert pass_latency(asked, 1).at_width(9) == 24 * MS
    assert dict(asked.facts())["target"] == "20 ms and 0.5 ms per further token"
    free, dear = (
        dataclasses.replace(BASE, batch=8, target_table=t) for t in ((), asked.target_table)
    )
    layout = Layout(algorithm="si", lookahead=3, targets=1, degree=1, drafter_gpus=1)
    (a,), (b,) = forecasts(free, [layout]), forecasts(dear, [layout])
    assert b.most_per_s < a.most_per_s


def test_a_missing_gpu_is_not_called_a_matter_of_load():
    verdict = advise(dataclasses.replace(BASE, gpus=1)).verdict
    assert "DSI needs GPUs of its own for a drafter" in verdict
    assert "SI with lookahead" in verdict
    assert "cannot sustain" not in verdict
    assert "SI" not in advise(dataclasses.replace(BASE, gpus=1, tokens=1)).verdict.split(":", 2)[2]


def advised(*args):
    return CliRunner().invoke(main, ["advise", *map(str, args)])


@pytest.mark.usefixtures("few_orchestrations")
def test_energy_where_watts_are_given():
    options = ("--tokens", "30", "--gpus", "3", "--json")
    rows = json.loads(advised(*options).stdout)["ranking"]
    assert all(row["kwh_per_million"] is None for row in rows)
    always = json.loads(advised(*options, "--watts", 360, "--idle-watts", 360).stdout)
    for row in always["ranking"]:  # 360 W for each GPU-second, whatever it does
        assert row["kwh_per_million"] == pytest.approx(row["gpu_seconds_per_token"] * 100)
    assert "kWh/M tokens" in advised(*options[:-1], "--watts", 360, "--idle-watts", 0).output
    for one, missing in (("--watts", "--idle-watts"), ("--idle-watts", "--watts")):
        result = advised(*options, one, 5)
        assert result.exit_code == 2
        assert f"{missing}: is missing" in result.output
    result = advised(*options, "--watts", 5, "--idle-watts", 6)
    assert result.exit_code == 2
    assert "expected at most 5 (--watts), got 6" in result.output


@pytest.mark.usefixtures("few_orchestrations")
def test_the_answer_names_the_batch_size():
    """It decides how much load a layout sustains, and is 1 unless an option says otherwise."""
    options = ("--tokens", "20", "--gpus", "2", "--rate", "1")
    for more, size in (((), 1), (("--batch", 8), 8)):
        result = advised(*options, *more)
        assert f"All at batch size {size}." in result.output
        assert json.loads(advised(*options, *more, "--json").stdout)["batch"] == size
    # One request at a time: there is nothing to batch.
    assert "All at batch size" not in advised("--tokens", "20", "--gpus", "2").output


def test_an_slo_that_nothing_asks_for_is_refused():
    result = advised("--tokens", "20", "--slo", "1000")
    assert result.exit_code == 2
    assert "--slo: is for --objective slo only" in result.output


@pytest.mark.usefixtures("few_orchestrations")
def test_units_price_and_slo_are_shown(tmp_path):
    out = tmp_path / "a.html"
    common = ("--tokens", "20", "--gpus", "2", "--price", "2.5")
    text = advised(*common, "--objective", "slo", "--slo", "700", "--out", out).output
    for head in ("latency (ms)", "p99 (ms)", "price/M tokens", "SLO met", "GPU-s/1k tokens"):
        assert head in text
        assert head in out.read_text()
    assert "of requests meet the 0.7 s SLO on" in text
    assert "700 ms" in out.read_text()
    assert "2.5 per GPU-hour" in out.read_text()
    assert "price/M" not in advised(*common[:-2]).output


def test_one_layout_is_one_layout():
    text = advised("--tokens", "1", "--gpus", "1").output
    assert "1 layout was estimated, and this one simulated" in text
    assert (
        "No layout on 1 GPU sustains"
        in advise(dataclasses.replace(BASE, gpus=1, rate_per_s=1000.0)).verdict
    )


def test_the_axis_counts_gpu_seconds_per_1000_tokens():
    """Ticks of GPU-seconds per token, five decimals each, ran into each other."""
    chart = page.pareto_panel(advice_on(dataclasses.replace(BASE, rate_per_s=1.0))).chart.to_dict()
    axis = chart["layer"][0]["encoding"]["x"]
    assert axis["title"] == "GPU-seconds reserved per 1,000 tokens"
    assert axis["axis"]["tickCount"] == 6
    assert chart["layer"][2]["encoding"]["shape"]["legend"] is not None


@pytest.mark.parametrize("factor", [1.0, 1.3, 2.0, 9.0, 500.0])
def test_the_axis_has_room_for_labels_but_nothing_below_zero(factor):
    """With room in pixels an axis on a phone began at -50 GPU-seconds, its marks in a heap."""
    advice = advice_on(dataclasses.replace(BASE, rate_per_s=1.0))
    first = advice.ranking[0]
    costs = (first.gpu_seconds_per_token, first.gpu_seconds_per_token * factor)
    ranking = [dataclasses.replace(first, gpu_seconds_per_token=cost) for cost in costs]
    panel = page.pareto_panel(dataclasses.replace(advice, ranking=ranking))
    scale = panel.chart.to_dict()["layer"][0]["encoding"]["x"]["scale"]
    ends, marks = scale["domain"], [1000 * cost for cost in costs]
    assert 0 < ends[0] < min(marks) <= max(marks) < ends[1]
    if scale.get("type") == "log":
        ends, marks = ([math.log(one) for one in values] for values in (ends, marks))
    left = (min(marks) - ends[0]) / (ends[1] - ends[0])
    assert left > 0.4  # 76 of 190 pixels
    if factor > 1.1:
        assert (max(marks) - min(marks)) / (ends[1] - ends[0]) > 0.4
    assert "where there is room" in panel.caption


@given(st.lists(st.tuples(st.floats(0.1, 9), st.floats(1, 999)), min_size=1, max_size=12))
def test_labels_of_the_front_do_not_overlap(points):
    """Each is at the lower left of its mark, where no mark is, and apart from the label before."""
    layout = Layout(algorithm="si", lookahead=5, targets=2, degree=4, drafter_gpus=0)
    ranking = [
        SimpleNamespace(layout=layout, latency_ms=ms, gpu_seconds_per_token=gpu_s, metrics=STABLE)
        for gpu_s, ms in points
    ]
    front = search.pareto(ranking)
    texts = page.labels(SimpleNamespace(ranking=ranking, pareto=front))
    assert set(texts) <= {"2×4, k=5", ""}
    assert texts[0]
    shown = [one.latency_ms for one, text in zip(front, texts, strict=True) if text]
    least = page.APART * max(ms for _, ms in points)
    assert all(above - below > least for above, below in itertools.pairwise(shown))


def test_the_tree_is_searched_and_named(monkeypatch):
    """Which tree pays depends on what width costs; who asks must be able to build it."""
    for name in set(ORCHESTRATIONS) - {"nonsi", "tree"}:
        monkeypatch.delitem(ORCHESTRATIONS, name)
    question = dataclasses.replace(BASE, acceptance=0.7, drafter_ns=2 * MS, rank_shares=(0.5,))
    best = {}
    for per_token_ms in (0, 3):
        table = ((1, 30 * MS), (64, (30 + 63 * per_token_ms) * MS))
        advice = advise(dataclasses.replace(question, target_table=table))
        layout = best[per_token_ms] = advice.ranking[0].layout
        assert f"Run a tree of {layout.nodes} nodes and depth {layout.depth} on" in advice.verdict
        row = answer.as_rows(advice)[0]
        assert (row["nodes"], row["depth"]) == (layout.nodes, layout.depth)
        heads, rows = answer.table(advice)
        assert rows[0][heads.index("nodes, depth")] == f"{layout.nodes}, {layout.depth}"
        assert deployment_of(question, layout).tree.nodes == layout.nodes
    assert best[3].nodes < best[0].nodes


def test_what_more_gpus_gain_may_change_the_answer():
    """Without a gain, GPUs are better used by DSI than by tensor parallelism."""
    question = dataclasses.replace(BASE, acceptance=0.9, tp_gain=1.9, preemptible=True)
    advice = advise(question)
    said = [one for one in advice.sensitivity if "times as fast on twice the GPUs" in one]
    assert len(said) == 1
    gain = float(said[0].split("only ")[1].split()[0])
    named = said[0].split("probably be ")[1].rstrip(".")
    again = advise(dataclasses.replace(question, tp_gain=gain))
    assert again.ranking[0].layout.orchestration.title == named
    assert advice.ranking[0].layout.orchestration.title != named
