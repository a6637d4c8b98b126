"""A drafter of the user's own, as a Python class."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.tiny import write_pair

MINE = '''
class MyDrafter:
    """The last token again; or, as the target often does, the one after the same token before."""

    def __init__(self, vocab):
        self.vocab = vocab

    def guess(self, tokens):
        end = tokens[-1]
        for place in range(len(tokens) - 2, -1, -1):
            if tokens[place] == end:
                return tokens[place + 1]
        return end


class Wild(MyDrafter):
    def guess(self, tokens):
        return self.vocab


class Silent:
    pass
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_pair(tmp_path_factory)
    (folder / "mine.py").write_text(MINE)
    return folder


def generate(folder, *words):
    command = [sys.executable, "-m", "dsim", "generate", "w3 w4", "--target", "target", *words]
    command += ["--tokens", "24", "--ignore-eos", "--json", "--share", "--targets", "2"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.torch
def test_a_class_drafts(folder):
    """The same text as by every algorithm, whatever the class guesses; and some guesses hold."""
    found = generate(folder, "--drafter", "mine:MyDrafter", "--compare", "--lookahead", "2")
    assert found.returncode == 0, found.stderr
    rows = [json.loads(line) for line in found.stdout.splitlines()]
    assert [row["algorithm"] for row in rows] == ["nonsi", "si", "dsi"]
    assert rows[0]["token_ids"] == rows[1]["token_ids"] == rows[2]["token_ids"]
    assert rows[1]["target_passes"] <= 24


@pytest.mark.torch
def test_what_is_wrong_with_a_class_is_named(folder):
    for drafter, code, message in (
        ("mine:Silent", 2, "expected a class with a method guess(tokens)"),
        ("mine:Nobody", 2, "mine:Nobody cannot be imported: AttributeError"),
        ("nowhere:X", 2, "nowhere:X cannot be imported: ModuleNotFoundError"),
        ("mine:Wild", 3, "the drafter guessed 64, not a token from 0 to 63"),
    ):
        found = generate(folder, "--drafter", drafter)
        assert found.returncode == code, drafter + found.stderr
        assert message in found.stderr
