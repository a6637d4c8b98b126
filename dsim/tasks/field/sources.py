"""The sources of measurements, one line each."""

from __future__ import annotations

from dsim.tasks.field import papers, pearl, pipespec, served, trees

SOURCES = (
    pipespec.SOURCE,
    pearl.SOURCE,
    trees.LEADERBOARD,
    papers.SOURCE,
    served.SOURCE,
)
