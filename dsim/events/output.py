"""The text being generated: what is settled, what is drafted, and when each token settled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import simpy


class Output:
    """Tokens ``0 .. wanted - 1`` of one run.

    Attributes:
        wanted: ``N``, tokens to generate.
        tokens: the settled tokens, then the drafts that are not settled yet. What a token *is* the
            backend decides: an id of the vocabulary, or nothing at all in a simulation.
        settled: how many of ``tokens`` are settled.
        settled_ns: for each settled token, the time at which it settled.
        accepted: how many settled tokens were drafts.
        rejections: positions at which the text was cut back, in order. A server whose cache is
            older than a rejection has lost what lies beyond it.
        finished: whether the last token is settled, and
        done: the event that happens then.
    """

    __slots__ = (
        "accepted",
        "done",
        "env",
        "finished",
        "rejections",
        "settled",
        "settled_ns",
        "tokens",
        "wanted",
    )

    def __init__(self, env: simpy.Environment, wanted: int) -> None:
        self.env = env
        self.wanted = wanted
        self.tokens: list[Any] = []
        self.settled = 0
        self.settled_ns: list[int] = []
        self.accepted = 0
        self.rejections: list[int] = []
        self.finished = False
        self.done = env.event()

    def settle_drafts(self, count: int) -> None:
        """Settle the next *count* drafts: they are the target's tokens.

        Raises:
            ValueError: there are not so many drafts, or not so many tokens in the text.
        """
        if not 0 <= count <= min(len(self.tokens), self.wanted) - self.settled:
            raise ValueError(self._too_many(count))
        self.accepted += count
        self.settled += count
        now = self.env._now
        self.settled_ns.extend([now] * count)  # type: ignore[list-item]

    def settle(self, count: int, token: Any) -> None:
        """Settle the next *count* drafts and then the target's own *token*.

        Drafts from that position on are void.

        Raises:
            ValueError: there are not so many drafts, or not so many tokens in the text.
        """
        if count:
            self.settle_drafts(count)
        tokens, position = self.tokens, self.settled
        if position >= self.wanted:
            raise ValueError(
                f"settles a token more than the {self.wanted} of the text: its last position, "
                f"{self.wanted - 1}, needs no draft"
            )
        if position < len(tokens):
            self.rejections.append(position)
            del tokens[position:]
        tokens.append(token)
        self.settled_ns.append(self.env._now)  # type: ignore[arg-type]
        self.settled = position = position + 1
        if position == self.wanted:
            self.finished = True
            self.done.succeed()

    def _too_many(self, count: int) -> str:
        drafts = len(self.tokens) - self.settled
        return (
            f"settles {count} drafts; there {'is' if drafts == 1 else 'are'} {drafts}, and "
            f"{self.settled} of {self.wanted} tokens are settled"
        )
