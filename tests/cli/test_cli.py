"""The command line, as a user meets it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios

import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.study.settings import SETTINGS
from tests import ROOT
from tests.lanes import DSIM
from tests.tiny import need_torch


def dsim(*words, code=0):
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def in_process(*words, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "dsim", *words], capture_output=True, text=True, **kwargs
    )


HEAVY = {"torch", "transformers", "altair", "pandas", "scipy", "pyarrow", "numpy", "simpy"}


@pytest.mark.parametrize("what", ["import dsim", "import dsim.cli.main"])
def test_importing_loads_nothing_heavy(what):
    code = f"{what}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(found.stdout))


def test_help_loads_nothing_heavy():
    code = (
        "import sys, json, runpy\n"
        "sys.argv = ['dsim', '--help']\n"
        "try: runpy.run_module('dsim', run_name='__main__')\n"
        "except SystemExit as leave: assert leave.code == 0\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Simulate speculative decoding" in found.stdout
    assert not HEAVY & set(json.loads(found.stdout.splitlines()[-1]))


def test_options_may_have_the_names_of_other_tools():
    ours = dsim("simulate", "--lookahead", "3", "--acceptance", "0.7", "--json")
    for name in ("--gamma", "--num-speculative-tokens", "--draft-length"):
        assert dsim("simulate", f"{name}=3", "--alpha", "0.7", "--json") == ours
    assert dsim("simulate", "--gamma", "4", "--acceptance", "0.7", "--json") != ours


def test_simulating_loads_neither_torch_nor_altair():
    code = (
        "import sys; from dsim.cli.main import main\n"
        "sys.argv = ['dsim', 'simulate', '--tokens', '5']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'altair', 'pandas'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_python_m_dsim():
    found = in_process("--version")
    assert (found.returncode, found.stdout) == (0, "dsim, version 0.1.0\n")


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_command_has_help(command):
    text = dsim(command, "--help")
    assert text.startswith("Usage: ")
    assert len(text) > 200


def test_simulate_with_no_options_says_who_is_fastest_and_why():
    text = dsim("simulate")
    assert "DSI is fastest" in text
    assert re.search(r"^DSI +[\d.]+ ± [\d.]+ ms", text, re.MULTILINE)
    for words in (
        "passes",
        "drafts",
        "busy at once",
        "95 % interval over 20 repeats",
        "vector engine",
    ):
        assert words in text


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ("--acceptance 0 --algorithm si --algorithm nonsi".split(), "non-SI is fastest"),
        (["--drafter-latency", "50"], "non-SI and DSI are equally fast: the drafter is slower"),
        (["--algorithm", "dsi"], "Nothing to compare: only DSI was simulated."),
        ("--targets 1 --lookahead 20 --acceptance 0.9".split(), "fastest"),
        (["--tokens", "1"], "are equally fast"),
    ],
)
def test_the_verdict(options, verdict):
    assert verdict in dsim("simulate", *options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            "--target-latency 0.032 --drafter-latency 0.0041",
            "the target's is 0.032. If that is",
        ),
        (
            "--target-latency 32 --drafter-latency 0.0041",
            "the drafter's is 0.0041. If that",
        ),
    ],
)
def test_seconds_in_place_of_ms_are_noticed(options, words):
    assert words in dsim("simulate", *options.split())
    assert "in seconds" not in dsim(
        "simulate", *"--target-latency 1 --drafter-latency 0.01".split()
    )


def test_simulate_json():
    text = dsim(
        *"simulate --accepts 110111 --target-latency 10 --drafter-latency 3 --lookahead 2".split(),
        *["--targets", "3", "--json"],
    )
    cases = json.loads(text)["cases"]
    assert [case["algorithm"] for case in cases] == ["nonsi", "si", "dsi"]
    ms = 1_000_000
    assert cases[2] == {
        "algorithm": "dsi",
        "engine": "vector",
        "tokens": 6,
        "lookahead": 2,
        "targets": 3,
        "latency_ms": {"mean": 32.0, "std": 0.0, "min": 32.0, "max": 32.0},
        "latency_ns": [32 * ms],
        "settled_ns": [[10 * ms, 16 * ms, 16 * ms, 26 * ms, 32 * ms, 32 * ms]],
        "target_passes": 6,
        "drafts": 7,
        "wasted_passes": 2,
        "wasted_drafts": 3,
        "peak_targets": 3,
    }


def test_json_has_one_latency_a_repeat_and_settle_times_if_asked_for():
    words = "simulate --json --algorithm dsi --repeats 4 --tokens 9 --engine events".split()
    (case,) = json.loads(dsim(*words))["cases"]
    assert case["engine"] == "events"
    assert len(case["latency_ns"]) == 4
    assert "settled_ns" not in case
    (case,) = json.loads(dsim(*words, "--settled"))["cases"]
    assert [row[-1] for row in case["settled_ns"]] == case["latency_ns"]


def test_algorithms_are_repeatable_and_keep_their_order():
    words = "simulate --json --algorithm dsi --algorithm nonsi".split()
    cases = json.loads(dsim(*words))["cases"]
    assert [case["algorithm"] for case in cases] == ["nonsi", "dsi"]


def test_no_preemptible_takes_the_event_engine():
    (case,) = json.loads(dsim(*"simulate --json --algorithm dsi --no-preemptible".split()))["cases"]
    assert case["engine"] == "events"


def test_any_setting_can_be_set():
    text = dsim(
        *"simulate --set target.latency_model=gamma --set target.latency_cv=0.5 --json".split()
    )
    cases = json.loads(text)["cases"]
    assert {case["engine"] for case in cases} == {"events"}
    assert cases[0]["latency_ms"]["std"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("simulate --accepts 1101 --tokens 9", "--accepts: expected at least 9 draws"),
        ("simulate --accepts 11x1", "--accepts: expected digits (1 accepted, 0 rejected), got 'x'"),
        ("simulate --accepts 11 --acceptance 0.5", "give either --acceptance or --accepts"),
        ("simulate --acceptance 2", "error: --acceptance: expected a number from 0 to 1, got 2\n"),
        (
            "simulate --acceptance 80%",
            "error: --acceptance: expected a number from 0 to 1, got 80%; did you mean 0.8?",
        ),
        ("simulate --target-latency -1", "--target-latency: expected a number above 0, got -1"),
        ("simulate --drafter-latency 0", "--drafter-latency: expected a number above 0, got 0"),
        ("simulate --tokens 2.5", "error: --tokens: expected a whole number at least 1, got 2.5\n"),
        (
            "simulate --engine vectr",
            "error: --engine: expected one of auto, vector, events, got vectr",
        ),
        ("simulate --set acceptance.rate", "error: --set: acceptance.rate: expected key=value"),
        (
            "simulate --replicas 3",
            "error: No such option '--replicas'; the number of target servers is --targets",
        ),
        ("generate", "error: missing argument 'PROMPT'"),
        ("completion tcsh", "error: shell: expected one of bash, zsh, fish, got tcsh"),
        ("simulate --target-first-latency nan", "--target-first-latency: expected a number above"),
        ("simulate --targets some", '--targets: expected a whole number from 1 to 1,000,000 or "'),
        ("simulate --tokens 0", "--tokens: expected a whole number at least 1, got 0"),
        (
            "simulate --algorithm dsii",
            ", got dsii; did you mean",
        ),
        ("simulate --set lookahed=3", '--set: lookahed: unknown setting; did you mean "lookahead"'),
        ("simulate --set grid.lookahead=[1,2]", "one case has no grid; use dsim run"),
        ("simulate --set backend=wallclock", "use dsim run --backend wallclock"),
        ("simulate --engine vector --no-preemptible", '--engine: "vector" takes constant'),
        ("simulate --settled", "--settled goes with --json"),
        ("simulate --target-latency 1e300", "may take over 104 days"),
        ("simulate --lookahead 99999999999999999999", "--lookahead: expected a whole number from"),
        ("simulate --no-such", "No such option '--no-such'"),
        ("simulate --timeline /nowhere/x.html", "/nowhere/x.html cannot be written"),
        ("run", "name a study"),
        ("run none.toml", "error: none.toml: cannot be read: No such file"),
        ("run --resume none", "none: holds no unfinished run"),
        (
            "run x.toml --resume none",
            "--resume takes all from its folder, so it goes without a study, --set",
        ),
        ("plot none", "none: cannot be read"),
        ("rnu", "No such command 'rnu'; did you mean \"run\"?"),
        ("settings nothing", "no setting is called 'nothing'"),
    ],
)
def test_mistakes_end_with_2_on_one_screen(words, message):
    errors = dsim(*words.split(), code=2)
    assert message in errors
    assert errors.startswith("error: ")
    assert "Traceback" not in errors
    assert len(errors.splitlines()) < 20


def test_a_failure_of_ours_ends_with_3(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dsim.tasks.simulate.outcomes", lambda *_: 1 / 0)
    errors = dsim("simulate", code=3)
    assert "failure: ZeroDivisionError: division by zero" in errors
    assert "Traceback" not in errors
    assert "Traceback" in (tmp_path / "dsim-failure.log").read_text()


def test_an_engine_error_ends_with_3(monkeypatch):
    from dsim.errors import EngineError

    def fails(*_):
        raise EngineError("target 2 died")

    monkeypatch.setattr("dsim.tasks.simulate.outcomes", fails)
    assert dsim("simulate", code=3) == "failure: target 2 died\n"


def test_output_that_nobody_reads_to_the_end():
    found = subprocess.run(
        f"set -o pipefail; {shlex.quote(sys.executable)} -m dsim settings | head -n 1",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stdout) == (0, "title\n")
    assert "Traceback" not in found.stderr


def test_settings_lists_every_setting_from_the_source_of_the_checks():
    text = dsim("settings")
    rows = json.loads(dsim("settings", "--json"))
    for setting in SETTINGS:
        assert f"\n{setting.key}\n" in f"\n{text}"
        assert setting.meaning in text
        assert any(row["key"] == setting.key for row in rows)
    assert "\nacceptance.model\n" in "\n" + dsim("settings", "acceptance")


def test_studies_that_come_with_dsim_are_listed_copied_and_run_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = dsim("studies")
    for path in (ROOT / "studies").glob("*.toml"):
        assert re.search(rf"^{path.stem} +\S", text, re.MULTILINE)
    assert dsim("studies", "--copy", "pair") == "copied: pair.toml\ncopied: pair-ships.json\n"
    again = dsim("studies", "--copy", "pair", code=2)
    assert again == "error: pair.toml: exists already\n"
    words = ["run", "sanity", "--set", "repeats=1", "--quiet", "--out", "out"]
    (tmp_path / "sanity").mkdir()  # a folder of that name is no study
    assert dsim(*words) == ""
    assert (tmp_path / "out" / "report.html").is_file()
    wrong = dsim("run", "heatmp", code=2)
    assert 'no study of this name comes with dsim; did you mean "heatmap"?' in wrong
    assert "(dsim docs tutorial-" in dsim("run", "tutorial", code=2)


def test_documents_are_printed_with_words_for_pictures():
    page = dsim("docs", "index")
    assert "(picture: DSI against the better of SI and non-SI: a heat map)" in page
    for mark in ("![", "{ width", "[[["):
        assert mark not in page


def test_a_plugin_is_named_before_or_after_the_command_by_path(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import dataclasses\n"
        "from dsim.orchestrations import ORCHESTRATIONS\n"
        "ORCHESTRATION = dataclasses.replace(ORCHESTRATIONS['si'], name='mine', title='Mine')\n"
    )
    words = "simulate --algorithm mine --tokens 5 --engine events".split()
    after = in_process(*words, "--plugin", "./mine.py", cwd=tmp_path)
    before = in_process("--plugin", "mine.py", *words, cwd=tmp_path)
    assert "only Mine was simulated" in after.stdout, after.stderr
    assert before.stdout == after.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell):
    assert "_DSIM_COMPLETE" in dsim("completion", shell)


def test_run_writes_where_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = ROOT / "studies" / "sanity.toml"
    found = in_process("run", str(study), cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert "report: results/sanity/report.html" in found.stdout
    assert (tmp_path / "results" / "sanity" / "report.html").is_file()
    assert found.stderr == ""  # no progress bar: this is no terminal
    found = CliRunner().invoke(main, ["run", str(study), "--set", "seed=1", "--quiet"])
    assert (found.exit_code, found.stdout, found.stderr) == (0, "", "")
    other = [path.name for path in (tmp_path / "results").iterdir() if path.name != "sanity"]
    assert re.fullmatch(r"sanity-[0-9a-f]{8}", other[0])
    # The same folder again: the same results, without a question.
    dsim("run", str(study))


def test_a_terminal_sees_a_progress_bar(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    study = str(ROOT / "studies" / "sanity.toml")
    subprocess.run(
        [sys.executable, "-c", DSIM, "run", study, "--out", "out"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        check=True,
    )
    os.set_blocking(ours, False)
    seen = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert "0 of 11 cases" in seen


def test_constraints_are_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = ROOT / "studies" / "lookahead.toml"
    expected = "4 DSI cases were left out: they have more than 8 target servers (settings "
    expected += "targets and max_targets)."
    assert expected in dsim("run", str(study))
    assert expected in (tmp_path / "results" / "lookahead" / "report.html").read_text()


def test_the_library_as_the_readme_shows_it():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    code += "\nprint(outcome.latency_ns.shape, len(outcome.table), len(results.table))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "(20,) 20 33\n"
    import dsim

    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = dsim.nothing


def readme_commands():
    """Every command line in the README's blocks of shell code."""
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


GENERATED = (ROOT / "Makefile").read_text().partition("cog -r ")[2].partition("\n")[0].split()
TUTORIALS = "".join((ROOT / name).read_text() for name in GENERATED)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A folder with the studies in it, where commands may leave what they like."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "studies").symlink_to(ROOT / "studies")
    return folder


@pytest.mark.parametrize("line", readme_commands())
def test_commands_of_the_readme(line, elsewhere):
    words = shlex.split(line, comments=True)
    if words[0] in ("make", "git", "cd", "pip"):
        # What set-up does is tested by doing it: make test has brought us here.
        if words[0] == "make":
            targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert words[1] in targets
        return
    assert words[0] == "dsim", line
    if f'shown("{line.removeprefix("dsim ")}")' in TUTORIALS:
        return  # the test of what cog writes runs it
    if "--open" in words:
        words.remove("--open")
    if words[1] == "generate":
        need_torch()
    found = in_process(*words[1:], cwd=elsewhere)
    assert found.returncode == 0, found.stderr


def test_the_readme_shows_current_help():
    """Blocks that a tool writes (cog) are as the tool would write them now."""
    checked = subprocess.run(
        [sys.executable, "-m", "cogapp", "--check", *GENERATED],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_second_choices_are_given_to_simulate_as_to_advise():
    words = "simulate --algorithm si --algorithm tree --tokens 40 --repeats 3 --json".split()
    shares = json.loads(dsim(*words, "--rank-shares", "0.5,0.2"))["cases"]
    by_key = json.loads(dsim(*words, "--set", "acceptance.rank_shares=[0.5,0.2]"))["cases"]
    none = json.loads(dsim(*words))["cases"]
    assert shares == by_key != none
    head = dsim("simulate", "--algorithm", "tree", "--tree-nodes", "9").splitlines()[0]
    assert head.endswith("; tree: 2 branches, depth 5, at most 9 nodes, confidence quality 0.3")
    assert "tree:" not in dsim("simulate", "--algorithm", "si").splitlines()[0]


@pytest.mark.parametrize("shares", ["half", "0.8,0.3", "-0.1", "0.4,,0.2", "0.4,", "nan", ""])
def test_wrong_second_choices_are_wrong_in_the_same_words(shares):
    asked = ("simulate",), ("advise",), ("advise", "--gpu", "h100", "--target", "yi-34b")
    for words in asked:
        assert dsim(*words, "--rank-shares", shares, code=2) == (
            "error: --rank-shares: expected numbers from 0 to 1 with commas between, at most 1 "
            f"together, got {shares!r}\n"
        )
