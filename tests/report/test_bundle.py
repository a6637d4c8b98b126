"""What is kept between runs."""

from __future__ import annotations

import os

import pytest

from dsim.report.bundle import VARIABLE, kept


def make(made):
    made.append(b"Vega" * 1000)
    return made[-1]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "caches" / "dsim"))
    return tmp_path / "caches" / "dsim"


def test_it_is_made_once(folder):
    made = []
    assert kept("vega.js", lambda: make(made)) == kept("vega.js", lambda: make(made)) == made[0]
    assert len(made) == 1
    assert [path.name for path in folder.iterdir()] == ["vega.js"]
    kept("another version.js", lambda: make(made))
    assert len(made) == 2


@pytest.mark.parametrize(
    "damage", [lambda data: data[:0], lambda data: data[:-1], lambda data: data[:-1] + b"?"]
)
def test_what_is_damaged_is_made_again(folder, damage):
    made = []
    kept("vega.js", lambda: make(made))
    (folder / "vega.js").write_bytes(damage((folder / "vega.js").read_bytes()))
    assert kept("vega.js", lambda: make(made)) == made[0]
    assert len(made) == 2
    assert kept("vega.js", lambda: make(made)) == made[0]
    assert len(made) == 2


def test_without_a_folder_nothing_is_kept(monkeypatch):
    made = []
    for nowhere in ("", os.devnull):
        monkeypatch.setenv(VARIABLE, nowhere)
        assert kept("vega.js", lambda: make(made)) == b"Vega" * 1000
    assert len(made) == 2


def test_by_itself_it_is_the_folder_for_caches(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kept("vega.js", lambda: make([]))
    if os.name == "posix" and os.uname().sysname == "Linux":
        assert (tmp_path / "dsim" / "vega.js").exists()
