"""Tables of words and numbers, as text and as parts of a page. Nothing here loads Altair."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dsim.study.setting import Setting
    from dsim.study.study import Study


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextTable:
    """A table for people.

    Attributes:
        title, caption: heading of the table, and what the table says.
        head, rows: column names, and one sequence of cells per row.
        numbers: whether all columns but the first hold numbers, which are aligned on the right.
        exact: whether the same command gives the same numbers on every machine.
        marked: whether caption and cells have Markdown's marks for emphasis and code.
    """

    title: str = ""
    caption: str = ""
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: bool = False
    exact: bool = True
    marked: bool = False


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


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in a Markdown document."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


def settings_rows(settings: Iterable[Setting], study: Study) -> list[tuple[str, str, str]]:
    """The settings of *study* as rows of key, value and meaning.

    Args:
        settings: every setting that the study may have; those without a value are left out.
        study: the study; of an axis of its grid the row has the range.
    """
    rows = []
    axes = {axis.key: axis.values for axis in study.grid}
    for setting in settings:
        key, value = setting.key, study.settings[setting.key]
        if key in axes:
            text = f"{axes[key][0]} … {axes[key][-1]} ({len(axes[key])} values)"
        elif value is None or key in ("title", "description"):
            continue
        elif all(key in own for _, own in study.variants):
            continue  # each variant has its own, below
        else:
            text = show(value)
        unit = f" {setting.unit}" if setting.unit and setting.unit != "cases" else ""
        rows.append((key, f"{text}{unit}", setting.meaning))
    for name, own in study.variants:
        values = ", ".join(f"{key} = {show(value)}" for key, value in own.items())
        rows += [(name, values, "variant")] if name else []
    return rows
