"""The map of the house, made from the code: what each room is for, what is in it, what it uses."""

from __future__ import annotations

import ast

from tests.house.laws import FLOORS, PACKAGE, imports, modules, room_of

GROUND = FLOORS[0]


def first_line(module: str) -> str:
    """The first line of the docstring of *module*, without its full stop."""
    text = ast.get_docstring(ast.parse(modules()[module].read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


def uses() -> dict[str, set[str]]:
    """The rooms that each room imports from, the ground floor left out."""
    found: dict[str, set[str]] = {}
    for one in imports():
        source, target = room_of(one.source), room_of(one.target)
        if source != target and target not in GROUND:
            found.setdefault(source, set()).add(target)
    return found


def as_markdown() -> str:
    """The map: one table of rooms, then for each room one of its files."""
    known, used = modules(), uses()
    rooms = [room for floor in FLOORS[1:] for room in floor if (PACKAGE / room).is_dir()]
    order = {room: place for place, room in enumerate(rooms)}
    lines = ["| room | what it is for | uses |", "|---|---|---|"]
    for room in rooms:
        below = ", ".join(sorted(used.get(room, ()), key=lambda name: order[name]))
        lines.append(f"| [`{room}/`](#{room}) | {first_line(f'dsim.{room}')} | {below or '–'} |")
    files = [name for name in known if name.count(".") == 1 and known[name].stem != "__init__"]
    head = ["", "| file | what is in it |", "|---|---|"]
    lines += ["", "Small helpers, which everything may use:", *head]
    lines += [
        f"| `{name.partition('.')[2]}.py` | {first_line(name)} |"
        for name in files
        if room_of(name) in GROUND
    ]
    for room in rooms:
        lines += ["", f"### {room}", *head]
        for name, path in known.items():
            if room_of(name) != room or name == f"dsim.{room}":
                continue
            place = path.relative_to(PACKAGE / room).as_posix().replace("__init__.py", "")
            if text := first_line(name):
                lines.append(f"| `{place}` | {text} |")
    return "\n".join(lines)
