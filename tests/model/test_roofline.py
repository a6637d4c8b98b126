"""Shapes of models, GPUs, and the roofline: against published counts, by hand, and as laws."""

from __future__ import annotations

import dataclasses
import json
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.errors import UserError
from dsim.model.drafter_shapes import HEADS, drafter_shape
from dsim.model.estimate import estimate
from dsim.model.gpu import Gpu, gpu_of, gpus
from dsim.model.roofline import Constants, Roofline, memory_of, possible_tp
from dsim.model.shape import Shape, shape_of, shipped
from dsim.model.steady import steady

TINY = Shape(
    name="tiny",
    layers=2,
    width=10,
    heads=2,
    kv_heads=1,
    head_width=5,
    kv_elements=10,
    vocabulary=100,
    attention_parameters=300,
    dense_parameters=400,
)
# 1 FLOP and 1 byte a nanosecond.
SLOW = Gpu(
    name="slow",
    title="",
    tflops={"bf16": 1e-3},
    bandwidth_gb_s=1.0,
    memory_gib=1.0,
    link_gb_s=1.0,
    watts=1.0,
    source="",
)
IDEAL = Constants(
    flops_efficiency=1,
    bandwidth_efficiency=1,
    kv_efficiency=1,
    link_efficiency=1,
    step_us=1,
    layer_us=0.5,
    expert_layer_us=0,
    reduce_us=3,
)
names = st.sampled_from(sorted(shipped()))
sequences = st.lists(st.tuples(st.integers(1, 600), st.integers(0, 5000)), min_size=1, max_size=20)


@st.composite
def rooflines(draw):
    shape = shape_of(draw(names))
    return Roofline(
        shape=shape,
        gpu=gpu_of(draw(st.sampled_from(sorted(gpus())))),
        tp=draw(st.sampled_from(possible_tp(shape))),
        dtype=draw(st.sampled_from(["bf16", "fp8", "int4"])),
    )


@pytest.mark.parametrize("name", shipped())
def test_shapes_have_the_published_number_of_parameters(name):
    published = shipped()[name]["parameters_b"] * 1e9
    positions = 0.04 if "multi_query" in shipped()[name] else 0.001  # learned ones are left out
    assert shape_of(name).parameters == pytest.approx(published, rel=positions)


def test_models_are_found_by_the_names_that_people_use():
    for name, entry in shipped().items():
        found = shape_of(entry["hub"])
        assert dataclasses.replace(found, name=name) == shape_of(name)
    assert shape_of("RedHatAI/Meta-Llama-3.1-70B-Instruct-FP8-dynamic").name == "llama-3.1-70b"
    assert shape_of("Qwen2.5-7B").name == "qwen-2.5-7b"
    with pytest.raises(ValueError, match='did you mean "llama-3.3-70b"'):
        shape_of("lama-3.3-70b")


@pytest.mark.parametrize(
    ("spelt", "name"),
    [("NVIDIA-H100-80GB-HBM3", "h100"), ("A100", "a100-80gb"), ("RTX 4090", "rtx-4090")],
)
def test_gpus_are_found_however_they_are_spelt(spelt, name):
    assert gpu_of(spelt) is gpus()[name]


def test_an_unknown_gpu_names_the_nearest():
    with pytest.raises(ValueError, match='did you mean "h100"'):
        gpu_of("h1000")


def test_a_folder_with_a_config_is_a_model(tmp_path):
    config = {
        "hidden_size": 8,
        "intermediate_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 50,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"text_config": config, "tie_word_embeddings": True}))
    shape = shape_of(str(tmp_path))
    assert shape.parameters == 3 * (4 * 8 * 8 + 3 * 8 * 16) + 50 * 8
    assert shape.kv_elements == 2 * 8
    del config["vocab_size"]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match="expected a whole number as vocab_size, which is missing"):
        shape_of(str(tmp_path))
    path.write_text("[1]")
    with pytest.raises(UserError, match=r"config\.json"):
        shape_of(str(tmp_path))


def test_other_models_are_asked_for_on_the_hub(tmp_path, monkeypatch):
    config = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 9}
    for name in ("cached", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    hub = types.SimpleNamespace(
        try_to_load_from_cache=lambda name, file: (
            str(tmp_path / "cached" / file) if name == "me/Own-1B" else None
        ),
        hf_hub_url=lambda name, file: (tmp_path / name.partition("/")[2] / file).as_uri(),
        utils=types.SimpleNamespace(build_hf_headers=dict),
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    assert shape_of("me/Own-1B").name == "own-1b"
    assert shape_of("me/there").parameters == shape_of("me/Own-1B").parameters
    with pytest.raises(ValueError, match=r'called "me/missing".*the hub does not give'):
        shape_of("me/missing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="install huggingface_hub"):
        shape_of("me/Own-1B")


def test_multi_head_latent_attention_keeps_one_latent():
    """DeepSeek-V3: 512 + 64 numbers a layer and token, the same on every GPU."""
    shape = shape_of("deepseek-v3")
    assert shape.kv_elements == 576
    one, eight = (Roofline(shape=shape, gpu=gpu_of("h200"), tp=tp) for tp in (1, 8))
    assert one.kv_bytes_per_token == eight.kv_bytes_per_token == 61 * 576 * 2


def test_a_forward_worked_by_hand():
    """Two sequences: 1 token after 9, and 4 after none; both are sampled."""
    roofline = Roofline(shape=TINY, gpu=SLOW, constants=IDEAL)
    parameters = 2 * 300 + 400
    flops = 2 * (parameters * 5 + 1000 * 2) + 4 * 2 * 2 * 5 * (1 * 9.5 + 4 * 2)
    weights = 2 * (parameters + 1000)
    kv = 2 * 10 * 2 * (9 + 2 * 5)
    activations = 5 * 2 * 10 * 10 * 2
    overhead = 1000 + 2 * 500
    assert flops > weights + kv + activations
    assert roofline.step_ns([(1, 9), (4, 0)]) == overhead + flops
    wide = dataclasses.replace(SLOW, tflops={"bf16": 1.0})
    fast = dataclasses.replace(roofline, gpu=wide)
    assert fast.step_ns([(1, 9), (4, 0)]) == overhead + weights + kv + activations
    # Two GPUs: half of all but the one head for keys and values; 4 all-reduces of 3 µs.
    two = dataclasses.replace(fast, tp=2)
    link = 2 * 2 * 5 * 10 * 2 * 2 * 1 / 2
    halves = (weights + activations) / 2 + kv
    assert two.step_ns([(1, 9), (4, 0)]) == overhead + 12_000 + halves + link


@given(rooflines(), sequences)
def test_no_forward_is_faster_than_the_hardware(roofline, rows):
    """Weights that are always read and FLOPs of the matrices, at peak, are a lower bound."""
    shape, gpu, tp = roofline.shape, roofline.gpu, roofline.tp
    tokens = sum(n for n, _ in rows)
    each = {"bf16": 2, "fp8": 1, "int4": 0.5}[roofline.dtype]
    read_ns = shape.always_parameters * each / tp / gpu.bandwidth_gb_s
    active = shape.always_parameters + shape.routed_parameters
    compute_ns = 2 * active * tokens / tp / (gpu.peak_tflops(roofline.dtype) * 1e3)
    assert roofline.step_ns(rows) >= max(read_ns, compute_ns) - 1


@given(rooflines(), sequences, st.randoms())
def test_the_order_of_sequences_is_nothing(roofline, rows, random):
    mixed = random.sample(rows, len(rows))
    assert roofline.step_ns(mixed) == pytest.approx(roofline.step_ns(rows), rel=1e-9)


@given(rooflines(), sequences, st.tuples(st.integers(1, 600), st.integers(0, 5000)))
def test_more_work_never_takes_less(roofline, rows, one):
    more = roofline.step_ns([*rows, one])
    assert more >= roofline.step_ns(rows)
    n, c = one
    assert roofline.step_ns([*rows, (n, c + 100)]) >= more
    assert roofline.step_ns([*rows, (n + 1, c)]) >= more


@given(names.filter(lambda name: shape_of(name).experts > 0), st.integers(1, 500))
def test_tokens_reach_experts(name, tokens):
    """One token reaches its own; many reach all; never more than the tokens have together."""
    shape = shape_of(name)
    of_one = shape.expert_layers * shape.expert_parameters
    touched = shape.touched_parameters(tokens)
    assert shape.touched_parameters(1) == pytest.approx(shape.routed_parameters)
    assert touched <= of_one * min(shape.experts, tokens * shape.experts_per_token) * (1 + 1e-9)
    assert shape.touched_parameters(1e6) == pytest.approx(of_one * shape.experts)


def test_tensor_parallelism_divides_the_heads():
    yi = shape_of("yi-34b")  # 56 heads, 8 for keys and values
    assert possible_tp(yi) == [1, 2, 4, 8, 56]
    with pytest.raises(ValueError, match=r"tp = 3 does not divide the 56 heads of yi-34b"):
        Roofline(shape=yi, gpu=gpu_of("h100"), tp=3)
    with pytest.raises(ValueError, match="expected one of fp32"):
        Roofline(shape=yi, gpu=gpu_of("h100"), dtype="fp9")


@pytest.mark.parametrize(
    ("name", "tp", "budget", "blocks"),
    [
        ("llama-2-7b", 1, 2048, 7463),
        ("qwen-2.5-7b", 1, 2048, 65352),
        ("mistral-nemo", 1, 2048, 19251),
        ("mistral-nemo", 2, 1024, 48009),
        ("yi-34b", 2, 2048, 20793),
        ("llama-3.1-70b", 4, 2048, 30425),
        ("llama-3.1-70b", 4, 8192, 30251),
    ],
)
def test_kv_blocks_are_those_that_vllm_reported(name, tp, budget, blocks):
    """On H100, 90 % of the memory (published/vllm_measured.csv, total_kv_blocks)."""
    roofline = Roofline(shape=shape_of(name), gpu=gpu_of("h100"), tp=tp)
    memory = memory_of(roofline, max_batched_tokens=budget)
    assert memory.kv_blocks() == pytest.approx(blocks, rel=0.03)


def test_a_model_that_does_not_fit_has_no_blocks():
    memory = memory_of(Roofline(shape=shape_of("llama-3.3-70b"), gpu=gpu_of("h100")))
    assert memory.left < 0
    assert memory.kv_blocks() == 0


@pytest.mark.parametrize("name", HEADS)
def test_heads_are_small_and_fast_beside_their_target(name):
    for target in ("llama-3.1-8b", "llama-3.3-70b", "deepseek-v3", "qwen-3-30b-a3b"):
        shape = shape_of(target)
        head = drafter_shape(name, shape)
        assert 0 < head.parameters < shape.parameters / 2
        whole, part = (Roofline(shape=s, gpu=gpu_of("h200"), tp=4) for s in (shape, head))
        assert part.forward_ns(1, 500, 500, 1) < whole.forward_ns(1, 500, 500, 1)


def test_an_eagle3_head_has_the_published_size():
    """0.42 · 10⁹ parameters and its share of the embedding (yuhuili/EAGLE3-LLaMA3.1-…-8B)."""
    head = drafter_shape("eagle3", shape_of("llama-3.1-8b"))
    assert head.parameters == pytest.approx(0.425e9, rel=0.01)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Constants)])
def test_constants_are_physical(field):
    wrong = 1.5 if field.endswith("efficiency") else -1.0
    with pytest.raises(ValueError, match=field):
        Constants(**{field: wrong})


@given(st.floats(0.01, 5), st.integers(1, 2000), st.integers(2, 500))
def test_a_steady_load_obeys_littles_law(rate, prompt, output):
    roofline = Roofline(shape=shape_of("llama-3.1-8b"), gpu=gpu_of("h100"))
    found = steady(roofline, rate, prompt, output, max_seqs=10**6)
    assert found.stable
    assert found.batch == pytest.approx(rate * output * found.itl_ns / 1e9, rel=1e-4)
    assert found.e2e_ns == pytest.approx(found.ttft_ns + (output - 1) * found.itl_ns)
    more = steady(roofline, rate * 1.5, prompt, output, max_seqs=10**6)
    assert more.itl_ns >= found.itl_ns - 1


@given(st.sampled_from(["h100", "a100-80gb", "l40s"]), st.integers(1, 128))
def test_beyond_what_can_be_served_steps_are_those_of_a_full_batch(gpu, most):
    """Requests that wait for a place do not make the steps of the others longer."""
    roofline = Roofline(shape=shape_of("qwen-3-14b"), gpu=gpu_of(gpu), tp=1)
    full, fuller = (steady(roofline, rate, 547, 248, max_seqs=most) for rate in (100, 10_000))
    assert full.batch == pytest.approx(most)
    assert not full.stable
    assert fuller.itl_ns == pytest.approx(full.itl_ns, rel=1e-6)
    # Of a place, a request at a time: its prompt is read while the others decode.
    turn_ns = roofline.step_ns([(1, 671)] * most) * 247 + roofline.step_ns([(547, 0)]) * most
    assert full.itl_ns * 248 <= 1.2 * (turn_ns + roofline.step_ns([(1, 671)] * most) * most)


def test_a_load_that_cannot_be_served_is_called_so():
    roofline = Roofline(shape=shape_of("llama-3.1-8b"), gpu=gpu_of("l4"))
    assert not steady(roofline, 50, 1000, 500).stable


def test_models_of_two_vocabularies_are_named():
    """A vocabulary that is filled up to a round number is the same one."""
    one = estimate("llama-3.3-70b", "h100", tp=8, drafter="vicuna-68m")
    assert one.warning.startswith("llama-3.3-70b has 128,256 tokens in its vocabulary and vicuna-")
    for target, drafter in (
        ("qwen2.5-72b", "qwen2.5-0.5b"),
        ("llama-3.3-70b", "llama-3.2-1b"),
        ("llama-3.3-70b", "medusa"),
        ("llama-3.3-70b", None),
    ):
        assert estimate(target, "h100", tp=8, drafter=drafter).warning == ""


def test_a_model_without_an_mtp_module_is_named():
    one = estimate("llama-3.3-70b", "h100", tp=8, drafter="mtp")
    assert one.warning.startswith("llama-3.3-70b comes without an MTP module")
    assert estimate("deepseek-v3", "h200", tp=8, drafter="mtp").warning == ""
    assert estimate("llama-3.3-70b", "h100", tp=8, drafter="eagle3").warning == ""


def test_a_folder_without_a_model_is_no_name_on_the_hub(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"the folder models/mine holds no config\.json"):
        shape_of("models/mine")
