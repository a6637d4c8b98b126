"""The process behind one server of a real model: it loads the model, then answers requests."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dsim.errors import EngineError
from dsim.events.live import Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dsim.models import ModelSpec
    from dsim.verify import Answer, Rule

LONGEST_NGRAM = 3
CERTAIN = 30.0  # the logit of what an n-gram drafter guesses; all others have 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is told at its start.

    Attributes:
        spec: the model.
        device: ``cpu``, ``cuda:0``, ``mps`` …
        cores: the CPU cores it may use; empty: all.
        threads: CPU threads of a forward.
        vocab: how many tokens target and drafter both know; further logits are cut off.
        warm_up_widths: widths of the forwards that are done, and thrown away, before it is ready.
    """

    spec: ModelSpec
    device: str
    cores: tuple[int, ...]
    threads: int
    vocab: int
    warm_up_widths: tuple[int, ...]


class Begin(NamedTuple):
    """A new text: forget the last one.

    Attributes:
        prompt: its tokens, at least one.
        rule: how drafts are judged.
        drafts: whether this server drafts; else it is a target.
        read: whether to read the prompt now, before time zero.
    """

    prompt: list[int]
    rule: Rule
    drafts: bool
    read: bool


class Feed(NamedTuple):
    """A forward over the prompt and *tokens*, for the positions from *first* to ``len(tokens)``."""

    tokens: list[int]
    first: int


class Done(NamedTuple):
    """What a forward came to.

    Attributes:
        answers: one for each position that was asked for.
        width: tokens fed to the model: the new ones and those that this server's cache had missed.
        context: tokens that the cache held before.
        forward_ns: the forward alone, until the device had finished.
    """

    answers: list[Answer]
    width: int
    context: int
    forward_ns: int


class Ready(NamedTuple):
    """The first message of a worker: it is warm.

    Attributes:
        parameters: how many weights the model has.
        load_ns: what loading and warming up took.
    """

    parameters: int
    load_ns: int


class Decoder(Protocol):
    """Something that reads tokens and has an opinion on the next one."""

    parameters: int

    def reset(self) -> None:
        """Forget everything."""

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """Read *tokens*.

        Returns:
            Logits after each of the last *rows* tokens, float32 (rows, vocab), and the width.
        """


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens *a* and *b* have in common, counted from the first."""
    shortest = min(len(a), len(b))
    if a[:shortest] == b[:shortest]:
        return shortest
    return next(i for i in range(shortest) if a[i] != b[i])


class Transformer:
    """A causal language model with its KV cache, which holds the keys and values of ``ids``."""

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
        self.reset()

    def reset(self) -> None:
        """See :class:`Decoder`."""
        self.ids: list[int] = []
        self.cache = self.new_cache()

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """See :class:`Decoder`. Only what the cache lacks is fed."""
        torch = self.torch
        kept = min(common_prefix(self.ids, tokens), len(tokens) - rows)
        if kept < len(self.ids):
            self.cache.crop(kept - len(self.ids))  # a count below zero: tokens to remove
        self.ids = list(tokens[:kept])  # should the forward fail
        new = torch.tensor([tokens[kept:]], device=self.device)
        more = {"logits_to_keep": rows} if self.keeps_rows else {}
        with torch.inference_mode():
            logits = self.model(
                input_ids=new, use_cache=True, **{self.cache_name: self.cache}, **more
            ).logits
            logits = logits[0, -rows:, : self.vocab].float()
            self.synchronize()
        self.ids = list(tokens)
        return logits.cpu().numpy(), len(tokens) - kept

    def synchronize(self) -> None:
        """Wait until the device has finished."""
        if self.device.startswith("cuda"):
            self.torch.cuda.synchronize()
        elif self.device.startswith("mps"):
            self.torch.mps.synchronize()


class Ngram:
    """Guesses that the text goes on as it did after the last words' previous occurrence.

    Prompt lookup (Saxena 2023): the longest of the last 3, 2 and 1 tokens that has occurred
    before. If none has, it guesses the last token again.
    """

    parameters = 0

    def __init__(self, vocab: int) -> None:
        self.vocab = vocab
        self.read = 0

    def reset(self) -> None:
        """See :class:`Decoder`."""
        self.read = 0

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """See :class:`Decoder`."""
        logits = np.zeros((rows, self.vocab), dtype=np.float32)
        for row in range(rows):
            text = tokens[: len(tokens) - rows + 1 + row]
            logits[row, lookup(text)] = CERTAIN
        width = max(rows, len(tokens) - self.read)
        self.read = len(tokens)
        return logits, width


def lookup(text: Sequence[int]) -> int:
    """The token that followed the last earlier occurrence of the end of *text*."""
    for size in range(min(LONGEST_NGRAM, len(text) - 1), 0, -1):
        end = text[-size:]
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == end:
                return text[start + size]
    return text[-1]


def load(setup: Setup) -> Decoder:
    """The decoder that *setup* describes, warm."""
    if setup.spec.is_ngram:
        return Ngram(setup.vocab)
    import torch

    from dsim.models import load_model

    torch.set_num_threads(setup.threads)
    decoder = Transformer(load_model(setup.spec, setup.device), setup.device, setup.vocab)
    for _ in range(2):  # the first forwards of each shape choose kernels and grow pools
        text = [0]
        for width in setup.warm_up_widths:
            text = text + [1] * width
            decoder.forward(text, width)
        decoder.reset()
    return decoder


def main(pipe: Any, setup: Setup) -> None:
    """Answer requests from *pipe* until it is closed or sends ``None``.

    Each is (serial number, request); each gets one :class:`dsim.events.live.Reply`.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    start_ns = time.perf_counter_ns()
    if setup.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, setup.cores)
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    os.environ["TQDM_DISABLE"] = "1"  # several bars at once on one terminal
    try:
        try:
            decoder = load(setup)
        except Exception as error:
            pipe.send(Reply(0, start_ns, time.perf_counter_ns(), None, _words(error)))
            return
        end_ns = time.perf_counter_ns()
        pipe.send(Reply(0, start_ns, end_ns, Ready(decoder.parameters, end_ns - start_ns)))
        serve(pipe, decoder)
    except (EOFError, OSError):
        pass  # the parent is gone


def serve(pipe: Any, decoder: Decoder) -> None:
    """Answer requests until ``None`` comes."""
    prompt: list[int] = []
    answer: Callable[[NDArray[Any], int], Answer] | None = None
    while (message := pipe.recv()) is not None:
        serial, request = message
        start_ns = time.perf_counter_ns()
        value, failure = None, None
        try:
            if isinstance(request, Begin):
                prompt, rule = request.prompt, request.rule
                answer = rule.draft if request.drafts else rule.own
                decoder.reset()
                if request.read:
                    decoder.forward(prompt, 1)
            elif answer is not None:
                value = feed(decoder, answer, prompt, request)
        except Exception as error:
            failure = _words(error)
        pipe.send(Reply(serial, start_ns, time.perf_counter_ns(), value, failure))


def feed(
    decoder: Decoder,
    answer: Callable[[NDArray[Any], int], Answer],
    prompt: list[int],
    request: Feed,
) -> Done:
    """One forward, and what the rule makes of its logits by *answer*.

    Raises:
        EngineError: a logit is not finite.
    """
    tokens, first = request
    rows = len(tokens) - first + 1
    begin_ns = time.perf_counter_ns()
    logits, width = decoder.forward(prompt + tokens, rows)
    forward_ns = time.perf_counter_ns() - begin_ns
    if not np.isfinite(logits).all():
        row = int(np.argmin(np.isfinite(logits).all(axis=1)))
        raise EngineError(f"the logits of token {first + row} are not finite")
    return Done(
        answers=[answer(row, first + i) for i, row in enumerate(logits)],
        width=width,
        context=len(prompt) + len(tokens) - width,
        forward_ns=forward_ns,
    )


def _words(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, EngineError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
