"""What would change the answer of ``dsim advise``: the same question with one thing otherwise.

By the forecasts, with the corrections that the simulations give.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.orchestrations import title_of
from dsim.tasks.advise.forecast import best_algorithm, forecasts
from dsim.tasks.advise.search import corrected, corrections, favoured
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.tasks.advise.forecast import Forecast
    from dsim.tasks.advise.question import Question
    from dsim.tasks.advise.search import Confirmed

RATES = tuple(round(0.05 * i, 2) for i in range(21))  # acceptance rates that are tried
FACTORS = (1.4, 2.0, 4.0, 8.0)  # speeds of drafts tried, up and down
GAINS = (1.0, 1.15, 1.3, 1.5, 1.7, 2.0)  # of a pass by twice the GPUs, tried up and down
MAX_TRIED = len(RATES) + 2 * len(FACTORS) + len(GAINS)


class WhatIf(NamedTuple):
    """One thing otherwise than in the question: in words, and the question then."""

    words: str
    question: Question


def what_ifs(question: Question, *, several_degrees: bool) -> list[list[WhatIf]]:
    """What is tried: lists in one direction each, ever further from *question*.

    Args:
        question: what is given.
        several_degrees: whether layouts differ in the GPUs of a target server.
    """

    def but(words: str, **other: Any) -> WhatIf:
        return WhatIf(words, dataclasses.replace(question, **other))

    def beyond(given: float, tried: Sequence[float], step: int) -> list[float]:
        return [value for value in tried if (value - given) * step > 1e-9][::step]

    def times(factor: float, how: str) -> WhatIf:
        ns = max(1, round(question.drafter_ns * (factor if how == "slow" else 1 / factor)))
        words = f"With drafts {factor:g} times as {how} ({to_ms(ns):.3g} ms each)"
        return but(words, drafter_ns=ns)

    found = [
        [
            but(f"At an acceptance rate of {p:g}{f' or {more}' if 0 < p < 1 else ''}", acceptance=p)
            for p in beyond(question.acceptance, RATES, step)
        ]
        for step, more in ((-1, "less"), (1, "more"))
    ]
    found += [[times(factor, how) for factor in FACTORS] for how in ("slow", "fast")]
    if several_degrees:
        end = "times as fast on twice the GPUs (--tp-gain)"
        found += [
            [
                but(f"With passes {only}{gain:g} {end}", tp_gain=gain)
                for gain in beyond(question.tp_gain, GAINS, step)
            ]
            for step, only in ((-1, "only "), (1, ""))
        ]
    return found


def sensitivity(
    question: Question,
    expected: Sequence[Forecast],
    ranking: Sequence[Confirmed],
    progress: Callable[[int], None],
) -> list[str]:
    """What acceptance rate, drafter latency or gain of more GPUs would change the answer.

    Args:
        question: what is given.
        expected: the forecasts of all layouts for it.
        ranking: the simulated ones, the best first.
        progress: called with how many what-ifs have begun.
    """
    if not ranking:
        return []
    now, factors = ranking[0].layout.algorithm, corrections(question, ranking)
    count = 0

    def best_of(asked: Question, found: Sequence[Forecast]) -> str | None:
        right = [corrected(one, factors) for one in found]
        return best_algorithm(asked, [favoured(one, now) for one in right])

    estimated = best_of(question, expected)
    if estimated != now:
        favours = f"favours {title_of(estimated)}" if estimated else "says that nothing sustains it"
        return [
            f"Close call: the analytical estimate {favours}, the simulation {title_of(now)}, so no "
            "sensitivity analysis is shown."
        ]
    wanted = sorted(one.layout for one in expected)
    several = any(layout.degree > question.gpus_per_target for layout in wanted)
    sentences = []
    for direction in what_ifs(question, several_degrees=several):
        for one in direction:
            count += 1
            progress(count)
            best = best_of(one.question, forecasts(one.question, wanted))
            if best != now:
                answer = title_of(best) if best else "that no layout sustains this load"
                sentences.append(f"{one.words}, the answer would probably be {answer}.")
                break
    if not sentences:
        sentences.append(
            f"No other acceptance rate, no drafts up to {FACTORS[-1]:g} times as fast or as slow"
            f"{', and no other gain by more GPUs for a pass' * several} would change the algorithm."
        )
    return sentences
