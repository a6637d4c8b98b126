"""The studies that come with dsim."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.files import read_text, write_whole
from dsim.words import nearest

_INSIDE = Path(__file__).parents[1] / "studies"  # in an installed package
FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "studies"


def names() -> list[str]:
    """The names of the studies."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def path_of(study: Path | str) -> Path:
    """The file of *study*: a path, or the name of a study that comes with dsim.

    Raises:
        UserError: *study* is a name that no study has.
    """
    path = Path(study)
    if path.suffix or path.name != str(study) or path.exists():
        return path
    if path.name not in names():
        hint = nearest(path.name, names())
        what = f"no study of this name comes with dsim{hint}; dsim studies lists them"
        raise UserError(Problem(path.name, "", what))
    return FOLDER / f"{path.name}.toml"


def title_of(name: str) -> str:
    """What the study *name* is about."""
    text = read_text(FOLDER / f"{name}.toml")
    comment = re.match(r"#\s*(.*)", text)
    return str(tomllib.loads(text).get("title") or (comment[1] if comment else ""))


def copy(name: str, folder: Path) -> list[Path]:
    """Copy the study *name*, and the data files that it names, into *folder*.

    Raises:
        UserError: there is no such study, or a file is in the way or cannot be written.
    """
    source = path_of(name)
    text = read_text(source)
    data = [path for path in FOLDER.glob("*.json") if f'"{path.name}"' in text]
    copies = {folder / path.name: read_text(path) for path in (source, *data)}
    for path in copies:
        if path.exists():
            raise UserError(Problem(str(path), "", "exists already"))
    for path, content in copies.items():
        write_whole(path, content, "--copy")
    return list(copies)
