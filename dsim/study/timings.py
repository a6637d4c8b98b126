"""The timings of the cases that the vector engine takes at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dsim.engines import vector
from dsim.study.build import fanout_of, latency_of, targets_of, tree_of
from dsim.study.study import Axis, points

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dsim.model.case import TreeShape
    from dsim.model.latency import Latency

TIMING_KEYS = {
    *(f"{m}.{n}" for m in ("target", "drafter") for n in ("latency_ms", "first_latency_ms")),
    *(f"{m}.first_latency_ratio" for m in ("target", "drafter")),
    "drafter.latency_relative",
    "lookahead",
    "targets",
    "tree.depth",
}


def is_inner(axis: Axis) -> bool:
    """Whether the vector engine takes all values of *axis* at once."""
    draws = axis.key.startswith("acceptance.") and axis.key != "acceptance.model"
    return draws or axis.key in TIMING_KEYS


def timings_of(settings: Mapping[str, Any], axes: Sequence[Axis]) -> Iterator[vector.Timing]:
    """The timing of every combination of the values of *axes*."""
    tree, fanout = tree_of(settings), fanout_of(settings)
    trees: dict[int, TreeShape] = {}
    known: dict[tuple[Any, ...], tuple[Latency, Latency]] = {}
    keys = [axis.key for axis in axes if axis.key not in ("lookahead", "targets", "tree.depth")]
    for point in points(axes):
        pair = tuple(point[key] for key in keys)
        if pair not in known:
            values = {**settings, **point}
            known[pair] = latency_of(values, "target"), latency_of(values, "drafter")
        target, drafter = known[pair]
        lookahead = point.get("lookahead", settings["lookahead"])
        block = settings["drafter.block_tokens"]
        targets = point.get("targets", settings["targets"])
        depth = point.get("tree.depth", tree.depth)
        if depth not in trees:
            trees[depth] = dataclasses.replace(tree, depth=depth)
        yield vector.Timing(
            drafter_ns=drafter.latency_ns,
            target_ns=target.latency_ns,
            lookahead=lookahead,
            targets=targets_of(targets, lookahead, drafter.latency_ns, target.latency_ns, block),
            drafter_first_ns=drafter.first_ns,
            target_first_ns=target.first_ns,
            block_tokens=block,
            patience=settings["patience"],
            tree=trees[depth],
            fanout=fanout,
        )
