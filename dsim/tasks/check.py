"""``dsim check``: the laws that every orchestration obeys, held against one of the user's own."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment, FleetSpec
from dsim.deployment.workload import Length, Workload
from dsim.engines import laws
from dsim.errors import EngineError, PluginError
from dsim.orchestrations import ORCHESTRATIONS, orchestration_of
from dsim.orchestrations.plugins import load
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from dsim.engines.laws import Law
    from dsim.events.run import Run
    from dsim.model.case import Case
    from dsim.orchestrations import Orchestration

EVERY = 11  # small cases, of which one is held against the laws that run it again
LARGER = 1000
FEW_TOKENS, FEW = 3, 40  # before a study: texts of up to 3 tokens, then 40 larger ones
REQUESTS = 3  # at the same time, on the same servers
SHOWN = "What its traits claim, some case shows: drafts, overlaps, several targets"
ENDED = "Every run ends, without an error"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """One law, and whether it was kept.

    Attributes:
        law: the law, in a sentence.
        cases: number of cases that were tried.
        problem: what was wrong in the smallest case that breaks it; empty: the law was kept.
        case: that case.
    """

    law: str
    cases: int
    problem: str = ""
    case: Case | None = None


def names_in(plugin: str) -> list[str]:
    """Load *plugin*, and return the orchestrations that are in it.

    Args:
        plugin: path or name of a module; or the name of an orchestration that is known.

    Raises:
        UserError: it cannot be loaded, or adds no orchestration.
    """
    if plugin in ORCHESTRATIONS:
        return [plugin]
    before = set(ORCHESTRATIONS)
    load([plugin])
    module = sys.modules[Path(plugin).stem if plugin.endswith(".py") else plugin]
    declared = [vars(module)["ORCHESTRATION"].name] if "ORCHESTRATION" in vars(module) else []
    return [name for name in ORCHESTRATIONS if name not in before or name in declared]


def in_deployment(name: str, case: Case, run: Run) -> str:
    """Alone on shared servers, a request is served as it is on servers of its own."""
    if not case.target.is_constant:
        return ""  # with random latencies, a deployment draws its own
    deployment = _deployment(name, case)
    workload = Workload(requests=1, output=Length(mean_tokens=case.tokens))
    found = serve(deployment, workload, keep_settled=True).settled_ns[0]
    same = found == run.output.settled_ns
    times = [" ".join(f"{to_ms(ns):g}" for ns in one) for one in (run.output.settled_ns, found)]
    return "" if same else f"tokens settle at {times[0]} ms alone, at {times[1]} ms in a deployment"


def _deployment(name: str, case: Case) -> Deployment:
    """Servers that requests share, as *case* has them."""
    return Deployment(
        algorithm=name,
        lookahead=case.lookahead,
        targets=FleetSpec(servers=case.targets),
        drafters=FleetSpec(),
        most_passes=case.targets,
        target=case.target,
        drafter=case.drafter,
        acceptance=case.acceptance,
        preemptible=case.preemptible,
        seed=case.seed,
    )


def under_load(name: str, case: Case, _: Run) -> str:
    """Several requests on the same servers come to their ends, whoever has to wait for whom."""
    deployment = _deployment(name, case)
    workload = Workload(requests=REQUESTS, output=Length(mean_tokens=case.tokens), rate_per_s=1e6)
    try:
        settled = serve(deployment, workload, keep_settled=True).settled_ns
    except (EngineError, PluginError) as error:
        return str(error)
    ended = [len(one) for one in settled]
    return "" if ended == [case.tokens] * REQUESTS else f"requests settled {ended} tokens"


def check(name: str, progress: Callable[[int, int], None] = lambda *_: None) -> list[Verdict]:
    """Hold the laws against an orchestration: every small case, then random larger ones.

    The first law is that each run ends; where one does not, nothing further is tried.

    Args:
        name: name of the orchestration.
        progress: called after each case with how many of how many are tried.
    """
    every: tuple[Law, ...] = (*laws.CHEAP, *laws.DEAR, *DEPLOYED)
    tried = dict.fromkeys(every, 0)
    broken: dict[Law, tuple[str, Case]] = {}
    stopped, runs = ("", None), 0
    claimed = laws.claims(name)
    tried_cases = cases(name)
    for number, case in enumerate(tried_cases):
        try:
            run = laws.watched_run(name, case)
            runs += 1
            claimed -= laws.shown(run) if claimed else set()
            for law in every:
                if law in broken or (law not in laws.CHEAP and number % EVERY):
                    continue
                if law is laws.vector and not orchestration_of(name).vector:
                    continue
                tried[law] += 1
                if problem := law(name, case, run):
                    broken[law] = problem, case
        except (EngineError, PluginError) as error:
            stopped = str(error), case  # type: ignore[assignment]
            break
        progress(number + 1, len(tried_cases))
    first = Verdict(law=ENDED, cases=runs, problem=stopped[0], case=stopped[1])
    never = ", ".join(f"{trait}=True" for trait in sorted(claimed))
    problem = f"traits say {never}, which no case shows" if never and not stopped[0] else ""
    return [
        first,
        *(
            Verdict(law=_sentence(law), cases=tried[law], problem=problem, case=case)
            for law in every
            for problem, case in [broken.get(law, ("", None))]
        ),
        Verdict(law=SHOWN, cases=0 if stopped[0] else runs, problem=problem),
    ]


@functools.cache
def _doubt(declared: Orchestration) -> str:
    """The first law that *declared* breaks in a few small cases; or nothing."""
    name = declared.name
    several = declared.traits.several_targets
    small = laws.small_cases(several_targets=several)
    few = itertools.takewhile(lambda case: case.tokens <= FEW_TOKENS, small)
    for number, case in enumerate([*few, *laws.larger_cases(FEW)]):
        try:
            run = laws.watched_run(name, case)
            every = number % EVERY == 0
            for law in (*laws.CHEAP, *((laws.repeatable, laws.reads) if every else ())):
                if problem := law(name, case, run):
                    return f"{_sentence(law)} (but: {problem.splitlines()[0]})"
        except (EngineError, PluginError) as error:
            return f"{ENDED} (but: {str(error).splitlines()[0]})"
    return ""


def doubts(names: Iterable[str]) -> list[str]:
    """A sentence on each orchestration of a plugin among *names* that breaks a law.

    Looks at a few small cases, which takes a fraction of a second; :func:`check` looks at more.
    """
    return [
        f"Do not trust the numbers of {declared.title}: {declared.name} breaks a law of dsim "
        f"check: {problem}."
        for declared in map(orchestration_of, dict.fromkeys(names))
        if not declared.is_own and (problem := _doubt(declared))
    ]


DEPLOYED: tuple[Law, ...] = (in_deployment, under_load)


def cases(name: str) -> list[Case]:
    """The cases that are tried, in order."""
    several = orchestration_of(name).traits.several_targets
    return [*laws.small_cases(several_targets=several), *laws.larger_cases(LARGER)]


def _sentence(law: Law) -> str:
    return (law.__doc__ or "").split("\n\n")[0].rstrip(".").replace("``", '"')


def _command(name: str, case: Case, dsim: str) -> str:
    """The command that shows *case*."""
    random = [
        f" --set {model}.latency_model={latency.model} --set {model}.latency_cv={latency.cv:g}"
        for model, latency in (("target", case.target), ("drafter", case.drafter))
        if not latency.is_constant
    ]
    return (
        f"see it: {dsim} simulate --algorithm {name} --repeats 1 --tokens {case.tokens} "
        f"--accepts {case.acceptance.traces[0]} --lookahead {case.lookahead} "
        f"--targets {case.targets} --target-latency {to_ms(case.target.latency_ns):g} "
        f"--drafter-latency {to_ms(case.drafter.latency_ns):g}{''.join(random)}"
        f"{'' if case.preemptible else ' --no-preemptible'} --timeline timeline.html"
    )


def _study(name: str, case: Case, dsim: str) -> list[str]:
    """A study of several requests like *case*, and the command that runs it."""
    bits = case.acceptance.traces[0]
    settings = {
        "algorithms": f'["{name}"]',
        "tokens": case.tokens,
        "lookahead": case.lookahead,
        "targets": case.targets,
        "preemptible": f"{case.preemptible}".lower(),
        "acceptance.rate": f"{bits.count('1') / len(bits):g}",
        "target.latency_ms": f"{to_ms(case.target.latency_ns):g}",
        "drafter.latency_ms": f"{to_ms(case.drafter.latency_ns):g}",
        "cluster.targets": case.targets,
        "workload": f'{{ arrivals = "closed", users = {REQUESTS}, requests = {REQUESTS} }}',
    }
    lines = [f"  {key} = {value}" for key, value in settings.items()]
    return [f"see it: {dsim} run {name}.toml, with {name}.toml of", *lines]


def lines(name: str, verdicts: list[Verdict], plugin: str = "") -> list[str]:
    """What ``dsim check`` prints of *verdicts*: one line per law, and the smallest counterexample.

    Args:
        name: name of the orchestration.
        verdicts: from :func:`check`.
        plugin: what ``--plugin`` takes, for the command that shows a counterexample.
    """
    told = [f"{orchestration_of(name).title} ({name})"]
    kept = "so far" if verdicts[0].problem else "kept"
    for one in verdicts:
        mark = "BROKEN" if one.problem else kept if one.cases else "not tried"
        told.append(f"  {mark:9}  {one.law}")
        told += [f"             {line}" for line in one.problem.splitlines()]
        if one.case is None:
            continue
        dsim = f"dsim --plugin {plugin}" if plugin else "dsim"
        deployed = one.law in map(_sentence, DEPLOYED)
        shown = _study(name, one.case, dsim) if deployed else [_command(name, one.case, dsim)]
        told += [f"             {line}" for line in shown]
    count = sum(bool(one.problem) for one in verdicts)
    tried = max(one.cases for one in verdicts)
    told.append(f"  {count} of {len(verdicts)} laws broken; {tried:,} cases tried")
    if verdicts[0].problem:
        told.append("  so far: kept in the cases before the one that ended it")
    return told
