"""Train EAGLE-3 heads on a CPU: what the target makes of its own texts, then the head.

A head (Li et al., arXiv 2503.01840) reads features of three layers of its target. The texts are the
target's own: those of ``train_pair.py continue`` or of ``distil_smollm2.py``. Two steps, both with
fixed seeds; a step that was broken off goes on where it stopped::

    python models/train_eagle.py read --target dsim/pair/target --texts work/continued/tokens.jsonl --out work/states
    python models/train_eagle.py train --target dsim/pair/target --states work/states --out work/eagle --words 1536

``train`` ends with the acceptance by position on texts set apart: how often the head's n-th draft in
a row is the target's own choice, where all before it were.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from dsim.backends.torch.eagle import FEATURES, Head

FADING = 0.8  # weight of the loss of each step behind that of the one before, as published


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """A text, and what the target makes of it.

    Attributes:
        ids: its tokens.
        given: how many of them the target was given; the others are its own.
        states: bfloat16 (tokens, 4 · hidden size): the outputs of three layers, and the last state.
        own: the target's first choice after each token.
    """

    ids: torch.Tensor
    given: int
    states: torch.Tensor
    own: torch.Tensor


def texts_of(files: Sequence[Path], stop: int) -> list[tuple[list[int], int]]:
    """All texts, token ids and how many were given, each up to its end."""
    found = []
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            one = json.loads(line)
            given, ids = (1, one) if isinstance(one, list) else (len(one["prompt"]), one["prompt"])
            if isinstance(one, dict):
                answer = one["answer"]
                end = answer.index(stop) + 1 if stop in answer else len(answer)
                ids = ids + answer[:end]
            if len(ids) >= given + 4:
                found.append((ids, given))
    return found


@torch.no_grad()
def read(args: argparse.Namespace) -> None:
    """Let the target read the texts; keep its states, some hundred texts a file."""
    target = LlamaForCausalLM.from_pretrained(args.target, dtype=torch.bfloat16).eval()
    texts = texts_of(args.texts, target.config.eos_token_id)
    random.Random(args.seed).shuffle(texts)
    print(f"{len(texts)} texts, {sum(len(ids) for ids, _ in texts)} tokens", flush=True)
    start = time.monotonic()
    for at in range(0, len(texts), args.group):
        path = args.out / f"states-{at:06d}.safetensors"
        if path.exists():
            continue
        group = sorted(texts[at : at + args.group], key=lambda one: len(one[0]))
        states, own = [], []
        for first in range(0, len(group), 16):
            rows = [ids for ids, _ in group[first : first + 16]]
            width = max(map(len, rows))
            out = target.model(
                torch.tensor([ids + [0] * (width - len(ids)) for ids in rows]),
                output_hidden_states=True,
            )
            last = out.last_hidden_state
            some = [out.hidden_states[layer] for layer in args.layers]
            for row, ids in enumerate(rows):
                kept = last[row, : len(ids)]
                states.append(torch.cat([*(one[row, : len(ids)] for one in some), kept], -1))
                own.append(target.lm_head(kept).argmax(-1).int())
        half = path.with_suffix(".half")
        tensors = {
            "states": torch.cat(states),
            "own": torch.cat(own),
            "ids": torch.tensor([i for ids, _ in group for i in ids], dtype=torch.int32),
            "tokens": torch.tensor([len(ids) for ids, _ in group]),
            "given": torch.tensor([given for _, given in group]),
        }
        save_file(tensors, half)
        half.replace(path)
        print(f"{path.name}, {time.monotonic() - start:.0f} s", flush=True)


def lessons(folders: Sequence[Path], hold: int) -> tuple[list[Lesson], list[Lesson]]:
    """The lessons of *folders*, and those set apart: one in *hold*."""
    kept: list[Lesson] = []
    apart: list[Lesson] = []
    for folder in folders:
        for path in sorted(folder.glob("states-*.safetensors")):
            all_of = load_file(path)
            sizes = all_of["tokens"].tolist()
            parts = (all_of[name].split(sizes) for name in ("ids", "states", "own"))
            for ids, states, own, given in zip(*parts, all_of["given"].tolist(), strict=True):
                where = apart if (len(kept) + len(apart)) % hold == 0 else kept
                where.append(Lesson(ids=ids.long(), given=given, states=states, own=own.long()))
    return kept, apart


def batches(texts: Sequence[Lesson], tokens: int, seed: int) -> Iterator[list[Lesson]]:
    """Batches of about *tokens* tokens, texts of like lengths together, forever."""
    round_ = 0
    while True:
        rng = random.Random(f"{seed} round {round_}")
        order = list(texts)
        rng.shuffle(order)
        found: list[list[Lesson]] = []
        for at in range(0, len(order), 256):
            group: list[Lesson] = []
            for one in sorted(order[at : at + 256], key=lambda one: len(one.ids)):
                if group and (len(group) + 1) * len(one.ids) > tokens:
                    found.append(group)
                    group = []
                group.append(one)
            found.append(group)
        rng.shuffle(found)
        yield from found
        round_ += 1


def new_weights(
    target: LlamaForCausalLM, words: torch.Tensor, inner: int
) -> dict[str, torch.Tensor]:
    """Where training starts: the target's last layer, and its highest features as they are.

    Args:
        target: the target.
        words: the tokens that the head can draft, sorted.
        inner: width of the feed-forward part; of a wider target the first so many.
    """
    c = target.config
    layer, hidden = target.model.layers[-1], c.hidden_size
    own = {name: p.detach().float() for name, p in layer.named_parameters()}
    weights = {
        "fc.weight": torch.cat([torch.zeros(hidden, 2 * hidden), torch.eye(hidden)], 1),
        "norm.weight": target.model.norm.weight.detach().float(),
        "lm_head.weight": target.lm_head.weight.detach().float()[words],
        "midlayer.hidden_norm.weight": own["input_layernorm.weight"],
        "midlayer.input_layernorm.weight": torch.ones(hidden),
        "midlayer.post_attention_layernorm.weight": own["post_attention_layernorm.weight"],
        "midlayer.self_attn.o_proj.weight": own["self_attn.o_proj.weight"],
        "midlayer.mlp.gate_proj.weight": own["mlp.gate_proj.weight"][:inner],
        "midlayer.mlp.up_proj.weight": own["mlp.up_proj.weight"][:inner],
        "midlayer.mlp.down_proj.weight": own["mlp.down_proj.weight"][:, :inner],
    }
    for which in "qkv":
        half = own[f"self_attn.{which}_proj.weight"]
        new = torch.randn_like(half) * 0.02
        weights[f"midlayer.self_attn.{which}_proj.weight"] = torch.cat([new, half], 1)
    return {name: w.clone().contiguous().requires_grad_() for name, w in weights.items()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the drafts in a row, over all places of a batch at once.

    Attributes:
        loss: from the target's distribution (nats a token).
        right: of the drafts whose forerunners are right: whether they are, too.
    """

    loss: torch.Tensor
    right: torch.Tensor


def steps_of(
    head: Head, batch: Sequence[Lesson], rows: torch.Tensor, number: torch.Tensor, count: int
) -> Iterator[Step]:
    """Draft *count* tokens behind every token of *batch*: the training-time test of EAGLE-3.

    The first draft of a chain reads the target's features; each further one reads what the head
    itself made of the token before, beside the keys of the first step up to where its chain
    begins and those of its own chain.

    Args:
        head: the head.
        batch: texts.
        rows: the target's output weights of the tokens that can be drafted.
        number: which of these each token of the vocabulary is; -1: none.
        count: how many steps.
    """
    longest = max(len(one.ids) for one in batch)
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad([one.ids for one in batch], batch_first=True)
    own = pad([one.own for one in batch], batch_first=True, padding_value=-1)
    states = pad([one.states for one in batch], batch_first=True)
    given = torch.tensor([[one.given] for one in batch])
    size = states.shape[-1] // (FEATURES + 1)
    hidden = head.fuse(states[:, :-1, : FEATURES * size].float())
    past, masks = None, []
    first = torch.ones(longest - 1, longest - 1, dtype=torch.bool)
    alive = torch.ones_like(ids[:, :-1], dtype=torch.bool)
    for step in range(count):
        places = longest - 1 - step
        if places < 1:
            return
        # A chain of this step sees the first step's keys up to its own, and its own of each later.
        masks.append(first.tril() if step == 0 else first * torch.eye(longest - 1).bool())
        widths = range(longest - 1, places - 1, -1)
        mask = torch.cat([m[:places, :width] for m, width in zip(masks, widths, strict=True)], 1)
        hidden, past = head.forward(
            ids[:, 1 + step :],
            hidden[:, :places],
            (torch.arange(places) + step)[None],
            past,
            mask,
        )
        wanted = own[:, 1 + step :]
        counts = (torch.arange(places) + 2 + step >= given) & (wanted >= 0)
        alive = alive[:, :places] & counts
        best = number[wanted.clamp(min=0)]
        got = head.logits(hidden[counts]).float().log_softmax(-1)
        want = F.linear(states[:, 1 + step :][counts][:, FEATURES * size :], rows).float()
        near = best[counts] >= 0
        loss = -(want.softmax(-1) * got).sum(-1)[near].sum() / near.sum().clamp(min=1)
        right = torch.zeros_like(alive)
        right[counts] = (got.argmax(-1) == best[counts]) & near
        yield Step(loss=loss, right=right[alive].detach())
        said = F.pad(ids[:, 2 + step :], (0, 1), value=-2)
        alive = alive & right & (said == wanted)


def save(
    weights: dict[str, torch.Tensor], words: torch.Tensor, args: argparse.Namespace, c: object
) -> None:
    """Write the head as the published ones are: ``config.json`` and safetensors, bfloat16."""
    args.out.mkdir(parents=True, exist_ok=True)
    kept = {name: w.detach().bfloat16().contiguous() for name, w in weights.items()}
    known = torch.zeros(c.vocab_size, dtype=torch.bool)
    known[words] = True
    kept |= {"d2t": words - torch.arange(len(words)), "t2d": known}
    half = args.out / "model.half"
    save_file(kept, half, metadata={"format": "pt"})
    half.replace(args.out / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_size": c.hidden_size,
        "intermediate_size": args.inner,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_key_value_heads,
        "num_hidden_layers": 1,
        "hidden_act": c.hidden_act,
        "rms_norm_eps": c.rms_norm_eps,
        "max_position_embeddings": c.max_position_embeddings,
        "rope_theta": c.rope_parameters["rope_theta"],
        "vocab_size": c.vocab_size,
        "draft_vocab_size": len(words),
        "bos_token_id": c.bos_token_id,
        "eos_token_id": c.eos_token_id,
        "pad_token_id": c.pad_token_id,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "eagle_config": {
            "eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in args.layers],
            "use_aux_hidden_state": True,
        },
    }
    (args.out / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def train(args: argparse.Namespace) -> None:
    """Fit a head to what its target would say, over some steps of its own drafts in a row."""
    torch.manual_seed(args.seed)
    target = LlamaForCausalLM.from_pretrained(args.target, dtype=torch.float32)
    c = target.config
    texts, apart = lessons(args.states, args.hold)
    saved, begin = args.out / "checkpoint.pt", 0
    state = torch.load(saved, weights_only=True) if saved.exists() else None
    answers = torch.cat([one.own[max(0, one.given - 1) :] for one in texts])
    usual = torch.bincount(answers, minlength=c.vocab_size)
    usual[c.eos_token_id] += len(answers)
    words = usual.topk(args.words).indices.sort().values
    if state is not None:
        words = state["words"]
    held = torch.cat([one.own[max(0, one.given - 1) :] for one in apart])
    share = torch.isin(held, words).float().mean()
    print(f"{len(texts)} texts, {len(answers)} tokens; {len(apart)} texts set apart", flush=True)
    print(f"{len(words)} tokens can be drafted, {share:.4f} of those set apart", flush=True)
    number = torch.full((c.vocab_size,), -1)
    number[words] = torch.arange(len(words))
    rows = target.lm_head.weight.detach()[words].bfloat16()
    weights = new_weights(target, words, args.inner)
    print(f"{sum(w.numel() for w in weights.values())} weights", flush=True)
    embedded = {"embed_tokens.weight": target.model.embed_tokens.weight.detach()}
    head = Head(c.to_dict(), weights | embedded, "cpu")
    mover = torch.optim.AdamW(
        [
            {"params": [w for w in weights.values() if w.ndim == 2], "weight_decay": 0.02},
            {"params": [w for w in weights.values() if w.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
    )
    if state is not None:
        begin = state["step"]
        for name, w in state["weights"].items():
            weights[name].data.copy_(w)
        mover.load_state_dict(state["mover"])
        print(f"goes on at step {begin}", flush=True)
    stream, seen, start = batches(texts, args.batch, args.seed), 0, time.monotonic()
    for step, batch in enumerate(stream):
        if step == args.steps:
            break
        if step < begin:
            continue
        rising, falling = (step + 1) / args.warm, (args.steps - step) / (args.fall * args.steps)
        for group in mover.param_groups:
            group["lr"] = args.rate * min(1.0, rising, falling)
        with torch.autocast("cpu", torch.bfloat16):
            found = list(steps_of(head, batch, rows, number, args.chain))
        sum(FADING**n * one.loss for n, one in enumerate(found)).backward()
        torch.nn.utils.clip_grad_norm_(list(weights.values()), 1.0)
        mover.step()
        mover.zero_grad(set_to_none=True)
        seen += sum(len(one.ids) for one in batch)
        if (step + 1) % 20 == 0:
            losses = " ".join(f"{one.loss.item():.3f}" for one in found)
            right = " ".join(f"{one.right.float().mean():.3f}" for one in found)
            speed = seen / (time.monotonic() - start)
            print(
                f"step {step + 1}, {speed:.0f} tokens/s: loss {losses}; right {right}", flush=True
            )
        if (step + 1) % args.save == 0 or step + 1 == args.steps:
            save(weights, words, args, c)
            half = saved.with_suffix(".half")
            now = {"step": step + 1, "words": words, "weights": weights}
            torch.save(now | {"mover": mover.state_dict()}, half)
            half.replace(saved)
        if (step + 1) % args.check == 0 or step + 1 == args.steps:
            print("  set apart: " + " ".join(held_out(head, apart, rows, number)), flush=True)


@torch.no_grad()
def held_out(
    head: Head, apart: Sequence[Lesson], rows: torch.Tensor, number: torch.Tensor, count: int = 6
) -> list[str]:
    """Acceptance by position on texts set apart, as words."""
    right = [[] for _ in range(count)]
    for at in range(0, len(apart), 16):
        with torch.autocast("cpu", torch.bfloat16):
            for n, one in enumerate(steps_of(head, apart[at : at + 16], rows, number, count)):
                right[n].append(one.right)
    shares = [torch.cat(one).float() for one in right]
    return [f"{one.mean():.3f} of {len(one)}" for one in shares]


def main() -> None:
    """Read the command line and run one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(required=True)
    r = steps.add_parser("read", help="let the target read its texts")
    r.add_argument("--texts", type=Path, nargs="+", required=True)
    r.add_argument("--group", type=int, default=256, help="texts a file")
    r.set_defaults(run=read)
    t = steps.add_parser("train", help="fit the head")
    t.add_argument(
        "--states", type=Path, nargs="+", required=True, help="folders of the first step"
    )
    t.add_argument("--words", type=int, default=1536, help="tokens that can be drafted")
    t.add_argument("--inner", type=int, default=640, help="width of the feed-forward part")
    t.add_argument("--chain", type=int, default=4, help="drafts in a row")
    t.add_argument("--steps", type=int, default=1000)
    t.add_argument("--batch", type=int, default=2048, help="tokens a step")
    t.add_argument("--rate", type=float, default=1e-3, help="peak of the learning rate")
    t.add_argument("--warm", type=int, default=40, help="steps until the peak")
    t.add_argument("--fall", type=float, default=0.6, help="the share of the steps after the peak")
    t.add_argument("--hold", type=int, default=48, help="one text in this many is set apart")
    t.add_argument("--check", type=int, default=200, help="steps between looks at these texts")
    t.add_argument("--save", type=int, default=100, help="steps between checkpoints")
    t.set_defaults(run=train)
    for p in (r, t):
        p.add_argument("--target", type=Path, required=True)
        p.add_argument("--layers", type=int, nargs=FEATURES, default=[2, 4, 7], help="from 1")
        p.add_argument("--out", type=Path, required=True)
        p.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
