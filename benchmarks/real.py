"""Real models: dsim's non-SI and SI against transformers, and both against a bare loop.

    python benchmarks/real.py --target FOLDER --drafter FOLDER --prompts FILE.jsonl

Same models, prompts, dtype and cores, one thread each, interleaved. ``bare`` is the shortest loop
of forwards that gives the same tokens: what any implementation could reach at best.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np


def bare_nonsi(target: Any, prompt: list[int], tokens: int) -> list[int]:
    """Greedy decoding, one forward a token."""
    import torch
    from transformers import DynamicCache

    cache, text, ids = DynamicCache(), [], torch.tensor([prompt])
    for _ in range(tokens):
        logits = target(input_ids=ids, use_cache=True, logits_to_keep=1, **{NAME: cache}).logits
        text.append(int(logits[0, -1].argmax()))
        ids = torch.tensor([text[-1:]])
    return text


def bare_si(target: Any, drafter: Any, prompt: list[int], tokens: int, k: int) -> list[int]:
    """Greedy speculative decoding: k drafts, one pass, and again."""
    import torch
    from transformers import DynamicCache

    text = list(prompt)
    caches = [DynamicCache(), DynamicCache()]
    fed = [0, 0]

    def feed(which: int, words: list[int], rows: int) -> list[int]:
        kept = min(fed[which], len(words) - rows)
        if kept < caches[which].get_seq_length():
            caches[which].crop(kept - caches[which].get_seq_length())
        model = (target, drafter)[which]
        logits = model(
            input_ids=torch.tensor([words[kept:]]),
            use_cache=True,
            logits_to_keep=rows,
            **{NAME: caches[which]},
        ).logits
        fed[which] = len(words)
        answers: list[int] = logits[0].argmax(-1).tolist()
        return answers

    while len(text) < len(prompt) + tokens:
        drafts: list[int] = []
        for _ in range(min(k, len(prompt) + tokens - len(text) - 1)):
            drafts += feed(1, text + drafts, 1)
        own = feed(0, text + drafts, len(drafts) + 1)
        n = next((i for i, d in enumerate(drafts) if d != own[i]), len(drafts))
        text += [*drafts[:n], own[n]]
        fed = [min(f, len(text) - 1) for f in fed]
    return text[len(prompt) :]


def interval(ratios: list[float]) -> str:
    """The median of *ratios*, one a text and repeat, and its 95 % interval (bootstrap)."""
    drawn = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return f"{np.median(ratios):.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Measure, and print a table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target", required=True)
    options.add_argument("--drafter", required=True)
    options.add_argument("--prompts", required=True)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--count", type=int, default=6)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--lookahead", type=int, default=5)
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--compile", action="store_true", help="dsim's models, not the others")
    options.add_argument("--spawned", action="store_true", help="workers that are no copies")
    args = options.parse_args()

    import inspect

    import torch

    from dsim.backends.torch import forks
    from dsim.backends.torch.models import load_model, specs
    from dsim.backends.torch.pair import load_pair
    from dsim.backends.torch.verify import Match
    from dsim.backends.torch.workers import Workers
    from dsim.system import available_cores

    if args.spawned:
        mock.patch.object(forks, "possible", return_value=False).start()
    pair = load_pair(*specs(args.target, args.drafter, dtype=args.dtype))
    texts = [json.loads(line)["prompt"] for line in Path(args.prompts).read_text().splitlines()]
    prompts = [list(pair.tokenizer(text).input_ids) for text in texts[: args.count]]
    torch.set_num_threads(1)
    target, drafter = load_model(pair.target, "cpu"), load_model(pair.drafter, "cpu")
    global NAME  # noqa: PLW0603
    NAME = "cache" if "cache" in inspect.signature(target.forward).parameters else "past_key_values"
    drafter.generation_config.num_assistant_tokens = args.lookahead
    drafter.generation_config.num_assistant_tokens_schedule = "constant"
    drafter.generation_config.assistant_confidence_threshold = 0.0
    cores = available_cores()

    def hf(prompt: list[int], **more: Any) -> list[int]:
        ids = target.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=args.tokens,
            min_new_tokens=args.tokens,
            pad_token_id=0,
            **more,
        )
        words: list[int] = ids[0, len(prompt) :].tolist()
        return words

    rule = Match()
    compiled = max(map(len, prompts)) + args.tokens if args.compile else 0
    with Workers(pair, 1, share=True, compiled_tokens=compiled) as workers:
        # The loops of this process run where dsim's target runs, with nobody else there.
        os.sched_setaffinity(0, cores[-1:])

        def dsim(algorithm: str, prompt: list[int], *, all_cores: bool = False) -> list[int]:
            os.sched_setaffinity(0, cores)
            run = workers.run(
                algorithm,
                prompt,
                args.tokens,
                rule,
                lookahead=args.lookahead,
                all_cores=all_cores,
            )
            os.sched_setaffinity(0, cores[-1:])
            WALL.append(run.wall_ns)
            return list(run.output.tokens)

        ways = {
            "non-SI bare loop": lambda p: bare_nonsi(target, p, args.tokens),
            "non-SI model.generate": hf,
            "non-SI dsim": lambda p: dsim("nonsi", p),
            "SI bare loop": lambda p: bare_si(target, drafter, p, args.tokens, args.lookahead),
            "SI assisted generation": lambda p: hf(p, assistant_model=drafter),
            "SI dsim": lambda p: dsim("si", p),
            "DSI dsim": lambda p: dsim("dsi", p),
        }
        if not compiled:  # which is done for one number of threads
            ways |= {
                "non-SI dsim, all cores": lambda p: dsim("nonsi", p, all_cores=True),
                "SI dsim, all cores": lambda p: dsim("si", p, all_cores=True),
            }
        took: dict[str, list[float]] = {name: [] for name in ways}
        wrote: dict[str, list[list[int]]] = {name: [] for name in ways}
        with torch.inference_mode():
            for turn in range(args.repeats + 1):
                for prompt in prompts:
                    order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
                    for name in order:
                        way = ways[name]
                        WALL.clear()
                        start = time.perf_counter_ns()
                        words = way(prompt)
                        wall_ns = WALL[0] if WALL else time.perf_counter_ns() - start
                        if turn:  # the first turn warms up
                            took[name].append(wall_ns / 1e6)
                            wrote[name].append(words)
    print(f"{'':24}{'median':>12}{'per token':>12}{'of its bare loop':>25}  same tokens")
    for name, times in took.items():
        middle = statistics.median(times)
        part = ""
        # Text by text, as the machine changes its pace; there is no bare loop on several cores.
        if "DSI" not in name and "all cores" not in name:
            bare = took[f"{name.split()[0]} bare loop"]
            ratios = [b / t for b, t in zip(bare, times, strict=True)]
            part = interval(ratios)
        print(
            f"{name:24}{middle:9.1f} ms{middle / args.tokens:9.2f} ms{part:>25}  "
            f"{'yes' if wrote[name] == wrote['non-SI bare loop'] else 'NO'}"
        )
    for ours, theirs in (
        ("non-SI dsim", "non-SI model.generate"),
        ("SI dsim", "SI assisted generation"),
        ("DSI dsim", "SI dsim"),
        ("DSI dsim", "SI dsim, all cores"),
    ):
        # Other tokens (a near tie, in bfloat16) are other drafts to accept: no comparison of speed.
        alike = [a == b for a, b in zip(wrote[ours], wrote[theirs], strict=True)]
        pairs = zip(took[ours], took[theirs], alike, strict=True)
        ratios = [b / a for a, b, equal in pairs if equal]
        told = interval(ratios) if ratios else "no text the same"
        print(f"{ours}: {told} × as fast as {theirs} ({sum(alike)} of {len(alike)} texts the same)")


NAME = "cache"
WALL: list[int] = []

if __name__ == "__main__":
    main()
