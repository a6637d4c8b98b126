"""The paper's Table 1, in simulated and in real time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dsim.engines.simulate import simulate_case
from dsim.report.tables import TextTable
from dsim.study import loader as studies
from dsim.study.build import case_of
from dsim.study.grid import simulate_grid
from dsim.study.shipped import path_of
from dsim.study.study import Chart, points
from dsim.tasks.reproduce.claims import (
    DIFFERS,
    DSI,
    HOLDS,
    NONSI,
    NOT_WAITED,
    PARTLY,
    SI,
    Claim,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dsim.report.charts import Panel
    from dsim.study.study import Study

    Floats = NDArray[np.float64]


MAX_LOOKAHEAD = 50  # of Table 1 without the paper's three
RATIOS = (1.0, 2.0, 5.0, 10.0)  # TTFT / TPOT


class Table1:
    """The paper's Table 1: ten pairs, by simulation and by real waits.

    Attributes:
        names, published: of the rows.
        speedup, lookahead: of DSI over SI, each at its best in {1, 5, 10} with 1 … 7 servers, and
            the lookaheads of (SI, DSI).
        free, free_lookahead: the same two with lookahead 1 … 50.
        by_ratio: the speed-up with a first-token latency of this many times the latency.
        never_slower, paths: how many single runs of DSI were slower than non-SI, of how many.
        waited, ideal: speed-ups in real time, and of the very draws in simulated time.
    """

    def __init__(self) -> None:
        path = path_of("table1")
        study = studies.load(path)
        self.study = study
        self.names = [name for name, _ in study.variants]
        settings = [study.of_variant(v) for v in range(len(self.names))]
        self.published = np.array([s["published.speedup_vs_si"] for s in settings])
        self.repeats = study.settings["repeats"]
        self.speedup, self.lookahead = self._speedups(study)
        full = f"grid.lookahead={{start=1, stop={MAX_LOOKAHEAD}, step=1}}"
        self.free, self.free_lookahead = self._speedups(
            studies.load(path, [full, "grid.targets=[7]"])
        )
        self.by_ratio = {
            ratio: self._speedups(
                studies.load(
                    path,
                    [
                        "grid.targets=[7]",
                        f"target.first_latency_ratio={ratio}",
                        f"drafter.first_latency_ratio={ratio}",
                    ],
                )
            )[0]
            for ratio in RATIOS
        }
        self.never_slower = self.paths = 0
        for number in range(len(self.names)):
            for point in points(study.grid):
                case = case_of(study.of_variant(number) | point | {"repeats": 100})
                dsi, plain = (simulate_case(case, a).latency_ns for a in (DSI, NONSI))
                self.never_slower += int((dsi > plain).sum())
                self.paths += len(dsi)
        self.waited: Floats | None = None
        self.ideal: Floats | None = None
        self.notes: list[str] = []

    @staticmethod
    def _speedups(study: Study) -> tuple[Floats, list[tuple[int, int]]]:
        """DSI over SI in every variant, each at its best; and the lookaheads of both."""
        grid = simulate_grid(study)
        lookaheads = study.grid[0].values
        si, dsi = (grid.outcomes["latency_mean_ms"][a] for a in (1, 2))  # (variants, k, targets)
        best_si, best_dsi = (x.min(axis=2) for x in (si, dsi))
        chosen = [
            (int(lookaheads[a]), int(lookaheads[b]))
            for a, b in zip(best_si.argmin(axis=1), best_dsi.argmin(axis=1), strict=True)
        ]
        return best_si.min(axis=1) / best_dsi.min(axis=1), chosen

    def wait(self, repeats: int) -> None:
        """Do it in real time as well, with 7 servers."""
        from dsim.tasks import waits as realtime

        study = studies.load(
            path_of("table1"),
            [f"repeats={repeats}", "grid.targets=[7]", 'backend="wallclock"'],
        )
        frame = realtime.run_grid(study).table.to_pandas()
        frame["variant"] = frame["variant"].astype(str)
        frame["algorithm"] = frame["algorithm"].astype(str)

        def ratio(column: str) -> Floats:
            best = frame.groupby(["variant", "algorithm"])[column].min().unstack().loc[self.names]
            return np.asarray(best[SI] / best[DSI])

        self.waited, self.ideal = ratio("latency_mean_ms"), ratio("simulated_latency_mean_ms")
        self.overhead = float(frame["overhead_mean"].abs().max())
        self.waits = repeats
        self.notes = realtime.notes(frame)

    def claims(self) -> Iterator[Claim]:
        """What the paper says of it."""
        yield Claim(
            "Table 1: DSI is 1.29–1.92× as fast as SI",
            f"{self.published.min():.2f}–{self.published.max():.2f}×",
            f"{self.speedup.min():.2f}–{self.speedup.max():.2f}×; by row "
            f"{np.abs(self.speedup - self.published).mean():.2f} apart in the mean, rank "
            f"correlation {rank_correlation(self.speedup, self.published):+.2f}",
            PARTLY if (self.speedup > 1).all() else DIFFERS,
            "DSI is faster in every row, mostly by less than published. The paper does not say "
            "which lookahead each row used, nor its first-token latencies; it timed threads whose "
            "sleeps overshoot, with code that charges a block more at some rejections. The "
            "first-token latencies alone can move a row by more than a tenth (table below)",
        )
        yield Claim(
            "… and never slower than non-SI, run by run",
            "Theorem 1",
            f"slower in {self.never_slower} of {self.paths:,} runs",
            HOLDS if self.never_slower == 0 else DIFFERS,
            "all rows, lookaheads 1, 5, 10 and 1 … 7 target servers, 100 runs each",
        )
        if self.waited is None or self.ideal is None:
            yield NOT_WAITED
            return
        off = float(np.abs(self.waited / self.ideal - 1).max())
        yield NOT_WAITED._replace(
            ours=f"a speed-up is {off:.1%} off at most, a single latency {self.overhead:.1%}",
            verdict=HOLDS if off <= 0.03 else DIFFERS,
            why="tolerance 3 % of the table's speed-ups; the same draws in real and in simulated "
            "time",
        )

    def tables(self) -> Iterator[TextTable]:
        """The rows, published and ours."""
        yield TextTable(
            title="Table 1: speed-up of DSI over SI",
            caption=f"50 tokens, {self.repeats:,} runs; 1 … 7 target servers. Lookahead: the best "
            f"of SI, of DSI. Free: the best of 1 … {MAX_LOOKAHEAD} instead of 1, 5, 10.",
            head=["pair", "published", "simulated", "lookahead", "free", "lookahead"],
            rows=[
                [
                    name,
                    f"{self.published[i]:.2f}×",
                    f"{self.speedup[i]:.2f}×",
                    "{}, {}".format(*self.lookahead[i]),
                    f"{self.free[i]:.2f}×",
                    "{}, {}".format(*self.free_lookahead[i]),
                ]
                for i, name in enumerate(self.names)
            ],
        )
        yield TextTable(
            title="Table 1: what first-token latencies would change",
            caption="Speed-up of DSI over SI when the first forward of either model on the prompt "
            "takes this many times its latency (TTFT / TPOT, the same for both; the published "
            "ratios are not available). “cached”: none, as in the table above. 7 target servers.",
            head=["pair", "published", "cached", *(f"{ratio:g}" for ratio in RATIOS)],
            rows=[
                [
                    name,
                    f"{self.published[i]:.2f}×",
                    f"{self.speedup[i]:.2f}×",
                    *(f"{self.by_ratio[ratio][i]:.2f}×" for ratio in RATIOS),
                ]
                for i, name in enumerate(self.names)
            ],
        )
        if self.waited is not None and self.ideal is not None:
            yield TextTable(
                title="Table 1: real waits",
                caption=f"{self.waits} runs of every case, one at a time, 7 target servers. "
                + " ".join(self.notes),
                head=["pair", "published", "real waits", "same draws, simulated", "off"],
                rows=[
                    [
                        name,
                        f"{self.published[i]:.2f}×",
                        f"{self.waited[i]:.2f}×",
                        f"{self.ideal[i]:.2f}×",
                        f"{self.waited[i] / self.ideal[i] - 1:+.1%}",
                    ]
                    for i, name in enumerate(self.names)
                ],
                exact=False,
            )

    def panels(self) -> Iterator[Panel]:
        """Published beside ours."""
        import pandas as pd

        from dsim.report import charts

        frame = pd.DataFrame(
            {
                "variant": self.names,
                "algorithm": DSI,
                "speedup_vs_si": self.speedup if self.waited is None else self.waited,
                "published_speedup_vs_si": self.published,
            }
        )
        if self.ideal is not None:
            other = frame.assign(algorithm=SI, simulated_latency_mean_ms=self.ideal)
            frame = pd.concat([frame.assign(simulated_latency_mean_ms=1.0), other])
        chart = Chart(
            kind="published", x="variant", y="speedup_vs_si", title="Table 1: published and ours"
        )
        yield from charts.draw(chart, frame, ["variant"], 20)


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)
