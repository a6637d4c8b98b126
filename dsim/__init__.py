"""dsim: discrete-event simulation of Distributed Speculative Inference.

Importing this loads neither torch nor altair; names are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dsim.version import VERSION

if TYPE_CHECKING:
    from dsim.errors import EngineError, UserError
    from dsim.model.acceptance import Acceptance
    from dsim.model.case import Case
    from dsim.model.latency import Latency
    from dsim.orchestrations import Orchestration, Traits, register
    from dsim.study.grid import run_grid
    from dsim.study.loader import make_case
    from dsim.tasks.library import (
        Outcome,
        Results,
        Study,
        load,
        loads,
        run,
        simulate,
        simulate_case,
    )
    from dsim.tasks.run import run_study

__version__ = VERSION

_HOMES = {
    "simulate": "dsim.tasks.library",
    "run": "dsim.tasks.library",
    "Study": "dsim.tasks.library",
    "Outcome": "dsim.tasks.library",
    "Results": "dsim.tasks.library",
    "register": "dsim.orchestrations",
    "Orchestration": "dsim.orchestrations",
    "Traits": "dsim.orchestrations",
    "UserError": "dsim.errors",
    "EngineError": "dsim.errors",
    "Acceptance": "dsim.model.acceptance",
    "Latency": "dsim.model.latency",
    "Case": "dsim.model.case",
    "make_case": "dsim.study.loader",
    "simulate_case": "dsim.tasks.library",
    "load": "dsim.tasks.library",
    "loads": "dsim.tasks.library",
    "run_grid": "dsim.study.grid",
    "run_study": "dsim.tasks.run",
}
__all__ = [  # noqa: RUF022  # the order of docs/library.md
    "simulate",
    "run",
    "Study",
    "Outcome",
    "Results",
    "register",
    "Orchestration",
    "Traits",
    "UserError",
    "EngineError",
    "Acceptance",
    "Latency",
    "Case",
    "make_case",
    "simulate_case",
    "load",
    "loads",
    "run_grid",
    "run_study",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'dsim' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
