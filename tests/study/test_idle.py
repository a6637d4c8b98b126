"""Settings that are set and change nothing."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.idle import DECIDES, NEEDED, READ, idle_settings, never_right
from dsim.study.loader import load, loads

STUDIES = Path(__file__).parents[2] / "studies"


def notes(text):
    return of(loads(text))


def of(study):
    variants = [study.of_variant(number) for number in range(len(study.variants))]
    return idle_settings(variants, {axis.key: axis.values for axis in study.grid})


def unranked(study):
    return never_right([study.of_variant(number) for number in range(len(study.variants))])


def test_what_lacks_its_partner_is_named():
    """It was ignored in silence, and shown in the report as if it mattered."""
    (one,) = notes("target.latency_cv = 0.2")
    assert one == (
        'target.latency_cv has no effect: target.latency_model is "constant"; it matters with '
        '"lognormal" or "gamma".'
    )
    assert notes("target = {latency_cv = 0.2, latency_model = 'gamma'}") == []
    (one,) = notes("more_drafters = {latency_ms = [8], acceptance_rate = [0.8]}")
    assert one.startswith("more_drafters.latency_ms has no effect on non-SI, SI, DSI; it matters")
    assert notes("tree.depth = 3")[0].startswith("tree.depth has no effect on non-SI, SI, DSI; ")
    assert notes("tree.depth = 3\nalgorithms = ['nonsi', 'tree']") == []
    assert notes("targets = 3") == []
    assert notes("targets = 3\nalgorithms = ['nonsi', 'si']")[0].startswith("targets has no effect")


def test_a_latency_beside_latencies_of_its_own_model_is_named():
    """300 ms were given, 25 ms simulated."""
    samples = "target = {latency_model = 'empirical', latency_samples_ms = [19, 40]"
    (one,) = [n for n in notes(f"{samples}, latency_ms = 300}}") if n.startswith("target")]
    assert one.startswith('target.latency_ms has no effect: target.latency_model is "empirical"')
    part = f"{samples}, latency_ms = 300}}\ndrafter.latency_relative = 0.1"
    assert notes(part) == []  # the drafter's latency is a part of it
    assert not any(n.startswith("target") for n in notes(f"{samples}}}"))


def test_what_matters_in_some_case_is_not_named():
    swept = "target.latency_cv = 0.2\n[grid]\ntarget.latency_model = ['constant', 'gamma']"
    assert notes(swept) == []
    variants = "target.latency_cv = 0.2\n[[variants]]\nname = 'a'\n[[variants]]\nname = 'b'\n"
    assert len(notes(variants)) == 1
    assert notes(f"{variants}target.latency_model = 'lognormal'\n") == []
    swept = "algorithms = ['nonsi', 'si']\n[grid]\nacceptance.decay = [0.8, 0.9]\n"
    assert notes(swept)[0].startswith('acceptance.decay has no effect: acceptance.model is "bern')


def test_no_study_that_ships_sets_what_has_no_effect():
    for path in STUDIES.glob("*.toml"):
        try:
            study = load(path)
        except UserError:  # of another command
            continue
        # Depths that nobody measured are told in studies that ship, too.
        assert [note for note in of(study) if "further ahead" not in note] == [], path
        assert unranked(study) == [], path


def test_second_choices_of_which_nothing_is_known_are_named():
    """``dsim simulate`` alone said so."""
    text = "algorithms = ['nonsi', 'ssd', 'tree']\n"
    (told,) = unranked(loads(text))
    assert told.startswith("SSD and tree: the drafter's second choices are never right here; say")
    traced = "acceptance.model = 'trace'\nacceptance.trace = '1111'\ntokens = 4\n"
    for more in (traced, "acceptance.rank_shares = [0.4]\n"):
        assert unranked(loads(text + more)) == []
    assert unranked(loads("algorithms = ['nonsi', 'si', 'dsi']")) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lookahead = 8\nalgorithms = ['tree']", "lookahead has no effect on tree; it matters"),
        ("lookahead_policy = 'aimd'\nalgorithms = ['tree']", "lookahead_policy has no effect on"),
        ("confidence_quality = 0.5", "confidence_quality has no effect on non-SI, SI, DSI; it m"),
    ],
)
def test_what_no_algorithm_reads_is_named(text, words):
    assert any(one.startswith(words) for one in notes(text))
    others = "algorithms = ['tree', 'si']\nlookahead_policy = 'confidence'\n"
    text = text.replace("algorithms = ['tree']", "").replace("lookahead_policy = 'aimd'", "")
    assert not any("no effect on" in one for one in notes(others + text))


def test_every_rule_is_of_settings_that_there_are():
    known = DEPLOYMENT.by_key
    assert {*DECIDES, *READ} <= known.keys()
    for other, kinds in DECIDES.values():
        assert {*kinds} <= {*known[other].choices}


def test_rates_that_a_method_does_not_ask_for():
    (one,) = notes('method = "ngram"\nacceptance.rate = 0.7')
    assert one.startswith('acceptance.rate has no effect: acceptance.model is "lookup"; it matters')
    assert notes('method = "ngram"') == []
    assert notes("acceptance.copied_rate = 0.5")[0].startswith("acceptance.copied_rate has no eff")


def test_gpus_of_no_model():
    names = [note.split()[0] for note in notes('gpu = "h100"\ntp = 4\ndtype = "fp8"')]
    assert names == ["gpu", "tp", "dtype"]
    named = 'target.model = "llama-3.3-70b"\ngpu = "h100"\ntp = 4\ndtype = "fp8"\n'
    assert notes(f"{named}drafter.latency_ms = 2") == []


def test_one_latency_without_the_other():
    (one,) = notes("target.latency_ms = 32")
    assert one == "drafter.latency_ms is 0.1, as by default; the target's is set."
    assert notes("drafter.latency_ms = 4")[0].startswith("target.latency_ms is 1.0, as by default")
    for also in (
        "drafter.latency_ms = 4",
        "drafter.latency_relative = 0.2",
        "algorithms=['nonsi']",
    ):
        assert notes(f"target.latency_ms = 32\n{also}") == []
    assert notes("target.latency_ms = 32\n[grid]\ndrafter.latency_ms = [1, 2]") == []
    for way in ("ngram_us = 20", "linear_us = [300, 1]"):
        replicas = f"target.latency_ms = 9\ndrafter.{way}\nreplica.count = 1\n"
        told = notes(f"{replicas}workload.prompt_tokens = 5\nalgorithms = ['nonsi', 'si']")
        assert told == []
    assert notes("drafter.latency_ms = 0.5") == []  # the target's 1 is the unit, as in the paper


def test_rates_cannot_differ_more_than_they_can():
    (one,) = notes("acceptance.rate = 0.9\nacceptance.spread = 0.4")
    assert one.startswith(
        "acceptance.spread is 0.4, but rates of 0.9 in the mean differ by at most"
    )
    assert notes("acceptance.rate = 0.9\nacceptance.spread = 0.3") == []


def test_a_load_that_a_trace_replaces():
    trace = 'workload.arrivals = "trace"\nworkload.trace = "arrival_ms,output_tokens\\n0,7"\n'
    assert notes(trace) == []
    for key, value in (("rate_per_s", 30), ("requests", 10), ("prompt_tokens", 5), ("users", 3)):
        (one,) = notes(f"{trace}workload.{key} = {value}")
        assert one.startswith(f'workload.{key} has no effect: workload.arrivals is "trace"; it ma')
    assert notes(f"tokens = 5\n{trace}")[0].startswith("tokens has no effect")
    assert notes("workload.rate_per_s = 3\nworkload.requests = 20\ntokens = 5") == []
    with pytest.raises(UserError, match='trace_file: has no meaning: the arrivals are not "trace"'):
        loads(trace.replace('"trace"', '"poisson"'))
    with pytest.raises(UserError) as caught:  # and what else is wrong, as well
        loads(f"{trace}cluster.target_watts = 5".replace('"trace"', '"poisson"'))
    assert "trace_file: has no meaning" in str(caught.value)
    assert "cluster.target_idle_watts: is missing" in str(caught.value)


@pytest.mark.parametrize("command", ["simulate", "run sanity"])
def test_a_user_reads_it(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    words = [*command.split(), "--set", "drafter.latency_cv=0.3", "--set", "repeats=2"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert "drafter.latency_cv has no effect: drafter.latency_model is" in result.output
    if command == "run sanity":
        (page,) = tmp_path.glob("results/*/report.html")
        assert "drafter.latency_cv has no effect" in page.read_text("utf-8")


def test_what_drafts_ahead_of_the_features_that_it_reads_is_named():
    """DSI with an MTP module, at any number of drafts ahead, was 3.7 times as fast."""
    (one,) = notes('method = "mtp"\nalgorithms = ["nonsi", "si", "dsi"]')
    assert one.startswith("MTP drafts from what the target knows after a pass; DSI drafts while")
    assert notes('method = "mtp"\nalgorithms = ["nonsi", "si"]') == []
    assert notes('method = "pearl"') == []
    named = 'gpu = "h100"\ntarget.model = "llama-3-8b"\ndrafter.model = "eagle3"\n'
    (one,) = notes(named)
    assert one.startswith('"eagle3" drafts from')


def test_drafts_further_ahead_than_rates_are_known_are_named():
    rates = "acceptance.per_position = [0.8, 0.576]\nalgorithms = ['si']\nlookahead = {}\n"
    assert notes(rates.format(2)) == []
    (one,) = notes(rates.format(3))
    assert one.startswith("acceptance.per_position has 2 depths, and some drafts are further ahead")
    (one,) = notes(rates.replace("'si'", "'dsi'").format(1))
    assert one.startswith("acceptance.per_position has 2 depths")
    assert notes(rates.replace("'si'", "'dsi'").format(1) + "targets = 1\n") == []
    assert notes("acceptance.by_depth = [0.8]\nlookahead = 9\n") == []


def test_settings_that_need_another_one_are_named():
    """Somebody who set cluster.mttr_s alone believed that failures were simulated."""
    text = "algorithms = ['nonsi']\nworkload = { requests = 50, prompt_tokens = 9 }\n"
    text += "cluster.mttr_s = 10.0\n"
    assert notes(text) == ["cluster.mttr_s has no effect without cluster.mtbf_s."]
    assert notes(text + "cluster.mtbf_s = 500.0\n") == []
    text = text.replace("cluster.mttr_s = 10.0", "replica = { count = 1, link_us = 5.0 }")
    assert "replica.link_us has no effect without replica.prefill_count." in notes(text)
    assert {*NEEDED, *itertools.chain(*NEEDED.values())} <= DEPLOYMENT.by_key.keys()
