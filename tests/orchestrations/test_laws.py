"""The laws that every orchestration obeys, whatever it is, on any timing and any draws."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from dsim.engines import laws
from dsim.orchestrations import COMPARED, DEFAULT, ORCHESTRATIONS, REFERENCES, title_of
from dsim.tasks.check import DEPLOYED
from tests.strategies import case_of, draws, timings

NAMES = tuple(ORCHESTRATIONS)
EVERY = (*laws.CHEAP, *laws.DEAR, *DEPLOYED)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60)
@given(timings(), draws(runs=1))
def test_every_law_is_kept(name, timing, accepts):
    case = case_of(timing, accepts)
    run = laws.watched_run(name, case)
    for law in EVERY:
        assert law(name, case, run) == "", law.__name__


def test_the_named_ones_are_registered() -> None:
    assert {*REFERENCES, *COMPARED, DEFAULT} <= set(ORCHESTRATIONS)
    assert title_of("nonsi") == "non-SI"
    assert title_of("eagle") == "eagle"
    assert len({o.colour for o in ORCHESTRATIONS.values()}) == len(ORCHESTRATIONS)
