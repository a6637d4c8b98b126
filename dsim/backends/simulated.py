"""The simulated backend: a forward is an event after a latency, a verdict comes from draws."""

from __future__ import annotations

from functools import cache
from heapq import heappush
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import simpy

    from dsim.events.forward import Forward
    from dsim.events.servers import Servers
    from dsim.events.tree import Node
    from dsim.model.script import Script


@cache
def _candidates(count: int, rank: int) -> Sequence[int]:
    """*count* candidates, of which the one of *rank* is right: 0; below 0: there are none."""
    return () if rank < 0 else tuple(0 if one == rank else one for one in range(1, count + 1))


class Simulated:
    """Stands behind the servers of one model.

    Args:
        env: the environment of the run.
        latency_ns: nanoseconds for every forward, or a function of (width, prefill) that gives
            them; the width is the number of tokens that the forward feeds to the model.
        run_lengths: for each position, how many drafts from there on are accepted before the first
            rejection (see :class:`dsim.model.script.Script`). Without them, drafts are judged by
            their tokens: 0 is the target's, any other a drafter's.
        guesses: the token that this drafter guesses at each position; by these it judges drafts,
            too. ``None``: drafts have no token, and run lengths judge them.
        preemptible: whether a cancelled forward frees its server at once.
        script: the text, for those that ask which of several candidates is right.
        block: what a forward guesses, where that is not one token; see
            :meth:`dsim.model.script.Script.block_of`.
    """

    def __init__(
        self,
        env: simpy.Environment,
        latency_ns: int | Callable[[int, bool], int],
        run_lengths: Sequence[int] = (),
        guesses: Sequence[int] | None = None,
        *,
        preemptible: bool = True,
        script: Script | None = None,
        block: Callable[[int, int], list[int]] | None = None,
    ) -> None:
        self.env = env
        self.run_lengths = run_lengths
        self.guesses = guesses
        self.preemptible = preemptible
        self.script = script
        self.block = block
        self._latency_ns = latency_ns
        self._cached: dict[int, tuple[int, int]] = {}  # server -> (tokens fed, rejections seen)

    def attach(self, servers: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.forward.Backend`."""
        begin, guesses, block = self._beginner(servers), self.guesses, self.block
        if block is not None:

            def begin_block(forward: Forward) -> None:
                forward.tokens = made = block(forward.first, servers.output.settled)
                forward.token = made[0] if made else None
                begin(forward)

            return begin_block
        if guesses is None:
            return begin

        def begin_guess(forward: Forward) -> None:
            forward.token = guesses[forward.first]
            begin(forward)

        return begin_guess

    def _beginner(self, servers: Servers) -> Callable[[Forward], None]:
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

        The logits for position *i* come from feeding token *i - 1*, so that token is fed again
        even where it is cached.
        """
        rejections = forward.servers.output.rejections
        fed, seen = self._cached.get(forward.server, (0, 0))
        if forward.fed is not None:
            self._cached[forward.server] = (fed, seen)
            return len(forward.fed)
        kept = min([fed, *rejections[seen:], forward.first - 1])
        self._cached[forward.server] = (forward.end, len(rejections))
        return forward.end - kept

    def cancel(self, _: Forward) -> None:
        """See :class:`dsim.events.forward.Backend`."""

    def guesses_behind(self, node: Node, depth: int, count: int) -> Sequence[int]:
        """See :class:`dsim.events.forward.Backend`."""
        rank = 0
        if node.right and self.script is not None:
            rank = self.script.rank(node.position + 1, depth)
        return _candidates(count, rank if rank <= count else 0)

    def chances_behind(self, node: Node, depth: int, count: int) -> list[float]:
        """See :class:`dsim.events.forward.Backend`."""
        script: Script = self.script  # type: ignore[assignment]  # simulations of trees have one
        return script.chances(node.position + 1, depth, count, right=node.right)

    def follow(self, _: Forward, node: Node) -> tuple[Node | None, int]:
        """See :class:`dsim.events.forward.Backend`."""
        return next((child for child in node.children if not child.token), None), 0

    def verify(self, _: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """See :class:`dsim.events.forward.Backend`."""
        count = len(drafts)
        if self.run_lengths:
            run = self.run_lengths[first]
            return (run if run < count else count), None
        if self.guesses is None:
            # None: a forward that guessed nothing was taken for a draft
            wrong = (i for i, token in enumerate(drafts) if token or token is None)
            return next(wrong, count), 0
        own = self.guesses[first : first + count + 1]
        stand = next((i for i, token in enumerate(drafts) if token != own[i]), count)
        return stand, own[stand]
