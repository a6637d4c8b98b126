"""A pair of models, target and drafter: whether they fit together."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dsim.backends.torch import prompts, skip
from dsim.backends.torch.eagle import open_head
from dsim.backends.torch.models import load_config, load_tokenizer
from dsim.errors import Problem, UserError

if TYPE_CHECKING:
    from dsim.backends.torch.models import ModelSpec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
    """A target and a drafter that fit together.

    Attributes:
        target, drafter: the two model specs.
        tokenizer: that of both.
        vocab: how many tokens both know.
        context_tokens: the longest text, prompt and output, that both can read.
        stop_ids: the tokens that end a text.
    """

    target: ModelSpec
    drafter: ModelSpec
    tokenizer: Any
    vocab: int
    context_tokens: int
    stop_ids: frozenset[int]


def load_pair(target: ModelSpec, drafter: ModelSpec) -> Pair:
    """See that *target* and *drafter* exist and have one tokenizer; weights are not loaded yet.

    Raises:
        UserError: one cannot be loaded, or their tokenizers differ.
    """
    config = load_config(target, "--target")
    tokenizer = load_tokenizer(target, "--target")
    configs = [config]
    if drafter.is_head:
        open_head(drafter.folder, config)
    elif not drafter.is_ngram and not drafter.is_class and drafter.name != target.name:
        configs.append(load_config(drafter, "--drafter"))
        check_tokenizers(tokenizer, load_tokenizer(drafter, "--drafter"))
    elif drafter.skip or drafter.skip_auto:
        load_config(drafter, "--drafter")
    ids = getattr(config, "eos_token_id", None)
    stop_ids = {*([ids] if isinstance(ids, int) else ids or ()), tokenizer.eos_token_id}
    contexts = [c.max_position_embeddings for c in configs if hasattr(c, "max_position_embeddings")]
    pair = Pair(
        target=target,
        drafter=drafter,
        tokenizer=tokenizer,
        vocab=min(c.vocab_size for c in configs),
        context_tokens=min(contexts, default=2**31),
        stop_ids=frozenset(stop_ids - {None}),
    )
    if not drafter.skip_auto:
        return pair
    return resolve(pair)


def check_tokenizers(target: Any, drafter: Any) -> None:
    """See that two tokenizers are the same: same tokens, same ids, same cuts.

    Raises:
        UserError: they differ.
    """
    ours, theirs = target.get_vocab(), drafter.get_vocab()
    if ours != theirs:
        differing = sorted(
            token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)
        )
        token = differing[0]
        raise UserError(
            Problem(
                "--drafter",
                "",
                f"its tokenizer differs from the target's in {len(differing):,} tokens of "
                f"{len(ours):,} (like {token!r}: {theirs.get(token)} instead of "
                f"{ours.get(token)}); a drafter needs the target's tokenizer",
            )
        )
    probe = "Once upon a time, 3 cats' naïve  plan\n\tdef f(x): return x + 1"
    if target(probe).input_ids != drafter(probe).input_ids:
        raise UserError(
            Problem("--drafter", "", "its tokenizer cuts text into other tokens than the target's")
        )


def resolve(pair: Pair) -> Pair:
    """*pair* with the layers chosen that ``skip:auto=N`` leaves open.

    Raises:
        UserError: there are not so many layers, or the prompts cannot be read or are too long.
        EngineError: the target cannot be loaded.
    """
    layers = skip.chosen_layers(pair.target, pair.drafter.skip_auto, _prompts(pair))
    return dataclasses.replace(
        pair, drafter=dataclasses.replace(pair.drafter, skip=layers, skip_auto=0)
    )


def _prompts(pair: Pair) -> tuple[tuple[int, ...], ...]:
    """The token ids that the layers are chosen on."""
    known = prompts.load(pair.drafter.skip_prompts, "--drafter")[: skip.PROMPTS]
    found = tuple(tuple(pair.tokenizer(one.text).input_ids) for one in known)
    for one, ids in zip(known, found, strict=True):
        if not 0 < len(ids) <= pair.context_tokens - skip.TOKENS:
            raise UserError(
                Problem(
                    "--drafter",
                    "",
                    f"prompt {one.id} of {pair.drafter.skip_prompts} has {len(ids):,} tokens; "
                    f"expected 1 to {pair.context_tokens - skip.TOKENS:,}",
                )
            )
    return found
