from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from dsim.orchestrations import ORCHESTRATIONS
from dsim.report import lanes
from tests.lanes import KeptLane
from tests.pages import CHROMIUM

if "PYTEST_XDIST_WORKER" in os.environ:
    # A test process a core: with more threads in each they would wait for each other.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

# On CI the same examples every time; elsewhere new ones. Time limits would make tests flaky.
settings.register_profile("default", deadline=None, max_examples=150)
settings.register_profile("ci", deadline=None, max_examples=200, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=10_000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default")
)


@pytest.fixture(autouse=True)
def orchestrations_in_order():
    """What a test takes out for a while comes back at the end of the registry: put it in its place.

    Sentences and legends go by that order, and tests look at what earlier ones have found.
    """
    before = list(ORCHESTRATIONS)
    yield
    if [name for name in ORCHESTRATIONS if name in before] != before:
        now = dict(ORCHESTRATIONS)
        ORCHESTRATIONS.clear()
        ORCHESTRATIONS.update({name: now.pop(name) for name in before if name in now})
        ORCHESTRATIONS.update(now)


@pytest.fixture(scope="session", autouse=True)
def kept_lanes():
    """One pair of processes that draw for all pages of a test process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "Lane", KeptLane.take)
        yield
        KeptLane.end_all()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


def pytest_terminal_summary(terminalreporter):
    """Append the reason of every skipped test to a file, for ``make test`` to print at its end."""
    if path := os.environ.get("PYTEST_SKIPS_TO"):
        skipped = terminalreporter.stats.get("skipped", [])
        with Path(path).open("a", encoding="utf-8") as file:
            for report in skipped:
                reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else "?"
                file.write(f"{report.nodeid.split('::')[0]}: {reason}\n")
