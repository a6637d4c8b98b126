"""One case, by one algorithm, on one engine."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

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
from dsim.orchestrations.blame import blaming
from dsim.orchestrations.start import start

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dsim.engines.vector.timing import Ints
    from dsim.model.case import Case

VECTOR_TAKES = (
    "orchestrations that have a vector form, with constant latencies, preemptible servers and a "
    "fixed lookahead"
)
PART_TOKENS = 4_000_000  # of all repeats that are simulated at a time by the vector engine


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


def simulate_case(
    case: Case,
    algorithm: str,
    engine: str = "auto",
    progress: Callable[[int], None] | None = None,
) -> Outcome:
    """Simulate all repeats of *case*.

    Args:
        case: the case.
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        engine: ``auto``, ``vector`` or ``events``.
        progress: called now and then with the number of repeats that are done.

    Raises:
        ValueError: the vector engine cannot take this case.
    """
    if engine == "auto":
        engine = engine_for(case, [algorithm])
    if engine == "vector" and engine_for(case, [algorithm]) != "vector":
        raise ValueError(f"the vector engine takes {VECTOR_TAKES}")
    at_once = max(1, PART_TOKENS // case.tokens) if engine == "vector" else 1
    simulate = _by_vector if engine == "vector" else _by_events
    parts = []
    for first in range(0, case.repeats, at_once):
        count = min(at_once, case.repeats - first)
        ranks = case.acceptance.ranks(case.seed, count, case.tokens, first)
        parts.append(simulate(case, algorithm, ranks, first))
        if progress:
            progress(first + count)
    settled_ns = np.concatenate([part.settled_ns for part in parts])
    return Outcome(
        algorithm=algorithm,
        engine=engine,
        latency_ns=settled_ns[:, -1],
        settled_ns=settled_ns,
        beyond_share=float(np.mean([part.beyond_share for part in parts])),  # vector: always 0
        **{name: np.concatenate([part.counts[name] for part in parts]) for name in COUNTS},
    )


class _Part(NamedTuple):
    """Some repeats of a case: as of :class:`Outcome`, but for the name of each count."""

    settled_ns: Ints
    counts: dict[str, Ints]
    beyond_share: float = 0.0


def _by_events(case: Case, algorithm: str, ranks: NDArray[np.int8], repeat: int) -> _Part:
    run = run_events(case, algorithm, repeat, ranks[0])
    counts = np.array(run.counts, dtype=np.int64)[:, None]
    settled_ns = np.array([run.output.settled_ns], dtype=np.int64)
    return _Part(settled_ns, dict(zip(COUNTS, counts, strict=True)), run.beyond_share)


def _by_vector(case: Case, algorithm: str, ranks: NDArray[np.int8], _first: int) -> _Part:
    timing = timing_of(case)
    form = vector.form_of(algorithm)
    branches = vector.Branches.of(ranks[:, 0], [case.acceptance])
    totals = form.totals([timing], branches)
    counts = {name: getattr(totals, name)[totals.row[0]] for name in COUNTS}
    return _Part(form.settled_ns(timing, branches.ranked), counts)


def run_events(
    case: Case,
    algorithm: str,
    repeat: int,
    ranks: NDArray[Any] | None = None,
    *,
    keep_history: bool = False,
    behind: type[Simulated] = Simulated,
) -> Run:
    """One run of the event engine.

    Args:
        case: the case.
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        repeat: which repeat.
        ranks: int8 (depths, tokens), or bool (tokens,), how drafts fare; by default they are drawn.
        keep_history: whether the servers keep their forwards, for a timeline.
        behind: the backend that stands behind the servers.

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
        return behind(env, latency_ns, script.lengths, **own)

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
