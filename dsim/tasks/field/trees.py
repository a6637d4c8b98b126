"""Rounds of one server: what a round costs in plain steps, from tokens a round and speed-ups.

Spec-Bench's leaderboard is of this kind, and so are the rows of ``speedups.csv`` that say how many
tokens a round makes (``tau``). A round's cost depends on the widths, the levels and the head of the
method and on the framework, not on the text: so the cost of a run is taken from the other runs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from dsim.report.tables import TextTable
from dsim.tasks.field.source import GROUPS, CannotError, Prediction, Source, median, needed, text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.tasks.field.source import Found, Row, Rows

# A method that drafts one token or level after the other runs its head or drafter several times a
# round. All methods of the leaderboard run in one framework, which launches layer after layer:
# there such a forward costs a share of a plain step that falls with the layers of the target.
SERIAL = ("eagle", "sps")
LAYERS = {"7B": 32, "8B": 32, "13B": 40, "33B": 60, "70B": 80}


def by_cost(
    row: Row,
    others: Rows,
    *,
    tau_of: Callable[[Row], float],
    speedup_of: Callable[[Row], float],
    alike: Sequence[tuple[str, Callable[[Row], tuple[str, ...]]]],
    layers: Callable[[Row], float] = lambda _: 1.0,
) -> Prediction:
    """The speed-up: tokens a round over the cost of a round in plain steps.

    Args:
        row: the row.
        others: other rows.
        tau_of: tokens a round. This and the next raise :class:`CannotError` where there is none.
        speedup_of: the speed-up.
        alike: what rows have to have in common, in words and as their cells, the closest first. The
            cost is the median over the others of the first kind of which there is one.
        layers: what a round's cost beyond a plain step falls with.

    Raises:
        CannotError: there is none of any kind, or no ``tau``.
    """
    tau = tau_of(row)
    for words, cells in alike:
        costs = []
        for other in others:
            if cells(other) == cells(row):
                try:
                    more = tau_of(other) / speedup_of(other) - 1
                except CannotError:  # of that other row
                    continue
                costs.append(1 + more * layers(other) / layers(row))
        if costs:
            cost = median(costs)
            notes = f"a round costs {cost:.3f} plain steps, from {len(costs)} other rows of {words}"
            return Prediction(tau / cost, notes=notes)
    raise CannotError("not published: the cost of a round, and no other run of the method has one")


def layers_of(row: Row) -> float:
    """Layers of the target, where they matter; else 1."""
    size = re.search(r"\d+(\.\d+)?B", text(row, "target").upper())
    serial = text(row, "method").lower().startswith(SERIAL)
    return LAYERS.get(size[0], 1) if serial and size else 1


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
LEVELS = {"EAGLE": 5, "EAGLE2": 6, "EAGLE3": 8, "EAGLE-3": 8}


def cost_row(label: str, target: str, method: str, cost: float) -> list[str]:
    """What levels and head explain of a round's *cost*, by weights and by layers; or nothing."""
    head = next((head for head in HEADS if head.target in target), None)
    if method not in LEVELS or head is None:
        return []
    levels = LEVELS[method]
    by_weights = 1 + levels * (head.layer + head.output) / head.weights
    by_layers = 1 + levels / LAYERS[head.target.rpartition("-")[2]]
    numbers = (f"{number:.2f}" for number in (cost, by_weights, by_layers, cost - by_weights))
    return [label, str(levels), *numbers]


def cost_table(title: str, rows: Sequence[list[str]]) -> list[TextTable]:
    """A table of :func:`cost_row`."""
    caption = (
        "The cost of a round in plain steps: measured (tau over speed-up); a flat pass and the "
        "head's levels by their weights; by launches, a layer a level; and what the weights leave, "
        "which is the framework's: building the tree, its mask, copies, and launches."
    )
    names = ("run", "levels", "measured", "by weights", "by layers", "left")
    known = [row for row in rows if row]
    return [TextTable(title=title, caption=caption, head=names, rows=known)] if known else []


def structure(found: Sequence[Found]) -> list[TextTable]:
    """What explains the costs of the leaderboard."""
    rows = [
        cost_row(
            one.source.label(one.row),
            text(one.row, "target"),
            text(one.row, "method"),
            needed(one.row, "tau")[0] / one.measured,
        )
        for one in found
        if one.measured
    ]
    return cost_table("Spec-Bench: where the cost of a round hides", rows)


def predict_leaderboard(row: Row, others: Rows) -> Prediction:
    """Overall speed-up of a method on Spec-Bench."""
    if not text(row, "method"):
        raise CannotError("not published: method")

    def method(one: Row) -> str:
        return text(one, "method").lower()

    return by_cost(
        row,
        others,
        tau_of=lambda one: needed(one, "tau")[0],
        speedup_of=lambda one: needed(one, "overall_speedup")[0],
        alike=(
            ("the method on this GPU", lambda one: (method(one), text(one, "hardware"))),
            ("the method", lambda one: (method(one),)),
        ),
        layers=layers_of,
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


def predict_paper(row: Row, others: Rows) -> Prediction:
    """A speed-up that a paper reports together with ``tau``."""

    def cells(*columns: str) -> Callable[[Row], tuple[str, ...]]:
        return lambda one: (*(text(one, c) for c in columns), text(one, "model_pair").split(",")[0])

    def method(one: Row) -> tuple[str, ...]:
        return tuple(text(one, column) for column in ("source", "method", "batch"))

    return by_cost(
        row,
        others,
        tau_of=tau_of,
        speedup_of=lambda one: needed(one, "measured_speedup")[0],
        alike=(
            ("the model", cells("source", "method", "batch", "hardware")),
            ("the method", method),
        ),
    )
