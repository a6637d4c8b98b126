"""Other people's measurements: the document, what a prediction may depend on, and odd files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dsim.cli.main import main
from dsim.model.closed_forms import pearl_per_step, si_own_bonus, si_per_token
from dsim.study import pairs
from dsim.tasks.field import batches, page, papers, pearl, pipespec, rows, served
from dsim.tasks.field.source import median, read
from dsim.tasks.field.sources import SOURCES
from dsim.tasks.vllm import predict_vllm
from tests import ROOT

COMMAND = "dsim reproduce --fast --field --markdown docs/field-measurements.md"


@pytest.fixture(scope="module")
def found():
    return rows.predict_shipped()


def errors(found, name):
    return [abs(one.error) for one in found if one.error is not None and group(one) == name]


def group(one):
    return one.source.group(one.row).name


def write(path, table):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)
    return path


def predictions(path):
    """What the command prints of a file."""
    ran = CliRunner().invoke(main, ["reproduce", "--fast", "--field", str(path), "--json"])
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)["rows"]


def test_the_document_is_up_to_date(found):
    """Every number on the page."""
    assert page.as_markdown(found, COMMAND) == (ROOT / "docs" / "field-measurements.md").read_text()


def test_how_far_off(found):
    piped, serial = errors(found, "PipeSpec"), errors(found, "SI by PipeSpec's code")
    assert median(piped) <= 0.01
    assert max(piped) <= 0.03
    assert len(serial) == 23
    assert max(serial) <= 0.035
    single = np.array(errors(found, "nano-PEARL, batch 1"))
    assert np.sqrt((single**2).mean()) <= 0.04
    rounds = np.array(errors(found, "Spec-Bench"))
    assert len(rounds) == 41
    assert np.sqrt((rounds**2).mean()) <= 0.075
    assert max(rounds) <= 0.17
    for name, limit in {"TTFT": 0.08, "ITL": 0.06, "E2E": 0.06}.items():
        assert median(errors(found, f"vLLM under load, {name}")) <= limit, name
    assert all(one.reason for one in found if one.predicted is None)
    assert all(one.notes for one in found if one.predicted is not None)


def test_batches_and_crossovers(found):
    table = [one for one in found if group(one) == "Batches, papers and reports"]
    of = {}
    for one in table:
        if "Table 5" in one.row["source"]:
            of.setdefault(one.row["method"], []).append(one)
        assert one.predicted is not None or one.reason
    assert {method: len(rows_) for method, rows_ in of.items()} == {"EAGLE": 8, "EAGLE-3": 8}
    for rows_ in of.values():
        assert all((one.measured >= 1) == (one.predicted >= 1) for one in rows_)
        assert median([abs(one.error) for one in rows_]) <= 0.06
    (crossovers,) = batches.tables(table)
    assert [row[2:] for row in crossovers.rows[:2]] == [["26", "25"], ["above 56", "above 56"]]
    blog = [one for one in table if "SqueezeBits" in one.row["source"]]
    assert [(one.row["batch"], one.measured) for one in blog] == [("32", 1), ("16", 1)]
    assert max(abs(one.error) for one in blog) < 0.06


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_what_was_measured_of_a_row_does_not_matter(source, found, tmp_path):
    """Nor does the order, nor which other rows are in the file, nor columns of no meaning."""
    mine = [one for one in found if one.source is source][::-7]
    outputs = ("total_s", "steps_model0", "steps_model1", "mean_tokens_per_final_verify")
    outputs += ("alpha_conditional", "overall_speedup", "pearl_tok_s", "measured_speedup")
    table = [
        {**one.row, **dict.fromkeys([*outputs, source.measured], "123"), "comment": "x|y"}
        for one in mine
    ]
    values = predictions(write(tmp_path / "rows.csv", table))
    for one, value in zip(mine, values, strict=True):
        assert value["predicted"] == pytest.approx(one.predicted), one.row
        assert value["measured"] == 123
    assert values[0] == predictions(write(tmp_path / "one.csv", table[:1]))[0]


def test_a_row_as_the_command_prints_it(found, tmp_path):
    one = next(one for one in found if one.row.get("lookahead_arg") == "3")
    table = [{**one.row, "dtypes": "NaN"}]
    (value,) = predictions(write(tmp_path / "rows.csv", table))
    assert list(value)[: len(one.row)] == list(one.row)
    assert value["samples"] == 10
    assert value["dtypes"] is None
    assert value["ms_per_token"] == value["measured"] == 13.903
    assert value["error"] == value["predicted"] / value["measured"] - 1


def test_a_served_run_is_three_rows_by_constants_that_have_not_seen_its_model(tmp_path):
    row = next(r for r in read(served.SOURCE.path)[1] if "Yi-34B" in r["model"])
    values = predictions(write(tmp_path / "rows.csv", [row]))
    assert [value["measure"] for value in values] == ["ttft", "itl", "e2e"]
    assert values[2]["measured"] == values[2]["measured_e2e_mean_ms"]
    assert all("other models" in value["notes"] for value in values)
    unseen = predictions(write(tmp_path / "new.csv", [{**row, "exp_id": "of my own"}]))
    for value, other in zip(unseen, values, strict=True):
        assert value["predicted"] == predict_vllm(row)[value["measure"]] != other["predicted"]
    (unknown, *_) = predictions(write(tmp_path / "x.csv", [{**row, "model": "Yi-34C"}]))
    assert unknown["predicted"] is None
    assert 'did you mean "yi-34b"' in unknown["reason"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_cell_may_be_missing_or_absurd(data):
    source = data.draw(st.sampled_from(SOURCES))
    row = dict(data.draw(st.sampled_from(read(source.path)[1][:4])))
    cells = st.sampled_from(["", "nan", "inf", "-1", "0", "1e300", "2.5", "?", "1"])
    for column in data.draw(st.lists(st.sampled_from(list(row)), max_size=4, unique=True)):
        row[column] = data.draw(cells)
    found = rows.predict(source, [row], read(source.path)[1])
    assert len(found) == len(source.split(row))
    assert all((one.predicted is None) == bool(one.reason) for one in found)
    json.loads(rows.as_json(found), parse_constant=pytest.fail)
    page.as_text(found)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b\n1,2\n", '"strategy" is missing'),
        ("", "expected a line of column names"),
        ("strategy,models,lookahead,mean_ms_model0,mean_ms_model1\nSI,a > b,1,1,1\n", "lookahead"),
    ],
)
def test_files_of_no_source(tmp_path, text, says):
    path = tmp_path / "rows.csv"
    path.write_text(text)
    ran = CliRunner().invoke(main, ["reproduce", "--field", str(path), "--json"])
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert "rows.csv" in ran.stderr


def test_options_that_go_together(tmp_path):
    for options in (["--json"], ["--field", "x.csv", "--markdown", str(tmp_path / "x.md")]):
        ran = CliRunner().invoke(main, ["reproduce", *options])
        assert ran.exit_code == 2
        assert options[-2 if len(options) > 1 else 0] in ran.stderr


def test_an_unknown_pair_takes_its_own_rate_or_that_of_other_rows_of_the_file(tmp_path):
    known = next(r for r in read(pipespec.SOURCE.path)[1] if r["lookahead_arg"] == "8")
    row = {**known, "models": "X-1B > Y-8B", "alpha_conditional": "0.9"}
    (alone,) = predictions(write(tmp_path / "one.csv", [row]))
    assert "0.9000 of the run itself" in alone["notes"]
    other = {**row, "lookahead_arg": "6", "mean_tokens_per_final_verify": "4.0"}
    both = predictions(write(tmp_path / "two.csv", [row, other]))
    assert "from 1 asynchronous run;" in both[0]["notes"]
    assert pipespec.tokens_a_pass(other, pipespec.rate_from(tuple(other.items()))) == (
        pytest.approx(4.0, rel=1e-3)
    )


def test_si_that_drafts_the_targets_own_token_by_a_plain_loop():
    rng = np.random.default_rng(3)
    for k, p in ((0, 0.6), (1, 0.9), (3, 0.8), (7, 0.93)):
        right = rng.random(60_000) < p
        settled = passes = drafts = 0
        own = False  # whether the drafter has still to draft the last settled token
        while settled < len(right) - k - 1:
            passes, drafts = passes + 1, drafts + k + own
            if own and not right[settled - 1]:
                settled, own = settled + 1, False
                continue
            run = right[settled : settled + k]
            n = k if run.all() else int(run.argmin())
            settled, own = settled + n + 1, n == k
        tokens, per_token = si_own_bonus(1, 10, p, k)
        assert settled / passes == pytest.approx(tokens, rel=0.02)
        assert (drafts + 10 * passes) / settled == pytest.approx(per_token, rel=0.02)
        assert k == 0 or per_token > si_per_token(1, 10, p, k)


def test_the_part_of_wide_passes_by_a_plain_loop():
    rng = np.random.default_rng(3)
    for p, gamma in ((0.6, 3), (0.9, 8)):
        wide, passes, pending = 0, 60_000, False
        for _ in range(passes):
            wide += pending
            pending = bool((rng.random(gamma if pending else 1) < p).all())
        run = pearl.Run(("t", "d", "h"), 4, p, 10.0, 0.0, 0.0)
        more = 4 * (gamma - 1) * wide / passes
        expected = 4e3 * pearl_per_step(p, gamma) / (10 * (1 + 0.05 * more))
        assert run.predicted(1 / gamma, 0.05) == pytest.approx(expected, rel=0.01)


def test_the_time_over_prompts_by_hand():
    """200 tokens take 2,000 ms of short texts, 2,050 of long ones: a prompt of five steps."""

    def row(target, batch, dataset, step_ms):
        cells = {"target": target, "draft": "d-1B", "hardware": "H", "dataset": dataset}
        return {**cells, "batch": str(batch), "ar_step_ms": str(step_ms)}

    known = [row("t", 1, "short", 10), row("t", 1, "long", 10.25)]
    prompts = pearl.prompts_of(known)
    assert prompts.ms(known[0]) == 0
    assert prompts.ms(known[1]) == pytest.approx(50)
    assert prompts.texts == {"short": 0, "long": pytest.approx(5)}
    # Of another target, and at another batch, 5 plain steps a text.
    assert prompts.ms(row("u", 1, "LONG", 30)) == pytest.approx(150)
    assert prompts.ms(row("t", 8, "long", 14)) == pytest.approx(5 * 10 * 8)
    assert prompts.ms(row("t", 8, "unknown", 14)) == 0
    assert prompts.ms(row("t", 4096, "long", 14)) == 14 * pearl.PLAIN_TOKENS / 2  # at most


def test_a_column_that_is_missing_says_nothing_of_which_run_it_is(tmp_path):
    """So what was measured of the row does not come back from the table that ships."""
    board = next(source for source in SOURCES if source.file == "specbench.csv")
    row = next(r for r in read(board.path)[1] if r["method"] == "Recycling")
    (without,) = predictions(
        write(tmp_path / "a.csv", [{k: v for k, v in row.items() if k != "batch"}])
    )
    (whole,) = predictions(write(tmp_path / "b.csv", [row]))
    assert without["predicted"] == whole["predicted"] != pytest.approx(whole["measured"], rel=0.01)
    run = next(r for r in read(pipespec.SOURCE.path)[1] if r["lookahead_arg"] == "8")
    few = {k: v for k, v in run.items() if k not in ("tokens", "samples")}
    (typical,) = predictions(write(tmp_path / "c.csv", [few]))
    assert typical["predicted"] == pytest.approx(float(run["ms_per_token"]), rel=0.05)


def test_rates_behind_speed_ups():
    for rate in (0.5, 0.9):
        speedup = 1 / si_per_token(0.1, 1, rate, 6)
        assert papers.rate_of(speedup, 6, 0.1) == pytest.approx(rate, abs=1e-6)
    assert papers.rate_of(7.0, 6, 0.1) is None
    # All guesses hit: a pass a round. None: SI, with its drafts behind the pass.
    assert papers.ssd_speedup(0.8, 4, 0.1, 1.0) == pytest.approx((1 - 0.8**5) / 0.2, rel=0.02)
    # Without other choices the first one is a guess where all drafts stand.
    tokens, hit = 1 / si_per_token(0, 1, 0.8, 4), 0.8**5
    expected = tokens / (hit + (1 - hit) * (1 + 4 * 0.1))
    assert papers.ssd_speedup(0.8, 4, 0.1, 0.0) == pytest.approx(expected, rel=0.02)


def test_the_page(found, tmp_path):
    page.write_report([one for one in found if one.source is papers.SOURCE], tmp_path / "p.html")
    html = (tmp_path / "p.html").read_text()
    assert html.count('id="chart-') == 4
    assert "What any paper should print" in html


def test_the_pairs_of_others_are_those_of_the_tables():
    """Latencies and rates of dsim/published/pairs.toml, from the rows."""
    known = {}
    for pair in pairs.shipped():
        if "github.com" in pair.source:
            known[pair.target.model, pair.drafter.model, pair.prompts] = (
                pair.target.latency_ms,
                pair.drafter.latency_ms,
                pair.acceptance.rate,
            )

    def short(model):
        return model.replace("Meta-", "").replace("-Instruct", "")

    expected = {}
    logs = read(pipespec.SOURCE.path)[1]
    for models in {pipespec.models_of(row) for row in logs}:
        if len(models) > 2:
            continue
        runs = [row for row in logs if pipespec.models_of(row) == models]
        runs = [row for row in runs if pipespec.is_serial(row) and pipespec.lookahead_of(row)]
        drafter, target = map(short, models)
        steps = [median([float(r[f"mean_ms_model{i}"]) for r in runs]) for i in (1, 0)]
        rate = median([pipespec.rate_from(tuple(row.items())) for row in runs])
        bits = "-4bit" if "70B" in target else ""
        expected[target + bits, drafter, "HumanEval"] = (*steps, rate)
    table = read(pearl.SOURCE.path)[1]
    prompts, singles = pearl.prompts_of(table), {}
    for row in table:
        if row["batch"] == "1":
            run = pearl.run_of(row, prompts)
            singles.setdefault(run.pair, []).append((row["dataset"], run))
    for (target, drafter, _), of in singles.items():
        ratio = pearl.ratio_of(tuple(run for _, run in of))
        for prompts, run in of:
            numbers = run.plain_ms, ratio * run.plain_ms, run.rate
            expected[short(target), short(drafter), prompts] = numbers
    assert known.keys() == expected.keys()
    assert len(known) == 27
    for name, numbers in known.items():
        assert numbers == pytest.approx(expected[name], abs=6e-4), name


def test_a_run_of_vllm_is_named_in_words() -> None:
    row = {"model": "meta-llama/Llama-2-7b-hf", "workload": "codegen"}
    stages = {"stages": "5.0req/s x600s|12.5req/s x600s"}
    assert served.label({**row, **stages, "stage": "all"}) == (
        "Llama-2-7b-hf, codegen, 5, then 12.5 requests/s"
    )
    assert served.label({**row, **stages, "stage": "1"}) == (
        "Llama-2-7b-hf, codegen, 12.5 requests/s"
    )
    other = served.label({**row, "stages": "as it came", "stage": ""})
    assert other == "Llama-2-7b-hf, codegen, as it came requests/s"
