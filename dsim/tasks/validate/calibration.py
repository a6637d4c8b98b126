"""What a few runs tell of the cost of forwards, and the simulation with these costs."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.simulate import run_events
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dsim.tasks.validate.bench import Forwarded
    from dsim.tasks.validate.settings import Configuration


MIN_SEEN = 4  # forwards of one width, for a row of its own in a latency table
RATE_DRAWS = 12  # simulated texts for each measured one, for a prediction from the rate
TRACE_DRAWS = 8  # simulations of each measurement, which differ by how long forwards take
FITS = 15  # until costs and paces fit each other
ROLES = ("target", "drafter")
STALL_TIMES, STALL_NS = 5, 100_000_000


def by_width(forwards: Iterable[Forwarded]) -> dict[int, list[int]]:
    """How long *forwards* took (ns), by width, in order of width."""
    took: dict[int, list[int]] = defaultdict(list)
    for forward in forwards:
        took[forward.width].append(forward.took_ns)
    return dict(sorted(took.items()))


def is_stall(took_ns: float, usual_ns: float) -> bool:
    """Whether the machine stood still (a paused virtual machine, say), not the forward slow."""
    return took_ns > STALL_TIMES * usual_ns + STALL_NS


def fast_half(values: Sequence[float]) -> float:
    """The mean of the faster half of *values*.

    Neighbours, interrupts and other programs only ever slow a run, so the fast ones are those that
    come again.
    """
    return float(np.mean(sorted(values)[: (len(values) + 1) // 2]))


# What may count of the repeats of a text: the first does, the others are told beside it.
STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "faster half": fast_half,
    "median": lambda values: float(np.median(values)),
    "mean": lambda values: float(np.mean(values)),
}
COUNTS = next(iter(STATISTICS))


def cost_of(forwards: Sequence[Forwarded]) -> Latency:
    """What *forwards* (one at least) cost by width: the mean of their middle half.

    Rows are the widths that were seen often enough, and count by how often they were.
    """
    seen = by_width(forwards)
    fewest = min(MIN_SEEN, max(map(len, seen.values())))
    often = {width: sorted(took) for width, took in seen.items() if len(took) >= fewest}
    quarters = {width: len(took) // 4 for width, took in often.items()}
    table = tuple(
        (width, max(1, round(float(np.mean(took[quarters[width] : len(took) - quarters[width]])))))
        for width, took in often.items()
    )
    cost = Latency(model="table", table=table, weights=tuple(map(len, often.values())))
    return dataclasses.replace(cost, latency_ns=cost.at_width(1))


def fit(runs: Sequence[Sequence[Forwarded]]) -> tuple[Latency, list[float]]:
    """What the forwards of one model teach, in runs of one configuration.

    The forwards of a run add up to what was measured: they cost what they cost by width, times the
    pace of the run, times the mean of the spread.

    Returns:
        What forwards cost, and the pace of each run: how long its forwards took, in what they
        cost; 1 is the median. The machine's pace changes; what a pass of 4 tokens costs, in passes
        of 1, does not, and all runs together say that best.
    """
    paces = np.ones(len(runs))
    for _ in range(FITS):
        steady = [
            f._replace(took_ns=max(1, round(f.took_ns / pace)))
            for pace, run in zip(paces, runs, strict=True)
            for f in run
        ]
        cost = cost_of(steady)
        usual_ns = {width: cost.at_width(width) for width in {f.width for f in steady}}
        paces = np.array(
            [sum(f.took_ns for f in run) / sum(usual_ns[f.width] for f in run) for run in runs]
        )
        paces /= np.median(paces)
    factors = np.array(
        [
            f.took_ns / (pace * usual_ns[f.width])
            for pace, run in zip(paces, runs, strict=True)
            for f in run
        ]
    )
    usual = float(np.median(factors))
    spread = tuple((factors / usual).tolist())
    return dataclasses.replace(at_pace(cost, usual), spread=spread), paces.tolist()


def at_pace(cost: Latency, pace: float) -> Latency:
    """*cost* on a machine that takes *pace* times as long."""
    table = tuple((width, max(1, round(ns * pace))) for width, ns in cost.table)
    slower = dataclasses.replace(cost, table=table)
    return dataclasses.replace(slower, latency_ns=slower.at_width(1))


def rate_of(traces: Sequence[str]) -> float:
    """The acceptance rate of texts; their last position never needs a draft."""
    drafts = "".join(trace[:-1] for trace in traces)
    return drafts.count("1") / len(drafts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the predictions know.

    Attributes:
        costs: for each configuration and role, latency by width at pace 1.
        paces: pace of each calibration run, by configuration and role.
        rate: acceptance rate.
        drafts: how many drafts it is the rate of.
    """

    costs: dict[Configuration, dict[str, Latency]]
    paces: dict[Configuration, dict[str, list[float]]]
    rate: float
    drafts: int

    @classmethod
    def of(
        cls, seen: Mapping[Configuration, Sequence[Sequence[Forwarded]]], traces: Sequence[str]
    ) -> Calibration:
        """What the forwards of each run, by configuration, and traces of texts teach."""
        costs: dict[Configuration, dict[str, Latency]] = defaultdict(dict)
        paces: dict[Configuration, dict[str, list[float]]] = defaultdict(dict)
        for c, runs in seen.items():
            for role in ROLES:
                own = [[f for f in run if f.role == role] for run in runs]
                if all(own):  # non-SI has no drafter
                    costs[c][role], paces[c][role] = fit(own)
        drafts = sum(len(trace) - 1 for trace in traces)
        return cls(costs=dict(costs), paces=dict(paces), rate=rate_of(traces), drafts=drafts)

    def case(
        self,
        configuration: Configuration,
        tokens: int,
        acceptance: Acceptance,
        run: int | None = None,
    ) -> Case:
        """The case whose simulation predicts *configuration*.

        Args:
            configuration: what to simulate.
            tokens: ``N``.
            acceptance: its draws are up to the caller.
            run: at the pace of this calibration run; ``None``: at pace 1.
        """
        paces = self.paces[configuration]
        latency = {"target": Latency(), "drafter": Latency()} | {
            role: at_pace(cost, 1.0 if run is None else paces[role][run])
            for role, cost in self.costs[configuration].items()
        }
        return Case(
            tokens=tokens,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            target=latency["target"],
            drafter=latency["drafter"],
            acceptance=acceptance,
            repeats=1,
            seed=1,
            preemptible=False,
        )

    def predict(
        self,
        configuration: Configuration,
        runs: Sequence[int],
        acceptance: Acceptance,
        draws: np.ndarray,
    ) -> dict[str, float]:
        """The predicted wall time (ns) of a text that is measured once beside each of *runs*.

        When forwards take now more, now less, other drafts go into a pass of DSI. So each
        measurement is simulated with forwards that vary as they did in the calibration, several
        times, and the prediction is the mean of what would be reported.

        Args:
            configuration: what is measured.
            runs: the numbers of the calibration runs.
            acceptance: where *draws* come from.
            draws: bool (simulations, tokens).

        Returns:
            For each of ``STATISTICS``, what it makes of these measurements.
        """
        tokens = draws.shape[1]
        cases = [self.case(configuration, tokens, acceptance, run) for run in runs]
        simulated = [
            [
                run_events(
                    case, configuration.algorithm, len(cases) * i + r, row
                ).output.settled_ns[-1]
                for r, case in enumerate(cases)
            ]
            for i, row in enumerate(draws)
        ]
        return {
            name: float(np.mean([of(walls_ns) for walls_ns in simulated]))
            for name, of in STATISTICS.items()
        }

    def from_trace(
        self, configuration: Configuration, runs: Sequence[int], trace: str
    ) -> dict[str, float]:
        """The predicted wall time (ns) of a text whose draws are known; see :meth:`predict`."""
        acceptance = Acceptance(model="trace", traces=(trace,))
        draws = acceptance.draws(0, TRACE_DRAWS, len(trace))
        return self.predict(configuration, runs, acceptance, draws)

    def from_rate(
        self, configuration: Configuration, texts: Sequence[Sequence[int]], tokens: int
    ) -> float:
        """The predicted mean wall time (ns) of *texts*, from the acceptance rate alone.

        Each text is given by its calibration runs; see :meth:`predict`.
        """
        acceptance = Acceptance(rate=self.rate)
        draws = acceptance.draws(1, RATE_DRAWS * len(texts), tokens)
        return float(
            np.mean(
                [
                    self.predict(configuration, runs, acceptance, draws[i :: len(texts)])[COUNTS]
                    for i, runs in enumerate(texts)
                ]
            )
        )
