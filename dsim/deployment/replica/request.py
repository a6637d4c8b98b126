"""A request on a replica: what is known of its text, and what the replica has computed of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.deployment.request_rows import HASHED_TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.deployment.replica.speculation import Speculation


class Request:
    """One request.

    Args:
        number: number of the request.
        prompt: tokens of the prompt.
        output: tokens of the answer.
        lengths: for each position of the answer, how many drafts from there on are accepted before
            the first rejection; empty where nothing drafts.
        speculation: in place of these, what the request drafts and what stands of that.
        group, shared: the first *shared* tokens of the prompt are those of all prompts of *group*.
        hashes: in place of a group, what stands for each 512 tokens and all before them.
        sent: the first tokens whose KV cache comes along from another replica.

    Attributes:
        end: tokens of prompt and answer.
        known: tokens of the prompt, and those that are settled.
        computed: those of them that are in the KV cache.
        fed: tokens of them that the step under way computes.
        drafts: drafts that wait for their verdict.
        seen: tokens that the drafter has seen.
        room: tokens that fit into the KV blocks of the request.
        blocks: those blocks, where a prefix cache tells them apart.
        named: how many of them the prefix cache knows by their tokens.
        passes: target forwards in which the request took part.
        drafted, accepted: drafts that were judged, and those of them that stand.
        preemptions: how often the request was evicted.
    """

    __slots__ = (
        "accepted",
        "blocks",
        "computed",
        "drafted",
        "drafts",
        "end",
        "fed",
        "group",
        "hashes",
        "known",
        "lengths",
        "named",
        "number",
        "passes",
        "preemptions",
        "prompt",
        "room",
        "seen",
        "sent",
        "shared",
        "speculation",
    )

    def __init__(
        self,
        number: int,
        prompt: int,
        output: int,
        lengths: Sequence[int] = (),
        group: str = "",
        shared: int = 0,
        hashes: tuple[int, ...] = (),
        sent: int = 0,
        speculation: Speculation | None = None,
    ) -> None:
        self.number = number
        self.prompt = prompt
        self.end = prompt + output
        self.lengths = lengths
        self.speculation = speculation
        self.group = group
        self.shared = shared
        self.hashes = hashes
        self.sent = sent
        self.known = max(prompt, sent + 1) if sent else prompt
        self.computed = 0
        self.fed = 0
        self.drafts = 0
        self.seen = prompt
        self.room = 0
        self.blocks: list[int] = []
        self.named = 0
        self.passes = 0
        self.drafted = 0
        self.accepted = 0
        self.preemptions = 0

    def lose(self) -> None:
        """Its KV cache and its drafts are lost: all that it knows is to be computed again."""
        self.computed = self.drafts = self.sent = self.room = self.named = 0
        self.blocks = []

    def beginning(self, place: int, size: int) -> str | int:
        """What the shared block of *size* tokens at *place* is known by, with all before it.

        Numbers of requests are 0 or more, so hashes are below 0.
        """
        if not self.hashes:
            return self.group
        return -1 - self.hashes[((place + 1) * size - 1) // HASHED_TOKENS]
