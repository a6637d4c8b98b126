"""Studies: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import strategies as st

from dsim.errors import UserError
from dsim.orchestrations import ORCHESTRATIONS
from dsim.study.build import case_of
from dsim.study.loader import load, loads
from dsim.study.setting import unprintable
from tests import STUDIES

# These have forms of their own: tests/test_validate.py, tests/test_measure_study.py
OTHERS = ("validate", "validate-smollm2", "latency", "acceptance")
SHIPPED = sorted(path for path in STUDIES.glob("*.toml") if path.stem not in OTHERS)


def problems(text="", *overrides, folder=Path()):
    with pytest.raises(UserError) as caught:
        loads(text, "s.toml", overrides, folder)
    return [str(problem) for problem in caught.value.problems]


ALL = ", ".join(f'"{name}"' for name in ORCHESTRATIONS)
MISTAKES = {
    "single texts in a deployment": (
        'engine = "vector"\n[workload]\nrequests = 3',
        "s.toml: engine: is a setting of single texts; the table [workload] makes this a study of "
        "a deployment",
    ),
    "a deployment's setting alone": (
        "max_load = 2",
        "s.toml: max_load: is a setting of a deployment; this is a study of single texts, as it "
        "has none of the tables [workload], [cluster], [replica], [slo]",
    ),
    "a study of dsim validate": (
        "[wallclock]\ntarget_latency_ms = 3.0",
        "s.toml: wallclock: this is a study of dsim validate",
    ),
    "unknown key": (
        "tokns = 3",
        's.toml: tokns: unknown setting; did you mean "tokens"?',
    ),
    "unknown key in a table": (
        "[drafter]\nlatncy = 3",
        's.toml: drafter.latncy: unknown setting; did you mean "drafter.latency_ms"?',
    ),
    "unknown key on the grid": (
        "[grid]\nlookahed = [1]",
        's.toml: grid.lookahed: unknown setting; did you mean "lookahead"?',
    ),
    "nothing like it": ("zzz = 3", "s.toml: zzz: unknown setting"),
    "wrong type": (
        'tokens = "many"',
        's.toml: tokens: expected a whole number from 1 to 10,000,000, got "many"',
    ),
    "no whole number": (
        "tokens = 2.5",
        "s.toml: tokens: expected a whole number from 1 to 10,000,000, got 2.5",
    ),
    "a truth value is no number": (
        "lookahead = true",
        "s.toml: lookahead: expected a whole number from 1 to 10,000,000, got true",
    ),
    "wrong word": (
        'engine = "fast"',
        's.toml: engine: expected one of "auto", "vector", "events", got "fast"',
    ),
    "wrong word in a list": (
        'algorithms = ["dsi", "dssi"]',
        f's.toml: algorithms: expected a list of {ALL}, got "dssi"; did you mean "dsi"?',
    ),
    "an algorithm of a plugin": (
        'algorithms = ["hopeful"]',
        f's.toml: algorithms: expected a list of {ALL}, got "hopeful"; for one of your own, give '
        "--plugin FILE.py",
    ),
    "no algorithm": (
        "algorithms = []",
        f"s.toml: algorithms: expected a list of {ALL}, got []",
    ),
    "negative latency": (
        "[target]\nlatency_ms = -1",
        "s.toml: target.latency_ms: expected a number above 0, got -1",
    ),
    "no latency": (
        "[drafter]\nlatency_ms = 0.0",
        "s.toml: drafter.latency_ms: expected a number above 0, got 0.0",
    ),
    "not finite": (
        "[drafter]\nlatency_ms = inf",
        "s.toml: drafter.latency_ms: expected a number above 0, got inf",
    ),
    "acceptance above 1": (
        "[acceptance]\nrate = 1.5",
        "s.toml: acceptance.rate: expected a number from 0 to 1, got 1.5",
    ),
    "acceptance below 0 on the grid": (
        "[grid]\nacceptance.rate = [0.5, -0.1]",
        "s.toml: grid.acceptance.rate: expected a number from 0 to 1, got -0.1",
    ),
    "correlation of 1": (
        '[acceptance]\nmodel = "markov"\ncorrelation = 1',
        "s.toml: acceptance.correlation: expected a number from 0 to below 1, got 1",
    ),
    "empty axis": ("[grid]\nlookahead = []", "s.toml: grid.lookahead: the axis is empty"),
    "no axis": (
        "[grid]\nlookahead = 3",
        "s.toml: grid.lookahead: expected a list or {start, stop, step}, got 3",
    ),
    "value twice": (
        "[grid]\nlookahead = [1, 2, 1]",
        "s.toml: grid.lookahead: duplicate value",
    ),
    "range without step": (
        "[grid]\nlookahead = {start = 1, stop = 3}",
        "s.toml: grid.lookahead: expected {start, stop, step} or {start, stop, count}, "
        'got {"start": 1, "stop": 3}',
    ),
    "range with another word": (
        "[grid]\nlookahead = {start = 1, stop = 3, stepp = 1}",
        's.toml: grid.lookahead.stepp: unknown; did you mean "step"?',
    ),
    "range of words": (
        '[grid]\nlookahead = {start = 1, stop = "x", step = 1}',
        's.toml: grid.lookahead.stop: expected a number, got "x"',
    ),
    "range that never ends": (
        "[grid]\nlookahead = {start = 1, stop = 10, step = 0}",
        "s.toml: grid.lookahead.step: the range never ends: it goes from 1 to 10 in steps of 0",
    ),
    "range away from its end": (
        "[grid]\nacceptance.rate = {start = 0.1, stop = 0.9, step = -0.1}",
        "s.toml: grid.acceptance.rate.step: the range never ends: it goes from 0.1 to 0.9 "
        "in steps of -0.1",
    ),
    "range with too many values": (
        "[grid]\nlookahead = {start = 1, stop = 100000000, step = 1}",
        "s.toml: grid.lookahead: the range has over 1,000,000 values; make the step larger",
    ),
    "range with no values": (
        "[grid]\nlookahead = {start = 1, stop = 9, count = 0}",
        "s.toml: grid.lookahead.count: expected 1 to 1,000,000, got 0",
    ),
    "not for the grid": (
        '[grid]\ntitle = ["a", "b"]',
        "s.toml: grid.title: cannot be an axis of the grid",
    ),
    "words on the grid": (
        '[grid]\ntargets = [1, "enough"]',
        's.toml: grid.targets: expected whole numbers, got "enough"',
    ),
    "list off the grid": (
        "lookahead = [1, 2]",
        "s.toml: lookahead: expected a whole number from 1 to 10,000,000, got [1, 2]; "
        "for several values use grid.lookahead",
    ),
    "set and swept": (
        "lookahead = 3\n[grid]\nlookahead = [1, 2]",
        "s.toml: lookahead: is set, and is an axis of the grid as well",
    ),
    "two of one": (
        "[drafter]\nlatency_ms = 1\nlatency_relative = 0.1",
        's.toml: drafter.latency_ms: cannot be set together with "drafter.latency_relative"',
    ),
    "one set, the other swept": (
        "[drafter]\nlatency_ms = 1\n[grid]\ndrafter.latency_relative = [0.1]",
        's.toml: grid.drafter.latency_relative: cannot be set together with "drafter.latency_ms"',
    ),
    "too many cases": (
        "max_cases = 10\n[grid]\nlookahead = [1, 2]\nseed = [1, 2, 3, 4, 5, 6]",
        "s.toml: grid: makes 12 cases, more than max_cases = 10; grid.seed has 6 values, "
        "which is the first thing to cut",
    ),
    "minimise over no axis": (
        'minimise = ["lookahed"]\n[grid]\nlookahead = [1, 2]',
        's.toml: minimise: "lookahed" is not an axis of the grid; did you mean "lookahead"?',
    ),
    "no coefficient of variation": (
        '[target]\nlatency_model = "gamma"',
        's.toml: target.latency_cv: is missing: the latency model is "gamma"',
    ),
    "no samples": (
        '[drafter]\nlatency_model = "empirical"',
        's.toml: drafter.latency_samples_ms: is missing: the latency model is "empirical"',
    ),
    "an algorithm twice": (
        'algorithms = ["dsi", "si", "dsi"]',
        's.toml: algorithms: "dsi" is there twice',
    ),
    "an axis without effect": (
        "target = {latency_model = 'empirical', latency_samples_ms = [1, 2]}\n[grid]\n"
        "target.latency_ms = [1, 2]",
        's.toml: grid.target.latency_ms: is an axis, but with target.latency_model = "empirical" '
        "it has no effect: the latencies are those of target.latency_samples_ms",
    ),
    "widths that fall": (
        "[target]\nlatency_by_width_ms = [[2, 1.0], [1, 2.0]]",
        "s.toml: target.latency_by_width_ms: expected a list of [width, ms] pairs, both above 0, "
        "got [[2, 1.0], [1, 2.0]]; widths must increase",
    ),
    "vector engine and random latencies": (
        'engine = "vector"\n[target]\nlatency_model = "gamma"\nlatency_cv = 1',
        's.toml: engine: "vector" takes constant latencies, preemptible servers and a fixed '
        'lookahead only, but target.latency_model is "gamma"',
    ),
    "trace too short": (
        'tokens = 4\n[acceptance]\nmodel = "trace"\ntrace = ["11111", "101"]',
        "s.toml: acceptance.trace: expected at least 4 draws (tokens), got 3",
    ),
    "trace of other signs": (
        '[acceptance]\ntrace = "10x"',
        "s.toml: acceptance.trace: expected a text of digits (1 accepted, 0 rejected), or a list "
        'of such, got "10x"',
    ),
    "chart of no kind": (
        '[grid]\nlookahead = [1, 2]\n[[charts]]\nkind = "line"\nx = "lookahead"\ny = "drafts"',
        's.toml: charts[0].kind: expected one of "heatmap", "map", "winners", "lines", "marginal", '
        '"variants", "published", got "line"; '
        'did you mean "lines"?',
    ),
    "chart over no axis": (
        '[grid]\nlookahead = [1, 2]\n[[charts]]\nkind = "lines"\nx = "lookahed"\ny = "drafts"',
        "s.toml: charts[0].x: expected an axis of the grid that is not minimised over, "
        'got "lookahed"; did you mean "lookahead"?',
    ),
    "chart of no column": (
        '[grid]\nlookahead = [1, 2]\n[[charts]]\nkind = "lines"\nx = "lookahead"\ny = "latency"',
        's.toml: charts[0].y: expected a column of the results, got "latency"; '
        'did you mean "latency_std_ms"?',
    ),
    "chart of an algorithm that does not run": (
        'algorithms = ["dsi"]\n[grid]\nlookahead = [1, 2]\nseed = [1, 2]\n'
        '[[charts]]\nkind = "heatmap"\nx = "lookahead"\ny = "seed"\nagainst = "best"',
        "s.toml: charts[0]: needs the algorithm nonsi, si",
    ),
    "chart without a kind": (
        '[grid]\nlookahead = [1, 2]\n[[charts]]\nx = "lookahead"\ny = "drafts"',
        "s.toml: charts[0].kind: is missing: heatmap: a ratio of two latencies over two axes; "
        "map: a column over two axes, like the best lookahead; winners: which algorithm is "
        "fastest, and by how much, over two axes; lines: a column over an axis; "
        "marginal: what each further step of an axis adds to a column; "
        "variants: a column, side by side for each variant; "
        "published: ours beside the published value, a line for each variant",
    ),
    "speed-ups over an algorithm that does not run": (
        'algorithms = ["dsi"]\n[grid]\nlookahead = [1, 2]\n[[charts]]\nkind = "lines"\n'
        'x = "lookahead"\ny = "speedup_vs_nonsi"',
        "s.toml: charts[0]: needs the algorithm nonsi",
    ),
    "marginal gains of an algorithm that does not run": (
        'algorithms = ["dsi"]\n[grid]\nlookahead = [1, 2]\n[[charts]]\nkind = "marginal"\n'
        'x = "lookahead"\ny = "drafts"\nshow = "si"',
        "s.toml: charts[0]: needs the algorithm si",
    ),
    "a map over words": (
        "[grid]\nlookahead = [1, 2]\npreemptible = [true, false]\n[[charts]]\n"
        'kind = "heatmap"\nx = "preemptible"\ny = "lookahead"',
        's.toml: charts[0].x: "preemptible" is no axis of numbers',
    ),
    "longer than can be counted": (
        "tokens = 1000000\nrepeats = 1\n[target]\nlatency_ms = 1e10",
        "s.toml: tokens: 1,000,000 tokens may take over 104 days by the latencies that were given, "
        "more than dsim counts exactly; take fewer tokens or shorter latencies",
    ),
    "more draws than memory": (
        "tokens = 1000000\nrepeats = 100",
        "s.toml: tokens: 1,000,000 tokens × 100 repeats are more than 50,000,000 draws",
    ),
    "more tokens than anybody wants": (
        "tokens = 1000000000",
        "s.toml: tokens: expected a whole number from 1 to 10,000,000, got 1000000000",
    ),
    "published values without variants": (
        "[[charts]]\nkind = 'published'\nx = 'variant'\ny = 'speedup_vs_si'",
        's.toml: charts[0].x: expected "variant", and variants in the study',
    ),
    "published values of another column": (
        "[[charts]]\nkind = 'published'\nx = 'variant'\ny = 'drafts'",
        's.toml: charts[0].y: expected "speedup_vs_si", got "drafts"',
    ),
    "charts that are no tables": (
        'charts = "all"',
        's.toml: charts: expected a list of tables ([[charts]]), got "all"',
    ),
    "variant without a name": (
        "[[variants]]\nlookahead = 2",
        "s.toml: variants[0].name: expected a text, got nothing",
    ),
    "variant with a mistake": (
        '[[variants]]\nname = "a"\nlookahead = 0',
        "s.toml: variants[0].lookahead: expected a whole number from 1 to 10,000,000, got 0",
    ),
    "variants of one name": (
        '[[variants]]\nname = "a"\n[[variants]]\nname = "a"',
        "s.toml: variants: two variants have the same name",
    ),
    "variant of an axis": (
        '[grid]\nlookahead = [1, 2]\n[[variants]]\nname = "a"\nlookahead = 2',
        "s.toml: variants[0].lookahead: is an axis of the grid as well",
    ),
    "grid that is no table": ("grid = 3", "s.toml: grid: expected a table of axes, got 3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name):
    text, message = MISTAKES[name]
    assert message in problems(text)


def test_a_byte_order_mark_does_no_harm(tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbftokens = 3")
    assert load(tmp_path / "s.toml").settings["tokens"] == 3


def test_not_toml():
    (message,) = problems("tokens = = 3")
    assert message.startswith("s.toml: is not TOML: ")
    assert "line 1" in message


def test_all_mistakes_at_once():
    found = problems("tokns = 3\nlookahead = 0\n[target]\nlatency_ms = -1\n[grid]\nseed = []")
    assert [message.split(": ")[1] for message in found] == [
        "tokns",
        "lookahead",
        "target.latency_ms",
        "grid.seed",
    ]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lookahed=3", '--set: lookahed: unknown setting; did you mean "lookahead"?'),
        ("lookahead", "--set: lookahead: expected key=value"),
        ("lookahead=x", 's.toml: lookahead: expected a whole number from 1 to 10,000,000, got "x"'),
        (
            "grid.more_drafters.latency_ms=[[4.0, 6.0], [5.0, 7.0]]",
            "s.toml: grid.more_drafters.latency_ms: expected numbers, got [4.0, 6.0]; "
            "take lists as variants",
        ),
        ("grid.lookahead=[]", "s.toml: grid.lookahead: the axis is empty"),
    ],
)
def test_mistakes_in_overrides(override, message):
    assert message in problems("", override)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match="none.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        load(tmp_path)
    binary = tmp_path / "x.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is not a text file"):
        load(binary)


def test_data_files(tmp_path):
    (tmp_path / "traces.txt").write_text("1101\n\n0110\n")
    (tmp_path / "samples.csv").write_text("name,latency_ms\na,1.5\nb,2\n")
    (tmp_path / "plain.csv").write_text("3\n4\n")
    text = """
    tokens = 4
    [acceptance]
    model = "trace"
    trace_file = "traces.txt"
    [target]
    latency_model = "empirical"
    latency_samples_file = "samples.csv"
    [drafter]
    latency_model = "empirical"
    latency_samples_file = "plain.csv"
    """
    study = loads(text, folder=tmp_path)
    case = case_of(study.of_variant(0))
    assert case.acceptance.traces == ("1101", "0110")
    assert case.target.samples_ns == (1_500_000, 2_000_000)
    assert case.drafter.samples_ns == (3_000_000, 4_000_000)
    # The resolved study needs the files no more.
    assert case_of(loads(study.to_toml()).of_variant(0)) == case


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("acceptance.trace_file", None, "cannot be read: No such file"),
        ("acceptance.trace_file", "10a\n", "expected lines of digits"),
        ("target.latency_samples_file", "", "the file is empty"),
        ("target.latency_samples_file", "a,b\n1,2\n", "expected a column latency_ms, got a, b"),
        ("target.latency_samples_file", "1\n-2\n", "expected latencies in ms, all above 0"),
        ("target.latency_samples_file", "1\nx\n", "expected numbers, got 'x' (row 2)"),
    ],
)
def test_bad_data_files(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / "data").write_text(content)
    table, key = name.split(".")
    (found,) = problems(f'[{table}]\n{key} = "data"', folder=tmp_path)
    assert found.startswith(f"s.toml: {name}: ")
    assert message in found


def axis(text):
    return loads(f"[grid]\n{text}").grid[0].values


TITLES = st.text().filter(lambda text: not unprintable(text))
