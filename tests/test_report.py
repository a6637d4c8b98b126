"""The report, opened in a real browser with the network off."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import sync_playwright

from dsim import charts
from dsim.cli import main
from dsim.run import run_study
from dsim.study import Chart, load, loads

STUDIES = Path(__file__).parent.parent / "studies"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
MARKS = "g.role-mark.mark-rect path, g.role-mark.mark-symbol path"
needs_browser = pytest.mark.skipif(
    not CHROMIUM and not os.environ.get("CI"), reason="no chromium on this machine"
)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield opened
        opened.close()


class Page:
    """A page that was opened, and everything that it complained of."""

    def __init__(self, browser, path, *, width=1280, scheme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        self.page = context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.resolve().as_uri())
        self.page.wait_for_selector("body[data-drawn]")

    def marks(self, number):
        return self.page.locator(f"#chart-{number}").locator(MARKS).count()


@pytest.fixture(scope="module")
def heatmap(tmp_path_factory):
    folder = tmp_path_factory.mktemp("heatmap") / "out"
    run_study(load(STUDIES / "heatmap.toml"), folder)
    return folder


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_heatmap_report_in_a_browser(browser, heatmap, width, scheme):
    opened = Page(browser, heatmap / "report.html", width=width, scheme=scheme)
    page = opened.page
    assert opened.complaints == []
    assert opened.requests == [(heatmap / "report.html").as_uri()]
    assert [opened.marks(number) for number in (1, 2, 3, 4)] == [20 * 21] * 4
    # Nothing sticks out, neither on a laptop nor on a phone.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    titles = page.locator("figure h3").all_inner_texts()
    assert titles == [
        "SI against non-SI",
        "DSI against SI",
        "DSI against non-SI",
        "DSI against the better of SI and non-SI",
    ]
    # Text that can be read on its ground.
    ink, ground = page.evaluate(
        "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
    )
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, ground)]
    assert (
        (light[0] > 600 and light[1] < 150) if scheme == "dark" else light[0] < 150 < 600 < light[1]
    )


@needs_browser
def test_a_tooltip_appears_on_hover(browser, heatmap):
    page = Page(browser, heatmap / "report.html").page
    cell = page.locator("#chart-4").locator(MARKS).nth(100)
    cell.scroll_into_view_if_needed()
    cell.hover()
    tooltip = page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    text = tooltip.inner_text()
    for words in (
        "speed-up of DSI",
        "best lookahead of DSI",
        "target servers busy at once",
        "acceptance rate",
        "compared with",
    ):
        assert words in text


@needs_browser
def test_slowdowns_are_pink_and_speedups_blue(browser, heatmap):
    page = Page(browser, heatmap / "report.html").page
    table = pd.read_parquet(heatmap / "results.parquet")
    at_best = charts.best(table, ["lookahead"])
    slower = charts.compare(at_best, "si", "nonsi", ["drafter_latency_relative", "acceptance_rate"])
    fills = (
        page.locator("#chart-1")
        .locator(MARKS)
        .evaluate_all("marks => marks.map(mark => mark.getAttribute('fill'))")
    )
    rgb = [tuple(map(int, re.findall(r"\d+", fill))) for fill in fills]
    pink = [r > b + 10 and r > g + 30 for r, g, b in rgb]
    assert sum(pink) == int((slower["speedup"].round(4) < 1).sum()) > 100


@needs_browser
@pytest.mark.parametrize("name", ["sanity", "lookahead", "servers", "table1"])
def test_the_other_shipped_studies_in_a_browser(browser, tmp_path, name):
    study = load(STUDIES / f"{name}.toml")
    run_study(study, tmp_path / name)
    opened = Page(browser, tmp_path / name / "report.html")
    assert opened.complaints == []
    at_best = charts.best(
        pd.read_parquet(tmp_path / name / "results.parquet"), study.settings["minimise"]
    )
    panels = [p for c in study.charts for p in charts.draw(c, at_best, study.settings["minimise"])]
    assert len(panels) == {"sanity": 2, "lookahead": 4, "servers": 6, "table1": 1}[name]
    assert [opened.marks(n + 1) for n in range(len(panels))] == [p.marks for p in panels]


@needs_browser
def test_a_large_map_is_drawn_on_canvas(browser, tmp_path):
    """Over 6,000 cells: the paper's map has 10,100."""
    study = load(
        STUDIES / "heatmap-paper.toml",
        ["tokens=20", "repeats=1", "lookahead=3", "title=large"],
    )
    assert study.case_count == 10_100
    run_study(study, tmp_path / "out")
    opened = Page(browser, tmp_path / "out" / "report.html")
    assert opened.complaints == []
    assert opened.page.locator("#chart-4 canvas").count() == 1
    marks = opened.page.evaluate(
        """() => {
          const count = (node) => node.marktype === "rect" && node.role === "mark"
            ? node.items.length
            : (node.items ?? []).reduce((sum, item) => sum + count(item), 0);
          return dsimViews.map(view => count(view.scenegraph().root));
        }"""
    )
    assert marks == [10_100] * 4


@needs_browser
def test_a_timeline_in_a_browser(browser, tmp_path):
    path = tmp_path / "timeline.html"
    with pytest.raises(SystemExit) as leave:
        main(["simulate", "--accepts", "110111", "--lookahead", "2", "--timeline", str(path)])
    assert leave.value.code == 0
    opened = Page(browser, path)
    assert opened.complaints == []
    # non-SI: six passes; SI: two rounds of three; DSI: see test_engines.
    assert opened.marks(1) == 6
    assert opened.marks(2) == 4 + 2
    rejected = opened.page.locator("#chart-3 g.role-mark.mark-rule line")
    assert rejected.count() == 1
    opened.page.locator("#chart-3").locator(MARKS).first.hover()
    tooltip = opened.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    assert "server" in tooltip.inner_text()


def test_a_page_cannot_be_broken_by_its_texts(tmp_path):
    """A title is text, whatever stands in it."""
    evil = "</script><script>alert(1)</script>"
    study = loads(
        "tokens = 5\n[grid]\nlookahead = [1, 2]\n[[variants]]\nname = '''" + evil + "'''\n"
        "[[charts]]\nkind = 'lines'\nx = 'lookahead'\ny = 'drafts'\ntitle = '''" + evil + "'''",
        overrides=[f"title='{evil}'", f"description='{evil}'"],
    )
    run_study(study, tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_best_takes_the_fastest_then_the_fewest_servers_then_the_smallest_lookahead():
    frame = pd.DataFrame(
        {
            "algorithm": ["nonsi"] * 4 + ["dsi"] * 4,
            "acceptance_rate": [0.1] * 4 + [0.1] * 4,
            "seed": [1, 1, 2, 2] * 2,
            "lookahead": [1, 2, 1, 2] * 2,
            "latency_mean_ms": [9.0, 9.0, 8.0, 8.0, 5.0, 5.0, 7.0, 4.0],
            "peak_targets": [1, 1, 1, 1, 3, 2, 1, 9],
        }
    )
    found = charts.best(frame, ["lookahead"]).set_index(["algorithm", "seed"])
    assert found["lookahead"].to_dict() == {
        ("nonsi", 1): 1,
        ("nonsi", 2): 1,
        ("dsi", 1): 2,
        ("dsi", 2): 2,
    }
    assert found.loc[("dsi", 1), "speedup_vs_nonsi"] == 9 / 5
    assert found.loc[("dsi", 2), "speedup_vs_nonsi"] == 8 / 4
    assert found["speedup_vs_si"].isna().all()


def test_compare_with_the_better_of_two():
    frame = pd.DataFrame(
        {
            "algorithm": ["nonsi", "si", "dsi"] * 2,
            "seed": [1, 1, 1, 2, 2, 2],
            "latency_mean_ms": [10.0, 12.0, 5.0, 10.0, 8.0, 4.0],
        }
    )
    found = charts.compare(frame, "dsi", "best", ["seed"])
    assert found["speedup"].tolist() == [2.0, 2.0]
    assert found["other"].tolist() == ["non-SI", "SI"]


def test_marginal_gains():
    frame = pd.DataFrame(
        {
            "algorithm": ["dsi"] * 3,
            "targets": [1, 2, 4],
            "latency_mean_ms": [9.0, 6.0, 5.0],
            "speedup_vs_nonsi": [1.0, 1.5, 1.75],
        }
    )
    chart = Chart(kind="marginal", x="targets", y="speedup_vs_nonsi")
    (panel,) = charts.draw(chart, frame)
    assert panel.chart.data["gain"].tolist() == [0.5, 0.25]
    assert panel.chart.data["before"].tolist() == [1, 2]
