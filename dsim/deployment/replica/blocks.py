"""The KV blocks of a replica: counted, or told apart by a prefix cache."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsim.deployment.replica.request import Request

UNLIMITED = 1 << 60
Key = tuple[str | int, int]  # whose text a block holds (of a group, or a request), and its place


class Blocks:
    """Blocks that nobody shares: only their number matters.

    Args:
        count: number of blocks; 0: no limit.
        size: tokens of a block.

    Attributes:
        free: blocks that no running request has.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self.limited = count > 0
        self.free = count or UNLIMITED

    def admit(self, request: Request, most: int) -> int:
        """Give *request* the blocks of its first chunk, of *most* tokens at most.

        Returns:
            The tokens of the chunk; 0 where the blocks for it are not free.
        """
        request.computed = request.sent
        chunk = min(request.known - request.sent, most)
        return chunk if self.grow(request, request.sent + chunk) else 0

    def grow(self, request: Request, end: int) -> bool:
        """Make room for the first *end* tokens of *request*; if too few are free, false."""
        more = -(-(end - request.room) // self.size)
        if more > self.free:
            return False
        self.free -= more
        request.room += more * self.size
        return True

    def release(self, request: Request, *, evicted: bool = False) -> None:  # noqa: ARG002
        """Take back all blocks of *request*, which will be back if it is *evicted*."""
        self.free += request.room // self.size
        request.room = 0

    def hits(self, _request: Request) -> int:
        """How many tokens of a new *request* are cached."""
        return 0


class CachedBlocks(Blocks):
    """Blocks with a prefix cache.

    A full block is known by its tokens and all before it: those of a group's common beginning by
    the group, all others by the request, which finds them again after an eviction. Of the blocks
    that nobody has, the least recently freed is reused first.
    """

    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        self._fresh = self.free  # blocks that were never used
        self._made = 0  # numbers of blocks that were given out
        self._users: dict[int, int] = {}
        self._key: dict[int, Key] = {}
        self._blocks: dict[Key, dict[int, None]] = {}  # all that hold the same, in order
        self._idle: OrderedDict[int, None] = OrderedDict()  # in the order in which they were freed

    def admit(self, request: Request, most: int) -> int:
        """See :class:`Blocks`."""
        hits = self._find(request)
        request.computed = computed = max(len(hits) * self.size, request.sent)
        chunk = min(request.known - computed, most)
        idle = sum(not self._users[block] for block in hits)
        new = -(-(computed + chunk) // self.size) - len(hits)
        if idle + new > self.free:
            return 0
        for block in hits:
            if not self._users[block]:
                del self._idle[block]
            self._users[block] += 1
        self.free -= idle
        request.blocks, request.room, request.named = hits, len(hits) * self.size, len(hits)
        self.grow(request, computed + chunk)
        return chunk

    def grow(self, request: Request, end: int) -> bool:
        """See :class:`Blocks`."""
        more = max(0, -(-(end - request.room) // self.size))
        if more > self.free:
            return False
        self.free -= more
        request.room += more * self.size
        for _ in range(more):
            block = self._new()
            self._users[block] = 1
            request.blocks.append(block)
        full = min(end, request.shared) // self.size
        for place in range(request.named, full):
            self._name(request.blocks[place], (request.beginning(place, self.size), place))
        request.named = max(request.named, full)
        return True

    def release(self, request: Request, *, evicted: bool = False) -> None:
        """See :class:`Blocks`."""
        if evicted:
            for place in range(request.named, request.computed // self.size):
                self._name(request.blocks[place], (request.number, place))
        for block in reversed(request.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self.free += 1
                if self.limited or block in self._key:
                    self._idle[block] = None
                else:
                    del self._users[block]
        request.blocks, request.room, request.named = [], 0, 0

    def hits(self, request: Request) -> int:
        """See :class:`Blocks`."""
        return len(self._find(request)) * self.size

    def _find(self, request: Request) -> list[int]:
        """The blocks that hold the beginning of *request*: at least one token is left out."""
        found = []
        shared = request.shared // self.size
        for place in range((request.known - 1) // self.size):
            whose = request.beginning(place, self.size) if place < shared else request.number
            blocks = self._blocks.get((whose, place))
            if not blocks:
                break
            found.append(next(iter(blocks)))
        return found

    def _new(self) -> int:
        """A block to be filled: one that was never used, else the one that was freed first."""
        if self._fresh:
            self._fresh -= 1
            self._made += 1
            return self._made
        block, _ = self._idle.popitem(last=False)
        key = self._key.pop(block, None)
        if key is not None:
            del self._blocks[key][block]
            if not self._blocks[key]:
                del self._blocks[key]
        return block

    def _name(self, block: int, key: Key) -> None:
        self._key[block] = key
        self._blocks.setdefault(key, {})[block] = None
