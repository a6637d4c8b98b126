"""One run of an orchestration: to its end, or to an error that says where it stands."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from dsim.errors import EngineError
from dsim.events.environment import NothingLeftError, StalledError

if TYPE_CHECKING:
    from dsim.events.environment import Environment
    from dsim.events.output import Output
    from dsim.events.servers import Servers

COUNTS = ("target_passes", "wasted_passes", "drafts", "wasted_drafts", "peak_targets")
# So many events, and ten for each token wanted, may pass without a token being settled.
MAX_IDLE_EVENTS = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One finished run.

    Attributes:
        output: the text, and when its tokens settled.
        target, drafter: the servers, with their counts and, if asked for, their history.
        more_drafters: the servers of further drafters.
        events: how many events were scheduled.
        block_tokens: drafts of a forward of the drafter.
        beyond_share: share of the forwards that were wider than the latency table of their model;
            of the model with most.
    """

    output: Output
    target: Servers
    drafter: Servers
    events: int
    more_drafters: tuple[Servers, ...] = ()
    block_tokens: int = 1
    beyond_share: float = 0.0

    @property
    def counts(self) -> tuple[int, ...]:
        """The values named in :data:`COUNTS`."""
        drafts = self.drafter.begun * self.block_tokens
        drafts += sum(one.begun for one in self.more_drafters)
        return (
            self.target.begun,
            self.target.cancelled,
            drafts,
            drafts - self.output.accepted,
            self.target.peak_busy,
        )


def run_to_end(env: Environment, output: Output, algorithm: str) -> None:
    """Run *env* until *output* is complete.

    Args:
        env: the environment of the run.
        output: the text.
        algorithm: the orchestration's name, for errors.

    Raises:
        EngineError: no event is left, or very many passed without a token being settled.
    """
    try:
        env.watch(lambda: output.settled, MAX_IDLE_EVENTS + 10 * output.wanted)
        env.run(until=output.done)
    except (NothingLeftError, StalledError) as error:
        stands = f"{output.wanted - output.settled} of {output.wanted} tokens are not settled"
        raise EngineError(f'{error}, but {stands} (orchestration "{algorithm}")') from error
