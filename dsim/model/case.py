"""A case: how a text is made, and how often."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING

from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency
from dsim.model.lookahead import FIXED, Policy

if TYPE_CHECKING:
    from dsim.model.drafters import MoreDrafter


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeShape:
    """The tree of drafts of orchestrations that have one (``docs/field.md``).

    Attributes:
        paths: the nodes of a static tree, each as its ranks from the root on; empty: the nodes are
            chosen by confidence.
        depth: levels at most.
        branches: candidates of each node that the drafter reads.
        nodes: nodes at most; ``None``: no limit.
        deviations: treedsi: how many ranks other than 1 a path may have.
    """

    paths: tuple[tuple[int, ...], ...] = ()
    depth: int = 5
    branches: int = 2
    nodes: int | None = None
    deviations: int = 1

    @cached_property
    def levels(self) -> int:
        """Levels of the tree, at most."""
        return max(map(len, self.paths), default=self.depth)

    @cached_property
    def known(self) -> frozenset[tuple[int, ...]]:
        """The paths of a static tree."""
        return frozenset(self.paths)

    @cached_property
    def expanded(self) -> frozenset[tuple[int, ...]]:
        """Those of its nodes, and the root, that have nodes below."""
        return frozenset(path[:-1] for path in self.paths)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a text is made.

    Attributes:
        target, drafter: latencies of the two models.
        acceptance: which drafts are accepted.
        lookahead: ``k``, drafts per block.
        policy: whether and how the lookahead adapts.
        preemptible: whether a cancelled forward frees its server at once.
        seed: seed of everything random.
        block_tokens: ``b``, drafts that one forward of the (first) drafter makes.
        patience: drafts that the first pass of a branch waits for.
        tree: the tree of drafts.
        fanout: ssd: guesses of the target's own token after 0, 1, … accepted drafts (the last
            number goes on).
    """

    target: Latency = dataclasses.field(default_factory=Latency)
    drafter: Latency = dataclasses.field(default_factory=lambda: Latency(latency_ns=100_000))
    acceptance: Acceptance = dataclasses.field(default_factory=Acceptance)
    lookahead: int = 5
    policy: Policy = FIXED
    preemptible: bool = True
    seed: int = 0
    block_tokens: int = 1
    patience: int = 0
    tree: TreeShape = TreeShape()
    fanout: tuple[int, ...] = (1,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case(Decoding):
    """One point of the grid, ready to be simulated by any orchestration.

    Attributes:
        tokens: ``N``, tokens of the text.
        repeats: how many texts, each with random draws of its own.
        targets: ``S``, target servers, for orchestrations that make use of several.
        more_drafters: drafters beside the first, for orchestrations that make use of them.
    """

    tokens: int
    repeats: int
    targets: int
    more_drafters: tuple[MoreDrafter, ...] = ()

    @property
    def has_first(self) -> bool:
        """Whether a first forward, which reads the prompt, has a latency of its own."""
        return self.target.first_ns is not None or self.drafter.first_ns is not None
