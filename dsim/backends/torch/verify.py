"""Verification rules: which drafts stand, and what the target says instead. Each reads logits.

A rule has three parts, because they happen in three places: ``draft`` in the drafter's worker,
``own`` in the target's (each turns logits into what has to be sent), and ``judge`` in the parent.
For trees of drafts, these are ``candidates``, ``own`` and ``among``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dsim.backends.torch.sampling import (
    ACCEPT,
    DRAFT,
    GREEDY,
    RESIDUAL,
    SAMPLE,
    Candidates,
    Sampling,
    check_finite,
    choose,
    guessed,
    gumbel,
    probabilities,
    softmax,
    uniforms,
)
from dsim.errors import Problem, UserError
from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray


class Answer(NamedTuple):
    """What a worker says about one position.

    Attributes:
        token: the token that the model itself chooses there.
        more: what else the rule needs: probabilities, a set of tokens, or nothing.
    """

    token: int
    more: Any = None


class Rule(Protocol):
    """One way to judge drafts.

    Attributes:
        name: what users call it.
        lossless: whether the output is distributed as the target's own.
        any_tree: whether that holds as well where what a candidate is decides whether it is on the
            tree of drafts.
    """

    name: str
    lossless: bool
    any_tree: bool

    def draft(self, logits: NDArray[Any], position: int) -> Answer:
        """What the drafter, with these *logits* at *position*, says."""

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """What the target says."""

    def judge(self, target: Answer, draft: Answer, position: int) -> int:
        """The token that settles there: the draft's if it stands, else another one."""

    def candidates(self, logits: NDArray[Any], position: int, count: int) -> Candidates:
        """What the drafter, with these *logits*, guesses: *count* different tokens at most.

        The first is that of :meth:`draft`.
        """

    def among(
        self, target: Answer, drafts: Candidates, nodes: Collection[int], position: int
    ) -> int:
        """The token that settles there: one of *nodes* if it stands, else another one.

        Args:
            target: what the target says.
            drafts: what the drafter has guessed.
            nodes: those of its tokens that are on the tree.
            position: the position.
        """


@dataclasses.dataclass(frozen=True)
class Match:
    """A draft stands if it is the very token that the target chooses. Lossless, token for token.

    With a temperature, drafter and target sample with the same Gumbel noise; so they agree often,
    and the output is what the target alone would have sampled with that seed.
    """

    sampling: Sampling = GREEDY
    name = "match"
    lossless = True
    any_tree = True

    def draft(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        return Answer(choose(logits, position, self.sampling))

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        return Answer(choose(logits, position, self.sampling))

    def judge(self, target: Answer, draft: Answer, position: int) -> int:  # noqa: ARG002
        """See :class:`Rule`."""
        return target.token

    def candidates(self, logits: NDArray[Any], position: int, count: int) -> Candidates:
        """See :class:`Rule`."""
        return guessed(logits, position, self.sampling, count)

    def among(
        self,
        target: Answer,
        drafts: Candidates,  # noqa: ARG002
        nodes: Collection[int],  # noqa: ARG002
        position: int,  # noqa: ARG002
    ) -> int:
        """See :class:`Rule`."""
        return target.token


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Speculative sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

    A draft x stands with probability min(1, p(x) / q(x)); else the token is a sample of
    max(0, p - q), normalised. Lossless in distribution.

    Of several candidates (Miao et al., arXiv 2305.09781; drawn without replacement as by Jeon et
    al., arXiv 2402.14160) each is judged so in turn: after a rejection p becomes max(0, p - q),
    normalised, and q loses the candidate. Lossless in distribution where what a candidate is does
    not decide whether it is judged.
    """

    sampling: Sampling = GREEDY
    leniency: float = 1.0
    name = "rejection"
    lossless = True
    any_tree = False

    def draft(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        q = probabilities(logits, self.sampling)
        return Answer(choose(logits, position, self.sampling, DRAFT), q)

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        p = probabilities(logits, self.sampling)
        return Answer(choose(logits, position, self.sampling, SAMPLE), p)

    def judge(self, target: Answer, draft: Answer, position: int) -> int:
        """See :class:`Rule`."""
        x = draft.token
        return self.among(target, Candidates([x], [], draft.more), (x,), position)

    def candidates(self, logits: NDArray[Any], position: int, count: int) -> Candidates:
        """See :class:`Rule`."""
        found = guessed(logits, position, self.sampling, count, DRAFT)
        return found._replace(more=probabilities(logits, self.sampling)) if found.tokens else found

    def among(
        self, target: Answer, drafts: Candidates, nodes: Collection[int], position: int
    ) -> int:
        """See :class:`Rule`."""
        if not nodes:
            return target.token
        p, q, seed = target.more, drafts.more, self.sampling.seed
        u = uniforms(seed, position, ACCEPT, len(drafts.tokens))
        for number, x in enumerate(drafts.tokens):
            if q[x] <= 0:  # greedy, after the first: all on it
                q = np.zeros(len(q))
                q[x] = 1
            if x in nodes:
                if u[number] * self.leniency * q[x] < p[x]:
                    return x
                p = np.maximum(p - q, 0)
                p = p / p.sum()
            q = np.where(np.arange(len(q)) == x, 0, q)
            q = q / (q.sum() or 1)
        with np.errstate(divide="ignore"):
            return int(np.argmax(np.log(p) + gumbel(seed, position, RESIDUAL, len(p))))


@dataclasses.dataclass(frozen=True)
class Lenient(Rejection):
    """Speculative sampling with leniency ℓ (Leviathan et al., appendix A.5). Lossy, by choice.

    A draft x stands with probability min(1, p(x) / (ℓ q(x))); ℓ = 1 is lossless. With greedy
    choice it stands if the target gives it at least ℓ times the probability of its own token.
    """

    leniency: float = 0.5
    name = "lenient"
    lossless = False

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        if self.sampling.temperature == 0:
            token = choose(logits, position, self.sampling)
            return Answer(token, softmax(np.asarray(logits, dtype=np.float64)))
        return super().own(logits, position)

    def among(
        self, target: Answer, drafts: Candidates, nodes: Collection[int], position: int
    ) -> int:
        """See :class:`Rule`."""
        if self.sampling.temperature:
            return super().among(target, drafts, nodes, position)
        p, least = target.more, self.leniency * target.more[target.token]
        return next((x for x in drafts.tokens if x in nodes and p[x] >= least), target.token)


@dataclasses.dataclass(frozen=True)
class TopN(Match):
    """A draft stands if it is among the target's *n* likeliest tokens. Lossy, by choice."""

    n: int = 3
    name = "top-n"
    lossless = False

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        n = min(self.n, len(logits))
        likeliest = np.argpartition(-np.asarray(logits), n - 1)[:n]
        return Answer(choose(logits, position, self.sampling), frozenset(likeliest.tolist()))

    def judge(self, target: Answer, draft: Answer, position: int) -> int:  # noqa: ARG002
        """See :class:`Rule`."""
        return draft.token if draft.token in target.more else target.token

    def among(
        self,
        target: Answer,
        drafts: Candidates,
        nodes: Collection[int],
        position: int,  # noqa: ARG002
    ) -> int:
        """See :class:`Rule`."""
        stand = (x for x in drafts.tokens if x in nodes and x in target.more)
        return next(stand, target.token)


@dataclasses.dataclass(frozen=True)
class Surprise(Match):
    """Judges nothing: says how surprised a model is by a given text.

    Attributes:
        text: the tokens; the answer for each position has -ln p of that token (nats), by the
            model's own distribution (temperature 1).
    """

    text: tuple[int, ...] = ()
    name = "surprise"

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        token, best = self.text[position], float(logits.max())
        check_finite(best, position)
        raised = np.asarray(logits, dtype=np.float64) - best
        return Answer(token, float(np.log(np.exp(raised).sum()) - raised[token]))


RULES = ("match", "rejection", "lenient", "top-n")


def with_confidence(rule: Rule) -> WithConfidence:
    """*rule*, whose drafts also say how sure the drafter is."""
    return WithConfidence(rule, rule.name, rule.lossless, rule.any_tree)


@dataclasses.dataclass
class WithConfidence:
    """A rule whose drafts also say how sure the drafter is: the probability of its token.

    It is that of the drafter's logits as they are, at temperature 1.

    Attributes:
        rule: what judges the drafts.
        name, lossless, any_tree: of that rule.
    """

    rule: Rule
    name: str
    lossless: bool
    any_tree: bool

    def draft(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        token, more = self.rule.draft(logits, position)
        return Answer(token, (more, float(softmax(np.asarray(logits, np.float64))[token])))

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        return self.rule.own(logits, position)

    def judge(self, target: Answer, draft: Answer, position: int) -> int:
        """See :class:`Rule`."""
        return self.rule.judge(target, Answer(draft.token, draft.more[0]), position)

    def candidates(self, logits: NDArray[Any], position: int, count: int) -> Candidates:
        """See :class:`Rule`."""
        found = self.rule.candidates(logits, position, count)
        if not found.tokens:
            return found
        sure = softmax(np.asarray(logits, np.float64))[found.tokens[0]]
        return found._replace(more=(found.more, float(sure)))

    def among(
        self, target: Answer, drafts: Candidates, nodes: Collection[int], position: int
    ) -> int:
        """See :class:`Rule`."""
        inner = drafts._replace(more=drafts.more and drafts.more[0])
        return self.rule.among(target, inner, nodes, position)


def rule_of(name: str, sampling: Sampling, *, leniency: float = 0.5, n: int = 3) -> Rule:
    """The rule called *name*.

    Raises:
        UserError: there is none, or one of its settings is out of range.
    """
    problems = []
    if not (np.isfinite(sampling.temperature) and sampling.temperature >= 0):
        problems.append(Problem("temperature", "", f"expected ≥ 0, got {sampling.temperature}"))
    if sampling.top_k < 0:
        problems.append(Problem("top-k", "", f"expected ≥ 0, got {sampling.top_k}"))
    if not 0 < sampling.top_p <= 1:
        problems.append(Problem("top-p", "", f"expected above 0, ≤ 1, got {sampling.top_p}"))
    if not 0 <= sampling.seed < 2**63:
        problems.append(Problem("seed", "", f"expected 0 to 2^63 - 1, got {sampling.seed}"))
    if not 0 < leniency <= 1:
        problems.append(Problem("leniency", "", f"expected above 0, ≤ 1, got {leniency}"))
    if n < 1:
        problems.append(Problem("top-n", "", f"expected ≥ 1, got {n}"))
    if name not in RULES:
        expected = ", ".join(RULES)
        problems.append(
            Problem("rule", "", f"expected one of {expected}, got {name!r}{nearest(name, RULES)}")
        )
    if problems:
        raise UserError(*problems)
    rules: dict[str, Rule] = {
        "match": Match(sampling),
        "rejection": Rejection(sampling),
        "lenient": Lenient(sampling, leniency),
        "top-n": TopN(sampling, n),
    }
    return rules[name]


def verify(
    rule: Rule, target: Sequence[Answer], drafts: Sequence[Answer], first: int
) -> tuple[int, int]:
    """Judge *drafts* for positions ``first, first + 1, …`` by what the *target* says there.

    Args:
        rule: the rule.
        target: one answer a position; as many as drafts, or more.
        drafts: the drafts in order.
        first: the position of the first.

    Returns:
        How many drafts stand; and the token after those, if the target was asked about it (else
        -1, where all stand).
    """
    for i, draft in enumerate(drafts):
        token = rule.judge(target[i], draft, first + i)
        if token != draft.token:
            return i, token
    own = target[len(drafts)].token if len(target) > len(drafts) else -1
    return len(drafts), own
