"""The settings of drafts: how they fare, and how an orchestration goes about them."""

from __future__ import annotations

from typing import Any

from dsim.study.setting import Setting

ACCEPTANCE_MODELS = ("bernoulli", "decay", "markov", "phases", "lookup", "trace")
# Ways to say how often drafts are accepted, of which a study has one.
RATES = (
    "acceptance.rate",
    "acceptance.by_depth",
    "acceptance.per_position",
    "acceptance.mean_length",
    "acceptance.mean_run",
)


def _chance(key: str, default: float, meaning: str) -> Setting:
    return Setting(
        key=f"acceptance.{key}", type="float", default=default, low=0, high=1, meaning=meaning
    )


def _chances(key: str, meaning: str) -> Setting:
    return Setting(
        key=f"acceptance.{key}",
        type="float or list",
        default=None,
        low=0,
        high=1,
        sweep=False,
        meaning=meaning,
    )


def _tokens(key: str, default: Any, low: float, meaning: str, kind: str = "int") -> Setting:
    return Setting(key=key, type=kind, default=default, low=low, unit="tokens", meaning=meaning)


DRAFTS: tuple[Setting, ...] = (
    Setting(
        key="acceptance.model",
        type="str",
        default="bernoulli",
        choices=ACCEPTANCE_MODELS,
        meaning="bernoulli: independent; decay: the rate falls along a branch; "
        "markov: acceptances in streaks; phases: easy and hard stretches of text; lookup: copied "
        "and new stretches, in which a drafter without a model does not always have a draft; "
        "trace: replay",
    ),
    Setting(
        key="acceptance.rate",
        type="float",
        default=0.8,
        low=0,
        high=1,
        meaning="p, the chance that a draft is the target's token, given a right prefix",
    ),
    Setting(
        key="acceptance.decay",
        type="float",
        default=None,
        low=0,
        high=1,
        meaning="decay: factor on the rate for each further draft of a branch",
    ),
    Setting(
        key="acceptance.correlation",
        type="float",
        default=None,
        low=0,
        high=1,
        below=True,
        meaning="markov: correlation of neighbouring draws",
    ),
    Setting(
        key="acceptance.swing",
        type="float",
        default=None,
        low=0,
        high=1,
        meaning="phases: how far the rates of easy and hard stretches lie from the mean, as a "
        "share of the largest possible distance",
    ),
    Setting(
        key="acceptance.phase_tokens",
        type="float",
        default=50.0,
        low=1,
        unit="tokens",
        meaning="phases: mean length of a stretch (geometric)",
    ),
    Setting(
        key="acceptance.spread",
        type="float",
        default=0.0,
        low=0,
        high=0.5,
        meaning="standard deviation of the rate over repeats (in a deployment: over requests), a "
        "beta distribution",
    ),
    Setting(
        key="acceptance.trace",
        type="list of traces",
        default=None,
        sweep=False,
        meaning="trace: recorded draws by position, 1 accepted, 0 rejected (2, 3, …: the target's "
        "token was the drafter's second, third … choice); repeat r replays number r",
    ),
    Setting(
        key="acceptance.trace_file",
        type="str",
        default=None,
        sweep=False,
        meaning="trace: a text file with one line of such digits for each prompt",
    ),
    _chances(
        "rank_shares",
        "where the first choice is wrong: the shares in which the second, third, … is right",
    ),
    _chances(
        "by_depth",
        "in place of acceptance.rate: rates of drafts 1, 2, … tokens ahead of the settled text; "
        "the last rate holds for all further drafts",
    ),
    _chances(
        "per_position",
        "in place of acceptance.rate: chances that the draft at position 1, 2, … and all before "
        "it are accepted (vLLM's metric)",
    ),
    _tokens(
        "acceptance.mean_length",
        None,
        1,
        "in place of acceptance.rate: tokens per target pass, its own included (τ, vLLM's mean "
        "acceptance length), at acceptance.at_lookahead drafts in a row; not τ over a tree",
        "float",
    ),
    _tokens("acceptance.at_lookahead", None, 1, "drafts a pass that mean_length was measured at"),
    _tokens(
        "acceptance.mean_run",
        None,
        1,
        "in place of acceptance.rate: tokens per rejection (PEARL's MAT); p = 1 - 1 / mean_run",
        "float",
    ),
    _tokens(
        "acceptance.copied_tokens", 10.0, 1, "lookup: mean length of copied stretches", "float"
    ),
    _chance("copied_rate", 0.9, "lookup: acceptance rate in copied stretches"),
    _tokens("acceptance.new_tokens", 20.0, 1, "lookup: mean length of new stretches", "float"),
    _chance("chance_match", 0.3, "lookup: chance that there is a draft in a new stretch"),
    _chance("chance_rate", 0.2, "lookup: acceptance rate of drafts in new stretches"),
    _tokens("drafter.block_tokens", 1, 1, "drafts that one forward of the drafter makes"),
    _tokens(
        "patience", 0, 0, "drafts that the first pass of a branch waits for; 0: it waits for none"
    ),
    Setting(
        key="tree.paths",
        type="list of paths",
        default=None,
        sweep=False,
        meaning="the nodes of a static tree: each the ranks from its root to it, as [[1], [2], "
        "[1, 1]]; not set: nodes are chosen by confidence",
    ),
    _tokens("tree.depth", 5, 1, "levels of a tree chosen by confidence, at most"),
    _tokens(
        "tree.branches", 2, 1, "candidates of each node that the drafter reads; nodes it expands"
    ),
    _tokens("tree.nodes", None, 1, "nodes that are kept, at most; not set: all"),
    _tokens("tree.deviations", 1, 0, "treedsi: ranks other than 1 that a path may have"),
    Setting(
        key="ssd.fanout",
        type="int or list",
        default=1,
        low=0,
        meaning="ssd: guesses of the target's own token; a list: after 0, 1, … accepted drafts",
    ),
)
# Those that matter to real models, where rates are what they are.
LIVE = tuple(
    setting
    for setting in DRAFTS
    if setting.key in ("drafter.block_tokens", "patience") or setting.key.startswith("tree.")
)
