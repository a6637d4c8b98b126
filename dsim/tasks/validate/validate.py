"""``dsim validate``: predict wall times by simulation, then measure them, then compare.

1. Record which drafts are accepted.
2. Run every algorithm × lookahead × servers by turns on a calibration prompt, and keep how long
   each forward took, and on another prompt, and keep the wall time; again and again, since machines
   change their pace within seconds.
3. Predict the wall times from the calibration runs: from the acceptance trace of each prompt, and
   from the acceptance rate alone.
4. Compare.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import tomllib
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dsim.engines.simulate import Run, run_events
from dsim.errors import Problem, UserError
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.model.statistics import half_width
from dsim.report.tables import text_table
from dsim.study.results import NAMES
from dsim.study.setting import Setting
from dsim.study.settings import ALGORITHMS
from dsim.system import available_cores
from dsim.units import to_ns
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from dsim.backends.torch.backend import Fleet, LiveRun, Span
    from dsim.backends.torch.verify import Rule
    from dsim.backends.wallclock import Waiters

BACKENDS = ("wallclock", "torch")
FEWEST_SEEN = 4  # forwards of one width, for a row of its own in a latency table
RATE_DRAWS = 12  # simulated texts for each measured one, for a prediction from the rate
TRACE_DRAWS = 8  # simulations of each measurement, which differ by how long forwards take
FITS = 15  # until costs and paces fit each other
RESAMPLES = 200
ROLES = ("target", "drafter")
STALL_TIMES, STALL_NS = 5, 100_000_000
MOST_RETRIES = 3
FLAT = 1.05  # a pass of k + 1 tokens at most this much dearer than one of 1: "costs the same"


def _setting(key: str, type_: str, default: Any, meaning: str, **more: Any) -> Setting:
    return Setting(key=key, type=type_, default=default, meaning=meaning, sweep=False, **more)


# Those that end in [] are lists, and each element is checked.
SETTINGS = (
    _setting("backend", "str", "wallclock", "what to measure", choices=BACKENDS),
    _setting("algorithms", "list of str", list(ALGORITHMS), "which ones", choices=ALGORITHMS),
    _setting("lookahead[]", "int", [1, 3, 5], "k, drafts per block", low=1),
    _setting("targets[]", "int", [1], "S, target servers of DSI", low=1, high=64),
    _setting("tokens", "int", 50, "N, tokens of each text", low=2),
    _setting("prompts", "int", 8, "texts that are predicted and measured", low=2),
    _setting("calibration_prompts", "int", 8, "other texts, for the calibration", low=1),
    _setting("repeats", "int", 5, "measurements of each text; the faster half counts", low=1),
    _setting("seed", "int", 0, "of draws and sampling", low=0, high=2**63 - 1),
    _setting("tolerance", "float", 0.02, "median error per text, from the trace", low=0),
    _setting("tolerance_worst", "float", 0.05, "error of the worst configuration", low=0),
    _setting("tolerance_rate", "float", 0.05, "error from the rate, overall", low=0),
    _setting("wallclock.target_latency_ms", "float", 20.0, "of a pass", low=0, above=True),
    _setting("wallclock.drafter_latency_ms", "float", 4.0, "of a draft", low=0, above=True),
    _setting("wallclock.acceptance_rate", "float", 0.8, "of the draws", low=0, high=1),
    _setting("torch.target", "str", "", "the target; empty: the pair that ships"),
    _setting("torch.drafter", "str", "", "the drafter; empty: the pair that ships"),
    _setting("torch.prompt_set", "str", "stories", "a set that ships, all, or a JSONL file"),
    _setting(
        "torch.dtype", "str", "float32", "weights", choices=("float32", "bfloat16", "float16")
    ),
    _setting("torch.revision", "str", "", "of a target on the hub"),
    _setting("torch.trust_remote_code", "bool", False, "run code that comes with a model"),
    _setting("torch.devices", "str", "cpu", "of the drafter, then of the targets"),
    _setting("torch.threads", "int", 1, "CPU threads of a forward", low=1),
    _setting("torch.share", "bool", False, "workers may share cores and GPUs"),
    _setting("torch.compile", "bool", False, "compile the models; see --compile"),
    _setting("torch.temperature", "float", 0.0, "0: greedy", low=0),
    _setting("torch.equal_budget", "bool", False, "non-SI and SI with the cores of all, as well"),
)
BY_KEY = {s.key.removesuffix("[]"): s for s in SETTINGS}


def load(path: Path | None, overrides: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a validation, by dotted key: defaults, then the file, then *overrides*.

    Raises:
        UserError: with every problem of the file at once.
    """
    given: dict[str, Any] = {}
    problems: list[Problem] = []
    source = str(path or "validate")
    if path is not None:
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "is no text"
            raise UserError(Problem(source, "", f"cannot be read: {why}")) from None
        except tomllib.TOMLDecodeError as error:
            raise UserError(Problem(source, "", f"is no TOML: {error}")) from None
        for key, value in document.items():
            inner = value.items() if isinstance(value, dict) else [("", value)]
            given |= {f"{key}.{name}".rstrip("."): v for name, v in inner}
    given |= {k: v for k, v in (overrides or {}).items() if v is not None}
    for key, value in given.items():
        setting = BY_KEY.get(key)
        if setting is None:
            problems.append(Problem(source, key, f"unknown setting{nearest(key, list(BY_KEY))}"))
            continue
        wrong = None
        if not setting.key.endswith("[]"):
            wrong = setting.problem(value)
        elif not isinstance(value, list) or not value:
            wrong = f"expected a list of numbers, got {show(value)}"
        else:
            wrong = next(filter(None, map(setting.problem, value)), None)
            if wrong is None and len(set(value)) < len(value):
                wrong = "a value stands there twice"
        if wrong:
            problems.append(Problem(source, key, wrong))
    if problems:
        raise UserError(*problems)
    return {key: setting.default for key, setting in BY_KEY.items()} | given


class Configuration(NamedTuple):
    """What is predicted and measured: one algorithm with its numbers (1 where it has none).

    Attributes:
        algorithm: ``nonsi``, ``si`` or ``dsi``.
        lookahead: ``k``.
        targets: ``S``.
        all_cores: whether non-SI or SI, in which nothing overlaps, has the cores of all servers.
    """

    algorithm: str
    lookahead: int
    targets: int
    all_cores: bool = False

    def __str__(self) -> str:
        name = NAMES[self.algorithm]
        if self.algorithm != "nonsi":
            name += f", lookahead {self.lookahead}"
        servers = f", {self.targets} targets" if self.targets > 1 else ""
        return f"{name}{servers}{', all cores' * self.all_cores}"


def configurations(settings: Mapping[str, Any]) -> list[Configuration]:
    """Every configuration that *settings* ask for."""
    wanted: list[Configuration] = []
    for algorithm in ALGORITHMS:
        if algorithm not in settings["algorithms"]:
            continue
        lookaheads = [1] if algorithm == "nonsi" else settings["lookahead"]
        targets = settings["targets"] if algorithm == "dsi" else [1]
        wanted += [Configuration(algorithm, *kt) for kt in itertools.product(lookaheads, targets)]
    if settings["backend"] == "torch" and settings["torch.equal_budget"]:
        wanted += [c._replace(all_cores=True) for c in wanted if c.algorithm != "dsi"]
    return wanted


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
        """For each position of the text, ``1`` if the draft is right given all before it."""

    def cores(self, configuration: Configuration) -> int | None:
        """How many CPU cores *configuration* has; ``None``: it computes on none."""

    def close(self) -> None:
        """End the workers."""


class WallclockBench:
    """Waits of given latencies, verdicts from draws."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from dsim.backends.wallclock import Waiters

        self.tokens = settings["tokens"]
        self.seed = settings["seed"]
        self.acceptance = Acceptance(rate=settings["wallclock.acceptance_rate"])
        self.latencies = {
            role: Latency(latency_ns=to_ns(settings[f"wallclock.{role}_latency_ms"]))
            for role in ("target", "drafter")
        }
        self.waiters: Waiters = Waiters(max(settings["targets"]))

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """See :class:`Bench`."""
        from dsim.backends.wallclock import run_wallclock

        case = Case(
            tokens=self.tokens,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            target=self.latencies["target"],
            drafter=self.latencies["drafter"],
            acceptance=Acceptance(model="trace", traces=(self.trace(text),)),
            repeats=1,
            seed=self.seed,
            preemptible=False,
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
        draws = self.acceptance.draws(self.seed, text + 1, self.tokens)[text]
        return "".join("01"[int(draw)] for draw in draws)

    def cores(self, _: Configuration) -> None:
        """See :class:`Bench`."""

    def close(self) -> None:
        """See :class:`Bench`."""
        self.waiters.close()


class TorchBench:
    """Real models on real prompts. Every server has read the prompt before time zero.

    Args:
        fleet: the workers.
        prompts: token ids, one list a text.
        rule: how drafts are judged; ``match``.
        tokens: ``N``; texts do not end before.
    """

    def __init__(self, fleet: Fleet, prompts: Sequence[list[int]], rule: Rule, tokens: int) -> None:
        self.fleet = fleet
        self.prompts = prompts
        self.rule = rule
        self.tokens = tokens
        self.traces: dict[int, str] = {}
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
        return self.fleet.run(
            configuration.algorithm,
            self.prompts[text],
            self.tokens,
            self.rule,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            all_cores=configuration.all_cores,
            cached=True,
            keep_history=True,
        )

    def trace(self, text: int) -> str:
        """See :class:`Bench`. Not timed: it says what is accepted, not how long anything takes."""
        if text not in self.traces:
            prompt = self.prompts[text]
            tokens = self.fleet.run("nonsi", prompt, self.tokens, self.rule).output.tokens
            drafts, _ = self.fleet.answers(prompt, tokens, self.rule)
            self.traces[text] = "".join(
                "01"[draft.token == token] for draft, token in zip(drafts, tokens, strict=True)
            )
        self.warm = None
        return self.traces[text]

    def cores(self, configuration: Configuration) -> int | None:
        """See :class:`Bench`."""
        fleet = self.fleet
        if set(fleet.everywhere) != {"cpu"}:
            return None
        if configuration.all_cores:
            return fleet.all_cores()[1]
        overlaps = configuration.algorithm == "dsi" and not fleet.pair.drafter.is_ngram
        return min(fleet.threads * (configuration.targets + overlaps), len(available_cores()))

    def close(self) -> None:
        """See :class:`Bench`."""
        self.fleet.close()


def _forwarded(span: Span) -> Forwarded:
    return Forwarded(span.role, span.width, span.end_ns - span.begin_ns)


def bench_of(settings: Mapping[str, Any]) -> Bench:
    """What *settings* ask to measure, warm.

    Raises:
        UserError: models or prompts are missing.
        EngineError: a worker could not start.
    """
    if settings["backend"] == "wallclock":
        return WallclockBench(settings)
    from dsim.backends.torch import prompts
    from dsim.backends.torch.backend import Fleet, check_prompt, device_names
    from dsim.backends.torch.models import load_pair, specs
    from dsim.backends.torch.verify import Match, Sampling

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
    fleet = Fleet(
        pair,
        max(settings["targets"]),
        devices=devices,
        threads=settings["torch.threads"],
        share=settings["torch.share"],
        compiled_tokens=(
            max(map(len, ids)) + settings["tokens"] if settings["torch.compile"] else 0
        ),
    )
    sampling = Sampling(temperature=settings["torch.temperature"], seed=settings["seed"])
    return TorchBench(fleet, ids, Match(sampling), settings["tokens"])


def by_width(forwards: Iterable[Forwarded]) -> dict[int, list[int]]:
    """How long *forwards* took (ns), by width, in order of width."""
    took: dict[int, list[int]] = defaultdict(list)
    for forward in forwards:
        took[forward.width].append(forward.took_ns)
    return dict(sorted(took.items()))


def is_stall(took_ns: float, usual_ns: float) -> bool:
    """Whether the machine stood still (a paused virtual machine, say), not the forward slow."""
    return took_ns > STALL_TIMES * usual_ns + STALL_NS


def fast_half(values: Sequence[float]) -> float:
    """The mean of the faster half of *values*.

    Neighbours, interrupts and other programs only ever slow a run, so the fast ones are those that
    come again.
    """
    return float(np.mean(sorted(values)[: (len(values) + 1) // 2]))


# What may count of the repeats of a text: the first does, the others are told beside it.
STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "faster half": fast_half,
    "median": lambda values: float(np.median(values)),
    "mean": lambda values: float(np.mean(values)),
}

COUNTS = next(iter(STATISTICS))


def table_of(forwards: Sequence[Forwarded]) -> tuple[tuple[int, int], ...]:
    """Mean latency (ns) by width, widths that were seen often enough."""
    seen = by_width(forwards)
    fewest = min(FEWEST_SEEN, max(map(len, seen.values()), default=0))
    return tuple(
        (width, max(1, round(float(np.mean(took)))))
        for width, took in seen.items()
        if len(took) >= fewest
    )


def fit(runs: Sequence[Sequence[Forwarded]]) -> tuple[Latency, list[float]]:
    """What the forwards of one model teach, in runs of one configuration.

    Returns:
        What forwards cost, and the pace of each run: how long its forwards took, in what they
        cost. The machine's pace changes; what a pass of 4 tokens costs, in passes of 1, does not,
        and all runs together say that best.
    """
    paces = [1.0] * len(runs)
    for _ in range(FITS):
        steady = [
            f._replace(took_ns=max(1, round(f.took_ns / pace)))
            for pace, run in zip(paces, runs, strict=True)
            for f in run
        ]
        table = table_of(steady)
        cost = Latency(model="table", latency_ns=table[0][1], table=table)
        usual_ns = {width: cost.at_width(width) for width in {f.width for f in steady}}
        paces = [sum(f.took_ns for f in run) / sum(usual_ns[f.width] for f in run) for run in runs]
    factors = np.array([f.took_ns / usual_ns[f.width] for f in steady])
    return dataclasses.replace(cost, spread=tuple((factors / factors.mean()).tolist())), paces


def at_pace(cost: Latency, pace: float) -> Latency:
    """*cost* on a machine that takes *pace* times as long."""
    table = tuple((width, max(1, round(ns * pace))) for width, ns in cost.table)
    return dataclasses.replace(cost, latency_ns=table[0][1], table=table)


def rate_of(traces: Sequence[str]) -> float:
    """The acceptance rate of texts; their last position never needs a draft."""
    drafts = "".join(trace[:-1] for trace in traces)
    return drafts.count("1") / len(drafts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the predictions know.

    Attributes:
        costs: for each configuration and role, latency by width at pace 1.
        paces: likewise the pace of each calibration run.
        rate: acceptance rate.
        drafts: how many drafts it is the rate of.
    """

    costs: dict[Configuration, dict[str, Latency]]
    paces: dict[Configuration, dict[str, list[float]]]
    rate: float
    drafts: int

    @classmethod
    def of(
        cls, seen: Mapping[Configuration, Sequence[Sequence[Forwarded]]], traces: Sequence[str]
    ) -> Calibration:
        """What the forwards of each run, by configuration, and traces of texts teach."""
        costs: dict[Configuration, dict[str, Latency]] = defaultdict(dict)
        paces: dict[Configuration, dict[str, list[float]]] = defaultdict(dict)
        for c, runs in seen.items():
            for role in ROLES:
                own = [[f for f in run if f.role == role] for run in runs]
                if all(own):  # non-SI has no drafter
                    costs[c][role], paces[c][role] = fit(own)
        drafts = sum(len(trace) - 1 for trace in traces)
        return cls(costs=dict(costs), paces=dict(paces), rate=rate_of(traces), drafts=drafts)

    def case(
        self,
        configuration: Configuration,
        tokens: int,
        acceptance: Acceptance,
        run: int | None = None,
    ) -> Case:
        """The case whose simulation predicts *configuration*.

        Args:
            configuration: what.
            tokens: ``N``.
            acceptance: its draws are up to the caller.
            run: at the pace of this calibration run; ``None``: at pace 1.
        """
        paces = self.paces[configuration]
        latency = {"target": Latency(), "drafter": Latency()} | {
            role: at_pace(cost, 1.0 if run is None else paces[role][run])
            for role, cost in self.costs[configuration].items()
        }
        return Case(
            tokens=tokens,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            target=latency["target"],
            drafter=latency["drafter"],
            acceptance=acceptance,
            repeats=1,
            seed=1,
            preemptible=False,
        )

    def predict(
        self,
        configuration: Configuration,
        runs: Sequence[int],
        acceptance: Acceptance,
        draws: np.ndarray,
    ) -> dict[str, float]:
        """The predicted wall time (ns) of a text that is measured once beside each of *runs*.

        When forwards take now more, now less, other drafts go into a pass of DSI. So each
        measurement is simulated with forwards that vary as they did in the calibration, several
        times, and the prediction is the mean of what would be reported.

        Args:
            configuration: what is measured.
            runs: the numbers of the calibration runs.
            acceptance: where *draws* come from.
            draws: bool (simulations, tokens).

        Returns:
            For each of ``STATISTICS``, what it makes of these measurements.
        """
        tokens = draws.shape[1]
        cases = [self.case(configuration, tokens, acceptance, run) for run in runs]
        simulated = [
            [
                run_events(
                    case, configuration.algorithm, len(cases) * i + r, row
                ).output.settled_ns[-1]
                for r, case in enumerate(cases)
            ]
            for i, row in enumerate(draws)
        ]
        return {
            name: float(np.mean([of(walls_ns) for walls_ns in simulated]))
            for name, of in STATISTICS.items()
        }

    def from_trace(
        self, configuration: Configuration, runs: Sequence[int], trace: str
    ) -> dict[str, float]:
        """The predicted wall time (ns) of a text whose draws are known; see :meth:`predict`."""
        acceptance = Acceptance(model="trace", traces=(trace,))
        draws = acceptance.draws(0, TRACE_DRAWS, len(trace))
        return self.predict(configuration, runs, acceptance, draws)

    def from_rate(
        self, configuration: Configuration, texts: Sequence[Sequence[int]], tokens: int
    ) -> float:
        """The predicted mean wall time (ns) of *texts*, from the acceptance rate alone.

        Each text is given by its calibration runs; see :meth:`predict`.
        """
        acceptance = Acceptance(rate=self.rate)
        draws = acceptance.draws(1, RATE_DRAWS * len(texts), tokens)
        return float(
            np.mean(
                [
                    self.predict(configuration, runs, acceptance, draws[i :: len(texts)])[COUNTS]
                    for i, runs in enumerate(texts)
                ]
            )
        )


def noise_of(repeats: Sequence[Sequence[float]]) -> np.ndarray:
    """By how much (relative) the faster half of a text's *repeats* would differ if done anew.

    Resampled from the repeats, with the factor that makes up for their being few.
    """
    rng = np.random.default_rng(0)
    noise = []
    for values in repeats:
        count = len(values)
        if count > 2:  # of two there is no telling
            drawn = rng.choice(values, (RESAMPLES, count))
            halves = np.array([fast_half(row.tolist()) for row in drawn])
            noise.append((halves / fast_half(values) - 1) * math.sqrt(count / (count - 1)))
    return np.concatenate(noise) if noise else np.array([])


class Texts(NamedTuple):
    """Wall times (ms) of texts, predicted from their traces, and measured."""

    predicted_ms: np.ndarray
    measured_ms: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Relative error of each text's prediction."""
        return np.asarray(self.predicted_ms / self.measured_ms - 1)

    @property
    def error(self) -> float:
        """Relative error of the mean."""
        return float(self.predicted_ms.mean() / self.measured_ms.mean() - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration, predicted and measured; arrays have one element a text.

    Attributes:
        texts: for each of ``STATISTICS``.
        repeats: by how much (relative) each measurement differs from the one before it, of the
            same text.
        noise: by how much (relative) the measured times would differ if measured anew: what no
            prediction can be better than.
        cores: how many CPU cores it has, if it computes there.
    """

    configuration: Configuration
    texts: dict[str, Texts]
    predicted_rate_ms: float
    repeats: np.ndarray
    noise: np.ndarray
    orchestration: float
    cores: int | None
    lossless: bool | None

    @property
    def predicted_replay_ms(self) -> np.ndarray:
        """Of what counts of the repeats."""
        return self.texts[COUNTS].predicted_ms

    @property
    def measured_ms(self) -> np.ndarray:
        """Of what counts of the repeats."""
        return self.texts[COUNTS].measured_ms

    @property
    def errors(self) -> np.ndarray:
        """Relative error of each text's prediction from its trace."""
        return self.texts[COUNTS].errors

    @property
    def error_replay(self) -> float:
        """Relative error of the mean, predicted from the traces."""
        return self.texts[COUNTS].error

    @property
    def error_rate(self) -> float:
        """Relative error of the mean, predicted from the rate."""
        return float(self.predicted_rate_ms / self.measured_ms.mean() - 1)

    @property
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = self.measured_ms
        return {
            "algorithm": self.configuration.algorithm,
            "lookahead": self.configuration.lookahead,
            "targets": self.configuration.targets,
            "all_cores": self.configuration.all_cores,
            "cores": self.cores,
            "predicted_replay_ms": float(self.predicted_replay_ms.mean()),
            "predicted_rate_ms": self.predicted_rate_ms,
            "measured_ms": float(measured.mean()),
            "measured_ci95_ms": half_width(float(measured.std(ddof=1)), len(measured)),
            "error_replay": self.error_replay,
            "error_replay_median_abs": median_abs(self.errors),
            "error_rate": self.error_rate,
            "repeats_median_abs": median_abs(self.repeats),
            "noise_median_abs": median_abs(self.noise),
            "orchestration": self.orchestration,
            "lossless": self.lossless,
        }


def median_abs(values: np.ndarray) -> float | None:
    """The median of the sizes of *values*, if there are any."""
    return float(np.median(np.abs(values))) if len(values) else None


class Claim(NamedTuple):
    """Something that should be so, and whether it is."""

    claim: str
    holds: bool
    detail: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """What came of it.

    Attributes:
        settings: what was asked for, by key.
        calibration: what the predictions knew.
        rows: one for each configuration.
        claims: the verdicts.
        first: for each configuration the first measured text, for timelines: simulated and real.
        notes: what the reader must not overlook.
        stalls: measurements done again because the machine stood still meanwhile.
        rate: acceptance rate of the measured texts, which no prediction knows.
        repeatability: median difference of two measurements of one text; ``None`` if there is one.
        noise: median error of a prediction that is right, because of few repeats; likewise.
    """

    settings: dict[str, Any]
    calibration: Calibration
    rows: list[Row]
    claims: list[Claim]
    first: dict[Configuration, tuple[Run, Run | LiveRun]]
    notes: list[str]
    stalls: int
    rate: float
    repeatability: float | None
    noise: float | None

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)

    @property
    def statistics(self) -> dict[str, Errors]:
        """How far off the predictions from the traces are by each of ``STATISTICS``."""
        return {name: errors_of(self.rows, name) for name in STATISTICS}


class Errors(NamedTuple):
    """How far off predictions are, relative.

    Attributes:
        median_text: the median of all texts, by size.
        worst_configuration: the mean of the configuration where it is off most.
        where: which one that is.
    """

    median_text: float
    worst_configuration: float
    where: Configuration


def errors_of(rows: Sequence[Row], statistic: str = COUNTS) -> Errors:
    """How far off the predictions of *rows* from their traces are."""
    worst = max(rows, key=lambda row: abs(row.texts[statistic].error))
    median = median_abs(np.concatenate([row.texts[statistic].errors for row in rows]))
    return Errors(median or 0.0, worst.texts[statistic].error, worst.configuration)


class Steady:
    """Measures anew when the machine has stood still meanwhile.

    Args:
        bench: what is measured.
        text: run once by all of *wanted*, which shows how long forwards usually take.
        wanted: the configurations.

    Attributes:
        stalls: how many measurements were done again.
    """

    def __init__(self, bench: Bench, text: int, wanted: Sequence[Configuration]) -> None:
        self.bench = bench
        self.stalls = 0
        self.usual_ns: dict[Configuration, dict[str, float]] = {}
        for c in wanted:
            forwards = bench.measure(text, c).forwards
            self.usual_ns[c] = {
                role: float(np.median([f.took_ns for f in forwards if f.role == role] or [0]))
                for role in ROLES
            }

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """As :meth:`Bench.measure`."""
        usual_ns = self.usual_ns[configuration]
        for _ in range(MOST_RETRIES):
            measured = self.bench.measure(text, configuration)
            if not any(is_stall(f.took_ns, usual_ns[f.role]) for f in measured.forwards):
                return measured
            self.stalls += 1
        return self.bench.measure(text, configuration)


def validate(
    settings: dict[str, Any],
    *,
    bench: Bench | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Do all of it.

    Args:
        settings: see :func:`load`.
        bench: what to measure; ``None``: as *settings* say.
        progress: told what is being done.

    Raises:
        UserError, EngineError: see :func:`bench_of`.
    """
    wanted = configurations(settings)
    progress("starting the workers")
    bench = bench or bench_of(settings)
    fleet: Fleet | None = getattr(bench, "fleet", None)
    contention = "" if fleet is None else fleet.contention
    try:
        calibration_texts = range(settings["calibration_prompts"])
        texts = range(len(calibration_texts), len(calibration_texts) + settings["prompts"])
        progress("recording which drafts are accepted")
        tokens = settings["tokens"]
        traces = {text: bench.trace(text) for text in texts}
        cores = {c: bench.cores(c) for c in wanted}
        known = [bench.trace(text) for text in calibration_texts]
        progress("warming up")
        steady = Steady(bench, calibration_texts[0], wanted)
        seen: dict[Configuration, list[list[Forwarded]]] = {c: [] for c in wanted}
        found: dict[Configuration, list[list[Measured]]] = {c: [[] for _ in texts] for c in wanted}
        repeats = settings["repeats"]
        for turn, (number, again) in enumerate(
            itertools.product(range(len(texts)), range(repeats))
        ):
            if not again:
                progress(f"measuring text {number + 1} of {len(texts)}")
            other = calibration_texts[turn % len(calibration_texts)]
            # There and back: fewer changes of algorithm, and nobody always comes after the same.
            for c in reversed(wanted) if turn % 2 else wanted:
                # Side by side, so that both meet the same weather.
                seen[c].append(steady.measure(other, c).forwards)
                found[c][number].append(steady.measure(texts[number], c))
    except BaseException:
        if fleet is not None:
            fleet.close(force=True)
        raise
    finally:
        bench.close()
    progress("predicting")
    calibration = Calibration.of(seen, known)
    reference = [runs[0].tokens for runs in found[wanted[0]]]
    rows = []
    beside = [range(repeats * i, repeats * (i + 1)) for i in range(len(texts))]
    for c in wanted:
        walls_ms = [[m.wall_ns / 1e6 for m in runs] for runs in found[c]]
        everything = [m for runs in found[c] for m in runs]
        replay_ns = [
            calibration.from_trace(c, runs, traces[text])
            for runs, text in zip(beside, texts, strict=True)
        ]
        rows.append(
            Row(
                configuration=c,
                texts={
                    name: Texts(
                        np.array([one[name] for one in replay_ns]) / 1e6,
                        np.array([of(own) for own in walls_ms]),
                    )
                    for name, of in STATISTICS.items()
                },
                predicted_rate_ms=calibration.from_rate(c, beside, tokens) / 1e6,
                repeats=np.array(
                    [
                        again / once - 1
                        for own in walls_ms
                        for once, again in itertools.pairwise(own)
                    ]
                ),
                noise=noise_of(walls_ms),
                orchestration=sum(m.orchestration_ns for m in everything)
                / sum(m.wall_ns for m in everything),
                cores=cores[c],
                lossless=None
                if reference[0] is None
                else all(
                    m.tokens == r for runs, r in zip(found[c], reference, strict=True) for m in runs
                ),
            )
        )
    first = {}
    for c in wanted:
        acceptance = Acceptance(model="trace", traces=(traces[texts[0]],))
        case = calibration.case(c, tokens, acceptance)
        plain = {role: dataclasses.replace(getattr(case, role), spread=()) for role in ROLES}
        simulated = run_events(
            dataclasses.replace(case, **plain), c.algorithm, 0, keep_history=True
        )
        first[c] = (simulated, found[c][0][0].run)
    notes = []
    if fleet is not None and contention:
        notes.append(f"{contention}; they slow each other")
    if steady.stalls:
        notes.append(
            f"{steady.stalls} measurement{'s were' if steady.stalls > 1 else ' was'} done again, "
            "because the machine stood still "
            f"meanwhile (a forward took over {STALL_TIMES} times the usual and "
            f"{STALL_NS // 1_000_000} ms more)"
        )
    return Validation(
        settings=settings,
        calibration=calibration,
        rows=rows,
        claims=claims_of(settings, calibration, rows),
        first=first,
        notes=notes,
        stalls=steady.stalls,
        rate=rate_of(list(traces.values())),
        repeatability=median_abs(np.concatenate([row.repeats for row in rows])),
        noise=median_abs(np.concatenate([row.noise for row in rows])),
    )


def claims_of(
    settings: Mapping[str, Any], calibration: Calibration, rows: Sequence[Row]
) -> list[Claim]:
    """The verdicts."""
    claims = []
    judged = [row for row in rows if row.lossless is not None]
    if judged:
        lossy = [str(row.configuration) for row in judged if not row.lossless]
        claims.append(
            Claim(
                "lossless",
                not lossy,
                f"other tokens than {judged[0].configuration}: {'; '.join(lossy)}"
                if lossy
                else f"the same tokens by all {len(judged)} configurations, on every text",
            )
        )
    by = {row.configuration: row for row in rows}
    plain = next((row for row in rows if row.configuration.algorithm == "nonsi"), None)
    dsi = [row for row in rows if row.configuration.algorithm == "dsi"]
    if plain is not None and dsi:
        claims.append(_not_slower("DSI ≤ non-SI", [(d, plain) for d in dsi], calibration))
    pairs = [
        (d, by[si]) for d in dsi if (si := Configuration("si", d.configuration.lookahead, 1)) in by
    ]
    if pairs:
        claims.append(_not_slower("DSI ≤ SI", pairs, calibration))
    budget = [row for row in rows if row.configuration.all_cores]
    if budget and dsi:
        servers = max(row.configuration.targets for row in dsi)
        budget += [row for row in dsi if row.configuration.targets == servers]
        claims.append(_winner(budget))
    found = errors_of(rows)
    claims.append(
        Claim(
            "within tolerance, from the replayed trace",
            found.median_text <= settings["tolerance"]
            and abs(found.worst_configuration) <= settings["tolerance_worst"],
            f"median error of a text {found.median_text:.1%} (tolerance "
            f"{settings['tolerance']:.1%}); worst configuration {found.where}: "
            f"{found.worst_configuration:+.1%} (tolerance {settings['tolerance_worst']:.1%})",
        )
    )
    overall = float(np.mean([abs(row.error_rate) for row in rows]))
    worst = max(rows, key=lambda row: abs(row.error_rate))
    claims.append(
        Claim(
            "within tolerance, from the acceptance rate",
            overall <= settings["tolerance_rate"],
            f"mean error of a configuration {overall:.1%} (tolerance "
            f"{settings['tolerance_rate']:.1%}); worst {worst.configuration}: "
            f"{worst.error_rate:+.1%}",
        )
    )
    return claims


def _not_slower(name: str, pairs: Sequence[tuple[Row, Row]], calibration: Calibration) -> Claim:
    """Whether the first of each pair is not slower, where the hardware is as the theorem assumes.

    Where it is not (a pass of k + 1 tokens costs more than one of 1, or more under load than
    alone), the measured order is held against the predicted one instead.
    """
    wrong, notes = [], []
    for faster, slower in pairs:
        c = faster.configuration
        ratio = float(faster.measured_ms.mean() / slower.measured_ms.mean())
        predicted = float(faster.predicted_replay_ms.mean() / slower.predicted_replay_ms.mean())
        curve = cost_curve(calibration, c)
        noise = _noise(faster, slower)
        if ratio <= 1 + noise:
            notes.append(f"{c}: {ratio:.3f} of it")
            continue
        if curve > FLAT and predicted > 1:
            notes.append(
                f"{c}: {ratio:.3f} of it, predicted {predicted:.3f}; its assumption is broken here "
                f"(a pass of {c.lookahead + 1} tokens beside the others costs {curve:.2f} × one of "
                "1 alone)"
            )
            continue
        wrong.append(f"{c}: {ratio:.3f} of it, predicted {predicted:.3f}")
    return Claim(name, not wrong, "; ".join(wrong or notes))


def _winner(rows: Sequence[Row]) -> Claim:
    """Whether the fastest of *rows* is the one that is predicted; ties within noise are ties."""
    predicted = min(rows, key=lambda row: float(row.predicted_replay_ms.mean()))
    measured = min(rows, key=lambda row: float(row.measured_ms.mean()))
    behind = float(predicted.measured_ms.mean() / measured.measured_ms.mean()) - 1
    tie = predicted is not measured and behind <= _noise(predicted, measured)
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: float(row.predicted_replay_ms.mean())):
        best.setdefault(row.configuration.algorithm, row)
    times = "; ".join(
        f"{row.configuration}: {row.predicted_replay_ms.mean():.1f} ms predicted, "
        f"{row.measured_ms.mean():.1f} measured"
        for row in best.values()
    )
    who = f"{predicted.configuration}"
    if predicted is not measured:
        who += f", {behind:.1%} behind {measured.configuration}" + ", a tie" * tie
    return Claim(
        "the predicted winner wins, at equal budget",
        predicted is measured or tie,
        f"{who} ({times})",
    )


def _noise(a: Row, b: Row) -> float:
    """Half width of the 95 % interval of the ratio of the means, over texts paired."""
    log = np.log(a.measured_ms / b.measured_ms)
    return float(half_width(float(log.std(ddof=1)), len(log)))


def cost_curve(calibration: Calibration, configuration: Configuration) -> float:
    """What a pass of k + 1 tokens in DSI costs, in passes of one token of non-SI, if there is."""
    loaded = calibration.costs[configuration]["target"]
    alone = calibration.costs.get(Configuration("nonsi", 1, 1), {}).get("target", loaded)
    return loaded.at_width(configuration.lookahead + 1) / alone.table[0][1]


def as_json(found: Validation) -> str:
    """One JSON object."""
    return json.dumps(
        {
            "rows": [row.as_dict for row in found.rows],
            "claims": [claim._asdict() for claim in found.claims],
            "calibration": {
                "acceptance_rate": found.calibration.rate,
                "drafts": found.calibration.drafts,
                "latency_by_width_ms": {
                    f"{c}: {role}": [[width, ns / 1e6] for width, ns in cost.table]
                    for c, costs in found.calibration.costs.items()
                    for role, cost in costs.items()
                },
            },
            "stalls": found.stalls,
            "acceptance_rate": found.rate,
            "repeatability": found.repeatability,
            "noise": found.noise,
            "statistics": {
                name: {
                    "median_text": one.median_text,
                    "worst_configuration": one.worst_configuration,
                    "where": str(one.where),
                }
                for name, one in found.statistics.items()
            },
            "settings": found.settings,
            "notes": found.notes,
        }
    )


def as_text(found: Validation) -> str:
    """Tables for people."""
    head = ["", "measured", "from the trace", "error", "a text", "noise", "from the rate", "error"]
    head.append("overhead")
    rows = []
    for row in found.rows:
        one = row.as_dict
        rows.append(
            [
                str(row.configuration),
                f"{one['measured_ms']:.1f} ± {one['measured_ci95_ms']:.1f} ms",
                f"{one['predicted_replay_ms']:.1f} ms",
                f"{one['error_replay']:+.1%}",
                f"{one['error_replay_median_abs']:.1%}",
                "" if one["noise_median_abs"] is None else f"{one['noise_median_abs']:.1%}",
                f"{one['predicted_rate_ms']:.1f} ms",
                f"{one['error_rate']:+.1%}",
                f"{one['orchestration']:.1%}",
            ]
        )
    tables = []
    for c, costs in found.calibration.costs.items():
        for role, cost in costs.items():
            widths = ", ".join(f"{width}: {ns / 1e6:.2f}" for width, ns in cost.table[:8])
            tables.append(f"  {c}, {role}: {widths}")
    settings = found.settings
    lines = [
        f"{settings['backend']}: {settings['prompts']} texts of {settings['tokens']} tokens, "
        f"{settings['repeats']} × each; acceptance rate {found.calibration.rate:.3f} "
        f"({found.calibration.drafts} drafts of {settings['calibration_prompts']} other texts; "
        f"of these texts {found.rate:.3f})",
        "",
        *text_table(head, rows),
        "",
        "measured: mean ± 95 % interval over texts; a text: median error of a text; noise: what it "
        "would be, were the prediction right; overhead: "
        + (
            "wall time in which no worker was at a forward"
            if settings["backend"] == "torch"
            else "wall time beyond the simulation with exactly these latencies"
        ),
        "calibrated latency (ms) by width in tokens, with the way to the worker and back:",
        *tables,
        "",
    ]
    lines += [
        f"{'holds' if claim.holds else 'FAILS'}: {claim.claim}: {claim.detail}"
        for claim in found.claims
    ]
    if found.repeatability is not None:
        lines.append(
            f"The same text measured again differs by {found.repeatability:.1%} (median)"
            + (
                "."
                if found.noise is None
                else f", the faster half of {settings['repeats']} by {found.noise:.1%}: no "
                "prediction can be closer than the machine is to itself."
            )
        )
    if settings["repeats"] > 1:
        others = [
            f"with the {name} the median text is off by {one.median_text:.1%} and the worst "
            f"configuration by {one.worst_configuration:+.1%}"
            for name, one in found.statistics.items()
            if name != COUNTS
        ]
        lines.append(f"Of the repeats the {COUNTS} counts; {', '.join(others)}.")
    lines += [f"mind: {note}" for note in found.notes]
    return "\n".join(lines)


def write_report(found: Validation, path: Path) -> None:
    """Write the page with the 45° chart and the timelines of the first text.

    Raises:
        UserError: it cannot be written.
    """
    from dsim.report import timelines
    from dsim.report.charts import Panel

    chart, marks = scatter(found)
    panels = [
        Panel(
            name="01-predicted-measured",
            title="Predicted against measured wall time",
            caption="One point a text and configuration, predicted from its acceptance trace; "
            "large rings: means predicted from the acceptance rate alone. On the line the "
            "prediction is right.",
            chart=chart,
            marks=marks,
            height=420,
        )
    ]
    for number, (c, runs) in enumerate(found.first.items(), 1):
        for word, run in zip(("predicted", "measured"), runs, strict=True):
            panels.append(
                timelines.panel(
                    f"{number + 1:02d}-{word}",
                    f"{c}, {word}: {run.output.settled_ns[-1] / 1e6:.1f} ms",
                    run,
                )
            )
    facts = [(claim.claim, "holds" if claim.holds else "FAILS") for claim in found.claims]
    notes = [*found.notes, *(f"{c.claim}: {c.detail}" for c in found.claims if not c.holds)]
    timelines.write_page(
        path,
        "How well the simulation predicts",
        as_text(found).splitlines()[0] + ". Timelines: the first text.",
        panels,
        facts,
        notes,
        option="--report",
    )


def scatter(found: Validation) -> tuple[Any, int]:
    """The chart with the 45° line, and how many points it has."""
    import altair as alt
    import pandas as pd

    from dsim.report.charts import COLOURS

    texts = pd.DataFrame(
        {
            "algorithm": NAMES[row.configuration.algorithm],
            "configuration": str(row.configuration),
            "measured": measured,
            "predicted": predicted,
        }
        for row in found.rows
        for measured, predicted in zip(row.measured_ms, row.predicted_replay_ms, strict=True)
    )
    means = pd.DataFrame(
        {
            "algorithm": NAMES[row.configuration.algorithm],
            "configuration": str(row.configuration),
            "measured": float(row.measured_ms.mean()),
            "predicted": row.predicted_rate_ms,
        }
        for row in found.rows
    )
    top = float(max(texts[["measured", "predicted"]].max().max(), means["predicted"].max())) * 1.05
    line = alt.Chart(pd.DataFrame({"measured": [0, top], "predicted": [0, top]})).mark_line(
        color="#b9c1cb", strokeDash=[5, 4]
    )
    names = [NAMES[name] for name in ALGORITHMS]
    encoding = {
        "x": alt.X("measured:Q", title="measured (ms)", scale=alt.Scale(domain=[0, top])),
        "y": alt.Y("predicted:Q", title="predicted (ms)", scale=alt.Scale(domain=[0, top])),
        "color": alt.Color(
            "algorithm:N",
            title=None,
            scale=alt.Scale(domain=names, range=[COLOURS[name] for name in ALGORITHMS]),
        ),
        "tooltip": [
            alt.Tooltip("configuration:N"),
            alt.Tooltip("measured:Q", title="measured (ms)", format=".5~g"),
            alt.Tooltip("predicted:Q", title="predicted (ms)", format=".5~g"),
        ],
    }
    points = alt.Chart(texts).mark_circle(size=36, opacity=0.65).encode(**encoding)
    rings = alt.Chart(means).mark_point(size=160, strokeWidth=2).encode(**encoding)
    return line.encode(x="measured:Q", y="predicted:Q") + points + rings, len(texts) + len(means)
