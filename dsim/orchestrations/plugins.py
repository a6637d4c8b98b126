"""Modules of the user's own that add orchestrations (``dsim --plugin``)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dsim.errors import Problem, UserError
from dsim.orchestrations.blame import line_in
from dsim.orchestrations.declaration import Orchestration, resolve
from dsim.orchestrations.registry import ORCHESTRATIONS, register
from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Collection
    from importlib.machinery import ModuleSpec

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
        is_path |= path.suffix != "" and path.is_file()  # such as a study
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
                resolve(ORCHESTRATIONS[added].vector or None)
        except (Exception, SystemExit) as error:  # whatever the module does
            what = f"cannot be imported: {_told(name, error)}"
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


def _told(name: str, error: BaseException) -> str:
    """What went wrong in module *name*, and in which of its lines."""
    spec = None if isinstance(error, ModuleNotFoundError) and error.name == name else _spec(name)
    line = line_in(spec.origin, error) if spec and spec.origin else 0
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    fields = [one.name for one in dataclasses.fields(Orchestration)]
    hint = nearest(found[1], fields) if found else ""
    what = str(error).replace("Orchestration.__init__()", "Orchestration()")
    return f"{f'line {line}: ' * bool(line)}{type(error).__name__}: {what}{hint}"


def _spec(name: str) -> ModuleSpec | None:
    try:
        return find_spec(name)
    except (ImportError, ValueError):
        return None


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


def orchestrations() -> list[str]:
    """The names of the orchestrations that are not dsim's own, in order of registration."""
    return [name for name, one in ORCHESTRATIONS.items() if not one.is_own]


def left_out(algorithms: Collection[str], how: str = "") -> list[str]:
    """A sentence on each orchestration of a plugin that is none of the *algorithms* compared.

    Args:
        algorithms: names.
        how: what adds one, before its name; by default a setting of all of them.
    """
    return [
        f"{name}, of a plugin, is not among the algorithms compared; add it with "
        + (f"{how} {name}." if how else f"--set 'algorithms={json.dumps([*algorithms, name])}'.")
        for name in orchestrations()
        if name not in algorithms
    ]


def options() -> str:
    """What has to stand between ``dsim`` and a command to have these plugins again."""
    words = []
    for name in plugin_names():
        file = Path(getattr(sys.modules[name], "__file__", None) or "")
        elsewhere = str(file.parent) in os.environ[PLUGIN_FOLDERS].split(os.pathsep)
        words.append(f"--plugin {file if elsewhere and file.parent != Path.cwd() else name} ")
    return "".join(words)
