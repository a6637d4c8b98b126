"""What a few runs tell of the cost of forwards, and the simulation with these costs."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dsim.engines.simulate import run_events
from dsim.model.acceptance import Acceptance, at_depth_1
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from dsim.tasks.validate.streaks import Streaks, streaks_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from dsim.tasks.validate.bench import Forwarded
    from dsim.tasks.validate.settings import Configuration


MIN_SEEN = 4  # forwards of one width, for a row of its own in a latency table
RATE_DRAWS = 12  # simulated texts for each measured one, for a prediction from the rate
TRACE_DRAWS = 8  # simulations of each measurement, which differ by how long forwards take
MIN_REPEATS = 3  # of fewer there is no telling how much they differ
RESAMPLES = 200
MIN_APART = 0.05  # of the variance of two runs right after each other: they never share it all
ON_ONE_TEXT = 2  # configurations in a row that are calibrated on one text, in one turn
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


class Simulations(NamedTuple):
    """What simulations of one text say.

    Attributes:
        walls_ns: float64 (simulations, measurements): wall times (ns).
        beyond_share: share of the forwards that were wider than what was measured.
    """

    walls_ns: np.ndarray
    beyond_share: float

    def wall_ns(self, statistic: str) -> float:
        """The mean (ns) of what *statistic*, of ``STATISTICS``, makes of the measurements."""
        return float(np.mean([STATISTICS[statistic](row) for row in self.walls_ns.tolist()]))

    def variance(self) -> float:
        """Of the logarithm of what counts, were all measured again; NaN of fewer than three.

        By bootstrap over the measurements, each with the pace of another calibration run.
        """
        count = self.walls_ns.shape[1]
        if count < MIN_REPEATS:
            return math.nan
        rng = np.random.default_rng(0)
        at = [rng.integers(n, size=(RESAMPLES, count)) for n in self.walls_ns.shape]
        drawn = [STATISTICS[COUNTS](row) for row in self.walls_ns[at[0], at[1]].tolist()]
        return float(np.var(np.log(drawn)) * count / (count - 1))


def rate_of(traces: Sequence[str]) -> float:
    """The acceptance rate of texts; their last position never needs a draft."""
    drafts = "".join(at_depth_1(trace)[:-1] for trace in traces)
    return drafts.count("1") / len(drafts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """What the predictions know.

    Attributes:
        costs: for each configuration and role, latency by width at pace 1.
        paces: pace of each calibration run, by configuration and role.
        rate: acceptance rate.
        drafts: how many drafts it is the rate of.
        streaks: which acceptance model the drafts follow.
        quality: what the drafter's confidence tells, for trees by confidence and, where a text's
            own is not known, for the lookahead; see :class:`dsim.model.lookahead.Policy`.
        shape: how drafts are made; see :func:`dsim.study.build.drafts_of`.
    """

    costs: dict[Configuration, dict[str, Latency]]
    paces: dict[Configuration, dict[str, list[float]]]
    rate: float
    drafts: int
    streaks: Streaks
    quality: float = Policy.quality
    shape: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        seen: Mapping[Configuration, Sequence[Sequence[Forwarded]]],
        traces: Sequence[str],
        quality: float,
        shape: dict[str, Any],
    ) -> Calibration:
        """What the forwards of each run, by configuration, and traces of texts teach."""
        costs: dict[Configuration, dict[str, Latency]] = defaultdict(dict)
        paces: dict[Configuration, dict[str, list[float]]] = defaultdict(dict)
        for c, runs in seen.items():
            for role in ROLES:
                own = [[f for f in run if f.role == role] for run in runs]
                if all(own):  # non-SI has no drafter
                    costs[c][role], paces[c][role] = fit(own)
        return cls(
            costs=dict(costs),
            paces=dict(paces),
            rate=rate_of(traces),
            drafts=sum(len(at_depth_1(trace)) - 1 for trace in traces),
            streaks=streaks_of(traces),
            quality=quality,
            shape=shape,
        )

    def apart(self, repeats: int) -> float:
        """Which part of the variance of their paces two runs right after each other do not share.

        From the paces of configurations that were run next to each other, on one text, against
        those of the *repeats* beside one text. 1 where there is nothing to tell it by.
        """
        paces, within, _ = self._neighbours()
        blocks = paces.reshape(len(paces), -1, repeats)
        own = float((blocks - blocks.mean(axis=2, keepdims=True)).var(ddof=0))
        if repeats < MIN_REPEATS or not len(within) or not own:
            return 1.0
        return float(np.clip(within.var() / (2 * own * repeats / (repeats - 1)), MIN_APART, 1))

    def between_texts(self) -> float:
        """Variance of the logarithm of the pace from text to text, beyond that of runs of one text.

        Forwards of one text may take longer than those of another, of the same width: that is what
        a latency by width does not know. From configurations that were run next to each other, on
        two texts, against those on one text. 0 where there is nothing to tell it by.
        """
        _, within, across = self._neighbours()
        if not len(within) or not len(across):
            return 0.0
        return max(0.0, float(across.var() - within.var()) / 2)

    def _neighbours(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The logarithms of all paces; and how those of neighbours differ, on one text and on two.

        Of each two neighbours, but for what their configurations differ by in the mean.
        """
        paces = np.log([of_all["target"] for of_all in self.paces.values()])
        between = np.diff(paces, axis=0)
        between -= between.mean(axis=1, keepdims=True)
        return paces, between[::ON_ONE_TEXT], between[1::ON_ONE_TEXT]

    def case(
        self,
        configuration: Configuration,
        tokens: int,
        acceptance: Acceptance,
        run: int | None = None,
        sure: tuple[float, ...] = (),
    ) -> Case:
        """The case whose simulation predicts *configuration*.

        Args:
            configuration: what to simulate.
            tokens: ``N``.
            acceptance: its draws are up to the caller.
            run: at the pace of this calibration run; ``None``: at pace 1, without spread.
            sure: how sure the drafter is of its draft for each position, if it is known.
        """
        latency = {"target": Latency(), "drafter": Latency()}
        for role, cost in self.costs[configuration].items():
            pace = None if run is None else self.paces[configuration][role][run]
            latency[role] = (
                dataclasses.replace(cost, spread=()) if pace is None else at_pace(cost, pace)
            )
        return Case(
            tokens=tokens,
            lookahead=configuration.lookahead,
            policy=Policy(name=configuration.policy, quality=self.quality, recorded=sure),
            targets=configuration.targets,
            target=latency["target"],
            drafter=latency["drafter"],
            acceptance=acceptance,
            repeats=1,
            seed=1,
            preemptible=False,
            **self.shape,
        )

    def simulate(
        self,
        configuration: Configuration,
        runs: Sequence[int],
        acceptance: Acceptance,
        ranks: np.ndarray,
        sure: tuple[float, ...] = (),
    ) -> Simulations:
        """Simulations of a text that is measured once beside each of *runs*.

        When forwards take now more, now less, other drafts go into a pass of DSI. So each
        measurement is simulated with forwards that vary as they did in the calibration, several
        times.

        Args:
            configuration: what is measured.
            runs: the numbers of the calibration runs.
            acceptance: where *ranks* come from.
            ranks: int8 (simulations, 1, tokens).
            sure: see :meth:`case`.
        """
        cases = [self.case(configuration, ranks.shape[2], acceptance, run, sure) for run in runs]
        simulated = [
            [
                run_events(case, configuration.algorithm, len(cases) * i + r, row)
                for r, case in enumerate(cases)
            ]
            for i, row in enumerate(ranks)
        ]
        walls_ns = [[run.output.settled_ns[-1] for run in row] for row in simulated]
        beyond = [run.beyond_share for row in simulated for run in row]
        return Simulations(np.array(walls_ns, dtype=float), float(np.mean(beyond)))

    def from_trace(
        self,
        configuration: Configuration,
        runs: Sequence[int],
        trace: str,
        sure: tuple[float, ...] = (),
    ) -> Simulations:
        """Simulations of a text whose draws are known; see :meth:`simulate`."""
        acceptance = self.replayed(trace)
        ranks = acceptance.ranks(0, TRACE_DRAWS, len(at_depth_1(trace)))
        return self.simulate(configuration, runs, acceptance, ranks, sure)

    def replayed(self, trace: str) -> Acceptance:
        """The acceptance model that replays *trace*, of whose later choices the mean is known."""
        shares = self.streaks.acceptance.rank_shares
        return Acceptance(model="trace", traces=(trace,), rank_shares=shares)

    def from_rate(
        self, configuration: Configuration, texts: Sequence[Sequence[int]], tokens: int
    ) -> float:
        """The predicted mean wall time (ns) of *texts*, from how drafts fare on others alone.

        Each text is given by its calibration runs; see :meth:`simulate`.
        """
        acceptance = self.streaks.acceptance
        ranks = acceptance.ranks(1, RATE_DRAWS * len(texts), tokens)
        return float(
            np.mean(
                [
                    self.simulate(configuration, runs, acceptance, ranks[i :: len(texts)]).wall_ns(
                        COUNTS
                    )
                    for i, runs in enumerate(texts)
                ]
            )
        )
