"""Predictions of trees of drafts, against a world whose truth the test knows."""

from __future__ import annotations

import pytest

from dsim.model.acceptance import Acceptance
from dsim.study.build import drafts_of
from dsim.tasks.validate import prediction
from dsim.tasks.validate.run import predict
from dsim.tasks.validate.run import validate as run_validation
from tests.tasks.test_validate import World, settings_of, validate


def test_trees_are_predicted_from_ranks(tmp_path) -> None:
    """From recorded ranks exactly, from the rate and the rank shares nearly; and from a file."""
    world = World(rate=0.6)
    world.acceptance = Acceptance(rate=0.6, rank_shares=(0.5, 0.3))
    wanted = settings_of(
        algorithms=["nonsi", "tree", "treedsi"],
        lookahead=[2],
        prompts=8,
        calibration_prompts=30,
        **{"tree.paths": [[1], [2], [3], [1, 1], [1, 2]], "patience": 1},
    )
    world.shape = drafts_of(wanted)
    path = tmp_path / "prediction.json"
    prediction.write(predict(wanted, bench=world), path)
    found = run_validation(wanted, against=prediction.read(path), bench=world)
    names = [str(row.configuration) for row in found.rows]
    more = "DSI over trees, lookahead 2"
    assert names == ["non-SI", "tree", more, f"{more}, 2 targets"]
    for row in found.rows:
        assert row.predicted_replay_ms == pytest.approx(row.measured_ms, rel=1e-6)
        assert abs(row.error_rate) < 0.1
    assert found.calibration.streaks.acceptance.rank_shares == pytest.approx((0.5, 0.3), abs=0.12)
    tree, plain = found.rows[1].measured_ms.mean(), found.rows[0].measured_ms.mean()
    assert tree < 0.75 * plain  # so much was there to predict


def test_trees_that_are_not_as_fast_as_predicted_are_named() -> None:
    class Late(World):
        def measure(self, text, configuration):
            found = super().measure(text, configuration)
            late = 3 if configuration.algorithm == "tree" else 1  # not by its forwards
            return found._replace(wall_ns=late * found.wall_ns)

    claim = "trees beat chains where that is predicted"
    more = {"algorithms": ["si", "tree"], "lookahead": [1], "targets": [1]}
    for kind in (World, Late):
        _, claims = validate(kind(rate=0.8), **more)
        assert claims[claim].holds == (kind is World)
        assert "of SI, lookahead 1, predicted 0." in claims[claim].detail
    assert claim not in validate(World(), algorithms=["nonsi", "si"])[1]
