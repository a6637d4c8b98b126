"""Charts of a page that go together: picked names, marked cells, and sliders, in a real browser."""

from __future__ import annotations

import pytest

from dsim.study.loader import loads
from dsim.tasks.run import run_study
from tests.pages import MARKS, Page, needs_browser

STUDY = """
tokens = 20
repeats = 3
[grid]
drafter.latency_ms = [1, 2, 5]
acceptance.rate = [0.2, 0.5, 0.9]
lookahead = [1, 2, 3]
"""
LINES = """
[[charts]]
kind = "lines"
x = "lookahead"
y = "ms_per_token"
[[charts]]
kind = "lines"
x = "lookahead"
y = "drafts"
"""
MAPS = """
minimise = ["lookahead"]
[[charts]]
kind = "heatmap"
x = "drafter.latency_ms"
y = "acceptance.rate"
show = "si"
against = "nonsi"
[[charts]]
kind = "winners"
x = "drafter.latency_ms"
y = "acceptance.rate"
value = "latency_mean_ms"
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("linked")
    run_study(loads(STUDY + LINES), folder / "lines")
    minimise, charts = MAPS.strip().split("\n", 1)
    run_study(loads(f"{minimise}\n{STUDY}{charts}"), folder / "maps")
    return folder


def faded(page, number):
    """Of the points of a chart that is shown, how many have faded."""
    opacities = (
        page.locator(f"#chart-{number}")
        .locator(MARKS)
        .evaluate_all("marks => marks.map(m => Number(m.getAttribute('opacity') ?? 1))")
    )
    return sum(opacity < 0.5 for opacity in opacities)


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_a_name_that_is_picked_in_one_chart_stands_out_in_all(browser, reports, width):
    opened = Page(browser, reports / "lines" / "report.html", width=width)
    page = opened.page
    shown = [int(one.removeprefix("chart-")) for one in _shown(page)]
    assert [faded(page, number) for number in shown] == [0, 0]
    page.locator(f"#chart-{shown[0]} g.role-legend-label text", has_text="DSI").click()
    assert [faded(page, number) for number in shown] == [6, 6]  # non-SI and SI, 3 points each
    chip = page.get_by_role("button", name="DSI", exact=True)
    assert chip.get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="non-SI", exact=True).click()
    assert [faded(page, number) for number in shown] == [3, 3]
    page.locator(f"#chart-{shown[1]} svg.marks").click(
        position={"x": 2, "y": 2}
    )  # beside all marks
    assert [faded(page, number) for number in shown] == [0, 0]
    assert opened.complaints == []


@needs_browser
def test_sliders_choose_the_charts_of_a_grid_with_more_axes(browser, reports):
    opened = Page(browser, reports / "lines" / "report.html")
    page = opened.page
    titles = page.locator("figure:visible h3")
    assert page.locator("figure").count() == 2 * 3 * 3
    assert page.locator("input[type=range]").count() == 2
    assert titles.count() == 2
    page.get_by_role("slider", name="drafter latency").fill("2")
    page.get_by_role("slider", name="acceptance rate").fill("1")
    for title in titles.all_inner_texts():
        assert "drafter latency 5" in title
        assert "acceptance rate 0.5" in title
    page.wait_for_function("document.body.dataset.drawn >= 4")
    assert [opened.marks(int(one.removeprefix("chart-"))) for one in _shown(page)] == [9, 9]
    page.get_by_label("all side by side").check()
    assert titles.count() == 2 * 3 * 3
    page.wait_for_function("document.body.dataset.drawn == 18")
    assert opened.complaints == []


@needs_browser
def test_a_cell_that_is_marked_in_one_map_is_marked_in_all(browser, reports):
    opened = Page(browser, reports / "maps" / "report.html", scheme="dark")
    page = opened.page
    rims = "g.role-mark.mark-rect path[stroke]"
    assert page.locator("figure").count() == 2
    assert page.locator(".marked:visible").count() == 0
    cell = page.locator("#chart-1").locator(MARKS).nth(4)
    cell.click()
    notes = page.locator(".marked:visible").all_inner_texts()
    assert notes[0].startswith("Marked: speed-up of SI ")
    assert notes[1].startswith("Marked: first ")
    for number in (1, 2):
        assert page.locator(f"#chart-{number} {rims}").count() >= 2
        (rim,) = page.evaluate(f"dsimViews[{number - 1}].data('rim')")
        assert (rim["drafter_latency_ms"], rim["acceptance_rate"]) == (2, 0.5)
    cell.click()
    assert page.locator(".marked:visible").count() == 0
    assert opened.complaints == []


def _shown(page):
    return page.locator("figure:visible .chart").evaluate_all("all => all.map(one => one.id)")


@needs_browser
def test_the_table_of_a_study_fits_a_laptop(browser, reports):
    """Its answer is what each algorithm's best lookahead is."""
    page = Page(browser, reports / "maps" / "report.html").page
    table = page.locator(".scroll").first
    heads = table.locator("th").all_inner_texts()
    assert heads[:2] == ["algorithm", "best lookahead"]
    assert len(heads) == 8
    wide, room = table.evaluate("box => [box.scrollWidth, box.clientWidth]")
    assert wide <= room
