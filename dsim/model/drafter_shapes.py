"""Drafters that live on a target: EAGLE-3's head, MTP modules and Medusa's heads, as shapes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.model.shape import shape_of
from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from dsim.model.shape import Shape

EAGLE3_VOCABULARY = 32_000  # tokens that EAGLE-3's heads can draft, as published
MEDUSA_HEADS = 4


def eagle3(target: Shape) -> Shape:
    """EAGLE-3's head (Li et al., arXiv 2503.01840).

    A matrix that fuses three of the target's features into one, and a layer of the target's kind
    that reads it beside the embedding, so with inputs twice as wide; a dense MLP and a smaller
    vocabulary. The embedding is the target's.
    """
    width, heads = target.width, target.heads
    each = round(target.head_width)
    kv_heads = target.kv_heads or heads
    mlp = 12 * width**2 if target.experts else target.dense_parameters // target.layers
    return dataclasses.replace(
        target,
        name=f"eagle3 head of {target.name}",
        layers=1,
        kv_heads=kv_heads,
        kv_elements=2 * kv_heads * each,
        vocabulary=min(EAGLE3_VOCABULARY, target.vocabulary),
        attention_parameters=width * each * (2 * (heads + 2 * kv_heads) + heads),
        dense_parameters=3 * width**2 + mlp,
        experts=0,
        experts_per_token=0,
        expert_parameters=0,
        expert_layers=0,
        tied=True,
        dtype="bf16",
    )


def mtp(target: Shape) -> Shape:
    """A module for multi-token prediction (DeepSeek-V3, arXiv 2412.19437).

    A matrix from twice the width to the width, and one layer of the target's kind, experts
    included. Embedding and output matrix are the target's.
    """
    of_expert_layers = target.experts * target.width  # the router
    return dataclasses.replace(
        target,
        name=f"mtp module of {target.name}",
        layers=1,
        dense_parameters=2 * target.width**2
        + (
            of_expert_layers + target.expert_parameters
            if target.experts
            else target.dense_parameters // target.layers
        ),
        expert_layers=min(1, target.expert_layers),
        shared_head=True,
    )


def medusa(target: Shape) -> Shape:
    """Medusa's heads (Cai et al., arXiv 2401.10774).

    Each is a matrix of the width and an output matrix of its own; one forward drafts with all.
    """
    return dataclasses.replace(
        target,
        name=f"medusa heads of {target.name}",
        layers=0,
        kv_elements=0,
        vocabulary=MEDUSA_HEADS * target.vocabulary,
        attention_parameters=0,
        dense_parameters=MEDUSA_HEADS * target.width**2,
        experts=0,
        experts_per_token=0,
        expert_parameters=0,
        expert_layers=0,
        tied=True,
        dtype="bf16",
    )


HEADS: dict[str, Callable[[Shape], Shape]] = {"eagle3": eagle3, "mtp": mtp, "medusa": medusa}


def drafter_shape(name: str, target: Shape) -> Shape:
    """The shape of a drafter: ``eagle3``, ``mtp``, ``medusa``, or a model by name or folder.

    Raises:
        ValueError: there is no such model.
    """
    if name in HEADS:
        return HEADS[name](target)
    try:
        return shape_of(name)
    except ValueError as error:
        hint = nearest(name, list(HEADS))
        raise ValueError(f"expected {', '.join(HEADS)} or a model; {error}{hint}") from None
