"""The simulated backend: a forward is an event after a latency, a verdict comes from draws."""

from __future__ import annotations

from heapq import heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import simpy

    from dsim.events.forward import Forward
    from dsim.events.servers import Servers


class Simulated:
    """Stands behind the servers of one model.

    Args:
        env: the environment of the run.
        latency_ns: nanoseconds for every forward, or a function of (width, prefill) that gives
            them; the width is the number of tokens that the forward feeds to the model.
        run_lengths: for each position, how many drafts from there on match the target before the
            first that does not (see :func:`dsim.model.acceptance.run_lengths`).
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
        self._latency_ns = latency_ns
        self._cached: dict[int, tuple[int, int]] = {}  # server -> (tokens fed, rejections seen)

    def attach(self, servers: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.forward.Backend`."""
        env, priority, latency_ns = self.env, servers.priority, self._latency_ns
        if callable(latency_ns):

            def begin_sampled(forward: Forward) -> None:
                prefill = forward.server not in self._cached
                delay_ns = latency_ns(self.width(forward), prefill)
                env.schedule(forward, priority, delay_ns)  # type: ignore[arg-type]

            return begin_sampled

        queue, eid = env._queue, env._eid

        def begin_constant(forward: Forward) -> None:
            # What ``env.schedule`` does, without the call: this runs for every single draft.
            heappush(queue, (env._now + latency_ns, priority, next(eid), forward))  # type: ignore[misc]

        return begin_constant

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

    def cancel(self, _: Forward) -> None:
        """See :class:`dsim.events.forward.Backend`."""

    def verify(self, _: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """See :class:`dsim.events.forward.Backend`."""
        run, count = self.run_lengths[first], len(drafts)
        return (run if run < count else count), None


class Guesses:
    """Drafts of several drafters, told apart.

    0 is the target's token, and what a drafter guesses wrong is its own number.

    Attributes:
        draws: for each position whether this drafter's guess, behind a right prefix, is right.
        number: of the drafter, from 1 on; of the target 0.
    """

    draws: Sequence[bool]
    number: int

    def guess(self, position: int) -> int:
        """The draft for *position*."""
        return 0 if self.draws[position] else self.number

    def verify(self, _: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:  # noqa: ARG002
        """See :class:`dsim.events.forward.Backend`."""
        right = next((i for i, token in enumerate(drafts) if token), len(drafts))
        return right, 0


class Guessing(Guesses, Simulated):
    """Stands behind the servers of one model where several drafters guess.

    Args:
        env: the environment of the run.
        latency_ns: see :class:`Simulated`.
        draws, number: see :class:`Guesses`.
        preemptible: see :class:`Simulated`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        latency_ns: int | Callable[[int, bool], int],
        draws: Sequence[bool],
        number: int = 0,
        *,
        preemptible: bool = True,
    ) -> None:
        super().__init__(env, latency_ns, (), preemptible=preemptible)
        self.draws = draws
        self.number = number

    def attach(self, servers: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.forward.Backend`."""
        begin = super().attach(servers)
        if not self.number:
            return begin

        def begin_guess(forward: Forward) -> None:
            forward.token = self.guess(forward.first)
            begin(forward)

        return begin_guess
