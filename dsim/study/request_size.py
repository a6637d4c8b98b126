"""How long a study of a deployment takes, told before it begins."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

from dsim.study.requests import replicate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.study.study import DeploymentCase

PILOT_REQUESTS, PILOT_CASES = 300, 4
PILOT_TOKENS = 200  # of an answer, at most
MANY_TOKENS = 1_000_000  # in all, from which on a run takes long enough for a word


def needed_s(cases: Sequence[DeploymentCase], jobs: int, max_load: float) -> float:
    """How long *cases* take, about, in so many processes; 0 where that is soon over.

    From the time that the first requests of a few cases take.
    """
    work = [
        case.workload.count * case.replications * max(1.0, case.workload.output.mean_tokens)
        for case in cases
    ]
    if sum(work) < MANY_TOKENS:
        return 0.0
    step = -(-len(cases) // PILOT_CASES)
    needed, seen = 0.0, 0.0
    _pilot_s(cases[0], 1, max_load)  # loads what a run needs
    for case, tokens in list(zip(cases, work, strict=True))[::step]:
        count = min(PILOT_REQUESTS, case.workload.count)
        spent_s = _pilot_s(case, count, max_load)
        needed += spent_s * case.workload.count / count * case.replications
        seen += tokens
    return needed * sum(work) / seen / max(1, jobs)


def _pilot_s(case: DeploymentCase, count: int, max_load: float) -> float:
    """Seconds that the first *count* requests of *case* take, from shorter answers if need be."""
    whole = case.workload
    first = whole.trace[:count]
    short = dataclasses.replace(
        whole,
        requests=count,
        trace=tuple((at, prompt, min(answer, PILOT_TOKENS)) for at, prompt, answer in first),
        output=dataclasses.replace(
            whole.output, mean_tokens=min(whole.output.mean_tokens, PILOT_TOKENS)
        ),
    )
    longer = max(1.0, whole.output.mean_tokens / PILOT_TOKENS)
    if first:
        longer = sum(row[2] for row in first) / sum(row[2] for row in short.trace)
    began_s = time.perf_counter()
    replicate(dataclasses.replace(case, workload=short), 0, max_load)
    return longer * (time.perf_counter() - began_s)
