"""The paper's Table 1: how long the simulated table takes, and how far real waits are from it.

    python benchmarks/table1.py           # simulated: 210 cases × 1,000 runs × 3 algorithms
    python benchmarks/table1.py --waits   # and as real waits, one run of each case, 7 servers

The waits take two minutes, and mean something on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dsim.study.grid import run_grid
from dsim.study.loader import load
from dsim.tasks import waits as realtime

STUDY = Path(__file__).parent.parent / "studies" / "table1.toml"


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--waits", action="store_true")
    waits = parser.parse_args().waits
    began = time.perf_counter()
    table = run_grid(load(STUDY)).table
    took = time.perf_counter() - began
    print(f"simulated: {table.num_rows} rows in {took:.2f} s (goal: 2 s)")
    if not waits:
        return
    settings = ['backend="wallclock"', "repeats=1", "grid.targets=[7]"]
    frame = realtime.run_grid(load(STUDY, settings)).table.to_pandas()
    for note in realtime.notes(frame):
        print(note)
    best = frame.groupby(["variant", "algorithm"], observed=True)[
        ["latency_mean_ms", "simulated_latency_mean_ms"]
    ].min()
    speedups = best.xs("si", level="algorithm") / best.xs("dsi", level="algorithm")
    off = speedups["latency_mean_ms"] / speedups["simulated_latency_mean_ms"] - 1
    print(f"speed-up of DSI over SI, real against simulated: {off.abs().max():.2%} off at most")
    print("(goal: 3 %)")


if __name__ == "__main__":
    main()
