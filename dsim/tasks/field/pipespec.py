"""PipeSpec's runs on HumanEval: its own, and plain SI by the same code."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.simulate import run_events, simulate_case
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.closed_forms import si_own_bonus, si_per_token
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.orchestrations import PIPELINE
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
    read,
    text,
)
from dsim.units import to_ms, to_ns
from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from dsim.tasks.field.source import Found, Row, Rows

TEXTS = 40
NEAREST = 5  # runs that tell the acceptance rate of another one
LOGGED_TEXTS = 4  # of which the target's steps are looked at one by one
MAX_TOKENS = 1000  # of a simulated text; a longer one takes as long per token
ACCEPTS = "pipespec_accepts.csv"
HEAD = ("run", "measured", "predicted", "error")
GRID = 9  # pass latencies that are tried


def spread_draws(rate: float, total: int) -> NDArray[np.int64]:
    """Draws whose runs of accepted drafts are spread as independent draws are expected to be.

    That leaves only their order to chance.

    Args:
        rate: acceptance rate.
        total: number of draws.
    """
    rejections = max(1, round((1 - rate) * total))
    chances = (np.arange(rejections) + 0.5) / rejections
    runs = np.floor(np.log(1 - chances) / np.log(rate)).astype(np.int64)
    np.random.default_rng(0).shuffle(runs)
    draws = np.ones(total + int(runs.sum()) + rejections, dtype=np.int64)
    draws[np.cumsum(runs + 1) - 1] = 0
    return draws[:total]


@cache
def case_of(
    drafter_ms: float, target_ms: float, rate: float, lookahead: int, tokens: int, texts: int
) -> Case:
    """Texts of :func:`spread_draws`, of which fewer are enough than of random ones."""
    draws = spread_draws(rate, tokens * texts).reshape(texts, tokens)
    bits = ("".join(map(str, row)) for row in draws.tolist())
    return Case(
        target=Latency(latency_ns=to_ns(target_ms)),
        drafter=Latency(latency_ns=to_ns(drafter_ms)),
        acceptance=Acceptance(model="trace", rate=rate, traces=tuple(bits)),
        lookahead=min(max(1, lookahead), tokens),
        tokens=tokens,
        repeats=texts,
        targets=1,
    )


def logged_step_ms(case: Case) -> float:
    """The target's mean step as the code logs it.

    The log of a step begins where the step before ends, unless the target finds too few drafts: so
    where it finds enough, its wait for the drafter's step is part of the logged step.
    """
    steps = []
    for repeat in range(min(case.repeats, LOGGED_TEXTS)):
        run = run_events(case, PIPELINE, repeat, keep_history=True)
        ends = np.array([draft.end_ns for draft in run.drafter.history or []])
        passes = run.target.history or []
        for before, this in pairwise(passes):
            known = int(np.searchsorted(ends, before.end_ns))
            found_ns = ends[known] if known < len(ends) else before.end_ns
            waited = this.start_ns > found_ns
            steps.append(this.end_ns - (this.start_ns if waited else before.end_ns))
    return to_ms(int(np.mean(steps))) if steps else to_ms(case.target.latency_ns)


@cache
def pass_ms(drafter_ms: float, step_ms: float, rate: float, lookahead: int, tokens: int) -> float:
    """The latency of a pass with which the simulated log says *step_ms*; the middle of them."""

    def off(target_ms: float) -> float:
        logged = logged_step_ms(
            case_of(drafter_ms, target_ms, rate, lookahead, tokens, LOGGED_TEXTS)
        )
        return abs(logged / step_ms - 1)

    if off(step_ms) < 1e-3:
        return step_ms
    tried = np.linspace(max(step_ms - drafter_ms, step_ms / 10), step_ms, GRID)
    offs = np.array([off(float(one)) for one in tried])
    return float(tried[offs <= offs.min() + 1e-3].mean())


def is_serial(row: Row) -> bool:
    """Whether the row is plain SI.

    Raises:
        CannotError: it is neither that nor PipeSpec.
    """
    strategy = text(row, "strategy")
    if re.search("async|pipespec|amusd", strategy, re.IGNORECASE):
        return False
    if re.match(r"(si|chain)\b", strategy, re.IGNORECASE):
        return True
    raise CannotError(f'the strategy "{text(row, "strategy")}" is neither SI nor PipeSpec')


def models_of(row: Row) -> tuple[str, ...]:
    """The models, the fastest first."""
    return tuple(name.strip() for name in text(row, "models").split(">"))


@cache
def accepts() -> dict[tuple[str, ...], list[str]]:
    """By pair, how the drafts of each text fared in a run of SI (``dsim/published/README.md``).

    Greedy texts are the same in every run, and so are the positions at which a drafter is right.
    """
    found: dict[tuple[str, ...], list[str]] = {}
    for row in read(SOURCE.path.with_name(ACCEPTS))[1]:
        found.setdefault(models_of(row), []).append(text(row, "accepts"))
    return found


def piped_ms(case: Case, traces: Sequence[str]) -> float:
    """Milliseconds per token of *case* over texts whose drafts fare as *traces* say."""
    total_ms, tokens = 0.0, 0
    for bits in traces:
        acceptance = dataclasses.replace(case.acceptance, traces=(bits,))
        one = dataclasses.replace(case, acceptance=acceptance, tokens=len(bits), repeats=1)
        total_ms += float(simulate_case(one, PIPELINE).latency_ns[0]) / 1e6
        tokens += len(bits)
    return total_ms / tokens


@cache
def as_run() -> dict[str, str]:
    """The lookaheads of runs whose logs say another one, by log (``dsim/published/README.md``)."""
    rows = read(SOURCE.path)[1]
    return {text(row, "source"): one for row in rows if (one := text(row, "lookahead_as_run"))}


def lookahead_of(row: Row) -> int:
    """``L`` of an asynchronous run, ``k`` of SI.

    Where the log is known to say another one than that of the run, that of the run.
    """
    serial, known = is_serial(row), as_run().get(text(row, "source"), "")
    argument = needed({**row, "lookahead_arg": known} if known else row, "lookahead_arg", least=0)[
        0
    ]
    if argument < serial or argument != int(argument):
        raise CannotError(f"lookahead_arg: expected a whole number, got {argument:g}")
    return int(argument) - serial


def tokens_a_pass(row: Row, rate: float) -> float:
    """What dsim expects of the run at this acceptance rate."""
    lookahead = lookahead_of(row)
    if is_serial(row):
        return si_own_bonus(1, 1, rate, lookahead)[0]
    drafter_ms, step_ms = needed(row, "mean_ms_model0", "mean_ms_model1")
    tokens = min(tokens_a_text(row), MAX_TOKENS)
    found = simulate_case(case_of(drafter_ms, step_ms, rate, lookahead, tokens, 6), PIPELINE)
    return float(found.settled_ns.size / found.target_passes.sum())


@cache
def rate_from(signature: tuple[tuple[str, str], ...]) -> float | None:
    """The acceptance rate with which a run settles as many tokens a pass as it did.

    Args:
        signature: the row, as pairs.
    """
    row = dict(signature)
    measured = number(row, "mean_tokens_per_final_verify")
    if measured is None or (is_serial(row) and lookahead_of(row) < 1):
        return None
    low, high = 0.01, 0.999
    for _ in range(11):
        rate = (low + high) / 2
        low, high = (rate, high) if tokens_a_pass(row, rate) < measured else (low, rate)
    return (low + high) / 2 if 0.02 < (low + high) / 2 < 0.995 else None


def rate_of(models: tuple[str, ...], row: Row, others: Rows) -> tuple[float, str]:
    """The acceptance rate of a pair, and where it is from.

    Drafts are not accepted independently of each other, so that the rate depends on how far a run
    looks ahead: it is that of the runs whose lookahead is nearest to the row's.

    Raises:
        CannotError: nothing tells it.
    """
    ahead = lookahead_of(row) + is_serial(row)  # as the program counts
    pair = [other for other in others if models_of(other) == models]
    for serial, of in ((True, "SI"), (False, "asynchronous")):
        rates = []
        for other in pair:
            try:
                if is_serial(other) == serial and (rate := rate_from(tuple(other.items()))):
                    rates.append((abs(lookahead_of(other) + serial - ahead), rate))
            except CannotError:  # of that other run
                continue
        if rates:
            nearest = [rate for _, rate in sorted(rates)[:NEAREST]]
            from_where = plural(len(nearest), f"{of} run")
            return median(nearest), f"acceptance rate {median(nearest):.4f} from {from_where}"
    own = number(row, "alpha_conditional") if models_of(row) == models else None
    if own is not None and 0 < own < 1:
        return own, f"acceptance rate {own:.4f} of the run itself: no other run of the pair"
    raise CannotError("no other run of this pair, and no acceptance rate of its own")


def tokens_a_text(row: Row) -> int:
    """Tokens of a text, in the mean."""
    tokens, texts = needed(row, "tokens", "samples")
    return max(1, round(tokens / texts))


def start_ms(serial: bool, others: Rows) -> tuple[float, int]:
    """Time of a text before its first and after its last logged step, in ms, and of how many runs.

    The logs leave out the forwards over the prompt, the first text's warm-up, and the polling.
    """
    found = []
    for other in others:
        try:
            if is_serial(other) != serial:
                continue
            total_s, texts = needed(other, "total_s", "samples")
            models = range(len(models_of(other)) if serial else 1)
            logged_ms = 0.0
            for model in models:
                steps, step_ms = needed(other, f"steps_model{model}", f"mean_ms_model{model}")
                logged_ms += (steps + texts) * step_ms  # one more a text: over the prompt
        except CannotError:  # of that other run
            continue
        found.append((total_s * 1e3 - logged_ms) / texts)
    return (max(0.0, median(found)), len(found)) if found else (0.0, 0)


def whole(row: Row, others: Rows) -> Row:
    """*row*, with the tokens of a text of other runs where it has none of its own."""
    if number(row, "tokens") and number(row, "samples"):
        return row
    known = []
    for other in others:
        try:
            known.append(tokens_a_text(other))
        except CannotError:  # of that other run
            continue
    return {**row, "tokens": str(median(known)), "samples": "1"} if known else row


def predict(row: Row, others: Rows) -> Prediction:
    """Milliseconds per token."""
    row = whole(row, others)
    serial, models = is_serial(row), models_of(row)
    if len(models) < 2:
        raise CannotError('models: expected "drafter > target"')
    if len(models) > 2:
        return predict_pipeline(row, others)
    lookahead = lookahead_of(row)
    drafter_ms, step_ms = needed(row, "mean_ms_model0", "mean_ms_model1")
    tokens = tokens_a_text(row)
    simulated = min(tokens, MAX_TOKENS)
    rate, from_where = rate_of(models, row, others)
    start, runs = start_ms(serial, others)
    notes = [
        from_where,
        f"{start:.0f} ms a text outside the logged steps, from {plural(runs, 'run')}",
    ]
    if serial:
        _, per_token = si_own_bonus(drafter_ms, step_ms, rate, lookahead)
        total = start + drafter_ms + step_ms + (tokens - 1) * per_token
    else:
        target_ms = pass_ms(drafter_ms, step_ms, round(rate, 3), lookahead, simulated)
        case = case_of(drafter_ms, target_ms, rate, lookahead, simulated, TEXTS)
        if models in accepts():
            notes[0] = "drafts fare as in the run of SI of this pair, text by text"
            per_token = piped_ms(case, accepts()[models])
        else:
            per_token = float(simulate_case(case, PIPELINE).latency_ns.mean()) / 1e6 / simulated
        total = start + drafter_ms + per_token * tokens
        notes.append(f"pass of {target_ms:.1f} ms: the logged step less the wait in it")
    return Prediction(total / tokens, notes="; ".join(notes))


def predict_pipeline(row: Row, others: Rows) -> Prediction:
    """Milliseconds per token of a run with models in between."""
    *drafters, target = models_of(row)
    if is_serial(row):
        return predict_relay(row, others)
    tokens = min(tokens_a_text(row), MAX_TOKENS)
    steps_ms = needed(row, *(f"mean_ms_model{number}" for number in range(len(drafters) + 1)))
    rates = [rate_of((drafter, target), row, others)[0] for drafter in drafters]
    both = rate_of((drafters[0], drafters[1]), row, others)[0]
    alone = rates[0] * rates[1]  # how often both are right if they are so independently
    overlap = min(1.0, max(0.0, (both - alone) / (min(rates[:2]) - alone)))
    start, runs = start_ms(False, others)
    case = case_of(steps_ms[0], steps_ms[-1], rates[0], lookahead_of(row), tokens, TEXTS)
    middle = tuple(
        MoreDrafter(latency=Latency(latency_ns=to_ns(step_ms)), rate=rate, overlap=overlap)
        for step_ms, rate in zip(steps_ms[1:-1], rates[1:], strict=True)
    )
    case = dataclasses.replace(case, more_drafters=middle)
    pair, known = (drafters[0], target), accepts()
    if pair in known:
        per_token = piped_ms(case, known[pair])
    else:
        per_token = float(simulate_case(case, PIPELINE).latency_ns.mean()) / 1e6 / tokens
    how = "drafts of the first as in its run of SI with the target; " if pair in known else ""
    notes = (
        f"{how}acceptance rates {', '.join(f'{rate:.4f}' for rate in rates)} from other runs of "
        f"each pair with the target, shared draws {overlap:.0%}; {start:.0f} ms a text outside the "
        f"logged steps, from {plural(runs, 'run')}"
    )
    return Prediction(per_token + (start + steps_ms[0]) / tokens_a_text(row), notes=notes)


def predict_relay(row: Row, others: Rows) -> Prediction:
    """Milliseconds per token of SI with a model in between.

    The first model drafts, the second judges its drafts and drafts on, up to as many; the target
    judges the second's. A round settles what of the second's drafts stands, and a token more.
    """
    if len(models_of(row)) > 3:
        raise CannotError("SI with two models in between: no other run tells what they accept")
    first, middle, target = models_of(row)
    known = accepts()
    if (middle, target) not in known or (first, target) not in known:
        raise CannotError("not published: how the drafts of each model fare, text by text")
    drafts = lookahead_of(row)
    first_ms, middle_ms, target_ms = needed(row, *(f"mean_ms_model{i}" for i in range(3)))
    rounds = tokens = 0
    for right, early in zip(known[middle, target], known[first, target], strict=True):
        at, afresh, wrong_bonus = 0, True, False
        while at < len(right):
            rounds += 1
            if wrong_bonus:  # a pass over the last token alone
                at, afresh, wrong_bonus = at + 1, True, False
                continue
            agreed = early[at : at + drafts] == right[at : at + drafts] == "1" * drafts
            judged = drafts + (afresh and agreed)  # the second model adds its own token
            stand = len(right[at : at + judged].split("0")[0])
            at += stand + 1
            # Where all stand, the drafters guess the target's own token, too.
            afresh = stand < judged
            wrong_bonus = not afresh and right[at - 1 : at] == "0"
        tokens += len(right)
    round_ms = drafts * first_ms + middle_ms + target_ms
    start, runs = start_ms(True, others)
    per_token = rounds * round_ms / tokens
    notes = (
        f"drafts fare as in the runs of SI of each pair with the target, text by text; {start:.0f} "
        f"ms a text outside the logged steps, from {plural(runs, 'run')}"
    )
    once = (start + first_ms + middle_ms + target_ms) / tokens_a_text(row)
    return Prediction(per_token + once, notes=notes)


def group_of(row: Row) -> Group:
    """SI or PipeSpec."""
    try:
        return GROUPS["serial"] if is_serial(row) else GROUPS["asynchronous"]
    except CannotError:
        return GROUPS["asynchronous"]


def label_of(row: Row) -> str:
    """The sizes of the models, and the lookahead."""
    sizes = [re.search(r"\d+(\.\d+)?B", name) for name in models_of(row)]
    names = (s[0] if s else name for s, name in zip(sizes, models_of(row), strict=True))
    return f"{' > '.join(names)}, lookahead {text(row, 'lookahead_arg')}"


def beside(values: Iterable[tuple[Found, float]]) -> list[list[str]]:
    """Rows of a table: what was measured, and another prediction in ms per token."""
    return [
        [
            label_of(one.row),
            f"{one.measured:.4g}",
            f"{value:.4g}",
            f"{value / (one.measured or 1) - 1:+.1%}",
        ]
        for one, value in values
    ]


def tables(found: Sequence[Found]) -> list[TextTable]:
    """SI by dsim's own rule; and the runs whose log is wrong, taken at its word."""

    def others(one: Found) -> list[Row]:
        return [other.row for other in found if not one.source.same(one.row, other.row)]

    serial = []
    for one in found:
        pair = len(models_of(one.row)) == 2
        if group_of(one.row) is GROUPS["serial"] and pair and one.predicted:
            drafter_ms, target_ms = needed(one.row, "mean_ms_model0", "mean_ms_model1")
            rate, _ = rate_of(models_of(one.row), one.row, others(one))
            own = si_per_token(drafter_ms, target_ms, rate, lookahead_of(one.row))
            start = start_ms(True, others(one))[0] + drafter_ms + target_ms
            serial.append((one, own + start / tokens_a_text(one.row)))
    logged = [
        (one, predict({**one.row, "source": ""}, others(one)).value or 0.0)
        for one in found
        if text(one.row, "source") in as_run()
    ]
    return [
        TextTable(
            title="SI as dsim has it, beside this code",
            caption="The same rates, latencies and times outside the steps. The difference is the "
            "extra draft in a round whose drafts all stand, and the passes over nothing where that "
            "draft is wrong.",
            head=HEAD,
            rows=beside(serial),
        ),
        TextTable(
            title="The runs with a 70B target, with the lookahead of their logs",
            caption="With lookahead 0 in place of 5.",
            head=HEAD,
            rows=beside(logged),
        ),
    ]


SOURCE = Source(
    name="PipeSpec",
    file="pipespec_humaneval.csv",
    columns=("strategy", "models", "lookahead_arg", "mean_ms_model0", "mean_ms_model1"),
    key=("strategy", "models", "lookahead_arg"),
    measured="ms_per_token",
    unit="ms per token",
    predict=predict,
    group=group_of,
    label=label_of,
    tables=tables,
)
