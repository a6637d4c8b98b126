"""The results table: how it is stored, and where it came from."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.plugins import fingerprints
from dsim.study.columns import BY_NAME, STATUS
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

MAX_CSV_ROWS = 200_000
MAY_BE_INFINITE = ("interval_requests",)  # no number of requests is enough


@dataclasses.dataclass(frozen=True)
class StudyResult:
    """The results of all cases of a study, of either kind.

    Attributes:
        table: one row per case and algorithm.
        cases: how many cases the grid has.
        left_out: how many DSI cases were left out, having more than ``max_targets`` servers.
        engines: rows by engine.
        refusals: why cases of a deployment were not simulated.
        backlogs: backlogs of a deployment's cases over time.
        requests: results of a deployment's cases.
    """

    table: pa.Table
    cases: int
    left_out: int
    engines: Mapping[str, int]
    refusals: Sequence[str] | None = None
    backlogs: Sequence[Any] = ()
    requests: Sequence[Any] = ()


def write_table(path: Path, table: pa.Table) -> None:
    """Write *table* as Parquet, the same bytes for the same table."""
    from pyarrow import parquet

    settings = [name for name in table.column_names if not _is_outcome(name)]
    parquet.write_table(
        table, path, compression="zstd", use_dictionary=settings, write_statistics=False
    )


def _is_outcome(name: str) -> bool:
    return name in BY_NAME and BY_NAME[name].kind == "outcome"


def write_csv(path: Path, table: pa.Table) -> None:
    """Write *table* as CSV; numbers with as many digits as they need to be read back the same."""
    from pyarrow import csv

    csv.write_csv(table, path, csv.WriteOptions(quoting_style="needed"))


def read_results(path: Path) -> pd.DataFrame:
    """Read results from a Parquet or CSV file with the documented columns.

    An orchestration may go by its name (``nonsi``) or as dsim prints it (``non-SI``).

    Raises:
        UserError: the file cannot be read, or columns are missing or of the wrong type.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.read_csv(path, sep=_separator(path))
    except OSError as error:
        raise UserError(
            Problem(str(path), "", f"cannot be read: {error.strerror or error}")
        ) from None
    except (ValueError, pa.ArrowException) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(Problem(str(path), "", f"is not a results table: {first}")) from None
    if "variant" in frame:
        # A column of nothing but empty texts reads as one of missing numbers.
        frame["variant"] = frame["variant"].astype(object).fillna("").astype(str)
    if "algorithm" in frame:
        by_title = {one.title.casefold(): name for name, one in ORCHESTRATIONS.items()}
        titles = {
            name: by_title.get(str(name).strip().casefold(), name)
            for name in frame["algorithm"].unique()
            if name not in ORCHESTRATIONS
        }
        if any(name != title for name, title in titles.items()):
            frame["algorithm"] = [titles.get(name, name) for name in frame["algorithm"]]
    needed = ("algorithm", "latency_mean_ms")
    problems = [
        Problem(
            str(path), name, f"this column is missing ({BY_NAME[name].meaning}{_else(frame, name)})"
        )
        for name in needed
        if name not in frame
    ]
    for name in map(str, frame):  # settings may be written as in a study, with a dot
        column = BY_NAME.get(name.replace(".", "_"))
        if column is not None and column.dtype != "string":
            numbers = pd.to_numeric(frame[name], errors="coerce")
            wrong = frame.loc[numbers.isna() & frame[name].notna(), name]
            if len(wrong):
                got = f"{_line(path, wrong)}expected numbers, got {wrong.iloc[0]!r}"
                got += _how(str(wrong.iloc[0]))
                problems.append(Problem(str(path), name, got))
            frame[name] = numbers
    for name in map(str, frame.select_dtypes("number")):
        if name not in MAY_BE_INFINITE and math.isinf(most := frame[name].abs().max()):
            got = f"expected numbers of at most {sys.float_info.max:.0e}, got {most}"
            problems.append(Problem(str(path), name, got))
    if not problems:
        simulated = frame[frame["status"] != "refused"] if STATUS in frame else frame
        low = simulated.loc[~(simulated["latency_mean_ms"] > 0), "latency_mean_ms"]
        if len(low):
            got = "nothing" if math.isnan(low.iloc[0]) else low.iloc[0]
            what = f"{_line(path, low)}expected latencies above 0, got {got}"
            problems.append(Problem(str(path), "latency_mean_ms", what))
        if frame.empty:
            problems.append(Problem(str(path), "", "has no rows"))
    if problems:
        raise UserError(*problems)
    return frame


def _line(path: Path, rows: pd.Series[Any]) -> str:
    """Where the first of *rows* stands in a file of text."""
    return "" if path.suffix == ".parquet" else f"line {int(rows.index[0]) + 2}: "


def _else(frame: pd.DataFrame, name: str) -> str:
    """The column that probably is column *name*, or nothing."""
    alike = [one for one in map(str, frame) if one.casefold().replace(".", "_") == name]
    return f"; call {show(alike[0])} so" if alike else ""


THOUSANDS = re.compile(r"-?[1-9]\d{0,2}(,\d{3})+(\.\d*)?")


def _how(text: str) -> str:
    """How to write the number that *text* seems to mean, or nothing."""
    with contextlib.suppress(ValueError):
        if text.endswith("%"):
            return f"; write {float(text[:-1].replace(',', '.')) / 100:g}"
        if THOUSANDS.fullmatch(text):
            return f"; write {text.replace(',', '')}, without separators"
        return f"; write {float(text.replace(',', '.')):g}, with a decimal point"
    return ""


def _separator(path: Path) -> str:
    """Comma, or the semicolon that spreadsheets of some languages write."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.readline()
    return ";" if "," not in head and ";" in head else ","


def of_deployments(frame: pd.DataFrame) -> bool:
    """Whether *frame* holds results of deployments, not of single requests."""
    return STATUS in frame


def provenance(study_toml: str, engines: Mapping[str, int], settings: Mapping[str, Any]) -> str:
    """Where results come from, as JSON: the same text for the same study on the same machine."""
    record = {
        "study_sha256": hashlib.sha256(study_toml.encode()).hexdigest(),
        "seed": settings["seed"],
        "repeats": settings["repeats"],
        "engine_asked_for": settings.get("engine", "events"),  # a deployment has no choice
        "backend": settings.get("backend", "simulated"),
        "rows_by_engine": dict(engines),
        **surroundings(),
    }
    if plugins := fingerprints():
        record["plugins_sha256"] = plugins
    return json.dumps(record, indent=2) + "\n"


def surroundings() -> dict[str, Any]:
    """Versions of dsim and of what it needs, and the machine."""
    packages = {}
    for name in ("dsim", "numpy", "scipy", "simpy", "pandas", "pyarrow", "altair"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    return {
        "versions": {"python": platform.python_version(), **packages},
        "machine": {
            "system": platform.system(),
            "release": platform.release(),
            "architecture": platform.machine(),
            "processor": processor(),
            "byte_order": sys.byteorder,
        },
    }


def processor() -> str:
    """The name of this machine's processor."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()
