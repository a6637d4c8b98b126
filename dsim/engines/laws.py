"""The laws that every orchestration obeys, whatever it is; ``dsim check`` and the tests hold them.

A law is a function of an orchestration's name, a case and a finished run of it (with history, on
the watched backend); it returns what is wrong, or nothing.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import numpy as np

from dsim.engines import simulate
from dsim.engines.watched import Watched, wrong_token
from dsim.errors import PluginError
from dsim.events.trace import busy_times
from dsim.model.acceptance import DEEPER, Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from dsim.model.script import script_of
from dsim.orchestrations import COMPARED, REFERENCES, orchestration_of
from dsim.orchestrations.blame import why_of, work_of
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dsim.events.forward import Forward
    from dsim.events.run import Run
    from dsim.events.trace import Busy

    Law = Callable[[str, Case, Run], str]

NS = 1_000_000  # the unit of latency of small cases: 1 ms
MAX_SMALL_TOKENS = 6
LONG = 10  # of so many larger cases one is long, in long blocks
UNEVEN, CV = 3, 0.5  # of so many larger cases one has random latencies; how much these vary


def whole_text(_: str, case: Case, run: Run) -> str:
    """The whole text is generated: each token is settled once, in order."""
    output = run.output
    if not output.settled == len(output.settled_ns) == case.tokens:
        found = f"{output.settled} settled tokens, {len(output.settled_ns)} settle times"
        return f"expected {case.tokens} of each, got {found}"
    if output.settled_ns != sorted(output.settled_ns):
        return f"settle times fall: {_ms(output.settled_ns)}"
    return ""


def verified(_: str, __: Case, run: Run) -> str:
    """Every token is settled by a target pass that has ended and covers its position."""
    ended = [
        (forward.first, _judges_up_to(forward), forward.end_ns)
        for forward in run.target.history or ()
        if forward.is_pass and forward.end_ns >= 0 and not forward.cancelled
    ]
    for position, at in enumerate(run.output.settled_ns):
        if not any(first <= position <= end and over <= at for first, end, over in ended):
            return f"token {position} settled at {to_ms(at):g} ms; no pass had judged it by then"
    return ""


def _judges_up_to(forward: Forward) -> int:
    """The last position that a pass judges: behind its context, or behind the deepest node."""
    if forward.fed is None:
        return forward.end
    deepest: int = max(node.position for node in forward.fed)
    return deepest + 1


def lossless(name: str, case: Case, run: Run) -> str:
    """A draft stays where the target agrees, and nowhere else."""
    if orchestration_of(name).traits.further_drafters and case.more_drafters:
        return ""  # another drafter may have been right
    accepts = [bit == "1" for bit in case.acceptance.traces[0]]
    if wrong := [p for p in run.output.rejections if accepts[p]]:
        return f"rejected the draft of token {wrong[0]}, which the target accepts"
    if run.output.accepted > sum(accepts):
        return f"settled {run.output.accepted} drafts; the target accepts {sum(accepts)} positions"
    return ""


def asks(_: str, __: Case, run: Run) -> str:
    """A verdict is asked of an ended pass, about drafts of this text that were made before it."""
    watched = [one.backend for one in (run.target, run.drafter) if isinstance(one.backend, Watched)]
    return next((problem for one in watched for problem in one.problems), "")


def own_text(_: str, __: Case, run: Run) -> str:
    """The text is the target's own: what is settled is what a verdict said."""
    return wrong_token(run.output) if isinstance(run.target.backend, Watched) else ""


def servers(name: str, case: Case, run: Run) -> str:
    """No more servers are used than there are, and each does one thing at a time."""
    passes, wasted, drafts, wasted_drafts, peak = run.counts
    most = case.targets if orchestration_of(name).traits.several_targets else 1
    if not 1 <= peak <= most:
        return f"{peak} target servers were busy at once; there are {most}"
    if not 1 <= passes - wasted <= case.tokens:
        return f"{passes} passes, of which {wasted} were wasted, for {case.tokens} tokens"
    if not 0 <= wasted_drafts <= drafts:
        return f"{wasted_drafts} of {drafts} drafts were wasted"
    ordered = sorted(_busy(run), key=lambda busy: busy[:3])
    for lane, forwards in itertools.groupby(ordered, key=lambda busy: busy.lane):
        for before, after in itertools.pairwise(forwards):
            if after.start_ns < before.end_ns:
                at = to_ms(after.start_ns)
                return f"{lane} begins another forward at {at:g} ms, while it is busy"
    return ""


def _busy(run: Run) -> list[Busy]:
    return busy_times(run.output, run.drafter, *run.more_drafters, run.target)


def traits(name: str, _: Case, run: Run) -> str:
    """It does what its traits say: drafts at all, drafts while passes run."""
    declared = orchestration_of(name).traits
    drafts = sum(one.begun for one in (run.drafter, *run.more_drafters))
    if drafts and not declared.drafts:
        return f"{drafts} drafts were made, but traits say drafts=False"
    if not declared.overlaps and (at_ns := _overlap_ns(run)) is not None:
        at = f"{to_ms(at_ns):g} ms"
        return f"a draft and a pass overlap at {at}, but traits say overlaps=False"
    return ""


def _overlap_ns(run: Run) -> int | None:
    """The first instant at which a pass and another forward are under way at once, if any is."""
    ends: dict[str, int] = {}  # by lane
    for lane, start_ns, end_ns, _ in _busy(run):
        if end_ns == start_ns:
            continue
        is_pass = lane.startswith("target")
        for other, until_ns in ends.items():
            if until_ns > start_ns and other != lane and (is_pass or other.startswith("target")):
                return start_ns
        ends[lane] = end_ns
    return None


def claims(name: str) -> set[str]:
    """The traits of an orchestration of which some case has to show that they hold."""
    declared = orchestration_of(name).traits
    return {
        trait for trait in ("drafts", "overlaps", "several_targets") if getattr(declared, trait)
    }


def shown(run: Run) -> set[str]:
    """Those of these traits that *run* shows."""
    drafts = any(one.begun for one in (run.drafter, *run.more_drafters))
    found = {"drafts": drafts, "overlaps": drafts and _overlap_ns(run) is not None}
    found["several_targets"] = run.counts[-1] > 1
    return {trait for trait, is_shown in found.items() if is_shown}


def work(name: str, case: Case, run: Run) -> str:
    """It does no less work than it declares (the offered load of a deployment counts that)."""
    if case.has_first:
        return ""
    script = script_of(case, _draws(case), 0)
    try:
        declared = work_of(name, script)
    except PluginError as error:
        return str(error)
    done, drafts = run.target.begun, run.counts[2]
    if declared.exact and (len(declared.widths), declared.drafts) != (done, drafts):
        told = f"{len(declared.widths)} passes and {declared.drafts} drafts"
        return f"declares exactly {told}, but did {done} and {drafts}"
    slow = case.drafter.latency_ns > case.target.latency_ns
    if not declared.exact and len(declared.widths) > done and not slow:
        return f"declares at least {len(declared.widths)} passes, but did {done}"
    return ""


def reason(name: str, case: Case, _: Run) -> str:
    """The reason that it gives for being the fastest, if it gives one, is words."""
    try:
        for others in ({*COMPARED} - {name}, REFERENCES[:1]):
            why_of(name, case, others)
    except PluginError as error:
        return str(error)
    return ""


def repeatable(name: str, case: Case, run: Run) -> str:
    """The same case gives the same run again."""
    again = simulate.run_events(case, name, 0, _draws(case))
    same = (again.output.settled_ns, again.counts) == (run.output.settled_ns, run.counts)
    return "" if same else f"settled at {_ms(run.output.settled_ns)}, then at {_ms_of(again)}"


def by_depth(name: str, case: Case, run: Run) -> str:
    """Rates that go by depth, and are alike at each depth, make no difference."""
    bits = case.acceptance.traces[0]
    alike = Acceptance(model="trace", traces=(bits + DEEPER + bits,))
    deep = simulate.run_events(dataclasses.replace(case, acceptance=alike), name, 0)
    same = deep.output.settled_ns == run.output.settled_ns
    return "" if same else f"settled at {_ms(run.output.settled_ns)}; by depth at {_ms_of(deep)}"


def reads(name: str, case: Case, run: Run) -> str:
    """Settings that it does not declare in ``reads`` make no difference."""
    declared = orchestration_of(name).reads
    for key, changed in (
        ("lookahead", {"lookahead": case.lookahead + 1}),
        ("targets", {"targets": case.targets + 1}),
        ("preemptible", {"preemptible": not case.preemptible}),
        ("lookahead_policy", {"policy": Policy(name="aimd", most=case.lookahead + 1)}),
    ):
        if key in declared:
            continue
        other = simulate.run_events(dataclasses.replace(case, **changed), name, 0, _draws(case))
        if other.output.settled_ns != run.output.settled_ns:
            value = f"{key} = {changed.get(key, 'aimd')}"
            return (
                f'"{key}" is not in reads, but with {value} tokens settle at {_ms_of(other)}, '
                f"and in the case that is shown at {_ms_of(run)}"
            )
    return ""


def vector(name: str, case: Case, run: Run) -> str:
    """Its vector form, if it has one, agrees with the event engine in every settle time."""
    if simulate.engine_for(case, [name]) != "vector":
        return ""
    found = simulate.simulate_case(case, name, "vector").settled_ns[0].tolist()
    same = found == run.output.settled_ns
    return "" if same else f"events: {_ms(run.output.settled_ns)}; vector: {_ms(found)}"


def watched_run(name: str, case: Case) -> Run:
    """The run of *case* that laws are held against."""
    return simulate.run_events(case, name, 0, _draws(case), keep_history=True, behind=Watched)


CHEAP: tuple[Law, ...] = (whole_text, asks, own_text, verified, lossless, servers, traits, work)
DEAR: tuple[Law, ...] = (
    repeatable,
    by_depth,
    reads,
    reason,
    vector,
)  # each of them runs the case again


def small_cases(*, several_targets: bool) -> Iterator[Case]:
    """Every small case, the smallest first: so the first that breaks a law is the smallest."""
    latencies = ((1, 3), (1, 1), (2, 3), (3, 2))
    for tokens in range(1, MAX_SMALL_TOKENS + 1):
        lookaheads = range(1, max(3, tokens - 1) + 1)  # longer ones are cut short by the text
        for (lookahead, targets), (drafter, target), bits, preemptible in itertools.product(
            itertools.product(lookaheads, (1, 2, 4) if several_targets else (1,)),
            latencies,
            itertools.product("10", repeat=tokens),
            (True, False),
        ):
            yield case_of("".join(bits), drafter, target, lookahead, targets, preemptible)


def larger_cases(count: int) -> Iterator[Case]:
    """Random cases of up to 40 tokens, some of up to 400 in blocks of up to 64.

    Where latencies are random, too, passes end in another order than they began. The cases are the
    same ones each time.
    """
    draw = np.random.default_rng(0)
    for number in range(count):
        tokens = draw.integers(6, 41) if number % LONG else draw.integers(100, 401)
        bits = "".join("01"[int(b)] for b in draw.random(tokens) < draw.random())
        drafter, target, lookahead, targets = (int(draw.integers(1, most)) for most in (9, 9, 9, 7))
        if number % LONG == 0:
            lookahead = int(draw.integers(10, 65))
        case = case_of(bits, drafter, target, lookahead, targets, bool(draw.integers(2)))
        yield _uneven(case) if number % UNEVEN == 0 else case


def _uneven(case: Case) -> Case:
    """The same with random latencies, of the same means."""
    target, drafter = (
        dataclasses.replace(latency, model="gamma", cv=CV)
        for latency in (case.target, case.drafter)
    )
    return dataclasses.replace(case, target=target, drafter=drafter)


def case_of(
    bits: str, drafter: int, target: int, lookahead: int, targets: int, preemptible: bool
) -> Case:
    """A case of one text.

    Args:
        bits: ``1`` for each position whose draft the target accepts, else ``0``.
        drafter: latency of a draft, in ms.
        target: latency of a pass, in ms.
        lookahead: drafts per block.
        targets: number of target servers.
        preemptible: whether a cancelled pass frees its server at once.
    """
    return Case(
        tokens=len(bits),
        lookahead=lookahead,
        targets=targets,
        target=Latency(latency_ns=target * NS),
        drafter=Latency(latency_ns=drafter * NS),
        acceptance=Acceptance(model="trace", traces=(bits,)),
        repeats=1,
        seed=0,
        preemptible=preemptible,
    )


def _draws(case: Case) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([bit == "1" for bit in case.acceptance.traces[0]])


def _ms(times_ns: list[int]) -> str:
    return " ".join(f"{to_ms(ns):g}" for ns in times_ns) + " ms"


def _ms_of(run: Run) -> str:
    return _ms(run.output.settled_ns)
