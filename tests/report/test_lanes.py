"""The processes that draw."""

from __future__ import annotations

import subprocess
import sys

import pytest
from altair import SCHEMA_VERSION

from dsim.errors import EngineError
from dsim.report import lanes


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
