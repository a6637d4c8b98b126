"""A simulated backend that watches what an orchestration does with its tokens, for the laws.

In a plain simulation nobody looks at tokens: run lengths judge the drafts. Here each token is an
object of its own that knows its position, a draft has its token only when its forward has ended,
and what cannot be on real models is noted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.backends.simulated import Simulated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.servers import Servers
    from dsim.events.tree import Node


class Token(int):
    """A token that knows its position: 0 is the target's own, any other a wrong guess.

    Attributes:
        position: its position.
        astray: whether it was guessed behind a wrong guess, or without a token before it: on a real
            model, for another text.
    """

    position: int
    astray: bool

    @classmethod
    def at(cls, position: int, value: int = 0, *, astray: bool = False) -> Token:
        """The token *value* at *position*."""
        made = cls(value)
        made.position, made.astray = position, astray
        return made


class Watched(Simulated):
    """Stands behind the servers of one model, and watches.

    Attributes:
        problems: what was wrong, in sentences, in order.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.problems: list[str] = []
        self._read: dict[Forward, tuple[Any, ...]] = {}

    def attach(self, servers: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.forward.Backend`."""
        begin, output = self._beginner(servers), servers.output
        block = self.block or self._one_draft
        drafts = servers.role == "drafter"

        def begin_watched(forward: Forward) -> None:
            if drafts:
                made, first = block(forward.first, output.settled), forward.first
                text = servers.tokens
                astray = len(text) < first or any(text[output.settled : first])
                astray = astray and forward.fed is None
                tokens = []
                for at, value in enumerate(made, first):
                    tokens.append(Token.at(at, value, astray=astray))
                    astray = astray or value != 0

                def ends(_: Any) -> None:
                    forward.token = tokens[0] if tokens else None
                    if self.block:
                        forward.tokens = tokens

                forward.callbacks.insert(0, ends)
            else:
                self._read[forward] = tuple(servers.tokens)
            begin(forward)

        return begin_watched

    def _one_draft(self, first: int, _: int) -> list[int]:
        ranks = self.script.ranks[0] if self.script is not None else ()
        return [int(ranks[first] != 1)] if first < len(ranks) else []

    def verify(self, forward: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """See :class:`dsim.events.forward.Backend`."""
        self._look_at(forward, first, drafts)
        count = len(drafts)
        stand = next((i for i, token in enumerate(drafts) if not _right(token, first + i)), count)
        for position, token in enumerate(drafts[:stand], first):
            if token.astray:
                self._note(
                    f"the draft of token {position} was guessed for another text: behind a draft "
                    "that the target rejects, or without one; drop what follows a rejected draft, "
                    "and cancel what is being drafted behind it"
                )
        return stand, Token.at(first + stand)

    def _look_at(self, forward: Forward, first: int, drafts: Sequence[Any]) -> None:
        read = self._read.get(forward)
        if read is None:
            self._note("a verdict was asked of a forward that is no pass of the target")
            return
        if forward.callbacks is not None:
            self._note("a verdict was asked of a pass that had not ended; yield it first")
        for position, token in enumerate(drafts, first):
            name = f"the draft of token {position}"
            if position > forward.end:
                self._note(
                    f"{name} was judged by a pass that had read {forward.end} tokens, "
                    f"which says no more than token {forward.end}"
                )
            elif token is None:
                self._note(
                    f"{name} is None: its forward guessed nothing, or had not ended when its "
                    "token was taken (yield a forward first)"
                )
            elif not isinstance(token, Token):
                self._note(f"{name} is {token!r}, which no forward of the drafter guessed")
            elif token.position != position:
                self._note(f"{name} is what the drafter guessed for token {token.position}")
            elif position < forward.end and read[position] is not token:
                self._note(f"{name} was made after the pass began that judges it")

    def _note(self, what: str) -> None:
        if what not in self.problems:
            self.problems.append(what)

    def guesses_behind(self, node: Node, depth: int, count: int) -> Sequence[int]:
        """See :class:`dsim.events.forward.Backend`."""
        found = super().guesses_behind(node, depth, count)
        return [Token.at(node.position + 1, value) for value in found]

    def follow(self, forward: Forward, node: Node) -> tuple[Node | None, int]:
        """See :class:`dsim.events.forward.Backend`."""
        if forward.callbacks is not None:
            self._note("a verdict was asked of a pass that had not ended; yield it first")
        child, _ = super().follow(forward, node)
        return child, Token.at(node.position + 1)


def _right(token: Any, position: int) -> bool:
    return isinstance(token, Token) and token == 0 and token.position == position


def wrong_token(output: Output) -> str:
    """A word on the first settled token that is not the target's own; nothing if all are."""
    for position, token in enumerate(output.tokens[: output.settled]):
        if _right(token, position):
            continue
        what = repr(token)
        if isinstance(token, Token):
            what = f"the token {token.position}"
            if token.position == position:
                what = "a draft that the target does not accept"
        return f"token {position} of the text is {what}; settle what a verdict says"
    return ""
