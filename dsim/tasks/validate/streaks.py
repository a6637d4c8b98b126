"""Which acceptance model recorded draws follow: chosen by what it says of texts left out."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dsim.model.acceptance import DEEPER, Acceptance, by_depth_of, log_likelihood, rank_shares_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

FOLDS = 5


class Form(NamedTuple):
    """A kind of acceptance model, and where the search for its numbers begins.

    Attributes:
        name: of the kind, for people.
        of: the model, from numbers in 0 … 1 (0 and 1 excluded).
        start: such numbers; the first is the acceptance rate, which is put in its place.
    """

    name: str
    of: Callable[..., Acceptance]
    start: tuple[float, ...]


MAX_SPREAD, MAX_PHASE_TOKENS = 0.5, 100.0
FORMS = (
    Form("independent", lambda p: Acceptance(rate=p), (0.5,)),
    Form("differs by text", lambda p, s: Acceptance(rate=p, spread=MAX_SPREAD * s), (0.5, 0.2)),
    Form(
        "in streaks",
        lambda p, c: Acceptance(model="markov", rate=p, correlation=c),
        (0.5, 0.2),
    ),
    Form(
        "in streaks, differs by text",
        lambda p, c, s: Acceptance(model="markov", rate=p, correlation=c, spread=MAX_SPREAD * s),
        (0.5, 0.2, 0.2),
    ),
    Form(
        "easy and hard stretches",
        lambda p, w, t: Acceptance(
            model="phases", rate=p, swing=w, phase_tokens=MAX_PHASE_TOKENS**t
        ),
        (0.5, 0.5, 0.5),
    ),
    Form(
        "falls along a branch",
        lambda p, d: Acceptance(model="decay", rate=p, decay=d),
        (0.5, 0.95),
    ),
)


def fitted(form: Form, draws: NDArray[np.bool_]) -> Acceptance:
    """The model of *form* with the rate of *draws*, bool (texts, tokens), that is likeliest.

    The rate stays as it was counted: where the form does not fit, a search for the likeliest rate
    trades the rate for the streaks (DSI of the pair that ships came out 4 to 7 % slow on 40 texts,
    and comes out 1 to 2 % slow with the rate as counted).
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    most = 1 / (2 * draws.size)  # as far from certainty as so many draws can tell
    rate, *others = np.array([draws.mean(), *form.start[1:]]).clip(most, 1 - most)

    def of(x: NDArray[np.float64]) -> Acceptance:
        return form.of(float(rate), *map(float, expit(x).clip(most, 1 - most)))

    if not others:
        return form.of(float(rate))
    start = np.array(others)
    steps = np.vstack([np.zeros(len(start)), np.eye(len(start))])  # of the first simplex

    def cost(x: NDArray[np.float64]) -> float:
        return -float(log_likelihood(of(x), draws).sum())

    found = minimize(
        cost,
        logit(start),
        method="Nelder-Mead",
        options={"initial_simplex": logit(start) + steps, "xatol": 0.02, "fatol": 0.02},
    )
    return of(found.x)


class Streaks(NamedTuple):
    """The acceptance model that draws follow.

    Attributes:
        form: its kind, for people.
        acceptance: the model, fitted to all texts.
        held_out: by kind, the logarithm of the likelihood of texts left out of the fit, per draw;
            empty where there were too few texts to compare kinds.
    """

    form: str
    acceptance: Acceptance
    held_out: dict[str, float]


def streaks_of(traces: Sequence[str]) -> Streaks:
    """Which acceptance model *traces* follow: the one that says most of texts left out.

    Args:
        traces: recorded draws, a text of ranks each, all of one length and with the same depths.
            The last draw of each is left out, since no draft is wanted there. With fewer than
            ``2 · FOLDS`` texts draws are taken as independent.
    """
    depths = [[[int(mark) for mark in row[:-1]] for row in one.split(DEEPER)] for one in traces]
    found_ranks = np.array(depths)  # (texts, depths, tokens)
    ranks = found_ranks[:, 0]
    by_depth = by_depth_of(found_ranks) if found_ranks.shape[1] > 1 else ()
    draws, shares = ranks == 1, tuple(rank_shares_of(ranks))
    if len(draws) < 2 * FOLDS or draws.all() or not draws.any():
        plain = Acceptance(rate=float(draws.mean()), rank_shares=shares, by_depth=by_depth)
        return Streaks(FORMS[0].name, plain, {})
    fold = np.arange(len(draws)) % FOLDS
    held_out = {
        form.name: sum(
            float(log_likelihood(fitted(form, draws[fold != f]), draws[fold == f]).sum())
            for f in range(FOLDS)
        )
        / draws.size
        for form in FORMS
    }
    best = max(FORMS, key=lambda form: held_out[form.name])
    found = dataclasses.replace(fitted(best, draws), rank_shares=shares, by_depth=by_depth)
    return Streaks(best.name, found, held_out)
