"""Let SmolLM2-135M-Instruct answer questions that are made up here: general answers for the corpus.

python models/generate_answers.py --gguf FILE --out work/smol --minutes 30
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import torch
from smollm2 import load_model, load_tokenizer
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"

TOPICS = (
    "the ocean|a rainy day|trains|the moon|bees|bread|a library|friendship|winter|volcanoes|gardens|"
    "music|the heart|bicycles|rivers|computers|cats|dogs|the desert|painting|chess|football|history|"
    "money|electricity|clouds|maps|whales|coffee|cheese|clocks|bridges|farming|healthy food|sleep|"
    "exercise|the solar system|plants|insects|languages|books|cooking|travel|weather|schools|"
    "doctors|photography|recycling|forests|mountains|islands|ships|airplanes|robots|gravity|magnets|"
    "light|sound|heat|water|air|soil|birds|fish|horses|elephants|spiders|snakes|dinosaurs|castles|"
    "kings and queens|explorers|inventions|the printing press|the telephone|radio|television|films|"
    "theatre|dancing|the violin|the piano|poetry|letters|email|the internet|passwords|teamwork|"
    "patience|honesty|courage|curiosity|kindness|goals|habits|study skills|job interviews|meetings|"
    "budgets|shopping|gifts|birthdays|weddings|holidays|camping|hiking|swimming|running|yoga"
)

TEMPLATES = (
    "Explain {t} in simple words.",
    "Write a short paragraph about {t}.",
    "Give me three facts about {t}.",
    "Why is {t} important to people?",
    "Tell me a short story about {t}.",
    "What should a beginner know about {t}?",
    "List four tips that have to do with {t}.",
    "Describe {t} to someone who has never heard of it.",
    "Write an email to a friend about {t}.",
    "What is the history of {t}?",
    "Summarise what you know about {t} in two sentences.",
    "Ask me five quiz questions about {t} and answer them.",
    "What are the advantages and disadvantages of {t}?",
    "Write a poem of four lines about {t}.",
)


CODE_TEMPLATES = (
    "Write a Python function that {v} {o}.",
    "Write a Python program that {v} {o}, and explain it in one sentence.",
    "{d}",
)
VERBS = (
    "returns|counts|removes|finds|sorts|prints|checks|adds up|doubles|reverses|collects|compares"
)
OBJECTS = (
    "the even numbers in a list|the words in a sentence|the duplicates in a list|"
    "the largest number in a list|the letters of a string|the lines of a file|"
    "the keys of a dictionary|the first n prime numbers|the digits of a number|"
    "the capital letters in a text|two sorted lists|the values of a matrix|"
    "the longest word in a list|the negative numbers in a tuple|the spaces in a string|"
    "the items that two lists share|the squares of a list of numbers|the vowels in a word"
)


def chat(tok: PreTrainedTokenizerBase, user: str) -> list[int]:
    """Return the token ids of a one-turn chat up to where the assistant starts to answer."""
    text = (
        f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    ids: list[int] = tok.encode(text, add_special_tokens=False)
    return ids


def training_prompts(family: str, seed: int, texts: list[str]) -> list[str]:
    """Return the prompts of one family (general, code or summarise), shuffled.

    ``texts`` are what the last family asks to summarise.
    """
    if family == "general":
        out = [t.format(t=topic) for t in TEMPLATES for topic in TOPICS.split("|")]
    elif family == "code":
        out = []
        for v in VERBS.split("|"):
            for o in OBJECTS.split("|"):
                name = "_".join(w for w in o.split() if w.isalpha() and len(w) > 3)
                stub = f'def {v.split()[0]}_{name}(x):\n    """{v.capitalize()} {o}."""\n'
                out += [t.format(v=v, o=o, d=stub) for t in CODE_TEMPLATES]
    else:
        out = [f"Summarise the following text in one sentence: {t}" for t in texts]
    random.Random(seed).shuffle(out)
    return out


def openings(answers: Path, tok: PreTrainedTokenizerBase) -> list[str]:
    """Return the first two or three sentences of sampled answers, to be summarised."""
    out = []
    for line in answers.read_text().splitlines():
        row = json.loads(line)
        if row["temperature"] > 0:
            text = str(tok.decode(row["answer"], skip_special_tokens=True))
            sentences = text.replace("\n", " ").split(". ")[:-1]
            if len(sentences) >= 2:
                out.append(". ".join(sentences[:3]) + ".")
    return out


@torch.no_grad()
def answer(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    new_tokens: int,
    temperature: float,
) -> list[list[int]]:
    """Continue each prompt by up to ``new_tokens`` tokens (greedily at temperature 0)."""
    width = max(len(p) for p in prompts)
    eos = 2
    ids = torch.tensor([[eos] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    sampling = (
        {"do_sample": False}
        if temperature == 0
        else {
            "do_sample": True,
            "temperature": temperature,
            "top_k": 0,
            "top_p": 1.0,
        }
    )
    out = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=new_tokens,
        eos_token_id=eos,
        pad_token_id=eos,
        **sampling,
    )
    answers = []
    for row in out[:, width:].tolist():
        end = row.index(eos) + 1 if eos in row else len(row)
        answers.append(row[:end])
    return answers


def generate(args: argparse.Namespace) -> None:
    """Let the target answer the training prompts; write prompt and answer ids as JSON lines."""
    model, tok = load_model(args.gguf).bfloat16(), load_tokenizer(args.gguf)
    args.out.mkdir(parents=True, exist_ok=True)
    texts = openings(args.texts, tok) if args.texts else []
    prompts = training_prompts(args.family, 0, texts)
    torch.manual_seed(0)
    start, tokens, at, batch = time.monotonic(), 0, 0, 0
    with (args.out / f"{args.file}.jsonl").open("w") as f:
        while time.monotonic() - start < args.minutes * 60:
            chunk = [prompts[(at + i) % len(prompts)] for i in range(args.batch)]
            at += args.batch
            ids = [chat(tok, p) for p in chunk]
            temperature = (0.0, 0.7)[batch % 2] if at <= len(prompts) else 0.7
            batch += 1
            for p, a in zip(ids, answer(model, ids, args.new_tokens, temperature), strict=True):
                f.write(json.dumps({"prompt": p, "answer": a, "temperature": temperature}) + "\n")
                tokens += len(a)
            f.flush()
            spent = time.monotonic() - start
            print(f"{batch} batches, {tokens} tokens, {tokens / spent:.0f} tokens/s", flush=True)


def main() -> None:
    """Read the command line and generate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=25.0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--family", choices=("general", "code", "summarise"), default="general")
    parser.add_argument("--file", default="answers", help="name of the file written")
    parser.add_argument("--texts", type=Path, help="answers whose openings are to be summarised")
    args = parser.parse_args()
    torch.set_num_threads(1)
    generate(args)


if __name__ == "__main__":
    main()
