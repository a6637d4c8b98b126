"""``skip:auto=N``: which layers a target can do without."""

from __future__ import annotations

import json

import pytest

from dsim.backends.torch.models import specs
from dsim.backends.torch.pair import load_pair
from dsim.errors import UserError
from tests.tiny import CONTEXT, need_torch, write_model

LAYERS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model whose layer 3 does nothing and whose layer 1 does little, and prompts in a file."""
    need_torch()
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("skip")
    model = LlamaForCausalLM.from_pretrained(write_model(folder / "target", 1, layers=LAYERS))
    with torch.no_grad():
        for number, share in ((1, 0.1), (3, 0.0)):
            model.model.layers[number].self_attn.o_proj.weight.mul_(share)
            model.model.layers[number].mlp.down_proj.weight.mul_(share)
    model.save_pretrained(folder / "target")
    lines = [json.dumps({"prompt": f"w{i} w{i + 7} w{i + 20}"}) for i in range(3, 9)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def auto(folder, count: int, where: str | None = None):
    name = where or str(folder / "prompts.jsonl")
    return load_pair(*specs(str(folder / "target"), f"skip:auto={count}@{name}"))


@pytest.mark.parametrize(("count", "expected"), [(1, (3,)), (2, (1, 3))])
def test_layers_that_do_least_are_skipped_first(folder, count, expected) -> None:
    pair = auto(folder, count)
    assert pair.drafter.skip == expected
    assert pair.drafter.skip_auto == 0
    assert pair.target.skip == ()
    assert f"without layers {','.join(map(str, expected))}" in str(pair.drafter)


def test_the_choice_is_the_best_step_by_step(folder) -> None:
    """Against the definition: at each step every layer is tried, and none left out is better."""
    from dsim.backends.torch import skip
    from dsim.backends.torch.models import load_model

    pair = auto(folder, 3)
    model = load_model(pair.target, "cpu")
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    decoder = skip.Transformer(model, "cpu", pair.vocab)
    texts = []
    for number in range(3, 3 + skip.PROMPTS):
        ids = pair.tokenizer(f"w{number} w{number + 7} w{number + 20}").input_ids
        texts.append((len(ids), skip.continued(decoder, ids)))
    assert skip.read(model, texts, ()).tokens == skip.PROMPTS * skip.TOKENS
    both = skip.read(model, texts, (1, 3))
    (third,) = set(pair.drafter.skip) - {1, 3}
    found = {layer: skip.read(model, texts, (*sorted({1, 3, layer}),)) for layer in (0, 2)}
    best = max(found, key=lambda layer: (found[layer].tokens, found[layer].log_probability))
    assert third == best
    assert found[best].tokens <= both.tokens
    # The model is whole again, and reads as before.
    assert {name: weight.shape for name, weight in model.named_parameters()} == {
        name: weight.shape for name, weight in before.items()
    }
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == list(range(LAYERS))
    assert model.config.num_hidden_layers == LAYERS
    assert skip.read(model, texts, ()).tokens == skip.PROMPTS * skip.TOKENS


def test_a_whole_run_with_chosen_layers(folder) -> None:
    from click.testing import CliRunner

    from dsim.cli.main import main

    drafter = f"skip:auto=2@{folder / 'prompts.jsonl'}"
    words = ["generate", "w3 w4", "--target", str(folder / "target"), "--drafter", drafter]
    words += ["--tokens", "10", "--share", "--targets", "1", "--compare", "--json", "--ignore-eos"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert rows[0]["token_ids"] == rows[1]["token_ids"] == rows[2]["token_ids"]
    assert rows[1]["acceptance"] > 0.5  # the two layers do little


def test_mistakes(folder) -> None:
    for count, where, words in (
        (LAYERS, None, "layers 0 to 3; one must stay"),
        (1, "nowhere", "--drafter: nowhere cannot be read"),
    ):
        with pytest.raises(UserError, match=words):
            auto(folder, count, where)
    long = folder / "long.jsonl"
    long.write_text(json.dumps({"prompt": "w3 " * CONTEXT, "id": "long"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="prompt long of .* has 256 tokens; expected 1 to 224"):
        auto(folder, 1, str(long))
    for wrong in ("skip:auto=0", "skip:auto=x", "skip:auto", "skip:auto=1@"):
        with pytest.raises(UserError, match="skip:auto=2"):
            specs(str(folder / "target"), wrong)
