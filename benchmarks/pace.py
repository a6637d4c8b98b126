"""Why is a forward of the same shape now fast, now slow? One model, in different company.

    python benchmarks/pace.py [--model FOLDER] [--rounds 10] [--forwards 40]

The model (the drafter of the pair that ships, if none is given) runs on one core. A neighbour has
another core, or the same one, or the model rests between two forwards, as a drafter does that waits
for a verdict. The situations take turns, so that what changes slowly changes all of them. Prints
medians, and the middle half of them, as ratios to the model alone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.backends.lines import exchange
from dsim.backends.torch.models import PAIR, specs
from dsim.backends.torch.pair import load_pair
from dsim.backends.torch.protocol import Begin, Done
from dsim.backends.torch.verify import Match
from dsim.backends.torch.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator

CONTEXT_TOKENS, WARM = 64, 5
REST_S = 0.005
SETTLE_S = 1.0  # until a neighbour has started
START = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); "
ADDS = START + "exec('while True: sum(range(10_000))')"
MULTIPLIES = (
    START + "os.environ['OMP_NUM_THREADS'] = '1'; import numpy as np; "
    "a = np.ones((256, 256), np.float32); exec('while True: a @ a')"
)
THRASHES = (
    START + "import numpy as np; a = np.ones(32_000_000); r = np.random.default_rng(0); "
    "exec('while True: a[r.integers(0, len(a), 1_000_000)] += 1')"
)


class Situation(NamedTuple):
    """What the model's company is like.

    Attributes:
        name: for people.
        program: what the neighbour runs; nothing: there is none.
        same: whether it has the model's core.
        rest_s: how long the model waits before each forward.
    """

    name: str
    program: str = ""
    same: bool = False
    rest_s: float = 0.0


SITUATIONS = (
    Situation("alone"),
    Situation("alone, resting 5 ms before each", rest_s=REST_S),
    Situation("another core adds integers", ADDS),
    Situation("another core multiplies matrices", MULTIPLIES),
    Situation("another core writes memory at random", THRASHES),
    Situation("the same core adds integers", ADDS, same=True),
)


@contextlib.contextmanager
def neighbour(situation: Situation, core: int) -> Iterator[None]:
    """Run the neighbour for a while; *core* is the model's."""
    if not situation.program:
        yield
        return
    others = sorted(os.sched_getaffinity(0) - {core})
    if not situation.same and not others:
        raise SystemExit("there is no other core")
    where = core if situation.same else others[0]
    process = subprocess.Popen([sys.executable, "-c", situation.program, str(where)])
    time.sleep(SETTLE_S)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def forwards_ms(workers: Workers, width: int, count: int, rest_s: float) -> list[float]:
    """How long *count* forwards take."""
    lines = workers.targets[:1]
    text = [(7 * i) % workers.pair.vocab for i in range(CONTEXT_TOKENS)]
    exchange(lines, [Begin(text, Match(), ("target",))], timeout_ns=workers.watchdog_ns)
    request = ([i % workers.pair.vocab for i in range(width)], 1)
    took = []
    for _ in range(WARM + count):
        time.sleep(rest_s)
        (reply,) = exchange(lines, [request], timeout_ns=workers.watchdog_ns)
        took.append(Done.unpack(reply.value).forward_ns / 1e6)
    return took[WARM:]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default=str(PAIR / "drafter"), help="a folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--forwards", type=int, default=40, help="in each round")
    args = parser.parse_args()
    pair = load_pair(*specs(args.model, "ngram", dtype=args.dtype))
    found: dict[tuple[str, int], list[float]] = {}
    with Workers(pair, 1) as workers:
        core = min(workers.cores[1])
        for _ in range(args.rounds):
            for situation in SITUATIONS:
                with neighbour(situation, core):
                    for width in (1, 2):
                        took = forwards_ms(workers, width, args.forwards, situation.rest_s)
                        found.setdefault((situation.name, width), []).append(float(np.median(took)))
    print(f"{pair.target}, {args.dtype}, {args.rounds} rounds of {args.forwards} forwards")
    for width in (1, 2):
        alone = np.array(found["alone", width])
        print(f"{width} token{'s'[: width - 1]} wide: {np.median(alone):.2f} ms alone")
        for situation in SITUATIONS[1:]:
            ratios = np.array(found[situation.name, width]) / alone
            low, middle, high = np.percentile(ratios, (25, 50, 75))
            print(f"  {situation.name:<40} {middle:5.2f} ({low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
