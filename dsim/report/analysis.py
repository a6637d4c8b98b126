"""What results say: every algorithm at its best, compared with others. Nothing here draws."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dsim.errors import UserError
from dsim.orchestrations import (
    DEFAULT,
    ORCHESTRATIONS,
    READABLE,
    REFERENCES,
    may_read,
    title_of,
)
from dsim.report.tables import TextTable
from dsim.study.columns import BY_NAME, column_of
from dsim.study.labels import words
from dsim.study.study import Chart
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dsim.study.study import Study

BEST = "best"  # what a chart names to compare with the fastest reference of each point
MANY = 1 << 16  # rows from which on a shorter way to number them is worth it
# Columns that may follow from other settings, and are axes only if they do not.
DERIVED = ("targets", "drafter_latency_ms", "target_latency_ms", "acceptance_rate")
SPREAD = ("lookahead", "targets")  # axes that some algorithms do not read


def is_number(values: pd.Series[Any]) -> bool:
    """Whether *values* have an order and distances; names and switches have none."""
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def interval_of(column: str, columns: Iterable[str]) -> str:
    """The one of *columns* that holds the 95 % intervals of *column*, or nothing.

    Its name is that of the column with ``_ci95`` before the unit, or at the end; the interval of a
    mean may lack ``_mean``.
    """
    known = set(columns)
    names = [f"{column}_ci95"]
    for unit in ("_per_s", "_ms"):
        if column.endswith(unit):
            stem = column.removesuffix(unit)
            names += [f"{stem}_ci95{unit}", f"{stem.removesuffix('_mean')}_ci95{unit}"]
    return next((name for name in names if name in known), "")


def known_interval(column: str, frame: pd.DataFrame) -> str:
    """As :func:`interval_of`, but nothing where no interval is known, as of one repeat."""
    name = interval_of(column, frame.columns)
    return name if name and frame[name].notna().any() else ""


def plain_columns(frame: pd.DataFrame) -> pd.DataFrame:
    """*frame* with names of columns that charts can take: letters, digits and ``_``, each once."""
    names: list[str] = []
    for column in frame.columns:
        name = re.sub(r"\W", "_", str(column))
        while name in names:
            name += "_"
        names.append(name)
    return frame.set_axis(names, axis=1)


def axes_of(study: Study) -> list[str]:
    """The columns of a study's axes, the variant among them."""
    variant = ["variant"] if study.variants[0][0] else []
    return [*variant, *(column_of(axis.key) for axis in study.grid)]


def axes_in(frame: pd.DataFrame) -> list[str]:
    """The columns that must be axes of results that come without a study.

    Settings with more than one value; but not those that follow from others, like a latency in ms
    that goes along with a relative one, or the servers that are enough for a lookahead.
    """
    outcomes = {column.name for column in BY_NAME.values() if column.kind == "outcome"}
    ignored = outcomes | {"algorithm", "engine", "backend", "published_speedup_vs_si"}
    names = [str(name) for name in frame.columns if name not in ignored]
    axes = [name for name in names if frame[name].nunique(dropna=False) > 1]
    first = [name for name in DERIVED if name in axes]
    for name in [*first, *(n for n in axes if n not in (*first, "variant", "lookahead"))]:
        others = [other for other in axes if other != name]
        if name in DERIVED or "variant" in others:
            by = others if name in DERIVED else ["variant"]
            if by and (frame.groupby(by, observed=True)[name].nunique(dropna=False) <= 1).all():
                axes = others
    return axes


def spread(frame: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """*frame* with the rows of algorithms at every value of axes that they do not read.

    Somebody who measured non-SI once has measured it for every lookahead. Rows of an algorithm are
    taken as they are where they have several values of such an axis themselves.
    """
    for name in SPREAD:
        values: list[Any] = [*frame[name].dropna().unique()] if name in axes else []
        if len(values) < 2:
            continue
        parts = []
        for algorithm, own in frame.groupby("algorithm", sort=False, observed=True):
            if not may_read(str(algorithm), name) and own[name].nunique() <= 1:
                parts += [own.assign(**{name: value}) for value in values]
            else:
                parts.append(own)
        frame = pd.concat(parts, ignore_index=True)
    return frame


def _numbered(columns: Iterable[tuple[NDArray[np.int64], int]]) -> NDArray[np.int64]:
    """A number for each row; rows have the same one where they agree in all *columns*.

    Args:
        columns: for each the codes of its rows, int64 (rows,), and how many codes there are.
    """
    numbers: NDArray[np.int64] = np.zeros((), np.int64)
    count = 1
    for codes, size in columns:
        if count * size > 8 * len(codes) + 1024:  # keep the numbers small
            numbers, seen = pd.factorize(numbers)
            count = len(seen)
        if not numbers.ndim:
            numbers = codes
        elif size > 1:
            numbers = numbers * size
            numbers += codes
        count *= size
    return numbers


def _codes(values: pd.Series[Any]) -> tuple[NDArray[np.int64], int]:
    """Numbers that are the same where *values* are, unknown ones too, and how many at most."""
    found = values.to_numpy() if len(values) > MANY and is_number(values) else None
    if found is not None and found.dtype == np.int64:
        low = found.min()
        size = int(found.max() - low) + 1
        if size <= MANY:
            return found - low, size
    if found is not None and found.dtype.kind in "if":
        first = np.flatnonzero(np.append(True, found[1:] != found[:-1]))
        if len(first) < len(found) // 8:  # runs of the same: one look at each is enough
            of_runs, values_of_runs = pd.factorize(found[first], use_na_sentinel=False)
            lengths = np.diff(first, append=len(found))
            return np.repeat(of_runs, lengths), max(1, len(values_of_runs))
    of_rows, known = pd.factorize(values, use_na_sentinel=False)
    return of_rows, max(1, len(known))


def _ranks(values: pd.Series[Any]) -> NDArray[np.float64]:
    """*values* as numbers in the same order, those that are unknown last."""
    if is_number(values):
        return values.fillna(np.inf).to_numpy(np.float64)
    return np.asarray(pd.factorize(values, sort=True)[0], np.float64)


def best(frame: pd.DataFrame, axes: Sequence[str], minimise: Sequence[str]) -> pd.DataFrame:
    """Every algorithm at its best over some axes: lowest mean latency.

    Among equals fewer servers win, then the smaller value of each axis. The speed-ups are those of
    best against best. A column ``slower_than_<reference>`` for each reference says whether a row is
    slower by more than the 95 % interval of both.

    Args:
        frame: the results.
        axes: the columns that tell cases apart.
        minimise: those of *axes* to take the best over.

    Raises:
        UserError: two rows are about the same case.
    """
    codes = {name: _codes(frame[name]) for name in ("algorithm", *axes)}
    numbers = _numbered(codes.values())
    if len(frame) and np.bincount(numbers).max() > 1:
        twice = frame[pd.Series(numbers, frame.index).duplicated(keep=False)].iloc[0]
        at = ", ".join(f"{name} {twice[name]}" for name in ["algorithm", *axes])
        raise UserError(f"two rows are about the same case: {at}")
    others = [name for name in axes if name not in minimise]
    keys = ["algorithm", *others]
    # Names come in the order of the study: there is none among themselves.
    places = {
        name: {value: place for place, value in enumerate(frame[name].unique())}
        for name in others
        if not is_number(frame[name])
    }
    if minimise:
        numbers = _numbered(codes[name] for name in keys)
        rows = np.flatnonzero(frame["latency_mean_ms"].notna())
        for name in ("latency_mean_ms", *(c for c in ("peak_targets", *minimise) if c in frame)):
            ranks = _ranks(frame[name].iloc[rows])
            lowest = np.full(int(numbers.max(initial=0)) + 1, np.inf)
            np.minimum.at(lowest, numbers[rows], ranks)
            rows = rows[ranks == lowest[numbers[rows]]]
        frame = frame.iloc[rows].drop_duplicates(keys)
    frame = frame.sort_values(
        keys,
        kind="stable",
        key=lambda c: c.map(places[c.name]).astype(int) if c.name in places else c,
    ).reset_index(drop=True)
    latency, interval = "latency_mean_ms", known_interval("latency_mean_ms", frame)
    values = [latency, *([interval] if interval else [])]
    of_case = [frame[name] for name in others] or [pd.Series(0, frame.index)]
    case = pd.MultiIndex.from_arrays(of_case)
    mine = frame[values].fillna({interval: 0.0})
    for name in REFERENCES:
        is_reference = (frame["algorithm"] == name).to_numpy()
        theirs = mine[is_reference].set_axis(case[is_reference]).reindex(case).set_axis(frame.index)
        frame[f"speedup_vs_{name}"] = theirs[latency] / mine[latency]
        noise = np.hypot(theirs[interval], mine[interval]) if interval else 0.0
        frame[f"slower_than_{name}"] = mine[latency] - theirs[latency] > noise
        if interval:
            own, other = (of[interval] / of[latency] for of in (frame[values], theirs))
            half = frame[f"speedup_vs_{name}"] * np.hypot(own, other)
            frame[f"speedup_vs_{name}_ci95"] = half.mask(is_reference, 0.0)
    if interval and "ms_per_token" in frame:
        frame["ms_per_token_ci95"] = frame[interval] * frame["ms_per_token"] / frame[latency]
    return frame


def other_of(against: str) -> str:
    """What :func:`compare` compares with, in words."""
    if against != BEST:
        return title_of(against)
    return f"the better of {' and '.join(map(title_of, REFERENCES))}"


def is_equal(speedup: pd.Series[float]) -> pd.Series[bool]:
    """Where a speed-up is shown as 1.000: a difference that nobody sees is none."""
    return speedup.round(3) == 1


def compare(frame: pd.DataFrame, show: str, against: str, keys: Sequence[str]) -> pd.DataFrame:
    """One row for each point of *keys* where both were simulated: how much faster *show* is.

    Args:
        frame: results, one row for each algorithm and point.
        show: the algorithm in question.
        against: the algorithm to compare with, or ``best``: the faster of the references.
        keys: the columns that tell points apart.

    Returns:
        The keys, ``speedup``, ``other`` (title of what *show* is compared with), ``slower``
        (whether by more than the 95 % interval of both, where it is known), ``unclear`` (whether
        the difference is within it), and, unless they are keys, ``lookahead`` and ``servers`` of
        *show*, and ``other_lookahead``.
    """
    keys = list(keys)

    def of(algorithm: str) -> pd.DataFrame:
        return frame[frame["algorithm"] == algorithm].set_index(keys, drop=False)

    mine = of(show)
    others = {name: of(name) for name in (REFERENCES if against == BEST else (against,))}
    for name, rows in others.items():
        others[name] = rows.reindex(mine.index)  # NaN where it was not simulated
    latencies = np.array([rows["latency_mean_ms"].to_numpy(float) for rows in others.values()])
    both = np.isfinite(latencies).any(axis=0)
    mine, latencies = mine[both], np.where(np.isfinite(latencies), latencies, np.inf)[:, both]
    own = mine["latency_mean_ms"].to_numpy(float)
    table: pd.DataFrame = mine[keys].reset_index(drop=True)
    table["speedup"] = latencies.min(axis=0) / own
    better = latencies.argmin(axis=0)
    if interval := known_interval("latency_mean_ms", frame):
        noises = [rows[interval].fillna(0.0).to_numpy()[both] for rows in others.values()]
        theirs = np.choose(better, noises)
        noise = np.hypot(theirs, mine[interval].fillna(0.0).to_numpy())
        difference = own - latencies.min(axis=0)
        table["slower"] = difference > noise
        table["unclear"] = np.abs(difference) <= noise
    table["other"] = np.array([title_of(name) for name in others], object)[better]
    if "lookahead" in frame and "lookahead" not in keys:
        table["lookahead"] = mine["lookahead"].to_numpy()
        for number, (name, rows) in enumerate(others.items()):
            if may_read(name, "lookahead"):
                theirs = rows["lookahead"][both].to_numpy(float)
                table["other_lookahead"] = np.where(better == number, theirs, np.nan)
    if "peak_targets" in mine and "peak_targets" not in keys:
        table["servers"] = mine["peak_targets"].to_numpy()
    return table


def guess(frame: pd.DataFrame, axes: Sequence[str]) -> tuple[list[str], list[Chart]]:
    """Charts for results whose study names none.

    Returns:
        What to minimise over, and the charts; none where nothing varies that can be an axis.
    """
    numeric = [name for name in axes if is_number(frame[name])]
    minimise = ["lookahead"] if "lookahead" in numeric and len(numeric) > 1 else []
    free = [name for name in numeric if name not in minimise]
    if len(free) >= 2:
        present = set(frame["algorithm"].unique())
        first, second = REFERENCES
        pairs = [(second, first)]
        for name in [DEFAULT] if DEFAULT in present else sorted(present - set(REFERENCES)):
            pairs += [(name, second), (name, first)]
            pairs += [(name, BEST)] if present >= set(REFERENCES) else []
        return minimise, [
            Chart(kind="heatmap", x=free[0], y=free[1], show=show, against=against)
            for show, against in pairs
            if {show, against} <= present | {BEST}
        ]
    if free:
        return minimise, [Chart(kind="lines", x=free[0], y="latency_mean_ms")]
    if "variant" in axes and frame["variant"].nunique() > 1:
        return minimise, [Chart(kind="variants", x="variant", y="latency_mean_ms")]
    return minimise, []


def of_variants(frame: pd.DataFrame, axes: Sequence[str]) -> TextTable | None:
    """The latency of each algorithm in each variant, where the variants are all that varies.

    Args:
        frame: results from :func:`best`.
        axes: the columns that tell its points apart.
    """
    if [*axes] != ["variant"] or frame["variant"].nunique() < 2:
        return None
    half = known_interval("latency_mean_ms", frame)
    cells = frame["latency_mean_ms"].map("{:,.1f}".format)
    if half:
        cells += frame[half].map(lambda width: "" if pd.isna(width) else f" ± {width:,.1f}")
    table = frame.assign(cell=cells).pivot_table(
        index="variant", columns="algorithm", values="cell", aggfunc="first", sort=False
    )
    names = in_order(frame["algorithm"])
    return TextTable(
        title="Mean latency by variant (ms)",
        caption="± 95 % interval, where there are several repeats.",
        head=["variant", *map(title_of, names)],
        rows=[[str(name), *(str(row[one]) for one in names)] for name, row in table.iterrows()],
        numbers=True,
    )


def summarise(frame: pd.DataFrame, minimise: Sequence[str]) -> TextTable | None:
    """The table at the top of a report: how each algorithm fares against the references.

    Args:
        frame: results from :func:`best`.
        minimise: the columns over which the best was taken.

    Returns:
        The table; nothing where the first reference was not simulated.
    """
    first, *more = REFERENCES
    if frame[f"speedup_vs_{first}"].isna().all():
        return None
    more = [name for name in more if frame[f"speedup_vs_{name}"].notna().any()]
    tuned = ["at its best"] if len(minimise) > 1 else [f"best {words(n)}" for n in minimise]
    head = ["algorithm", *tuned]  # the answer comes first, where no page is too narrow for it
    head += [f"slower than {title_of(first)}", "median speed-up", "largest speed-up", "smallest"]
    for name in more:
        head += [f"slower than {title_of(name)}", f"as fast as {title_of(name)}, at most"]
    rows = []
    points = 0
    for algorithm in in_order(frame["algorithm"]):
        part = frame[frame["algorithm"] == algorithm]
        points = max(points, len(part))
        speed = part[f"speedup_vs_{first}"]
        row = [
            title_of(algorithm),
            *([_tuned(part, algorithm, minimise)] if minimise else []),
            _share(part, first),
            *(_times(value) for value in (speed.median(), speed.max(), speed.min())),
        ]
        for name in more:
            row += [_share(part, name), _times(part[f"speedup_vs_{name}"].max())]
        rows.append(row)
    over = " and ".join(map(words, minimise))
    at_best = f", with each algorithm at its best {over}" if minimise else ""
    known = known_interval("latency_mean_ms", frame)
    chance = " (no interval is known, so that may be chance)"
    noise = ", by more than the 95 % interval" if known else chance
    return TextTable(
        title="At a glance",
        caption=f"Over the {plural(points, 'grid point')} shown{at_best}: how often it is "
        f"slower{noise}, and its speed-up (other latency ÷ own latency; below 1× it is "
        "the slower one).",
        head=head,
        rows=rows,
        numbers=True,
    )


def at_the_edge(frame: pd.DataFrame, at_best: pd.DataFrame, minimise: Sequence[str]) -> list[str]:
    """Sentences on algorithms that are at their best with the largest value that was tried.

    Args:
        frame: the results.
        at_best: those of :func:`best`.
        minimise: the columns over which the best was taken.
    """
    found = []
    for name in minimise:
        if not is_number(frame[name]) or frame[name].nunique() == 1:
            continue
        most = frame[name].max()
        told = [
            f"{title_of(algorithm)} at {(part[name] == most).sum():,} of {len(part):,} points"
            for algorithm in in_order(at_best["algorithm"])
            if (part := at_best[at_best["algorithm"] == algorithm])[name].eq(most).any()
        ]
        if told:
            found.append(
                f"The best {words(name)} is the largest that was tried ({most:g}) of "
                f"{' and of '.join(told)}: with larger ones it may be faster there."
            )
    return found


def _share(part: pd.DataFrame, reference: str) -> str:
    """The share of points, of those where both were simulated, where the reference is faster."""
    share = part.loc[part[f"speedup_vs_{reference}"].notna(), f"slower_than_{reference}"].mean()
    return "–" if math.isnan(share) else f"{share:.1%}"


def _tuned(part: pd.DataFrame, algorithm: str, minimise: Sequence[str]) -> str:
    """The values at which *algorithm* is at its best, of the settings that matter to it."""
    keys = {column_of(key): key for key in READABLE}
    found = []
    for name in minimise:
        if name in keys and not may_read(algorithm, keys[name]):
            continue
        values = sorted(part[name].dropna().unique())
        least, most = (
            f"{value:g}" if is_number(part[name]) else str(value)
            for value in (values[0], values[-1])
        )
        what = keys.get(name, words(name)).rpartition(".")[2].replace("_", " ")
        value = least if least == most else f"{least} to {most}"
        found.append(f"{what} {value}" if len(minimise) > 1 else value)
    return ", ".join(found) or "–"


def _times(factor: float) -> str:
    return "–" if math.isnan(factor) else f"{factor:.2f}×"


def in_order(algorithms: pd.Series[Any]) -> list[str]:
    """The names among *algorithms*, in the order in which dsim lists them, unknown ones last."""
    present = [str(name) for name in pd.unique(algorithms.astype(str))]
    return [name for name in ORCHESTRATIONS if name in present] + [
        name for name in present if name not in ORCHESTRATIONS
    ]
