"""Real forward passes, of tiny random models."""

from __future__ import annotations

import multiprocessing
import threading

import numpy as np
import pytest

from dsim.backends.lines import Line, exchange
from dsim.backends.torch import worker
from dsim.backends.torch.decoders import Transformer
from dsim.backends.torch.models import ModelSpec, load_model, load_tokenizer, specs
from dsim.backends.torch.pair import check_tokenizers, load_pair
from dsim.backends.torch.protocol import Begin, Done
from dsim.backends.torch.sampling import Sampling, choose
from dsim.backends.torch.verify import Match, Rejection, TopN
from dsim.engines.simulate import run_events
from dsim.errors import UserError
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from tests.pages import specifications
from tests.tiny import CONTEXT, VOCAB, write_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # those of torch and transformers are not ours
]
TOKENS = 24
PROMPTS = ([3, 4, 5, 6], [9], [20, 21, 22, 23, 24, 25, 26, 27, 28])


def alone(model, prompt: list[int], tokens: int, sampling: Sampling) -> list[int]:
    """The target's text, by forwards without a cache and without any code of the backend."""
    import torch

    text = list(prompt)
    with torch.inference_mode():
        for position in range(tokens):
            logits = model(torch.tensor([text])).logits[0, -1].numpy()
            text.append(choose(logits, position, sampling))
    return text[len(prompt) :]


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.8, seed=7),
        Sampling(temperature=1.0, top_k=20, top_p=0.9, seed=8),
    ],
    ids=["greedy", "sampled", "top-k and top-p"],
)
def test_si_and_dsi_give_exactly_the_tokens_of_the_target(workers, folder, sampling) -> None:
    import torch

    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    accepted = 0
    for prompt in PROMPTS:
        expected = alone(model, prompt, TOKENS, sampling)
        if sampling.temperature == 0:  # transformers itself agrees
            ids = model.generate(
                torch.tensor([prompt]),
                do_sample=False,
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                eos_token_id=None,
                pad_token_id=0,
            )
            assert ids[0, len(prompt) :].tolist() == expected
        runs = [("nonsi", 1, 1)]
        runs += [("si", k, 1) for k in (1, 2, 3, 5, 8)]
        runs += [("dsi", k, targets) for k in (1, 2, 3, 5, 8) for targets in (1, 2)]
        for algorithm, lookahead, targets in runs:
            run = workers.run(
                algorithm, prompt, TOKENS, Match(sampling), lookahead=lookahead, targets=targets
            )
            assert run.output.tokens == expected, (algorithm, lookahead, targets)
            accepted += run.output.accepted
    assert accepted > 20, "the drafter is no use, so little was tested"


def test_a_lossy_text_says_how_far_it_is_from_the_targets_own(workers, folder) -> None:
    import torch

    from dsim.tasks.generate import as_text, generate

    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    rule = TopN(n=8)
    made = generate(
        workers, PROMPTS[0], ("nonsi", "si"), rule, tokens=TOKENS, lookahead=4, ignore_eos=True
    )
    assert made[0].token_ids != made[1].token_ids, "so lenient, and still the same"
    for one in made:
        ids = torch.tensor([[*PROMPTS[0], *one.token_ids]])
        with torch.no_grad():
            logits = model(ids).logits[0, len(PROMPTS[0]) - 1 : -1].double()
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(one.token_ids))
        assert one.surprise_nats == pytest.approx(float(expected), rel=1e-4)
        assert one.row["surprise_nats"] == one.surprise_nats
    text = as_text(made, rule, workers)
    assert f"surprises the target by {made[1].surprise_nats:.3f} nats" in text
    (own,) = generate(workers, PROMPTS[0], ("si",), Match(), tokens=4, lookahead=4)
    assert own.surprise_nats is None


def test_widths_and_contexts_are_what_the_caches_lacked(workers) -> None:
    prompt = PROMPTS[2]
    for algorithm in ("nonsi", "si", "dsi"):
        run = workers.run(algorithm, prompt, TOKENS, Match(), lookahead=3, cached=True)
        for span in run.spans:
            assert span.width + span.context == len(prompt) + span.end
            assert span.width >= span.end - span.first + 1
        if algorithm == "nonsi":
            assert [s.width for s in run.spans] == [1] * TOKENS
    cold = workers.run("nonsi", prompt, 2, Match())
    assert [s.width for s in cold.spans] == [len(prompt), 1]


def test_a_recorded_trace_replays_the_run(workers) -> None:
    """What is predicted from a trace is, but for the times, what happens."""
    rule = Match(Sampling(temperature=0.8, seed=3))
    for prompt in PROMPTS:
        text = workers.run("nonsi", prompt, TOKENS, rule).output.tokens
        drafts, own = workers.answers(prompt, text, rule)
        assert [answer.token for answer in own] == text
        trace = "".join(str(int(d.token == t)) for d, t in zip(drafts, text, strict=True))
        for lookahead in (1, 3, 5):
            case = Case(
                tokens=TOKENS,
                lookahead=lookahead,
                targets=1,
                drafter=Latency(latency_ns=1, model="table", table=((1, 1), (2, 2))),
                target=Latency(latency_ns=9, model="table", table=((1, 9), (2, 10))),
                acceptance=Acceptance(model="trace", traces=(trace,)),
                repeats=1,
                seed=0,
                preemptible=False,
            )
            ideal = run_events(case, "si", 0, keep_history=True)
            real = workers.run("si", prompt, TOKENS, rule, lookahead=lookahead, cached=True)
            assert real.output.accepted == ideal.output.accepted
            assert real.output.rejections == ideal.output.rejections
            # Widths, too: a forward took as long as the tokens it fed.
            for role, servers in (("drafter", ideal.drafter), ("target", ideal.target)):
                took = [f.end_ns - f.start_ns for f in servers.history or ()]
                extra = 0 if role == "drafter" else 8
                assert took == [s.width + extra for s in real.spans if s.role == role]


def test_rejection_sampling_runs_by_every_algorithm(workers) -> None:
    rule = Rejection(Sampling(temperature=0.8, seed=3))
    for algorithm in ("nonsi", "si", "dsi"):
        run = workers.run(algorithm, [3, 4], TOKENS, rule, lookahead=3)
        assert len(run.output.tokens) == TOKENS
        assert all(0 <= token < VOCAB for token in run.output.tokens)


def test_the_cache_is_cut_back_and_filled_up(folder) -> None:
    import torch

    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    decoder = Transformer(model, "cpu", VOCAB)
    rng = np.random.default_rng(0)
    text: list[int] = [3]
    for _ in range(30):
        cut = int(rng.integers(1, len(text) + 1))
        text = text[:cut] + rng.integers(2, VOCAB, int(rng.integers(1, 6))).tolist()
        rows = int(rng.integers(1, len(text) + 1))
        logits, _ = decoder.forward(text, rows)
        with torch.inference_mode():
            expected = model(torch.tensor([text])).logits[0, -rows:].numpy()
        np.testing.assert_allclose(logits, expected, atol=2e-5)
        assert decoder.ids == text
        assert decoder.cache.get_seq_length() == len(text)


def test_layers_are_skipped(folder) -> None:
    target, drafter = specs(str(folder / "target"), "skip:0")
    assert load_pair(target, drafter).drafter.skip == (0,)
    model = load_model(drafter, "cpu")
    decoder = Transformer(model, "cpu", VOCAB)
    logits, width = decoder.forward([3, 4, 5], 1)
    assert (len(decoder.cache.layers), width) == (1, 3)
    again, width = decoder.forward([3, 4, 5], 1)
    assert width == 1
    np.testing.assert_allclose(logits, again, atol=2e-5)
    for wrong, words in (("skip:2", "layers 0 to 1"), ("skip:0,1", "one must stay")):
        with pytest.raises(UserError, match=words):
            load_pair(*specs(str(folder / "target"), wrong))


def test_logits_that_are_not_finite(folder) -> None:
    import torch

    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    with torch.no_grad():
        model.model.embed_tokens.weight[9] = float("nan")
    ours, theirs = multiprocessing.Pipe()
    decoder = Transformer(model, "cpu", VOCAB)
    thread = threading.Thread(target=worker.serve, args=(theirs, {"target": decoder}))
    thread.start()
    line = Line("target 1", 0, ours)
    exchange([line], [Begin([3], Match())])
    (reply,) = exchange([line], [([4], 0)])
    assert len(Done.unpack(reply.value).answers) == 2
    with pytest.raises(Exception, match=r"target 1 failed: the logits of token [12] are not"):
        exchange([line], [([4, 9], 1)])
    (reply,) = exchange([line], [([4, 8], 1)])  # it lives on, its cache in order
    assert Done.unpack(reply.value).width == 2
    ours.send(None)
    thread.join()


def test_models_that_are_not_there(tmp_path, folder) -> None:
    for target, words in (
        ("no-such-owner/no-such-model", r"--target: no-such-owner.*hf download no-such-owner"),
        (str(tmp_path), "has no config.json"),
        ("work/none/target", "there is no such folder; expected one with a config.json"),
        (str(tmp_path / "x.gguf"), "x.gguf is not there"),
        ("no-owner/no-model/x.gguf", r"no file here.*hf download no-owner/no-model x.gguf"),
    ):
        with pytest.raises(UserError, match=words):
            load_pair(*specs(target, "ngram"))
    with pytest.raises(UserError, match="--drafter: is missing"):
        specs(str(folder / "target"), None)
    with pytest.raises(UserError, match='did you mean "float32"'):
        specs(str(folder / "target"), "ngram", dtype="float3")
    with pytest.raises(UserError, match="layer numbers"):
        specs(str(folder / "target"), "skip:a")
    with pytest.raises(UserError, match="can only draft"):
        specs("ngram", "ngram")


def test_tokenizers_that_differ(tmp_path, folder) -> None:
    write_model(tmp_path / "other", 3, words=("cat",))
    with pytest.raises(UserError, match=r"differs .* in 2 tokens of 64 \(like 'cat'"):
        load_pair(*specs(str(folder / "target"), str(tmp_path / "other")))
    same = load_tokenizer(ModelSpec(name=str(folder / "target")))
    check_tokenizers(same, same)


def test_a_prompt_longer_than_the_context(workers) -> None:
    with pytest.raises(UserError, match=f"{CONTEXT:,} that the models can read"):
        workers.run("nonsi", [3] * (CONTEXT - 3), 4, Match())
    run = workers.run("dsi", [3] * (CONTEXT - 4), 4, Match())
    assert len(run.output.tokens) == 4


@pytest.fixture
def words(tmp_path):
    """A prompt set in the tiny models' language."""
    file = tmp_path / "words.jsonl"
    lines = [f'{{"prompt": "w{i} w{i + 1} w{2 * i}", "task": "t{i % 2}"}}\n' for i in range(5, 11)]
    file.write_text("".join(lines), "utf-8")
    return file


def test_generate_streams_and_compares(workers) -> None:
    from dsim.tasks import generate as generation

    ids = generation.encode(workers.pair, "w3 w4 w5", chat=False)
    assert ids == [3, 4, 5]
    pieces: list[str] = []
    made = generation.generate(
        workers,
        ids,
        ("nonsi", "si", "dsi"),
        Match(),
        tokens=20,
        lookahead=3,
        ignore_eos=True,
        write=pieces.append,
    )
    assert "".join(pieces) == made[0].text
    assert len(pieces) == 20
    for one in made:
        row = one.row
        assert row["token_ids"] == made[0].token_ids
        assert len(row["token_ids"]) == 20
        assert 0 < row["first_token_ms"] <= row["wall_ms"]
        assert row["orchestration_ms"] <= row["wall_ms"]
    assert made[0].row["target_passes"] == 20
    assert made[1].row["target_passes"] < 20
    assert "all gave the same tokens" in generation.as_text(made, Match(), workers)


def test_a_timeline_of_real_passes(workers, tmp_path) -> None:
    from dsim.tasks import generate as generation

    made = generation.generate(workers, [3, 4], ("dsi",), Match(), tokens=12, lookahead=2)
    generation.write_timeline(made, tmp_path / "line.html", "tiny")
    assert "target 2" in str(specifications(tmp_path / "line.html"))


def test_measured_latencies_and_acceptance(workers, tmp_path) -> None:
    from dsim.study import loader as study
    from dsim.study.build import case_of
    from dsim.tasks.measure import acceptance as accepting
    from dsim.tasks.measure import latency as timing

    table = timing.latency(workers, PROMPTS, tokens=4, widths=[1, 3], contexts=[8, 16], repeats=3)
    shapes = [(r["context"], r["width"], r["co_running"]) for r in table.rows]
    assert shapes == [(c, w, load) for c in (8, 16) for w in (1, 3) for load in (0, 1)]
    assert all(0 < r["p25_ms"] <= r["p50_ms"] <= r["p75_ms"] for r in table.rows)
    assert len(table.ttft_ms) == len(table.tpot_ms) == 3
    made = study.loads(timing.latency_toml(table, "target"))
    assert case_of(made.of_variant(0)).target.table[0][0] == 1
    with pytest.raises(UserError, match="together reach"):
        timing.latency(workers, [], tokens=4, widths=[9], contexts=[CONTEXT], repeats=1)

    rule = Match()
    report = accepting.acceptance(workers, [("a", p) for p in PROMPTS], rule, tokens=TOKENS)
    for prompt, trace in zip(PROMPTS, report.traces, strict=True):
        run = workers.run("si", prompt, TOKENS, rule, lookahead=1)
        # With one draft a round, each verdict is that of its position.
        assert all(trace[position] != "1" for position in run.output.rejections)
        assert run.output.accepted == run.judged - len(run.output.rejections)
    accepting.write_traces(report, tmp_path / "traces.txt")
    read = study.read_traces((tmp_path / "traces.txt").read_text("utf-8"))
    assert read == report.traces
    assert "acceptance rate" in accepting.acceptance_text(report)


def test_the_two_estimators_of_the_acceptance_rate() -> None:
    from dsim.tasks.measure.acceptance import paper_rate_of, rate_of

    draws = np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], dtype=bool)
    assert rate_of(draws)[0] == pytest.approx(10 / 12)
    assert paper_rate_of(draws) == pytest.approx(1 - 1 / (1 + (2 + 0 + 4) / 3))
    assert rate_of(draws[:1]) == (0.75, None)


def test_validation_with_real_passes(workers) -> None:
    from dsim.tasks.validate import run, settings
    from dsim.tasks.validate.bench import TorchBench

    given = settings.load(
        None,
        {
            "backend": "torch",
            "tokens": 12,
            "prompts": 2,
            "calibration_prompts": 1,
            "lookahead": [1, 3],
            "targets": [1, 2],
            "repeats": 2,
            "torch.equal_budget": True,
        },
    )
    bench = TorchBench(workers, [[3, 4], [5, 6], [7, 8]], Match(), 12)
    bench.close = lambda: None  # the workers serve other tests too
    found = run.validate(given, bench=bench)
    claims = {claim.claim: claim for claim in found.claims}
    assert claims["lossless"].holds
    assert len(found.rows) == 1 + 2 + 2 * 2 + 1 + 2
    cores = {row.cores for row in found.rows if row.configuration.all_cores}
    assert cores == {workers.all_cores()[1]}
    assert "the predicted winner wins, at equal budget" in claims
    assert all((row.measured_ms > 0).all() for row in found.rows)
    assert "share 2 cores" in " ".join(found.notes) or len(workers.contention) == 0
    assert 0 < found.calibration.rate < 1


def test_a_run_after_another_algorithm_is_thrown_away(workers) -> None:
    from dsim.tasks.validate.bench import TorchBench
    from dsim.tasks.validate.settings import Configuration

    bench = TorchBench(workers, [[3, 4], [5, 6]], Match(), 6)
    plain, runs = bench._run, []
    bench._run = lambda *args: runs.append(args) or plain(*args)
    nonsi, si, dsi = (Configuration(name, 1, 1) for name in ("nonsi", "si", "dsi"))
    for c, more in ((nonsi, 2), (nonsi, 1), (si, 2), (si._replace(lookahead=3), 1)):
        runs.clear()
        bench.measure(0, c)
        assert runs == [(0, c)] * more
    for c, more in ((si._replace(all_cores=True), 2), (dsi, 2), (dsi, 1)):
        runs.clear()
        bench.measure(1, c)
        assert runs == [(1, c)] * more
    bench.trace(0)
    runs.clear()
    bench.measure(0, dsi)
    assert len(runs) == 2


def test_the_commands(folder, words) -> None:
    import json

    from click.testing import CliRunner

    from dsim.cli.main import main

    models = ["--target", str(folder / "target"), "--drafter", str(folder / "drafter")]
    tiny = ["--tokens", "10", "--share", "--targets", "1"]
    result = CliRunner().invoke(
        main, ["generate", "w3 w4", *models, *tiny, "--compare", "--json", "--ignore-eos"]
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.output.splitlines()]
    assert [row["algorithm"] for row in rows] == ["nonsi", "si", "dsi"]
    for key in ("token_ids", "text", "wall_ms", "acceptance", "target_passes"):
        assert all(key in row for row in rows)
    assert rows[0]["token_ids"] == rows[1]["token_ids"] == rows[2]["token_ids"]

    ngram = ["--target", str(folder / "target"), "--drafter", "ngram"]
    result = CliRunner().invoke(
        main, ["measure", "acceptance", *ngram, *tiny, "--prompt-set", str(words), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["acceptance"]["prompts"] == 6
    result = CliRunner().invoke(
        main,
        [
            "measure",
            "latency",
            "--model",
            str(folder / "target"),
            "--prompt-set",
            str(words),
            "--contexts",
            "8",
            "--widths",
            "1,2",
            "--repeats",
            "2",
            "--toml",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "latency_by_width_ms" in result.output


def test_mistakes_on_the_command_line(folder) -> None:
    from click.testing import CliRunner

    from dsim.cli.main import main

    target = ["--target", str(folder / "target")]
    for arguments, words in (
        (
            ["generate", "w1", "--target", "nowhere/x", "--drafter", "ngram"],
            "hf download nowhere/x",
        ),
        (["generate", "w1", *target, "--drafter", "ngram", "--rule", "mach"], 'mean "match"'),
        (["generate", "w1", *target, "--drafter", "ngram", "--top-p", "2"], "top-p"),
        (["measure", "acceptance", *target, "--prompt-set", "nowhere"], "cannot be read"),
        (["measure", "latency", "--widths", "1,x"], "numbers above 0"),
        (["measure", "acceptance", *target, "--drafter", "ngram", "--chat"], "no chat template"),
    ):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2, result.output
        assert words in result.output
        assert "Traceback" not in result.output
