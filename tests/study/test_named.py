"""Models and GPUs by name in studies: what is estimated, and what wins over it."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.model.estimate import estimate
from dsim.study import loader
from dsim.study.build import case_of

STUDY = """
tokens = 400
target = "llama-3.3-70b"
drafter = "eagle3"
gpu = "h100"
tp = 4
dtype = "fp8"
"""


def case(text, *overrides, variant=0):
    return case_of(loader.loads(text, overrides=overrides).of_variant(variant))


def test_latencies_are_those_of_the_roofline():
    found = case(STUDY)
    there = estimate("llama-3.3-70b", "h100", tp=4, dtype="fp8", drafter="eagle3")
    for latency, roofline in ((found.target, there.target), (found.drafter, there.drafter)):
        assert latency.model == "table"
        for width in (1, 8, 64):
            pairs = width * (200 + width / 2)
            assert latency.at_width(width) == roofline.forward_ns(width, pairs, 200, width)


def test_a_name_is_short_for_its_setting():
    assert case(STUDY) == case(STUDY.replace("target =", "target.model ="))


def test_what_was_measured_wins(tmp_path):
    text = STUDY.replace('target = "llama-3.3-70b"', 'target.model = "llama-3.3-70b"')
    measured = case(text + "target.latency_ms = 12.5\n")
    assert (measured.target.model, measured.target.latency_ns) == ("constant", 12_500_000)
    assert measured.drafter == case(STUDY).drafter
    assert case(STUDY, "target.latency_ms=7").target.latency_ns == 7_000_000
    swept = loader.loads(STUDY + "[grid]\ntarget.latency_ms = [5, 10]\n")
    assert swept.settings["target.latency_model"] == "constant"
    pair = tmp_path / "pair.json"
    profile = {"model": "x", "latency_ms": 3.0}
    both = {"target": profile, "drafter": profile, "acceptance": {"rate": 0.6}}
    pair.write_text(json.dumps({"format": "dsim profile 1", "name": "x", **both}))
    assert case(STUDY, f"pair={pair}").target.latency_ns == 3_000_000


def test_variants_may_be_of_other_gpus():
    text = STUDY + '[[variants]]\nname = "a"\n[[variants]]\nname = "b"\ngpu = "h200"\ntp = 2\n'
    study = loader.loads(text)
    first, second = (case_of(study.of_variant(n)) for n in (0, 1))
    assert first == case(STUDY)
    assert second.target == case(STUDY, "gpu=h200", "tp=2").target != first.target
    own = '[[variants]]\nname = "a"\ntarget.latency_ms = 9\n'
    assert case(STUDY + own).target.latency_ns == 9_000_000


def test_gpus_alone_change_nothing():
    plain = 'tokens = 10\ngpu = "h100"\n'
    assert case(plain) == case("tokens = 10\n")


def test_requests_that_share_servers_have_contexts_of_their_own():
    study = loader.loads(STUDY + "[workload]\nprompt_tokens = 1000\nrate_per_s = 0.1\n")
    there = estimate("llama-3.3-70b", "h100", tp=4, dtype="fp8").target
    settings = study.settings
    assert settings["cluster.gpus_per_target"] == 4
    at = {c: there.forward_ns(1, c + 0.5, c, 1) for c in (0, 10_000)}
    assert settings["cluster.target_context_ms"] == pytest.approx(
        (at[10_000] - at[0]) / 10 / 1e6, rel=1e-3
    )
    first = there.forward_ns(1000, 500_000, 0, 1)
    assert settings["target.first_latency_ms"] == pytest.approx(first / 1e6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('target = "llama-3.3-70b"', "gpu: is missing: type of the GPUs"),
        ('drafter = "eagle3"\ngpu = "h100"', "target.model: is missing"),
        (STUDY.replace("70b", "70"), 'target.model: expected .* did you mean "llama-3.3-70b"'),
        (STUDY.replace("eagle3", "eagel3"), 'drafter.model: expected .* did you mean "eagle3"'),
        (STUDY.replace("h100", "h10"), 'gpu: expected .* did you mean "h100"'),
        (STUDY.replace("tp = 4", "tp = 3"), "tp: tp = 3 does not divide the 64 heads"),
        (STUDY.replace("tp = 4", "tp = 1"), "tp: .* does not fit on 1 GPU .* fits at tp = 2"),
        (STUDY.replace("fp8", "fp9"), 'dtype: expected one of .* did you mean "fp8"'),
    ],
)
def test_wrong_names_are_explained(text, message):
    with pytest.raises(UserError, match=message):
        loader.loads(text)


def test_a_name_can_be_set_apart():
    words = ["target=llama-3.1-8b", "tp=1", "drafter='medusa'", "dtype=bf16"]
    study = loader.loads(STUDY, overrides=words)
    assert study.settings["target.model"] == "llama-3.1-8b"
    assert study.settings["drafter.model"] == "medusa"
    with pytest.raises(UserError, match="target: unknown setting"):
        loader.loads(STUDY, overrides=["target=8"])


def test_a_model_that_wants_a_gpu():
    result = CliRunner().invoke(main, ["advise", "--target", "llama-3.3-70b"])
    assert result.exit_code == 2
    assert result.output.endswith('got "llama-3.3-70b"; with --gpu its latencies are estimated\n')


def test_simulate_takes_names():
    words = "simulate --target llama-3.3-70b --gpu h100 --tp 4 --drafter eagle3 --json".split()
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    there = estimate("llama-3.3-70b", "h100", tp=4, drafter="eagle3").target
    plain = json.loads(result.output)["cases"][0]
    assert plain["latency_ns"][0] == 100 * there.forward_ns(1, 50.5, 50, 1)
    wrong = CliRunner().invoke(main, ["simulate", "--target", "llama-3.3-70b"])
    assert wrong.exit_code == 2
    assert wrong.output.startswith("error: --gpu: is missing")


def test_a_request_may_be_as_long_as_the_model_was_made_for():
    """A model of 8,192 tokens answered prompts of 20,000."""
    text = 'algorithms = ["nonsi"]\ngpu = "h100"\ntarget.model = "llama-3-8b"\nreplica.count = 1\n'
    text += "workload.prompt_tokens = 100\n"

    def replica(*overrides):
        (one,) = loader.loads(text, overrides=overrides).cases()
        return one.deployment.replica

    assert replica().max_model_len == 8192
    assert replica().refuses(8000, 193)
    assert not replica().refuses(8000, 192)
    assert replica("replica.max_model_len=0").max_model_len == 0
    assert replica("target.model=vicuna-7b", "drafter.model=eagle3").max_model_len == 0
