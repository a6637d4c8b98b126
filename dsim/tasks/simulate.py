"""What ``dsim simulate`` shows of one case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dsim.engines.simulate import VECTOR_TAKES, engine_for, run_events, simulate_case
from dsim.errors import Problem, UserError
from dsim.model.latency import beyond_note
from dsim.model.statistics import half_width, summarise
from dsim.orchestrations import COMPARED, ORCHESTRATIONS, REFERENCES, plugins, title_of
from dsim.orchestrations.blame import why_of
from dsim.report.tables import text_table
from dsim.study.build import case_of, falling_notes
from dsim.study.columns import BEYOND
from dsim.study.idle import RANK_SHARES, idle_settings, ranking, unread
from dsim.study.loader import make_study, of_one_case
from dsim.study.pairs import by_name
from dsim.study.presets import PRESETS
from dsim.study.settings import ALTERNATIVES
from dsim.words import listed, plural

SHORT_MS, FASTER = 0.2, 2000  # of a pass; times a draft is: probably seconds in place of ms
HARDLY = 1.005  # times the latency of the fastest: so little that it hardly counts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from dsim.engines.simulate import Outcome
    from dsim.model.acceptance import Acceptance
    from dsim.model.case import Case
    from dsim.model.latency import Latency
    from dsim.study.study import Study


def study_from(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> Study:
    """The study of the one case that *settings* describe; see :func:`case_in`.

    Args:
        settings: values by key. With ``acceptance.trace``, ``tokens`` is by default its length and
            ``repeats`` is 1.
        overrides: ``key=value`` texts, which win over *settings*.

    Raises:
        UserError: with a problem for each setting that is wrong.
    """
    values = dict(settings)
    trace = values.get("acceptance.trace")
    if isinstance(trace, str):
        if not trace or set(trace) - {*"0123456789"}:
            bad = next((repr(c) for c in trace if c not in "0123456789"), "nothing")
            what = f"expected digits (1 accepted, 0 rejected), got {bad}"
            raise UserError(Problem("settings", "acceptance.trace", what))
        values.setdefault("tokens", len(trace))
        values.setdefault("repeats", 1)
        values["acceptance.model"] = "trace"
        if len(trace) < values["tokens"]:
            what = f"expected at least {values['tokens']} draws (tokens), got {len(trace)}"
            raise UserError(Problem("settings", "acceptance.trace", what))
    study = make_study(of_one_case(values, overrides), overrides)
    if study.grid:
        raise UserError(Problem("--set", "grid", "one case has no grid; use dsim run"))
    if study.settings["backend"] == "wallclock":
        what = "one case is simulated; use dsim run --backend wallclock, or dsim validate"
        raise UserError(Problem("--set", "backend", what))
    return study


def said_twice(named: Mapping[str, str], overrides: Sequence[str]) -> list[Problem]:
    """A problem for each of *overrides* that says again, or otherwise, what is *named* already.

    Args:
        named: what people called each setting that they gave by other means, by key.
        overrides: ``key=value`` texts.
    """
    given = {text.partition("=")[0].strip(): text for text in overrides}
    return [
        Problem(name, "", f"cannot be given together with {given[other]}")
        for key, name in named.items()
        for other in (key, *ALTERNATIVES.get(key, ()))
        if other in given
    ]


def case_in(study: Study) -> Case:
    """The one case of a study of :func:`study_from`.

    Raises:
        UserError: with a problem for each setting that is wrong.
    """
    return case_of(study.of_variant(0))


def without_effect(
    study: Study, algorithms: Sequence[str], given: Collection[str] = ()
) -> list[str]:
    """Sentences on settings of a study of :func:`study_from` that change nothing.

    Args:
        study: the study.
        algorithms: names.
        given: the settings that people gave themselves, without those of a pair of models.
    """
    told = idle_settings([study.of_variant(0) | {"algorithms": algorithms}], {})
    return told + (unread(RANK_SHARES, algorithms) if RANK_SHARES in given else [])


def pair_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the pair *name*, but for what is *given* otherwise.

    Raises:
        UserError: there is no such pair, or models are given by name as well.
    """
    if "target.model" in given or "drafter.model" in given:
        what = "goes without --target and --drafter: it says both models"
        raise UserError(Problem("--pair", "", what))
    profile = by_name(name)
    other = {"acceptance.rate"} if "acceptance.trace" in given else set()
    return profile.settings({*given, *other})


def in_order(algorithms: Sequence[str], method: str = "") -> list[str]:
    """*algorithms*, or by default those that are always compared, in the registry's order.

    Args:
        algorithms: what was asked for; if nothing was, those of plugins are compared, too.
        method: a method whose orchestration is compared as well, if there is one.
    """
    wanted = set(algorithms or (*COMPARED, *plugins.orchestrations()))
    if method:
        wanted.add(PRESETS[method].orchestration)
    return [name for name in ORCHESTRATIONS if name in wanted]


def outcomes(
    case: Case,
    algorithms: Sequence[str],
    engine: str,
    progress: Callable[[float, float], None] = lambda *_: None,
) -> list[Outcome]:
    """Simulate *case* by each of *algorithms*.

    Args:
        case: the case.
        algorithms: their names.
        engine: ``auto``, ``vector`` or ``events``.
        progress: called with how many repeats are done, of all algorithms, and how many there are.

    Raises:
        UserError: the vector engine cannot take one of them.
    """
    for name in algorithms:
        if engine == "vector" and engine_for(case, [name]) != engine:
            what = f'"vector" takes {VECTOR_TAKES} only, and cannot take {name} here'
            raise UserError(Problem("--engine", "", what))
    found, count = [], case.repeats * len(algorithms)
    for number, algorithm in enumerate(algorithms):
        before = number * case.repeats

        def more(repeats: int, before: int = before) -> None:
            progress(before + repeats, count)

        more(0)
        found.append(simulate_case(case, algorithm, engine, more))
    return found


def as_json(case: Case, results: Sequence[Outcome], *, settled: bool) -> str:
    """One JSON object; counts are means over the repeats."""
    cases = []
    tables = "table" in (case.target.model, case.drafter.model)
    for outcome in results:
        mean, std, low, high = (values[0] for values in summarise(outcome.latency_ns[None, :]))
        cases.append(
            {
                "algorithm": outcome.algorithm,
                "engine": outcome.engine,
                "tokens": case.tokens,
                "lookahead": case.lookahead,
                "targets": case.targets,
                "latency_ms": {"mean": mean, "std": std, "min": low, "max": high},
                "latency_ns": outcome.latency_ns.tolist(),
                **({"settled_ns": outcome.settled_ns.tolist()} if settled else {}),
                "target_passes": _mean(outcome.target_passes),
                "drafts": _mean(outcome.drafts),
                "wasted_passes": _mean(outcome.wasted_passes),
                "wasted_drafts": _mean(outcome.wasted_drafts),
                "peak_targets": int(outcome.peak_targets.max()),
                **({BEYOND.name: outcome.beyond_share} if tables else {}),
            }
        )
    return json.dumps({"cases": cases})


def _mean(values: Any) -> int | float:
    mean = float(values.mean())
    return int(mean) if mean.is_integer() else mean


def as_text(case: Case, results: Sequence[Outcome]) -> str:
    """A table for people, and who won."""
    mean = {o.algorithm: float(o.latency_ns.mean()) for o in results}
    texts = case.acceptance.texts(case.repeats)
    head = ["", "latency", "per token"]
    references = [name for name in REFERENCES if name in mean and len(mean) > 1]
    head += [f"vs {title_of(name)}" for name in references]
    head += ["passes", "(wasted)", "drafts", "(wasted)", "busy"]
    rows = []
    for outcome in results:
        average, std, _, _ = (values[0] for values in summarise(outcome.latency_ns[None, :]))
        latency = f"{average:.1f}"
        if texts > 1:
            latency += f" ± {half_width(std, case.repeats, texts):.1f}"
        rows.append(
            [
                title_of(outcome.algorithm),
                latency + " ms",
                f"{average / case.tokens:.2f} ms",
                *(f"{mean[name] / mean[outcome.algorithm]:.2f}×" for name in references),
                f"{outcome.target_passes.mean():.1f}",
                f"{outcome.wasted_passes.mean():.1f}",
                f"{outcome.drafts.mean():.1f}",
                f"{outcome.wasted_drafts.mean():.1f}",
                str(int(outcome.peak_targets.max())),
            ]
        )
    engines = ", ".join(sorted({o.engine for o in results}))
    overlap = [o for o in results if ORCHESTRATIONS[o.algorithm].traits.overlaps]
    who = "every drafter" if case.more_drafters else "the drafter"
    own = f"; {who} has a server of its own, beside these" if overlap else ""
    replayed = f" of {plural(texts, 'recorded text')}" if texts < case.repeats else ""
    return "\n".join(
        [
            describe(case, [one.algorithm for one in results]),
            "",
            *text_table(head, rows),
            "",
            f"latency: time to the last token, mean{' ± 95 % interval' if texts > 1 else ''}"
            f" over {plural(case.repeats, 'repeat')}{replayed} ({engines} engine); "
            f"busy: most target servers busy at once{own}",
            "",
            verdict(case, results),
            *falling_notes({"target": case.target, "drafter": case.drafter}),
            *filter(None, [beyond_note(max(o.beyond_share for o in results), "these runs")]),
            *_odd_units(case),
            *_without_further_drafters(case, results),
            *_without_second_choices(case, results),
        ]
    )


def _odd_units(case: Case) -> list[str]:
    """A note where a latency looks as if it were in seconds."""
    target, drafter = (one.latency_ns / 1e6 for one in (case.target, case.drafter))
    found = [("target", target)] if target < SHORT_MS else []
    found += [("drafter", drafter)] if drafter * FASTER < target else []
    return [
        f"Latencies are in ms; the {name}'s is {ms:g}. If that is in seconds, say {1000 * ms:g}."
        for name, ms in found
    ]


def _without_further_drafters(case: Case, results: Sequence[Outcome]) -> list[str]:
    """A note for each orchestration that makes no sense without further drafters."""
    if case.more_drafters:
        return []
    return [
        f"{title_of(one.algorithm)} has no further drafters here, so only the first one drafts; "
        "add some: --set more_drafters.latency_ms=[6] --set more_drafters.acceptance_rate=[0.9]"
        for one in results
        if ORCHESTRATIONS[one.algorithm].traits.needs_further
    ]


def _without_second_choices(case: Case, results: Sequence[Outcome]) -> list[str]:
    """A note if some orchestrations look for second choices, and no chance for them is given."""
    if case.acceptance.has_second:
        return []
    names = ranking(one.algorithm for one in results)
    if not names:
        return []
    return [
        f"{names}: the drafter's second choices are never right here; say how often "
        "they are: --rank-shares 0.45,0.2"
    ]


def _in_words(acceptance: Acceptance) -> str:
    """How drafts fare."""
    if acceptance.model == "trace":
        return "recorded draws"
    if acceptance.model == "lookup":
        return f"look-ups, right at {acceptance.copied_rate:g} in copied stretches"
    if acceptance.by_depth:
        return f"acceptance {', '.join(f'{rate:g}' for rate in acceptance.by_depth)} by depth"
    more = {
        "decay": f", times {acceptance.decay:g} for each further draft",
        "markov": f" in streaks (correlation {acceptance.correlation:g})",
        "phases": f" in phases (swing {acceptance.swing:g})",
    }
    spread = f", spread {acceptance.spread:g}" if acceptance.spread else ""
    return f"acceptance {acceptance.rate:g}{more.get(acceptance.model, '')}{spread}"


def _spread(latency: Latency) -> str:
    """A latency in words: how long, and how it varies."""
    how = {
        "constant": "",
        "table": " and more for wider passes (a table)",
        "empirical": f" in the mean ({len(latency.samples_ns)} samples)",
    }.get(latency.model, f" in the mean ({latency.model}, cv {latency.cv:g})")
    return f"{latency.latency_ns / 1e6:g} ms{how}"


def describe(case: Case, algorithms: Sequence[str]) -> str:
    """The case in one line, with what *algorithms* make of it."""
    acceptance = _in_words(case.acceptance)
    drafters = [f"{d.latency.latency_ns / 1e6:g} ms at {d.rate:g}" for d in case.more_drafters]
    more = f"; further drafters: {', '.join(drafters)}" if drafters else ""
    if any("tree.nodes" in ORCHESTRATIONS[name].reads for name in algorithms):
        shape = case.tree
        limit = f", at most {plural(shape.nodes, 'node')}" if shape.nodes else ""
        grown = f"{shape.branches} branches, depth {shape.depth}{limit}"
        more += f"; tree: {f'{len(shape.paths)} paths' if shape.paths else grown}"
        if not shape.paths:  # what decides which nodes are kept
            more += f", confidence quality {case.policy.quality:g}"
    return (
        f"{case.tokens} token{'s' if case.tokens > 1 else ''}; "
        f"target {_spread(case.target)}, drafter {_spread(case.drafter)}, {acceptance}; "
        f"lookahead {case.lookahead}{case.policy.in_words}, "
        f"{case.targets} target server{'s' if case.targets > 1 else ''}"
        f"{'' if case.preemptible else ', not preemptible'}{more}"
    )


def verdict(case: Case, results: Sequence[Outcome]) -> str:
    """Which algorithm is fastest, and why, in words."""
    mean = {o.algorithm: float(o.latency_ns.mean()) for o in results}
    if len(mean) == 1:
        return f"Nothing to compare: only {title_of(next(iter(mean)))} was simulated."
    least = min(mean.values())
    winners = [name for name in mean if mean[name] == least]
    if len(winners) > 1:
        names = listed([title_of(name) for name in winners])
        return f"{names} are equally fast: {_why_equal(case, winners)}"
    (winner,) = winners
    others = {name: value / least for name, value in mean.items() if name != winner}
    close = _close(case, winner, results)
    clear = [name for name in others if name not in close]
    title = title_of(winner)

    def by(names: Sequence[str]) -> str:
        return listed([f"{others[name]:.2f}× as fast as {title_of(name)}" for name in names])

    chance = " within the 95 % interval" if case.repeats > 1 else " so little that it hardly counts"
    if not clear:
        return f"{title} is fastest, {by([*others])}, but{' by' * (case.repeats < 2)}{chance}."
    if case.repeats == 1 and 0 < case.acceptance.rate < 1 and case.acceptance.model != "trace":
        why = " in this one repeat; --repeats 20 tells whether that is chance"
    else:
        reason = why_of(winner, case, others.keys())
        why = f": {reason}" if reason else ""
    found = f"{title} is fastest, {by(clear)}{why}."
    return f"{found} It is only {by(close)},{chance}." if close else found


def _close(case: Case, winner: str, results: Sequence[Outcome]) -> list[str]:
    """The algorithms that are slower than *winner* by so little that it may be chance.

    Repeats are compared in pairs: all algorithms have the same draws in each.
    """
    own = {one.algorithm: one.latency_ns for one in results}
    texts = case.acceptance.texts(case.repeats)
    found = []
    for name, latency_ns in own.items():
        if name == winner:
            continue
        more = latency_ns - own[winner]
        half = half_width(float(more.std(ddof=1)), len(more), texts) if texts > 1 else 0.0
        if more.mean() <= half or latency_ns.mean() < HARDLY * own[winner].mean():
            found.append(name)
    return found


def _why_equal(case: Case, winners: Sequence[str]) -> str:
    if case.tokens == 1:
        return "one token takes one pass and no draft."
    if case.drafter.latency_ns > case.target.latency_ns:
        return "the drafter is slower than the target, so drafts come too late to be of use."
    traits = {name: ORCHESTRATIONS[name].traits for name in winners}
    if not all(one.drafts for one in traits.values()):
        return "no draft saved a pass, and the drafting cost no time."
    earlier = " and ".join(title_of(name) for name, one in traits.items() if one.overlaps)
    sooner = earlier and not all(one.overlaps for one in traits.values())
    also = f", though tokens may have settled earlier by {earlier}" if sooner else ""
    return f"their last passes end at the same time{also}."


def write_timeline(case: Case, algorithms: Sequence[str], path: Path) -> None:
    """Write a page that shows the first repeat of *case*: who did what when.

    Raises:
        UserError: the file cannot be written.
    """
    from dsim.report import page, timeline

    runs = {a: run_events(case, a, 0, keep_history=True) for a in algorithms}
    latency_ms = {a: run.output.settled_ns[-1] / 1e6 for a, run in runs.items()}
    panels = [
        timeline.panel(
            f"{number:02d}-timeline-{algorithm}",
            f"{title_of(algorithm)}: {latency_ms[algorithm]:.1f} ms",
            run,
            max(latency_ms.values()),
        )
        for number, (algorithm, run) in enumerate(runs.items(), 1)
    ]
    facts = [(title_of(algorithm), f"{ms:.1f} ms") for algorithm, ms in latency_ms.items()]
    description = describe(case, list(runs)) + ". First repeat."
    made = page.Page(title="Who did what when", description=description, facts=facts)
    page.write(path, made, panels, option="--timeline", wide=True)
