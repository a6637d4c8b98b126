"""The processes that draw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from altair import SCHEMA_VERSION
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import EngineError
from dsim.report import lanes
from dsim.study.loader import loads
from dsim.study.seal import differences
from dsim.tasks.run import run_study

TRACE = "arrival_ms,prompt_tokens,output_tokens\n0,10,5\n9,20,6\n"
RESULTS = "algorithm,lookahead,latency_mean_ms\nsi,1,9\nsi,2,8\nnonsi,1,7\nnonsi,2,7\n"


def test_the_version_of_charts_is_known_without_altair():
    code = "import sys; from dsim.report.lanes import schema_version; "
    code += "print(schema_version(), 'altair' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [SCHEMA_VERSION, "False"]


def test_a_process_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(lanes, "PROGRAM", "import nothing_of_the_kind")
    lane = lanes.Lane()
    try:
        with pytest.raises(EngineError, match=r"\(ModuleNotFoundError: .*nothing_of_the_kind"):
            lane.ask(lanes.SCRIPT, 1).result()
    finally:
        lane.close()


def test_a_source_that_does_not_say_the_version_is_imported(monkeypatch):
    monkeypatch.setattr(lanes, "SCHEMA", "nothing/*")
    assert lanes.schema_version() == SCHEMA_VERSION


@pytest.fixture
def no_vega(monkeypatch):
    monkeypatch.setattr(lanes, "PROGRAM", "import nothing_of_the_kind")


COMMANDS = [
    ("latency llama-3.1-8b --gpu h100 --out page.html", "Knee: "),
    ("simulate --timeline page.html", "fastest"),
    ("advise --target Vicuna-13B --drafter Vicuna-68M --gpus 3 --out page.html", "Run "),
    ("trace trace.csv --out page.html", "2 requests"),
    ("compare a.csv b.csv --out page", "b: the mean"),
    ("plot a.csv --out page", "fastest"),
]


@pytest.mark.usefixtures("no_vega")
@pytest.mark.parametrize(("words", "answer"), COMMANDS)
def test_an_answer_is_there_where_nothing_can_be_drawn(words, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trace.csv").write_text(TRACE)
    for name in ("a.csv", "b.csv"):
        Path(name).write_text(RESULTS)
    found = CliRunner().invoke(main, words.split())
    assert answer in found.stdout
    assert (found.exit_code, "nothing_of_the_kind" in found.stderr) == (3, True)


@pytest.mark.usefixtures("no_vega")
def test_a_run_is_complete_where_nothing_can_be_drawn(tmp_path):
    study = "repeats = 2\ntokens = 20\n[grid]\nlookahead = [1, 2]\n"
    finished = run_study(
        loads(study + "[[charts]]\nkind = 'lines'\nx = 'lookahead'\ny = 'latency_mean_ms'\n"),
        tmp_path / "out",
    )
    assert finished.failed[0].startswith("The page has no charts: vl-convert ended")
    assert "The page has no charts" in (tmp_path / "out/report.html").read_text("utf-8")
    assert differences(tmp_path / "out") == []
