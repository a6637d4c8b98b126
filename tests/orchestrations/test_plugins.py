"""Orchestrations of the user's own, by ``dsim --plugin``."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pandas as pd
import pytest

from dsim.study.executors import SMALL_TOKENS
from tests import said
from tests.lanes import DSIM

# One draft, one pass, and again: SI that heeds no lookahead.
MINE = """
from dsim.orchestrations import Orchestration, register

def careful(drafter, target, output):
    while not output.finished:
        settled = output.settled
        if output.wanted - settled > 1:
            draft = drafter.forward(settled)
            yield draft
            output.tokens.append(draft.token)
        forward = target.forward(settled)
        yield forward
        output.settle(*target.backend.verify(forward, settled, output.tokens[settled:]))

def start(setup):
    setup.env.process(careful(setup.drafter(), setup.target(), setup.output))

register(Orchestration(name="careful", title="careful SI", colour="#aa3377",
                       meaning="one draft at a time", start="mine:start"))
"""
STUDY = """
algorithms = ["nonsi", "si", "careful"]
lookahead = 1
tokens = 40
repeats = 75
[target]
latency_model = "gamma"
latency_cv = 0.3
[grid]
acceptance.rate = { start = 0.1, stop = 0.9, step = 0.05 }
[[charts]]
kind = "lines"
title = "Speed-up"
x = "acceptance.rate"
y = "speedup_vs_nonsi"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.py").write_text(MINE, "utf-8")
    (tmp_path / "study.toml").write_text(STUDY, "utf-8")
    return tmp_path


def dsim(folder, *words):
    command = [sys.executable, "-P", "-c", DSIM, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_plugin_stands_beside_the_others(folder) -> None:
    words = ("simulate", "--algorithm", "si", "--algorithm", "careful", "--lookahead", "1")
    found = dsim(folder, "--plugin", "mine", *words)
    assert (found.returncode, found.stderr) == (0, "")
    assert "careful SI" in {line.split("  ")[0] for line in found.stdout.splitlines()}
    (folder / "random.py").write_text("raise ImportError('not the library')", "utf-8")
    again = dsim(folder, "--plugin", "mine", "--plugin", "mine", *words)
    assert (again.returncode, again.stdout) == (0, found.stdout)
    plain = dsim(folder, *words)
    assert plain.returncode == 2
    assert "expected one of nonsi, si, dsi, multidsi" in plain.stderr
    assert "got careful" in plain.stderr


def test_a_path_names_a_plugin_too(folder) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    words = ("simulate", "--algorithm", "careful", "--tokens", "4")
    for place, path in ((folder, "mine.py"), (folder, "./mine.py"), (elsewhere, "../mine.py")):
        found = dsim(place, "--plugin", path, *words)
        assert (found.returncode, found.stderr) == (0, ""), path
        assert "careful SI" in found.stdout
    for path, what in (
        ("./nope.py", "./nope.py: no such file"),
        ("./mine.txt", "expected a module, or a file whose name is one"),
    ):
        found = dsim(folder, "--plugin", path, *words)
        assert found.returncode == 2
        assert what in found.stderr
    (folder / "click.py").write_text(MINE, "utf-8")
    found = dsim(folder, "--plugin", "./click.py", *words)
    assert found.returncode == 2
    assert "a module of this name is imported already" in found.stderr


def test_further_drafters_are_checked_for_whoever_takes_them(folder) -> None:
    (folder / "crowd.py").write_text(
        "import dataclasses\n"
        "from dsim.orchestrations import ORCHESTRATIONS, register\n"
        'register(dataclasses.replace(ORCHESTRATIONS["multidsi"], name="crowd", title="Crowd"))\n',
        "utf-8",
    )
    text = STUDY.replace("careful", "crowd").replace('"gamma"', '"constant"')
    (folder / "study.toml").write_text(text, "utf-8")
    found = dsim(folder, "--plugin", "crowd", "run", "study.toml", "--out", "out")
    assert found.returncode == 2
    assert 'more_drafters.latency_ms: is missing: the algorithms have "crowd"' in found.stderr


def test_a_library_of_the_same_name_is_no_plugin(folder) -> None:
    (folder / "click.py").write_text(MINE, "utf-8")
    found = dsim(folder, "--plugin", "click", "simulate")
    assert found.returncode == 2
    assert "click: registers nothing" in found.stderr


def test_what_was_run_is_on_record_not_what_became_of_its_file(folder) -> None:
    (folder / "mine.py").write_text(
        f"{MINE}\nfrom pathlib import Path\nPath(__file__).unlink()\n", "utf-8"
    )
    found = dsim(
        folder, "--plugin", "mine", "run", "study.toml", "--out", "out", "--set", "repeats=1"
    )
    assert (found.returncode, found.stderr) == (0, "")
    record = json.loads((folder / "out" / "provenance.json").read_text("utf-8"))
    assert set(record["plugins_sha256"]) == {"mine"}


def test_a_plugin_that_is_given_is_compared_or_said_not_to_be(folder) -> None:
    """It was loaded, and nothing more was heard of it."""
    one = ("simulate", "--plugin", "mine.py", "--tokens", "4", "--repeats", "2")
    found = dsim(folder, *one)
    assert [line.split("  ")[0] for line in found.stdout.splitlines()[4:8]] == [
        *("non-SI", "SI", "DSI", "careful SI")
    ]
    found = dsim(folder, *one, "--algorithm", "si")
    assert "careful, of a plugin, is not among the algorithms compared; add it" in found.stdout
    assert found.stdout.endswith(" --algorithm careful.\n")
    of_study = ("study.toml", "--plugin", "mine.py", "--set", 'algorithms=["nonsi", "si"]')
    found = dsim(folder, "run", *of_study)
    assert """add it with --set 'algorithms=["nonsi", "si", "careful"]'.""" in found.stderr
    assert dsim(folder, "run", *of_study, "--quiet").stderr == ""
    found = dsim(folder, "advise", "--plugin", "mine.py", "--gpus", "2", "--rate", "0.1")
    assert found.returncode == 0
    assert "careful, of a plugin, is not tried: dsim advise tries what has a vector" in found.stderr


def test_results_of_an_edited_plugin_replace_the_old_ones_only_if_asked_to(folder) -> None:
    words = ("run", "study.toml", "--plugin", "mine.py", "--set", "tokens=4", "--out", "out")
    assert dsim(folder, *words).returncode == 0
    assert dsim(folder, *words).returncode == 0  # the same again
    before = (folder / "out" / "provenance.json").read_bytes()
    (folder / "mine.py").write_text(MINE + "\n", "utf-8")
    found = dsim(folder, *words)
    assert found.returncode == 2
    assert "holds results of plugin mine as its text was before; choose another" in found.stderr
    assert (folder / "out" / "provenance.json").read_bytes() == before
    assert dsim(folder, *words, "--force").returncode == 0
    assert (folder / "out" / "provenance.json").read_bytes() != before


def test_studies_take_it_in_worker_processes_too(folder) -> None:
    assert SMALL_TOKENS < 17 * 75 * 40  # or no worker would be started
    for jobs in ("1", "2"):
        found = dsim(folder, "--plugin", "mine", "run", "study.toml", "--out", jobs, "--jobs", jobs)
        assert (found.returncode, said(found.stderr)) == (0, "")
    files = {path.name: path.read_bytes() for path in (folder / "1").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (folder / "2").iterdir()}
    assert b"careful SI" in files["report.html"]
    assert b"one draft at a time" in files["report.html"]  # what it does
    frame = pd.read_parquet(folder / "1" / "results.parquet")
    by = {name: own["latency_mean_ms"].to_list() for name, own in frame.groupby("algorithm")}
    assert by["si"] == by["careful"]  # with lookahead 1 they are the same
    assert len(by["si"]) == 17
    record = json.loads(files["provenance.json"])
    assert record["plugins_sha256"] == {"mine": hashlib.sha256(MINE.encode()).hexdigest()}
    refused = dsim(folder, "run", "study.toml", "--out", "without")
    assert refused.returncode == 2
    assert "careful" in refused.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINE.replace('"mine:start"', '"other:begin"'), "has no attribute 'begin'"),
        (None, "cannot be imported: ModuleNotFoundError: No module named 'other'"),
        ("x = 1\n", "registers nothing"),
        ("raise SystemExit(3)\n", "cannot be imported: line 1: SystemExit: 3"),
        ("1 / 0\n", "cannot be imported: line 1: ZeroDivisionError"),
        (MINE.replace("careful", "dsi"), "there is an orchestration 'dsi' already"),
    ],
)
def test_a_plugin_that_is_none(folder, text, words) -> None:
    if text is not None:
        (folder / "other.py").write_text(text, "utf-8")
    found = dsim(folder, "--plugin", "other", "simulate")
    assert found.returncode == 2
    assert found.stdout == ""
    assert words in found.stderr
    assert "Traceback" not in found.stderr
