"""What a source of measurements is: a table, its columns, and how a row is predicted."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.errors import Problem, UserError
from dsim.files import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dsim.report.tables import TextTable

    Row = Mapping[str, str]
    Rows = Sequence[Row]


class Prediction(NamedTuple):
    """What dsim says of one row.

    Attributes:
        value: in the unit of what was measured; ``None``: the row cannot be predicted.
        reason: why it cannot.
        notes: how what the row does not give was filled in.
    """

    value: float | None
    reason: str = ""
    notes: str = ""


class CannotError(Exception):
    """A row cannot be predicted; the text says why."""


class Group(NamedTuple):
    """Rows that stand together on the page.

    Attributes:
        name: heading.
        what, given, filled: what was measured; what dsim is given; what it is not given and how
            that was filled in, with the number of rows for each fitted number.
        rest: what explains the errors.
        limit: rows whose error is larger are named.
    """

    name: str
    what: str
    limit: float
    given: str = ""
    filled: str = ""
    rest: str = ""


MAX_NUMBER = 1e9
FOLDER = Path(__file__).parents[2] / "published"


def _groups() -> dict[str, Group]:
    def plain(value: Any) -> Any:
        return " ".join(value.split()) if isinstance(value, str) else value

    tables: dict[str, dict[str, Any]] = tomllib.loads(read_text(FOLDER / "groups.toml"))
    return {
        key: Group(**{word: plain(value) for word, value in table.items()})
        for key, table in tables.items()
    }


GROUPS = _groups()


class Found(NamedTuple):
    """One row, measured and predicted.

    Attributes:
        source: where the row belongs.
        row: its cells.
        measured, predicted: ``None`` where there is none.
        error: predicted / measured - 1.
        reason, notes: see :class:`Prediction`.
    """

    source: Source
    row: Row
    measured: float | None
    predicted: float | None
    error: float | None
    reason: str
    notes: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source of measurements. To add one: a file with it, and its name in ``sources.py``.

    Attributes:
        name: for people.
        file: the table that ships, in ``dsim/published``.
        columns: a file that has all of these is of this source.
        key: columns that tell runs apart. A row is never predicted with the help of rows that are
            the same in all of them.
        measured: the column with what was measured.
        unit: of what was measured.
        predict: the prediction of a row, from the row itself and from *other* rows: those that
            ship and those of the user's file. It may raise :class:`CannotError`.
        group: the group of a row.
        label: the name of a row within its group.
        tables: further tables of the page, from all rows of the source.
        split: a row of the file as rows of one measurement each.
    """

    name: str
    file: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    measured: str
    unit: str
    predict: Callable[[Row, Rows], Prediction]
    group: Callable[[Row], Group]
    label: Callable[[Row], str]
    tables: Callable[[Sequence[Found]], list[TextTable]] = lambda _: []
    split: Callable[[Row], Rows] = lambda row: [row]

    @property
    def path(self) -> Path:
        """The table that ships."""
        return FOLDER / self.file

    def same(self, a: Row, b: Row) -> bool:
        """Whether *a* and *b* may be the same run: a column that one of them lacks says nothing."""
        both = [column for column in self.key if column in a and column in b]
        return all(text(a, column) == text(b, column) for column in both)


def read(path: Path) -> tuple[list[str], list[Row]]:
    """The column names and the rows of the CSV file *path*.

    Raises:
        UserError: it cannot be read, or has no row.
    """
    reader = csv.DictReader(io.StringIO(read_text(path)), restkey="", skipinitialspace=True)
    try:
        rows: list[Row] = [{k.strip(): v or "" for k, v in row.items() if k} for row in reader]
    except csv.Error as error:
        raise UserError(Problem(str(path), "", f"is not CSV: {error}")) from None
    if not rows:
        raise UserError(Problem(str(path), "", "expected a line of column names, then rows"))
    return [name.strip() for name in reader.fieldnames or []], rows


def text(row: Row, column: str) -> str:
    """The cell of *row*, without blanks around it; nothing where it is missing."""
    return (row.get(column) or "").strip()


def number(row: Row, column: str) -> float | None:
    """The number in the cell; ``None`` where there is none, or no finite one."""
    try:
        value = float(text(row, column))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def needed(row: Row, *columns: str, least: float = 1e-9) -> list[float]:
    """The numbers in these cells.

    Raises:
        CannotError: one is missing, below *least*, or beyond all reason.
    """
    values = [number(row, column) for column in columns]
    found = [value for value in values if value is not None and least <= value <= MAX_NUMBER]
    if len(found) < len(columns):
        wrong = [
            f"{column} ({text(row, column)})" if value is not None else column
            for column, value in zip(columns, values, strict=True)
            if value is None or not least <= value <= MAX_NUMBER
        ]
        raise CannotError(f"not published, or no possible value: {', '.join(wrong)}")
    return found


def median(values: Sequence[float]) -> float:
    """The median of *values*."""
    import statistics

    return float(statistics.median(values))
