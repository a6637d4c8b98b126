"""Up to which load speculation is faster than plain decoding."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.tasks.serving.trials import Layout, Trial


@dataclasses.dataclass(frozen=True)
class Crossover:
    """Where plain decoding gets faster than speculation of the same degree.

    Attributes:
        scale: at how many times the load; ``None``: at none that was compared.
        compared: the highest load that was compared.
        batch: requests in a step of plain decoding there, mean.
        ways: who was compared with plain decoding, the fastest of them at each load.
        piled_up: the next load, at which requests pile up with all; ``None``: there is none.
    """

    scale: float | None
    compared: float
    batch: float
    ways: Sequence[Layout] = ()
    piled_up: float | None = None


def crossover_of(curves: dict[Layout, list[Trial]], best: Layout) -> Crossover | None:
    """Where plain decoding gets faster than all speculation of the same degree that was tried."""
    alike = [layout for layout in curves if layout.tp == best.tp and not layout.readers]
    plain_one = next((layout for layout in alike if not layout.drafts), None)
    ways = sorted((one for one in alike if one.drafts), key=lambda one: one != best)
    if plain_one is None or not ways:
        return None
    before, last = None, None
    for plain, *drafting in zip(curves[plain_one], *(curves[one] for one in ways), strict=True):
        if before and plain.piles_up and all(one.piles_up for one in drafting):
            # Waits in queues that only grow say how long the trial was.
            return Crossover(None, last.scale, last.batch, ways, plain.scale) if last else None
        last = plain
        gain = math.log(plain.e2e_mean / min(one.e2e_mean for one in drafting))
        if gain <= 0:
            scale = plain.scale
            if before:
                part = before[1] / (before[1] - gain)
                scale = before[0] * (scale / before[0]) ** part
            return Crossover(scale, plain.scale, plain.batch, ways)
        before = plain.scale, gain
    return Crossover(None, last.scale, last.batch, ways) if last else None
