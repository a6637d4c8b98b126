"""dsim: discrete-event simulation of Distributed Speculative Inference.

Importing this loads neither torch nor altair; names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "Acceptance": "dsim.model.acceptance",
    "Latency": "dsim.model.latency",
    "Case": "dsim.model.case",
    "make_case": "dsim.study.loader",
    "Study": "dsim.study.study",
    "load": "dsim.study.loader",
    "loads": "dsim.study.loader",
    "Outcome": "dsim.engines.simulate",
    "simulate_case": "dsim.engines.simulate",
    "run_grid": "dsim.study.grid",
    "run_study": "dsim.tasks.run",
    "UserError": "dsim.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dsim' has no attribute {name!r}")
