"""dsim as it is installed: from a wheel, away from its repository."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs dsim from a wheel, in a folder with nothing in it."""
    pytest.importorskip("hatchling")
    folder = tmp_path_factory.mktemp("wheel")
    words = "-m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir".split()
    subprocess.run([sys.executable, *words, str(folder), str(ROOT)], check=True)
    (wheel,) = folder.glob("dsim-*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(folder / "site")
    (folder / "empty").mkdir()

    def dsim(*words):
        return subprocess.run(
            [sys.executable, "-m", "dsim", *words],
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
