"""Measure the tiny pair: sizes, latencies, greedy agreement, and what the text looks like.

    python models/evaluate_pair.py --pair dsim/pair --corpus work/corpus --out work/evaluation.json

Agreement is teacher-forced: the target continues a prompt greedily, the drafter
reads prompt and continuation once, and each position counts where the drafter's
first choice is the target's token.  Its 95 % interval resamples whole prompts.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from make_corpus import opening
from transformers import AutoTokenizer, LlamaForCausalLM

HERE = Path(__file__).resolve().parent


@torch.no_grad()
def latency(
    model: LlamaForCausalLM, width: int, cached: int = 128, repeats: int = 50
) -> dict[str, float]:
    """Return quartiles, in milliseconds, of a forward of ``width`` tokens after ``cached`` ones."""
    top = model.config.vocab_size
    cache: Any = model(torch.randint(3, top, (1, cached)), use_cache=True).cache
    spent = []
    for _ in range(repeats + 5):
        ids = torch.randint(3, top, (1, width))
        start = time.perf_counter()
        model(ids, cache=cache, use_cache=True)
        spent.append((time.perf_counter() - start) * 1e3)
        cache.crop(-width)
    kept = sorted(spent[5:])
    return {
        "p25": round(kept[repeats // 4], 3),
        "p50": round(kept[repeats // 2], 3),
        "p75": round(kept[3 * repeats // 4], 3),
    }


@torch.no_grad()
def continuation(target: LlamaForCausalLM, prompt: list[int], new_tokens: int) -> list[int]:
    """Return the target's greedy continuation, the end token included when it came."""
    out = target.generate(
        torch.tensor([prompt]), do_sample=False, max_new_tokens=new_tokens, pad_token_id=2
    )
    ids: list[int] = out[0, len(prompt) :].tolist()
    return ids


@torch.no_grad()
def agreement(drafter: LlamaForCausalLM, prompt: list[int], text: list[int]) -> list[bool]:
    """Return, position by position, whether the drafter's first choice is the target's token."""
    logits = drafter(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
    same: list[bool] = (logits.argmax(-1) == torch.tensor(text)).tolist()
    return same


def interval(rows: list[list[bool]], draws: int = 4000) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the pooled share, resampling prompts."""
    rng = random.Random(0)
    counts = [(sum(r), len(r)) for r in rows]
    shares = []
    for _ in range(draws):
        again = rng.choices(counts, k=len(counts))
        shares.append(sum(h for h, _ in again) / sum(n for _, n in again))
    shares.sort()
    return shares[int(0.025 * draws)], shares[int(0.975 * draws)]


def repeated_share(ids: list[int], width: int = 8) -> float:
    """Return the share of runs of ``width`` tokens that came before in the same text."""
    runs = [tuple(ids[i : i + width]) for i in range(len(ids) - width + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def measure_set(
    target: LlamaForCausalLM,
    drafter: LlamaForCausalLM,
    tok: Any,
    prompts: list[str],
    new_tokens: int,
) -> dict[str, Any]:
    """Return agreement, endings and repetition over one set of prompts."""
    rows, repeats, ended, samples = [], [], 0, []
    for text in prompts:
        prompt = tok(text)["input_ids"]
        ids = continuation(target, prompt, new_tokens)
        rows.append(agreement(drafter, prompt, ids))
        repeats.append(repeated_share(ids))
        ended += ids[-1] == tok.eos_token_id
        samples.append({"prompt": text, "text": tok.decode(ids, skip_special_tokens=True)})
    low, high = interval(rows)
    hits, total = sum(sum(r) for r in rows), sum(len(r) for r in rows)
    runs = Counter(min(8, [*r, False].index(False)) for r in rows)
    return {
        "prompts": len(prompts),
        "tokens": total,
        "agreement": round(hits / total, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "lowest_prompt": round(min(sum(r) / len(r) for r in rows), 3),
        "highest_prompt": round(max(sum(r) / len(r) for r in rows), 3),
        "ended": ended,
        "mean_repeated_runs_of_8": round(sum(repeats) / len(repeats), 4),
        "prompts_with_repeats_over_20_percent": sum(r > 0.2 for r in repeats),
        "first_run_lengths": dict(sorted(runs.items())),
        "samples": samples,
    }


def main() -> None:
    """Measure, print a summary, and write everything to one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", type=Path, default=HERE.parent / "dsim" / "pair")
    parser.add_argument("--prompts", type=Path, default=HERE.parent / "dsim" / "prompts")
    parser.add_argument("--corpus", type=Path, help="folder with heldout.jsonl")
    parser.add_argument("--heldout", type=int, default=200, help="held-out openings to continue")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--no-latency", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    report: dict[str, Any] = {"models": {}, "agreement": {}}
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for role in ("target", "drafter"):
        folder = args.pair / role
        entry: dict[str, Any] = {
            "bytes": sum(f.stat().st_size for f in folder.iterdir()),
        }
        for name, dtype in dtypes.items():
            model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype).eval()
            entry["parameters"] = model.num_parameters()
            if not args.no_latency:
                entry[name] = {w: latency(model, w) for w in (1, 4, 8)}
        report["models"][role] = entry
        print(role, entry, flush=True)

    target, drafter = (
        LlamaForCausalLM.from_pretrained(args.pair / role, dtype=torch.float32).eval()
        for role in ("target", "drafter")
    )
    tok = AutoTokenizer.from_pretrained(args.pair / "target")
    sets: dict[str, list[str]] = {}
    if args.corpus:
        with (args.corpus / "heldout.jsonl").open(encoding="utf-8") as f:
            texts = [json.loads(line)["text"] for line in f][: args.heldout]
        sets["held-out openings"] = [opening(t) for t in texts]
    for file in sorted(args.prompts.glob("*.jsonl"), reverse=True):
        with file.open(encoding="utf-8") as f:
            sets[file.stem] = [json.loads(line)["prompt"] for line in f]
    for name, prompts in sets.items():
        result = measure_set(target, drafter, tok, prompts, args.new_tokens)
        report["agreement"][name] = result
        print(name, {k: v for k, v in result.items() if k != "samples"}, flush=True)
    args.out.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
