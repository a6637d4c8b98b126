"""What a round costs, and speed-ups from latencies: rows that dsim has not seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.model.closed_forms import pearl_per_step, si_per_token
from dsim.orchestrations import PIPELINE, REFERENCES
from dsim.tasks.field import batches, chains, papers, rows, trees
from dsim.tasks.field.source import CannotError, median, read

BOARD = read(trees.LEADERBOARD.path)[1]
PAPERS = read(papers.SOURCE.path)[1]


def of_board(**cells):
    """The prediction of a row of the leaderboard, from the rows that ship."""
    row = {"hardware": "A100", "target": "Vicuna-7B", "method": "EAGLE2", "tau": "4.3", **cells}
    (found,) = rows.predict(trees.LEADERBOARD, [row], BOARD)
    return found


def of_paper(also=(), **cells):
    """The prediction of a row of one's own paper, from the rows that ship and *also*."""
    row = {"source": "of my own", "model_pair": "a / b, c", "batch": "1", **cells}
    return rows.predict(papers.SOURCE, [row, *also], PAPERS)[0]


def test_a_round_is_a_pass_and_what_the_framework_makes_of_drafting():
    """By hand: of 32 layers, where a level takes 4 of them and the pass is 1.1 plain steps."""
    known = {"source": "s", "tau": "3", "speed": "1.5", "layers": "32", "levels": "4"}
    own = {"tau": "4", "layers": "64", "levels": "8"}

    def predicted(by_level):
        return trees.by_cost(
            own,
            [known, {**known, "speed": ""}],
            tau_of=lambda row: float(row["tau"]),
            speedup_of=lambda row: trees.needed(row, "speed")[0],
            round_of=lambda row: trees.Round(
                trees.Way(1, int(row["levels"])), "none", "", float(row["layers"])
            ),
            kinds=[
                trees.Kind("none", lambda _: ()),
                trees.Kind("all", lambda _: ("all",), by_level),
            ],
        ).value

    assert predicted(False) == pytest.approx(4 / (1 + 1 * 32 / 64))
    assert predicted(True) == pytest.approx(4 / (1 + 1 * 32 / 64 * 8 / 4))


def test_a_pass_is_bound_by_arithmetic_first_on_small_gpus():
    for hardware in ("3090", "RTX 3090", "A100", "4xA100-40G", "8xH100, vLLM", "L40S"):
        costs = [trees.wide(width, hardware, "Vicuna-7B") for width in (1, 26, 60, 81, 400)]
        assert costs[0] == 1
        assert costs == sorted(costs)
    assert trees.wide(81, "3090", "Vicuna-7B") > 1.4 > 1.05 > trees.wide(81, "A100", "Vicuna-7B")
    assert trees.wide(81, "an abacus", "Vicuna-7B") == 1
    # Four tokens reach more experts than one.
    dense, experts = (trees.wide(4, "H200", name) for name in ("Llama-2-70B", "mixtral-8x22b"))
    assert experts > 1.5 > 1.05 > dense


@pytest.mark.parametrize("method", sorted({row["method"] for row in BOARD}))
def test_a_method_that_no_row_is_of(method):
    """Those that draft by levels are predicted from each other; the rest say what is missing."""
    own = [row for row in BOARD if row["method"] == method]
    others = [row for row in BOARD if row["method"] != method]
    found = rows.predict(trees.LEADERBOARD, own, others)
    if method.lower().startswith(trees.SERIAL):
        others_of = trees.predict_leaderboard(own[0], others)
        assert "by the level" in others_of.notes
        errors = [
            abs(trees.predict_leaderboard(row, others).value / one.measured - 1)
            for row, one in zip(own, found, strict=True)
        ]
        assert median(errors) < 0.2
    else:
        with pytest.raises(CannotError, match="no other run of the method"):
            trees.predict_leaderboard(own[0], others)


@given(
    st.sampled_from(sorted(trees.WAYS)),
    st.sampled_from(["7B", "14B", "2.7b", "65B", "180B", "large", ""]),
    st.sampled_from(["A100", "3090", "4090", "H100", "L40S", "MI300X", "a new one", ""]),
    st.floats(1, 8),
)
def test_any_target_on_any_gpu_has_a_sane_cost(method, size, hardware, tau):
    found = of_board(method=method, target=f"X-{size}", hardware=hardware, tau=f"{tau:.3f}")
    assert 1 <= tau / found.predicted <= 3.2


def test_layers_by_size():
    for row in BOARD:
        size = float(row["target"].split("-")[1].rstrip("B"))
        assert trees.layers_of(row["target"]) == {7: 32, 13: 40, 33: 60}[size]
    assert 40 < trees.layers_of("Qwen-14B") < 60
    assert trees.layers_of("large") is None


@pytest.mark.parametrize(
    ("method", "settings", "way"),
    [
        ("EAGLE chain k=3", "T=0", (4, 3)),
        ("tree k=21 b=4", "depth 3", (22, 3)),
        ("EAGLE-3", "T=0; dynamic tree, depth 8, 60 nodes, top-k 10", (61, 8)),
        ("EAGLE-1", "static tree 26 nodes, T=0", (26, 5)),
        ("EAGLE-1", "", (26, 5)),
        ("DFlash block 16", "1 drafter pass / 16-token block", (17, 1)),
        ("n-gram k=5 v=7", "", (6, 0)),
        ("LayerSkip", "", (1, 0)),
    ],
)
def test_how_a_method_drafts_by_its_words(method, settings, way):
    assert trees.way_of({"method": method, "settings": settings}) == way


def test_a_row_of_ones_own_with_latencies():
    own = {
        "target_ms": "20",
        "drafter_ms_or_c": "2",
        "settings": "k=5",
        "alpha_or_tau": "alpha=0.8",
    }
    serial = of_paper(method="SI", **own)
    assert serial.predicted == pytest.approx(1 / si_per_token(0.1, 1, 0.8, 5), rel=0.02)
    assert of_paper(method="SI k=5", **{**own, "settings": ""}).predicted == serial.predicted
    ratio = {"target_ms": "", "drafter_ms_or_c": "c=0.1"}
    assert of_paper(method="SI", **own | ratio).predicted == serial.predicted
    tokens = (1 - 0.8**6) / 0.2
    by_length = of_paper(method="SI", **own | {"alpha_or_tau": f"tau={tokens:.4f}"})
    assert by_length.predicted == pytest.approx(serial.predicted, rel=0.01)
    # Without k, a method that overlaps takes PEARL's own rule.
    pearl = of_paper(method="PEARL", **own | {"settings": ""})
    assert pearl.predicted == pytest.approx(pearl_per_step(0.8, 10), rel=0.02)
    assert "lookahead 10" in pearl.notes
    for missing in ({"alpha_or_tau": ""}, {"target_ms": "?"}, {"settings": ""}):
        none = of_paper(method="SI", **own | missing)
        assert none.predicted is None
        assert "not published" in none.reason


def test_a_run_of_si_on_the_same_texts_tells_the_acceptance_rate():
    both = {"target_ms": "20", "drafter_ms_or_c": "~4 (mean)", "alpha_or_tau": ""}
    serial = {
        **both,
        "source": "of my own",
        "model_pair": "a / b, c",
        "batch": "1",
        "method": "SI",
        "settings": "k=4",
        "measured_speedup": f"{1 / si_per_token(0.2, 1, 0.85, 4):.4f}",
    }
    found = of_paper([serial], method="AMUSD", settings="wait for >=2 drafts", **both)
    assert chains.rate_of_serial(found.row, [serial]) == pytest.approx(0.85, abs=0.01)
    rate = round(chains.rate_of_serial(found.row, [serial]), 4)
    assert found.predicted == chains.speedup(PIPELINE, 0.2, rate, 2)
    assert found.predicted > float(serial["measured_speedup"])
    faster = {**serial, "measured_speedup": "9"}
    assert of_paper([faster], method="AMUSD", settings="L=2", **both).predicted is None
    assert chains.orchestration_of({"method": "SI k=5"}) == REFERENCES[1]


def test_a_batch_of_a_pair_that_no_other_row_is_of():
    row = {
        "model_pair": "Qwen3-32B / Qwen3-0.6B, own texts",
        "hardware": "2xH100",
        "method": "SI",
        "settings": "k=3",
        "alpha_or_tau": "alpha=0.8",
    }
    small, large = (of_paper(**{**row, "batch": batch}) for batch in ("2", "256"))
    assert small.predicted > 1.3 > 1 > large.predicted
    assert batches.system_of(small.row).drafter == "qwen-3-0.6b"
    length = of_paper(**{**row, "batch": "2", "alpha_or_tau": "tau=2.952"})  # of 0.8, by hand
    assert length.predicted == pytest.approx(small.predicted, rel=0.02)
    none = of_paper(**{**row, "batch": "2", "alpha_or_tau": ""})
    assert "no run at another batch" in none.reason
