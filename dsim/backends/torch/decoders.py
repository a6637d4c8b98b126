"""Decoders: models that read tokens and give logits, each with its own cache."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from dsim.backends.torch.eagle import load_head, open_head
from dsim.backends.torch.heads import FeatureDrafter
from dsim.backends.torch.models import class_of, load_model
from dsim.backends.torch.nodes import END, NodeReader, along, common_prefix, reading
from dsim.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from dsim.backends.torch.models import ModelSpec
    from dsim.backends.torch.nodes import Asked, Reading
    from dsim.backends.torch.protocol import WorkerSetup


STATIC_WIDTHS = (1, 2, 4, 8, 16)  # of compiled forwards; those between are padded
MAX_COMPILED = 64  # graphs of one function; torch gives up at 8, and a worker may have two models
# The loop over the kernels in C++, too: a third of a small model's forward is that loop in Python.
ON_CPU = ("cpp_wrapper", "cpp_wrapper_build_separate")
MAX_NGRAM = 3
CERTAIN = 30.0  # the logit of what an n-gram drafter guesses; all others have 0


class Decoder(NodeReader, Protocol):
    """Something that reads tokens and has an opinion on the next one."""

    parameters: int

    def reset(self) -> None:
        """Forget everything."""

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """Read *tokens*.

        Returns:
            Logits after each of the last *rows* tokens, float32 (rows, vocab), and the width.
        """


class Transformer:
    """A causal language model with its KV cache.

    The cache holds the keys and values of the text ``ids``, and behind them those of the tree
    ``below`` its end; see :mod:`dsim.backends.torch.nodes`.

    Attributes:
        watched: whose outputs to keep for a head, layers counted from 1; nothing: none.
        features: these, (tokens in the cache, layers · hidden size), in the order of the cache.
    """

    watched: tuple[int, ...] = ()
    features: Any = None

    def __init__(self, model: Any, device: str, vocab: int) -> None:
        import inspect

        import torch
        from transformers import DynamicCache

        self.torch = torch
        self.model = model
        self.device = device
        self.vocab = vocab
        self.parameters = sum(p.numel() for p in model.parameters())
        # Every layer keeps everything, sliding windows too, so that any of it can be cut back.
        self.new_cache = DynamicCache
        named = inspect.signature(model.forward).parameters
        self.cache_name = "cache" if "cache" in named else "past_key_values"  # renamed in 5.2x
        self.keeps_rows = "logits_to_keep" in named
        self.window = getattr(model.config, "sliding_window", None)
        self.ids: list[int] = []
        self.below: list[tuple[int, int]] = []
        self.cache = self.new_cache()

    def reset(self) -> None:
        """See :class:`Decoder`."""
        self.ids, self.below, self.features = [], [], None
        self.cache = self.new_cache()

    def warm_up(self, widths: Sequence[int]) -> None:
        """Do forwards of *widths*, and forget them."""
        for _ in range(2):  # the first forwards of each shape choose kernels and grow pools
            text = [0]
            for width in widths:
                text = text + [1] * width
                self.forward(text, width)
            self.reset()

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """See :class:`Decoder`. Only what the cache lacks is fed."""
        if self.below:
            slots, _ = along(self.ids, self.below, common_prefix(self.ids, tokens), tokens)
            self.gather(slots)
            self.ids, self.below = list(tokens[: len(slots)]), []
        kept = min(common_prefix(self.ids, tokens), len(tokens) - rows)
        self.cut(kept)
        self.ids = list(tokens[:kept])  # should the forward fail
        logits = self.read(tokens[kept:], rows)
        self.synchronize()
        self.ids = list(tokens)
        # NumPy cuts quicker than torch does.
        return logits[0].detach().float().cpu().numpy()[-rows:, : self.vocab], len(tokens) - kept

    def read_nodes(self, asked: Asked) -> tuple[NDArray[Any], int]:
        """See :class:`dsim.backends.torch.nodes.NodeReader`. Only what the cache lacks is fed.

        Raises:
            EngineError: the text is longer than a window of the model's attention.
        """
        text = asked.text
        if self.window is not None and len(text) + len(asked.nodes) > self.window:
            raise EngineError(
                f"its attention has a window of {self.window:,} tokens, beyond which trees of "
                "drafts are not read"
            )
        common = common_prefix(self.ids, text)
        found = reading(self.ids, self.below, common, text, asked.nodes, asked.ask)
        self.gather(found.keep)
        # should the forward fail
        self.ids, self.below = list(text[: len(found.keep) - len(found.below)]), found.below
        logits = self.read(found.tokens, 0, found)
        self.synchronize()
        self.ids, self.below = list(text), found.after
        rows = slice(None) if self.keeps_rows else found.rows
        return logits[0].detach().float().cpu().numpy()[rows, : self.vocab], len(found.tokens)

    def gather(self, slots: Sequence[int]) -> None:
        """Keep of the cache what is in *slots*, in their order."""
        held = len(self.ids) + len(self.below)
        if self.watched and len(slots) < held:
            self.features = self.features[self.torch.tensor(slots, dtype=int, device=self.device)]
        if slots == list(range(len(slots))):
            if len(slots) < held:
                self.cache.crop(len(slots) - held)
            return
        index = self.torch.tensor(slots, device=self.device)
        for layer in self.cache.layers:
            layer.keys = layer.keys.index_select(-2, index)
            layer.values = layer.values.index_select(-2, index)

    def cut(self, kept: int) -> None:
        """Cut the cache back to *kept* tokens."""
        if kept < len(self.ids):
            if self.watched:
                self.features = self.features[:kept]
            self.cache.crop(kept - len(self.ids))  # a count below zero: tokens to remove

    def read(self, new: Sequence[int], rows: int, tree: Reading | None = None) -> Any:
        """Feed the tokens *new* after those in the cache; (1, rows or more, vocab) logits.

        Of a *tree* the rows are those that it says.
        """
        more: dict[str, Any] = {"logits_to_keep": rows} if self.keeps_rows else {}
        if tree is not None:
            if self.keeps_rows:
                more["logits_to_keep"] = self.torch.tensor(tree.rows, device=self.device)
            if not tree.is_chain:
                more |= self.masked(tree)
        if self.watched:
            more["output_hidden_states"] = True
        said = self.model(
            input_ids=self.torch.tensor([new], device=self.device),
            use_cache=True,
            **{self.cache_name: self.cache},
            **more,
        )
        if self.watched:
            found = self.torch.cat([said.hidden_states[i][0] for i in self.watched], -1)
            held = [] if self.features is None else [self.features]
            self.features = self.torch.cat([*held, found])
        return said.logits

    def masked(self, tree: Reading) -> dict[str, Any]:
        """The arguments that say where each token of *tree* is, and at what it looks."""
        dtype = self.model.dtype
        sees = self.torch.from_numpy(tree.sees).to(self.device)
        mask = self.torch.zeros(sees.shape, dtype=dtype, device=self.device)
        mask.masked_fill_(~sees, self.torch.finfo(dtype).min)
        positions = self.torch.tensor([tree.positions], device=self.device)
        return {"attention_mask": mask[None, None], "position_ids": positions}

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()
        elif self.device.startswith("mps"):
            self.torch.mps.synchronize()


class StaticTransformer(Transformer):
    """A :class:`Transformer` whose tensors keep shape and place, so that it can be compiled.

    The cache is as long as the longest text, and what it holds is a number. A forward of a width
    between two of ``STATIC_WIDTHS`` is padded up to the next. The keys and values of the padding
    lie beyond the text: no token of the text may look at them, and the next forward, which begins
    where the text ends or before, writes over them before its own tokens get there. A wider
    forward (a prompt), or one whose padding would not fit, is not compiled, and as wide as it is.

    Args:
        model, device, vocab: as of :class:`Transformer`.
        tokens: of the longest text.
        compiled: whether to compile; else it is only static.
    """

    def __init__(
        self, model: Any, device: str, vocab: int, tokens: int, *, compiled: bool = True
    ) -> None:
        from transformers.cache_utils import Cache, StaticLayer

        super().__init__(model, device, vocab)
        self.tokens = tokens
        # As in Transformer every layer keeps everything, sliding windows too.
        layers = [StaticLayer(tokens) for _ in range(model.config.num_hidden_layers)]
        self.cache = Cache(layers=layers)
        with self.no_gradients():  # the layers make their tensors, and mark them as staying there
            self.step(self.tensor([[0]]), self.tensor(0), 1)
        self.compiled_step = self.compile() if compiled else self.step

    def compile(self) -> Any:
        """:meth:`step`, to be compiled at its first call with each width."""
        import torch._dynamo.config
        import torch._inductor

        torch._dynamo.config.recompile_limit = MAX_COMPILED
        how: dict[str, Any] = {}
        if self.device.startswith("cuda"):
            how["mode"] = "reduce-overhead"  # CUDA graphs
        elif self.device == "cpu":
            known = torch._inductor.list_options()
            how["options"] = {name: True for name in ON_CPU if name in known}
        return torch.compile(self.step, dynamic=False, **how)

    def reset(self) -> None:
        """See :class:`Decoder`."""
        self.ids = []
        with self.no_gradients():
            for layer in self.cache.layers:  # nothing looks there, but 0 times NaN is NaN
                layer.keys.zero_()
                layer.values.zero_()

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """See :class:`Decoder`."""
        with self.no_gradients():
            return super().forward(tokens, rows)

    @contextlib.contextmanager
    def no_gradients(self) -> Iterator[None]:
        """As :func:`nothing_learns`, but tensors have versions, which CUDA graphs look at."""
        with self.torch.inference_mode(mode=False), self.torch.no_grad():
            yield

    def warm_up(self, widths: Sequence[int]) -> None:
        """Compile; then as :meth:`Transformer.warm_up`.

        Raises:
            EngineError: it cannot be compiled.
        """
        try:
            for width in STATIC_WIDTHS:
                for _ in range(3):  # CUDA: compile, then record the graph, then use it
                    if width <= self.tokens:
                        self.forward([1] * width, width)
        except Exception as error:
            raise EngineError(f"the model cannot be compiled: {gist(error)}") from error
        super().warm_up(widths)

    def cut(self, kept: int) -> None:
        """Nothing to do: a forward says itself where it begins."""

    def gather(self, slots: Sequence[int]) -> None:
        """Nothing to do either, since trees that are no chains are not read."""

    def read(self, new: Sequence[int], rows: int, tree: Reading | None = None) -> Any:
        """See :meth:`Transformer.read`.

        Raises:
            EngineError: the text is too long, or there is a tree that is no chain.
        """
        if tree is not None and tree.is_chain:
            return self.read(new, 0)[:, tree.rows]
        if tree is not None:
            raise EngineError("a compiled model reads no trees of drafts")
        begin, width = len(self.ids), len(new)
        if begin + width > self.tokens:
            raise EngineError(
                f"the text has {begin + width:,} tokens, and there is room for {self.tokens:,}"
            )
        padded = next((w for w in STATIC_WIDTHS if w >= width), self.tokens + 1)
        start = self.tensor(begin)
        if begin + padded > self.tokens:
            return self.step(self.tensor([new]), start, rows)
        self.torch.compiler.cudagraph_mark_step_begin()
        ids = self.tensor([[*new, *[0] * (padded - width)]])
        # The caller copies these rows off the device, so the next run may overwrite them.
        return self.compiled_step(ids, start, 0)[:, :width]

    def step(self, ids: Any, start: Any, rows: int) -> Any:
        """Write *ids*, (1, width), into the cache from *start* on; logits, (1, width, vocab).

        Only the last *rows*, if the model knows how; 0: all.
        """
        for layer in self.cache.layers:
            layer.cumulative_length.copy_(start)
        more = {"logits_to_keep": rows} if self.keeps_rows else {}
        return self.model(
            input_ids=ids, use_cache=True, **{self.cache_name: self.cache}, **more
        ).logits

    def tensor(self, values: Any) -> Any:
        """Whole numbers on the device."""
        return self.torch.tensor(values, device=self.device)


class Guesser:
    """A drafter that is a function, not a model: from the tokens so far to the next one.

    Args:
        drafter: has the function: ``guess(tokens)`` is the next token. It may have more:
            ``candidates(tokens, count)`` are several for the next position, the best first, for
            trees; ``block(tokens, count)`` are the next *count* tokens or fewer, for
            ``drafter.block_tokens``. Without them, ``guess`` is asked again and again.
        vocab: size of the vocabulary.
    """

    parameters = 0

    def __init__(self, drafter: Any, vocab: int) -> None:
        self.drafter = drafter
        self.vocab = vocab
        self.known = 0

    def reset(self) -> None:
        """See :class:`Decoder`."""
        self.known = 0

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """See :class:`Decoder`."""
        logits = np.zeros((rows, self.vocab), dtype=np.float32)
        for row in range(rows):
            text = tokens[: len(tokens) - rows + 1 + row]
            logits[row, self.checked(self.drafter.guess(text))] = CERTAIN
        width = max(rows, len(tokens) - self.known)
        self.known = len(tokens)
        return logits, width

    def read_nodes(self, asked: Asked) -> tuple[NDArray[Any], int]:
        """See :class:`dsim.backends.torch.nodes.NodeReader`."""
        text, nodes, ask, count, levels = asked
        logits = np.full((len(ask) * levels, self.vocab), -np.inf, dtype=np.float32)
        paths: list[list[int]] = []
        for parent, token in nodes:
            paths.append([*([] if parent == END else paths[parent]), token])
        for number, node in enumerate(ask):
            whole = [*text, *([] if node == END else paths[node])]
            for level, tokens in enumerate(self.guesses(whole, count, levels)):
                for rank, token in enumerate(tokens):
                    logits[number * levels + level, self.checked(token)] = CERTAIN - rank
        width = max(1, len(text) - self.known + len(nodes))
        self.known = len(text)
        return logits, width

    def guesses(self, text: list[int], count: int, levels: int) -> Iterator[Sequence[int]]:
        """Candidates for each of the next *levels* positions after *text*, the best first.

        Those of a position follow the first choices of the positions before.
        """
        block = getattr(self.drafter, "block", None)
        candidates = getattr(self.drafter, "candidates", None)
        if block is not None and levels > 1 and (count == 1 or candidates is None):
            yield from ([token] for token in block(text, levels)[:levels])
            return
        for _ in range(levels):
            if count == 1 or candidates is None:
                tokens = [self.drafter.guess(text)]
            else:
                tokens = list(dict.fromkeys(candidates(text, count)))[:count]
            if not tokens:
                return
            yield tokens
            text = [*text, tokens[0]]

    def checked(self, token: Any) -> int:
        """*token*, which is one of the vocabulary.

        Raises:
            ValueError: it is not.
        """
        number = int(token)
        if not 0 <= number < self.vocab:
            what = f"the drafter guessed {number}, not a token from 0 to {self.vocab - 1}"
            raise ValueError(what)
        return number


def gist(error: Exception) -> str:
    """What a compiler's error of many screens comes to."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return next((line for line in lines if " error: " in line), first)[:300]


class Lookup:
    """Prompt lookup (Saxena 2023), the drafter ``ngram``."""

    def guess(self, text: Sequence[int]) -> int:
        """The token that followed the last earlier occurrence of the end of *text*."""
        return self.candidates(text, 1)[0]

    def candidates(self, text: Sequence[int], count: int) -> list[int]:
        """Tokens that followed earlier occurrences of the end of *text*: *count* at most.

        The longest of the last 3, 2 and 1 tokens that has occurred before comes first, and of equal
        ones the last occurrence. If none has, the last token is the only guess.
        """
        found: list[int] = []
        for size in range(min(MAX_NGRAM, len(text) - 1), 0, -1):
            end = text[-size:]
            for start in range(len(text) - size - 1, -1, -1):
                if text[start : start + size] == end and text[start + size] not in found:
                    found.append(text[start + size])
                    if len(found) == count:
                        return found
        return found or [text[-1]]


def load(setup: WorkerSetup) -> dict[str, Decoder]:
    """The decoders that *setup* describes, by role, warm."""
    if setup.static_tokens:
        os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else it starts processes of its own
    decoders: dict[str, Decoder] = {}
    for role, spec in setup.specs.items():
        decoders[role] = load_one(spec, setup, decoders.get("target"))
    if not setup.static_tokens:
        return decoders
    import torch

    torch.compiler.set_stance("eager_on_recompile")  # compile nothing after time zero
    return decoders


def load_one(spec: ModelSpec, setup: WorkerSetup, target: Any = None) -> Decoder:
    """The decoder of *spec*, warm; of a head, which lives on the decoder *target*."""
    if spec.is_ngram:
        return Guesser(Lookup(), setup.vocab)
    if spec.is_class:
        return Guesser(class_of(spec.name)(setup.vocab), setup.vocab)
    import torch

    torch.set_num_threads(setup.threads)
    if spec.is_head:
        head = open_head(spec.folder, target.model.config)
        target.watched = head.layers
        drafter = FeatureDrafter(
            load_head(head, target.model, setup.device, spec.dtype), target, setup.vocab
        )
        with nothing_learns():
            target.reset()
            drafter.warm_up(setup.warm_up_widths)
        return drafter
    model = load_model(spec, setup.device)
    decoder = Transformer(model, setup.device, setup.vocab)
    if setup.static_tokens:
        decoder = StaticTransformer(model, setup.device, setup.vocab, setup.static_tokens)
    with nothing_learns():
        decoder.warm_up(setup.warm_up_widths)
    return decoder


def nothing_learns() -> AbstractContextManager[None]:
    """Lets torch, if there is one, leave out what only training needs."""
    torch = sys.modules.get("torch")
    return contextlib.nullcontext() if torch is None else torch.inference_mode()
