"""Runs of real vLLM servers, predicted from names alone."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.errors import UserError
from dsim.model.estimate import estimate
from dsim.model.roofline import Constants
from dsim.model.steady import steady
from dsim.tasks.vllm import MEASURES, predict_vllm, stages_of

ROW = {
    "model": "01-ai/Yi-34B",
    "hardware": "H100",
    "tp": "2",
    "dp": "",
    "precision": "FP16",
    "max_num_batched_tokens": "2048",
    "max_num_seqs": "128",
    "gpu_mem_util": "",
    "total_kv_blocks": "20793",
    "prompt_tokens": "547",
    "output_tokens": "248",
    "stages": "2.5req/s x600s|6.0req/s x600s",
    "stage": "all",
    "stage_rate_rps": "",
}
# Of published/vllm_measured.csv: what was changed in the row, and TTFT, ITL, E2E in ms.
MEASURED = [
    ({}, (46.98, 15.556, 3892.6)),
    ({"stage": "0"}, (46.65, 15.084, 3780.2)),
    ({"stage": "1"}, (47.12, 15.753, 3939.5)),
    (
        {"model": "meta-llama/Llama-3.1-70B-Instruct", "tp": "4", "total_kv_blocks": "30425"}
        | {"prompt_tokens": "566", "stages": "10.0req/s x600s"},
        (59.80, 20.432, 5013.7),
    ),
    (
        {"model": "mistralai/Mistral-Nemo-Instruct-2407", "tp": "1", "total_kv_blocks": "19251"}
        | {"prompt_tokens": "566", "stages": "5.0req/s x600s"},
        (31.90, 9.864, 2449.8),
    ),
]


@pytest.mark.parametrize(("changes", "measured"), MEASURED)
def test_dense_models_are_predicted_within_ten_percent(changes, measured):
    predicted = predict_vllm({**ROW, **changes})
    for measure, value in zip(MEASURES, measured, strict=True):
        assert predicted[measure] == pytest.approx(value, rel=0.10), measure


@given(st.sampled_from(["0", "1", "all"]), st.floats(1e-3, 1))
def test_the_parts_of_a_request_add_up(stage, efficiency):
    constants = Constants(bandwidth_efficiency=efficiency)
    found = predict_vllm({**ROW, "stage": stage}, constants)
    assert found["e2e"] == pytest.approx(found["ttft"] + 247 * found["itl"])


def test_a_run_is_the_mean_of_its_stages_by_requests():
    each = [predict_vllm({**ROW, "stage": stage})["itl"] for stage in "01"]
    mean = (2.5 * each[0] + 6 * each[1]) / 8.5
    assert predict_vllm(ROW)["itl"] == pytest.approx(mean)
    assert stages_of({"stages": "", "stage_rate_rps": "3"}) == [(3.0, 600.0)]


def test_a_prompt_that_left_the_cache_is_read_again():
    few = predict_vllm({**ROW, "total_kv_blocks": "3000"})
    assert few["ttft"] > predict_vllm(ROW)["ttft"] + 10


def test_a_queue_grows_for_as_long_as_the_load_lasts():
    roofline = estimate("llama-3.1-8b", "l4").target
    short, long = (steady(roofline, 50, 1000, 500, seconds=s) for s in (60, 600))
    assert not short.stable
    at_once = steady(roofline, 50, 1000, 500)
    waits = [one.ttft_ns - at_once.ttft_ns for one in (short, long)]
    assert waits[1] == pytest.approx(10 * waits[0])
    assert waits[0] > 1e9


def test_data_parallel_servers_share_the_load():
    half = predict_vllm({**ROW, "stages": "3.0req/s x600s"})
    assert predict_vllm({**ROW, "stages": "6.0req/s x600s", "dp": "2"}) == half


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="prompt_tokens: expected a number, got nothing"):
        predict_vllm({**ROW, "prompt_tokens": ""})
    with pytest.raises(UserError, match="hardware"):
        predict_vllm({**ROW, "hardware": "abacus"})


def test_the_constants_are_used():
    slow = dataclasses.replace(Constants(), step_us=5000.0)
    assert predict_vllm(ROW, slow)["itl"] > predict_vllm(ROW)["itl"] + 3
