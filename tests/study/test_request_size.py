"""Large deployments: what they take is known before they begin."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dsim import system
from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study import deployment_checks, request_size
from dsim.study.loader import load, loads

STUDY = """
tokens = 4
repeats = 2
algorithms = ["nonsi"]
[workload]
requests = {requests}
rate_per_s = 1.0
"""


@pytest.fixture
def study(tmp_path):
    def write(requests):
        path = tmp_path / "study.toml"
        path.write_text(STUDY.format(requests=requests), "utf-8")
        return path

    return write


def test_more_requests_than_the_memory_holds_are_refused(study, monkeypatch):
    monkeypatch.setattr(deployment_checks, "memory_bytes", lambda: 10**9)
    load(study(1_000_000))
    with pytest.raises(UserError, match=r"workload\.requests: .* 2 GB .* machine has 1 GB"):
        load(study(2_000_000))
    monkeypatch.setattr(deployment_checks, "memory_bytes", lambda: None)
    load(study(2_000_000))


def test_the_memory_is_that_of_the_machine_or_of_the_container(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "CGROUP_LIMIT", tmp_path / "memory.max")
    machine = system.memory_bytes()
    for said, limit in (("max\n", machine), ("1000000\n", 1_000_000)):
        (tmp_path / "memory.max").write_text(said)
        assert system.memory_bytes() == limit


def test_the_time_of_a_large_deployment_is_told_from_its_first_requests(study, monkeypatch):
    def needed_s(requests, jobs=1):
        loaded = load(study(requests))
        return request_size.needed_s(list(loaded.cases()), jobs, loaded.settings["max_load"])

    seen = []
    monkeypatch.setattr(
        request_size, "_pilot_s", lambda _case, count, _load: seen.append(count) or 0.003 * count
    )
    assert needed_s(100_000) == 0
    assert not seen
    assert needed_s(200_000) == pytest.approx(200_000 * 2 * 0.003)
    assert needed_s(200_000, jobs=2) == pytest.approx(200_000 * 0.003)
    assert max(seen) == request_size.PILOT_REQUESTS


def test_long_answers_make_no_long_pilot(study, monkeypatch):
    seen = []

    def replicate(case, *_):
        seen.append(case.workload.output.mean_tokens)

    monkeypatch.setattr(request_size, "replicate", replicate)
    (case,) = loads(STUDY.format(requests=30).replace("tokens = 4", "tokens = 1000000")).cases()
    request_size.needed_s([case], 1, 1.0)
    assert set(seen) == {request_size.PILOT_TOKENS}
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(request_size.time, "perf_counter", lambda: next(clock))
    assert request_size._pilot_s(case, 30, 1.0) == 2.0 * 1_000_000 / request_size.PILOT_TOKENS


def test_the_command_says_so_before_it_begins(study, monkeypatch, tmp_path):
    monkeypatch.setattr(request_size, "MANY_TOKENS", 0)
    monkeypatch.setattr("dsim.cli.studies.LONG_S", 0.0)
    out = ["--out", str(tmp_path / "out")]
    found = CliRunner().invoke(main, ["run", str(study(30)), *out])
    assert found.exit_code == 0, found.output
    assert found.stderr.startswith("… about ")
    assert found.stderr.splitlines()[0].endswith(" of simulation")
    quiet = CliRunner().invoke(main, ["run", str(study(30)), *out, "--force", "--quiet"])
    assert quiet.output == ""
