"""Workloads that are replayed, traces for Perfetto, and energy."""

from __future__ import annotations

import json
import math
from collections import defaultdict

import pandas as pd
import pytest
from hypothesis import given, settings

from dsim.deployment import perfetto
from dsim.deployment.replay import read_trace
from dsim.deployment.serve import serve
from dsim.study.loader import loads
from tests.deployment.strategies import deployments, workloads
from tests.tasks.test_load import META, SMALL, WATTS, dsim, problems, small


def test_a_workload_is_replayed_from_a_file(tmp_path):
    (tmp_path / "w.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0.5,3,2\n0,1,4\n")
    path = small(tmp_path)
    result = dsim(
        "run",
        path,
        "--json",
        "--set",
        'workload.arrivals="trace"',
        "--set",
        'workload.trace_file="w.csv"',
        "--set",
        'algorithms=["nonsi"]',
    )
    assert result.exit_code == 0, result.output
    (case,) = json.loads(result.output)["cases"]
    assert case["requests"] == 2


def test_a_replayed_workload_is_part_of_its_study(tmp_path):
    rows = "arrival_s,prompt_tokens,output_tokens\n7.5,3,2\n7,1,4\n"
    (tmp_path / "w.csv").write_text(rows)
    more = 'arrivals = "trace"\ntrace_file = "w.csv"\n'
    text = SMALL.replace("[workload]\n", f"[workload]\n{more}")
    study = loads(text, folder=tmp_path)
    (tmp_path / "w.csv").unlink()
    again = loads(study.to_toml(), folder=tmp_path / "elsewhere")
    assert list(again.cases()) == list(study.cases())
    (case, *_) = again.cases()
    assert case.workload.trace == ((0, 1, 4), (500_000_000, 3, 2))  # from the first request on
    # It brings its own lengths, so room for tokens = 10 is not asked for.
    loads(study.to_toml(), "s", ["cluster.target_kv_tokens=6"])
    assert problems(text.replace('_file = "w.csv"', ' = "a,b\\n1,2"')) == [
        "s.toml: workload.trace: expected a column arrival_ms, got a, b; dsim's own has "
        "arrival_ms or arrival_s or arrival_us, prompt_tokens, output_tokens; Azure has TIMESTAMP, "
        "ContextTokens, GeneratedTokens; BurstGPT has Timestamp, Request tokens, Response tokens"
    ]


def test_a_trace_from_a_spreadsheet():
    text = "\ufeffarrival_ms,output_tokens\r\n\r\n1795000000005,2\r\n"  # since 1970
    assert read_trace(text) == ((0, 0, 2),)
    assert read_trace(f"{text}1795000000007.5,1\r\n")[1] == (2_500_000, 0, 1)
    with pytest.raises(ValueError, match="line 4: expected numbers"):
        read_trace(f"{text}x,2\r\n")


def test_whole_numbers_may_be_written_as_pandas_writes_them():
    """A column that once had blanks."""
    found = read_trace("arrival_s,prompt_tokens,output_tokens\n1,100.0,10.0\n")
    assert found == read_trace("arrival_s,prompt_tokens,output_tokens\n1,100,10\n")
    for wrong in ("1.5", "nan", "inf"):
        with pytest.raises(ValueError, match="line 2: expected numbers of tokens, got"):
            read_trace(f"arrival_s,prompt_tokens,output_tokens\n1,{wrong},10\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("arrival_ms,output_tokens\n1,99999999999999999999\n", "10,000,000 tokens at most"),
        (f"arrival_ms,output_tokens\n1,{'9' * 140_000}\n", "line 1: field larger"),
        ("arrival_s,output_tokens\n1,1\n999999999999,1\n", "more than 30 years"),
        ("", "expected a header"),
        ("a,b\n1,2\n", "expected a column arrival_ms"),
        ("arrival_ms,output_tokens\n1,x\n", "line 2: expected numbers"),
        ("arrival_ms,output_tokens\n-1,3\n", "line 2: expected an arrival"),
        ("arrival_ms,output_tokens\n1,0\n", "an output ≥ 1"),
        ("Timestamp,Request tokens,Response tokens\n1,5,-1\n", "an output ≥ 0"),
        # A blank prompt was taken for none.
        (
            "arrival_s,prompt_tokens,output_tokens\n1,,3\n",
            "line 2: expected numbers of tokens, got nothing for the prompt, 3 for the answer",
        ),
    ],
)
def test_bad_traces_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_trace(text)


@settings(max_examples=40)
@given(deployments(), workloads(6))
def test_traces_keep_to_the_format(deployment, workload):
    """The trace event format, as far as it is used; slices of a track nest."""
    run = serve(deployment, workload, keep_settled=True, keep_log=True)
    document = json.loads(json.dumps(perfetto.trace([("case", run), ("again", run)])))
    events = document["traceEvents"]
    needed = {
        "M": {"name", "pid", "tid", "args"},
        "X": {"name", "cat", "pid", "tid", "ts", "dur", "args"},
        "i": {"name", "s", "pid", "tid", "ts"},
        "s": {"name", "cat", "id", "pid", "tid", "ts"},
        "f": {"name", "cat", "id", "pid", "tid", "ts", "bp"},
        "b": {"name", "cat", "id2", "pid", "tid", "ts", "args"},
        "e": {"name", "cat", "id2", "pid", "tid", "ts"},
        "C": {"name", "pid", "ts", "args"},
    }
    for event in events:
        assert needed[event["ph"]] <= set(event)
        assert event.get("ts", 0) >= 0
        assert event.get("dur", 0) >= 0
    named = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    assert {(e["pid"], e["tid"]) for e in events if e["ph"] in "Xisfbe"} <= named
    waits = [[(e["id2"]["local"], e) for e in events if e["ph"] == end] for end in "be"]
    flows = [[(e["id"], e) for e in events if e["ph"] == end] for end in "sf"]
    for begun, ended in (waits, flows):
        starts, ends = dict(begun), dict(ended)
        assert len(begun) == len(ended) == len(starts)
        assert starts.keys() == ends.keys()
        assert all(start["ts"] <= ends[which]["ts"] for which, start in starts.items())
    # As Perfetto reads them: times are cut to ns, and what begins at one instant nests in order.
    tracks = defaultdict(list)
    for e in events:
        if e["ph"] == "X":
            start, dur = int(e["ts"] * 1e3), int(e["dur"] * 1e3)
            tracks[e["pid"], e["tid"]].append((start, start + dur))
    for slices in tracks.values():
        stack = []
        for start, end in sorted(slices, key=lambda s: s[0]):
            while stack and stack[-1] <= start:
                stack.pop()
            assert not stack or end <= stack[-1]  # what overlaps otherwise is not shown
            stack.append(end)
    for e in events:
        assert type(e["pid"]) is int
        assert type(e.get("tid", 0)) is int
        assert all(math.isfinite(e.get(key, 0)) for key in ("ts", "dur"))
        assert isinstance(e["name"], str)
        assert e["name"]
        if e["ph"] == "M":
            value = "sort_index" if e["name"].endswith("sort_index") else "name"
            assert set(e["args"]) == {value}
            assert e["name"] in META
        if e["ph"] == "C":
            assert all(type(v) is int and v >= 0 for v in e["args"].values())
        if e["ph"] == "i":
            assert e["s"] == "t"
    last: dict[tuple[int, str], float] = {}
    for e in events:
        if e["ph"] == "C":  # each counter goes forward
            (of,) = e["args"]
            assert last.get((e["pid"], of), -1) < e["ts"]
            last[e["pid"], of] = e["ts"]
    twins = defaultdict(list)
    for e in events:
        if e["ph"] in "be":
            twins[e["cat"], e["id2"]["local"], e["pid"], e["name"]].append(e["ph"])
    assert all(phases == ["b", "e"] for phases in twins.values())
    # Every forward that took time is in the slice that its flow ends at; others are instants.
    told = [
        words
        for e in events
        if e["ph"] in "Xi" and e["pid"] <= 2 and e["cat"] not in ("outage", "request", "queue")
        if e["name"] not in ("rejection", "rejected at admission")
        for words in (e["args"].values() if e["ph"] == "X" else [e["name"]])
    ]
    assert len(told) == sum(len(fleet.log) for fleet in run.fleets)
    assert sum(words.startswith("pass") for words in told) >= run.passes.sum()


def test_the_trace_of_a_study(tmp_path):
    path, trace = small(tmp_path), tmp_path / "t.json"
    result = dsim(
        "run", path, "--out", tmp_path / "out", "--trace", trace, "--set", "workload.requests=5"
    )
    assert result.exit_code == 0, result.output
    names = [
        e["args"]["name"]
        for e in json.loads(trace.read_text())["traceEvents"]
        if e["name"] == "process_name"
    ]
    assert names == [f"{w}: {a}" for a in ("non-SI", "SI", "DSI") for w in ("servers", "requests")]
    many = dsim(
        "run", small(tmp_path, "[grid]\nlookahead = [1, 2, 3, 4, 5]\n"), "--json", "--trace", trace
    )
    assert many.exit_code == 2
    assert "expected at most 12 cases, got 15" in many.output


def test_a_trace_is_compressed_where_its_name_says_so(tmp_path):
    import gzip

    made = []
    for name in ("t.json", "t.json.gz"):
        path = tmp_path / name
        few = ("--set", "workload.requests=5", "--set", 'algorithms=["nonsi"]')
        result = dsim("run", small(tmp_path), "--json", "--trace", path, *few)
        assert result.exit_code == 0, result.output
        made.append(path.read_bytes())
    assert gzip.decompress(made[1]) == made[0]
    assert len(made[1]) < len(made[0]) / 4


def test_energy_is_absent_unless_watts_are_given(tmp_path):
    path = small(tmp_path)
    without = dsim("run", path, "--json")
    assert all(case["kwh_per_million"] is None for case in json.loads(without.output)["cases"])
    options = [part for pair in WATTS for part in ("--set", pair)]
    with_watts = dsim("run", path, *options, "--out", tmp_path / "out")
    assert "kWh / M tokens" in with_watts.output
    assert "kWh / M tokens" not in dsim("run", path, "--out", tmp_path / "other").output
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    assert (frame["joules_per_request"] > 0).all()
    assert "kWh / M tokens" in (tmp_path / "out" / "report.html").read_text()


def test_energy_is_counted_for_all_gpus_or_for_none():
    found = problems(SMALL, WATTS[:1])
    assert len(found) == 3
    assert all("is missing: cluster.target_watts is set" in problem for problem in found)
    assert problems(SMALL, [*WATTS[:3], "cluster.drafter_idle_watts=400"]) == [
        "s.toml: cluster.drafter_idle_watts: expected at most 300 (cluster.drafter_watts)"
    ]
    loads(SMALL, overrides=[*WATTS[:2], 'algorithms=["nonsi"]'])
