"""Errors in the code of a user's own orchestration: whose they are, and where."""

from __future__ import annotations

import re
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from dsim.errors import EngineError, PluginError, UserError
from dsim.orchestrations.declaration import Work
from dsim.orchestrations.registry import orchestration_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from dsim.model.case import Case
    from dsim.model.script import Script

# What SimPy says of a process that yields what is no event, and where that process stands.
NO_EVENT = re.compile(r'\s*File "(.*)", line (\d+).*(Invalid yield value ".*")', re.DOTALL)


@contextmanager
def blaming(algorithm: str) -> Iterator[None]:
    """Say of errors in the code of a plugin that they are the plugin's, and where.

    Args:
        algorithm: name of the orchestration that runs.

    Raises:
        PluginError: in place of an error that passed through the plugin's own file.
    """
    try:
        yield
    except (UserError, EngineError):
        raise
    except (Exception, SystemExit) as error:
        declared = orchestration_of(algorithm)
        if declared.is_own:
            raise
        own = getattr(getattr(declared.starter(), "__code__", None), "co_filename", "")
        what, line = f"{type(error).__name__}: {error}", line_in(own, error)
        if found := NO_EVENT.match(str(error)):
            what = f"{found[3]}; expected a forward, or another event, after yield"
            own, line = found[1], int(found[2])
        if not line:
            raise
        raise _problem(algorithm, f"{own}, line {line}: {what}") from error


def _problem(algorithm: str, what: str) -> PluginError:
    return PluginError(f'orchestration "{orchestration_of(algorithm).title}": {what}')


def line_in(file: str, error: BaseException | None) -> int:
    """The innermost line of *file* that *error* passed through; 0 if it passed through none."""
    line = 0
    while error is not None and not line:
        for frame in traceback.extract_tb(error.__traceback__):
            line = (frame.lineno or 0) if frame.filename == file else line
        error = error.__cause__
    return line


def work_of(algorithm: str, script: Script) -> Work:
    """The work of one text, as *algorithm* declares it.

    Raises:
        PluginError: it declares no work that can be used.
    """
    with blaming(algorithm):
        found: Any = orchestration_of(algorithm).work(script)
    if not isinstance(found, Work):
        what = f"work: expected Work(widths, drafts) of dsim.orchestrations, got {found!r}"
        raise _problem(algorithm, what)
    return found


def why_of(algorithm: str, case: Case, others: Collection[str]) -> str:
    """Why *algorithm* is the fastest of those compared; nothing if it gives no reason.

    Raises:
        PluginError: it gives something other than words.
    """
    explain = orchestration_of(algorithm).why
    if explain is None:
        return ""
    with blaming(algorithm):
        found: Any = explain(case, others)
    if not isinstance(found, str):
        raise _problem(algorithm, f"why: expected words, got {found!r}")
    return found
