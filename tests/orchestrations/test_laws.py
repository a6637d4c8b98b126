"""The laws that every orchestration obeys, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from dsim.engines.simulate import run_events
from dsim.orchestrations import COMPARED, DEFAULT, ORCHESTRATIONS, REFERENCES, title_of
from tests.strategies import case_of, draws, timings

NAMES = tuple(ORCHESTRATIONS)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(timings(), draws(runs=1))
def test_every_token_is_settled_once_and_in_order(name, timing, accepts):
    run = run_events(case_of(timing, accepts), name, 0, accepts[0], keep_history=True)
    output = run.output
    assert output.settled == len(output.settled_ns) == output.wanted
    assert output.settled_ns == sorted(output.settled_ns)
    passes, wasted, drafts, wasted_drafts, peak = run.counts
    assert 1 <= passes - wasted <= output.wanted
    assert 0 <= wasted_drafts <= drafts
    assert 1 <= peak <= (timing.targets if ORCHESTRATIONS[name].traits.several_targets else 1)
    assert bool(drafts) <= ORCHESTRATIONS[name].traits.drafts


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=50)
@given(timings(first=False), draws(runs=1))
def test_it_does_not_do_less_than_its_work(name, timing, accepts):
    """What the offered load counts is what is done, or less."""
    from dsim.model.script import script_of

    case = case_of(timing, accepts)
    script = script_of(case, accepts[0], 0)
    work = ORCHESTRATIONS[name].work(script.lengths, script.plan)
    run = run_events(case, name, 0, accepts[0])
    if work.exact:
        assert (len(work.widths), work.drafts) == (run.target.begun, run.counts[2])
    else:
        assert len(work.widths) <= run.target.begun or timing.drafter_ns > timing.target_ns


def test_the_named_ones_are_registered() -> None:
    assert {*REFERENCES, *COMPARED, DEFAULT} <= set(ORCHESTRATIONS)
    assert title_of("nonsi") == "non-SI"
    assert title_of("eagle") == "eagle"
    assert len({o.colour for o in ORCHESTRATIONS.values()}) == len(ORCHESTRATIONS)
