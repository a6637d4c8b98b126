"""One case, by one algorithm, on one engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.backends.simulated import Simulated
from dsim.engines import vector
from dsim.events.environment import Environment
from dsim.events.output import Output
from dsim.events.run import COUNTS, Run, run_to_end
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM
from dsim.model.latency import beyond_of, most_beyond
from dsim.model.script import script_of
from dsim.orchestrations import orchestration_of
from dsim.orchestrations.start import blaming, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dsim.engines.vector.timing import Ints
    from dsim.model.case import Case

VECTOR_TAKES = (
    "orchestrations that have a vector form, with constant latencies, preemptible servers and a "
    "fixed lookahead"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """The results of all repeats of one case; each array has one element a repeat.

    Attributes:
        algorithm, engine: names of the orchestration and the engine.
        latency_ns: int64, when the last token settled.
        target_passes, wasted_passes: int64, passes begun, and those of them that were cancelled.
        drafts, wasted_drafts: int64, drafts begun, and those whose token is not in the output.
        peak_targets: int64, the largest number of target servers that were busy at once.
        settled_ns: int64, shape (repeats, tokens), when each token settled.
        beyond_share: mean over the repeats of :attr:`dsim.events.run.Run.beyond_share`.
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
    beyond_share: float = 0.0


def engine_for(case: Case, algorithms: Sequence[str] = ()) -> str:
    """The fastest engine that can take *case* by all of *algorithms*: ``vector`` or ``events``."""
    constant = case.target.is_constant and case.drafter.is_constant
    known = all(
        orchestration_of(name).vector and vector.form_of(name).takes(case) for name in algorithms
    )
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
        block_tokens=case.block_tokens,
        patience=case.patience,
        tree=case.tree,
        fanout=case.fanout,
    )


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
    if engine == "vector":
        if engine_for(case, [algorithm]) != "vector":
            raise ValueError(f"the vector engine takes {VECTOR_TAKES}")
        ranks = case.acceptance.ranks(case.seed, case.repeats, case.tokens)[:, 0]
        return _by_vector(case, algorithm, ranks)
    ranks = case.acceptance.ranks(case.seed, case.repeats, case.tokens)
    counts, settled, beyond = [], [], []
    for repeat in range(case.repeats):
        run = run_events(case, algorithm, repeat, ranks[repeat])
        counts.append(run.counts)
        settled.append(run.output.settled_ns)
        beyond.append(run.beyond_share)
    settled_ns = np.array(settled, dtype=np.int64)
    return Outcome(
        algorithm=algorithm,
        engine=engine,
        latency_ns=settled_ns[:, -1],
        settled_ns=settled_ns,
        beyond_share=float(np.mean(beyond)),
        **dict(zip(COUNTS, np.array(counts, dtype=np.int64).T, strict=True)),
    )


def _by_vector(case: Case, algorithm: str, ranks: NDArray[np.int8]) -> Outcome:
    timing = timing_of(case)
    form = vector.form_of(algorithm)
    branches = vector.Branches.of(ranks, [case.acceptance])
    totals = form.totals([timing], branches)
    return Outcome(
        algorithm=algorithm,
        engine="vector",
        latency_ns=totals.latency_ns()[0],
        settled_ns=form.settled_ns(timing, branches.ranked),
        **{name: getattr(totals, name)[totals.row[0]] for name in COUNTS},
    )


def run_events(
    case: Case,
    algorithm: str,
    repeat: int,
    ranks: NDArray[Any] | None = None,
    *,
    keep_history: bool = False,
) -> Run:
    """One run of the event engine.

    Args:
        case: the case.
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        repeat: which repeat.
        ranks: int8 (depths, tokens), or bool (tokens,), how drafts fare; by default they are drawn.
        keep_history: whether the servers keep their forwards, for a timeline.

    Raises:
        PluginError: the code of an orchestration of the user's own failed.
        EngineError: the run stopped before all tokens were settled, or makes no progress.
    """
    if ranks is None:
        ranks = case.acceptance.ranks(case.seed, 1, case.tokens, repeat)[0]
    env = Environment()
    output = Output(env, case.tokens)
    further = case.more_drafters if orchestration_of(algorithm).traits.further_drafters else ()
    script = script_of(case, ranks, repeat, further)
    samplers = [case.drafter.sampler(case.seed, repeat, DRAFTER_STREAM)]
    samplers += [more.latency.sampler(0, 0, 0) for more in further]  # constant: no draws
    of_target = case.target.sampler(case.seed, repeat, TARGET_STREAM)

    def backend(latency_ns: Any, **of_a_drafter: Any) -> Simulated:
        own = {"preemptible": case.preemptible, "script": script, **of_a_drafter}
        return Simulated(env, latency_ns, script.lengths, **own)

    with blaming(algorithm):
        drafters, target = start(
            algorithm,
            env,
            output,
            drafter_backends=[
                backend(
                    samplers[number], guesses=script.guesses[place], block=script.block_of(place)
                )
                for place, number in enumerate(script.order)
            ],
            target_backend=backend(of_target),
            plan=script.plan,
            targets=case.targets,
            prefill=case.target.first_ns is not None,
            keep_history=keep_history,
            decoding=case,
        )
        run_to_end(env, output, algorithm)
    return Run(
        output=output,
        target=target,
        drafter=drafters[0],
        more_drafters=tuple(drafters[1:]),
        events=env.scheduled,
        block_tokens=case.block_tokens,
        beyond_share=most_beyond(map(beyond_of, [of_target, *samplers])),
    )
