"""Load studies: settings, the command line, the results folder and the trace."""

from __future__ import annotations

import dataclasses
import errno
import json

import pandas as pd
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.deployment.offered_load import offered_load
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool, Slo
from dsim.deployment.workload import Length, Workload
from dsim.errors import UserError
from dsim.model.acceptance import Acceptance
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.study import requests as loading
from dsim.study.columns import DEPLOYMENT_COLUMNS, DEPLOYMENT_SETTINGS
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.loader import loads
from tests import STUDIES

SMALL = """
tokens = 10
repeats = 1
[target]
latency_ms = 30.0
[drafter]
latency_ms = 3.0
[workload]
requests = 40
[cluster]
targets = 2
"""


def dsim(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


def small(tmp_path, more=""):
    path = tmp_path / "small.toml"
    path.write_text(SMALL + more)
    return path


def problems(text, overrides=()):
    with pytest.raises(UserError) as caught:
        loads(text, "s.toml", overrides)
    return [str(problem) for problem in caught.value.problems]


def test_every_problem_is_named_at_once():
    found = problems(
        'tokens = 0\n[workload]\narrival = "poisson"\nrate_per_s = -1\n'
        '[cluster]\ntarget_discipline = "fifi"\n[slo]\nttft_ms = "soon"\n'
    )
    assert any(
        'workload.arrival: unknown setting; did you mean "workload.arrivals"?' in p for p in found
    )
    assert any("workload.rate_per_s: expected" in p and "got -1" in p for p in found)
    assert any('did you mean "fifo"?' in p for p in found)
    assert any("slo.ttft_ms" in p for p in found)
    assert any("tokens: expected" in p for p in found)
    assert len(found) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[workload]\narrivals = "trace"', "workload.trace_file: is missing"),
        ("[cluster]\ntarget_kv_tokens = 50", "expected room for one request"),
        ("[cluster]\nhosts = 1\nslowdown = [0.5]", "expected factors ≥ 1"),
        (
            'minimise = ["lookahead"]\n[workload]\n[grid]\nlookahead = [1, 2]',
            "minimise: is for single texts",
        ),
        ('[[charts]]\nkind = "lines"\nx = "lookahead"\ny = "latency_mean_ms"', "charts[0].x"),
        (
            '[grid]\nlookahead = [1, 2]\n[[charts]]\nkind = "lines"\nx = "lookahead"\ny = "latncy"',
            "expected a column of the results",
        ),
        ('[workload]\ntrace_file = "nowhere.csv"', "cannot be read"),
        ("[grid]\ncluster.more_drafters = [[1, 2], [2, 1]]", "take lists as variants"),
        ("[workload]\nrate_per_s = 1e-10", "rate_per_s: expected"),
        (
            "[workload]\nrate_per_s = 1e-5\nrequests = 1000000",
            "this number of requests takes 1.0e+11 s",
        ),
        ("[cluster]\nmttr_s = 1e300", "mttr_s: expected"),
        ("[cluster]\nnetwork_ms = 1e300", "network_ms: expected"),
        (
            'tokens = 2\n[acceptance]\nmodel = "trace"\ntrace = "10"\n'
            "[workload]\nacceptance_drift = 0.1",
            "workload.acceptance_drift: has no meaning for a trace",
        ),
    ],
)
def test_what_is_wrong_only_together(text, message):
    assert message in "\n".join(problems(text))


def test_settings_reach_the_deployment():
    study = loads(
        SMALL,
        overrides=[
            "cluster.network_ms=2",
            "cluster.target_context_ms=0.5",
            "cluster.target_kv_tokens=999",
            "cluster.mtbf_s=10",
            "slo.ttft_ms=100",
            'algorithms=["si"]',
            "workload.prompt_tokens=7",
            "workload.output_cv=0.5",
        ],
    )
    (case,) = study.cases()
    d, w = case.deployment, case.workload
    assert (d.algorithm, d.targets.servers, d.network_ns) == ("si", 2, 2_000_000)
    assert d.targets.context_ns == 500.0  # 0.5 ms for 1000 tokens
    assert d.targets.kv_tokens == 999
    assert d.faults.mtbf_ns == 10_000_000_000
    assert d.slo == Slo(ttft_ns=100_000_000)
    assert w.prompt == Length(mean_tokens=7)
    assert w.output == Length(model="lognormal", mean_tokens=10, cv=0.5)


def test_a_study_survives_being_written_down():
    study = loads(SMALL + "[grid]\nworkload.rate_per_s = [1.0, 2.0]\n")
    again = loads(study.to_toml())
    assert [c.deployment for c in again.cases()] == [c.deployment for c in study.cases()]
    assert [c.workload for c in again.cases()] == [c.workload for c in study.cases()]


@pytest.mark.parametrize("name", ["load.toml", "budget.toml", "network.toml", "drafter-pools.toml"])
def test_shipped_studies_are_sound(name):
    text = (STUDIES / name).read_text()
    cases = list(loads(text, name).cases())
    assert all(not loading.check(case) for case in cases)
    assert len({case.deployment.gpus for case in cases}) == 1 or name == "network.toml"


def test_settings_are_listed():
    result = dsim("settings", "--json")
    keys = {row["key"] for row in json.loads(result.output)}
    assert set(DEPLOYMENT.by_key) <= keys


FURTHER = """
algorithms = ["dsi", "multidsi"]
[target]
first_latency_ms = 60.0
[drafter]
latency_ms = 3.0
first_latency_ms = 6.0
[more_drafters]
latency_ms = [9.0, 2.0]
acceptance_rate = [0.9, 0.5]
[cluster]
drafters = 3
gpus_per_drafter = 0.5
drafter_batch = 2
drafter_context_ms = 0.5
drafter_watts = 300
drafter_idle_watts = 50
target_watts = 700
target_idle_watts = 100
drafter_mtbf_s = 40
more_drafters = [4, 1]
more_drafter_watts = [400, 60]
[[cluster.faults]]
server = "further drafter 1.4"
at_s = 2
"""


def test_further_drafters_have_pools_of_their_own():
    dsi, multi = (case.deployment for case in loads(FURTHER).cases())
    assert dsi.more_drafters == ()
    assert dsi.gpus == 7 + 1.5
    slow, fast = multi.more_drafters
    assert multi.gpus == 7 + 1.5 + 2 + 0.5
    assert (slow.drafter.rate, slow.drafter.latency) == (
        0.9,
        Latency(latency_ns=9_000_000, first_ns=18_000_000),
    )
    assert slow.servers == FleetSpec(
        servers=4, gpus=0.5, max_batch=2, context_ns=1500.0, watts=400.0, idle_watts=50.0
    )
    assert (fast.servers.servers, fast.servers.watts) == (1, 60.0)
    assert fast.servers.context_ns == pytest.approx(500.0 * 2 / 3)
    assert slow.faults.mtbf_ns == fast.faults.mtbf_ns == 40 * 10**9
    assert slow.faults.plan == ((3, 2 * 10**9, -1),)
    assert fast.faults.plan == multi.drafter_faults.plan == ()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("cluster.more_drafters=[1, 2, 3]", "one for each of more_drafters.latency_ms (2), got 3"),
        (
            "cluster.more_drafters=0.5",
            "expected a whole number from 1 to 100000, got 0.5",
        ),
        ("cluster.gpus_per_more_drafter=[0.5]", "one number, or one for each of"),
        (
            "cluster.more_drafter_idle_watts=80",
            "at most 60 (cluster.more_drafter_watts, of",
        ),
        ("more_drafters.acceptance_rate=0.5", "expected one for each of more_drafters.latency_ms"),
        ("cluster.more_drafter=2", 'did you mean "cluster.more_drafters"?'),
        (
            'cluster.faults=[{ server="further drafter 2.2", at_s=1 }]',
            "expected further drafter 2.1 to further drafter 2.1 (cluster.more_drafters)",
        ),
        (
            'cluster.faults=[{ server="further drafter 3.1", at_s=1 }]',
            "there is no further drafter 3 (more_drafters.latency_ms)",
        ),
    ],
)
def test_what_is_wrong_with_further_drafters(override, message):
    assert message in "\n".join(problems(FURTHER, [override]))


def test_pools_of_drafters_share_their_load():
    """Two alike, each always right: half the load of one; with the failures of both, more."""
    one = Deployment(
        algorithm="multidsi",
        drafter=Latency(latency_ns=10**6),
        acceptance=Acceptance(rate=1.0),
        drafters=FleetSpec(),
    )
    pool = MorePool(drafter=MoreDrafter(latency=Latency(latency_ns=10**6), rate=1.0))
    failing = Faults(mtbf_ns=10**12, mttr_ns=10**12)
    two = dataclasses.replace(one, more_drafters=(pool,))
    half_up = dataclasses.replace(
        two, drafter_faults=failing, more_drafters=(dataclasses.replace(pool, faults=failing),)
    )
    workload = Workload(requests=50, rate_per_s=1.0, output=Length(mean_tokens=101))
    loads_ = [offered_load(d, workload).drafter for d in (one, two, half_up)]
    assert loads_ == pytest.approx([0.1, 0.05, 0.1], rel=1e-5)


def test_a_batch_of_wide_passes_takes_what_its_table_says():
    """Four passes of SI that feed 3 tokens each are one of 12 tokens: 40 ms, where one takes 10."""
    table = tuple((width, (10 if width <= 3 else 40) * 10**6) for width in range(1, 17))
    base = Deployment(
        algorithm="si",
        lookahead=2,
        target=Latency(model="table", latency_ns=10**7, table=table),
        drafter=Latency(latency_ns=1),
        acceptance=Acceptance(rate=1.0),
        targets=FleetSpec(max_batch=1),
    )
    batched = dataclasses.replace(base, targets=FleetSpec(max_batch=4))
    workload = Workload(requests=50, rate_per_s=1.0, output=Length(mean_tokens=30))
    one, four = (offered_load(d, workload).target for d in (base, batched))
    assert one == pytest.approx(10 * 10e-3)  # ten passes of three tokens
    assert four == pytest.approx(10 * 40e-3 / 4)


def test_an_unstable_load_is_named_and_explained(tmp_path):
    path = small(tmp_path)
    result = dsim("run", path, "--set", "workload.rate_per_s=50", "--json")
    assert result.exit_code == 2
    assert "nonsi: the 2 target servers are overloaded (750%)" in result.output
    assert "Use fewer than 6.67 requests / s, or 16 target servers or more" in result.output
    # SI needs less, so it is at another load; DSI is refused by the least that it can do with.
    assert result.output.count("overloaded (") == 3
    assert "Traceback" not in result.output


def test_cases_that_can_be_served_are_simulated_beside(tmp_path):
    path = small(tmp_path, "[grid]\nworkload.rate_per_s = [1.0, 50.0]\n")
    result = dsim("run", path, "--json")
    assert result.exit_code == 0
    answer = json.loads(result.output)
    by = {(c["algorithm"], c["workload_rate_per_s"]): c for c in answer["cases"]}
    assert by["nonsi", 1.0]["status"] == "ok"
    assert by["nonsi", 50.0]["status"] == "refused"
    assert by["nonsi", 50.0]["latency_mean_ms"] is None
    assert len(answer["refused"]) >= 1


def test_a_load_study_writes_its_folder(tmp_path):
    path = small(tmp_path, "[grid]\nworkload.rate_per_s = [0.5, 1.0]\n")
    out = tmp_path / "out"
    result = dsim("run", path, "--out", out, "--jobs", 1)
    assert result.exit_code == 0, result.output
    assert "non-SI" in result.output
    names = {p.name for p in out.iterdir()}
    assert {
        "results.csv",
        "results.parquet",
        "report.html",
        "study.toml",
        "provenance.json",
    } <= names
    frame = pd.read_parquet(out / "results.parquet")
    assert len(frame) == 6
    documented = [column.name for column in (*DEPLOYMENT_SETTINGS, *DEPLOYMENT_COLUMNS)]
    axes = set(frame.columns) - set(documented)
    assert axes == {"workload_rate_per_s"}
    assert [name for name in frame.columns if name not in axes] == documented
    page = (out / "report.html").read_text()
    assert "Backlog over time" in page
    assert dsim("run", path, "--out", out, "--jobs", 1).exit_code == 0  # the same again is fine
    other = dsim("run", path, "--out", out, "--set", "tokens=11")
    assert other.exit_code == 2
    assert "--force" in other.output


@pytest.mark.parametrize("which", ["dsim.tasks.run.write_csv", "pathlib.Path.write_text"])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch, which):
    """Cases that were finished before stay, and are not simulated again."""
    path, out = small(tmp_path), tmp_path / "out"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(which, full)
        result = dsim("run", path, "--out", out, "--jobs", 1)
    assert result.exit_code == 2
    assert "there is no room for the results" in result.output
    if which == "pathlib.Path.write_text":
        assert not out.exists()
        return
    assert {p.name for p in out.iterdir()} == {".unfinished"}
    assert not (out / ".unfinished" / "new").exists()
    monkeypatch.setattr(loading, "replicate", None)
    assert dsim("run", "--resume", out, "--jobs", 1).exit_code == 0


def test_a_chart_over_names_has_a_place_for_each(tmp_path):
    from dsim.report import deployments as charts

    study = loads(
        f'{SMALL.replace("40", "250")}[grid]\ncluster.target_discipline = ["lifo", "fifo"]\n'
        '[[charts]]\nkind = "lines"\nx = "cluster.target_discipline"\ny = "latency_mean_ms"\n'
    )
    found = loading.run_cases(study)
    axes = ["cluster.target_discipline"]
    (_, make), *_ = charts.charts_of(study.charts, axes, loading.table(found), [])
    (panel,) = make()
    layers = panel.chart.to_dict()["layer"]
    axes = [layer["encoding"]["x"] for layer in layers]
    assert all((x["type"], x["sort"]) == ("nominal", None) for x in axes)  # as in the study
    assert all(layer["mark"]["type"] != "line" for layer in layers)


def test_a_study_that_cannot_be_served_leaves_no_folder(tmp_path):
    out = tmp_path / "out"
    result = dsim("run", small(tmp_path), "--set", "workload.rate_per_s=50", "--out", out)
    assert result.exit_code == 2
    assert not out.exists()


def test_variants_may_differ_in_algorithm_and_servers():
    study = loads(
        SMALL.replace("targets = 2", "")
        + '[[variants]]\nname = "a"\nalgorithms = ["nonsi"]\ncluster.targets = 8\n'
        '[[variants]]\nname = "b"\nalgorithms = ["dsi"]\n[variants.cluster]\ntargets = 7\n'
    )
    assert [(c.variant, c.deployment.algorithm, c.deployment.gpus) for c in study.cases()] == [
        ("a", "nonsi", 8.0),
        ("b", "dsi", 8.0),
    ]


META = {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}
WATTS = (
    "cluster.target_watts=700",
    "cluster.target_idle_watts=100",
    "cluster.drafter_watts=300",
    "cluster.drafter_idle_watts=50",
)


def test_requests_that_are_rejected_are_told(tmp_path):
    """Half of the requests never ran, and the percentiles of the others looked perfect."""
    rows = [f"{n},{(900_000, 500)[n % 2]},3" for n in range(20)]
    (tmp_path / "t.csv").write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *rows]))
    study = f"""
algorithms = ["nonsi"]
target = "llama-3.1-8b"
gpu = "h100"
repeats = 1
replica.count = 1
[workload]
arrivals = "trace"
trace_file = "{tmp_path / "t.csv"}"
"""
    (tmp_path / "s.toml").write_text(study)
    result = CliRunner().invoke(
        main, ["run", str(tmp_path / "s.toml"), "--out", str(tmp_path / "o")]
    )
    assert result.exit_code == 0, result.output
    told = "non-SI: 10 of 20 requests were rejected"
    assert told in result.output
    assert told in (tmp_path / "o" / "report.html").read_text()
