"""From process start to exit: what a person waits for. The reference is Python that does nothing.

python benchmarks/start.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STUDIES = Path(__file__).parent.parent / "studies"
TIMES = 5


def seconds(words: list[str], folder: str) -> float:
    """Median wall time of a command."""
    found = []
    for _ in range(TIMES):
        begin = time.perf_counter()
        subprocess.run(words, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


def main() -> None:
    """Print a line for each command."""
    dsim = [sys.executable, "-m", "dsim"]
    with tempfile.TemporaryDirectory() as folder:
        nothing = seconds([sys.executable, "-c", "pass"], folder)
        print(f"{'python -c pass':45} {nothing:6.2f} s")
        for words in (
            ["--help"],
            ["simulate"],
            ["run", str(STUDIES / "sanity.toml"), "--quiet"],
            ["run", str(STUDIES / "heatmap.toml"), "--quiet"],
        ):
            taken = seconds([*dsim, *words], folder)
            shown = " ".join(Path(w).name if "/" in w else w for w in words)
            print(f"{'dsim ' + shown:45} {taken:6.2f} s   {taken / nothing:6.1f} × nothing")


if __name__ == "__main__":
    main()
