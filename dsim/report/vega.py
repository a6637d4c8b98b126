"""Vega in a process of its own: the script for pages, and pictures of charts."""

from __future__ import annotations

import itertools
import json
import re
from typing import TYPE_CHECKING, Any

import altair as alt
import pyarrow as pa
from pyarrow import csv

from dsim.errors import EngineError
from dsim.report.analysis import is_number
from dsim.report.style import HEIGHT_PX, WIDTH_PX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from dsim.report.charts import Panel
    from dsim.report.lanes import AtWork

PICTURE_THEME = {
    "background": "white",
    "font": "DejaVu Sans, Helvetica, Arial, sans-serif",
    "view": {"stroke": "#dde2e8"},
    "axis": {
        "gridColor": "#e6e9ee",
        "domainColor": "#b9c1cb",
        "tickColor": "#b9c1cb",
        "labelSeparation": 4,
    },
    "title": {"anchor": "start", "fontSize": 14, "offset": 10},
}
MAX_RECORDS = 500
CONTROL = re.compile(r"(?<!\\)((?:\\\\)*)\\u00[01][0-9a-f]")  # as JSON writes them


class Vega:
    """The bundle of Vega for a page, and pictures, made by other processes meanwhile.

    The bundle takes over a second, and so do the pictures of large maps, with the interpreter
    locked.

    Args:
        at_work: the processes.
    """

    def __init__(self, at_work: AtWork) -> None:
        self._script = at_work.script
        self._known: dict[int, tuple[Panel, dict[str, Any]]] = {}
        self._turn = itertools.cycle(reversed(at_work.lanes))  # the first is at the script

    def script(self) -> str:
        """Vega, Vega-Lite and Vega-Embed as one text.

        Raises:
            EngineError: the script could not be made.
        """
        return self._script.result()[0].decode()

    def pictures(self, panel: Panel) -> Callable[[], tuple[bytes, str]]:
        """A function that waits for the PNG and the SVG of *panel*, which are being made.

        The function raises :class:`dsim.errors.EngineError` where the chart cannot be drawn.
        """
        spec = specification(panel, width=panel.width or WIDTH_PX)
        self._known[id(panel)] = panel, spec
        spec = spec | {"title": panel.title, "config": PICTURE_THEME}
        asked = next(self._turn).ask(_text(spec), 2)

        def wait() -> tuple[bytes, str]:
            answer, png = asked.result()
            svg = answer.decode()
            if not png:
                last = svg.strip().splitlines()[-1]
                raise EngineError(f"vl-convert could not draw a chart: {last}")
            return png, _renumbered(svg)

        return wait

    def specifications(self, panels: Sequence[Panel]) -> str:
        """As :func:`page_specifications`, of panels whose pictures are being made."""
        specs = (self._known[id(panel)][1] for panel in panels)
        return _text([spec | {"width": "container"} for spec in specs])


def specification(panel: Panel, *, width: int | str) -> dict[str, Any]:
    """The Vega-Lite specification of *panel*, with a size."""
    chart = panel.chart.properties(width=width, height=panel.height or HEIGHT_PX)
    tables: dict[str, pd.DataFrame] = {}

    def hold(table: Any) -> dict[str, str]:
        """Keep *table* aside: Altair would check every row of it against the schema."""
        known = next((name for name, kept in tables.items() if kept is table), "")
        name = known or f"data-{len(tables)}"
        tables[name] = table
        return {"name": name}

    alt.data_transformers.register("dsim", hold)
    with alt.data_transformers.enable("dsim"):
        spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)  # colours of the page and of pictures are not the chart's business
    spec["usermeta"] = {"marks": panel.marks}
    _fill(spec, {name: _data(table) for name, table in tables.items()})
    return spec


def _fill(part: Any, data: Mapping[str, Any]) -> None:
    """Put *data* where *part* of a specification names the data."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        if key == "data" and value.get("name") in data:
            part[key] = data[value["name"]]
        elif isinstance(value, dict | list):
            _fill(value, data)


def _data(table: pd.DataFrame) -> dict[str, Any]:
    """The rows of *table*: as records, or as CSV where that takes much less room."""
    if len(table) <= MAX_RECORDS:
        values: dict[str, Any] = alt.to_values(table)
        return values
    numbers = [str(name) for name in table if is_number(table[name])]
    rows = pa.Table.from_pandas(table.round(9), preserve_index=False)
    text = pa.BufferOutputStream()
    csv.write_csv(rows, text, csv.WriteOptions(quoting_style="needed"))
    return {
        "values": text.getvalue().to_pybytes().decode(),
        "format": {"type": "csv", "parse": dict.fromkeys(numbers, "number")},
    }


def page_specifications(panels: Sequence[Panel]) -> str:
    """The specifications of *panels* as JSON, each as wide as its place on the page."""
    return _text([specification(panel, width="container") for panel in panels])


def _text(specs: Any) -> str:
    """*specs* as JSON without control characters, at which vl-convert would abort."""
    text = json.dumps(specs, ensure_ascii=False, separators=(",", ":"))
    return CONTROL.sub("\\1\ufffd", text) if "\\u00" in text else text


def _renumbered(svg: str) -> str:
    """*svg* with its ids counted from 0; Vega goes on counting from the chart before."""
    known: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"{match[1]}{len(known)}")

    return re.sub(r"\b(gradient_|clip)\d+", number, svg)
