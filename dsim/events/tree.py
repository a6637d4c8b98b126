"""A tree of drafts below the last settled token."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

DOUBT_UNIT = 2**40
NEVER = 2**90  # the doubt of what has no chance


def doubt_of(chance: float) -> int:
    """How little sure a *chance* is: its negative logarithm, in whole units.

    Of what happens together the doubts add up, without rounding: in whatever order.
    """
    return round(-math.log2(chance) * DOUBT_UNIT) if chance > 0 else NEVER


class Node:
    """One guess, given the guesses above it.

    Args:
        parent: the node above; ``None`` for the root, which is a settled token.
        token: the token guessed. In a simulation 0 is the target's own token.
        rank: which of its parent's candidates it is: 1 for the best.
        chance: how sure the drafter is of this token, given those above it; of the root it is 1.
        position: position in the text; of the root only (others follow from their parents).
        since: number of passes that were begun before it became a node.

    Attributes:
        doubt: how little sure the drafter is of this node and all above it (:func:`doubt_of`).
        guesses: the candidates behind this node; ``None`` before a draft has read it.
        children: those of the candidates that are nodes, in order of rank.
        right: whether the token and all above it are the target's, in a simulation.
        deviations: how many ranks from the first root down to here are not 1.
        asked: whether a draft has read it, or is at it.
        survey: when it was last seen below the root; for an orchestration's own use.
        opened: how many of the candidates have been made nodes.
        answer: what the backend knows of it; for the backend's own use.
    """

    __slots__ = (
        "answer",
        "asked",
        "children",
        "deviations",
        "doubt",
        "guesses",
        "opened",
        "parent",
        "position",
        "rank",
        "right",
        "since",
        "survey",
        "token",
    )

    def __init__(
        self,
        parent: Node | None,
        token: Any,
        rank: int = 1,
        chance: float = 1.0,
        position: int = 0,
        since: int = 0,
    ) -> None:
        self.parent = parent
        self.token = token
        self.rank = rank
        self.since = since
        self.guesses: Sequence[Any] | None = None
        self.answer: Any = None
        self.children: list[Node] = []
        self.asked = False
        self.survey = self.opened = 0
        if parent is None:
            self.position, self.right, self.deviations = position, True, 0
            self.doubt = 0
        else:
            self.doubt = parent.doubt + (0 if chance == 1.0 else doubt_of(chance))
            self.position = parent.position + 1
            self.right = parent.right and not token
            self.deviations = parent.deviations + (rank != 1)

    @property
    def path(self) -> tuple[int, ...]:
        """The ranks from the first root to this node."""
        return () if self.parent is None else (*self.parent.path, self.rank)
