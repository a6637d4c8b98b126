"""A case: how a text is made, and how often."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.model.lookahead import FIXED, Policy

if TYPE_CHECKING:
    from dsim.model.acceptance import Acceptance
    from dsim.model.drafters import MoreDrafter
    from dsim.model.latency import Latency


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How a text is made.

    Attributes:
        target, drafter: latencies of the two models.
        acceptance: which drafts are accepted.
        lookahead: ``k``, drafts per block.
        policy: whether and how the lookahead adapts.
        targets: ``S``, target servers, for orchestrations that make use of several.
        preemptible: whether a cancelled forward frees its server at once.
        seed: seed of everything random.
        more_drafters: drafters beside the first, for orchestrations that make use of them.
    """

    target: Latency
    drafter: Latency
    acceptance: Acceptance
    lookahead: int
    policy: Policy = FIXED
    targets: int
    preemptible: bool
    seed: int
    more_drafters: tuple[MoreDrafter, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case(Decoding):
    """One point of the grid, ready to be simulated by any orchestration.

    Attributes:
        tokens: ``N``, tokens of the text.
        repeats: how many texts, each with random draws of its own.
    """

    tokens: int
    repeats: int
