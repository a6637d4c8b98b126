"""Do predictions hold on any machine? A campaign of validations, quiet and with neighbours.

    python benchmarks/validation.py docs/validation-log.jsonl  # all of it: about 5 hours
    python benchmarks/validation.py docs/validation-log.jsonl --only quiet --count 2 --quick
    python benchmarks/validation.py docs/validation-log.jsonl --page docs/validation.md

Each validation becomes a line of the log as it ends, so the campaign can be broken off, and goes on
where it was. The system's load when it began stands beside it: "quiet" means that this
program started no neighbour; whether the machine was quiet, the load says.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

BURSTS = """
import os, random, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
while True:
    end = time.monotonic() + random.uniform(0.1, 3)
    while time.monotonic() < end:
        sum(i * i for i in range(10_000))
    time.sleep(random.uniform(0.1, 3))
"""
THRASHING = """
import numpy as np
memory = np.ones(32_000_000)
while True:
    memory[np.random.randint(0, len(memory), 1_000_000)] += 1
"""
CGROUPS, GROUP = Path("/sys/fs/cgroup"), "dsim-validation"
ABSURD = 2.0  # a prediction that is too long or too short by this factor
FULL_RUNS = 3  # of the quiet ones; the others are quick


class Part(NamedTuple):
    """Some validations under one condition.

    Attributes:
        name: what the machine was like.
        count: how many.
        study: what is validated.
        neighbour: a Python program that runs beside it.
        quota: the part of all cores that it may use; ``None``: all.
    """

    name: str
    count: int
    study: str = "validate"
    neighbour: str = ""
    quota: float | None = None


PARTS = (
    Part("quiet", 20),
    Part("neighbour computes", 10, neighbour=BURSTS),
    Part("neighbour thrashes memory", 10, neighbour=THRASHING),
    Part("cpu quota", 5, quota=0.7),
    Part("smollm2", 5, study="validate-smollm2"),
)


@contextlib.contextmanager
def neighbour(part: Part) -> Iterator[None]:
    """Run the neighbour of *part* for a while."""
    if not part.neighbour:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", part.neighbour])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def quota(part: Part) -> Iterator[list[str]]:
    """What a command begins with, so that it has no more of the CPU than *part* says.

    Raises:
        OSError: the machine does not let this user set a quota.
    """
    if part.quota is None:
        yield []
        return
    cores = len(os.sched_getaffinity(0))
    quota_us, period_us = round(part.quota * cores * 100_000), 100_000
    if (CGROUPS / "cgroup.controllers").exists():  # version 2
        group, limits = CGROUPS / GROUP, {"cpu.max": f"{quota_us} {period_us}"}
    elif (CGROUPS / "cpu" / "cgroup.procs").exists():  # version 1
        group = CGROUPS / "cpu" / GROUP
        limits = {"cpu.cfs_period_us": str(period_us), "cpu.cfs_quota_us": str(quota_us)}
    else:
        raise OSError("no cgroups of the CPU")
    group.mkdir()
    try:
        for name, limit in limits.items():
            (group / name).write_text(limit)
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
    finally:
        for wait_s in (0.0, 1.0, 5.0, 20.0):  # the last processes of the command may still end
            time.sleep(wait_s)
            with contextlib.suppress(OSError):
                group.rmdir()
                break


def validate(part: Part, *, quick: bool, more: list[str]) -> dict[str, Any]:
    """One validation, as a line of the log."""
    command = [sys.executable, "-m", "dsim", "validate", part.study, *more]
    command += ["--backend", "torch", "--json", "--quiet", *(["--quick"] if quick else [])]
    line: dict[str, Any] = {
        "part": part.name,
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "load": round(os.getloadavg()[0], 2),
    }
    begun = time.monotonic()
    with quota(part) as within, neighbour(part):
        done = subprocess.run([*within, *command], capture_output=True, text=True, check=False)
    line |= {"minutes": round((time.monotonic() - begun) / 60, 1), "exit": done.returncode}
    if done.returncode not in (0, 1, 4):
        return line | {"error": done.stderr.strip().splitlines()[-1:]}
    found = json.loads(done.stdout)
    counts = next(iter(found["statistics"].values()))
    ratios = [row["predicted_replay_ms"] / row["measured_ms"] for row in found["rows"]]
    return line | {
        "median_text": counts["median_text"],
        "worst_configuration": counts["worst_configuration"],
        "where": counts["where"],
        "from_rate": statistics.fmean(abs(row["error_rate"]) for row in found["rows"]),
        "acceptance_model": found["calibration"]["acceptance_model"],
        "noise": found["noise"],
        "covered": found["covered"],
        "absurd": any(not 1 / ABSURD < ratio < ABSURD for ratio in ratios),
        "claims": {claim["claim"]: claim["holds"] for claim in found["claims"]},
    }


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of the log."""
    return (
        [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    )


ABOUT = """# Do predictions hold on any machine?

Validations of the pair that ships (`smollm2`: of SmolLM2-135M in bfloat16), written by `python
benchmarks/validation.py docs/validation-log.jsonl --page docs/validation.md`. Load: of the system
when the validation began. "quiet" means that the program started no neighbour; other users may
have. Noise: by how much a text differs, its repeats measured again (median). In: texts in their
95 % interval. Verdict: of the tolerance from the trace. Errors are those of
[real-models.md](real-models.md#validation).
"""
VERDICTS = {True: "holds", False: "fails", None: "too noisy"}


def page(lines: list[dict[str, Any]]) -> str:
    """The log for people."""
    head = ["part", "began (UTC)", "load", "minutes", "median text", "worst configuration"]
    head += ["from the rate", "noise", "in", "verdict"]
    text = [ABOUT, f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for line in lines:
        name = line["part"] + ", quick" * line["quick"]
        cells = [name, line["began"], line["load"], line["minutes"]]
        if "error" in line:
            text.append(f"| {' | '.join(map(str, cells))} | {' '.join(line['error'])} ||||||")
            continue
        verdict = next(v for k, v in line["claims"].items() if k.endswith("trace"))
        cells += [
            f"{line['median_text']:.1%}",
            f"{line['worst_configuration']:+.1%} ({line['where']})",
            f"{line['from_rate']:.1%}",
            *("" if line[key] is None else f"{line[key]:.1%}" for key in ("noise", "covered")),
            VERDICTS[verdict],
        ]
        text.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join([*text, "", *summary(lines)]) + "\n"


def summary(lines: list[dict[str, Any]]) -> list[str]:
    """For each part how often the goals were met, as a table."""
    head = ["part", "runs", "within 2 % and 5 %", "within 5 % and 10 %", "too noisy", "absurd"]
    head += ["median text", "worst configuration", "in"]
    text = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for part in PARTS:
        done = [line for line in lines if line["part"] == part.name and "error" not in line]
        if not done:
            continue
        texts = [line["median_text"] for line in done]
        worst = [abs(line["worst_configuration"]) for line in done]
        within = [
            sum(t <= most and w <= far for t, w in zip(texts, worst, strict=True))
            for most, far in ((0.02, 0.05), (0.05, 0.1))
        ]
        noisy = sum(None in line["claims"].values() for line in done)
        covered = [line["covered"] for line in done if line["covered"] is not None]
        cells = [part.name, len(done), *within, noisy, sum(line["absurd"] for line in done)]
        cells += [f"{statistics.median(texts):.1%}", f"{max(worst):.1%}"]
        cells += [f"{statistics.fmean(covered):.1%}" if covered else ""]
        text.append(f"| {' | '.join(map(str, cells))} |")
    return [
        *text,
        "",
        "Within: the median text and the worst configuration. Too noisy: the command said so. "
        f"Absurd: off by a factor of {ABSURD:g} or more.",
    ]


def main() -> None:
    """Run what is not in the log yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("log", type=Path, help="a JSON object a line; it is continued")
    parser.add_argument("--only", choices=[part.name for part in PARTS], help="one part")
    parser.add_argument("--count", type=int, help="the number of runs of each part")
    parser.add_argument("--quick", action="store_true", help="all of them, also the quiet ones")
    parser.add_argument("--page", type=Path, help="write the log up, and run nothing")
    parser.add_argument("more", nargs="*", help="more options of dsim validate, after --")
    options = parser.parse_args()
    if options.page:
        options.page.write_text(page(read(options.log)), "utf-8")
        return
    for part in PARTS:
        if options.only not in (None, part.name):
            continue
        wanted = part.count if options.count is None else options.count
        while len(done := [x for x in read(options.log) if x["part"] == part.name]) < wanted:
            whole = sum(not line["quick"] for line in done)
            quick = options.quick or part.name != "quiet" or whole >= FULL_RUNS
            try:
                line = validate(part, quick=quick, more=options.more)
            except OSError as error:
                print(f"{part.name}: this machine does not allow it ({error})", file=sys.stderr)
                break
            with options.log.open("a", encoding="utf-8") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
