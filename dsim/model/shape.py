"""Shapes of models: what of a Hugging Face ``config.json`` decides how long a forward takes."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping

HUB_TIMEOUT_S = 10.0
TWO_MATRICES = ("gpt_bigcode", "starcoder2", "gpt2", "gpt_neox", "opt", "bloom", "falcon", "phi")
STORED = {"fp8": "fp8", "mxfp4": "fp4", "awq": "int4", "gptq": "int4"}  # quant_method: dtype
# Parts of a model's name that say nothing about its shape.
SAME_SHAPE = re.compile(
    r"^(meta|hf|chat|instruct|it|base|fp8|fp16|bf16|dynamic|awq|gptq|int4|int8|w4a16|w8a8|w8a16"
    r"|v\d+(\.\d+)*|quantized|4k|128k|\d{4})$"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shape:
    """The shape of a decoder-only transformer.

    Attributes:
        name: name of the model.
        layers: number of layers.
        width: width of the residual stream (hidden size).
        heads: query heads of a layer.
        kv_heads: heads with keys and values of their own; 0: all heads share one latent (MLA).
        head_width: mean width of a query and of a value, so that attention takes
            4 · heads · head_width FLOPs a layer, token and token of context.
        kv_elements: numbers that a layer keeps in the KV cache for a token.
        vocabulary: number of tokens in the vocabulary.
        attention_parameters: parameters of the attention of a layer.
        dense_parameters: parameters of the MLPs that every token goes through, of all layers
            (shared experts and routers are among them).
        experts, experts_per_token: experts of a mixture-of-experts layer, and how many of them
            a token goes through; 0 for a dense model.
        expert_parameters: parameters of one expert.
        expert_layers: number of layers with experts.
        tied: whether the embedding serves as the output matrix (lm_head) as well.
        shared_head: whether both belong to another model (of a drafter: to its target).
        max_tokens: tokens of prompt and answer that it was made for; 0: not known.
        mtp_modules: modules for multi-token prediction that the checkpoint has.
        dtype: type that the weights are stored in, if the configuration says so; else ``bf16``.
    """

    name: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: float
    kv_elements: int
    vocabulary: int
    attention_parameters: int
    dense_parameters: int
    experts: int = 0
    experts_per_token: int = 0
    expert_parameters: int = 0
    expert_layers: int = 0
    tied: bool = False
    shared_head: bool = False
    max_tokens: int = 0
    mtp_modules: int = 0
    dtype: str = "bf16"

    @property
    def head_parameters(self) -> int:
        """Parameters of the output matrix (lm_head)."""
        return self.vocabulary * self.width

    @property
    def own_head_parameters(self) -> int:
        """Parameters of embedding and output matrix that belong to the model itself."""
        return 0 if self.shared_head else self.head_parameters * (1 if self.tied else 2)

    @property
    def always_parameters(self) -> int:
        """Parameters that each token goes through, without lm_head, embedding and experts."""
        return self.layers * self.attention_parameters + self.dense_parameters

    @property
    def routed_parameters(self) -> int:
        """Parameters of the experts that one token goes through, of all layers."""
        return self.expert_layers * self.experts_per_token * self.expert_parameters

    @property
    def parameters(self) -> int:
        """All parameters (norms and biases left out)."""
        experts = self.expert_layers * self.experts * self.expert_parameters
        return self.always_parameters + experts + self.own_head_parameters

    def touched_parameters(self, tokens: float) -> float:
        """Expected parameters of experts that *tokens* tokens reach, each at random."""
        if not self.experts:
            return 0.0
        reached = 1 - math.pow(1 - self.experts_per_token / self.experts, tokens)
        return self.expert_layers * self.experts * self.expert_parameters * reached


def from_config(config: Mapping[str, Any], name: str) -> Shape:
    """The shape that a Hugging Face ``config.json`` describes.

    Args:
        config: its fields; of a model that also sees or hears, those in ``text_config``.
        name: name of the model.

    Raises:
        ValueError: a field is missing, or is no whole number above 0.
    """
    whole = config
    config = config.get("text_config", config)

    def number(*names: str, default: int | None = None) -> int:
        value = next((config[key] for key in names if config.get(key) is not None), default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            got = f"got {show(value)}" if value is not None else "which is missing"
            raise ValueError(f"{name}: expected a whole number as {names[0]}, {got}")
        if not value and default != 0:
            raise ValueError(f"{name}: expected {names[0]} above 0")
        return value

    layers = number("num_hidden_layers", "n_layer")
    width = number("hidden_size", "n_embd")
    heads = number("num_attention_heads", "n_head")
    vocabulary = number("vocab_size")
    inner = number("intermediate_size", "n_inner", default=4 * width)
    matrices = 2 if config.get("model_type") in TWO_MATRICES else 3
    if "kv_lora_rank" in config:  # multi-head latent attention
        latent = number("kv_lora_rank")
        nope, rope = number("qk_nope_head_dim"), number("qk_rope_head_dim")
        value = number("v_head_dim")
        rank = number("q_lora_rank", default=0)
        queries = rank * (width + heads * (nope + rope)) if rank else width * heads * (nope + rope)
        attention = queries + width * (latent + rope) + latent * heads * (nope + value)
        attention += heads * value * width
        kv_heads, kv_elements = 0, latent + rope
        head_width = (nope + rope + value) / 2
    else:
        each = number("head_dim", default=width // heads)
        kv_heads = 1 if config.get("multi_query") else number("num_key_value_heads", default=heads)
        attention = 2 * width * each * (heads + kv_heads)
        kv_elements, head_width = 2 * kv_heads * each, float(each)
    experts = number("num_local_experts", "n_routed_experts", "num_experts", default=0)
    quantised = whole.get("quantization_config") or config.get("quantization_config") or {}
    first_dense = number("first_k_dense_replace", default=0) if experts else layers
    step = number("interleave_moe_layer_step", "decoder_sparse_step", default=1)
    expert_layers = (layers - first_dense) // step
    if experts:
        of_expert = number("moe_intermediate_size", default=inner)
        shared = number("shared_expert_intermediate_size", default=0)
        if config.get("model_type", "").startswith("llama4"):
            shared = inner
        shared += number("n_shared_experts", default=0) * of_expert
        inner = number("intermediate_size_mlp", default=inner)
    else:
        of_expert = shared = 0
    dense = (layers - expert_layers) * inner + expert_layers * shared
    return Shape(
        name=name,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        head_width=head_width,
        kv_elements=kv_elements,
        vocabulary=vocabulary,
        attention_parameters=attention,
        dense_parameters=matrices * width * dense + expert_layers * experts * width,
        experts=experts,
        experts_per_token=number("num_experts_per_tok") if experts else 0,
        expert_parameters=matrices * width * of_expert,
        expert_layers=expert_layers,
        max_tokens=number("max_position_embeddings", "n_positions", default=0),
        mtp_modules=number("num_nextn_predict_layers", "mtp_num_hidden_layers", default=0),
        tied=bool(whole.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        dtype=STORED.get(quantised.get("quant_method", ""), "bf16"),
    )


@functools.cache
def shipped() -> dict[str, dict[str, Any]]:
    """The models whose shapes come with dsim: fields of ``shapes.toml`` by name."""
    text = resources.files("dsim.model").joinpath("shapes.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def plain(name: str) -> str:
    """*name* without its owner and what says nothing about the shape, to compare names."""
    parts = re.split(r"[-_ ]", name.lower().rpartition("/")[2])
    return re.sub(r"[^a-z0-9]", "", "".join(part for part in parts if not SAME_SHAPE.match(part)))


def read_config(path: Path, name: str) -> Shape:
    """The shape in the ``config.json`` at *path*.

    Raises:
        UserError: the file cannot be read, or lacks something.
    """
    text = read_text(path)
    try:
        return from_config(json.loads(text), name)
    except (ValueError, AttributeError) as error:
        raise UserError(Problem(str(path), "", str(error))) from None


def _of_hub(name: str) -> Shape:
    """The shape of a model of the Hugging Face hub, by its ``config.json``.

    Raises:
        ValueError: the hub does not have it, or cannot be asked.
    """
    close = [entry["hub"] for entry in shipped().values()]
    missing = f"no model that comes with dsim is called {show(name)}{nearest(name, close)}"
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f'{missing}; for models of the hub install huggingface_hub (the extra "torch")'
        ) from None
    import urllib.request

    short = name.rpartition("/")[2].lower()
    cached = huggingface_hub.try_to_load_from_cache(name, "config.json")
    if isinstance(cached, str):
        return read_config(Path(cached), short)
    # Asked once: huggingface_hub's own download tries again for half a minute.
    request = urllib.request.Request(  # noqa: S310
        huggingface_hub.hf_hub_url(name, "config.json"),
        headers=huggingface_hub.utils.build_hf_headers(),  # type: ignore[attr-defined,unused-ignore]
    )
    try:
        with urllib.request.urlopen(request, timeout=HUB_TIMEOUT_S) as reply:  # noqa: S310
            return from_config(json.load(reply), short)
    except OSError as error:
        raise ValueError(f"{missing}; the hub does not give its config.json: {error}") from None


def _key_of(name: str) -> str | None:
    """The key of the model that comes with dsim under *name*, its own or the hub's."""
    names = {plain(key): key for key in shipped()}
    names |= {plain(entry["hub"]): key for key, entry in shipped().items()}
    return names.get(plain(name))


def is_known(name: str) -> bool:
    """Whether a model comes with dsim under *name*, its own or the hub's."""
    return _key_of(name) is not None


def shape_of(name: str) -> Shape:
    """The shape of a model by its name, here or on the hub, or of a folder with a ``config.json``.

    Raises:
        ValueError: there is no such model or folder; names the nearest.
        UserError: the ``config.json`` of the folder cannot be used.
    """
    path = Path(name).expanduser()
    if (path / "config.json").is_file():
        return read_config(path / "config.json", path.resolve().name)
    if path.is_dir():
        raise ValueError(f"the folder {name} holds no config.json")
    key = _key_of(name)
    if key is None and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return _of_hub(name)
    if key is None:
        hint = nearest(name, [*shipped(), *(entry["hub"] for entry in shipped().values())])
        raise ValueError(
            f"expected the name of a model that comes with dsim or a folder with a config.json, "
            f"got {show(name)}{hint}"
        )
    shape = from_config(shipped()[key], key)
    stored = [STORED[part] for part in re.split(r"[-_ ]", name.lower()) if part in STORED]
    return dataclasses.replace(shape, dtype=stored[0]) if stored else shape
