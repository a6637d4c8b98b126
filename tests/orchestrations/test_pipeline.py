"""PipeSpec with further drafters: by hand, by a plain program, and where it has to be PipeSpec."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsim.backends.simulated import Simulated
from dsim.engines.simulate import run_events, simulate_case
from dsim.engines.vector import Timing
from dsim.errors import UserError
from dsim.events.environment import Environment
from dsim.events.output import Output
from dsim.model.case import Decoding
from dsim.model.drafters import MoreDrafter
from dsim.model.latency import Latency
from dsim.model.lookahead import Plan
from dsim.orchestrations import pipeline
from dsim.orchestrations.start import PrivateSetup
from dsim.study.loader import loads, make_case
from dsim.tasks import waits
from tests.strategies import case_of


def run(latencies, target, rows, lookahead):
    """Settle times and passes of the stages themselves, also where there is one drafter."""
    env = Environment()
    output = Output(env, len(rows[0]))
    guessing = [
        Simulated(env, ns, (), [0 if right else number for right in row])
        for number, (ns, row) in enumerate(zip(latencies, rows, strict=True), 1)
    ]
    setup = PrivateSetup(
        env,
        output,
        guessing,
        Simulated(env, target),
        Plan(lookahead),
        targets=1,
        prefill=False,
        keep_history=True,
        decoding=Decoding(),
        several=False,
    )
    pipeline.pipe(setup)
    env.run(until=output.done)
    return output.settled_ns, [(f.start_ns, f.first, f.end) for f in setup.asked.history]


def plain(latencies, target, rows, lookahead):
    """The rules once more: lists and a loop over instants. For latencies without ties."""
    wanted, last, count = len(rows[0]), len(rows[0]) - 1, len(latencies)
    guess = [[0 if right else number for right in row] for number, row in enumerate(rows, 1)]
    chains = [[] for _ in latencies]
    ends, drafts = [None] * count, [None] * count
    asked = [None] * count  # the text that the model behind has it compare with
    now, text, times, passes, pass_end, covered = 0, [], [], [], None, None

    def enough(chain, have):
        return len(chain) >= min(have + lookahead - 1, last)

    while True:
        moved = True
        while moved:
            moved = False
            for i, chain in enumerate(chains):
                if ends[i] is not None or (i and asked[i - 1] is not None):
                    continue
                if asked[i] is not None:
                    if chain[: len(asked[i])] != asked[i]:
                        chain[:] = asked[i]
                    asked[i], moved = None, True
                    if i:
                        asked[i - 1] = list(chain)
                        continue
                if len(chain) < last and (i == 0 or enough(chains[i - 1], len(chain))):
                    before = chains[i - 1] if i else []
                    drafts[i] = before[len(chain) :] if before[: len(chain)] == chain else []
                    ends[i], moved = now + latencies[i], True
            if pass_end is None and asked[-1] is None and enough(chains[-1], len(text)):
                chain = chains[-1]
                covered = chain[len(text) :] if chain[: len(text)] == text else []
                passes.append((now, len(text), len(text) + len(covered)))
                pass_end, moved = now + target, True
        now = min(end for end in (*ends, pass_end) if end is not None)
        if pass_end == now:
            right = next((j for j, token in enumerate(covered) if token), len(covered))
            text += [0] * (right + 1)
            times += [now] * (right + 1)
            if len(text) == wanted:
                return times, passes
            pass_end, asked[-1] = None, list(text)
        for i, chain in enumerate(chains):
            if ends[i] == now:
                ends[i] = None
                for draft in drafts[i]:
                    if draft != guess[i][len(chain)]:
                        break
                    chain.append(draft)
                if len(chain) < last:
                    chain.append(guess[i][len(chain)])
                if i:
                    asked[i - 1] = list(chain)


def bits(text):
    return [c == "1" for c in text]


def test_by_hand():
    """Models of 1, 4 and 20, lookahead 1, all right.

    The middle one begins at 0 with nothing to verify, at 4 has a token, and then takes what the
    first has drafted meanwhile (3 more by 4, 4 more by 8 …) and one of its own.
    """
    settled, passes = run([1, 4], 20, [bits("1" * 40)] * 2, 1)
    assert passes[0] == (0, 0, 0)
    assert settled[0] == 20
    # At 20 the middle one has 1 + 4·4 - … tokens: it is at the end of its fifth step.
    assert passes[1][0] == 20
    assert passes[1][2] >= 17
    assert settled[1 : passes[1][2] + 1] == [40] * passes[1][2]


def test_a_middle_model_accepts_what_is_right_with_both():
    right, wrong = bits("1111111"), bits("1011111")
    both = run([2, 5], 11, [right, right], 2)[0]
    assert run([2, 5], 11, [wrong, right], 2)[0][-1] >= both[-1]
    # The target does not get past a token that the middle model has wrong.
    settled, passes = run([2, 5], 11, [right, wrong], 3)
    at = next(time for position, time in enumerate(settled) if position == 1)
    assert any(first <= 1 and start + 11 == at for start, first, _ in passes)


@st.composite
def pipelines(draw):
    """Latencies that hardly tie, draws by model, lookahead."""
    count = draw(st.integers(1, 3))
    primes = st.sampled_from([101, 211, 307, 401, 503, 601, 701, 809, 907, 1009, 1511, 2003, 3001])
    latencies = draw(st.lists(primes, min_size=count + 1, max_size=count + 1, unique=True))
    tokens = draw(st.integers(1, 14))
    row = st.lists(st.integers(0, 3).map(bool), min_size=tokens, max_size=tokens)
    rows = draw(st.lists(row, min_size=count, max_size=count))
    *drafters, target = sorted(latencies)
    return drafters, target, rows, draw(st.integers(1, 5))


@given(pipelines())
def test_the_rules_written_plainly(case):
    assert run(*case) == plain(*case)


@given(
    t1=st.integers(1, 12),
    t2=st.integers(1, 12),
    draws=st.lists(st.booleans(), min_size=1, max_size=14),
    lookahead=st.integers(1, 6),
)
def test_with_one_drafter_it_is_pipespec(t1, t2, draws, lookahead):
    """In every settle time and pass, ties included; by its stages, too."""
    case = case_of(
        Timing(drafter_ns=t1, target_ns=t2, lookahead=lookahead, targets=1), np.array([draws])
    )
    known = run_events(case, "pipespec", 0, keep_history=True)
    settled, passes = run([t1], t2, [draws], lookahead)
    assert settled == known.output.settled_ns
    assert [begin for begin, _, _ in passes] == [f.start_ns for f in known.target.history]


def test_a_middle_model_pays_where_the_first_is_often_wrong():
    timing = Timing(drafter_ns=10, target_ns=400, lookahead=5, targets=1)
    draws = np.random.default_rng(1).random((8, 200)) < 0.8
    case = case_of(timing, draws)
    more = MoreDrafter(latency=Latency(latency_ns=30), rate=0.97)
    alone = simulate_case(case, "pipespec").latency_ns.mean()
    piped = simulate_case(dataclasses.replace(case, more_drafters=(more,)), "pipespec")
    assert piped.latency_ns.mean() < 0.8 * alone
    assert (piped.target_passes > 200 / 50).all()
    assert (piped.drafts > piped.target_passes).all()


@given(
    lookahead=st.integers(1, 5),
    block=st.integers(1, 3),
    model=st.sampled_from(["bernoulli", "lookup"]),
)
def test_blocks_and_drafters_without_a_guess(lookahead, block, model):
    """It ends, and needs fewer passes than there are tokens."""
    values = {
        "target.latency_ms": 40.0,
        "drafter.latency_ms": 3.0,
        "drafter.block_tokens": block,
        "acceptance.model": model,
        "lookahead": lookahead,
        "tokens": 60,
        "repeats": 2,
        "more_drafters.latency_ms": [9.0],
        "more_drafters.acceptance_rate": [0.9],
    }
    found = simulate_case(make_case(values), "pipespec")
    assert (np.diff(found.settled_ns) >= 0).all()
    assert (found.target_passes < 60).all()


def test_real_waits_have_no_models_in_between():
    text = 'algorithms=["pipespec"]\nbackend="wallclock"\ntokens=4\nrepeats=1\n'
    more = "more_drafters.latency_ms=[2.0]\nmore_drafters.acceptance_rate=[0.9]\n"
    for own in (more, f'[[variants]]\nname="a"\n{more}'):
        study = loads(text + own)
        with pytest.raises(UserError, match="PipeSpec with further drafters is simulated only"):
            waits.check(study, yes=True)
    assert waits.check(loads(text), yes=True) > 0
