"""What a reproduction is made of: claims, tables, and the studies that ship."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from dsim.orchestrations import COMPARED

if TYPE_CHECKING:
    from dsim.report.charts import Panel
    from dsim.report.tables import TextTable


NONSI, SI, DSI = COMPARED  # the three of the paper
HOLDS, DIFFERS, PARTLY, OPEN = "holds", "differs", "holds in part", "not checked"
SKIP_FAST = "left out by --fast"


class Claim(NamedTuple):
    """One claim of the paper.

    Attributes:
        claim, published, ours: what it says; the published number; ours.
        verdict: one of :data:`HOLDS` and its kind.
        why: the reason where they differ, or how it was checked.
    """

    claim: str
    published: str
    ours: str
    verdict: str
    why: str


# The one claim whose check depends on the machine.
NOT_WAITED = Claim(
    "Real waits take as long as simulated ones",
    "Table 1 was measured with waits",
    "",
    OPEN,
    "needs real time: dsim reproduce without --fast",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduction:
    """All of it.

    Attributes:
        claims, tables, panels: what was found.
        skipped: what was not done, and why.
    """

    claims: list[Claim]
    tables: list[TextTable]
    panels: list[Panel]
    skipped: list[str]
