"""Failures and links as a study writes them; the effects themselves are in tests/deployment."""

from __future__ import annotations

import pytest

from dsim.deployment.spec import Faults
from dsim.errors import UserError
from dsim.study import loader as studies
from tests import ROOT

S = 1_000_000_000
TEXT = """
[cluster]
targets = 2
link_ms = [0.0, 1.5]
network_cv = 0.1
mtbf_s = 100
drafter_mtbf_s = 30
drafter_mttr_s = 2
retry = false

[[cluster.faults]]
server = "target 2"
at_s = 1.5
for_s = 0.5

[[cluster.faults]]
server = "drafter 1"
at_s = 0
"""


def test_a_study_says_what_fails_and_how_far_servers_are():
    (_, _, case) = studies.loads(TEXT).cases()
    d = case.deployment
    assert d.link_ns == (0, 1_500_000)
    assert (d.network_ns, d.network_cv) == (0, 0.1)
    assert d.faults == Faults(
        mtbf_ns=100 * S, mttr_ns=60 * S, plan=((1, 3 * S // 2, 2 * S),), retry=False
    )
    assert d.drafter_faults == Faults(
        mtbf_ns=30 * S, mttr_ns=2 * S, plan=((0, 0, -1),), retry=False
    )


def test_nothing_fails_unless_it_is_said():
    (case, *_) = studies.loads("[cluster]").cases()
    assert not case.deployment.faults
    assert not case.deployment.drafter_faults
    assert case.deployment.link_ns == ()


def test_the_resolved_study_reads_back_the_same():
    study = studies.load(ROOT / "studies" / "faults.toml")
    again = studies.loads(study.to_toml())
    assert [c.deployment for c in again.cases()] == [c.deployment for c in study.cases()]


def test_set_of_one_kind_of_delay_takes_the_other_away():
    (case, *_) = studies.loads(TEXT, overrides=["cluster.network_ms=3"]).cases()
    assert (case.deployment.network_ns, case.deployment.link_ns) == (3_000_000, ())


FAULT = "cluster.faults=[{{ {} }}]"
MISTAKES = {
    FAULT.format('server="target 3", at_s=1'): "faults[0].server: expected target 1 to target 2",
    FAULT.format('server="tagret 1", at_s=1'): '"drafter 1" or "further drafter 1.2", got "tagret',
    FAULT.format("server=1, at_s=1"): '"drafter 1" or "further drafter 1.2", got 1',
    FAULT.format('server="drafter 0", at_s=1'): "expected drafter 1 to drafter 1 (cluster.dr",
    FAULT.format('server="further drafter 1.1", at_s=1'): "there is no further drafter 1 (more_",
    FAULT.format('server="further drafter 1", at_s=1'): "expected a server like",
    FAULT.format("at_s=1"): "faults[0].server: is missing",
    FAULT.format('server="target 1"'): "faults[0].at_s: is missing",
    FAULT.format(
        'server="target 1", at_s=-1'
    ): "at_s: expected a time from 0 to 1,000,000,000 s, got -1",
    FAULT.format(
        'server="target 1", at_s=true'
    ): "at_s: expected a time from 0 to 1,000,000,000 s, got true",
    FAULT.format(
        'server="target 1", at_s=1, for_s=0'
    ): "for_s: expected a time above 0 s, at most 1,000,000,000 s, got 0",
    FAULT.format('server="target 1", at=1'): 'faults[0].at: unknown; did you mean "at_s"?',
    "cluster.faults=3": "cluster.faults: expected a list of tables, got 3",
    "cluster.link_ms=[1.0]": "cluster.link_ms: expected one delay for each of 2 target servers",
    "cluster.link_ms=[1.0, -1.0]": "expected a list of delays of at least 0, got [1.0, -1.0]",
    "cluster.drafter_mtbf=3": 'did you mean "cluster.drafter_mtbf_s"?',
}


@pytest.mark.parametrize("override", MISTAKES)
def test_mistakes_are_named(override):
    with pytest.raises(UserError) as caught:
        studies.loads(TEXT, overrides=[override])
    assert MISTAKES[override] in str(caught.value)
