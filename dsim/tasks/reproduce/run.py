"""``dsim reproduce``: the paper's four experiments, and what became of each of its claims.

"The paper" is Timor et al., *Distributed Speculative Inference*, arXiv 2405.14105. Nothing here is
tuned to meet a published number; where ours differ, the reason is said.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dsim.tasks.reproduce.claims import SKIP_FAST, Reproduction
from dsim.tasks.reproduce.figure1 import Figure1
from dsim.tasks.reproduce.models import measured_pairs
from dsim.tasks.reproduce.table1 import Table1

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsim.report.charts import Panel
    from dsim.report.tables import TextTable
    from dsim.tasks.reproduce.claims import Claim


def reproduce(
    *,
    fast: bool = False,
    waits: int | None = None,
    folder: Path = Path("results/reproduction"),
    step: float = 0.01,
    progress: Callable[[str], None] = lambda _: None,
) -> Reproduction:
    """Do all four experiments on what the machine has.

    Args:
        fast: leave out real waits and real models.
        waits: repeats of the table in real time; 0: none; by default 3, with *fast* 0.
        folder: where profiles of real models go.
        step: of the drafter latencies and acceptance rates of Figure 1.
        progress: told what is being done.
    """
    claims: list[Claim] = []
    tables: list[TextTable] = []
    panels: list[Panel] = []
    skipped: list[str] = []
    progress("Figure 1: counting forward passes")
    figure = Figure1(step)
    claims += figure.claims()
    tables += figure.tables()
    panels += figure.panels()
    progress("Table 1: simulated time")
    table1 = Table1()
    repeats = (0 if fast else 3) if waits is None else waits
    if repeats:
        progress("Table 1: real waits, some minutes")
        table1.wait(repeats)
    else:
        reason = SKIP_FAST if fast and waits is None else "--waits 0"
        skipped.append(f"Table 1 in real time: {reason}")
    claims += table1.claims()
    tables += table1.tables()
    panels += table1.panels()
    more = measured_pairs(fast, folder, skipped, progress)
    tables += more
    return Reproduction(claims=claims, tables=tables, panels=panels, skipped=skipped)
