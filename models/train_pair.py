"""Train the tiny pair on a CPU: tokenizer, target, target-made text, drafter.

Each step is a subcommand; ``models/README.md`` has the whole chain with its settings::

    python models/train_pair.py tokenizer --corpus C --out TOKENIZER
    python models/train_pair.py target    --corpus C --tokenizer TOKENIZER --out TARGET
    python models/train_pair.py continue  --corpus C --target TARGET --out TEXTS
    python models/train_pair.py drafter   --corpus C --target TARGET --continued TEXTS --out DRAFTER

``--minutes`` are minutes of wall time; the learning rate falls to zero over them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from make_corpus import BOYS, GIRLS
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

BOS, EOS, PAD = "<|bos|>", "<|eos|>", "<|pad|>"
CONTEXT = 512  # tokens a training row holds
SHAPES = {
    # hidden, layers, heads, key-value heads, feed-forward
    "target": (256, 8, 4, 2, 640),
    "drafter": (256, 2, 4, 2, 640),
}


def read_corpus(folder: Path, name: str = "train") -> list[str]:
    """Return the texts of one half of the corpus."""
    with (folder / f"{name}.jsonl").open(encoding="utf-8") as f:
        return [json.loads(line)["text"] for line in f]


def train_tokenizer(args: argparse.Namespace) -> None:
    """Train a byte-level BPE tokenizer that puts the start token before every text."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(read_corpus(args.corpus), trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        model_max_length=2 * CONTEXT, clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.save_pretrained(args.out)
    # The class name that every version of transformers knows.
    settings = args.out / "tokenizer_config.json"
    named = settings.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast")
    settings.write_text(named)
    print(f"{len(fast)} tokens in the vocabulary")


def new_model(role: str, vocab: int) -> LlamaForCausalLM:
    """Return an untrained model of the shape of its role."""
    hidden, layers, heads, kv_heads, inner = SHAPES[role]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        max_position_embeddings=2 * CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def pack(texts: list[list[int]], seed: int) -> torch.Tensor:
    """Join documents (each starts with BOS, ends with EOS) into rows of ``CONTEXT + 1`` tokens."""
    order = list(texts)
    random.Random(seed).shuffle(order)
    flat = torch.tensor([t for doc in order for t in doc], dtype=torch.int32)
    width = CONTEXT + 1
    return flat[: len(flat) // width * width].view(-1, width)


def apart(docs: list[list[int]], tokens: int, seed: int) -> Iterator[torch.Tensor]:
    """Yield batches of about ``tokens`` tokens, one document a row, forever.

    Documents of like length come together; short rows are filled up with the padding token.
    """
    rng = random.Random(seed)
    kept = [d for d in docs if len(d) <= CONTEXT]
    while True:
        rng.shuffle(kept)
        for at in range(0, len(kept), 1024):
            pool = sorted(kept[at : at + 1024], key=len)
            groups: list[list[list[int]]] = [[]]
            for doc in pool:
                if groups[-1] and (len(groups[-1]) + 1) * len(doc) > tokens:
                    groups.append([])
                groups[-1].append(doc)
            rng.shuffle(groups)
            for group in groups:
                width = max(map(len, group))
                yield torch.tensor([d + [2] * (width - len(d)) for d in group])


def said_before(batch: torch.Tensor, rare: torch.Tensor) -> torch.Tensor:
    """Mark the tokens to predict that are rare in the corpus but stood earlier in their row."""
    same = batch[:, 1:, None] == batch[:, None, :-1]
    return same.tril().any(-1) & rare[batch[:, 1:]]


def batches(rows: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Yield batches of rows forever, in an order that differs each time round."""
    while True:
        for part in torch.randperm(len(rows)).split(size):
            if len(part) == size:
                yield rows[part].long()


class Clock:
    """Turns wall time into a learning rate: linear warm-up, then a cosine to zero."""

    def __init__(self, minutes: float, peak: float, warm_up_steps: int = 60) -> None:
        self.start = time.monotonic()
        self.seconds = minutes * 60
        self.peak, self.warm_up = peak, warm_up_steps

    @property
    def fraction(self) -> float:
        """Return how much of the time is spent, from 0 to 1."""
        return min(1.0, (time.monotonic() - self.start) / self.seconds)

    def rate(self, step: int) -> float:
        """Return the learning rate of this step."""
        warm = min(1.0, (step + 1) / self.warm_up)
        return self.peak * warm * 0.5 * (1 + math.cos(math.pi * self.fraction))


def optimiser(model: LlamaForCausalLM, decay: float) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=0.0,
        betas=(0.9, 0.95),
    )


def save(model: LlamaForCausalLM, tokenizer: Path, out: Path) -> None:
    """Write the model in bfloat16 with its tokenizer and its greedy generation settings."""
    copy = new_model_like(model)
    copy.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=1, pad_token_id=2, do_sample=False
    )
    copy.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (out / name).write_bytes((tokenizer / name).read_bytes())


def new_model_like(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return a bfloat16 copy, leaving the float32 weights alone."""
    copy = LlamaForCausalLM(model.config).bfloat16()
    copy.load_state_dict(model.state_dict())
    copy.tie_weights()
    return copy


def encode(folder: Path, texts: list[str]) -> list[list[int]]:
    """Return the token ids of each text, with BOS in front and EOS at the end."""
    tok = AutoTokenizer.from_pretrained(folder)
    ids: list[list[int]] = tok(texts)["input_ids"]
    return [[*doc, tok.eos_token_id] for doc in ids]


def load_start(model: LlamaForCausalLM, folder: Path) -> None:
    """Fill the model from a saved one; of a deeper one, take the first layers and the last."""
    saved = LlamaForCausalLM.from_pretrained(folder).float()
    state = saved.state_dict()
    last, top = saved.config.num_hidden_layers - 1, model.config.num_hidden_layers - 1
    state |= {
        k.replace(f"layers.{last}.", f"layers.{top}."): v
        for k, v in state.items()
        if f"layers.{last}." in k
    }
    model.load_state_dict({k: v for k, v in state.items() if k in model.state_dict()})


def spread_names(model: LlamaForCausalLM, folder: Path) -> None:
    """Pull the embeddings of the names apart, which training on their role alone leaves alike.

    A name has two tokens, with and without a space before it; both get the same new direction.
    """
    tok = AutoTokenizer.from_pretrained(folder)
    words = (GIRLS + " " + BOYS).split()
    weight = model.model.embed_tokens.weight.data
    new = F.normalize(torch.randn(len(words), weight.shape[1]), dim=1) * 0.6
    for form in ("{}", " {}"):
        ids = [tok.encode(form.format(w), add_special_tokens=False) for w in words]
        whole = [(i[0], n) for i, n in zip(ids, new, strict=True) if len(i) == 1]
        mean = torch.stack([weight[i] for i, _ in whole]).mean(0)
        for i, n in whole:
            weight[i] = 0.6 * mean + n


def train_target(args: argparse.Namespace) -> None:
    """Train the target on the corpus with the usual next-token loss."""
    torch.manual_seed(args.seed)
    docs = [
        d for name in args.texts for d in encode(args.tokenizer, read_corpus(args.corpus, name))
    ]
    rows = pack(docs, args.seed)
    rare = torch.bincount(rows.flatten(), minlength=args.vocab) < args.rare * rows.numel()
    test = pack(encode(args.tokenizer, read_corpus(args.corpus, "heldout")), 0)[:32].long()
    print(f"{rows.numel()} tokens in {len(rows)} rows", flush=True)
    model = new_model(args.role, args.vocab)
    if args.start:
        load_start(model, args.start)
    if args.spread_names:
        spread_names(model, args.tokenizer)
    print(f"{model.num_parameters()} parameters", flush=True)
    opt, clock = optimiser(model, decay=0.1), Clock(args.minutes, args.rate)
    size = args.batch * CONTEXT
    stream = apart(docs, size, args.seed) if args.apart else batches(rows, args.batch)
    step, seen, saved = 0, 0, 0.0
    while clock.fraction < args.stop_at:
        batch = next(stream)
        for group in opt.param_groups:
            group["lr"] = clock.rate(step)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch[:, :-1], use_cache=False).logits
        losses = F.cross_entropy(
            logits.float().flatten(0, 1), batch[:, 1:].flatten(), reduction="none"
        )
        weight = (batch[:, 1:] != 2).float()
        if args.apart:
            weight = weight * (1 + args.again_weight * said_before(batch, rare))
        loss = (losses * weight.flatten()).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        seen += int((batch[:, 1:] != 2).sum())
        if step % 20 == 0:
            speed = seen / (time.monotonic() - clock.start)
            print(f"{step} {seen} tokens {speed:.0f}/s loss {loss.item():.3f}", flush=True)
        if clock.fraction - saved > 0.1 or clock.fraction >= args.stop_at:
            saved = clock.fraction
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits = model(test[:, :-1], use_cache=False).logits
            held = F.cross_entropy(logits.float().flatten(0, 1), test[:, 1:].flatten())
            print(f"held-out loss {held.item():.4f} nats a token", flush=True)
            save(model, args.tokenizer, args.out)


@torch.no_grad()
def continue_openings(args: argparse.Namespace) -> None:
    """Let the target continue openings of training documents, half of them greedily."""
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    model = AutoModelForCausalLM.from_pretrained(args.target, dtype=torch.float32).eval()
    docs = encode(args.target, read_corpus(args.corpus)[: args.documents])
    args.out.mkdir(parents=True, exist_ok=True)
    start, made, turn = time.monotonic(), 0, 0
    with (args.out / "tokens.jsonl").open("w") as f:
        while time.monotonic() - start < args.minutes * 60:
            width = rng.randint(6, 40)
            chosen = rng.sample([d for d in docs if len(d) > width + 8], args.batch)
            ids = torch.tensor([d[:width] for d in chosen])
            sampling = {"do_sample": False} if turn % 2 == 0 else {"do_sample": True, "top_k": 0}
            out = model.generate(ids, max_new_tokens=180, **sampling)
            turn += 1
            for row in out.tolist():
                end = row.index(1) + 1 if 1 in row else len(row)
                made += end - width
                f.write(json.dumps(row[:end]) + "\n")
            print(f"{made} tokens {made / (time.monotonic() - start):.0f}/s", flush=True)


def train_drafter(args: argparse.Namespace) -> None:
    """Distil the drafter: match the target's whole distribution, and its first choice."""
    torch.manual_seed(args.seed)
    target = AutoModelForCausalLM.from_pretrained(args.target, dtype=torch.bfloat16).eval()
    docs = encode(args.target, read_corpus(args.corpus)[: args.documents])
    if args.continued:
        with (args.continued / "tokens.jsonl").open() as f:
            docs += [json.loads(line) for line in f]
    print(f"{sum(map(len, docs))} tokens in {len(docs)} texts", flush=True)
    model = new_model("drafter", target.config.vocab_size)
    load_start(model, args.start or args.target)
    print(f"{model.num_parameters()} parameters", flush=True)
    opt, clock = optimiser(model, decay=0.01), Clock(args.minutes, args.rate)
    stream, step, seen = apart(docs, args.batch * CONTEXT, args.seed), 0, 0
    while clock.fraction < 1:
        batch = next(stream)[:, :-1]
        for group in opt.param_groups:
            group["lr"] = clock.rate(step)
        with torch.no_grad():
            want = target(batch, use_cache=False).logits.float()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(batch, use_cache=False).logits
        real = batch != 2
        got = logits[real].float().log_softmax(-1)
        want = want[real].log_softmax(-1)
        first = want.argmax(-1)
        match = F.kl_div(got, want, log_target=True, reduction="batchmean")
        choice = F.nll_loss(got, first)
        (match + args.choice_weight * choice).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        opt.zero_grad(set_to_none=True)
        step += 1
        seen += int(real.sum())
        if step % 20 == 0 or clock.fraction >= 1:
            agree = (got.argmax(-1) == first).float().mean().item()
            speed = seen / (time.monotonic() - clock.start)
            print(
                f"{step} {seen} tokens {speed:.0f}/s kl {match.item():.3f} agree {agree:.3f}",
                flush=True,
            )
    save(model, args.target, args.out)


def main() -> None:
    """Read the command line and run one step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(required=True)

    t = steps.add_parser("tokenizer")
    t.add_argument("--corpus", type=Path, required=True)
    t.add_argument("--out", type=Path, required=True)
    t.add_argument("--vocab", type=int, default=3072)
    t.set_defaults(run=train_tokenizer)

    m = steps.add_parser("target")
    m.add_argument("--corpus", type=Path, required=True)
    m.add_argument("--tokenizer", type=Path, required=True)
    m.add_argument("--out", type=Path, required=True)
    m.add_argument("--minutes", type=float, default=40.0)
    m.add_argument("--batch", type=int, default=8, help="rows a step")
    m.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    m.add_argument("--vocab", type=int, default=3072)
    m.add_argument("--role", choices=tuple(SHAPES), default="target")
    m.add_argument("--start", type=Path, help="folder of a target to go on from")
    m.add_argument("--apart", action="store_true", help="one document a row")
    m.add_argument("--texts", nargs="+", default=["train"], help="train, drill or both")
    m.add_argument(
        "--again-weight",
        type=float,
        default=0.0,
        help="with --apart: added loss weight of rare tokens said before",
    )
    m.add_argument("--rare", type=float, default=0.003, help="share of the corpus called rare")
    m.add_argument("--spread-names", action="store_true")
    m.add_argument("--stop-at", type=float, default=1.0, help="share of the minutes to stop after")
    m.set_defaults(run=train_target)

    c = steps.add_parser("continue")
    c.add_argument("--corpus", type=Path, required=True)
    c.add_argument("--target", type=Path, required=True)
    c.add_argument("--out", type=Path, required=True)
    c.add_argument("--minutes", type=float, default=5.0)
    c.add_argument("--batch", type=int, default=64)
    c.add_argument("--documents", type=int, default=20_000, help="training documents to open with")
    c.set_defaults(run=continue_openings)

    d = steps.add_parser("drafter")
    d.add_argument("--corpus", type=Path, required=True)
    d.add_argument("--target", type=Path, required=True)
    d.add_argument("--continued", type=Path)
    d.add_argument("--start", type=Path, help="a trained drafter to go on from")
    d.add_argument("--out", type=Path, required=True)
    d.add_argument("--minutes", type=float, default=15.0)
    d.add_argument("--batch", type=int, default=8)
    d.add_argument("--rate", type=float, default=2e-3)
    d.add_argument("--documents", type=int, default=20_000, help="training documents to mix in")
    d.add_argument("--choice-weight", type=float, default=0.5)
    d.set_defaults(run=train_drafter)

    for p in (m, c, d):
        p.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.run(args)


if __name__ == "__main__":
    main()
