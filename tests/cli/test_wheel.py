"""dsim as it is installed: from a wheel, away from its repository."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from dsim.cli.main import main
from tests.lanes import DSIM

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs dsim from a wheel, in a folder with nothing in it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    words = "-m hatchling build --target wheel --directory".split()  # what pip would call
    subprocess.run([sys.executable, *words, str(folder)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("dsim-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    (folder / "empty").mkdir()

    def dsim(*words, start=("-m", "dsim")):
        return subprocess.run(
            [sys.executable, *start, *words],
            cwd=folder / "empty",
            env={**os.environ, "PYTHONPATH": str(folder / "site")},
            capture_output=True,
            text=True,
        )

    return dsim


def test_studies_that_the_help_names_can_be_run_from_a_wheel(installed):
    assert "dsim run heatmap" in installed("--help").stdout
    listed = [line.split()[0] for line in installed("studies").stdout.splitlines()]
    assert listed == sorted(path.stem for path in (ROOT / "studies").glob("*.toml"))
    found = installed("run", "heatmap", "--set", "repeats=1", "--out", "out")
    assert found.returncode == 0, found.stderr
    assert "report: out/report.html" in found.stdout
    assert installed("studies", "--copy", "heatmap").stdout == "copied: heatmap.toml\n"


def test_documents_that_the_help_names_are_in_a_wheel(installed):
    """Help texts name documents by the command that prints them: a wheel has no folder docs."""
    listed = {line.split()[0] for line in installed("docs").stdout.splitlines()}
    assert listed >= {path.stem for path in (ROOT / "docs").glob("*.md")}
    texts = [main.get_help(click.Context(main, info_name="dsim"))]
    for name, command in main.commands.items():
        texts.append(command.get_help(click.Context(command, info_name=name)))
    help_text = " ".join(" ".join(texts).split()).replace("- ", "-")  # broken lines
    assert "docs/" not in help_text
    named = set(re.findall(r"dsim docs ([a-z-]+)", help_text))
    assert named
    assert named <= listed
    assert "[[[cog" not in installed("docs", "commands").stdout


COMMANDS = """
simulate --tokens 20 --repeats 2
settings lookahead
completion bash
check nonsi
advise --target-latency 18 --drafter-latency 1 --acceptance 0.75 --gpus 1 --rate 0.1 --tokens 5
run sanity --set repeats=1 --out small --quiet
compare a=small b=small
plot small
"""


def test_commands_run_from_a_wheel(installed):
    """Without pictures, which the test of a study has."""
    for words in COMMANDS.strip().splitlines():
        found = installed(*words.split(), start=("-c", DSIM))
        assert found.returncode == 0, words + found.stderr
