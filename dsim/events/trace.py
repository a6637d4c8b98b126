"""What the servers did, as a table, from the history that they kept."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.servers import Servers


def spans(output: Output, *servers: Servers) -> list[dict[str, Any]]:
    """One row for each forward of a finished run, in order of beginning.

    Keys: ``lane`` (the server), ``start_ns``, ``end_ns``, ``fate`` (``draft, accepted``, ``draft,
    rejected``, ``drafts of several choices``, ``pass``, ``prefill`` or ``cancelled``) and ``what``
    (in words). What was still running at the end of the run ends there.

    Raises:
        ValueError: the servers kept no history.
    """
    return [
        {
            "lane": busy.lane,
            "start_ns": busy.start_ns,
            "end_ns": busy.end_ns,
            "fate": _fate(busy.forward, output),
            "what": _what(busy.forward),
        }
        for busy in busy_times(output, *servers)
    ]


class Busy(NamedTuple):
    """When a server was busy with *forward*; see :func:`spans`."""

    lane: str
    start_ns: int
    end_ns: int
    forward: Forward


def busy_times(output: Output, *servers: Servers) -> list[Busy]:
    """The times alone of :func:`spans`, in the same order.

    Raises:
        ValueError: the servers kept no history.
    """
    histories = [one.history for one in servers]
    if None in histories:
        raise ValueError("the servers kept no history")
    over_ns = output.settled_ns[-1]
    found = []
    for forward in sorted(itertools.chain(*filter(None, histories)), key=lambda f: f.start_ns):
        role = forward.servers.role
        lane = f"target {forward.server + 1}" if role == "target" else role
        end_ns = over_ns if forward.end_ns < 0 else min(forward.end_ns, over_ns)
        found.append(Busy(lane, forward.start_ns, end_ns, forward))
    return found


def rejections(output: Output) -> list[dict[str, Any]]:
    """One row for each rejection: ``time_ns`` and ``what``."""
    return [
        {"time_ns": output.settled_ns[position], "what": f"draft of token {position} rejected"}
        for position in output.rejections
    ]


def _fate(forward: Forward, output: Output) -> str:
    if forward.cancelled:
        return "cancelled"
    if not forward.is_pass:
        return "prefill"
    if forward.servers.role == "target":
        return "pass"
    if forward.fed is not None:  # several choices at once, of which one at most is right
        return "drafts of several choices"
    # A draft is void if its position, or an earlier one, was rejected after it was made, or if it
    # lies beyond the end of the text.
    cut = forward.servers.output.rejections
    void = any(
        position <= forward.first and output.settled_ns[position] >= forward.end_ns
        for position in cut
    )
    void = void or forward.first >= output.settled
    return "draft, rejected" if void or forward.end_ns < 0 else "draft, accepted"


def _what(forward: Forward) -> str:
    if not forward.is_pass:
        return "reads the prompt"
    if forward.fed is not None:
        does = "verifies" if forward.servers.role == "target" else "drafts behind"
        return f"{does} {len(forward.fed)} choices after {forward.first} settled tokens"
    if forward.servers.role != "target":
        return f"drafts token {forward.first}"
    drafts = forward.end - forward.first
    plural = "" if drafts == 1 else "s"
    return f"verifies {drafts} draft{plural} after {forward.first} settled tokens"
