"""The vector engine: whole grids of cases with NumPy, exactly as the event engine has them.

It takes constant latencies (with or without a first-token latency) and servers that can be
preempted. Two observations make a grid far less work than its number of cases:

- A branch (everything drafted since the last restart) starts right behind a rejected draft. So the
  branches of a run depend on its draws alone, and are the same for every latency, lookahead and
  number of servers; SI goes through them as well. A branch is a pair: ``n`` drafts accepted of the
  ``r`` that are left to make.
- How long a branch takes, and the passes and drafts that it begins, depend on ``(n, r)`` and the
  timing only; and ``r`` matters only to the few branches near the end of the text. So a run is a
  histogram of ``n`` times a table over ``n``, plus a correction for the branches near the end.

Times are int64 nanoseconds. Sums that go through float64, where BLAS helps, are of whole numbers
below 2**53: exact, in whatever order.
"""

from __future__ import annotations

from dsim.engines.vector.branches import Branches
from dsim.engines.vector.timing import Form, Timing, Totals
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.declaration import resolve

__all__ = ["Branches", "Form", "Timing", "Totals", "form_of"]


def form_of(algorithm: str) -> Form:
    """The vector form of *algorithm*, which has one."""
    form: Form = resolve(ORCHESTRATIONS[algorithm].vector)
    return form
