"""What is right in a study of a deployment only together with other settings of it."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from dsim.deployment.outages import further_role
from dsim.orchestrations import ORCHESTRATIONS
from dsim.study import outages
from dsim.study.build import at_number, replay_of
from dsim.study.checks import check_once
from dsim.study.columns import DEPLOYMENT_COLUMNS
from dsim.study.deployment_settings import MAX_WORKLOAD_S, MORE_KEYS
from dsim.study.replica_settings import any_on_fleets, check_replicas
from dsim.system import memory_bytes
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.setting import Problems
    from dsim.study.study import Study

REQUEST_BYTES = 860  # of a run and its report; measured, see docs/reliability.md


def check_deployment_charts(problems: Problems, study: Study) -> None:
    """The charts of a study of a deployment draw lines over what there is."""
    axes = [axis.key for axis in study.grid]
    columns = [column.name for column in DEPLOYMENT_COLUMNS]
    for number, chart in enumerate(study.charts):
        where = f"charts[{number}]"
        if chart.kind != "lines":
            problems.add(f"{where}.kind", f'expected "lines", got {show(chart.kind)}')
        if chart.x not in axes:
            problems.add(
                f"{where}.x",
                f"expected an axis of the grid, got {show(chart.x)}{nearest(chart.x, axes)}",
            )
        if chart.y not in columns:
            problems.add(
                f"{where}.y",
                f"expected a column of the results, got {show(chart.y)}{nearest(chart.y, columns)}",
            )


def check_deployment(problems: Problems, study: Study) -> None:
    """Workload, servers, links, failures and power go together."""
    if study.settings["minimise"]:
        problems.add("minimise", "is for single texts; a study of a deployment shows every case")
    swept = {axis.key: axis.values for axis in study.grid}
    variants = [study.of_variant(number) for number in range(len(study.variants))]
    every = [{key: swept.get(key, (v,)) for key, v in values.items()} for values in variants]
    replays = any("trace" in of["workload.arrivals"] for of in every)
    for number, (values, of) in enumerate(zip(variants, every, strict=True)):
        where = f"variants[{number}]." if study.variants[number][0] else ""
        if values["workload.trace"] is not None and not replays:
            what = 'has no meaning: the arrivals are not "trace"; set workload.arrivals = "trace"'
            problems.add(f"{where}workload.trace_file", what)
        if "trace" in of["workload.arrivals"] and values["workload.trace"] is None:
            problems.add(f"{where}workload.trace_file", 'is missing: the arrivals are "trace"')
        check_once(problems, where, values["algorithms"])
        _check_window(problems, where, of)
        lasts_s = max(of["workload.requests"]) / min(of["workload.rate_per_s"])
        if lasts_s > MAX_WORKLOAD_S:
            problems.add(
                f"{where}workload.rate_per_s",
                f"this number of requests takes {lasts_s:.1e} s, more than {MAX_WORKLOAD_S:.0e}",
            )
        needed, there = max(of["workload.requests"]) * REQUEST_BYTES, memory_bytes()
        if there is not None and needed > there:
            problems.add(
                f"{where}workload.requests",
                f"this number of requests takes about {needed / 1e9:,.0f} GB of memory, and this "
                f"machine has {there / 1e9:,.0f} GB; several shorter runs (repeats) take less",
            )
        if "trace" in of["acceptance.model"] and any(of["workload.acceptance_drift"]):
            problems.add(f"{where}workload.acceptance_drift", "has no meaning for a trace")
        for model in ("target", "drafter"):
            room = min(of[f"cluster.{model}_kv_tokens"])
            longest = max(of["workload.prompt_tokens"]) + max(of["tokens"])
            fixed = not max(of["workload.prompt_cv"]) and not max(of["workload.output_cv"])
            replayed = set(of["workload.arrivals"]) == {"trace"}  # with lengths of its own
            if room and fixed and room < longest and not replayed:
                problems.add(
                    f"{where}cluster.{model}_kv_tokens",
                    f"expected room for one request (prompt and answer: {longest} tokens), "
                    f"got {room}",
                )
        check_replicas(problems, where, of, every)
        _check_links(problems, where, values, of["cluster.targets"])
        _check_pools(problems, where, of)
        _check_faults(problems, where, values, of)
        _check_watts(problems, where, of, values["algorithms"])
        if max(of["cluster.hosts"]) and min(values["cluster.slowdown"]) < 1:
            problems.add(
                f"{where}cluster.slowdown",
                f"expected factors ≥ 1, got {show(values['cluster.slowdown'])}",
            )


WINDOW = {"workload.from_s": 0.0, "workload.for_s": None, "workload.rate_scale": 1.0}


def _check_window(problems: Problems, where: str, of: Mapping[str, Sequence[Any]]) -> None:
    """A part of a trace has requests; without a trace there is no part."""
    (trace,) = of["workload.trace"]
    if trace is None or "trace" not in of["workload.arrivals"]:
        for key, default in WINDOW.items():
            if set(of[key]) != {default}:
                problems.add(where + key, 'has no meaning: the arrivals are not "trace"')
        return
    for chosen in itertools.product(*(of[key] for key in WINDOW)):
        try:
            replay_of({"workload.trace": trace, **dict(zip(WINDOW, chosen, strict=True))})
        except ValueError as error:
            problems.add(f"{where}workload.from_s", str(error))


def _check_links(
    problems: Problems, where: str, values: Mapping[str, Any], targets: Sequence[int]
) -> None:
    links = values["cluster.link_ms"]
    if links is not None and set(targets) != {len(links)}:
        problems.add(
            f"{where}cluster.link_ms",
            f"expected one delay for each of {' or '.join(map(str, targets))} target servers, "
            f"got {len(links)}",
        )


def _check_faults(
    problems: Problems, where: str, values: Mapping[str, Any], of: Mapping[str, Sequence[Any]]
) -> None:
    counts = {model: min(of[f"cluster.{model}s"]) for model in ("target", "drafter")}
    for number in range(_further(of)):
        servers = (at_number(value, number) for value in of["cluster.more_drafters"])
        counts[further_role(number + 1)] = min(servers)
    replicas = sum(
        max(min(of[f"replica.{kind}count"]), min(of[f"replica.{kind}max_count"]))
        for kind in ("", "prefill_")
    )
    if replicas:
        counts = counts if any_on_fleets(of) else {}
        counts["replica"] = replicas
    for number, fault in enumerate(values["cluster.faults"] or ()):
        for key, what in outages.problems(fault, counts):
            problems.add(f"{where}cluster.faults[{number}].{key}", what)


def _check_pools(problems: Problems, where: str, of: Mapping[str, Sequence[Any]]) -> None:
    """What is said of further drafters is said of as many as there are."""
    further = _further(of)
    for key in MORE_KEYS:
        given = next((v for v in of[key] if isinstance(v, list) and len(v) != further), None)
        if given is not None:
            problems.add(
                f"{where}{key}",
                f"expected one number, or one for each of more_drafters.latency_ms "
                f"({further}), got {len(given)}",
            )


def _check_watts(
    problems: Problems, where: str, of: Mapping[str, Sequence[Any]], algorithms: Sequence[str]
) -> None:
    """Energy is counted for all GPUs that are reserved, or for none."""
    keys = [f"cluster.target{suffix}" for suffix in ("_watts", "_idle_watts")]
    if any(ORCHESTRATIONS[name].traits.drafts for name in algorithms):
        keys += [f"cluster.drafter{suffix}" for suffix in ("_watts", "_idle_watts")]
    more = MORE_KEYS[-2:] if _takes_more(algorithms) else ()
    given = [key for key in (*keys, *more) if None not in of[key]]
    for key in keys:
        if given and key not in given:
            problems.add(f"{where}{key}", f"is missing: {given[0]} is set")
    for key in keys[::2]:
        idle = key.replace("_watts", "_idle_watts")
        if {key, idle} <= set(given) and max(of[idle]) > min(of[key]):
            problems.add(f"{where}{idle}", f"expected at most {min(of[key]):g} ({key})")
    if not more or problems or not given:
        return
    for number in range(_further(of)):
        least, most = (
            pick(
                at_number(value, number) if value is not None else other
                for value in of[key]
                for other in of[key.replace("more_", "")]
            )
            for key, pick in zip(more, (min, max), strict=True)
        )
        if most > least:
            what = f"expected at most {least:g} ({more[0]}, of further drafter {number + 1})"
            problems.add(f"{where}{more[1]}", f"{what}, got {most:g}")


def _takes_more(algorithms: Sequence[str]) -> bool:
    return any(ORCHESTRATIONS[name].traits.further_drafters for name in algorithms)


def _further(of: Mapping[str, Sequence[Any]]) -> int:
    """How many further drafters there are."""
    return max(len(_listed(value)) for value in of["more_drafters.latency_ms"])


def _listed(value: Any) -> list[Any]:
    """The members of *value*, which is one, a list, or nothing."""
    return [] if value is None else value if isinstance(value, list) else [value]
