"""``dsim trace``: what is in a trace of requests: rates, lengths, bursts, and shared prefixes."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.replay import Replay, read_replay
from dsim.deployment.request_rows import HASHED_TOKENS
from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.report.tables import text_table
from dsim.units import NS_PER_S
from dsim.words import duration, plural

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

BINS = 100  # parts of the time, about, in which requests are counted
PERCENTILES = (50, 90, 99)
EVEN, BURSTY = 0.7, 1.3  # coefficients of variation of gaps that are called so
CHANGING = 2.0  # variance / mean of counts from which on the rate is said to change


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """What is in a trace.

    Attributes:
        replay: the trace.
        arrivals_s: when requests came, float64, seconds after the first.
        prompts: tokens of their prompts, int64.
        outputs: tokens of their answers, int64.
        bin_s: seconds of the parts of the time in which requests are counted.
        counts: requests in each part, int64.
        gap_cv: standard deviation / mean of the time between requests; NaN: there are fewer than
            three requests, or all at once.
        dispersion: variance / mean of the counts of whole parts; 1 for a Poisson process.
        shared: the part of all prompt tokens that an earlier prompt began with as well; NaN: the
            trace does not say.
    """

    replay: Replay
    arrivals_s: NDArray[np.float64]
    prompts: NDArray[np.int64]
    outputs: NDArray[np.int64]
    bin_s: float
    counts: NDArray[np.int64]
    gap_cv: float
    dispersion: float
    shared: float

    @property
    def span_s(self) -> float:
        """Seconds from the first request to the last."""
        return float(self.arrivals_s[-1])

    @property
    def rate_per_s(self) -> float:
        """Mean rate; infinite if all come at once."""
        return (len(self.arrivals_s) - 1) / self.span_s if self.span_s else math.inf

    @property
    def peak_per_s(self) -> float:
        """The highest rate in one of the parts."""
        return float(self.counts.max() / self.bin_s)


def read(
    path: Path, *, from_s: float = 0.0, for_s: float | None = None, rate_scale: float = 1.0
) -> Replay:
    """The trace in the file *path*, or a part of it.

    Raises:
        UserError: it cannot be read, or has no request then.
    """
    try:
        return read_replay(read_text(path)).window(from_s, for_s, rate_scale)
    except ValueError as error:
        raise UserError(Problem(str(path), "", str(error))) from None


def summary(replay: Replay) -> Summary:
    """What is in *replay*."""
    rows = np.array(replay.requests, dtype=np.int64)
    at_s = rows[:, 0] / NS_PER_S
    span_s = float(at_s[-1])
    bin_s = _round_up(span_s / BINS) if span_s else 1.0
    counts = np.bincount((at_s / bin_s).astype(np.int64))
    gaps = np.diff(at_s)
    whole = counts[:-1]
    return Summary(
        replay=replay,
        arrivals_s=at_s,
        prompts=rows[:, 1],
        outputs=rows[:, 2],
        bin_s=bin_s,
        counts=counts,
        gap_cv=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and span_s else math.nan,
        dispersion=float(whole.var() / whole.mean()) if whole.any() else math.nan,
        shared=_shared(replay),
    )


def _round_up(seconds: float) -> float:
    """The next of 1, 2, 5, 10, 20, 30, 60, 120, 300 … seconds, or tenths of them."""
    for step in (0.001, 0.01, 0.1, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600):
        if seconds <= step:
            return float(step)
    return math.ceil(seconds / 3600) * 3600.0


def _shared(replay: Replay) -> float:
    """The part of all prompt tokens that an earlier prompt began with as well."""
    if not any(text.shared for text in replay.texts):
        return math.nan
    seen: set[tuple[str | int, int]] = set()
    groups: dict[str, int] = {}
    again = total = 0
    for (_, prompt, _), text in zip(replay.requests, replay.texts, strict=True):
        total += prompt
        if text.hashes:
            begins = True
            for place, one in enumerate(text.hashes):
                begins = begins and (one, place) in seen
                if begins:
                    again += min(HASHED_TOKENS, prompt - place * HASHED_TOKENS)
                seen.add((one, place))
        elif text.shared:
            again += min(text.shared, groups.get(text.group, 0))
            groups[text.group] = max(text.shared, groups.get(text.group, 0))
    return again / total if total else math.nan


def lengths_of(found: Summary) -> dict[str, dict[str, float]]:
    """Mean, percentiles and maximum of the lengths of prompts and answers."""
    tables = {}
    for name, tokens in (("prompt_tokens", found.prompts), ("output_tokens", found.outputs)):
        points = np.percentile(tokens, PERCENTILES)
        tables[name] = {
            "mean": float(tokens.mean()),
            **{f"p{p}": float(v) for p, v in zip(PERCENTILES, points, strict=True)},
            "max": float(tokens.max()),
            "total": float(tokens.sum()),
        }
    return tables


def as_json(found: Summary) -> str:
    """The summary as one JSON object."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    document = {
        "format": found.replay.source,
        "requests": len(found.prompts),
        "failed": found.replay.failed,
        "span_s": found.span_s,
        "rate_per_s": number(found.rate_per_s),
        "peak_per_s": found.peak_per_s,
        "bin_s": found.bin_s,
        "gap_cv": number(found.gap_cv),
        "dispersion": number(found.dispersion),
        "shared_prefix_share": number(found.shared),
        **lengths_of(found),
    }
    return json.dumps(document, indent=1)


def sentences(found: Summary) -> list[str]:
    """The summary in sentences."""
    replay = found.replay
    failed = f"; {plural(replay.failed, 'request')} without an answer left out" * (
        replay.failed > 0
    )
    lines = [
        f"{plural(len(found.prompts), 'request')} in {duration(found.span_s)} "
        f"({found.span_s:,.6g} s), format {replay.source}{failed}.",
    ]
    if found.span_s:
        lines.append(
            f"Rate: {found.rate_per_s:.4g} requests/s in the mean, {found.peak_per_s:.4g} in the "
            f"busiest {found.bin_s:g} s."
        )
    if not math.isnan(found.gap_cv):
        kind = "about as a Poisson process"
        if found.gap_cv < EVEN:
            kind = "more even than a Poisson process"
        elif found.gap_cv > BURSTY:
            kind = "in bursts"
        told = f"Gaps between requests: standard deviation / mean {found.gap_cv:.2f}, {kind}"
        if not math.isnan(found.dispersion):
            told += (
                f"; counts in {found.bin_s:g} s: variance / mean {found.dispersion:.3g} "
                "(Poisson: 1)"
            )
            if found.dispersion > CHANGING and found.gap_cv <= BURSTY:
                told += ", so the rate itself rises and falls"
        lines.append(f"{told}.")
    if math.isnan(found.shared):
        lines.append("Shared prefixes: the trace does not say.")
    else:
        lines.append(
            f"Shared prefixes: {found.shared:.1%} of the prompt tokens begin an earlier prompt as "
            "well; a prefix cache without limits would save so much."
        )
    return lines


def as_text(found: Summary) -> list[str]:
    """The summary for a terminal."""
    first, *rest = sentences(found)
    names = {"prompt_tokens": "prompt (tokens)", "output_tokens": "answer (tokens)"}
    rows = [
        [names[name], *(f"{table[key]:,.0f}" for key in table)]
        for name, table in lengths_of(found).items()
    ]
    head = ["", "mean", *(f"p{p}" for p in PERCENTILES), "max", "total"]
    return [first, "", *text_table(head, rows), "", *rest]
