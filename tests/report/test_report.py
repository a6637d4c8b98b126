"""The report, opened in a real browser with the network off."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from dsim.cli.main import main
from dsim.report import analysis, charts
from dsim.report import page as reports
from dsim.study.columns import column_of
from dsim.study.grid import run_grid
from dsim.study.loader import load, loads
from dsim.study.study import Chart
from dsim.tasks.run import run_study
from tests import STUDIES
from tests.pages import MARKS, Page, needs_browser


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
        "most target servers busy at once",
        "acceptance rate",
        "compared with",
    ):
        assert words in text


@needs_browser
def test_slowdowns_are_pink_and_speedups_blue(browser, heatmap):
    page = Page(browser, heatmap / "report.html").page
    table = pd.read_parquet(heatmap / "results.parquet")
    axes = ["drafter_latency_relative", "acceptance_rate", "lookahead"]
    at_best = analysis.best(table, axes, ["lookahead"])
    slower = analysis.compare(
        at_best, "si", "nonsi", ["drafter_latency_relative", "acceptance_rate"]
    )
    fills = (
        page.locator("#chart-1")
        .locator(MARKS)
        .evaluate_all("marks => marks.map(mark => mark.getAttribute('fill'))")
    )
    rgb = [tuple(map(int, re.findall(r"\d+", fill))) for fill in fills]
    pink = [r > b + 10 and r > g + 30 for r, g, b in rgb]
    assert sum(pink) == int((slower["speedup"].round(4) < 1).sum()) > 100
    grey = [max(colour) - min(colour) < 12 for colour in rgb]
    assert sum(grey) == int((slower["speedup"].round(3) == 1).sum()) > 0


@needs_browser
@pytest.mark.parametrize("name", ["sanity", "lookahead", "servers", "table1"])
def test_the_other_shipped_studies_in_a_browser(browser, tmp_path, name):
    study = load(STUDIES / f"{name}.toml")
    run_study(study, tmp_path / name)
    opened = Page(browser, tmp_path / name / "report.html")
    assert opened.complaints == []
    axes, minimise = analysis.axes_of(study), list(study.settings["minimise"])
    table = pd.read_parquet(tmp_path / name / "results.parquet")
    at_best = analysis.best(table, axes, minimise)
    shown = [axis for axis in axes if axis not in minimise]
    panels = [p for chart in study.charts for p in charts.draw(chart, at_best, shown)]
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
    assert marks == [10_100] * 6


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


@needs_browser
@pytest.mark.parametrize("width", [1280, 390])
def test_legends_and_titles_are_whole(browser, tmp_path, width):
    text = """
    tokens = 5
    algorithms = ["si"]
    [grid]
    drafter.latency_ms = [1, 2]
    [[charts]]
    kind = "lines"
    x = "drafter.latency_ms"
    y = "ms_per_token"
    """
    names = ["EAGLE-3 on the target's GPUs", "SI on a GPU of its own", "Medusa, 4 heads"]
    variants = "".join(f'[[variants]]\nname = "{n}"\nseed = {i}\n' for i, n in enumerate(names))
    study = loads(text + variants)
    table = run_grid(study).table.to_pandas()
    (panel,) = charts.draw(study.charts[0], table.assign(series=table["variant"]), [])
    title = "latency of the drafter, in milliseconds, as a study sets it"
    for layer in panel.chart.layer:
        layer.encoding.x.title = title
    reports.write(tmp_path / "page.html", reports.Page(title="legends"), [panel], option="--out")
    opened = Page(browser, tmp_path / "page.html", width=width)
    labels = opened.page.locator("g.role-legend-label text")
    # A label on two lines has no space where it breaks.
    shown = [text.replace(" ", "") for text in labels.all_text_contents()]
    assert shown == [name.replace(" ", "") for name in names]
    svg = opened.page.locator("#chart-1 svg.marks").bounding_box()
    under = opened.page.locator("g.role-axis-title text").first
    lines = under.locator("tspan").all_text_contents() or under.all_text_contents()
    assert " ".join(line.strip() for line in lines) == title
    texts = [under, *map(labels.nth, range(len(names)))]
    for box in (text.bounding_box() for text in texts):
        assert svg["x"] <= box["x"] < box["x"] + box["width"] <= svg["x"] + svg["width"]
    # The page is drawn again where the colours of the machine change.
    opened.page.emulate_media(color_scheme="dark")
    opened.page.wait_for_function("!dsimViews[0].container().innerHTML.includes('#3d4856')")
    assert opened.complaints == []


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
    found = analysis.best(frame, ["seed", "lookahead"], ["lookahead"]).set_index(
        ["algorithm", "seed"]
    )
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
    found = analysis.compare(frame, "dsi", "best", ["seed"])
    assert found["speedup"].tolist() == [2.0, 2.0]
    assert found["other"].tolist() == ["non-SI", "SI"]


def test_published_values_beside_every_case_of_a_variant():
    frame = pd.DataFrame(
        {
            "variant": ["a"] * 4,
            "algorithm": ["si", "si", "dsi", "dsi"],
            "lookahead": [1, 5, 5, 1],
            "latency_mean_ms": [12.0, 9.0, 6.0, 6.0],
            "simulated_latency_mean_ms": [12.0, 8.0, 4.0, 3.0],
            "speedup_vs_si": [1.0, 1.0, 1.5, 2.0],
            "published_speedup_vs_si": [1.6] * 4,
        }
    )
    chart = Chart(kind="published", x="variant", y="speedup_vs_si")
    (panel,) = charts.draw(chart, frame, ["variant", "lookahead"])
    dots = panel.chart.layer[1].data
    assert dots.loc[dots["who"] == "same draws, simulated", "value"].tolist() == [2.0, 4.0]


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
    (panel,) = charts.draw(chart, frame, ["targets"])
    assert panel.chart.data["gain"].tolist() == [0.5, 0.25]
    assert panel.chart.data["before"].tolist() == [1, 2]


def at_its_best(text, *overrides):
    """The summary's numbers: best SI latencies, and the number of points."""
    study = loads(text, overrides=overrides)
    axes, minimise = analysis.axes_of(study), [column_of(k) for k in study.settings["minimise"]]
    table = run_grid(study).table.to_pandas()
    return study, axes, minimise, analysis.best(table, axes, minimise)


MAP = """
tokens = 100
minimise = ["lookahead"]
[target]
latency_ms = 1.0
[grid]
drafter.latency_relative = [0.1, 0.3, 0.9]
acceptance.rate = [0.2, 0.8]
lookahead = { start = 1, stop = 12, step = 1 }
[[charts]]
kind = "heatmap"
x = "drafter.latency_relative"
y = "acceptance.rate"
show = "dsi"
against = "si"
"""


@pytest.mark.parametrize("targets", ["enough", "paper"])
def test_the_best_lookahead_does_not_depend_on_how_servers_are_counted(targets):
    """Servers that go along with the lookahead are no axis."""
    plain, counted = (at_its_best(MAP, f"targets={word}")[-1] for word in ("7", targets))
    assert len(plain) == len(counted) == 3 * 2 * 3
    for algorithm in ("nonsi", "si"):
        a, b = (
            f.loc[f["algorithm"] == algorithm, "latency_mean_ms"].tolist() for f in (plain, counted)
        )
        assert a == b


def test_every_axis_that_a_chart_lacks_gives_a_chart():
    """Also where one follows from others: the drafter's latency from lookahead and servers."""
    text = """
    targets = "enough"
    tokens = 50
    target.latency_ms = 30
    [grid]
    drafter.latency_ms = [1, 2, 5]
    lookahead = [1, 2, 3]
    [[charts]]
    kind = "lines"
    x = "lookahead"
    y = "ms_per_token"
    """
    study, axes, _, frame = at_its_best(text)
    titles = [panel.title for panel in charts.draw(study.charts[0], frame, axes)]
    assert [title.rpartition(" (")[2] for title in titles] == [
        "drafter latency 1 ms)",
        "drafter latency 2 ms)",
        "drafter latency 5 ms)",
    ]


def test_axes_are_found_without_a_study():
    for targets in ("7", "enough"):
        study = loads(MAP, overrides=[f"targets={targets}"])
        found = analysis.axes_in(run_grid(study).table.to_pandas())
        assert found == ["acceptance_rate", "lookahead", "drafter_latency_relative"]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["grid.drafter.latency_relative=[0.9, 0.95]", "grid.acceptance.rate=[0.1, 0.2]"],
            "slower",
        ),
        (["grid.acceptance.rate=[0.0, 1.0]"], "Pink"),
    ],
)
def test_a_caption_says_what_is_there(overrides, words):
    text = MAP.replace('show = "dsi"', 'show = "si"').replace('against = "si"', 'against = "nonsi"')
    study, axes, minimise, frame = at_its_best(text, *overrides)
    (panel,) = charts.draw(study.charts[0], frame, [a for a in axes if a not in minimise])
    speedups = frame.loc[frame["algorithm"] == "si", "speedup_vs_nonsi"]
    assert f"at most {speedups.max():.2f}×" in panel.caption
    assert words in panel.caption
    assert ("blue" in panel.caption) == bool((speedups >= 1).any())


def test_a_chart_with_nothing_to_show_is_named(tmp_path):
    study = loads(MAP, overrides=["max_targets=3"])
    finished = run_study(study, tmp_path / "out")
    assert "Chart 1 has nothing to show: no such case was simulated." in finished.lines
    assert not list((tmp_path / "out").glob("*.png"))


def test_axes_that_are_no_numbers(tmp_path):
    text = """
    tokens = 20
    [grid]
    preemptible = [true, false]
    lookahead = [1, 2]
    [[charts]]
    kind = "lines"
    x = "preemptible"
    y = "ms_per_token"
    [[charts]]
    kind = "lines"
    x = "lookahead"
    y = "ms_per_token"
    """
    run_study(loads(text), tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.svg"))) == 4


def test_names_stay_in_the_order_of_the_study():
    text = """
    tokens = 20
    minimise = ["lookahead"]
    [target]
    latency_cv = 0.1
    [grid]
    target.latency_model = ["lognormal", "constant", "gamma"]
    lookahead = [2, 1]
    """
    frame = run_grid(loads(text)).table.to_pandas()
    found = analysis.best(frame, analysis.axes_in(frame), ["lookahead"])
    si = found[found["algorithm"] == "si"]
    assert list(si["target_latency_model"]) == ["lognormal", "constant", "gamma"]


def test_marks_of_markdown_become_html_and_nothing_else_does():
    said = "by *other* rows, `p = 1 − 1/MAT`, 2 * 3 * 4 and <b>"
    html = "by <em>other</em> rows, <code>p = 1 − 1/MAT</code>, 2 * 3 * 4 and &lt;b&gt;"
    assert reports.marks(said) == html
    assert reports.marks(said, wanted=False) == said.replace("<b>", "&lt;b&gt;")
