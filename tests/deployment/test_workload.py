"""Workloads: gaps, lengths, acceptance rates, and streams of random numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.deployment.workload import Length, Workload, uniforms
from dsim.model.acceptance import Acceptance


def test_gaps_have_the_rate_and_the_spread_asked_for():
    for arrivals, cv in (("poisson", 1.0), ("gamma", 3.0)):
        workload = Workload(arrivals=arrivals, cv=3.0, requests=20_000, rate_per_s=10.0)
        arrival = workload.arrival_ns(0, 0) / 1e9
        gaps = arrival[1:] - arrival[:-1]
        assert gaps.mean() == pytest.approx(0.1, rel=0.05)
        assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06)


@given(st.integers(1, 300), st.floats(0.1, 3), st.integers(0, 5))
def test_lengths(mean, cv, replication):
    workload = Workload(requests=3000, output=Length(model="lognormal", mean_tokens=mean, cv=cv))
    _, lengths = workload.lengths(0, replication)
    assert lengths.min() >= 1
    if mean > 50 and cv < 1:
        assert lengths.mean() == pytest.approx(mean, rel=0.1)


def test_streams_are_apart():
    """One number for each (replication, purpose, part): no two the same."""
    firsts = [
        uniforms(0, replication, purpose, part).next(1)[0]
        for replication in range(3)
        for purpose in range(7)
        for part in range(3)
    ]
    assert len(set(firsts)) == len(firsts)


def test_the_acceptance_of_requests_spreads():
    rates = Workload(requests=4000).rates(0, 0, Acceptance(rate=0.7, spread=0.1))
    assert abs(rates.mean() - 0.7) < 0.01
    assert abs(rates.std() - 0.1) < 0.01
    assert ((rates > 0) & (rates < 1)).all()
    assert np.array_equal(Workload(requests=3).rates(0, 0, Acceptance(rate=0.7)), [0.7] * 3)
