"""Results of several runs or measurements side by side: differences, with intervals."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from dsim.orchestrations import may_read, title_of
from dsim.report.analysis import SPREAD, interval_of, is_number
from dsim.report.tables import TextTable
from dsim.study.columns import BY_NAME
from dsim.study.labels import describe, label, words
from dsim.study.measurements import MEASURED
from dsim.words import closest, listed, plural

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


# What is compared where both sides know it; the first that they do is the headline.
QUANTITIES = (
    *(f"latency_{s}_ms" for s in ("mean", "p50", "p99")),
    *(f"ttft_{s}_ms" for s in ("mean", "p50", "p99")),
    *(f"tpot_{s}_ms" for s in ("mean", "p50", "p99")),
    *(f"itl_{s}_ms" for s in ("mean", "p50", "p99")),
    *("throughput_per_s", "tokens_per_s", "goodput_per_s", "price_per_million"),
)
# Settings of single texts that make results differ.
CONSTANTS = (
    *("tokens", "lookahead", "targets", "acceptance_rate"),
    *("target_latency_ms", "drafter_latency_ms"),
)
MAX_ROWS = 400  # of the table on the page; the file beside it has all
SAME_LOAD = 0.05  # of two loads: by how much they may differ before that is said
MAX_ALONE = 4  # rows without a partner that are named
ROW = "#row"
MAX_KINDS = 8  # of variants and algorithms that a verdict tells apart


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One of the results that are compared.

    Attributes:
        name: what it is called.
        frame: its rows, each algorithm at its best over the axes that are left out.
        axes: the columns that tell rows of one algorithm apart.
        settings: the settings of its study, where there is one.
        load: what of the load of a server is known, by its name in words.
        failures: that requests failed, in a sentence; or nothing.
        whole: its rows before the best was taken.
        minimised: the axes that the best was taken over.
    """

    name: str
    frame: pd.DataFrame
    axes: Sequence[str]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    load: dict[str, float] = dataclasses.field(default_factory=dict)
    failures: str = ""
    whole: pd.DataFrame | None = None
    minimised: Sequence[str] = ()

    def beside(self, other: Source) -> Source:
        """The same with all its rows, where *other* tells rows apart that the best leaves out.

        What was measured at one lookahead is compared with what was simulated at that one; what was
        measured at a lookahead that nobody wrote down, with the best.
        """
        names = [name for name in self.minimised if other.says(name)]
        if self.whole is None or not names:
            return self
        at_each = {
            algorithm: any(name not in SPREAD or may_read(str(algorithm), name) for name in names)
            and other.tells(algorithm, names)
            for algorithm in self.whole["algorithm"].unique()
        }
        best = self.frame[~self.frame["algorithm"].map(at_each)]
        rows = [
            self.whole[self.whole["algorithm"].map(at_each)],
            best.assign(**dict.fromkeys(names)).astype(dict.fromkeys(names, float)),
        ]
        frame = pd.concat([part for part in rows if len(part)], ignore_index=True)
        return dataclasses.replace(self, frame=frame, axes=[*self.axes, *names], minimised=())

    def says(self, name: str) -> bool:
        """Whether it has values of *name*, which are not those of a study that sets it alone."""
        known = name in self.frame and self.frame[name].notna().any()
        return name in self.axes or (not self.settings and bool(known))

    def tells(self, algorithm: str, names: Sequence[str]) -> bool:
        """Whether its rows of *algorithm* have values of *names*, or none is of *algorithm*."""
        rows = self.frame[self.frame["algorithm"] == algorithm]
        return rows.empty or bool(rows[list(names)].notna().any(axis=None))


def differences(one: Source, other: Source) -> tuple[pd.DataFrame, list[str]]:
    """Every point that both have, and how far *other* is from *one* there.

    Where one of them lacks an axis, or an algorithm of the other's name, its rows are compared with
    every row of the other; so is a row whose value on an axis is blank.

    Returns:
        One row per point and quantity: what tells points apart (the first is ``algorithm``),
        ``quantity``, ``reference``, ``reference_half``, ``value``, ``half``, ``difference``,
        ``difference_half`` (half widths of 95 % intervals; of differences for independent runs)
        and ``percent``; and the names of the columns that tell points apart.
    """
    keys = _keys(one, other)
    left, right = (_rounded(source.frame, keys) for source in (one, other))
    both = _joined(left, right, keys)
    if "algorithm" in keys:
        named = both["algorithm"].map(title_of)
    else:
        named = both["algorithm"].map(title_of) + " | " + both["algorithm "].map(title_of)
    telling = {"algorithm": named}
    for name in dict.fromkeys([*one.axes, *other.axes]):
        varies = [c for c in (name, f"{name} ") if c in both and both[c].nunique() > 1]
        telling |= {c.strip(): both[c] for c in varies[:1]}
    parts = []
    for quantity in QUANTITIES:
        if quantity not in left or quantity not in right:
            continue
        known = interval_of(quantity, left.columns), interval_of(quantity, right.columns)
        halves = [
            both[name + (" " if suffix and name in left else "")] if name else np.nan
            for name, suffix in zip(known, ("", " "), strict=True)
        ]
        part = pd.DataFrame({**telling, "quantity": quantity})
        part["reference"], part["reference_half"] = both[quantity], halves[0]
        part["value"], part["half"] = both[f"{quantity} "], halves[1]
        unknown = part["value"].eq(0) if quantity == "price_per_million" else part["value"].isna()
        parts.append(part[(part["reference"] > 0) & ~unknown])
    if not parts:
        return pd.DataFrame(columns=[*telling, "quantity"]), [*telling]
    table = pd.concat(parts, ignore_index=True)
    table["difference"] = table["value"] - table["reference"]
    table["difference_half"] = np.hypot(table["half"], table["reference_half"])
    table["percent"] = 100 * table["difference"] / table["reference"]
    return table, [*telling]


def _joined(left: pd.DataFrame, right: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Rows that agree in *keys*, in which a blank agrees with every value.

    Columns that both have, but for *keys*, end in a blank where they are of *right*.
    """
    parts = []
    for mine, some in _by_blanks(left, keys):
        for theirs, others in _by_blanks(right, keys):
            on = [key for key in keys if key not in (*mine, *theirs)]
            how: Literal["inner", "cross"] = "inner" if on else "cross"
            part = some.merge(others, on=on or None, how=how, suffixes=("", " "))
            for key in set(keys) - {*on}:
                part[key] = part.pop(f"{key} ") if key in mine else part[key]
            parts.append(part.drop(columns=[f"{key} " for key in theirs if f"{key} " in part]))
    kept = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(kept, ignore_index=True)


def _by_blanks(
    frame: pd.DataFrame, keys: Sequence[str]
) -> Iterator[tuple[list[str], pd.DataFrame]]:
    """The rows of *frame* by which of *keys* are blank in them."""
    some = [key for key in keys if frame[key].isna().any()]
    if not some:
        yield [], frame
        return
    for blank, part in frame.groupby([frame[key].isna() for key in some]):
        yield [key for key, empty in zip(some, blank, strict=True) if empty], part


def alone(one: Source, other: Source) -> str:
    """A sentence on the rows of one that no row of the other is compared with; or nothing.

    Those of the shorter one: a grid has more points than were measured.
    """
    keys = _keys(one, other)
    short, long = sorted((one, other), key=lambda source: len(source.frame))
    rows = _rounded(short.frame, keys).reset_index(names=ROW)
    met = _joined(rows, _rounded(long.frame, keys), keys)[ROW]
    left = short.frame[~short.frame.index.isin(met)]
    if left.empty or len(left) == len(short.frame):
        return ""  # that nothing meets is the verdict's to say

    def name(row: dict[Any, Any]) -> str:
        told = [describe(key, row[key]) for key in keys if not pd.isna(row[key])]
        return ", ".join([title_of(row["algorithm"]), *told[1:]])

    names = [name(row) for row in left.head(MAX_ALONE).to_dict("records")]
    more = f"; and {len(left) - MAX_ALONE} more" if len(left) > MAX_ALONE else ""
    return (
        f"{len(left)} of the {plural(len(short.frame), 'row')} of {short.name} "
        f"{'is' if len(left) == 1 else 'are'} compared with nothing, as {long.name} has no row "
        f"with the same {listed([words(key) for key in keys])}: {'; '.join(names)}{more}."
    )


def _rounded(frame: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """*frame* with those of *keys* that are numbers alike, whatever file they come from."""
    numbers = [key for key in keys if is_number(frame[key])]
    return frame.assign(**{key: frame[key].astype(float).round(9) for key in numbers})


def _keys(one: Source, other: Source) -> list[str]:
    """The columns that have to agree in two rows that are compared."""
    keys = []
    for name in dict.fromkeys(["algorithm", *one.axes, *other.axes]):
        if name not in one.frame or name not in other.frame:
            continue
        mine, theirs = one.frame[name], other.frame[name]
        if is_number(mine) != is_number(theirs):
            continue
        if not is_number(mine) and not set(mine) & set(theirs):
            continue  # other names for other things
        if is_number(mine) and (mine.isna().all() or theirs.isna().all()):
            continue
        keys.append(name)
    return keys


def crossed(one: Source, other: Source) -> str:
    """A sentence where no algorithm of one is one of the other, so that each meets each."""
    if "algorithm" in _keys(one, other) or not all("algorithm" in s.frame for s in (one, other)):
        return ""
    names = [list(dict.fromkeys(map(title_of, s.frame["algorithm"]))) for s in (one, other)]
    if max(map(len, names)) < 2:
        return ""
    mine, theirs = (", ".join(some[:4]) for some in names)
    hint = ""
    if any((s.frame["algorithm"] == MEASURED).all() for s in (one, other)):
        hint = " Say with --measured what the measured server runs."
    return (
        f"No algorithm of {other.name} ({theirs}) has the name of one of {one.name} ({mine}), so "
        f"each is compared with each.{hint}"
    )


def apart(one: Source, other: Source) -> str:
    """A sentence on axes that keep no rows apart, as only one of the sources has them; or nothing.

    A column that is called otherwise than dsim's looks like an axis of its own.
    """
    keys, parts, hints = _keys(one, other), [], []
    for mine, theirs in ((one, other), (other, one)):
        lone = [name for name in mine.axes if name not in (*keys, "algorithm", "variant")]
        lacking = [name for name in lone if name not in theirs.frame]
        parts += [
            f"{name} holds text in {mine.name}"
            for name in lone
            if name not in lacking
            if not is_number(mine.frame[name])
        ]
        if lacking:
            names = listed([words(name) for name in lacking])
            parts.append(f"{theirs.name} has no {names}, which {mine.name} varies")
        columns = [str(name) for name in theirs.frame if name not in mine.frame]
        hints += [
            f' Is "{close}" of {theirs.name} the {words(name)}? Then call the column {name}.'
            for name in lacking
            if name in BY_NAME and (close := closest(name, columns))
        ]
    if not parts:
        return ""
    return f"{'; '.join(parts)}: each value is compared with each.{''.join(hints)}"


def verdict(one: Source, other: Source, table: pd.DataFrame) -> str:
    """The answer in one sentence: how *other* compares with *one*.

    Args:
        one: the reference.
        other: the source that is compared with it.
        table: their :func:`differences`.
    """
    if table.empty:
        return (
            f"{other.name} and {one.name} have no point in common: no row agrees in "
            f"{', '.join(words(key) for key in _keys(one, other)) or 'a quantity'}."
        )
    quantity = table["quantity"].iloc[0]
    part = table[table["quantity"] == quantity]
    what = words(quantity)
    if len(part) == 1:
        row = part.iloc[0]
        ratio = f"{abs(row['percent']):.1f} % {'higher' if row['difference'] > 0 else 'lower'}"
        amounts = f"{_amount(row['value'], row['half'])} against "
        amounts += _amount(row["reference"], row["reference_half"])
        unit = label(quantity).partition(" (")[2].rstrip(")")
        clear = abs(row["difference"]) > row["difference_half"]
        known = not np.isnan(row["difference_half"])
        doubt = "" if clear else "; the difference is within the 95 % interval"
        doubt = doubt if known else "; no interval is known"
        return f"{other.name}: the {what} is {ratio} than in {one.name} ({amounts} {unit}{doubt})."
    counts = _counts(part)
    known = part["difference_half"].notna().any()
    noise = "by more than the 95 % interval" if known else "no intervals are known"
    text = (
        f"{other.name}: the {what} is lower than in {one.name} in {counts['lower']} of "
        f"{plural(len(part), 'point')} and higher in {counts['higher']} ({noise}); "
    )
    kinds = part.groupby(_kind(part, _names(table)), sort=False)["percent"]
    if 1 < kinds.ngroups <= MAX_KINDS:
        each = "; ".join(f"{name} {percent.median():+.1f} %" for name, percent in kinds)
        median = "median differences" if kinds.size().max() > 1 else "differences"
        return f"{text}{median}: {each}."
    return f"{text}the median difference is {part['percent'].median():+.1f} %."


def _names(table: pd.DataFrame) -> list[str]:
    """The columns before ``quantity`` that tell points apart by a name, not by a number."""
    columns = [str(name) for name in table]
    keys = columns[: columns.index("quantity")]
    return [key for key in keys if not is_number(table[key])]


def _kind(part: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """What each point of *part* is of: the variant where it says more than the algorithm."""
    used = [name for name in names if part[name].nunique() > 1]
    if "variant" in used and one_algorithm_each(part):
        used = [name for name in used if name != "algorithm"]
    return part[used].astype(str).agg(", ".join, axis=1) if used else part["algorithm"]


def one_algorithm_each(frame: pd.DataFrame) -> bool:
    """Whether each variant has one algorithm, so that its name says all."""
    return bool((frame.groupby("variant")["algorithm"].nunique() == 1).all())


def _counts(part: pd.DataFrame) -> dict[str, int]:
    noise = part["difference_half"].fillna(0.0)
    lower, higher = part["difference"] < -noise, part["difference"] > noise
    return {"lower": int(lower.sum()), "higher": int(higher.sum())}


def glance(one: Source, pairs: Sequence[tuple[Source, pd.DataFrame]]) -> TextTable | None:
    """One row per source and quantity: in how many points which is lower."""
    rows = []
    for other, table in pairs:
        for quantity, part in table.groupby("quantity", sort=False):
            counts = _counts(part)
            same = len(part) - sum(counts.values())
            known = part["difference_half"].notna().any()
            rows.append(
                [
                    f"{other.name}: {label(str(quantity))}",
                    f"{len(part):,}",
                    f"{part['percent'].median():+.1f} %",
                    f"{part['percent'].min():+.1f} … {part['percent'].max():+.1f} %",
                    f"{counts['lower']:,}",
                    f"{counts['higher']:,}",
                    f"{same:,}" if known else "no interval",
                ]
            )
    if not rows:
        return None
    return TextTable(
        title="At a glance",
        caption=f"Differences from {one.name}, over the points that both have. A point counts as "
        "lower or higher where the difference is larger than its 95 % interval.",
        head=["quantity", "points", "median", "range", "lower", "higher", "not significant"],
        rows=rows,
        numbers=True,
    )


def detail(
    one: Source, other: Source, table: pd.DataFrame, keys: Sequence[str]
) -> TextTable | None:
    """One row per point and quantity: both values, and their difference."""
    if table.empty:
        return None
    rows = []
    for row in table.head(MAX_ROWS).to_dict("records"):
        half = row["difference_half"]
        percent = f"{row['percent']:+.1f}"
        if not np.isnan(half):
            percent += f" ± {100 * half / abs(row['reference']):.1f}"
        rows.append(
            [
                *(_told(row[k]) for k in keys),
                label(row["quantity"]),
                _amount(row["reference"], row["reference_half"]),
                _amount(row["value"], row["half"]),
                f"{percent} %",
            ]
        )
    more = f" The first {MAX_ROWS} rows of {len(table):,}." if len(table) > MAX_ROWS else ""
    return TextTable(
        title=f"{other.name} against {one.name}",
        caption="Value ± 95 % interval, where it is known. Intervals of differences take both for "
        f"independent; with the same random draws they are narrower.{more} comparison.csv has all.",
        head=[*(words(k) for k in keys), "quantity", one.name, other.name, "difference"],
        rows=rows,
        numbers=True,
    )


def _told(value: Any) -> str:
    """What tells a point apart, in a table."""
    if not isinstance(value, float):
        return str(value)
    return "–" if np.isnan(value) else f"{value:g}"


def _amount(value: float, half: float) -> str:
    digits = max(0, 3 - int(np.floor(np.log10(abs(value)))) - 1) if value else 2
    digits = min(max(digits, 1), 4)
    return f"{value:,.{digits}f}" + ("" if np.isnan(half) else f" ± {half:,.{digits}f}")


def changed(one: Source, other: Source) -> str:
    """The settings in which two sources differ, as a sentence; or nothing.

    Those of their studies; where one has none, what is the same in all rows of each.
    """
    told = ("title", "description", "minimise", "max_targets")
    mine, theirs = one.settings, other.settings
    if not mine or not theirs:
        mine, theirs = _constants(one), _constants(other)
    parts = [
        f"{key} {_shown(value)} ({_shown(mine[key])})"
        for key, value in theirs.items()
        if key in mine and mine[key] != value and key not in told
    ]
    if not (one.settings and other.settings):
        parts += [
            f"{name} {_rate(value)} ({_rate(one.load[name])})"
            for name, value in other.load.items()
            if name in one.load and not math.isclose(value, one.load[name], rel_tol=SAME_LOAD)
        ]
    if not parts:
        return ""
    more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    return f"{other.name} differs from {one.name} in: {', '.join(parts[:8])}{more}."


def _rate(value: float) -> str:
    if not math.isfinite(value):
        return "all at once"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _constants(source: Source) -> dict[str, Any]:
    """The settings that have one value in all rows of *source*, in words."""
    frame = source.frame
    names = [name for name in CONSTANTS if name in frame and name not in source.axes]
    return {
        words(name): f"{frame[name].iloc[0]:g}"
        for name in names
        if is_number(frame[name]) and frame[name].nunique() == 1
    }


def _shown(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
