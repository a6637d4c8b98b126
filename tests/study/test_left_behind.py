"""Nothing is left behind: the end of dsim, whatever ended it, ends all that it started."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dsim.system import can_end_at_once, swept
from tests import said
from tests.lanes import DRAW_NOTHING
from tests.study.test_executors import (
    children,
    command,
    half_way,
    left_of,
    study,
    wait_for,
)

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc")
PROCESSES, RAY = ("--jobs", "2"), ("--executor", "ray", "--jobs", "2")
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra ray"
)
LOADING = """
import sys, time
if any("forkserver" in word or "multiprocessing-fork" in word for word in sys.orig_argv):
    import dsim.backends.torch.worker as worker
    def load(setup):
        open(STARTED, "a").write("x")
        time.sleep(60)
    worker.load = load
"""


@pytest.mark.parametrize(
    ("what", "options"),
    [
        pytest.param("run", PROCESSES, id="run"),
        pytest.param("load", PROCESSES, id="load"),
        pytest.param("run", RAY, id="ray", marks=needs_ray),
    ],
)
def test_workers_end_with_a_killed_parent(tmp_path, what, options):
    """Nobody closes the pipe behind dsim but the last process that holds it."""
    study(tmp_path, what)
    process, _ = half_way(tmp_path, "cut", options)
    below = children(process.pid)
    assert len(below) >= 2
    process.kill()
    process.communicate(timeout=60)
    assert not left_of(below)


def loading(tmp_path, *more):
    """``dsim generate`` whose workers load their models for a minute."""
    started = tmp_path / "started"
    (tmp_path / "sitecustomize.py").write_text(LOADING.replace("STARTED", repr(str(started))))
    process = subprocess.Popen(
        [sys.executable, "-m", "dsim", "generate", "Once", "--share", "--targets=1", *more],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    return process, started


def test_workers_end_with_a_killed_parent_while_they_load(tmp_path):
    pytest.importorskip("torch", reason="needs the extra torch")
    process, started = loading(tmp_path)
    wait_for(lambda: started.exists() and len(started.read_text()) == 2, process)
    below = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert not left_of(below)


def test_the_watchdog_covers_loading(tmp_path):
    pytest.importorskip("torch", reason="needs the extra torch")
    process, _ = loading(tmp_path, "--watchdog=0.5")
    output, _ = process.communicate(timeout=300)  # until no worker holds the pipe
    assert process.returncode == 3
    assert "drafter hangs: no answer in 0.5 s (while loading)" in output


INHERITED = """
{draw_nothing}
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
for number in {ignored}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
from dsim.cli.main import main
main(prog_name="dsim")
"""


@pytest.mark.parametrize(
    ("what", "name", "code", "ignored"),
    [
        ("run", "SIGTERM", 143, "SIGINT, SIGTERM"),
        ("load", "SIGHUP", 129, "SIGINT, SIGTERM"),
        ("run", "SIGINT", 130, "SIGINT, SIGTERM"),
        ("load", "SIGTERM", 143, "SIGHUP"),
    ],
)
def test_signals_end_a_run_whatever_was_inherited(tmp_path, what, name, code, ignored):
    """Only the parent gets the signal. Under ``nohup`` SIGHUP is not one that ends."""
    study(tmp_path, what)
    places = ", ".join(f"signal.{one}" for one in ignored.split(", "))
    words = [
        INHERITED.format(ignored=f"[{places}]", draw_nothing=DRAW_NOTHING),
        *command("run")[3:],
        *PROCESSES,
        "--out=cut",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: list((tmp_path / "cut" / ".unfinished").glob("part-*")), process)
    below = children(process.pid)
    assert below
    if ignored == "SIGHUP":
        process.send_signal(signal.SIGHUP)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert said(errors) == "interrupted; go on with: dsim run --resume cut"
    assert not left_of(below)


STARTS_FOR_LONG = """
import sys, time
if __name__ != "__main__":
    open(sys.argv[1], "w").close()
    time.sleep(60)  # a main module that takes long to import
from dsim.system import Following
if __name__ == "__main__":
    process = Following().Process(target=print, name="x")
    process.start()
    process.join()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the system of Linux sees to it")
def test_a_worker_that_has_not_come_to_dsim_yet_ends_as_well(tmp_path):
    script, started = tmp_path / "script.py", tmp_path / "started"
    script.write_text(STARTS_FOR_LONG)
    process = subprocess.Popen([sys.executable, str(script), str(started)], stdout=subprocess.PIPE)
    wait_for(started.exists, process)
    below = children(process.pid)
    process.kill()
    process.communicate(timeout=60)
    assert not left_of(below)


WITHOUT_THE_SYSTEM = """
import multiprocessing, sys, time
from dsim.system import be_worker
def work(started):
    be_worker(at_once=False)
    open(started, "w").close()
    time.sleep(60)
if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work, args=sys.argv[1:])
    process.start()
    process.join()
"""
NO_WORKER = """
import os, sys, time
from dsim.system import end_with_parent
end_with_parent(os.getppid(), at_once=False)
open(sys.argv[1], "w").close()
time.sleep(60)
"""
STARTS = """
import subprocess, sys
subprocess.run([sys.executable, "-c", *sys.argv[1:]])
"""


@pytest.mark.parametrize("kind", ["worker", "lane"])
def test_a_thread_sees_the_parent_end_where_the_system_does_not(tmp_path, kind):
    script, started = tmp_path / "script.py", tmp_path / "started"
    script.write_text(WITHOUT_THE_SYSTEM if kind == "worker" else STARTS)
    more = [NO_WORKER] if kind == "lane" else []
    process = subprocess.Popen(
        [sys.executable, str(script), *more, str(started)], stdout=subprocess.PIPE
    )
    wait_for(started.exists, process)
    below = children(process.pid)
    assert below
    process.kill()
    process.communicate(timeout=60)
    assert not left_of(below)


def test_the_end_of_a_thread_is_not_the_end_of_the_parent():
    """The system would take it for that: what a thread starts has to look itself."""
    found = []
    thread = threading.Thread(target=lambda: found.append(can_end_at_once()))
    thread.start()
    thread.join()
    assert found == [False]
    assert can_end_at_once()


def test_what_ends_late_is_ended_when_dsim_ends_by_itself(tmp_path):
    """Ray's processes may take their time after they were told to end."""
    stays = tmp_path / "log"
    with swept(str(tmp_path)), stays.open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(60)"], stdout=log
        )
    try:
        assert process.wait(timeout=30) == -signal.SIGKILL
    finally:
        process.kill()


def test_a_sweep_spares_whoever_asks_for_one(tmp_path):
    with (tmp_path / "of its own").open("w"), swept(str(tmp_path)):
        pass
    assert not tmp_path.exists()
