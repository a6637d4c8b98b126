"""The simulated backend: a forward is an event after a latency, a verdict comes from draws."""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import simpy

    from dsim.events.server import Forward

Sampler = "Callable[[int, bool], int]"


class Simulated:
    """Stands behind the servers of one model.

    Args:
        env: the environment of the run.
        latency_ns: nanoseconds for every forward, or a function of (width, prefill) that gives
            them; the width is the number of tokens that the forward feeds to the model.
        run_lengths: for each position, how many drafts from there on match the target before the
            first that does not (see :func:`dsim.acceptance.run_lengths`).
        preemptible: whether a cancelled forward frees its server at once.
    """

    def __init__(
        self,
        env: simpy.Environment,
        latency_ns: int | Callable[[int, bool], int],
        run_lengths: Sequence[int],
        *,
        preemptible: bool = True,
    ) -> None:
        self.env = env
        self.run_lengths = run_lengths
        self.preemptible = preemptible
        self._queue = env._queue
        self._eid = env._eid
        self._cached: dict[int, tuple[int, int]] = {}  # server -> (tokens fed, rejections seen)
        if callable(latency_ns):
            self._sample = latency_ns
            self.begin = self._begin_sampled
        else:
            self._latency_ns = latency_ns
            self.begin = self._begin_constant

    def _begin_constant(self, forward: Forward) -> None:
        # What ``env.schedule`` does, without the call: this line runs for every single draft.
        heappush(  # type: ignore[misc]
            self._queue,
            (
                self.env._now + self._latency_ns,
                forward.servers.priority,
                next(self._eid),
                forward,
            ),
        )

    def _begin_sampled(self, forward: Forward) -> None:
        prefill = forward.server not in self._cached
        delay_ns = self._sample(self.width(forward), prefill)
        self.env.schedule(forward, forward.servers.priority, delay_ns)  # type: ignore[arg-type]

    def width(self, forward: Forward) -> int:
        """Tokens to feed: the new ones, and what this server's cache has missed or lost.

        The logits for position *i* come from feeding token *i - 1*, so that token is fed anew
        even where it is cached.
        """
        rejections = forward.servers.output.rejections
        fed, seen = self._cached.get(forward.server, (0, 0))
        kept = min([fed, *rejections[seen:], forward.first - 1])
        self._cached[forward.server] = (forward.end, len(rejections))
        return forward.end - kept

    def verify(self, _: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """See :class:`dsim.events.server.Backend`."""
        run, count = self.run_lengths[first], len(drafts)
        return (run if run < count else count), None
