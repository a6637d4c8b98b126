"""The KV memory of servers: what they hold of which request, and what they drop."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dsim.deployment.calls import Batch, Share


class KvMemory:
    """The KV memory of each server of one fleet.

    Args:
        tokens: capacity of one server in tokens; 0: no limit, and nothing is counted.
        servers: number of servers.

    Attributes:
        peak: the most tokens that one server held.
    """

    def __init__(self, tokens: int, servers: int) -> None:
        self.tokens = tokens
        self.peak = 0
        self._kept: list[OrderedDict[Share, int]] = [OrderedDict() for _ in range(servers)]

    def keep(self, batch: Batch) -> None:
        """Make room for the requests of *batch*; drop what was not used for longest."""
        kept = self._kept[batch.server]
        members = dict.fromkeys(call.servers for call in batch.calls)
        for share in members:
            kept[share] = share.kv_tokens()
            kept.move_to_end(share)
        used = sum(kept.values())
        for victim in [share for share in kept if share not in members]:
            if used <= self.tokens:
                break
            used -= kept.pop(victim)
            victim.backend.forget(batch.server)
        self.peak = max(self.peak, used)

    def free_finished(self, batch: Batch) -> None:
        """Free the memory of those requests of *batch* that are over."""
        for call in batch.calls:
            if call.servers.closed or call.servers.text.finished:
                self._kept[batch.server].pop(call.servers, None)

    def free(self, share: Share, running: dict[int, Batch]) -> None:
        """Free the memory of *share*, but for servers that compute for it.

        Args:
            share: a share of a request that is over.
            running: the batch of each server that computes.
        """
        for server, kept in enumerate(self._kept):
            batch = running.get(server)
            if batch is None or all(call.servers is not share for call in batch.calls):
                kept.pop(share, None)

    def clear(self, server: int) -> None:
        """*server* has lost its memory."""
        self._kept[server].clear()
