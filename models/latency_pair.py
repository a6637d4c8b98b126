"""Time one forward of target and drafter in turn, on one thread of the CPU.

    python models/latency_pair.py --pair dsim/pair

prints, for each number of new tokens, milliseconds: the tenth percentile (what a
busy machine disturbs least) and the median, and the ratio of the tenth percentiles.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=Path("dsim/pair"))
    parser.add_argument("--cached", type=int, default=128, help="tokens in the cache")
    parser.add_argument("--repeats", type=int, default=80)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        models = {
            role: LlamaForCausalLM.from_pretrained(args.pair / role, dtype=dtype).eval()
            for role in ("target", "drafter")
        }
        for width in (1, 4, 8):
            spent: dict[str, list[float]] = {role: [] for role in models}
            start_ids = torch.randint(3, 3000, (1, args.cached))
            caches: dict[str, Any] = {
                r: m(start_ids, use_cache=True).cache for r, m in models.items()
            }
            for _ in range(args.repeats):
                for role, model in models.items():
                    ids = torch.randint(3, 3000, (1, width))
                    start = time.perf_counter()
                    model(ids, cache=caches[role], use_cache=True)
                    spent[role].append((time.perf_counter() - start) * 1e3)
                    caches[role].crop(-width)
            low = {r: sorted(v)[args.repeats // 10] for r, v in spent.items()}
            mid = {r: sorted(v)[args.repeats // 2] for r, v in spent.items()}
            print(
                f"| {name} | {width} | {low['target']:.2f} | {mid['target']:.2f} | "
                f"{low['drafter']:.2f} | {mid['drafter']:.2f} | {low['drafter'] / low['target']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
