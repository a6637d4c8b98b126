"""dsim validate: predictions against a world whose truth the test knows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dsim import validate as validation
from dsim.acceptance import Acceptance
from dsim.cli import main
from dsim.errors import UserError
from dsim.latency import Latency
from dsim.simulate import run_events
from dsim.study import Case
from dsim.validate import Configuration, Forwarded, Measured, as_json, as_text, table_of

MS = 1_000_000


class World:
    """Forwards take exactly as long as a table says: a simulation in the place of hardware."""

    def __init__(self, *, target_ns=((1, 20 * MS), (9, 20 * MS)), drafter_ns=4 * MS, rate=0.8):
        self.target = Latency(model="table", latency_ns=target_ns[0][1], table=target_ns)
        table = ((1, drafter_ns), (2, drafter_ns))
        self.drafter = Latency(model="table", latency_ns=drafter_ns, table=table)
        self.acceptance = Acceptance(rate=rate)
        self.measured: list[tuple[int, Configuration]] = []
        self.traced: list[int] = []
        self.closed = 0
        self.wrong_text: int | None = None
        self.stall_at: set[int] = set()
        self.slower = 1.0

    def measure(self, text, configuration):
        self.measured.append((text, configuration))
        case = Case(
            tokens=30,
            lookahead=configuration.lookahead,
            targets=configuration.targets,
            target=self.target,
            drafter=self.drafter,
            acceptance=Acceptance(model="trace", traces=(self.draws(text),)),
            repeats=1,
            seed=0,
            preemptible=False,
        )
        run = run_events(case, configuration.algorithm, 0, keep_history=True)
        widths = {self.target.at_width(w): w for w in range(9, 0, -1)}
        forwards = [
            Forwarded(
                servers.role,
                widths.get(f.end_ns - f.start_ns, 1) if servers.role == "target" else 1,
                f.end_ns - f.start_ns,
            )
            for servers in (run.drafter, run.target)
            for f in servers.history
            if f.end_ns >= 0
        ]
        wall_ns = int(run.output.settled_ns[-1] * self.slower)
        if len(self.measured) in self.stall_at:
            forwards.append(Forwarded("target", 1, 30_000 * MS))
            wall_ns += 30_000 * MS
        tokens = [text, 0 if text == self.wrong_text and configuration.algorithm == "dsi" else 1]
        return Measured(wall_ns, forwards, tokens, 0, run)

    def draws(self, text):
        return "".join(str(int(d)) for d in self.acceptance.draws(7, text + 1, 30)[text])

    def trace(self, text):
        self.traced.append(text)
        return self.draws(text)

    def close(self):
        self.closed += 1


def settings_of(**more):
    return validation.load(None, {"tokens": 30, "targets": [1, 2], **more})


def validate(world, **more):
    found = validation.validate(settings_of(**more), bench=world)
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
    assert set(claims) == {
        "lossless",
        "DSI ≤ non-SI",
        "DSI ≤ SI",
        "within tolerance, from the replayed trace",
        "within tolerance, from the acceptance rate",
    }


def test_calibration_and_measurement_never_share_a_text() -> None:
    world = World()
    validate(world, calibration_prompts=3, prompts=4, repeats=2, rounds=2)
    wanted = validation.configurations(settings_of())
    texts = [text for text, _ in world.measured]
    one = len(wanted)
    assert texts[:one] == [0] * one  # everything has run once
    for start, share in ((one, (3, 4)), (one * 8, (5, 6))):
        assert set(texts[start : start + one * 3]) == {0, 1, 2}
        assert set(texts[start + one * 3 : start + one * 7]) == set(share)
    assert len(texts) == one * 15


def test_a_pace_that_changes_between_rounds_is_followed_and_one_within_is_seen() -> None:
    world = World(drafter_ns=3_700_000)  # no ties, which one per cent would break
    plain = world.measure

    def measure(text, configuration):
        calls = len(world.measured)
        # From the third round on at half the pace; and every other measurement takes 1 % more.
        world.slower = 1.0
        measured = plain(text, configuration)
        pace = (2 if calls >= 10 * 11 else 1) * (1.01 if world.again.get(text, 0) % 2 else 1)
        if configuration == Configuration("dsi", 5, 2):
            world.again[text] = world.again.get(text, 0) + 1
        slow = [f._replace(took_ns=round(f.took_ns * pace)) for f in measured.forwards]
        return measured._replace(wall_ns=round(measured.wall_ns * pace), forwards=slow)

    world.measure = measure
    world.again = {}
    found, _ = validate(world, prompts=4, rounds=4, calibration_prompts=2, repeats=3)
    assert len(world.measured) == 10 * (1 + 4 * (2 + 3))
    for row in found.rows:
        assert np.abs(row.errors).max() < 0.02
    assert found.repeatability == pytest.approx(0.01, abs=0.001)
    assert "measured again differs by 1.0%" in as_text(found)
    assert json.loads(as_json(found))["repeatability"] == found.repeatability
    found, _ = validate(World(), repeats=1)
    assert found.repeatability is None


def test_a_lossy_algorithm_is_found_out() -> None:
    world = World()
    world.wrong_text = 5
    _, claims = validate(world)
    assert not claims["lossless"].holds
    assert "DSI, lookahead 1" in claims["lossless"].detail


def test_a_world_that_slows_down_after_the_calibration_fails_the_tolerance() -> None:
    world = World()
    plain = world.measure

    def measure(text, configuration):
        world.slower = 1.1 if text >= 4 else 1.0
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
    assert "assumption is broken" in claims["DSI ≤ non-SI"].detail
    slower = [r for r in found.rows if r.configuration.algorithm == "dsi"]
    assert any(r.measured_ms.mean() > found.rows[0].measured_ms.mean() for r in slower)


def test_a_slower_dsi_that_nobody_predicted_fails() -> None:
    world = World()
    plain = world.measure

    def measure(text, configuration):
        world.slower = 9.0 if text >= 4 and configuration.algorithm == "dsi" else 1.0
        return plain(text, configuration)

    world.measure = measure
    _, claims = validate(world)
    assert not claims["DSI ≤ non-SI"].holds
    assert not claims["DSI ≤ SI"].holds


def test_a_machine_that_stood_still_is_measured_again() -> None:
    world = World()
    world.stall_at = {3, 12, 60, 61, 75}
    found, _ = validate(world, rounds=1, repeats=1)
    assert found.holds
    assert found.stalls == 3  # those at 60, 61 and 75; the others were in the calibration
    assert "3 measurements were done again" in as_text(found)


def test_tables_keep_widths_that_were_seen_often_enough() -> None:
    seen = [Forwarded("target", 1, 10)] * 5 + [Forwarded("target", 2, 20)] * 3
    seen += [Forwarded("target", 3, 30), Forwarded("drafter", 1, 1)] * 4
    assert table_of(seen, "target") == ((1, 10), (3, 30))
    assert table_of(seen[5:8], "target") == ((2, 20),)
    assert table_of([], "target") == ()


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
    validation.write_report(found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Predicted against measured" in page
    assert page.count("DSI, lookahead 5, 2 targets, measured") >= 1


def test_every_mistake_of_a_file_is_named(tmp_path) -> None:
    file = tmp_path / "v.toml"
    file.write_text(
        'tokns = 5\nlookahead = [0]\ntargets = [1, 1]\n[torch]\ndtype = "float3"\n', "utf-8"
    )
    with pytest.raises(UserError) as caught:
        validation.load(file)
    text = str(caught.value)
    for words in (
        'tokns: unknown setting; did you mean "tokens"',
        "lookahead: expected a whole number",
        "targets: a value stands there twice",
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
    world.wrong_text = 4
    monkeypatch.setattr(validation, "bench_of", lambda _: world)
    result = CliRunner().invoke(main, ["validate", "--tokens", "30", "--quiet"])
    assert result.exit_code == 1, result.output
    assert re.search("FAILS: lossless", result.output)
    result = CliRunner().invoke(main, ["validate", "--tokens", "0"])
    assert result.exit_code == 2


def test_the_shipped_studies_can_be_read() -> None:
    studies = Path(__file__).parent.parent / "studies"
    assert validation.load(studies / "validate-smollm2.toml")["torch.dtype"] == "bfloat16"
    settings = validation.load(studies / "validate.toml")
    assert settings["backend"] == "wallclock"
    assert settings["lookahead"] == [1, 3, 5]
