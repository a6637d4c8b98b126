"""The question that ``dsim advise`` answers: the models, the GPUs, the load and the objective."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.model.latency import Latency
from dsim.study import pairs, profile
from dsim.study.deployment_settings import MIN_RATE_PER_S
from dsim.study.profile import AcceptanceProfile, ModelProfile, Profile
from dsim.units import NS_PER_MS, to_ms, to_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

OBJECTIVES = ("latency", "p99", "throughput", "price", "slo")
MAX_NUMBER = 1e9  # of any option
MAX_WIDTH = 1_000_001  # of a table from two points
DEFAULT_PAIR = Profile(
    name="",
    target=ModelProfile(model="", latency_ms=30.0),
    drafter=ModelProfile(model="", latency_ms=3.0),
    acceptance=AcceptanceProfile(rate=0.8),
)
PARTS = {  # the parts of a pair that have to be known, and the option that gives each
    "target": "--target-latency",
    "drafter": "--drafter-latency",
    "acceptance": "--acceptance",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is given, and what is asked.

    Attributes:
        target_ns: latency of a target pass on *gpus_per_target* GPUs.
        target_table: latencies of a target pass by its width, as in
            :class:`dsim.model.latency.Latency`; empty: all passes take *target_ns*.
        drafter_ns: latency of one draft.
        acceptance: acceptance rate.
        rank_shares: where the drafter's first choice is wrong, how often its second, third, … is
            right; trees live on them. Empty: never.
        gpus: number of GPUs.
        gpus_per_target: the smallest number of GPUs that hold one copy of the target.
        tp_gain: speed of a pass on twice as many GPUs, relative to before (1 … 2).
        drafters_per_gpu: number of drafter servers that one GPU holds.
        rate_per_s: requests that arrive per second (Poisson); ``None``: one request at a time.
        tokens: length of each answer.
        objective: ``latency`` (smallest mean), ``p99`` (smallest 99th percentile), ``throughput``
            (most requests per second, with users who never pause), ``price`` (least GPU time
            reserved per token) or ``slo`` (largest share of requests within *slo_ns*; among equals
            the fewest GPUs).
        slo_ns: bound of the time to the last token.
        batch: maximum batch size of a target server.
        sequence_ns: extra latency per additional sequence in a batch.
        preemptible: whether a cancelled forward frees its server at once.
        price_per_gpu_hour: price of one GPU for an hour, in any currency; 0: unknown.
        watts: power of one GPU while it computes; ``None``: unknown.
        idle_watts: power of one GPU while it is idle; ``None``: unknown.
        seed: seed of all random draws.
        source: where the numbers come from, in words; empty: they were given one by one.
    """

    target_ns: int
    drafter_ns: int
    acceptance: float
    gpus: int
    gpus_per_target: int = 1
    tp_gain: float = 1.7
    drafters_per_gpu: int = 1
    rate_per_s: float | None = None
    tokens: int = 100
    objective: str = "latency"
    slo_ns: int | None = None
    batch: int = 1
    sequence_ns: int = 0
    preemptible: bool = False
    price_per_gpu_hour: float = 0.0
    watts: float | None = None
    idle_watts: float | None = None
    seed: int = 0
    target_table: tuple[tuple[int, int], ...] = ()
    rank_shares: tuple[float, ...] = ()
    source: str = ""

    @property
    def loaded(self) -> bool:
        """Whether several requests may be served at once, so that batches can form."""
        return self.rate_per_s is not None or self.objective == "throughput"

    def facts(self) -> list[tuple[str, str]]:
        """What the answer rests on, as (name, value) for people."""
        by_width = ""
        if len(self.target_table) == 2:
            (first, low), (last, high) = self.target_table
            by_width = f" and {to_ms((high - low) // (last - first)):g} ms per further token"
        elif self.target_table:
            width, ns = self.target_table[-1]
            by_width = f" (to {to_ms(ns):g} ms at a width of {width})"
        cost = f", {to_ms(self.sequence_ns):g} ms per additional sequence"
        load = "users who never pause" if self.loaded else "one request at a time"
        facts = [
            ("pair", self.source),
            ("target", f"{to_ms(self.target_ns):g} ms{by_width}"),
            ("drafter", f"{to_ms(self.drafter_ns):g} ms"),
            ("acceptance rate", f"{self.acceptance:g}"),
            ("second and further choices", " ".join(f"{s:g}" for s in self.rank_shares)),
            ("GPUs", f"{self.gpus}"),
            ("GPUs per target", f"{self.gpus_per_target} or more"),
            ("gain of a pass by twice the GPUs (--tp-gain)", f"{self.tp_gain:g}×"),
            ("drafters per GPU", f"{self.drafters_per_gpu}"),
            ("load", load if self.rate_per_s is None else f"{self.rate_per_s:g} requests/s"),
            ("answer", f"{self.tokens} tokens"),
            ("batch size", f"{self.batch}{cost if self.batch > 1 else ''}"),
            ("objective", self.objective),
            ("SLO", f"{to_ms(self.slo_ns):g} ms" if self.slo_ns else ""),
            (
                "price",
                f"{self.price_per_gpu_hour:g} per GPU-hour" if self.price_per_gpu_hour else "",
            ),
        ]
        return [(name, value) for name, value in facts if value]


def ask(
    *,
    target: str | None = None,
    drafter: str | None = None,
    dataset: str | None = None,
    pair: Path | None = None,
    target_latency: str | None = None,
    drafter_latency: str | None = None,
    acceptance: str | None = None,
    rank_shares: Sequence[float] | None = None,
    gpus: int = 8,
    gpus_per_target: int = 1,
    tp_gain: float = 1.7,
    drafters_per_gpu: int = 1,
    rate: float | None = None,
    tokens: int = 100,
    objective: str = "latency",
    slo: float | None = None,
    batch: int = 1,
    batch_cost: float = 0.0,
    width_cost: float = 0.0,
    price: float = 0.0,
    watts: float | None = None,
    idle_watts: float | None = None,
    preemptible: bool = False,
    seed: int = 0,
) -> Question:
    """The question that these options ask; a number or a file wins over the name of a pair.

    Args:
        target: name of the target, of a pair whose numbers ship.
        drafter: name of the drafter of that pair.
        dataset: dataset of that pair.
        pair: file with a measured profile of both models, in place of names.
        target_latency: latency of a target pass in ms, or a file with measured ones.
        drafter_latency: latency of one draft in ms, or a file with measured ones.
        acceptance: acceptance rate, or a file with a measured one.
        rank_shares: how often the second, third, … choice is right where the first is wrong;
            ``None``: what the measured acceptance says, if anything.
        gpus: number of GPUs.
        gpus_per_target: the smallest number of GPUs that hold one copy of the target.
        tp_gain: speed of a pass on twice as many GPUs, relative to before (1 … 2).
        drafters_per_gpu: number of drafter servers that one GPU holds.
        rate: requests per second; ``None``: one request at a time.
        tokens: length of each answer.
        objective: one of :data:`OBJECTIVES`.
        slo: bound of the time to the last token in ms, for the objective ``slo``.
        batch: maximum batch size of a target server.
        batch_cost: extra latency per additional sequence in a batch, in ms.
        width_cost: extra latency per additional token of a pass, of all its sequences, in ms.
        price: price of one GPU for an hour, in any currency.
        watts: power of one GPU while it computes.
        idle_watts: power of one GPU while it is idle.
        preemptible: whether a cancelled forward frees its server at once.
        seed: seed of all random draws.

    Raises:
        UserError: with a problem for each option that is wrong.
    """
    problems: list[Problem] = []

    def wrong(option: str, what: str) -> None:
        problems.append(Problem(option, "", what))

    for option, low, value in (
        ("--rate", MIN_RATE_PER_S, rate),
        ("--slo", 1e-6, slo),
        ("--batch-cost", 0, batch_cost),
        ("--width-cost", 0, width_cost),
        ("--price", 0, price),
        ("--watts", 0, watts),
        ("--idle-watts", 0, idle_watts),
    ):
        if value is not None and not low <= value <= MAX_NUMBER:
            wrong(option, f"expected a number from {low:g} to {MAX_NUMBER:g}, got {value:g}")
    if objective == "slo" and slo is None:
        wrong("--slo", 'is missing: the objective is "slo"')
    if objective != "slo" and slo is not None:
        wrong("--slo", f'is for --objective slo only; the objective is "{objective}"')
    if gpus_per_target > gpus:
        wrong("--gpus-per-target", f"expected at most {gpus} (--gpus), got {gpus_per_target}")
    if (watts is None) != (idle_watts is None):
        wrong("--watts" if watts is None else "--idle-watts", "is missing: energy takes both")
    elif watts is not None and idle_watts is not None and idle_watts > watts:
        wrong("--idle-watts", f"expected at most {watts:g} (--watts), got {idle_watts:g}")
    found = _pair(target, drafter, dataset, pair)
    latencies = {"target": target_latency, "drafter": drafter_latency}
    found = _with_numbers(found, latencies, acceptance, problems)
    if problems:
        raise UserError(*problems)
    assert found.target is not None  # noqa: S101  (_with_numbers sees to it)
    assert found.drafter is not None  # noqa: S101
    assert found.acceptance is not None  # noqa: S101
    table = tuple((width, to_ns(ms)) for width, ms in found.target.latency_by_width_ms)
    drafts = tuple((width, to_ns(ms)) for width, ms in found.drafter.latency_by_width_ms)
    if width_cost and table:
        raise UserError(Problem("--width-cost", "", "the pair has latencies by width already"))
    if width_cost:
        first = to_ns(found.target.latency_ms)
        table = ((1, first), (MAX_WIDTH, first + to_ns(width_cost * (MAX_WIDTH - 1))))
    return Question(
        target_ns=Latency(table=table).at_width(1) if table else to_ns(found.target.latency_ms),
        target_table=table,
        drafter_ns=(
            Latency(table=drafts).at_width(1) if drafts else to_ns(found.drafter.latency_ms)
        ),
        acceptance=found.acceptance.rate,
        rank_shares=tuple(found.acceptance.rank_shares if rank_shares is None else rank_shares),
        source=_described(found),
        gpus=gpus,
        gpus_per_target=gpus_per_target,
        tp_gain=tp_gain,
        drafters_per_gpu=drafters_per_gpu,
        rate_per_s=rate,
        tokens=tokens,
        objective=objective,
        slo_ns=None if slo is None else to_ns(slo),
        batch=batch,
        sequence_ns=round(batch_cost * NS_PER_MS),
        preemptible=preemptible,
        price_per_gpu_hour=price,
        watts=watts,
        idle_watts=idle_watts,
        seed=seed,
    )


def _pair(
    target: str | None, drafter: str | None, dataset: str | None, pair: Path | None
) -> Profile:
    """The pair by file or by names; an empty one where neither is given."""
    named = target or drafter or dataset
    if pair is not None and named:
        raise UserError("give either --pair or --target, --drafter and --dataset")
    if pair is not None:
        return profile.read(pair)
    return pairs.find(target, drafter, dataset) if named else Profile(name="")


def _with_numbers(
    pair: Profile,
    latencies: dict[str, str | None],
    acceptance: str | None,
    problems: list[Problem],
) -> Profile:
    """*pair* with what options give by number or by file, and defaults for the rest.

    Args:
        pair: the pair.
        latencies: the latency of each role, as an option gives it.
        acceptance: the acceptance rate, as an option gives it.
        problems: takes what is wrong with the numbers.

    Raises:
        UserError: a file cannot be read.
    """
    given: dict[str, Any] = {}
    for role, text in latencies.items():
        option = f"--{role}-latency"
        if text is None:
            continue
        number = _number(text)
        if number is None:
            given[role] = _part(option, text, role, "target", "drafter")
        elif math.isfinite(number) and number > 0:
            given[role] = ModelProfile(model="", latency_ms=number)
        else:
            problems.append(Problem(option, "", f"expected a number > 0, got {text}"))
            given[role] = getattr(DEFAULT_PAIR, role)
    if acceptance is not None:
        number = _number(acceptance)
        if number is None:
            given["acceptance"] = _part("--acceptance", acceptance, "acceptance")
        elif 0 <= number <= 1:
            given["acceptance"] = AcceptanceProfile(rate=number)
        else:
            wrong = f"expected a number from 0 to 1, got {acceptance}"
            problems.append(Problem("--acceptance", "", wrong))
            given["acceptance"] = DEFAULT_PAIR.acceptance
    pair = dataclasses.replace(pair, **given)
    if pair.name:
        for part, option in PARTS.items():
            if getattr(pair, part) is None:
                what = f"is missing: {pair.name} has no {part.replace('_', ' ')}"
                problems.append(Problem(option, "", what))
    defaults = {part: getattr(DEFAULT_PAIR, part) for part in PARTS if not getattr(pair, part)}
    return dataclasses.replace(pair, **defaults)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _part(option: str, name: str, *parts: str) -> Any:
    """The first of *parts* that the profile in the file *name* has.

    Raises:
        UserError: there is no such file, or it has none of them.
    """
    path = Path(name)
    if not path.is_file():
        what = f"expected a number or a file that dsim measure wrote, got {name!r}"
        raise UserError(Problem(option, "", what))
    found = profile.read(path)
    for part in parts:
        if (value := getattr(found, part)) is not None:
            return value
    command = "acceptance" if "acceptance" in parts else "latency"
    what = f"is not what dsim measure {command} --json prints: {parts[0]} is missing"
    raise UserError(Problem(name, "", what))


def _described(pair: Profile) -> str:
    """The models, the prompts and the source of *pair* in one line; empty for plain numbers."""
    if not pair.name:
        return ""
    on = f" on {pair.prompts}" if pair.prompts else ""
    return f"{pair.name}{on} ({pair.source})" if pair.source else f"{pair.name}{on}"
