"""Worker processes and what can go wrong with them. They need no model: they look words up."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from dsim import make_case
from dsim.backends.torch.backend import LiveOutput
from dsim.backends.torch.decoders import Lookup, common_prefix
from dsim.backends.torch.models import ModelSpec
from dsim.backends.torch.pair import Pair
from dsim.backends.torch.placement import beside, place
from dsim.backends.torch.verify import Match
from dsim.backends.torch.workers import Workers, check_prompt
from dsim.cli import models
from dsim.cli.main import main
from dsim.engines import simulate
from dsim.errors import EngineError, UserError
from dsim.events.environment import Environment
from dsim.events.trace import spans
from dsim.orchestrations import COMPARED
from dsim.system import available_cores
from dsim.tasks import generate
from dsim.units import NS_PER_S
from tests import ROOT
from tests.tiny import alive

PAIR = Pair(
    target=ModelSpec(name="ngram"),
    drafter=ModelSpec(name="ngram"),
    tokenizer=None,
    vocab=50,
    context_tokens=2000,
    stop_ids=frozenset(),
)
PROMPT = [5, 6, 7, 8, 5, 6]
OUTPUT = [7, 8, 5, 6] * 8  # what looking up makes of it


@contextlib.contextmanager
def started():
    """Workers of which none is left."""
    with Workers(PAIR, 2, share=True, watchdog_ns=60 * NS_PER_S) as workers:
        pids = [process.pid for process in workers.processes]
        yield workers
    assert not alive(pids), "a worker is left"


@pytest.fixture(scope="module")
def workers():
    """For tests that leave them as they were: they answer whatever they have answered before."""
    with started() as workers:
        yield workers


@pytest.fixture
def doomed():
    """For tests after which they are of no use."""
    with started() as workers:
        yield workers


@pytest.mark.parametrize("algorithm", ["nonsi", "si", "dsi"])
def test_workers_answer_and_none_is_left(workers, algorithm: str) -> None:
    for targets in (1, 2):
        heard: list[int] = []
        run = workers.run(
            algorithm,
            PROMPT,
            len(OUTPUT),
            Match(),
            lookahead=3,
            targets=targets,
            on_settled=heard.extend,
        )
        assert run.output.tokens == heard == OUTPUT
        assert run.output.settled_ns == sorted(run.output.settled_ns)
        assert run.output.settled_ns[-1] <= run.wall_ns
        assert 0 <= run.orchestration_ns <= run.wall_ns
        for span in run.spans:
            assert span.begin_ns <= span.start_ns <= span.end_ns
            assert span.forward_ns <= span.end_ns - span.start_ns
        for lane in {(s.role, s.server) for s in run.spans}:
            mine = [s for s in run.spans if (s.role, s.server) == lane]
            assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(mine))


def messages(workers, algorithm: str, **more) -> tuple[dict[str, list], list]:
    """What the workers are told in one run, by name, and its spans."""
    told: dict[str, list] = {line.name: [] for line in workers.lines}
    with pytest.MonkeyPatch.context() as patch:
        for line in workers.lines:
            post, mine = line.post, told[line.name]
            patch.setattr(line, "post", lambda m, post=post, mine=mine: (mine.append(m), post(m)))
        run = workers.run(algorithm, PROMPT, len(OUTPUT), Match(), lookahead=3, **more)
    assert run.output.tokens == OUTPUT
    return told, run.spans


def test_si_asks_one_worker_once(workers) -> None:
    told, spans = messages(workers, "si")
    assert len(told["drafter"]) == 1, "it is told of the text, and no more"
    passes = [span for span in spans if span.role == "target"]
    # It goes on by itself, guessing the verdicts by the same rule, and is told to stop.
    assert [request is None for _, request in told["target 1"]] == [False, False, True]
    # One thing at a time, though two models answer.
    assert all(a.end_ns <= b.start_ns for a, b in itertools.pairwise(spans))
    assert sum(span.role == "drafter" for span in spans) > 2 * len(passes)


def test_non_si_asks_once(workers) -> None:
    told, spans = messages(workers, "nonsi")
    assert len(told["target 1"]) == 2
    assert len(spans) == len(OUTPUT)


def test_si_by_two_workers_if_nobody_said_that_it_was_to_come() -> None:
    with Workers(PAIR, 1, share=True, algorithms=("nonsi",)) as workers:
        assert not workers.together
        told, _ = messages(workers, "si")
        assert len(told["drafter"]) > 2


@pytest.mark.parametrize("algorithm", ["nonsi", "si", "dsi"])
def test_all_cores_for_one_server(workers, algorithm: str) -> None:
    given = []
    for all_cores in (False, True, False):
        told, _ = messages(workers, algorithm, all_cores=all_cores)
        (_, begin), *_ = told["target 1"]
        given.append((begin.cores, begin.threads))
    # Its drafter needs no core, so two workers of one thread have what one gets.
    own = (workers.cores[1] or tuple(available_cores()), 1)
    assert given == [own, own if algorithm == "dsi" else workers.all_cores(), own]
    assert workers.all_cores()[1] == min(2, len(available_cores()))


def test_the_cores_of_all_workers() -> None:
    workers = object.__new__(Workers)
    workers.pair, workers.threads, workers.lines = PAIR, 2, [None] * 3
    workers.everywhere, workers.cores = ["cpu"] * 3, [(), (0, 1), (2, 3)]
    assert workers.all_cores() == ((0, 1, 2, 3), 4)
    workers.everywhere = ["cpu", "cuda:0", "cuda:1"]
    with pytest.raises(UserError, match="several GPUs cannot work on one forward"):
        workers.all_cores()


@pytest.mark.parametrize("victim", ["drafter", "target 1"])
@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_killed_during_a_pass(doomed, victim: str, signal_) -> None:
    (process,) = (p for p in doomed.processes if p.name == f"dsim {victim}")

    def kill() -> None:
        time.sleep(0.3)
        os.kill(process.pid, signal_)
        os.kill(process.pid, signal.SIGCONT)

    doomed.begin(PROMPT, Match(), read=False, tokens=20)
    os.kill(process.pid, signal.SIGSTOP)  # so that it is at a pass when it dies
    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(EngineError, match=f"{victim} (died|failed).*{signal_.name}"):
        run_begun(doomed, "dsi")
    killer.join()


def run_begun(workers, algorithm: str):
    """A run whose workers have been told of the text already."""
    begin, workers.begin = workers.begin, lambda *_args, **_more: None
    try:
        return workers.run(algorithm, PROMPT, 20, Match(), lookahead=2)
    finally:
        workers.begin = begin


def test_a_worker_without_a_model_needs_no_torch() -> None:
    script = (
        "import sys; from dsim.backends.torch import worker; worker.use_threads(2); "
        "sys.exit(bool(sys.modules.get('torch')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_worker_killed_while_idle(doomed) -> None:
    process = doomed.processes[2]
    process.kill()
    process.join()
    with pytest.raises(EngineError, match=r"target 2 died .*SIGKILL"):
        doomed.run("dsi", PROMPT, 20, Match(), lookahead=2)


def test_a_worker_that_hangs(doomed) -> None:
    doomed.begin(PROMPT, Match(), read=False, tokens=20)
    doomed.watchdog_ns = NS_PER_S // 2
    os.kill(doomed.processes[1].pid, signal.SIGSTOP)
    with pytest.raises(EngineError, match=r"target 1 hangs in the pass over 0 tokens.*0\.5 s"):
        run_begun(doomed, "nonsi")


def test_workers_end_when_their_parent_is_killed() -> None:
    assert not alive(start_and_signal(signal.SIGKILL)[1])


def test_ctrl_c_leaves_no_process() -> None:
    code, pids, stderr = start_and_signal(signal.SIGINT)
    assert not alive(pids)
    assert (code, stderr) == (1, "stopped\n"), "the workers keep silent"


SCRIPT = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be inherited as ignored
from tests.backends.test_workers import Workers, Match, PAIR, PROMPT
if __name__ == "__main__":
    try:
        with Workers(PAIR, 2, share=True) as workers:
            print(*(process.pid for process in workers.processes), flush=True)
            while True:
                workers.run("dsi", PROMPT, 300, Match(), lookahead=2)
    except KeyboardInterrupt:
        sys.exit("stopped")
"""


def start_and_signal(signal_) -> tuple[int, list[int], str]:
    """Run SCRIPT, and send the signal to its whole process group, as a terminal does."""
    import pathlib
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        script = pathlib.Path(folder, "script.py")
        script.write_text(SCRIPT, encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 3
        time.sleep(0.5)  # into a run
        if signal_ == signal.SIGINT:
            os.killpg(process.pid, signal_)
        else:
            os.kill(process.pid, signal_)
        try:
            _, stderr = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, pids, stderr


def test_a_model_that_does_not_load_is_an_error_and_leaves_no_process(tmp_path) -> None:
    import dataclasses
    import multiprocessing

    pair = dataclasses.replace(PAIR, target=ModelSpec(name=str(tmp_path)))
    before = set(multiprocessing.active_children())  # those of the module
    with pytest.raises(EngineError, match=r"target 1 failed: .*\(while loading\)"):
        Workers(pair, 1, share=True)
    assert set(multiprocessing.active_children()) == before


def test_cores_are_shared_only_when_asked_for() -> None:
    cores = available_cores()
    given, contention = place(["cpu"] * len(cores), 1, share=False)
    assert sorted(given) == [(core,) for core in cores]
    assert contention == ""
    with pytest.raises(UserError, match=r"share \d+ cores.*allow it with --share"):
        place(["cpu"] * (len(cores) + 1), 1, share=False)
    given, contention = place(["cpu"] * (len(cores) + 1), 1, share=True)
    assert set(given) == {()}
    assert f"share {len(cores)} cores" in contention
    for twice in (["cuda:0", "cuda:0", "cuda:1"], ["cuda", "cuda:1", "cuda:0"]):
        with pytest.raises(UserError, match="2 workers share cuda:0"):
            place(twice, 1, share=False)
    assert place(["cuda:0", "cuda:1"], 1, share=False) == ([(), ()], "")
    with pytest.raises(UserError, match=r"expected cpu, mps or cuda:NUMBER, got 'gpu'"):
        place(["cpu", "gpu"], 1, share=True)


def test_no_device_is_named_in_vain() -> None:
    with pytest.raises(UserError, match="names 3 devices, for a drafter and 1 target servers"):
        Workers(PAIR, 1, devices=["cpu"] * 3, share=True)
    assert generate.Hardware().room(PAIR, ["cpu"] * 4) == 3


def test_a_prompt_that_does_not_fit() -> None:
    check_prompt(PAIR, [1] * 1990, 10)
    with pytest.raises(UserError, match=r"1,991 tokens.*10 to come.*2,000"):
        check_prompt(PAIR, [1] * 1991, 10)
    with pytest.raises(UserError, match="is empty"):
        check_prompt(PAIR, [], 10)


@pytest.mark.parametrize("algorithm", ["nonsi", "si", "dsi"])
@pytest.mark.parametrize("stop", [5, 6, 7, 8, 9])
def test_the_text_ends_at_a_stop_token(workers, algorithm: str, stop: int) -> None:
    run = workers.run(algorithm, PROMPT, 12, Match(), lookahead=5, stop_ids=frozenset({stop}))
    expected = OUTPUT[: OUTPUT.index(stop) + 1] if stop in OUTPUT else OUTPUT[:12]
    assert run.output.tokens == expected
    assert len(run.output.settled_ns) == run.output.settled == len(expected)


def test_what_runs_when_a_draft_ends_the_text_is_cancelled(monkeypatch) -> None:
    # Nothing but a stop token: the first draft, right by the first pass, which ends at 3.
    monkeypatch.setattr(
        simulate, "Output", lambda env, wanted: LiveOutput(env, wanted, frozenset({None}))
    )
    case = make_case(
        {
            "tokens": 9,
            "lookahead": 1,
            "targets": 4,
            "target.latency_ms": 3e-6,
            "drafter.latency_ms": 1e-6,
            "acceptance.rate": 1.0,
        }
    )
    run = simulate.run_events(case, "dsi", 0, keep_history=True)
    assert (run.output.settled, run.output.settled_ns) == (1, [3])
    # Passes over 0, 1, 2 and 3 drafts began at 0, 1, 2 and 3; only the first was of use.
    assert (run.target.begun, run.target.cancelled) == (4, 3)
    assert run.drafter.cancelled == 1
    fates = [(row["what"], row["fate"]) for row in spans(run.output, run.drafter)]
    assert fates == [
        ("drafts token 0", "draft, accepted"),
        ("drafts token 1", "draft, rejected"),
        ("drafts token 2", "draft, rejected"),
        ("drafts token 3", "cancelled"),
    ]


@pytest.mark.parametrize("algorithm", ["nonsi", "si"])
def test_an_answer_waits_for_no_more_than_a_blink(workers, algorithm: str) -> None:
    told, _ = messages(workers, algorithm, stop_ids=frozenset({49}))
    (_, begin), *_ = told["target 1"]
    assert 0 < begin.hold_ns <= 50_000_000
    assert begin.stop_ids == {49}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call on this system")
def test_workers_run_where_they_were_placed() -> None:
    with Workers(PAIR, 1, share=True) as workers:  # looking words up needs no core of its own

        def where() -> list[set[int]]:
            return [os.sched_getaffinity(process.pid) for process in workers.processes]

        placed = [set(available_cores()), set(available_cores()[:1])]
        workers.run("dsi", PROMPT, 8, Match())
        assert where() == placed
        workers.run("nonsi", PROMPT, 8, Match(), all_cores=True)
        assert where() == [set(workers.all_cores()[0])] * 2
        workers.run("dsi", PROMPT, 8, Match())
        assert where() == placed


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no such call on this system")
def test_dsim_itself_runs_beside_them() -> None:
    cores = available_cores()
    with beside(cores[:1]):
        assert available_cores() == (cores[1:] or cores)
    with beside(cores):  # there is no room
        assert available_cores() == cores
    assert available_cores() == cores


def test_a_stop_token_among_drafts_and_as_the_last_token() -> None:
    env = Environment()
    output = LiveOutput(env, 4, frozenset({9}))
    output.tokens += [1, 9, 2]
    output.settle(3, 3)
    assert (output.tokens, output.settled, output.accepted, output.finished) == ([1, 9], 2, 2, True)
    output.settle(1, 1), output.settle_drafts(1)  # what comes after the end does nothing
    assert output.tokens == [1, 9]
    output = LiveOutput(env, 2, frozenset({9}))
    output.tokens += [1]
    output.settle(1, 9)
    assert (output.tokens, output.finished) == ([1, 9], True)


def test_lookup_and_common_prefix() -> None:
    assert Lookup().guess([1, 2, 3, 9, 2, 3]) == 9
    assert Lookup().guess([2, 3, 7, 3, 8, 2, 3]) == 7  # the longest end that has occurred
    assert Lookup().guess([1, 2]) == 2
    assert Lookup().guess([4]) == 4
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([1, 2, 3], [1, 5, 3]) == 1
    assert common_prefix([], [1]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("generate hello", ["dsi"]),
        ("generate hello --compare", [*COMPARED]),
        ("measure acceptance --prompts 2", ["nonsi"]),
        ("measure latency --prompts 1", ["nonsi"]),
    ],
)
def test_workers_load_what_the_command_is_going_to_run(monkeypatch, words, expected) -> None:
    seen = []

    def told(*_args, algorithms, **_more):
        seen.append([*algorithms])
        raise UserError("enough")

    monkeypatch.setattr(generate, "Workers", told)
    monkeypatch.setattr(models, "pair_of", lambda _: PAIR)
    monkeypatch.setattr(generate, "encode", lambda *_, **__: PROMPT)
    result = CliRunner().invoke(main, words.split())
    assert seen == [expected], result.output
