"""The verdict of a pass that judges the draft behind those that it covers as well."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import ServerPort
    from dsim.model.lookahead import Plan


def settle_verdict(forward: Forward, target: ServerPort, output: Output, plan: Plan) -> bool:
    """Settle what the ended pass *forward* accepts.

    The target's own token, behind the drafts that the pass covers, judges the draft there, if one
    has been made meanwhile. Where that draft is right, those behind it stay.

    Returns:
        Whether they stay: the target's own token is not one of its own making.
    """
    settled, end = output.settled, forward.end + 1
    drafts = output.tokens[settled:end]
    accepted, token = target.backend.verify(forward, settled, drafts)
    if plan.judged is not None and drafts:
        plan.judged(accepted, len(drafts))
    if accepted == end - settled:
        output.settle_drafts(accepted)
        return True
    output.settle(accepted, token)
    return False
