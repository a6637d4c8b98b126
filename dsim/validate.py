"""``dsim validate``: predict wall times by simulation, then measure them, then compare.

1. Record, on calibration prompts, how often drafts are accepted.
2. Calibrate: run the algorithms on the same prompts, and keep how long every forward took, by its
   width, under the load that it runs in.
3. Predict the wall time of every algorithm × lookahead × servers on *other* prompts: from the
   acceptance trace of each of them, and from the acceptance rate alone.
4. Measure; then the next round of 2 to 4, since machines change their pace within minutes.
5. Compare.
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

from dsim.acceptance import Acceptance
from dsim.errors import Problem, UserError
from dsim.latency import Latency, to_ns
from dsim.results import NAMES, half_width
from dsim.simulate import Run, run_events
from dsim.study import ALGORITHMS, Case, Setting, nearest, show

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from dsim.backends.torch import Fleet, LiveRun, Span
    from dsim.backends.wallclock import Waiters
    from dsim.verify import Rule

BACKENDS = ("wallclock", "torch")
FEWEST_SEEN = 4  # forwards of one width, for a row of its own in a latency table
RATE_REPEATS = 200  # simulated texts for a prediction from the rate
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
    _setting("calibration_prompts", "int", 4, "other texts, for the calibration", low=1),
    _setting("rounds", "int", 4, "calibrations, each for its share of the texts", low=1),
    _setting("repeats", "int", 3, "measurements of each text; their median counts", low=1),
    _setting("seed", "int", 0, "of draws and sampling", low=0, high=2**63 - 1),
    _setting("tolerance", "float", 0.02, "median error per text, from the trace", low=0),
    _setting("tolerance_worst", "float", 0.05, "error of the worst configuration", low=0),
    _setting("tolerance_rate", "float", 0.05, "error from the rate, overall", low=0),
    _setting("wallclock.target_latency_ms", "float", 20.0, "of a pass", low=0, above=True),
    _setting("wallclock.drafter_latency_ms", "float", 4.0, "of a draft", low=0, above=True),
    _setting("wallclock.acceptance_rate", "float", 0.8, "of the draws", low=0, high=1),
    _setting("torch.target", "str", "", "the target; empty: the pair that ships"),
    _setting("torch.drafter", "str", "", "the drafter; empty: the pair that ships"),
    _setting("torch.prompt_set", "str", "stories", "a set that ships, or a JSONL file"),
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
    """What is predicted and measured: one algorithm with its numbers (1 where it has none)."""

    algorithm: str
    lookahead: int
    targets: int

    def __str__(self) -> str:
        name = NAMES[self.algorithm]
        if self.algorithm == "nonsi":
            return name
        servers = f", {self.targets} targets" if self.targets > 1 else ""
        return f"{name}, lookahead {self.lookahead}{servers}"


def configurations(settings: Mapping[str, Any]) -> list[Configuration]:
    """Every configuration that *settings* ask for."""
    wanted: list[Configuration] = []
    for algorithm in ALGORITHMS:
        if algorithm not in settings["algorithms"]:
            continue
        lookaheads = [1] if algorithm == "nonsi" else settings["lookahead"]
        targets = settings["targets"] if algorithm == "dsi" else [1]
        wanted += [Configuration(algorithm, *kt) for kt in itertools.product(lookaheads, targets)]
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
        forwards: every forward that ended.
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

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """See :class:`Bench`."""
        run = self.fleet.run(
            configuration.algorithm,
            self.prompts[text],
            self.tokens,
            self.rule,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            cached=True,
            keep_history=True,
        )
        return Measured(
            run.output.settled_ns[-1],
            [_forwarded(span) for span in run.spans],
            list(run.output.tokens),
            run.orchestration_ns,
            run,
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
        return self.traces[text]

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
    from dsim import prompts
    from dsim.backends.torch import Fleet, check_prompt
    from dsim.models import load_pair, specs
    from dsim.verify import Match, Sampling

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
        devices=settings["torch.devices"].split(","),
        threads=settings["torch.threads"],
        share=settings["torch.share"],
        compiled_tokens=(
            max(map(len, ids)) + settings["tokens"] if settings["torch.compile"] else 0
        ),
    )
    sampling = Sampling(temperature=settings["torch.temperature"], seed=settings["seed"])
    return TorchBench(fleet, ids, Match(sampling), settings["tokens"])


def load_of(configuration: Configuration) -> str:
    """What else runs beside a forward: nothing, or drafter and targets at once."""
    if configuration.algorithm == "dsi":
        return f"dsi, {configuration.targets} targets"
    return "alone"


def by_width(forwards: Sequence[Forwarded]) -> dict[tuple[str, int], list[int]]:
    """How long *forwards* took (ns), by role and width."""
    took: dict[tuple[str, int], list[int]] = defaultdict(list)
    for forward in forwards:
        took[forward.role, forward.width].append(forward.took_ns)
    return took


def is_stall(took_ns: float, usual_ns: float) -> bool:
    """Whether the machine stood still (a paused virtual machine, say), not the forward slow."""
    return took_ns > STALL_TIMES * usual_ns + STALL_NS


def table_of(forwards: Sequence[Forwarded], role: str) -> tuple[tuple[int, int], ...]:
    """Mean latency (ns) by width of *role*'s forwards, widths that were seen often enough.

    Forwards during which the machine stood still do not count.
    """
    seen = {width: took for (r, width), took in by_width(forwards).items() if r == role}
    fewest = min(FEWEST_SEEN, max(map(len, seen.values()), default=0))
    table = []
    for width, took in sorted(seen.items()):
        if len(took) >= fewest:
            usual_ns = float(np.median(took))
            kept = [ns for ns in took if not is_stall(ns, usual_ns)]
            table.append((width, max(1, round(float(np.mean(kept))))))
    return tuple(table)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the predictions know.

    Attributes:
        tables: for each load and role, mean latency (ns) by width.
        rate: acceptance rate.
        drafts: how many drafts it is the rate of.
    """

    tables: dict[tuple[str, str], tuple[tuple[int, int], ...]]
    rate: float
    drafts: int

    @classmethod
    def of(cls, seen: Mapping[str, Sequence[Forwarded]], draws: Sequence[bool]) -> Calibration:
        """What forwards by load, and draws, teach."""
        tables = {
            (load, role): table_of(forwards, role)
            for load, forwards in seen.items()
            for role in ("target", "drafter")
        }
        return cls(tables=tables, rate=float(np.mean(draws)), drafts=len(draws))

    def case(self, configuration: Configuration, tokens: int, acceptance: Acceptance) -> Case:
        """The case whose simulation predicts *configuration*."""
        load = load_of(configuration)

        def latency(role: str) -> Latency:
            # non-SI has no drafter; whatever stands there is not used.
            table = self.tables.get((load, role)) or ((1, 1),)
            return Latency(model="table", latency_ns=table[0][1], table=table)

        return Case(
            tokens=tokens,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            target=latency("target"),
            drafter=latency("drafter"),
            acceptance=acceptance,
            repeats=RATE_REPEATS if acceptance.model == "bernoulli" else 1,
            seed=1,
            preemptible=False,
        )

    def stalled(self, configuration: Configuration, forwards: Sequence[Forwarded]) -> bool:
        """Whether the machine stood still during one of *forwards*."""
        tables = {
            role: Latency(model="table", table=table)
            for (load, role), table in self.tables.items()
            if load == load_of(configuration) and table
        }
        return any(
            is_stall(f.took_ns, tables[f.role].at_width(f.width))
            for f in forwards
            if f.role in tables
        )

    def from_trace(self, configuration: Configuration, trace: str) -> int:
        """The predicted wall time (ns) of a text whose draws are known."""
        acceptance = Acceptance(model="trace", traces=(trace,))
        case = self.case(configuration, len(trace), acceptance)
        return run_events(case, configuration.algorithm, 0).output.settled_ns[-1]

    def from_rate(self, configuration: Configuration, tokens: int) -> float:
        """The predicted mean wall time (ns), from the acceptance rate alone."""
        case = self.case(configuration, tokens, Acceptance(rate=self.rate))
        repeats = 1 if configuration.algorithm == "nonsi" else case.repeats
        draws = case.acceptance.draws(case.seed, repeats, tokens)
        return float(
            np.mean(
                [
                    run_events(case, configuration.algorithm, r, draws[r]).output.settled_ns[-1]
                    for r in range(repeats)
                ]
            )
        )


def forwards_of(
    bench: Bench, wanted: Sequence[Configuration], texts: Sequence[int]
) -> dict[str, list[Forwarded]]:
    """Run *wanted* on *texts*: every forward, by the load that it ran in."""
    seen: dict[str, list[Forwarded]] = defaultdict(list)
    for text, configuration in itertools.product(texts, wanted):
        seen[load_of(configuration)] += bench.measure(text, configuration).forwards
    return seen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration, predicted and measured; arrays have one element a text.

    Attributes:
        repeats: by how much (relative) each measurement differs from the one before it, of the
            same text: what no prediction can be better than.
    """

    configuration: Configuration
    predicted_replay_ms: np.ndarray
    predicted_rate_ms: float
    measured_ms: np.ndarray
    repeats: np.ndarray
    orchestration: float
    lossless: bool | None

    @property
    def errors(self) -> np.ndarray:
        """Relative error of each text's prediction from its trace."""
        return np.asarray(self.predicted_replay_ms / self.measured_ms - 1)

    @property
    def error_replay(self) -> float:
        """Relative error of the mean, predicted from the traces."""
        return float(self.predicted_replay_ms.mean() / self.measured_ms.mean() - 1)

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
            "predicted_replay_ms": float(self.predicted_replay_ms.mean()),
            "predicted_rate_ms": self.predicted_rate_ms,
            "measured_ms": float(measured.mean()),
            "measured_ci95_ms": half_width(float(measured.std(ddof=1)), len(measured)),
            "error_replay": self.error_replay,
            "error_replay_median_abs": float(np.median(np.abs(self.errors))),
            "error_rate": self.error_rate,
            "repeats_median_abs": float(np.median(np.abs(self.repeats)))
            if len(self.repeats)
            else None,
            "orchestration": self.orchestration,
            "lossless": self.lossless,
        }


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
        repeatability: median difference of two measurements of one text; ``None`` if there is one.
    """

    settings: dict[str, Any]
    calibration: Calibration
    rows: list[Row]
    claims: list[Claim]
    first: dict[Configuration, tuple[Run, Run | LiveRun]]
    notes: list[str]
    stalls: int
    repeatability: float | None

    @property
    def holds(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)


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
        # The last position never needs a draft.
        draws = [draw == "1" for text in calibration_texts for draw in bench.trace(text)[:-1]]
        forwards_of(bench, wanted, [0])  # thrown away: everything has run once
        seen: dict[str, list[Forwarded]] = defaultdict(list)
        replay: dict[Configuration, list[int]] = {c: [] for c in wanted}
        found: dict[Configuration, list[list[Measured]]] = {c: [] for c in wanted}
        stalls = 0
        for share in np.array_split(texts, min(settings["rounds"], len(texts))):
            progress("calibrating")
            fresh = forwards_of(bench, wanted, calibration_texts)
            for load, forwards in fresh.items():
                seen[load] += forwards
            calibration = Calibration.of(fresh, draws)
            for text in share.tolist():
                progress(f"measuring text {text - texts[0] + 1} of {len(texts)}")
                for c in wanted:
                    replay[c].append(calibration.from_trace(c, traces[text]))
                    found[c].append([])
                for _ in range(settings["repeats"]):
                    for c in wanted:  # interleaved, so that all meet the same weather
                        measured = bench.measure(text, c)
                        for _ in range(MOST_RETRIES):
                            if not calibration.stalled(c, measured.forwards):
                                break
                            stalls += 1
                            measured = bench.measure(text, c)
                        found[c][-1].append(measured)
    except BaseException:
        if fleet is not None:
            fleet.close(force=True)
        raise
    finally:
        bench.close()
    progress("predicting from the rate")
    calibration = Calibration.of(seen, draws)
    reference = [runs[0].tokens for runs in found[wanted[0]]]
    rows = [
        Row(
            configuration=c,
            predicted_replay_ms=np.array(replay[c]) / 1e6,
            predicted_rate_ms=calibration.from_rate(c, tokens) / 1e6,
            measured_ms=np.array([np.median([m.wall_ns for m in runs]) for runs in found[c]]) / 1e6,
            repeats=np.array(
                [
                    again.wall_ns / once.wall_ns - 1
                    for runs in found[c]
                    for once, again in itertools.pairwise(runs)
                ]
            ),
            orchestration=sum(m.orchestration_ns for runs in found[c] for m in runs)
            / sum(m.wall_ns for runs in found[c] for m in runs),
            lossless=None
            if reference[0] is None
            else all(
                m.tokens == r for runs, r in zip(found[c], reference, strict=True) for m in runs
            ),
        )
        for c in wanted
    ]
    first = {}
    for c in wanted:
        acceptance = Acceptance(model="trace", traces=(traces[texts[0]],))
        case = calibration.case(c, tokens, acceptance)
        simulated = run_events(case, c.algorithm, 0, keep_history=True)
        first[c] = (simulated, found[c][0][0].run)
    again = np.abs(np.concatenate([row.repeats for row in rows]))
    notes = []
    if fleet is not None and contention:
        notes.append(f"{contention}; they slow each other")
    if stalls:
        notes.append(
            f"{stalls} measurements were done again, because the machine stood still meanwhile "
            f"(a forward took over {STALL_TIMES} times the usual and "
            f"{STALL_NS // 1_000_000} ms more)"
        )
    return Validation(
        settings=settings,
        calibration=calibration,
        rows=rows,
        claims=claims_of(settings, calibration, rows),
        first=first,
        notes=notes,
        stalls=stalls,
        repeatability=float(np.median(again)) if len(again) else None,
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
    errors = np.abs(np.concatenate([row.errors for row in rows]))
    worst = max(rows, key=lambda row: abs(row.error_replay))
    median = float(np.median(errors))
    claims.append(
        Claim(
            "within tolerance, from the replayed trace",
            median <= settings["tolerance"]
            and abs(worst.error_replay) <= settings["tolerance_worst"],
            f"median error of a text {median:.1%} (tolerance {settings['tolerance']:.1%}); worst "
            f"configuration {worst.configuration}: {worst.error_replay:+.1%} "
            f"(tolerance {settings['tolerance_worst']:.1%})",
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


def _noise(a: Row, b: Row) -> float:
    """Half width of the 95 % interval of the ratio of the means, over texts paired."""
    log = np.log(a.measured_ms / b.measured_ms)
    return float(half_width(float(log.std(ddof=1)), len(log)))


def cost_curve(calibration: Calibration, configuration: Configuration) -> float:
    """What a pass of k + 1 tokens in DSI costs, in passes of one token alone."""
    loaded = calibration.tables.get((load_of(configuration), "target"), ())
    alone = calibration.tables.get(("alone", "target"), ()) or loaded
    if not loaded:
        return math.nan
    table = Latency(model="table", table=loaded)
    return table.at_width(configuration.lookahead + 1) / alone[0][1]


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
                    f"{load}: {role}": [[width, ns / 1e6] for width, ns in table]
                    for (load, role), table in found.calibration.tables.items()
                },
            },
            "stalls": found.stalls,
            "repeatability": found.repeatability,
            "settings": found.settings,
            "notes": found.notes,
        }
    )


def as_text(found: Validation) -> str:
    """Tables for people."""
    from tabulate import tabulate

    head = ["", "measured", "from the trace", "error", "from the rate", "error", "overhead"]
    rows = []
    for row in found.rows:
        one = row.as_dict
        rows.append(
            [
                str(row.configuration),
                f"{one['measured_ms']:.1f} ± {one['measured_ci95_ms']:.1f} ms",
                f"{one['predicted_replay_ms']:.1f} ms",
                f"{one['error_replay']:+.1%}",
                f"{one['predicted_rate_ms']:.1f} ms",
                f"{one['error_rate']:+.1%}",
                f"{one['orchestration']:.1%}",
            ]
        )
    tables = []
    for (load, role), table in found.calibration.tables.items():
        if table:
            widths = ", ".join(f"{width}: {ns / 1e6:.2f}" for width, ns in table[:12])
            tables.append(f"  {role} ({load}): {widths}")
    settings = found.settings
    lines = [
        f"{settings['backend']}: {settings['prompts']} texts of {settings['tokens']} tokens, "
        f"{settings['repeats']} × each; acceptance rate {found.calibration.rate:.3f} "
        f"({found.calibration.drafts} drafts of {settings['calibration_prompts']} other texts)",
        "",
        tabulate(rows, head, disable_numparse=True, colalign=("left", *["right"] * 6)),
        "",
        "measured: mean ± 95 % interval over texts; overhead: "
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
            f"The same text measured again differs by {found.repeatability:.1%} (median): no "
            "prediction can be closer than the machine is to itself."
        )
    lines += [f"mind: {note}" for note in found.notes]
    return "\n".join(lines)


def write_report(found: Validation, path: Path) -> None:
    """Write the page with the 45° chart and the timelines of the first text.

    Raises:
        UserError: it cannot be written.
    """
    from dsim import timelines
    from dsim.charts import Panel

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

    from dsim.charts import COLOURS

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
