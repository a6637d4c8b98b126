"""Tables of measurements: read, told by their columns, predicted row by row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.tasks.field.source import CannotError, Found, Prediction, number, read, text
from dsim.tasks.field.sources import SOURCES
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dsim.tasks.field.source import Row, Rows, Source


def source_of(path: Path, columns: list[str]) -> Source:
    """The source that has the *columns* of the file *path*.

    Raises:
        UserError: there is none.
    """
    for source in SOURCES:
        if set(source.columns) <= set(columns):
            return source
    close = max(SOURCES, key=lambda source: len(set(source.columns) & set(columns)))
    missing = [name for name in close.columns if name not in columns]
    known = "; ".join(f"{', '.join(source.columns)} ({source.name})" for source in SOURCES)
    hint = nearest(missing[0], columns)
    what = f"expected the columns of one of the sources: {known}; got {show(columns)}"
    raise UserError(Problem(str(path), "", f'{what}. "{missing[0]}" is missing{hint}'))


def predict(source: Source, rows: Rows, also: Rows = ()) -> list[Found]:
    """Each of *rows*, from its own inputs and from other rows: *also*, and the rest of them."""
    further = [row for row in rows if not any(source.same(row, other) for other in also)]
    found = []
    for row in (part for whole in rows for part in source.split(whole)):
        others = [other for other in (*also, *further) if not source.same(other, row)]
        try:
            value, reason, notes = source.predict(row, others)
        except CannotError as error:
            value, reason, notes = Prediction(None, str(error))
        measured = number(row, source.measured)
        error_ = None if value is None or not measured else value / measured - 1
        found.append(Found(source, row, measured, value, error_, reason, notes))
    return found


def predict_file(path: Path) -> list[Found]:
    """The rows of a user's own file, which may be in the columns of any source.

    Raises:
        UserError: the file cannot be read, or its columns are those of no source.
    """
    columns, rows = read(path)
    source = source_of(path, columns)
    return predict(source, rows, read(source.path)[1])


def predict_shipped(progress: Callable[[str], None] = lambda _: None) -> list[Found]:
    """Every row that ships."""
    found = []
    for source in SOURCES:
        progress(f"measurements of others: {source.name}")
        found += predict(source, read(source.path)[1])
    return found


def as_json(found: list[Found]) -> str:
    """All rows as one JSON object: their own columns, then what was measured and predicted."""

    def plain(row: Row, column: str) -> Any:
        value = number(row, column)
        if value is None:
            return text(row, column) if text(row, column).lower() not in ("", "nan") else None
        return int(value) if value == int(value) and "." not in text(row, column) else value

    rows = []
    for one in found:
        values = {column: plain(one.row, column) for column in one.row}
        of = {name: getattr(one, name) for name in ("measured", "predicted", "error")}
        words = {name: getattr(one, name) for name in ("reason", "notes") if getattr(one, name)}
        rows.append({**values, **of, **words})
    return json.dumps({"rows": rows}, indent=1, ensure_ascii=False, allow_nan=False)
