"""The same results whoever works them out: this process, others, or Ray; and after any death."""

from __future__ import annotations

import functools
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from click.testing import CliRunner

import dsim as dsim_package
from dsim.cli.main import main
from dsim.errors import EngineError, UserError
from dsim.study.executors import MAX_DEATHS, SMALL_TOKENS, Executor, Store, _of_worker
from dsim.study.loader import load
from tests import said
from tests.lanes import DRAW_NOTHING

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra ray"
)
PROCESSES, RAY = ("--jobs", "2"), ("--executor", "ray", "--jobs", "2")
# Both kinds of study with processes, one with Ray, which takes seconds to start.
BOTH = [
    pytest.param("run", PROCESSES, id="run-processes"),
    pytest.param("load", PROCESSES, id="load-processes"),
    pytest.param("load", RAY, id="load-ray", marks=needs_ray),
]
LARGE = 1 << 20  # bytes; more than a pipe holds
RUN = """
tokens = 150
repeats = 3
[target]
latency_model = "gamma"
latency_cv = 0.4
[grid]
lookahead = { start = 1, stop = 8, step = 1 }
acceptance.rate = { start = 0.1, stop = 0.9, step = 0.05 }
"""
LOAD = """
tokens = 20
repeats = 3
[target]
latency_ms = 30.0
[drafter]
latency_ms = 3.0
[workload]
requests = 100
[cluster]
targets = 4
[grid]
workload.rate_per_s = [0.5, 0.8, 1.0, 1.2, 1.4, 9.0]
"""


def contents(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


# Who is started in the background by a shell ignores Ctrl-C, and so would what it starts.
DSIM = DRAW_NOTHING + (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from dsim.cli.main import main; main(prog_name='dsim')"
)


def command(what, *more):
    return [sys.executable, "-c", DSIM, what, "study.toml", "--quiet", *map(str, more)]


def study(tmp_path, what):
    (tmp_path / "study.toml").write_text(RUN if what == "run" else LOAD)
    tokens = 17 * 8 * 3 * 150 if what == "run" else 6 * 3 * 3 * 100 * 20
    assert tokens > SMALL_TOKENS  # or no worker would be started


def wait_for(done, process):
    for _ in range(60000):  # a machine may be busy
        if done() or process.poll() is not None:
            break
        time.sleep(0.01)
    assert process.poll() is None, "the run was over too soon"
    assert done(), "nothing was finished in ten minutes"


def children(pid):
    """All processes below *pid*, as (pid, command line)."""
    below, rows = {pid}, []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                line = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            rows.append((int(entry.name), parent, line))
    for _ in rows:
        more = {p for p, parent, _ in rows if parent in below and p not in below}
        if not more:
            break
        below |= more
    return [(p, line) for p, _, line in rows if p in below and p != pid]


def left_of(below):
    """Those of the processes *below*, (pid, command line), that do not end within ten seconds."""
    for _ in range(1000):
        left = [line for child, line in below if Path(f"/proc/{child}").exists()]
        if not left:
            break
        time.sleep(0.01)
    return left


def workers(pid):
    """The worker processes that simulate, of a run with process id *pid*."""
    return [
        child
        for child, line in children(pid)
        if "spawn_main" in line or line.startswith("ray::_in_ray")
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The results of a study by processes that nothing disturbed."""

    @functools.cache
    def run(what):
        folder = tmp_path_factory.mktemp(what)
        study(folder, what)
        ran = subprocess.run(
            command("run", *PROCESSES, "--out", "whole"),
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
        )
        assert (ran.stdout, ran.stderr) == ("", "")
        return contents(folder / "whole")

    return run


@pytest.mark.parametrize("what", ["run", "load"])
def test_results_are_the_same_bytes_whoever_runs_them(tmp_path, what, whole):
    """Ray: below, with a death and with a cluster that is there."""
    study(tmp_path, what)
    ran = subprocess.run(
        command("run", "--jobs", "1", "--out", "1"), cwd=tmp_path, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    first = contents(tmp_path / "1")
    assert {"results.parquet", "report.html", "provenance.json"} <= set(first)
    assert first == whole(what)


def half_way(tmp_path, out, options):
    """A run that has finished some of its parts, and the folder that keeps these."""
    process = subprocess.Popen(
        command("run", *options, "--out", out),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    kept = tmp_path / out / ".unfinished"
    wait_for(lambda: list(kept.glob("part-*")), process)
    return process, kept


@pytest.mark.parametrize(("what", "options"), BOTH)
def test_a_killed_worker_loses_nothing(tmp_path, what, options, whole):
    study(tmp_path, what)
    process, _ = half_way(tmp_path, "hurt", options)
    victims: list[int] = []  # Ray's workers are idle for a moment between two parts
    wait_for(lambda: victims or victims.extend(workers(process.pid)) or victims, process)
    os.kill(victims[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=900)
    assert (process.returncode, said(errors)) == (0, "")
    assert contents(tmp_path / "hurt") == whole(what)


@pytest.mark.parametrize(("what", "options"), BOTH)
def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path, what, options, whole):
    """Ctrl-C reaches the whole process group, as from a terminal; no child outlives it."""
    study(tmp_path, what)
    process, kept = half_way(tmp_path, "cut", options)
    below = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 130
    assert said(errors) == "interrupted; go on with: dsim run --resume cut"
    assert not left_of(below)
    before = {path.name: path.stat().st_mtime_ns for path in kept.glob("part-*")}
    assert before
    resume = [sys.executable, "-c", DSIM, "run", "--resume", "cut", "--quiet", *options]
    subprocess.run(resume, cwd=tmp_path, check=True)
    assert contents(tmp_path / "cut") == whole(what)


STARTING = """
import sys, time
if "multiprocessing-fork" in str(sys.orig_argv) or ".forkserver" in str(sys.orig_argv):
    open(STARTED, "w").close()
    time.sleep(1)  # an import that takes long
"""


@pytest.mark.parametrize("what", ["run", "generate"])
def test_workers_keep_silent_if_interrupted_while_they_start(tmp_path, what):
    if what == "generate":
        pytest.importorskip("torch", reason="needs the extra torch")
    study(tmp_path, "run")
    started = tmp_path / "started"
    starting = STARTING.replace("STARTED", repr(str(started)))
    (tmp_path / "sitecustomize.py").write_text(starting)
    prompt = [sys.executable, "-c", DSIM, "generate", "Once upon a time", "--share"]
    process = subprocess.Popen(
        command("run", *PROCESSES, "--out", "cut") if what == "run" else prompt,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    wait_for(started.exists, process)
    below = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=900)
    assert process.returncode == 130
    hint = "; go on with: dsim run --resume cut" if what == "run" else ""
    *said, last = errors.strip().splitlines()
    assert last == f"interrupted{hint}"
    assert [line for line in said if line and not line.startswith("… starting")] == []
    assert below
    assert not left_of(below)


# -- as a library ----------------------------------------------------------------------------------


class Kept(Store):
    def __init__(self, known):
        self.known = dict(known)
        self.put_in = []

    def get(self, number):
        return self.known.get(number)

    def put(self, number, result):
        self.put_in.append(number)
        self.known[number] = result


def squares(shared):
    return lambda task: task * task + shared


def one_death(shared):
    def do(task):
        if task == 3 and not Path(shared).exists():
            Path(shared).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return task * task

    return do


def always_dies(shared):
    def do(task):
        if task == 3:
            with Path(shared).open("a") as file:
                file.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return do


def test_what_is_kept_is_not_done_again():
    store, told = Kept({1: -1, 4: -4}), {}
    Executor().each(squares, 10, range(6), store, told.__setitem__)
    assert told == {0: 10, 1: -1, 2: 14, 3: 19, 4: -4, 5: 35}
    assert sorted(store.put_in) == [0, 2, 3, 5]


def test_processes_survive_a_death(tmp_path):
    told = []
    Executor(jobs=2).each(
        one_death, str(tmp_path / "died"), range(8), Store(), lambda n, r: told.append((n, r))
    )
    assert sorted(told) == [(n, n * n) for n in range(8)]  # each once
    assert (tmp_path / "died").exists()


def dies_in_its_answer(shared):
    """The first worker to answer dies when half of a large result is in the pipe."""
    send = Connection._send

    def half(self, data, *more):
        if len(data) > LARGE and not (died := Path(shared)).exists():
            died.touch()
            os.write(self.fileno(), bytes(data[: LARGE // 2]))
            os.kill(os.getpid(), signal.SIGKILL)
        send(self, data, *more)

    Connection._send = half
    return lambda task: bytes(LARGE) + bytes([task])


def test_a_worker_that_dies_in_its_answer_holds_up_nobody(tmp_path):
    told = {}
    Executor(jobs=2).each(
        dies_in_its_answer, str(tmp_path / "died"), range(4), Store(), told.__setitem__
    )
    assert told == {n: bytes(LARGE) + bytes([n]) for n in range(4)}
    assert (tmp_path / "died").exists()


def fails(shared):
    def do(task):
        raise shared

    return do


@pytest.mark.parametrize("error", [EngineError("too hot"), ZeroDivisionError("by nothing")])
def test_an_error_in_a_worker_comes_out_with_where_it_was(error):
    with pytest.raises(type(error), match=str(error)) as caught:
        Executor(jobs=2).each(fails, error, range(2), Store(), lambda *_: None)
    assert "in fails" in caught.value.__notes__[0] or "in do" in caught.value.__notes__[0]


def test_work_that_kills_its_workers_is_given_up(tmp_path):
    log = tmp_path / "log"
    with pytest.raises(EngineError, match=f"died {MAX_DEATHS} times"):
        Executor(jobs=2).each(always_dies, str(log), range(8), Store(), lambda *_: None)
    assert len(log.read_text()) == MAX_DEATHS


def each_dies_once(shared):
    def do(task):
        if not (died := Path(shared) / str(task)).exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return task

    return do


def test_deaths_over_different_work_are_not_added_up(tmp_path):
    todo = {number: number for number in range(MAX_DEATHS + 1)}
    found = Executor(jobs=1)._by_processes(each_dies_once, str(tmp_path), todo)
    assert sorted(found) == [(n, n) for n in range(MAX_DEATHS + 1)]


def test_a_node_without_dsim_is_told_what_it_needs():
    told = _of_worker(ModuleNotFoundError("No module named 'dsim'"))
    assert isinstance(told, EngineError)
    assert f"needs dsim {dsim_package.__version__}" in str(told)
    for ours in (EngineError("x"), UserError("x")):
        assert _of_worker(ours) is ours


# -- the command line ------------------------------------------------------------------------------


def dsim(*args):
    return CliRunner().invoke(main, [str(a) for a in args])


@pytest.mark.parametrize("what", ["run", "load"])
def test_ray_that_is_not_installed_is_asked_for(tmp_path, what, monkeypatch):
    study(tmp_path, what)
    monkeypatch.setitem(sys.modules, "ray", None)
    out = tmp_path / "out"
    result = dsim("run", tmp_path / "study.toml", "--executor", "ray", "--out", out)
    assert result.exit_code == 2
    assert 'ray is not installed; it is the extra "ray": pip install "dsim[ray]"' in result.output
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ray-address", "localhost:1"], "goes with --executor ray"),
        (["--executor", "ray", "--ray-address", "x:1", "--jobs", "2"], "--jobs is about this"),
        (["--executor", "rey"], "expected one of processes, ray, got rey"),
        (["--resume", "."], "--resume takes all from its folder"),
    ],
)
@pytest.mark.parametrize("what", ["run", "load"])
def test_options_that_do_not_go_together(tmp_path, what, options, message):
    study(tmp_path, what)
    result = dsim("run", tmp_path / "study.toml", *options)
    assert result.exit_code == 2
    assert message in result.output


def test_every_kind_is_resumed_by_one_command(tmp_path):
    for what in ("run", "load"):
        folder = tmp_path / what / ".unfinished"
        folder.mkdir(parents=True)
        study(tmp_path, what)
        (folder / "study.toml").write_text(load(tmp_path / "study.toml").to_toml())
        result = dsim("run", "--resume", tmp_path / what, "--jobs", 1)
        assert result.exit_code == 0, result.output
        assert (tmp_path / what / "provenance.json").is_file()


def is_there(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.fixture
def cluster(monkeypatch):
    """The address of a Ray cluster of its own: one node, on the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_enable_metrics_collection", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    folder = Path(tempfile.mkdtemp(prefix="dsim-head-", dir="/tmp"))  # a socket's path is short
    options = ["--head", "--block", "--port", port, "--node-ip-address", "127.0.0.1"]
    options += ["--num-cpus", 2, "--temp-dir", folder, "--include-dashboard", "false"]
    log = folder / "head.log"
    with log.open("w") as out:
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", "start", *map(str, options)],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for(lambda: "Ray runtime started" in log.read_text(), head)
        yield f"127.0.0.1:{port}"
        assert head.poll() is None, "the cluster is not ours to stop"
    finally:
        below = [head.pid, *(pid for pid, _ in children(head.pid))]
        head.terminate()
        try:
            head.wait(timeout=60)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait()
        for pid in filter(is_there, below):
            os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@needs_ray
def test_a_cluster_that_is_there_gives_the_same_bytes(tmp_path, cluster, whole):
    """Two runs: the first leaves the cluster as it was."""
    for what in ("run", "load"):
        folder = tmp_path / what
        folder.mkdir()
        study(folder, what)
        there = ("--executor", "ray", "--ray-address", cluster, "--out", "there")
        ran = subprocess.run(command("run", *there), cwd=folder, capture_output=True, text=True)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
        assert contents(folder / "there") == whole(what)


@needs_ray
def test_an_address_at_which_nobody_answers(tmp_path):
    study(tmp_path, "load")
    ran = subprocess.run(
        command("run", "--executor", "ray", "--ray-address", "127.0.0.1:9", "--out", "out"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 2
    assert "--ray-address: no Ray cluster can be reached at 127.0.0.1:9" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()
