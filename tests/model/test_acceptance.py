"""Acceptance models: what each promises of its draws, and that draws depend on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.deployment.cluster import ranks_of
from dsim.deployment.workload import Workload
from dsim.engines.simulate import COUNTS, simulate_case
from dsim.errors import UserError
from dsim.model.acceptance import Acceptance, by_depth_of
from dsim.report import charts
from dsim.study.build import acceptance_of, case_of
from dsim.study.loader import load, loads
from dsim.study.loader import loads as load_study
from dsim.study.results import read_results
from dsim.tasks.run import run_study
from tests import STUDIES

STUDY = STUDIES / "acceptance-models.toml"


@st.composite
def acceptances(draw):
    model = draw(st.sampled_from(["bernoulli", "decay", "markov", "phases"]))
    return Acceptance(
        model=model,
        rate=draw(st.sampled_from([0.0, 0.3, 0.8, 1.0])),
        decay=draw(st.sampled_from([0.5, 0.9, 1.0])),
        correlation=draw(st.sampled_from([0.0, 0.6])),
        swing=draw(st.sampled_from([0.0, 0.5, 1.0])),
        phase_tokens=draw(st.sampled_from([1.0, 2.5, 20.0])),
        spread=draw(st.sampled_from([0.0, 0.1, 0.4])),
    )


@given(acceptances(), st.integers(0, 9), st.integers(1, 6), st.integers(1, 40), st.integers(0, 30))
def test_draws_depend_on_seed_repeat_and_position_alone(model, seed, repeats, tokens, more):
    short = model.draws(seed, repeats, tokens)
    longer = model.draws(seed, repeats + 3, tokens + more)
    assert np.array_equal(longer[:repeats, :tokens], short)


@given(acceptances(), st.integers(0, 9))
def test_a_request_has_the_ranks_of_its_repeat(model, seed):
    """Request 0 of a deployment is repeat 0 of a single run, its rate included."""
    study = load_study("tokens = 30\n[workload]\nrequests = 3\n")
    (case, *_) = study.cases()
    deployment = case.deployment.__class__(acceptance=model, seed=seed)
    rates = Workload(requests=3).rates(seed, 0, model)
    own = np.stack([ranks_of(deployment, 0, i, 30, float(rates[i])) for i in range(3)])
    assert np.array_equal(own, model.ranks(seed, 3, 30))


@settings(max_examples=30)
@given(acceptances(), st.integers(1, 5), st.integers(1, 5), st.integers(0, 3))
def test_engines_agree(model, lookahead, targets, seed):
    values = loads("tokens = 25\nrepeats = 3\n").of_variant(0)
    values |= {"lookahead": lookahead, "targets": targets, "seed": seed}
    case = case_of(values)
    case = case.__class__(**{**vars(case), "acceptance": model})
    for algorithm in ("nonsi", "si", "dsi"):
        by = [simulate_case(case, algorithm, engine) for engine in ("vector", "events")]
        assert np.array_equal(by[0].settled_ns, by[1].settled_ns)
        for name in COUNTS:
            assert np.array_equal(getattr(by[0], name), getattr(by[1], name))


def test_phases():
    """Rates 1.0 and 0.6 in turn, 50 tokens each on average; so rejections bunch."""
    found = Acceptance(model="phases", rate=0.8, swing=1.0, phase_tokens=50.0).draws(1, 2000, 400)
    assert abs(found.mean() - 0.8) < 0.005
    assert np.abs(found.mean(axis=0) - 0.8).max() < 0.05  # at every position
    rejected = ~found
    # Var = swing² = 0.04, and the phases' correlation over d tokens is (1 - 2/50)^d.
    for distance in (1, 10, 40):
        pairs = (rejected[:, :-distance] & rejected[:, distance:]).mean()
        assert pairs == pytest.approx(0.2**2 + 0.04 * (1 - 2 / 50) ** distance, rel=0.06)


def test_a_phase_of_one_token_takes_turns():
    found = Acceptance(model="phases", rate=0.5, swing=1.0, phase_tokens=1.0).draws(0, 50, 20)
    assert (found[:, 1:] != found[:, :-1]).all()  # rates 1 and 0
    assert 0 < found[:, 0].mean() < 1


def test_rates_spread_over_repeats():
    model = Acceptance(rate=0.8, spread=0.1)
    rates = model.rates(3, range(5000))
    assert abs(rates.mean() - 0.8) < 0.005
    assert abs(rates.std() - 0.1) < 0.005
    means = model.draws(3, 5000, 400).mean(axis=1)
    assert np.corrcoef(means, rates)[0, 1] > 0.95


def test_rates_drift_over_a_workload():
    workload = Workload(requests=1001, rate_drift=0.4)
    rates = workload.rates(0, 0, Acceptance(rate=0.7))
    assert rates[[0, 500, 1000]] == pytest.approx([0.5, 0.7, 0.9])
    assert Workload(requests=3, rate_drift=1.0).rates(0, 0, Acceptance(rate=0.7))[-1] == 1.0
    assert Workload(requests=1, rate_drift=1.0).rates(0, 0, Acceptance(rate=0.7))[0] == 0.7


def test_every_variant_of_the_study_has_the_same_mean():
    study = load(STUDY)
    for number, (name, _) in enumerate(study.variants):
        found = acceptance_of(study.of_variant(number)).draws(0, 4000, 1000)
        assert abs(found.mean() - 0.8) < 0.005, name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[acceptance]\nmodel = "phases"', "acceptance.swing: is missing"),
        ('[acceptance]\nmodel = "phase"', 'did you mean "phases"?'),
        (
            'tokens = 2\n[acceptance]\nmodel = "trace"\ntrace = "11"\nspread = 0.1',
            "acceptance.spread: has no meaning for a trace",
        ),
        (
            '[[charts]]\nkind = "variants"\nx = "variant"\ny = "latency_mean_ms"',
            'charts[0].x: expected "variant", and variants in the study',
        ),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(UserError) as caught:
        loads(text)
    assert message in str(caught.value)


def test_variants_are_drawn_side_by_side(tmp_path):
    small = ["repeats=3", "tokens=20", "grid.lookahead=[1, 3]", "target.latency_ms=5"]
    run_study(load(STUDY, small), tmp_path / "out")
    drawn = (tmp_path / "out" / "01-variants-latency-mean-ms.svg").read_text()
    for name, _ in load(STUDY).variants:
        assert name in drawn
    frame = read_results(tmp_path / "out" / "results.parquet")
    frame = frame[frame["lookahead"] == 1]
    (chart, _) = load(STUDY).charts
    (panel,) = charts.draw(chart, frame, ["variant"])
    assert panel.marks == 6 * 3
    assert "Dashed lines mark the baseline, i.i.d." in panel.caption


def test_rates_by_depth_are_of_chains_whose_drafts_before_are_right() -> None:
    """Chains that begin at 0, 1, 2 and 3; rows are depths, and the last is too deep for most."""
    ranks = np.array([[[1, 0, 1, 1], [9, 1, 1, 2], [9, 9, 1, 0]]])
    # Depth 1: 1 0 1 1. Behind 0, 2: position 1 is right, 3 is its second choice. Then 2 is right.
    assert by_depth_of(ranks) == (0.75, 0.5, 1.0)
    assert by_depth_of(np.zeros((2, 3, 5))) == (0.0, 0.0, 0.0)
    assert by_depth_of(np.ones((2, 3, 5))) == (1.0, 1.0, 1.0)
