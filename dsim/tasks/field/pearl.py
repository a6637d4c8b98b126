"""nano-PEARL's benchmark: a drafter and a target in lock step, batch by batch."""

from __future__ import annotations

import math
import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from dsim.model.closed_forms import pearl_per_step
from dsim.report.tables import TextTable
from dsim.tasks.field.source import (
    GROUPS,
    CannotError,
    Group,
    Prediction,
    Source,
    median,
    needed,
    number,
    text,
)
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.tasks.field.source import Found, Row, Rows

# Of the benchmark (benchmark/eval_benchmark.py): plain decoding makes 200 tokens a text, PEARL 100
# steps, and either time has the forward over the prompts in it.
PLAIN_TOKENS, STEPS = 200, 100
MAX_PROMPT = 10  # plain steps that the forward over one prompt takes, at most
RATIOS = [thousandth / 1000 for thousandth in range(20, 601)]  # that are tried
SLOPES = [step / 10_000 for step in range(201)]  # that are tried


Pair = tuple[str, str, str]
At = tuple[str, str, int]  # target, hardware, batch


class Run(NamedTuple):
    """A row in numbers.

    Attributes:
        pair: target, drafter and hardware.
        batch: texts at once.
        rate: acceptance rate.
        plain_ms: a token of plain decoding of all texts of the batch.
        prompt_ms: the forward over their prompts.
        per_s: tokens that PEARL made in a second; 0: not measured.
    """

    pair: Pair
    batch: int
    rate: float
    plain_ms: float
    prompt_ms: float
    per_s: float

    def predicted(self, ratio: float, slope: float) -> float:
        """Tokens a second.

        Args:
            ratio: the latency of a draft over that of a pass, at batch 1.
            slope: what each token of a pass beyond one a text adds, as a part of a plain step.
        """
        lookahead = max(1, round(1 / ratio))  # the system's own rule: round(v_draft / v_target)
        stays = self.rate**lookahead
        whole = self.rate / (self.rate + 1 - stays)  # part of the passes that are over γ drafts
        more = self.batch * (lookahead - 1) * whole
        step_ms = self.plain_ms * max(lookahead * ratio, 1 + slope * more)
        tokens = STEPS * self.batch * pearl_per_step(self.rate, lookahead)
        return 1e3 * tokens / (self.prompt_ms + STEPS * step_ms)

    def off(self, ratio: float, slope: float) -> float:
        """Squared relative error."""
        return math.log(self.predicted(ratio, slope) / self.per_s) ** 2


def plain_of(row: Row) -> tuple[At, float]:
    """The target, its hardware and the batch; and milliseconds per token of plain decoding."""
    batch = needed(row, "batch")[0]
    if batch != int(batch):
        raise CannotError(f"batch: expected a whole number, got {batch:g}")
    step_ms = number(row, "ar_step_ms") or 0.0
    if step_ms <= 0:
        step_ms = batch * 1e3 / needed(row, "ar_tok_s")[0]
    return (text(row, "target"), text(row, "hardware"), int(batch)), step_ms


class Prompts(NamedTuple):
    """What runs tell of the time that forwards over prompts take.

    Attributes:
        shortest: for a target, its hardware and a batch, the shortest plain token of any data set:
            that of short prompts. What another data set takes beyond it is taken for its prompts.
        texts: by data set, what the prompt of a text takes in plain steps of a batch of one. Where
            no other data set was run, it tells the time: both grow with the target's size.
    """

    shortest: dict[At, float]
    texts: dict[str, float]

    def ms(self, row: Row) -> float:
        """Milliseconds of the forward over the prompts of the batch of *row*."""
        at, step_ms = plain_of(row)
        most = min(MAX_PROMPT * at[2], PLAIN_TOKENS / 2) * step_ms
        if at in self.shortest:
            return min(PLAIN_TOKENS * max(0.0, step_ms - self.shortest[at]), most)
        single = self.shortest.get((*at[:2], 1), step_ms)
        return min(self.texts.get(data_of(row), 0.0) * single * at[2], most)


def data_of(row: Row) -> str:
    """The data set, as names are compared."""
    return re.sub("[^a-z0-9]", "", text(row, "dataset").lower())


def prompts_of(rows: Rows) -> Prompts:
    """See :class:`Prompts`."""
    steps: dict[At, dict[str, float]] = {}
    for row in rows:
        try:
            at, step_ms = plain_of(row)
        except CannotError:
            continue
        of = steps.setdefault(at, {})
        of[data_of(row)] = min(step_ms, of.get(data_of(row), step_ms))
    shortest = {at: min(of.values()) for at, of in steps.items() if len(of) > 1}
    texts: dict[str, list[float]] = {}
    for at, least_ms in shortest.items():
        single = shortest.get((*at[:2], 1), least_ms)
        for data, step_ms in steps[at].items():
            more = PLAIN_TOKENS * (step_ms - least_ms) / (at[2] * single)
            texts.setdefault(data, []).append(min(more, MAX_PROMPT))
    return Prompts(shortest, {data: median(of) for data, of in texts.items()})


def run_of(row: Row, prompts: Prompts) -> Run:
    """The row in numbers."""
    at, step_ms = plain_of(row)
    run_tokens = number(row, "mean_run_tokens")
    rate = 1 - 1 / run_tokens if run_tokens and run_tokens >= 1 else number(row, "alpha")
    if rate is None or not 0 < rate < 1:
        raise CannotError("not published: mean_run_tokens, nor alpha between 0 and 1")
    prompt_ms = prompts.ms(row)
    return Run(
        pair=(at[0], text(row, "draft"), at[1]),
        batch=at[2],
        rate=rate,
        plain_ms=step_ms - prompt_ms / PLAIN_TOKENS,
        prompt_ms=prompt_ms,
        per_s=max(0.0, number(row, "pearl_tok_s") or 0.0),
    )


@cache
def ratio_of(runs: tuple[Run, ...]) -> float:
    """The fitted number of a pair: the ratio with the smallest error over its runs at batch 1."""
    return min(RATIOS, key=lambda ratio: sum(run.off(ratio, 0.0) for run in runs))


@cache
def slope_of(runs: tuple[Run, ...], ratios: tuple[tuple[Pair, float], ...]) -> float:
    """The fitted number of all pairs: the slope with the smallest error over the larger batches."""
    of = dict(ratios)
    return min(SLOPES, key=lambda slope: sum(run.off(of[run.pair], slope) for run in runs))


def billions(model: str) -> float | None:
    """The size that the name of *model* says, in billions of parameters."""
    sizes = re.findall(r"(\d+(?:\.\d+)?)[bB]\b", model)
    return float(sizes[-1]) if sizes else None


def ratio_by_size(run: Run, singles: dict[Pair, list[Run]]) -> float:
    """The ratio of an unknown pair: draft latencies of others, by size, over its plain step.

    Of pairs on the same hardware, if there are two.

    Raises:
        CannotError: the name of the drafter tells no size.
    """
    import numpy as np

    size, known = billions(run.pair[1]), []
    alike = {pair: runs for pair, runs in singles.items() if pair[2] == run.pair[2]}
    for (_, drafter, _), runs in (alike if len(alike) > 1 else singles).items():
        if of := billions(drafter):
            known.append((of, ratio_of(tuple(runs)) * median([one.plain_ms for one in runs])))
    if size is None or len(known) < 2:
        raise CannotError("no other run of this pair, and its drafter's name tells no size")
    sizes, drafts_ms = np.array(known).T
    slope, base = np.polyfit(sizes, drafts_ms, 1)
    return float(np.clip((base + slope * size) / run.plain_ms, RATIOS[0], RATIOS[-1]))


def predict(row: Row, others: Rows) -> Prediction:
    """Tokens a second of the whole batch."""
    prompts = prompts_of([row, *others])
    run = run_of(row, prompts)
    known = []
    for other in others:
        try:
            known.append(run_of(other, prompts))
        except CannotError:  # of that other row
            continue
    known = [one for one in known if one.per_s]
    singles: dict[Pair, list[Run]] = {}
    for one in known:
        if one.batch == 1:
            singles.setdefault(one.pair, []).append(one)
    elsewhere = [runs for pair, runs in singles.items() if pair[:2] == run.pair[:2]]
    if run.pair in singles or elsewhere:
        runs = singles.get(run.pair) or elsewhere[0]
        where = "" if run.pair in singles else f" on {runs[0].pair[2]}"
        ratio = ratio_of(tuple(runs))
        of = plural(len(runs), "other run")
        notes = [f"drafts of {ratio:.3f} passes, fitted to {of} at batch 1{where}"]
    else:
        ratio = ratio_by_size(run, singles)
        notes = [f"drafts of {ratio:.3f} passes, by the drafter's size: no run of this pair"]
    slope = 0.0
    if run.batch > 1:
        wide = tuple(r for r in known if r.batch > 1 and r.pair != run.pair and r.pair in singles)
        wide = tuple(r for r in wide if r.pair[2] == run.pair[2]) or wide
        ratios = {pair: ratio_of(tuple(runs)) for pair, runs in singles.items()}
        slope = slope_of(wide, tuple(ratios.items()))
        notes.append(
            f"a token more in a pass: {slope:.2%} of a plain step, fitted to {len(wide)} runs of "
            "other pairs"
        )
    notes.append(f"prompts of {run.prompt_ms:.0f} ms; lookahead {max(1, round(1 / ratio))}")
    return Prediction(run.predicted(ratio, slope), notes="; ".join(notes))


def group_of(row: Row) -> Group:
    """By batch."""
    return GROUPS["single" if number(row, "batch") == 1 else "batches"]


def label_of(row: Row) -> str:
    """The drafter, which tells the target, the data set and the batch."""
    target, drafter = (
        text(row, "target").split("-Instruct")[0],
        text(row, "draft").split("-Instruct")[0],
    )
    return f"{target} / {drafter}, {text(row, 'dataset')}, batch {text(row, 'batch')}"


LEFT_OUT = {"pair": ("target", "draft"), "target": ("target",), "batch": ("batch",)}


def tables(found: Sequence[Found]) -> list[TextTable]:
    """The errors with no help from rows of the same pair, target, or batch."""
    cells = []
    for what, columns in LEFT_OUT.items():
        for group in (GROUPS["single"], GROUPS["batches"]):
            errors = []
            for one in found:
                if one.error is None or not one.measured or group_of(one.row) is not group:
                    continue
                others = [other.row for other in found]
                others = [row for row in others if any(row[c] != one.row[c] for c in columns)]
                try:
                    value = predict(one.row, others).value or 0.0
                except CannotError:  # batch 1 without any run at batch 1
                    continue
                errors.append(abs(value / one.measured - 1))
            if errors:
                rms = (sum(error**2 for error in errors) / len(errors)) ** 0.5
                numbers = (f"{number:.1%}" for number in (median(errors), rms, max(errors)))
                cells.append([what, group.name, str(len(errors)), *numbers])
    caption = (
        "A row is predicted without all rows of the same pair, the same target, or the same batch. "
        "An unknown pair's ratio comes from its drafter's size: a line through the draft latencies "
        "of other pairs over their sizes (two numbers from four or five). An unknown target's or "
        "batch's time over prompts is that of the data set with other targets and batches, in "
        "plain steps a text."
    )
    head = ("without its", "group", "rows", "median", "rms", "worst")
    title = "nano-PEARL, rows that are like no other"
    return [TextTable(title=title, caption=caption, head=head, rows=cells)]


SOURCE = Source(
    name="nano-PEARL",
    file="pearl_h200.csv",
    columns=("target", "draft", "batch"),
    key=("target", "draft", "batch", "dataset", "hardware"),
    measured="pearl_tok_s",
    unit="tokens per second",
    predict=predict,
    group=group_of,
    label=label_of,
    tables=tables,
)
