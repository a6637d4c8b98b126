"""A results folder: one writer at a time, and parts that belong to one study only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from dsim.errors import UserError
from dsim.study import folder
from dsim.study.folder import PartStore, results_folder, unfinished_study

HOLD = """
import sys, time
from pathlib import Path
from dsim.study.folder import results_folder
with results_folder(Path(sys.argv[1]), "seed = 0", force=False, resume=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_process_is_told_who_writes(tmp_path):
    """The death of the first one, whatever killed it, releases the folder."""
    folder = tmp_path / "out"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for how in ({"force": False, "resume": True}, {"force": True, "resume": False}):
            with (
                pytest.raises(UserError, match=rf"another process writes .*process {holder.pid}"),
                results_folder(folder, "seed = 7", **how),
            ):
                pytest.fail("two processes write to one folder")
        assert (folder / ".unfinished" / "study.toml").read_text() == "seed = 0"
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    with results_folder(folder, "seed = 0", force=False, resume=True):
        pass
    assert not (folder / ".lock").exists()


@pytest.mark.parametrize("value", [np.arange(6.0).reshape(2, 3), json.dumps({"run": [1, 2]})])
def test_a_part_comes_back_as_it_was(tmp_path, value):
    store = PartStore(tmp_path, "seed = 0")
    assert store.get(3) is None
    store.put(3, value)
    assert np.array_equal(PartStore(tmp_path, "seed = 0").get(3), value)
    assert [path.name for path in tmp_path.iterdir()] == ["part-000003"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda content: content[:-1],
        lambda content: content[:40] + b"\0" + content[41:],
        lambda _: os.urandom(200),
    ],
    ids=["empty", "cut", "one byte", "random"],
)
def test_a_damaged_part_counts_as_missing(tmp_path, damage):
    store = PartStore(tmp_path, "seed = 0")
    store.put(0, np.arange(6.0))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(0) is None
    assert store.unusable == 1


def test_a_part_of_another_study_counts_as_missing(tmp_path):
    PartStore(tmp_path, "seed = 7").put(0, np.arange(6.0))
    store = PartStore(tmp_path, "seed = 0")
    assert store.get(0) is None
    assert store.unusable == 1


def test_a_part_of_another_text_of_a_plugin_counts_as_missing(tmp_path, monkeypatch):
    """A run that went on with an edited plugin mixed the results of both texts."""
    for text in ("a", "b"):
        monkeypatch.setattr(folder, "fingerprints", lambda text=text: {"mine": text})
        store = PartStore(tmp_path, "seed = 0")
        assert store.get(0) is None
        store.put(0, np.arange(3))
        assert store.get(0) is not None


def test_an_empty_study_is_not_resumed_as_the_default_one(tmp_path):
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / ".unfinished" / "study.toml").write_text("")
    with pytest.raises(UserError, match="is empty; start again with --force"):
        unfinished_study(tmp_path)


def fail_inside(folder):
    with results_folder(folder, "seed = 0", force=False, resume=False):
        raise UserError("mine")


def test_a_folder_that_becomes_read_only_is_a_refusal(tmp_path, monkeypatch):
    """Neither the lock nor half a part can be taken away then: not a reason to call it a bug."""
    out = tmp_path / "out"

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied", str(path))

    def run():
        with results_folder(out, "tokens = 1\n", force=False, resume=False) as parts:
            parts.put(0, np.arange(3))
            (out / ".unfinished" / "part-000001.half").write_text("x")
            monkeypatch.setattr(type(out), "unlink", refuse)
            raise PermissionError(13, "Permission denied")

    with pytest.raises(UserError, match="cannot be written to: Permission denied"):
        run()
    monkeypatch.undo()
    with results_folder(out, "tokens = 1\n", force=False, resume=True) as parts:
        assert list(parts.get(0)) == [0, 1, 2]


def test_a_failure_leaves_no_lock_and_no_folder(tmp_path):
    with pytest.raises(UserError, match="mine"):
        fail_inside(tmp_path / "out")
    assert not (tmp_path / "out").exists()
