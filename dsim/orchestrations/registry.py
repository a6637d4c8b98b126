"""The list of the orchestrations. Each one's file ends with its declaration."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dsim.errors import UserError
from dsim.orchestrations.declaration import Orchestration
from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

_FILES = (
    "nonsi",
    "si",
    "dsi",
    "multidsi",
    "pearl",
    "pipespec",
    "ssd",
    "tree",
    "treedsi",
)
# The one live list by name, in the order in which people read it. Never copy it at import time:
# plugins add to it.
ORCHESTRATIONS: dict[str, Orchestration] = {}
REFERENCES = ("nonsi", "si")  # what speed-ups are relative to
COMPARED = ("nonsi", "si", "dsi")  # the paper's three: compared unless a study asks for others
PIPELINE = "pipespec"  # what dsim predicts PipeSpec's published runs by
DEFAULT = "dsi"  # the subject of charts and commands unless another is asked for


def register(orchestration: Orchestration) -> None:
    """Add *orchestration* for this process.

    Raises:
        ValueError: the name or the title is taken; or a replica is said to step a plugin.
        TypeError: it is no :class:`Orchestration`.
    """
    if not isinstance(orchestration, Orchestration):
        raise TypeError(f"expected an Orchestration, got {orchestration!r}")
    if orchestration.traits.lockstep and not orchestration.is_own:
        raise ValueError(
            f"orchestration {orchestration.name!r}: traits: lockstep=True is for orchestrations of "
            "dsim, whose steps replicas have built in; leave it out"
        )
    if orchestration.name in ORCHESTRATIONS:
        raise ValueError(f"there is an orchestration {orchestration.name!r} already")
    for other in ORCHESTRATIONS.values():
        if orchestration.title.lower() in (other.title.lower(), other.name.lower()):
            raise ValueError(
                f"orchestration {orchestration.name!r}: title: {orchestration.title!r} is what "
                f"charts and tables call {other.name!r}; choose another"
            )
    ORCHESTRATIONS[orchestration.name] = orchestration


def orchestration_of(name: str) -> Orchestration:
    """The orchestration *name*.

    Raises:
        UserError: there is none of that name.
    """
    if name not in ORCHESTRATIONS:
        hint = nearest(name.lower(), [*ORCHESTRATIONS])
        names = ", ".join(ORCHESTRATIONS)
        raise UserError(f"unknown orchestration {name!r}{hint or f'; expected one of {names}'}")
    return ORCHESTRATIONS[name]


def title_of(name: str) -> str:
    """What people read for orchestration *name*; the name itself where there is none."""
    return ORCHESTRATIONS[name].title if name in ORCHESTRATIONS else name


def may_read(name: str, setting: str) -> bool:
    """Whether orchestration *name* reads *setting*; those that nobody declared here may."""
    return name not in ORCHESTRATIONS or setting in ORCHESTRATIONS[name].reads


def titles() -> Mapping[str, str]:
    """What people read, by name."""
    return {name: o.title for name, o in ORCHESTRATIONS.items()}


for _file in _FILES:
    register(import_module(f"dsim.orchestrations.{_file}").ORCHESTRATION)
