"""Heads of EAGLE-3 (Li et al., arXiv 2503.01840): what their folders hold, and one forward.

A head is a drafter that lives on its target. ``fc`` fuses what three layers of the target make of a
token, its *features*, into one vector; one decoder layer reads it beside the embedding of the token
after that; what comes out says which token follows, and stands for the features of the token where
the target has not read it yet. The tensors have the names of the published heads (SafeAILab/EAGLE):
``fc``, ``midlayer``, ``norm``, ``lm_head`` over a part of the vocabulary, and ``d2t``: what to add
to the number of a token in that part for its number in the target's vocabulary.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.errors import Problem, UserError
from dsim.files import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

FILE = "model.safetensors"
OPTION = "--drafter"
FEATURES = 3  # layers of the target that a head reads
# Names that others give to the same tensors: vLLM's speculators, SpecForge.
RENAMED = ((r"^model\.", ""), (r"^layers\.0\.", "midlayer."))
OPTIONAL = re.compile(r"embed_tokens\.weight|d2t|t2d|lm_head\.weight|.*\.bias|.*rotary_emb\..*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What a head is, by its ``config.json`` and the shapes of its tensors.

    Attributes:
        folder: where it lies.
        config: its ``config.json``.
        layers: whose outputs it reads, counted from 1; 0 would be the embeddings.
        names: the tensors, by the names of the published heads, as the file calls them.
    """

    folder: Path
    config: dict[str, Any]
    layers: tuple[int, ...]
    names: dict[str, str]

    def size(self, name: str, otherwise: str | None = None) -> int:
        """The number *name* of ``config.json``; if it is not there, that of *otherwise*.

        Raises:
            UserError: it is no whole number above 0.
        """
        value = self.config.get(name)
        if value is None and otherwise is not None:
            return self.size(otherwise)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(
                _wrong(self.folder / "config.json", name, f"expected a count ≥ 1, got {value!r}")
            )
        return value

    def shapes(self, target: Any) -> dict[str, tuple[int, ...]]:
        """The shape that each tensor has to have, for a *target* of that configuration."""
        hidden, inner = self.size("hidden_size"), self.size("intermediate_size")
        heads = self.size("num_attention_heads")
        size = self.size("head_dim") if self.config.get("head_dim") else hidden // heads
        own = heads * size
        shared = self.size("num_key_value_heads", "num_attention_heads") * size
        words = self.size("draft_vocab_size", "vocab_size")
        return {
            "fc.weight": (hidden, FEATURES * target.hidden_size),
            "midlayer.self_attn.q_proj.weight": (own, 2 * hidden),
            "midlayer.self_attn.k_proj.weight": (shared, 2 * hidden),
            "midlayer.self_attn.v_proj.weight": (shared, 2 * hidden),
            "midlayer.self_attn.o_proj.weight": (hidden, own),
            "midlayer.mlp.gate_proj.weight": (inner, hidden),
            "midlayer.mlp.up_proj.weight": (inner, hidden),
            "midlayer.mlp.down_proj.weight": (hidden, inner),
            "midlayer.hidden_norm.weight": (hidden,),
            "midlayer.input_layernorm.weight": (hidden,),
            "midlayer.post_attention_layernorm.weight": (hidden,),
            "norm.weight": (hidden,),
            "lm_head.weight": (words, hidden),
            "d2t": (words,),
            "t2d": (target.vocab_size,),
            "embed_tokens.weight": (target.vocab_size, hidden),
        }


def _wrong(where: Path, key: str, what: str) -> Problem:
    return Problem(f"{OPTION} eagle: {where}", key, what)


def default_layers(count: int) -> tuple[int, ...]:
    """The layers whose outputs a head reads if its folder does not say, of a target with *count*.

    The second, the middle one and the last but three, as the published heads do.
    """
    low = min(2, count - 1)
    middle = max(low, count // 2)
    return low, middle, max(middle, count - 3)


def open_head(folder: Path, target: Any) -> HeadSpec:
    """The head in *folder*, once it has been seen to fit a *target* of that configuration.

    Only names, shapes and ``d2t`` are read. Loads no torch.

    Raises:
        UserError: something is missing, or it is for another target. Names all that is wrong.
    """
    from safetensors import SafetensorError, safe_open

    if not folder.is_dir():
        raise UserError(_wrong(folder, "", "no folder here has that name"))
    if not (folder / FILE).is_file():
        what = f"holds no head: it has no {FILE}"
        if (folder / "pytorch_model.bin").is_file():
            what = (
                f"has its weights in pytorch_model.bin, a pickle; convert to safetensors ({FILE})"
            )
        raise UserError(_wrong(folder, "", what))
    try:
        config = json.loads(read_text(folder / "config.json"))
    except ValueError as error:
        raise UserError(_wrong(folder / "config.json", "", f"is no JSON: {error}")) from None
    if not isinstance(config, dict):
        raise UserError(_wrong(folder / "config.json", "", "expected an object"))
    config = {**config, **config.get("transformer_layer_config", {})}  # vLLM's speculators
    try:
        with safe_open(folder / FILE, framework="np") as file:
            names = {published_name(name): name for name in file.keys()}  # noqa: SIM118
            found = {name: tuple(file.get_slice(own).get_shape()) for name, own in names.items()}
            added = file.get_tensor(names["d2t"]) if "d2t" in names else None
    except SafetensorError as error:
        raise UserError(_wrong(folder / FILE, "", f"cannot be read: {error}")) from None
    spec = HeadSpec(
        folder=folder, config=config, layers=_layers(folder, config, target), names=names
    )
    problems = [*_unfit(spec, target), *_misshapen(spec, target, found)]
    if added is not None and not problems:
        ids = np.arange(len(added)) + added
        if ids.min() < 0 or ids.max() >= target.vocab_size or len(set(ids.tolist())) < len(ids):
            what = (
                f"expected what makes each of its {len(ids):,} tokens another one of the target's "
                f"0 to {target.vocab_size - 1:,}, got {ids.min():,} to {ids.max():,}"
            )
            problems.append(_wrong(folder / FILE, "d2t", what))
    if problems:
        raise UserError(*problems)
    return spec


def published_name(name: str) -> str:
    """How the published heads call the tensor *name*."""
    for pattern, ours in RENAMED:
        name = re.sub(pattern, ours, name)
    return name


def _layers(folder: Path, config: Mapping[str, Any], target: Any) -> tuple[int, ...]:
    count, key = target.num_hidden_layers, "eagle_aux_hidden_state_layer_ids"
    eagle = config.get("eagle_config") or {}
    ids = config.get(key) or eagle.get(key)
    if ids is None:
        return default_layers(count)
    if (
        not isinstance(ids, list)
        or len(ids) != FEATURES
        or not all(isinstance(i, int) and 0 <= i < count - 1 for i in ids)
    ):
        what = f"expected {FEATURES} layers of the target, 0 to {count - 2}, got {ids}"
        raise UserError(_wrong(folder / "config.json", key, what))
    return tuple(i + 1 for i in ids)


def _unfit(spec: HeadSpec, target: Any) -> list[Problem]:
    """What of ``config.json`` does not fit the target."""
    where, problems = spec.folder / "config.json", []
    expected = {"vocab_size": target.vocab_size, "num_hidden_layers": 1}
    if spec.config.get("target_hidden_size") is not None:
        expected["target_hidden_size"] = target.hidden_size
    elif "embed_tokens.weight" not in spec.names:
        expected["hidden_size"] = target.hidden_size
    for key, value in expected.items():
        got = spec.config.get(key, value)
        if got != value:
            whose = "" if key == "num_hidden_layers" else ", the target's"
            problems.append(_wrong(where, key, f"expected {value:,}{whose}, got {got!r}"))
    words = spec.size("draft_vocab_size", "vocab_size")
    if words > target.vocab_size:
        what = f"expected 1 to {target.vocab_size:,}, the target's tokens, got {words:,}"
        problems.append(_wrong(where, "draft_vocab_size", what))
    return problems


def _misshapen(spec: HeadSpec, target: Any, found: Mapping[str, tuple[int, ...]]) -> list[Problem]:
    """Which tensors are missing, unknown, or of another shape."""
    where, shapes = spec.folder / FILE, spec.shapes(target)
    words = shapes["d2t"][0]
    needed = {name for name in shapes if not OPTIONAL.fullmatch(name)}
    if words < target.vocab_size:
        needed |= {"d2t", "lm_head.weight"}
    problems = []
    if missing := sorted(needed - found.keys()):
        what = f"is missing, with {len(missing) - 1} more" if len(missing) > 1 else "is missing"
        if missing[0] == "d2t":
            what += (
                f": which of the target's {target.vocab_size:,} tokens are the {words:,} that the "
                "head drafts? "
            ).rstrip()
        problems.append(_wrong(where, missing[0], what))
    for name, shape in found.items():
        if name not in shapes and not OPTIONAL.fullmatch(name):
            problems.append(_wrong(where, name, "is no tensor of an EAGLE-3 head"))
        elif name in shapes and shape != shapes[name]:
            problems.append(
                _wrong(where, name, f"expected shape {shapes[name]} for this target, got {shape}")
            )
    return problems


class Head:
    """The weights of a head, and what it makes of features.

    All tensors have a batch dimension first: (texts, tokens, …).

    Args:
        config: the head's ``config.json``.
        weights: its tensors by the names of the published heads, ``embed_tokens.weight`` and
            ``lm_head.weight`` among them.
        device: where the tensors are.
    """

    def __init__(self, config: Mapping[str, Any], weights: dict[str, Any], device: str) -> None:
        import torch
        from transformers import LlamaConfig
        from transformers.activations import ACT2FN
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        self.torch = torch
        self.weights = weights
        llama = LlamaConfig(**{key: config[key] for key in config if key not in ("architectures",)})
        self.rotary = LlamaRotaryEmbedding(llama).to(device)
        self.size = llama.head_dim
        self.eps = llama.rms_norm_eps
        self.activation = ACT2FN[llama.hidden_act]
        self.normed_residual = bool(config.get("norm_before_residual"))

    def linear(self, name: str, x: Any) -> Any:
        """*x* through the matrix *name*, with its bias if it has one."""
        weights = self.weights
        return self.torch.nn.functional.linear(
            x, weights[f"{name}.weight"], weights.get(f"{name}.bias")
        )

    def norm(self, name: str, x: Any) -> Any:
        """The RMS norm *name* of *x*."""
        exact = x.float()
        exact = exact * (exact.pow(2).mean(-1, keepdim=True) + self.eps).rsqrt()
        return self.weights[f"{name}.weight"] * exact.to(x.dtype)

    def fuse(self, features: Any) -> Any:
        """What three layers say of each token, (…, 3 · the target's size), as one: (…, size)."""
        return self.linear("fc", features)

    def forward(self, ids: Any, hidden: Any, places: Any, past: Any, mask: Any) -> Any:
        """One forward of the decoder layer.

        Args:
            ids: (texts, tokens): in each place the token *after* the one that *hidden* is of.
            hidden: fused features, or the head's own output in their stead: (texts, tokens, size).
            places: the places of the tokens that *hidden* is of, (texts, tokens).
            past: keys and values, each (texts, heads, tokens before, size of a head); or nothing.
            mask: which of all keys each token may look at, bool (tokens, keys).

        Returns:
            What it says of each token, (texts, tokens, size), and the keys and values of *past* and
            these.
        """
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        functional = self.torch.nn.functional
        embedded = functional.embedding(ids, self.weights["embed_tokens.weight"]).to(hidden.dtype)
        normed = self.norm("midlayer.hidden_norm", hidden)
        both = self.torch.cat([self.norm("midlayer.input_layernorm", embedded), normed], -1)
        queries, keys, values = (
            self.linear(f"midlayer.self_attn.{which}_proj", both)
            .unflatten(-1, (-1, self.size))
            .transpose(1, 2)
            for which in "qkv"
        )
        turned = apply_rotary_pos_emb(queries, keys, *self.rotary(hidden, places))
        queries, keys = (one.to(values.dtype) for one in turned)
        if past is not None:
            keys = self.torch.cat([past[0], keys], 2)
            values = self.torch.cat([past[1], values], 2)
        seen = functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, enable_gqa=True
        )
        residual = normed if self.normed_residual else hidden
        hidden = residual + self.linear(
            "midlayer.self_attn.o_proj", seen.transpose(1, 2).flatten(2)
        )
        normed = self.norm("midlayer.post_attention_layernorm", hidden)
        raised = self.activation(self.linear("midlayer.mlp.gate_proj", normed))
        raised = raised * self.linear("midlayer.mlp.up_proj", normed)
        return hidden + self.linear("midlayer.mlp.down_proj", raised), (keys, values)

    def logits(self, hidden: Any) -> Any:
        """Logits over the tokens that the head can draft, (…, tokens of ``lm_head``)."""
        return self.linear("lm_head", self.norm("norm", hidden))

    def tokens(self) -> NDArray[np.int64]:
        """The target's number of each token that the head can draft."""
        count = len(self.weights["lm_head.weight"])
        added = self.weights.get("d2t")
        return np.arange(count) + (0 if added is None else added.cpu().numpy())


def load_head(spec: HeadSpec, model: Any, device: str, dtype: str) -> Head:
    """The head *spec*; what it does not store are the weights of its target, *model*."""
    import torch
    from safetensors.torch import load_file

    stored = load_file(spec.folder / FILE, device)
    number = getattr(torch, dtype)
    weights = {
        name: tensor.to(number) if (tensor := stored[own]).is_floating_point() else tensor
        for name, own in spec.names.items()
    }
    weights.setdefault("embed_tokens.weight", model.get_input_embeddings().weight)
    weights.setdefault("lm_head.weight", model.get_output_embeddings().weight)
    return Head(spec.config, weights, device)
