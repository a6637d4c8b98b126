"""One run of DSI over trees: of the tree only the main chain and the way of the text.

Where latencies do not go by the width, wrong drafts matter in one way only: they keep the drafter
busy. With one deviation at most, and no limit on the nodes that matters, it is known how long. So a
run is its passes: when each begins, and which tokens its verdict finds on the tree. The rules are
in ``docs/treedsi.md``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

from dsim.engines.vector.schedules import FAR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.engines.vector.timing import Timing


class Run:
    """One run.

    Args:
        timing: the timing.
        ranks: which candidate for each position is right.

    Attributes:
        settled_ns: when each token settles.
        passes, wasted, drafts, own, peak: as the columns of :class:`Totals`; of the tokens that
            settle, *own* were no drafts.
    """

    def __init__(self, timing: Timing, ranks: Sequence[int]) -> None:
        self.timing = timing
        self.ranks = ranks
        self.last = len(ranks) - 1  # the one position that never needs a draft
        self.t1 = timing.drafter_ns
        self.most = timing.tree.branches if timing.tree.deviations else 1
        self.settled_ns: list[int] = []
        self.passes = self.wasted = self.drafts = self.own = self.peak = self.now = 0
        while len(self.settled_ns) <= self.last:
            self.branch()

    def plant(self) -> None:
        """The root of a branch, below which there is nothing yet."""
        self.root, self.since = len(self.settled_ns) - 1, 0
        self.read = self.now + self.t1 if self.root < self.last - 1 else FAR  # when the root is
        self.begun = self.now  # when the drafter began; it does one forward after the other until
        self.busy = self.now + max(0, self.last - 1 - self.root) * self.t1
        self.opened = (-1, 0, 0)  # at the last deviation of the root: time, next forward, passes

    def forwards(self) -> int:
        """How many forwards the drafter has begun since it was idle, now that the branch ends."""
        return (min(self.busy, self.after(self.now)) - self.begun) // self.t1

    def branch(self) -> None:
        """From a restart to the next."""
        self.plant()
        self.sent = self.root - 1  # how far the main chain is dispatched
        self.begins: list[int] = []  # of all passes
        self.in_flight: deque[int] = deque()  # numbers of passes
        while True:
            begin = self.due()
            over = self.begins[self.in_flight[0] - 1] if self.in_flight else FAR
            if begin <= over + self.timing.target_ns:
                self.now, self.sent = begin, self.reach(begin)
                self.begins.append(begin)
                self.in_flight.append(len(self.begins))
                self.passes += 1
                self.peak = max(self.peak, len(self.in_flight))
                continue
            self.now = over + self.timing.target_ns
            if not self.verdict(self.in_flight.popleft()):
                break
        self.drafts += self.forwards()
        self.wasted += len(self.in_flight)
        self.own += 1

    def reach(self, time_ns: int) -> int:
        """The end of the main chain below the root at *time_ns*."""
        if time_ns < self.read:
            return self.root
        return min(self.root + 1 + (time_ns - self.read) // self.t1, self.last - 1)

    def made_ns(self, position: int) -> int:
        """When the main chain reaches *position*."""
        if position <= self.root:
            return self.now
        return self.read + (position - self.root - 1) * self.t1 if position < self.last else FAR

    def due(self) -> int:
        """When the next pass begins, if no verdict comes before."""
        if len(self.in_flight) == self.timing.targets:
            return 2 * FAR
        end, found = self.last - 1, FAR
        if self.begins:
            found = self.made_ns(max(self.sent + 1, min(self.sent + self.timing.lookahead, end)))
        if not self.in_flight:
            found = min(found, self.made_ns(min(self.root + self.timing.patience, end)))
        return max(found, self.now)

    def after(self, time_ns: int) -> int:
        """When the drafter, if it is busy at *time_ns*, begins its next forward."""
        return self.begun + ((time_ns - self.begun) // self.t1 + 1) * self.t1

    def verdict(self, number: int) -> bool:
        """The pass *number* ends; whether the branch goes on."""
        now = self.now
        idle = now >= self.busy
        following = now if idle else self.after(now)
        while self.since < number:
            self.settled_ns.append(now)
            rank = self.ranks[self.root + 1]
            if self.root + 1 >= self.last or self.read > now or not 1 <= rank <= self.most:
                return False
            at, forward, since = self.opened
            if rank == 1 or at < self.read:  # it became a node as the one above it was read
                forward, since = self.read, bisect_left(self.begins, self.read)
            self.root, self.since = self.root + 1, since
            self.read = forward + self.t1 if self.root < self.last - 1 else FAR
            if rank > 1:
                self.opened = now, following, len(self.begins)
        self.cancel()
        # What is left to read below the new root: its own line, and what the deviation has opened.
        below = self.last - 2 - self.root
        until = self.read + below * self.t1 if below >= 0 else now
        if below > 0 and self.read <= self.opened[0]:
            until = self.opened[1] + below * self.t1
        if not idle:
            self.busy = max(until, following)
        elif until > now:
            self.drafts += (self.busy - self.begun) // self.t1
            self.begun, self.busy = now, until
        return True

    def cancel(self) -> None:
        """Give up the passes that do not cover the root; see what the last one covers."""
        while self.in_flight and self.in_flight[0] <= self.since:
            self.in_flight.popleft()
            self.wasted += 1
        covered = self.since < len(self.begins)
        self.sent = self.reach(self.begins[-1]) if covered else self.root - 1
