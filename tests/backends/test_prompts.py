"""Prompt sets."""

from __future__ import annotations

import pytest

from dsim.backends.torch import prompts
from dsim.errors import UserError


def write(folder, text: str):
    file = folder / "some.jsonl"
    file.write_text(text, "utf-8")
    return str(file)


def test_a_file_of_prompts(tmp_path) -> None:
    name = write(
        tmp_path,
        '{"prompt": "one", "id": "a", "task": "sum"}\n\n{"prompt": "two"}\n{"prompt": "one"}\n',
    )
    found = prompts.load(name)
    assert [(p.id, p.task, p.text) for p in found] == [("a", "sum", "one"), ("3", "some", "two")]


def test_every_wrong_line_is_named(tmp_path) -> None:
    name = write(tmp_path, '{"prompt": "one"}\n{"prompt": 5}\nnonsense\n["x"]\n{"prompt": " "}\n')
    with pytest.raises(UserError) as caught:
        prompts.load(name)
    text = str(caught.value)
    for line in (2, 3, 4, 5):
        assert f"some.jsonl:{line}" in text
    assert "some.jsonl:1" not in text


def test_files_that_are_not_there_or_empty(tmp_path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        prompts.load(str(tmp_path / "none.jsonl"))
    with pytest.raises(UserError, match="holds no prompts"):
        prompts.load(write(tmp_path, "\n"))
    (tmp_path / "some.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is no text"):
        prompts.load(str(tmp_path / "some.jsonl"))


@pytest.mark.parametrize("name", prompts.shipped())
def test_the_sets_that_ship(name: str) -> None:
    found = prompts.load(name)
    assert len(found) >= 5
    assert len({p.id for p in found}) == len(found)


def test_all_sets_that_ship_at_once() -> None:
    found = prompts.load("all")
    assert {p.task for p in found} == set(prompts.shipped())
    assert len({p.id for p in found}) == len(found) == 100


def test_a_name_that_is_nearly_right(monkeypatch) -> None:
    monkeypatch.setattr(prompts, "shipped", lambda: ["stories"])
    with pytest.raises(UserError, match='did you mean "stories"'):
        prompts.load("storys")
