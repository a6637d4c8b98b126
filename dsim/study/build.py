"""Cases from the settings of a study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.closed_forms import targets_enough, targets_equation1
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from dsim.units import to_ns

if TYPE_CHECKING:
    from collections.abc import Mapping


def latency_of(values: Mapping[str, Any], model: str) -> Latency:
    """The latency model of the ``target`` or the ``drafter``, from settings by key.

    Raises:
        ValueError: a latency is not above zero.
    """

    def get(name: str) -> Any:
        return values[f"{model}.{name}"]

    latency_ms = get("latency_ms")
    if model == "drafter" and values["drafter.latency_relative"] is not None:
        latency_ms = values["drafter.latency_relative"] * values["target.latency_ms"]
    kind = get("latency_model")
    samples = tuple(to_ns(ms) for ms in get("latency_samples_ms") or ())
    table = tuple((int(w), to_ns(ms)) for w, ms in get("latency_by_width_ms") or ())
    if kind == "empirical":
        latency_ns = max(1, round(sum(samples) / len(samples)))
    elif kind == "table":
        latency_ns = table[0][1]
    else:
        latency_ns = to_ns(latency_ms)
    first_ns = None
    if get("first_latency_ms") is not None:
        first_ns = to_ns(get("first_latency_ms"))
    elif get("first_latency_ratio") is not None:
        first_ns = max(1, round(get("first_latency_ratio") * latency_ns))
    return Latency(
        model=kind,
        latency_ns=latency_ns,
        first_ns=first_ns,
        cv=get("latency_cv") or 0.0,
        samples_ns=samples if kind == "empirical" else (),
        table=table if kind == "table" else (),
    )


def acceptance_of(values: Mapping[str, Any]) -> Acceptance:
    """The acceptance model, from settings by key."""
    traces = values["acceptance.trace"] or ()
    return Acceptance(
        model=values["acceptance.model"],
        rate=values["acceptance.rate"],
        decay=1.0 if values["acceptance.decay"] is None else values["acceptance.decay"],
        correlation=values["acceptance.correlation"] or 0.0,
        swing=values["acceptance.swing"] or 0.0,
        phase_tokens=values["acceptance.phase_tokens"],
        spread=values["acceptance.spread"],
        traces=(traces,) if isinstance(traces, str) else tuple(traces),
    )


def targets_of(targets: int | str, lookahead: int, drafter: Latency, target: Latency) -> int:
    """``S``, where a word stands for it (the mean latencies count).

    ``enough``: no pass ever waits; ``paper``: Equation 1 of the paper.
    """
    if isinstance(targets, int):
        return targets
    rule = targets_enough if targets == "enough" else targets_equation1
    return rule(drafter.latency_ns, target.latency_ns, lookahead)


def policy_of(values: Mapping[str, Any]) -> Policy:
    """How the lookahead is chosen, from settings by key."""
    return Policy(
        name=values["lookahead_policy"],
        most=values["lookahead_most"],
        threshold=values["confidence_threshold"],
        quality=values["confidence_quality"],
    )


def more_drafters_of(values: Mapping[str, Any]) -> tuple[MoreDrafter, ...]:
    """The further drafters, from settings by key.

    A prompt takes them as many times a draft as it takes the first one.
    """

    def listed(key: str) -> list[float]:
        value = values[f"more_drafters.{key}"]
        return [] if value is None else value if isinstance(value, list) else [value]

    first = latency_of(values, "drafter")
    found = []
    for latency_ms, rate in zip(listed("latency_ms"), listed("acceptance_rate"), strict=True):
        latency_ns = to_ns(latency_ms)
        first_ns = first.first_ns and max(1, round(first.first_ns * latency_ns / first.latency_ns))
        found.append(
            MoreDrafter(
                latency=Latency(latency_ns=latency_ns, first_ns=first_ns),
                rate=rate,
                overlap=values["more_drafters.overlap"],
            )
        )
    return tuple(found)


def case_of(values: Mapping[str, Any]) -> Case:
    """The case that settings by key describe."""
    target, drafter = latency_of(values, "target"), latency_of(values, "drafter")
    policy = policy_of(values)
    least = 1 if policy.adapts else values["lookahead"]  # what may ask for most servers
    return Case(
        tokens=values["tokens"],
        lookahead=values["lookahead"],
        targets=targets_of(values["targets"], least, drafter, target),
        policy=policy,
        more_drafters=more_drafters_of(values),
        target=target,
        drafter=drafter,
        acceptance=acceptance_of(values),
        repeats=values["repeats"],
        seed=values["seed"],
        preemptible=values["preemptible"],
    )
