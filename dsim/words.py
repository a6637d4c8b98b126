"""Values and names as words for people: shortened, counted, and compared with valid names."""

from __future__ import annotations

import difflib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence


def show(value: Any) -> str:
    """*value* as TOML would have it, cut to one short line."""
    if isinstance(value, bool | str | list | tuple | dict):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def nearest(name: str, names: Sequence[str]) -> str:
    """A hint at the valid name that is nearest to *name*, or nothing."""
    close = closest(name, names)
    return f'; did you mean "{close}"?' if close else ""


def closest(name: str, names: Sequence[str]) -> str:
    """The one of *names* that is nearest to *name*, if any is near; or nothing."""
    last = {n.rsplit(".", 1)[-1]: n for n in reversed(names)}
    close = [known for known in names if known.lower() == name.lower()]
    close = close or [known for known in names if known.lower() == f"{name.lower()}s"]
    if not close:  # "rate" of "rate_per_s"
        close = sorted((n for n in names if n.lower().startswith(f"{name.lower()}_")), key=len)
    close = close or difflib.get_close_matches(name, names, 1, 0.6)
    if not close:
        close = [last[m] for m in difflib.get_close_matches(name.rsplit(".", 1)[-1], last, 1, 0.6)]
    return close[0] if close else ""


def plural(count: int, noun: str) -> str:
    """*count* and *noun*, with an s unless there is one: ``1 case``, ``1,200 cases``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(texts: Sequence[str]) -> str:
    """*texts* in one sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, (", ".join(texts[:-1]), *texts[-1:])))


def duration(seconds: float) -> str:
    """A length of time for people: ``90 s``, ``3 hours``."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.0f} s"


def time_left(spent_s: float, done: float, count: float) -> str:
    """How long the rest takes if *done* of *count* took *spent_s*, for the end of a message."""
    return f", about {duration(spent_s * (count - done) / done)} left" if done else ""
