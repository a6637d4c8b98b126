"""Settings that do not do what they seem to: without effect, left as they are, out of reach."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dsim.deployment.workload import ARRIVALS
from dsim.model.drafter_shapes import HEADS
from dsim.orchestrations import ORCHESTRATIONS, title_of
from dsim.study.deployment_settings import DEPLOYMENT
from dsim.study.draft_settings import ACCEPTANCE_MODELS, RATES
from dsim.study.named import KEYS, MODELS
from dsim.study.presets import PRESETS
from dsim.study.settings import LATENCY_MODELS, OWN_LATENCIES
from dsim.words import listed, show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

KNOWN = DEPLOYMENT.by_key  # with the settings of single texts among them
RATED = tuple(model for model in ACCEPTANCE_MODELS if model not in ("lookup", "trace"))
SENT = tuple(kind for kind in ARRIVALS if kind != "trace")  # by dsim, not by a trace
SCALED = tuple(kind for kind in LATENCY_MODELS if kind not in OWN_LATENCIES)
SAME = 0.2  # a latency that differs by less may be of the same model, measured otherwise
OF_LOOKUP = ("copied_tokens", "copied_rate", "new_tokens", "chance_match", "chance_rate")
# For each setting the one that decides, and its values with which the first one matters.
DECIDES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"{model}.{name}": (f"{model}.latency_model", kinds)
        for model in ("target", "drafter")
        for name, kinds in (
            ("latency_cv", ("lognormal", "gamma")),
            *((own, (kind,)) for kind, own in OWN_LATENCIES.items()),
            *((name, SCALED) for name in ("latency_ms", "latency_relative")),
        )
        if f"{model}.{name}" in KNOWN
    },
    **dict.fromkeys(RATES, ("acceptance.model", RATED)),
    **{f"acceptance.{name}": ("acceptance.model", ("lookup",)) for name in OF_LOOKUP},
    "acceptance.decay": ("acceptance.model", ("decay",)),
    "acceptance.correlation": ("acceptance.model", ("markov",)),
    "acceptance.swing": ("acceptance.model", ("phases",)),
    "acceptance.phase_tokens": ("acceptance.model", ("phases",)),
    "acceptance.trace": ("acceptance.model", ("trace",)),
    **{
        f"workload.{name}": ("workload.arrivals", kinds)
        for name, kinds in (
            ("cv", ("gamma",)),
            ("rate_per_s", ("poisson", "gamma")),
            *((name, SENT) for name in ("requests", "prompt_tokens", "prompt_cv", "output_cv")),
            ("users", ("closed",)),
            ("think_ms", ("closed",)),
        )
    },
    "tokens": ("workload.arrivals", SENT),
    "lookahead_most": ("lookahead_policy", ("heuristic", "aimd")),
    "confidence_threshold": ("lookahead_policy", ("confidence",)),
}
# Settings of a model that say how long its forwards take.
TIMES = (
    *("latency_ms", "latency_relative", "latency_by_width_ms", "latency_samples_ms"),
    *("linear_us", "ngram_us", "model"),
)
# Settings that only some orchestrations read.
READ = (
    *("lookahead", "lookahead_policy", "targets", "patience", "preemptible"),
    *("more_drafters.latency_ms", "more_drafters.overlap"),
    *("tree.paths", "tree.depth", "tree.branches", "tree.nodes", "tree.deviations", "ssd.fanout"),
)


# Settings of deployments that matter only with one of others, of which the first is named.
SCALED_BY = ("replica.max_count", "replica.prefill_max_count")
NEEDED = {
    "cluster.mttr_s": ("cluster.mtbf_s", "cluster.faults"),
    "cluster.drafter_mttr_s": ("cluster.drafter_mtbf_s", "cluster.faults"),
    "replica.startup_s": SCALED_BY,
    "replica.scale_queue": SCALED_BY,
    "replica.link_us": ("replica.prefill_count",),
    "replica.link_gb_s": ("replica.prefill_count",),
}
RANK_SHARES = "acceptance.rank_shares"
# Settings that matter to orchestrations that read one of these.
BY_OTHERS = {
    RANK_SHARES: {"tree.branches", "ssd.fanout"},  # a pair of models has them, too
    "confidence_quality": {"tree.branches"},
}


def idle_settings(
    variants: Sequence[Mapping[str, Any]], swept: Mapping[str, Sequence[Any]]
) -> list[str]:
    """A sentence for each setting that is not at its default, and changes nothing.

    Args:
        variants: the settings of each variant of a study, by key.
        swept: the values of each axis of its grid.
    """

    def values(key: str) -> list[Any]:
        return [*swept.get(key, ()), *(one[key] for one in variants if key in one)]

    def is_set(key: str) -> bool:
        return any(value != KNOWN[key].default for value in values(key))

    return [
        *_undecided(values, is_set),
        *_unnamed(is_set),
        *(
            f"{key} has no effect without {others[0]}."
            for key, others in NEEDED.items()
            if is_set(key) and not any(map(is_set, others))
        ),
        *_unread(variants, is_set),
        *_default_latency(variants, values, is_set),
        *_too_spread(values),
        *_of_a_chain(variants, values),
        *_ahead_of_features(variants),
        *_beyond_depths(variants, values),
    ]


def _undecided(values: Callable[[str], list[Any]], is_set: Callable[[str], bool]) -> Iterator[str]:
    for key, (other, kinds) in DECIDES.items():
        if key.endswith(".latency_ms") and _matters(key, values):
            continue
        if is_set(key) and (got := values(other)) and not {*kinds} & {*got}:
            matters = " or ".join(show(kind) for kind in kinds)
            yield f"{key} has no effect: {other} is {show(got[0])}; it matters with {matters}."


def _matters(key: str, values: Callable[[str], list[Any]]) -> bool:
    """Whether latencies at *key* say something beside latencies of a model's own, or the same."""
    if key == "target.latency_ms" and any(values("drafter.latency_relative")):
        return True  # the drafter's is a part of it
    role = key.partition(".")[0]
    own = [found[0][1] for found in values(f"{role}.latency_by_width_ms") if found]
    own += [
        math.fsum(found) / len(found) for found in values(f"{role}.latency_samples_ms") if found
    ]
    same = (math.isclose(ms, one, rel_tol=SAME) for ms in values(key) if ms for one in own)
    return any(values(f"{role}.model")) or any(same)  # models that are named have both


def _unread(variants: Sequence[Mapping[str, Any]], is_set: Callable[[str], bool]) -> Iterator[str]:
    names = list(dict.fromkeys(name for one in variants for name in one["algorithms"]))
    confident = any(one.get("lookahead_policy") == "confidence" for one in variants)
    for key in (*READ, "confidence_quality"):
        if is_set(key) and not (key == "confidence_quality" and confident):
            yield from unread(key, names)


def unread(key: str, algorithms: Sequence[str]) -> list[str]:
    """A sentence on the setting *key* if it matters to none of *algorithms*."""
    by = BY_OTHERS.get(key, {key})
    if any(by & {*ORCHESTRATIONS[name].reads} for name in algorithms):
        return []
    told = [title_of(name) for name, one in ORCHESTRATIONS.items() if by & {*one.reads}]
    if key == "confidence_quality":
        told.append('lookahead_policy "confidence"')
    names = ", ".join(map(title_of, algorithms))
    return [f"{key} has no effect on {names}; it matters to {', '.join(told)}."]


def ranking(algorithms: Iterable[str]) -> str:
    """The titles of those of *algorithms* that look for second choices, in words; or nothing."""
    reads = BY_OTHERS[RANK_SHARES]
    return listed([title_of(one) for one in algorithms if reads & {*ORCHESTRATIONS[one].reads}])


def never_right(variants: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence if orchestrations look for second choices, and no chance for them is given.

    Args:
        variants: see :func:`idle_settings`.
    """
    names = dict.fromkeys(name for one in variants for name in one["algorithms"])
    ranked = ranking(names)
    given = any(one.get(RANK_SHARES) or one.get("acceptance.model") == "trace" for one in variants)
    if not ranked or given:
        return []
    return [
        f"{ranked}: the drafter's second choices are never right here; "
        f"say how often they are, like {RANK_SHARES} = [0.45, 0.2]."
    ]


def _unnamed(is_set: Callable[[str], bool]) -> Iterator[str]:
    """On settings of estimated latencies, where no model is named whose latency they tell."""
    if any(map(is_set, MODELS)):
        return
    for key in KEYS:
        if key not in MODELS and is_set(key):
            yield f"{key} has no effect: no model is named; it matters with target.model."


def _default_latency(
    variants: Sequence[Mapping[str, Any]],
    values: Callable[[str], list[Any]],
    is_set: Callable[[str], bool],
) -> Iterator[str]:
    """A sentence where the latency of one model is given, and the other's is left as it is."""
    names = {name for one in variants for name in one["algorithms"]}
    if not any(ORCHESTRATIONS[name].traits.drafts for name in names):
        return
    for mine, other in (("target", "drafter"), ("drafter", "target")):
        if any(is_set(f"{mine}.{name}") for name in TIMES):
            continue
        key, theirs = f"{mine}.latency_ms", f"{other}.latency_ms"
        least = 0.0 if mine == "drafter" else KNOWN[key].default  # a target of 1 is a unit
        if is_set(theirs) and any(ms and ms > least for ms in values(theirs)):
            yield f"{key} is {show(values(key)[0])}, as by default; the {other}'s is set."


def _of_a_chain(
    variants: Sequence[Mapping[str, Any]], values: Callable[[str], list[Any]]
) -> Iterator[str]:
    """A sentence where trees are simulated from a mean acceptance length."""
    names = dict.fromkeys(name for one in variants for name in one["algorithms"])
    if any(values("acceptance.mean_length")) and (trees := ranking(names)):
        yield (
            "acceptance.mean_length is taken for that of one draft per position, without second "
            f"choices; if it was measured over a tree, {trees} will look too fast."
        )


def _ahead_of_features(variants: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A sentence where drafters draft during passes that they have to wait for."""
    for one in variants:
        preset = PRESETS.get(str(one.get("method")))
        head = one.get("drafter.model") in HEADS
        ahead = [title_of(a) for a in one["algorithms"] if ORCHESTRATIONS[a].traits.overlaps]
        if ahead and (head or (preset is not None and preset.features)):
            name = preset.title if preset is not None else show(one["drafter.model"])
            yield (
                f"{name} drafts from what the target knows after a pass; {listed(ahead)} "
                f"{'draft' if len(ahead) > 1 else 'drafts'} while passes run, and the numbers are "
                "of a drafter that needs nothing of the target and is accepted as often."
            )
            return


def _beyond_depths(
    variants: Sequence[Mapping[str, Any]], values: Callable[[str], list[Any]]
) -> Iterator[str]:
    """A sentence where drafts are further ahead than rates are known."""
    names = {name for one in variants for name in one["algorithms"]}
    ahead = any(ORCHESTRATIONS[name].traits.overlaps for name in names)
    servers = [n if isinstance(n, int) else math.inf for n in values("targets")]  # or "enough"
    most = (1 + max(servers, default=0) if ahead else 1) * max(values("lookahead"), default=0)
    for key in ("acceptance.by_depth", "acceptance.per_position"):
        known = min((len(rates) for rates in values(key) if rates), default=0)
        if 1 < known < most:
            yield (
                f"{key} has {known} depths, and some drafts are further ahead: they are taken to "
                "be accepted as often as the last of these."
            )


def _too_spread(values: Callable[[str], list[Any]]) -> Iterator[str]:
    """A sentence where rates cannot differ among repeats as much as they are asked to."""
    for spread in values("acceptance.spread"):
        for rate in values("acceptance.rate"):
            if rate is not None and spread and spread > (most := math.sqrt(rate * (1 - rate))):
                yield (
                    f"acceptance.spread is {show(spread)}, but rates of {show(rate)} in the mean "
                    f"differ by at most {most:.3g}, which is what they do here."
                )
                return
