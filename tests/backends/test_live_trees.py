"""Trees and blocks of drafts on real models: tiny ones, in worker processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.backends.torch.decoders import Transformer
from dsim.backends.torch.fitting import check_drafts
from dsim.backends.torch.models import ModelSpec, load_model, specs
from dsim.backends.torch.nodes import END, Asked
from dsim.backends.torch.pair import load_pair
from dsim.backends.torch.sampling import Sampling
from dsim.backends.torch.verify import Match, Rejection, TopN
from dsim.backends.torch.workers import Workers
from dsim.cli.main import main
from dsim.engines.simulate import run_events
from dsim.errors import EngineError, UserError
from dsim.model.acceptance import Acceptance, rank_shares_of
from dsim.model.case import Case, Decoding, TreeShape
from dsim.orchestrations import ORCHESTRATIONS
from dsim.study.build import drafts_of
from dsim.tasks.validate.bench import TorchBench
from dsim.tasks.validate.run import validate
from dsim.tasks.validate.settings import load
from tests.backends.test_nodes import path_of, requests
from tests.pages import specifications
from tests.tiny import VOCAB, needs_torch

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # those of torch and transformers are not ours
]
TOKENS = 24
PROMPTS = ([3, 4, 5, 6], [20, 21, 22, 23, 24, 25, 26, 27, 28])
STATIC = TreeShape(paths=((1,), (2,), (3,), (1, 1), (2, 1), (1, 2), (1, 1, 1)), branches=3)
SHAPES = (
    STATIC,
    TreeShape(depth=4, branches=3, nodes=9),
    TreeShape(branches=2, deviations=2),
    TreeShape(branches=3, nodes=8),
)
TREES = [name for name, one in ORCHESTRATIONS.items() if one.traits.live and one.trees]
SAMPLINGS = (Sampling(), Sampling(temperature=0.8, seed=7))


@pytest.fixture(scope="module")
def decoder(folder):
    return Transformer(load_model(ModelSpec(name=str(folder / "target")), "cpu"), "cpu", VOCAB)


@settings(deadline=None, max_examples=30)
@given(st.lists(requests(), min_size=1, max_size=5), st.booleans())
def test_logits_behind_a_node_are_those_behind_its_path(decoder, made, between) -> None:
    """Whatever is in the cache, and with forwards over texts alone between."""
    import torch

    decoder.reset()
    with torch.inference_mode():
        for text, nodes, ask in made:
            logits, width = decoder.read_nodes(Asked(text, nodes, ask, 1, 1))
            assert 1 <= width <= len(text) + len(nodes)
            for row, node in zip(logits, ask, strict=True):
                path = path_of(text, nodes, node)
                plain = decoder.model(torch.tensor([path]), use_cache=False).logits[0, -1]
                assert np.allclose(row, plain.numpy(), atol=1e-4)
            if between:
                path = path_of(text, nodes, len(nodes) - 1)
                logits, _ = decoder.forward(path, 1)
                plain = decoder.model(torch.tensor([path]), use_cache=False).logits[0, -1]
                assert np.allclose(logits[0], plain.numpy(), atol=1e-4)


def test_a_tree_beyond_a_window_of_attention_is_refused(folder) -> None:
    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    model.config.sliding_window = 6
    decoder = Transformer(model, "cpu", VOCAB)
    assert len(decoder.read_nodes(Asked([3, 4, 5, 6], [(END, 7), (0, 8)], [1], 1, 1))[0]) == 1
    with pytest.raises(EngineError, match="a window of 6 tokens"):
        decoder.read_nodes(Asked([3, 4, 5, 6, 7], [(END, 7), (0, 8)], [1], 1, 1))


def test_trees_give_the_tokens_of_the_target(workers) -> None:
    accepted = second = 0
    for sampling, prompt in zip(SAMPLINGS, PROMPTS, strict=True):
        rule = Match(sampling)
        expected = workers.run("nonsi", prompt, TOKENS, rule).output.tokens
        for algorithm in TREES:
            for number, shape in enumerate(SHAPES):
                decoding = Decoding(tree=shape, patience=number % 2)
                made = workers.run(
                    algorithm,
                    prompt,
                    TOKENS,
                    rule,
                    lookahead=1 + number % 3,
                    targets=1 + number % 2,
                    decoding=decoding,
                    cached=bool(number % 2),
                )
                assert made.output.tokens == expected, (algorithm, shape, sampling)
                assert made.judged <= TOKENS
                accepted += made.output.accepted
                second += max(span.width for span in made.spans) > 1
    assert accepted > 100, "the drafter is no use, so little was tested"
    assert second == 2 * len(TREES) * len(SHAPES)


def test_a_round_of_a_tree_is_as_simulated(workers) -> None:
    """As many passes, of as many nodes, as the simulation makes of the recorded ranks."""
    later = 0
    for sampling, prompt in zip(SAMPLINGS, PROMPTS, strict=True):
        rule = Match(sampling)
        text = workers.run("nonsi", prompt, TOKENS, rule).output.tokens
        (ranks,) = workers.ranks(prompt, text, rule)
        later += sum(rank in (2, 3) for rank in ranks)
        made = workers.run(
            "tree", prompt, TOKENS, rule, decoding=Decoding(tree=STATIC), cached=True
        )
        trace = "".join(map(str, ranks))
        case = Case(
            tokens=TOKENS,
            repeats=1,
            targets=1,
            tree=STATIC,
            acceptance=Acceptance(model="trace", traces=(trace,)),
        )
        simulated = run_events(case, "tree", 0, keep_history=True)
        assert made.target.begun == simulated.target.begun
        assert made.drafter.begun == simulated.drafter.begun
        assert made.output.accepted == simulated.output.accepted
        widths = [len(one.fed) for one in simulated.target.history]
        passes = [span for span in made.spans if span.role == "target"]
        assert [span.asked for span in passes] == [span.width for span in passes] == widths
    assert later, "no second choice was right, so little was tested"


def test_validation_of_trees(workers) -> None:
    wanted = load(
        None,
        {
            "backend": "torch",
            "algorithms": ["nonsi", "tree", "treedsi"],
            "tokens": 12,
            "prompts": 2,
            "calibration_prompts": 1,
            "lookahead": [2],
            "repeats": 1,
            "tree.paths": [list(path) for path in STATIC.paths],
        },
    )
    decoding = Decoding(**drafts_of(wanted))
    assert decoding.tree == STATIC
    bench = TorchBench(workers, [[3, 4], [5, 6], [7, 8]], Match(), 12, decoding)
    bench.close = lambda: None  # the workers serve other tests too
    workers.sure.clear()
    found = validate(wanted, bench=bench)
    assert len(workers.sure) == 3 * 12
    assert 0 < bench.quality() < 1
    assert {claim.claim: claim.holds for claim in found.claims}["lossless"]
    assert len(found.rows) == 3
    assert set("".join(bench.traces.values())) > {"0", "1", "2"}


def test_rejection_and_lossy_rules_run_on_trees(workers) -> None:
    rule = Rejection(Sampling(temperature=1.0, seed=3))
    for algorithm, shape in (("tree", STATIC), ("treedsi", TreeShape(branches=3))):
        decoding = Decoding(tree=shape)
        made = workers.run(algorithm, PROMPTS[0], TOKENS, rule, decoding=decoding)
        assert len(made.output.tokens) == TOKENS
        in_time = algorithm == "tree"  # DSI's drafts may all be late on a slow machine
        assert made.output.accepted or not in_time
        made = workers.run(algorithm, PROMPTS[0], TOKENS, TopN(n=9), decoding=decoding)
        assert len(made.output.tokens) == TOKENS
        assert made.output.accepted or not in_time
        wrong = Decoding(tree=TreeShape(branches=3, nodes=5))
        with pytest.raises(UserError, match="rule: rejection is right only where"):
            workers.run(algorithm, PROMPTS[0], TOKENS, rule, decoding=wrong)


def test_a_text_ends_at_a_stop_token_on_a_tree(workers) -> None:
    rule = Match()
    text = workers.run("nonsi", PROMPTS[0], TOKENS, rule).output.tokens
    stop = text[TOKENS // 2]
    for algorithm in TREES:
        made = workers.run(algorithm, PROMPTS[0], TOKENS, rule, stop_ids=frozenset({stop}))
        assert made.output.tokens[: made.output.settled] == text[: text.index(stop) + 1]


def test_blocks_of_a_drafter_without_a_model(folder) -> None:
    pair = load_pair(*specs(str(folder / "target"), "ngram"))
    with Workers(pair, 1, share=True) as workers:
        rule = Match()
        expected = workers.run("nonsi", PROMPTS[0], TOKENS, rule).output.tokens
        for algorithm in ("si", "dsi", "pearl", "pipespec", *TREES):
            made = workers.run(
                algorithm,
                PROMPTS[0],
                TOKENS,
                rule,
                lookahead=4,
                decoding=Decoding(block_tokens=4),
            )
            assert made.output.tokens == expected, algorithm
        one = workers.run("si", PROMPTS[0], TOKENS, rule, lookahead=4)
        block = Decoding(block_tokens=4)
        four = workers.run("si", PROMPTS[0], TOKENS, rule, lookahead=4, decoding=block)
        assert four.output.accepted == one.output.accepted
        assert four.target.begun == one.target.begun
        assert four.drafter.begun <= -(-one.drafter.begun // 4) + one.target.begun


class OnlyGuesses:
    def guess(self, tokens):
        return tokens[-1]


def test_what_a_drafter_cannot_draft_is_refused() -> None:
    model, mine = ModelSpec(name="some/model"), ModelSpec(name=f"{__name__}:OnlyGuesses")
    rule, two = Match(), Decoding(tree=TreeShape(branches=2))
    for algorithm, decoding, drafter, compiled, what in (
        ("si", Decoding(block_tokens=3), model, False, "--block-tokens: some/model makes one"),
        ("tree", two, model, True, "--compile: tree reads trees, which are not compiled"),
        ("treedsi", two, mine, False, r"needs a method candidates\(tokens, count\)"),
    ):
        with pytest.raises(UserError, match=what):
            check_drafts(algorithm, decoding, drafter, rule, compiled=compiled)
    for algorithm, decoding, drafter, compiled in (
        ("nonsi", Decoding(block_tokens=3), model, True),
        ("si", two, model, True),
        ("tree", Decoding(tree=TreeShape(branches=1), block_tokens=2), mine, False),
    ):
        check_drafts(algorithm, decoding, drafter, rule, compiled=compiled)


def test_generate_draws_trees(folder, tmp_path) -> None:
    words = ["generate", "w3 w4 w5 w6", "--share", "--targets", "1", "--algorithm", "treedsi"]
    words += ["--target", str(folder / "target"), "--drafter", str(folder / "drafter")]
    words += ["--tree-branches", "3", "--patience", "2", "--lookahead", "2", "--tokens", "16"]
    words += ["--ignore-eos", "--json", "--timeline", str(tmp_path / "t.html")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    (row,) = map(json.loads, done.stdout.splitlines())
    assert len(row["token_ids"]) == 16
    page = str(specifications(tmp_path / "t.html"))
    assert "drafts behind 3 choices after" in page  # the root's; the first pass waits for them
    assert "drafts of several choices" in page


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (["--tree-paths", "1;2,1"], "--tree-paths: [2, 1] is there without its parent [2]"),
        (["--tree-paths", "0"], "--tree-paths: expected a list of paths, each of ranks from 1 on"),
        (["--tree-paths", "x"], "--tree-paths: expected whole numbers"),
        pytest.param(
            ["--rule", "rejection"],
            "give its nodes by --tree-paths, or take --rule match",
            marks=needs_torch,
        ),
        pytest.param(["--block-tokens", "2"], "makes one token in a forward", marks=needs_torch),
    ],
)
def test_wrong_trees_are_named(options, what) -> None:
    done = CliRunner().invoke(main, ["generate", "x", "--algorithm", "tree", *options])
    assert done.exit_code == 2
    assert what in done.stderr


def test_rank_shares() -> None:
    assert rank_shares_of(np.array([[1, 1, 2, 2], [0, 3, 1, 1]])) == [0.5, 0.25]
    assert rank_shares_of(np.array([[1, 0]])) == []
    assert rank_shares_of(np.array([1, 2, 3, 4])) == [0.333333] * 3
