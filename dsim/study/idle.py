"""Settings that are set and have no effect, since another one that they go with is not set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.orchestrations import ORCHESTRATIONS, title_of
from dsim.study.settings import BY_KEY
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# For each setting the one that decides, and its values with which the first one matters.
DECIDES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{
        f"{model}.{name}": (f"{model}.latency_model", kinds)
        for model in ("target", "drafter")
        for name, kinds in (
            ("latency_cv", ("lognormal", "gamma")),
            ("latency_samples_ms", ("empirical",)),
            ("latency_by_width_ms", ("table",)),
        )
    },
    "acceptance.decay": ("acceptance.model", ("decay",)),
    "acceptance.correlation": ("acceptance.model", ("markov",)),
    "acceptance.swing": ("acceptance.model", ("phases",)),
    "acceptance.phase_tokens": ("acceptance.model", ("phases",)),
    "acceptance.trace": ("acceptance.model", ("trace",)),
    "lookahead_most": ("lookahead_policy", ("heuristic", "aimd")),
    "confidence_threshold": ("lookahead_policy", ("confidence",)),
}
# Settings that only some orchestrations read.
READ = (
    *("targets", "patience", "more_drafters.latency_ms", "more_drafters.overlap"),
    *("tree.paths", "tree.depth", "tree.branches", "tree.nodes", "tree.deviations", "ssd.fanout"),
)


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
        return any(value != BY_KEY[key].default for value in values(key))

    return [*_undecided(values, is_set), *_unread(variants, is_set)]


def _undecided(values: Callable[[str], list[Any]], is_set: Callable[[str], bool]) -> Iterator[str]:
    for key, (other, kinds) in DECIDES.items():
        if is_set(key) and (got := values(other)) and not {*kinds} & {*got}:
            matters = " or ".join(show(kind) for kind in kinds)
            yield f"{key} has no effect: {other} is {show(got[0])}; it matters with {matters}."


def _unread(variants: Sequence[Mapping[str, Any]], is_set: Callable[[str], bool]) -> Iterator[str]:
    names = list(dict.fromkeys(name for one in variants for name in one["algorithms"]))
    read = {key for name in names for key in ORCHESTRATIONS[name].reads}
    for key in READ:
        if key not in read and is_set(key):
            by = [title_of(name) for name, one in ORCHESTRATIONS.items() if key in one.reads]
            yield (
                f"{key} has no effect on {', '.join(map(title_of, names))}; it matters to "
                f"{', '.join(by)}."
            )
