"""The results table: its columns, how it is stored, and where it came from."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.orchestrations import titles
from dsim.orchestrations.plugins import fingerprints

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import pyarrow as pa

MOST_CSV_ROWS = 200_000
NAMES = titles()  # for people


@dataclasses.dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the results.

    Attributes:
        name: its name.
        dtype: ``string``, ``int64`` or ``float64``.
        unit: the unit, or nothing.
        kind: ``setting`` (what was simulated) or ``outcome``.
        meaning: what it says.
    """

    name: str
    dtype: str
    unit: str
    kind: str
    meaning: str


def _column(name: str, dtype: str, unit: str, kind: str, meaning: str) -> Column:
    return Column(name=name, dtype=dtype, unit=unit, kind=kind, meaning=meaning)


COLUMNS = (
    _column(
        "variant", "string", "", "setting", "name of the study's variant; empty if it has none"
    ),
    _column("algorithm", "string", "", "setting", ", ".join(NAMES)),
    _column("engine", "string", "", "setting", "the engine that ran: vector or events"),
    _column("backend", "string", "", "setting", "what a forward was: simulated or wallclock"),
    _column("tokens", "int64", "tokens", "setting", "N, tokens generated"),
    _column("repeats", "int64", "", "setting", "runs that the row sums up"),
    _column("target_latency_ms", "float64", "ms", "setting", "mean latency of a target pass"),
    _column("drafter_latency_ms", "float64", "ms", "setting", "mean latency of a draft"),
    _column("acceptance_rate", "float64", "", "setting", "acceptance rate"),
    _column("lookahead", "int64", "tokens", "setting", "drafts per block (no matter to nonsi)"),
    _column(
        "targets",
        "int64",
        "servers",
        "setting",
        "S, target servers that dsi has (the others use one)",
    ),
    _column("latency_mean_ms", "float64", "ms", "outcome", "time to the last token, mean"),
    _column("latency_ci95_ms", "float64", "ms", "outcome", "half width of its 95 % interval (t)"),
    _column("latency_std_ms", "float64", "ms", "outcome", "its standard deviation over repeats"),
    _column("latency_min_ms", "float64", "ms", "outcome", "its smallest value"),
    _column("latency_max_ms", "float64", "ms", "outcome", "its largest value"),
    _column("ms_per_token", "float64", "ms", "outcome", "latency_mean_ms / tokens"),
    _column("speedup_vs_nonsi", "float64", "×", "outcome", "mean latency of nonsi / this one's"),
    _column(
        "speedup_vs_si", "float64", "×", "outcome", "mean latency of si, same case / this one's"
    ),
    _column("target_passes", "float64", "passes", "outcome", "target passes begun, mean"),
    _column("wasted_passes", "float64", "passes", "outcome", "those of them cancelled, mean"),
    _column("drafts", "float64", "tokens", "outcome", "drafts begun, mean"),
    _column("wasted_drafts", "float64", "tokens", "outcome", "those not in the output, mean"),
    _column("peak_targets", "int64", "servers", "outcome", "most target servers busy at once"),
)
# Of results of the wall-clock backend only.
WALLCLOCK_COLUMNS = (
    _column(
        "simulated_latency_mean_ms",
        "float64",
        "ms",
        "outcome",
        "latency_mean_ms of the same draws in simulated time",
    ),
    _column("overhead_mean", "float64", "", "outcome", "latency_mean_ms / that one - 1"),
    _column("overhead_worst", "float64", "", "outcome", "the same of the run farthest off"),
    _column("oversleep_mean_ms", "float64", "ms", "outcome", "by how much a wait overshot, mean"),
    _column("oversleep_worst_ms", "float64", "ms", "outcome", "by how much, at worst"),
    _column(
        "handover_mean_ms",
        "float64",
        "ms",
        "outcome",
        "from the end of a wait to when the algorithm heard of it, mean; part of the next wait",
    ),
    _column(
        "stalls",
        "float64",
        "runs",
        "outcome",
        "runs that were done again, because the machine stood still meanwhile",
    ),
)
BY_NAME = {column.name: column for column in (*COLUMNS, *WALLCLOCK_COLUMNS)}


def column_of(key: str) -> str:
    """The column that holds the setting *key* (``drafter.latency_ms`` → ``drafter_latency_ms``)."""
    return key.replace(".", "_")


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

    Raises:
        UserError: the file cannot be read, or columns are missing or of the wrong type.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except OSError as error:
        raise UserError(
            Problem(str(path), "", f"cannot be read: {error.strerror or error}")
        ) from None
    except (ValueError, pa.ArrowException) as error:
        raise UserError(Problem(str(path), "", f"is no table of results: {error}")) from None
    if "variant" in frame:
        # A column of nothing but empty texts reads as one of missing numbers.
        frame["variant"] = frame["variant"].astype(object).fillna("").astype(str)
    needed = ("algorithm", "latency_mean_ms")
    problems = [
        Problem(str(path), name, "is missing; " + BY_NAME[name].meaning)
        for name in needed
        if name not in frame
    ]
    for name, column in BY_NAME.items():
        if name in frame and column.dtype != "string":
            numbers = pd.to_numeric(frame[name], errors="coerce")
            wrong = frame.loc[numbers.isna() & frame[name].notna(), name]
            if len(wrong):
                problems.append(
                    Problem(str(path), name, f"expected numbers, got {wrong.iloc[0]!r}")
                )
            frame[name] = numbers
    if not problems:
        for value in frame["algorithm"].dropna().unique():
            if value not in NAMES:
                what = f"expected {', '.join(NAMES)}, got {value!r}"
                problems.append(Problem(str(path), "algorithm", what))
        low = frame.loc[~(frame["latency_mean_ms"] > 0), "latency_mean_ms"]
        if len(low):
            what = f"expected latencies above 0, got {low.iloc[0]}"
            problems.append(Problem(str(path), "latency_mean_ms", what))
        if frame.empty:
            problems.append(Problem(str(path), "", "has no rows"))
    if problems:
        raise UserError(*problems)
    return frame


def provenance(study_toml: str, engines: Mapping[str, int], settings: Mapping[str, Any]) -> str:
    """Where results come from, as JSON: the same text for the same study on the same machine."""
    packages = {}
    for name in ("dsim", "numpy", "scipy", "simpy", "pandas", "pyarrow", "altair"):
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = "not installed"
    record = {
        "study_sha256": hashlib.sha256(study_toml.encode()).hexdigest(),
        "seed": settings["seed"],
        "repeats": settings["repeats"],
        "engine_asked_for": settings["engine"],
        "backend": settings.get("backend", "simulated"),
        "rows_by_engine": dict(engines),
        "versions": {"python": platform.python_version(), **packages},
        "machine": {
            "system": platform.system(),
            "release": platform.release(),
            "architecture": platform.machine(),
            "processor": processor(),
            "byte_order": sys.byteorder,
        },
    }
    if plugins := fingerprints():
        record["plugins_sha256"] = plugins
    return json.dumps(record, indent=2) + "\n"


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
