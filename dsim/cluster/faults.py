"""Failures at known times, as a study writes them: one table for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.cluster.workload import NS_PER_S
from dsim.study import is_latency, nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

KEYS = ("server", "at_s", "for_s")


def problems(fault: Mapping[str, Any], servers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """What is wrong with one table: (key, what is expected and what was got).

    Args:
        fault: the table.
        servers: how many there are, by model.
    """
    for key in fault:
        if key not in KEYS:
            yield key, f"unknown{nearest(key, KEYS)}"
    for key in ("server", "at_s"):
        if key not in fault:
            yield key, "is missing"
    server = fault.get("server", "target 1")
    model, _, number = server.partition(" ") if isinstance(server, str) else ("", "", "")
    if model not in servers or not number.isdecimal():
        yield "server", f'expected a server like "target 2" or "drafter 1", got {show(server)}'
    elif not 1 <= int(number) <= servers[model]:
        count = servers[model]
        yield "server", f"expected {model} 1 to {count} (cluster.{model}s), got {show(server)}"
    at_s, for_s = fault.get("at_s", 0), fault.get("for_s", 1)
    if isinstance(at_s, bool) or not (at_s == 0 or is_latency(at_s)):
        yield "at_s", f"expected a time of at least 0 s, got {show(at_s)}"
    if not is_latency(for_s):
        yield "for_s", f"expected a time above 0 s, got {show(for_s)}"


def plan(faults: Iterable[Mapping[str, Any]], model: str) -> tuple[tuple[int, int, int], ...]:
    """The failures of one *model*: (server from 0 on, fails at ns, recovers at ns or -1)."""
    found = []
    for fault in faults:
        kind, _, number = fault["server"].partition(" ")
        if kind != model:
            continue
        fails_ns = round(fault["at_s"] * NS_PER_S)
        back_ns = fails_ns + max(1, round(fault["for_s"] * NS_PER_S)) if "for_s" in fault else -1
        found.append((int(number) - 1, fails_ns, back_ns))
    return tuple(found)
