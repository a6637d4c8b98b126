"""Do SI and DSI give exactly the target's tokens? On real models, over many prompts.

    python benchmarks/lossless.py --target FOLDER --drafter FOLDER --prompts FILE.jsonl

By every lookahead in {1, 2, 3, 5, 8} and 1 and 2 target servers, greedy and sampled (temperature
0.8). In float32 every text should be the same; in bfloat16 the first difference of each text is
shown with the gap between the two best logits there, which says whether it was a near tie.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

LOOKAHEADS = (1, 2, 3, 5, 8)


def gap(model: Any, prefix: list[int]) -> float:
    """The difference of the two largest logits after *prefix*, in one wide forward."""
    import torch

    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([prefix]), logits_to_keep=1).logits[0, -1].float()
    best = logits.topk(2).values
    return float(best[0] - best[1])


def main() -> None:
    """Count, and print what differs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--target")
    options.add_argument("--drafter")
    options.add_argument("--prompts", required=True)
    options.add_argument("--count", type=int, default=20)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--dtype", default="float32")
    options.add_argument("--compile", action="store_true", help="see dsim generate")
    options.add_argument("--chat", action="store_true", help="prompts are turns of a conversation")
    args = options.parse_args()

    from dsim.backends.torch import Fleet
    from dsim.generate import encode
    from dsim.models import load_model, load_pair, specs
    from dsim.verify import Match, Sampling

    pair = load_pair(*specs(args.target, args.drafter, dtype=args.dtype))
    texts = [json.loads(line)["prompt"] for line in Path(args.prompts).read_text().splitlines()]
    prompts = [encode(pair, text, chat=args.chat) for text in texts[: args.count]]
    configurations = [("si", k, 1) for k in LOOKAHEADS]
    configurations += [("dsi", k, targets) for k in LOOKAHEADS for targets in (1, 2)]
    model = load_model(pair.target, "cpu")
    compiled = max(map(len, prompts)) + args.tokens if args.compile else 0
    with Fleet(pair, 2, share=True, compiled_tokens=compiled) as fleet:
        for name, sampling in (
            ("greedy", Sampling()),
            ("sampled", Sampling(temperature=0.8, seed=1)),
        ):
            rule, same, total, accepted, judged = Match(sampling), 0, 0, 0, 0
            for number, prompt in enumerate(prompts):
                expected = fleet.run("nonsi", prompt, args.tokens, rule).output.tokens
                for algorithm, lookahead, targets in configurations:
                    run = fleet.run(
                        algorithm, prompt, args.tokens, rule, lookahead=lookahead, targets=targets
                    )
                    found = run.output.tokens
                    total += 1
                    accepted, judged = accepted + run.output.accepted, judged + run.judged
                    if found == expected:
                        same += 1
                        continue
                    at = next(
                        i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b
                    )
                    print(
                        f"prompt {number}, {algorithm}, lookahead {lookahead}, {targets} targets: "
                        f"other token at {at}; gap of the two best logits "
                        f"{gap(model, prompt + expected[:at]):.4f}"
                    )
            print(
                f"{name}, {args.dtype}: {same} of {total} texts of {args.tokens} tokens are the "
                f"target's own ({len(prompts)} prompts); {accepted / judged:.3f} of "
                f"{judged:,} drafts accepted",
                flush=True,
            )


if __name__ == "__main__":
    main()
