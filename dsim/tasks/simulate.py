"""What ``dsim simulate`` shows of one case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dsim.engines.simulate import run_events, simulate_case
from dsim.errors import Problem, UserError
from dsim.model.statistics import half_width, summarise
from dsim.orchestrations import ORCHESTRATIONS
from dsim.report.tables import text_table
from dsim.study.build import case_of
from dsim.study.loader import make_study
from dsim.study.results import NAMES
from dsim.study.settings import ALGORITHMS, NAMED

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dsim.engines.simulate import Outcome
    from dsim.model.case import Case

DEFAULT_TOKENS, DEFAULT_REPEATS = 100, 20
# Which option stands for which setting.
OPTIONS = {
    "tokens": "tokens",
    "lookahead": "lookahead",
    "lookahead_policy": "lookahead_policy",
    "targets": "targets",
    "target_latency": "target.latency_ms",
    "drafter_latency": "drafter.latency_ms",
    "target_first_latency": "target.first_latency_ms",
    "drafter_first_latency": "drafter.first_latency_ms",
    "acceptance": "acceptance.rate",
    "accepts": "acceptance.trace",
    "repeats": "repeats",
    "seed": "seed",
    "preemptible": "preemptible",
    "engine": "engine",
}


def case_from_options(options: Mapping[str, Any], given: set[str]) -> tuple[Case, list[str]]:
    """The case and the algorithms that command-line options ask for.

    Args:
        options: the options' values by name.
        given: the names of those that were given.

    Raises:
        UserError: with a problem for each option that is wrong.
    """
    values = dict(options)
    accepts = values["accepts"]
    if accepts is not None:
        if "acceptance" in given:
            raise UserError("give either --acceptance or --accepts")
        if not accepts or set(accepts) - {"0", "1"}:
            bad = next((repr(c) for c in accepts if c not in "01"), "nothing")
            raise UserError(Problem("--accepts", "", f"expected 0 and 1, got {bad}"))
        values["tokens"] = values["tokens"] or len(accepts)
        values["repeats"] = values["repeats"] or 1
        if len(accepts) < values["tokens"]:
            raise UserError(
                Problem(
                    "--accepts",
                    "",
                    f"expected at least {values['tokens']} draws (--tokens), got {len(accepts)}",
                )
            )
    values["tokens"] = values["tokens"] or DEFAULT_TOKENS
    values["repeats"] = values["repeats"] or DEFAULT_REPEATS
    settings = {key: values[option] for option, key in OPTIONS.items()}
    if values["targets"].isdecimal():
        settings["targets"] = int(values["targets"])
    if accepts is not None:
        settings["acceptance.model"] = "trace"
    settings = {key: value for key, value in settings.items() if value is not None}
    try:
        study = make_study(settings, values["overrides"])
    except UserError as error:
        raise UserError(*(_by_option(problem) for problem in error.problems)) from None
    if study.grid:
        raise UserError(Problem("--set", "grid", "one case has no grid; use dsim run"))
    wanted = [a for a in NAMED if a in (values["algorithms"] or ALGORITHMS)]
    return case_of(study.of_variant(0)), wanted


def _by_option(problem: Problem | str) -> Problem | str:
    if isinstance(problem, str):
        return problem
    for option, key in OPTIONS.items():
        if problem.key == key:
            return Problem(f"--{option.replace('_', '-')}", "", problem.what)
    return problem._replace(source="--set") if problem.source == "settings" else problem


def outcomes(case: Case, algorithms: Sequence[str], engine: str) -> list[Outcome]:
    """Simulate *case* by each of *algorithms*."""
    return [simulate_case(case, algorithm, engine) for algorithm in algorithms]


def as_json(case: Case, results: Sequence[Outcome], *, settled: bool) -> str:
    """One JSON object; counts are means over the repeats."""
    cases = []
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
            }
        )
    return json.dumps({"cases": cases})


def _mean(values: Any) -> int | float:
    mean = float(values.mean())
    return int(mean) if mean.is_integer() else mean


def as_text(case: Case, results: Sequence[Outcome]) -> str:
    """A table for people, and who won."""
    mean = {o.algorithm: float(o.latency_ns.mean()) for o in results}
    head = ["", "latency", "per token"]
    references = [name for name in ("nonsi", "si") if name in mean and len(mean) > 1]
    head += [f"vs {NAMES[name]}" for name in references]
    head += ["passes", "(wasted)", "drafts", "(wasted)", "busy"]
    rows = []
    for outcome in results:
        average, std, _, _ = (values[0] for values in summarise(outcome.latency_ns[None, :]))
        latency = f"{average:.1f}"
        if case.repeats > 1:
            latency += f" ± {half_width(std, case.repeats):.1f}"
        rows.append(
            [
                NAMES[outcome.algorithm],
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
    return "\n".join(
        [
            describe(case),
            "",
            *text_table(head, rows),
            "",
            f"latency: time to the last token, mean{' ± 95 % interval' if case.repeats > 1 else ''}"
            f" over {case.repeats} repeat{'s' if case.repeats > 1 else ''} ({engines} engine); "
            "busy: most target servers at once",
            "",
            verdict(case, results),
        ]
    )


def describe(case: Case) -> str:
    """The case in one line."""
    t1, t2 = case.drafter.latency_ns / 1e6, case.target.latency_ns / 1e6
    acceptance = (
        "recorded draws"
        if case.acceptance.model == "trace"
        else f"acceptance {case.acceptance.rate:g}"
    )
    bound = "at most" if case.policy.name == "confidence" else "at first"
    adapting = f" {bound} ({case.policy.name})" if case.policy.adapts else ""
    drafters = [f"{d.latency.latency_ns / 1e6:g} ms at {d.rate:g}" for d in case.more_drafters]
    more = f"; further drafters: {', '.join(drafters)}" if drafters else ""
    return (
        f"{case.tokens} token{'s' if case.tokens > 1 else ''}; "
        f"target {t2:g} ms, drafter {t1:g} ms, {acceptance}; "
        f"lookahead {case.lookahead}{adapting}, "
        f"{case.targets} target server{'s' if case.targets > 1 else ''}"
        f"{'' if case.preemptible else ', not preemptible'}{more}"
    )


def verdict(case: Case, results: Sequence[Outcome]) -> str:
    """Which algorithm is fastest, and why, in words."""
    mean = {o.algorithm: float(o.latency_ns.mean()) for o in results}
    if len(mean) == 1:
        return f"Only {NAMES[next(iter(mean))]} ran, so there is nothing to compare."
    least = min(mean.values())
    winners = [name for name in mean if mean[name] == least]
    if len(winners) > 1:
        names = ", ".join(NAMES[name] for name in winners[:-1]) + f" and {NAMES[winners[-1]]}"
        return f"{names} are equally fast: {_why_equal(case, winners)}"
    (winner,) = winners
    others = {name: value / least for name, value in mean.items() if name != winner}
    by = " and ".join(f"{ratio:.2f}× as fast as {NAMES[name]}" for name, ratio in others.items())
    explain = ORCHESTRATIONS[winner].why
    if min(others.values()) < 1.005:
        why = ": but by so little that it hardly counts"
    else:
        why = f": {explain(case, others.keys())}" if explain else ""
    return f"{NAMES[winner]} is fastest, {by}{why}."


def _why_equal(case: Case, winners: Sequence[str]) -> str:
    if case.tokens == 1:
        return "one token takes one pass and no draft."
    if case.drafter.latency_ns > case.target.latency_ns:
        return "the drafter is slower than the target, so drafts come too late to be of use."
    traits = {name: ORCHESTRATIONS[name].traits for name in winners}
    if not all(one.drafts for one in traits.values()):
        return "no draft saved a pass, and the drafting cost no time."
    earlier = " and ".join(NAMES[name] for name, one in traits.items() if one.overlaps)
    also = f", though tokens may have settled earlier by {earlier}" if earlier else ""
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
            f"{NAMES[algorithm]}: {latency_ms[algorithm]:.1f} ms",
            run,
            max(latency_ms.values()),
        )
        for number, (algorithm, run) in enumerate(runs.items(), 1)
    ]
    facts = [(NAMES[algorithm], f"{ms:.1f} ms") for algorithm, ms in latency_ms.items()]
    description = describe(case) + ". First repeat."
    made = page.Page(title="Who did what when", description=description, facts=facts)
    page.write(path, made, panels, option="--timeline", wide=True)
