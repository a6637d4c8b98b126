"""Where cases are simulated: in this process, in worker processes of this machine, or on Ray.

What comes out does not depend on that: tasks are numbered, their results are kept by number, and
each is the same wherever it was worked out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import secrets
import socket
import sys
import tempfile
import traceback
import uuid
from collections import Counter, deque
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import EngineError, Problem, UserError
from dsim.system import Following, be_worker, can_end_at_once, hold_interrupts, own_handlers, swept
from dsim.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from multiprocessing.process import BaseProcess

    Results = Generator[tuple[int, Any]]  # numbers of tasks, and what came of them
    # Makes what the workers need once; what it returns does one task.
    Prepare = Callable[[Any], Callable[[Any], Any]]

NAMES = ("processes", "ray")
INSTALL = 'is not installed; it is the extra "ray": pip install "dsim[ray]"'
MAX_DEATHS = 3  # of workers over one task, or over one pool, before it is given up
SMALL_TOKENS = 50_000  # simulated tokens (1 to 2 s) up to which processes cost more than they save
KNOCKING_S = 10.0
MAX_WAITING = 1000  # tasks handed to Ray at a time
MAX_FOLDER = 40  # characters; Ray's sockets lie in it, and 107 are all a socket's path may have


class Store:
    """Where results are kept, to go on from after an interruption. This one keeps nothing."""

    def get(self, number: int) -> Any:
        """The result of task *number*, if it was finished before; else ``None``."""

    def put(self, number: int, result: Any) -> None:
        """Keep the result of task *number*."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Executor:
    """What works tasks off.

    Attributes:
        name: ``processes`` or ``ray``.
        jobs: how many worker processes on this machine; 1 without Ray: none but this one.
        ray_address: of a Ray cluster that is there; ``None``: one is started on this machine.
    """

    name: str = "processes"
    jobs: int = 1
    ray_address: str | None = None

    def check(self) -> None:
        """See to it that it can be used.

        Raises:
            UserError: Ray is asked for and not installed.
        """
        if self.name == "ray":
            _import_ray(embedded=self.ray_address is None)

    def for_work(self, tokens: int) -> Executor:
        """Itself; or this process alone, where starting others costs more than it saves.

        Args:
            tokens: how many are simulated in all, by each algorithm.
        """
        return Executor() if tokens < SMALL_TOKENS and self.name == "processes" else self

    def each(
        self,
        prepare: Prepare,
        shared: Any,
        tasks: Sequence[Any],
        store: Store,
        done: Callable[[int, Any], None],
    ) -> None:
        """Work off the *tasks* that *store* does not know, and hear of every result once.

        Args:
            prepare: made once a worker, with *shared*; returns what does a task. A function of a
                module, so that workers find it.
            shared: what all tasks need.
            tasks: what to do.
            store: what keeps the results.
            done: called with a task's number and its result, in whatever order.

        Raises:
            EngineError: workers died again and again.
            UserError: there is no Ray cluster at that address.
        """
        todo = {}
        for number, task in enumerate(tasks):
            known = store.get(number)
            if known is None:
                todo[number] = task
            else:
                done(number, known)
        if not todo:
            return
        if self.name == "ray":
            results = self._by_ray(prepare, shared, todo)
        elif min(self.jobs, len(todo)) > 1:
            results = self._by_processes(prepare, shared, todo)
        else:
            results = _here(prepare, shared, todo)
        with contextlib.closing(results):
            for number, result in results:
                store.put(number, result)
                done(number, result)

    def _by_processes(self, prepare: Prepare, shared: Any, todo: dict[int, Any]) -> Results:
        waiting = deque(todo)
        deaths: Counter[int] = Counter()
        workers: dict[Connection, _Worker] = {}
        try:
            while todo:
                while waiting and len(workers) < min(self.jobs, len(todo)):
                    worker = _Worker.start(prepare, shared, workers)
                    worker.send(waiting, todo)
                ready = wait(list(workers))
                for worker in [worker for pipe, worker in workers.items() if pipe in ready]:
                    number = worker.number
                    try:
                        error, result = worker.pipe.recv()
                    except (EOFError, OSError):
                        worker.end(workers)
                        waiting.appendleft(number)
                        deaths[number] += 1
                        if deaths[number] == MAX_DEATHS:
                            raise EngineError(_died(MAX_DEATHS)) from None
                        continue
                    if error is not None:
                        raise error
                    del todo[number]
                    if waiting:
                        worker.send(waiting, todo)  # before this process looks at the result
                    else:
                        worker.end(workers)
                    yield number, result
        finally:
            for worker in list(workers.values()):
                worker.end(workers)  # nobody waits for what it does

    def _by_ray(self, prepare: Prepare, shared: Any, todo: dict[int, Any]) -> Results:
        with _connected(self) as ray:
            # Ray does a task again whose worker died; an exception of ours it does not repeat.
            work = ray.remote(num_cpus=1, max_retries=MAX_DEATHS)(_in_ray)
            kept, run = ray.put(shared), uuid.uuid4().hex
            more = iter(todo.items())
            waiting: dict[Any, int] = {}
            while True:
                for number, task in itertools.islice(more, MAX_WAITING - len(waiting)):
                    waiting[work.remote(run, prepare, [kept], task, _version())] = number
                if not waiting:
                    return
                ready, _ = ray.wait(list(waiting), num_returns=1)
                try:
                    result = ray.get(ready[0])
                except ray.exceptions.RayTaskError as error:
                    raise _of_worker(error.cause) from None
                except ray.exceptions.WorkerCrashedError:
                    raise EngineError(_died(MAX_DEATHS + 1)) from None
                except ray.exceptions.RayError as error:
                    last = str(error).strip().splitlines()[-1:]
                    raise EngineError(f"Ray gave a task up: {''.join(last)}") from None
                yield waiting.pop(ready[0]), result


def _here(prepare: Prepare, shared: Any, todo: dict[int, Any]) -> Results:
    do = prepare(shared)
    for number, task in todo.items():
        yield number, do(task)


def _of_worker(cause: BaseException) -> Exception:
    """What to raise for an exception in a worker of Ray."""
    if isinstance(cause, UserError | EngineError):
        return cause
    return EngineError(
        f"a worker of Ray failed: {type(cause).__name__}: {cause} (every node of a cluster needs "
        f"dsim {_version()}, and the Python and Ray of this one)"
    )


def _died(times: int) -> str:
    return (
        f"worker processes died {times} times over the same work (is there memory enough?); "
        "what was finished is kept"
    )


def _version() -> str:
    return VERSION


class _Worker:
    """A worker process and the pipe to it.

    No worker shares a pipe or a lock with another: the death of one, even in the middle of a
    result, is the end of its own pipe and holds up nobody else.
    """

    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.number = -1  # of the task that it does

    @classmethod
    def start(cls, prepare: Prepare, shared: Any, workers: dict[Connection, _Worker]) -> _Worker:
        """A new one, which joins *workers*."""
        context = Following()
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_in_process, args=(theirs, can_end_at_once(), prepare, shared), daemon=True
        )
        with hold_interrupts():
            process.start()
            theirs.close()  # so that the pipe breaks when the worker dies
            worker = workers[ours] = cls(process, ours)
        return worker

    def send(self, waiting: deque[int], todo: dict[int, Any]) -> None:
        """Let it do the next task; one that has died is noticed when its answer is read."""
        self.number = waiting.popleft()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.pipe.send(todo[self.number])

    def end(self, workers: dict[Connection, _Worker]) -> None:
        """End the process; it leaves *workers*."""
        self.process.kill()
        self.process.join()
        self.pipe.close()
        del workers[self.pipe]


# In worker processes -------------------------------------------------------------------------

_do: Callable[[Any], Any] | None = None  # of Ray's workers
_run: str | None = None


def _in_process(pipe: Connection, at_once: bool, prepare: Prepare, shared: Any) -> None:
    """Do tasks until nobody sends any more; answer each with an error, or none, and the result."""
    be_worker(at_once=at_once)
    try:
        do = prepare(shared)
        while True:
            pipe.send((None, do(pipe.recv())))
    except EOFError:
        return
    except Exception as error:
        error.add_note(traceback.format_exc())  # a traceback itself cannot be sent
        pipe.send((error, None))


def _in_ray(run: str, prepare: Prepare, kept: list[Any], task: Any, version: str) -> Any:
    """One task, in a worker of Ray, which may have done others of this run, or of another."""
    global _do, _run
    if run != _run or _do is None:
        import ray

        if version != _version():
            raise UserError(
                Problem(
                    "--ray-address",
                    "",
                    f"the cluster has dsim {_version()}, but this is dsim {version}; "
                    "results may differ between versions",
                )
            )
        _do, _run = prepare(ray.get(kept[0])), run
    return _do(task)


# Ray -----------------------------------------------------------------------------------------


def _import_ray(*, embedded: bool) -> Any:
    """Ray, told to keep to itself; it reads these variables as it is imported.

    Raises:
        UserError: it is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # never tells anybody that it is used
    if embedded:
        # With "clusters" off, every server of Ray listens on the loopback interface alone; that is
        # the default on systems other than Linux. The token keeps this machine's other users out.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        os.environ.setdefault("RAY_enable_metrics_collection", "0")
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ["RAY_AUTH_MODE"] = "token"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ImportError:
        raise UserError(Problem("--executor", "", f"ray {INSTALL}")) from None
    return ray


@contextlib.contextmanager
def _connected(executor: Executor) -> Iterator[Any]:
    """Ray, connected to the cluster that is asked for, or to one of its own while this lasts."""
    address = executor.ray_address
    ray = _import_ray(embedded=address is None)
    if ray.is_initialized():  # by whoever uses dsim as a library
        yield ray
        return
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    with contextlib.ExitStack() as stack:
        if address is None:
            root = tempfile.gettempdir()
            if len(root) > MAX_FOLDER:
                root = "/tmp"  # noqa: S108  (where Ray itself would go)
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="dsim-ray-", dir=root, ignore_cleanup_errors=True
                )
            )
            stack.enter_context(swept(folder))
            stack.callback(_leave, ray)
            with own_handlers():
                ray.init(
                    address="local",  # not one that happens to run: that is what addresses are for
                    num_cpus=executor.jobs,
                    include_dashboard=False,
                    _temp_dir=folder,
                    **quiet,
                )
        else:
            stack.callback(_leave, ray)
            try:
                _knock(address)
                with own_handlers():
                    ray.init(address=address, **quiet)
            except Exception as error:
                last = str(error).strip().splitlines()[:1]
                raise UserError(
                    Problem(
                        "--ray-address",
                        "",
                        f"no Ray cluster can be reached at {address}: {''.join(last)}",
                    )
                ) from None
        yield ray


def _leave(ray: Any) -> None:
    """Disconnect; what Ray's core then writes about tasks that it gave up is nobody's business."""
    sys.stderr.flush()
    standard_error = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        ray.shutdown()
    finally:
        os.dup2(standard_error, 2)
        os.close(standard_error)


def _knock(address: str) -> None:
    """See whether anybody listens at *address*: Ray itself would go on trying for minutes.

    Raises:
        OSError: nobody does.
        ValueError: it names no port.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), KNOCKING_S).close()
    elif address != "auto":
        raise ValueError("expected HOST:PORT or auto")
