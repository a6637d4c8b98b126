"""What a validation claims of measured times that are given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from dsim.tasks.validate import claims
from dsim.tasks.validate.settings import Configuration


@pytest.mark.parametrize(
    ("measured", "holds", "says"),
    [
        ([90.0, 95.0, 99.0], True, "0.947 of it"),
        ([90.0, 101.0, 120.0], True, "1.037 of it, which may be chance (±"),
        ([60.0, 100.0, 240.0], None, "1.333 of it, which may be chance (±"),
        ([130.0, 133.0, 137.0], False, "1.333 of it, predicted 0.900"),
    ],
)
def test_what_is_slower_by_much_and_by_chance_cannot_be_told(measured, holds, says) -> None:
    """DSI took 1.19 times as long as non-SI, and "DSI ≤ non-SI" held."""

    def row(name, measured_ms, predicted):
        times = np.array(measured_ms), np.full(3, predicted)
        return SimpleNamespace(
            configuration=Configuration(name, 1, 1),
            measured_ms=times[0],
            predicted_replay_ms=times[1],
        )

    flat = {"target": SimpleNamespace(at_width=lambda _: 10.0)}
    pair = row("dsi", measured, 90.0), row("nonsi", [100.0] * 3, 100.0)
    calibration = SimpleNamespace(costs=dict.fromkeys((one.configuration for one in pair), flat))
    claim = claims._not_slower("DSI ≤ non-SI", [pair], calibration, 0.1)
    assert claim.holds is holds
    assert says in claim.detail
