"""Workers that are copies of a process that has loaded torch."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dsim.backends.torch import forks, preload
from dsim.backends.torch.models import ModelSpec
from dsim.backends.torch.workers import Workers
from dsim.errors import EngineError
from dsim.system import Following
from tests.backends.test_workers import PAIR
from tests.study.test_executors import children, left_of

pytest.importorskip("torch", reason="needs the extra torch")
pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(sys.platform != "linux", reason="a fork server needs Linux"),
]
SECOND = 10**9


def look(pipe):
    """In a copy: what there is of the parent's, and a product by two threads."""
    loaded = "transformers.models.llama.modeling_llama" in sys.modules
    import torch

    torch.set_num_threads(2)
    product = torch.ones(600, 600) @ torch.ones(600, 600)
    links = {n: str(Path(f"/proc/self/fd/{n}").readlink()) for n in (0, 1, 2)}
    server = {n: str(Path(f"/proc/{os.getppid()}/fd/{n}").readlink()) for n in (0, 1, 2)}
    pipes = [str(one.readlink()) for one in Path("/proc/self/fd").iterdir() if one.exists()]
    pipe.send(
        {
            "loaded": loaded,
            "product": product.sum().item(),
            "threads": torch.get_num_threads(),
            "cuda": torch.cuda.is_initialized(),
            "streams": links,
            "server": server,
            "pipes": [name for name in pipes if "pipe" in name or "socket" in name],
            "said": os.environ.get("DSIM_SAID"),
            "cores": sorted(os.sched_getaffinity(0)),
        }
    )
    pipe.recv()  # its end


def test_a_copy_has_torch_and_what_a_child_would_have(tmp_path, monkeypatch):
    monkeypatch.setenv("DSIM_SAID", "later than the start")
    core = min(os.sched_getaffinity(0))
    assert forks.ready("drafter", 600 * SECOND)
    context = forks.Forking()
    before, cores = [os.dup(number) for number in (1, 2)], os.sched_getaffinity(0)
    found, processes = [], []
    try:
        os.sched_setaffinity(0, {core})
        with (tmp_path / "said").open("w") as said:
            for number in (1, 2):
                os.dup2(said.fileno(), number)
            ends = [context.Pipe() for _ in range(2)]
            for _, theirs in ends:
                process = context.Process(target=look, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                processes.append(process)
    finally:
        os.sched_setaffinity(0, cores)
        for number, kept in zip((1, 2), before, strict=True):
            os.dup2(kept, number)
            os.close(kept)
    for ours, _ in ends:
        found.append(ours.recv())
    for one in found:
        assert one["loaded"]
        assert one["product"] == 600**3
        assert one["threads"] == 2
        assert not one["cuda"]
        assert one["streams"] == {0: os.devnull, **dict.fromkeys((1, 2), str(tmp_path / "said"))}
        assert set(one["server"].values()) == {os.devnull}
        assert (one["said"], one["cores"]) == ("later than the start", [core])
    # Sockets of pairs: no copy holds an end of the other's.
    sockets = [{name for name in one["pipes"] if "socket" in name} for one in found]
    assert not sockets[0] & sockets[1]
    processes[0].kill()
    processes[0].join(10)
    assert processes[0].exitcode == -9
    with pytest.raises(EOFError):
        ends[0][0].recv()
    assert processes[1].is_alive()
    ends[1][0].close()
    processes[1].join(10)
    assert processes[1].exitcode == 1  # the end of its pipe


def test_a_variable_that_libraries_read_early_needs_a_new_process(monkeypatch):
    forks.begin()
    assert forks.possible()
    monkeypatch.setenv("HF_SAID", "1")
    assert not forks.possible()
    assert not forks.ready("drafter", SECOND)


def test_what_has_no_model_or_compiles_or_has_another_device_starts_by_itself(monkeypatch):
    monkeypatch.setattr(forks, "ready", lambda *_: pytest.fail("asked for a fork server"))
    with Workers(PAIR, 1, share=True) as workers:
        assert isinstance(workers._context("drafter", SECOND), Following)
    other = object.__new__(Workers)
    other.pair = dataclasses.replace(PAIR, target=ModelSpec(name="a model"))
    for everywhere, compiled in ((["cuda:0", "cpu"], False), (["cpu", "cpu"], True)):
        other.everywhere, other.compiled = everywhere, compiled
        assert isinstance(other._context("drafter", SECOND), Following)
    other.compiled = False
    monkeypatch.setattr(forks, "ready", lambda *_: True)
    assert isinstance(other._context("drafter", SECOND), forks.Forking)


def test_a_thread_starts_no_fork_server():
    found = []
    thread = threading.Thread(target=lambda: found.append(forks.possible()))
    thread.start()
    thread.join()
    assert found == [False]


def test_a_fork_server_that_hangs_is_an_error(monkeypatch):
    monkeypatch.setattr(forks, "possible", lambda: True)
    monkeypatch.setattr(forks, "begin", lambda: None)
    monkeypatch.setattr(forks, "_first_copy", lambda _: threading.Event().wait(2))
    with pytest.raises(EngineError, match=r"drafter hangs: no answer in 0.01 s \(while loading\)"):
        forks.ready("drafter", SECOND // 100)
    monkeypatch.setattr(forks, "_first_copy", lambda _: None)  # it has ended
    assert not forks.ready("drafter", SECOND)


@pytest.fixture
def stopped(monkeypatch):
    """Workers without models that are copies, and their fork server; it can go on afterwards."""
    assert forks.ready("drafter", 600 * SECOND)
    monkeypatch.setattr(Workers, "_context", lambda *_: forks.Forking())
    monkeypatch.setattr("dsim.backends.torch.workers.ENDS_S", 0.5)
    return forks._server()


def test_workers_of_a_server_that_is_stopped_end(stopped):
    with Workers(PAIR, 1, share=True) as workers:
        begun = [process.pid for process in workers.processes]
        os.kill(stopped, signal.SIGSTOP)
    assert forks.ready("drafter", 600 * SECOND)  # by another one
    assert forks._server() != stopped
    assert left_of([(pid, pid) for pid in (*begun, stopped)]) == []


def test_a_server_that_ends_before_its_copies_is_an_error(stopped, monkeypatch):
    def ends(_):
        forks.kill()
        raise EOFError

    monkeypatch.setattr(forks._Process, "_Popen", staticmethod(ends))
    with pytest.raises(EngineError, match=r"drafter died \(while loading\)"):
        Workers(PAIR, 1, share=True)
    assert forks.ready("drafter", 600 * SECOND)
    assert left_of([(stopped, "fork server")]) == []


def test_a_server_that_is_stopped_before_its_copies_is_an_error(stopped):
    os.kill(stopped, signal.SIGSTOP)
    with pytest.raises(EngineError, match=r"drafter hangs: no answer in 0.5 s \(while loading\)"):
        Workers(PAIR, 1, share=True, load_timeout_ns=SECOND // 2)
    assert forks.ready("drafter", 600 * SECOND)
    assert left_of([(stopped, "fork server")]) == []


STOPS = """
import os, sys, time
from dsim.backends.torch import forks
def work(said):
    print(os.getpid(), os.getppid(), file=open(said, "w"), flush=True)
    time.sleep(60)
if __name__ == "__main__":
    assert forks.ready("drafter", 600 * 10**9)
    process = forks.Forking().Process(target=work, args=(sys.argv[1],), daemon=True)
    process.start()
    print("started", flush=True)
    process.join(60)
"""


@pytest.mark.parametrize("victim", ["parent", "server"])
def test_nothing_outlives_parent_or_server(tmp_path, victim):
    script, said = tmp_path / "script.py", tmp_path / "said"
    script.write_text(STOPS)
    with subprocess.Popen(
        [sys.executable, str(script), str(said)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        while not said.exists() or not said.read_text().strip():
            assert process.poll() is None
        worker, server = map(int, said.read_text().split())
        below = children(process.pid)
        assert {worker, server} <= {pid for pid, _ in below}
        if victim == "parent":
            process.kill()
            assert not left_of(below)
        else:
            os.kill(server, 9)
            assert process.wait(20) == 0  # it sees the worker end
            assert not left_of(below)


def test_importing_the_first_module_elsewhere_does_nothing():
    assert preload.servers == []
    code = "import dsim.backends.torch.preload, sys; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
