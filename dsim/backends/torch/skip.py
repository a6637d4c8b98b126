"""Which layers a target can do without: ``skip:auto=N``.

A target that leaves layers out can draft for itself (Zhang et al. 2024, "Draft & Verify"). Which
layers to leave out is found step by step: each step leaves out the layer without which the target
still chooses most of its own tokens, read teacher-forced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

from dsim.backends.torch.decoders import Transformer, nothing_learns
from dsim.backends.torch.models import ModelSpec, load_model, skip_layers
from dsim.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
PROMPTS = 4  # that the layers are chosen on
TOKENS = 32  # that the target continues each of them by


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reading:
    """How well a target without some layers does as its own drafter.

    Attributes:
        tokens: how many of its own tokens it still chooses.
        log_probability: the mean that it gives to all of its own tokens; breaks ties.
    """

    tokens: int
    log_probability: float


@functools.cache
def chosen_layers(
    target: ModelSpec, count: int, prompts: tuple[tuple[int, ...], ...]
) -> tuple[int, ...]:
    """The *count* layers that *target* can best do without on *prompts*, token ids.

    Raises:
        EngineError: the target cannot be loaded, or is built in another way than most.
    """
    model = load_model(target, "cpu")
    decoder = Transformer(model, "cpu", model.config.get_text_config(decoder=True).vocab_size)
    texts = [(len(ids), continued(decoder, ids)) for ids in prompts]
    skip: tuple[int, ...] = ()
    for _ in range(count):
        best = max(
            (layer for layer in range(len(_layers(model))) if layer not in skip),
            key=lambda layer: _key(read(model, texts, (*skip, layer)), layer),
        )
        skip = tuple(sorted((*skip, best)))
    return skip


def _key(found: Reading, layer: int) -> tuple[int, float, int]:
    return found.tokens, found.log_probability, -layer


def _layers(model: Any) -> Any:
    layers = getattr(model.get_decoder(), "layers", None)
    if layers is None:
        raise EngineError(f"{type(model).__name__} keeps its layers elsewhere than most models")
    return layers


def continued(decoder: Transformer, ids: Sequence[int]) -> list[int]:
    """*ids* and the tokens that the model goes on with, greedily."""
    text = list(ids)
    with nothing_learns():
        for _ in range(TOKENS):
            logits, _ = decoder.forward(text, 1)
            text.append(int(logits[0].argmax()))
    return text


def read(model: Any, texts: Sequence[tuple[int, Sequence[int]]], skip: Sequence[int]) -> Reading:
    """How well *model* reads *texts* without the layers *skip*.

    Args:
        model: the whole model, which it is again afterwards.
        texts: each with the number of tokens that were given, before those of the model.
        skip: layers, counted from 0.
    """
    import torch

    same, surely, total = 0, 0.0, 0
    with without(model, skip), torch.inference_mode():
        for given, text in texts:
            logits = (
                model(torch.tensor([text[:-1]]), use_cache=False).logits[0, given - 1 :].float()
            )
            own = torch.tensor(text[given:])
            same += int((logits.argmax(-1) == own).sum())
            surely += float(logits.log_softmax(-1).gather(1, own[:, None]).sum())
            total += len(own)
    return Reading(tokens=same, log_probability=surely / total)


@contextlib.contextmanager
def without(model: Any, skip: Sequence[int]) -> Iterator[None]:
    """*model* without the layers *skip*, for a while."""
    decoder = model.get_decoder()
    whole = decoder.layers
    kinds = getattr(model.config, "layer_types", None)
    skip_layers(model, tuple(skip))
    try:
        yield
    finally:
        decoder.layers = whole
        for number, layer in enumerate(whole):
            for module in layer.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = number
        model.config.num_hidden_layers = len(whole)
        if kinds:
            model.config.layer_types = kinds
