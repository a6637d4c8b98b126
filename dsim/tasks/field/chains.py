"""Speed-ups of a target and a drafter whose latencies are published, at batch 1."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from typing import TYPE_CHECKING

from dsim.engines.simulate import simulate_case
from dsim.errors import UserError
from dsim.model.closed_forms import rate_of_length, targets_enough
from dsim.orchestrations import ORCHESTRATIONS, PIPELINE, REFERENCES
from dsim.tasks.field.pipespec import case_of
from dsim.tasks.field.source import CannotError, Prediction, needed, text

if TYPE_CHECKING:
    from dsim.tasks.field.source import Row, Rows

TOKENS, TEXTS = 500, 10  # of a simulation
MAX_LOOKAHEAD = 100
RATES = (0.01, 0.999)
HALVINGS = 11
# Names of methods that are not those of dsim's orchestrations.
KNOWN_AS = {"amusd": PIPELINE, "sps": REFERENCES[1], "chain": REFERENCES[1]}


def orchestration_of(row: Row) -> str:
    """What dsim simulates the row's method by.

    Raises:
        CannotError: dsim does not know the method.
    """
    word = re.match(r"[a-z]*", text(row, "method").lower())
    name = KNOWN_AS.get(word[0], word[0]) if word else ""
    if name in ORCHESTRATIONS:
        return name
    raise CannotError(f'the method "{text(row, "method")}" is none that dsim knows')


def lookahead_of(row: Row, ratio: float) -> int:
    """``k``, from the method or the settings; of methods that overlap, else PEARL's own rule.

    Raises:
        CannotError: they say none, or no possible one.
    """
    words = f"{text(row, 'method')} {text(row, 'settings')}"
    found = re.search(r"(?:\b[kL]\s*=|lookahead|γ\s*=|gamma\s*=|>=)\s*(\d{1,4})\b", words)
    name = orchestration_of(row)
    if not found and ORCHESTRATIONS[name].traits.overlaps:
        return max(1, round(1 / ratio))
    if not found or not 1 <= int(found[1]) <= MAX_LOOKAHEAD:
        raise CannotError(f"not published: k (from 1 to {MAX_LOOKAHEAD})")
    return int(found[1])


def latencies_of(row: Row) -> tuple[float, float]:
    """Milliseconds of a draft and of a pass; or a draft as a part of a pass, and 1.

    Raises:
        CannotError: they are not published.
    """
    cells = {
        column: re.fullmatch(r"(c\s*=\s*)?~?\s*(\d+(?:\.\d+)?)( ms)?( \(.*\))?", text(row, column))
        for column in ("target_ms", "drafter_ms_or_c")
    }
    numbers = {column: found[2] for column, found in cells.items() if found}
    draft = cells["drafter_ms_or_c"]
    if draft and draft[1]:
        numbers["target_ms"] = "1"
    target_ms, drafter_ms = needed(numbers, "target_ms", "drafter_ms_or_c", least=1e-4)
    return drafter_ms, target_ms


@cache
def speedup(name: str, ratio: float, rate: float, lookahead: int) -> float:
    """Over plain decoding, by simulation.

    Args:
        name: the orchestration.
        ratio: latency of a draft over that of a pass.
        rate: acceptance rate.
        lookahead: drafts of a round.
    """
    case = case_of(ratio, 1.0, rate, lookahead, TOKENS, TEXTS)
    enough = targets_enough(case.drafter.latency_ns, case.target.latency_ns, lookahead)
    case = dataclasses.replace(case, targets=enough)
    try:
        mean_ns = float(simulate_case(case, name).latency_ns.mean())
    except (UserError, ValueError) as error:
        raise CannotError(f"it cannot be simulated: {error}") from None
    return TOKENS * case.target.latency_ns / mean_ns


def own_rate(row: Row, lookahead: int) -> float | None:
    """The acceptance rate that the row has, or that its tokens a round say; ``None``: neither."""
    cell = text(row, "alpha_or_tau").lower()
    if cell.startswith("not given"):
        return None
    if found := re.match(r"alpha\s*=\s*([01]?\.\d+)$", cell):
        return float(found[1]) if 0 < float(found[1]) < 1 else None
    if found := re.match(r"tau\s*=\s*(\d+(?:\.\d+)?)\b", cell):
        tokens = float(found[1])
        return rate_of_length(tokens, lookahead) if 1 < tokens < lookahead + 0.99 else None
    return None


def rate_of_serial(row: Row, others: Rows) -> float | None:
    """The acceptance rate that explains the run of SI on the same texts; ``None``: with none."""
    for other in others:
        if any(text(other, c) != text(row, c) for c in ("source", "model_pair", "batch")):
            continue
        try:
            name, (drafter_ms, target_ms) = orchestration_of(other), latencies_of(other)
            if name != REFERENCES[1]:
                continue
            lookahead = lookahead_of(other, drafter_ms / target_ms)
            measured = needed(other, "measured_speedup")[0]
            low, high = RATES
            for _ in range(HALVINGS):
                rate = round((low + high) / 2, 4)
                slower = speedup(name, drafter_ms / target_ms, rate, lookahead) < measured
                low, high = (rate, high) if slower else (low, rate)
        except CannotError:  # of that other run
            continue
        if RATES[0] < low and high < RATES[1]:
            return (low + high) / 2
    return None


def predict(row: Row, others: Rows) -> Prediction:
    """Times plain decoding.

    Raises:
        CannotError: the method is unknown, or latencies, ``k`` or acceptance are not published.
    """
    name, (drafter_ms, target_ms) = orchestration_of(row), latencies_of(row)
    ratio = drafter_ms / target_ms
    lookahead = lookahead_of(row, ratio)
    rate, whence = own_rate(row, lookahead), "as published"
    if rate is None:
        rate, whence = rate_of_serial(row, others), "from the run of SI on the same texts"
    if rate is None:
        raise CannotError("not published: the acceptance rate, nor a run of SI on these texts")
    notes = f"acceptance rate {rate:.3f} {whence}; drafts of {ratio:.3f} passes, lookahead "
    notes += f"{lookahead}; passes as long as a plain step"
    return Prediction(speedup(name, ratio, round(rate, 4), lookahead), notes=notes)
