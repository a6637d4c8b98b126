"""Workers on the CPU that are forked from one process, which has loaded torch once for all.

To import torch and transformers takes seconds, most of the start of a worker. On Linux one process
does so once, Python's fork server, and every worker begins as a copy of it. It computes nothing,
so there are no threads that a copy would lack, and it never looks for a GPU: workers on GPUs start
by themselves, and so do those that compile, for which that is the least, and all of them where
copies are not possible.

The fork server ends with dsim and the workers end with the fork server, by the kernel's hand. It
holds no stream of dsim's: a worker gets dsim's as they are when it starts, and so it gets the
environment and the cores.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from importlib.util import find_spec
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, ForkServerProcess
from multiprocessing.reduction import DupFd
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Any

from dsim.backends.torch import preload
from dsim.errors import EngineError
from dsim.system import available_cores, can_end_at_once, end_at_once, hold_interrupts
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess

# Beginnings of variables that are read while libraries are loaded: a new value needs a new process.
READ_EARLY = (
    "CUDA",
    "GOMP",
    "HF_",
    "HOME",
    "HUGGING",
    "KMP",
    "LD_",
    "MKL",
    "OMP_",
    "OPENBLAS",
    "PYTHON",
    "PYTORCH",
    "TOKENIZERS",
    "TORCH_",
    "TRANSFORMERS",
    "XDG_",
)
STREAMS = (1, 2)  # output and errors; nobody reads the input
_began: list[
    tuple[int, dict[str, str]]
] = []  # process id and variables when the server was started


class _Name(str):
    """The name of a process: what a copy reads first."""

    __slots__ = ()

    def __reduce__(self) -> tuple[Callable[..., str], tuple[Any, ...]]:
        streams = {}
        for number in STREAMS:
            with contextlib.suppress(OSError):  # it is closed
                os.fstat(number)
                streams[number] = DupFd(number)
        return _named, (str(self), streams, dict(os.environ), available_cores())


def _named(name: str, streams: dict[int, Any], variables: dict[str, str], cores: list[int]) -> str:
    """In a new copy: end with the fork server, and be what a child of dsim's would be."""
    end_at_once()
    if preload.servers and os.getppid() not in preload.servers:
        os._exit(1)  # it had ended before the system was told
    for number, stream in streams.items():
        given = stream.detach()
        os.dup2(given, number)
        os.close(given)
    if os.environ != variables:
        os.environ.clear()
        os.environ.update(variables)
    os.sched_setaffinity(0, cores)
    return name


class _Process(ForkServerProcess):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._name = _Name(self.name)


class Forking(ForkServerContext):
    """Starts workers as copies of the fork server."""

    Process = _Process


def possible() -> bool:
    """Whether workers of this process can be forked, here and now."""
    if sys.platform != "linux" or not can_end_at_once():
        return False
    if not _began:
        return find_spec("torch") is not None and find_spec("transformers") is not None
    return _began[0] == (os.getpid(), _read_early())


def begin() -> None:
    """Let the fork server load torch from now on, where it is :func:`possible`; do not wait."""
    if not possible():
        return
    if not _began:
        _began.append((os.getpid(), _read_early()))
        forkserver.set_forkserver_preload([preload.__name__])
        Finalize(None, _end, exitpriority=-1)  # after the workers
    os.environ[preload.VARIABLE] = str(os.getpid())
    try:
        with hold_interrupts():
            forkserver.ensure_running()
    finally:
        del os.environ[preload.VARIABLE]


def _end() -> None:
    """End the fork server and wait for it, so that nothing is left when dsim has ended."""
    if (server := _server()) is not None:
        with contextlib.suppress(OSError):
            os.kill(server, signal.SIGKILL)
            os.waitpid(server, 0)


def kill() -> None:
    """End the fork server, and with it its copies, since it does not answer; another may begin."""
    if (server := _server()) is not None:
        with contextlib.suppress(OSError):
            os.kill(server, signal.SIGKILL)
            os.waitid(os.P_PID, server, os.WEXITED | os.WNOWAIT)  # Python itself fetches its end


def _server() -> int | None:
    """The process id of the fork server of this process."""
    server = getattr(getattr(forkserver, "_forkserver", None), "_forkserver_pid", None)
    return server if _began and _began[0][0] == os.getpid() else None


def start(process: BaseProcess, name: str, timeout_ns: int) -> None:
    """Start *process*, which a fork server may have to answer for.

    Args:
        process: the process.
        name: what it is called.
        timeout_ns: how long to wait for the fork server.

    Raises:
        EngineError: there was no answer in *timeout_ns*, or the fork server has ended.
    """
    if not isinstance(process, _Process):
        process.start()
        return
    hung = threading.Event()

    def end() -> None:
        hung.set()
        kill()

    limit = threading.Timer(timeout_ns / NS_PER_S, end)
    limit.daemon = True
    limit.start()
    try:
        process.start()
    except (EOFError, OSError):
        if hung.is_set():
            limit.join()
            raise _hangs(name, timeout_ns) from None
        raise EngineError(f"{name} died (while loading)") from None
    finally:
        limit.cancel()


def _hangs(name: str, timeout_ns: int) -> EngineError:
    return EngineError(f"{name} hangs: no answer in {timeout_ns / NS_PER_S:g} s (while loading)")


def ready(name: str, timeout_ns: int) -> bool:
    """Wait until the fork server has loaded torch.

    Args:
        name: who waits for it.
        timeout_ns: how long.

    Returns:
        Whether workers can be forked now.

    Raises:
        EngineError: it has not loaded torch in *timeout_ns*.
    """
    if not possible():
        return False
    begin()
    answers: list[bytes] = []
    # In a thread, so that Ctrl-C and the limit end the waiting.
    waiting = threading.Thread(target=_first_copy, args=(answers,), daemon=True)
    waiting.start()
    waiting.join(timeout_ns / NS_PER_S)
    if waiting.is_alive():
        raise _hangs(name, timeout_ns)
    return any(answers)


def _first_copy(answers: list[bytes]) -> None:
    """Ask for a copy that ends at once: it comes when all is loaded."""
    with contextlib.suppress(OSError, EOFError):
        status, order = forkserver.connect_to_new_process([])
        os.close(order)
        answers.append(os.read(status, 1))  # nothing: the fork server has ended
        os.close(status)


def _read_early() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(READ_EARLY)}
