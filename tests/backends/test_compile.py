"""Static caches and compiled models, of tiny random models."""

from __future__ import annotations

import multiprocessing
import shutil
import sys
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.backends.lines import Line, Pipe
from dsim.backends.torch import decoders as decoding
from dsim.backends.torch import placement, worker, workers
from dsim.backends.torch.models import ModelSpec, load_model, specs
from dsim.backends.torch.pair import load_pair
from dsim.backends.torch.protocol import WorkerSetup
from dsim.backends.torch.sampling import Sampling
from dsim.backends.torch.verify import Match
from dsim.errors import EngineError, UserError
from dsim.units import NS_PER_S
from tests.tiny import CONTEXT, VOCAB, write_pair

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # those of torch and transformers are not ours
]
TOKENS = 24
ROOM = 40  # tokens of a static cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_pair(tmp_path_factory)


def sliding_model():
    """A random model whose layers look back at most five tokens, every other one."""
    import torch
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(3)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=5,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
    )
    return Gemma2ForCausalLM(config).eval()


def learned_positions():
    """A random model that has never heard of positions from ROOM on."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(4)
    config = GPT2Config(vocab_size=VOCAB, n_positions=ROOM, n_embd=32, n_layer=2, n_head=4)
    return GPT2LMHeadModel(config).eval()


@pytest.fixture(scope="module", params=["llama", "sliding windows", "learned positions"])
def decoders(request, folder):
    """A dynamic and a static decoder of the same model."""
    if request.param == "llama":
        model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    else:
        model = sliding_model() if request.param == "sliding windows" else learned_positions()
    return (
        decoding.Transformer(model, "cpu", VOCAB),
        decoding.StaticTransformer(model, "cpu", VOCAB, ROOM, compiled=False),
    )


@st.composite
def texts(draw):
    """(text, rows) of forwards, each text the last one cut back and gone on with."""
    forwards, text = [], []
    for _ in range(draw(st.integers(1, 8))):
        kept = draw(st.integers(0, min(len(text), ROOM - 1)))
        more = draw(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=ROOM - kept))
        text = text[:kept] + more
        forwards.append((text, draw(st.integers(1, len(text)))))
    return forwards


@given(forwards=texts())
@settings(max_examples=30, deadline=None)
def test_a_static_cache_gives_the_logits_of_one_that_grows(decoders, forwards) -> None:
    dynamic, static = decoders
    dynamic.reset()
    static.reset()  # whatever the last text left behind in its cache must not matter
    for text, rows in forwards:
        expected, width = dynamic.forward(text, rows)
        logits, fed = static.forward(text, rows)
        assert fed == width
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_a_text_that_is_too_long_is_an_error_and_leaves_the_cache_in_order(folder) -> None:
    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    static = decoding.StaticTransformer(model, "cpu", VOCAB, ROOM, compiled=False)
    expected, _ = static.forward([3] * ROOM, 1)
    with pytest.raises(EngineError, match=f"has {ROOM + 1} tokens.* room for {ROOM}"):
        static.forward([3] * (ROOM + 1), 1)
    again, _ = static.forward([3] * ROOM, 1)
    np.testing.assert_allclose(again, expected, atol=1e-4)


def test_what_is_not_finite_does_not_outlast_its_text(folder) -> None:
    import torch

    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = float("nan")
    static = decoding.StaticTransformer(model, "cpu", VOCAB, ROOM, compiled=False)
    expected, _ = static.forward([3, 4, 5], 2)
    static.reset()
    assert np.isnan(static.forward([3, 4, 5, 6, 9, 6], 1)[0]).all()
    static.reset()
    np.testing.assert_allclose(static.forward([3, 4, 5], 2)[0], expected)


def test_few_widths_are_ever_compiled(folder) -> None:
    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    static = decoding.StaticTransformer(model, "cpu", VOCAB, ROOM, compiled=False)
    step, seen = static.step, set()

    def compiled_step(ids, start, rows):
        assert rows == 0
        seen.add(tuple(ids.shape))
        return step(ids, start, rows)

    static.compiled_step = compiled_step
    for width in range(1, ROOM + 1):
        for rows in (1, width):
            static.reset()
            static.forward([3] * width, rows)
    assert seen == {(1, width) for width in decoding.STATIC_WIDTHS}


@given(text=st.integers(1, 5000), context=st.integers(1, 6000))
def test_a_cache_has_room_for_the_text_and_no_more_than_the_model_can_read(text, context) -> None:
    room = placement.static_tokens(text, context)
    assert min(text, context) <= room <= context
    assert room == context or (room % 64 == 0 and room - text >= decoding.STATIC_WIDTHS[-1])
    assert placement.static_tokens(0, context) == 0


class Threads(workers.Workers):
    """A workers whose workers are threads, each with the decoders that it is given."""

    def __init__(self, pair, decoders) -> None:
        self.pair, self.watchdog_ns, self.threads = pair, 3600 * NS_PER_S, 0
        self.compiled = isinstance(decoders[0]["drafter"], decoding.StaticTransformer)
        self.cores, self.everywhere = [()] * len(decoders), ["cpu"] * len(decoders)
        self.contention, self.together, self.processes, self.lines = "", True, [], []
        self.running, self.sure, self.probabilities = [], [], []
        for rank, own in enumerate(decoders):
            ours, theirs = map(Pipe, multiprocessing.Pipe())
            thread = threading.Thread(target=worker.serve, args=(theirs, own), daemon=True)
            thread.start()
            self.running.append(thread)
            self.lines.append(Line(f"server {rank}", rank, ours))
        self.drafter, *self.targets = self.lines

    def close(self, *, force=False) -> None:  # noqa: ARG002
        for line, thread in zip(self.lines, self.running, strict=True):
            line.pipe.send(None)
            thread.join(10)


def three_algorithms_agree(pair, static, dynamic) -> None:
    """Workers with *static* and *dynamic* decoders, made from (specification), agree."""
    accepted = 0
    with Threads(pair, static) as workers, Threads(pair, dynamic) as reference:
        for sampling in (Sampling(), Sampling(temperature=0.8, seed=7)):
            rule = Match(sampling)
            for prompt in ([3, 4, 5, 6], [9], [20 + i for i in range(19)]):
                expected = reference.run("nonsi", prompt, TOKENS, rule).output.tokens
                runs = [("nonsi", 1, 1)]
                runs += [("si", k, 1) for k in (1, 2, 3, 5, 8)]
                runs += [("dsi", k, n) for k in (1, 2, 3, 5, 8) for n in (1, 2)]
                for algorithm, lookahead, targets in runs:
                    run = workers.run(
                        algorithm, prompt, TOKENS, rule, lookahead=lookahead, targets=targets
                    )
                    assert run.output.tokens == expected, (algorithm, lookahead, targets)
                    accepted += run.output.accepted
                ranks = workers.ranks(prompt, expected, rule)  # a chain of nodes
                assert ranks == reference.ranks(prompt, expected, rule)
                with pytest.raises(UserError, match="--compile: tree reads trees"):
                    workers.run("tree", prompt, TOKENS, rule)
    assert accepted > 20, "the drafter is no use, so little was tested"


def test_si_and_dsi_give_the_tokens_of_the_target_with_static_caches(folder) -> None:
    pair = load_pair(*specs(str(folder / "target"), str(folder / "drafter")))
    models = {
        "target": load_model(pair.target, "cpu"),
        "drafter": load_model(pair.drafter, "cpu"),
    }

    def workers_of(make):
        return [
            {role: make(models[role]) for role in roles}
            for roles in (["drafter"], ["target", "drafter"], ["target"])
        ]

    three_algorithms_agree(
        pair,
        workers_of(lambda m: decoding.StaticTransformer(m, "cpu", VOCAB, 64, compiled=False)),
        workers_of(lambda m: decoding.Transformer(m, "cpu", VOCAB)),
    )


def test_no_compiler(monkeypatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    for platform, compiler in (("linux", r"g\+\+"), ("darwin", r"clang\+\+")):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(
            UserError, match=rf"--compile: no C\+\+ compiler is here \({compiler}\)"
        ):
            placement.check_compiler(["cpu", "cpu"])
    placement.check_compiler(["cuda:0", "cuda:1"])
    monkeypatch.setenv("CXX", "my-own-c++")
    with pytest.raises(UserError, match=r"my-own-c\+\+"):
        placement.check_compiler(["cuda:0", "cpu"])
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}")
    placement.check_compiler(["cpu"])


def test_a_compilers_error_is_one_line() -> None:
    many = "CppCompileError: C++ compile error\n\nCommand:\ng++ x\n\nx.cpp:3: fatal error: Python.h"
    assert decoding.gist(RuntimeError(many)) == "x.cpp:3: fatal error: Python.h"
    assert decoding.gist(RuntimeError("what\nelse")) == "what"
    assert decoding.gist(ValueError()) == "ValueError"


def test_compiled_models_give_the_same_tokens_and_compile_nothing_later(folder, monkeypatch):
    """The one test that compiles: half a minute, some seconds once torch has kept the kernels."""
    if not shutil.which("g++"):
        pytest.skip("there is no C++ compiler")
    import torch
    import torch._inductor.config

    monkeypatch.setattr(decoding, "STATIC_WIDTHS", (1, 4))
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    target, drafter = specs(str(folder / "target"), str(folder / "drafter"))
    setup = WorkerSetup(
        specs={"target": target, "drafter": drafter},
        device="cpu",
        cores=(),
        threads=torch.get_num_threads(),
        vocab=VOCAB,
        warm_up_widths=(1, 3, 9),
        static_tokens=ROOM,
    )
    threads = torch.get_num_threads()
    try:
        decoders = decoding.load(setup)
        torch.compiler.set_stance("fail_on_recompile")
        for role, spec in setup.specs.items():
            dynamic = decoding.Transformer(load_model(spec, "cpu"), "cpu", VOCAB)
            static = decoders[role]
            step, eager = static.compiled_step, static.step
            assert step is not eager
            rng, text = np.random.default_rng(0), []
            for _ in range(40):
                kept = int(rng.integers(0, len(text) + 1))
                more = int(rng.integers(1, min(6, ROOM - kept) + 1)) if kept < ROOM else 0
                if not more:
                    continue
                text = text[:kept] + rng.integers(2, VOCAB, more).tolist()
                rows = int(rng.integers(1, more + 1))
                expected, _ = dynamic.forward(text, rows)
                logits, _ = static.forward(text, rows)
                np.testing.assert_allclose(logits, expected, atol=1e-4)
    finally:
        torch.compiler.set_stance("default")
        torch.set_num_threads(threads)
