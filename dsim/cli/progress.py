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
EARLY_BAR = "{l_bar}{bar}| {n:,.0f} of {total:,.0f} {unit} [{elapsed}]"
BAR = EARLY_BAR.replace("]", "<{remaining}]")
# From when on it can be told how long the rest takes: any of these. The first cases may be the
# longest, and what starts up is in their time; but parts of one case are alike.
MIN_DONE, MIN_SHARE, MIN_S, MIN_PARTS = 5, 0.1, 60.0, 2


def can_be_told(spent_s: float, done: float, count: float, parts: int = 0) -> bool:
    """Whether enough is done, in so many parts, to tell how long the rest takes."""
    in_parts = parts >= MIN_PARTS and done < parts and spent_s >= FIRST_LOG_S
    return done >= min(MIN_DONE, MIN_SHARE * count) or spent_s >= MIN_S or in_parts


def counting(what: str) -> Callable[[float, float], None]:
    """What shows how many of how many are done, and, in time, how long the rest will take.

    On a terminal a bar, which is gone at the end; in a log a line after ten seconds, then
    one every half minute, and one as soon as the time left can be told.

    Args:
        what: what is counted, in words.

    Returns:
        A function of how many are done, and how many there are.
    """
    begin_s = time.monotonic()
    last_s = begin_s + FIRST_LOG_S - LOG_EVERY_S
    bar: tqdm[Any] | None = None
    parts, known, asked = 0, 0.0, False  # asked: the last line could not tell the time left

    def progress(done: float, count: float) -> None:
        nonlocal last_s, bar, parts, known, asked
        parts, known = parts + (done > known), done
        if sys.stderr.isatty():
            from tqdm import tqdm as drawn

            bar = bar or drawn(total=count, unit=what, bar_format=EARLY_BAR, leave=False)
            bar.total = count
            told = can_be_told(time.monotonic() - begin_s, done, count, parts)
            bar.bar_format = BAR if told else EARLY_BAR
            bar.update(done - bar.n)
            if done >= count:
                bar.close()
            return
        now_s = time.monotonic()
        spent_s = now_s - begin_s
        told = can_be_told(spent_s, done, count, parts)
        due = now_s - last_s >= LOG_EVERY_S or (asked and told)
        if done < count and due:
            last_s, asked = now_s, not told
            left = time_left(spent_s, done, count) if told else ""
            click.echo(f"{done:,.0f} of {count:,.0f} {what}{left}", err=True)

    return progress
