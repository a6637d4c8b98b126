"""The process behind one server of a real model: it loads the model, then answers requests."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.backends.torch.decoders import load, nothing_learns
from dsim.backends.torch.nodes import Asked
from dsim.backends.torch.protocol import Begin, Done, Feed, FeedNodes, Ready
from dsim.backends.torch.verify import Answer
from dsim.errors import EngineError
from dsim.system import be_worker

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from dsim.backends.torch.decoders import Decoder
    from dsim.backends.torch.protocol import WorkerSetup
    from dsim.backends.torch.verify import Rule


def main(pipe: Any, setup: WorkerSetup, at_once: bool) -> None:
    """Answer requests from *pipe* until it is closed or sends ``None``, or the parent ends.

    Each is (serial number, request), a request being a :class:`Begin`, the parts of a
    :class:`Feed`, a :class:`FeedNodes`, or ``None``: no further than that number. Each forward gets
    the parts of a :class:`dsim.backends.lines.Reply`, which are sent in lists.
    """
    be_worker(at_once=at_once)
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
        parameters = next((one.parameters for one in decoders.values()), 0)
        pipe.send([(0, start_ns, end_ns, Ready(parameters))])
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
        if isinstance(request, tuple) and not isinstance(request, Begin | FeedNodes):
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
                elif isinstance(request, FeedNodes):
                    done = feed_nodes(decoders[request.role], rule, prompt, request)
                    value = done.pack()
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


def feed_nodes(decoder: Decoder, rule: Rule, prompt: list[int], request: FeedNodes) -> Done:
    """One forward over a tree of drafts, and what *rule* makes of its logits.

    Raises:
        EngineError: a logit is not finite.
    """
    text, levels = prompt + request.tokens, request.levels
    asked = Asked(text, request.nodes, request.ask, request.candidates, levels)
    begin_ns = time.perf_counter_ns()
    logits, width = decoder.read_nodes(asked)
    forward_ns = time.perf_counter_ns() - begin_ns
    answers = []
    for number, row in enumerate(logits):
        position = request.position(request.ask[number // levels]) + number % levels
        if request.role == "target":
            answers.append(rule.own(row, position))
        else:
            found = rule.candidates(row, position, request.candidates)
            answers.append(Answer(found.tokens[0] if found.tokens else -1, tuple(found)))
    return Done(
        answers=answers,
        width=width,
        context=max(0, len(text) + len(request.nodes) - width),
        forward_ns=forward_ns,
    )


def _words(error: Exception) -> str:
    text = str(error).strip()
    if isinstance(error, EngineError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
