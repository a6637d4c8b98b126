"""dsim: discrete-event simulation of Distributed Speculative Inference.

Importing this loads neither torch nor altair; names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Acceptance": "dsim.acceptance",
    "Latency": "dsim.latency",
    "Case": "dsim.study",
    "make_case": "dsim.study",
    "Study": "dsim.study",
    "load": "dsim.study",
    "loads": "dsim.study",
    "Outcome": "dsim.simulate",
    "simulate_case": "dsim.simulate",
    "run_grid": "dsim.grid",
    "run_study": "dsim.run",
    "UserError": "dsim.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dsim' has no attribute {name!r}")
