"""The campaign of faults in a small size: ``benchmarks/faults.py``."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from dsim.report import lanes
from tests import ROOT
from tests.lanes import DSIM, NO_PICTURES

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at /proc")


@pytest.fixture(scope="module")
def faults():
    spec = importlib.util.spec_from_file_location("faults_", ROOT / "benchmarks/faults.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["faults_"] = module
    spec.loader.exec_module(module)
    module.command = lambda *words: [sys.executable, "-c", DSIM, *words]
    # Long enough for two runs to meet; those that are killed have to be long enough for workers.
    text, more = module.KILLS["run-1"]
    module.RUN = text.replace("tokens = 200", "tokens = 50")
    assert text != module.RUN
    module.KILLS["run-1"] = module.RUN, more
    return module


@pytest.mark.parametrize(
    ("kind", "number"),
    [("kills-run-2", 1), ("studies", 5), ("data", 4), ("together", 1), ("full", 1)],
)
def test_a_small_campaign(faults, kind, number):
    (found,) = faults.campaign([kind], number).values()
    assert len(found) == number
    assert [outcome for outcome in found if not outcome.startswith("ok")] == []


@pytest.mark.parametrize("name", ["SMALL", "SMALL_LOAD"])
def test_what_is_mutated_is_right_itself(faults, tmp_path, name, monkeypatch):
    """Or every mutant would be refused at once."""
    monkeypatch.setattr(lanes, "PROGRAM", NO_PICTURES)
    (tmp_path / "study.toml").write_text(getattr(faults, name))
    words = ["run", "study.toml", "--out", "out", "--jobs", "1"]
    assert faults.in_child(words, tmp_path) == "ok exit code 0"
    chance = random.Random(1)  # noqa: S311
    assert faults.mutated(getattr(faults, name), chance) != getattr(faults, name)


def test_memory_counts_from_where_the_fork_began(faults, tmp_path, monkeypatch):
    """The process that tests may itself hold much; what a command takes beyond that is its own."""
    monkeypatch.setattr(lanes, "PROGRAM", NO_PICTURES)
    (tmp_path / "study.toml").write_text("tokens = 1\nrepeats = 1\n")
    words = ["run", "study.toml", "--out", "out", "--jobs", "1"]
    before = faults.held_bytes()
    monkeypatch.setattr(faults, "MAX_BYTES", 4 << 20)
    assert "MiB" in faults.in_child(words, tmp_path)  # 4 MiB are too little
    monkeypatch.setattr(faults, "MAX_BYTES", before)
    held = bytearray(b"x") * (before + (64 << 20))  # this process holds twice as much
    assert faults.in_child([*words[:3], "other", *words[4:]], tmp_path) == "ok exit code 0"
    del held


def test_a_campaign_goes_on_where_it_was(faults, tmp_path, monkeypatch):
    log, seen = tmp_path / "log", []
    monkeypatch.setitem(faults.KINDS, "data", lambda *_: seen.append(1) or "ok")
    faults.campaign(["data"], 3, log)
    assert faults.campaign(["data"], 5, log) == {"data": ["ok"] * 5}
    assert len(seen) == 5
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["first"], line["outcomes"]) for line in lines] == [(0, {"ok": 3}), (3, {"ok": 2})]
    assert "| `data` | 5 | 5 ok |" in faults.table(log)


def test_what_was_not_ok_is_tried_again(faults, tmp_path, monkeypatch):
    log, outcomes = tmp_path / "log", iter(["ok", "WRONG a", "WRONG b", "ok", "ok", "WRONG b"])
    monkeypatch.setitem(faults.KINDS, "data", lambda *_: next(outcomes))
    faults.campaign(["data"], 4, log)
    faults.again(log)
    (line,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert line["outcomes"] == {"ok": 3, "WRONG b": 1}
    assert line["not ok"] == {"2": "WRONG b"}
