"""Start one of the algorithms on servers, whatever stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.events.dsi import DSI
from dsim.events.environment import DRAFT, PASS
from dsim.events.nonsi import nonsi
from dsim.events.server import Pool, Server, Servers
from dsim.events.si import si

if TYPE_CHECKING:
    import simpy

    from dsim.events.output import Output
    from dsim.events.server import Backend


def start(
    algorithm: str,
    env: simpy.Environment,
    output: Output,
    *,
    drafter_backend: Backend,
    target_backend: Backend,
    lookahead: int,
    targets: int,
    prefill: bool = False,
    keep_history: bool = False,
) -> tuple[Server, Servers]:
    """Schedule a run of *algorithm* in *env*; ``output.done`` happens at its end.

    Args:
        algorithm: ``nonsi``, ``si`` or ``dsi``.
        env: the environment of the run.
        output: the text to generate.
        drafter_backend: what answers the drafter's forwards.
        target_backend: what answers the target's.
        lookahead: ``k``, drafts per block.
        targets: ``S``, target servers of DSI.
        prefill: whether every target server of DSI has to read the prompt first.
        keep_history: whether the servers keep their forwards, for a timeline.

    Returns:
        The drafter and the target server or servers.
    """
    drafter = Server(
        env,
        drafter_backend,
        output,
        role="drafter",
        priority=DRAFT,
        keep_history=keep_history,
    )
    if algorithm == "dsi":
        pool = Pool(
            env,
            target_backend,
            output,
            role="target",
            priority=PASS,
            keep_history=keep_history,
            count=targets,
        )
        DSI(env, drafter, pool, output, lookahead, prefill=prefill)
        return drafter, pool
    target = Server(
        env, target_backend, output, role="target", priority=PASS, keep_history=keep_history
    )
    env.process(
        si(drafter, target, output, lookahead) if algorithm == "si" else nonsi(target, output)
    )
    return drafter, target
