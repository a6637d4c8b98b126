"""Too little memory: an error in words, and nothing left behind."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys

import pytest

from tests import tiny

LIMIT_BYTES = 5 * 2**30


@pytest.fixture
def huge(tmp_path):
    """A model of 800 million zeros in a file that takes no room."""
    tiny.need_torch()
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=4096,
        intermediate_size=65536,
        num_hidden_layers=1,
        num_attention_heads=32,
        num_key_value_heads=1,
        max_position_embeddings=tiny.CONTEXT,
        tie_word_embeddings=True,
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path)
    tiny.write_tokenizer(tmp_path)
    wide, deep = config.intermediate_size, config.hidden_size
    shapes = {"model.embed_tokens.weight": [tiny.VOCAB, deep], "model.norm.weight": [deep]}
    for layer in range(config.num_hidden_layers):
        shapes |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in {
                "input_layernorm": [deep],
                "post_attention_layernorm": [deep],
                "self_attn.q_proj": [deep, deep],
                "self_attn.k_proj": [128, deep],
                "self_attn.v_proj": [128, deep],
                "self_attn.o_proj": [deep, deep],
                "mlp.gate_proj": [wide, deep],
                "mlp.up_proj": [wide, deep],
                "mlp.down_proj": [deep, wide],
            }.items()
        }
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory as Linux has them")
def test_out_of_memory_while_loading_is_said_and_no_process_stays(huge) -> None:
    script = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({LIMIT_BYTES}, {LIMIT_BYTES}))\n"
        "sys.argv = ['dsim', *sys.argv[1:]]\n"
        "runpy.run_module('dsim', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, "generate", "w5 w6", "--tokens", "4"]
    command += ["--algorithm", "nonsi", "--target", str(huge), "--drafter", "ngram"]
    # A session of its own: who is in it afterwards, was left behind.
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 3, stderr
    assert "out of memory while loading" in stderr
    assert re.search(r"target \d failed", stderr)
    assert "Traceback" not in stderr
    left = subprocess.run(
        ["ps", "-o", "stat=,args=", "-s", str(process.pid)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in left.stdout.splitlines() if not line.startswith("Z")] == []
