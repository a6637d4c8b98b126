"""Further drafters: how fast they are, and how their guesses fare beside the first one's."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.model.acceptance import Uniforms
from dsim.model.lookahead import CONFIDENCE, MORE_STREAM

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dsim.model.latency import Latency

GUESSES = CONFIDENCE + 1  # low bits of the key of the first one's stream
MAX_MORE = 15 - GUESSES  # 15 is for the drafts on wrong prefixes (dsim.model.script)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoreDrafter:
    """A drafter beside the first.

    Attributes:
        latency: of its drafts, constant.
        rate: its acceptance rate.
        overlap: the part of the positions at which its draws are those of the first drafter: there
            the better of the two is right wherever the other is. Elsewhere it is independent.
    """

    latency: Latency
    rate: float
    overlap: float = 0.0

    def draws(
        self, first: NDArray[np.bool_], rate: float, seed: int, repeat: int, number: int
    ) -> NDArray[np.bool_]:
        """How its drafts fare: bool (tokens,).

        Args:
            first: bool (tokens,), how those of the first drafter fare,
            rate: and their acceptance rate.
            seed: seed of the run.
            repeat: repeat that the draws are for.
            number: 0 for the first of the further drafters, and so on.
        """
        uniforms = Uniforms(seed, (repeat << 4) + GUESSES + number, MORE_STREAM)
        u, shared = uniforms.next(2 * len(first)).reshape(-1, 2).T
        if self.rate >= rate:
            chance = 0.0 if rate == 1 else (self.rate - rate) / (1 - rate)
            alike = first | (u < chance)
        else:
            alike = first & (u < self.rate / rate)
        return np.where(shared < self.overlap, alike, u < self.rate)
