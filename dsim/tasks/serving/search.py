"""Find the best layout: simulate all on a little of the load, and the best on much of it."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from dsim.study.executors import Executor, Store
from dsim.tasks.serving.crossover import Crossover, crossover_of
from dsim.tasks.serving.trials import BEYOND, Layout, Task, Trial, layouts, prepare, split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from dsim.tasks.serving.question import Question

    Progress = Callable[[int, int], None]

SCREENED, SWEPT, LIMITED, CONFIRMED = 400, 1_200, 4_000, 20_000  # requests of a trial
SCALES = (0.5, 1.0, 2.0, 4.0, 8.0)  # of the load
MAX_FINALISTS = 10  # whose curves are drawn
MAX_CONFIRMED = 3  # and the fastest whose slack is NEAR the least
NEAR = 1.5
BELOW = 0.99  # headroom of what does not keep the SLO at the load itself
RESERVE = 1.2  # times the load: of layouts that keep the SLO up to it, the fastest is the best
TIE = 0.15  # of the headroom, within which the faster layout is better where none has that much
MAX_HEADROOM = 1e6  # in place of an infinite one
GUESSES, CLOSE = 5, 1.08  # of the highest load within the SLO: how many, and when to stop
FIRST, STEP = 1.4, 2.0  # guess; and to the next, while all loads that were tried are kept
OTHER_RATES = (-0.2, -0.1, 0.1, 0.2)  # added to the acceptance rate, to see whether it matters
LEEWAY = 1.1  # of a p99 of few requests, before it counts as further from the SLO
AS_FAR = 1.25  # times the least slack, where none keeps the SLO: the fastest of those is the best
SAME = 0.01  # of the mean E2E latency: ways that are closer than that are as fast


@dataclasses.dataclass(frozen=True, kw_only=True)
class Advice:
    """The answer.

    Attributes:
        question: what was asked.
        ranking: trials of the finalists under much of the load, the best first.
        screened: trials of all layouts under a little of it.
        curves: for each finalist, trials at several scales of the load.
        headroom: for each finalist, at how many times the load it keeps the SLO, about; 0: not even
            at half; infinite: at all that were tried.
        limited: how many requests of the load *headroom* of the ranking was found with.
        fewer: trials of fewer GPUs, the closest to the SLO of each number, fewest first.
        others: trials of all ways to speculate at the degree of the best layout, by other
            acceptance rates.
        beyond: a trial of the best layout with more drafts than are otherwise tried; ``None``: the
            best layout drafts fewer than the most.
        crossover: where plain decoding gets faster than speculation at the degree of the best
            layout; ``None``: nothing to compare.
    """

    question: Question
    ranking: Sequence[Trial]
    screened: Sequence[Trial]
    curves: dict[Layout, list[Trial]]
    headroom: dict[Layout, float]
    limited: int
    fewer: Sequence[Trial]
    others: dict[float, list[Trial]]
    beyond: Trial | None
    crossover: Crossover | None

    @property
    def best(self) -> Trial:
        """The best layout under much of the load."""
        return self.ranking[0]

    @property
    def has_slo(self) -> bool:
        """Whether there is a bound to keep."""
        return self.question.slo_ttft_ms is not None or self.question.slo_tpot_ms is not None

    @property
    def ways(self) -> list[Trial]:
        """Every way to speculate at the degree of the best layout, under a little of the load."""
        return _ways(self.screened, self.best.layout)

    @property
    def allowed(self) -> float:
        """The slack up to which a trial of a little of the load is taken to keep the SLO.

        A little of the load is its busiest part, where the answer itself may miss what it keeps
        over all.
        """
        if self.best.slack > 1:
            return AS_FAR * min(one.slack for one in self.screened)
        here = (one.slack for one in self.screened if one.layout == self.best.layout)
        return max(1.0, LEEWAY * next(here, 1.0))

    def _is_better(self, one: Trial, other: Trial) -> bool:
        """Whether *one* is clearly closer to the SLO than *other*, or keeps it and is faster."""
        if self.has_slo and max(one.slack, other.slack) > self.allowed:
            return one.slack <= self.allowed or one.slack < (1 - SAME) * other.slack
        return one.e2e_mean < (1 - SAME) * other.e2e_mean

    @property
    def flips(self) -> list[Flip]:
        """The acceptance rates at which another way to speculate beats the answer, lowest first.

        Ways that seem better than the answer at the rate that was asked, too, are left out: they
        do so on a little of the load alone.
        """
        chosen = _as_one(self.best.layout, self.question.gpus)
        at_home = next((one for one in self.ways if one.layout == chosen), None)
        if at_home is None:
            return []
        other = {one.layout for one in self.ways if not self._is_better(one, at_home)}
        found = []
        for rate, trials in sorted(self.others.items()):
            stays = next(one for one in trials if one.layout == at_home.layout)
            wins = closest([one for one in trials if one.layout in other], self.allowed)[0]
            if self._is_better(wins, stays):
                found.append(Flip(rate, wins, stays))
        return found


@dataclasses.dataclass(frozen=True)
class Flip:
    """An acceptance rate at which another way to speculate is the best.

    Attributes:
        rate: the acceptance rate.
        wins: the best way at it.
        stays: the way that is the best at the rate that was asked, at this one.
    """

    rate: float
    wins: Trial
    stays: Trial


def advise(question: Question, executor: Executor, progress: Progress) -> Advice:
    """Answer *question*.

    Args:
        question: what is asked.
        executor: where trials are made.
        progress: called with how many trials are done, and how many there are as far as known.
    """
    made = 0

    def run(tasks: Sequence[Task]) -> list[Trial]:
        nonlocal made
        found: dict[int, Trial] = {}

        def done(number: int, one: Trial) -> None:
            found[number] = one
            progress(made + len(found), made + len(tasks))

        executor.each(prepare, question, tasks, Store(), done)
        made += len(tasks)
        return [found[number] for number in range(len(tasks))]

    screened = run([Task(layout, SCREENED) for layout in layouts(question)])
    more = [other for one in closest(screened)[:1] for other in split(one.layout)]
    screened += run([Task(layout, SCREENED) for layout in more])
    finalists = _finalists(screened)
    curves = _curves(run, finalists)
    slo = question.slo_ttft_ms is not None or question.slo_tpot_ms is not None
    headroom = {layout: _headroom(curve) if slo else 0.0 for layout, curve in curves.items()}
    at_one = [one for curve in curves.values() for one in curve if one.scale == 1.0]
    first = [one.layout for one in ranked(at_one, headroom)][:MAX_CONFIRMED]
    # What the busiest requests deny to the fastest, the whole load may allow.
    near = NEAR * max(1.0, min(one.slack for one in at_one))
    first += [one.layout for one in sorted(at_one, key=_wait) if one.slack <= near][:1]
    found = _Confirmed(run, slo, headroom)
    found.add(first)
    found.refine(_alike(screened, found.ranking[0].layout))
    tree = next((one.layout for one in found.ranking if one.layout.is_tree), None)
    if tree is not None and tree in (found.ranking[0].layout, found.fastest.layout):
        # vLLM cannot launch it: what it can is judged by as many requests.
        ways = [one for one in _alike(screened, tree) if one.layout.has_flags]
        found.add([closest(ways, as_close(screened))[0].layout])
        found.refine(ways)
    # What the answer is compared with, as precisely.
    tp = found.ranking[0].layout.tp
    found.add([one for one in finalists if one.tp == tp and not one.drafts])
    ranking = found.ranking
    best = ranking[0].layout
    # Trees cost more under load than chains: the best chain counts as speculation, too.
    chains = [one for one in _ways(screened, best) if one.layout.drafts and not one.layout.preset]
    wanted = dict.fromkeys([best, *(one.layout for one in closest(chains, as_close(screened))[:1])])
    more_curves = _curves(run, [layout for layout in wanted if layout not in curves])
    curves |= more_curves
    for layout, curve in more_curves.items():
        found.headroom.setdefault(layout, _headroom(curve) if slo else 0.0)
    return Advice(
        question=question,
        ranking=ranking,
        screened=screened,
        curves=curves,
        headroom=found.headroom,
        limited=min(LIMITED, len(question.replay.requests)),
        fewer=_fewer(run, best, screened) if slo else [],
        others=_others(run, question, _ways(screened, best)),
        beyond=_beyond(run, best),
        crossover=crossover_of(curves, best),
    )


@dataclasses.dataclass
class _Confirmed:
    """Layouts that were tried on much of the load.

    Attributes:
        run: makes trials.
        slo: whether there is a bound to keep.
        headroom: as in :class:`Advice`; of layouts that were not tried yet, about.
        known: their trials.
    """

    run: Callable[[Sequence[Task]], list[Trial]]
    slo: bool
    headroom: dict[Layout, float]
    known: dict[Layout, Trial] = dataclasses.field(default_factory=dict)

    @property
    def ranking(self) -> list[Trial]:
        """The best first, those that keep the SLO before all others."""
        best_first = ranked(list(self.known.values()), self.headroom)
        return sorted(best_first, key=lambda one: self.slo and one.slack > 1)

    @property
    def fastest(self) -> Trial:
        """The fastest that keeps the SLO, or else is about as close to it as the closest."""
        trials = list(self.known.values())
        return closest(trials, as_close(trials) if self.slo else math.inf)[0]

    def add(self, layouts: Sequence[Layout]) -> None:
        """Try those of *layouts* that were not tried yet."""
        wanted = [layout for layout in dict.fromkeys(layouts) if layout not in self.known]
        if not wanted:
            return
        trials = self.run([Task(layout, CONFIRMED) for layout in wanted])
        self.known |= {one.layout: one for one in trials}
        if self.slo:
            kept = {one.layout: one.slack <= 1 for one in trials}
            rough = {layout: self.headroom.get(layout, BELOW) for layout in wanted}
            self.headroom |= _limits(self.run, rough, kept)
        else:
            self.headroom |= dict.fromkeys(wanted, 0.0)

    def refine(self, ways: Sequence[Trial]) -> None:
        """Try the fastest of *ways* that keeps the SLO, and the fastest that does with reserve.

        Both are bisected: what is faster on a little of the load misses the SLO first. Nothing is
        tried where no layout is known that keeps the SLO.
        """
        if not self.slo or self.ranking[0].slack > 1:
            return
        order = [one.layout for one in ways]

        def holds(layout: Layout, room: float) -> bool:
            self.add([layout])
            return self.known[layout].slack <= 1 and self.headroom[layout] >= room

        for room in (0.0, RESERVE):
            tried = [(at, holds(one, room)) for at, one in enumerate(order) if one in self.known]
            high = min((at for at, held in tried if held), default=len(order))
            low = max((at + 1 for at, held in tried if not held and at < high), default=0)
            while low < high:
                middle = (low + high) // 2
                held = holds(order[middle], room)
                low, high = (low, middle) if held else (middle + 1, high)


def _curves(
    run: Callable[[Sequence[Task]], list[Trial]], chosen: Sequence[Layout]
) -> dict[Layout, list[Trial]]:
    """Trials of the *chosen* layouts at several scales of the load."""
    found: dict[Layout, list[Trial]] = {layout: [] for layout in chosen}
    for one in run([Task(layout, SWEPT, scale) for layout in chosen for scale in SCALES]):
        found[one.layout].append(one)
    return found


def _as_one(layout: Layout, gpus: int) -> Layout:
    """The same without replicas for prompts only, which the ways to speculate are compared with."""
    return dataclasses.replace(layout, readers=0, replicas=gpus // layout.tp)


def _alike(screened: Sequence[Trial], layout: Layout) -> list[Trial]:
    """Trials of all ways to speculate with the GPUs shared out as by *layout*, the fastest first.

    Replicas for prompts only are tried with one way alone: their order is that of the same GPUs
    without such replicas.
    """
    ways = sorted(_ways(screened, layout), key=_wait)
    return [
        dataclasses.replace(
            one,
            layout=dataclasses.replace(
                one.layout, replicas=layout.replicas, readers=layout.readers
            ),
        )
        for one in ways
    ]


def _ways(screened: Sequence[Trial], best: Layout) -> list[Trial]:
    return [one for one in screened if one.layout.tp == best.tp and not one.layout.readers]


def _others(
    run: Callable[[Sequence[Task]], list[Trial]], question: Question, ways: Sequence[Trial]
) -> dict[float, list[Trial]]:
    """The same ways to speculate at other acceptance rates; those that know no rate stay."""
    rates = [round(question.acceptance + more, 6) for more in OTHER_RATES]
    rates = [rate for rate in rates if 0 < rate < 1]
    drafting = [one.layout for one in ways if one.layout.uses_acceptance]
    alike = [one for one in ways if not one.layout.uses_acceptance]
    made = iter(run([Task(layout, SCREENED, 1.0, rate) for rate in rates for layout in drafting]))
    return {rate: [*alike, *(next(made) for _ in drafting)] for rate in rates}


def _beyond(run: Callable[[Sequence[Task]], list[Trial]], best: Layout) -> Trial | None:
    """The best layout with more drafts, if it has the most that are tried."""
    if not best.is_at_edge:
        return None
    return run([Task(dataclasses.replace(best, drafts=BEYOND), SCREENED)])[0]


def _fewer(
    run: Callable[[Sequence[Task]], list[Trial]], best: Layout, screened: Sequence[Trial]
) -> list[Trial]:
    """The closest to the SLO of fewer GPUs, whatever their degree, fewest GPUs first.

    The number of GPUs is bisected; of each degree the best layout is tried, and the one that is
    closest to the SLO.
    """
    ways = {best.tp: [dataclasses.replace(best, readers=0)]}
    for tp in dict.fromkeys(one.layout.tp for one in screened):
        alike = [one for one in screened if one.layout.tp == tp and not one.layout.readers]
        least = min(alike, key=lambda one: (one.slack, _wait(one)))
        first = closest(alike, as_close(screened))[0]
        ways[tp] = list(dict.fromkeys([*ways.get(tp, []), first.layout, least.layout]))
    counts = sorted({tp * n for tp in ways for n in range(1, best.gpus) if tp * n < best.gpus})
    low, high, found = -1, len(counts), []
    while high - low > 1:
        middle = (low + high) // 2
        tried = [
            dataclasses.replace(way, replicas=counts[middle] // tp)
            for tp, alike_ways in ways.items()
            for way in alike_ways
            if tp <= counts[middle]
        ]
        one = closest(run([Task(layout, LIMITED) for layout in dict.fromkeys(tried)]))[0]
        found.append(one)
        low, high = (low, middle) if one.slack <= 1 else (middle, high)
    return sorted(found, key=lambda one: one.layout.gpus)


def closest(trials: Sequence[Trial], allowed: float = 1.0) -> list[Trial]:
    """Those that keep the SLO, the fastest first, then others by how far they are from it.

    Args:
        trials: to be sorted.
        allowed: the slack up to which a trial is taken to keep the SLO.
    """
    return sorted(trials, key=lambda one: (max(allowed, one.slack), *_wait(one)))


def as_close(trials: Sequence[Trial]) -> float:
    """The slack up to which one of *trials* is about as close to the SLO as the closest is."""
    least = min(one.slack for one in trials)
    return AS_FAR * least if least > 1 else 1.0


def _wait(one: Trial) -> tuple[float, str]:
    """The mean E2E latency; a choice in every step, which no server has, must be worth it."""
    refused = math.inf if one.served < 1 else 0.0
    return one.e2e_mean * (1 + SAME * one.layout.chooses) + refused, str(one.layout)


def ranked(trials: Sequence[Trial], headroom: dict[Layout, float]) -> list[Trial]:
    """The best first: of those with enough headroom the fastest, and so on.

    Where none keeps the SLO, it is the fastest of those that are about as close to it.
    """
    left, found = list(trials), []
    while left:
        room = {one.layout: min(MAX_HEADROOM, headroom[one.layout]) for one in left}
        least = min(RESERVE, max(room.values()) / (1 + TIE))
        enough = [one for one in left if room[one.layout] >= least]
        if min(one.slack for one in left) > 1:
            enough = left  # how much less load would do says no more than how far they are off
        best = closest(enough, as_close(enough))[0]
        found.append(best)
        left.remove(best)
    return found


def _finalists(screened: Sequence[Trial]) -> list[Layout]:
    """Of each degree the best plain and speculating layout and the fastest; and the best of all."""
    kinds: dict[tuple[int, bool], list[Trial]] = {}
    for one in screened:
        if not one.layout.readers:
            kinds.setdefault((one.layout.tp, one.layout.drafts > 0), []).append(one)
    allowed = as_close(screened)
    chosen = [one.layout for trials in kinds.values() for one in closest(trials, allowed)[:1]]
    chosen += [closest(screened)[0].layout]
    fastest = [min(trials, key=_wait) for (_, drafts), trials in kinds.items() if drafts]
    chosen += [one.layout for one in sorted(fastest, key=_wait)]
    return list(dict.fromkeys(chosen))[:MAX_FINALISTS]


def _headroom(curve: Sequence[Trial]) -> float:
    """The scale at which the slack is 1, between the last that keeps the SLO and the next."""
    kept = [one for one in curve if one.slack <= 1]
    if not kept:
        return 0.0
    last = max(kept, key=lambda one: one.scale)
    beyond = [one for one in curve if one.scale > last.scale]
    if not beyond:
        return math.inf
    first = min(beyond, key=lambda one: one.scale)
    if math.isinf(first.slack):
        return last.scale
    part = -math.log(last.slack) / math.log(first.slack / last.slack)
    return float(last.scale * (first.scale / last.scale) ** part)


def _limits(
    run: Callable[[Sequence[Task]], list[Trial]],
    rough: dict[Layout, float],
    kept: Mapping[Layout, bool] | None = None,
) -> dict[Layout, float]:
    """The highest scales that keep the SLO, to a few percent.

    Args:
        run: makes trials.
        rough: layouts, and the scales of a shorter part of the load, to begin with.
        kept: whether each keeps the SLO at 1, over more of the load; by default all do.
    """
    least, most = min(SCALES), max(SCALES)
    tried: dict[Layout, list[Trial]] = {layout: [] for layout in rough}
    keeps = {layout: kept is None or kept[layout] for layout in rough}
    guess = {
        layout: min(most, max(FIRST, room)) if keeps[layout] else min(BELOW, max(least, room))
        for layout, room in rough.items()
    }
    for _ in range(GUESSES):
        for one in run([Task(layout, LIMITED, scale) for layout, scale in guess.items()]):
            tried[one.layout].append(one)
        guess = {}
        for layout, trials in tried.items():
            at_least, at_most = (1.0, math.inf) if keeps[layout] else (least, 1.0)
            low = max((one.scale for one in trials if one.slack <= 1), default=at_least)
            high = min((one.scale for one in trials if one.slack > 1), default=at_most)
            if low < most and high > CLOSE * low:
                guess[layout] = min(most, math.sqrt(low * high) if high < math.inf else STEP * low)
            elif low < high and all(one.slack > 1 for one in trials):
                guess[layout] = low  # taken to keep the SLO so far
    found = {}
    for layout, trials in tried.items():
        room = _headroom(trials)
        if math.isinf(room):  # no trial missed the SLO
            low = max(one.scale for one in trials)
            room = low if low < most else math.inf
        found[layout] = max(1.0, room) if keeps[layout] else min(BELOW, room)
    return found
