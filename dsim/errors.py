"""What can go wrong, and whose fault it is. The command line turns these into exit codes."""

from __future__ import annotations

from typing import NamedTuple


class Problem(NamedTuple):
    """One mistake in what the user gave.

    Attributes:
        source: the file or option.
        key: the path of the setting in it, or nothing.
        what: what was expected and what was got.
    """

    source: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in self if part)


class UserError(Exception):
    """The user's mistake: exit code 2. Holds all problems that were found at once."""

    def __init__(self, *problems: Problem | str) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


class PluginError(UserError):
    """An orchestration of the user's own failed: exit code 2. Names its file and line."""


class EngineError(Exception):
    """A failure of dsim or of a backend: exit code 3."""
