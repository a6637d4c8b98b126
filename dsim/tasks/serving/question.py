"""The question: a model, GPUs, a load, and the times that users may wait."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.replay import Replay, read_replay
from dsim.deployment.request_rows import Text
from dsim.deployment.workload import Length, Workload
from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.model.acceptance import TYPICAL_RANK_SHARES
from dsim.model.estimate import estimate
from dsim.model.gpu import HOST_GPUS
from dsim.model.roofline import possible_tp
from dsim.model.shape import shape_of, shipped

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.model.estimate import Estimate

DEFAULT_ACCEPTANCE = 0.8
DEFAULT_COPIED = 1 / 3
DEFAULT_RATE_PER_S = 1.0
DEFAULT_PROMPT_TOKENS, DEFAULT_TOKENS = 1000, 250
MADE_REQUESTS = 2000  # of a load that is no trace
NAMES = {"model": ("--target", ""), "gpu": ("--gpu", ""), "dtype": ("--dtype", "")}
NAMES |= {"tp": ("--gpus", ""), "drafter": ("--drafter", "")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        target, drafter, gpu, dtype: names.
        gpus: number of GPUs.
        acceptance: acceptance rate of the drafter.
        rank_shares: where its first choice is wrong, how often its second, third, … is right.
        copied: the part of answers that repeats earlier text, where n-grams have drafts.
        replay: the requests.
        load: the load in words.
        slo_ttft_ms, slo_tpot_ms: what 99 of 100 requests must keep; ``None``: no bound.
        price: price of a GPU-hour; 0: none.
        seed: seed of the random draws.
        degrees: degrees of tensor parallelism at which the models fit.
    """

    target: str
    drafter: str
    gpu: str
    dtype: str | None
    gpus: int
    acceptance: float
    rank_shares: tuple[float, ...]
    copied: float
    replay: Replay
    load: str
    slo_ttft_ms: float | None
    slo_tpot_ms: float | None
    price: float
    seed: int
    degrees: tuple[int, ...]

    def estimate(self, tp: int) -> Estimate:
        """The models on *tp* GPUs."""
        return estimate(
            self.target, self.gpu, tp=tp, dtype=self.dtype, drafter=self.drafter, names=NAMES
        )

    @property
    def rate_per_s(self) -> float:
        """Mean request rate."""
        span_ns = self.replay.requests[-1][0]
        return (len(self.replay.requests) - 1) * 1e9 / span_ns if span_ns else 0.0

    @property
    def hub(self) -> str:
        """Name of the target on the hub, for launch commands."""
        return str(shipped().get(shape_of(self.target).name, {}).get("hub", self.target))


def ask(
    *,
    target: str | None,
    drafter: str | None,
    gpu: str,
    gpus: int,
    dtype: str | None = None,
    acceptance: float | None = None,
    rank_shares: Sequence[float] = TYPICAL_RANK_SHARES,
    copied: float | None = None,
    trace: Path | None = None,
    from_s: float = 0.0,
    for_s: float | None = None,
    rate_scale: float = 1.0,
    rate: float | None = None,
    prompt_tokens: int | None = None,
    tokens: int | None = None,
    slo_ttft_ms: float | None = None,
    slo_tpot_ms: float | None = None,
    price: float = 0.0,
    seed: int = 0,
) -> Question:
    """The question that options ask; see :class:`Question`.

    Raises:
        UserError: with all problems.
    """
    problems: list[Problem] = []
    if target is None:
        problems.append(Problem("--target", "", "is missing: a model's name, or its folder"))
    made = {"--rate": rate, "--prompt-tokens": prompt_tokens, "--tokens": tokens}
    for option, value in made.items():
        if trace is not None and value is not None:
            problems.append(Problem(option, "", "cannot be given together with --trace"))
    if rate is not None and rate <= 0:
        problems.append(Problem("--rate", "", f"expected a number above 0, got {rate:g}"))
    if problems:
        raise UserError(*problems)
    if trace is not None:
        try:
            replay = read_replay(read_text(trace)).window(from_s, for_s, rate_scale)
        except ValueError as error:
            raise UserError(Problem(str(trace), "", str(error))) from None
        load = f"{trace.name}, {len(replay.requests):,} requests"
    else:
        rate = (DEFAULT_RATE_PER_S if rate is None else rate) * rate_scale
        lengths = (prompt_tokens or DEFAULT_PROMPT_TOKENS, tokens or DEFAULT_TOKENS)
        replay = _made(rate, *lengths, seed)
        load = f"{rate:g} requests/s (Poisson), prompts of {lengths[0]:,} tokens, answers of "
        load += f"{lengths[1]:,}"
    asked = Question(
        target=str(target),
        drafter=drafter or "eagle3",
        gpu=gpu,
        dtype=dtype,
        gpus=gpus,
        acceptance=DEFAULT_ACCEPTANCE if acceptance is None else acceptance,
        rank_shares=tuple(rank_shares),
        copied=DEFAULT_COPIED if copied is None else copied,
        replay=replay,
        load=load,
        slo_ttft_ms=slo_ttft_ms,
        slo_tpot_ms=slo_tpot_ms,
        price=price,
        seed=seed,
        degrees=(),
    )
    return dataclasses.replace(asked, degrees=_degrees(asked))


def _made(rate_per_s: float, prompt_tokens: int, tokens: int, seed: int) -> Replay:
    """A Poisson load as a trace."""
    workload = Workload(
        requests=MADE_REQUESTS,
        rate_per_s=rate_per_s,
        prompt=Length(mean_tokens=prompt_tokens),
        output=Length(mean_tokens=tokens),
    )
    arrivals = workload.arrival_ns(seed, 0)
    rows = [(at, prompt_tokens, tokens) for at in (arrivals - arrivals[0]).tolist()]
    return Replay(0, tuple(rows), (Text(),) * len(rows))


def _degrees(asked: Question) -> tuple[int, ...]:
    """The degrees at which the models fit.

    Raises:
        UserError: there is none; or a name is unknown.
    """
    found: list[int] = []
    first = None
    # An unknown name is reported of any degree; a misfit says at which the models would fit.
    try:
        asked.estimate(1)
    except UserError as error:
        first = error
    try:
        shape = shape_of(asked.target)
    except ValueError:
        raise first or UserError(asked.target) from None
    for tp in possible_tp(shape):
        if tp > asked.gpus or (found and tp > HOST_GPUS):  # beyond one host only if need be
            break
        try:
            asked.estimate(tp)
        except UserError as error:
            first = error
        else:
            found.append(tp)
    if not found:
        raise first or UserError(Problem("--gpus", "", "the models do not fit"))
    return tuple(found)


def densest(replay: Replay, count: int) -> Replay:
    """The *count* requests that come closest together; all, if there are no more."""
    rows = replay.requests
    if len(rows) <= count:
        return replay
    at = np.array([row[0] for row in rows])
    first = int(np.argmin(at[count - 1 :] - at[: len(at) - count + 1]))
    begin = rows[first][0]
    kept = tuple((t - begin, p, o) for t, p, o in rows[first : first + count])
    texts = replay.texts[first : first + count]
    return replay._replace(began_ns=replay.began_ns + begin, requests=kept, texts=texts)
