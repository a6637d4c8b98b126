"""What is right of the settings of drafts only together with others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.orchestrations import ORCHESTRATIONS
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.setting import Problems


def check_drafts(problems: Problems, where: str, values: Mapping[str, Sequence[Any]]) -> None:
    """Rates, ranks and trees are possible ones.

    Args:
        problems: what is wrong is added there.
        where: what comes before a key in messages.
        values: for each setting its value, or all of an axis.
    """
    (by_depth,), (chances,) = values["acceptance.by_depth"], values["acceptance.per_position"]
    if isinstance(chances, list) and chances != sorted(chances, reverse=True):
        at = next(i for i in range(1, len(chances)) if chances[i] > chances[i - 1])
        what = (
            f"expected chances that never rise, got {show(chances[at])} behind "
            f"{show(chances[at - 1])}; rates that are not of all drafts before belong into by_depth"
        )
        problems.add(f"{where}acceptance.per_position", what)
    if by_depth is not None or chances is not None:
        key = f"{where}acceptance.{'per_position' if by_depth is None else 'by_depth'}"
        for other, good in (("model", "bernoulli"), ("spread", 0)):
            got = [v for v in values[f"acceptance.{other}"] if v != good]
            if got:
                problems.add(
                    key, f"goes with acceptance.{other} = {show(good)}, not {show(got[0])}"
                )
        further = [n for n in values["algorithms"][0] if ORCHESTRATIONS[n].traits.further_drafters]
        if further and values["more_drafters.latency_ms"] != (None,):
            problems.add(key, "rates by depth do not go with further drafters")
    (shares,) = values["acceptance.rank_shares"]
    total = sum(shares) if isinstance(shares, list) else shares or 0
    if total > 1 + 1e-9:
        what = f"expected shares whose sum is at most 1, got {total:g}"
        problems.add(f"{where}acceptance.rank_shares", what)
    _check_length(problems, where, values)
    if wrong := wrong_paths(values["tree.paths"][0]):
        problems.add(f"{where}tree.paths", wrong)


def _check_length(problems: Problems, where: str, values: Mapping[str, Sequence[Any]]) -> None:
    lengths = [v for v in values["acceptance.mean_length"] if v is not None]
    drafts = [v for v in values["acceptance.at_lookahead"] if v is not None]
    if lengths and not drafts:
        what = "is missing: the number of drafts a pass that mean_length was measured at"
        problems.add(f"{where}acceptance.at_lookahead", what)
    elif lengths and max(lengths) > min(drafts) + 1:
        what = (
            f"expected from 1 to {min(drafts) + 1} (acceptance.at_lookahead + 1) tokens a pass, "
            f"got {max(lengths):g}"
        )
        problems.add(f"{where}acceptance.mean_length", what)


def wrong_paths(paths: Sequence[Sequence[int]] | None) -> str | None:
    """What is wrong with the *paths* of a tree, in words; ``None``: nothing."""
    known = {tuple(path) for path in paths or ()}
    if len(known) < len(paths or ()):
        return "duplicate path"
    for path in sorted(known):
        if len(path) > 1 and path[:-1] not in known:
            return f"{show([*path])} is there without its parent {show([*path[:-1]])}"
    return None
