"""Traces as the field publishes them: read as they are, cut, and made faster."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.deployment.replay import read_replay
from dsim.deployment.replica.blocks import CachedBlocks
from dsim.deployment.replica.request import Request
from dsim.errors import UserError
from dsim.study.build import workload_of
from dsim.study.loader import loads

requests = st.lists(
    st.tuples(st.integers(0, 10**6), st.integers(0, 5000), st.integers(1, 500)),
    min_size=1,
    max_size=20,
).map(sorted)


def azure(rows, offset=""):
    """Rows of (0.1 µs, prompt, output), with seven digits and perhaps a time zone."""
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for ticks, prompt, output in rows:
        at = dt.datetime(2023, 11, 16, 23, 59, 59, tzinfo=dt.UTC) + dt.timedelta(
            seconds=ticks // 10**7
        )
        lines.append(f"{at:%Y-%m-%d %H:%M:%S}.{ticks % 10**7:07d}{offset},{prompt},{output}")
    return "\r\n".join(lines) + "\r\n"


def burstgpt(rows):
    """Rows of (0.1 s, prompt, output)."""
    lines = ["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type"]
    lines += [f"{t / 10},ChatGPT,{p},{o},{p + o},Conversation log" for t, p, o in rows]
    return "\n".join(lines) + "\n"


def mooncake(rows):
    """Rows of (ms, prompt, output), each prompt with blocks of its own."""
    return "".join(
        json.dumps(
            {
                "timestamp": t,
                "input_length": p,
                "output_length": o,
                "hash_ids": [100 * n + i for i in range(-(-p // 512))],
            }
        )
        + "\n"
        for n, (t, p, o) in enumerate(rows)
    )


def own(rows):
    lines = ["request_id,arrival_us,prompt_tokens,output_tokens"]
    return "\n".join([*lines, *(f"{n},{t},{p},{o}" for n, (t, p, o) in enumerate(rows))])


MAKERS = {
    "Azure": (azure, 100),
    "BurstGPT": (burstgpt, 10**8),
    "Mooncake": (mooncake, 10**6),
    "dsim": (own, 1000),
}


@pytest.mark.parametrize("name", MAKERS)
@given(rows=requests)
def test_every_format_says_the_same(name, rows):
    """Times to the nanosecond from the first request on, and both lengths."""
    make, unit_ns = MAKERS[name]
    found = read_replay(make(rows))
    begin = rows[0][0]
    assert found.requests == tuple(((t - begin) * unit_ns, p, o) for t, p, o in rows)
    assert (found.source, found.failed) == (name, 0)


def test_the_traces_of_2024_have_a_time_zone():
    rows = [(5, 10, 2), (25, 3, 1)]
    assert read_replay(azure(rows, "+00:00")) == read_replay(azure(rows))


@pytest.mark.parametrize("name", ["Azure", "BurstGPT", "Mooncake"])
def test_requests_without_an_answer_are_left_out(name):
    make, unit_ns = MAKERS[name]
    found = read_replay(make([(0, 5, 0), (10, 6, 2), (20, 7, 0), (30, 8, 1)]))
    assert found.requests == ((0, 6, 2), (20 * unit_ns, 8, 1))
    assert found.failed == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            azure([(0, 1, 1)]).replace("GeneratedTokens", "Tokens"),
            "a column GeneratedTokens, got T",
        ),
        (burstgpt([(0, 1, 1)]).replace("Response", "Answer"), "expected a column Response tokens"),
        (mooncake([(0, 1, 1)]).replace("input_length", "x"), "line 1: expected a field input_len"),
        (azure([(9, 1, 1), (8, 1, 1)]), "line 3: times go back"),
        (burstgpt([(9, 1, 1), (8, 1, 1)]), "line 3: times go back, got 0.8, ChatGPT"),
        (mooncake([(9, 1, 1), (8, 1, 1)]), "line 2: times go back"),
        (own([(9, 1, 1), (8, 1, 1)]), "line 3: times go back"),
        (azure([(0, 1, 1)]).replace("2023-11-16", "16.11.23"), "line 2: TIMESTAMP: expected one"),
        (azure([(0, 1, 1)]).replace("2023-11-16", "2023-13-16"), "line 2: "),
        (burstgpt([(0, 1, 1)]).replace("ChatGPT,1", "ChatGPT,x"), "line 2: expected numbers"),
        (mooncake([(0, 600, 1)]).replace("[0, 1]", "[0]"), r"hash_ids: expected 2 \(600 tokens"),
        (mooncake([(0, 600, 1)]).replace("[0, 1]", '"a"'), "hash_ids: expected a list"),
        (mooncake([(0, 600, 1)]) + "{", "line 2: expected a JSON object"),
        *(
            (make([(0, 5, -1)]), "expected a prompt ≥ 0 and an output ≥ 0")
            for make in (azure, burstgpt, mooncake)
        ),
        (own([(0, 5, 0)]), "expected a prompt ≥ 0 and an output ≥ 1"),
        (burstgpt([]), "expected a header and at least one request"),
        (burstgpt([(0, 5, 0)]), "expected a header and at least one request"),
    ],
)
def test_what_is_wrong_is_said(text, message):
    with pytest.raises(ValueError, match=message):
        read_replay(text)


@given(requests, st.floats(0, 1), st.floats(0.01, 1), st.sampled_from([0.5, 1, 2, 10]))
def test_a_window_is_a_part_of_the_trace(rows, from_s, for_s, scale):
    whole = read_replay(own(rows))
    begin, end = round(from_s * 1e9), round(from_s * 1e9) + round(for_s * 1e9)
    inside = [row for row in whole.requests if begin <= row[0] < end]
    if not inside:
        with pytest.raises(ValueError, match="no request comes in that time"):
            whole.window(from_s, for_s, scale)
        return
    part = whole.window(from_s, for_s, scale)
    assert [row[1:] for row in part.requests] == [row[1:] for row in inside]
    first = inside[0][0] if from_s else 0
    for (at, _, _), (before, _, _) in zip(part.requests, inside, strict=True):
        assert at == round((before - first) / scale)
    assert whole.window() is whole


STUDY = """
algorithms = ["nonsi"]
[workload]
arrivals = "trace"
trace_file = "t.csv"
[replica]
count = 1
"""


def test_studies_replay_a_part(tmp_path):
    (tmp_path / "t.csv").write_text(burstgpt([(0, 5, 1), (100, 6, 2), (200, 7, 3), (300, 8, 4)]))
    text = STUDY.replace("[replica]", "from_s = 10\nfor_s = 15\nrate_scale = 2\n[replica]")
    study = loads(text, folder=tmp_path)
    assert workload_of(study.of_variant(0)).trace == ((0, 6, 2), (5 * 10**9, 7, 3))
    with pytest.raises(UserError, match=r"workload.from_s: no request comes .* has 30 s"):
        loads(text, overrides=["workload.from_s=40"], folder=tmp_path)
    with pytest.raises(UserError, match=r"workload.rate_scale: has no meaning"):
        loads("[workload]\nrate_scale = 2\n")


def test_hashes_are_the_keys_of_the_prefix_cache():
    """Two prompts with the same first hash share its 512 tokens, and no more."""
    blocks = CachedBlocks(0, 16)
    first = Request(0, 1100, 10, shared=1100, hashes=(7, 8, 9))
    blocks.grow(first, 1100)
    for hashes, hits in (((7, 8, 9), 1088), ((7, 8, 5), 1024), ((7, 4, 9), 512), ((1, 8, 9), 0)):
        request = Request(1, 1100, 10, shared=1100, hashes=hashes)
        assert blocks.hits(request) == hits, hashes
