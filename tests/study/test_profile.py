"""Profiles of measured pairs, and studies that read them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.errors import UserError
from dsim.study.build import case_of
from dsim.study.loader import load
from dsim.study.loader import loads as study_of
from dsim.study.profile import AcceptanceProfile, ModelProfile, Profile, loads, read, write
from tests import STUDIES

MS = 1_000_000
FULL = Profile(
    name="mine",
    prompts="stories",
    target=ModelProfile(
        model="t",
        latency_ms=20.0,
        first_latency_ms=50.0,
        latency_by_width_ms=((1, 19.0), (8, 33.0)),
    ),
    drafter=ModelProfile(model="d", latency_ms=2.0),
    acceptance=AcceptanceProfile(rate=0.7, ci95=0.02, prompts=30, tokens=256),
    source="by hand",
)

positive = st.floats(1e-3, 1e6)
models = st.builds(
    ModelProfile,
    model=st.text(min_size=1, max_size=8),
    latency_ms=positive,
    first_latency_ms=st.none() | positive,
    latency_by_width_ms=st.dictionaries(st.integers(1, 64), positive).map(
        lambda rows: tuple(sorted(rows.items()))
    ),
)
profiles = st.builds(
    Profile,
    name=st.text(max_size=8),
    prompts=st.text(max_size=8),
    target=st.none() | models,
    drafter=st.none() | models,
    acceptance=st.none()
    | st.builds(
        AcceptanceProfile,
        rate=st.floats(0, 1),
        ci95=st.none() | st.floats(0, 1),
        paper_rate=st.none() | st.floats(0, 1),
        prompts=st.none() | st.integers(1, 999),
        tokens=st.none() | st.integers(1, 999),
    ),
    source=st.text(max_size=20),
)


@given(profiles)
def test_what_is_written_is_read_back(profile):
    if not profile.name:
        with pytest.raises(UserError, match="name: is missing"):
            loads(profile.to_json(), "p.json")
        return
    assert loads(profile.to_json(), "p.json") == profile


def test_toml_is_read_as_well(tmp_path):
    path = tmp_path / "p.toml"
    path.write_text(
        'format = "dsim profile 1"\nname = "x"\n[target]\nmodel = "t"\nlatency_ms = 20\n'
    )
    assert read(path) == Profile(name="x", target=ModelProfile(model="t", latency_ms=20.0))


@pytest.mark.parametrize(
    ("document", "complaints"),
    [
        ("[1]", ["p: is no profile: expected an object"]),
        ("{", ["p: is not JSON"]),
        ({}, ['p: format: is missing: "dsim profile 1"', "p: name: is missing: a text"]),
        (
            {
                "format": "dsim profile 2",
                "name": "x",
                "taget": {},
                "target": {"model": "t", "latency": 3, "first_latency_ms": -1},
                "drafter": [],
                "acceptance": {"rate": 1.5, "ci95": True, "prompts": 0},
            },
            [
                'p: format: expected "dsim profile 1", got "dsim profile 2"',
                'p: taget: unknown; did you mean "target"?',
                'p: target.latency: unknown; did you mean "latency_ms"?',
                "p: target.first_latency_ms: expected a number above 0, got -1",
                "p: target.latency_ms: is missing: a number above 0",
                "p: drafter: expected a table, got []",
                "p: acceptance.rate: expected a number from 0 to 1, got 1.5",
                "p: acceptance.ci95: expected a number from 0 on, got true",
                "p: acceptance.prompts: expected a whole number above 0, got 0",
            ],
        ),
        (
            {
                "format": "dsim profile 1",
                "name": "x",
                "target": {"model": "t", "latency_ms": 1, "latency_by_width_ms": [[2, 1], [1, 1]]},
            },
            ["p: target.latency_by_width_ms: expected a list of [width, ms] pairs, widths incr"],
        ),
    ],
)
def test_every_mistake_is_named(document, complaints):
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(UserError) as caught:
        loads(text, "p")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(complaints)
    for line, complaint in zip(lines, complaints, strict=True):
        assert line.startswith(complaint)


def test_a_second_measurement_adds_to_the_first(tmp_path):
    path = tmp_path / "deep" / "p.json"
    first = Profile(name="x", target=FULL.target, drafter=FULL.drafter, source="a")
    write(first, path)
    write(Profile(name="x", acceptance=FULL.acceptance, source="b"), path)
    found = read(path)
    assert (found.target, found.acceptance, found.source) == (FULL.target, FULL.acceptance, "a; b")
    write(Profile(name="x", acceptance=AcceptanceProfile(rate=0.1), source="b"), path)
    assert read(path).acceptance == AcceptanceProfile(rate=0.1)


@pytest.fixture
def path(tmp_path):
    write(FULL, tmp_path / "p.json")
    return tmp_path / "p.json"


def test_a_study_takes_latencies_and_acceptance_from_it(path):
    case = case_of(study_of("tokens = 9", overrides=[f"pair={path}"]).of_variant(0))
    assert case.target.table == ((1, 19 * MS), (8, 33 * MS))
    assert case.target.first_ns == 50 * MS
    assert (case.drafter.latency_ns, case.drafter.first_ns) == (2 * MS, None)
    assert case.drafter.is_constant
    assert case.acceptance.rate == 0.7


def test_set_pair_wins_over_the_study_and_what_is_set_beside_it_wins_over_the_pair(path):
    text = (
        'tokens = 9\n[drafter]\nlatency_relative = 0.5\n[[variants]]\nname = "a"\n'
        "acceptance.rate = 0.1\ntarget.latency_ms = 1.0\n"
    )
    study = study_of(text, overrides=["acceptance.rate=0.9", f"pair={path}"])
    case = case_of(study.of_variant(0))
    assert case.acceptance.rate == 0.9
    assert case.drafter.latency_ns == 2 * MS
    assert case.target.table[0] == (1, 19 * MS)
    constant = study_of(text, overrides=[f"pair={path}", "target.latency_model=constant"])
    assert case_of(constant.of_variant(0)).target.latency_ns == 20 * MS
    # In a file it is the same: the axis and the drafter's latency stand beside the pair.
    text = f'pair = "{path}"\n[drafter]\nlatency_relative = 0.5\n[grid]\nacceptance.rate = [0.2]\n'
    study = study_of(text)
    case = case_of(study.of_variant(0) | {"acceptance.rate": 0.2})
    assert case.drafter.latency_ns == 10 * MS
    assert study.grid[0].values == (0.2,)


def test_variants_have_pairs_of_their_own(path):
    text = f'[[variants]]\nname = "mine"\npair = "{path}"\n[[variants]]\nname = "default"\n'
    study = study_of(text)
    rates = [case_of(study.of_variant(v)).acceptance.rate for v in range(2)]
    assert rates == [0.7, 0.8]
    # Written out, it needs the file no more.
    path.unlink()
    again = study_of(study.to_toml())
    assert [case_of(again.of_variant(v)) for v in range(2)] == [
        case_of(study.of_variant(v)) for v in range(2)
    ]


def test_what_a_profile_lacks_is_asked_for(tmp_path):
    path = tmp_path / "p.json"
    write(Profile(name="x", target=FULL.target, drafter=FULL.drafter), path)
    with pytest.raises(UserError, match=r"pair: .* does not say: acceptance \(dsim measure acc"):
        study_of("", overrides=[f"pair={path}"])
    study_of("", overrides=[f"pair={path}", "acceptance.rate=0.5"])
    with pytest.raises(UserError, match=r"nothing.json: cannot be read"):
        study_of("", overrides=["pair=nothing.json"])


def test_the_shipped_study_reads_the_shipped_profile(tmp_path):
    profile = read(STUDIES / "pair-ships.json")
    case = case_of(load(STUDIES / "pair.toml").of_variant(0) | {"targets": 1, "lookahead": 1})
    assert case.acceptance.rate == profile.acceptance.rate
    assert not case.preemptible
    words = ["run", str(STUDIES / "pair.toml"), "--out", str(tmp_path / "out"), "--quiet"]
    words += ["--set", "repeats=2", "--set", "grid.targets=[1,2]", "--set", "grid.lookahead=[2]"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.stderr


def test_what_is_set_wins_over_a_variants_pair(path):
    text = f'[[variants]]\nname = "mine"\npair = "{path}"\n[[variants]]\nname = "default"\n'
    own = case_of(study_of(text).of_variant(0))
    study = study_of(text, overrides=["target.latency_ms=7", "acceptance.rate=0.25"])
    for v in range(2):
        case = case_of(study.of_variant(v))
        assert case.target.is_constant
        assert case.target.latency_ns == 7 * MS
        assert case.acceptance.rate == 0.25
    assert case_of(study.of_variant(0)).drafter == own.drafter
    half = study_of(text, overrides=["drafter.latency_relative=0.5"])
    assert case_of(half.of_variant(0)).drafter.latency_ns == 10 * MS  # of the TPOT
    both = study_of(text, overrides=["target.latency_ms=7", f"pair={path}"])
    assert case_of(both.of_variant(0)).target.latency_ns == 7 * MS


def test_a_variants_pair_takes_the_place_of_the_studys(path, tmp_path):
    """Nothing of the study's pair stays: neither its table nor its first-token latency."""
    bare = Profile(
        name="bare",
        target=ModelProfile(model="t", latency_ms=100.0),
        drafter=ModelProfile(model="d", latency_ms=10.0),
        acceptance=AcceptanceProfile(rate=0.4),
    )
    write(bare, tmp_path / "bare.json")
    text = (
        f'pair = "{path}"\n[[variants]]\nname = "bare"\npair = "{tmp_path / "bare.json"}"\n'
        '[[variants]]\nname = "the studys"\n[[variants]]\nname = "half"\n'
        "drafter.latency_relative = 0.5\n"
    )
    study = study_of(text)
    for known in (study, study_of(study.to_toml())):
        own, studys, half = (case_of(known.of_variant(v)) for v in range(3))
        for latency, expected_ms in ((own.target, 100), (own.drafter, 10)):
            assert latency.is_constant
            assert (latency.latency_ns, latency.first_ns) == (expected_ms * MS, None)
        assert own.acceptance.rate == 0.4
        assert studys.target.table == ((1, 19 * MS), (8, 33 * MS))
        assert (studys.target.first_ns, studys.acceptance.rate) == (50 * MS, 0.7)
        assert half.drafter.latency_ns == 10 * MS
    # A table that the study itself gives is not that of a pair without one.
    table = '[target]\nlatency_model = "table"\nlatency_by_width_ms = [[1, 5.0]]\n'
    study = study_of(table + f'[[variants]]\nname = "bare"\npair = "{tmp_path / "bare.json"}"\n')
    assert case_of(study.of_variant(0)).target.is_constant


def test_samples_of_the_study_stay_beside_a_variants_pair(path, tmp_path):
    (tmp_path / "d.csv").write_text("ms\n3.0\n4.0\n")
    text = (
        f'pair = "{path}"\n[drafter]\nlatency_model = "empirical"\n'
        f'latency_samples_file = "{tmp_path / "d.csv"}"\n[[variants]]\n'
        f'name = "a"\npair = "{path}"\n'
    )
    assert case_of(study_of(text).of_variant(0)).drafter.samples_ns == (3 * MS, 4 * MS)


def test_only_what_was_measured_of_the_same_pair_is_kept(tmp_path):
    path = tmp_path / "p.json"
    latency = Profile(name="x", prompts="s", target=FULL.target, drafter=FULL.drafter)
    rate = AcceptanceProfile(rate=0.5, target="t", drafter="d")
    acceptance = Profile(name="x", prompts="s", acceptance=rate)
    for other in (
        Profile(name="y", prompts="s", acceptance=rate),
        Profile(name="x", prompts="r", acceptance=rate),
        Profile(name="x", prompts="s", acceptance=AcceptanceProfile(rate=0.5, target="t2")),
        Profile(name="x", prompts="s", acceptance=AcceptanceProfile(rate=0.5, drafter="d2")),
    ):
        write(latency, path)
        write(acceptance, path)
        assert read(path).missing() == []
        write(other, path)
        assert read(path) == other
    write(acceptance, path)
    other_target = ModelProfile(model="t2", latency_ms=1.0)
    changed = Profile(name="x", prompts="s", target=other_target, drafter=FULL.drafter)
    write(changed, path)
    assert read(path) == changed


def test_each_part_has_one_source(tmp_path):
    path = tmp_path / "p.json"

    def latency(number):
        source = f"dsim measure latency l.toml: {number}"
        write(Profile(name="x", target=FULL.target, drafter=FULL.drafter, source=source), path)

    def acceptance(number):
        source = f"dsim measure acceptance a.toml: {number}"
        write(Profile(name="x", acceptance=FULL.acceptance, source=source), path)

    for number in range(3):
        latency(number)
        acceptance(number)
        assert read(path).source == (
            f"dsim measure latency l.toml: {number}; dsim measure acceptance a.toml: {number}"
        )
    write(
        Profile(name="x", target=FULL.target, drafter=FULL.drafter, acceptance=FULL.acceptance),
        path,
    )
    assert read(path).source == ""


def test_variants_pairs_in_a_load_study(path, tmp_path):
    from dsim.study.loader import loads as load_study_of

    bare = Profile(
        name="bare",
        target=ModelProfile(model="t", latency_ms=100.0),
        drafter=ModelProfile(model="d", latency_ms=10.0),
        acceptance=AcceptanceProfile(rate=0.4),
    )
    write(bare, tmp_path / "bare.json")
    own = f'[[variants]]\nname = "bare"\npair = "{tmp_path / "bare.json"}"\n'
    study = load_study_of(f'pair = "{path}"\n{own}[[variants]]\nname = "the studys"\n')
    kinds = [study.of_variant(v)["target.latency_model"] for v in range(2)]
    assert kinds == ["constant", "table"]
