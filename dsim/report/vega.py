"""Vega in a process of its own: the script for pages, and pictures of charts."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import altair as alt
import pyarrow as pa
import vl_convert
from pyarrow import csv

from dsim.errors import EngineError
from dsim.report.analysis import is_number
from dsim.report.style import HEIGHT_PX, WIDTH_PX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    import pandas as pd

    from dsim.report.charts import Panel

PICTURE_SCALE = 2.0
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
# What the process runs: it bundles Vega, then answers each specification with an SVG and a PNG, or
# with an error. Every message is its length in a line, then its bytes.
PROGRAM = """
import sys, vl_convert
version, scale = sys.argv[1], float(sys.argv[2])
def say(data):
    sys.stdout.buffer.write(b"%d\\n" % len(data) + data)
    sys.stdout.buffer.flush()
def read():
    return sys.stdin.buffer.read(int(sys.stdin.buffer.readline() or 0)).decode()
say(vl_convert.javascript_bundle(vl_version=version).encode())
while spec := read():
    try:
        svg = vl_convert.vegalite_to_svg(spec, vl_version=version)
        png = vl_convert.svg_to_png(svg, scale=scale)
    except ValueError as error:
        svg, png = str(error), b""
    say(svg.encode())
    say(png)
"""


class Vega:
    """A process that bundles Vega for a page, then makes pictures, while this one does other work.

    The bundle takes over a second, and so do the pictures of large maps, with the interpreter
    locked; so the process is started before the cases are simulated, beside them.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, vega_lite_version(), str(PICTURE_SCALE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to this process, which ends that one
        )
        self._reader = ThreadPoolExecutor(1)
        self._script = self._reader.submit(self._read)

    def script(self) -> str:
        """Vega, Vega-Lite and Vega-Embed as one text.

        Raises:
            EngineError: the script could not be made.
        """
        return self._script.result().decode()

    def pictures(self, panel: Panel) -> Future[tuple[bytes, str]]:
        """The PNG and the SVG of *panel*, once they are made.

        The future raises :class:`dsim.errors.EngineError` where the chart cannot be drawn.
        """
        spec = specification(panel, width=panel.width or WIDTH_PX)
        spec |= {"title": panel.title, "config": PICTURE_THEME}
        return self._reader.submit(self._draw, _text(spec))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._reader.shutdown(cancel_futures=True)
        self._process.communicate()

    def _draw(self, spec: str) -> tuple[bytes, str]:
        assert self._process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # the missing answer says so as well
            self._process.stdin.write(b"%d\n" % len(spec.encode()) + spec.encode())
            self._process.stdin.flush()
        svg, png = self._read().decode(), self._read()
        if not png:
            raise EngineError(f"vl-convert could not draw a chart: {svg.strip().splitlines()[-1]}")
        return png, _renumbered(svg)

    def _read(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101
        length = self._process.stdout.readline()
        if not length:
            raise EngineError("vl-convert ended before the report was drawn")
        return self._process.stdout.read(int(length))


def vega_lite_version() -> str:
    """The newest Vega-Lite that Altair's charts may be drawn with here."""
    wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    return wanted if wanted in known else str(known[-1])


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
    return CONTROL.sub("\\1\ufffd", text)


def _renumbered(svg: str) -> str:
    """*svg* with its ids counted from 0; Vega goes on counting from the chart before."""
    known: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"{match[1]}{len(known)}")

    return re.sub(r"\b(gradient_|clip)\d+", number, svg)
