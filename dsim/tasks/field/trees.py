"""Rounds of one server: what a round costs in plain steps, from tokens a round and speed-ups.

Spec-Bench's leaderboard is of this kind, and so are the rows of ``speedups.csv`` that say how many
tokens a round makes (``tau``). A round is a pass over all drafts, which the roofline knows by the
GPU; and drafting, level by level, which the framework makes dear: its cost is taken from other
runs. Neither depends on the text.
"""

from __future__ import annotations

import math
import re
from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple

from dsim.model.gpu import gpu_of
from dsim.model.roofline import Roofline, possible_tp
from dsim.model.shape import shape_of, shipped
from dsim.report.tables import TextTable
from dsim.tasks.field.source import GROUPS, CannotError, Prediction, Source, median, needed, text
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.tasks.field.source import Found, Row, Rows


class Way(NamedTuple):
    """How a method drafts.

    Attributes:
        width: tokens of a pass.
        levels: forwards of head or drafter, one after the other, in a round.
    """

    width: int
    levels: int


# Spec-Bench's own defaults (evaluation/inference_*.py and model/ at fd2c1cd): static trees of 25,
# 63 and 80 nodes; EAGLE-2's and EAGLE-3's of 60 tokens and depth 5; at most 64 drafts found (REST)
# and 10 (PLD); level 5, window and guesses of 7 (Lookahead); 5 drafts of a small model (SpS).
WAYS = {
    "eagle": Way(26, 5),
    "eagle2": Way(60, 6),
    "eagle3": Way(60, 6),
    "samd[eagle2]": Way(60, 6),
    "hydra": Way(64, 4),
    "medusa": Way(64, 0),
    "recycling": Way(81, 0),
    "rest": Way(65, 0),
    "lookahead": Way(56, 0),
    "pld": Way(11, 0),
    "sps": Way(6, 5),
}
COPIED = ("n-gram", "ngram", "suffix", "lookup")  # methods that copy their drafts from the text
MAX_WIDTH = 4096
FLAT = Way(1, 0)  # a pass that costs no more than a plain step, and what it drafts with is unknown
# Layers of the targets by billions of parameters: of Llama and Vicuna, as published.
LAYERS = {"1": 16, "3": 28, "7": 32, "8": 32, "13": 40, "33": 60, "70": 80, "405": 126}
CONTEXT = 500  # tokens
SERIAL = ("eagle", "sps")  # what their rounds cost beyond a pass falls with the target's layers
# As sources call GPUs.
GPUS = {"3090": "rtx-3090", "4090": "rtx-4090", "a100-40g": "a100-40gb", "a100": "a100-80gb"}
GPUS |= {name: name for name in ("h100", "h200", "b200", "l40s", "mi300x")}


def gpu_in(words: str) -> str | None:
    """The GPU that *words* name; ``None``: dsim does not know it."""
    return next((own for name, own in GPUS.items() if name in words.lower()), None)


def tp_in(words: str) -> int:
    """The number of GPUs that *words* name."""
    found = re.match(r"\s*(\d{1,2})\s*x", words.lower())
    return max(1, int(found[1])) if found else 1


@cache
def model_in(words: str) -> str | None:
    """The target that *words* begin with; ``None``: dsim does not know it."""

    def squeezed(name: str) -> str:
        return re.sub(r"[^a-z0-9.]|meta|chat|instruct", "", name.lower())

    known = [name for name in shipped() if squeezed(words).startswith(squeezed(name))]
    return max(known, key=len, default=None)


@cache
def wide(width: int, hardware: str, target: str) -> float:
    """A pass over so many tokens in plain steps, by the roofline.

    1 where the GPU is unknown; an unknown target counts as a dense one of 7B.
    """
    gpu = gpu_in(hardware)
    if gpu is None:
        return 1.0
    shape = shape_of(model_in(target) or "vicuna-7b")
    tp = max(n for n in possible_tp(shape) if n <= tp_in(hardware))
    roofline = Roofline(shape=shape, gpu=gpu_of(gpu), tp=tp)
    pass_ns, plain_ns = (roofline.forward_ns(n, n * CONTEXT, CONTEXT, n) for n in (width, 1))
    return pass_ns / plain_ns


def layers_of(target: str) -> float | None:
    """Layers of the target by the size in its name, between those of :data:`LAYERS`."""
    size = re.search(r"(\d+(?:\.\d+)?)B\b", target.upper())
    if not size or not 0.1 <= float(size[1]) <= 2000:
        return None
    import numpy as np

    sizes = np.log([float(known) for known in LAYERS])
    return float(np.interp(math.log(float(size[1])), sizes, list(LAYERS.values())))


class Round(NamedTuple):
    """What is known of a row.

    Attributes:
        way: how it drafts.
        hardware: its GPU.
        target: the target's name.
        layers: what the cost of drafting falls with; ``None``: with nothing.
    """

    way: Way
    hardware: str
    target: str
    layers: float | None

    @property
    def flat(self) -> float:
        """The pass, in plain steps."""
        return wide(self.way.width, self.hardware, self.target)


class Kind(NamedTuple):
    """Rows whose rounds cost the same but for what :class:`Round` knows.

    Attributes:
        words: what they have in common.
        cells: these are the same; a row without any is of no such kind.
        by_level: whether the cost of drafting is taken by the level.
    """

    words: str
    cells: Callable[[Row], tuple[str, ...]]
    by_level: bool = False


def by_cost(
    row: Row,
    others: Rows,
    *,
    tau_of: Callable[[Row], float],
    speedup_of: Callable[[Row], float],
    round_of: Callable[[Row], Round],
    kinds: Sequence[Kind],
) -> Prediction:
    """The speed-up: tokens a round over the cost of a round in plain steps.

    Args:
        row: the row.
        others: other rows.
        tau_of: tokens a round. This and the next raise :class:`CannotError` where there is none.
        speedup_of: the speed-up.
        round_of: what is known of a row.
        kinds: the closest first. The cost of drafting is the median over the others of the first
            kind of which there is one; a source has a voice, however many rows it has.

    Raises:
        CannotError: there is none of any kind, or no ``tau``.
    """
    tau, own = tau_of(row), round_of(row)
    for kind in kinds:
        cells, costs = kind.cells(row), dict[str, list[float]]()
        for other in others if cells and (own.way.levels or not kind.by_level) else ():
            if kind.cells(other) == cells:
                known = round_of(other)
                try:
                    more = tau_of(other) / speedup_of(other) - known.flat
                except CannotError:  # of that other row
                    continue
                if known.layers and own.layers:
                    more *= known.layers / own.layers
                if kind.by_level and not known.way.levels:
                    continue
                levels = own.way.levels / known.way.levels if kind.by_level else 1.0
                costs.setdefault(text(other, "source"), []).append(more * levels)
        if costs:
            cost = own.flat + max(0.0, median([median(of) for of in costs.values()]))
            count = sum(len(of) for of in costs.values())
            notes = (
                f"a round costs {cost:.3f} plain steps: {own.flat:.2f} for the pass by the "
                f"roofline, the rest from {plural(count, 'other row')} of {kind.words}"
            )
            return Prediction(tau / cost, notes=notes)
    raise CannotError("not published: the cost of a round, and no other run of the method has one")


class Head(NamedTuple):
    """A target and its EAGLE head, in billions of weights: all, a layer, its output layer."""

    target: str
    weights: float
    layer: float
    output: float


# From the published configurations (hidden size, layers, vocabulary); EAGLE-3's output layer for
# Llama-3.1 has 32,000 words of the vocabulary.
HEADS = (
    Head("Vicuna-7B", 6.74, 0.202, 0.131),
    Head("Vicuna-13B", 13.0, 0.317, 0.164),
    Head("Vicuna-33B", 32.5, 0.535, 0.213),
    Head("Llama-3.1-8B", 8.03, 0.218, 0.131),
)


def cost_row(label: str, known: Round, cost: float) -> list[str]:
    """What pass, levels and head explain of a round's *cost*; nothing for a method without levels.

    What they leave is also said in layers of the target, a level.
    """
    head = next((head for head in HEADS if head.target in known.target), None)
    layers, levels = layers_of(known.target), known.way.levels
    if not levels or head is None or layers is None:
        return []
    by_weights = levels * (head.layer + head.output) / head.weights
    left = cost - known.flat - by_weights
    numbers = (f"{number:.2f}" for number in (cost, known.flat, by_weights, left))
    in_layers = (cost - known.flat) * layers / levels
    return [label, str(known.way.width), str(levels), *numbers, f"{in_layers:.1f}"]


def cost_table(title: str, rows: Sequence[list[str]]) -> list[TextTable]:
    """A table of :func:`cost_row`."""
    caption = (
        "The cost of a round in plain steps: measured (tau over speed-up); the pass over all "
        "drafts by the roofline of its GPU; the head's levels by their weights; and what these "
        "leave, which is the framework's: building the tree, its mask, copies, and launches. Last, "
        "what a level takes beside the pass, in layers of the target."
    )
    names = ("run", "width", "levels", "measured", "pass", "head", "left", "layers a level")
    known = [row for row in rows if row]
    return [TextTable(title=title, caption=caption, head=names, rows=known)]


def method_of(row: Row) -> str:
    """The method of a row of the leaderboard."""
    return text(row, "method").lower()


def round_of(row: Row) -> Round:
    """What is known of a row of the leaderboard."""
    serial = method_of(row).startswith(SERIAL)
    target = text(row, "target")
    layers = layers_of(target) if serial else None
    return Round(WAYS.get(method_of(row), FLAT), text(row, "hardware"), target, layers)


def structure(found: Sequence[Found]) -> list[TextTable]:
    """What explains the costs of the leaderboard."""
    rows = [
        cost_row(
            one.source.label(one.row),
            round_of(one.row),
            needed(one.row, "tau")[0] / one.measured,
        )
        for one in found
        if one.measured and "eagle" in method_of(one.row)
    ]
    return cost_table("Spec-Bench: where the cost of a round hides", rows)


def predict_leaderboard(row: Row, others: Rows) -> Prediction:
    """Overall speed-up of a method on Spec-Bench."""
    if not text(row, "method"):
        raise CannotError("not published: method")

    def gpu(one: Row) -> str:
        return text(one, "hardware").lower()

    def serial(one: Row) -> tuple[str, ...]:
        return ("serial",) if method_of(one).startswith(SERIAL) else ()

    return by_cost(
        row,
        others,
        tau_of=lambda one: needed(one, "tau")[0],
        speedup_of=lambda one: needed(one, "overall_speedup")[0],
        round_of=round_of,
        kinds=(
            Kind("the method on this GPU", lambda one: (method_of(one), gpu(one))),
            Kind("the method", lambda one: (method_of(one),)),
            Kind(
                "other methods that draft by levels, on this GPU, by the level",
                lambda one: (*serial(one), gpu(one)) if serial(one) else (),
                by_level=True,
            ),
            Kind("other methods that draft by levels, by the level", serial, by_level=True),
        ),
    )


LEADERBOARD = Source(
    name="Spec-Bench",
    file="specbench.csv",
    columns=("target", "hardware", "method", "tau"),
    key=("hardware", "target", "batch", "method"),
    measured="overall_speedup",
    unit="times plain decoding",
    predict=predict_leaderboard,
    group=lambda _: GROUPS["leaderboard"],
    label=lambda row: ", ".join(text(row, c) for c in ("method", "target", "hardware")),
    tables=structure,
)


def tau_of(row: Row) -> float:
    """Tokens a round, from a cell that says ``tau=…`` among other things.

    Raises:
        CannotError: it says none.
    """
    cell = text(row, "alpha_or_tau").lower()
    found = re.search(r"tau\s*=?\s*(\d+(\.\d+)?)", cell)
    if not found or cell.startswith("not given"):
        missing = text(row, "any_missing_inputs")
        raise CannotError(f"not published: {missing or 'alpha or tau'}")
    return float(found[1])


def way_of(row: Row) -> Way:
    """How the method of a row of ``speedups.csv`` drafts, by its words."""
    words = f"{text(row, 'method')} {text(row, 'settings')}".lower()

    def find(pattern: str) -> int | None:
        found = re.search(pattern, words)
        return min(int(found[1]), MAX_WIDTH) if found else None

    drafts = find(r"\bk\s*=\s*(\d{1,4})\b") or find(r"\bchain (\d{1,4})\b")
    drafts = drafts or find(r"\b(\d{1,4}) nodes") or find(r"\bblock (\d{1,4})\b")
    if drafts is None:
        return WAYS["eagle"] if "eagle-1" in words else FLAT
    if any(word in words for word in COPIED):
        return Way(drafts + 1, 0)
    if "eagle-1" in words:
        return Way(drafts, WAYS["eagle"].levels)
    levels = 1 if "block" in words else find(r"\bdepth (\d{1,3})\b") or drafts
    return Way(drafts + 1, levels)


def paper_round(row: Row) -> Round:
    """What is known of a row of ``speedups.csv``."""
    return Round(way_of(row), text(row, "hardware"), text(row, "model_pair"), None)


by_paper_cost = partial(
    by_cost,
    tau_of=tau_of,
    speedup_of=lambda one: needed(one, "measured_speedup")[0],
    round_of=paper_round,
)


def predict_paper(row: Row, others: Rows) -> Prediction:
    """A speed-up that a paper reports together with ``tau``."""

    def cells(*columns: str) -> Callable[[Row], tuple[str, ...]]:
        return lambda one: (*(text(one, c) for c in columns), text(one, "model_pair").split(",")[0])

    def method(one: Row) -> tuple[str, ...]:
        return tuple(text(one, column) for column in ("source", "method", "batch"))

    def elsewhere(one: Row) -> tuple[str, ...]:
        return (text(one, "method").lower(), str(way_of(one))) if alone(one) else ()

    return by_paper_cost(
        row,
        others,
        kinds=(
            Kind("the model", cells("source", "method", "batch", "hardware")),
            Kind("the method", method),
            Kind("the method in other sources", elsewhere),
            Kind(
                "this source, by the level",
                lambda one: (*alone(one), text(one, "source")) if alone(one) else (),
                by_level=True,
            ),
            *([ELSEWHERE] if gpu_in(text(row, "hardware")) else []),
        ),
    )


def alone(row: Row) -> tuple[str, ...]:
    """A kind of rows: one text at a time."""
    return ("alone",) if text(row, "batch").split(" ")[0] in ("", "1") else ()


ELSEWHERE = Kind("other sources, by the level", alone, by_level=True)


def without_source(found: Sequence[Found]) -> list[TextTable]:
    """The errors with no help from the rows of the same source."""
    errors: dict[str, list[float]] = {}
    for one in found:
        own, apart = text(one.row, "source"), []
        if one.measured and alone(one.row) and way_of(one.row).levels:
            apart = [other.row for other in found if text(other.row, "source") != own]
        try:
            value = by_paper_cost(one.row, apart, kinds=[ELSEWHERE]).value
        except CannotError:
            continue
        errors.setdefault(own, []).append((value or 0.0) / (one.measured or 1.0) - 1)
    rows = [
        [source, str(len(of)), f"{median(of):+.1%}", f"{max(of, key=abs):+.1%}"]
        for source, of in errors.items()
    ]
    caption = (
        "What a level of drafting costs is here the median over the other sources, and nothing is "
        "taken from the source itself: so a run of a framework that dsim has not seen is predicted."
    )
    head = ("source", "rows", "median error", "worst")
    title = "Rounds of a framework that no other row is of"
    return [TextTable(title=title, caption=caption, head=head, rows=rows)]
