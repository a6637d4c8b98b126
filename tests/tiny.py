"""Tiny random models, made on the spot, for the tests of real forward passes."""

from __future__ import annotations

import functools
import os
import time

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub's library is imported; workers inherit it

VOCAB = 64
CONTEXT = 256


@functools.cache
def have_torch() -> bool:
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("torch", "transformers", "tokenizers"))


NO_TORCH = 'torch and transformers are not installed (the extra "torch")'
needs_torch = pytest.mark.skipif(not have_torch(), reason=NO_TORCH)


def need_torch() -> None:
    if not have_torch():
        pytest.skip(NO_TORCH)


def write_tokenizer(folder, words=()) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<s>", "</s>", *words]
    names += [f"w{i}" for i in range(len(names), VOCAB)]
    tokenizer = Tokenizer(models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<s>"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        model_max_length=CONTEXT,
    ).save_pretrained(folder)


def write_model(folder, seed: int, *, layers: int = 2, like=None, noise: float = 0.0, words=()):
    """A random Llama; with *like*, that folder's weights plus *noise*: the two often agree."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.3,
    )
    model = LlamaForCausalLM(config)
    if like is not None:
        other = LlamaForCausalLM.from_pretrained(like)
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
                ours.copy_(theirs + noise * ours)
    model.save_pretrained(folder)
    write_tokenizer(folder, words)
    return folder


def write_pair(tmp_path_factory):
    """A folder with a ``target`` and a ``drafter`` that often agree."""
    need_torch()
    folder = tmp_path_factory.mktemp("models")
    write_model(folder / "target", 1)
    write_model(folder / "drafter", 2, like=folder / "target", noise=0.12)
    return folder


def alive(pids) -> list[int]:
    """Which of the processes *pids* still run, after some time to end; zombies do not count."""
    deadline = time.monotonic() + 10
    left = list(pids)
    while left and time.monotonic() < deadline:
        left = [pid for pid in left if _runs(pid)]
        time.sleep(0.05 if left else 0)
    return left


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:  # noqa: PTH123
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return os.path.exists(f"/proc/{pid}")  # noqa: PTH110


def write_head(folder, *, layers=(1, 2, 3), words: int = 40, hidden: int = 32, **config):
    """A random EAGLE-3 head for a target of :func:`write_model`; its tensors."""
    import json

    import torch
    from safetensors.torch import save_file

    torch.manual_seed(5)
    inner, heads, shared, size = 48, 4, 2, 8
    shapes = {
        "fc": (hidden, 3 * hidden),
        "midlayer.self_attn.q_proj": (heads * size, 2 * hidden),
        "midlayer.self_attn.k_proj": (shared * size, 2 * hidden),
        "midlayer.self_attn.v_proj": (shared * size, 2 * hidden),
        "midlayer.self_attn.o_proj": (hidden, heads * size),
        "midlayer.mlp.gate_proj": (inner, hidden),
        "midlayer.mlp.up_proj": (inner, hidden),
        "midlayer.mlp.down_proj": (hidden, inner),
        "midlayer.hidden_norm": (hidden,),
        "midlayer.input_layernorm": (hidden,),
        "midlayer.post_attention_layernorm": (hidden,),
        "norm": (hidden,),
        "lm_head": (words, hidden),
    }
    tensors = {f"{name}.weight": 0.3 * torch.randn(shape) for name, shape in shapes.items()}
    ids = torch.randperm(VOCAB)[:words].sort().values
    tensors |= {
        "d2t": ids - torch.arange(words),
        "t2d": torch.isin(torch.arange(VOCAB), ids),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    settings = {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": size,
        "num_hidden_layers": 1,
        "vocab_size": VOCAB,
        "draft_vocab_size": words,
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [layer - 1 for layer in layers]},
    }
    settings |= config
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return tensors
