"""Speed-ups from papers, blogs and issues: each row by its method, or why it cannot be."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.simulate import simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.closed_forms import rate_of_length, si_tokens_per_round
from dsim.model.latency import Latency
from dsim.report.tables import TextTable
from dsim.study.presets import PRESETS
from dsim.tasks.field import batches, chains, trees
from dsim.tasks.field.pipespec import spread_draws
from dsim.tasks.field.source import (
    GROUPS,
    CannotError,
    Group,
    Prediction,
    Source,
    median,
    needed,
    number,
    text,
)
from dsim.units import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.tasks.field.source import Found, Row, Rows

HIT = 0.9  # "up to": what SSD's paper says of its guesses
RATIOS = [step / 400 for step in range(4, 161)]  # of a draft's latency and a pass's, that are tried
COARSE = 8  # of these, every so many are tried first
FANOUT = "ssd.fanout"
MAX_LOOKAHEAD = 100
TOKENS, TEXTS = 1000, 10  # of a simulation
NAMED_RATIOS = (0.06, 0.08, 0.1, 0.12)
SPEEDUP = "measured_speedup"
KEY = ("source", "model_pair", "hardware", "batch", "method", "settings")


def is_ssd(row: Row) -> bool:
    """Whether the row is SSD's."""
    return re.search("ssd|saguaro", text(row, "method").lower()) is not None


def lookahead_of(row: Row) -> int:
    """``k``, from the settings.

    Raises:
        CannotError: the settings say none.
    """
    found = re.search(r"k\s*=\s*(\d+)", text(row, "settings"))
    if not found:
        raise CannotError("not published: k")
    if not 1 <= int(found[1]) <= MAX_LOOKAHEAD:
        raise CannotError(f"k: expected 1 to {MAX_LOOKAHEAD}, got {found[1]}")
    return int(found[1])


def serial_of(row: Row, rows: Rows) -> tuple[float, int] | None:
    """Speed-up and lookahead of the run of SI on the same texts; ``None``: there is none."""
    for other in rows:
        same = all(text(other, c) == text(row, c) for c in ("source", "model_pair", "batch"))
        if same and text(other, "method").upper() == "SI":
            try:
                return needed(other, "measured_speedup")[0], lookahead_of(other)
            except CannotError:  # of that other row
                continue
    return None


def rate_of(speedup: float, lookahead: int, ratio: float) -> float | None:
    """The acceptance rate with which SI is this fast; ``None``: with none below 1."""
    tokens = speedup * (1 + lookahead * ratio)
    if not 1 < tokens < si_tokens_per_round(0.9999, lookahead):
        return None
    return rate_of_length(tokens, lookahead)


@cache
def ssd_speedup(rate: float, lookahead: int, ratio: float, hit: float) -> float:
    """SSD over plain decoding, by simulation.

    Where the drafter's first choice is wrong, each of the next ones is right as often as makes
    *hit* of all guesses right.

    Args:
        rate: acceptance rate.
        lookahead: drafts of a block.
        ratio: latency of a draft over that of a pass.
        hit: the part of the guesses that are right.
    """
    method = next(preset for preset in PRESETS.values() if FANOUT in preset.settings)
    fanout = int(method.settings[FANOUT])
    whole = rate**lookahead  # part of the blocks that stand; then the first choice is a guess, too
    share = (hit - whole * rate) / ((1 - whole) * fanout + whole * (1 - rate) * (fanout - 1))
    draws = spread_draws(rate, TOKENS * TEXTS)
    wrong = np.flatnonzero(draws == 0)
    places = (np.random.default_rng(1).permutation(len(wrong)) + 0.5) / len(wrong)
    ranks = 2 + np.floor(places / min(1 / fanout, max(1e-9, share))).astype(np.int64)
    draws[wrong] = np.where(ranks < 2 + fanout, ranks, 0)
    texts = ("".join(map(str, row)) for row in draws.reshape(TEXTS, TOKENS).tolist())
    case = Case(
        target=Latency(latency_ns=NS_PER_MS),
        drafter=Latency(latency_ns=max(1, round(ratio * NS_PER_MS))),
        acceptance=Acceptance(model="trace", rate=rate, traces=tuple(texts)),
        lookahead=lookahead,
        fanout=(fanout,),
        tokens=TOKENS,
        repeats=TEXTS,
        targets=1,
    )
    latency_ns = float(simulate_case(case, method.orchestration).latency_ns.mean())
    return TOKENS * NS_PER_MS / latency_ns


def predict_ssd(row: Row, others: Rows) -> Prediction:
    """From the run of SI on the same texts, and the ratio that fits the other texts best.

    Raises:
        CannotError: there is no run of SI, or no other run of SSD.
    """
    lookahead, serial = lookahead_of(row), serial_of(row, others)
    if serial is None:
        raise CannotError(
            "not published: a run of SI on the same texts, to tell its acceptance rate"
        )
    known = []
    for other in others:
        if is_ssd(other) and "average" not in text(other, "model_pair"):
            beside = serial_of(other, others)
            if beside and text(other, "source") == text(row, "source"):
                known.append((needed(other, "measured_speedup")[0], lookahead_of(other), beside))
    if not known:
        raise CannotError("not published: the drafter's latency, nor another run that tells it")

    def off(ratio: float) -> float:
        total = 0.0
        for speedup, k, beside in known:
            rate = rate_of(*beside, ratio)
            if rate is None:
                return float("inf")
            total += (ssd_speedup(round(rate, 3), k, ratio, HIT) / speedup - 1) ** 2
        return total

    about = RATIOS.index(min(RATIOS[::COARSE], key=off))
    ratio = min(RATIOS[max(0, about - COARSE) : about + COARSE], key=off)
    rate = rate_of(*serial, ratio)
    if rate is None:
        raise CannotError("its run of SI is faster than any acceptance rate makes it")
    notes = (
        f"acceptance rate {rate:.3f} from the run of SI; drafts of {ratio:.3f} passes, fitted to "
        f"{len(known)} other texts; {HIT:.0%} of the guesses hit, as the paper says"
    )
    return Prediction(ssd_speedup(round(rate, 3), lookahead, ratio, HIT), notes=notes)


def split(row: Row) -> Rows:
    """A crossover as a speed-up of 1 at that batch."""
    found = re.fullmatch(r"crossover (\d+)", text(row, "batch"))
    if not found:
        return [row]
    measured = "1" if number(row, SPEEDUP) is None else text(row, SPEEDUP)
    return [{**row, "batch": found[1], SPEEDUP: measured}]


def is_batch(row: Row) -> bool:
    """Whether the row is of several texts at once."""
    batch = text(row, "batch")
    return bool(batch) and batch.split(" ")[0].rstrip("?") not in ("1", "1.0")


def predict(row: Row, others: Rows) -> Prediction:
    """Times plain decoding."""
    if is_ssd(row):
        return predict_ssd(row, others)
    parts = [part for other in others for part in split(other)]
    parts = [one for one in parts if not SOURCE.same(one, row)]
    if is_batch(row):
        return batches.predict(row, parts)
    reasons = []
    for way in (chains.predict, trees.predict_paper):
        try:
            return way(row, parts)
        except CannotError as error:
            reasons.append(str(error))
    missing = text(row, "any_missing_inputs")
    raise CannotError(f"not published: {missing}" if missing else "; ".join(reasons))


def group_of(row: Row) -> Group:
    """By what is given."""
    if is_ssd(row):
        return GROUPS["guesses"]
    if is_batch(row):
        return GROUPS["reported_batches"]
    return (
        GROUPS["eagle3"]
        if "EAGLE-3 arXiv 2503.01840 Table 1" in text(row, "source")
        else GROUPS["other"]
    )


def label_of(row: Row) -> str:
    """Model pair, method, and what else tells the row."""
    temperature = re.match(r"T=\d", text(row, "settings"))
    words = [text(row, "model_pair"), text(row, "method"), temperature[0] if temperature else ""]
    batch = text(row, "batch")
    return ", ".join(
        [*filter(None, words), *([f"batch {batch}"] if batch not in ("", "1") else [])]
    )


def tables(found: Sequence[Found]) -> list[TextTable]:
    """What explains EAGLE-3's costs, and what share of hits SSD's rows need."""
    costs: dict[tuple[str, trees.Way], list[float]] = {}
    for one in found:
        if group_of(one.row) is GROUPS["eagle3"] and one.measured:
            known = text(one.row, "model_pair").split(" + ")[0], trees.way_of(one.row)
            costs.setdefault(known, []).append(trees.tau_of(one.row) / one.measured)
    rows = [
        trees.cost_row(
            model,
            trees.Round(way, "", model.replace("DSR1-Llama", "Llama-3.1"), None),
            median(cost),
        )
        for (model, way), cost in costs.items()
    ]
    tables = trees.cost_table("EAGLE-3: where the cost of a round hides", rows)
    tables += trees.without_source(found)
    tables += batches.tables([one for one in found if is_batch(one.row)])
    hits = [hits_needed(one, found) for one in found if is_ssd(one.row) and one.measured]
    caption = (
        "If a draft takes this part of a pass, and the acceptance rate is that of the run of SI. "
        "–: with no share."
    )
    head = ("texts", "measured", *(f"{ratio:g}" for ratio in NAMED_RATIOS))
    title = "SSD: the hits needed"
    return [*tables, TextTable(title=title, caption=caption, head=head, rows=hits)]


def hits_needed(one: Found, found: Sequence[Found]) -> list[str]:
    """The share of guesses that have to hit, for each of :data:`NAMED_RATIOS`."""
    serial, lookahead = serial_of(one.row, [other.row for other in found]), lookahead_of(one.row)
    cells = []
    for ratio in NAMED_RATIOS:
        rate = rate_of(*serial, ratio) if serial else None
        tokens = si_tokens_per_round(rate, lookahead) if rate else 0.0
        step = max(1.0, (lookahead + 1) * ratio)
        miss = (tokens / (one.measured or 1) - step) / (lookahead * ratio)
        cells.append(f"{1 - miss:.0%}" if 0 <= miss <= 1 else "–")
    return [text(one.row, "model_pair"), f"{one.measured:g}", *cells]


SOURCE = Source(
    name="papers and reports",
    file="speedups.csv",
    columns=("model_pair", "method", "alpha_or_tau"),
    key=KEY,
    measured=SPEEDUP,
    unit="times plain decoding",
    predict=predict,
    group=group_of,
    label=label_of,
    tables=tables,
    split=split,
)
