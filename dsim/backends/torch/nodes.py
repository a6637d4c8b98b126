"""How a model reads a tree of drafts: what its KV cache keeps of it, and who may look at whom.

A cache holds a text, token by token, and behind it a tree of tokens below the text's end. When the
text goes on along the tree, the keys and values of that path are gathered, and the branch below it
stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


END = -1  # in place of the index of a node: the end of the text, which is the tree's root


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens *a* and *b* have in common, counted from the first."""
    shortest = min(len(a), len(b))
    if a[:shortest] == b[:shortest]:
        return shortest
    return next(i for i in range(shortest) if a[i] != b[i])


class Asked(NamedTuple):
    """What a reader of trees is asked.

    Attributes:
        text: prompt and settled tokens, one at least.
        nodes: (parent, token): the parent's index in this list, which is smaller than the node's
            own; ``END``: it is right below the end of the text. Each of them is asked for, or above
            one that is.
        ask: indices of the nodes that it is asked about; ``END``: the end of the text.
        candidates: how many behind each of them are of interest, at most.
        levels: for how many positions behind each node it guesses (``drafter.block_tokens``); more
            than one only of readers that are not made of a model.
    """

    text: Sequence[int]
    nodes: Sequence[tuple[int, int]] = ()
    ask: Sequence[int] = (END,)
    candidates: int = 1
    levels: int = 1


class NodeReader(Protocol):
    """A decoder that can read trees; every drafter and target of ``tree`` and ``treedsi`` is one.

    It serves in a worker, under the role that the worker has it for. A drafter that lives on the
    target's features is in the target's worker, next to the target's decoder.

    What it returns are logits; the rule (:mod:`dsim.backends.torch.verify`) makes candidates and
    their chances of a drafter's, with the noise of the position added at a temperature, and the
    target's own token of a target's.
    """

    def read_nodes(self, asked: Asked) -> tuple[NDArray[Any], int]:
        """Read a text and a tree of nodes below its end.

        What it has read before it need not read again: a text goes on where the last one ended,
        often along nodes of the tree, and asked for are then only nodes that are new. Each request
        says all that matters nevertheless, so a reader that keeps nothing is right, but slow.

        Returns:
            Logits behind each node of ``asked.ask``, float32 (len(ask) · levels, vocab), its levels
            one after the other; minus infinity rules a token out, and a row of nothing else says
            that there is no guess. And the width: how many tokens were fed.
        """


class Reading(NamedTuple):
    """What a cache has to do for a request.

    Attributes:
        keep: slots that stay, in their new order.
        below: what stays of the tree, behind the text.
        tokens: what to feed, behind what stays.
        positions: their positions in the text.
        sees: bool (fed, kept + fed): at which slots each of them looks.
        rows: for each node asked for, which of the fed tokens it is.
        after: the tree that the cache holds afterwards.
    """

    keep: list[int]
    below: list[tuple[int, int]]
    tokens: list[int]
    positions: list[int]
    sees: NDArray[np.bool_]
    rows: list[int]
    after: list[tuple[int, int]]

    @property
    def is_chain(self) -> bool:
        """Whether every token looks at all before it, as a model does without being told."""
        width, total = self.sees.shape
        return bool((self.sees == np.tri(width, total, total - width, dtype=np.bool_)).all())


def along(
    ids: Sequence[int], below: Sequence[tuple[int, int]], common: int, text: Sequence[int]
) -> tuple[list[int], int]:
    """How far a cache holds *text*.

    Args:
        ids: the text in the cache.
        below: the tree below it, as in :class:`Asked`.
        common: how many tokens of *ids* and *text* are the same, counted from the first.
        text: the text that is wanted.

    Returns:
        The slots of its tokens, as far as it is there; and the node that the last of them is.
    """
    slots, node = list(range(common)), END
    if common == len(ids):
        children = {entry: number for number, entry in enumerate(below)}
        for token in text[common:]:
            found = children.get((node, token))
            if found is None:
                break
            slots.append(len(ids) + found)
            node = found
    return slots, node


def reading(
    ids: Sequence[int],
    below: Sequence[tuple[int, int]],
    common: int,
    text: Sequence[int],
    nodes: Sequence[tuple[int, int]],
    ask: Sequence[int],
) -> Reading:
    """What a cache has to do to read *text* and *nodes*; see :class:`Asked`.

    Args:
        ids: the text in the cache.
        below: the tree below it.
        common: see :func:`along`.
        text: the text that is wanted.
        nodes: the tree that is wanted.
        ask: the nodes that are asked for.
    """
    chain, end = along(ids, below, common, text)
    if END in ask and len(chain) == len(text):
        chain.pop()  # the logits behind a token come from feeding it
    whole = len(chain) == len(text) and common == len(ids)
    children = {entry: number for number, entry in enumerate(below)} if whole else {}
    found: list[int | None] = []  # where the cache has each node
    for parent, token in nodes:
        above = end if parent == END else found[parent]
        found.append(None if above is None else children.get((above, token)))
    again = {found[i] for i in ask if i != END}  # to be fed once more
    place = {end: END}  # of what stays: old number to new
    stays: list[tuple[int, int]] = []
    for number, (parent, token) in enumerate(below if whole else ()):
        if parent in place and number not in again:
            place[number] = len(stays)
            stays.append((place[parent], token))
    keep = chain + [len(ids) + number for number in place if number != end]
    after, tokens = stays.copy(), list(text[len(chain) :])
    positions = list(range(len(chain), len(text)))
    new: list[int] = []  # of each node: its number in the tree afterwards
    fed: dict[int, int] = {END: len(tokens) - 1}  # which of the fed tokens a node is
    for i, (parent, token) in enumerate(nodes):
        above = END if parent == END else new[parent]
        known = None if found[i] is None else place.get(found[i])  # type: ignore[arg-type]
        if known is None:
            known = len(after)
            after.append((above, token))
            fed[i] = len(tokens)
            tokens.append(token)
        new.append(known)
    depths: list[int] = []
    for parent, _ in nodes:
        depths.append(0 if parent == END else depths[parent] + 1)
    positions += [len(text) + depths[i] for i in fed if i != END]
    sees = np.zeros((len(tokens), len(text) + len(after)), dtype=np.bool_)
    for row in range(len(text) - len(chain)):
        sees[row, : len(chain) + row + 1] = True
    for i, row in fed.items():
        if i != END:
            sees[row, : len(text)] = True
            at = new[i]
            while at != END:
                sees[row, len(text) + at] = True
                at = after[at][0]
    return Reading(keep, stays, tokens, positions, sees, [fed[i] for i in ask], after)
