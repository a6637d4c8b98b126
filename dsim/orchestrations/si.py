"""SI: speculative inference (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from dsim.events.output import Output
    from dsim.events.server import Forward, Server
    from dsim.model.lookahead import Plan
    from dsim.orchestrations.start import Setup


def si(drafter: Server, target: Server, output: Output, plan: Plan) -> Generator[Forward]:
    """Draft up to ``plan.tokens`` tokens, verify them in one pass, and again; nothing overlaps."""
    tokens, verify = output.tokens, target.backend.verify
    judged, ends = plan.judged, plan.ends
    while not output.finished:
        settled = output.settled
        block = (settled, plan.tokens, output.wanted)
        for ahead in reversed(range(min(plan.tokens, output.wanted - settled - 1))):
            draft = drafter.forward(len(tokens), ahead, block)
            yield draft
            tokens.append(draft.token)
            if ends is not None and ends(len(tokens) - 1):
                break
        forward = target.forward(settled, 0, block)
        yield forward
        accepted, token = verify(forward, settled, tokens[settled:])
        if judged is not None:
            judged(accepted, len(tokens) - settled)
        output.settle(accepted, token)


def start(setup: Setup) -> None:
    """Schedule a run."""
    setup.env.process(si(setup.drafter(), setup.target(), setup.output, setup.plan))
