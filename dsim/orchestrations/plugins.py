"""Modules of the user's own that add orchestrations (``dsim --plugin``)."""

from __future__ import annotations

import hashlib
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.orchestrations.declaration import Orchestration
from dsim.orchestrations.registry import ORCHESTRATIONS, register

# The variables by which worker processes know of plugins, and the folders where they may lie.
PLUGINS, PLUGIN_FOLDERS = "DSIM_PLUGINS", "DSIM_PLUGIN_FOLDERS"
_fingerprints: dict[str, str] = {}  # the SHA-256 of the file of each plugin, when it was imported


def load(names: list[str]) -> None:
    """Import the modules *names*, here and in every worker process to come.

    Args:
        names: modules, looked for in the working directory last of all; or paths of their files.

    Raises:
        UserError: one cannot be imported, or adds no orchestration.
    """
    folders = os.environ.get(PLUGIN_FOLDERS, "").split(os.pathsep)
    modules, paths = plugin_names(), {}
    for name in names:
        path = Path(name)
        is_path = path.suffix == ".py" or path.name != name
        if is_path and (path.suffix != ".py" or not path.stem.isidentifier()):
            what = "expected a module, or a file whose name is one: my_module or ./my_module.py"
            raise UserError(Problem("--plugin", name, what))
        if is_path and not path.is_file():
            raise UserError(Problem("--plugin", name, "no such file"))
        folders.append(str((path.parent if is_path else Path()).resolve()))
        modules.append(path.stem if is_path else name)
        if is_path:
            paths[path.stem] = path.resolve()
    os.environ[PLUGIN_FOLDERS] = os.pathsep.join(dict.fromkeys(filter(None, folders)))
    known = list(dict.fromkeys(modules))
    for name in known:
        before, what = set(ORCHESTRATIONS), ""
        try:
            import_plugin(name)
            for added in ORCHESTRATIONS.keys() - before:
                ORCHESTRATIONS[added].starter()
        except (Exception, SystemExit) as error:  # whatever the module does
            what = f"cannot be imported: {type(error).__name__}: {error}"
        else:
            found = getattr(sys.modules[name], "__file__", None) or ""
            if name in paths and Path(found).resolve() != paths[name]:
                what = f"a module of this name is imported already, from {found}; rename the file"
            elif ORCHESTRATIONS.keys() == before and name not in plugin_names():
                what = (
                    "registers nothing; expected ORCHESTRATION = Orchestration(…) in it, or a "
                    "call of dsim.orchestrations.register"
                )
        if what:
            raise UserError(Problem("--plugin", name, what))
    os.environ[PLUGINS] = ",".join(known)


def plugin_names() -> list[str]:
    """The modules that ``--plugin`` names."""
    return [name for name in os.environ.get(PLUGINS, "").split(",") if name]


def import_named() -> None:
    """Import the plugins that the environment names."""
    for name in plugin_names():
        import_plugin(name)


def import_plugin(name: str) -> None:
    """Import module *name*, and register its ``ORCHESTRATION`` if it has one.

    The plugins' folders come last on Python's path, so that no file there hides a library.
    """
    folders = os.environ.get(PLUGIN_FOLDERS, "").split(os.pathsep)
    sys.path += [folder for folder in folders if folder and folder not in sys.path]
    spec = find_spec(name)
    content = Path(spec.origin).read_bytes() if spec and spec.has_location and spec.origin else b""
    module = import_module(name)
    declared = getattr(module, "ORCHESTRATION", None)
    if isinstance(declared, Orchestration) and ORCHESTRATIONS.get(declared.name) is not declared:
        register(declared)
    _fingerprints[name] = hashlib.sha256(content).hexdigest()


def fingerprints() -> dict[str, str]:
    """The SHA-256 of the file of each plugin, by name, as it was when it was imported."""
    return {name: _fingerprints[name] for name in plugin_names()}


def options() -> str:
    """What has to stand between ``dsim`` and a command to have these plugins again."""
    words = []
    for name in plugin_names():
        file = Path(getattr(sys.modules[name], "__file__", None) or "")
        elsewhere = str(file.parent) in os.environ[PLUGIN_FOLDERS].split(os.pathsep)
        words.append(f"--plugin {file if elsewhere and file.parent != Path.cwd() else name} ")
    return "".join(words)
