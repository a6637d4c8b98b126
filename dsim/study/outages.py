"""Failures at known times, as a study writes them: one table per failure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.deployment.outages import FURTHER, server_name
from dsim.units import NS_PER_S, is_latency
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

KEYS = ("server", "at_s", "for_s")
MAX_S = 1e9  # 30 years; in ns it fits 63 bits


def _parts(server: Any) -> tuple[str, str]:
    """The role and the number in the name of a server; empty where it is none."""
    if not isinstance(server, str):
        return "", ""
    role, _, number = server.rpartition("." if server.startswith(FURTHER) else " ")
    return role, number


def problems(fault: Mapping[str, Any], servers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The mistakes in one table: (key, what is expected and what was given).

    Args:
        fault: the table.
        servers: number of servers by role.
    """
    for key in fault:
        if key not in KEYS:
            yield key, f"unknown{nearest(key, KEYS)}"
    for key in ("server", "at_s"):
        if key not in fault:
            yield key, "is missing"
    server = fault.get("server", "target 1")
    model, number = _parts(server)
    if not number.isdecimal() or (model not in servers and not model.startswith(FURTHER)):
        expected = '"target 2", "drafter 1" or "further drafter 1.2"'
        expected = '"replica 1"' if set(servers) == {"replica"} else expected
        yield "server", f"expected a server like {expected}, got {show(server)}"
    elif model not in servers:
        yield "server", f"there is no {model} (more_drafters.latency_ms), got {show(server)}"
    elif not 1 <= int(number) <= servers[model]:
        key = "more_drafter" if model.startswith(FURTHER) else model
        first, last = server_name(model, 1), server_name(model, servers[model])
        setting = "replica.count" if model == "replica" else f"cluster.{key}s"
        yield "server", f"expected {first} to {last} ({setting}), got {show(server)}"
    at_s, for_s = fault.get("at_s", 0), fault.get("for_s", 1)
    if isinstance(at_s, bool) or not (at_s == 0 or (is_latency(at_s) and at_s <= MAX_S)):
        yield "at_s", f"expected a time from 0 to {MAX_S:,.0f} s, got {show(at_s)}"
    if not (is_latency(for_s) and for_s <= MAX_S):
        yield "for_s", f"expected a time above 0 s, at most {MAX_S:,.0f} s, got {show(for_s)}"


def plan(faults: Iterable[Mapping[str, Any]], model: str) -> tuple[tuple[int, int, int], ...]:
    """The failures of one fleet: (server from 0 on, fails at ns, recovers at ns or -1).

    Args:
        faults: the tables.
        model: role of the fleet: ``target``, ``drafter``, ``further drafter 1`` and so on.
    """
    found = []
    for fault in faults:
        kind, number = _parts(fault["server"])
        if kind != model:
            continue
        fails_ns = round(fault["at_s"] * NS_PER_S)
        back_ns = fails_ns + max(1, round(fault["for_s"] * NS_PER_S)) if "for_s" in fault else -1
        found.append((int(number) - 1, fails_ns, back_ns))
    return tuple(found)
