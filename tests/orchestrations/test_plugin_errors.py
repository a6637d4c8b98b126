"""What a plugin of the user's own can do wrong, and what dsim says of it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from dsim.cli.main import main
from dsim.deployment.serve import serve
from dsim.deployment.spec import Deployment
from dsim.deployment.workload import Workload
from dsim.engines.simulate import run_events, simulate_case
from dsim.errors import EngineError, PluginError, UserError
from dsim.events import run as events_run
from dsim.model.acceptance import Acceptance
from dsim.model.case import Case
from dsim.model.latency import Latency
from dsim.orchestrations import ORCHESTRATIONS, Orchestration, Traits, register
from dsim.orchestrations.blame import why_of, work_of
from dsim.tasks.simulate import outcomes, verdict

CASE = Case(
    tokens=40,
    lookahead=5,
    targets=7,
    target=Latency(latency_ns=30_000_000),
    drafter=Latency(latency_ns=3_000_000),
    acceptance=Acceptance(rate=0.8),
    repeats=3,
)


def _lines():
    return Path(__file__).read_text("utf-8").splitlines()


def own(monkeypatch, run, **more):
    """An orchestration named ``mine``, for one test; *run* is a process over a setup."""
    made = Orchestration(
        name="mine",
        title="Mine",
        colour="#aa3377",
        meaning="for a test",
        start=lambda setup: setup.env.process(run(setup)),
        **more,
    )
    monkeypatch.setitem(ORCHESTRATIONS, "mine", made)


def test_the_vector_engine_is_refused_for_what_has_no_vector_form(monkeypatch) -> None:
    """It was called a bug of dsim."""
    own(monkeypatch, lambda _: iter(()))
    with pytest.raises(
        UserError, match=r'--engine: "vector" takes orchestrations .* take mine here'
    ):
        outcomes(CASE, ["si", "mine"], "vector")


def test_no_progress_is_an_error_that_names_the_orchestration(monkeypatch) -> None:
    def stuck(setup):
        target = setup.target()
        while True:
            yield target.forward(setup.output.settled)
            setup.output.settle_drafts(0)

    own(monkeypatch, stuck)
    monkeypatch.setattr(events_run, "MAX_IDLE_EVENTS", 1000)
    words = r"40 of 40 tokens are not settled \(orchestration \"mine\"\)"
    with pytest.raises(EngineError, match=f"nothing was settled in 1,400 events, but {words}"):
        run_events(CASE, "mine", 0)
    monkeypatch.setattr("dsim.deployment.serve.MAX_IDLE_EVENTS", 1000)
    with pytest.raises(EngineError, match=r"nothing was settled in .* \(orchestration \"mine\"\)"):
        serve(Deployment(algorithm="mine"), Workload(arrivals="trace", trace=((0, 0, 4),)))


def test_slow_progress_is_progress(monkeypatch) -> None:
    monkeypatch.setattr(events_run, "MAX_IDLE_EVENTS", -395)  # five events with 40 tokens
    assert run_events(CASE, "nonsi", 0).output.settled == 40


def test_a_run_that_ends_early_says_how_far_it_came(monkeypatch) -> None:
    def early(setup):
        yield setup.target().forward(0)
        setup.output.settle(0, None)

    own(monkeypatch, early)
    with pytest.raises(EngineError) as caught:
        run_events(CASE, "mine", 0)
    assert str(caught.value) == (
        'no events are left, but 39 of 40 tokens are not settled (orchestration "mine")'
    )


def test_an_error_of_a_plugin_names_its_file_and_line(monkeypatch) -> None:
    def wrong(setup):
        yield setup.target().forward(0)
        setup.output.bla()  # the line

    own(monkeypatch, wrong)
    line = 1 + _lines().index("        setup.output.bla()  # the line")
    words = f"""orchestration "Mine": {__file__}, line {line}: AttributeError: 'Output' object"""
    for run in (
        lambda: run_events(CASE, "mine", 0),
        lambda: serve(Deployment(algorithm="mine"), Workload(arrivals="trace", trace=((0, 0, 4),))),
    ):
        with pytest.raises(PluginError) as caught:
            run()
        assert str(caught.value).startswith(words)
        assert isinstance(caught.value, UserError)


def test_an_error_of_dsims_own_is_not_a_plugins(monkeypatch) -> None:
    def broken(_):
        raise ZeroDivisionError

    monkeypatch.setattr("dsim.orchestrations.si.Orchestration", broken)
    built_in = dataclasses.replace(ORCHESTRATIONS["si"], start="dsim.model.acceptance:at_depth_1")
    monkeypatch.setitem(ORCHESTRATIONS, "si", built_in)
    with pytest.raises(AttributeError):  # a setup is no text
        run_events(CASE, "si", 0)


def test_an_unknown_name_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="unknown orchestration 'DSI'; did you mean \"dsi\""):
        simulate_case(CASE, "DSI")


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"reads": ("lookahaed",)}, 'reads: unknown setting "lookahaed"; did you mean "lookahead"'),
        ({"colour": "blue"}, "colour: expected \"#rrggbb\", got 'blue'"),
        ({"name": "my own"}, "name: expected letters, digits, - and _"),
        ({"reads": ("targets",)}, "several_targets=True belongs together with"),
        ({"traits": Traits(further_drafters=True)}, "further_drafters=True belongs together"),
        ({"start": None}, "start: expected a function of the setup, got None"),
        (
            {"start": lambda: None},
            "start: expected a function of the setup, got <lambda>: too many",
        ),
        ({"work": lambda: None}, "work: expected a function of the script, got <lambda>"),
        ({"why": lambda _: ""}, "why: expected a function of the case and the others, got"),
        ({"why": "it is fast"}, "why: expected a function of the case and the others, got 'it is"),
        ({"vector": "no module"}, "vector: expected \"module:name\", got 'no module'"),
        ({"vector": None}, 'vector: expected "module:name", got None'),
    ],
)
def test_a_declaration_is_checked(wrong, words) -> None:
    right = {"name": "mine", "title": "Mine", "colour": "#aa3377", "meaning": "", "start": print}
    with pytest.raises(ValueError, match="orchestration") as caught:
        Orchestration(**right | wrong)
    assert words in str(caught.value)
    with pytest.raises(ValueError, match="there is an orchestration 'dsi' already"):
        register(Orchestration(**right | {"name": "dsi"}))
    with pytest.raises(ValueError, match="'dsi' is what charts and tables call 'dsi'"):
        register(Orchestration(**right | {"title": "dsi"}))
    assert "mine" not in ORCHESTRATIONS


def _yields_nothing(setup):
    yield setup.drafter().forward(0)
    yield None  # the line


def _leaves(setup):
    yield setup.drafter().forward(0)
    sys.exit()  # the line, too


@pytest.mark.parametrize(
    ("run", "mark", "words"),
    [
        (_yields_nothing, "    yield None  # the line", 'Invalid yield value "None"; expected a f'),
        (_leaves, "    sys.exit()  # the line, too", "SystemExit"),
    ],
)
def test_a_plugin_that_yields_nothing_or_leaves_is_told_where(monkeypatch, run, mark, words):
    """The first was a bug in dsim, the second an end of everything, without a word."""
    own(monkeypatch, run)
    line = 1 + _lines().index(mark)
    with pytest.raises(PluginError) as caught:
        run_events(CASE, "mine", 0)
    assert f'"Mine": {__file__}, line {line}: {words}' in str(caught.value)


def test_reason_and_work_that_are_none_are_the_plugins(monkeypatch) -> None:
    own(monkeypatch, lambda _: iter(()), why=lambda *_: None, work=lambda _: (1, 2))
    with pytest.raises(PluginError, match='"Mine": why: expected words, got None'):
        why_of("mine", CASE, ())
    with pytest.raises(PluginError, match=r'"Mine": work: expected Work\(.*got \(1, 2\)'):
        work_of("mine", None)
    own(monkeypatch, lambda _: iter(()), why=lambda *_: 1 / 0, work=lambda _: 1 / 0)
    for ask in (lambda: why_of("mine", CASE, ()), lambda: work_of("mine", None)):
        with pytest.raises(PluginError, match=r"line \d+: ZeroDivisionError"):
            ask()


def test_the_verdict_gives_no_reason_for_what_it_does_not_know(monkeypatch) -> None:
    mine = dataclasses.replace(ORCHESTRATIONS["dsi"], name="mine", title="Mine", why=None)
    monkeypatch.setitem(ORCHESTRATIONS, "mine", mine)
    found = verdict(CASE, [simulate_case(CASE, name) for name in ("nonsi", "mine")])
    assert found.startswith("Mine is fastest, ")
    assert found.endswith("× as fast as non-SI.")
    assert ":" not in found


def test_what_servers_are_enough_is_certain_for_constant_latencies_only() -> None:
    random = Latency(latency_ns=30_000_000, model="gamma", cv=0.2)
    drafter = Latency(latency_ns=3_000_000)
    for target, few, enough in (
        (
            Latency(latency_ns=30_000_000),
            "with 6 target servers instead of 2 no pass",
            "only after",
        ),
        (random, "with about 6 target servers instead of 2 hardly a pass", "hardly but after"),
    ):
        case = dataclasses.replace(CASE, target=target, drafter=drafter, lookahead=2, targets=2)
        assert few in ORCHESTRATIONS["dsi"].why(case, ["si"])
        assert f"so it waits {enough} a rejection" in ORCHESTRATIONS["dsi"].why(
            dataclasses.replace(case, targets=6), ["si"]
        )


def test_a_verdict_does_not_sell_chance_as_a_difference() -> None:
    """Repeats have the same draws, so they are compared in pairs."""
    plain = simulate_case(CASE, "nonsi")
    none = np.zeros_like(plain.latency_ns)

    def made(name, *more_ms):
        ms = np.array(more_ms) * 1_000_000
        return dataclasses.replace(plain, algorithm=name, latency_ns=none + 10**9 + ms)

    dsi, si = made("dsi", 0, 100, 200), made("si", 600, 700, 900)
    close = made("pearl", 40, 80, 260)
    hardly = made("pipespec", 1, 101, 201)
    text = verdict(CASE, [dsi, si, close])
    assert text.startswith("DSI is fastest, 1.58× as fast as SI: ")
    assert text.endswith(". It is only 1.02× as fast as PEARL, within the 95 % interval.")
    assert verdict(CASE, [dsi, close, hardly]) == (
        "DSI is fastest, 1.02× as fast as PEARL and 1.00× as fast as PipeSpec, but within the 95 % "
        "interval."
    )
    alone = dataclasses.replace(CASE, repeats=1)
    one, other = (dataclasses.replace(o, latency_ns=o.latency_ns[:1]) for o in (dsi, hardly))
    assert verdict(alone, [one, other]).endswith(", but by so little that it hardly counts.")
    assert "PEARL" in verdict(CASE, [dsi, made("pearl", 400, 500, 600)]).partition(":")[0]


def test_what_a_setup_has_is_said_to_who_looks_for_something_else(monkeypatch) -> None:
    def wrong(setup):
        yield setup.target().forward(0)
        setup.case  # noqa: B018

    own(monkeypatch, wrong)
    with pytest.raises(PluginError, match=r"no 'case': it has env, .*decoding, drafter\(\)"):
        run_events(CASE, "mine", 0)
    with pytest.raises(PluginError, match=r"no 'case': it has env, .*decoding, drafter\(\)"):
        serve(Deployment(algorithm="mine"), Workload(arrivals="trace", trace=((0, 0, 4),)))


def test_an_algorithm_of_ones_own_needs_its_plugin() -> None:
    result = CliRunner().invoke(main, ["simulate", "--algorithm", "hopeful"])
    assert result.exit_code == 2
    assert "got hopeful; for one of your own, give --plugin FILE.py" in result.output
    result = CliRunner().invoke(main, ["simulate", "--algorithm", "dsii"])
    assert 'did you mean "dsi"' in result.output
    assert "--plugin" not in result.output


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda setup: setup.drafter(1), "there is 1 drafter, number 0 the first"),
        (lambda setup: setup.drafter(-1), "there is 1 drafter, number 0 the first"),
        (lambda setup: setup.targets(), r"setup.targets\(\) is for traits with several_targets"),
    ],
)
def test_servers_that_are_not_there_are_named(monkeypatch, wrong, told) -> None:
    def process(setup):
        yield setup.target().forward(0)
        wrong(setup)

    own(monkeypatch, process)
    with pytest.raises(PluginError, match=told):
        run_events(CASE, "mine", 0)
    with pytest.raises(PluginError, match=told):
        serve(Deployment(algorithm="mine"), Workload(arrivals="trace", trace=((0, 0, 4),)))


def test_no_replica_steps_a_plugin(monkeypatch) -> None:
    """A plugin with lockstep=True was run as SI, in silence."""
    mine = dataclasses.replace(
        ORCHESTRATIONS["si"], name="mine", title="Mine", start=lambda _: None, vector=""
    )
    with pytest.raises(ValueError, match="lockstep=True is for orchestrations of dsim"):
        register(mine)
