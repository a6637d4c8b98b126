"""The values of an axis of the grid: a list, or a range."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from dsim.words import nearest, show

if TYPE_CHECKING:
    from dsim.study.setting import Problems, Setting

MAX_IN_RANGE = 1_000_000


def expand(problems: Problems, where: str, written: Any, setting: Setting) -> list[Any] | None:
    """The values of an axis of the grid.

    Args:
        problems: takes what is wrong.
        where: the axis, for messages.
        written: a list, or a range ``{start, stop, step}`` or ``{start, stop, count}``.
        setting: what the axis varies.

    Returns:
        The values; ``None`` where something is wrong.
    """
    if isinstance(written, list):
        return written
    if not isinstance(written, dict) or setting.type not in ("int", "float"):
        problems.add(where, f"expected a list or {{start, stop, step}}, got {show(written)}")
        return None
    names = ("start", "stop", "step", "count")
    unknown = [name for name in written if name not in names]
    for name in unknown:
        problems.add(f"{where}.{name}", f"unknown{nearest(name, names)}")
    bad = [
        name
        for name in names
        if name in written
        and (
            isinstance(written[name], bool)
            or not isinstance(written[name], int | float)
            or not math.isfinite(written[name])
        )
    ]
    for name in bad:
        problems.add(f"{where}.{name}", f"expected a number, got {show(written[name])}")
    if unknown or bad:
        return None
    if set(written) not in ({"start", "stop", "step"}, {"start", "stop", "count"}):
        problems.add(
            where,
            f"expected {{start, stop, step}} or {{start, stop, count}}, got {show(written)}",
        )
        return None
    start, stop = written["start"], written["stop"]
    if "count" in written:
        count = written["count"]
        if count != int(count) or not 1 <= count <= MAX_IN_RANGE:
            problems.add(f"{where}.count", f"expected 1 to {MAX_IN_RANGE:,}, got {show(count)}")
            return None
        step = (stop - start) / (count - 1) if count > 1 else 0
    else:
        step = written["step"]
        if step == 0 or (stop - start) * step < 0:
            problems.add(
                f"{where}.step",
                f"the range never ends: it goes from {start:g} to {stop:g} in steps of {step:g}",
            )
            return None
        if (stop - start) / step > MAX_IN_RANGE:
            problems.add(where, f"the range has over {MAX_IN_RANGE:,} values; make the step larger")
            return None
        count = math.floor((stop - start) / step + 1e-9) + 1
    # Rounded, so that 3 · 0.05 is 0.15 in tables and in nanoseconds.
    return [
        start + i * step if isinstance(start + step, int) else round(start + i * step, 12)
        for i in range(int(count))
    ]
