"""One report of each kind in a real browser: the answer first, nothing cut, nothing overlapping."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.study.loader import loads
from dsim.tasks.compare import compare
from dsim.tasks.run import run_study
from tests.pages import CHROMIUM, Page, needs_browser
from tests.tasks.test_run import SMALL

DEPLOYMENT = """
title = "Latency under load"
repeats = 3
tokens = 20
target.latency_ms = 20
drafter.latency_ms = 2
workload.requests = 60
cluster = {targets = 4, drafters = 4}
slo.latency_ms = 300
[grid]
workload.rate_per_s = [1, 2, 4, 8, 9]
[[variants]]
name = "EAGLE-3 on the GPUs of the target, with a long name"
algorithms = ["si"]
[[variants]]
name = "DSI on four GPUs"
algorithms = ["dsi"]
[[charts]]
kind = "lines"
x = "workload.rate_per_s"
y = "latency_mean_ms"
[[charts]]
kind = "lines"
x = "workload.rate_per_s"
y = "good_share"
"""
LINES = """
tokens = 30
repeats = 3
[grid]
acceptance.rate = [0.2, 0.9]
lookahead = [1, 2, 3, 4, 10]
[[charts]]
kind = "lines"
x = "lookahead"
y = "latency_mean_ms"
"""
ADVISE = "advise --target-latency 18 --drafter-latency 1 --acceptance 0.75 --gpus 4 --rate 0.2"
TIMELINE = "simulate --tokens 14 --repeats 1 --acceptance 0.75 --lookahead 2"

# Pairs of texts of one chart that overlap, and texts that stick out of their figure.
FAULTS = """() => {
  const faults = [], box = e => e.getBoundingClientRect();
  for (const figure of document.querySelectorAll("figure")) {
    const texts = [...figure.querySelectorAll("svg text")].filter(e => e.textContent.trim()
      && getComputedStyle(e).opacity !== "0" && e.getAttribute("opacity") !== "0" && box(e).width);
    const frame = box(figure), menu = figure.querySelector("summary");
    const all = menu ? [...texts, menu] : texts;
    const name = e => `“${e.textContent.trim() || "menu"}”`;
    all.forEach((one, i) => {
      const a = box(one);
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1)
        faults.push(`${name(one)} is cut`);
      for (const other of all.slice(i + 1)) {
        const b = box(other);
        if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5
            && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3)
          faults.push(`${name(one)} and ${name(other)} overlap`);
      }
    });
  }
  if (document.documentElement.scrollWidth > innerWidth) faults.push("the page scrolls sideways");
  for (const table of document.querySelectorAll("table"))
    if (!table.parentElement.matches(".scroll")) faults.push("a table that cannot scroll");
  return faults;
}"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One report of each kind."""
    folder = tmp_path_factory.mktemp("reports")
    run_study(loads(SMALL), folder / "map")
    run_study(loads(LINES), folder / "lines")
    run_study(loads(DEPLOYMENT), folder / "deployment")
    compare([f"measured={folder / 'lines'}", f"simulated={folder / 'lines'}"], folder / "both")
    for words, option, name in ((ADVISE, "--out", "advise"), (TIMELINE, "--timeline", "timeline")):
        path = folder / name / "report.html"
        path.parent.mkdir()
        found = CliRunner().invoke(main, [*words.split(), option, str(path)])
        assert found.exit_code == 0, found.output
    return folder


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


KINDS = ("map", "lines", "deployment", "both", "advise", "timeline")


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_and_nothing_overlaps(reports, browser, kind, width, scheme):
    opened = Page(browser, reports / kind / "report.html", width=width, scheme=scheme)
    assert opened.complaints == []
    assert opened.page.evaluate(FAULTS) == []


@needs_browser
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "timeline"])
def test_the_answer_comes_first_then_charts_then_tables(reports, browser, kind):
    page = Page(browser, reports / kind / "report.html").page
    tops = [
        page.locator(what).first.bounding_box()["y"] for what in (".answer", "figure", ".scroll")
    ]
    assert tops == sorted(tops)
    assert any(letter.isdigit() for letter in page.locator(".answer").first.inner_text())


@needs_browser
def test_tables_are_sorted_and_filtered(reports, browser):
    page = Page(browser, reports / "both" / "report.html").page
    table = page.locator("table.data").last
    rows = table.locator("tbody tr:visible")
    whole = int(table.locator("tbody tr").count())
    assert rows.count() < whole  # long ones start folded
    page.get_by_role("button", name=f"Show all {whole} rows").click()
    assert rows.count() == whole
    head = table.locator("thead button", has_text="simulated")
    for order, wanted in (("ascending", sorted), ("descending", lambda v: sorted(v)[::-1])):
        head.click()
        column = table.locator("thead th").all_inner_texts()
        at = next(i for i, name in enumerate(column) if name.startswith("simulated"))
        cells = table.locator(f"tbody tr td:nth-child({at + 1})").all_inner_texts()
        values = [float(cell.split()[0].replace(",", "")) for cell in cells]
        assert values == wanted(values), order
    page.get_by_role("searchbox").last.fill("dsi 10")
    assert 0 < rows.count() < whole
