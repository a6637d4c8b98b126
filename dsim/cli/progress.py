"""What shows of long work on standard error: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from dsim.words import time_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from tqdm import tqdm

FIRST_LOG_S, LOG_EVERY_S = 10.0, 30.0
BAR = "{l_bar}{bar}| {n:,.0f} of {total:,.0f} {unit} [{elapsed}<{remaining}]"


def counting(what: str) -> Callable[[float, float], None]:
    """What shows how many of how many are done, and about how long the rest will take.

    On a terminal a bar, which is gone at the end; in a log a line after ten seconds, then
    one every half minute.

    Args:
        what: what is counted, in words.

    Returns:
        A function of how many are done, and how many there are.
    """
    begin_s = time.monotonic()
    last_s = begin_s + FIRST_LOG_S - LOG_EVERY_S
    bar: tqdm[Any] | None = None

    def progress(done: float, count: float) -> None:
        nonlocal last_s, bar
        if sys.stderr.isatty():
            from tqdm import tqdm as drawn

            bar = bar or drawn(total=count, unit=what, bar_format=BAR, leave=False)
            bar.total = count
            bar.update(done - bar.n)
            if done >= count:
                bar.close()
            return
        now_s = time.monotonic()
        if done < count and now_s - last_s >= LOG_EVERY_S:
            last_s = now_s
            left = time_left(now_s - begin_s, done, count)
            click.echo(f"{done:,.0f} of {count:,.0f} {what}{left}", err=True)

    return progress
