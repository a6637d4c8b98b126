"""What a validation claims, and whether it holds."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.model.statistics import half_width
from dsim.orchestrations import COMPARED, ORCHESTRATIONS
from dsim.tasks.validate.prediction import NORMAL_95
from dsim.tasks.validate.result import Claim, errors_of, median_abs
from dsim.tasks.validate.settings import Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.tasks.validate.calibration import Calibration
    from dsim.tasks.validate.result import Row


NONSI, SI, DSI = COMPARED  # the claims are about these three
QUANTILES = 200
SURE = 3  # times the noise or the tolerance: an error that no noise explains
FLAT = 1.05  # a pass of k + 1 tokens at most this much dearer than one of 1: "costs the same"


def claims_of(
    settings: Mapping[str, Any], calibration: Calibration, rows: Sequence[Row]
) -> list[Claim]:
    """The verdicts.

    Where the machine is too noisy, no tolerance is judged, and no order of times is called wrong,
    but for predictions that are off by much more than any noise.
    """
    noisy, claims, far = too_noisy(settings, rows), [], settings["tolerance_worst"]
    by = {row.configuration: row for row in rows}
    plain = next((row for row in rows if row.configuration.algorithm == NONSI), None)
    dsi = [row for row in rows if row.configuration.algorithm == DSI]
    if plain is not None and dsi:
        claims.append(_not_slower("DSI ≤ non-SI", [(d, plain) for d in dsi], calibration, far))
    pairs = [
        (d, by[si]) for d in dsi if (si := d.configuration._replace(algorithm=SI, targets=1)) in by
    ]
    if pairs:
        claims.append(_not_slower("DSI ≤ SI", pairs, calibration, far))
    budget = [row for row in rows if row.configuration.all_cores]
    if budget and dsi:
        servers = max(row.configuration.targets for row in dsi)
        for row in rows:
            c = row.configuration
            if ORCHESTRATIONS[c.algorithm].traits.several_targets and c.targets == servers:
                budget.append(row)
        claims.append(_winner(budget))
    if trees := _trees_and_chains(rows):
        claims.append(_as_predicted("trees beat chains where that is predicted", trees))
    claims.append(replayed := _replayed(settings, rows))
    overall = float(np.mean([abs(row.error_rate) for row in rows]))
    worst = max(rows, key=lambda row: abs(row.error_rate))
    chance = float(np.mean([by_chance(row, settings["calibration_prompts"]) for row in rows]))
    claims.append(
        Claim(
            "within tolerance, from the acceptance rate",
            overall <= settings["tolerance_rate"],
            f"mean error of a configuration {overall:.1%} (tolerance "
            f"{settings['tolerance_rate']:.1%}; which texts are measured changes it by up to "
            f"{chance:.1%}); worst {worst.configuration}: {worst.error_rate:+.1%}",
        )
    )
    return [
        *_lossless(settings, rows),
        *(
            _unless(noisy, claim)
            if ("tolerance" in claim.claim or not claim.holds)
            and not (claim is replayed and _is_sure(claim, rows, far))
            else claim
            for claim in claims
        ),
    ]


def _replayed(settings: Mapping[str, Any], rows: Sequence[Row]) -> Claim:
    """Whether predictions from the traces are within the tolerances.

    Where the only errors beyond ``tolerance_worst`` have intervals that reach below it, there is no
    telling.
    """
    found, most = errors_of(rows), settings["tolerance_worst"]
    texts = found.median_text <= settings["tolerance"]
    far = [row for row in rows if abs(row.error_replay) > most]
    unsure = texts and all(abs(row.error_replay) - row.error_half_width <= most for row in far)
    detail = (
        f"median error of a text {found.median_text:.1%} (tolerance {settings['tolerance']:.1%}); "
        f"worst configuration {found.where}: {found.worst_configuration:+.1%} (tolerance "
        f"{most:.1%})"
    )
    if far and unsure:
        half = max(row.error_half_width for row in far)
        detail += f", 95 % interval up to ±{half:.1%}, which reaches into the tolerance"
    holds = not far if texts else False
    return Claim(
        "within tolerance, from the replayed trace", None if far and unsure else holds, detail
    )


def _is_sure(claim: Claim, rows: Sequence[Row], most: float) -> bool:
    """Whether *claim*, of predictions from the traces, fails by much more than any noise.

    Args:
        claim: one that :func:`_replayed` made.
        rows: what was measured.
        most: the tolerance of the worst configuration.
    """
    noise = max(most, *(median_abs(row.noise) or 0.0 for row in rows))
    return claim.holds is False and any(
        abs(row.error_replay) > SURE * max(noise, row.error_half_width) for row in rows
    )


def _lossless(settings: Mapping[str, Any], rows: Sequence[Row]) -> list[Claim]:
    """Whether the tokens are the same, where there are any."""
    judged = [row for row in rows if row.lossless is not None]
    if not judged:
        return []
    lossy = [str(row.configuration) for row in judged if not row.lossless]
    detail = (
        f"other tokens than {judged[0].configuration}: {'; '.join(lossy)}"
        if lossy
        else f"the same tokens by all {len(judged)} configurations, on every text"
    )
    dtype = settings["torch.dtype"]
    if lossy and settings["backend"] == "torch" and dtype != "float32":
        detail += (
            f"; in {dtype} a pass over several tokens rounds otherwise than over one, so logits "
            'that are nearly equal can change places; ask once with dtype = "float32" whether '
            "that is all"
        )
    return [Claim("lossless", not lossy, detail)]


def too_noisy(settings: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Why the machine is too noisy for the tolerances, in words; empty where it is not.

    It is where the text in the middle, measured again, differs by more than ``tolerance``, or that
    of one configuration by more than ``tolerance_worst``; or where the calibration differs as much,
    so that a prediction that is right is expected to be off by more than ``tolerance``.
    """
    overall = median_abs(np.concatenate([row.noise for row in rows])) or 0.0
    worst = max(rows, key=lambda row: median_abs(row.noise) or 0.0)
    for what, noise, most in (
        ("repeats", overall, settings["tolerance"]),
        (f"repeats of {worst.configuration}", median_abs(worst.noise), settings["tolerance_worst"]),
    ):
        if (noise or 0.0) > most:
            return f"{what} differ by {noise:.1%} (tolerance {most:.1%})"
    if (off := expected_error(rows)) > (most := settings["tolerance"]):
        return (
            f"calibration and repeats differ so much that a right prediction is off by {off:.1%} "
            f"(tolerance {most:.1%})"
        )
    return ""


def expected_error(rows: Sequence[Row]) -> float:
    """The median error of a text that is expected of a right prediction, from its own intervals."""
    deviations = np.repeat([row.noise_deviation for row in rows], [len(r.errors) for r in rows])
    normal = np.array([NormalDist().inv_cdf((i + 0.5) / QUANTILES) for i in range(QUANTILES)])
    return float(np.median(np.expm1(np.outer(deviations, np.abs(normal)))))


def _unless(noisy: str, claim: Claim) -> Claim:
    """*claim*, or that there is no telling, where *noisy* says why."""
    return claim._replace(holds=None, detail=f"{noisy}; {claim.detail}") if noisy else claim


def _not_slower(
    name: str, pairs: Sequence[tuple[Row, Row]], calibration: Calibration, far: float
) -> Claim:
    """Whether the first of each pair is not slower, where the hardware is as the theorem assumes.

    Where it is not (a pass of k + 1 tokens costs more than one of 1, or more under load than
    alone), the measured order is held against the predicted one instead. Where one is slower by
    more than *far*, and by no more than the noise, there is no telling.
    """
    wrong: list[str] = []
    unsure: list[str] = []
    notes: list[str] = []
    for faster, slower in pairs:
        c = faster.configuration
        ratio = float(faster.measured_ms.mean() / slower.measured_ms.mean())
        predicted = float(faster.predicted_replay_ms.mean() / slower.predicted_replay_ms.mean())
        curve = cost_curve(calibration, c)
        noise = _noise(faster, slower)
        if ratio <= 1 + noise:
            told = f"{c}: {ratio:.3f} of it"
            if ratio > 1:
                told += f", which may be chance (±{noise:.1%})"
            (unsure if ratio > 1 + far else notes).append(told)
            continue
        if curve > FLAT and predicted > 1:
            notes.append(
                f"{c} is slower, as predicted, as the law's assumption is broken here: "
                f"{ratio:.3f} of it, predicted {predicted:.3f} (a pass of {c.lookahead + 1} tokens "
                f"beside the others costs {curve:.2f} × one of 1 alone)"
            )
            continue
        wrong.append(f"{c}: {ratio:.3f} of it, predicted {predicted:.3f}")
    if unsure and not wrong:
        return Claim(name, None, "; ".join([*unsure, *notes]))
    return Claim(name, not wrong, "; ".join(wrong or notes))


def _trees_and_chains(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Of each orchestration with trees its predicted best, beside those of SI and of DSI."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: float(row.predicted_replay_ms.mean())):
        if not row.configuration.all_cores:
            best.setdefault(row.configuration.algorithm, row)
    trees = [row for name, row in best.items() if ORCHESTRATIONS[name].trees]
    return [(tree, best[chain]) for tree in trees for chain in (SI, DSI) if chain in best]


def _as_predicted(name: str, pairs: Sequence[tuple[Row, Row]]) -> Claim:
    """Whether the one of each pair that is faster is the one predicted; within noise either is."""
    wrong, notes = [], []
    for one, other in pairs:
        ratio = float(one.measured_ms.mean() / other.measured_ms.mean())
        predicted = float(one.predicted_replay_ms.mean() / other.predicted_replay_ms.mean())
        told = (
            f"{one.configuration}: {ratio:.3f} of {other.configuration}, predicted {predicted:.3f}"
        )
        notes.append(told)
        if (ratio - 1) * (predicted - 1) < 0 and abs(ratio - 1) > _noise(one, other):
            wrong.append(told)
    return Claim(name, not wrong, "; ".join(wrong or notes))


def _winner(rows: Sequence[Row]) -> Claim:
    """Whether the fastest of *rows* is the one that is predicted; ties within noise are ties."""
    predicted = min(rows, key=lambda row: float(row.predicted_replay_ms.mean()))
    measured = min(rows, key=lambda row: float(row.measured_ms.mean()))
    behind = float(predicted.measured_ms.mean() / measured.measured_ms.mean()) - 1
    tie = predicted is not measured and behind <= _noise(predicted, measured)
    best: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: float(row.predicted_replay_ms.mean())):
        best.setdefault(row.configuration.algorithm, row)
    times = "; ".join(
        f"{row.configuration}: {row.predicted_replay_ms.mean():.1f} ms predicted, "
        f"{row.measured_ms.mean():.1f} measured"
        for row in best.values()
    )
    who = f"{predicted.configuration}"
    if predicted is not measured:
        who += f", {behind:.1%} behind {measured.configuration}" + ", a tie" * tie
    return Claim(
        "the predicted winner wins, at equal budget",
        predicted is measured or tie,
        f"{who} ({times})",
    )


def _noise(a: Row, b: Row) -> float:
    """Half width of the 95 % interval of the ratio of the means, over texts paired."""
    log = np.log(a.measured_ms / b.measured_ms)
    return float(half_width(float(log.std(ddof=1)), len(log)))


def by_chance(row: Row, others: int) -> float:
    """By how much the means of the texts and of so many *others* differ: 95 % by less (relative).

    From how far the predictions of single texts are apart.
    """
    times_ms = row.predicted_replay_ms
    deviation = float(times_ms.std(ddof=1) / times_ms.mean())
    return NORMAL_95 * deviation * math.sqrt(1 / len(times_ms) + 1 / others)


def cost_curve(calibration: Calibration, configuration: Configuration) -> float:
    """What a pass of k + 1 tokens in DSI costs, in passes of one token of non-SI, if there is."""
    loaded = calibration.costs[configuration]["target"]
    alone = calibration.costs.get(Configuration(NONSI, 1, 1), {}).get("target", loaded)
    return loaded.at_width(configuration.lookahead + 1) / alone.at_width(1)
