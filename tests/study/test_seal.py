"""``dsim verify``: whatever happens to a finished folder is named."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.study.loader import loads
from dsim.tasks.run import plot, run_study

TEXTS = """
repeats = 2
tokens = 8
[grid]
lookahead = [1, 2]
"""
DEPLOYMENT = """
repeats = 1
tokens = 4
algorithms = ["nonsi"]
[workload]
requests = 20
[grid]
workload.rate_per_s = [0.1, 0.2]
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    run_study(loads(TEXTS), folder / "texts")
    run_study(loads(DEPLOYMENT), folder / "deployment")
    return folder


@pytest.fixture
def copied(results, tmp_path):
    return shutil.copytree(results, tmp_path / "copy")


def verify(folder):
    result = CliRunner().invoke(main, ["verify", str(folder)])
    return result.exit_code, result.output.splitlines()


@pytest.mark.parametrize("kind", ["texts", "deployment"])
def test_a_finished_run_is_as_it_was_written(copied, kind):
    code, lines = verify(copied / kind)
    count = len(list((copied / kind).iterdir())) - 1
    assert (code, lines) == (0, [f"{copied / kind}: all {count} files are as they were written"])
    plot(copied / kind)  # draws the same charts again, and says so
    assert verify(copied / kind)[0] == 0


@given(data=st.data())
def test_every_change_is_named(results, data):
    folder = results / "deployment"
    path = data.draw(st.sampled_from(sorted(p for p in folder.iterdir() if p.suffix != ".json")))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    how = data.draw(st.sampled_from(["changed", "cut", "missing", "extra"]))
    extra = folder / "more.txt"
    try:
        if how == "changed":
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        elif how == "cut":
            path.write_bytes(content[:place])
        elif how == "missing":
            path.unlink()
        else:
            extra.touch()
        what = "changed" if how == "cut" else how
        assert verify(folder) == (1, [f"{what}: {'more.txt' if how == 'extra' else path.name}"])
    finally:
        path.write_bytes(content)
        extra.unlink(missing_ok=True)


def test_other_charts_are_no_excuse_for_other_results(copied):
    """``dsim plot`` seals what it draws, and nothing else."""
    folder = copied / "texts"
    with (folder / "results.csv").open("a") as file:
        file.write("\n")
    plot(folder)
    assert verify(folder) == (1, ["changed: results.csv"])


def test_what_is_no_file_counts_as_missing_and_never_waits(copied):
    folder = copied / "texts"
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    os.mkfifo(folder / "pipe")
    assert verify(folder) == (1, ["extra: pipe", "missing: report.html"])


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 5000, "{}", '{"files": 1}', "\0"])
def test_without_hashes_there_is_nothing_to_check(copied, text):
    (copied / "texts" / "provenance.json").write_text(text)
    code, (line,) = verify(copied / "texts")
    assert code == 2
    assert "is damaged" in line or "has no hashes" in line


def test_an_unfinished_folder_is_not_verified(tmp_path):
    assert verify(tmp_path) == (
        2,
        [f"error: {tmp_path}: holds no finished results: no provenance.json"],
    )


def test_the_page_shows_no_hash_of_itself(copied):
    files = json.loads((copied / "texts" / "provenance.json").read_text())["files"]
    page = (copied / "texts" / "report.html").read_text()
    assert "results.parquet" in files
    assert [name for name, digest in files.items() if digest in page] == ["study.toml"]
