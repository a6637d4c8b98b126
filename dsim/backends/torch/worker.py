"""The process behind one server of a real model: it loads the model, then answers requests."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dsim.backends.torch.verify import Answer, verify
from dsim.errors import EngineError
from dsim.system import ignore_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from dsim.backends.torch.models import ModelSpec
    from dsim.backends.torch.verify import Rule

STATIC_WIDTHS = (1, 2, 4, 8, 16)  # of compiled forwards; those between are padded
MOST_COMPILED = 64  # graphs of one function; torch gives up at 8, and a worker may have two models
# The loop over the kernels in C++, too: a third of a small model's forward is that loop in Python.
ON_CPU = ("cpp_wrapper", "cpp_wrapper_build_separate")
LONGEST_NGRAM = 3
CERTAIN = 30.0  # the logit of what an n-gram drafter guesses; all others have 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """What a worker is told at its start.

    Attributes:
        specs: the models by role, ``drafter`` or ``target``; several if the worker has several,
            which then never run at the same time.
        device: ``cpu``, ``cuda:0``, ``mps`` …
        cores: the CPU cores it may use; empty: all.
        threads: CPU threads of a forward.
        vocab: how many tokens target and drafter both know; further logits are cut off.
        warm_up_widths: widths of the forwards that are done, and thrown away, before it is ready.
        static_tokens: compile the model, with a cache of so many tokens; 0: do not.
    """

    specs: dict[str, ModelSpec]
    device: str
    cores: tuple[int, ...]
    threads: int
    vocab: int
    warm_up_widths: tuple[int, ...]
    static_tokens: int = 0


class Begin(NamedTuple):
    """A new text: forget the last one.

    Attributes:
        prompt: its tokens, at least one.
        rule: how drafts are judged.
        read: the roles whose models read the prompt now, before time zero.
        cores: the CPU cores to run on from now on; empty: as before.
        threads: CPU threads of a forward from now on; 0: as before.
        hold_ns: how long the answer of a forward may wait for those of the next in a chain, to be
            sent with them, if these are likely to come in time; for a parent that would only look
            on.
        stop_ids: tokens that may end the text, so that answers with one never wait.
    """

    prompt: list[int]
    rule: Rule
    read: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    threads: int = 0
    hold_ns: int = 0
    stop_ids: frozenset[int] = frozenset()


class Feed(NamedTuple):
    """A forward over the prompt and *tokens*, for the positions from *first* to ``len(tokens)``.

    Attributes:
        tokens: what follows the prompt.
        first: the first position whose token is wanted.
        role: whose forward: ``drafter`` or ``target``.
        ahead: how many forwards follow unasked, each over the token that the last one chose as
            well, while no message comes. So a chain of forwards needs no hand-over in between.
        block: see :class:`dsim.events.forward.Forward`; with one the chain goes on beyond the
            verdict.
    """

    tokens: list[int]
    first: int
    role: str = "target"
    ahead: int = 0
    block: tuple[int, int, int] | None = None

    @property
    def unasked(self) -> int:
        """How many forwards may follow, at most."""
        if self.block is None:
            return self.ahead
        settled, drafts, wanted = self.block
        return (wanted - settled) * (drafts + 1)

    def following(
        self, answers: Sequence[Answer], said: Mapping[int, Answer], rule: Rule
    ) -> Feed | None:
        """What this server's asker is going to want next, if nothing intervenes.

        Args:
            answers: what this forward has said.
            said: what the drafter has said, by position.
            rule: what decides which drafts stand.
        """
        tokens = [*self.tokens, answers[-1].token]
        if self.ahead:
            return Feed(tokens, self.first + 1, self.role, self.ahead - 1, self.block)
        if self.block is None:
            return None
        settled, drafts, wanted = self.block
        if self.role == "drafter":
            return Feed(tokens, settled, "target", 0, self.block)
        judged = [said[position] for position in range(settled, len(self.tokens))]
        accepted, token = verify(rule, answers, judged, settled)
        tokens = [*self.tokens[: settled + accepted], token]
        settled = len(tokens)
        if settled == wanted:
            return None
        block = (settled, drafts, wanted)
        count = min(drafts, wanted - settled - 1)
        if count == 0:
            return Feed(tokens, settled, "target", 0, block)
        return Feed(tokens, settled, "drafter", count - 1, block)


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

    def pack(self) -> tuple[Any, ...]:
        """As built-in types, which go through a pipe in a tenth of the time."""
        return ([tuple(answer) for answer in self.answers], *self[1:])

    def says(self, tokens: frozenset[int]) -> bool:
        """Whether any of the answers is one of *tokens*."""
        return any(answer.token in tokens for answer in self.answers)

    @classmethod
    def unpack(cls, value: tuple[Any, ...]) -> Done:
        """What :meth:`pack` packed."""
        return cls([Answer(*answer) for answer in value[0]], *value[1:])


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
        self.ids: list[int] = []
        self.cache = self.new_cache()

    def reset(self) -> None:
        """See :class:`Decoder`."""
        self.ids = []
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
        kept = min(common_prefix(self.ids, tokens), len(tokens) - rows)
        self.cut(kept)
        self.ids = list(tokens[:kept])  # should the forward fail
        logits = self.read(tokens[kept:], rows)
        self.synchronize()
        self.ids = list(tokens)
        # NumPy cuts quicker than torch does.
        return logits[0].detach().float().cpu().numpy()[-rows:, : self.vocab], len(tokens) - kept

    def cut(self, kept: int) -> None:
        """Cut the cache back to *kept* tokens."""
        if kept < len(self.ids):
            self.cache.crop(kept - len(self.ids))  # a count below zero: tokens to remove

    def read(self, new: Sequence[int], rows: int) -> Any:
        """Feed the tokens *new* after those in the cache; (1, rows or more, vocab) logits."""
        more = {"logits_to_keep": rows} if self.keeps_rows else {}
        return self.model(
            input_ids=self.torch.tensor([new], device=self.device),
            use_cache=True,
            **{self.cache_name: self.cache},
            **more,
        ).logits

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

        torch._dynamo.config.recompile_limit = MOST_COMPILED
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

    def read(self, new: Sequence[int], rows: int) -> Any:
        """See :meth:`Transformer.read`.

        Raises:
            EngineError: the text is too long.
        """
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


def gist(error: Exception) -> str:
    """What a compiler's error of many screens comes to."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return next((line for line in lines if " error: " in line), first)[:300]


def lookup(text: Sequence[int]) -> int:
    """The token that followed the last earlier occurrence of the end of *text*."""
    for size in range(min(LONGEST_NGRAM, len(text) - 1), 0, -1):
        end = text[-size:]
        for start in range(len(text) - size - 1, -1, -1):
            if text[start : start + size] == end:
                return text[start + size]
    return text[-1]


def load(setup: Setup) -> dict[str, Decoder]:
    """The decoders that *setup* describes, by role, warm."""
    if not setup.static_tokens:
        return {role: load_one(spec, setup) for role, spec in setup.specs.items()}
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else it starts processes of its own
    decoders = {role: load_one(spec, setup) for role, spec in setup.specs.items()}
    import torch

    torch.compiler.set_stance("eager_on_recompile")  # compile nothing after time zero
    return decoders


def load_one(spec: ModelSpec, setup: Setup) -> Decoder:
    """The decoder of *spec*, warm."""
    if spec.is_ngram:
        return Ngram(setup.vocab)
    import torch

    from dsim.backends.torch.models import load_model

    torch.set_num_threads(setup.threads)
    model = load_model(spec, setup.device)
    decoder = Transformer(model, setup.device, setup.vocab)
    if setup.static_tokens:
        decoder = StaticTransformer(model, setup.device, setup.vocab, setup.static_tokens)
    with nothing_learns():
        decoder.warm_up(setup.warm_up_widths)
    return decoder


def main(pipe: Any, setup: Setup) -> None:
    """Answer requests from *pipe* until it is closed or sends ``None``.

    Each is (serial number, request), a request being a :class:`Begin`, the parts of a
    :class:`Feed`, or ``None``: no further than that number. Each forward gets the parts of a
    :class:`dsim.backends.live.Reply`, which are sent in lists.
    """
    ignore_interrupts()
    start_ns = time.perf_counter_ns()
    move(setup.cores)
    os.environ["OMP_NUM_THREADS"] = str(setup.threads)
    os.environ["TQDM_DISABLE"] = "1"  # several bars at once on one terminal
    try:
        try:
            decoders = load(setup)
        except Exception as error:
            pipe.send([(0, start_ns, time.perf_counter_ns(), None, _words(error))])
            return
        end_ns = time.perf_counter_ns()
        parameters = next(iter(decoders.values())).parameters
        pipe.send([(0, start_ns, end_ns, Ready(parameters, end_ns - start_ns))])
        gc.freeze()  # a collection would look through all of torch, in the middle of a chain
        with nothing_learns():
            serve(pipe, decoders)
    except (EOFError, OSError):
        pass  # the parent is gone


def move(cores: tuple[int, ...]) -> None:
    """Run on *cores*, if any, with all threads; where the system has no such call, anywhere."""
    if not cores or not hasattr(os, "sched_setaffinity"):
        return
    tasks = Path("/proc/self/task")
    for thread in tasks.iterdir() if tasks.is_dir() else ():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            os.sched_setaffinity(int(thread.name), cores)
    os.sched_setaffinity(0, cores)


def nothing_learns() -> AbstractContextManager[None]:
    """Lets torch, if there is one, leave out what only training needs."""
    torch = sys.modules.get("torch")
    return contextlib.nullcontext() if torch is None else torch.inference_mode()


def use_threads(threads: int) -> None:
    """Let forwards on the CPU have *threads* threads, where torch makes them."""
    torch = sys.modules.get("torch")
    if torch is None:  # looking words up needs none
        return
    torch.set_num_threads(threads)
    # They are made, where they may run, by the first who needs them: not in a measured forward.
    torch.ones(1 << 16).exp_()


def serve(pipe: Any, decoders: Mapping[str, Decoder]) -> None:
    """Answer requests until ``None`` comes; see :func:`main`."""
    prompt: list[int] = []
    rule: Rule
    answers: dict[str, Callable[[NDArray[Any], int], Answer]] = {}
    said: dict[int, Answer] = {}
    threads, hold_ns = 0, 0
    stop_ids: frozenset[int] = frozenset()
    held: list[tuple[Any, ...]] = []
    pending: list[Any] = []
    while (message := pending.pop() if pending else pipe.recv()) is not None:
        serial, request = message
        last = serial
        if isinstance(request, tuple) and not isinstance(request, Begin):
            request = Feed(*request)
            last += request.unasked
        while request is not None:
            start_ns = time.perf_counter_ns()
            done, value, failure, following = None, None, None, None
            try:
                if isinstance(request, Begin):
                    prompt, rule = request.prompt, request.rule
                    hold_ns, stop_ids = request.hold_ns, request.stop_ids
                    said = {}
                    answers = {"drafter": rule.draft, "target": rule.own}
                    move(request.cores)
                    if request.threads not in (0, threads):
                        threads = request.threads
                        use_threads(threads)
                    for role, decoder in decoders.items():
                        decoder.reset()
                        if role in request.read:
                            decoder.forward(prompt, 1)
                else:
                    role = request.role
                    done = feed(decoders[role], answers[role], prompt, request)
                    value = done.pack()
                    if role == "drafter":
                        said[request.first] = done.answers[0]
                    if serial < last:
                        following = request.following(done.answers, said, rule)
            except Exception as error:
                failure = _words(error)
            end_ns = time.perf_counter_ns()
            held.append((serial, start_ns, end_ns, value, failure))
            # The next forward is likely to take as long as this one did.
            late = end_ns - held[0][2] + end_ns - start_ns > hold_ns
            if late or following is None or (done is not None and done.says(stop_ids)):
                pipe.send(held)
                held = []
            while serial < last and pipe.poll(0):
                message = pipe.recv()
                if message is not None and message[1] is None:
                    last = max(serial, message[0])  # no further than what has been claimed
                else:
                    pending.append(message)
                    last = serial
            if serial == last or following is None:
                if held:  # a message has cut the chain short
                    pipe.send(held)
                    held = []
                break
            serial += 1
            request = following


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
    tokens, first = request.tokens, request.first
    rows = len(tokens) - first + 1
    begin_ns = time.perf_counter_ns()
    logits, width = decoder.forward(prompt + tokens, rows)
    forward_ns = time.perf_counter_ns() - begin_ns
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
