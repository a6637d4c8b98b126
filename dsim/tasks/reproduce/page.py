"""A reproduction for people: lines for the terminal, the document, the page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dsim.errors import Problem, UserError
from dsim.files import write_whole
from dsim.report.tables import TextTable, markdown_table, text_table
from dsim.study.results import surroundings
from dsim.study.seal import PROVENANCE, sealed
from dsim.tasks.reproduce.claims import NOT_WAITED
from dsim.words import plural

if TYPE_CHECKING:
    from pathlib import Path

    from dsim.tasks.reproduce.claims import Reproduction


CANNOT = (
    "Table 1 row by row: the paper does not say which lookahead each row used, and publishes no "
    "first-token latencies.",
    "The published code's own numbers: it simulates DSI with at most 7 target servers, takes for "
    "every branch the smaller of its latency and non-SI's, and charges one more block when the "
    "first draft of a later block is rejected. dsim follows the paper's algorithm.",
    "The published timing noise: a sleep overshoots by an amount that belongs to the machine. dsim "
    "reports what its own waits overshot.",
    "Acceptance rates and latencies of the ten pairs, where their models and GPUs are not "
    "available: `dsim measure acceptance studies/acceptance.toml --pair all` and `dsim measure "
    "latency studies/latency.toml --pair all` measure them on a machine that has them.",
    "Figure 1 cell by cell: the paper gives a picture, no table of its values.",
)


def as_text(found: Reproduction) -> str:
    """For the terminal."""
    lines = []
    for claim in found.claims:
        lines.append(f"{claim.verdict:>13}: {claim.claim}")
        lines.append(f"{'':15}published: {claim.published}")
        if claim.ours:
            lines.append(f"{'':15}dsim: {claim.ours}")
        lines.append(f"{'':15}{claim.why}")
    for table in found.tables:
        lines += ["", table.title, "", *text_table(table.head, table.rows, left=len(table.head))]
    lines += ["", *(f"not done: {what}" for what in found.skipped)]
    return "\n".join(lines)


def as_markdown(found: Reproduction, command: str) -> str:
    """The page ``docs/reproduction.md``: only what is the same on every machine.

    Args:
        found: what was found.
        command: the command that prints these numbers.
    """
    claims = [NOT_WAITED if c.claim == NOT_WAITED.claim else c for c in found.claims]
    lines = [
        "# The paper's experiments, reproduced",
        "",
        f"Written by `{command}`; a test writes it",
        "again and compares. The paper is Timor et al., *Distributed Speculative Inference*,",
        "[arXiv 2405.14105](https://arxiv.org/abs/2405.14105).",
        "Real waits and real models differ from machine to machine, so they are not on this page:",
        "`dsim reproduce` without `--fast` adds them to its report.",
        "",
        "## Claims",
        "",
        *markdown_table(
            ("claim", "published", "dsim", "verdict", "how, or why they differ"), claims
        ),
        "",
    ]
    for table in found.tables:
        if table.exact:
            lines += [
                f"## {table.title}",
                "",
                table.caption,
                "",
                *markdown_table(table.head, table.rows),
                "",
            ]
    lines += ["## What cannot be reproduced, and why", "", *(f"- {why}" for why in CANNOT), ""]
    return "\n".join(lines)


def write_report(found: Reproduction, path: Path) -> None:
    """Write the page.

    Raises:
        UserError: it cannot be written.
    """
    from dsim.report import page as report

    head = ["claim", "published", "dsim", "verdict", "how, or why they differ"]
    claims = TextTable(title="The paper's claims", caption="", head=head, rows=found.claims)
    cannot = TextTable(
        title="What cannot be reproduced, and why",
        caption="",
        head=["what, and why"],
        rows=[[why] for why in CANNOT],
    )
    verdicts = [claim.verdict for claim in found.claims]
    page = report.Page(
        title="The paper's experiments, reproduced",
        description="Every claim of Distributed Speculative Inference (Timor et al., arXiv "
        "2405.14105) that dsim can check: the published number, ours, and why they differ.",
        answer=[
            f"Of {plural(len(verdicts), 'claim')} of the paper that can be checked: "
            + ", ".join(
                f"{verdicts.count(w)} {w.replace('holds', 'hold') if verdicts.count(w) > 1 else w}"
                for w in dict.fromkeys(verdicts)
            )
            + "."
        ],
        notes=[f"Not done here: {what}." for what in found.skipped],
        after=[claims, *found.tables, cannot],
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = Problem("--out", "", f"{path.parent} cannot be made: {error.strerror}")
        raise UserError(problem) from None
    report.write(path, page, found.panels, option="--out")
    seal(path.parent)


def seal(folder: Path) -> None:
    """Write where the files in *folder* come from, and their hashes.

    Raises:
        UserError: it cannot be written.
    """
    write_whole(folder / PROVENANCE, sealed(json.dumps(surroundings()), folder), "--out")
