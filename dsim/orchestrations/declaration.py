"""What an orchestration declares of itself, at the end of its file."""

from __future__ import annotations

import dataclasses
import inspect
import re
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from dsim.events.ports import Setup
    from dsim.model.case import Case
    from dsim.model.script import Script

LOOKAHEAD = (
    "lookahead",
    "lookahead_policy",
    "lookahead_most",
    "confidence_threshold",
    "confidence_quality",
)
PASSES = ("targets", "patience", "preemptible")  # of orchestrations with several at a time
FURTHER_DRAFTERS = (
    "more_drafters.latency_ms",
    "more_drafters.acceptance_rate",
    "more_drafters.overlap",
)
# What the functions of a declaration are called with.
TAKES = {
    "start": ("the setup",),
    "work": ("the script",),
    "why": ("the case", "the others"),
}
# Every setting that some orchestrations read and others do not.
TREE = ("tree.paths", "tree.depth", "tree.branches", "tree.nodes")
READABLE = (
    *LOOKAHEAD,
    *PASSES,
    *FURTHER_DRAFTERS,
    *TREE,
    "tree.deviations",
    "ssd.fanout",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Traits:
    """What the rest of dsim has to know of an orchestration.

    Attributes:
        drafts: it asks a drafter at all (non-SI does not).
        overlaps: it drafts while passes run, so the drafter and the targets need servers of their
            own.
        several_targets: it makes use of several target servers.
        further_drafters: it makes use of drafters beside the first.
        needs_further: it makes no sense without them.
        lockstep: it can run inside a replica, which steps its whole batch at once.
        live: it runs as real waits and on real models; otherwise it is simulated only.
    """

    drafts: bool = True
    overlaps: bool = False
    several_targets: bool = False
    further_drafters: bool = False
    needs_further: bool = False
    lockstep: bool = False
    live: bool = True

    def devices(self, targets: int) -> int:
        """How many devices (or groups of them) it keeps, with *targets* target servers."""
        if not self.overlaps:
            return 1
        return 1 + (targets if self.several_targets else 1)


class Work(NamedTuple):
    """The work of one text, for the offered load of a deployment.

    Attributes:
        widths: width of each pass, in tokens.
        drafts: number of drafts.
        exact: whether this is the work itself; otherwise it is a lower bound.
    """

    widths: list[int]
    drafts: int
    exact: bool = False


def least_work(script: Script, candidates: int = 1) -> Work:
    """A lower bound: one pass from each rejection to the next, one draft for each one accepted.

    Args:
        script: the text.
        candidates: how many of the drafter's candidates for a position can be accepted.
    """
    lengths = script.runs(candidates)
    widths: list[int] = []
    settled, tokens = 0, len(lengths)
    while settled < tokens:
        widths.append(min(lengths[settled], tokens - settled - 1) + 1)
        settled += widths[-1]
    return Work(widths, tokens - len(widths))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orchestration:
    """One strategy for coordinating drafter and target passes to generate a text.

    Attributes:
        name: in studies, on the command line and in results.
        title: for people.
        colour: in charts, as ``#rrggbb``.
        meaning: what it does, in a few words.
        start: schedules a run on a :class:`dsim.events.ports.Setup`; or ``module:function``.
        reads: the settings of :data:`READABLE` that matter to it.
        traits: what the rest of dsim has to know of it.
        work: the work of one text.
        why: why it is the fastest of those compared, in words: from the case and the names of the
            others. Without it, ``dsim simulate`` gives no reason.
        vector: its form for the vector engine, as ``module:name``, if it has one.
    """

    name: str
    title: str
    colour: str
    meaning: str
    start: Callable[[Setup], Any] | str
    reads: tuple[str, ...] = ()
    traits: Traits = Traits()
    work: Callable[[Script], Work] = least_work
    why: Callable[[Case, Collection[str]], str] | None = None
    vector: str = ""

    def __post_init__(self) -> None:
        """Check the declaration.

        Raises:
            ValueError: something in the declaration is not valid.
        """

        def refuse(field: str, what: str) -> None:
            raise ValueError(f"orchestration {self.name!r}: {field}: {what}")

        for field in ("name", "title", "colour", "meaning"):
            if not isinstance(found := getattr(self, field), str):
                refuse(field, f"expected a text, got {found!r}")
        if not re.fullmatch(r"[A-Za-z][\w-]*", self.name):
            refuse("name", "expected letters, digits, - and _")
        if not re.fullmatch("#[0-9a-fA-F]{6}", self.colour):
            refuse("colour", f'expected "#rrggbb", got {self.colour!r}')
        if not isinstance(self.traits, Traits):
            refuse("traits", f"expected Traits(overlaps=True, …), got {self.traits!r}")
        for field, arguments in TAKES.items():
            function = getattr(self, field)
            if field == "why" and function is None:
                continue
            if what := _unfit(function, arguments, named=field == "start"):
                refuse(field, what)
        if not (isinstance(self.vector, str) and re.fullmatch(r"([\w.]+:\w+)?", self.vector)):
            refuse("vector", f'expected "module:name", got {self.vector!r}')
        if isinstance(self.reads, str):
            refuse("reads", f"expected settings in brackets, ({self.reads!r},), got {self.reads!r}")
        for key in self.reads:
            if key not in READABLE:
                hint = nearest(key, READABLE) or f"; expected some of {', '.join(READABLE)}"
                refuse("reads", f'unknown setting "{key}"{hint}')
        drafters = FURTHER_DRAFTERS[0]
        for key, trait in (("targets", "several_targets"), (drafters, "further_drafters")):
            if (key in self.reads) != getattr(self.traits, trait):
                refuse("traits", f'{trait}=True belongs together with "{key}" in reads')

    @property
    def trees(self) -> bool:
        """Whether its drafts are trees."""
        return any(key.startswith("tree.") for key in self.reads)

    @property
    def is_own(self) -> bool:
        """Whether it is dsim's own, and not a plugin's."""
        return self.starter().__module__.partition(".")[0] == "dsim"

    def starter(self) -> Callable[[Setup], Any]:
        """The function that :attr:`start` is or names.

        Raises:
            ValueError: it is no function of a setup.
        """
        found: Callable[[Setup], Any] = resolve(self.start)
        if isinstance(self.start, str) and (what := _unfit(found, TAKES["start"])):
            raise ValueError(f"orchestration {self.name!r}: start: {what}")
        return found


def _unfit(function: Any, arguments: tuple[str, ...], *, named: bool = False) -> str:
    """What is wrong with a *function* that is to be called with *arguments*; nothing if it fits.

    Args:
        function: the function.
        arguments: what each of its arguments is.
        named: whether its name, as ``module:function``, will do.
    """
    if named and isinstance(function, str) and ":" in function:
        return ""
    takes = f"expected a function of {' and '.join(arguments)}"
    if not callable(function):
        return f"{takes}, got {function!r}"
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError as error:
        return f"{takes}, got {getattr(function, '__name__', function)}: {error}"
    except ValueError:  # a function of Python's own, which does not say what it takes
        return ""
    return ""


def resolve(name: Any) -> Any:
    """What *name*, as ``module:name``, stands for; anything else is returned as it is."""
    if not isinstance(name, str):
        return name
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
