"""Modules of the user's own that add orchestrations (``dsim --plugin``)."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.orchestrations import ORCHESTRATIONS, PLUGINS, plugins


def load(names: list[str]) -> None:
    """Import the modules *names*, here and in every worker process to come.

    They are looked for in the working directory, too. Has to come before :mod:`dsim.study` is
    imported, which takes the list of orchestrations as it is.

    Raises:
        UserError: one cannot be imported, or adds no orchestration.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)
    paths = [here, *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    for name in names:
        before = len(ORCHESTRATIONS)
        what = ""
        try:
            import_module(name)
        except Exception as error:  # whatever the module does
            what = f"cannot be imported: {type(error).__name__}: {error}"
        else:
            if len(ORCHESTRATIONS) == before:
                what = "registers nothing; expected a call of dsim.orchestrations.register"
        if what:
            raise UserError(Problem("--plugin", name, what))
    os.environ[PLUGINS] = ",".join([*plugins(), *names])


def fingerprints() -> dict[str, str]:
    """The SHA-256 of the file of each plugin, by name."""
    found = {}
    for name in plugins():
        path = getattr(sys.modules.get(name), "__file__", None)
        content = Path(path).read_bytes() if path else b""
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def options() -> str:
    """What has to stand between ``dsim`` and a command to have these plugins again."""
    return "".join(f"--plugin {name} " for name in plugins())
