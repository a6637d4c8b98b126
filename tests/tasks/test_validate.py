"""dsim validate: predictions against a world whose truth the test knows."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.engines.simulate import run_events
from dsim.errors import UserError
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.model.lookahead import Policy
from dsim.tasks.validate import calibration
from dsim.tasks.validate.bench import Forwarded, Measured, bench_of
from dsim.tasks.validate.calibration import cost_of, fast_half, fit
from dsim.tasks.validate.page import as_json, as_text, write_report
from dsim.tasks.validate.result import noise_of
from dsim.tasks.validate.run import validate as run_validation
from dsim.tasks.validate.settings import Configuration, configurations, load
from dsim.units import to_ms
from tests import STUDIES
from tests.pages import specifications

MS = 1_000_000


@pytest.fixture(autouse=True, scope="module")
def _few_simulations():
    """A world without noise needs no averages."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "TRACE_DRAWS", 2)
        patch.setattr(calibration, "RATE_DRAWS", 6)
        yield


class World:
    """Forwards take exactly as long as a table says: a simulation in the place of hardware."""

    def __init__(
        self, *, target_ns=((1, 20 * MS), (9, 20 * MS)), drafter_ns=4 * MS, more_ns=0, rate=0.8
    ):
        self.target = Latency(model="table", latency_ns=target_ns[0][1], table=target_ns)
        table = ((1, drafter_ns), (2, drafter_ns + more_ns))
        self.drafter = Latency(model="table", latency_ns=drafter_ns, table=table)
        self.acceptance = Acceptance(rate=rate)
        self.shape: dict[str, object] = {}
        self.measured: list[tuple[int, Configuration]] = []
        self.traced: list[int] = []
        self.closed = 0
        self.wrong_text: int | None = None
        self.stall_at: set[int] = set()
        self.slower = 1.0
        self.all_cores_pace = 0.5

    def cores(self, configuration):
        return 2 if configuration.all_cores or configuration.algorithm == "dsi" else 1

    def pace(self, configuration):
        return self.all_cores_pace if configuration.all_cores else 1

    def measure(self, text, configuration):
        self.measured.append((text, configuration))
        case = Case(
            tokens=30,
            lookahead=configuration.lookahead,
            policy=Policy(name=configuration.policy, recorded=self.confidences(text)),
            targets=configuration.targets,
            target=self.target,
            drafter=self.drafter,
            acceptance=Acceptance(model="trace", traces=(self.draws(text),)),
            repeats=1,
            seed=0,
            preemptible=False,
            **self.shape,
        )
        run = run_events(case, configuration.algorithm, 0, keep_history=True)
        widths = {
            role: {cost.at_width(w): w for w in range(30, 0, -1)}
            for role, cost in (("target", self.target), ("drafter", self.drafter))
        }
        forwards = [
            Forwarded(
                servers.role,
                widths[servers.role].get(f.end_ns - f.start_ns, 1),
                f.end_ns - f.start_ns,
            )
            for servers in (run.drafter, run.target)
            for f in servers.history
            if f.end_ns >= 0
        ]
        pace = self.pace(configuration)
        forwards = [f._replace(took_ns=max(1, round(f.took_ns * pace))) for f in forwards]
        wall_ns = int(run.output.settled_ns[-1] * self.slower * pace)
        if len(self.measured) in self.stall_at:
            forwards.append(Forwarded("target", 1, 30_000 * MS))
            wall_ns += 30_000 * MS
        tokens = [text, 0 if text == self.wrong_text and configuration.algorithm == "dsi" else 1]
        return Measured(wall_ns, forwards, tokens, 0, run)

    def draws(self, text):
        return "".join(map(str, self.acceptance.ranks(7, text + 1, 30)[text, 0]))

    def trace(self, text):
        self.traced.append(text)
        return self.draws(text)

    def quality(self):
        return 0.6

    def confidences(self, text):
        return tuple(np.random.default_rng(text).uniform(0.2, 1, 30).tolist())

    def close(self):
        self.closed += 1


def settings_of(**more):
    return load(None, {"tokens": 30, "targets": [1, 2], "repeats": 2, **more})


def validate(world, **more):
    found = run_validation(settings_of(**more), bench=world)
    return found, {claim.claim: claim for claim in found.claims}


def test_a_world_that_is_as_simulated_is_predicted_exactly() -> None:
    world = World()
    found, claims = validate(world)
    assert found.holds, claims
    assert world.closed == 1
    for row in found.rows:
        assert row.error_replay == pytest.approx(0, abs=1e-9)
        assert abs(row.error_rate) < 0.2
    assert len(found.rows) == 1 + 3 + 3 * 2
    known, measured = ("".join(world.draws(t)[:-1] for t in ts) for ts in (range(8), range(8, 16)))
    assert found.calibration.rate == pytest.approx(known.count("1") / len(known))
    assert found.calibration.drafts == len(known)
    assert found.rate == pytest.approx(measured.count("1") / len(measured))
    assert set(claims) == {
        "lossless",
        "DSI ≤ non-SI",
        "DSI ≤ SI",
        "within tolerance, from the replayed trace",
        "within tolerance, from the acceptance rate",
    }


def test_each_measurement_stands_beside_a_calibration_run_of_another_text() -> None:
    world = World()
    validate(world, calibration_prompts=3, prompts=4, repeats=2)
    wanted = configurations(settings_of())
    one = len(wanted)
    assert world.measured[:one] == [(0, c) for c in wanted]  # everything has run once
    turns = [world.measured[i : i + 2 * one] for i in range(one, len(world.measured), 2 * one)]
    assert len(turns) == 4 * 2
    for number, turn in enumerate(turns):
        assert [c for _, c in turn[::2]] == [c for _, c in turn[1::2]]
        assert sorted(c for _, c in turn[::2]) == sorted(wanted)
        # The repeats of a text stand beside one other text; which one, neighbours share in pairs.
        texts = {c: text for text, c in turn[::2]}
        step = 3 // -(-one // 2)
        for place, c in enumerate(wanted):
            assert texts[c] == (number // 2 + place // 2 * step) % 3
        assert [text for text, _ in turn[1::2]] == [3 + number // 2] * one


@settings(max_examples=10, deadline=None)
@given(paces=st.lists(st.floats(0.3, 3), min_size=6, max_size=6), late=st.integers(1, 5))
def test_a_pace_that_changes_from_run_to_run_is_followed(paces, late) -> None:
    # No ties, which a rounded nanosecond would break; paces of the machine, turn by turn.
    table = tuple((w, 20_000_017 + 700_001 * w) for w in range(1, 30))
    world = World(target_ns=table, drafter_ns=3_700_003)
    more = {"lookahead": [late], "targets": [1], "prompts": 2, "repeats": 3, "tokens": 30}
    wanted = configurations(settings_of(**more))
    one = len(wanted)
    world.pace = lambda _: paces[max(0, len(world.measured) - 1 - one) // (2 * one) % 6]
    found, _ = validate(world, **more)
    for row in found.rows:
        assert np.abs(row.errors).max() < 0.02, row  # rare widths are interpolated


def test_what_measured_runs_alone_meet_is_an_error_and_noise_is_told() -> None:
    world = World()
    again: dict[tuple[int, Configuration], int] = {}

    def pace(c):
        text = world.measured[-1][0]
        again[text, c] = again.get((text, c), 0) + 1
        return 1.1 if text >= 8 and again[text, c] % 2 else 1.0

    world.pace = pace
    found, _ = validate(world, prompts=2, repeats=5)  # 1.1, 1, 1.1, 1, 1.1: fast are 1, 1, 1.1
    for row in found.rows:
        assert row.errors == pytest.approx(3 / 3.1 - 1, abs=0.001)
        assert np.abs(row.noise).max() < 0.1 * np.sqrt(5 / 4)
    assert found.repeatability == pytest.approx(0.1, abs=0.01)
    assert 0.005 < found.noise < 0.05
    text = as_text(found)
    assert "Repeated measurements of a text differ by" in text
    assert f"the faster half of 5 by {found.noise:.1%}" in text
    data = json.loads(as_json(found))
    assert data["repeatability"] == found.repeatability
    assert data["noise"] == found.noise
    found, _ = validate(World(), repeats=1, prompts=2)
    assert found.repeatability is None
    assert found.noise is None
    assert "Repeated measurements" not in as_text(found)


@given(values=st.lists(st.integers(1, 1000), min_size=1, max_size=9), more=st.integers(1, 10**6))
def test_the_faster_half_heeds_no_slow_outlier(values, more) -> None:
    assert min(values) <= fast_half(values) <= np.median(values)
    if len(values) > 1:
        slowest = values.index(max(values))
        slower = [v + more * (i == slowest) for i, v in enumerate(values)]
        assert fast_half(slower) == fast_half(values)


def test_noise_is_that_of_the_faster_half() -> None:
    assert not noise_of([[5.0] * 4, [7.0] * 3]).any()
    assert len(noise_of([[1.0, 2.0]])) == 0  # of two there is no telling
    rng = np.random.default_rng(0)
    texts = rng.normal(100, 5, (400, 7))
    spread = np.std([fast_half(row.tolist()) for row in texts]) / fast_half(texts[0].tolist())
    assert np.std(noise_of(texts.tolist())) == pytest.approx(spread, rel=0.2)


@given(
    table=st.lists(st.integers(10**6, 10**8), min_size=1, max_size=5).map(sorted),
    runs=st.lists(st.tuples(st.floats(0.2, 5), st.integers(0, 4)), min_size=1, max_size=6),
)
def test_costs_and_paces_are_told_apart(table, runs) -> None:
    # Every run has every width four times, and one width more often than the others.
    def forwards(pace, often):
        widths = [w for w in range(len(table)) for _ in range(4 + 9 * (w == often))]
        return [Forwarded("target", w + 1, round(table[w] * pace)) for w in widths]

    cost, paces = fit([forwards(*run) for run in runs])
    for (true_pace, _), pace in zip(runs, paces, strict=True):
        for width, ns in enumerate(table, 1):
            assert cost.at_width(width) * pace == pytest.approx(ns * true_pace, rel=0.01)
    assert np.mean(cost.spread) == pytest.approx(1, rel=1e-3)


def test_a_lossy_algorithm_is_found_out() -> None:
    world = World()
    world.wrong_text = 9
    _, claims = validate(world)
    assert not claims["lossless"].holds
    assert "DSI, lookahead 1" in claims["lossless"].detail
    assert "float" not in claims["lossless"].detail
    of_half = run_validation(
        settings_of(**{"backend": "torch", "torch.dtype": "bfloat16"}), bench=world
    )
    assert "in bfloat16 a pass over several tokens" in of_half.claims[0].detail


def test_a_world_that_is_slower_than_its_forwards_fails_the_tolerance() -> None:
    world = World()
    plain = world.measure

    def measure(text, configuration):
        world.slower = 1.1 if text >= 8 else 1.0
        return plain(text, configuration)

    world.measure = measure
    found, claims = validate(world)
    assert not claims["within tolerance, from the replayed trace"].holds
    assert not found.holds
    assert all(row.error_replay == pytest.approx(1 / 1.1 - 1, abs=1e-6) for row in found.rows)


def test_steep_passes_break_the_assumption_and_the_prediction_says_so() -> None:
    # A pass of 2 tokens costs 2 of 1: DSI with its wide passes loses, as predicted.
    steep = tuple((w, 20 * MS * w) for w in range(1, 10))
    found, claims = validate(World(target_ns=steep, rate=0.3), targets=[1])
    for claim in ("DSI ≤ non-SI", "DSI ≤ SI"):
        assert claims[claim].holds
    assert "is slower, as predicted, as the law's assumption" in claims["DSI ≤ non-SI"].detail
    slower = [r for r in found.rows if r.configuration.algorithm == "dsi"]
    assert any(r.measured_ms.mean() > found.rows[0].measured_ms.mean() for r in slower)


def test_a_slower_dsi_that_nobody_predicted_fails() -> None:
    world = World()
    plain = world.measure

    def measure(text, configuration):
        world.slower = 9.0 if text >= 8 and configuration.algorithm == "dsi" else 1.0
        return plain(text, configuration)

    world.measure = measure
    _, claims = validate(world)
    assert not claims["DSI ≤ non-SI"].holds
    assert not claims["DSI ≤ SI"].holds


def test_a_machine_that_stood_still_is_measured_again() -> None:
    world = World()
    # The first ten show what is usual; a calibration run, a measured one, and one twice.
    world.stall_at = {11, 14, 40, 41}
    found, _ = validate(world, repeats=1)
    assert found.holds
    assert found.stalls == 4
    assert "4 measurements were repeated" in as_text(found)
    assert len(world.measured) == 10 + 8 * 10 * 2 + 4


def test_tables_keep_widths_that_were_seen_often_enough() -> None:
    seen = [Forwarded("target", 1, 10)] * 5 + [Forwarded("target", 2, 20)] * 3
    seen += [Forwarded("target", 3, 30)] * 4
    assert cost_of(seen).table == ((1, 10), (3, 30))
    assert cost_of(seen).weights == (5, 4)
    assert cost_of(seen[5:8]).table == ((2, 20),)


def test_a_cost_is_the_mean_of_the_middle_half() -> None:
    took = [1, 8, 10, 10, 12, 10, 10, 900]
    assert cost_of([Forwarded("target", 1, ns) for ns in took]).table == ((1, 10),)


BUDGET = {"backend": "torch", "torch.equal_budget": True, "targets": [1], "prompts": 3}


def test_at_equal_budget_the_predicted_winner_is_named() -> None:
    name = "the predicted winner wins, at equal budget"
    found, claims = validate(World(), **BUDGET)
    assert len(found.rows) == 1 + 3 + 3 + 1 + 3
    assert claims[name].holds
    assert claims[name].detail.startswith("SI, lookahead 5, all cores (")
    rows = json.loads(as_json(found))["rows"]
    for row in rows:
        assert row["cores"] == (2 if row["all_cores"] or row["algorithm"] == "dsi" else 1)
        assert not (row["all_cores"] and row["algorithm"] == "dsi")
    assert "non-SI, all cores" in as_text(found)

    slow = World()
    slow.all_cores_pace = 1.5
    _, claims = validate(slow, **BUDGET)
    assert claims[name].holds
    assert claims[name].detail.startswith("DSI, lookahead ")


def test_a_winner_that_was_not_predicted_fails_unless_it_is_a_tie() -> None:
    name = "the predicted winner wins, at equal budget"
    for by_text, holds in (((2.0, 2.0, 2.0), False), ((0.7, 1.0, 2.4), True)):
        world = World()
        world.all_cores_pace = 0.7
        plain = world.measure

        def measure(text, c, world=world, plain=plain, by_text=by_text):
            world.slower = by_text[text - 8] if text >= 8 and c.all_cores else 1.0
            return plain(text, c)

        world.measure = measure
        _, claims = validate(world, **BUDGET)
        assert claims[name].holds is holds, claims[name]
        assert "behind DSI" in claims[name].detail
        assert ("a tie" in claims[name].detail) is holds
    _, claims = validate(World(), targets=[1])
    assert name not in claims


def test_what_has_no_equal_budget() -> None:
    given_ = settings_of(**BUDGET, **{"torch.devices": "cuda:0,cuda:1"})
    with pytest.raises(UserError, match="torch.equal_budget"):
        bench_of(given_)
    given_ = settings_of(**BUDGET, **{"torch.devices": "cpu, cpu", "torch.compile": True})
    with pytest.raises(UserError, match=r"needs torch.compile = false"):
        bench_of(given_)


class OneOfThreeIsSlow(World):
    """The last of three measurements of a text takes half as long again."""

    def measure(self, text, configuration):
        measured = super().measure(text, configuration)
        slow = text >= 4 and self.measured.count((text, configuration)) == 3
        return measured._replace(wall_ns=measured.wall_ns * 3 // 2) if slow else measured


def test_what_other_statistics_of_the_repeats_would_say_is_told() -> None:
    found, _ = validate(OneOfThreeIsSlow(), repeats=3, prompts=2, calibration_prompts=4)
    assert found.statistics["faster half"].median_text < 1e-6
    assert found.statistics["median"].median_text < 1e-6
    assert found.statistics["mean"].median_text == pytest.approx(1 / 7, abs=1e-3)
    assert found.statistics["mean"].worst_configuration == pytest.approx(-1 / 7, abs=1e-3)
    assert "with the mean the median text is off by 14.3%" in as_text(found)
    told = json.loads(as_json(found))["statistics"]
    assert told["mean"]["median_text"] == found.statistics["mean"].median_text
    once, _ = validate(World(), repeats=1, prompts=2)
    assert "Of the repeats" not in as_text(once)


def test_json_and_text_and_report(tmp_path) -> None:
    found, _ = validate(World(), prompts=3)
    data = json.loads(as_json(found))
    assert {"rows", "claims"} <= set(data)
    for row in data["rows"]:
        for key in ("predicted_replay_ms", "predicted_rate_ms", "measured_ms"):
            assert row[key] > 0
    assert [set(claim) for claim in data["claims"]] == [{"claim", "holds", "detail"}] * 5
    text = as_text(found)
    assert "SI, lookahead 3" in text
    assert text.count("holds: ") + text.count("FAILS: ") == 5
    write_report(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Predicted against measured" in page
    assert page.count("DSI, lookahead 5, 2 targets, measured") >= 1
    # Timelines can be compared by eye: all share one scale, which holds the longest.
    charts = specifications(tmp_path / "page.html")[1:]
    ends = {(one.get("layer") or [one])[0]["encoding"]["x"]["scale"]["domain"][1] for one in charts}
    assert ends == {max(to_ms(r.output.settled_ns[-1]) for rs in found.first.values() for r in rs)}
    assert len(charts) == 2 * len(found.first) > 2


def test_every_mistake_of_a_file_is_named(tmp_path) -> None:
    file = tmp_path / "v.toml"
    file.write_text(
        'tokns = 5\nprompts = 1\nlookahead = [0]\ntargets = [1, 1]\n[torch]\ndtype = "float3"\n',
        "utf-8",
    )
    with pytest.raises(UserError) as caught:
        load(file)
    text = str(caught.value)
    for words in (
        'tokns: unknown setting; did you mean "tokens"',
        "lookahead: expected a whole number",
        "prompts: expected a whole number at least 2, got 1",
        "targets: duplicate value",
        'did you mean "float32"',
    ):
        assert words in text


@pytest.mark.wallclock
def test_the_command_measures_waits(tmp_path) -> None:
    file = tmp_path / "v.toml"
    file.write_text(
        "tokens = 8\nprompts = 2\ncalibration_prompts = 1\nlookahead = [2]\n"
        "tolerance = 10.0\ntolerance_worst = 10.0\ntolerance_rate = 10.0\n"
        'algorithms = ["nonsi", "si"]\n',
        "utf-8",
    )
    result = CliRunner().invoke(main, ["validate", str(file), "--json", "--quiet"])
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    # Waits take no less than they should: 8 passes of 20 ms.
    assert data["rows"][0]["measured_ms"] >= 160
    assert [row["algorithm"] for row in data["rows"]] == ["nonsi", "si"]


def test_a_claim_that_fails_is_exit_code_1(monkeypatch) -> None:
    world = World()
    world.wrong_text = 9
    monkeypatch.setattr("dsim.tasks.validate.run.bench_of", lambda _: world)
    result = CliRunner().invoke(main, ["validate", "--tokens", "30", "--quiet"])
    assert result.exit_code == 1, result.output
    assert re.search("FAILS: lossless", result.output)
    result = CliRunner().invoke(main, ["validate", "--tokens", "0"])
    assert result.exit_code == 2


def test_the_shipped_studies_can_be_read() -> None:
    assert load(STUDIES / "validate-smollm2.toml")["torch.dtype"] == "bfloat16"
    settings = load(STUDIES / "validate.toml")
    assert settings["backend"] == "wallclock"
    assert settings["lookahead"] == [1, 3, 5]


def test_quick_is_never_more_than_the_study_asks_for(tmp_path) -> None:
    file = tmp_path / "v.toml"
    file.write_text("prompts = 4\nrepeats = 20\ntolerance = 0.2\ntolerance_worst = 0.01\n")
    quick = load(file, quick=True)
    names = ("prompts", "repeats", "tolerance", "tolerance_worst")
    assert [quick[name] for name in names] == [4, 5, 0.2, 0.1]
    assert load(file, {"repeats": 7, "tolerance": None}, quick=True)["repeats"] == 7
    assert load(file)["repeats"] == 20
