"""What came of every single request, as a CSV file (``dsim run --requests``)."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from dsim.deployment.outcome import DONE, LOST, TURNED_AWAY
from dsim.files import write_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from dsim.deployment.outcome import RunCounts
    from dsim.study.requests import CaseResult

FATES = {DONE: "done", LOST: "lost", TURNED_AWAY: "rejected"}


def write_requests(found: Sequence[CaseResult], path: Path) -> None:
    """Write a row for each request of each run.

    Times are in µs: ``arrival_us`` by the clock of the workload's file, if it has one; the others
    since the arrival. They are empty where a request did not come so far.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [row for one in found for run in enumerate(one.runs) for row in _rows(one, *run)]
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    write_whole(path, text.getvalue(), "--requests")


def _rows(one: CaseResult, replication: int, run: RunCounts) -> Iterator[dict[str, Any]]:
    case, workload = one.case, one.case.workload
    began_ns = workload.began_ns
    times = {
        name: getattr(run, f"{column}_ns").tolist()
        for name, column in (("sched_delay", "start"), ("ttft", "first_token"), ("e2e", "done"))
    }
    counts = ("prompt_tokens", "output_tokens", "preemptions", "passes", "drafts", "wasted_drafts")
    columns = {name: getattr(run, name).tolist() for name in counts}
    for number, arrival_ns in enumerate(run.arrival_ns.tolist()):
        yield {
            "request_id": workload.text(number).name or str(number),
            "arrival_us": _us(began_ns + arrival_ns),
            **{
                f"{name}_us": _us(at[number] - arrival_ns) if at[number] >= 0 else ""
                for name, at in times.items()
            },
            **{name: column[number] for name, column in columns.items()},
            "fate": FATES[int(run.fate[number])],
            "variant": case.variant,
            "algorithm": case.deployment.algorithm,
            **case.point,
            "replication": replication,
        }


def _us(ns: int) -> str:
    """Nanoseconds as µs, with no digit lost."""
    whole, rest = divmod(ns, 1000)
    return f"{whole}.{rest:03}".rstrip("0") if rest else str(whole)
