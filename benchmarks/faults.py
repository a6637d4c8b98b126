"""A campaign of faults: what becomes of runs, workers, studies and data files when things go wrong.

``python benchmarks/faults.py [KIND…] [--number N] [--log FILE]`` runs N trials of each kind and
prints what came of them. Trial n of a kind is the same on every machine, but for the moment at
which a signal arrives. With ``--log`` a campaign goes on where it was interrupted, but for the last
minute, and ``--again`` tries once more what was not ok. Linux only.

kills      SIGKILL or SIGTERM to the parent of a run at a random moment, or a copy of its folder at
           that moment (as a power cut leaves it): no process is left after 2 s, and the folder is
           resumed, or written afresh, to the bytes of a run that nothing disturbed
           (kills-run-1, kills-run-2, kills-load-1, kills-load-2, kills-ray; and without a folder
           kills-measure, kills-validate)
workers    SIGKILL or SIGSTOP to a worker of real models, or to the process that loads for all, at a
           random moment: an error that names the worker, within 10 s or the watchdog, or (when the
           process that loads is killed) the text all the same; and no process is left
studies    mutated studies through the whole command, charts included: exit code 0 or 2, at most
           20 s of CPU time (or a word on how long it will take) and 1 GiB more than what was
           loaded before
data       mutated data files and results, with the same limits
together   two runs in one folder at once: one writes it, the other is told so
full       no room for files beyond a random size: an error, nothing half-written
read-only  a folder that becomes read-only at a random moment: an error, nothing half-written
clock      time.time jumps by up to a year, both ways, a thousand times a run: the same bytes
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

GONE_S, TOLD_S, WATCHDOG_S = 2.0, 10.0, 20
WORKER_S, AGAIN_S = 6.0, 120.0
CHUNK_S = 60.0  # of trials that a line of the log has
MAX_BYTES, MAX_CPU_S, MAX_S = 1 << 30, 20, 600.0
RUN = """
tokens = 200
repeats = 4
[target]
latency_model = "gamma"
latency_cv = 0.4
[grid]
lookahead = [1, 2, 4, 8]
acceptance.rate = { start = 0.1, stop = 0.9, step = 0.05 }
"""
LOAD = """
tokens = 20
repeats = 4
[workload]
requests = 150
[cluster]
targets = 4
[grid]
workload.rate_per_s = [0.5, 1.0, 2.0, 3.0, 4.0, 5.0]
"""
SMALL = """
title = "Small"
tokens = 12
repeats = 2
[target]
latency_ms = 30.0
latency_model = "lognormal"
latency_cv = 0.3
[drafter]
latency_ms = 3.0
first_latency_ms = 4.0
[acceptance]
model = "bernoulli"
[grid]
lookahead = [1, 3]
acceptance.rate = [0.5, 0.8]
[[variants]]
name = "two"
targets = 2
[[charts]]
kind = "heatmap"
x = "lookahead"
y = "acceptance.rate"
show = "dsi"
against = "si"
"""
SMALL_LOAD = """
tokens = 8
repeats = 2
algorithms = ["nonsi", "dsi"]
[workload]
requests = 30
arrivals = "gamma"
cv = 2.0
[slo]
latency_ms = 900.0
[cluster]
targets = 3
target_batch = 2
mtbf_s = 50.0
mttr_s = 1.0
[grid]
workload.rate_per_s = [0.5, 1.0]
[[charts]]
kind = "lines"
x = "workload.rate_per_s"
y = "latency_p90_ms"
"""
RESULTS = """algorithm,lookahead,acceptance_rate,latency_mean_ms,latency_mean_ci95_ms
nonsi,1,0.5,300,2
si,1,0.5,250,3
dsi,1,0.5,200,3
nonsi,3,0.5,300,2
si,3,0.5,240,3
dsi,3,0.5,190,4
"""
ARRIVALS = "arrival_ms,prompt_tokens,output_tokens\n0,10,5\n100.5,20,8\n230,5,1\n900,30,9\n"
WITH_ARRIVALS = """
algorithms = ["nonsi", "si"]
repeats = 1
[workload]
arrivals = "trace"
trace_file = "data.csv"
"""
JUNK = [
    "\0",
    "\x1b",
    "-",
    "1e400",
    "nan",
    "inf",
    "-1",
    "0",
    "1e19",
    "[]",
    "{}",
    '""',
    "'",
    '"',
    "é",
]
JUNK += [
    "9" * 30,
    "[[",
    "]",
    "=",
    ".",
    ",",
    "\r",
    "\ufeff",
    "true",
    "💥",
    "# ",
    "1e-300",
    " " * 999,
]
Outcome = str  # "ok …" or "WRONG …"


def command(*words: str) -> list[str]:
    """How dsim is called."""
    return [sys.executable, "-m", "dsim", *words]


def below(pid: int) -> list[int]:
    """All processes below *pid*."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z":
                parents[int(entry.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {pid})


def running(pid: int) -> bool:
    """Whether *pid* is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def left(pids: list[int], seconds: float) -> list[int]:
    """Those of *pids* that still run after *seconds*."""
    end = time.monotonic() + seconds
    while (there := [pid for pid in pids if running(pid)]) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in there:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return there


def contents(folder: Path) -> dict[str, bytes]:
    """The files of *folder*."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


# -- kills ---------------------------------------------------------------------------------------

KILLS = {
    "run-1": (RUN, ["--jobs", "1"]),
    "run-2": (RUN, ["--jobs", "2"]),
    "load-1": (LOAD, ["--jobs", "1"]),
    "load-2": (LOAD, ["--jobs", "2"]),
    "ray": (RUN, ["--executor", "ray", "--jobs", "2"]),
}
WITHOUT_FOLDER = {
    "measure": ["measure", "latency", "--repeats", "3"],
    "validate": ["validate", "study.toml", "--backend", "torch", "--share", "--quiet"],
}
VALIDATE = """
lookahead = [3]
targets = [1]
tokens = 16
prompts = 2
calibration_prompts = 2
repeats = 1
"""
_whole: dict[str, tuple[dict[str, bytes], float]] = {}


def words_of(kind: str, folder: Path, out: str) -> list[str]:
    """What dsim is called with for *kind*; its study is written to *folder*."""
    if kind in WITHOUT_FOLDER:
        (folder / "study.toml").write_text(VALIDATE)
        return WITHOUT_FOLDER[kind]
    text, more = KILLS[kind]
    (folder / "study.toml").write_text(text)
    return ["run", "study.toml", "--quiet", "--out", out, *more]


def undisturbed(kind: str, folder: Path) -> tuple[dict[str, bytes], float]:
    """What a run that nothing disturbs writes, and the seconds that it takes."""
    if kind not in _whole:
        words = words_of(kind, folder, "whole")
        began = time.monotonic()
        done = subprocess.run(command(*words), cwd=folder, capture_output=True, check=False)
        seconds = time.monotonic() - began
        if kind in KILLS and done.returncode:
            raise SystemExit(f"{kind}: {done.stderr.decode()}")
        _whole[kind] = (contents(folder / "whole") if kind in KILLS else {}, seconds)
    return _whole[kind]


def kill(kind: str, chance: random.Random, folder: Path) -> Outcome:
    """One parent that is killed, or one power cut."""
    whole, seconds = undisturbed(kind, folder)
    words = words_of(kind, folder, "out")
    how = chance.choice(["SIGKILL", "SIGTERM", *(["cut"] if kind in KILLS else [])])
    process = subprocess.Popen(
        command(*words), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0.0, seconds))
    out = folder / "out"
    workers = below(process.pid)
    if how == "cut":
        with contextlib.suppress(FileNotFoundError, shutil.Error):  # files move meanwhile
            shutil.copytree(out, folder / "copy")
        out = folder / "copy"
        process.kill()
    elif process.poll() is None:
        process.send_signal(getattr(signal, how))
    try:
        process.wait(GONE_S + TOLD_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"WRONG {how}: goes on"
    stay = left(workers, GONE_S)
    said = process.communicate()[0].decode()
    if stay:
        return f"WRONG {how}: {len(stay)} processes left"
    if "Traceback" in said:
        return f"WRONG {how}: {said[-300:]}"
    if kind in WITHOUT_FOLDER:
        return f"ok {how}"
    resume = (out / ".unfinished" / "study.toml").is_file()
    _text, more = KILLS[kind]
    again = ["run", "--resume", str(out)] if resume else ["run", "study.toml", "--out", str(out)]
    done = subprocess.run(
        command(*again, "--quiet", *more), cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode == 2 and "something other than results" in done.stderr and how == "cut":
        shutil.rmtree(out)  # half of the files of the end: refused, and said so
        return f"ok {how}, refused"
    if done.returncode or done.stderr:
        return f"WRONG {how}: exit code {done.returncode}: {done.stderr[-300:]}"
    if contents(out) != whole:
        return f"WRONG {how}: other bytes"
    return f"ok {how}, {'resumed' if resume else 'afresh'}"


# -- workers of real models ----------------------------------------------------------------------


def worker(_: str, chance: random.Random, folder: Path) -> Outcome:
    """One worker of real models that is killed or stopped."""
    words = ["generate", "Once upon a time", "--share", "--targets", "2", "--tokens", "200"]
    limit = ["--watchdog", str(WATCHDOG_S)]
    process = subprocess.Popen(
        command(*words, *limit, "--ignore-eos", "--json"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    least = chance.choice([1, 2])  # the process that loads is there first, then its copies
    while process.poll() is None and len(model_workers(process.pid)) < least:
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, WORKER_S))
    how = chance.choice(["SIGKILL", "SIGSTOP"])
    workers, of_models = below(process.pid), model_workers(process.pid)
    if process.poll() is not None or not of_models:
        error = process.communicate()[1].decode()
        if process.returncode == 3 and "(while loading)" in error:
            return "ok the machine was too slow for the watchdog"
        return "ok over before" if process.returncode == 0 else f"WRONG {error[-300:]}"
    victim = chance.choice(of_models)
    what = f"{how} to {'a worker' if victim != of_models[0] else 'the process that loads'}"
    others_start = victim == of_models[0] and how == "SIGKILL"  # workers that load by themselves
    os.kill(victim, getattr(signal, how))
    limit_s = AGAIN_S if others_start else TOLD_S + (WATCHDOG_S if how == "SIGSTOP" else 0)
    try:
        _, error = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        left([process.pid, *workers], 0)
        process.communicate()
        return f"WRONG {what}: not a word in time"
    if stay := left(workers, GONE_S):
        return f"WRONG {what}: {len(stay)} processes left"
    if process.returncode == 0:
        return f"ok {what}, {'went on' if others_start else 'over before'}"
    said = error.decode()
    if process.returncode == 3 and any(w in said for w in ("target", "drafter")):
        return f"ok {what}, named"
    return f"WRONG {what}: exit code {process.returncode}: {said[-300:]}"


def model_workers(pid: int) -> list[int]:
    """The workers of real models below *pid*, and the process that they are copies of."""
    kinds = b"multiprocessing.forkserver", b"spawn_main"
    return [one for one in below(pid) if any(kind in cmdline(one) for kind in kinds)]


def cmdline(pid: int) -> bytes:
    """The command line of *pid*, or nothing."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


# -- mutated input -------------------------------------------------------------------------------


def mutated(text: str, chance: random.Random) -> str:
    """*text* after one or two changes."""
    for _ in range(chance.randint(1, 2)):
        place, lines = chance.randrange(len(text) + 1), text.splitlines(keepends=True)
        how = chance.choice([0, 1, 2, 3, 4, 5, 5, 5, 5, 6])  # numbers are most of what is read
        if how == 0:
            text = text[:place] + chance.choice(JUNK) + text[place:]
        elif how == 1:
            text = text[:place] + text[place + chance.randint(1, 5) :]
        elif how == 2:
            chance.shuffle(lines)
            text = "".join(lines)
        elif how == 3 and lines:
            text += chance.choice(lines)
        elif how == 4:
            words = text.replace("=", " = ").replace(",", " , ").split(" ")
            words[chance.randrange(len(words))] = chance.choice(JUNK)
            text = " ".join(words)
        elif how == 5:
            digits = [i for i, letter in enumerate(text) if letter.isdigit()]
            if digits:
                at = chance.choice(digits)
                text = text[:at] + str(chance.choice([0, 5, 10**6, -3, 0.1])) + text[at + 1 :]
        else:
            text = text[:place] + text[: chance.randint(0, 80)]
    return text


def held_bytes() -> int:
    """The memory that this process holds now, without files that are mapped."""
    _, resident, shared, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - shared) * resource.getpagesize()


def in_child(words: list[str], folder: Path) -> Outcome:
    """Run dsim in a fork of this process, where all is loaded: its exit code, memory and time."""
    import dsim.cli.main
    import dsim.tasks.drawing  # loaded once, for all forks

    before_bytes = held_bytes()  # a fork begins with the memory of this process
    pid = os.fork()
    if pid == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (MAX_CPU_S, MAX_CPU_S))
            os.chdir(folder)
            where = os.open("said", os.O_CREAT | os.O_WRONLY)
            os.dup2(where, 1)
            os.dup2(where, 2)
            dsim.cli.main.main(words, prog_name="dsim")
        except SystemExit as leave:
            os._exit(leave.code if isinstance(leave.code, int) else 1)
        except BaseException:
            os._exit(99)
        os._exit(98)
    end = time.monotonic() + MAX_S
    while (found := os.wait4(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.wait4(pid, 0)
            return f"WRONG hangs: over {MAX_S:g} s"
        time.sleep(0.01)
    code, said = os.waitstatus_to_exitcode(found[1]), (folder / "said").read_text(errors="replace")
    if code in (-signal.SIGKILL, -signal.SIGXCPU):
        # Much was asked for, and dsim says how long it will take.
        if " left\n" in said or " of simulation\n" in said:
            return "ok long, and says how long"
        return f"SLOW over {MAX_CPU_S} s of CPU time"
    if code not in (0, 2) or "Traceback" in said:
        return f"WRONG exit code {code}: {said[-300:]}"
    more_bytes = found[2].ru_maxrss * 1024 - before_bytes
    if more_bytes > MAX_BYTES:
        return f"WRONG {more_bytes >> 20} MiB"
    return f"ok exit code {code}"


def study(_: str, chance: random.Random, folder: Path) -> Outcome:
    """One mutated study."""
    text = mutated(chance.choice([SMALL, SMALL_LOAD]), chance)
    (folder / "study.toml").write_bytes(text.encode())
    return in_child(["run", "study.toml", "--out", "out", "--jobs", "1"], folder)


def data(_: str, chance: random.Random, folder: Path) -> Outcome:
    """One mutated file of results or arrivals."""
    kind = chance.choice(["plot", "arrivals"])
    text = mutated(RESULTS if kind == "plot" else ARRIVALS, chance)
    (folder / "data.csv").write_bytes(text.encode())
    (folder / "study.toml").write_text(WITH_ARRIVALS)
    words = ["plot", "data.csv"] if kind == "plot" else ["run", "study.toml", "--out", "out"]
    return in_child(words, folder)


# -- folders -------------------------------------------------------------------------------------


def together(_: str, chance: random.Random, folder: Path) -> Outcome:
    """Two runs in one folder at once."""
    whole, seconds = undisturbed("run-1", folder)
    (folder / "study.toml").write_text(RUN)
    words = command("run", "study.toml", "--quiet", "--out", "out", "--jobs", "1")
    first = subprocess.Popen(words, cwd=folder, stderr=subprocess.PIPE, text=True)
    time.sleep(chance.uniform(0, seconds))
    more = chance.choice([[], ["--force"], ["--force", "--set", "seed=7"]])
    second = subprocess.run(
        [*words, *more], cwd=folder, capture_output=True, text=True, check=False
    )
    error = first.communicate()[1]
    codes = sorted((first.returncode, second.returncode))
    told = "another process writes" in error + second.stderr
    if codes == [0, 0] or (codes == [0, 2] and told):
        seven = second.returncode == 0 and "seed=7" in more
        return "ok" if seven or contents(folder / "out") == whole else "WRONG other bytes"
    return f"WRONG {codes}: {error}{second.stderr}"


def full(_: str, chance: random.Random, folder: Path) -> Outcome:
    """No room for files beyond a random size."""
    whole, _seconds = undisturbed("run-1", folder)
    (folder / "study.toml").write_text(RUN)
    size = chance.randint(0, max(map(len, whole.values())))
    words = command("run", "study.toml", "--quiet", "--out", "out", "--jobs", "1")
    limited = (
        "import resource, signal, sys, os; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    files = contents(folder / "out") if (folder / "out").is_dir() else {}
    if done.returncode == 0:
        return "ok had room" if files == whole else "WRONG other bytes"
    if done.returncode != 2 or "no room" not in done.stderr:
        return f"WRONG exit code {done.returncode}: {done.stderr[-300:]}"
    return "ok told" if not files else f"WRONG left {sorted(files)}"


# Takes the superuser's right to write anywhere (CAP_DAC_OVERRIDE) from what is executed.
AS_ANYBODY = (
    "import ctypes, os, sys; os.geteuid() or ctypes.CDLL(None).prctl(24, 1, 0, 0, 0); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def read_only(_: str, chance: random.Random, folder: Path) -> Outcome:
    """A folder that becomes read-only while a run writes to it."""
    whole, seconds = undisturbed("run-1", folder)
    (folder / "study.toml").write_text(RUN)
    out = folder / "out"
    out.mkdir()
    words = command("run", "study.toml", "--quiet", "--out", "out", "--jobs", "1")
    process = subprocess.Popen(
        [sys.executable, "-c", AS_ANYBODY, *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(chance.uniform(0.0, seconds))
    parts = (out, *(path for path in out.iterdir() if path.is_dir()))
    for part in parts:
        part.chmod(0o555)
    said = process.communicate()[0]
    for part in parts:
        part.chmod(0o755)
    if process.returncode == 0:
        return "ok over before" if contents(out) == whole else "WRONG other bytes"
    if process.returncode != 2 or "Traceback" in said or "ermission denied" not in said:
        return f"WRONG exit code {process.returncode}: {said[-300:]}"
    done = subprocess.run(
        [*words[:4], "--resume", "out", "--quiet", "--jobs", "1"]
        if (out / ".unfinished").is_dir()
        else words,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return f"WRONG afterwards: {done.returncode}: {done.stderr[-300:]}"
    return "ok told" if contents(out) == whole else "WRONG other bytes"


JUMPS = """
import random, time
real, chance, calls = time.time, random.Random(SEED), [0]
def jumping():
    calls[0] += 1
    return real() + chance.uniform(-3e7, 3e7)
time.time = jumping
"""


def clock(_: str, chance: random.Random, folder: Path) -> Outcome:
    """A clock that jumps. Intervals are measured by another one, which no system lets jump."""
    kind = chance.choice(["run-1", "run-2", "load-1", "load-2"])
    whole, _seconds = undisturbed(kind, folder)
    text, more = KILLS[kind]
    (folder / "study.toml").write_text(text)
    (folder / "sitecustomize.py").write_text(JUMPS.replace("SEED", str(chance.random())))
    done = subprocess.run(
        command("run", "study.toml", "--quiet", "--out", "out", *more),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or done.stderr:
        return f"WRONG exit code {done.returncode}: {done.stderr[-300:]}"
    return "ok" if contents(folder / "out") == whole else "WRONG other bytes"


KINDS: dict[str, Callable[[str, random.Random, Path], Outcome]] = {
    **{f"kills-{kind}": kill for kind in (*KILLS, *WITHOUT_FOLDER)},
    "workers": worker,
    "studies": study,
    "data": data,
    "together": together,
    "full": full,
    "read-only": read_only,
    "clock": clock,
}


def campaign(kinds: list[str], number: int, log: Path | None = None) -> dict[str, list[Outcome]]:
    """What came of *number* trials of each of *kinds*."""
    found: dict[str, list[Outcome]] = {}
    for kind in kinds:
        outcomes = found.setdefault(kind, [])
        for line in read(log, kind):
            outcomes += [
                outcome for outcome, count in line["outcomes"].items() for _ in range(count)
            ]
        chunk, began = Chunk(kind, len(outcomes)), time.monotonic()
        for trial in range(len(outcomes), number):
            outcome = one(kind, trial)
            outcomes.append(outcome)
            chunk.add(trial, outcome)
            if log is not None and (trial + 1 == number or time.monotonic() - began > CHUNK_S):
                with log.open("a") as file:
                    file.write(chunk.line() + "\n")
                chunk, began = Chunk(kind, trial + 1), time.monotonic()
    return found


def again(log: Path) -> None:
    """Try once more what was not ok in *log*, and write there what comes of it now."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        for trial, before in list(line.get("not ok", {}).items()):
            now = one(line["kind"], int(trial))
            print(f"{line['kind']} {trial}: {before}; now {now}", flush=True)
            counts = collections.Counter(line["outcomes"])
            counts.subtract([before])
            counts[now] += 1
            line["outcomes"] = {outcome: count for outcome, count in counts.items() if count}
            del line["not ok"][trial]
            if not now.startswith("ok"):
                line["not ok"][trial] = now
        if not line.get("not ok", True):
            del line["not ok"]
    since = log.read_text().splitlines()[len(lines) :]  # by another campaign, meanwhile
    log.write_text("".join(f"{line}\n" for line in [*map(json.dumps, lines), *since]))


def one(kind: str, trial: int) -> Outcome:
    """What comes of trial number *trial* of *kind*."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        chance = random.Random(f"{kind} {trial}")  # noqa: S311
        return KINDS[kind](kind.removeprefix("kills-"), chance, Path(folder))


class Chunk:
    """Some trials of a kind, one after the other: a line of the log."""

    def __init__(self, kind: str, first: int) -> None:
        self.kind, self.first = kind, first
        self.outcomes: collections.Counter[Outcome] = collections.Counter()
        self.not_ok: dict[int, Outcome] = {}

    def add(self, trial: int, outcome: Outcome) -> None:
        """Count what came of *trial*."""
        self.outcomes[outcome] += 1
        if not outcome.startswith("ok"):
            self.not_ok[trial] = outcome

    def line(self) -> str:
        """The trials in JSON."""
        known = {"kind": self.kind, "first": self.first, "outcomes": dict(self.outcomes)}
        return json.dumps(known | ({"not ok": self.not_ok} if self.not_ok else {}))


def read(log: Path | None, kind: str) -> list[dict[str, Any]]:
    """The lines of *kind* in *log*."""
    if log is None or not log.is_file():
        return []
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["kind"] == kind]


def table(log: Path) -> str:
    """What came of the trials in *log*, for people."""
    rows = ["| kind | trials | outcome |", "|---|---|---|"]
    for kind in KINDS:
        outcomes: collections.Counter[Outcome] = collections.Counter()
        for line in read(log, kind):
            outcomes.update(line["outcomes"])
        if outcomes:
            said = "; ".join(f"{count:,} {outcome}" for outcome, count in outcomes.most_common())
            rows.append(f"| `{kind}` | {outcomes.total():,} | {said} |")
    return "\n".join(rows)


def main() -> None:
    """Run a campaign and print what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--number", type=int, default=10, help="trials of each kind")
    parser.add_argument("--log", type=Path, help="where outcomes are kept, to go on from")
    parser.add_argument("--table", action="store_true", help="print what the log has, run nothing")
    parser.add_argument("--again", action="store_true", help="try what was not ok once more")
    options = parser.parse_args()
    if options.again:
        again(options.log)
        return
    if options.table:
        print(table(options.log))
        return
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    wrong = 0
    for kind in options.kinds or KINDS:
        found = campaign([kind], options.number, options.log)[kind]
        counts = collections.Counter(found)
        print(f"{kind}: {len(found)} trials", flush=True)
        for outcome, count in counts.most_common():
            print(f"  {count:5} {outcome}", flush=True)
        wrong += sum(not outcome.startswith("ok") for outcome in found)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
