"""Measurements of servers as tables: JSON of vLLM, guidellm, GenAI-Perf and AIPerf."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.errors import Problem, UserError
from dsim.files import read_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import pandas as pd

MEASURED = "measured"  # stands where results name an orchestration
RATE, PROMPT, ANSWER = "requests a second", "tokens of a prompt", "tokens of an answer"
Z95 = 1.96
Row = dict[str, Any]


class Bench(NamedTuple):
    """What a benchmark of a server wrote.

    Attributes:
        frame: see :func:`read_measurements`.
        load: of one benchmark of ``vllm bench serve``: what of its load is known, by its name in
            words. Infinite requests a second: all come at once.
        failed, asked: of these benchmarks: how many requests failed, and how many there were.
    """

    frame: pd.DataFrame
    load: dict[str, float]
    failed: int
    asked: int


def read_bench(path: Path) -> Bench:
    """Read what a benchmark of a server wrote; see :func:`read_measurements`."""
    records = list(_objects(path))
    served = [record for record in records if _is_vllm(record)]
    done, asked = (
        sum(int(record.get(key) or 0) for record in served) for key in ("completed", "num_prompts")
    )
    return Bench(_frame(records, path), _load(records), max(0, asked - done), asked)


def read_measurements(path: Path) -> pd.DataFrame:
    """Read what a benchmark of a server wrote, in columns of results of deployments.

    Times are in ms. TPOT is the mean gap between output tokens of a request: what guidellm,
    GenAI-Perf and AIPerf call ITL. vLLM's own ITL is between chunks, which hold several tokens
    under speculation; it gets columns of its own (``itl_…``). Intervals of means take requests for
    independent: 1.96 × standard deviation / √requests.

    Args:
        path: JSON of ``vllm bench serve --save-result`` (one object, or one a line), of
            ``guidellm benchmark``, of ``genai-perf profile`` or of ``aiperf profile``.

    Returns:
        One row per benchmark in the file; quantities that were not measured have no column.

    Raises:
        UserError: the file cannot be read, or is of none of these formats.
    """
    return read_bench(path).frame


def _frame(records: Sequence[Row], path: Path) -> pd.DataFrame:
    import pandas as pd

    rows: list[Row] = []
    for record in records:
        for test, convert in _FORMATS:
            if test(record):
                rows += convert(record)
                break
        else:
            what = (
                "expected JSON of vllm bench serve, guidellm, genai-perf or aiperf; "
                f"got an object with {', '.join(sorted(record)[:4]) or 'nothing in it'}"
            )
            raise UserError(Problem(str(path), "", what))
    frame = pd.DataFrame(rows).dropna(axis=1, how="all")
    if not any(str(column).endswith("_ms") for column in frame):
        raise UserError(Problem(str(path), "", "holds no latencies: no request was successful"))
    return frame


def _load(records: Sequence[Row]) -> dict[str, float]:
    """The load of the one benchmark that ``vllm bench serve`` wrote; else nothing."""
    if len(records) != 1 or not _is_vllm(records[0]):
        return {}
    (record,) = records
    rate, completed = record.get("request_rate"), _number(record.get("completed"))
    found = {RATE: math.inf if rate == "inf" else _number(rate)}
    for name, key in ((PROMPT, "total_input_tokens"), (ANSWER, "total_output_tokens")):
        found[name] = _number(record.get(key)) / (completed or math.nan)
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _objects(path: Path) -> Iterator[Row]:
    """The JSON objects in the file, one after the other."""
    text = read_text(path).strip()
    decoder, at = json.JSONDecoder(), 0
    while at < len(text):
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(Problem(str(path), "", f"is not JSON: {error}")) from None
        for one in value if isinstance(value, list) else [value]:
            if not isinstance(one, dict):
                raise UserError(Problem(str(path), "", "expected a JSON object"))
            yield one
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
    if not text:
        raise UserError(Problem(str(path), "", "is empty"))


def _number(value: Any) -> float:
    """*value* as a number; NaN where it is none, or not finite."""
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known and math.isfinite(value) else math.nan


def _summary(name: str, values: Row, count: float) -> Row:
    """Columns of one quantity.

    Args:
        name: stem of the columns, like ``ttft``.
        values: its statistics in ms: ``mean``, ``p50``, ``p90``, ``p99``, ``std``.
        count: number of requests.
    """
    row = {f"{name}_{s}_ms": _number(values.get(s)) for s in ("mean", "p50", "p90", "p99")}
    half = Z95 * _number(values.get("std")) / math.sqrt(count) if count > 1 else math.nan
    return {**row, f"{name}_mean_ci95_ms": half}


def _is_vllm(record: Row) -> bool:
    return "request_throughput" in record and "completed" in record


def _of_vllm(record: Row) -> list[Row]:
    completed = _number(record.get("completed"))
    row: Row = {"algorithm": MEASURED, "requests": completed}
    row["workload_rate_per_s"] = _number(record.get("request_rate"))  # "inf": all at once
    row["workload_users"] = _number(record.get("max_concurrency"))
    for theirs, ours in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2el", "latency")):
        names = {"mean": "mean", "median": "p50", "p90": "p90", "p99": "p99", "std": "std"}
        values = {s: record.get(f"{name}_{theirs}_ms") for name, s in names.items()}
        row |= _summary(ours, values, completed)
    if math.isnan(row["latency_mean_ms"]):
        row |= _summary("latency", _latencies(record), completed)
    row["throughput_per_s"] = _number(record.get("request_throughput"))
    row["tokens_per_s"] = _number(record.get("output_throughput"))
    row["goodput_per_s"] = _number(record.get("request_goodput", record.get("request_goodput:")))
    return [row]


def _latencies(record: Row) -> Row:
    """Statistics of the time to the last token, from what ``--save-detailed`` keeps per request."""
    import numpy as np

    first, gaps = record.get("ttfts") or [], record.get("itls") or []
    errors = record.get("errors") or [""] * len(first)
    whole = [t + sum(g) for t, g, e in zip(first, gaps, errors, strict=False) if not e and g]
    if not whole:
        return {}
    ms = np.array(whole) * 1e3
    quantiles = {f"p{p}": float(np.percentile(ms, p)) for p in (50, 90, 99)}
    return {"mean": float(ms.mean()), "std": float(ms.std()), **quantiles}


def _of_guidellm(record: Row) -> list[Row]:
    rows = []
    for benchmark in record["benchmarks"]:
        metrics = benchmark.get("metrics") or {}
        holder = benchmark.get("config") or benchmark.get("args") or {}
        strategy = holder.get("strategy") or benchmark.get("scheduler", {}).get("strategy") or {}
        row: Row = {"algorithm": MEASURED}
        row["workload_rate_per_s"] = _number(strategy.get("rate"))
        row["workload_users"] = _number(strategy.get("streams"))
        for theirs, ours, unit in (
            ("time_to_first_token_ms", "ttft", 1.0),
            ("inter_token_latency_ms", "tpot", 1.0),
            ("request_latency", "latency", 1e3),
        ):
            found = (metrics.get(theirs) or {}).get("successful") or {}
            quantiles = found.get("percentiles") or {}
            values = {"mean": found.get("mean"), "std": found.get("std_dev")}
            values |= {s: quantiles.get(s) for s in ("p50", "p90", "p99")}
            in_ms = {name: _number(value) * unit for name, value in values.items()}
            count = _number(found.get("count"))
            row |= _summary(ours, in_ms, count)
            row["requests"] = count
        for theirs, ours in (
            ("requests_per_second", "throughput_per_s"),
            ("output_tokens_per_second", "tokens_per_s"),
        ):
            row[ours] = _number(((metrics.get(theirs) or {}).get("successful") or {}).get("mean"))
        rows.append(row)
    return rows


def _of_genai_perf(record: Row) -> list[Row]:
    requests = _number((record.get("request_count") or {}).get("avg"))
    given = record.get("input_config") or {}  # where the load stands depends on the version
    asked = (given.get("perf_analyzer") or {}).get("stimulus") or given.get("loadgen") or given
    row: Row = {"algorithm": MEASURED, "requests": requests}
    row["workload_rate_per_s"] = _number(asked.get("request_rate"))
    row["workload_users"] = _number(asked.get("concurrency"))
    scale = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}
    for theirs, ours in (
        ("time_to_first_token", "ttft"),
        ("inter_token_latency", "tpot"),
        ("request_latency", "latency"),
    ):
        found = record.get(theirs) or {}
        unit = scale.get(str(found.get("unit", "ms")), math.nan)
        names = {"avg": "mean", "p50": "p50", "p90": "p90", "p99": "p99", "std": "std"}
        values = {s: _number(found.get(name)) * unit for name, s in names.items()}
        count = _number(found.get("count"))
        row |= _summary(ours, values, requests if math.isnan(count) else count)
    row["throughput_per_s"] = _number((record.get("request_throughput") or {}).get("avg"))
    row["tokens_per_s"] = _number((record.get("output_token_throughput") or {}).get("avg"))
    return [row]


_FORMATS: tuple[tuple[Callable[[Row], bool], Callable[[Row], list[Row]]], ...] = (
    (_is_vllm, _of_vllm),
    (lambda record: isinstance(record.get("benchmarks"), list), _of_guidellm),
    (lambda record: isinstance(record.get("request_latency"), dict), _of_genai_perf),
)
