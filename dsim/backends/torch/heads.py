"""Drafters that live on a target's features: an EAGLE-3 head as a reader of texts and of trees.

A head is in the worker of its target, next to the target's decoder, which keeps the features of all
that it reads. Of the tokens that the target has read, the head reads the features; of its own
drafts, which the target has not read yet, what it made of them itself. Once the target has read
them, the true features take the place of these.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.backends.torch.nodes import END, Asked, along, common_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from dsim.backends.torch.eagle import Head


class FeatureDrafter:
    """A decoder that drafts by a head.

    In the head's cache a place is a pair: what is known of a token, and the token after it. The
    cache has the pairs of ``text``, and behind them those of the tree of drafts below its end.

    Args:
        head: the head.
        target: the decoder of its target, which keeps the features of :attr:`layers`.
        vocab: size of the vocabulary.

    Attributes:
        text: whose pairs the cache has, all from true features.
        below: the nodes of the tree, by their parent's number and their token.
    """

    def __init__(self, head: Head, target: Any, vocab: int) -> None:
        self.head = head
        self.target = target
        self.vocab = vocab
        self.torch = head.torch
        self.number = head.tokens()
        self.parameters = sum(w.numel() for n, w in head.weights.items() if "embed" not in n)
        self.reset()

    def reset(self) -> None:
        """See :class:`dsim.backends.torch.decoders.Decoder`."""
        self.text: list[int] = []
        self.past: Any = None
        self.said: list[Any] = []  # what the head made of the last pairs of the text, (size,)
        self.below: dict[tuple[int, int], int] = {}
        self.drafts: list[Any] = []  # what it made of each node
        self.above: list[list[int]] = []  # each node and those above it

    def warm_up(self, widths: Sequence[int]) -> None:
        """Do forwards of *widths*, and forget them."""
        text = [0]
        for width in widths:
            text = text + [1] * width
            self.forward(text, 1)
            self.read_nodes(Asked(text, [(END, 1), (0, 1)], [1]))
        self.reset()
        self.target.reset()

    def forward(self, tokens: Sequence[int], rows: int) -> tuple[NDArray[Any], int]:
        """See :class:`dsim.backends.torch.decoders.Decoder`.

        What follows a text that the head knows are its drafts, a chain below the text.
        """
        seen = min(len(self.slots(tokens)), len(tokens) - 1)
        end = seen + 1 if list(tokens[: seen + 1]) == self.text else len(tokens)
        width = self.read_text(tokens[:end], max(1, rows - (len(tokens) - end)))
        nodes = [(number - 1, token) for number, token in enumerate(tokens[end:])]
        width += self.read_tree(nodes)
        rows_of = [*self.said, *self.drafts_of(nodes)][-rows:]
        return self.logits(rows_of, rows), max(1, width)

    def read_nodes(self, asked: Asked) -> tuple[NDArray[Any], int]:
        """See :class:`dsim.backends.torch.nodes.NodeReader`."""
        width = self.read_text(asked.text, 1)
        width += self.read_tree(asked.nodes)
        drafts = self.drafts_of(asked.nodes)
        rows = [self.said[-1] if node == END else drafts[node] for node in asked.ask]
        return self.logits(rows, len(rows)), max(1, width)

    def slots(self, text: Sequence[int]) -> list[int]:
        """Where the target keeps the features of the tokens of *text*, as far as it has read it."""
        target = self.target
        return along(target.ids, target.below, common_prefix(target.ids, text), text)[0]

    def read_text(self, text: Sequence[int], rows: int) -> int:
        """Read *text*, which the target reads first if it has not, all but the last token.

        ``said`` has what the head makes of the last *rows* pairs then, or of more.

        Returns:
            How many pairs were read.
        """
        text = list(text)
        if text == self.text and len(self.said) >= rows:
            return 0
        pairs = len(text) - 1
        slots = self.slots(text)
        if len(slots) < pairs:
            self.target.forward(text[:-1], 1)
            slots = self.slots(text)
        kept = min(max(0, common_prefix(self.text, text) - 1), max(0, pairs - rows))
        self.forget(kept)
        self.text = text
        if kept == pairs:  # there is nothing before the first token
            self.said = [self.nothing()]
            return 0
        device = self.target.device
        index = self.torch.tensor(slots[kept:pairs], device=device)
        fused = self.head.fuse(self.target.features[index])
        mask = self.torch.ones(pairs - kept, pairs, dtype=self.torch.bool, device=device)
        places = list(range(kept, pairs))
        self.said = self.feed(text[kept + 1 :], fused, places, mask.tril(kept))
        return pairs - kept

    def read_tree(self, nodes: Sequence[tuple[int, int]]) -> int:
        """Read *nodes*, which are below the end of ``text``; return how many were new."""
        pairs = len(self.text) - 1
        numbers: list[int] = []  # in this cache, of the nodes so far
        new: list[tuple[int, int]] = []  # those to be read at once, by parent here and token
        read = 0
        for parent, token in [*nodes, (END, END)]:
            above = END if parent == END else numbers[parent]
            waits = above != END and above >= len(self.drafts)
            if new and (waits or token == END):
                read += len(new)
                hidden = [self.said[-1] if up == END else self.drafts[up] for up, _ in new]
                first = len(self.drafts)
                width = pairs + first + len(new)
                mask = self.torch.zeros(len(new), width, dtype=self.torch.bool)
                mask[:, :pairs] = True
                for row in range(len(new)):
                    mask[row, [pairs + one for one in self.above[first + row]]] = True
                places = [pairs - 1 + len(self.above[first + row]) for row in range(len(new))]
                tokens = [token for _, token in new]
                stacked = self.torch.stack(hidden)
                self.drafts += self.feed(tokens, stacked, places, mask.to(self.target.device))
                new = []
            if token != END:
                number = self.below.get((above, token))
                if number is None:
                    number = self.below[above, token] = len(self.above)
                    self.above.append([*([] if above == END else self.above[above]), number])
                    new.append((above, token))
                numbers.append(number)
        return read

    def drafts_of(self, nodes: Sequence[tuple[int, int]]) -> list[Any]:
        """What the head made of each of *nodes*."""
        numbers: list[int] = []
        for parent, token in nodes:
            numbers.append(self.below[END if parent == END else numbers[parent], token])
        return [self.drafts[number] for number in numbers]

    def feed(self, ids: Sequence[int], hidden: Any, places: Sequence[int], mask: Any) -> list[Any]:
        """One forward of the head over pairs behind those in its cache; what it made of each."""
        device = self.target.device
        out, self.past = self.head.forward(
            self.torch.tensor([list(ids)], device=device),
            hidden[None],
            self.torch.tensor([list(places)], device=device),
            self.past,
            mask,
        )
        return list(out[0])

    def forget(self, kept: int) -> None:
        """Forget all pairs but the first *kept*, and so all drafts."""
        self.below, self.drafts, self.above = {}, [], []
        if self.past is not None:
            self.past = tuple(one[:, :, :kept] for one in self.past) if kept else None

    def nothing(self) -> Any:
        """In place of what the head makes of a pair, where there is none: (size,)."""
        return self.torch.zeros_like(self.head.weights["norm.weight"])

    def logits(self, said: Sequence[Any], rows: int) -> NDArray[Any]:
        """Logits behind pairs, float32 (rows, vocab); minus infinity where nothing is drafted.

        Rows too few are filled up before the first, with a head's opinion on nothing.
        """
        hidden = self.torch.stack([*[self.nothing()] * (rows - len(said)), *said])
        found = self.head.logits(hidden).detach().float().cpu().numpy()
        logits = np.full((rows, self.vocab), -np.inf, dtype=np.float32)
        logits[:, self.number] = found
        return logits
