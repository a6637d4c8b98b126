"""The vector engine on the shipped grids, beside a plain per-token loop of the same rules.

The loop follows one case token by token, as one writes it down at first; it is timed on a sample of
the grid's cases and scaled. It is checked, too: on its sample it has to come to the same latencies.

    python benchmarks/grid.py [STUDY.toml …]
"""

from __future__ import annotations

import random
import resource
import sys
import time
from pathlib import Path

from dsim.engines.simulate import simulate_case
from dsim.study.build import case_of
from dsim.study.grid import run_grid, simulate_grid
from dsim.study.loader import load

STUDIES = Path(__file__).parent.parent / "studies"
SAMPLE_CASES = 60


def si_loop(accepts: list[bool], t1: int, t2: int, k: int) -> int:
    """Latency of SI, token by token."""
    now, settled, wanted = 0, 0, len(accepts)
    while settled < wanted:
        drafts = 0
        while drafts < k and settled + drafts < wanted - 1:
            now += t1
            drafts += 1
        now += t2
        judged = 0
        while judged < drafts and accepts[settled]:
            settled += 1
            judged += 1
        settled += 1
    return now


def dsi_loop(accepts: list[bool], t1: int, t2: int, k: int, servers: int) -> int:
    """Latency of DSI: the clock goes from draft to draft and from pass to pass."""
    start, settled, wanted = 0, 0, len(accepts)
    while True:  # a branch
        drafted, sent, draft_over = settled, settled, start + t1
        passes = [(start + t2, settled)]  # when it is over, and its context end
        last = wanted - 1
        rejected_at = None
        while rejected_at is None:
            over, end = passes[0]
            if drafted < last and draft_over <= over:
                now = draft_over
                drafted += 1
                draft_over += t1
            else:
                now = over
                passes.pop(0)
                while settled <= end:
                    if settled == last:
                        return now
                    judged = settled < drafted
                    good = judged and accepts[settled]
                    settled += 1
                    if not good:
                        rejected_at = now
                        break
                if rejected_at is not None:
                    break
            waiting = drafted - sent
            due = waiting >= k or (drafted == last and waiting > 0) or not passes
            if len(passes) < servers and due:
                passes.append((now + t2, drafted))
                sent = drafted
        start = rejected_at


def main() -> None:
    """Time every grid, and the loop on a sample of it."""
    names = sys.argv[1:] or [str(STUDIES / "heatmap.toml"), str(STUDIES / "heatmap-paper.toml")]
    for name in names:
        study = load(Path(name))
        begin = time.perf_counter()
        simulate_grid(study)
        simulated_s = time.perf_counter() - begin
        begin = time.perf_counter()
        result = run_grid(study)
        table_s = time.perf_counter() - begin
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

        picks = random.Random(0).choices(range(study.case_count), k=SAMPLE_CASES)  # noqa: S311
        loop_s = 0.0
        for number in picks:
            values = {}
            for axis in reversed(study.grid):
                number, index = divmod(number, len(axis.values))  # noqa: PLW2901
                values[axis.key] = axis.values[index]
            case = case_of(study.of_variant(0) | values)
            draws = case.acceptance.draws(case.seed, case.repeats, case.tokens).tolist()
            t1, t2 = case.drafter.latency_ns, case.target.latency_ns
            begin = time.perf_counter()
            si = [si_loop(row, t1, t2, case.lookahead) for row in draws]
            dsi = [dsi_loop(row, t1, t2, case.lookahead, case.targets) for row in draws]
            loop_s += time.perf_counter() - begin
            assert si == simulate_case(case, "si").latency_ns.tolist()
            assert dsi == simulate_case(case, "dsi").latency_ns.tolist()
        whole_s = loop_s / len(picks) * study.case_count
        print(
            f"{Path(name).stem}: {study.case_count:,} cases × {study.settings['repeats']} repeats "
            f"× {study.settings['tokens']:,} tokens, engines {dict(result.engines)}\n"
            f"  vector engine      {simulated_s:10.2f} s  (with the table {table_s:.2f} s; "
            f"peak memory {peak_gib:.2f} GiB)\n"
            f"  per-token loop     {whole_s:10.0f} s  ({loop_s / len(picks) * 1e3:.1f} ms a case, "
            f"{len(picks)} cases timed and scaled)\n"
            f"  ratio              {whole_s / simulated_s:10.0f} ×"
        )


if __name__ == "__main__":
    main()
