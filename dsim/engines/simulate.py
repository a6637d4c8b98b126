"""One case, by one algorithm, on one engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.backends.simulated import Guessing, Simulated
from dsim.engines import vector
from dsim.events.environment import Environment
from dsim.events.output import Output
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM, run_lengths
from dsim.model.lookahead import mean_rate
from dsim.orchestrations import orchestration_of
from dsim.orchestrations.start import start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dsim.engines.vector import Bools, Ints
    from dsim.events.servers import Servers
    from dsim.model.case import Case
    from dsim.model.lookahead import Plan

VECTOR_TAKES = "non-SI, SI and DSI with constant latencies, preemptible servers, fixed lookahead"
COUNTS = ("target_passes", "wasted_passes", "drafts", "wasted_drafts", "peak_targets")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the repeats of one case came to; each array has one element a repeat.

    Attributes:
        algorithm, engine: which ones ran.
        latency_ns: int64, when the last token settled.
        target_passes, wasted_passes: int64, passes begun, and those of them that were cancelled.
        drafts, wasted_drafts: int64, drafts begun, and those whose token is not in the output.
        peak_targets: int64, the largest number of target servers that were busy at once.
        settled_ns: int64, shape (repeats, tokens), when each token settled.
    """

    algorithm: str
    engine: str
    latency_ns: Ints
    target_passes: Ints
    wasted_passes: Ints
    drafts: Ints
    wasted_drafts: Ints
    peak_targets: Ints
    settled_ns: Ints


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run of the event engine.

    Attributes:
        output: the text, and when its tokens settled.
        target, drafter: the servers, with their counts and, if asked for, their history;
        more_drafters: and those of further drafters.
        events: how many events were scheduled.
    """

    output: Output
    target: Servers
    drafter: Servers
    events: int
    more_drafters: tuple[Servers, ...] = ()

    @property
    def counts(self) -> tuple[int, ...]:
        """The values named in :data:`COUNTS`."""
        drafts = sum(one.begun for one in (self.drafter, *self.more_drafters))
        return (
            self.target.begun,
            self.target.cancelled,
            drafts,
            drafts - self.output.accepted,
            self.target.peak_busy,
        )


def engine_for(case: Case, algorithms: Sequence[str] = ()) -> str:
    """The fastest engine that can take *case* by all of *algorithms*: ``vector`` or ``events``."""
    constant = case.target.is_constant and case.drafter.is_constant
    known = all(orchestration_of(algorithm).vector for algorithm in algorithms)
    plain = constant and case.preemptible and not case.policy.adapts
    return "vector" if plain and known else "events"


def timing_of(case: Case) -> vector.Timing:
    """*case* as the vector engine wants it."""
    return vector.Timing(
        drafter_ns=case.drafter.latency_ns,
        target_ns=case.target.latency_ns,
        lookahead=case.lookahead,
        targets=case.targets,
        drafter_first_ns=case.drafter.first_ns,
        target_first_ns=case.target.first_ns,
    )


def plan_of(case: Case, repeat: int, draws: Bools) -> Plan:
    """Where the lookahead of one run comes from."""
    rate = mean_rate(case.acceptance)
    return case.policy.plan_of(case.lookahead, draws, rate, case.seed, repeat)


def simulate_case(case: Case, algorithm: str, engine: str = "auto") -> Outcome:
    """Simulate all repeats of *case*.

    Args:
        case: the case.
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        engine: ``auto``, ``vector`` or ``events``.

    Raises:
        ValueError: the vector engine cannot take this case.
    """
    if engine == "auto":
        engine = engine_for(case, [algorithm])
    draws = case.acceptance.draws(case.seed, case.repeats, case.tokens)
    if engine == "vector":
        if engine_for(case, [algorithm]) != "vector":
            raise ValueError(f"the vector engine takes {VECTOR_TAKES}")
        return _by_vector(case, algorithm, draws)
    counts, settled = [], []
    for repeat in range(case.repeats):
        run = run_events(case, algorithm, repeat, draws[repeat])
        counts.append(run.counts)
        settled.append(run.output.settled_ns)
    settled_ns = np.array(settled, dtype=np.int64)
    return Outcome(
        algorithm=algorithm,
        engine=engine,
        latency_ns=settled_ns[:, -1],
        settled_ns=settled_ns,
        **dict(zip(COUNTS, np.array(counts, dtype=np.int64).T, strict=True)),
    )


def _by_vector(case: Case, algorithm: str, draws: Bools) -> Outcome:
    timing = timing_of(case)
    form = vector.form_of(algorithm)
    totals = form.totals([timing], vector.Branches.of(draws))
    return Outcome(
        algorithm=algorithm,
        engine="vector",
        latency_ns=totals.latency_ns()[0],
        settled_ns=form.settled_ns(timing, draws),
        **{name: getattr(totals, name)[totals.row[0]] for name in COUNTS},
    )


def run_events(
    case: Case,
    algorithm: str,
    repeat: int,
    draws: NDArray[np.bool_] | None = None,
    *,
    keep_history: bool = False,
) -> Run:
    """One run of the event engine.

    Args:
        case: the case.
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        repeat: which repeat.
        draws: bool (tokens,), if they are at hand already.
        keep_history: whether the servers keep their forwards, for a timeline.
    """
    if draws is None:
        draws = case.acceptance.draws(case.seed, repeat + 1, case.tokens)[repeat]
    env = Environment()
    output = Output(env, case.tokens)
    target_ns = case.target.sampler(case.seed, repeat, TARGET_STREAM)
    drafter_ns = case.drafter.sampler(case.seed, repeat, DRAFTER_STREAM)
    preemptible = case.preemptible
    backend: Simulated
    if not orchestration_of(algorithm).traits.further_drafters:
        lengths: Sequence[int] = run_lengths(draws)
        backend = Simulated(env, target_ns, lengths, preemptible=preemptible)
        guessing = [Simulated(env, drafter_ns, lengths, preemptible=preemptible)]
    else:
        backend = Guessing(env, target_ns, (), preemptible=preemptible)
        own = [(case.drafter.latency_ns, drafter_ns, draws)]
        rate = mean_rate(case.acceptance)
        for number, more in enumerate(case.more_drafters):
            drawn = more.draws(draws, rate, case.seed, repeat, number)
            own.append((more.latency.latency_ns, more.latency.sampler(0, 0, 0), drawn))
        own.sort(key=lambda one: one[0])  # the fastest leads
        guessing = [
            Guessing(env, ns, one.tolist(), number, preemptible=preemptible)
            for number, (_, ns, one) in enumerate(own, 1)
        ]
    drafters, target = start(
        algorithm,
        env,
        output,
        drafter_backend=guessing[0],
        further_backends=guessing[1:],
        target_backend=backend,
        lookahead=case.lookahead,
        targets=case.targets,
        prefill=case.target.first_ns is not None,
        keep_history=keep_history,
        plan=plan_of(case, repeat, draws),
    )
    env.run(until=output.done)
    return Run(
        output=output,
        target=target,
        drafter=drafters[0],
        more_drafters=tuple(drafters[1:]),
        events=env.scheduled,
    )
