"""Verification rules: which drafts stand, and what the target says instead. Each reads logits.

Logits are float arrays over the vocabulary, shape (vocab,), of one output position. Randomness
depends on (seed, position, use) alone, so that it is the same in every process, by every
algorithm, and however often a position is drafted.

A rule has three parts, because they happen in three places: ``draft`` in the drafter's worker,
``own`` in the target's (each turns logits into what has to be sent), and ``judge`` in the parent.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from dsim.errors import EngineError, Problem, UserError
from dsim.words import nearest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

# What the randomness of a position is used for; each use has a stream of its own.
SAMPLE, ACCEPT, RESIDUAL, DRAFT = range(4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen from logits, as users of ``generate`` know it.

    Attributes:
        temperature: 0 chooses the likeliest token (greedy).
        top_k: only the *k* likeliest tokens; 0: all.
        top_p: only the smallest set of likeliest tokens whose probabilities sum to at least this.
        seed: of the randomness.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


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
    """

    name: str
    lossless: bool

    def draft(self, logits: NDArray[Any], position: int) -> Answer:
        """What the drafter, with these *logits* at *position*, says."""

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """What the target says."""

    def judge(self, target: Answer, draft: Answer, position: int) -> int:
        """The token that settles there: the draft's if it stands, else another one."""


def uniform(seed: int, position: int, use: int) -> float:
    """A number in [0, 1) for one use of one position."""
    return float(_uniforms(seed, position, use, 1)[0])


def _uniforms(seed: int, position: int, use: int, count: int) -> Floats:
    # Raw Philox output (Salmon et al. 2011): NumPy promises never to change it.
    bits = np.random.Philox(key=[seed, (position << 2) + use]).random_raw(count) >> np.uint64(11)
    # Strictly between 0 and 1, so that logarithms are finite.
    return np.clip(bits * 2.0**-53, 2.0**-54, 1 - 2.0**-53)


def gumbel(seed: int, position: int, use: int, vocab: int) -> Floats:
    """Standard Gumbel noise, float64 (vocab,): argmax(log p + noise) is a sample of p."""
    return np.asarray(-np.log(-np.log(_uniforms(seed, position, use, vocab))))


def scaled(logits: NDArray[Any], sampling: Sampling) -> Floats:
    """Logits after temperature, top-k and top-p, in that order, float64 (vocab,).

    Excluded tokens get minus infinity. The order is that of transformers.
    """
    values = np.asarray(logits, dtype=np.float64) / sampling.temperature
    if 0 < sampling.top_k < len(values):
        least = np.partition(values, -sampling.top_k)[-sampling.top_k]
        values = np.where(values < least, -np.inf, values)
    if sampling.top_p < 1:
        order = np.argsort(-values, kind="stable")
        before = np.cumsum(softmax(values[order])) - softmax(values[order])
        # A token stays while those before it do not reach top_p; the first always stays.
        out = order[1:][before[1:] >= sampling.top_p]
        values[out] = -np.inf
    return values


def softmax(logits: Floats) -> Floats:
    """Probabilities, float64 (vocab,)."""
    raised = np.exp(logits - logits.max())
    return np.asarray(raised / raised.sum())


def probabilities(logits: NDArray[Any], sampling: Sampling) -> Floats:
    """The distribution that *sampling* draws from, float64 (vocab,); greedy: all on one token."""
    if sampling.temperature == 0:
        certain = np.zeros(len(logits))
        certain[int(np.argmax(logits))] = 1
        return certain
    return softmax(scaled(logits, sampling))


def scores(
    logits: NDArray[Any], position: int, sampling: Sampling, use: int = SAMPLE
) -> NDArray[Any]:
    """What the chosen token has most of, float (vocab,): logits, with a temperature plus noise."""
    if sampling.temperature == 0:
        return logits
    return scaled(logits, sampling) + gumbel(sampling.seed, position, use, len(logits))


def choose(logits: NDArray[Any], position: int, sampling: Sampling, use: int = SAMPLE) -> int:
    """The token that *sampling* chooses at *position*.

    With a temperature it is the Gumbel-max sample of (seed, position, use): whoever has the same
    logits chooses the same token.

    Raises:
        EngineError: a logit is not finite.
    """
    token = int(np.argmax(scores(logits, position, sampling, use)))
    check_finite(logits[token], position)  # what is NaN or infinite wins
    return token


def check_finite(best: float, position: int) -> None:
    """See that the best of the logits at *position* is finite; -inf only rules a token out.

    Raises:
        EngineError: it is not.
    """
    if not math.isfinite(best):
        raise EngineError(f"the logits of token {position} are not finite")


@dataclasses.dataclass(frozen=True)
class Match:
    """A draft stands if it is the very token that the target chooses. Lossless, token for token.

    With a temperature, drafter and target sample with the same Gumbel noise; so they agree often,
    and the output is what the target alone would have sampled with that seed.
    """

    sampling: Sampling = Sampling()
    name = "match"
    lossless = True

    def draft(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        return Answer(choose(logits, position, self.sampling))

    def own(self, logits: NDArray[Any], position: int) -> Answer:
        """See :class:`Rule`."""
        return Answer(choose(logits, position, self.sampling))

    def judge(self, target: Answer, draft: Answer, position: int) -> int:  # noqa: ARG002
        """See :class:`Rule`."""
        return target.token


@dataclasses.dataclass(frozen=True)
class Rejection:
    """Speculative sampling (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).

    A draft x stands with probability min(1, p(x) / q(x)); else the token is a sample of
    max(0, p - q), normalised. Lossless in distribution.
    """

    sampling: Sampling = Sampling()
    name = "rejection"
    lossless = True

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
        p, q, x = target.more, draft.more, draft.token
        seed = self.sampling.seed
        if uniform(seed, position, ACCEPT) * q[x] < p[x]:
            return x
        residual = np.maximum(p - q, 0)
        with np.errstate(divide="ignore"):
            return int(
                np.argmax(np.log(residual) + gumbel(seed, position, RESIDUAL, len(residual)))
            )


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

    def judge(self, target: Answer, draft: Answer, position: int) -> int:
        """See :class:`Rule`."""
        p, q, x = target.more, draft.more, draft.token
        if self.sampling.temperature == 0:
            return x if p[x] >= self.leniency * p[target.token] else target.token
        if uniform(self.sampling.seed, position, ACCEPT) * self.leniency * q[x] < p[x]:
            return x
        return super().judge(target, draft, position)


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


@dataclasses.dataclass
class WithConfidence:
    """A rule whose drafts also say how sure the drafter is: the probability of its token.

    It is that of the drafter's logits as they are, at temperature 1.

    Attributes:
        rule: what judges the drafts.
        name, lossless: of that rule.
    """

    rule: Rule
    name: str
    lossless: bool

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
