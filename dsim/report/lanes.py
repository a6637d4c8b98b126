"""Processes that work for Vega. They start at once: this module loads neither Altair nor Vega."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from dsim.errors import EngineError
from dsim.system import can_end_at_once

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

# What a process runs: it answers SCRIPT with the bundle of Vega, WARM_UP with nothing, and each
# specification with an SVG and a PNG, or with an error. Every message is its length in a line, then
# its bytes.
SCRIPT, WARM_UP = "script", "warm up"
SCHEMA = "vegalite/v*/schema/__init__.py"
PROGRAM = """
import sys
from dsim.system import end_with_parent
end_with_parent(int(sys.argv[1]), at_once=sys.argv[2] == "True")
import vl_convert
from dsim.report.bundle import kept
from dsim.report.lanes import schema_version
wanted = ".".join(schema_version().lstrip("v").split(".")[:2])
known = vl_convert.get_vegalite_versions()
version = wanted if wanted in known else str(known[-1])  # the newest for Altair's charts
name = f"vega-{vl_convert.__version__}-{version}.js"
def say(data):
    sys.stdout.buffer.write(b"%d\\n" % len(data) + data)
    sys.stdout.buffer.flush()
def read():
    return sys.stdin.buffer.read(int(sys.stdin.buffer.readline() or 0)).decode()
while task := read():
    if task == "script":
        say(kept(name, lambda: vl_convert.javascript_bundle(vl_version=version).encode()))
        continue
    if task == "warm up":
        vl_convert.vegalite_to_svg('{"mark": "point"}', vl_version=version)
        continue
    try:
        svg = vl_convert.vegalite_to_svg(task, vl_version=version)
        png = vl_convert.svg_to_png(svg, scale=2.0)
    except ValueError as error:
        svg, png = str(error), b""
    say(svg.encode())
    say(png)
"""


def schema_version() -> str:
    """The version of Vega-Lite that Altair's charts are for, read from its source.

    Altair takes a third of a second to import, which two processes would spend for this word.
    """
    spec = importlib.util.find_spec("altair")
    places = (spec and spec.submodule_search_locations) or []
    for path in (path for place in places for path in Path(place).glob(SCHEMA)):
        if found := re.search(
            r'^SCHEMA_VERSION[^=\n]*= "(.+)"', path.read_text("utf-8"), re.MULTILINE
        ):
            return found[1]
    from altair import SCHEMA_VERSION

    return SCHEMA_VERSION


class Lane:
    """A process that works off tasks for Vega one after the other, while this one goes on."""

    def __init__(self) -> None:
        try:
            self._errors: IO[bytes] | None = tempfile.TemporaryFile()  # noqa: SIM115
        except OSError:  # no folder to write to: the run needs none
            self._errors = None
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(os.getpid()), str(can_end_at_once())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors or subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C goes to this process, which ends that one
        )
        self._asker = ThreadPoolExecutor(1)

    def ask(self, task: str, answers: int) -> Future[list[bytes]]:
        """The answers to *task*, once they are there.

        The future raises :class:`dsim.errors.EngineError` if the process has ended.
        """
        return self._asker.submit(self._ask, task.encode(), answers)

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._asker.shutdown(cancel_futures=True)
        self._process.communicate()
        if self._errors is not None:
            self._errors.close()

    def _ask(self, task: bytes, answers: int) -> list[bytes]:
        assert self._process.stdin is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):  # the missing answer says so as well
            self._process.stdin.write(b"%d\n" % len(task) + task)
            self._process.stdin.flush()
        return [self._read() for _ in range(answers)]

    def _read(self) -> bytes:
        assert self._process.stdout is not None  # noqa: S101
        length = self._process.stdout.readline()
        if not length:
            why = self._last_words()
            raise EngineError(f"vl-convert ended before the report was drawn{why}")
        return self._process.stdout.read(int(length))

    def _last_words(self) -> str:
        """The last line of what the process said of an error, for the end of a sentence."""
        lines: list[str] = []
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
            if self._errors is not None:
                self._errors.seek(0)
                lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f" ({lines[-1]})" if lines else ""


class AtWork(NamedTuple):
    """Processes at work.

    Attributes:
        lanes: the processes; the first is at the script at first.
        script: the bundle of Vega for a page, once it is there.
    """

    lanes: tuple[Lane, ...]
    script: Future[list[bytes]]


@contextlib.contextmanager
def lanes(*, draws: bool = True) -> Iterator[AtWork]:
    """Two lanes, ended with the block: the bundle of Vega and pictures are made side by side.

    The first picture of a process takes a second, so each is asked for one that nobody wants.

    Args:
        draws: pictures are wanted, not the bundle alone, for which one lane is enough.
    """
    started = tuple(Lane() for _ in range(1 + draws))
    try:
        script = started[0].ask(SCRIPT, 1)
        for lane in started if draws else ():
            lane.ask(WARM_UP, 0)
        yield AtWork(started, script)
    finally:
        for lane in started:
            lane.close()
