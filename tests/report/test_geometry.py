"""One report of each kind in a real browser: the answer first, nothing cut, nothing overlapping."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.study.loader import loads
from dsim.tasks.advise import search as layouts
from dsim.tasks.compare import compare
from dsim.tasks.run import run_study
from dsim.tasks.serving import search as replicas
from dsim.tasks.validate.page import write_report
from tests import ROOT
from tests.pages import CHROMIUM, FAULTS, TEXTS, Page, needs_browser
from tests.report.test_linked import LINES as SLIDERS
from tests.report.test_linked import STUDY
from tests.tasks.test_run import SMALL
from tests.tasks.test_validate import World, validate

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
TRACE = ROOT / "tests" / "data" / "blis" / "03_medium" / "trace.csv"
OTHERS = ROOT / "dsim" / "published" / "pipespec_humaneval.csv"
# Other pages, and the commands that write them.
COMMANDS = {
    "advise": "advise --gpus 2 --rate 0.2 --tokens 10 --out",
    "serving": "advise --gpu h100 --gpus 1 --target llama-3.2-1b --drafter mtp --rate 2 "
    "--prompt-tokens 50 --tokens 5 --slo-ttft 300 --jobs 1 --out",
    "timeline": "simulate --tokens 14 --repeats 1 --acceptance 0.75 --lookahead 2 --timeline",
    "latency": "latency llama-3.1-8b --drafter eagle3 --out",
    "trace": f"trace {TRACE} --out",
    "field": f"reproduce --quiet --field {OTHERS} --out",
}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """One report of each kind."""
    folder = tmp_path_factory.mktemp("reports")
    run_study(loads(SMALL), folder / "map")
    run_study(loads(LINES), folder / "lines")
    run_study(loads(DEPLOYMENT), folder / "deployment")
    compare([f"measured={folder / 'lines'}", f"simulated={folder / 'lines'}"], folder / "both")
    run_study(loads(STUDY + SLIDERS), folder / "sliders")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "MAX_EVENTS", 50_000)
        for name, count in (("SCREENED", 40), ("SWEPT", 40), ("CONFIRMED", 80)):
            patch.setattr(replicas, name, count)
        for name, command in COMMANDS.items():
            path = folder / name / "report.html"
            path.parent.mkdir()
            out = path if name != "field" else path.parent
            found = CliRunner().invoke(main, [*command.split(), str(out)])
            assert found.exit_code == 0, found.output
    (folder / "field" / "field.html").rename(folder / "field" / "report.html")
    (folder / "validation").mkdir()
    write_report(validate(World(), prompts=2)[0], folder / "validation" / "report.html")
    return folder


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


KINDS = ("map", "lines", "sliders", "deployment", "both", "validation", *COMMANDS)


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_cut_and_nothing_overlaps(reports, browser, kind, width, scheme):
    opened = Page(browser, reports / kind / "report.html", width=width, scheme=scheme)
    if width == 1280:
        the_answer_comes_first_then_charts_then_tables(opened.page, kind)
    assert opened.complaints == []
    assert opened.page.evaluate(FAULTS) == []
    for summary in opened.page.locator("summary").all():
        if not summary.locator("svg").count():
            summary.click()
    assert opened.page.evaluate(TEXTS, "body") == []
    opened.close()


@needs_browser
def test_faults_are_found(browser):
    page = browser.new_page(viewport={"width": 400, "height": 300})
    page.set_content(
        "<p style='color: #777; background: #888'>pale</p>"
        "<p style='width: 40px; overflow: hidden; white-space: nowrap'>much too long</p>"
        "<p style='position: absolute; top: 200px'>under</p>"
        "<p style='position: absolute; top: 204px'>over</p>"
        "<p style='white-space: nowrap; width: 900px; text-align: right'>outside</p><p>fine</p>"
    )
    assert sorted(fault.split(" has ")[0] for fault in page.evaluate(TEXTS, "body")) == [
        "the page scrolls sideways",
        "“much too long” is cut",
        "“outside” sticks out",
        "“pale”",
        "“under” and “over” overlap",
    ]


def the_answer_comes_first_then_charts_then_tables(page, kind):
    if kind == "timeline":
        return
    found = [page.locator(what) for what in (".answer", "figure", "main > section .scroll")]
    tops = [
        one.first.bounding_box()["y"] for one in found if one.count() and one.first.is_visible()
    ]
    assert tops == sorted(tops)
    assert len(tops) >= 2
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
