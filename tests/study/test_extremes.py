"""Numbers and texts at which dsim once broke down: refused by name."""

from __future__ import annotations

import json

import pytest

from dsim.errors import UserError
from dsim.study import profile
from dsim.study.loader import loads

PAIR = {
    "format": profile.FORMAT,
    "name": "extreme",
    "target": {"model": "t", "latency_ms": 5.4, "latency_by_width_ms": [[1, 5.4], [8, 1e40]]},
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("more_drafters.latency_ms = 2", "expected as many of one as of the other"),
        ('pair = "a\\u0000b"', "pair: holds a control character"),
        (f'pair = "{"a" * 5000}"', "cannot be read: File name too long"),
        (f"tokens = {'[' * 2000}{']' * 2000}", "is nested too deeply"),
        ("[workload]\nprompt_tokens = 1e19", "from 0 to 1,000,000,000, got 1e+19"),
        (
            '[cluster]\nfaults = [{server = "target 1", at_s = 1e308}]',
            "cluster.faults[0].at_s: expected a time from 0 to 1,000,000,000 s",
        ),
        (
            '[cluster]\nfaults = [{server = "target 1", at_s = 0, for_s = 1e308}]',
            "cluster.faults[0].for_s: expected a time above 0 s, at most 1,000,000,000 s",
        ),
        ('title = "a\\u0000b"', "title: holds a control character"),
        (
            '[[charts]]\nkind = "lines"\nx = "lookahead"\ny = "passes"\ntitle = "\\u0000"',
            "charts[0].title: holds a control character",
        ),
        ('[[variants]]\nname = "a\\u0000"', "variants[0].name: holds a control character"),
    ],
)
def test_extremes_are_refused_by_name(text, message):
    with pytest.raises(UserError) as caught:
        loads(text)
    assert message in str(caught.value)


def test_a_profile_has_latencies_that_can_be_counted():
    with pytest.raises(UserError, match=r"target.latency_by_width_ms: expected a list of"):
        profile.loads(json.dumps(PAIR), "pair.json")
