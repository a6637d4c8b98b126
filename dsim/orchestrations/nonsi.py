"""non-SI: plain decoding, one target pass per token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from dsim.events.output import Output
    from dsim.events.server import Forward, Server
    from dsim.orchestrations.start import Setup


def nonsi(target: Server, output: Output) -> Generator[Forward]:
    """Generate ``output.wanted`` tokens with one pass each, one after the other."""
    verify = target.backend.verify
    while not output.finished:
        settled = output.settled
        forward = target.forward(settled, output.wanted - settled - 1)
        yield forward
        _, token = verify(forward, settled, ())
        output.settle(0, token)


def start(setup: Setup) -> None:
    """Schedule a run."""
    setup.env.process(nonsi(setup.target(), setup.output))
