"""Charts and tables to one self-contained HTML page, and charts to pictures."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import altair as alt
import jinja2
import markupsafe
import vl_convert

from dsim.errors import EngineError
from dsim.report.charts import HEIGHT_PX, WIDTH_PX, Panel
from dsim.study.results import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from dsim.report.tables import TextTable
    from dsim.study.study import Study

PICTURE_SCALE = 2.0
PICTURE_THEME = {
    "background": "white",
    "font": "DejaVu Sans, Helvetica, Arial, sans-serif",
    "view": {"stroke": "#dde2e8"},
    "axis": {"gridColor": "#e6e9ee", "domainColor": "#b9c1cb", "tickColor": "#b9c1cb"},
    "title": {"anchor": "start", "fontSize": 14, "offset": 10},
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a report says besides its charts.

    Attributes:
        title, description: heading, and what the study asks.
        facts: (name, value) pairs under the heading.
        notes: what the reader must not overlook.
        summary: column heads and rows of the table of speed-ups, or nothing.
        summary_caption: what that table says.
        settings: (key, value, meaning) rows.
        provenance, study: as they are stored.
        before, after: tables before and after the charts.
    """

    title: str
    description: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    summary: dict[str, Any] | None = None
    summary_caption: str = ""
    settings: Sequence[tuple[str, str, str]] = ()
    provenance: str = ""
    study: str = ""
    before: Sequence[TextTable] = ()
    after: Sequence[TextTable] = ()


class Bundle:
    """Vega, Vega-Lite and Vega-Embed as one text, made in a process of its own meanwhile.

    Making it takes over a second, with the interpreter locked; so it is begun before the cases are
    simulated, beside them.
    """

    def __init__(self) -> None:
        code = (
            "import sys, vl_convert; "
            "sys.stdout.buffer.write(vl_convert.javascript_bundle(vl_version=sys.argv[1]).encode())"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, vega_lite_version()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is our business, not its
        )

    def text(self) -> str:
        """The JavaScript.

        Raises:
            EngineError: it could not be made.
        """
        output, errors = self._process.communicate()
        if self._process.returncode:
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise EngineError(f"vl-convert could not bundle Vega for the report: {''.join(last)}")
        return output.decode()

    def cancel(self) -> None:
        """Do without it, if it is not made yet."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def vega_lite_version() -> str:
    """The newest Vega-Lite that Altair's charts may be drawn with here."""
    wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    return wanted if wanted in known else str(known[-1])


def specification(panel: Panel, *, width: int | str) -> dict[str, Any]:
    """The Vega-Lite specification of *panel*, with a size."""
    chart = panel.chart.properties(width=width, height=panel.height or HEIGHT_PX)
    with alt.data_transformers.enable("default", max_rows=None):  # a paper's map has 10,100 cells
        spec: dict[str, Any] = json.loads(chart.to_json(indent=None))
    spec.pop("config", None)  # colours of the page and of pictures are not the chart's business
    spec["usermeta"] = {"marks": panel.marks}
    return spec


def pictures(panel: Panel) -> tuple[bytes, str]:
    """The PNG and the SVG of *panel*."""
    spec = specification(panel, width=panel.width or WIDTH_PX)
    spec["title"] = panel.title
    spec["config"] = PICTURE_THEME
    svg = _renumbered(vl_convert.vegalite_to_svg(spec, vl_version=vega_lite_version()))
    return vl_convert.svg_to_png(svg, scale=PICTURE_SCALE), svg


def _renumbered(svg: str) -> str:
    """*svg* with its ids counted from 0; Vega goes on counting from the chart before."""
    known: dict[str, str] = {}

    def number(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"{match[1]}{len(known)}")

    return re.sub(r"\b(gradient_|clip)\d+", number, svg)


def html(
    page: Page, panels: Sequence[Panel], bundle: Bundle | None = None, *, wide: bool = False
) -> str:
    """One HTML page that needs nothing else, not even a network.

    Args:
        page: what it says.
        panels: its charts.
        bundle: Vega, if it is in the making already.
        wide: one chart a row.
    """
    import dsim

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsim.report", "."), autoescape=True, trim_blocks=False
    )
    specs = json.dumps([specification(panel, width="container") for panel in panels])
    script = (bundle or Bundle()).text() if panels else ""
    template = environment.get_template("page.html.jinja")
    return template.render(
        **dataclasses.asdict(page),
        panels=panels,
        wide=wide,
        height=HEIGHT_PX,
        version=dsim.__version__,
        # Neither may close the script element that it stands in.
        specs=markupsafe.Markup(specs.replace("<", "\\u003c")),  # noqa: S704
        bundle=markupsafe.Markup(script.replace("</script", "<\\/script")),  # noqa: S704
    )


def summarise(frame: pd.DataFrame, minimise: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """The table at the top of a report: how each algorithm fares against non-SI, at its best.

    Args:
        frame: results at their best.
        minimise: the axes over which they are.

    Returns:
        Column heads and rows, and a caption; nothing without non-SI.
    """
    if frame["speedup_vs_nonsi"].isna().all():
        return None, ""
    head = ["algorithm", "slower than non-SI", "median speed-up", "largest speed-up", "smallest"]
    has_si = not frame["speedup_vs_si"].isna().all()
    if has_si:
        head += ["slower than SI", "largest over SI"]
    rows = []
    points = 0
    for name in NAMES:
        part = frame[frame["algorithm"] == name]
        if part.empty:
            continue
        points = max(points, len(part))
        speed = part["speedup_vs_nonsi"].dropna()
        row = [
            NAMES[name],
            f"{(speed < 1).mean():.1%}",
            f"{speed.median():.2f}×",
            f"{speed.max():.2f}×",
            f"{speed.min():.2f}×",
        ]
        if has_si:
            over = part["speedup_vs_si"].dropna()
            row += [f"{(over < 1).mean():.1%}", f"{over.max():.2f}×"]
        rows.append(row)
    plural = "" if points == 1 else "s"
    at_best = f", each algorithm at its best {' and '.join(minimise)}" if minimise else ""
    return {"head": head, "rows": rows}, (
        f"Over the {points:,} point{plural} that the charts show{at_best}: the "
        "share of points where it is slower than non-SI, and its speed-ups (latency of the other "
        "divided by its own)."
    )


def settings_rows(study: Study) -> list[tuple[str, str, str]]:
    """Every setting that has a value, the axes of the grid among them."""
    from dsim.study.settings import SETTINGS
    from dsim.words import show

    rows = []
    axes = {axis.key: axis.values for axis in study.grid}
    for setting in SETTINGS:
        value = study.settings[setting.key]
        unset = value is None and setting.key not in axes
        told_below = all(setting.key in own for _, own in study.variants)
        if setting.key in ("title", "description") or unset or told_below:
            continue
        if setting.key in axes:
            values = axes[setting.key]
            text = f"{values[0]} … {values[-1]} ({len(values)} values)"
        else:
            text = show(value)
        unit = f" {setting.unit}" if setting.unit and setting.unit != "cases" else ""
        rows.append((setting.key, f"{text}{unit}", setting.meaning))
    rows += [
        (name, ", ".join(f"{key} = {show(value)}" for key, value in own.items()), "variant")
        for name, own in study.variants
        if name
    ]
    return rows
