"""The seal of a results folder: the SHA-256 of every file, in ``provenance.json``."""

from __future__ import annotations

import hashlib
import json
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.study.folder import CHART_FILES

if TYPE_CHECKING:
    from pathlib import Path

PROVENANCE = "provenance.json"


class Difference(NamedTuple):
    """One file that is not as it was written.

    Attributes:
        name: the file, with ``/`` between folders.
        what: ``missing``, ``changed`` or ``extra``.
    """

    name: str
    what: str


def sealed(record: str, folder: Path) -> str:
    """The provenance *record*, JSON, with the hashes of the files in *folder*.

    Hashes that it has of other files stay, but for those of charts.
    """
    content = json.loads(record)
    known = content.get("files", {}).items()
    kept = {k: v for k, v in known if not any(fnmatch(k, pattern) for pattern in CHART_FILES)}
    hashes = {name: sha256(folder / name) for name in files_of(folder)}
    content["files"] = dict(sorted({**kept, **hashes}.items()))
    return json.dumps(content, indent=2) + "\n"


def unsealed(record: str) -> str:
    """The provenance *record* without hashes, as it is shown on a page."""
    content = json.loads(record)
    content.pop("files", None)
    return json.dumps(content, indent=2) + "\n"


def sha256(path: Path) -> str:
    """The SHA-256 of the file *path*, in hexadecimal digits; empty if it is no regular file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> list[str]:
    """Every file in *folder* and below, but the provenance."""
    found = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if not p.is_dir())
    return sorted(name for name in found if name != PROVENANCE)


def differences(folder: Path) -> list[Difference]:
    """Which files of the results in *folder* are not as they were written; none: all are.

    Raises:
        UserError: the folder holds no finished results, or no hashes, or cannot be read.
    """
    path = folder / PROVENANCE
    if not path.is_file():
        raise UserError(Problem(str(folder), "", f"holds no finished results: no {PROVENANCE}"))
    try:
        content: Any = json.loads(read_text(path))
        known = content.get("files")
    except (ValueError, AttributeError, RecursionError):
        raise UserError(Problem(str(path), "", "is damaged: it is not what dsim writes")) from None
    if not isinstance(known, dict):
        what = "has no hashes of files: an earlier version of dsim wrote it"
        raise UserError(Problem(str(path), "", what))
    try:
        there = {name: sha256(folder / name) for name in files_of(folder)}
    except OSError as error:
        raise UserError(
            Problem(str(folder), "", f"cannot be read: {error.strerror or error}")
        ) from None
    return [
        Difference(
            name, "missing" if name not in there else "changed" if name in known else "extra"
        )
        for name in sorted({*known, *there})
        if known.get(name) != there.get(name)
    ]
