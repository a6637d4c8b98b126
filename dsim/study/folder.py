"""A results folder: who writes to it, what an unfinished run keeps there, and how results move in.

Everything is written whole: next door first, then moved into place, the provenance last. A folder
without ``provenance.json`` is not finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.errors import Problem, UserError
from dsim.orchestrations.plugins import fingerprints, options
from dsim.study import loader
from dsim.study.executors import Store

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from dsim.study.study import Study

UNFINISHED, LOCK, STUDY = ".unfinished", ".lock", "study.toml"
CHART_FILES = ("[0-9][0-9]-*.png", "[0-9][0-9]-*.svg")
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class RunInterrupted(Exception):  # noqa: N818 (no error)
    """The run was stopped before its end; what was finished is kept in *folder*."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


class PartStore(Store):
    """Finished parts of a run as files, each written whole, each bound to its study and plugins.

    A part that is damaged, or that belongs to another study or to another text of a plugin, counts
    as missing.

    Args:
        folder: the folder of the parts.
        resolved: the resolved study.

    Attributes:
        unusable: how many parts were found that could not be used.
    """

    def __init__(self, folder: Path, resolved: str) -> None:
        self.folder = folder
        plugins = json.dumps(fingerprints(), sort_keys=True)
        self.study = hashlib.sha256(f"{resolved}\0{plugins}".encode()).digest()
        self.unusable = 0

    def get(self, number: int) -> Any:
        """See :class:`dsim.study.executors.Store`."""
        try:
            stored = self._path(number).read_bytes()
        except FileNotFoundError:
            return None
        seal, content = stored[:32], stored[32:]
        if seal != self._seal(content):
            self.unusable += 1
            return None
        if content[:1] == b"{":
            return content.decode()
        return np.load(io.BytesIO(content), allow_pickle=False)

    def put(self, number: int, result: Any) -> None:
        """See :class:`dsim.study.executors.Store`."""
        if isinstance(result, str):
            content = result.encode()
        else:
            buffer = io.BytesIO()
            np.save(buffer, result, allow_pickle=False)
            content = buffer.getvalue()
        half = self._path(number).with_suffix(".half")
        half.write_bytes(self._seal(content) + content)
        half.replace(self._path(number))

    def _seal(self, content: bytes) -> bytes:
        return hashlib.sha256(self.study + content).digest()

    def _path(self, number: int) -> Path:
        return self.folder / f"part-{number:06d}"


@contextlib.contextmanager
def results_folder(
    folder: Path, resolved: str, *, force: bool, resume: bool
) -> Iterator[PartStore]:
    """The parts that a run has finished, kept beside the results until these are complete.

    Args:
        folder: folder of the results; made if need be.
        resolved: the resolved study.
        force: whether to replace other results.
        resume: whether to go on with the parts of an interrupted run.

    Raises:
        UserError: the folder holds something else, another process writes to it, or the disk is
            full.
        RunInterrupted: Ctrl-C; the parts are kept.
    """
    made = not folder.exists()
    if folder.exists() and not folder.is_dir():
        raise _refused(folder, "is not a folder; choose another place with --out")
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    work = folder / UNFINISHED
    try:
        with _locked(folder):
            if not resume:
                _claim(folder, resolved, force=force)
            try:
                with disk_errors(folder):
                    work.mkdir(exist_ok=True)
                    half = work / f"{STUDY}.half"
                    half.write_text(resolved, encoding="utf-8")
                    half.replace(work / STUDY)
                    yield PartStore(work, resolved)
            except UserError:
                _tidy(work)
                raise
    except KeyboardInterrupt:
        raise RunInterrupted(folder) from None
    except UserError:
        if made:
            with contextlib.suppress(OSError):  # something of worth is in it
                folder.rmdir()
        raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock of *folder*; the death of this process releases it.

    Raises:
        UserError: another process has it.
    """
    if fcntl is None:
        yield
        return
    path = folder / LOCK
    with disk_errors(folder):
        while True:
            file = path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                file.close()
                raise _refused(
                    folder, f"another process writes to it (process {owner}); wait for its end"
                ) from None
            with contextlib.suppress(FileNotFoundError):
                if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
                    break
            file.close()  # its last owner has just removed it
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # the folder may be read-only by now
            path.unlink()
        file.close()


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn errors of the disk into errors for the user.

    Raises:
        UserError: there is no room, or *folder* cannot be written to.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _refused(
                folder,
                f"there is no room for the results ({os.strerror(error.errno)}); "
                "no half-written file was left; make room, or choose another place with --out",
            ) from None
        raise _refused(folder, f"cannot be written to: {error.strerror or error}") from None


def _refused(folder: Path, what: str) -> UserError:
    return UserError(Problem(str(folder), "", what))


def _tidy(work: Path) -> None:
    """After a failure to write: leave finished parts, and nothing else of ours."""
    shutil.rmtree(work / "new", ignore_errors=True)
    with contextlib.suppress(OSError):  # the folder may be read-only by now
        for half in work.glob("*.half"):
            half.unlink(missing_ok=True)
    if not any(work.glob("part-*")):
        shutil.rmtree(work, ignore_errors=True)


def _claim(folder: Path, resolved: str, *, force: bool) -> None:
    """Check that *folder* may be written to.

    Raises:
        UserError: it may not.
    """
    unfinished = folder / UNFINISHED
    if unfinished.is_dir() and not (unfinished / STUDY).is_file():
        shutil.rmtree(unfinished)  # of a run that was killed before it began, or after its end
    names = {path.name for path in folder.iterdir()} - {LOCK}
    if unfinished.is_dir():
        if not force:
            raise _refused(
                folder,
                f"holds an unfinished run; go on with: dsim {options()}run --resume {folder}\n"
                "or start again with --force",
            )
        shutil.rmtree(unfinished)
        return
    if not names:
        return
    if "provenance.json" not in names or "results.parquet" not in names:
        raise _refused(
            folder,
            "exists and holds something other than results of dsim; choose another place with "
            "--out",
        )
    try:
        same = (folder / STUDY).read_text(encoding="utf-8") == resolved
    except OSError:
        same = False
    if force:
        return
    if same and (edited := _edited(folder)):
        raise _refused(
            folder,
            f"holds results of {edited} as its text was before; choose another place with --out, "
            "or replace them with --force",
        )
    if not same:
        raise _refused(
            folder,
            "holds the results of another study; choose another place with --out, "
            "or replace them with --force",
        )


def _edited(folder: Path) -> str:
    """The plugin whose text differs from that which the results in *folder* are of, if one does."""
    try:
        before = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        kept = dict(before.get("plugins_sha256", {}))
    except (OSError, ValueError, AttributeError):
        return ""
    now = fingerprints()
    return next((f"plugin {name}" for name in kept if now.get(name, kept[name]) != kept[name]), "")


def unfinished_study(folder: Path) -> Study:
    """The study of the interrupted run in *folder*.

    Raises:
        UserError: there is none.
    """
    path = folder / UNFINISHED / STUDY
    if not path.is_file():
        done = (folder / "provenance.json").is_file()
        raise _refused(folder, "is finished already" if done else "holds no unfinished run")
    if not path.read_bytes().strip():
        raise _refused(folder, f"its study ({path}) is empty; start again with --force")
    return loader.load(path)


def new_folder(folder: Path) -> Path:
    """An empty folder next door, for what is going to be moved in."""
    new = folder / UNFINISHED / "new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    return new


def move_in(folder: Path) -> None:
    """Move what was written next door into *folder*, the provenance last."""
    work = folder / UNFINISHED
    moved = sorted((work / "new").iterdir(), key=lambda path: path.name == "provenance.json")
    remove_old(folder, {path.name for path in moved})
    for path in moved:
        path.replace(folder / path.name)
    (work / STUDY).unlink()  # from here on there is nothing to resume
    shutil.rmtree(work)


@contextlib.contextmanager
def charts_folder(
    folder: Path, *, ours: set[str] | None, kept: AbstractSet[str] = frozenset()
) -> Iterator[Path]:
    """A folder next door to draw in, whose files are moved into *folder* at the end.

    Args:
        folder: where the charts go; made if need be.
        ours: files, besides charts, that may be in *folder*; ``None``: anything may.
        kept: files of an earlier run that stay.

    Raises:
        UserError: *folder* holds something else, or cannot be written to.
    """
    if ours is not None and folder.is_dir():
        known = ours | {path.name for pattern in CHART_FILES for path in folder.glob(pattern)}
        if other := {path.name for path in folder.iterdir()} - known:
            what = f"holds something other than charts: {min(other)}"
            raise UserError(Problem(str(folder), "", what))
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        new = folder / ".drawing"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        try:
            yield new
            remove_old(folder, {file.name for file in new.iterdir()} | kept)
            for file in new.iterdir():
                file.replace(folder / file.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)


def remove_old(folder: Path, new: set[str]) -> None:
    """Remove what an earlier run wrote and this one does not."""
    for pattern in ("results.csv", "backlog.parquet", *CHART_FILES):
        for path in folder.glob(pattern):
            if path.name not in new:
                path.unlink()
