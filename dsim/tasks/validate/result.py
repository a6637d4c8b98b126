"""Predicted and measured, row by row, and how far they are apart."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dsim.model.latency import MAX_BEYOND
from dsim.model.statistics import half_width
from dsim.tasks.validate.calibration import COUNTS, MIN_REPEATS, RESAMPLES, STATISTICS, fast_half
from dsim.tasks.validate.prediction import NORMAL_95

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dsim.backends.torch.backend import LiveRun
    from dsim.events.run import Run
    from dsim.tasks.validate.calibration import Calibration
    from dsim.tasks.validate.prediction import Predicted, Prediction
    from dsim.tasks.validate.settings import Configuration


def noise_of(repeats: Sequence[Sequence[float]]) -> np.ndarray:
    """By how much (relative) the faster half of a text's *repeats* would differ if done again.

    Resampled from the repeats, with the factor that makes up for their being few.
    """
    rng = np.random.default_rng(0)
    noise = []
    for values in repeats:
        count = len(values)
        if count >= MIN_REPEATS:
            drawn = rng.choice(values, (RESAMPLES, count))
            halves = np.array([fast_half(row.tolist()) for row in drawn])
            noise.append((halves / fast_half(values) - 1) * math.sqrt(count / (count - 1)))
    return np.concatenate(noise) if noise else np.array([])


class Texts(NamedTuple):
    """Wall times (ms) of texts, predicted from their traces, and measured."""

    predicted_ms: np.ndarray
    measured_ms: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Relative error of each text's prediction."""
        return np.asarray(self.predicted_ms / self.measured_ms - 1)

    @property
    def error(self) -> float:
        """Relative error of the mean."""
        return float(self.predicted_ms.mean() / self.measured_ms.mean() - 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration, predicted and measured; arrays have one element a text.

    Attributes:
        predicted: before anything was measured.
        texts: for each of ``STATISTICS``.
        repeats: by how much (relative) each measurement differs from the one before it, of the
            same text.
        noise: by how much (relative) the measured times would differ if measured again: what no
            prediction can be better than.
        cores: how many CPU cores it has, if it computes there.
    """

    configuration: Configuration
    predicted: Predicted
    texts: dict[str, Texts]
    repeats: np.ndarray
    noise: np.ndarray
    orchestration: float
    cores: int | None
    lossless: bool | None

    @property
    def predicted_replay_ms(self) -> np.ndarray:
        """Of what counts of the repeats."""
        return self.texts[COUNTS].predicted_ms

    @property
    def measured_ms(self) -> np.ndarray:
        """Of what counts of the repeats."""
        return self.texts[COUNTS].measured_ms

    @property
    def errors(self) -> np.ndarray:
        """Relative error of each text's prediction from its trace."""
        return self.texts[COUNTS].errors

    @property
    def error_replay(self) -> float:
        """Relative error of the mean, predicted from the traces."""
        return self.texts[COUNTS].error

    @property
    def error_rate(self) -> float:
        """Relative error of the mean, predicted from the rate."""
        return float(self.predicted.rate_ms / self.measured_ms.mean() - 1)

    @property
    def covered(self) -> np.ndarray:
        """Whether each text is in the 95 % interval of its prediction; empty without intervals."""
        if math.isnan(self.predicted.deviation):
            return np.array([], dtype=np.bool_)
        return np.asarray(np.abs(np.log1p(self.errors)) <= NORMAL_95 * self.predicted.deviation)

    @property
    def interval_ms(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean of the texts, predicted from their traces."""
        half = NORMAL_95 * self.predicted.deviation / math.sqrt(len(self.errors))
        mean = float(self.predicted_replay_ms.mean())
        return None if math.isnan(half) else (mean * math.exp(-half), mean * math.exp(half))

    @property
    def noise_deviation(self) -> float:
        """The deviation of the prediction that noise makes; 0 where that is not all there is.

        How much forwards differ from text to text is no noise: no verdict hides behind that.
        """
        own = self.predicted
        if own.beyond_share > MAX_BEYOND or math.isnan(own.deviation):
            return 0.0
        return math.sqrt(max(0.0, own.deviation**2 - own.from_texts**2))

    @property
    def error_half_width(self) -> float:
        """Half the width of the 95 % interval of the relative error of the mean, for noise."""
        return math.expm1(NORMAL_95 * self.noise_deviation / math.sqrt(len(self.errors)))

    @property
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measured = self.measured_ms
        return {
            "algorithm": self.configuration.algorithm,
            "lookahead": self.configuration.lookahead,
            "lookahead_policy": self.configuration.policy,
            "targets": self.configuration.targets,
            "all_cores": self.configuration.all_cores,
            "cores": self.cores,
            "predicted_replay_ms": float(self.predicted_replay_ms.mean()),
            "predicted_replay_interval95_ms": self.interval_ms,
            "covered": float(self.covered.mean()) if len(self.covered) else None,
            "beyond_share": self.predicted.beyond_share,
            "predicted_rate_ms": self.predicted.rate_ms,
            "measured_ms": float(measured.mean()),
            "measured_ci95_ms": half_width(float(measured.std(ddof=1)), len(measured)),
            "error_replay": self.error_replay,
            "error_replay_median_abs": median_abs(self.errors),
            "error_rate": self.error_rate,
            "repeats_median_abs": median_abs(self.repeats),
            "noise_median_abs": median_abs(self.noise),
            "orchestration": self.orchestration,
            "lossless": self.lossless,
        }


def median_abs(values: np.ndarray) -> float | None:
    """The median of the sizes of *values*, if there are any."""
    return float(np.median(np.abs(values))) if len(values) else None


TOO_NOISY = "too noisy to tell"


class Claim(NamedTuple):
    """Something that should be so, and whether it is; ``None``: too noisy to tell."""

    claim: str
    holds: bool | None
    detail: str

    @property
    def verdict(self) -> str:
        """Whether it holds, in words."""
        return {True: "holds", False: "FAILS", None: TOO_NOISY}[self.holds]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Validation:
    """What came of it.

    Attributes:
        settings: what was asked for, by key.
        prediction: what was predicted.
        measured: from when to when it was measured (UTC, ISO 8601).
        rows: one for each configuration.
        claims: the verdicts.
        first: for each configuration the first measured text, for timelines: simulated and real.
        notes: what the reader must not overlook.
        stalls: measurements that were repeated because the machine stalled.
        rate: acceptance rate of the measured texts, which no prediction knows.
        repeatability: median difference of repeated measurements of a text; ``None``: one each.
        noise: median error of a prediction that is right, because of few repeats.
    """

    settings: dict[str, Any]
    prediction: Prediction
    measured: tuple[str, str]
    rows: list[Row]
    claims: list[Claim]
    first: dict[Configuration, tuple[Run, Run | LiveRun]]
    notes: list[str]
    stalls: int
    rate: float
    repeatability: float | None
    noise: float | None

    @property
    def calibration(self) -> Calibration:
        """What the predictions knew."""
        return self.prediction.calibration

    @property
    def holds(self) -> bool | None:
        """Whether every claim holds; ``None``: none fails, but some cannot be told for noise."""
        verdicts = {claim.holds for claim in self.claims}
        return False if False in verdicts else None if None in verdicts else True

    @property
    def covered(self) -> float | None:
        """The share of the texts that are in the 95 % intervals of their predictions."""
        covered = np.concatenate([row.covered for row in self.rows])
        return float(covered.mean()) if len(covered) else None

    @property
    def statistics(self) -> dict[str, Errors]:
        """How far off the predictions from the traces are by each of ``STATISTICS``."""
        return {name: errors_of(self.rows, name) for name in STATISTICS}


class Errors(NamedTuple):
    """How far off predictions are, relative.

    Attributes:
        median_text: the median of all texts, by size.
        worst_configuration: the mean of the configuration where it is off most.
        where: which one that is.
    """

    median_text: float
    worst_configuration: float
    where: Configuration


def errors_of(rows: Sequence[Row], statistic: str = COUNTS) -> Errors:
    """How far off the predictions of *rows* from their traces are."""
    worst = max(rows, key=lambda row: abs(row.texts[statistic].error))
    median = median_abs(np.concatenate([row.texts[statistic].errors for row in rows]))
    return Errors(median or 0.0, worst.texts[statistic].error, worst.configuration)
