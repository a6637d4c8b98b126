"""What the layouts of ``dsim advise`` are as deployments."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dsim.deployment.serve import serve
from dsim.deployment.workload import Length, Workload
from dsim.tasks.advise.layouts import Layout, deployment_of
from dsim.tasks.advise.question import Question

MS = 1_000_000
ASKED = Question(target_ns=30 * MS, drafter_ns=3 * MS, acceptance=0.7, gpus=4, tokens=40)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(algorithm="tree", nodes=8, depth=5, targets=2, degree=1, drafter_gpus=1),
        Layout(algorithm="treedsi", lookahead=4, targets=3, degree=1, drafter_gpus=1),
    ],
)
def test_second_choices_that_are_never_right_are_not_simulated(layout):
    """For they change nothing: the servers do the same at the same times."""
    quick = deployment_of(ASKED, layout)
    assert quick.tree.branches == 1
    whole = dataclasses.replace(quick, tree=layout.tree)
    assert whole.tree.branches > 1
    workload = Workload(rate_per_s=2.0, requests=40, output=Length(mean_tokens=40))
    a, b = serve(quick, workload), serve(whole, workload)
    for name in ("done_ns", "passes", "wasted_passes", "drafts", "wasted_drafts"):
        assert np.array_equal(getattr(a, name), getattr(b, name)), name
    assert [fleet.busy_ns for fleet in a.tallies] == [fleet.busy_ns for fleet in b.tallies]


def test_second_choices_are_simulated_where_they_matter():
    layout = Layout(algorithm="tree", nodes=8, depth=5, targets=2, degree=1, drafter_gpus=1)
    for more in ({"rank_shares": (0.4,)}, {"target_table": ((1, 30 * MS), (9, 40 * MS))}):
        assert deployment_of(dataclasses.replace(ASKED, **more), layout).tree == layout.tree
