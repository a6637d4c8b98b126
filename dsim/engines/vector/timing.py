"""What the vector engine works out for many cases at once."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.model.case import TreeShape

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from dsim.engines.vector.branches import Branches, Draws
    from dsim.model.case import Case

    Ints = NDArray[np.int64]
    Bools = NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Timing:
    """What a case is but for its draws.

    Attributes:
        drafter_ns, target_ns: ``t1`` and ``t2``, latencies of a draft and of a pass.
        drafter_first_ns, target_first_ns: latencies of a server's first forward on the prompt;
            ``None``: the prompt is cached.
        lookahead: ``k``, drafts per block.
        targets: ``S``, target servers.
        block_tokens, patience, tree, fanout: see :class:`dsim.model.case.Decoding`.
    """

    drafter_ns: int
    target_ns: int
    lookahead: int = 1
    targets: int = 1
    drafter_first_ns: int | None = None
    target_first_ns: int | None = None
    block_tokens: int = 1
    patience: int = 0
    tree: TreeShape = dataclasses.field(default_factory=TreeShape)
    fanout: tuple[int, ...] = (1,)

    @property
    def has_first(self) -> bool:
        """Whether the prompt has to be read."""
        return self.drafter_first_ns is not None or self.target_first_ns is not None

    @property
    def simple(self) -> bool:
        """Whether a forward of the drafter makes one draft, and no pass waits for drafts."""
        return self.block_tokens == 1 and not self.patience


@dataclasses.dataclass(frozen=True)
class Totals:
    """What the runs of many timings come to.

    Timings that differ in nothing but scale share a row: timing ``c`` has row ``row[c]`` of the
    counts, and the latency ``scale[c] · time[row] + shift[c] · units[row] + offset[c]``.

    Attributes:
        target_passes, wasted_passes: int64 (rows, runs): passes begun; those of them cancelled.
        drafts, wasted_drafts: drafts begun; those of them whose token is not in the output.
        peak_targets: the largest number of target servers that were busy at once.
        time, units: int64 (rows, runs).
        row, scale, shift, offset: int64 (timings,).
    """

    target_passes: Ints
    wasted_passes: Ints
    drafts: Ints
    wasted_drafts: Ints
    peak_targets: Ints
    time: Ints
    units: Ints
    row: Ints
    scale: Ints
    shift: Ints
    offset: Ints

    @classmethod
    def unscaled(
        cls,
        row: Ints,
        *,
        time: Ints,
        passes: Ints,
        drafts: Ints,
        drafts_in_output: Ints,
        wasted_passes: Ints | None = None,
        peak_targets: Ints | None = None,
    ) -> Totals:
        """Totals of timings whose latency is the time of their row.

        Args:
            row: see the class.
            time: see the class.
            passes: passes begun.
            drafts: drafts begun.
            drafts_in_output: those of them whose token is in the output.
            wasted_passes: ``None``: none is cancelled.
            peak_targets: ``None``: there is one server.
        """
        none, zero = np.zeros_like(passes), np.zeros_like(row)
        return cls(
            target_passes=passes,
            wasted_passes=none if wasted_passes is None else wasted_passes,
            drafts=drafts,
            wasted_drafts=drafts - drafts_in_output,
            peak_targets=np.ones_like(passes) if peak_targets is None else peak_targets,
            time=time,
            units=none,
            row=row,
            scale=np.ones_like(row),
            shift=zero,
            offset=zero,
        )

    def latency_ns(self, timings: slice = slice(None)) -> Ints:
        """When the last token settled: int64 (timings, runs), of some of the timings."""
        row = self.row[timings]
        latency = self.time[row]
        latency *= self.scale[timings, None]
        if self.shift[timings].any():
            latency += self.shift[timings, None] * self.units[row]
        if self.offset[timings].any():
            latency += self.offset[timings, None]
        return latency


def first_latencies(timing: Timing, *, opening: bool) -> tuple[int, int, bool]:
    """Latencies (ns) of a branch's first draft and first pass, and whether all servers prefill."""
    draft_ns, pass_ns = timing.drafter_first_ns, timing.target_first_ns
    return (
        timing.drafter_ns if draft_ns is None or not opening else draft_ns,
        timing.target_ns if pass_ns is None or not opening else pass_ns,
        opening and pass_ns is not None,
    )


def plain(case: Case) -> bool:
    """Whether a forward of the drafter makes one draft, which fares alike at every depth."""
    return case.acceptance.plain and case.block_tokens == 1 and not case.patience


class Form(NamedTuple):
    """An orchestration as arithmetic.

    Attributes:
        totals: totals of many timings over the runs whose branches are given.
        settled_ns: when every token settles, int64 (runs, tokens), for one timing and draws.
        takes: whether it takes a case; constant latencies, preemptible servers and a fixed
            lookahead are a matter of course.
    """

    totals: Callable[[Sequence[Timing], Branches], Totals]
    settled_ns: Callable[[Timing, Draws], Ints]
    takes: Callable[[Case], bool] = plain
