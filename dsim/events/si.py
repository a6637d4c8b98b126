"""SI: speculative inference (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from dsim.events.output import Output
    from dsim.events.server import Forward, Server


def si(drafter: Server, target: Server, output: Output, lookahead: int) -> Generator[Forward]:
    """Draft up to *lookahead* tokens, verify them in one pass, and again; nothing overlaps."""
    tokens, verify = output.tokens, target.backend.verify
    while not output.finished:
        settled = output.settled
        for ahead in reversed(range(min(lookahead, output.wanted - settled - 1))):
            draft = drafter.forward(len(tokens), ahead)
            yield draft
            tokens.append(draft.token)
        forward = target.forward(settled)
        yield forward
        accepted, token = verify(forward, settled, tokens[settled:])
        output.settle(accepted, token)
