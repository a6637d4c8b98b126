"""How tokens are drawn from logits: the noise of a position, and what is likeliest with it.

Logits are float arrays over the vocabulary, shape (vocab,), of one output position. Randomness
depends on (seed, position, use) alone, so that it is the same in every process, by every
algorithm, and however often a position is drafted.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dsim.errors import EngineError

if TYPE_CHECKING:
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


GREEDY = Sampling()


class Candidates(NamedTuple):
    """What a drafter says about one position when several drafts for it may be wanted.

    Attributes:
        tokens: its guesses, the best first; none: it has no guess.
        chances: how sure it is of each of them, in 0 … 1.
        more: what else the rule needs: probabilities, or nothing.
    """

    tokens: list[int]
    chances: list[float]
    more: Any = None


def uniforms(seed: int, position: int, use: int, count: int) -> Floats:
    """*count* numbers in (0, 1) for one use of one position, float64 (count,)."""
    # Raw Philox output (Salmon et al. 2011): NumPy promises never to change it.
    bits = np.random.Philox(key=[seed, (position << 2) + use]).random_raw(count) >> np.uint64(11)
    # Strictly between 0 and 1, so that logarithms are finite.
    return np.clip(bits * 2.0**-53, 2.0**-54, 1 - 2.0**-53)


@functools.lru_cache(maxsize=16)  # nodes of a tree share positions; nobody changes what is kept
def gumbel(seed: int, position: int, use: int, vocab: int) -> Floats:
    """Standard Gumbel noise, float64 (vocab,): argmax(log p + noise) is a sample of p."""
    return np.asarray(-np.log(-np.log(uniforms(seed, position, use, vocab))))


def scaled(logits: NDArray[Any], sampling: Sampling) -> Floats:
    """Logits after temperature, top-k and top-p, in that order, float64 (vocab,).

    Excluded tokens get minus infinity. The order is that of transformers.
    """
    values = np.array(logits, dtype=np.float64)
    values /= sampling.temperature  # in place, here and below: large vocabularies
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
    raised: Floats = logits - logits.max()
    np.exp(raised, out=raised)
    raised /= raised.sum()
    return raised


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


def guessed(
    logits: NDArray[Any], position: int, sampling: Sampling, count: int, use: int = SAMPLE
) -> Candidates:
    """The *count* tokens that *sampling* likes best at *position*, in order.

    With a temperature they are drawn without replacement (the Gumbel-top-k trick; Kool et al.,
    arXiv 1903.06059). The chances are the softmax of what decides: logits, and noise if there is.

    Raises:
        EngineError: a logit is NaN or plus infinity.
    """
    values = scores(logits, position, sampling, use)
    if count < len(values):
        best = np.argpartition(values, -count)[-count:]
    else:
        best = np.arange(len(values))
    best = best[np.argsort(-values[best], kind="stable")]
    top = float(values[best[0]])
    if top == -math.inf:
        return Candidates([], [])
    check_finite(top, position)
    best = best[np.isfinite(values[best])]
    raised = np.array(values, dtype=np.float64)
    raised -= top
    np.exp(raised, out=raised)
    chances = raised[best] / raised.sum()
    return Candidates(best.tolist(), chances.tolist())


def check_finite(best: float, position: int) -> None:
    """See that the best of the logits at *position* is finite; -inf only rules a token out.

    Raises:
        EngineError: it is not.
    """
    if not math.isfinite(best):
        raise EngineError(f"the logits of token {position} are not finite")
