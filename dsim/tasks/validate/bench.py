"""What is measured: real waits, or real models."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dsim.backends.wallclock import Waiters, run_wallclock
from dsim.engines.simulate import run_events
from dsim.errors import Problem, UserError
from dsim.model.acceptance import DEEPER, OTHER_STREAM, Acceptance, Uniforms
from dsim.model.case import Case, Decoding
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy, confidences, quality_of
from dsim.orchestrations import ORCHESTRATIONS, REFERENCES
from dsim.study.build import drafts_of
from dsim.system import available_cores
from dsim.units import to_ns

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from dsim.backends.torch.backend import LiveRun, Span
    from dsim.backends.torch.verify import Rule
    from dsim.backends.torch.workers import Workers
    from dsim.events.run import Run
    from dsim.tasks.validate.settings import Configuration


class Forwarded(NamedTuple):
    """How long one forward took, as the algorithm saw it: with the way there and back."""

    role: str
    width: int
    took_ns: int


class Measured(NamedTuple):
    """One measured text.

    Attributes:
        wall_ns: from time zero to the last token.
        forwards: every forward that ended, one at least.
        tokens: the text, where there is one.
        orchestration_ns: time in which no worker was at a forward; for waits, what it took beyond
            the simulation with the latencies that were asked for.
        run: what happened, for a timeline.
    """

    wall_ns: int
    forwards: list[Forwarded]
    tokens: list[int] | None
    orchestration_ns: int
    run: Run | LiveRun


class Bench(Protocol):
    """What is measured. Texts have numbers; those for the calibration come first."""

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """Generate text number *text* and take the time."""

    def trace(self, text: int) -> str:
        """For each position of the text, which choice of the drafter is right, given all before it.

        Digits as of ``acceptance.trace``: ``1`` the first; ``0`` none. Of a head, whose drafts fare
        worse the further ahead they are, there are more rows, by depth.
        """

    def quality(self) -> float:
        """What the drafter's confidence tells; see :class:`dsim.model.lookahead.Policy`."""

    def confidences(self, text: int) -> tuple[float, ...]:
        """How sure the drafter is of its draft for each position of the text, all before it right.

        For a lookahead that goes by them; none where the drafter does not say.
        """

    def cores(self, configuration: Configuration) -> int | None:
        """How many CPU cores *configuration* has; ``None``: it computes on none."""

    def close(self) -> None:
        """End the workers."""


class WallclockBench:
    """Waits of given latencies, verdicts from draws."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.tokens = settings["tokens"]
        self.seed = settings["seed"]
        self.acceptance = Acceptance(
            rate=settings["wallclock.acceptance_rate"],
            rank_shares=tuple(settings["wallclock.rank_shares"] or ()),
        )
        self.drafts = drafts_of(settings)
        self.latencies = {
            role: Latency(latency_ns=to_ns(settings[f"wallclock.{role}_latency_ms"]))
            for role in ("target", "drafter")
        }
        self.waiters: Waiters = Waiters(max(settings["targets"]))

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """See :class:`Bench`."""
        case = Case(
            tokens=self.tokens,
            lookahead=configuration.lookahead,
            policy=Policy(name=configuration.policy, recorded=self.confidences(text)),
            targets=configuration.targets,
            target=self.latencies["target"],
            drafter=self.latencies["drafter"],
            acceptance=dataclasses.replace(
                self.acceptance, model="trace", traces=(self.trace(text),)
            ),
            repeats=1,
            seed=self.seed,
            preemptible=False,
            **self.drafts,
        )
        run = run_wallclock(case, configuration.algorithm, 0, self.waiters, keep_history=True)
        forwards = [
            Forwarded(servers.role, 1, forward.end_ns - forward.start_ns)
            for servers in (run.drafter, run.target)
            for forward in servers.history or ()
            if forward.end_ns >= 0
        ]
        wall_ns = run.output.settled_ns[-1]
        ideal_ns = run_events(case, configuration.algorithm, 0).output.settled_ns[-1]
        return Measured(wall_ns, forwards, None, wall_ns - ideal_ns, run)

    def trace(self, text: int) -> str:
        """See :class:`Bench`."""
        return "".join(map(str, self._ranks(text)))

    def quality(self) -> float:
        """See :class:`Bench`."""
        return Policy.quality

    def confidences(self, text: int) -> tuple[float, ...]:
        """See :class:`Bench`. They are draws, as those of the acceptance are."""
        draws = self._ranks(text) == 1
        u = Uniforms(self.seed, text, OTHER_STREAM).next(self.tokens)
        return tuple(confidences(draws, self.acceptance.rate, Policy.quality, u).tolist())

    def _ranks(self, text: int) -> NDArray[np.int8]:
        ranks: NDArray[np.int8] = self.acceptance.ranks(self.seed, 1, self.tokens, text)[0, 0]
        return ranks

    def cores(self, _: Configuration) -> None:
        """See :class:`Bench`."""

    def close(self) -> None:
        """See :class:`Bench`."""
        self.waiters.close()


class TorchBench:
    """Real models on real prompts. Every server has read the prompt before time zero.

    Args:
        workers: the workers.
        prompts: token ids, one list a text.
        rule: how drafts are judged; ``match``.
        tokens: ``N``; texts do not end before.
        decoding: the tree of drafts, blocks and patience.
    """

    def __init__(
        self,
        workers: Workers,
        prompts: Sequence[list[int]],
        rule: Rule,
        tokens: int,
        decoding: Decoding = Decoding(),  # noqa: B008 (it never changes)
    ) -> None:
        self.workers = workers
        self.prompts = prompts
        self.rule = rule
        self.tokens = tokens
        self.decoding = decoding
        self.traces: dict[int, str] = {}
        self.probabilities: dict[int, tuple[float, ...]] = {}
        self.warm: tuple[str, bool] | None = None

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """See :class:`Bench`."""
        now = (configuration.algorithm, configuration.all_cores)
        if self.warm != now:
            # Cores and their caches hold what another algorithm left there.
            self._run(text, configuration)
            self.warm = now
        run = self._run(text, configuration)
        return Measured(
            run.output.settled_ns[-1],
            [_forwarded(span) for span in run.spans],
            list(run.output.tokens),
            run.orchestration_ns,
            run,
        )

    def _run(self, text: int, configuration: Configuration) -> LiveRun:
        return self.workers.run(
            configuration.algorithm,
            self.prompts[text],
            self.tokens,
            self.rule,
            lookahead=configuration.lookahead,
            policy=Policy(name=configuration.policy),
            decoding=self.decoding,
            targets=configuration.targets,
            all_cores=configuration.all_cores,
            cached=True,
            keep_history=True,
        )

    def trace(self, text: int) -> str:
        """See :class:`Bench`. Not timed: it says what is accepted, not how long anything takes."""
        if text not in self.traces:
            prompt = self.prompts[text]
            tokens = self.workers.run(REFERENCES[0], prompt, self.tokens, self.rule).output.tokens
            known = len(self.workers.probabilities)
            ranks = self.workers.ranks(prompt, tokens, self.rule)
            self.probabilities[text] = tuple(self.workers.probabilities[known:])
            self.traces[text] = DEEPER.join("".join(map(str, row)) for row in ranks)
        self.warm = None
        return self.traces[text]

    def quality(self) -> float:
        """See :class:`Bench`. It is that of the texts whose traces were asked for."""
        sure, accepted = np.array(self.workers.sure or [(0.0, False)]).T
        return quality_of(sure, accepted > 0)

    def confidences(self, text: int) -> tuple[float, ...]:
        """See :class:`Bench`. The trace of the text must have been asked for."""
        found = self.probabilities[text]
        return found if len(found) == self.tokens else ()  # a head drafts each position many times

    def cores(self, configuration: Configuration) -> int | None:
        """See :class:`Bench`."""
        workers = self.workers
        if set(workers.everywhere) != {"cpu"}:
            return None
        if configuration.all_cores:
            return workers.all_cores()[1]
        overlaps = (
            ORCHESTRATIONS[configuration.algorithm].traits.overlaps
            and workers.pair.drafter.has_worker
        )
        return min(workers.threads * (configuration.targets + overlaps), len(available_cores()))

    def close(self) -> None:
        """See :class:`Bench`."""
        self.workers.close()


def _forwarded(span: Span) -> Forwarded:
    return Forwarded(span.role, span.asked, span.end_ns - span.begin_ns)


def bench_of(settings: Mapping[str, Any]) -> Bench:
    """What *settings* ask to measure, warm.

    Raises:
        UserError: models or prompts are missing.
        EngineError: a worker could not start.
    """
    if settings["backend"] == "wallclock":
        return WallclockBench(settings)
    from dsim.backends.torch import prompts
    from dsim.backends.torch.fitting import check_drafts
    from dsim.backends.torch.models import specs
    from dsim.backends.torch.pair import load_pair
    from dsim.backends.torch.placement import device_names
    from dsim.backends.torch.sampling import Sampling
    from dsim.backends.torch.verify import Match
    from dsim.backends.torch.workers import Workers, check_prompt

    devices = device_names(settings["torch.devices"])
    if settings["torch.equal_budget"] and set(devices) != {"cpu"}:
        raise UserError(
            Problem("torch.equal_budget", "", 'needs torch.devices = "cpu": GPUs do not add up')
        )
    if settings["torch.equal_budget"] and settings["torch.compile"]:
        raise UserError(
            Problem(
                "torch.equal_budget",
                "",
                "needs torch.compile = false: models are compiled for torch.threads, so with all "
                "cores non-SI and SI would run uncompiled, beside a compiled DSI",
            )
        )
    known = prompts.load(settings["torch.prompt_set"], "torch.prompt_set")
    needed = settings["prompts"] + settings["calibration_prompts"]
    if len(known) < needed:
        raise UserError(
            Problem(
                "torch.prompt_set",
                "",
                f"has {len(known)} prompts, but prompts + calibration_prompts = {needed}, and none "
                "may serve for both",
            )
        )
    pair = load_pair(
        *specs(
            settings["torch.target"] or None,
            settings["torch.drafter"] or None,
            dtype=settings["torch.dtype"],
            revision=settings["torch.revision"] or None,
            trust_remote_code=settings["torch.trust_remote_code"],
        )
    )
    # Spread over the file, so that calibration and measurement see the same kinds of prompts.
    order = sorted(range(needed), key=lambda i: (i * settings["calibration_prompts"]) % needed)
    ids = [list(pair.tokenizer(known[i].text).input_ids) for i in order]
    for one in ids:
        check_prompt(pair, one, settings["tokens"])
    rule = Match(Sampling(temperature=settings["torch.temperature"], seed=settings["seed"]))
    decoding = Decoding(**drafts_of(settings))
    for name in settings["algorithms"]:
        check_drafts(name, decoding, pair.drafter, rule, compiled=settings["torch.compile"])
    workers = Workers(
        pair,
        max(settings["targets"]),
        devices=devices,
        threads=settings["torch.threads"],
        share=settings["torch.share"],
        compiled_tokens=(
            max(map(len, ids)) + settings["tokens"] if settings["torch.compile"] else 0
        ),
    )
    return TorchBench(workers, ids, rule, settings["tokens"], decoding)
