"""The laws of the house (``docs/house.md``), read off the source text.

``python -m tests.house.laws`` prints every violation.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, NamedTuple

from tests import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PACKAGE = ROOT / "dsim"
MAX_LINES = 500
# From the ground up: a room may import from its own floor's room and from the floors below it.
FLOORS = (
    ("dsim", "errors", "words", "units", "files", "system", "version"),
    ("model",),
    ("events",),
    ("orchestrations",),
    ("backends",),
    ("engines", "deployment"),
    ("study",),
    ("report",),
    ("tasks",),
    ("cli",),
    ("__main__",),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


class Import(NamedTuple):
    """One import of one module of dsim by another.

    Attributes:
        source, target: dotted names of the two modules.
        line: line of the import.
        for_types: whether it is under ``TYPE_CHECKING``.
        inside: whether it is in a function.
    """

    source: str
    target: str
    line: int
    for_types: bool
    inside: bool


def modules() -> dict[str, Path]:
    """Every module of dsim by its dotted name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """The room that a module is in: its folder, or the module itself on the ground floor."""
    return module.split(".")[1] if "." in module else module


def imports() -> list[Import]:
    """Every import of a module of dsim by a module of dsim."""
    known = modules()
    found = []
    for source, path in known.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                whole = node.module or ""
                names = [f"{whole}.{alias.name}" for alias in node.names]
                targets = {name if name in known else whole for name in names}
            elif isinstance(node, ast.Import):
                targets = {alias.name for alias in node.names}
            else:
                continue
            above, for_types, inside = parents.get(node), False, False
            while above is not None:
                if isinstance(above, ast.If) and "TYPE_CHECKING" in ast.unparse(above.test):
                    for_types = True
                inside = inside or isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef)
                above = parents.get(above)
            found += [
                Import(source, target, node.lineno, for_types, inside)
                for target in sorted(targets & known.keys() - {source})
            ]
    return found


def upward() -> list[str]:
    """Imports that point up, or across a floor."""
    wrong = []
    for one in imports():
        source, target = room_of(one.source), room_of(one.target)
        if source in (target, "dsim"):
            continue
        if source not in FLOOR_OF:
            wrong.append(f"{one.source}: {source} is no room of the house")
        elif target not in FLOOR_OF:
            wrong.append(f"{one.source}:{one.line}: {target} is no room of the house")
        elif FLOOR_OF[target] > FLOOR_OF[source] or (
            FLOOR_OF[target] == FLOOR_OF[source] and FLOOR_OF[source] > 0
        ):
            wrong.append(f"{one.source}:{one.line}: imports {one.target}, which is not below it")
    return wrong


def circles() -> list[str]:
    """Circles of imports between modules, those for types and inside functions included."""
    arrows: dict[str, set[str]] = {}
    for one in imports():
        arrows.setdefault(one.source, set()).add(one.target)
    wrong: list[str] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(arrows.get(module, ())):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            circle = []
            while not circle or circle[-1] != module:
                circle.append(stack.pop())
            if len(circle) > 1:
                wrong.append("circle: " + " ↔ ".join(sorted(circle)))

    for module in modules():
        if module not in index:
            visit(module)
    return wrong


def hidden() -> list[str]:
    """Imports of dsim inside functions, but for those that keep a command's start quick.

    The commands in ``cli`` and the names of the package itself load what they need when they run;
    so may whatever reaches a room of real models or of charts, which load torch and altair.
    """
    heavy = {"report", "tasks"}
    wrong = []
    for one in imports():
        if not one.inside or room_of(one.source) in ("cli", "dsim"):
            continue
        if room_of(one.target) in heavy or one.target.startswith("dsim.backends.torch"):
            continue
        wrong.append(f"{one.source}:{one.line}: imports {one.target} inside a function")
    return wrong


def long_files() -> list[str]:
    """Files of dsim and its tests that are too long."""
    paths = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.jinja"), *(ROOT / "tests").rglob("*.py")]
    counts = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(paths)}
    return [
        f"{path.relative_to(ROOT)}: {count} lines, more than {MAX_LINES}"
        for path, count in counts.items()
        if count > MAX_LINES
    ]


def spelled_names() -> list[str]:
    """Places outside ``orchestrations/`` that spell the name of an orchestration."""
    declared = re.compile(r'^ORCHESTRATION = Orchestration\(\n    name="(\w+)"', re.MULTILINE)
    files = (PACKAGE / "orchestrations").glob("*.py")
    names = {n for path in files for n in declared.findall(path.read_text(encoding="utf-8"))}
    assert names
    wrong = []
    for module, path in modules().items():
        if room_of(module) == "orchestrations":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and node.value in names:
                wrong.append(f'{module}:{node.lineno}: spells "{node.value}"')
    return wrong


LAWS = (upward, circles, hidden, long_files, spelled_names)


if __name__ == "__main__":
    for law in LAWS:
        found = law()
        print(f"{law.__name__}: {len(found)}")
        for what in found:
            print(f"  {what}")
