"""The machine: CPU cores that this process may use, signals, and processes that end with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def available_cores() -> list[int]:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def memory_bytes() -> int | None:
    """The memory that this process may use at most, if the system tells."""
    limits = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with contextlib.suppress(ValueError, OSError):  # "max", or no cgroups of version 2
        limits.append(int(CGROUP_LIMIT.read_text()))
    return min(limits, default=None)


# What ends a run as Ctrl-C does. Workers do not receive these signals where they reach all
# processes of a terminal.
OF_TERMINALS = {getattr(signal, name) for name in ("SIGINT", "SIGHUP") if hasattr(signal, name)}
LOOK_S = 0.5
MAX_ENDING_S = 10.0  # what is on the disk is whole at any moment, and workers end with us
PR_SET_PDEATHSIG = 1  # prctl(2)
SWEEPS = 10
_received: list[int] = []
_held: list[bool] = []  # not empty: an interruption waits for the end of hold_interrupts
_last_words = ["interrupted"]
_last_resort: list[threading.Timer] = []


def _stop(number: int, _: object) -> None:
    again = bool(_received)
    _received.append(number)
    if not again:
        _last_resort.append(threading.Timer(MAX_ENDING_S, _end_now))
        _last_resort[0].daemon = True
        _last_resort[0].start()
    if _held:
        return
    if not again or number == signal.SIGINT:  # whoever presses Ctrl-C twice does not want to wait
        raise KeyboardInterrupt


def _end_now() -> None:
    """A library has swallowed the interruption, or cleaning up takes too long."""
    os.write(2, f"{_last_words[-1]}\n".encode())
    os._exit(interrupted_code())


@contextlib.contextmanager
def stop_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP do inside what Ctrl-C does, whatever was inherited.

    Only an ignored SIGHUP stays ignored: that is what ``nohup`` is for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _received.clear()
    ending = {signal.SIGINT, signal.SIGTERM}
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        ending.add(hangup)
    before = {number: signal.signal(number, _stop) for number in ending}
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ending)
    try:
        yield
    finally:
        while _last_resort:
            _last_resort.pop().cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupted_code() -> int:
    """The exit code after an interruption: 128 and the number of the signal."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


@contextlib.contextmanager
def last_words(words: str) -> Iterator[None]:
    """What to say if an interruption inside the block has to end this process the hard way."""
    _last_words.append(words)
    try:
        yield
    finally:
        _last_words.pop()


@contextlib.contextmanager
def own_handlers() -> Iterator[None]:
    """Handle signals after the block as before it, whatever a library has done inside.

    A library that exits at SIGTERM interrupts instead.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as leave:
        _received.append(leave.code if isinstance(leave.code, int) else signal.SIGTERM)
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def hold_interrupts() -> Iterator[None]:
    """Start worker processes inside: none of them receives Ctrl-C, not even while it imports.

    They inherit that the signals of terminals are blocked. This process receives them, and what
    other signals interrupt, at the end of the block.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would let SIGINT through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_TERMINALS)
    _held.append(True)
    known = len(_received)
    try:
        yield
    finally:
        _held.pop()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if not known and _received:
        raise KeyboardInterrupt


def can_end_at_once() -> bool:
    """Whether what this thread starts may end as soon as it ends; see :func:`end_with_parent`."""
    return threading.current_thread() is threading.main_thread()


def end_with_parent(parent: int, *, at_once: bool) -> None:
    """In another process of dsim's: end when the process *parent* ends, whatever ended it.

    A thread looks for that twice a second. On Linux the system sees to it at once, even in the
    middle of an import or of a long computation.

    Args:
        parent: process id of the parent.
        at_once: whether the system shall see to it; it takes the end of the thread that started
            this process for that of the parent.
    """
    if at_once:
        end_at_once()
    threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def end_at_once() -> None:
    """On Linux: end as soon as the thread ends that started this process."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class _Name(str):
    """The name of a process: what a new process reads first, before it imports anything of size."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[[str, bool], str], tuple[str, bool]]:
        return _named, (str(self), can_end_at_once())


def _named(name: str, at_once: bool) -> str:
    if at_once:
        end_at_once()
    return name


class _Process(SpawnProcess):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name = _Name(self.name)


class Following(SpawnContext):
    """Starts worker processes that end with this one even while they start."""

    Process = _Process


def _end_after(parent: int) -> None:
    known = multiprocessing.parent_process()
    if known is not None:
        known.join()
    elif os.name == "posix":
        while os.getppid() == parent:
            time.sleep(LOOK_S)
    else:
        return  # such a process ends when its input ends
    os._exit(1)


def be_worker(*, at_once: bool) -> None:
    """In a worker process: leave Ctrl-C to the parent, and end with it."""
    for number in OF_TERMINALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent(os.getppid(), at_once=at_once)


@contextlib.contextmanager
def swept(folder: str) -> Iterator[None]:
    """No process with open files in *folder* outlives this one, nor does *folder*.

    For programs that start processes of their own. Looks at ``/proc``: on other systems nothing is
    done.
    """
    if not Path("/proc/self/fd").is_dir():
        yield
        return
    program = "import dsim.system, sys; dsim.system.sweep(sys.argv[1])"
    with subprocess.Popen(
        [sys.executable, "-c", program, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # signals of the terminal are not for it
    ) as sweeper:
        try:
            yield
        finally:
            # A word in place of the end of the input: whoever was to end has been told to.
            with contextlib.suppress(BrokenPipeError):
                sweeper.communicate(b"over")


def sweep(folder: str) -> None:
    """Wait for the end of the input; then end all processes with open files in *folder*.

    After a word on the input the others have been told to end: this is over when there are none.
    """
    told = bool(sys.stdin.read())
    for _ in range(SWEEPS):
        found = False
        for process in Path("/proc").glob("[0-9]*"):
            if int(process.name) == os.getppid():
                continue  # whoever said so, whose log of Ray may still be open
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                names = (str(open_.readlink()) for open_ in (process / "fd").iterdir())
                if any(name.startswith(folder) for name in names):
                    found = True
                    os.kill(int(process.name), signal.SIGKILL)
        if told and not found:
            break
        time.sleep(0.1)  # some may just be starting others
    shutil.rmtree(folder, ignore_errors=True)
