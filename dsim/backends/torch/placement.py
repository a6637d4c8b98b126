"""Where workers run: CPU cores, devices, and what compiling needs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from typing import TYPE_CHECKING

from dsim.backends.torch.decoders import STATIC_WIDTHS
from dsim.errors import Problem, UserError
from dsim.system import available_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


WARM_UP_WIDTHS = (1, 2, 3, 4, 6, 9, 16, 1, 1)


def warm_up_widths(context_tokens: int) -> tuple[int, ...]:
    """Widths of the forwards before time zero, as far as they fit the context."""
    widths: list[int] = []
    for width in WARM_UP_WIDTHS:
        if 1 + sum(widths) + width <= context_tokens:
            widths.append(width)
    return tuple(widths)


def static_tokens(text_tokens: int, context_tokens: int) -> int:
    """How long a static cache is for texts of *text_tokens*, so that padding fits, too; 0 for 0."""
    if not text_tokens:
        return 0
    room = text_tokens + STATIC_WIDTHS[-1]
    return min(-(-room // 64) * 64, context_tokens)  # few lengths: kernels are kept by length


def check_compiler(devices: Sequence[str]) -> None:
    """See that there is what ``torch.compile`` needs.

    Raises:
        UserError: there is not.
    """
    # What torch itself looks for.
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if "cpu" in devices and not shutil.which(compiler):
        raise UserError(
            Problem(
                "--compile",
                "",
                f"no C++ compiler is here ({compiler}), which models on the CPU need; install "
                "one, like: apt-get install g++; name another by CXX; or leave --compile away",
            )
        )


def place(
    devices: Sequence[str], threads: int, *, share: bool, idle: Sequence[int] = ()
) -> tuple[list[tuple[int, ...]], str]:
    """Give each worker on the CPU its cores, and see that GPUs are not shared unasked.

    Args:
        devices: of the workers in order.
        threads: cores that a worker on the CPU needs.
        share: whether workers may share cores and GPUs.
        idle: workers that need next to nothing.

    Returns:
        The cores of each worker (nothing: any), and who shares what, in words.

    Raises:
        UserError: there are not enough, or one has an unknown name.
    """
    problems, contention = [], []
    unknown = sorted({d for d in devices if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", d)})
    if unknown:
        raise UserError(
            Problem("--devices", "", f"expected cpu, mps or cuda:NUMBER, got {unknown[0]!r}")
        )
    named = ["cuda:0" if d == "cuda" else d for d in devices]
    gpus = [d for i, d in enumerate(named) if d != "cpu" and i not in idle]
    for device in sorted({d for d in gpus if gpus.count(d) > 1}):
        what = f"{gpus.count(device)} workers share {device}"
        contention.append(what)
        if not share:
            problems.append(Problem("--devices", "", f"{what}, so they would slow each other"))
    on_cpu = [i for i, d in enumerate(devices) if d == "cpu" and i not in idle]
    cores: list[tuple[int, ...]] = [()] * len(devices)
    available = available_cores()
    needed = threads * len(on_cpu)
    if on_cpu and needed > len(available):
        what = f"{len(on_cpu)} workers of {threads} threads share {len(available)} cores"
        contention.append(what)
        if not share:
            problems.append(Problem("--targets", "", f"{what}, so they would slow each other"))
    elif on_cpu:
        for n, i in enumerate(on_cpu):
            cores[i] = tuple(available[n * threads : (n + 1) * threads])
    if problems:
        raise UserError(*(p._replace(what=p.what + "; allow it with --share") for p in problems))
    return cores, "; ".join(contention)


@contextlib.contextmanager
def beside(busy: Iterable[int]) -> Iterator[None]:
    """Meanwhile run this thread on cores that are not *busy*, if there are any."""
    before = available_cores()
    free = set(before) - set(busy)
    if not free or not hasattr(os, "sched_setaffinity"):
        yield
        return
    os.sched_setaffinity(0, free)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def device_names(text: str) -> list[str]:
    """The devices in *text*, which has commas between them; nothing: the CPU."""
    return [name.strip() for name in text.split(",") if name.strip()] or ["cpu"]
