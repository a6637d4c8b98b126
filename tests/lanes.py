"""Charts in tests: processes that draw are kept for the next page, or draw nothing at all.

A pair of processes that draw takes three seconds of CPU time to start, over half of what a small
study takes. What they draw does not depend on what they have drawn before.
"""

from __future__ import annotations

import os
from typing import ClassVar

from dsim.report import lanes

# Answers as the processes that draw do, but with a digest of each chart in place of its pictures.
# For tests of what happens to a run: whether its bytes are the same still depends on each chart.
NO_PICTURES = """
import hashlib, sys
from dsim.system import end_with_parent
end_with_parent(int(sys.argv[1]), at_once=sys.argv[2] == "True")
while task := sys.stdin.buffer.read(int(sys.stdin.buffer.readline() or 0)):
    if task == b"warm up":
        continue
    answer = b"" if task == b"script" else hashlib.sha256(task).hexdigest().encode()
    for data in [b"no script"] if task == b"script" else [b"<svg>%s</svg>" % answer, answer]:
        sys.stdout.buffer.write(b"%d\\n" % len(data) + data)
    sys.stdout.buffer.flush()
"""
# For processes that tests start: the first line of what they run.
DRAW_NOTHING = f"import dsim.report.lanes; dsim.report.lanes.PROGRAM = {NO_PICTURES!r}\n"
# dsim, so: ``python -c DSIM run study.toml``.
DSIM = f"{DRAW_NOTHING}from dsim.cli.main import main; main(prog_name='dsim')"


class KeptLane(lanes.Lane):
    """A process that draws, which the next page takes over where it has nothing left to do."""

    idle: ClassVar[dict[tuple[int, str], list[KeptLane]]] = {}

    def __init__(self):
        super().__init__()
        self.kind = kind()

    def close(self):
        """What was asked of it and is not wanted any more, it still works off, before the next."""
        if self.kind == kind() and self._process.poll() is None:
            self.idle.setdefault(self.kind, []).append(self)
        else:
            super().close()

    @classmethod
    def take(cls):
        """One that is there and runs, or a new one."""
        kept = cls.idle.get(kind(), [])
        while kept:
            lane = kept.pop(0)  # the first one has made the script
            if lane._process.poll() is None:
                return lane
            super(cls, lane).close()
        return cls()

    @classmethod
    def end_all(cls):
        for (pid, _), kept in cls.idle.items():
            for lane in kept if pid == os.getpid() else ():
                super(cls, lane).close()


def kind():
    """Which process may use it (a fork may not), and what it runs."""
    return os.getpid(), lanes.PROGRAM
