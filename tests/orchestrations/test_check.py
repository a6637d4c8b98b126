"""``dsim check``: each law finds an orchestration that breaks it, and its smallest case."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

import dsim
from dsim.cli.main import main
from dsim.engines import laws
from dsim.orchestrations import ORCHESTRATIONS, Orchestration, Traits
from dsim.orchestrations.declaration import LOOKAHEAD, Work
from dsim.study.grid import run_grid
from dsim.study.loader import loads
from dsim.tasks import check as check_task
from dsim.tasks.check import check, doubts, lines
from dsim.tasks.drawing import table_notes


def si(setup, *, blocks=lambda plan: plan.tokens, settle=None, overlaps=False, deaf=False):
    """SI, with something to get wrong.

    Args:
        blocks: drafts per block, from the plan.
        settle: what is done with a verdict, in place of settling it.
        overlaps: make another draft while a pass runs.
        deaf: take no draft where a forward may guess several, or nothing.
    """
    drafter, target, output = setup.drafter(), setup.target(), setup.output
    tokens, verify = output.tokens, target.backend.verify

    def process():
        while not output.finished:
            settled = output.settled
            for _ in range(min(blocks(setup.plan), output.wanted - settled - 1)):
                draft = drafter.forward(len(tokens))
                yield draft
                tokens.append(None if deaf and draft.tokens is not None else draft.token)
            forward = target.forward(settled)
            if overlaps and len(tokens) < output.wanted - 1:
                yield drafter.forward(len(tokens))
            yield forward
            (settle or output.settle)(*verify(forward, settled, tokens[settled:]))

    setup.env.process(process())


def never_ends(setup):
    setup.env.process(iter_once(setup.env.event()))


def iter_once(event):
    yield event


def without_a_pass(setup):
    def process():
        draft = setup.drafter().forward(0)
        yield draft
        while not setup.output.finished:
            setup.output.settle(0, None)

    setup.env.process(process())


def never_trusts(setup):
    si(setup, settle=lambda _, token: setup.output.settle(0, token))


calls = []


def moody(setup):
    calls.append(1)
    si(setup, blocks=lambda _: 1 + len(calls) % 2)


def rounds(setup, *, draft=None, passes=None, verdict=None):
    """SI with two drafts a round; each part can be put in the place of what is right."""
    drafter, target, output = setup.drafter(), setup.target(), setup.output
    tokens, last = output.tokens, [None]

    def process():
        while not output.finished:
            settled = output.settled
            early = target.forward(settled) if passes == "begun before drafts" else None
            for _ in range(min(2, output.wanted - settled - 1)):
                forward = drafter.forward(len(tokens))
                if draft:
                    tokens.append(draft(forward))
                yield forward
                if not draft:
                    tokens.append(forward.token)
            forward = early or target.forward(settled)
            if passes != "not waited for":
                yield forward
            elif last[0] is None:
                last[0] = forward
            asked = last[0] if passes == "an old one" and last[0] else forward
            found = target.backend.verify(asked, settled, tokens[settled:])
            if not forward.triggered:
                yield forward
            last[0] = forward
            output.settle(*(verdict(*found, tokens) if verdict else found))

    setup.env.process(process())


TOKENS = {
    "taken before it was made": ({"draft": lambda forward: forward.token}, "had not ended"),
    "made up": ({"draft": lambda _: 99}, "99, which no forward of the drafter guessed"),
    "by a pass under way": ({"passes": "not waited for"}, "of a pass that had not ended"),
    "by an old pass": ({"passes": "an old one"}, "was made after the pass began"),
    "by too short a pass": ({"passes": "begun before drafts"}, "by a pass that had read 0 tokens"),
}


@pytest.mark.parametrize("how", TOKENS)
def test_what_an_orchestration_does_with_its_tokens_is_watched(how, monkeypatch):
    """In a plain simulation run lengths judge drafts: all of these kept every law."""
    parts, words = TOKENS[how]
    found = broken(monkeypatch, lambda setup: rounds(setup, **parts))
    law = next(one for one in found if one.law.startswith("A verdict is asked"))
    assert words in law.problem
    assert not any(one.problem for one in found if "own: what is settled" in one.law)


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (lambda accepted, _, __: (accepted, 999), "token 0 of the text is 999"),
        (lambda accepted, _, tokens: (accepted, tokens[0] if tokens else None), "of the text is"),
    ],
)
def test_the_text_has_to_be_the_targets(verdict, words, monkeypatch):
    found = broken(monkeypatch, lambda setup: rounds(setup, verdict=verdict))
    law = next(one for one in found if "own: what is settled" in one.law)
    assert words in law.problem
    assert law.case.tokens == 1


def test_a_lookahead_that_adapts_has_to_be_declared(monkeypatch):
    """Its results were those of the fixed one, whatever a study asked for."""

    def adapts(setup):
        def told(accepted, token):
            if setup.plan.judged is not None:
                setup.plan.judged(accepted, setup.plan.tokens)
            setup.output.settle(accepted, token)

        si(setup, settle=told)

    case = laws.case_of("1" * 12, 1, 3, 1, 1, preemptible=True)

    def law(*reads):
        declared = Orchestration(
            name="broken",
            title="Broken",
            colour="#123456",
            meaning="",
            start=adapts,
            reads=("lookahead", *reads),
        )
        monkeypatch.setitem(ORCHESTRATIONS, "broken", declared)
        return laws.reads("broken", case, laws.watched_run("broken", case))

    assert law().startswith('"lookahead_policy" is not in reads, but with lookahead_policy = aimd')
    assert law("lookahead_policy") == ""


def test_the_right_one_keeps_all_laws(monkeypatch):
    assert not [one for one in broken(monkeypatch, rounds) if one.problem]


def broken(monkeypatch, start, **more):
    """What ``dsim check`` finds of an orchestration, in few cases."""
    in_few_cases(monkeypatch)
    declare(monkeypatch, "broken", start, **more)
    return check("broken")


def in_few_cases(monkeypatch, tokens=3):
    monkeypatch.setattr("dsim.tasks.check.LARGER", 5)
    monkeypatch.setattr("dsim.engines.laws.MAX_SMALL_TOKENS", tokens)


def declare(monkeypatch, name, start, **more):
    """An orchestration of one's own, for the time of a test."""
    own = Orchestration(
        name=name, title=name.title(), colour="#123456", meaning="", start=start, **more
    )
    monkeypatch.setitem(ORCHESTRATIONS, name, own)


BROKEN = {
    "Every run ends": (never_ends, {}),
    "has ended": (without_a_pass, {}),
    "draft stays": (never_trusts, {"reads": LOOKAHEAD}),
    "again": (moody, {}),
    "go by depth": (lambda s: si(s, deaf=True), {"reads": LOOKAHEAD}),
    "reads": (si, {}),
    "its traits say": (lambda s: si(s, overlaps=True), {"reads": LOOKAHEAD}),
    "at all": (si, {"reads": LOOKAHEAD, "traits": Traits(drafts=False)}),
    "no less work": (si, {"reads": LOOKAHEAD, "work": lambda *_: Work([1], 0, exact=True)}),
}


@pytest.mark.parametrize("law", BROKEN)
def test_each_law_finds_who_breaks_it(law, monkeypatch):
    start, more = BROKEN[law]
    verdicts = broken(monkeypatch, start, **more)
    (found,) = (v for v in verdicts if law in v.law)
    assert found.problem
    assert found.case.tokens <= 3
    text = "\n".join(lines("broken", verdicts, "broken.py"))
    assert f"BROKEN     {found.law}" in text
    assert "dsim --plugin broken.py simulate --algorithm broken" in text


def test_the_smallest_case_is_found(monkeypatch):
    """A draft that the target accepts is thrown away: two tokens, one draft."""
    declare(monkeypatch, "broken", never_trusts, reads=LOOKAHEAD)
    in_few_cases(monkeypatch, tokens=2)
    found = next(v for v in check("broken") if "draft stays" in v.law)
    assert found.problem == "rejected the draft of token 0, which the target accepts"
    assert (found.case.tokens, found.case.lookahead) == (2, 1)
    assert found.case.acceptance.traces == ("11",)


GOOD = '''
"""Plain decoding, once more."""
from dsim.orchestrations import Orchestration, Traits


def start(setup):
    target, output = setup.target(), setup.output

    def process():
        while not output.finished:
            forward = target.forward(output.settled)
            yield forward
            output.settle(*target.backend.verify(forward, output.settled, []))

    setup.env.process(process())


ORCHESTRATION = Orchestration(
    name="once_more", title="Once more", colour="#123456", meaning="", start=start,
    traits=Traits(drafts=False),
)
'''


def test_the_command(tmp_path):
    path = tmp_path / "once_more.py"
    path.write_text(GOOD)
    words = [sys.executable, "-m", "dsim", "check"]
    found = subprocess.run([*words, str(path)], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "0 of 17 laws broken" in found.stdout
    path.write_text(GOOD.replace("            yield forward\n", ""))
    found = subprocess.run([*words, "once_more.py"], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 1, found.stdout
    assert "BROKEN     Every run ends" in found.stdout
    assert "  kept  " not in found.stdout  # so far, that is
    assert "  so far: kept in the cases before the one that ended it" in found.stdout
    assert "once_more.py" in found.stdout
    found = subprocess.run([*words, "none.py"], capture_output=True, text=True)
    assert found.returncode == 2
    assert "no such file" in found.stderr


def test_a_vector_form_that_is_not_there_is_not_called_kept():
    text = {name: "\n".join(lines(name, check(name))) for name in ("si", "multidsi")}
    assert "kept       Its vector form" in text["si"]
    assert "not tried  Its vector form" in text["multidsi"]
    assert "so far" not in text["si"]


def claiming(monkeypatch, start, **more):
    reads = ("lookahead", "targets") if "several_targets" in more else ("lookahead",)
    found = broken(monkeypatch, start, reads=reads, traits=Traits(**more))
    return [one.problem for one in found if one.problem]


def test_traits_that_nothing_shows_are_found(monkeypatch):
    assert claiming(monkeypatch, si) == []
    (one,) = claiming(monkeypatch, si, overlaps=True)
    assert one == "traits say overlaps=True, which no case shows"

    (wrong,) = claiming(monkeypatch, si, several_targets=True)
    assert "setup.target() is not for traits with several_targets=True" in wrong


def test_numbers_of_what_breaks_a_law_are_not_shown_without_a_word(monkeypatch):
    """An orchestration that took wrong drafts was said to be the fastest."""

    def trusting(setup):
        output = setup.output
        si(setup, settle=lambda _, token: output.settle(len(output.tokens) - output.settled, token))

    declare(monkeypatch, "trusting", trusting, reads=("lookahead",))
    (told,) = doubts(["si", "trusting", "trusting"])
    assert told.startswith("Do not trust the numbers of Trusting: trusting breaks a law of dsim")
    assert doubts(ORCHESTRATIONS.keys() - {"trusting"}) == []
    with pytest.warns(UserWarning, match="Do not trust the numbers of Trusting"):
        dsim.simulate("trusting", repeats=1, tokens=5)
    result = CliRunner().invoke(main, ["simulate", "--algorithm", "trusting", "--tokens=5"])
    assert told in result.stderr
    study = loads('algorithms = ["nonsi", "trusting"]\ntokens = 5\nrepeats = 1')
    assert told in table_notes(run_grid(study).table.to_pandas(), study)


def test_a_setting_that_is_read_and_not_declared_is_said_before_a_study(monkeypatch):
    """A grid over the lookahead had one and the same row for each value, in silence."""
    declare(monkeypatch, "plain", si)
    (told,) = doubts(["plain"])
    assert "Settings that it does not declare in" in told


def test_trust_in_long_blocks_is_found(monkeypatch):
    """What went wrong in blocks of more than 8 drafts kept all laws."""

    def start(setup):
        output = setup.output

        def settle(accepted, token):
            drafts = len(output.tokens) - output.settled
            output.settle(drafts if drafts > 12 else accepted, token)

        si(setup, settle=settle)

    assert any(one.problem for one in broken(monkeypatch, start, reads=LOOKAHEAD))
    assert doubts(["broken"])


def test_passes_that_end_out_of_order_are_tried(monkeypatch):
    """What took the verdict of whichever pass ended first kept every law of constant latencies."""

    def hasty(setup):
        setup.env.process(taking_any(setup))

    def taking_any(setup):
        drafter, pool, output = setup.drafter(), setup.targets(), setup.output
        while not output.finished:
            tokens, sent, passes = output.tokens, output.settled, []
            while pool.free and len(passes) < 2 and len(tokens) < output.wanted - 1:
                draft = drafter.forward(len(tokens))
                yield draft
                tokens.append(draft.token)
                passes.append((pool.forward(sent), len(tokens)))
                sent = len(tokens)
            passes = passes or [(pool.forward(sent), sent)]
            while passes:
                yield passes[0][0] if len(passes) == 1 else passes[0][0] | passes[1][0]
                forward, end = ended = next(one for one in passes if one[0].processed)
                passes.remove(ended)
                first = output.settled
                accepted, token = pool.backend.verify(forward, first, tokens[first:end])
                if passes and passes[0][1] > end == first + accepted:
                    output.settle_drafts(accepted)
                else:
                    output.settle(accepted, token)
                    pool.cancel([one for one, _ in passes])
                    passes = []

    traits = Traits(overlaps=True, several_targets=True)
    declare(monkeypatch, "hasty", hasty, reads=("targets", "preemptible"), traits=traits)
    (told,) = doubts(["hasty"])
    assert "no pass had judged it by then" in told
    random = next(case for case in laws.larger_cases(9) if not case.target.is_constant)
    shown = check_task._command("hasty", random, "dsim")
    result = CliRunner().invoke(main, shown.removeprefix("see it: dsim ").split()[:-2])
    assert "gamma" in result.output
    assert "Do not trust" in result.stderr


def test_what_breaks_with_several_requests_is_shown_by_a_study(tmp_path):
    """The command that was named ran a single request, in which nothing is wrong."""

    case = laws.case_of("1", 1, 3, 1, 1, preemptible=False)
    told = check_task._study("si", case, "dsim --plugin x.py")
    assert told[0] == "see it: dsim --plugin x.py run si.toml, with si.toml of"
    study = tmp_path / "si.toml"
    study.write_text("\n".join(told[1:]), "utf-8")
    result = CliRunner().invoke(main, ["run", str(study), "--json"])
    assert result.exit_code == 0
    (found,) = json.loads(result.stdout)["cases"]
    assert found["requests"] == check_task.REQUESTS


def test_drafts_that_were_guessed_for_another_text_are_no_drafts_of_this_one(monkeypatch):
    """SI that kept what it had drafted behind a rejected draft kept every law, and beat DSI."""

    def recycling(setup, *, late=False):
        setup.env.process(keeping(setup, late))

    def keeping(setup, late):
        drafter, target, output = setup.drafter(), setup.target(), setup.output
        tokens, draft = output.tokens, None
        while not output.finished:
            settled = output.settled
            last = min(settled + setup.plan.tokens, output.wanted - 1)
            while len(tokens) < last:
                draft = draft or drafter.forward(len(tokens))
                yield draft
                tokens.append(draft.token)
                draft = None
            forward = target.forward(settled)
            if late and len(tokens) < output.wanted - 1:
                draft = drafter.forward(len(tokens))  # and is kept, whatever the pass says
            yield forward
            accepted, token = target.backend.verify(forward, settled, tokens[settled:])
            kept = [] if late else tokens[settled + accepted + 1 :]
            output.settle(accepted, token)
            tokens.extend(kept)
            if draft is not None and len(tokens) != draft.first:
                drafter.cancel(draft)
                draft = None

    for late in (False, True):
        declare(
            monkeypatch,
            "keeping",
            functools.partial(recycling, late=late),
            reads=("lookahead", "preemptible"),
            traits=Traits(overlaps=late),
        )
        (told,) = doubts(["keeping"])
        assert "was guessed for another text: behind a draft that the target rejects" in told
