"""The notebooks of the documents: every cell runs, and what it ends with can be shown."""

from __future__ import annotations

import ast
import json

import pytest

from dsim.orchestrations import ORCHESTRATIONS
from tests import ROOT

BOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", BOOKS, ids=[path.stem for path in BOOKS])
def test_every_cell_runs(path, capsys, monkeypatch):
    monkeypatch.setattr("dsim.tasks.check.LARGER", 5)
    monkeypatch.setattr("dsim.engines.laws.MAX_SMALL_TOKENS", 3)
    book = json.loads(path.read_text("utf-8"))
    names: dict[str, object] = {}
    shown = 0
    try:
        for cell in book["cells"]:
            if cell["cell_type"] != "code":
                continue
            assert cell["outputs"] == [], "notebooks are kept without outputs"
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, path.name, "exec"), names)  # noqa: S102
            value = last and eval(compile(ast.Expression(last.value), path.name, "eval"), names)  # noqa: S307
            if value is not None:
                has = "_repr_mimebundle_" if hasattr(value, "_repr_mimebundle_") else "_repr_html_"
                shown += bool(getattr(value, has)())
    finally:
        ORCHESTRATIONS.pop("careful", None)
    assert shown
    assert capsys.readouterr().out
