"""The paper's experiments: what is claimed of them, the page, and the document."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.engines.simulate import simulate_case
from dsim.errors import UserError
from dsim.model import closed_forms as theory
from dsim.report import analysis, charts
from dsim.study.build import case_of
from dsim.study.loader import load, loads
from dsim.study.seal import differences
from dsim.study.study import Chart
from dsim.tasks.reproduce import page as reporting
from dsim.tasks.reproduce.claims import HOLDS, OPEN, PARTLY, Reproduction
from dsim.tasks.reproduce.figure1 import Figure1
from dsim.tasks.reproduce.models import measured_pairs
from dsim.tasks.reproduce.table1 import RATIOS, Table1
from tests import ROOT, STUDIES
from tests.pages import FAULTS, Page, needs_browser


@pytest.fixture(scope="module")
def figure():
    return Figure1(0.05)


@pytest.fixture(scope="module")
def table1():
    return Table1()


def test_a_map_with_fewer_points_than_the_tables_says_so(figure, monkeypatch):
    """Its caption has another maximum."""
    note = "The map has 110 of the 420 points that claims and tables are of."
    assert not any("The map has" in panel.caption for panel in figure.panels())
    monkeypatch.setattr("dsim.tasks.reproduce.figure1.PICTURE_STEPS", 10)
    panels = list(figure.panels())
    assert len(panels) == 10
    assert all(panel.caption.endswith(note) for panel in panels)


def test_figure_1_is_what_single_cases_are(figure):
    rng = np.random.default_rng(0)
    for _ in range(6):
        i, j = rng.integers(len(figure.drafter)), rng.integers(len(figure.acceptance))
        point = {
            "drafter.latency_relative": float(figure.drafter[i]),
            "acceptance.rate": float(figure.acceptance[j]),
        }
        settings = figure.study.of_variant(0) | point

        def at(algorithm, lookahead, targets, settings=settings):
            case = case_of(settings | {"lookahead": int(lookahead), "targets": targets})
            return simulate_case(case, algorithm).latency_ns.mean() / 1e6

        assert figure.nonsi[i, j] == at("nonsi", 1, 7)
        assert figure.si.latency[i, j] == at("si", figure.si.lookahead[i, j], 7)
        assert figure.few.latency[i, j] == at("dsi", figure.few.lookahead[i, j], 7)
        assert figure.many.latency[i, j] == at("dsi", figure.many.lookahead[i, j], "enough")
        assert figure.one[i, j] == at("dsi", 1, "enough")
        assert figure.fixed_dsi[i, j] == at("dsi", 5, 7)
        assert figure.few.latency[i, j] <= at("dsi", rng.integers(1, 201), 7)
        assert figure.si.latency[i, j] <= at("si", rng.integers(1, 201), 7)


def test_the_maps_are_in_order(figure):
    assert (figure.many.latency <= figure.few.latency * (1 + 1e-12)).all()
    assert (figure.few.latency <= figure.fixed_dsi).all()
    assert (figure.si.latency <= figure.fixed_si).all()
    assert (figure.few.latency <= figure.nonsi).all()
    assert (figure.few.busy <= 7).all()
    expected = theory.dsi_expected(figure.drafter[3], 1.0, figure.acceptance[7], 1000)
    assert figure.proposition1[3, 7] == expected


def verdicts(claims):
    return {claim.claim: claim.verdict for claim in claims}


def test_the_claims_about_figure_1(figure):
    found = verdicts(figure.claims())
    assert found["DSI is never slower than non-SI"] == HOLDS
    assert found["DSI is never slower than SI in expectation"] == HOLDS
    assert found["Proposition 1: expected latency of DSI with lookahead 1"] == HOLDS
    assert found["SI is slower than non-SI with slow or inaccurate drafters"] == HOLDS
    assert found["⌈t2/(k·t1)⌉ target servers are enough"] == PARTLY


def test_a_claim_that_does_not_hold_is_said_not_to(figure):
    """Each verdict depends on what was found."""
    kept = dict(vars(figure))
    one = "Proposition 1: expected latency of DSI with lookahead 1"
    try:
        figure.few_slower = 1
        figure.one = kept["one"] * 1.2
        figure.few = kept["few"]._replace(latency=kept["si"].latency * 1.1)
        found = verdicts(figure.claims())
        assert found["DSI is never slower than non-SI"] == "differs"
        assert found["DSI is never slower than SI in expectation"] == PARTLY
        assert found[one] == "differs"
    finally:
        vars(figure).update(kept)
    assert verdicts(figure.claims())[one] == HOLDS


def test_table_1_is_the_study(table1):
    study = load(STUDIES / "table1.toml")
    assert table1.names == [name for name, _ in study.variants]
    assert (table1.speedup > 1).all()
    # Whoever chooses from more is not slower, and SI gains more from choosing than DSI.
    assert table1.free_lookahead[0][1] == 1
    case = case_of(study.of_variant(4) | {"lookahead": 5, "targets": 7})
    si = simulate_case(case, "si").latency_ns.mean()
    dsi = simulate_case(
        case_of(study.of_variant(4) | {"lookahead": 1, "targets": 7}), "dsi"
    ).latency_ns.mean()
    assert table1.lookahead[4] == (5, 1)
    assert table1.speedup[4] == pytest.approx(si / dsi)
    # With a first-token latency of once the latency, nothing but the prefill of each server is new.
    assert set(table1.by_ratio) == set(RATIOS)
    found = verdicts(table1.claims())
    assert found["Real waits take as long as simulated ones"] == OPEN
    assert found["Table 1: DSI is 1.29–1.92× as fast as SI"] == PARTLY
    assert found["… and never slower than non-SI, run by run"] == HOLDS


@pytest.mark.wallclock
def test_table_1_in_real_time(table1, monkeypatch):
    monkeypatch.setattr("dsim.tasks.reproduce.table1.path_of", lambda _: SHORT_TABLE)
    kept = dict(vars(table1))
    try:
        table1.wait(1)
        assert table1.waited.shape == table1.ideal.shape == (10,)
        claim = list(table1.claims())[-1]
        assert claim.verdict in (HOLDS, "differs")
        assert re.match(r"a speed-up is [\d.]+% off at most, a single latency [\d.]+%", claim.ours)
        (waits,) = (t for t in table1.tables() if not t.exact)
        assert len(waits.rows) == 10
        assert "overshot" in waits.caption
        (panel,) = table1.panels()
        assert panel.marks == 30  # published, real, simulated
    finally:
        vars(table1).update(kept)


@pytest.fixture(scope="module", autouse=True)
def short_table(tmp_path_factory):
    """Table 1 with 5 tokens and lookahead 1, which takes seconds of waiting."""
    global SHORT_TABLE  # noqa: PLW0603
    SHORT_TABLE = tmp_path_factory.mktemp("short") / "table1.toml"
    text = (STUDIES / "table1.toml").read_text().replace("tokens = 50", "tokens = 5")
    SHORT_TABLE.write_text(text.replace("lookahead = [1, 5, 10]", "lookahead = [1]"))


def test_the_document_is_what_the_command_writes(tmp_path, monkeypatch, table1):
    """Every number in docs/reproduction.md, at full resolution.

    The second page, of other people's measurements, has its own test: here it is only asked for.
    """
    asked = []
    monkeypatch.setattr("dsim.tasks.reproduce.run.Table1", lambda: table1)
    monkeypatch.setattr("dsim.tasks.field.rows.predict_shipped", lambda _: ["the rows"])
    monkeypatch.setattr("dsim.tasks.field.page.write_report", lambda *a, **b: asked.append((a, b)))
    path = tmp_path / "reproduction.md"
    words = ["reproduce", "--fast", "--out", str(tmp_path / "out"), "--markdown", str(path)]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    assert asked == [((["the rows"], tmp_path / "out" / "field.html"), {"whole": True})]
    written = path.read_text().replace(str(path), "docs/reproduction.md")
    assert written == (ROOT / "docs" / "reproduction.md").read_text()
    for words in ("holds: DSI is never slower than non-SI", "not done: Table 1 in real time: left"):
        assert words in result.stdout
    # What cannot be reproduced is said, on the page as well.
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the paper does not say which lookahead each row used" in page
    assert "the paper does not say which lookahead each row used" in written


@needs_browser
def test_the_page_in_a_browser(browser, figure, table1, tmp_path):
    found = Reproduction(
        claims=[*figure.claims(), *table1.claims()],
        tables=[*figure.tables(), *table1.tables()],
        panels=[*figure.panels(), *table1.panels()],
        skipped=["something: <because>"],
    )
    path = tmp_path / "deep" / "report.html"
    reporting.write_report(found, path)
    assert differences(path.parent) == []
    for width in (1280, 390):
        opened = Page(browser, path, width=width)
        assert opened.complaints == []
        assert opened.requests == [path.as_uri()]
        assert opened.page.evaluate(FAULTS) == []
    page = opened.page
    assert [opened.marks(n + 1) for n in range(len(found.panels))] == [
        p.marks for p in found.panels
    ]
    assert page.locator("section h2").all_inner_texts()[:2] == ["Charts", "The paper's claims"]
    assert page.locator("table").first.locator("tbody tr").count() == len(found.claims)
    assert page.locator(".note").all_inner_texts() == ["Not done here: something: <because>."]


def test_the_place_of_the_report_may_be_bad(tmp_path):
    (tmp_path / "file").write_text("")
    found = Reproduction(claims=[], tables=[], panels=[], skipped=[])
    with pytest.raises(UserError, match="--out: .* cannot be made"):
        reporting.write_report(found, tmp_path / "file" / "report.html")


MAP = """
tokens = 20
repeats = 2
minimise = ["lookahead"]
[grid]
drafter.latency_relative = [0.1, 0.5]
acceptance.rate = [0.2, 0.6, 1.0]
lookahead = [1, 2, 9]
[[charts]]
kind = "map"
x = "drafter.latency_relative"
y = "acceptance.rate"
show = "si"
"""


def test_a_map_shows_the_value_at_the_best(tmp_path):
    from dsim.study.grid import run_grid

    study = loads(MAP)
    at_best = analysis.best(
        run_grid(study).table.to_pandas(), analysis.axes_of(study), ["lookahead"]
    )
    shown = ["drafter_latency_relative", "acceptance_rate"]
    (panel,) = charts.draw(study.charts[0], at_best, shown)
    assert panel.title == "SI: best lookahead"
    assert panel.name == "01-si-lookahead"
    assert panel.marks == 6
    assert panel.caption.startswith("The best lookahead of SI, from 1 to 9.")
    chart = Chart(kind="map", x=shown[0], y=shown[1], show="dsi", value="peak_targets")
    (panel,) = charts.draw(chart, at_best, shown)
    assert panel.title == "DSI: most target servers busy at once"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('value = "lokahead"', 'value: expected a column of the results, got "lokahead"; did you'),
        ('show = "nonsi"', "charts[0].value: expected a column of the results: non-SI reads no"),
        ('y = "lookahead"', "charts[0].y: expected another axis of the grid"),
    ],
)
def test_mistakes_in_a_map(line, complaint):
    own = line.partition(" ")[0]
    text = re.sub(rf"(?m)^{own} = .*\n", "", MAP)
    with pytest.raises(UserError) as caught:
        loads(text + line + "\n")
    assert complaint in str(caught.value)


def test_the_document_is_the_same_with_real_waits(table1):
    def page(claims):
        found = Reproduction(claims=claims, tables=[], panels=[], skipped=[])
        return reporting.as_markdown(found, "dsim")

    kept = dict(vars(table1))
    fast = list(table1.claims())
    try:
        table1.waited = table1.speedup * 1.01
        table1.ideal, table1.overhead = table1.speedup, 0.0123
        waited = list(table1.claims())
    finally:
        vars(table1).clear()
        vars(table1).update(kept)
    assert "1.0% off at most" in waited[-1].ours
    assert waited != fast
    assert page(waited) == page(fast)


@pytest.mark.parametrize("failing", ["latency", "acceptance", None])
def test_a_pair_needs_both_measurements_of_this_run(tmp_path, monkeypatch, failing):
    import dsim.tasks.measure.pairs as measuring
    from dsim.backends.torch import models
    from dsim.study import profile

    ships = profile.read(STUDIES / "pair-ships.json")
    halves = {
        "latency": dataclasses.replace(ships, acceptance=None),
        "acceptance": dataclasses.replace(ships, target=None, drafter=None),
    }
    path = tmp_path / "profiles" / "pair-ships.json"
    profile.write(dataclasses.replace(ships, source="an old run"), path)

    def run(_study, what, *_):
        if what == failing:
            yield measuring.Measured(pair={"name": "ships"}, skipped="broken")
            return
        profile.write(halves[what], path)
        yield measuring.Measured(pair={"name": "ships"}, profile=halves[what], path=path)

    monkeypatch.setattr(measuring, "run", run)
    monkeypatch.setattr(models, "need_torch", lambda: None)
    skipped = []
    tables = measured_pairs(False, tmp_path, skipped, lambda _: None)
    assert len(tables) == (0 if failing else 1)
    assert (f"{failing} of ships: broken" in skipped) == bool(failing)
