"""The torch backend: a forward is a real forward pass in a worker process, one process a server."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import re
import shutil
import signal
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.backends.live import Line, LiveEnvironment, Pipe, Reply, exchange
from dsim.backends.torch import worker
from dsim.backends.torch.verify import Answer, verify
from dsim.errors import EngineError, Problem, UserError
from dsim.events.output import Output
from dsim.model.lookahead import Plan
from dsim.orchestrations.start import start
from dsim.study.settings import ALGORITHMS
from dsim.system import available_cores, hold_interrupts
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
    from multiprocessing.process import BaseProcess
    from types import TracebackType

    from dsim.backends.torch.models import Pair
    from dsim.backends.torch.verify import Rule
    from dsim.events.forward import Forward
    from dsim.events.servers import Servers

HOLD_NS = 40_000_000  # a text that comes in such steps still flows
WARM_UP_WIDTHS = (1, 2, 3, 4, 6, 9, 16, 1, 1)


class Span(NamedTuple):
    """One forward of one run.

    Attributes:
        role: ``drafter`` or ``target``.
        server: the number of the server.
        first, end: the positions that it was for; it read the tokens before *end*.
        width, context: tokens fed, and tokens that the cache held.
        begin_ns: when the algorithm asked for it (ns since time zero).
        start_ns, end_ns: when its worker began and had finished, likewise.
        forward_ns: the forward alone, by the worker's clock.
    """

    role: str
    server: int
    first: int
    end: int
    width: int
    context: int
    begin_ns: int
    start_ns: int
    end_ns: int
    forward_ns: int


class LiveOutput(Output):
    """An output that may end before ``wanted`` tokens: at one of the *stop_ids*, which is kept.

    Args:
        env, wanted: as in :class:`dsim.events.output.Output`.
        stop_ids: tokens that end the text.
        on_settled: called with the tokens that have just settled.
    """

    __slots__ = ("on_settled", "stop_ids")

    def __init__(
        self,
        env: Any,
        wanted: int,
        stop_ids: frozenset[int] = frozenset(),
        on_settled: Callable[[list[int]], None] | None = None,
    ) -> None:
        super().__init__(env, wanted)
        self.stop_ids = stop_ids
        self.on_settled = on_settled

    def settle_drafts(self, count: int) -> None:
        """Settle drafts, up to the first that ends the text."""
        if not self.finished:
            before, stop = self.settled, self._stop(count)
            super().settle_drafts(count if stop is None else stop)
            self._tell(before)
            if stop is not None:
                self._finish()

    def settle(self, count: int, token: Any) -> None:
        """Settle drafts and a token, or less, if a draft ends the text."""
        if self.finished:
            return
        if self._stop(count) is not None:
            self.settle_drafts(count)
            return
        before = self.settled
        tell, self.on_settled = self.on_settled, None
        super().settle(count, token)
        self.on_settled = tell
        self._tell(before)
        if token in self.stop_ids and not self.finished:
            self._finish()

    def _stop(self, count: int) -> int | None:
        """How many of the next *count* drafts settle if one of them ends the text."""
        drafts = self.tokens[self.settled : self.settled + count]
        return next((i for i, t in enumerate(drafts, 1) if t in self.stop_ids), None)

    def _finish(self) -> None:
        del self.tokens[self.settled :]
        self.wanted = self.settled
        self.finished = True
        self.done.succeed()

    def _tell(self, before: int) -> None:
        if self.on_settled is not None and self.settled > before:
            self.on_settled(self.tokens[before : self.settled])


class Shared:
    """What the two models of one run have in common.

    Attributes:
        said: the drafter's answer for each position.
        spans: every forward that ended, in order of ending.
        under_way: what the worker of each rank is at, or goes on with unasked; ``None``: nothing.
    """

    def __init__(self) -> None:
        self.said: dict[int, Answer] = {}
        self.spans: list[Span] = []
        self.under_way: dict[int, worker.Feed | None] = {}


class Torch:
    """Stands behind the servers of one model during one run.

    Args:
        env: the live environment of the run.
        lines: the workers of this model's servers, by the number of the server.
        rule: how drafts are judged.
        shared: one for both models.
        together: whether these workers have both models.
    """

    preemptible = False

    def __init__(
        self,
        env: LiveEnvironment,
        lines: Sequence[Line],
        rule: Rule,
        shared: Shared,
        *,
        together: bool = False,
    ) -> None:
        self.env = env
        self.lines = lines
        self.rule = rule
        self.shared = shared
        self.together = together
        self._begun: dict[int, int] = {}  # by server
        self._answers: dict[Forward, list[Answer]] = {}

    def attach(self, _: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.forward.Backend`."""
        return self._begin

    def _begin(self, forward: Forward) -> None:
        self._begun[forward.server] = int(self.env.now)
        line, under_way = self.lines[forward.server], self.shared.under_way
        wanted = worker.Feed(
            list(forward.servers.tokens),
            forward.first,
            forward.servers.role,
            forward.ahead,
            forward.block if self.together else None,
        )
        if line.ahead and under_way[line.rank] == wanted:
            self.env.take(line, forward, self._answered)
            return
        under_way[line.rank] = wanted
        self.env.ask(line, forward, tuple(wanted), self._answered, wanted.unasked)

    def cancel(self, forward: Forward) -> None:
        """See :class:`dsim.events.forward.Backend`."""
        self.env.halt(self.lines[forward.server])

    def _answered(self, forward: Forward, reply: Reply) -> None:
        done = worker.Done.unpack(reply.value)
        line, zero_ns = self.lines[forward.server], self.env.zero_ns
        self.shared.spans.append(
            Span(
                role=forward.servers.role,
                server=forward.server,
                first=forward.first,
                end=forward.end,
                width=done.width,
                context=done.context,
                begin_ns=self._begun[forward.server],
                start_ns=reply.start_ns - zero_ns,
                end_ns=reply.end_ns - zero_ns,
                forward_ns=done.forward_ns,
            )
        )
        if forward.servers.role == "drafter" and not forward.cancelled:
            forward.token = done.answers[0].token
            self.shared.said[forward.first] = done.answers[0]
        elif not forward.cancelled:
            self._answers[forward] = done.answers
        under_way = self.shared.under_way
        if line.ahead and (last := under_way[line.rank]) is not None:
            under_way[line.rank] = last.following(done.answers, self.shared.said, self.rule)

    def verify(self, forward: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """See :class:`dsim.events.forward.Backend`."""
        answers = self._answers.pop(forward)[first - forward.first :]
        said = [self.shared.said[first + i] for i in range(len(drafts))]
        return verify(self.rule, answers, said, first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveRun:
    """One finished run with real models.

    Attributes:
        output: the text, and when its tokens settled (by the workers' stamps).
        drafter, target: the servers, with their counts.
        spans: every forward that ended before the output was finished, in order of ending.
        wall_ns: from time zero until the parent knew the last token.
    """

    output: Output
    drafter: Servers
    target: Servers
    spans: list[Span]
    wall_ns: int

    @property
    def judged(self) -> int:
        """How many drafts got a verdict."""
        return self.output.accepted + len(self.output.rejections)

    @property
    def orchestration_ns(self) -> int:
        """Wall time during which no worker was at a forward."""
        idle_ns, until_ns = 0, 0
        for span in sorted(self.spans, key=lambda span: span.start_ns):
            idle_ns += max(0, span.start_ns - until_ns)
            until_ns = max(until_ns, span.end_ns)
        return idle_ns + max(0, self.wall_ns - until_ns)


class Fleet:
    """The worker processes of one pair: one for the drafter and one for each target server.

    In SI nothing overlaps, so it needs one server for both models, as any serving system has it:
    the first target's worker, which then has the drafter as well, if both are for one device.

    They are started together, load their models, warm up, and answer until :meth:`close`.

    Args:
        pair: the models.
        targets: how many target servers.
        devices: where to run them: the drafter's device, then those of the targets; too few are
            filled up with the last one.
        threads: CPU threads of a forward, for workers on the CPU.
        share: whether several workers may have the same core or GPU.
        watchdog_ns: how long one forward may take.
        load_timeout_ns: how long loading may take.
        algorithms: what is going to be run.
        compiled_tokens: compile the models, for texts, prompts included, of up to so many tokens;
            0: do not.

    Attributes:
        drafter, targets: the lines to the workers.
        ready: what the workers said when they were warm; the drafter first.
        contention: which workers share a core or GPU, in words; empty if none do.
        together: whether SI runs in one worker.

    Raises:
        UserError: there are too few cores or GPUs, or there is no compiler.
        EngineError: a worker could not load its model.
    """

    def __init__(
        self,
        pair: Pair,
        targets: int,
        *,
        devices: Sequence[str] = ("cpu",),
        threads: int = 1,
        share: bool = False,
        watchdog_ns: int = 120 * NS_PER_S,
        load_timeout_ns: int = 900 * NS_PER_S,
        algorithms: Collection[str] = ALGORITHMS,
        compiled_tokens: int = 0,
    ) -> None:
        self.pair = pair
        self.threads = threads
        self.watchdog_ns = watchdog_ns
        if len(devices) > targets + 1:
            what = f"names {len(devices)} devices, for a drafter and {targets} target servers"
            raise UserError(Problem("--devices", "", what))
        everywhere = [*devices, *[devices[-1]] * (targets + 1 - len(devices))]
        self.cores, self.contention = place(
            everywhere, threads, share=share, idle=(0,) if pair.drafter.is_ngram else ()
        )
        if compiled_tokens:
            check_compiler(everywhere)
            load_timeout_ns *= 4
        self.everywhere = everywhere
        self.together = "si" in algorithms and everywhere[0] == everywhere[1]
        names = ["drafter", *(f"target {i + 1}" for i in range(targets))]
        context = multiprocessing.get_context("spawn")
        self.processes: list[BaseProcess] = []
        self.lines: list[Line] = []
        try:
            for rank, name in enumerate(names):
                specs = {"target": pair.target} if rank else {"drafter": pair.drafter}
                if rank == 1 and self.together:
                    specs["drafter"] = pair.drafter
                ours, theirs = map(Pipe, context.Pipe())
                setup = worker.Setup(
                    specs=specs,
                    device=everywhere[rank],
                    cores=self.cores[rank],
                    threads=threads,
                    vocab=pair.vocab,
                    warm_up_widths=warm_up_widths(pair.context_tokens),
                    static_tokens=static_tokens(compiled_tokens, pair.context_tokens),
                )
                process = context.Process(
                    target=worker.main, args=(theirs, setup), name=f"dsim {name}", daemon=True
                )
                with hold_interrupts():
                    process.start()
                    theirs.close()  # so that the pipe breaks when the worker dies
                    line = Line(name, rank, ours, process.sentinel, _obituary(process))
                    self.processes.append(process)
                    self.lines.append(line)
            self.ready: list[worker.Ready] = [
                reply.value for reply in _first_replies(self.lines, load_timeout_ns)
            ]
        except BaseException:
            self.close(force=True)
            raise
        self.drafter, *self.targets = self.lines

    def close(self, *, force: bool = False) -> None:
        """End the workers: kindly, or at once if *force* is set or they do not listen."""
        for line in self.lines:
            if not force and line.forward is None:
                try:
                    line.pipe.send(None)
                except (OSError, ValueError):
                    continue
        for process, line in zip(self.processes, self.lines, strict=False):
            process.join(0 if force or line.forward is not None else 5)
            if process.is_alive():
                process.kill()
                process.join()
            line.pipe.close()
            process.close()
        self.processes, self.lines = [], []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(force=error is not None)

    def begin(
        self,
        prompt: list[int],
        rule: Rule,
        *,
        read: bool,
        tokens: int,
        together: bool = False,
        all_cores: bool = False,
        hold_ns: int = 0,
        stop_ids: frozenset[int] = frozenset(),
    ) -> None:
        """Tell all workers of a new text.

        Args:
            prompt: its tokens.
            rule: how drafts are judged.
            read: whether the servers read the prompt now.
            tokens: how many are to come.
            together: whether the first target's worker does the drafts as well.
            all_cores: whether the first target's worker, and the drafter's if it is another, get
                the cores and threads of all workers.
            hold_ns: see :class:`dsim.backends.torch.worker.Begin`.
            stop_ids: likewise.

        Raises:
            UserError: the prompt is empty, or too long with *tokens* to come.
            EngineError: a worker died, or failed.
        """
        check_prompt(self.pair, prompt, tokens)
        requests = []
        for rank, own in enumerate(self.cores):
            cores, threads = self.all_cores() if all_cores and rank < 2 else (own, self.threads)
            roles: tuple[str, ...] = ("target",) if rank else ("drafter",)
            if together:
                roles = ("target", "drafter") if rank == 1 else ()
            requests.append(
                worker.Begin(
                    prompt,
                    rule,
                    read=roles if read else (),
                    cores=cores or tuple(available_cores()),
                    threads=threads,
                    hold_ns=hold_ns,
                    stop_ids=stop_ids,
                )
            )
        exchange(self.lines, requests, timeout_ns=self.watchdog_ns)

    def all_cores(self) -> tuple[tuple[int, ...], int]:
        """The cores of all workers together (nothing: any), and how many threads they have.

        Raises:
            UserError: they are not on the CPU.
        """
        if set(self.everywhere) != {"cpu"}:
            raise UserError(
                Problem("--devices", "", "several GPUs cannot work on one forward; expected cpu")
            )
        cores = tuple(sorted({core for own in self.cores for core in own}))
        workers = len(self.lines) - self.pair.drafter.is_ngram
        return cores, len(cores) or min(self.threads * workers, len(available_cores()))

    def answers(
        self, prompt: list[int], text: list[int], rule: Rule
    ) -> tuple[list[Answer], list[Answer]]:
        """What drafter and target say at each position of *text*, given all before it.

        Returns:
            The drafter's answers and the target's, one for each token of *text*.

        Raises:
            UserError, EngineError: as :meth:`begin`.
        """
        self.begin(prompt, rule, read=False, tokens=len(text))
        pair = [self.drafter, self.targets[0]]
        requests = [(text[:-1], 0, role) for role in ("drafter", "target")]
        ours, theirs = exchange(pair, requests, timeout_ns=self.watchdog_ns)
        drafts, own = (worker.Done.unpack(reply.value).answers for reply in (ours, theirs))
        return drafts, own

    def run(
        self,
        algorithm: str,
        prompt: list[int],
        tokens: int,
        rule: Rule,
        *,
        lookahead: int = 5,
        targets: int | None = None,
        cached: bool = False,
        stop_ids: frozenset[int] = frozenset(),
        on_settled: Callable[[list[int]], None] | None = None,
        keep_history: bool = False,
        all_cores: bool = False,
    ) -> LiveRun:
        """Generate *tokens* tokens after *prompt*, or fewer if one of *stop_ids* comes.

        Args:
            algorithm: ``nonsi``, ``si`` or ``dsi``.
            prompt: token ids, at least one.
            tokens: ``N``.
            rule: how drafts are judged.
            lookahead: ``k``.
            targets: ``S``; ``None``: all there are.
            cached: whether every server reads the prompt before time zero.
            stop_ids: tokens that end the text.
            on_settled: called with the tokens that have just settled.
            keep_history: whether the servers keep their forwards, for a timeline.
            all_cores: give non-SI, or SI, the cores and threads of all workers.

        Raises:
            UserError: the prompt is too long.
            EngineError: a worker died, failed or hangs.
        """
        alone = algorithm != "dsi"
        all_cores = all_cores and alone
        together = algorithm == "si" and self.together
        self.begin(
            prompt,
            rule,
            read=cached,
            tokens=tokens,
            together=together,
            all_cores=all_cores,
            hold_ns=HOLD_NS if alone else 0,
            stop_ids=stop_ids,
        )
        busy = self.cores
        if not all_cores and (algorithm == "nonsi" or together):
            busy = self.cores[1:2]  # of the one worker that does anything
        shared = Shared()
        env = LiveEnvironment(self.lines, watchdog_ns=self.watchdog_ns)
        output = LiveOutput(env, tokens, stop_ids, on_settled)
        (drafter, *_), target = start(
            algorithm,
            env,
            output,
            drafter_backends=[
                Torch(
                    env,
                    self.targets[:1] if together else [self.drafter],
                    rule,
                    shared,
                    together=together,
                )
            ],
            target_backend=Torch(env, self.targets, rule, shared, together=together),
            plan=Plan(lookahead),
            targets=len(self.targets) if targets is None else targets,
            prefill=not cached,
            keep_history=keep_history,
        )
        with beside([core for cores in busy for core in cores]):
            env.run(until=output.done)
        wall_ns = env.clock.now_ns() - env.zero_ns
        ended = len(shared.spans)
        env.drain()
        return LiveRun(
            output=output,
            drafter=drafter,
            target=target,
            spans=shared.spans[:ended],
            wall_ns=wall_ns,
        )


def check_prompt(pair: Pair, prompt: Sequence[int], tokens: int) -> None:
    """See that the models can read *prompt* and *tokens* more.

    Raises:
        UserError: they cannot.
    """
    if not prompt:
        raise UserError(Problem("prompt", "", "is empty: these models need a token to begin with"))
    if len(prompt) + tokens > pair.context_tokens:
        raise UserError(
            Problem(
                "prompt",
                "",
                f"has {len(prompt):,} tokens, and with {tokens:,} to come that is more than the "
                f"{pair.context_tokens:,} that the models can read; shorten it, or ask for fewer",
            )
        )


def warm_up_widths(context_tokens: int) -> tuple[int, ...]:
    """Widths of the forwards before time zero, as far as they fit the context."""
    widths: list[int] = []
    for width in WARM_UP_WIDTHS:
        if 1 + sum(widths) + width <= context_tokens:
            widths.append(width)
    return tuple(widths)


def static_tokens(text_tokens: int, context_tokens: int) -> int:
    """How long a static cache is for texts of *text_tokens*, so that padding fits, too; 0 for 0."""
    if not text_tokens:
        return 0
    room = text_tokens + worker.STATIC_WIDTHS[-1]
    return min(-(-room // 64) * 64, context_tokens)  # few lengths: kernels are kept by length


def check_compiler(devices: Sequence[str]) -> None:
    """See that there is what ``torch.compile`` needs.

    Raises:
        UserError: there is not.
    """
    # What torch itself looks for.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if "cpu" in devices and not shutil.which(compiler):
        raise UserError(
            Problem(
                "--compile",
                "",
                f"no C++ compiler is here ({compiler}), which models on the CPU need; install "
                "one, like: apt-get install g++; name another by CXX; or leave --compile away",
            )
        )


def place(
    devices: Sequence[str], threads: int, *, share: bool, idle: Sequence[int] = ()
) -> tuple[list[tuple[int, ...]], str]:
    """Give each worker on the CPU its cores, and see that GPUs are not shared unasked.

    Args:
        devices: of the workers in order.
        threads: cores that a worker on the CPU needs.
        share: whether workers may share cores and GPUs.
        idle: workers that need next to nothing.

    Returns:
        The cores of each worker (nothing: any), and who shares what, in words.

    Raises:
        UserError: there are not enough, or one has an unknown name.
    """
    problems, contention = [], []
    unknown = sorted({d for d in devices if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", d)})
    if unknown:
        raise UserError(
            Problem("--devices", "", f"expected cpu, mps or cuda:NUMBER, got {unknown[0]!r}")
        )
    named = ["cuda:0" if d == "cuda" else d for d in devices]
    gpus = [d for i, d in enumerate(named) if d != "cpu" and i not in idle]
    for device in sorted({d for d in gpus if gpus.count(d) > 1}):
        what = f"{gpus.count(device)} workers share {device}"
        contention.append(what)
        if not share:
            problems.append(Problem("--devices", "", f"{what}, so they would slow each other"))
    on_cpu = [i for i, d in enumerate(devices) if d == "cpu" and i not in idle]
    cores: list[tuple[int, ...]] = [()] * len(devices)
    available = available_cores()
    needed = threads * len(on_cpu)
    if on_cpu and needed > len(available):
        what = f"{len(on_cpu)} workers of {threads} threads share {len(available)} cores"
        contention.append(what)
        if not share:
            problems.append(Problem("--targets", "", f"{what}, so they would slow each other"))
    elif on_cpu:
        for n, i in enumerate(on_cpu):
            cores[i] = tuple(available[n * threads : (n + 1) * threads])
    if problems:
        raise UserError(*(p._replace(what=p.what + "; allow it with --share") for p in problems))
    return cores, "; ".join(contention)


@contextlib.contextmanager
def beside(busy: Iterable[int]) -> Iterator[None]:
    """Meanwhile run this thread on cores that are not *busy*, if there are any."""
    before = available_cores()
    free = set(before) - set(busy)
    if not free or not hasattr(os, "sched_setaffinity"):
        yield
        return
    os.sched_setaffinity(0, free)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def device_names(text: str) -> list[str]:
    """The devices in *text*, which has commas between them; nothing: the CPU."""
    return [name.strip() for name in text.split(",") if name.strip()] or ["cpu"]


def _first_replies(lines: Sequence[Line], timeout_ns: int) -> list[Reply]:
    """The replies number 0, which workers send unasked when they are warm."""
    for line in lines:
        line.serial = 0
    try:
        return exchange(lines, None, timeout_ns=timeout_ns)
    except EngineError as error:
        raise EngineError(f"{error} (while loading)") from error


def _obituary(process: BaseProcess) -> Callable[[], str]:
    def obituary() -> str:
        process.join(5)
        code = process.exitcode
        if code is None:
            return "it closed its pipe"
        if code >= 0:
            return f"it left with exit code {code}"
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        hint = " (the system does that when memory runs out)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"

    return obituary
