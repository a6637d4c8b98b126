"""What results say, in the one or two sentences with numbers that open a report."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dsim.orchestrations import REFERENCES, title_of
from dsim.report.analysis import compare, in_order, is_equal, is_number, known_interval, other_of
from dsim.study.labels import label, sentence, words
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.study import Chart

LATENCY = "latency_mean_ms"
TIED = 1e-9  # part of a latency, within which two are equal
GOOD = 0.99  # part of the requests that keeps the SLO where the load is said to keep it
LOADS = ("rate_per_s", "rate_scale", "users")  # how the names of axes end that are loads


def of_texts(frame: pd.DataFrame, axes: Sequence[str], charts: Sequence[Chart] = ()) -> list[str]:
    """How the algorithms compare over the points of a study of single requests.

    Args:
        frame: results from :func:`dsim.report.analysis.best`.
        axes: the columns that tell its points apart.
        charts: those of the study: the first two that one of them compares are what its author
            asks about.
    """
    algorithms = in_order(frame["algorithm"])
    if len(algorithms) < 2:
        return []
    points = _by_point(frame, list(axes), LATENCY)
    if points.empty:  # such as of a table in which each row differs from the others in a setting
        return ["No point was simulated with two algorithms, so none is compared with another."]
    interval = known_interval(LATENCY, frame)
    noise = _by_point(frame, list(axes), interval).fillna(0.0) if interval else points * 0.0
    if len(points) == 1:
        return [_one_point(frame, interval)]
    wins = _fastest(points).value_counts()
    clear = _clearly_fastest(points, noise).value_counts()
    parts: list[str] = []
    for name in sorted(wins.index, key=lambda name: -wins[name]):
        sure = f" (at {_number(clear.get(name, 0))} by more than the 95 % interval)"
        told_of = f"at {wins[name]:,}{sure * bool(interval)}"
        parts.append(f"{title_of(name)}{'' if parts else ' is the fastest'} {told_of}")
    chance = "" if interval else "; no interval is known, so it may be chance"
    told = [f"Of {plural(len(points), 'grid point')}, {', '.join(parts)}{chance}."]
    least = points.min(axis=1).to_numpy()[:, None] * (1 + TIED)
    if tied := int(((points.to_numpy() <= least).sum(axis=1) > 1).sum()):
        told.append(
            f"At {_number(tied)} of them several are equally fast, of which the first in the list "
            "of algorithms counts."
        )
    if lacking := int(points.isna().any(axis=1).sum()):
        told.append(f"At {_number(lacking)} of them not every algorithm has a row.")
    asked = next(((one.show, one.against) for one in charts if one.kind == "heatmap"), ("", ""))
    told += _asked(frame, axes, *asked) if asked[0] else []
    reference = REFERENCES[0]
    winner = wins.index[0] if wins.index[0] != reference else ""
    column = f"speedup_vs_{reference}"
    if winner and (winner, reference) != asked and frame[column].notna().any():
        part = frame[frame["algorithm"] == winner]
        speed, slower = part[column].dropna(), int(part[f"slower_than_{reference}"].sum())
        told.append(
            f"{sentence(title_of(winner))} is {speed.min():.2f}× to {speed.max():.2f}× as fast as "
            f"{title_of(reference)} (median {speed.median():.2f}×), and "
            f"{'significantly ' * bool(interval)}slower at {_number(slower)} of "
            f"{plural(len(speed), 'point')}."
        )
    return told


def _asked(frame: pd.DataFrame, axes: Sequence[str], show: str, against: str) -> list[str]:
    """How *show* compares with *against*, over the points where both were simulated."""
    table = compare(frame, show, against, axes).dropna(subset=["speedup"])
    if table.empty:
        return []
    speed, other = table["speedup"], other_of(against)
    equal = is_equal(speed)
    title = sentence(title_of(show))
    if equal.all():
        return [f"{title} is as fast as {other} at all of {plural(len(speed), 'point')}."]
    known = "unclear" in table
    sure = ~equal & ~table["unclear"] if known else ~equal
    counts = f"faster at {_number(((speed > 1) & sure).sum())}"
    counts += f", slower at {_number(((speed < 1) & sure).sum())}"
    counts += f", and equally fast at {_number(equal.sum())}" if equal.any() else ""
    return [
        f"{title} is {speed.min():.2f}× to {speed.max():.2f}× as fast as {other} (median "
        f"{speed.median():.2f}×). Of {plural(len(speed), 'point')} it is "
        f"{'significantly ' * known}{counts}."
    ]


def _one_point(frame: pd.DataFrame, interval: str) -> str:
    """The latencies of one case, the fastest first."""
    rows = frame.dropna(subset=[LATENCY]).sort_values(LATENCY).to_dict("records")
    amounts = [f"{title_of(r['algorithm'])} {_with(r, LATENCY, interval)} ms" for r in rows]
    doubt = ""
    if interval and len(rows) > 1:
        half = math.hypot(rows[0][interval] or 0.0, rows[1][interval] or 0.0)
        if rows[1][LATENCY] - rows[0][LATENCY] <= half:
            doubt = "; the first two differ by no more than their 95 % interval"
    return f"Mean time to the last token: {', '.join(amounts)}{doubt}."


def of_deployments(frame: pd.DataFrame, series: pd.Series[Any], axes: Sequence[str]) -> list[str]:
    """Who is fastest at the highest load that all carry, and who carries the most.

    Of an axis that is no load: who is fastest at both its ends.

    Args:
        frame: the results, one row a case.
        series: what each row is called.
        axes: the columns that tell its cases apart, the variant left out.
    """
    frame = frame.assign(series=series)
    served = frame[frame["status"] == "ok"]
    if served.empty:
        return ["No case that was simulated shows that it keeps up with its load."]
    numeric = [axis for axis in axes if is_number(frame[axis]) and frame[axis].nunique() > 1]
    if not numeric:
        return [_at(served, "", axes, known_interval(LATENCY, frame))]
    axis = next((one for one in numeric if one.endswith(LOADS)), numeric[0])
    counts = served.groupby(axis)["series"].nunique()
    all_of = counts[counts == frame["series"].nunique()]
    values = [all_of.index.max() if len(all_of) else served[axis].min()]
    told = []
    if axis.endswith(LOADS):
        most = served.groupby("series")[axis].max()
        if most.nunique() > 1:
            first = sorted(most.index, key=lambda name: -most[name])
            carried = "; ".join(f"{name} up to {most[name]:g}" for name in first)
            told = [f"Highest {words(axis)} that is sustained, of those tried: {carried}."]
        told += _within_slo(served, axis)
    elif len(all_of) > 1:  # no load, of which the highest says most
        values = [all_of.index.min(), *values]
    interval = known_interval(LATENCY, frame)
    return [*(_at(served[served[axis] == v], axis, axes, interval) for v in values), *told]


def _within_slo(served: pd.DataFrame, axis: str) -> list[str]:
    """Up to which load requests keep the SLO of the study, if it has one."""
    if "goodput_per_s" not in served or served["goodput_per_s"].isna().all():
        return []
    kept = served[served["goodput_per_s"] >= GOOD * served["throughput_per_s"]]
    most = kept.groupby("series")[axis].max()
    names = sorted(served["series"].unique(), key=lambda name: -most.get(name, 0.0))
    carried = "; ".join(f"{n} {f'up to {most[n]:g}' if n in most else 'at none'}" for n in names)
    return [f"{GOOD:.0%} of the requests keep the SLO, by {words(axis)}: {carried}."]


def _at(at: pd.DataFrame, axis: str, axes: Sequence[str], interval: str) -> str:
    """The latencies of the cases *at* one value of *axis*, if there is one; the fastest first."""
    where = ""
    if axis:
        name, value = words(axis), at[axis].iloc[0]
        if name.endswith("s"):  # a number of things
            where = f"With {value:g} {name}"
        else:
            article = "an" if name[0] in "aeiou" else "a"
            where = f"At {article} {name} of {value:g}{_unit(axis)}"
        others = [a for a in axes if a != axis and at[a].nunique() > 1]
        if others:
            at = at.loc[at.groupby("series")[LATENCY].idxmin()]
            where += f", each at its best {' and '.join(map(words, others))}"
    rows = at.sort_values(LATENCY).to_dict("records")
    unequal = "gpus" in at and at["gpus"].nunique() > 1  # of hardware
    amounts = [
        f"{r['series']} {_with(r, LATENCY, interval)} ms"
        + (f" on {r['gpus']:g} GPUs" if unequal else "")
        for r in rows[:4]
    ]
    doubt = ""
    if interval and len(rows) > 1:
        half = math.hypot(*(r[interval] for r in rows[:2]))
        if math.isnan(half):
            doubt = "; not every interval is known"
        elif rows[1][LATENCY] - rows[0][LATENCY] <= half:
            doubt = "; the first two differ by no more than their 95 % interval"
    opening = f"{where}, mean E2E latency" if where else "Mean E2E latency"
    return f"{opening}: {'; '.join(amounts)}{doubt}."


def _by_point(frame: pd.DataFrame, axes: list[str], column: str) -> pd.DataFrame:
    """*column* with a row for each point at which several algorithms were simulated."""
    of_case = [frame[name] for name in axes] or [pd.Series(0, frame.index)]
    index = pd.MultiIndex.from_arrays([*of_case, frame["algorithm"].astype(str)])
    table = pd.Series(frame[column].to_numpy(), index).unstack(level=-1)
    return table[table.notna().sum(axis=1) > 1]


def _fastest(points: pd.DataFrame) -> pd.Series[Any]:
    """The fastest of each point; of those that are as fast, the first in the registry's order."""
    return points[in_order(pd.Series(points.columns))].idxmin(axis=1)


def _clearly_fastest(points: pd.DataFrame, noise: pd.DataFrame) -> pd.Series[Any]:
    """The fastest of each point, where it beats every other beyond the interval of both."""
    values, halves = points.to_numpy(float), noise.reindex(points.index).to_numpy(float)
    order = np.argsort(np.where(np.isnan(values), np.inf, values), axis=1)
    rows = np.arange(len(values))
    first = order[:, 0]
    gap = values - values[rows, first][:, None]
    beyond = gap > np.hypot(halves, halves[rows, first][:, None])
    beyond |= np.isnan(values)
    beyond[rows, first] = True
    clear = beyond.all(axis=1)
    return pd.Series(points.columns.to_numpy()[first[clear]], dtype=object)


def _with(row: Mapping[Any, Any], column: str, interval: str) -> str:
    half = row.get(interval, math.nan) if interval else math.nan
    digits = 0 if row[column] >= 1000 else 1
    known = "" if half is None or math.isnan(half) else f" ± {half:,.{digits}f}"
    return f"{row[column]:,.{digits}f}{known}"


def _number(count: int) -> str:
    return f"{count:,}" if count else "none"


def _unit(column: str) -> str:
    unit = label(column).partition(" (")[2].rstrip(")")
    return f" {unit}" if unit else ""
