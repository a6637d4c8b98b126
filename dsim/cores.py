"""The CPU cores of this machine, as far as this process may use them."""

from __future__ import annotations

import os


def available_cores() -> list[int]:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
