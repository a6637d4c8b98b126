"""What is right in a study only together with other settings of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.model.drafters import MAX_MORE
from dsim.orchestrations import ORCHESTRATIONS, REFERENCES, may_read, title_of
from dsim.study.columns import COLUMNS
from dsim.study.draft_checks import check_drafts
from dsim.study.settings import BY_KEY, OWN_LATENCIES
from dsim.units import NS_PER_MS
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.setting import Problems
    from dsim.study.study import Study


MAX_DRAWS = 50_000_000  # of one case, all repeats together
MAX_NS = 2**53  # up to there whole numbers are exact in float64, too: 104 days


def check_charts(problems: Problems, study: Study) -> None:
    """The charts of a study of single texts draw what there is."""
    axes = {axis.key for axis in study.grid} - set(study.settings["minimise"])
    algorithms = study.settings["algorithms"]
    columns = [column.name for column in COLUMNS if column.kind == "outcome"]
    for number, chart in enumerate(study.charts):
        where = f"charts[{number}]"
        if chart.kind == "published":
            if chart.x != "variant" or not study.variants[0][0]:
                problems.add(f"{where}.x", 'expected "variant", and variants in the study')
            if chart.y != "speedup_vs_si":
                problems.add(f"{where}.y", f'expected "speedup_vs_si", got {show(chart.y)}')
            continue
        if chart.kind == "variants":
            if chart.x != "variant" or not study.variants[0][0]:
                problems.add(f"{where}.x", 'expected "variant", and variants in the study')
        elif chart.x not in axes:
            hint = nearest(chart.x, sorted(axes))
            hint = '; of variants: kind = "variants"' if chart.x == "variant" else hint
            what = "expected an axis of the grid that is not minimised over"
            problems.add(f"{where}.x", f"{what}, got {show(chart.x)}{hint}")
        if chart.kind in ("heatmap", "map", "winners"):
            if chart.y not in axes or chart.y == chart.x:
                problems.add(
                    f"{where}.y",
                    f"expected another axis of the grid, got {show(chart.y)}"
                    f"{nearest(chart.y, sorted(axes - {chart.x}))}",
                )
            for name, key in (("x", chart.x), ("y", chart.y)):
                if key in axes and BY_KEY[key].type not in ("int", "float"):
                    problems.add(f"{where}.{name}", f"{show(key)} is no axis of numbers")
            if chart.kind == "winners":
                if len(algorithms) < 2:
                    problems.add(where, "needs two algorithms or more")
                if chart.value not in ("lookahead", "latency_mean_ms", "per_device"):
                    what = f"expected latency_mean_ms or per_device, got {show(chart.value)}"
                    problems.add(f"{where}.value", what)
                continue
            if chart.kind == "map":
                check_algorithms(problems, where, {chart.show}, algorithms)
                if chart.value not in (known := ["lookahead", *columns]):
                    problems.add(
                        f"{where}.value",
                        f"expected a column of the results, got {show(chart.value)}"
                        f"{nearest(chart.value, known)}",
                    )
                elif chart.value == "lookahead" and not may_read(chart.show, "lookahead"):
                    what = f"expected a column of the results: {title_of(chart.show)} reads no "
                    problems.add(f"{where}.value", f"{what}lookahead, and so has no best one")
                continue
            needed = set(REFERENCES) if chart.against == "best" else {chart.against}
            check_algorithms(problems, where, {chart.show} | needed, algorithms)
            continue
        if chart.y.startswith("speedup_vs_"):
            check_algorithms(problems, where, {chart.y.removeprefix("speedup_vs_")}, algorithms)
        if chart.kind == "marginal":
            check_algorithms(problems, where, {chart.show}, algorithms)
        if chart.y not in columns:
            problems.add(
                f"{where}.y",
                f"expected a column of the results, got {show(chart.y)}{nearest(chart.y, columns)}",
            )


def check_algorithms(
    problems: Problems, where: str, needed: set[str], algorithms: list[str]
) -> None:
    """A chart has the algorithms that it draws."""
    missing = needed & ORCHESTRATIONS.keys() - set(algorithms)
    if missing:
        problems.add(where, f"needs the algorithm {', '.join(sorted(missing))}")


def check_once(problems: Problems, where: str, algorithms: Sequence[str]) -> None:
    """No algorithm is there twice."""
    twice = next((name for n, name in enumerate(algorithms) if name in algorithms[:n]), None)
    if twice is not None:
        problems.add(f"{where}algorithms", f'"{twice}" is there twice')


def check_together(problems: Problems, study: Study) -> None:
    """What is right only together with other settings."""
    limit = study.settings["max_cases"]
    if study.case_count > limit:
        longest = max(study.grid, key=lambda axis: len(axis.values))
        problems.add(
            "grid",
            f"makes {study.case_count:,} cases, more than max_cases = {limit:,}; "
            f"grid.{longest.key} has {len(longest.values):,} values, "
            "which is the first thing to cut",
        )
        return
    swept = {axis.key: axis.values for axis in study.grid}
    for number, (name, own) in enumerate(study.variants):
        where = f"variants[{number}]." if name else ""
        values = {k: (v,) for k, v in study.of_variant(number).items()} | swept
        check_once(problems, where, values["algorithms"][0])
        for model in ("target", "drafter"):
            for kind, needs in (
                ("lognormal", "latency_cv"),
                ("gamma", "latency_cv"),
                *OWN_LATENCIES.items(),
            ):
                key = f"{model}.{needs}"
                if kind in values[f"{model}.latency_model"] and values[key] == (None,):
                    at = f"{where if any(k.startswith(model) for k in own) else ''}{key}"
                    problems.add(at, f'is missing: the latency model is "{kind}"')
            key, kinds = f"{model}.latency_ms", values[f"{model}.latency_model"]
            for kind in OWN_LATENCIES if key in swept else ():
                if kind in kinds:
                    problems.add(
                        f"grid.{key}",
                        f'is an axis, but with {model}.latency_model = "{kind}" it has no effect: '
                        f"the latencies are those of {model}.{OWN_LATENCIES[kind]}",
                    )
        for kind, needs in (
            ("decay", "decay"),
            ("markov", "correlation"),
            ("phases", "swing"),
            ("trace", "trace"),
        ):
            key = f"acceptance.{needs}"
            if kind in values["acceptance.model"] and values[key] == (None,):
                problems.add(where + key, f'is missing: the acceptance model is "{kind}"')
        if "trace" in values["acceptance.model"] and max(values["acceptance.spread"]):
            problems.add(where + "acceptance.spread", "has no meaning for a trace")
        if "trace" in values["acceptance.model"] and values["acceptance.trace"] != (None,):
            (traces,) = values["acceptance.trace"]
            shortest = min(map(len, [traces] if isinstance(traces, str) else traces))
            if shortest < max(values["tokens"]):
                problems.add(
                    where + "acceptance.trace",
                    f"expected at least {max(values['tokens'])} draws (tokens), got {shortest}",
                )
        check_drafts(problems, where, values)
        given = _counts(values, "latency_ms") | _counts(values, "acceptance_rate") != {0}
        takes = {n: ORCHESTRATIONS[n].traits for n in values["algorithms"][0]}
        further = [n for n, t in takes.items() if t.needs_further or (t.further_drafters and given)]
        if further and not problems:
            check_drafters(problems, where, values, further[0])
        elif (
            not problems
            and len(_counts(values, "latency_ms") | _counts(values, "acceptance_rate")) > 1
        ):
            key = "more_drafters.latency_ms, more_drafters.acceptance_rate"
            problems.add(where + key, "expected as many of one as of the other")
        if study.settings.get("engine") == "vector" and (why := _needs_events(values)):
            what = "constant latencies, preemptible servers and a fixed lookahead only"
            problems.add("engine", f'"vector" takes {what}, but {why}')
        if study.settings.get("engine") == "vector" and study.settings["backend"] == "wallclock":
            problems.add("engine", '"vector" simulates; backend is "wallclock"')
        tokens, repeats = max(values["tokens"]), max(values["repeats"])
        if tokens * repeats > MAX_DRAWS:
            problems.add(
                where + "tokens",
                f"{tokens:,} tokens × {repeats:,} repeats are more than {MAX_DRAWS:,} draws",
            )
        if not problems and _longest_ns(values) > MAX_NS:
            problems.add(
                where + "tokens",
                f"{tokens:,} tokens may take over 104 days by the latencies that were given, "
                "more than dsim counts exactly; take fewer tokens or shorter latencies",
            )


def check_drafters(
    problems: Problems, where: str, values: Mapping[str, Sequence[Any]], algorithm: str
) -> None:
    """Each further drafter has a latency and an acceptance rate."""
    latencies = _counts(values, "latency_ms")
    rates = _counts(values, "acceptance_rate")
    for key, count in (("latency_ms", latencies), ("acceptance_rate", rates)):
        if 0 in count:
            what = f'is missing: the algorithms have "{algorithm}"'
            problems.add(f"{where}more_drafters.{key}", what)
    if not problems and (latencies != rates or len(latencies) > 1):
        problems.add(
            f"{where}more_drafters.acceptance_rate",
            f"expected one for each of more_drafters.latency_ms ({max(latencies)}), "
            f"got {max(rates)}",
        )
    if max(latencies) > MAX_MORE:
        problems.add(
            f"{where}more_drafters.latency_ms",
            f"expected at most {MAX_MORE} drafters, got {max(latencies)}",
        )


def _counts(values: Mapping[str, Sequence[Any]], key: str) -> set[int]:
    """How many further drafters the values of ``more_drafters.KEY`` are about."""
    return {
        0 if v is None else len(v) if isinstance(v, list) else 1
        for v in values[f"more_drafters.{key}"]
    }


def _longest_ns(values: Mapping[str, Sequence[Any]]) -> float:
    """An upper bound of a latency (ns) of any algorithm, where latencies are not random."""

    def longest_ms(model: str) -> float:
        by_name = {n: values[f"{model}.{n}"] for n in ("latency_ms", "first_latency_ms")}
        found = [v for column in by_name.values() for v in column if v is not None]
        for name in ("latency_samples_ms", "latency_by_width_ms"):
            for data in filter(None, values[f"{model}.{name}"]):
                found += [row[1] if isinstance(row, list) else row for row in data]
        ratios = [v for v in values[f"{model}.first_latency_ratio"] if v is not None]
        return float(max(found, default=0.0) * max([1.0, *ratios]))

    target_ms, drafter_ms = longest_ms("target"), longest_ms("drafter")
    parts = [v for v in values["drafter.latency_relative"] if v is not None]
    drafter_ms = max([drafter_ms, *(float(part) * target_ms for part in parts)])
    tokens = int(max(values["tokens"]))
    largest = ["lookahead", *(["lookahead_most"] if _grows(values) else [])]
    drafts = min(tokens, int(max(v for key in largest for v in values[key])))
    return float(tokens * (drafts * drafter_ms + target_ms) * NS_PER_MS)


def _by_depth(values: Mapping[str, Sequence[Any]]) -> bool:
    keys = ("acceptance.by_depth", "acceptance.per_position")
    return any(values[key] != (None,) for key in keys)


def _grows(values: Mapping[str, Sequence[Any]]) -> bool:
    return bool({"heuristic", "aimd"} & set(values["lookahead_policy"]))


def _needs_events(values: Mapping[str, Sequence[Any]]) -> str | None:
    for name in values["algorithms"][0]:
        if not ORCHESTRATIONS[name].vector:
            return f"algorithms has {show(name)}"
    for model in ("target", "drafter"):
        for kind in values[f"{model}.latency_model"]:
            if kind != "constant":
                return f'{model}.latency_model is "{kind}"'
    if max(values["patience"]) or max(values["drafter.block_tokens"]) > 1:
        return "patience or drafter.block_tokens is set"
    if "lookup" in values["acceptance.model"] or _by_depth(values):
        return "drafts do not fare alike at every depth, or are not always there"
    for policy in values["lookahead_policy"]:
        if policy != "fixed":
            return f'lookahead_policy is "{policy}"'
    return "preemptible is false" if False in values["preemptible"] else None
