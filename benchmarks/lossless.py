"""Does speculation give exactly the target's tokens? On real models, over many prompts.

    python benchmarks/lossless.py --target FOLDER --drafter FOLDER --prompts FILE.jsonl ...

SI, DSI, PEARL and PipeSpec by every lookahead in {1, 2, 3, 5, 8}, tree and treedsi by several
shapes of trees; where there may be several target servers, with 1 and 2 of them; greedy and sampled
(temperature 0.8). ``--lookaheads`` and ``--shapes`` leave some of them out. In
float32 every text should be the same; in bfloat16 the first difference of each text is shown with
the gap between the two best logits there, which says whether it was a near tie, and the gaps at
first differences are compared with those at all positions. With ``--keep FILE`` a run that was
broken off goes on after the last text that was finished.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.backends.torch.sampling import Sampling
    from dsim.backends.torch.verify import Rule
    from dsim.backends.torch.workers import Workers

LIVE = ("si", "dsi", "tree", "treedsi", "pearl", "pipespec")
LOOKAHEADS = (1, 2, 3, 5, 8)
# A chain, a static tree, two trees by confidence.
TREES: dict[str, dict[str, Any]] = {
    "chain": {"paths": ((1,), (1, 1), (1, 1, 1))},
    "static": {
        "paths": ((1,), (2,), (3,), (1, 1), (1, 2), (2, 1), (1, 1, 1), (1, 1, 2), (1, 1, 1, 1)),
        "branches": 3,
    },
    "all of depth 4": {"depth": 4, "branches": 2},
    "12 of depth 6": {"depth": 6, "branches": 4, "nodes": 12},
}
GROWING: dict[str, dict[str, Any]] = {
    "one deviation": {"branches": 2, "deviations": 1},
    "two deviations": {"branches": 3, "deviations": 2, "nodes": 40},
}
NEAR = 0.1  # a gap below which two logits are nearly tied
PATIENCE_NS = 3_600_000_000_000  # this is no test of workers that hang


def gaps(model: Any, prompt: list[int], text: list[int], sampling: Sampling) -> np.ndarray:
    """How far the best token was ahead of the next, float (tokens of *text*,), in logits.

    With a temperature the noise of the position counts, too. All in one wide forward.
    """
    import torch

    from dsim.backends.torch.sampling import scores

    with torch.inference_mode():
        read = model(input_ids=torch.tensor([prompt + text[:-1]]), logits_to_keep=len(text))
    ahead = []
    for position, row in enumerate(read.logits[0].float().numpy()):
        second, best = np.partition(scores(row, position, sampling), -2)[-2:]
        ahead.append((best - second) * (sampling.temperature or 1.0))
    return np.array(ahead)


def spread(values: Sequence[float]) -> str:
    """The median of *values*, the largest, and how many are small."""
    near = sum(value < NEAR for value in values) / len(values)
    return f"median {np.median(values):.3f}, largest {max(values):.3f}, {near:.0%} below {NEAR}"


class Kept:
    """What was found before, and what is found now: one JSON object a line of a file.

    Args:
        path: the file; ``None``: nothing is kept.
        what: what is run; the file must be of the same.
    """

    def __init__(self, path: Path | None, what: dict[str, Any]) -> None:
        self.known: dict[str, Any] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path and path.exists() else []
        for line in lines:
            with contextlib.suppress(ValueError):  # the last line may be a half
                one = json.loads(line)
                self.known[one["key"]] = one["value"]
        if self.known and self.known.get("what") != what:
            sys.exit(f"{path} is of another run: {self.known.get('what')}")
        self.file = path.open("a", encoding="utf-8") if path else None
        if self.file and lines:
            self.file.write("\n")  # the last line may be a half
        if not self.known:
            self("what", lambda: what)

    def __call__(self, key: str, find: Callable[[], Any]) -> Any:
        """The value of *key*: known, or found now and kept."""
        if key not in self.known:
            self.known[key] = find()
            if self.file:
                self.file.write(json.dumps({"key": key, "value": self.known[key]}) + "\n")
                self.file.flush()
        return self.known[key]


class Configuration(NamedTuple):
    """One way to make a text; *shape* is a name of ``TREES`` or ``GROWING``, if it has a tree."""

    algorithm: str = "nonsi"
    lookahead: int = 1
    targets: int = 1
    shape: str = ""

    def __str__(self) -> str:
        shape = f", {self.shape}" * bool(self.shape)
        return f"{self.algorithm}, lookahead {self.lookahead}, {self.targets} targets{shape}"


def configurations(
    algorithms: Sequence[str], shapes: Sequence[str], lookaheads: Sequence[int]
) -> list[Configuration]:
    """What is run by each of *algorithms*, with trees of *shapes* (nothing: all).

    A tree is drafted by levels, so that *lookaheads* do not concern it.
    """
    known = [Configuration(name, k) for name in ("si", "pearl", "pipespec") for k in LOOKAHEADS]
    known += [Configuration("dsi", k, targets) for k in LOOKAHEADS for targets in (1, 2)]
    known += [Configuration("tree", shape=shape) for shape in TREES]
    known += [
        Configuration("treedsi", k, targets, shape)
        for shape in GROWING
        for k in (1, 3)
        for targets in (1, 2)
    ]
    wanted = (*shapes, "") if shapes else (*TREES, *GROWING, "")
    return [
        one
        for one in known
        if one.algorithm in algorithms
        and one.shape in wanted
        and (one.algorithm == "tree" or one.lookahead in lookaheads)
    ]


def text_of(
    workers: Workers,
    prompt: list[int],
    tokens: int,
    rule: Rule,
    by: Configuration = Configuration(),  # noqa: B008 (it never changes)
) -> tuple[list[int], int, int]:
    """What comes out, how many drafts were accepted, and how many were judged."""
    from dsim.model.case import Decoding, TreeShape

    tree = TreeShape(**(TREES | GROWING).get(by.shape, {}))
    run = workers.run(
        by.algorithm,
        prompt,
        tokens,
        rule,
        lookahead=by.lookahead,
        targets=by.targets,
        decoding=Decoding(tree=tree),
    )
    return list(run.output.tokens), run.output.accepted, run.judged


def main() -> None:
    """Count, and print what differs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target")
    options.add_argument("--drafter")
    options.add_argument("--prompts", required=True, nargs="+")
    options.add_argument("--count", type=int, default=20, help="prompts of each file")
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--algorithms", nargs="+", choices=LIVE, default=list(LIVE))
    options.add_argument(
        "--lookaheads", nargs="+", type=int, choices=LOOKAHEADS, default=LOOKAHEADS
    )
    options.add_argument("--shapes", nargs="+", choices=[*TREES, *GROWING], default=[])
    options.add_argument("--dtype", default="float32")
    options.add_argument("--compile", action="store_true", help="see dsim generate")
    options.add_argument("--chat", action="store_true", help="prompts are turns of a conversation")
    options.add_argument("--keep", type=Path, metavar="FILE", help="go on from it")
    args = options.parse_args()

    from dsim.backends.torch.models import load_model, specs
    from dsim.backends.torch.pair import load_pair
    from dsim.backends.torch.sampling import Sampling
    from dsim.backends.torch.verify import Match
    from dsim.backends.torch.workers import Workers
    from dsim.tasks.generate import encode

    pair = load_pair(*specs(args.target, args.drafter, dtype=args.dtype))
    prompts = {
        f"{Path(name).stem} {number}": encode(pair, json.loads(line)["prompt"], chat=args.chat)
        for name in args.prompts
        for number, line in enumerate(Path(name).read_text(encoding="utf-8").splitlines())
        if number < args.count
    }
    exact = load_model(specs(args.target, args.drafter)[0], "cpu")  # float32: gaps without rounding
    compiled = max(map(len, prompts.values())) + args.tokens if args.compile else 0
    wanted = configurations(args.algorithms, args.shapes, args.lookaheads)
    chosen = (
        "keep",
        "prompts",
        "count",
        "algorithms",
        "lookaheads",
        "shapes",
    )  # every key says them
    kept = Kept(args.keep, {k: str(v) for k, v in vars(args).items() if k not in chosen})
    workers = Workers(pair, 2, share=True, watchdog_ns=PATIENCE_NS, compiled_tokens=compiled)
    with workers:
        for name, sampling in (
            ("greedy", Sampling()),
            ("sampled", Sampling(temperature=0.8, seed=1)),
        ):
            rule, same, total, accepted, judged = Match(sampling), 0, 0, 0, 0
            everywhere: list[float] = []
            parted: dict[tuple[str, int], float] = {}  # by prompt and position
            for number, prompt in prompts.items():
                find = functools.partial(text_of, workers, prompt, args.tokens, rule)
                expected, _, _ = kept(f"{name} {number}", find)
                ahead = gaps(exact, prompt, expected, sampling)
                everywhere += ahead.tolist()
                for one in wanted:
                    found, stood, said = kept(
                        f"{name} {number} {one}", functools.partial(find, one)
                    )
                    total += 1
                    accepted, judged = accepted + stood, judged + said
                    if found == expected:
                        same += 1
                        continue
                    at = next(
                        i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b
                    )
                    parted[number, at] = ahead[at]
                    print(
                        f"prompt {number}, {one}: other token at {at}; gap of the two best logits "
                        f"{ahead[at]:.4f}",
                        flush=True,
                    )
            print(
                f"{name}, {args.dtype}: {same} of {total} texts of {args.tokens} tokens are the "
                f"target's own ({len(prompts)} prompts); {accepted / judged:.3f} of "
                f"{judged:,} drafts accepted\n"
                f"  gaps at all {len(everywhere):,} positions: {spread(everywhere)}",
                flush=True,
            )
            if parted:
                print(
                    f"  gaps at the {len(parted)} positions where texts part first: "
                    f"{spread(list(parted.values()))}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
