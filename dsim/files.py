"""Text files: read with clear errors, written whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.errors import Problem, UserError

if TYPE_CHECKING:
    from pathlib import Path


def write_whole(path: Path, text: str | bytes, option: str) -> None:
    """Write *text* to *path*; if that fails, what stood there before stays.

    Args:
        path: where to.
        text: what to write.
        option: the option that named the place, for the error.

    Raises:
        UserError: the file cannot be written.
    """
    half = path.with_name(path.name + ".half")
    try:
        half.write_bytes(text if isinstance(text, bytes) else text.encode())
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        problem = Problem(option, "", f"{path} cannot be written: {error.strerror}")
        raise UserError(problem) from None


def read_text(path: Path) -> str:
    """The text of the file *path*.

    Raises:
        UserError: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(Problem(str(path), "", f"cannot be read: {error.strerror}")) from None
    except UnicodeDecodeError:
        raise UserError(Problem(str(path), "", "is not a text file")) from None
