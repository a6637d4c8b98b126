"""Replicas in studies: the workloads of BLIS, rows for requests, and what is refused."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.deployment.replica.cost import Batch
from dsim.deployment.replica.setup import costs_of
from dsim.errors import UserError
from dsim.study.loader import loads
from dsim.study.requests import refusals, run_cases, table
from tests import ROOT

BLIS = ROOT / "tests" / "data" / "blis"
SMALL = """
algorithms = ["nonsi", "si"]
tokens = 20
repeats = 1
[workload]
requests = 40
rate_per_s = 20
prompt_tokens = 30
[target]
linear_us = [6000, 25, 30]
[drafter]
linear_us = [300, 1]
[replica]
max_seqs = 4
"""


def dsim(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize("name", sorted(path.name for path in BLIS.iterdir()))
def test_every_request_has_the_times_that_blis_gives(name, tmp_path):
    folder = BLIS / name
    config = json.loads((folder / "config.json").read_text("utf-8"))
    given = {
        "workload.trace_file": folder / "trace.csv",
        "target.linear_us": config["beta"],
        "replica.max_seqs": config["max_num_seqs"],
        "replica.max_batched_tokens": config["max_num_batched_tokens"],
        "replica.long_prefill_threshold": config["long_prefill_token_threshold"],
        "replica.block_size": config["block_size"],
        "replica.kv_blocks": config["total_kv_blocks"],
        "replica.max_model_len": config["max_model_len"],
    }
    sets = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    study, out = ROOT / "studies" / "peer-blis.toml", tmp_path / "out.csv"
    result = dsim("run", study, *sets, "--json", "--requests", out)
    assert result.exit_code == 0, result.output

    def rows_of(path, names):
        with path.open(encoding="utf-8", newline="") as file:
            return [[row[name] for name in names] for row in csv.DictReader(file)]

    times = ["request_id", "ttft_us", "e2e_us", "preemptions"]
    assert rows_of(out, times) == rows_of(folder / "times.csv", times)
    asked = ["request_id", "arrival_us", "prompt_tokens", "output_tokens"]
    assert rows_of(out, asked) == rows_of(folder / "trace.csv", asked)


def test_a_table_replica_makes_one_replica_and_is_kept():
    study = loads(SMALL)
    assert study.settings["replica.count"] == 1
    again = loads(study.to_toml())
    assert list(again.cases()) == list(study.cases())
    assert all(case.deployment.replica is not None for case in again.cases())


def test_replicas_and_fleets_stand_in_one_study():
    cases = list(loads(SMALL, overrides=['algorithms=["si","dsi"]', "replica.gpus=8"]).cases())
    assert [case.deployment.replica is not None for case in cases] == [True, False]
    assert [case.deployment.gpus for case in cases] == [8.0, 8.0]


def test_variants_may_be_of_either_kind():
    """What has no meaning in one variant has one in another."""
    study = loads(
        SMALL.replace('algorithms = ["nonsi", "si"]', "")
        + """
[cluster]
target_batch = 4
[[variants]]
name = "replicas"
algorithms = ["si"]
[[variants]]
name = "fleets"
algorithms = ["dsi"]
"""
    )
    assert [case.deployment.replica is None for case in study.cases()] == [False, True]


def test_an_overload_is_said(tmp_path):
    """A step takes 6 ms and 30 µs for each of 4 requests, a prompt 0.75 ms: about 32 a second."""
    text = SMALL.replace("rate_per_s = 20", "rate_per_s = 60").replace('"nonsi", "si"', '"nonsi"')
    (tmp_path / "s.toml").write_text(text, "utf-8")
    result = dsim("run", tmp_path / "s.toml", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["cases"][0]["status"] == "backlog grows"
    assert abs(found["cases"][0]["offered_target"] - 60 / 31.9) < 0.02
    (said,) = found["overloaded"]
    assert "1 replica is overloaded (at least 188%)" in said["why"]
    assert "fewer than 31.9 requests / s, or 2 replicas or more" in said["why"]
    result = dsim("run", tmp_path / "s.toml", "--out", tmp_path / "out")
    assert "Overloaded: " in result.output
    assert "overloaded (at least 188%)" in (tmp_path / "out" / "report.html").read_text("utf-8")


WRONG = {
    "replica.drafts_by_batch=[[64, 1], [1, 3]]": "requests must increase",
    "target.linear_us=[1, 2]": "expected a list of 3 numbers of at least 0, got [1, 2]",
    "drafter.linear_us=[1, -2]": "expected a list of 2 numbers",
    "replica.max_seq=3": 'did you mean "replica.max_seqs"',
    "replica.router=random": "expected one of",
    "replica.kv_blocks=2": "no request fits: the shortest has 50 tokens",
    "workload.prompt_tokens=0": "expected at least 1 on replicas, got 0",
    "lookahead_policy=aimd": "where replica.draft_policy chooses",
    "cluster.target_batch=2": "has no meaning for replicas",
    "replica.count=0": "target.linear_us: has no meaning without replicas",
    "replica.max_count=1 & replica.count=2": "replica.max_count: expected at least 2",
    "replica.prefill_max_count=3": "replica.prefill_max_count: expected replica.prefill_count of",
    'cluster.faults=[{server="target 1",at_s=1.0}]': 'expected a server like "replica 1"',
    'cluster.faults=[{server="replica 2",at_s=1.0}]': "expected replica 1 to replica 1",
    'algorithms=["dsi"]': "no algorithm runs on replicas",
}


@pytest.mark.parametrize("override", WRONG)
def test_what_is_wrong_is_said(override, tmp_path):
    (tmp_path / "s.toml").write_text(SMALL, "utf-8")
    sets = [part for one in override.split(" & ") for part in ("--set", one)]
    result = dsim("run", tmp_path / "s.toml", *sets, "--json")
    assert result.exit_code == 2
    assert WRONG[override] in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival_us,prompt_tokens,output_tokens\n1,2,3\n", "expected a column request_id"),
        ("request_id,arrival_us,output_tokens\na,1,2\n", "expected a column prompt_tokens"),
        (
            "request_id,arrival_us,prompt_tokens,output_tokens\na,5,1,1\nb,4,1,1\n",
            "line 3: times go back",
        ),
        (
            "request_id,arrival_us,prompt_tokens,output_tokens,accepts\na,5,1,3,01\n",
            "accepts: expected 0 and 1 for each of 3 tokens",
        ),
        (
            "request_id,arrival_us,prompt_tokens,output_tokens,prefix_group,prefix_tokens\n"
            "a,5,3,1,g,4\n",
            "prefix_tokens: expected 0 to 3",
        ),
    ],
)
def test_bad_workloads_are_refused(text, message, tmp_path):
    (tmp_path / "w.csv").write_text(text, "utf-8")
    given = f'workload.trace_file="{tmp_path / "w.csv"}"'
    result = dsim("run", ROOT / "studies" / "peer-blis.toml", "--set", given, "--json")
    assert result.exit_code == 2
    assert message in result.output


def test_draws_of_a_workload_decide(tmp_path):
    """A prompt of 2 and 4 tokens, two drafts a round: all stand, or none."""
    rows = "request_id,arrival_us,prompt_tokens,output_tokens,accepts\n"
    (tmp_path / "w.csv").write_text(f"{rows}all,0,2,4,1111\nnone,1000000,2,4,0000\n", "utf-8")
    overrides = ["workload.arrivals=trace", f"workload.trace_file={tmp_path / 'w.csv'}"]
    overrides += ["lookahead=2", 'algorithms=["si"]']
    (tmp_path / "s.toml").write_text(SMALL, "utf-8")
    sets = [part for one in overrides for part in ("--set", one)]
    result = dsim("run", tmp_path / "s.toml", *sets, "--json", "--requests", tmp_path / "o.csv")
    assert result.exit_code == 0, result.output
    all_stand, none = csv.DictReader((tmp_path / "o.csv").read_text("utf-8").splitlines())
    first = 6000 + 2 * 25 + 2 * 301
    assert (all_stand["ttft_us"], none["ttft_us"]) == (str(first), str(first))
    assert all_stand["e2e_us"] == str(first + 6000 + 3 * 30)
    assert none["e2e_us"] == str(first + (6090 + 301) + (6060) + 6030)


def test_names_of_models_and_gpus_are_enough():
    """Costs by tokens and context, memory and GPUs come from the names; what is set wins."""
    text = """
target = "llama-3.1-8b"
drafter = "eagle3"
gpu = "h100"
tp = 2
algorithms = ["si"]
[workload]
prompt_tokens = 100
[replica]
count = 1
"""
    (case,) = loads(text).cases()
    spec = case.deployment.replica
    assert (spec.target.shape.name, spec.target.tp, spec.gpus) == ("llama-3.1-8b", 2, 2.0)
    assert spec.features
    assert spec.kv_blocks > 10_000
    one, far = (
        costs_of(case.deployment, spec, 0)[0](Batch(0, 1, 1, 1, c, c + 0.5)) for c in (0, 9000)
    )
    assert one < far
    assert one == spec.target.forward_ns(1, 0.5, 0, 1)
    (again,) = loads(loads(text).to_toml()).cases()
    assert again.deployment == case.deployment
    overrides = ["target.linear_us=[1,2,3]", "replica.kv_blocks=77", "drafter.latency_ms=2"]
    (case,) = loads(text, overrides=overrides).cases()
    spec = case.deployment.replica
    assert (spec.target_us, spec.kv_blocks, spec.drafter) == ((1, 2, 3), 77, None)


def test_the_speed_up_is_over_non_si_with_the_same_target():
    """Two targets, each with a variant of non-SI and one of SI."""
    text = SMALL.replace('algorithms = ["nonsi", "si"]', "")
    for name, us in (("small", 6000), ("large", 12000)):
        for algorithm in ("nonsi", "si"):
            text += f"""
[[variants]]
name = "{name} {algorithm}"
algorithms = ["{algorithm}"]
target.linear_us = [{us}, 25, 30]
"""
    frame = table(run_cases(loads(text))).set_index("variant")
    for name in ("small", "large"):
        plain, drafting = frame.loc[f"{name} nonsi"], frame.loc[f"{name} si"]
        assert plain["speedup_vs_nonsi"] == 1
        ratio = plain["latency_mean_ms"] / drafting["latency_mean_ms"]
        assert drafting["speedup_vs_nonsi"] == ratio > 1


def test_the_longest_prefix_wins_where_prompts_begin_alike():
    """Eight system prompts on four replicas with room for two of them each."""
    text = SMALL.replace("prompt_tokens = 30", "prompt_tokens = 660\nprefix_groups = 8")
    text = text.replace("requests = 40", "requests = 200").replace("max_seqs = 4", "count = 4")
    text += "kv_blocks = 150\n"
    found = {}
    for router in ("round-robin", "longest-prefix"):
        overrides = [f"replica.router={router}", "workload.prefix_tokens=640"]
        overrides.append('algorithms=["nonsi"]')
        (row,) = table(run_cases(loads(text, overrides=overrides))).to_dict("records")
        found[router] = row["ttft_mean_ms"]
    assert found["longest-prefix"] < 0.7 * found["round-robin"]


def test_users_who_wait_for_answers_are_no_growing_backlog():
    """300 requests of 100 users, all of whom come at once."""
    overrides = ["workload.arrivals=closed", "workload.users=100", "workload.requests=300"]
    frame = table(run_cases(loads(SMALL, overrides=overrides)))
    assert set(frame["status"]) == {"ok"}


def test_a_replica_has_the_gpus_that_its_model_is_spread_over():
    """One GPU in place of eight made the price an eighth."""
    named = 'target.model = "llama-3.3-70b"\ngpu = "h100"\ntp = 8\nalgorithms = ["nonsi"]\n'
    named += "workload.prompt_tokens = 100\n[replica]\ncount = 1\n"
    with pytest.raises(UserError, match=r"replica\.gpus: expected at least 8 \(tp\), got 1"):
        loads(f"{named}gpus = 1\n")
    assert loads(f"{named}gpus = 9\n").settings["replica.gpus"] == 9
    assert loads(named).settings["replica.gpus"] == 8


@pytest.mark.parametrize(
    ("link", "status", "said"),
    [
        (25, "ok", ""),
        (2.5, "ok", "85% of the time, a lot"),
        (1, "backlog grows", "212% of the time"),
    ],
)
def test_a_link_that_cannot_carry_the_caches_is_said(link, status, said):
    """9 prompts a second of 900 tokens of 256 KiB are 2.1 GB/s; 1 GB/s was "ok"."""
    study = loads(
        f"""
algorithms = ["nonsi"]
tokens = 200
target.linear_us = [9000, 60, 45]
replica = {{ count = 1, prefill_count = 1, kv_token_bytes = 262144, link_gb_s = {link} }}
workload = {{ requests = 100, rate_per_s = 9, prompt_tokens = 900 }}
"""
    )
    (one,) = run_cases(study)
    assert one.status == status
    assert said in "".join(refusals([one]))
    assert bool(said) == bool(refusals([one]))


@pytest.mark.parametrize(("count", "brief"), [(64, True), (4000, False)])
def test_rates_of_runs_that_are_short_are_told(count, brief, tmp_path):
    """64 users took 17.7 s a request, and 256 requests were "4.62 a second" of 3.54."""
    (tmp_path / "s.toml").write_text(
        'algorithms = ["nonsi"]\ntokens = 20\ntarget.linear_us = [6000, 25, 30]\n'
        f'workload = {{ arrivals = "closed", users = 16, requests = {count}, prompt_tokens = 9 }}\n'
        "replica.max_seqs = 16\n",
        "utf-8",
    )
    result = dsim("run", tmp_path / "s.toml", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert ("is short beside the time that a request" in result.output) == brief


@pytest.mark.parametrize("seed", [0, 2])
def test_a_load_that_can_be_served_is_not_called_too_much_by_chance(seed):
    """0.75 of what a server can do: with these seeds it "cannot keep up"."""
    study = """
algorithms = ["nonsi"]
tokens = 50
target.latency_ms = 30
cluster.targets = 1
workload = { requests = 1200, rate_per_s = 0.5 }
"""
    (one,) = run_cases(loads(study, overrides=[f"seed={seed}"]))
    assert one.status == "ok"
