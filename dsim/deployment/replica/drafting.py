"""How many tokens a replica drafts for each request: by the number of requests that decode."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def by_batch(rows: Sequence[tuple[int, int]]) -> Callable[[int], int]:
    """A table (vLLM's ``num_speculative_tokens_per_batch_size``).

    Args:
        rows: (requests, drafts) in order of requests: from that number of requests on, that number
            of drafts. With fewer requests than the first row has, its drafts hold.
    """

    def drafts(requests: int) -> int:
        found = rows[0][1]
        for first, tokens in rows:
            if requests < first:
                break
            found = tokens
        return found

    return drafts


class Goodput:
    """The number of drafts with the most expected tokens of the batch in a unit of time.

    This is the rule of SmartSpec (Liu et al., arXiv 2406.14066): ``k`` maximises
    ``requests · (1 - a^(k + 1)) / (1 - a)`` over the predicted time of drafting and verification.
    ``a`` is the acceptance rate seen so far on the replica.

    Args:
        most: the largest ``k``.
        step_ns: predicted time (ns) of drafting and verifying, from (requests, k).
        rate: the acceptance rate that is assumed at first; it weighs as much as 100 drafts.
    """

    WEIGHT = 100

    def __init__(self, most: int, step_ns: Callable[[int, int], float], rate: float) -> None:
        self.most = most
        self.step_ns = functools.cache(step_ns)
        self._stood, self._judged = rate * self.WEIGHT, float(self.WEIGHT)

    def judged(self, accepted: int, drafts: int) -> None:
        """Heed a verdict: drafts behind the first wrong one were not judged."""
        self._stood += accepted
        self._judged += min(drafts, accepted + 1)

    def tokens(self, requests: int) -> int:
        """The number of drafts of each of *requests* that decode."""
        rate = self._stood / self._judged
        expected, best, found = 0.0, 0.0, 0
        for drafts in range(self.most + 1):
            expected += rate**drafts
            speed = expected / self.step_ns(requests, drafts)
            if speed > best:
                best, found = speed, drafts
        return found
