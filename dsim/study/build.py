"""Cases and deployments from the settings of a study."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from dsim.deployment.outages import further_role
from dsim.deployment.replay import Replay, read_replay
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool, Slo
from dsim.deployment.workload import Length, Workload
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case, TreeShape
from dsim.model.closed_forms import rate_of_length, targets_enough, targets_equation1
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from dsim.orchestrations import ORCHESTRATIONS
from dsim.study import outages
from dsim.study.replica_settings import as_fleet, on_replicas, replica_of
from dsim.units import to_ms, to_ns

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
        latency_ns = Latency(table=table).at_width(1)
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


def tables_of(values: Mapping[str, Any]) -> dict[str, Latency]:
    """The latencies of the target and the drafter that are tables, from settings by key."""
    return {
        model: Latency(
            model="table",
            table=tuple((w, to_ns(ms)) for w, ms in values[f"{model}.latency_by_width_ms"]),
        )
        for model in ("target", "drafter")
        if values[f"{model}.latency_model"] == "table"
    }


def falling_notes(latencies: Mapping[str, Latency]) -> list[str]:
    """A sentence for each latency table, by model, that falls as forwards get wider."""
    return [
        f"{model}.latency_by_width_ms falls where forwards get wider, which is noise: it is taken "
        f"as {', '.join(f'{to_ms(ns):.6g}' for ns in latency.curve[1])} ms."
        for model, latency in latencies.items()
        if any(a > b for (_, a), (_, b) in itertools.pairwise(latency.table))
    ]


def acceptance_of(values: Mapping[str, Any]) -> Acceptance:
    """The acceptance model, from settings by key."""
    traces = values["acceptance.trace"] or ()
    by_depth = _listed(values["acceptance.by_depth"])
    if values["acceptance.per_position"] is not None:
        chances = _listed(values["acceptance.per_position"])
        before = (1.0, *chances)
        by_depth = tuple(c / b if b else 0.0 for c, b in zip(chances, before, strict=False))
    rate = values["acceptance.rate"]
    if values["acceptance.mean_length"] is not None:
        drafts = values["acceptance.at_lookahead"]
        rate = rate_of_length(values["acceptance.mean_length"], drafts)
    elif values["acceptance.mean_run"] is not None:
        rate = 1 - 1 / values["acceptance.mean_run"]
    elif by_depth:
        rate = by_depth[0]
    lookup = {
        name: values[f"acceptance.{name}"]
        for name in ("copied_tokens", "copied_rate", "new_tokens", "chance_match", "chance_rate")
    }
    if values["acceptance.model"] == "lookup":
        copied, new = lookup["copied_tokens"], lookup["new_tokens"]
        by_chance = lookup["chance_match"] * lookup["chance_rate"]
        rate = (copied * lookup["copied_rate"] + new * by_chance) / (copied + new)
    return Acceptance(
        model=values["acceptance.model"],
        rate=rate,
        rank_shares=_listed(values["acceptance.rank_shares"]),
        by_depth=by_depth,
        **lookup,
        decay=1.0 if values["acceptance.decay"] is None else values["acceptance.decay"],
        correlation=values["acceptance.correlation"] or 0.0,
        swing=values["acceptance.swing"] or 0.0,
        phase_tokens=values["acceptance.phase_tokens"],
        spread=values["acceptance.spread"],
        traces=(traces,) if isinstance(traces, str) else tuple(traces),
    )


def _listed(value: Any) -> tuple[Any, ...]:
    """*value*, one or a list of them or nothing, as a tuple."""
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)


def tree_of(values: Mapping[str, Any]) -> TreeShape:
    """The tree of drafts, from settings by key."""
    paths = tuple(tuple(path) for path in values["tree.paths"] or ())
    return TreeShape(
        paths=paths,
        depth=values["tree.depth"],
        branches=max([values["tree.branches"], *(rank for path in paths for rank in path)]),
        nodes=values["tree.nodes"],
        deviations=values["tree.deviations"],
    )


def drafts_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``Decoding`` says of drafts, from the settings of ``draft_settings.LIVE`` by key."""
    return dict(  # noqa: C408 (its keys are fields, not names of orchestrations)
        block_tokens=values["drafter.block_tokens"],
        patience=values["patience"],
        tree=tree_of(values),
    )


def fanout_of(values: Mapping[str, Any]) -> tuple[int, ...]:
    """The guesses of ssd, from settings by key."""
    return _listed(values["ssd.fanout"])


def targets_of(
    targets: int | str, lookahead: int, drafter_ns: int, target_ns: int, block_tokens: int
) -> int:
    """``S``, where a word stands for it (the mean latencies count).

    ``enough``: no pass ever waits; ``paper``: Equation 1 of the paper.
    """
    if isinstance(targets, int):
        return targets
    rule = targets_enough if targets == "enough" else targets_equation1
    return rule(drafter_ns, target_ns, lookahead, block_tokens)


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
    # What may ask for most servers.
    least = 1 if policy.adapts else values["lookahead"]
    more_drafters = more_drafters_of(values)
    fastest_ns = min(one.latency_ns for one in (drafter, *(m.latency for m in more_drafters)))
    block_tokens = values["drafter.block_tokens"]
    return Case(
        tokens=values["tokens"],
        lookahead=values["lookahead"],
        targets=targets_of(values["targets"], least, fastest_ns, target.latency_ns, block_tokens),
        policy=policy,
        more_drafters=more_drafters,
        target=target,
        drafter=drafter,
        acceptance=acceptance_of(values),
        repeats=values["repeats"],
        seed=values["seed"],
        preemptible=values["preemptible"],
        **drafts_of(values),
        fanout=fanout_of(values),
    )


def at_number(value: Any, number: int) -> Any:
    """What *value*, one for all or a list, says of *number*."""
    return value[min(number, len(value) - 1)] if isinstance(value, list) else value


def replay_of(values: Mapping[str, Any]) -> Replay:
    """The part of a trace that settings by key ask for.

    Raises:
        ValueError: no request comes in it.
    """
    scales = [values[f"workload.{name}"] for name in ("from_s", "for_s", "rate_scale")]
    return read_replay(values["workload.trace"]).window(*scales)


def workload_of(values: Mapping[str, Any]) -> Workload:
    """The workload that settings by key describe."""

    def length(mean_tokens: int, cv: float) -> Length:
        return Length(
            model="lognormal" if cv and mean_tokens else "constant",
            mean_tokens=mean_tokens,
            cv=cv or 1.0,
        )

    replay = replay_of(values) if values["workload.trace"] else None
    return Workload(
        arrivals=values["workload.arrivals"],
        requests=values["workload.requests"],
        rate_per_s=values["workload.rate_per_s"],
        cv=values["workload.cv"],
        users=values["workload.users"],
        think_ns=round(values["workload.think_ms"] * 1e6),
        prompt=length(values["workload.prompt_tokens"], values["workload.prompt_cv"]),
        output=length(values["tokens"], values["workload.output_cv"]),
        prefix_groups=values["workload.prefix_groups"],
        prefix_tokens=values["workload.prefix_tokens"],
        rate_drift=values["workload.acceptance_drift"],
        trace=replay.requests if replay else (),
        texts=replay.texts if replay else (),
        began_ns=replay.began_ns if replay else 0,
    )


def deployment_of(values: Mapping[str, Any], algorithm: str) -> Deployment:
    """The deployment that settings by key describe."""
    case = case_of(values)
    replica = replica_of(values) if on_replicas(values, algorithm) else None
    more = case.more_drafters if ORCHESTRATIONS[algorithm].traits.further_drafters else ()

    def ns(key: str) -> int:
        return round(float(values[key] or 0) * 1e6)

    def bound(key: str) -> int | None:
        return None if values[key] is None else to_ns(values[key]) if values[key] else 0

    def faults_of(role: str, prefix: str = "") -> Faults:
        return Faults(
            mtbf_ns=round(values[f"cluster.{prefix}mtbf_s"] * 1e9),
            mttr_ns=round(values[f"cluster.{prefix}mttr_s"] * 1e9),
            plan=outages.plan(values["cluster.faults"] or (), role),
            retry=values["cluster.retry"],
        )

    def more_pool(number: int, drafter: MoreDrafter) -> MorePool:
        first = fleet("drafter")
        scale = drafter.latency.latency_ns / case.drafter.latency_ns

        def own(key: str, otherwise: Any) -> Any:
            value = at_number(values[f"cluster.{key}"], number)
            return otherwise if value is None else value

        spec = dataclasses.replace(
            first,
            servers=own("more_drafters", 1),
            context_ns=first.context_ns * scale,
            sequence_ns=round(first.sequence_ns * scale),
            prefill_token_ns=first.prefill_token_ns * scale,
            gpus=own("gpus_per_more_drafter", first.gpus),
            watts=own("more_drafter_watts", first.watts),
            idle_watts=own("more_drafter_idle_watts", first.idle_watts),
        )
        role = further_role(number + 1)
        return MorePool(drafter=drafter, servers=spec, faults=faults_of(role, "drafter_"))

    def fleet(model: str) -> FleetSpec:
        def of(name: str) -> Any:
            return values[f"cluster.{model}_{name}"]

        return FleetSpec(
            servers=values[f"cluster.{model}s"],
            discipline=of("discipline"),
            max_batch=of("batch"),
            context_ns=of("context_ms") * 1e3,
            sequence_ns=round(of("sequence_ms") * 1e6),
            prefill_token_ns=of("prefill_ms") * 1e3,
            kv_tokens=of("kv_tokens"),
            affinity=values["cluster.affinity"] if model == "target" else False,
            gpus=values[f"cluster.gpus_per_{model}"],
            watts=of("watts"),
            idle_watts=of("idle_watts"),
        )

    return Deployment(
        algorithm=algorithm,
        lookahead=case.lookahead,
        policy=case.policy,
        most_passes=case.targets,
        target=case.target,
        drafter=case.drafter,
        acceptance=case.acceptance,
        seed=case.seed,
        preemptible=case.preemptible,
        block_tokens=case.block_tokens,
        patience=case.patience,
        tree=case.tree,
        fanout=case.fanout,
        replica=replica,
        targets=as_fleet(values, replica) if replica else fleet("target"),
        drafters=as_fleet(values, replica, drafts=True) if replica else fleet("drafter"),
        more_drafters=tuple(more_pool(number, one) for number, one in enumerate(more)),
        network_ns=ns("cluster.network_ms"),
        link_ns=tuple(round(ms * 1e6) for ms in values["cluster.link_ms"] or ()),
        network_cv=values["cluster.network_cv"],
        overhead_ns=ns("cluster.dispatch_ms"),
        hosts=values["cluster.hosts"],
        slowdown=tuple(values["cluster.slowdown"]),
        faults=faults_of("replica" if replica else "target"),
        drafter_faults=faults_of("drafter", "drafter_"),
        max_active=values["cluster.max_active"],
        max_waiting=values["cluster.max_waiting"],
        price_per_gpu_hour=values["cluster.price_per_gpu_hour"],
        slo=Slo(
            ttft_ns=bound("slo.ttft_ms"),
            tpot_ns=bound("slo.tpot_ms"),
            latency_ns=bound("slo.latency_ms"),
        ),
    )
