"""dsim validate: what its options and the orchestrations of plugins are told."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.tasks.validate.page import as_json, as_text
from dsim.tasks.validate.settings import load
from tests.tasks.test_validate import World, validate


def test_options_of_models_are_refused_where_no_model_runs() -> None:
    """A drafter that does not exist was named, and the waits were "validated" without a word."""
    words = ["validate", "--backend", "wallclock", "--drafter", "no:Such", "--share"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    for option in ("--drafter", "--share"):
        told = f'{option}: has no meaning with backend "wallclock", which runs no models'
        assert told in result.output


@pytest.mark.parametrize(("key", "least"), [("prompts", 2), ("tokens", 2), ("repeats", 1)])
def test_too_few_measurements_are_refused(key, least):
    """Of one text nothing can be said of others."""
    assert load(None, {key: least})[key] == least
    with pytest.raises(UserError, match=f"{key}: expected a whole number"):
        load(None, {key: least - 1})


def test_an_orchestration_that_breaks_a_law_is_named_beside_claims_that_hold(monkeypatch) -> None:
    doubt = "Do not trust the numbers of Mine: mine breaks a law"
    monkeypatch.setattr("dsim.tasks.validate.run.doubts", lambda names: [doubt] * ("si" in names))
    found, _ = validate(World(), algorithms=["nonsi", "si"])
    assert doubt in as_text(found)
    assert doubt in json.loads(as_json(found))["notes"]


def test_what_is_measured_where_nothing_is_said():
    """As docs/real-models.md has it."""
    found = load(None)
    assert (found["tokens"], found["prompts"], found["calibration_prompts"]) == (50, 8, 8)
    assert (found["repeats"], found["seed"]) == (5, 0)
    assert (found["lookahead"], found["targets"]) == ([1, 3, 5], [1])
    assert (found["tolerance"], found["tolerance_worst"], found["tolerance_rate"]) == (
        *(0.02, 0.05),
        0.05,
    )
