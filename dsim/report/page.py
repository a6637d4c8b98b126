"""Charts and tables to one self-contained HTML page."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import gzip
import re
from typing import TYPE_CHECKING

import jinja2
import markupsafe

from dsim.errors import EngineError
from dsim.files import write_whole
from dsim.report.lanes import lanes
from dsim.report.style import HEIGHT_PX
from dsim.report.vega import Vega, page_specifications
from dsim.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dsim.report.charts import Panel
    from dsim.report.lanes import AtWork
    from dsim.report.tables import TextTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a report says besides its charts.

    Attributes:
        title, description: heading, and what the study asks.
        answer: what came out, in one or two sentences with numbers.
        facts: (name, value) pairs under the heading.
        notes: what the reader must not overlook.
        after: tables, after the charts.
        settings: (key, value, meaning) rows.
        provenance, study: as they are stored.
    """

    title: str
    description: str = ""
    answer: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    after: Sequence[TextTable] = ()
    settings: Sequence[tuple[str, str, str]] = ()
    provenance: str = ""
    study: str = ""


def html(
    page: Page,
    panels: Sequence[Panel],
    script: str = "",
    *,
    wide: bool = False,
    specs: str | None = None,
) -> str:
    """One HTML page that needs nothing else, not even a network.

    Args:
        page: what the page says.
        panels: charts of the page.
        script: Vega, if there are charts; see :meth:`dsim.report.vega.Vega.script`.
        wide: whether each chart has a row of its own.
        specs: the specifications of *panels*, where they are known already.
    """
    if specs is None:
        specs = page_specifications(panels)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsim.report", "."), autoescape=True, trim_blocks=False
    )
    environment.filters["marks"] = marks
    return environment.get_template("page.html.jinja").render(
        **vars(page),
        panels=panels,
        wide=wide,
        height=HEIGHT_PX,
        version=VERSION,
        specs=base64.b64encode(gzip.compress(specs.encode(), 6, mtime=0)).decode(),
        # It may not close the element that it stands in.
        script=markupsafe.Markup(script.replace("</script", "<\\/script")),  # noqa: S704
    )


def marks(text: str, *, wanted: bool = True) -> markupsafe.Markup:
    """*text* as HTML, with ``*emphasis*`` and `` `code` `` as Markdown has them, if *wanted*."""
    escaped = str(markupsafe.escape(text))
    if wanted:
        escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
        escaped = re.sub(r"(?<!\w)\*(\w[^*]*)\*(?!\w)", r"<em>\1</em>", escaped)
    return markupsafe.Markup(escaped)  # noqa: S704


def write(
    path: Path, page: Page, panels: Sequence[Panel], *, option: str, wide: bool = False
) -> None:
    """Write *page* to *path*; nothing half-written is left.

    Args:
        path: where to write.
        page: what the page says.
        panels: charts of the page.
        wide: whether each chart has a row of its own.
        option: the option that named the place, for the error.

    Raises:
        UserError: the file cannot be written.
    """
    script = ""
    if panels:
        with lanes(draws=False) as at_work:
            script = Vega(at_work).script()
    write_whole(path, html(page, panels, script, wide=wide), option)


def write_report(
    folder: Path,
    panels: Sequence[Panel],
    page: Callable[[Sequence[str]], Page],
    at_work: AtWork | None = None,
) -> list[str]:
    """Write ``report.html`` and the pictures of its charts into *folder*.

    A chart that cannot be drawn is named on the page, and takes nothing else with it.

    Args:
        folder: where to write; it exists.
        panels: the charts.
        page: makes the page, of sentences on charts that could not be drawn.
        at_work: the processes that draw; started here if need be.

    Returns:
        Those sentences.
    """
    failed: list[str] = []
    report = folder / "report.html"
    if not panels:
        report.write_text(html(page(failed), panels), encoding="utf-8")
        return failed
    with contextlib.ExitStack() as stack:
        vega = Vega(at_work or stack.enter_context(lanes()))
        pictures = [vega.pictures(panel) for panel in panels]
        specs, script = vega.specifications(panels), ""
        try:
            script = vega.script()
        except EngineError as error:
            failed.append(f"The page has no charts: {error}.")
        else:
            text = html(page(failed), panels, script, specs=specs)
        good = []
        for panel, made in zip(panels, pictures, strict=True):
            try:
                png, svg = made()
            except EngineError as error:
                failed.append(f"Chart “{panel.title}” cannot be drawn: {error}.")
                continue
            good.append(panel)
            (folder / f"{panel.name}.png").write_bytes(png)
            (folder / f"{panel.name}.svg").write_text(svg, encoding="utf-8")
        if failed:
            good = good if script else []
            text = html(page(failed), good, script, specs=vega.specifications(good))
    report.write_text(text, encoding="utf-8")
    return failed
