"""The workload: when requests arrive, and how long their prompts and answers are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from dsim.deployment.request_rows import Text
from dsim.model.acceptance import OTHER_STREAM, Uniforms
from dsim.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from dsim.model.acceptance import Acceptance

ARRIVALS = ("poisson", "gamma", "closed", "trace")
GAPS, PROMPTS, OUTPUTS, _, FAULTS, NETWORK, THINKING, GROUPS = range(8)
BLOCK = 4096
UNKNOWN = Text()


def uniforms(seed: int, replication: int, purpose: int, part: int = 0) -> Uniforms:
    """A stream of random numbers in [0, 1), independent of all others.

    Args:
        seed: seed of the run.
        replication: number of the replication.
        purpose: GAPS, PROMPTS and so on.
        part: which of several streams for this purpose, such as the number of a server.
    """
    return Uniforms(seed, (replication << 36) + (part << 4) + purpose, OTHER_STREAM)


def request_key(replication: int, request: int) -> int:
    """The key of one request's random draws, in the place of a repeat's.

    Request 0 of replication 0 has the draws of repeat 0 of a single run.
    """
    return (replication << 36) + request


@dataclasses.dataclass(frozen=True, kw_only=True)
class Length:
    """The distribution of the lengths of prompts or answers.

    Attributes:
        model: ``constant`` or ``lognormal``.
        mean_tokens: the length, or the mean length.
        cv: standard deviation / mean of lognormal lengths.
    """

    model: str = "constant"
    mean_tokens: int = 0
    cv: float = 1.0

    def quantile(self, u: NDArray[np.float64]) -> NDArray[np.int64]:
        """Lengths (int64 tokens) at the probabilities *u*; a lognormal one is at least 1."""
        if self.model == "constant":
            return np.full(len(u), self.mean_tokens, dtype=np.int64)
        from scipy.special import ndtri

        sigma = np.sqrt(np.log1p(self.cv**2))
        scale = np.exp(sigma * ndtri(np.clip(u, 2.0**-54, 1 - 2.0**-53)) - sigma**2 / 2)
        lengths: NDArray[np.int64] = np.maximum(1, np.rint(scale * self.mean_tokens)).astype(
            np.int64
        )
        return lengths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked of a deployment.

    Attributes:
        arrivals: ``poisson``; ``gamma`` (gaps with a coefficient of variation, for bursts);
            ``closed`` (a number of users, each of whom waits for the answer, thinks, and asks
            again); ``trace`` (replay).
        requests: total number of requests.
        rate_per_s: mean arrival rate of ``poisson`` and ``gamma``.
        cv: coefficient of variation of the gaps of ``gamma``.
        users: number of users of the closed loop.
        think_ns: mean of their exponential thinking times.
        prompt, output: lengths of prompts and of answers; an answer has at least one token.
        prefix_groups, prefix_tokens: of how many groups a prompt is, and how many tokens the
            prompts of a group have in common at their beginning, at most; 0: nothing.
        rate_drift: rise of the acceptance rate from the first request to the last, evenly around
            its mean (cut at 0 and 1).
        trace: (arrival ns, prompt tokens, output tokens) of each request, in order of arrival.
        texts: what else is known of each of them; empty: nothing.
        began_ns: when the first of them came, by the clock of its file.
    """

    arrivals: str = "poisson"
    requests: int = 1
    rate_per_s: float = 1.0
    cv: float = 1.0
    users: int = 1
    think_ns: int = 0
    prompt: Length = Length()
    output: Length = Length(mean_tokens=100)
    prefix_groups: int = 0
    prefix_tokens: int = 0
    rate_drift: float = 0.0
    trace: tuple[tuple[int, int, int], ...] = ()
    texts: tuple[Text, ...] = ()
    began_ns: int = 0

    def prompt_texts(self, seed: int, replication: int) -> list[Text]:
        """What is known of each request for a prefix cache: from the file, or by random groups."""
        if self.arrivals == "trace" or not self.prefix_groups:
            return [self.text(number) for number in range(self.count)]
        u = uniforms(seed, replication, GROUPS).next(self.count)
        groups = (u * self.prefix_groups).astype(np.int64).tolist()
        prompts, _ = self.lengths(seed, replication)
        shared = np.minimum(prompts, self.prefix_tokens).tolist()
        return [Text(group=str(g), shared=n) for g, n in zip(groups, shared, strict=True)]

    def text(self, number: int) -> Text:
        """What is known of a request beside its time and its lengths."""
        return self.texts[number] if self.texts and self.arrivals == "trace" else UNKNOWN

    @property
    def count(self) -> int:
        """Number of requests."""
        return len(self.trace) if self.arrivals == "trace" else self.requests

    def arrival_ns(self, seed: int, replication: int) -> NDArray[np.int64]:
        """When requests arrive: int64, shape (count,); all 0 in the closed loop.

        The first gap comes before the first request, but for a single one, which comes at 0.
        """
        if self.arrivals == "trace":
            return np.array([row[0] for row in self.trace], dtype=np.int64)
        if self.arrivals == "closed" or self.count == 1:
            return np.zeros(self.count, dtype=np.int64)
        u = uniforms(seed, replication, GAPS).next(self.count)
        if self.arrivals == "poisson":
            gaps = -np.log1p(-u)
        else:
            from scipy.special import gammaincinv

            shape = self.cv**-2
            gaps = gammaincinv(shape, u) / shape
        return np.cumsum(np.rint(gaps * (NS_PER_S / self.rate_per_s)).astype(np.int64))

    def lengths(self, seed: int, replication: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens of each prompt and of each output: int64, shape (count,)."""
        if self.arrivals == "trace":
            rows = np.array(self.trace, dtype=np.int64)
            return rows[:, 1], rows[:, 2]
        prompts = self.prompt.quantile(uniforms(seed, replication, PROMPTS).next(self.count))
        outputs = self.output.quantile(uniforms(seed, replication, OUTPUTS).next(self.count))
        return prompts, np.maximum(1, outputs)

    def rates(self, seed: int, replication: int, acceptance: Acceptance) -> NDArray[np.float64]:
        """The acceptance rate of each request: float64, shape (count,)."""
        means = np.full(self.count, acceptance.rate)
        if self.rate_drift and self.count > 1:
            drift = self.rate_drift * np.linspace(-0.5, 0.5, self.count)
            means = np.clip(means + drift, 0.0, 1.0)
        first = request_key(replication, 0)
        return acceptance.rates(seed, range(first, first + self.count), means)

    def thinking_ns(self, seed: int, replication: int) -> Iterator[int]:
        """Thinking times, one after the other."""
        stream = uniforms(seed, replication, THINKING)
        while True:
            yield from np.rint(-np.log1p(-stream.next(BLOCK)) * self.think_ns).astype(int).tolist()
