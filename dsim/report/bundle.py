"""The bundle of Vega for pages, kept between runs: to make it takes over a second."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "DSIM_CACHE"  # the folder, in place of the user's folder for caches; empty: none
DIGEST_BYTES = hashlib.sha256().digest_size


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """What *make* returns, from an earlier run where there is one.

    A file in the folder is the SHA-256 of the rest, then the rest: a damaged one is made again.
    A folder that nobody can write to costs the time of *make*, and nothing else.

    Args:
        name: name of the file; it says all that the bytes depend on.
        make: makes the bytes.
    """
    folder = cache_folder()
    if folder is None:
        return make()
    with contextlib.suppress(OSError):
        data = (folder / name).read_bytes()
        if hashlib.sha256(data[DIGEST_BYTES:]).digest() == data[:DIGEST_BYTES]:
            return data[DIGEST_BYTES:]
    made = make()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        number, half = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(number, "wb") as file:
                file.write(hashlib.sha256(made).digest() + made)
            Path(half).replace(folder / name)
        finally:
            Path(half).unlink(missing_ok=True)
    return made


def cache_folder() -> Path | None:
    """Where to keep things, if anywhere."""
    if (named := os.environ.get(VARIABLE)) is not None:
        return Path(named) if named else None
    try:
        return platformdirs.user_cache_path("dsim", appauthor=False)
    except RuntimeError:  # nobody's home
        return None
