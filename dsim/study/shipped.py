"""The studies and the documents that come with dsim."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from dsim.errors import Problem, UserError
from dsim.files import read_text, write_whole
from dsim.words import nearest

_INSIDE = Path(__file__).parents[1] / "studies"  # in an installed package
FOLDER = _INSIDE if _INSIDE.is_dir() else Path(__file__).parents[2] / "studies"
DOCS = FOLDER.with_name("docs")


def names() -> list[str]:
    """The names of the studies."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def path_of(study: Path | str) -> Path:
    """The file of *study*: a path, or the name of a study that comes with dsim.

    Raises:
        UserError: *study* is a name that no study has.
    """
    path = Path(study)
    if path.suffix or path.name != str(study) or path.is_file():
        return path
    if path.name not in names():
        hint = nearest(path.name, names())
        of_docs = [name for name in pages() if path.name in name.split("-")]
        if of_docs and not hint:
            hint = f" (dsim docs {of_docs[0]} prints a document)"
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
    kinds = (".json", ".csv")
    data = [p for p in FOLDER.iterdir() if p.suffix in kinds and f'"{p.name}"' in text]
    copies = {folder / path.name: read_text(path) for path in (source, *data)}
    for path in copies:
        if path.exists():
            raise UserError(Problem(str(path), "", "exists already"))
    for path, content in copies.items():
        write_whole(path, content, "--copy")
    return list(copies)


def pages() -> dict[str, str]:
    """The documents: their titles by their names."""
    found = {}
    for path in sorted(DOCS.rglob("*.md")):
        title = re.search(r"^# (.*)", read_text(path), re.MULTILINE)
        found[path.relative_to(DOCS).with_suffix("").as_posix()] = title[1] if title else ""
    return found


def page(name: str) -> str:
    """The text of the document *name*, for a terminal.

    The marks of the tool that writes parts of the documents are left out; of a picture its words
    are shown.

    Raises:
        UserError: there is none of this name.
    """
    name = name.removeprefix("docs/").removesuffix(".md")
    if name not in pages():
        hint = nearest(name, list(pages()))
        raise UserError(Problem(name, "", f"no document has this name{hint}; dsim docs lists them"))
    text = read_text(DOCS / f"{name}.md")
    text = re.sub(r"<!-- \[\[\[(cog.*?\]\]\]|end\]\]\]) -->\n", "", text, flags=re.DOTALL)
    return re.sub(r"!\[([^]]*)\]\([^)]*\)(\{[^}]*\})?", r"(picture: \1)", text)
