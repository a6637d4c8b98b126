"""Columns of results side by side that dsim does not know by their names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.study.columns import BY_NAME
from dsim.words import closest, listed

if TYPE_CHECKING:
    from dsim.report.comparison import Source

# How the columns of measured servers begin.
NO_AXES = ("ttft_", "tpot_", "itl_", "latency_", "requests", "workload_")
# What others call the lookahead, as in dsim simulate; and further columns of results.
LOOKAHEADS = ("num_speculative_tokens", "gamma", "k")
OTHER_NAMES = {
    **dict.fromkeys(("acceptance", "alpha", "accept_rate"), "acceptance_rate"),
    **dict.fromkeys(("gpus", "servers"), "targets"),
}


def unknown(one: Source, other: Source) -> str:
    """A sentence on columns that say one thing, and whose names dsim does not know; or nothing.

    Columns that vary are axes, of which :func:`dsim.report.comparison.apart` tells.
    """
    parts = []
    for source in (one, other):
        names = [
            str(name)
            for name in (source.frame if source.whole is None else source.whole)
            if name not in BY_NAME and name not in source.axes
            if not str(name).startswith(NO_AXES) and "_ci95" not in str(name)
        ]
        if names and not source.settings:
            hints = [f"{name} ({near}?)" for name in names if (near := _meant(name))]
            told = listed([*hints, *(name for name in names if not _meant(name))])
            parts.append(f"{told} of {source.name}")
    if not parts:
        return ""
    return f"Not compared, as dsim has no columns of these names: {'; '.join(parts)}."


def _meant(name: str) -> str:
    """The column that people may mean by *name*, or nothing."""
    return OTHER_NAMES.get(name.casefold()) or closest(name, list(BY_NAME))
