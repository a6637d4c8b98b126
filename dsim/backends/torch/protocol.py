"""The messages between dsim and the worker process of a server."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.backends.torch.verify import Answer, verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.backends.torch.models import ModelSpec
    from dsim.backends.torch.verify import Rule


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerSetup:
    """What a worker is told at its start.

    Attributes:
        specs: the models by role, ``drafter`` or ``target``; several if the worker has several,
            which then never run at the same time.
        device: ``cpu``, ``cuda:0``, ``mps`` …
        cores: the CPU cores it may use; empty: all.
        threads: CPU threads of a forward.
        vocab: how many tokens target and drafter both know; further logits are cut off.
        warm_up_widths: widths of the forwards that are done, and thrown away, before it is ready.
        static_tokens: compile the model, with a cache of so many tokens; 0: do not.
    """

    specs: dict[str, ModelSpec]
    device: str
    cores: tuple[int, ...]
    threads: int
    vocab: int
    warm_up_widths: tuple[int, ...]
    static_tokens: int = 0


class Begin(NamedTuple):
    """A new text: forget the last one.

    Attributes:
        prompt: its tokens, at least one.
        rule: how drafts are judged.
        read: the roles whose models read the prompt now, before time zero.
        cores: the CPU cores to run on from now on; empty: as before.
        threads: CPU threads of a forward from now on; 0: as before.
        hold_ns: how long the answer of a forward may wait for those of the next in a chain, to be
            sent with them, if these are likely to come in time; for a parent that would only look
            on.
        stop_ids: tokens that may end the text, so that answers with one never wait.
    """

    prompt: list[int]
    rule: Rule
    read: tuple[str, ...] = ()
    cores: tuple[int, ...] = ()
    threads: int = 0
    hold_ns: int = 0
    stop_ids: frozenset[int] = frozenset()


class Feed(NamedTuple):
    """A forward over the prompt and *tokens*, for the positions from *first* to ``len(tokens)``.

    Attributes:
        tokens: what follows the prompt.
        first: the first position whose token is wanted.
        role: whose forward: ``drafter`` or ``target``.
        ahead: how many forwards follow unasked, each over the token that the last one chose as
            well, while no message comes. So a chain of forwards needs no hand-over in between.
        block: see :class:`dsim.events.forward.Forward`; with one the chain goes on beyond the
            verdict.
    """

    tokens: list[int]
    first: int
    role: str = "target"
    ahead: int = 0
    block: tuple[int, int, int] | None = None

    @property
    def unasked(self) -> int:
        """How many forwards may follow, at most."""
        if self.block is None:
            return self.ahead
        settled, drafts, wanted = self.block
        return (wanted - settled) * (drafts + 1)

    def following(
        self, answers: Sequence[Answer], said: Mapping[int, Answer], rule: Rule
    ) -> Feed | None:
        """What this server's asker is going to want next, if nothing intervenes.

        Args:
            answers: what this forward has said.
            said: what the drafter has said, by position.
            rule: what decides which drafts stand.
        """
        tokens = [*self.tokens, answers[-1].token]
        if self.ahead:
            return Feed(tokens, self.first + 1, self.role, self.ahead - 1, self.block)
        if self.block is None:
            return None
        settled, drafts, wanted = self.block
        if self.role == "drafter":
            return Feed(tokens, settled, "target", 0, self.block)
        judged = [said[position] for position in range(settled, len(self.tokens))]
        accepted, token = verify(rule, answers, judged, settled)
        tokens = [*self.tokens[: settled + accepted], token]
        settled = len(tokens)
        if settled == wanted:
            return None
        block = (settled, drafts, wanted)
        count = min(drafts, wanted - settled - 1)
        if count == 0:
            return Feed(tokens, settled, "target", 0, block)
        return Feed(tokens, settled, "drafter", count - 1, block)


class FeedNodes(NamedTuple):
    """A forward over the prompt, *tokens* and a tree of drafts below their end.

    Drafters that make several tokens in a forward get it as well, without a tree.

    Attributes:
        tokens: what follows the prompt.
        nodes, ask, levels: see :class:`dsim.backends.torch.nodes.Asked`.
        candidates: how many of them a drafter says behind each node, at most.
        role: whose forward: ``drafter`` or ``target``. The target's answers are those of a
            :class:`Feed`, one for each node that is asked for. A drafter's are as many as levels
            for each of them: the first guess (-1: there is none), and with it the parts of
            :class:`dsim.backends.torch.verify.Candidates`.
    """

    tokens: list[int]
    nodes: list[tuple[int, int]]
    ask: list[int]
    role: str = "target"
    candidates: int = 1
    levels: int = 1

    @property
    def unasked(self) -> int:
        """How many forwards may follow: none."""
        return 0

    def position(self, number: int) -> int:
        """The position in the output behind node *number*."""
        behind = len(self.tokens)
        while number >= 0:
            number, behind = self.nodes[number][0], behind + 1
        return behind


class Done(NamedTuple):
    """What a forward came to.

    Attributes:
        answers: one for each position that was asked for.
        width: tokens fed to the model: the new ones and those that this server's cache had missed.
        context: tokens that the cache held before.
        forward_ns: the forward alone, until the device had finished.
    """

    answers: list[Answer]
    width: int
    context: int
    forward_ns: int

    def pack(self) -> tuple[Any, ...]:
        """As built-in types, which go through a pipe in a tenth of the time."""
        return ([tuple(answer) for answer in self.answers], *self[1:])

    def says(self, tokens: frozenset[int]) -> bool:
        """Whether any of the answers is one of *tokens*."""
        return any(answer.token in tokens for answer in self.answers)

    @classmethod
    def unpack(cls, value: tuple[Any, ...]) -> Done:
        """What :meth:`pack` packed."""
        return cls([Answer(*answer) for answer in value[0]], *value[1:])


class Ready(NamedTuple):
    """The first message of a worker: it is warm.

    Attributes:
        parameters: how many weights the model has.
    """

    parameters: int
