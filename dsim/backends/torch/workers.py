"""The worker processes of a pair of models, one process per server."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from dsim.backends.lines import Line, Pipe, Reply, exchange
from dsim.backends.live import LiveEnvironment
from dsim.backends.torch import forks, worker
from dsim.backends.torch.backend import HOLD_NS, LiveOutput, LiveRun, Shared, Torch
from dsim.backends.torch.fitting import check_drafts, widest
from dsim.backends.torch.forks import Forking
from dsim.backends.torch.placement import (
    beside,
    check_compiler,
    place,
    static_tokens,
    warm_up_widths,
)
from dsim.backends.torch.protocol import Begin, Done, FeedNodes, Ready, WorkerSetup
from dsim.backends.torch.sampling import Candidates
from dsim.backends.torch.verify import with_confidence
from dsim.errors import EngineError, Problem, UserError
from dsim.model.case import Decoding
from dsim.model.lookahead import FIXED, Policy
from dsim.orchestrations import COMPARED, ORCHESTRATIONS
from dsim.orchestrations.blame import blaming
from dsim.orchestrations.start import start
from dsim.system import Following, available_cores, can_end_at_once, hold_interrupts
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from multiprocessing.process import BaseProcess
    from types import TracebackType

    from dsim.backends.torch.pair import Pair
    from dsim.backends.torch.protocol import Ready
    from dsim.backends.torch.verify import Answer, Rule


ENDS_S = 5  # that a worker has for its end
MAX_RANK = 9  # a trace has a digit for it
DEPTHS = 6  # of the drafts of a head: how they fare is measured so far ahead


class Workers:
    """The worker processes of one pair: one for the drafter and one for each target server.

    In SI nothing overlaps, so it needs one server for both models, as any serving system has it:
    the first target's worker, which then has the drafter as well, if both are for one device.

    They are started together, load their models, warm up, and answer until :meth:`close`.

    Args:
        pair: the models.
        targets: how many target servers.
        devices: where to run them: the drafter's device, then those of the targets; too few are
            filled up with the last one. A head runs where its target does.
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
        compiled: whether the models are compiled.
        sure: of every first candidate that :meth:`ranks` has met, how sure the drafter was of it,
            and whether it was right.
        probabilities: its probability by the drafter, at temperature 1.

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
        algorithms: Collection[str] = COMPARED,
        compiled_tokens: int = 0,
    ) -> None:
        self.pair = pair
        self.threads = threads
        self.compiled = bool(compiled_tokens)
        self.watchdog_ns = watchdog_ns
        if len(devices) > targets + 1:
            what = f"names {len(devices)} devices, for a drafter and {targets} target servers"
            raise UserError(Problem("--devices", "", what))
        everywhere = [*devices, *[devices[-1]] * (targets + 1 - len(devices))]
        self.cores, self.contention = place(
            everywhere, threads, share=share, idle=() if pair.drafter.has_worker else (0,)
        )
        if compiled_tokens:
            check_compiler(everywhere)
            load_timeout_ns *= 4
        self.everywhere = everywhere
        self.together = pair.drafter.is_head or (
            any(map(_takes_turns, algorithms)) and everywhere[0] == everywhere[1]
        )
        names = ["drafter", *(f"target {i + 1}" for i in range(targets))]
        context = self._context(names[0], load_timeout_ns)
        self.sure: list[tuple[float, bool]] = []
        self.probabilities: list[float] = []
        self.processes: list[BaseProcess] = []
        self.lines: list[Line] = []
        try:
            for rank, name in enumerate(names):
                specs = {"target": pair.target} if rank else {"drafter": pair.drafter}
                if rank == 0 and pair.drafter.is_head:
                    specs = {}
                if rank == 1 and self.together:
                    specs["drafter"] = pair.drafter
                ours, theirs = map(Pipe, context.Pipe())
                setup = WorkerSetup(
                    specs=specs,
                    device=everywhere[rank],
                    cores=self.cores[rank],
                    threads=threads,
                    vocab=pair.vocab,
                    warm_up_widths=warm_up_widths(pair.context_tokens),
                    static_tokens=static_tokens(compiled_tokens, pair.context_tokens),
                )
                process = context.Process(
                    target=worker.main,
                    args=(theirs, setup, can_end_at_once()),
                    name=f"dsim {name}",
                    daemon=True,
                )
                with hold_interrupts():
                    forks.start(process, name, load_timeout_ns)
                    theirs.close()  # so that the pipe breaks when the worker dies
                    line = Line(name, rank, ours, process.sentinel, _exit_reason(process))
                    self.processes.append(process)
                    self.lines.append(line)
            self.ready: list[Ready] = [
                reply.value for reply in _first_replies(self.lines, load_timeout_ns)
            ]
        except BaseException:
            self.close(force=True)
            raise
        self.drafter, *self.targets = self.lines

    def _context(self, name: str, load_timeout_ns: int) -> Following | Forking:
        """How to start workers; *name* is the first one, which waits no longer than that."""
        models = any(spec.has_model for spec in (self.pair.target, self.pair.drafter))
        alike = models and set(self.everywhere) == {"cpu"} and not self.compiled
        if alike and forks.ready(name, load_timeout_ns):
            return Forking()
        return Following()

    def close(self, *, force: bool = False) -> None:
        """End the workers: kindly, or at once if *force* is set or they do not listen."""
        for line in self.lines:
            if not force and line.forward is None:
                try:
                    line.pipe.send(None)
                except (OSError, ValueError):
                    continue
        for process, line in zip(self.processes, self.lines, strict=False):
            process.join(0 if force or line.forward is not None else ENDS_S)
            if process.is_alive():
                process.kill()
                process.join(ENDS_S)
            if process.is_alive():  # only the fork server sees its copies end, and it is stopped
                forks.kill()
                process.join()
            line.pipe.close()
            process.close()
        self.processes, self.lines = [], []

    def __enter__(self) -> Workers:
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
            hold_ns: see :class:`dsim.backends.torch.protocol.Begin`.
            stop_ids: tokens that end the text.

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
                Begin(
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
        workers = len(self.lines) - (not self.pair.drafter.has_worker)
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
        if self.pair.drafter.is_head:  # one after the other, in one worker
            replies = [
                exchange(pair[1:], [one], timeout_ns=self.watchdog_ns)[0] for one in requests
            ]
        else:
            replies = exchange(pair, requests, timeout_ns=self.watchdog_ns)
        drafts, own = (Done.unpack(reply.value).answers for reply in replies)
        return drafts, own

    def ranks(self, prompt: list[int], text: list[int], rule: Rule) -> list[list[int]]:
        """Which of the drafter's candidates each token of *text* is, given all before it.

        Returns:
            One row, of a head one for each depth of drafts: how far behind what the target has read
            they are. It has a number for each token: 1 for the first candidate, and so on to
            ``MAX_RANK``; 0: none of these.

        Raises:
            UserError, EngineError: as :meth:`begin`.
        """
        self.begin(prompt, with_confidence(rule), read=False, tokens=len(text))
        if not self.pair.drafter.is_head:
            return [self._chain_ranks(self.drafter, text, 0, len(text))]
        line, rows = self.targets[0], [[0] * len(text) for _ in range(DEPTHS)]
        exchange([line], [(text[:-1], 0, "target")], timeout_ns=self.watchdog_ns)
        for settled in range(len(text)):
            for depth, rank in enumerate(self._chain_ranks(line, text, settled, DEPTHS)):
                for row in rows[depth:] if settled == 0 else rows[depth : depth + 1]:
                    row[settled + depth] = rank  # at the beginning nothing is deeper
        return rows

    def _chain_ranks(self, line: Line, text: list[int], settled: int, count: int) -> list[int]:
        """Ranks of the next *count* tokens of *text*, or fewer, where so many are *settled*."""
        drafts = text[settled : settled + count]
        chain = [(number - 1, token) for number, token in enumerate(drafts[:-1])]
        ask = list(range(-1, len(chain)))
        request = FeedNodes(text[:settled], chain, ask, "drafter", candidates=MAX_RANK)
        (reply,) = exchange([line], [request], timeout_ns=self.watchdog_ns)
        found = [Candidates(*answer.more) for answer in Done.unpack(reply.value).answers]
        ranks = [
            one.tokens.index(token) + 1 if token in one.tokens else 0
            for one, token in zip(found, drafts, strict=True)
        ]
        chances = zip(found, ranks, strict=True)
        self.sure += [(one.chances[0], rank == 1) for one, rank in chances if one.tokens]
        self.probabilities += [one.more[1] for one in found if one.tokens]
        return ranks

    def run(
        self,
        algorithm: str,
        prompt: list[int],
        tokens: int,
        rule: Rule,
        *,
        lookahead: int = 5,
        policy: Policy = FIXED,
        decoding: Decoding = Decoding(),  # noqa: B008 (it never changes)
        targets: int | None = None,
        cached: bool = False,
        stop_ids: frozenset[int] = frozenset(),
        on_settled: Callable[[list[int]], None] | None = None,
        keep_history: bool = False,
        all_cores: bool = False,
    ) -> LiveRun:
        """Generate *tokens* tokens after *prompt*, or fewer if one of *stop_ids* comes.

        Args:
            algorithm: the name of an orchestration that can run live.
            prompt: token ids, at least one.
            tokens: ``N``.
            rule: how drafts are judged.
            lookahead: ``k``, at first.
            policy: whether and how it adapts.
            decoding: the tree of drafts, ``block_tokens`` and ``patience``.
            targets: ``S``; ``None``: all there are.
            cached: whether every server reads the prompt before time zero.
            stop_ids: tokens that end the text.
            on_settled: called with the tokens that have just settled.
            keep_history: whether the servers keep their forwards, for a timeline.
            all_cores: give non-SI, or SI, the cores and threads of all workers.

        Raises:
            UserError: the prompt is too long, or the drafter cannot make such drafts.
            EngineError: a worker died, failed or hangs.
        """
        traits = ORCHESTRATIONS[algorithm].traits
        check_drafts(algorithm, decoding, self.pair.drafter, rule, compiled=self.compiled)
        alone = not traits.overlaps
        all_cores = all_cores and alone
        together = _takes_turns(algorithm) and self.together
        if policy.name == "confidence":
            rule = with_confidence(rule)
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
        if not all_cores and (not traits.drafts or together):
            busy = self.cores[1:2]  # of the one worker that does anything
        shared = Shared()
        env = LiveEnvironment(self.lines, watchdog_ns=self.watchdog_ns)
        output = LiveOutput(env, tokens, stop_ids, on_settled)
        with blaming(algorithm):
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
                        candidates=widest(decoding.tree) * ORCHESTRATIONS[algorithm].trees,
                        block_tokens=decoding.block_tokens,
                    )
                ],
                target_backend=Torch(
                    env,
                    self.targets,
                    rule,
                    shared,
                    together=together,
                    block_tokens=decoding.block_tokens,
                ),
                plan=policy.plan(lookahead, shared.confidence),
                targets=len(self.targets) if targets is None else targets,
                prefill=not cached,
                keep_history=keep_history,
                decoding=decoding,
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
            misses=shared.misses,
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


def _first_replies(lines: Sequence[Line], timeout_ns: int) -> list[Reply]:
    """The replies number 0, which workers send unasked when they are warm."""
    for line in lines:
        line.serial = 0
    try:
        return exchange(lines, None, timeout_ns=timeout_ns)
    except EngineError as error:
        raise EngineError(f"{error} (while loading)") from error


def _exit_reason(process: BaseProcess) -> Callable[[], str]:
    def exit_reason() -> str:
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

    return exit_reason


def _takes_turns(algorithm: str) -> bool:
    """Whether drafter and target never compute at once, so that one process can hold both."""
    traits = ORCHESTRATIONS[algorithm].traits
    return traits.drafts and not traits.overlaps
