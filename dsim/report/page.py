"""Charts and tables to one self-contained HTML page."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jinja2
import markupsafe

from dsim import __version__
from dsim.files import write_whole
from dsim.report.style import HEIGHT_PX
from dsim.report.vega import Vega, page_specifications

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.report.charts import Panel
    from dsim.report.tables import TextTable


@dataclasses.dataclass(frozen=True, kw_only=True)
class Page:
    """What a report says besides its charts.

    Attributes:
        title, description: heading, and what the study asks.
        facts: (name, value) pairs under the heading.
        notes: what the reader must not overlook.
        before, after: tables before and after the charts.
        settings: (key, value, meaning) rows.
        provenance, study: as they are stored.
    """

    title: str
    description: str = ""
    facts: Sequence[tuple[str, str]] = ()
    notes: Sequence[str] = ()
    before: Sequence[TextTable] = ()
    after: Sequence[TextTable] = ()
    settings: Sequence[tuple[str, str, str]] = ()
    provenance: str = ""
    study: str = ""


def html(
    page: Page, panels: Sequence[Panel], vega: Vega | None = None, *, wide: bool = False
) -> str:
    """One HTML page that needs nothing else, not even a network.

    Args:
        page: what the page says.
        panels: charts of the page.
        vega: the process that makes the script of the charts, if it runs already.
        wide: whether each chart has a row of its own.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dsim.report", "."), autoescape=True, trim_blocks=False
    )
    specs = page_specifications(panels)
    script = ""
    if panels:
        own = vega or Vega()
        try:
            script = own.script()
        finally:
            if vega is None:
                own.cancel()
    template = environment.get_template("page.html.jinja")
    return template.render(
        **vars(page),
        panels=panels,
        wide=wide,
        height=HEIGHT_PX,
        version=__version__,
        # Neither may close the script element that it stands in.
        specs=markupsafe.Markup(specs.replace("<", "\\u003c")),  # noqa: S704
        bundle=markupsafe.Markup(script.replace("</script", "<\\/script")),  # noqa: S704
    )


def write(
    path: Path, page: Page, panels: Sequence[Panel], *, option: str, wide: bool = False
) -> None:
    """Write *page* to *path*; nothing half-written is left.

    Args:
        path: where to write.
        page, panels, wide: as for :func:`html`.
        option: the option that named the place, for the error.

    Raises:
        UserError: the file cannot be written.
    """
    write_whole(path, html(page, panels, wide=wide), option)
