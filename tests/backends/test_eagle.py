"""EAGLE-3 heads: what their folders hold, what they read, and texts with them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.backends.torch import prompts
from dsim.backends.torch.eagle import default_layers, load_head, open_head
from dsim.backends.torch.models import PAIR, ModelSpec, load_config, load_model, specs
from dsim.backends.torch.nodes import END, Asked
from dsim.backends.torch.pair import load_pair
from dsim.backends.torch.sampling import Sampling
from dsim.backends.torch.verify import Match
from dsim.backends.torch.workers import Workers
from dsim.engines.simulate import run_events
from dsim.errors import UserError
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from tests import ROOT
from tests.tiny import VOCAB, need_torch, write_head, write_model

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # those of torch and transformers are not ours
]
LAYERS = (1, 2, 3)
NOISY = Sampling(temperature=8.0, seed=3)  # the noise that both share decides, so they agree


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    need_torch()
    folder = tmp_path_factory.mktemp("eagle")
    write_model(folder / "target", 1, layers=4)
    write_head(folder / "eagle", layers=LAYERS)
    return folder


@pytest.fixture(scope="module")
def decoders(folder):
    """The target's decoder and the head's."""
    from dsim.backends.torch.decoders import Transformer
    from dsim.backends.torch.heads import FeatureDrafter

    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    target = Transformer(model, "cpu", VOCAB)
    spec = open_head(folder / "eagle", model.config)
    target.watched = spec.layers
    return target, FeatureDrafter(load_head(spec, model, "cpu", "float32"), target, VOCAB)


def plain_logits(decoders, text, seen: int):
    """What a head says behind *text* of which its target has read *seen* tokens, from scratch.

    The rules, one pair after the other, without a cache and without a batch.
    """
    import torch

    target, drafter = decoders
    head = drafter.head
    with torch.no_grad():
        said = target.model(torch.tensor([text]), output_hidden_states=True).hidden_states
        features = torch.cat([said[layer][0] for layer in LAYERS], -1)
        hidden = None
        past = None
        for place in range(len(text) - 1):
            known = head.fuse(features[place]) if place < seen else hidden
            if place < seen:  # a chain of drafts starts behind the last true features
                before = past
            out, past = head.forward(
                torch.tensor([[text[place + 1]]]),
                known[None, None],
                torch.tensor([[place]]),
                before if place < seen else past,
                torch.ones(1, place + 1, dtype=torch.bool),
            )
            hidden = out[0, 0]
        found = head.logits(hidden).numpy()
    logits = np.full(VOCAB, -np.inf, dtype=np.float32)
    logits[head.tokens()] = found
    return logits


def same(found, expected) -> None:
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_what_is_stored_is_what_is_read(folder, tmp_path) -> None:
    """By the published names, or by those that others give to the same tensors."""
    import torch
    from safetensors.torch import save_file

    tensors = write_head(tmp_path / "head", layers=LAYERS)
    model = load_model(ModelSpec(name=str(folder / "target")), "cpu")
    for rename in (lambda n: n, lambda n: "model." + n.replace("midlayer.", "layers.0.")):
        file = tmp_path / "head" / "model.safetensors"
        save_file({rename(name): tensor for name, tensor in tensors.items()}, file)
        head = load_head(open_head(tmp_path / "head", model.config), model, "cpu", "float32")
        for name, tensor in tensors.items():
            assert torch.equal(head.weights[name], tensor), name
        # The embeddings are not stored: they are the target's.
        assert head.weights["embed_tokens.weight"] is model.get_input_embeddings().weight
    assert (
        load_head(open_head(tmp_path / "head", model.config), model, "cpu", "bfloat16")
        .weights["fc.weight"]
        .dtype
        is torch.bfloat16
    )


def test_which_layers_are_read(folder, tmp_path) -> None:
    assert default_layers(32) == (2, 16, 29)  # the published heads of an 8B model
    assert all(0 < layer < count for count in range(2, 40) for layer in default_layers(count))
    config = load_config(ModelSpec(name=str(folder / "target")), "--target")
    assert open_head(folder / "eagle", config).layers == LAYERS
    write_head(tmp_path / "silent", eagle_config=None)
    assert open_head(tmp_path / "silent", config).layers == default_layers(4)


def test_only_its_own_tokens_are_drafted(decoders, folder) -> None:
    """``d2t`` says what to add to the number of a token; all others are ruled out."""
    target, drafter = decoders
    drafter.reset()
    target.reset()
    added = write_head(folder / "eagle", layers=LAYERS)["d2t"].tolist()
    ids = [number + more for number, more in enumerate(added)]
    logits, width = drafter.forward([3, 4, 5], 1)
    assert np.isfinite(logits[0]).nonzero()[0].tolist() == ids
    assert width == 2  # pairs: a token, and the one after it
    hidden = drafter.said[-1]
    same(logits[0][ids], drafter.head.logits(hidden).detach().numpy())


def test_features_of_three_layers_are_fused(decoders) -> None:
    import torch

    target, drafter = decoders
    target.reset()
    target.forward([7, 8, 9], 1)
    assert target.features.shape == (3, 3 * 32)
    said = target.model(torch.tensor([[7, 8, 9]]), output_hidden_states=True).hidden_states
    same(target.features.detach(), torch.cat([said[i][0] for i in LAYERS], -1).detach())
    assert drafter.head.fuse(target.features).shape == (3, 32)
    target.forward([7, 5], 1)  # cut back, and another token
    assert target.features.shape == (2, 3 * 32)


@settings(max_examples=10, deadline=None)
@given(
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=6),
    rounds=st.lists(
        st.tuples(st.integers(1, 4), st.integers(0, 4), st.integers(0, VOCAB - 1)), max_size=4
    ),
)
def test_true_features_replace_those_of_drafts(decoders, prompt, rounds) -> None:
    """Chains of drafts, verified and cut at any place: always as if read from scratch."""
    target, drafter = decoders
    target.reset()
    drafter.reset()
    text = list(prompt)
    for count, accepted, own in rounds:
        drafts = []
        for _ in range(count):
            logits, _ = drafter.forward([*text, *drafts], 1)
            same(logits[0], plain_logits(decoders, [*text, *drafts], len(text) - 1))
            drafts.append(int(logits[0].argmax()))
        target.forward([*text, *drafts], count + 1)
        stand = drafts[:accepted]
        rejected = drafts[len(stand) : len(stand) + 1]  # which the target's own token never is
        text += [*stand, (own + 1) % VOCAB if [own] == rejected else own]
    logits, _ = drafter.forward(text, 1)
    same(logits[0], plain_logits(decoders, text, len(text) - 1))


@settings(max_examples=25, deadline=None)
@given(
    nodes=st.lists(st.tuples(st.integers(0, 99), st.integers(0, VOCAB - 1)), max_size=8),
    data=st.data(),
)
def test_a_node_of_a_tree_is_the_end_of_its_own_chain(decoders, nodes, data) -> None:
    """Whatever else is on the tree, and however it is asked for, level by level or at once."""
    target, drafter = decoders
    target.reset()
    drafter.reset()
    text = [3, 9, 4]
    tree: list[tuple[int, int]] = []
    for number, token in nodes:
        node = (number % (len(tree) + 1) - 1, token)
        if node not in tree:
            tree.append(node)
    ask = list(range(END, len(tree)))
    for end in sorted({data.draw(st.integers(0, len(tree))), len(tree)}):
        asked = [node for node in ask if node < end]
        logits, _ = drafter.read_nodes(Asked(text, tree[:end], asked, 3, 1))
        for last, row in zip(asked, logits, strict=True):
            path: list[int] = []
            at = last
            while at != END:
                path.insert(0, tree[at][1])
                at = tree[at][0]
            same(row, plain_logits(decoders, [*text, *path], len(text) - 1))


def test_a_text_goes_on_along_a_tree_that_the_target_has_read(decoders) -> None:
    target, drafter = decoders
    target.reset()
    drafter.reset()
    text, tree = [3, 9, 4], [(END, 7), (END, 8), (1, 5), (1, 6)]
    drafter.read_nodes(Asked(text, tree, [0, 1], 2, 1))
    target.read_nodes(Asked(text, tree, [END, 0, 1, 2, 3], 1, 1))
    logits, width = drafter.read_nodes(Asked([3, 9, 4, 8, 6, 2], [], [END], 2, 1))
    same(logits[0], plain_logits(decoders, [3, 9, 4, 8, 6, 2], 5))
    assert width == 3  # the pairs of 8, 6 and 2: those before had true features
    target.read_nodes(Asked([3, 9, 4, 8, 6, 2], [(END, 1), (0, 5)], [END, 0, 1], 1, 1))
    logits, width = drafter.read_nodes(Asked([3, 9, 4, 8, 6, 2, 1, 7], [], [END], 2, 1))
    same(logits[0], plain_logits(decoders, [3, 9, 4, 8, 6, 2, 1, 7], 7))
    assert width == 2


@pytest.mark.parametrize("algorithm", ["si", "tree"])
@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=0.9, seed=3), NOISY], ids=str
)
def test_the_text_is_the_targets(workers, algorithm, sampling) -> None:
    accepted = 0
    for prompt in ([3, 4, 5], [9], list(range(20, 32))):
        rule = Match(sampling)
        alone = workers.run("nonsi", prompt, 20, rule).output.tokens
        run = workers.run(algorithm, prompt, 20, rule, lookahead=3)
        assert run.output.tokens == alone
        assert run.drafter.begun > 0
        accepted += run.output.accepted
    assert accepted or sampling is not NOISY


@pytest.fixture(scope="module")
def workers(folder):
    with Workers(load_pair(*specs(str(folder / "target"), "eagle")), 1, share=True) as workers:
        yield workers


@pytest.mark.parametrize("lookahead", [1, 2, 5])
def test_ranks_by_depth_say_how_drafts_fare(workers, lookahead) -> None:
    """A simulation that replays them meets the very verdicts that the real models meet."""
    rule, wanted, accepted = Match(NOISY), 20, 0
    for prompt in ([3, 4, 5], [9, 8]):
        text = workers.run("nonsi", prompt, wanted, rule).output.tokens
        rows = workers.ranks(prompt, text, rule)
        drafts, own = workers.answers(prompt, text, rule)
        assert [answer.token for answer in own] == text
        right = [answer.token == token for answer, token in zip(drafts, text, strict=True)]
        assert [rank == 1 for rank in rows[0]] == right
        run = workers.run("si", prompt, wanted, rule, lookahead=lookahead)
        trace = "/".join("".join(map(str, row)) for row in rows)
        case = Case(
            tokens=wanted,
            targets=1,
            lookahead=lookahead,
            repeats=1,
            acceptance=Acceptance(model="trace", traces=(trace,)),
        )
        simulated = run_events(case, "si", 0)
        assert run.output.rejections == simulated.output.rejections
        assert run.drafter.begun == simulated.drafter.begun
        accepted += run.output.accepted
    assert accepted > 2


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.7, seed=2)], ids=str)
def test_the_head_that_ships(shipped, sampling) -> None:
    """It drafts well, and the text is the target's own."""
    rule, accepted, passes = Match(sampling), 0, 0
    for prompt in prompts.load("stories", "")[:2]:
        ids = list(shipped.pair.tokenizer(prompt.text).input_ids)
        alone = shipped.run("nonsi", ids, 40, rule).output.tokens
        for algorithm in ("si", "tree"):
            run = shipped.run(algorithm, ids, 40, rule, lookahead=4)
            assert run.output.tokens == alone
            accepted += run.output.accepted
            passes += run.target.begun
    assert accepted > passes


@pytest.fixture(scope="module")
def shipped():
    need_torch()
    with Workers(load_pair(*specs(None, "eagle")), 1, share=True) as workers:
        yield workers


def test_heads_in_the_repository_are_small_and_fit() -> None:
    need_torch()
    from transformers import LlamaConfig

    head = PAIR / "eagle"
    assert sum(file.stat().st_size for file in head.iterdir()) < 3e6
    own = ROOT / "models" / "smollm2-eagle"
    if not own.is_dir():
        pytest.skip("models/ is not here: this is no checkout of the repository")
    target = LlamaConfig.from_pretrained(ROOT / "models" / "smollm2-drafter")
    target.num_hidden_layers = 30  # the drafter has but few of its target's
    assert open_head(own, target).layers == (2, 15, 28)
    assert sum(file.stat().st_size for file in own.iterdir()) < 12e6


WRONG = [
    ({"hidden_size": 16}, {}, "hidden_size: expected 32, the target's, got 16"),
    ({"vocab_size": 99}, {}, "vocab_size: expected 64, the target's, got 99"),
    ({"draft_vocab_size": 65}, {}, "draft_vocab_size: expected 1 to 64"),
    ({"num_hidden_layers": 2}, {}, "num_hidden_layers: expected 1, got 2"),
    ({"intermediate_size": "many"}, {}, "intermediate_size: expected a count ≥ 1, got 'many'"),
    (
        {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [0, 1, 3]}},
        {},
        "expected 3 layers of the target, 0 to 2, got [0, 1, 3]",
    ),
    ({}, {"d2t": None}, "d2t: is missing: which of the target's 64 tokens are the 40"),
    ({}, {"fc.weight": None}, "fc.weight: is missing"),
    (
        {},
        {"fc.weight": (32, 64)},
        "fc.weight: expected shape (32, 96) for this target, got (32, 64)",
    ),
    ({}, {"midlayer.extra": (3,)}, "midlayer.extra: is no tensor of an EAGLE-3 head"),
]


@pytest.mark.parametrize(("config", "tensors", "message"), WRONG)
def test_a_head_that_does_not_fit_is_refused(folder, tmp_path, config, tensors, message) -> None:
    import torch
    from safetensors.torch import save_file

    head = tmp_path / "head"
    stored = write_head(head, layers=LAYERS, **config)
    for name, shape in tensors.items():
        stored.pop(name, None)
        if shape is not None:
            stored[name] = torch.zeros(shape)
    save_file(stored, head / "model.safetensors")
    with pytest.raises(UserError) as error:
        load_pair(*specs(str(folder / "target"), f"eagle:{head}"))
    assert message in str(error.value)
    assert str(head) in str(error.value)


def test_a_folder_that_holds_no_head_is_refused(folder, tmp_path) -> None:
    import torch
    from safetensors.torch import save_file

    def message(head) -> str:
        with pytest.raises(UserError) as error:
            load_pair(*specs(str(folder / "target"), f"eagle:{head}"))
        return str(error.value)

    assert "no folder here has that name" in message(tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "it has no model.safetensors" in message(empty)
    (empty / "pytorch_model.bin").write_bytes(b"")
    assert "convert to safetensors" in message(empty)
    head = tmp_path / "head"
    stored = write_head(head, layers=LAYERS)
    stored["d2t"] = torch.full((40,), 30)
    save_file(stored, head / "model.safetensors")
    assert "d2t: expected what makes each of its 40 tokens another one" in message(head)
    (head / "model.safetensors").write_bytes(b"{}")
    assert "cannot be read" in message(head)
    (head / "config.json").write_text("[1", encoding="utf-8")
    assert "is no JSON" in message(head)


def test_a_head_runs_only_where_its_target_does(folder) -> None:
    from dsim.backends.torch.fitting import check_head

    drafter = specs(str(folder / "target"), "eagle")[1]
    assert drafter.folder == folder / "eagle"
    assert check_head("si", drafter) == check_head("nonsi", drafter) == []
    (problem,) = check_head("dsi", drafter)
    assert "expected one of si, tree" in str(problem)
    (problem,) = check_head("si", drafter, compiled=True)
    assert "not compiled" in str(problem)
