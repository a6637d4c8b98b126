"""How long runs have to be for an interval: for how many requests in a row a queue remembers.

Near saturation a queue is a reflected Brownian motion, whose correlation is known before anything
is simulated: waits are correlated as if ``2 (ca² + cs²) ρ / (1 - ρ)²`` requests in a row counted
as one (offered load ρ, coefficients of variation of gaps and of work; Whitt, Planning queueing
simulations, Management Science 35(11), 1989). An estimate from the run itself does not do: short
runs that happen to see a short queue look uncorrelated, and are the wrong ones.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.deployment.outcome import RunCounts
    from dsim.deployment.spec import Deployment
    from dsim.deployment.workload import Workload
    from dsim.model.latency import Latency

UNKNOWN_LOAD = 3.0  # how much longer runs have to be where the queue of the run has to tell
MIN_INDEPENDENT = 120.0  # independent requests for a mean, a rate or a share
MIN_BEYOND = 12.0  # independent requests beyond a quantile
MIN_PER_RUN = 5.0  # independent requests in each run, so that its beginning does not weigh


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunLength:
    """How much a sample is worth.

    Attributes:
        correlated: number of requests in a row that count as one; infinite where a queue grows.
        per_run: number of requests after the warm-up of the shortest run.
        runs: number of runs.
    """

    correlated: float
    per_run: float
    runs: int

    def allows(self, quantile: float = 0.5) -> bool:
        """Whether there is ground for an interval: of a mean, of a quantile, or of a share."""
        return self.per_run >= self.needed(quantile)

    def needed(self, quantile: float = 0.5) -> float:
        """How many requests after the warm-up each of the runs has to have."""
        rarer = min(quantile, 1 - quantile)
        if not rarer > 0:
            return math.inf
        total = max(MIN_INDEPENDENT, MIN_BEYOND / rarer)
        return max(total / self.runs, MIN_PER_RUN) * self.correlated


def correlated_requests(
    deployment: Deployment, workload: Workload | None, load: float | None, runs: Sequence[RunCounts]
) -> float:
    """For how many requests in a row one request counts.

    Args:
        deployment: what serves.
        workload: what was asked; ``None``: not known.
        load: offered load of the busiest servers; ``None``: not known.
        runs: what came of it.
    """
    seconds = sum(run.end_ns for run in runs) / NS_PER_S
    requests = sum(len(run.fate) for run in runs)
    if seconds <= 0:
        return math.inf
    per_s = requests / seconds
    variation = _gaps_cv2(workload, runs) + _work_cv2(deployment.target, runs)
    in_service = min(
        float(deployment.targets.servers * deployment.targets.max_batch),
        sum(run.in_system_area_ns for run in runs) / NS_PER_S / seconds,
    )
    if workload is not None and workload.arrivals == "closed":
        return 1.0 + 2 * min(workload.users, workload.count)  # a queue is no longer than that
    if load is None:
        waiting = sum(t.queue_area_ns for run in runs for t in run.tallies) / NS_PER_S / seconds
        in_system = sum(run.in_system_area_ns for run in runs) / NS_PER_S / seconds
        waiting = min(waiting, in_system)
        queue = 8 * waiting**2 / max(variation, 0.1)  # the same law by its mean queue
        found = UNKNOWN_LOAD * (1 + 2 * in_system + queue)
    elif load >= 1:
        return math.inf
    else:
        found = 1 + 2 * in_service + 2 * variation * load / (1 - load) ** 2
    for spec, faults in (
        (deployment.targets, deployment.faults),
        (deployment.drafters, deployment.drafter_faults),
    ):
        if faults.mtbf_ns:  # each failure is one event, however many requests it meets
            found += per_s * (faults.mtbf_ns + faults.mttr_ns) / NS_PER_S / spec.servers
    return found


def _gaps_cv2(workload: Workload | None, runs: Sequence[RunCounts]) -> float:
    """The squared coefficient of variation of the gaps between arrivals."""
    if workload is not None and workload.arrivals in ("poisson", "gamma"):
        return workload.cv**2 if workload.arrivals == "gamma" else 1.0
    return _cv2(np.concatenate([np.diff(run.arrival_ns) for run in runs]))


def _work_cv2(latency: Latency, runs: Sequence[RunCounts]) -> float:
    """The squared coefficient of variation of the work of a request: a random number of passes."""
    passes = np.concatenate([run.passes for run in runs])
    mean = max(1.0, float(passes.mean())) if len(passes) else 1.0
    each = latency.cv**2
    if latency.model == "empirical":
        each = _cv2(np.array(latency.samples_ns))
    elif latency.spread:
        each = _cv2(np.array(latency.spread))
    elif latency.model == "constant":
        each = 0.0
    return _cv2(passes) + each / mean


def _cv2(values: np.ndarray) -> float:
    mean = float(values.mean()) if len(values) else 0.0
    return float(values.var()) / mean**2 if mean else 0.0
