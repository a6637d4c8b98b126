"""PEARL and PipeSpec: worked cases, and the rules written plainly (``tests/plain_field.py``)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.engines.simulate import run_events, simulate_case
from dsim.engines.vector import Timing
from dsim.study.loader import make_case
from tests import plain_field as plain
from tests.strategies import case_of

WORKED = {  # t1 = 3, t2 = 10; settle times by hand, from the rules
    ("pearl", 2): ("10 20 20 30 30 40", "10 20 30 40 50 60", "10 20 20 30 40 40"),
    ("pearl", 3): ("10 20 20 20 30 30", "10 20 30 40 50 60", "10 20 20 30 40 40"),
    ("pipespec", 1): ("10 22 22 22 22 32", "10 22 34 44 54 64", "10 22 22 32 42 42"),
    ("pipespec", 3): ("16 16 16 26 26 26", "16 32 48 64 77 87", "16 16 16 32 32 32"),
}


def settled(name, t1, t2, draws, lookahead):
    case = case_of(
        Timing(drafter_ns=t1, target_ns=t2, lookahead=lookahead, targets=1), np.array([draws])
    )
    return run_events(case, name, 0)


@pytest.mark.parametrize(("name", "lookahead"), WORKED)
def test_worked_cases(name, lookahead):
    for draws, times in zip(("111111", "000000", "110111"), WORKED[name, lookahead], strict=True):
        run = settled(name, 3, 10, [bit == "1" for bit in draws], lookahead)
        assert run.output.settled_ns == [int(time) for time in times.split()]


@pytest.mark.parametrize("name", ["pearl", "pipespec"])
@given(
    t1=st.integers(1, 12),
    t2=st.integers(1, 12),
    draws=st.lists(st.booleans(), min_size=1, max_size=14),
    lookahead=st.integers(1, 6),
)
def test_the_rules_written_plainly(name, t1, t2, draws, lookahead):
    """Settle times and passes are those of the plain program, ties included."""
    run = settled(name, t1, t2, draws, lookahead)
    expected = getattr(plain, name)(t1, t2, [int(one) for one in draws], lookahead)
    assert run.output.settled_ns == expected.times
    assert run.target.begun == expected.passes
    assert run.drafter.begun == expected.forwards
    assert len(run.output.settled_ns) == len(draws)


def test_pearl_takes_as_long_as_the_closed_form():
    """Liu et al.: with γ·t1 ≤ t2 the speed-up is [1/(1 - p)] / [1 + p/(1 - p^γ)]."""

    for p, gamma in ((0.6, 4), (0.9, 10)):
        case = make_case(
            {
                "target.latency_ms": 10.0,
                "drafter.latency_ms": 10.0 / gamma,
                "acceptance.rate": p,
                "lookahead": gamma,
                "tokens": 20_000,
                "repeats": 4,
            }
        )
        latency = simulate_case(case, "pearl").latency_ns.mean()
        speedup = 10e6 * case.tokens / latency
        assert speedup == pytest.approx((1 / (1 - p)) / (1 + p / (1 - p**gamma)), rel=0.02)


def test_ssd_takes_as_long_as_the_closed_form():
    """A block behind a right guess is there when the pass ends; behind a wrong one it is drafted.

    With k drafts, F = 1 and share s of wrong first choices whose second choice is right, a guess is
    right with chance p^(k+1) + (1 - p^k)·s. A round takes t2, and k·t1 more behind a wrong one.
    """
    target_ms, drafter_ms, k, p, share = 10.0, 1.0, 3, 0.7, 0.4
    case = make_case(
        {
            "target.latency_ms": target_ms,
            "drafter.latency_ms": drafter_ms,
            "acceptance.rate": p,
            "acceptance.rank_shares": [share],
            "ssd.fanout": [1],
            "lookahead": k,
            "preemptible": True,
            "tokens": 20_000,
            "repeats": 4,
        }
    )
    right = p ** (k + 1) + (1 - p**k) * share
    tokens = (1 - p ** (k + 1)) / (1 - p)
    per_token_ns = (target_ms + (1 - right) * k * drafter_ms) / tokens * 1e6
    found = simulate_case(case, "ssd").latency_ns.mean() / case.tokens
    assert found == pytest.approx(per_token_ns, rel=0.01)
    nothing_right = (target_ms + k * drafter_ms) / tokens * 1e6
    assert found < 0.93 * nothing_right  # guesses matter here
