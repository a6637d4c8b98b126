"""dsim validate: predict first, compare later; intervals, noise, and how drafts fare."""

from __future__ import annotations

import dataclasses
import itertools
import json
import types

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.model.acceptance import Acceptance, log_likelihood
from dsim.tasks.validate import calibration, prediction
from dsim.tasks.validate.calibration import rate_of
from dsim.tasks.validate.claims import by_chance, claims_of, expected_error
from dsim.tasks.validate.page import as_json, as_text
from dsim.tasks.validate.result import Texts
from dsim.tasks.validate.run import predict
from dsim.tasks.validate.run import validate as run_validation
from dsim.tasks.validate.streaks import FORMS, streaks_of
from tests.tasks.test_validate import World, settings_of

SMALL = {"lookahead": [2], "targets": [1], "prompts": 3, "repeats": 4, "calibration_prompts": 3}
# No ties: each width has a time of its own.
RISING = {
    "target_ns": tuple((width, 20_000_017 + 100_001 * width) for width in range(1, 30)),
    "more_ns": 200_001,
}
FITTED = {form.name: form for form in FORMS}
rates = st.floats(0.1, 0.9)


@pytest.fixture(autouse=True, scope="module")
def _few_simulations():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "TRACE_DRAWS", 2)
        patch.setattr(calibration, "RATE_DRAWS", 2)
        yield


class Noisy(World):
    """Each run takes longer or shorter by chance; so do its forwards."""

    def __init__(self, deviation: float, **more) -> None:
        super().__init__(**more)
        self.rng = np.random.default_rng(5)
        self.deviation = deviation

    def pace(self, configuration):
        return super().pace(configuration) * float(np.exp(self.rng.normal(0, self.deviation)))


# -- predict first ------------------------------------------------------------------------------


def test_a_prediction_is_kept_and_compared_later(tmp_path) -> None:
    world, wanted = World(), settings_of(**SMALL)
    made = predict(wanted, bench=world)
    assert {text for text, _ in world.measured} == {0, 1, 2}  # only calibration texts were run
    sha256 = prediction.write(made, tmp_path / "p.json")
    known = prediction.read(tmp_path / "p.json")
    assert known.sha256 == sha256
    assert known.calibration.quality == 0.6
    prediction.check_study(known, wanted, tmp_path / "p.json")
    later = World()
    found = run_validation(wanted, against=known, bench=later)
    assert not any(text in (1, 2) for text, _ in later.measured)  # 0 shows what is usual
    assert later.traced == []
    assert found.holds
    for row in found.rows:
        assert row.error_replay == pytest.approx(0, abs=1e-6)
        old = made.rows[row.configuration]
        assert row.predicted.rate_ms == old.rate_ms
        for name, texts in row.texts.items():
            assert texts.predicted_ms.tolist() == old.texts_ms[name].tolist()
    text = as_text(found)
    assert (
        f"Predicted from {made.made[0]} to {made.made[1]} (SHA-256 of the file: {sha256})" in text
    )
    assert f"measured from {found.measured[0]} to {found.measured[1]}." in text
    assert json.loads(as_json(found))["prediction_sha256"] == sha256
    # Without a file there is nothing to tell apart.
    by_turns = run_validation(wanted, bench=World())
    assert "SHA-256" not in as_text(by_turns)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    path = tmp_path_factory.mktemp("prediction") / "p.json"
    prediction.write(predict(settings_of(**SMALL), bench=World()), path)
    return path


def edited(kept, tmp_path, change, *, signed=True):
    document = json.loads(kept.read_text("utf-8"))
    change(document)
    if signed:
        document["sha256"] = prediction._digest(document)
    path = tmp_path / "edited.json"
    path.write_text(json.dumps(document), "utf-8")
    return path


def test_a_prediction_that_was_changed_is_refused(kept, tmp_path) -> None:
    def change(document) -> None:
        document["rows"][0]["rate_ms"] += 1

    path = edited(kept, tmp_path, change, signed=False)
    with pytest.raises(UserError, match="sha256: the file was changed since it was written"):
        prediction.read(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["hardware"].update(cores=99), "prediction is for cores 99; this machine has"),
        (lambda d: d.update(format="dsim profile 1"), 'format: expected "dsim prediction 1"'),
        (lambda d: d.pop("rows"), "is no whole prediction: KeyError"),
        (lambda d: d["rows"].append(3), "is no whole prediction: AttributeError"),
        (lambda d: d["calibration"]["costs"].append([1]), "is no whole prediction: ValueError"),
    ],
)
def test_what_is_no_prediction_for_this_machine_is_refused(kept, tmp_path, change, said) -> None:
    with pytest.raises(UserError, match=said):
        prediction.read(edited(kept, tmp_path, change))


def test_a_prediction_of_another_study_is_refused(kept) -> None:
    known = prediction.read(kept)
    with pytest.raises(UserError) as caught:
        prediction.check_study(known, settings_of(**SMALL | {"seed": 3, "repeats": 5}), kept)
    assert f"{kept}: repeats: the prediction is for 4; this study has 5" in str(caught.value)
    assert f"{kept}: seed: the prediction is for 0; this study has 3" in str(caught.value)


def test_the_command_predicts_and_compares(tmp_path, monkeypatch) -> None:
    world = World()
    monkeypatch.setattr("dsim.tasks.validate.run.bench_of", lambda _: world)
    study, file = tmp_path / "v.toml", tmp_path / "p.json"
    lines = [f"{key} = {json.dumps(value)}" for key, value in SMALL.items()]
    study.write_text("\n".join(["tokens = 30", *lines]), "utf-8")

    def run(*more):
        return CliRunner().invoke(main, ["validate", str(study), "--quiet", *map(str, more)])

    first = run("--predict", file)
    assert first.exit_code == 0, first.output
    assert prediction.read(file).sha256 in first.output
    second = run("--against", file)
    assert second.exit_code == 0, second.output
    assert "SHA-256" in second.output
    for wrong in (
        run("--against", file, "--quick"),
        run("--against", tmp_path / "none.json"),
        run("--against", study),
        run("--predict", file, "--against", file),
        run("--predict", tmp_path / "missing" / "p.json"),
    ):
        assert wrong.exit_code == 2, wrong.output


# -- intervals and noise ------------------------------------------------------------------------


@pytest.mark.parametrize("deviation", [0.01, 0.05])
def test_intervals_hold_as_often_as_they_say(deviation) -> None:
    more = SMALL | {"prompts": 20, "repeats": 4, "calibration_prompts": 5}
    world = Noisy(deviation, **RISING)
    found = run_validation(settings_of(**more), bench=world)
    assert 0.85 <= found.covered <= 1
    for row in found.rows:
        # Both sides have noise, that of the faster half of four.
        assert 0.5 * deviation < row.predicted.deviation < 1.2 * deviation
        low, high = row.interval_ms
        assert low < row.predicted_replay_ms.mean() < high


class Drifting(Noisy):
    """The machine's pace changes, but not between two runs right after each other."""

    def pace(self, configuration):
        # Three show what is usual; then a turn has three pairs.
        if len(self.measured) == 1 or len(self.measured) % 6 == 4:
            self.now = super().pace(configuration)
        return self.now


def test_noise_that_neighbours_share_is_no_uncertainty() -> None:
    more = SMALL | {"prompts": 12, "repeats": 4, "calibration_prompts": 5}
    apart = run_validation(settings_of(**more), bench=Noisy(0.05, **RISING))
    assert 0.7 < apart.calibration.apart(4) <= 1
    shared = run_validation(settings_of(**more), bench=Drifting(0.05, **RISING))
    assert shared.calibration.apart(4) < 0.2
    assert shared.covered >= 0.9
    for row, other in zip(shared.rows, apart.rows, strict=True):
        assert row.predicted.deviation < 0.5 * other.predicted.deviation
    # Of what is measured later nothing is shared.
    later = predict(settings_of(**more), bench=Drifting(0.05, **RISING))
    assert all(row.deviation > 0.02 for row in later.rows.values())


class Uneven(Drifting):
    """Forwards of one text take longer than those of another, whatever the configuration."""

    def pace(self, configuration):
        own = np.random.default_rng(self.measured[-1][0]).normal(0, 0.03)
        return super().pace(configuration) * float(np.exp(own))


def test_what_differs_from_text_to_text_is_an_uncertainty() -> None:
    """Neighbours shared it with each other, but not with the text that is predicted."""
    more = SMALL | {"prompts": 20, "repeats": 4, "calibration_prompts": 20}
    found = run_validation(settings_of(**more), bench=Uneven(0.02, **RISING))
    assert 0.01 < found.calibration.between_texts() ** 0.5 < 0.05
    assert found.covered >= 0.85
    for row in found.rows:
        assert 0.02 < row.predicted.deviation < 0.07
        assert row.noise_deviation < 0.01  # is not made of texts
        assert abs(row.error_replay) < 0.02  # texts with faster forwards are not preferred
    even = run_validation(settings_of(**more), bench=Drifting(0.02, **RISING))
    assert even.calibration.between_texts() < 0.005**2
    alone = found.calibration.paces.popitem()
    assert dataclasses.replace(found.calibration, paces=dict([alone])).between_texts() == 0


def test_of_two_repeats_there_is_no_interval() -> None:
    found = run_validation(settings_of(**SMALL | {"repeats": 2}), bench=World())
    assert found.covered is None
    assert all(row.interval_ms is None for row in found.rows)
    assert json.loads(as_json(found))["covered"] is None
    assert "95 % intervals of predictions" not in as_text(found)


def test_a_machine_that_cannot_repeat_itself_gets_no_verdict(monkeypatch) -> None:
    found = run_validation(settings_of(**SMALL), bench=Noisy(0.2))
    by_claim = {claim.claim: claim for claim in found.claims}
    claim = by_claim["within tolerance, from the replayed trace"]
    assert claim.holds is None
    assert claim.detail.startswith(f"repeats differ by {found.noise:.1%} (tolerance 2.0%)")
    assert f"too noisy to tell: {claim.detail}" in as_text(found)
    assert json.loads(as_json(found))["claims"][-2]["holds"] is None
    assert found.holds is None

    def invoke(world):
        monkeypatch.setattr("dsim.tasks.validate.run.bench_of", lambda _: world)
        args = ["validate", "--tokens", "30", "--prompts", "3", "--quiet"]
        return CliRunner().invoke(main, args).exit_code

    assert invoke(Noisy(0.2)) == 4
    lossy = Noisy(0.2)
    lossy.wrong_text = 9  # a claim that noise does not touch
    assert invoke(lossy) == 1


def test_a_single_noisy_configuration_is_named() -> None:
    class OneIsNoisy(Noisy):
        def pace(self, configuration):
            self.deviation = 0.3 if configuration.algorithm == "nonsi" else 0.0
            return super().pace(configuration)

    found = run_validation(settings_of(**SMALL | {"prompts": 4}), bench=OneIsNoisy(0))
    claim = next(c for c in found.claims if c.claim.endswith("trace"))
    assert claim.holds is None
    assert claim.detail.startswith("repeats of non-SI differ by ")


@pytest.mark.parametrize(("slower", "holds"), [(1.0, None), (1.1, None), (4.0, False)])
def test_errors_far_beyond_the_noise_fail_on_a_noisy_machine_too(slower, holds) -> None:
    """A prediction that was off by 49 %, with noise of 10 %, was "too noisy to tell"."""

    class Later(Noisy):
        def pace(self, configuration):
            is_later = self.measured[-1][0] >= SMALL["calibration_prompts"]
            return super().pace(configuration) * (slower if is_later else 1.0)

    found = run_validation(settings_of(**SMALL | {"prompts": 4}), bench=Later(0.15))
    claim = next(c for c in found.claims if c.claim.endswith("trace"))
    assert claim.holds is holds
    assert ("differ by" in claim.detail) == (holds is None)


def judged(off: float, deviation: float):
    """The claim about traces where one of the configurations is *off*, with so wide intervals."""
    wanted = settings_of(**SMALL | {"prompts": 4})
    found = run_validation(wanted, bench=World(**RISING))
    first, *others = found.rows
    wide = dataclasses.replace(first.predicted, deviation=deviation)
    texts = {
        name: Texts(t.measured_ms * (1 + off), t.measured_ms) for name, t in first.texts.items()
    }
    rows = [dataclasses.replace(first, predicted=wide, texts=texts), *others]
    return next(c for c in claims_of(wanted, found.calibration, rows) if c.claim.endswith("trace"))


def test_an_error_whose_interval_reaches_into_the_tolerance_cannot_be_told() -> None:
    assert judged(0.04, 0.0).holds is True
    assert judged(0.08, 0.0).holds is False  # the tolerance is 5 %
    assert judged(0.08, 0.02).holds is False  # ± 2 %, of four texts
    unsure = judged(0.08, 0.06)
    assert unsure.holds is None
    assert "95 % interval up to ±6.1%, which reaches into the tolerance" in unsure.detail
    assert judged(0.04, 0.06).holds is True


def test_what_is_expected_of_a_right_prediction_is_its_own_noise() -> None:
    found = run_validation(settings_of(**SMALL), bench=World(**RISING))
    predicted = [dataclasses.replace(row.predicted, deviation=0.05) for row in found.rows]
    rows = [dataclasses.replace(r, predicted=p) for r, p in zip(found.rows, predicted, strict=True)]
    assert expected_error(rows) == pytest.approx(0.6745 * 0.05, rel=0.03)
    claim = next(
        c for c in claims_of(found.settings, found.calibration, rows) if c.claim.endswith("trace")
    )
    assert claim.holds is None
    said = "calibration and repeats differ so much that a right prediction is off by 3.4% (tol"
    assert claim.detail.startswith(said)
    assert expected_error(found.rows) < 0.01


def test_what_was_not_measured_widens_the_interval() -> None:
    found = run_validation(settings_of(**SMALL), bench=World(**RISING))
    known = found.calibration
    narrow = {
        c: {
            role: dataclasses.replace(cost, table=cost.table[:1], weights=cost.weights[:1])
            for role, cost in costs.items()
        }
        for c, costs in known.costs.items()
    }
    other = dataclasses.replace(known, costs=narrow)
    c = found.rows[-1].configuration
    beside = [range(4 * i, 4 * i + 4) for i in range(3)]
    texts = [(trace, ()) for trace in found.prediction.traces]
    wide = prediction.predicted(other, c, texts, beside)
    assert wide.beyond_share > 0.3
    assert wide.deviation > found.rows[-1].predicted.deviation + 0.05
    assert found.rows[-1].predicted.beyond_share <= 0.05
    rows = [dataclasses.replace(found.rows[-1], predicted=wide)]
    other = dataclasses.replace(found, rows=rows)
    assert "were wider than" not in as_text(other)  # waits take as long at any width
    other = dataclasses.replace(other, settings={**found.settings, "backend": "torch"})
    assert "were wider than its latency table" in as_text(other)
    assert "were wider than" not in as_text(found)


# -- how drafts fare ------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(FITTED)),
    p=rates,
    more=st.tuples(rates, rates),
    tokens=st.integers(1, 6),
)
def test_the_chances_of_all_draws_add_up_to_one(name, p, more, tokens) -> None:
    form = FITTED[name]
    acceptance = form.of(*(p, *more)[: len(form.start)])
    draws = np.array(list(itertools.product((False, True), repeat=tokens)))
    assert np.exp(log_likelihood(acceptance, draws)).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(FITTED))
def test_likelihoods_are_how_often_draws_happen(name) -> None:
    form = FITTED[name]
    acceptance = form.of(*(0.7, 0.5, 0.4)[: len(form.start)])
    draws = acceptance.draws(1, 20_000, 3)
    every = np.array(list(itertools.product((False, True), repeat=3)))
    said = np.exp(log_likelihood(acceptance, every))
    found = [(draws == row).all(axis=1).mean() for row in every]
    assert found == pytest.approx(said.tolist(), abs=0.012)


def traces_of(acceptance, count=40, tokens=40) -> list[str]:
    draws = acceptance.draws(3, count, tokens)
    return ["".join("01"[int(draw)] for draw in row) for row in draws]


def test_streaks_are_found_and_few_texts_are_not_asked() -> None:
    streaky = Acceptance(model="markov", rate=0.8, correlation=0.5)
    found = streaks_of(traces_of(streaky))
    assert found.acceptance.model == "markov"
    assert found.acceptance.correlation == pytest.approx(0.5, abs=0.15)
    assert found.held_out[found.form] == max(found.held_out.values())
    spread = streaks_of(traces_of(Acceptance(rate=0.8, spread=0.15)))
    assert spread.form == "differs by text"
    assert spread.acceptance.spread == pytest.approx(0.15, abs=0.06)
    few = streaks_of(traces_of(streaky, count=9))
    assert (few.form, few.held_out) == ("independent", {})
    assert streaks_of(["1111"] * 20).acceptance == Acceptance(rate=1.0)


@pytest.mark.parametrize(("policy", "bound"), [("aimd", "first"), ("confidence", "most")])
def test_a_lookahead_that_adapts_is_predicted(policy: str, bound: str) -> None:
    more = SMALL | {"lookahead_policy": ["fixed", policy], "lookahead": [3], "repeats": 1}
    found = run_validation(settings_of(**more), bench=World())
    by_name = {str(row.configuration): row for row in found.rows}
    fixed, adapts = (by_name[f"SI, lookahead 3{more}"] for more in ("", f" at {bound} ({policy})"))
    assert fixed.measured_ms.tolist() != adapts.measured_ms.tolist()
    assert adapts.error_replay == pytest.approx(0, abs=1e-9)
    assert adapts.as_dict["lookahead_policy"] == policy


def test_the_rate_stays_as_it_was_counted() -> None:
    """A form that does not quite fit does not trade the rate for streaks."""
    rng = np.random.default_rng(3)
    traces = traces_of(Acceptance(model="markov", rate=0.97, correlation=0.6), count=30)
    traces += traces_of(Acceptance(rate=0.7), count=10)
    rng.shuffle(traces)
    found = streaks_of(traces)
    assert found.acceptance.rate == pytest.approx(rate_of(traces), abs=1e-9)


def test_which_texts_are_measured_changes_the_mean_by_chance() -> None:
    """Means of so many texts, drawn from one distribution, differ by less in 95 % of all trials."""
    rng = np.random.default_rng(1)
    within = []
    for _ in range(2000):
        texts, others = rng.normal(100, 20, 12), rng.normal(100, 20, 40)
        most = by_chance(types.SimpleNamespace(predicted_replay_ms=texts), len(others))
        within.append(abs(others.mean() / texts.mean() - 1) <= most)
    assert 0.9 < np.mean(within) < 0.97
