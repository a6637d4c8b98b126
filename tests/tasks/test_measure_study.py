"""Measuring lists of pairs, and prompts from data sets of the hub's form."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

import dsim.tasks.measure.pairs as measuring
from dsim.backends.torch import models
from dsim.backends.torch.hubsets import TEMPLATES, HubSet
from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study import profile
from dsim.tasks.measure.settings import load
from tests import STUDIES
from tests.tiny import needs_torch, write_model

needs_datasets = pytest.mark.skipif(
    find_spec("datasets") is None, reason='the extra "datasets" is not installed'
)
# One example of each data set, in its own columns.
EXAMPLES = {
    "cnn-dm": {"article": "\nA long story.\n", "highlights": "Short.", "id": "1"},
    "alpaca": {"instruction": "Name a bird.", "input": "", "output": "Wren", "text": "…"},
    "mbpp": {"task_id": 1, "text": "Add.", "code": "…", "test_list": ["assert add(1, 2) == 3"]},
    "prompt": {"task_id": "HumanEval/0", "prompt": "def f():\n    ", "entry_point": "f"},
}


def test_each_data_set_becomes_the_prompts_of_the_paper():
    made = {name: TEMPLATES[name][1](example) for name, example in EXAMPLES.items()}
    assert made["cnn-dm"] == "Summarize:\nA long story.\nSummary:\n"
    assert made["alpaca"] == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nName a bird.\n\n### Response:\n"
    )
    assert made["mbpp"].startswith("[INST]Your task is to write a Python function to solve")
    assert made["mbpp"].endswith("[INST] Problem: Add.\nTest: assert add(1, 2) == 3\n[/INST]")
    assert made["prompt"] == "def f():\n    "
    with_input = TEMPLATES["alpaca"][1](EXAMPLES["alpaca"] | {"input": "of prey"})
    assert ", paired with an input that provides further context. Write a" in with_input
    assert "### Instruction:\nName a bird.\n\n### Input:\nof prey\n\n### Response:\n" in with_input


@pytest.fixture
def local_set(tmp_path, monkeypatch):
    """A folder that the package datasets reads as it reads one of the hub."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "set"
    folder.mkdir()
    rows = [{"prompt": f"Once upon a time, {i} cats"} for i in range(9)]
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@needs_datasets
def test_prompts_are_shuffled_by_seed_and_counted(local_set):
    hubset = HubSet(name="mine", path=str(local_set), template="prompt")
    made = hubset.prompts(4, seed=42)
    assert len(made) == 4
    assert {p.task for p in made} == {"mine"}
    assert made == hubset.prompts(4, seed=42)
    assert [p.text for p in made] != [p.text for p in hubset.prompts(4, seed=43)]
    assert len(hubset.prompts(99, seed=1)) == 9


@needs_datasets
def test_a_set_with_other_columns_or_none_at_all(local_set, tmp_path):
    with pytest.raises(UserError, match="has no column 'article', only prompt"):
        HubSet(name="mine", path=str(local_set), template="cnn-dm").prompts(2, 1)
    with pytest.raises(UserError, match="mine: .* cannot be loaded"):
        HubSet(name="mine", path=str(tmp_path / "none"), template="prompt").prompts(2, 1)


def test_without_the_extra(monkeypatch):
    monkeypatch.setattr("dsim.backends.torch.hubsets.find_spec", lambda _: None)
    with pytest.raises(UserError, match=r'pip install "dsim\[datasets\]"'):
        HubSet(name="mine", path="x", template="prompt").prompts(2, 1)


@pytest.mark.parametrize("name", ["latency", "acceptance"])
def test_the_studies_list_the_papers_pairs(name):
    study = load(STUDIES / f"{name}.toml")
    assert len(study.pairs) == 11
    assert [pair["name"] for pair in study.chosen([])] == ["ships"]
    assert len(study.chosen(["all"])) == 11
    assert set(study.sets) == {"cnn-dm", "alpaca", "humaneval", "mbpp"}
    assert study.settings["prompts"] == 50
    assert study.settings["tokens"] == {"latency": 20, "acceptance": 256}[name]
    assert {pair["dtype"] for pair in study.chosen(["all"])[1:]} == {"bfloat16"}
    # As many rows of each set as in Table 1.
    sets = [pair["prompts"] for pair in study.chosen(["all"])[1:]]
    assert {s: sets.count(s) for s in study.sets} == {
        "cnn-dm": 3,
        "alpaca": 3,
        "humaneval": 2,
        "mbpp": 2,
    }


def test_every_mistake_of_a_study_at_once(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(
        'tokns = 5\nrun = ["shps"]\n[[pairs]]\nname = "ships"\nprompts = "storys"\ndtype = "int8"\n'
        '[[sets]]\nname = "x"\npath = "y"\ntemplate = "alpacca"\n[[pairs]]\n'
    )
    with pytest.raises(UserError) as caught:
        load(path)
    text = str(caught.value)
    for words in (
        'tokns: unknown setting; did you mean "tokens"?',
        'run: no pair is called "shps"; did you mean "ships"?',
        'pairs[0].prompts: no set is called "storys"; did you mean "stories"?',
        'pairs[0].dtype: expected one of "", "float32"',
        'sets[0].template: expected one of "cnn-dm", "alpaca", "mbpp", "prompt", got "alpacca"',
        "pairs[1].name: is missing",
    ):
        assert words in text


@pytest.fixture
def no_hub(monkeypatch):
    """A hub whose address nobody knows."""
    for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")


@pytest.fixture
def models_here(tmp_path):
    """Settings of a pair: a tiny model, and itself without the layer that tells least."""
    write_model(tmp_path / "t", 1, layers=3)
    prompts = tmp_path / "p.jsonl"
    lines = [json.dumps({"prompt": f"w{i} w{i + 7} w{i + 20}"}) for i in range(3, 9)]
    prompts.write_text("\n".join(lines) + "\n")
    return (
        f'[[pairs]]\nname = "tiny"\ntarget = "{tmp_path / "t"}"\n'
        f'drafter = "skip:auto=1@{prompts}"\nprompts = "{prompts}"\n'
    )


@needs_torch
@pytest.mark.torch
def test_a_pair_and_one_that_is_not_at_hand(models_here, no_hub, tmp_path):
    path = tmp_path / "m.toml"
    path.write_text(
        f"prompts = 3\ntokens = 8\nrepeats = 2\n{models_here}"
        '[[pairs]]\nname = "of the hub"\ntarget = "nobody/nothing"\ndrafter = "ngram"\n'
        "published_acceptance = 0.5\n"
    )
    out = tmp_path / "profiles"
    for what in ("acceptance", "latency"):
        words = ["measure", what, str(path), "--out", str(out), "--share"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        assert "the hub cannot be reached: only what its cache has" in result.stderr
        assert "skipped of the hub: " in result.stdout
        assert [file.name for file in out.iterdir()] == ["pair-tiny.json"]
    assert "HF_HUB_OFFLINE" not in os.environ
    found = profile.read(out / "pair-tiny.json")
    assert found.missing() == []
    assert found.acceptance.prompts == 3
    assert found.target.latency_ms > 0
    assert [width for width, _ in found.target.latency_by_width_ms] == list(measuring.WIDTHS)
    assert found.target.model == str(tmp_path / "t")
    assert found.drafter.model == found.acceptance.drafter
    assert found.drafter.model.startswith(f"{tmp_path / 't'} without layers ")
    # And a study reads it.
    run = ["run", str(STUDIES / "pair.toml"), "--set", f"pair={out / 'pair-tiny.json'}"]
    run += ["--set", "repeats=1", "--set", "grid.lookahead=[2]", "--set", "grid.targets=[1,2]"]
    result = CliRunner().invoke(main, [*run, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.stderr


def test_an_unknown_pair_is_named():
    result = CliRunner().invoke(
        main, ["measure", "latency", str(STUDIES / "latency.toml"), "--pair", "ship"]
    )
    assert result.exit_code == 2
    assert "no pair is called 'ship'; did you mean \"ships\"?" in result.stderr


def load_text(tmp_path, text):
    path = tmp_path / "m.toml"
    path.write_text(text)
    return load(path)


def test_the_target_without_layers_is_of_the_targets_revision(tmp_path):
    study = load_text(
        tmp_path,
        '[[pairs]]\nname = "a"\ntarget = "t"\ndrafter = "skip:1"\ntarget_revision = "v1"\n'
        '[[pairs]]\nname = "b"\ntarget = "t"\ndrafter = "d"\ntarget_revision = "v1"\n'
        'drafter_revision = "v2"\n',
    )
    revisions = {
        name: [spec.revision for spec in measuring._models(study, pair)]
        for name, pair in study.pairs.items()
    }
    assert revisions == {"a": ["v1", "v1"], "b": ["v1", "v2"]}


def test_models_by_name_with_the_layers_that_are_left_out():
    target, drafter = models.specs("somewhere/t", "skip:1,2")
    assert (measuring._shown(target), measuring._shown(drafter)) == (
        "somewhere/t",
        "somewhere/t without layers 1,2",
    )
    ships = models.ModelSpec(name=str(models.PAIR / "target"))
    assert measuring._shown(ships) == "dsim/pair/target"


def test_pairs_whose_files_would_be_one(tmp_path):
    names = ("A / B", "日本", "A, B", "a")
    with pytest.raises(UserError) as caught:
        load_text(tmp_path, "".join(f'[[pairs]]\nname = "{name}"\n' for name in names))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert 'pairs[1].name: "日本" makes no file name' in lines[0]
    assert 'pairs[2].name: "A, B" and "A / B" both make the file pair-a-b.json' in lines[1]


def test_a_proxy_looks_up_names(no_hub, monkeypatch):
    assert not measuring.hub_answers()
    for name in ("HTTPS_PROXY", "https_proxy"):
        with monkeypatch.context() as patch:
            patch.setenv(name, "http://proxy:1")
            assert measuring.hub_answers()


@needs_torch
@pytest.mark.parametrize("before", [None, "0"])
def test_the_hub_is_asked_for_nothing_only_meanwhile(
    models_here, no_hub, tmp_path, monkeypatch, before
):
    if before is not None:
        monkeypatch.setenv("HF_HUB_OFFLINE", before)
    seen = []

    def workers_of(_):
        seen.append(os.environ.get("HF_HUB_OFFLINE"))
        raise UserError("enough")

    study = load_text(tmp_path, f"prompts = 2\ntokens = 4\n{models_here}")
    (one,) = measuring.run(study, "acceptance", (), tmp_path, workers_of)
    assert one.skipped == "enough"
    assert seen == ["1"]
    assert os.environ.get("HF_HUB_OFFLINE") == before


@needs_datasets
def test_examples_that_make_no_prompt(local_set):
    def prompts(template, *rows):
        (local_set / "test.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return HubSet(name="mine", path=str(local_set), template=template).prompts(9, 1)

    alpaca = {"instruction": "Name a bird.", "input": "of prey"}
    (first, second) = prompts("alpaca", alpaca, alpaca | {"input": None})
    assert sum("### Input:" in one.text for one in (first, second)) == 1
    good = {"text": "Add.", "test_list": ["assert 1"]}
    with pytest.raises(UserError, match=r"an example has \[\] in column 'test_list'"):
        prompts("mbpp", good, good | {"test_list": []})
    with pytest.raises(UserError, match="an example has None in column 'article'"):
        prompts("cnn-dm", {"article": "A story."}, {"article": None})
    (local_set / "test.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(UserError, match="mine: .* cannot be loaded"):
        HubSet(name="mine", path=str(local_set), template="prompt").prompts(2, 1)


COMMON = ("--target=t", "--drafter=d", "--rule=match", "--trust-remote-code", "--revision=r")


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("latency", (*COMMON, "--widths=1", "--contexts=9", "--model=m", "--toml")),
        ("acceptance", (*COMMON, "--chat", "--trace=f", "--prompt-set=stories", "--top-k=2")),
    ],
)
def test_options_that_a_study_would_ignore(what, options):
    study = str(STUDIES / f"{what}.toml")
    for option in options:
        result = CliRunner().invoke(main, ["measure", what, study, option])
        assert result.exit_code == 2
        assert f"{option.partition('=')[0]} has no meaning with a STUDY" in result.stderr
    for option in ("--pair=ships", "--out=somewhere"):
        result = CliRunner().invoke(main, ["measure", what, option])
        assert result.exit_code == 2
        assert f"{option.partition('=')[0]} needs a STUDY" in result.stderr
    heeded = ["--pair=ship", "--out=x", "--tokens=9", "--prompts=2", "--seed=1", "--dtype=float32"]
    heeded += ["--threads=1", "--share", "--json", "--devices=cpu", "--targets=1", "--watchdog=9"]
    result = CliRunner().invoke(main, ["measure", what, study, *heeded])
    assert "no pair is called 'ship'" in result.stderr  # it is only the pair that is wrong
