"""The report of the largest study that ships: its size, and how long a browser takes for it.

python benchmarks/report.py [STUDY]

Needs Chromium and playwright. The page is opened from the disk with the network off. Tables, and
charts as they are drawn, answer at once; what is timed is the first chart, and then all of them.
The reference is an empty page in the same browser.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from dsim.study import shipped
from dsim.study.executors import Executor
from dsim.study.loader import load
from dsim.system import available_cores
from dsim.tasks.run import run_study
from tests.pages import CHROMIUM

TIMES = 5
MB = 1e6


def seconds(browser: Browser, path: Path, ready: str) -> float:
    """Median time from the address to an answer, each time in a fresh profile."""
    found = []
    for _ in range(TIMES):
        context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True)
        page = context.new_page()
        begin = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector(ready, state="attached")
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        found.append(time.perf_counter() - begin)
        context.close()
    return statistics.median(found)


def main() -> None:
    """Print size and time of one report."""
    name = sys.argv[1] if len(sys.argv) > 1 else "heatmap-paper"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        out = Path(folder) / "out"
        executor = Executor(jobs=len(available_cores()))
        run_study(load(shipped.path_of(name)), out, executor=executor)
        report, empty = out / "report.html", Path(folder) / "empty.html"
        empty.write_text("<!DOCTYPE html><title>-</title><link rel='icon' href='data:,'><p>")
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        nothing = seconds(browser, empty, "p")
        first = seconds(browser, report, "body[data-ready]")
        taken = seconds(browser, report, "body[data-drawn]")
        browser.close()
        size = report.stat().st_size / MB
        print(f"{name}: {size:.2f} MB; first chart after {first:.2f} s, all after {taken:.2f} s")
        print(f"an empty page: {nothing:.2f} s")


if __name__ == "__main__":
    main()
