"""A case: how a text is made, and how often."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.model.acceptance import Acceptance
from dsim.model.latency import Latency
from dsim.model.lookahead import FIXED, Policy

if TYPE_CHECKING:
    from dsim.model.drafters import MoreDrafter


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
    """

    target: Latency = dataclasses.field(default_factory=Latency)
    drafter: Latency = dataclasses.field(default_factory=lambda: Latency(latency_ns=100_000))
    acceptance: Acceptance = dataclasses.field(default_factory=Acceptance)
    lookahead: int = 5
    policy: Policy = FIXED
    preemptible: bool = True
    seed: int = 0


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
