"""Modules of the user's own that add orchestrations (``dsim --plugin``)."""

from __future__ import annotations

import os
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.orchestrations import (
    FINGERPRINTS,
    ORCHESTRATIONS,
    PLUGIN_FOLDER,
    PLUGINS,
    import_plugin,
    plugin_names,
)


def load(names: list[str]) -> None:
    """Import the modules *names*, here and in every worker process to come.

    They are looked for in the working directory as well, last of all. Has to come before
    :mod:`dsim.study.study` is imported, which takes the list of orchestrations as it is.

    Raises:
        UserError: one cannot be imported, or adds no orchestration.
    """
    os.environ[PLUGIN_FOLDER] = str(Path.cwd())
    known = list(dict.fromkeys([*plugin_names(), *names]))
    for name in known:
        before, old = set(ORCHESTRATIONS), name in plugin_names()
        what = ""
        try:
            import_plugin(name)
            for added in ORCHESTRATIONS.keys() - before:
                ORCHESTRATIONS[added].starter()
        except (Exception, SystemExit) as error:  # whatever the module does
            what = f"cannot be imported: {type(error).__name__}: {error}"
        else:
            if ORCHESTRATIONS.keys() == before and not old:
                what = "registers nothing; expected a call of dsim.orchestrations.register"
        if what:
            raise UserError(Problem("--plugin", name, what))
    os.environ[PLUGINS] = ",".join(known)


def fingerprints() -> dict[str, str]:
    """The SHA-256 of the file of each plugin, by name, as it was when it was imported."""
    return {name: FINGERPRINTS[name] for name in plugin_names()}


def options() -> str:
    """What has to stand between ``dsim`` and a command to have these plugins again."""
    return "".join(f"--plugin {name} " for name in plugin_names())
