"""The orchestrations that can be compared, and how to add one (``docs/orchestrations.md``).

:data:`ORCHESTRATIONS` is the one list: from it come the names that studies and the command line
take, what people read, colours, and the function that starts a run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dsim.orchestrations.start import Setup


# The variables by which worker processes know of plugins, and where one may lie.
PLUGINS, PLUGIN_FOLDER = "DSIM_PLUGINS", "DSIM_PLUGIN_FOLDER"
FINGERPRINTS: dict[str, str] = {}  # the SHA-256 of the file of each plugin, when it was imported
POLICIES = ("fixed", "heuristic", "aimd", "confidence")  # see dsim.model.lookahead


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orchestration:
    """One way to have drafters and targets make a text together.

    Attributes:
        name: in studies, on the command line and in results.
        title: for people.
        colour: in charts.
        meaning: what it does, in a few words.
        reads: the settings that matter to it beside latencies, acceptance and ``tokens``.
        start: where its ``start`` is, as ``module:function``: a function that takes a
            :class:`dsim.orchestrations.start.Setup` and schedules a run. (A name, so that listing
            the orchestrations loads none.)
        everywhere: whether it runs on every backend; otherwise it is simulated only.
    """

    name: str
    title: str
    colour: str
    meaning: str
    start: str
    reads: tuple[str, ...] = ()
    everywhere: bool = True

    @property
    def takes_targets(self) -> bool:
        """Whether it makes use of several target servers."""
        return "targets" in self.reads

    @property
    def takes_further_drafters(self) -> bool:
        """Whether it makes use of drafters beside the first."""
        return "more_drafters.latency_ms" in self.reads

    def starter(self) -> Callable[[Setup], Any]:
        """The function that :attr:`start` names."""
        module, _, function = self.start.partition(":")
        found: Callable[[Setup], Any] = getattr(import_module(module), function)
        return found


_LOOKAHEAD = (
    "lookahead",
    "lookahead_policy",
    "lookahead_most",
    "confidence_threshold",
    "confidence_quality",
)
ORCHESTRATIONS: dict[str, Orchestration] = {
    o.name: o
    for o in (
        Orchestration(
            name="nonsi",
            title="non-SI",
            colour="#8b929c",
            meaning="plain decoding: one pass a token",
            start="dsim.orchestrations.nonsi:start",
        ),
        Orchestration(
            name="si",
            title="SI",
            colour="#e0812b",
            meaning="draft a block, verify it, and again; nothing overlaps",
            start="dsim.orchestrations.si:start",
            reads=_LOOKAHEAD,
        ),
        Orchestration(
            name="dsi",
            title="DSI",
            colour="#2f7fc1",
            meaning="draft on while target servers verify",
            start="dsim.orchestrations.dsi:start",
            reads=(*_LOOKAHEAD, "targets", "preemptible"),
        ),
        Orchestration(
            name="multidsi",
            title="multi-drafter DSI",
            colour="#2e8b62",
            meaning="DSI with further drafters, one of which takes over where the first is wrong",
            start="dsim.orchestrations.multidsi:start",
            reads=(
                *_LOOKAHEAD,
                "targets",
                "preemptible",
                "more_drafters.latency_ms",
                "more_drafters.acceptance_rate",
                "more_drafters.overlap",
            ),
            everywhere=False,
        ),
    )
}


def register(orchestration: Orchestration) -> None:
    """Add *orchestration* for this process; ``simulate_case`` and ``run_events`` then take it.

    In a module that ``dsim --plugin`` names, studies and the command line take it as well.

    Raises:
        ValueError: the name is taken.
    """
    if orchestration.name in ORCHESTRATIONS:
        raise ValueError(f"there is an orchestration {orchestration.name!r} already")
    ORCHESTRATIONS[orchestration.name] = orchestration


def plugin_names() -> list[str]:
    """The modules that ``--plugin`` names."""
    return [name for name in os.environ.get(PLUGINS, "").split(",") if name]


def titles() -> Mapping[str, str]:
    """What people read, by name."""
    return {name: o.title for name, o in ORCHESTRATIONS.items()}


def import_plugin(name: str) -> None:
    """Import module *name*; its folder comes last, so that no file there hides a library."""
    folder = os.environ.get(PLUGIN_FOLDER)
    if folder and folder not in sys.path:
        sys.path.append(folder)
    spec = find_spec(name)
    content = Path(spec.origin).read_bytes() if spec and spec.has_location and spec.origin else b""
    import_module(name)
    FINGERPRINTS[name] = hashlib.sha256(content).hexdigest()


for _name in plugin_names():  # in a worker process, before anything reads the list
    import_plugin(_name)
