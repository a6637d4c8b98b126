"""Is multi-drafter DSI ever slower than DSI with its fastest drafter alone? By random search.

    python benchmarks/drafters.py [CASES]

Small whole numbers, so that ties are frequent. *Nested*: each drafter is right wherever the faster
one before it is; *free*: they have nothing to do with each other. Also finds the smallest case in
which a further drafter does harm, by going through all of them.
"""

from __future__ import annotations

import itertools
import random
import sys

from dsim.backends.simulated import Simulated
from dsim.events.environment import Environment
from dsim.events.output import Output
from dsim.model.lookahead import Plan
from dsim.orchestrations.start import start


def settled_ns(
    latencies: list[int], target: int, rows: list[list[bool]], lookahead: int, targets: int
) -> list[int]:
    """When the tokens settle; *latencies* and *rows* (draws) by drafter, the fastest first."""
    env = Environment()
    output = Output(env, len(rows[0]))
    guessing = [
        Simulated(env, ns, (), [0 if right else number for right in row])
        for number, (ns, row) in enumerate(zip(latencies, rows, strict=True), 1)
    ]
    start(
        "multidsi",
        env,
        output,
        drafter_backends=guessing,
        target_backend=Simulated(env, target),
        plan=Plan(lookahead),
        targets=targets,
    )
    env.run(until=output.done)
    return output.settled_ns


def search(cases: int, *, nested: bool) -> int:
    """How many of *cases* random ones were slower at some position than the fastest alone."""
    rng = random.Random(1)  # noqa: S311
    slower = 0
    for _ in range(cases):
        target = rng.randint(1, 14)
        latencies = sorted(rng.randint(1, target + 4) for _ in range(rng.randint(2, 4)))
        latencies[0] = min(latencies[0], target)
        tokens = rng.randint(1, 9)
        chances = [rng.choice((0.3, 0.6, 0.9)) for _ in latencies]
        rows = [[rng.random() < chance for _ in range(tokens)] for chance in chances]
        if nested:
            rows = [list(map(any, zip(*rows[: i + 1], strict=True))) for i in range(len(rows))]
        rest = rng.randint(1, 4), rng.randint(1, 5)
        several = settled_ns(latencies, target, rows, *rest)
        alone = settled_ns(latencies[:1], target, rows[:1], *rest)
        slower += any(a > b for a, b in zip(several, alone, strict=True))
    return slower


def smallest() -> str:
    """The smallest case, of two drafters, in which the second does harm."""
    for tokens, target in itertools.product((1, 2, 3), range(1, 7)):
        for first, servers, lookahead in itertools.product(range(1, target + 1), (1, 2, 3), (1, 2)):
            for second in range(first, target + 2):
                for a, b in itertools.product(
                    itertools.product((False, True), repeat=tokens), repeat=2
                ):
                    rows = [list(a), list(b)]
                    alone = settled_ns([first], target, rows[:1], lookahead, servers)
                    several = settled_ns([first, second], target, rows, lookahead, servers)
                    if several[-1] > alone[-1]:
                        return (
                            f"passes {target}, drafts {first} and {second}, k = {lookahead}, "
                            f"{servers} servers, draws {['01'[x] for x in a]} and "
                            f"{['01'[x] for x in b]}: {several[-1]} instead of {alone[-1]}"
                        )
    return "none"


def main() -> None:
    """Search, and print what was found."""
    cases = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    for nested in (True, False):
        slower = search(cases, nested=nested)
        print(f"{'nested' if nested else 'free'}: {slower:,} of {cases:,} cases are slower")
    print("smallest harm:", smallest())


if __name__ == "__main__":
    main()
