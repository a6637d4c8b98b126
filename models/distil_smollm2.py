"""Distil a three-layer drafter from SmolLM2-135M-Instruct.

The steps, each a subcommand; all that is random has a fixed seed, and schedules count steps, not
minutes. A step that was broken off goes on where it stopped::

    G=work/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
    python models/distil_smollm2.py sample --gguf $G --out work/smol
    python models/distil_smollm2.py answer --gguf $G --out work/smol
    python models/distil_smollm2.py train --gguf $G --data work/smol --out work/smol-drafter

``sample`` lets the target make texts and questions up, from openings in ``smollm2_prompts.py``;
``answer`` lets it go on greedily from them, with and without its chat template, and from heads of
functions; ``train`` fits the drafter to what the target thinks of all these tokens. Several
processes may share the first two (``--worker``, ``--workers``, before the step's name).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import smollm2_prompts as prompts
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from smollm2 import load_model, load_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

DOCUMENT = 0  # <|endoftext|>: what stands before a document
EOS = 2  # <|im_end|>
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def in_bfloat16(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """*model* with bfloat16 weights; the rotary frequencies stay exact, as when it is loaded so."""
    exact = model.model.rotary_emb.inv_freq
    model.bfloat16()
    model.model.rotary_emb.inv_freq = exact
    return model


class Decoder:
    """Continues many texts at once, some times faster than ``generate``: the cache never moves.

    Args:
        model: the target; its weights are taken in bfloat16.
    """

    def __init__(self, model: LlamaForCausalLM) -> None:
        c = model.config
        self.model = in_bfloat16(model)
        self.heads, self.kv_heads = c.num_attention_heads, c.num_key_value_heads
        self.size = c.hidden_size // c.num_attention_heads
        self.eps = c.rms_norm_eps
        self.layers = []
        for layer in model.model.layers:
            a, m = layer.self_attn, layer.mlp
            self.layers.append(
                (
                    layer.input_layernorm.weight.float(),
                    torch.cat([a.q_proj.weight, a.k_proj.weight, a.v_proj.weight]),
                    a.o_proj.weight,
                    layer.post_attention_layernorm.weight.float(),
                    torch.cat([m.gate_proj.weight, m.up_proj.weight]),
                    m.down_proj.weight,
                )
            )
        theta = c.rope_parameters["rope_theta"]
        angles = torch.arange(2048)[:, None] * theta ** (-torch.arange(0, self.size, 2) / self.size)
        self.cos = torch.cat([angles.cos()] * 2, 1).bfloat16()
        self.sin = torch.cat([-angles.sin(), angles.sin()], 1).bfloat16()

    def norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """RMS norm of *x*, (texts, width)."""
        y = x.float()
        return (y * (y.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt() * weight).bfloat16()

    def turn(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Rotary positions for *x*, (texts, heads, size)."""
        return x * cos + x.roll(self.size // 2, -1) * sin

    @torch.no_grad()
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        tokens: int,
        *,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> tuple[list[list[int]], torch.Tensor]:
        """The next *tokens* tokens of each text, end-of-text tokens or not.

        The second value, bfloat16 (texts, tokens, hidden size), is the last hidden state from which
        each token came.
        """
        noise = torch.Generator().manual_seed(seed)
        width, texts = max(map(len, prompts)), len(prompts)
        ids = torch.tensor([[EOS] * (width - len(p)) + list(p) for p in prompts])
        real = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        places = (real.cumsum(1) - 1).clamp(min=0)
        first = self.model.model(
            input_ids=ids, attention_mask=real, position_ids=places, use_cache=True
        )
        cache = torch.zeros(
            len(self.layers),
            2,
            texts,
            self.kv_heads,
            width + tokens,
            self.size,
            dtype=torch.bfloat16,
        )
        for i, layer in enumerate(first.cache.layers):
            cache[i, 0, :, :, :width] = layer.keys
            cache[i, 1, :, :, :width] = layer.values
        hidden_away = torch.zeros(texts, 1, 1, width + tokens, dtype=torch.bfloat16)
        hidden_away[:, 0, 0, :width] = (1 - real).bfloat16() * -1e9
        head = self.model.model.embed_tokens.weight
        last = first.last_hidden_state[:, -1]
        place = places[:, -1]
        out, states = [], []
        groups = self.heads // self.kv_heads
        for now in range(width, width + tokens):
            states.append(last)
            scores = F.linear(last, head)
            if temperature:
                mass = (scores.float() / temperature).softmax(-1).cumsum(-1)
                point = torch.rand(texts, 1, generator=noise) * mass[:, -1:]
                chosen = torch.searchsorted(mass, point)[:, 0].clamp(max=mass.shape[1] - 1)
            else:
                chosen = scores.argmax(-1)
            out.append(chosen)
            if now + 1 == width + tokens:
                break
            place = place + 1
            cos, sin = self.cos[place][:, None], self.sin[place][:, None]
            x = F.embedding(chosen, head)
            for i, (norm1, qkv, o, norm2, up, down) in enumerate(self.layers):
                y = F.linear(self.norm(x, norm1), qkv).view(texts, -1, self.size)
                turned = self.turn(y[:, : self.heads + self.kv_heads], cos, sin)
                cache[i, 0, :, :, now] = turned[:, self.heads :]
                cache[i, 1, :, :, now] = y[:, self.heads + self.kv_heads :]
                q = turned[:, : self.heads].reshape(texts, self.kv_heads, groups, self.size)
                keys, values = cache[i, :, :, :, : now + 1]
                weight = (q * self.size**-0.5) @ keys.transpose(-1, -2)
                weight = (weight + hidden_away[..., : now + 1]).float().softmax(-1).bfloat16()
                x = x + F.linear((weight @ values).reshape(texts, -1), o)
                gate, value = F.linear(self.norm(x, norm2), up).chunk(2, -1)
                x = x + F.linear(F.silu(gate) * value, down)
            last = self.norm(x, self.model.model.norm.weight.float())
        return torch.stack(out, 1).tolist(), torch.stack(states, 1)


def chat(tokenizer: Any, user: str) -> list[int]:
    """A conversation of one turn, up to where the assistant starts to answer."""
    return list(
        tokenizer.encode(
            f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
            "<|im_start|>assistant\n",
            add_special_tokens=False,
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text:
    """One text, as token ids.

    Attributes:
        kind: how it came about.
        prompt: what was given.
        answer: how the target went on.
    """

    kind: str
    prompt: list[int]
    answer: list[int]


def read(folder: Path, name: str) -> list[Text]:
    """The texts called *name* in *folder*, batch by batch."""
    return [
        Text(**json.loads(line))
        for path in sorted(folder.glob(f"{name}-*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]


def write_batches(
    decoder: Decoder,
    todo: Sequence[tuple[str, list[int]]],
    name: str,
    args: argparse.Namespace,
    *,
    tokens: int,
    temperature: float = 0.0,
) -> None:
    """Continue the prompts *todo*, (kind, token ids); each batch is a file of JSON lines.

    The hidden states go into a file beside it (1.2 kB a token), so that training need not run the
    target again. A run that was broken off goes on where it stopped; several processes may share
    the work.
    """
    start, made = time.monotonic(), 0
    for at in range(args.worker * args.batch, len(todo), args.workers * args.batch):
        path = args.out / f"{name}-{at:05d}.jsonl"
        if path.exists():
            continue
        chunk = todo[at : at + args.batch]
        answers, states = decoder(
            [p for _, p in chunk],
            tokens,
            temperature=temperature,
            seed=zlib.crc32(path.name.encode(), args.seed - 1),
        )
        save_file({"hidden": states.contiguous()}, path.with_suffix(".safetensors"))
        half = path.with_suffix(".half")
        with half.open("w", encoding="utf-8") as out:
            for (kind, prompt), answer in zip(chunk, answers, strict=True):
                text = Text(kind=kind, prompt=prompt, answer=answer)
                out.write(json.dumps(dataclasses.asdict(text)) + "\n")
        half.replace(path)
        made += len(chunk) * tokens
        rate = made / (time.monotonic() - start)
        print(f"{path.name} of {len(todo)} texts, {rate:.0f} tokens/s", flush=True)


def sample(args: argparse.Namespace) -> None:
    """Let the target make questions and documents up."""
    tokenizer, decoder = load_tokenizer(args.gguf), Decoder(load_model(args.gguf))
    rng = random.Random(args.seed)
    asked = tokenizer.encode(
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n", add_special_tokens=False
    )
    todo = [
        ("question", asked + tokenizer.encode(rng.choice(prompts.QUESTION_STARTS)))
        for _ in range(args.questions)
    ]
    write_batches(decoder, todo, "questions", args, tokens=32, temperature=0.9)
    kinds = {
        "story": prompts.STORY_STARTS,
        "prose": prompts.PROSE_STARTS,
        "code": prompts.CODE_STARTS,
    }
    todo = []
    for _ in range(args.documents):
        kind = rng.choice(("story", "story", "prose", "prose", "prose", "code"))
        todo.append((kind, [DOCUMENT, *tokenizer.encode(rng.choice(kinds[kind]))]))
    write_batches(decoder, todo, "documents", args, tokens=72, temperature=0.9)


def questions(texts: Sequence[Text], tokenizer: Any) -> list[str]:
    """The questions that the target made up, where they came to an end."""
    found = {}
    for text in texts:
        whole = tokenizer.decode(text.prompt + text.answer).split("<|im_start|>user\n")[1]
        question, ended, _ = whole.partition("<|im_end|>")
        line = question.strip().splitlines()[0] if question.strip() else ""
        if (ended or line != question.strip()) and 12 <= len(line) <= 200:
            found[line] = None
    return list(found)


def passages(texts: Sequence[Text], tokenizer: Any) -> list[str]:
    """The first sentences of made-up prose, to be summarised."""
    found = []
    for text in texts:
        if text.kind == "prose":
            whole = tokenizer.decode(text.prompt[1:] + text.answer).replace("\n", " ").strip()
            sentences = whole.split(". ")[:-1]
            if sentences and 80 <= len(passage := ". ".join(sentences[:3]) + ".") <= 330:
                found.append(passage)
    return found


def starts(args: argparse.Namespace, tokenizer: Any) -> list[tuple[str, list[int]]]:
    """All prompts to be answered greedily: (kind, token ids), batches of like lengths."""
    rng = random.Random(args.seed + 1)
    asked = questions(read(args.out, "questions"), tokenizer)
    documents = read(args.out, "documents")
    more, stubs = prompts.written(rng, args.templates, args.stubs)
    asked += more
    found: list[tuple[str, list[int]]] = []

    def add(kind: str, text: str, *, both: float) -> None:
        """*text* as it is, as a user's turn, or with the probability *both* the two."""
        form = rng.random()
        if form < 0.6 or form > 1 - both:
            found.append((f"{kind}, raw", tokenizer.encode(text)))
        if form >= 0.6:
            found.append((f"{kind}, chat", chat(tokenizer, text)))

    for text in asked:
        add("question", text, both=0.25)
    for text in stubs:
        add("stub", text, both=0.1)
    for text in passages(documents, tokenizer):
        add("summary", rng.choice(prompts.SUMMARIES).format(t=text), both=0.2)
    for document in documents:
        whole = document.prompt[1:] + document.answer
        found.append((document.kind, whole[: rng.randint(6, 40)]))
    rng.shuffle(found)
    # Texts of one batch have like lengths; the batches come in any order, so that any beginning of
    # the file holds everything.
    found.sort(key=lambda one: len(one[1]))
    batches = [found[i : i + args.batch] for i in range(0, len(found), args.batch)]
    last = batches.pop()
    rng.shuffle(batches)
    return [one for batch in [*batches, last] for one in batch]


def answer(args: argparse.Namespace) -> None:
    """Let the target go on greedily from its questions, its documents, stubs and summaries."""
    tokenizer = load_tokenizer(args.gguf)
    todo = starts(args, tokenizer)
    for kind in sorted({kind for kind, _ in todo}):
        print(kind, sum(one == kind for one, _ in todo))
    if not args.count:
        decoder = Decoder(load_model(args.gguf))
        write_batches(decoder, todo, "answers", args, tokens=72)


def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """*rows* as one tensor, filled up at the right, where a causal model does not look."""
    width = max(map(len, rows))
    return torch.tensor([[*row, *[EOS] * (width - len(row))] for row in rows])


def cut_drafter(target: LlamaForCausalLM, layers: Sequence[int]) -> LlamaForCausalLM:
    """A model of some of the target's layers, with its embeddings, which stay as they are."""
    config = LlamaConfig(**(target.config.to_dict() | {"num_hidden_layers": len(layers)}))
    drafter = LlamaForCausalLM(config).float()
    drafter.model.embed_tokens.load_state_dict(target.model.embed_tokens.state_dict())
    drafter.model.norm.load_state_dict(target.model.norm.state_dict())
    for new, old in enumerate(layers):
        drafter.model.layers[new].load_state_dict(target.model.layers[old].state_dict())
    drafter.tie_weights()
    drafter.model.embed_tokens.weight.requires_grad_(False)
    return drafter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lesson:
    """A text and what the target thought at each token of its answer.

    Attributes:
        text: the text.
        states: bfloat16 (tokens of the answer, hidden size).
    """

    text: Text
    states: torch.Tensor


class Shipped:
    """The prompts that come with dsim, which the training must not see.

    Args:
        tokenizer: of the target.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.known = [prompts.content(text) for text in prompts.shipped().values()]

    def resembles(self, text: Text) -> bool:
        """Whether *text* asks about the same as one of them; what is made up is asked, too."""
        ids = text.prompt + text.answer if text.kind == "question" else text.prompt
        asked = self.tokenizer.decode(ids).split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]
        return prompts.nearest(asked, self.known) >= prompts.RESEMBLES


def lessons(folder: Path, hold: int, shipped: Shipped) -> tuple[list[Lesson], list[Lesson]]:
    """The lessons of *folder* in a fixed order, and those set apart: one in *hold*.

    What resembles a prompt that ships is left out.
    """
    kept: list[Lesson] = []
    apart: list[Lesson] = []
    for path in sorted(folder.glob("*-?????.jsonl")):
        states = load_file(str(path.with_suffix(".safetensors")))["hidden"]
        lines = path.read_text("utf-8").splitlines()
        for number, (line, hidden) in enumerate(zip(lines, states, strict=True)):
            text = Text(**json.loads(line))
            if shipped.resembles(text):
                continue
            lesson = Lesson(text=text, states=hidden[: len(text.answer)])
            (kept if number % hold else apart).append(lesson)
    return kept, apart


def batches(lengths: Sequence[int], size: int, epoch: int) -> list[list[int]]:
    """The order of one round: batches of texts of like lengths."""
    rng = random.Random(f"round {epoch}")
    order = list(range(len(lengths)))
    rng.shuffle(order)
    found = []
    for at in range(0, len(order), 16 * size):
        near = sorted(order[at : at + 16 * size], key=lambda i: lengths[i])
        found += [near[i : i + size] for i in range(0, len(near), size)]
    found = [batch for batch in found if len(batch) == size]
    rng.shuffle(found)
    return found


def answer_states(model: LlamaForCausalLM, batch: Sequence[Lesson]) -> torch.Tensor:
    """The drafter's last hidden states at the answers of *batch*, (tokens, hidden size)."""
    rows = [lesson.text.prompt + lesson.text.answer[:-1] for lesson in batch]
    states = model.model(input_ids=padded(rows)).last_hidden_state
    return torch.cat(
        [
            row[len(one.text.prompt) - 1 :][: len(one.text.answer)]
            for one, row in zip(batch, states, strict=True)
        ]
    )


def optimizer(drafter: LlamaForCausalLM) -> torch.optim.Optimizer:
    """AdamW; the gains of the norms do not shrink."""
    weights = [p for p in drafter.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [p for p in weights if p.ndim == 2], "weight_decay": 0.01},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.0,
        betas=(0.9, 0.95),
    )


def frequent(texts: Sequence[Lesson], vocab: int, count: int) -> torch.Tensor:
    """The *count* tokens that occur most often in the answers of *texts*."""
    words = torch.cat([torch.tensor(one.text.answer) for one in texts])
    return torch.bincount(words, minlength=vocab).topk(count).indices


def train(args: argparse.Namespace) -> None:
    """Fit the drafter to the target's hidden states and distributions.

    The loss of a token is the Kullback-Leibler divergence from the target's distribution, half the
    cross-entropy with its first choice, and the relative square distance of the last hidden states.
    The softmax runs over the words that are frequent in the texts, those of the batch, and some
    drawn again at each step. Texts that other steps add meanwhile are taken in at the next round.

    The learning rate rises, stays, and falls to 0 over the last part of the steps; so a run can
    still be made longer or shorter (``--steps``) before it falls.
    """
    target = load_model(args.gguf)
    head = target.model.embed_tokens.weight.detach().bfloat16()
    drafter = cut_drafter(target, args.layers)
    del target
    if args.start:
        before = load_file(str(args.start / "layers.safetensors"))
        drafter.load_state_dict({k: v.float() for k, v in before.items()}, strict=False)
    weights = [p for p in drafter.parameters() if p.requires_grad]
    mover = optimizer(drafter)
    shipped = Shipped(load_tokenizer(args.gguf))
    saved = args.out / "checkpoint.pt"
    step, round_, at = 0, 0, 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        drafter.load_state_dict(state["model"], strict=False)
        mover.load_state_dict(state["mover"])
        step, round_, at = state["place"]
        print(f"goes on at step {step}", flush=True)
    order: list[list[int]] = []
    texts: list[Lesson] = []
    seen: list[torch.Tensor] = []
    while step < args.steps:
        if at >= len(order):
            at, round_ = (at, round_) if not order else (0, round_ + 1)
            texts, apart = lessons(args.data, args.hold, shipped)
            order = batches([len(t.text.prompt + t.text.answer) for t in texts], args.batch, round_)
            usual = frequent(texts, len(head), args.words)
            tokens = sum(len(one.text.answer) for one in texts)
            print(f"round {round_}: {len(texts)} texts, {tokens} tokens of answers", flush=True)
            if at >= len(order):
                at = 0
        chosen = [texts[i] for i in order[at]]
        at += 1
        noise = torch.Generator().manual_seed(step)
        drawn = torch.randint(len(head), (1024,), generator=noise)
        words = torch.cat([torch.tensor(one.text.answer) for one in chosen])
        rows = head[torch.cat([usual, words, drawn]).unique()]
        want = torch.cat([one.states for one in chosen])
        with torch.no_grad():
            sure = F.linear(want, rows).float().log_softmax(-1)
            first = sure.argmax(-1)
        with torch.autocast("cpu", torch.bfloat16):
            got = answer_states(drafter, chosen)
            guess = F.linear(got, rows)
        guess = guess.float().log_softmax(-1)
        divergence = F.kl_div(guess, sure, log_target=True, reduction="batchmean")
        near = F.mse_loss(got.float(), want.float()) / want.float().pow(2).mean()
        loss = divergence + args.hard * F.nll_loss(guess, first) + args.near * near
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        rising, falling = (step + 1) / args.warm, (args.steps - step) / (args.fall * args.steps)
        for group in mover.param_groups:
            group["lr"] = args.rate * min(1.0, rising, falling)
        mover.step()
        mover.zero_grad(set_to_none=True)
        step += 1
        agree = (guess.argmax(-1) == first).float().mean()
        seen.append(torch.stack([divergence, near, agree]).detach())
        if step % 20 == 0:
            mean = torch.stack(seen[-20:]).mean(0).tolist()
            print(
                f"step {step}, {time.process_time():.0f} s: divergence {mean[0]:.3f}, "
                f"distance {mean[1]:.3f}, agreement {mean[2]:.3f}",
                flush=True,
            )
        if step % args.save == 0 or step == args.steps:
            save_drafter(drafter, args.out)
            half = saved.with_suffix(".half")
            own = {k: v for k, v in drafter.state_dict().items() if is_own(k)}
            place = (step, round_, at)
            torch.save({"model": own, "mover": mover.state_dict(), "place": place}, half)
            half.replace(saved)
        if step % args.check == 0 or step == args.steps:
            for kind, share in agreement(drafter.eval(), apart, head).items():
                print(f"  held out, {kind}: {share:.3f}", flush=True)
            drafter.train()


@torch.no_grad()
def agreement(
    model: LlamaForCausalLM, held: Sequence[Lesson], head: torch.Tensor
) -> dict[str, float]:
    """The share of tokens at which drafter and target have one first choice, by kind of text."""
    found: dict[str, list[float]] = {}
    for at in range(0, len(held), 16):
        part = sorted(held[at : at + 16], key=lambda one: len(one.text.prompt))
        with torch.autocast("cpu", torch.bfloat16):
            got = F.linear(answer_states(model, part), head).argmax(-1)
        want = F.linear(torch.cat([one.states for one in part]), head).argmax(-1)
        same = (got == want).float().split([len(one.text.answer) for one in part])
        for one, shares in zip(part, same, strict=True):
            found.setdefault(one.text.kind, []).append(shares.mean().item())
    means = {kind: sum(shares) / len(shares) for kind, shares in sorted(found.items())}
    return means | {"all": sum(sum(s) for s in found.values()) / len(held)}


def is_own(name: str) -> bool:
    """Whether a weight is the drafter's own, not the target's."""
    return "embed_tokens" not in name and "lm_head" not in name


def save_drafter(model: LlamaForCausalLM, out: Path) -> None:
    """Write the configuration and, in bfloat16, all weights but the embeddings."""
    model.config.save_pretrained(out)
    own = {k: v.to(torch.bfloat16).contiguous() for k, v in model.state_dict().items() if is_own(k)}
    save_file(own, str(out / "layers.safetensors"), metadata={"format": "pt"})


def main() -> None:
    """Read the command line and run one step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=int, default=0, help="number of this process, from 0")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the work")
    steps = parser.add_subparsers(required=True)
    s = steps.add_parser("sample", help="let the target make texts and questions up")
    s.add_argument("--questions", type=int, default=768)
    s.add_argument("--documents", type=int, default=768)
    s.set_defaults(run=sample)
    a = steps.add_parser("answer", help="let the target go on greedily")
    a.add_argument("--templates", type=int, default=300)
    a.add_argument("--stubs", type=int, default=400, help="heads of functions to draw")
    a.add_argument("--count", action="store_true", help="say only how many there are")
    a.set_defaults(run=answer)
    for step in (s, a):
        step.add_argument("--batch", type=int, default=192, help="texts at a time")
        step.add_argument("--seed", type=int, default=1, help="another one, other texts")
    t = steps.add_parser("train", help="fit the drafter")
    t.add_argument("--data", type=Path, required=True, help="folder of the steps before")
    t.add_argument("--steps", type=int, default=800)
    t.add_argument("--batch", type=int, default=24, help="texts a step")
    t.add_argument("--rate", type=float, default=1.6e-3, help="peak of the learning rate")
    t.add_argument("--warm", type=int, default=20, help="steps until the peak")
    t.add_argument("--fall", type=float, default=0.3, help="the share of the steps after the peak")
    t.add_argument("--layers", type=int, nargs="+", default=[0, 1, 29], help="layers to start from")
    t.add_argument("--start", type=Path, help="folder of a drafter to start from, not the layers")
    t.add_argument("--words", type=int, default=8192, help="frequent words in the softmax")
    t.add_argument("--hard", type=float, default=0.5, help="weight of the first choice")
    t.add_argument("--near", type=float, default=1.0, help="weight of the hidden states")
    t.add_argument("--hold", type=int, default=48, help="one text in this many is set apart")
    t.add_argument("--check", type=int, default=100, help="steps between looks at these texts")
    t.add_argument("--save", type=int, default=50, help="steps between checkpoints")
    t.set_defaults(run=train)
    for step in (s, a, t):
        step.add_argument("--gguf", type=Path, required=True)
        step.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # with more, threads wait for each other on a machine that is shared
    args.run(args)


if __name__ == "__main__":
    main()
