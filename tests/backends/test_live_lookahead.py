"""Whatever can run live runs on real models, with a lookahead that adapts as well."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dsim.backends.torch.sampling import Sampling
from dsim.backends.torch.verify import Match
from dsim.model import POLICIES
from dsim.model.case import Case
from dsim.model.lookahead import Plan, Policy
from dsim.model.script import script_of
from dsim.orchestrations import ORCHESTRATIONS
from dsim.orchestrations.si import work as si_work

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("default"),  # those of torch and transformers are not ours
]
TOKENS = 24
PROMPTS = ([3, 4, 5, 6], [20, 21, 22, 23, 24, 25, 26, 27, 28])


LIVE = [name for name, one in ORCHESTRATIONS.items() if one.traits.live and one.traits.drafts]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("algorithm", LIVE)
def test_all_that_runs_live_gives_the_tokens_of_the_target(workers, algorithm, policy) -> None:
    samplings = (Sampling(), Sampling(temperature=0.8, seed=7))
    for sampling, prompt, lookahead in zip(samplings, PROMPTS, (1, 3), strict=True):
        rule = Match(sampling)
        expected = workers.run("nonsi", prompt, TOKENS, rule).output.tokens
        run = workers.run(
            algorithm,
            prompt,
            TOKENS,
            rule,
            lookahead=lookahead,
            policy=Policy(name=policy, threshold=0.3),
            cached=lookahead == 3,
        )
        assert run.output.tokens == expected, (sampling, prompt, lookahead)


def test_a_live_lookahead_adapts(workers) -> None:
    """SI's rounds are those of a simulation that replays the drafts."""
    rule, prompt = Match(Sampling()), PROMPTS[0]
    tokens = workers.run("nonsi", prompt, TOKENS, rule).output.tokens
    drafts, _ = workers.answers(prompt, tokens, rule)
    stands = np.array([one.token == token for one, token in zip(drafts, tokens, strict=True)])
    # Every probability is above 0, and none is above 1: blocks of four, and of one.
    for policy, like in (
        *((Policy(name=name), Policy(name=name).plan(4)) for name in POLICIES[:-1]),
        (Policy(name=POLICIES[-1], threshold=0.0), Plan(4)),
        (Policy(name=POLICIES[-1], threshold=1.1), Plan(1)),
    ):
        run = workers.run("si", prompt, TOKENS, rule, lookahead=4, policy=policy, cached=True)
        case = Case(tokens=TOKENS, repeats=1, targets=1)
        rounds = si_work(dataclasses.replace(script_of(case, stands, 0), plan=like))
        assert (run.target.begun, run.drafter.begun) == (len(rounds.widths), rounds.drafts), policy
