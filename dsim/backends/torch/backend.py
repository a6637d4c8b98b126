"""The torch backend of one run: a forward is a real forward pass in a worker process."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.backends.torch.nodes import END
from dsim.backends.torch.protocol import Done, Feed, FeedNodes
from dsim.backends.torch.sampling import Candidates
from dsim.backends.torch.verify import Answer, verify
from dsim.events.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.backends.lines import Line, Reply
    from dsim.backends.live import LiveEnvironment
    from dsim.backends.torch.verify import Rule
    from dsim.events.forward import Forward
    from dsim.events.servers import Servers
    from dsim.events.tree import Node


HOLD_NS = 40_000_000  # a text that comes in such steps still flows


class Span(NamedTuple):
    """One forward of one run.

    Attributes:
        role: ``drafter`` or ``target``.
        server: the number of the server.
        first, end: the positions that it was for; it read the tokens before *end*.
        width, context: tokens fed, and tokens that the cache held.
        asked: the width by the rules of its orchestration (``docs/field.md``), which of trees count
            nodes, whatever the cache of this server holds or lacks.
        begin_ns: when the algorithm asked for it (ns since time zero).
        start_ns, end_ns: when its worker began and had finished it, on the same clock.
        forward_ns: the forward alone, by the worker's clock.
    """

    role: str
    server: int
    first: int
    end: int
    width: int
    context: int
    asked: int
    begin_ns: int
    start_ns: int
    end_ns: int
    forward_ns: int


class LiveOutput(Output):
    """An output that may end before ``wanted`` tokens: at one of the *stop_ids*, which is kept.

    Args:
        env, wanted: as in :class:`dsim.events.output.Output`.
        stop_ids: tokens that end the text.
        on_settled: called with the tokens that have just settled.
    """

    __slots__ = ("on_settled", "stop_ids")

    def __init__(
        self,
        env: Any,
        wanted: int,
        stop_ids: frozenset[int] = frozenset(),
        on_settled: Callable[[list[int]], None] | None = None,
    ) -> None:
        super().__init__(env, wanted)
        self.stop_ids = stop_ids
        self.on_settled = on_settled

    def settle_drafts(self, count: int) -> None:
        """Settle drafts, up to the first that ends the text."""
        if not self.finished:
            before, stop = self.settled, self._stop(count)
            super().settle_drafts(count if stop is None else stop)
            self._tell(before)
            if stop is not None:
                self._finish()

    def settle(self, count: int, token: Any) -> None:
        """Settle drafts and a token, or less, if a draft ends the text."""
        if self.finished:
            return
        if self._stop(count) is not None:
            self.settle_drafts(count)
            return
        before = self.settled
        tell, self.on_settled = self.on_settled, None
        super().settle(count, token)
        self.on_settled = tell
        self._tell(before)
        if token in self.stop_ids and not self.finished:
            self._finish()

    def _stop(self, count: int) -> int | None:
        """How many of the next *count* drafts settle if one of them ends the text."""
        drafts = self.tokens[self.settled : self.settled + count]
        return next((i for i, t in enumerate(drafts, 1) if t in self.stop_ids), None)

    def _finish(self) -> None:
        del self.tokens[self.settled :]
        self.wanted = self.settled
        self.finished = True
        self.done.succeed()

    def _tell(self, before: int) -> None:
        if self.on_settled is not None and self.settled > before:
            self.on_settled(self.tokens[before : self.settled])


class Shared:
    """What the two models of one run have in common.

    Attributes:
        said: the drafter's answer for each position.
        spans: every forward that ended, in order of ending.
        under_way: what the worker of each rank is at, or goes on with unasked; ``None``: nothing.
        misses: how often the target's token was none of the candidates on a tree.
    """

    def __init__(self) -> None:
        self.said: dict[int, Answer] = {}
        self.spans: list[Span] = []
        self.under_way: dict[int, Feed | None] = {}
        self.misses = 0

    def confidence(self, position: int) -> float:
        """How sure the drafter is of its draft for *position*, by a rule with confidence."""
        return float(self.said[position].more[1])


class Torch:
    """Stands behind the servers of one model during one run.

    Args:
        env: the live environment of the run.
        lines: the workers of this model's servers, by the number of the server.
        rule: how drafts are judged.
        shared: one for both models.
        together: whether these workers have both models.
        candidates: how many guesses behind each node of a tree a forward of the drafter makes;
            0: there is no tree.
        block_tokens: for how many positions.
    """

    preemptible = False

    def __init__(
        self,
        env: LiveEnvironment,
        lines: Sequence[Line],
        rule: Rule,
        shared: Shared,
        *,
        together: bool = False,
        candidates: int = 0,
        block_tokens: int = 1,
    ) -> None:
        self.env = env
        self.lines = lines
        self.rule = rule
        self.shared = shared
        self.together = together
        self.candidates = candidates
        self.block_tokens = block_tokens
        self._begun: dict[int, int] = {}  # by server
        self._answers: dict[Forward, list[Answer]] = {}
        self._root: list[Candidates] = []  # behind the text, by the drafter's last forward over it
        self._read = -1  # tokens of the text at that forward

    def attach(self, _: Servers) -> Callable[[Forward], None]:
        """See :class:`dsim.events.forward.Backend`."""
        return self._begin

    def _begin(self, forward: Forward) -> None:
        self._begun[forward.server] = int(self.env.now)
        line, under_way = self.lines[forward.server], self.shared.under_way
        drafts = forward.servers.role == "drafter"
        if forward.fed is not None and not drafts:
            self._answers[forward] = []  # so that they stand in the order of dispatch
        if forward.fed is not None or (drafts and (self.candidates or self.block_tokens > 1)):
            under_way[line.rank] = None
            self.env.ask(line, forward, self._nodes(forward, drafts=drafts), self._answered)
            return
        wanted = Feed(
            list(forward.servers.tokens),
            forward.first,
            forward.servers.role,
            forward.ahead if self.block_tokens == 1 else 0,
            forward.block if self.together and self.block_tokens == 1 else None,
        )
        if line.ahead and under_way[line.rank] == wanted:
            self.env.take(line, forward, self._answered)
            return
        under_way[line.rank] = wanted
        self.env.ask(line, forward, tuple(wanted), self._answered, wanted.unasked)

    def _nodes(self, forward: Forward, *, drafts: bool) -> FeedNodes:
        """What *forward* reads, with all that is above it on the tree."""
        text = list(forward.servers.tokens)
        numbers: dict[Node, int] = {}
        nodes: list[tuple[int, int]] = []
        for node in forward.fed or ():
            path = []
            while node.position >= len(text) and node not in numbers:
                path.append(node)
                node = node.parent  # noqa: PLW2901
            for one in reversed(path):
                numbers[one] = len(nodes)
                nodes.append((numbers.get(one.parent, END), one.token))
        ask = [numbers.get(node, END) for node in forward.fed or ()] or [END]
        count = max(1, self.candidates) if drafts else 1
        levels = self.block_tokens if drafts else 1
        return FeedNodes(text, nodes, ask, forward.servers.role, count, levels)

    def cancel(self, forward: Forward) -> None:
        """See :class:`dsim.events.forward.Backend`."""
        self.env.halt(self.lines[forward.server])

    def _answered(self, forward: Forward, reply: Reply) -> None:
        done = Done.unpack(reply.value)
        line, zero_ns = self.lines[forward.server], self.env.zero_ns
        drafts = forward.servers.role == "drafter"
        asked = done.width
        if forward.fed is not None:
            asked = len(forward.fed)
        elif drafts and self.candidates:
            asked, self._read = forward.end - self._read, forward.end
        self.shared.spans.append(
            Span(
                role=forward.servers.role,
                server=forward.server,
                first=forward.first,
                end=forward.end,
                width=done.width,
                context=done.context,
                asked=asked,
                begin_ns=self._begun[forward.server],
                start_ns=reply.start_ns - zero_ns,
                end_ns=reply.end_ns - zero_ns,
                forward_ns=done.forward_ns,
            )
        )
        if drafts and not forward.cancelled and (self.candidates or self.block_tokens > 1):
            self._guessed(forward, [Candidates(*answer.more) for answer in done.answers])
        elif drafts and not forward.cancelled:
            forward.token = done.answers[0].token
            self.shared.said[forward.first] = done.answers[0]
        elif not forward.cancelled:
            self._answers[forward] = done.answers
        under_way = self.shared.under_way
        if line.ahead and (last := under_way[line.rank]) is not None:
            under_way[line.rank] = last.following(done.answers, self.shared.said, self.rule)

    def _guessed(self, forward: Forward, found: list[Candidates]) -> None:
        """Note what a drafter's *forward* has *found*."""
        levels = self.block_tokens
        if forward.fed is not None:
            for number, node in enumerate(forward.fed):
                node.answer = found[number * levels : (number + 1) * levels]
        elif self.candidates:
            self._root = found
        else:
            made = list(itertools.takewhile(lambda one: one.tokens, found))
            forward.tokens = [one.tokens[0] for one in made]
            forward.token = forward.tokens[0] if made else None
            for position, one in enumerate(made, forward.first):
                self.shared.said[position] = Answer(one.tokens[0], one.more)

    def _behind(self, node: Node) -> Candidates:
        """What the drafter guesses behind *node*, which a draft has read, or a node above it."""
        if node.answer is None:  # the root is the end of the text; others are within a block
            node.answer = self._root if node.parent is None else node.parent.answer[1:]
        found: Candidates = node.answer[0]
        return found

    def guesses_behind(self, node: Node, _: int, count: int) -> Sequence[int]:
        """See :class:`dsim.events.forward.TreeBackend`."""
        return self._behind(node).tokens[:count]

    def chances_behind(self, node: Node, _: int, count: int) -> Sequence[float]:
        """See :class:`dsim.events.forward.TreeBackend`."""
        return self._behind(node).chances[:count]

    def follow(self, forward: Forward, node: Node) -> tuple[Node | None, int]:
        """See :class:`dsim.events.forward.TreeBackend`."""
        while (before := next(iter(self._answers))) is not forward:
            del self._answers[before]  # it has been judged, or nobody wants it
        answers = self._answers[forward]
        target = answers[forward.fed.index(node)]  # type: ignore[union-attr]
        children = {child.token: child for child in node.children}
        drafts = self._behind(node) if children else Candidates([], [])
        token = self.rule.among(target, drafts, children, node.position + 1)
        self.shared.misses += bool(children) and token not in children
        return children.get(token), token

    def verify(self, forward: Forward, first: int, drafts: Sequence[Any]) -> tuple[int, Any]:
        """See :class:`dsim.events.forward.Backend`."""
        answers = self._answers.pop(forward)[first - forward.first :]
        said = [self.shared.said[first + i] for i in range(len(drafts))]
        return verify(self.rule, answers, said, first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiveRun:
    """One finished run with real models.

    Attributes:
        output: the text, and when its tokens settled (by the workers' stamps).
        drafter, target: the servers, with their counts.
        spans: every forward that ended before the output was finished, in order of ending.
        wall_ns: from time zero until the parent knew the last token.
        misses: how often the target's token was none of the candidates on a tree.
    """

    output: Output
    drafter: Servers
    target: Servers
    spans: list[Span]
    wall_ns: int
    misses: int = 0

    @property
    def judged(self) -> int:
        """How many drafts got a verdict; on trees: for how many positions there were some."""
        return self.output.accepted + len(self.output.rejections) + self.misses

    @property
    def orchestration_ns(self) -> int:
        """Wall time during which no worker was at a forward."""
        idle_ns, until_ns = 0, 0
        for span in sorted(self.spans, key=lambda span: span.start_ns):
            idle_ns += max(0, span.start_ns - until_ns)
            until_ns = max(until_ns, span.end_ns)
        return idle_ns + max(0, self.wall_ns - until_ns)
