"""Tables of words and numbers, as text and as parts of a page. Nothing here loads Altair."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table for people.

    Attributes:
        title, caption: heading of the table, and what the table says.
        head, rows: column names, and one sequence of cells per row.
        numbers: whether all columns but the first hold numbers, which are aligned on the right.
        exact: whether the same command gives the same numbers on every machine.
    """

    title: str = ""
    caption: str = ""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False
    exact: bool = True


def text_table(head: Sequence[str], rows: Sequence[Sequence[Any]], *, left: int = 1) -> list[str]:
    """The lines of a table for a terminal.

    Args:
        head: column names.
        rows: one sequence of cells per row.
        left: number of columns, from the first, that are aligned on the left; the others are
            aligned on the right.
    """
    from tabulate import tabulate

    aligned = ["left" if column < left else "right" for column in range(len(head))]
    return tabulate(rows, head, disable_numparse=True, colalign=aligned).splitlines()
