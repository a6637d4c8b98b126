"""The plugin in ``docs/orchestrations.md`` does what the page says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from dsim.orchestrations import Orchestration
from tests import ROOT
from tests.lanes import DSIM

PAGE = ROOT / "docs" / "orchestrations.md"


PYTHON = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    code, _ = PYTHON
    (tmp_path / "hopeful.py").write_text(code, "utf-8")
    return tmp_path


def dsim(folder, *words):
    command = [sys.executable, "-P", "-c", DSIM, *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_commands_of_the_page_run(folder) -> None:
    (folder / "study.toml").write_text(
        "tokens = 20\nrepeats = 2\n[grid]\nacceptance.rate = [0.5, 0.9]\n"
        '[[charts]]\nkind = "lines"\nx = "acceptance.rate"\ny = "speedup_vs_nonsi"\n',
        "utf-8",
    )
    page = re.findall(r"```sh\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    for line in "".join(page).splitlines():
        words = [word.strip("'") for word in re.findall(r"'[^']*'|\S+", line)][1:]
        found = dsim(folder, *words)
        assert (found.returncode, found.stderr) == (0, ""), line
        assert "hopeful SI" in found.stdout
    (report,) = folder.rglob("report.html")
    assert "hopeful SI" in report.read_text("utf-8")
    drawn = dsim(folder, "--plugin", "hopeful", "plot", str(report.parent))
    assert drawn.returncode == 0, drawn.stderr


def test_its_second_declaration_is_valid() -> None:
    exec(PYTHON[1], {"start": print})  # noqa: S102


@pytest.mark.parametrize("wrong", [{"traits": ("overlaps",)}, {"reads": "lookahead"}])
def test_a_declaration_of_the_wrong_type_says_what_to_write(wrong) -> None:
    (field,) = wrong
    about = {"name": "a", "title": "a", "colour": "#000000", "meaning": "a", "start": print}
    with pytest.raises(ValueError, match=f"orchestration 'a': {field}: expected .*, got"):
        Orchestration(**about, **wrong)


def test_its_deployment_runs(folder) -> None:
    (folder / "load.toml").write_text(
        'algorithms = ["nonsi", "hopeful"]\n[workload]\nrequests = 5\nrate_per_s = 1.0\n', "utf-8"
    )
    found = dsim(folder, "--plugin", "./hopeful.py", "load", "load.toml", "--out", "out")
    assert found.returncode == 0, found.stderr
    assert "hopeful SI" in found.stdout
