"""Options that several commands take say the same everywhere."""

from __future__ import annotations

import re

import click
import pytest
from click.testing import CliRunner

from dsim.cli.main import main

# Options that mean something else in each command, and how many meanings they have.
MEANINGS = {
    "--algorithm": 2,  # to simulate several, to run one
    "--backend": 2,  # of a study, of a validation
    "--dtype": 2,  # of models by name, of models that run
    "--drafter": 3,  # of a published pair, by name, one that runs
    "--json": 5,
    "--out": 8,  # names what it writes
    "--pair": 3,  # a profile, a published pair, pairs of a study
    "--prompts": 2,
    "--quiet": 2,  # validate prints its claims even then
    "--repeats": 2,
    "--target": 3,
    "--targets": 2,
    "--trace": 3,  # of servers, of requests, of draws
}


def options(command, name=""):
    """Every option of *command* and of those below it, with the command's name."""
    if isinstance(command, click.Group):
        for below, one in command.commands.items():
            yield from options(one, f"{name} {below}")
    for param in command.params:
        if isinstance(param, click.Option) and not param.hidden:
            yield name, param


def test_one_option_has_one_help():
    helps = {}
    for _, option in options(main):
        # What follows is a default, or belongs to the other form of the value.
        words = re.split(r"  \[|[;:.] | per (?:request|text|prompt)| of the first", option.help)[0]
        helps.setdefault(max(option.opts, key=len), set()).add(words.rstrip("."))
    found = {name: sorted(each) for name, each in helps.items() if len(each) > 1}
    assert {name: len(each) for name, each in found.items()} == MEANINGS, found


def test_one_option_has_one_form():
    forms = {}
    for name, option in options(main):
        word = max(option.opts, key=len)
        if word not in {*MEANINGS, "--tokens", "--acceptance"} and "latency" not in word:
            form = (option.type.name, option.metavar, option.is_flag)
            forms.setdefault(word, {}).setdefault(form, []).append(name)
    assert not {word: each for word, each in forms.items() if len(each) > 1}


@pytest.mark.parametrize(
    "words", ["advise --out", "simulate --timeline", "latency x --gpu h100 --out"]
)
def test_a_page_in_no_folder_is_refused_before_the_work(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, [*words.split(), "none/page.html"])
    assert found.exit_code == 2
    assert "none/page.html cannot be written: there is no folder none" in found.output


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--tokens", "4", "--repeats", "2", "--timeline"],
        ["latency", "llama-3.1-8b", "--gpu", "h100", "--out"],
        ["run", "load", "--requests"],
        ["run", "load", "--trace"],
        ["validate", "--predict"],
        ["validate", "--report"],
    ],
)
def test_a_file_of_the_users_is_not_replaced(words, tmp_path):
    """``dsim simulate --timeline study.toml`` made a page of a study."""
    own = tmp_path / "study.toml"
    own.write_text("tokens = 4", "utf-8")
    found = CliRunner().invoke(main, [*words, str(own)])
    assert found.exit_code == 2, found.output
    assert f"{own} is there already, and its name does not end in ." in found.output
    assert own.read_text("utf-8") == "tokens = 4"
