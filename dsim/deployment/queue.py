"""The queue before the servers of one model: who is next, and how long they wait."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from dsim.deployment.calls import Entry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import simpy

    from dsim.deployment.calls import Share

# Smaller is earlier. What a failure has thrown back has a negative number, and always goes first.
_RANKS: dict[str, Callable[[Entry], tuple[Any, ...]] | None] = {
    "fifo": None,  # entries are always in order
    "lifo": lambda e: (e.number > 0, -e.number),
    "shortest": lambda e: (e.number > 0, e.share.text.wanted - e.share.text.settled, e.number),
    "first-pass": lambda e: (e.number > 0, e.share.live > 0, e.number),
}
DISCIPLINES = tuple(_RANKS)


class Queue:
    """The entries that wait for a server of one fleet.

    Args:
        env: the environment of the run.
        discipline: who is next: ``fifo``, ``lifo``, ``shortest`` (fewest tokens to go) or
            ``first-pass`` (requests with no pass in flight go first).

    Attributes:
        rank: what entries are ordered by; ``None``: by arrival.
        waiting: number of entries that wait.
        area_ns: the integral of ``waiting`` over time.
        waited_ns: total time that entries spent in the queue.
        waits: number of entries that have left the queue.
    """

    def __init__(self, env: simpy.Environment, discipline: str) -> None:
        self.env = env
        self.rank = _RANKS[discipline]
        self.waiting = 0
        self.area_ns = self.waited_ns = self.waits = 0
        self._entries: deque[Entry] = deque()
        self._changed_ns = 0
        self._joined = self._thrown_back = 0

    def join(self, share: Share, resume: Callable[[], None], *, front: bool = False) -> Entry:
        """Let *share* wait.

        Args:
            share: the share that waits.
            resume: to be called when its turn has come.
            front: before all others.
        """
        now: int = self.env._now  # type: ignore[assignment]
        self.area_ns += self.waiting * (now - self._changed_ns)
        self._changed_ns = now
        self.waiting += 1
        if front:
            self._thrown_back -= 1
            entry = Entry(share, resume, self._thrown_back, now)
            self._entries.appendleft(entry)
        else:
            self._joined += 1
            entry = Entry(share, resume, self._joined, now)
            self._entries.append(entry)
        return entry

    def leave(self, entry: Entry) -> None:
        """Take *entry* out of the queue."""
        if not entry.gone:
            entry.gone = True
            now: int = self.env._now  # type: ignore[assignment]
            self.area_ns += self.waiting * (now - self._changed_ns)
            self._changed_ns = now
            self.waiting -= 1
            self.waited_ns += now - entry.since_ns
            self.waits += 1

    def sort(self) -> None:
        """Put the entries in the order of the discipline, for :meth:`pop`.

        The order holds until an entry joins or the state of a request changes.
        """
        if self.rank is not None:
            live = (entry for entry in self._entries if not entry.gone)
            self._entries = deque(sorted(live, key=self.rank))

    def pop(self) -> Entry | None:
        """The first entry, which still has to :meth:`leave` or to be put back; ``None``: none."""
        entries = self._entries
        while entries:
            entry = entries.popleft()
            if not entry.gone:
                return entry
        return None

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Put *entries*, in the order in which they were popped, back to the front."""
        self._entries.extendleft(reversed(list(entries)))
