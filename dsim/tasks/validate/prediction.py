"""Wall times and their intervals, predicted before anything is measured, and their file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.errors import Problem, UserError
from dsim.files import read_text, write_whole
from dsim.model.acceptance import Acceptance, at_depth_1
from dsim.model.latency import MAX_BEYOND, Latency
from dsim.study.build import drafts_of
from dsim.study.results import surroundings
from dsim.system import available_cores
from dsim.tasks.validate.calibration import STATISTICS, Calibration
from dsim.tasks.validate.settings import Configuration
from dsim.tasks.validate.streaks import Streaks
from dsim.words import show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FORMAT = "dsim prediction 1"
NORMAL_95 = 1.96  # standard deviations on either side
FAR_TOKENS = 4096  # beyond the widest forward that was measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class Predicted:
    """The predicted wall times of one configuration.

    Attributes:
        texts_ms: for each of ``STATISTICS``, float64 (texts,), from their traces.
        deviation: standard deviation of the logarithm of a text's measured time around its
            prediction; NaN where the calibration does not tell.
        from_texts: the part of it that is no noise: how much forwards differ from text to text.
        rate_ms: the mean of texts, from how drafts fare on others alone.
        beyond_share: share of the forwards that were wider than what was measured.
    """

    texts_ms: dict[str, np.ndarray]
    deviation: float
    rate_ms: float
    beyond_share: float
    from_texts: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """What is predicted, before anything is measured.

    Attributes:
        settings: of the validation, by key.
        rows: for each configuration.
        calibration: what is known.
        traces: the draws of the texts.
        made: from when to when it was calibrated (UTC, ISO 8601).
        sha256: of the file that holds it; empty without a file.
    """

    settings: dict[str, Any]
    rows: dict[Configuration, Predicted]
    calibration: Calibration
    traces: list[str]
    made: tuple[str, str] = ("", "")
    sha256: str = ""


def predicted(
    calibration: Calibration,
    configuration: Configuration,
    texts: Sequence[tuple[str, tuple[float, ...]]],
    beside: Sequence[Sequence[int]],
    apart: float = 1.0,
) -> Predicted:
    """What the calibration says of texts.

    Args:
        calibration: what is known.
        configuration: what is going to be measured.
        texts: the draws of each, and how sure the drafter was; see :meth:`Calibration.from_trace`.
        beside: for each text, the calibration runs at whose paces it is measured, all of one text.
        apart: which part of the noise these do not share with what is measured; see
            :meth:`Calibration.apart`.
    """
    found = [
        calibration.from_trace(configuration, runs, *text)
        for runs, text in zip(beside, texts, strict=True)
    ]
    share = float(np.mean([one.beyond_share for one in found]))
    # As much noise again is in what is measured, and it is another text than the one beside it.
    variance = 2 * apart * float(np.mean([one.variance() for one in found]))
    from_texts = 2 * calibration.between_texts()
    variance += from_texts
    if share > MAX_BEYOND:
        variance += _beyond_deviation(calibration, configuration, beside[0], texts[0][0]) ** 2
    return Predicted(
        texts_ms={
            name: np.array([one.wall_ns(name) for one in found]) / 1e6 for name in STATISTICS
        },
        deviation=math.sqrt(variance),
        from_texts=math.sqrt(from_texts),
        rate_ms=calibration.from_rate(configuration, beside, len(at_depth_1(texts[0][0]))) / 1e6,
        beyond_share=share,
    )


def _beyond_deviation(
    calibration: Calibration, configuration: Configuration, runs: Sequence[int], trace: str
) -> float:
    """How much hangs on the latency beyond what was measured.

    The 95 % interval reaches from "it rises no further" to "in proportion to the width".
    """

    def with_slope(cost: Latency, *, rises: bool) -> Latency:
        widths, costs, _ = cost.curve
        far = widths[-1] + FAR_TOKENS
        last = round(costs[-1] * far / widths[-1]) if rises else costs[-1]
        table = (*zip(widths, costs, strict=True), (far, last))
        return dataclasses.replace(cost, table=table, weights=())

    walls_ns = []
    for rises in (False, True):
        of_all = calibration.costs[configuration]
        costs = {role: with_slope(cost, rises=rises) for role, cost in of_all.items()}
        other = dataclasses.replace(calibration, costs={configuration: costs})
        walls_ns.append(other.from_trace(configuration, runs, trace).walls_ns.mean())
    return math.log(walls_ns[1] / walls_ns[0]) / (2 * NORMAL_95)


def hardware() -> dict[str, Any]:
    """What a prediction holds on."""
    machine = surroundings()["machine"]
    known = {key: machine[key] for key in ("architecture", "processor")}
    return known | {"cores": len(available_cores())}


def _digest(document: Mapping[str, Any]) -> str:
    text = json.dumps({k: v for k, v in document.items() if k != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write(prediction: Prediction, path: Path) -> str:
    """Write *prediction* to *path*.

    Returns:
        The hash of what was written.

    Raises:
        UserError: the file cannot be written.
    """
    calibration = prediction.calibration
    document: dict[str, Any] = {
        "format": FORMAT,
        "made": prediction.made,
        "hardware": hardware(),
        "versions": surroundings()["versions"],
        "settings": prediction.settings,
        "traces": prediction.traces,
        "calibration": {
            "costs": [
                [c, role, cost.table, cost.weights]
                for c, costs in calibration.costs.items()
                for role, cost in costs.items()
            ],
            "rate": calibration.rate,
            "drafts": calibration.drafts,
            "quality": calibration.quality,
            "streaks": [
                calibration.streaks.form,
                dataclasses.asdict(calibration.streaks.acceptance),
                calibration.streaks.held_out,
            ],
        },
        "rows": [
            {
                "configuration": c,
                **dataclasses.asdict(row),
                "texts_ms": {name: values.tolist() for name, values in row.texts_ms.items()},
                "deviation": None if math.isnan(row.deviation) else row.deviation,
            }
            for c, row in prediction.rows.items()
        ],
    }
    document["sha256"] = _digest(json.loads(json.dumps(document)))
    write_whole(path, json.dumps(document, indent=1) + "\n", "--predict")
    return str(document["sha256"])


def read(path: Path) -> Prediction:
    """The prediction in the file *path*, for this machine.

    Raises:
        UserError: the file cannot be read, holds something else, was changed, or was written on
            other hardware.
    """

    def wrong(key: str, what: str) -> UserError:
        return UserError(Problem(str(path), key, what))

    try:
        document = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise wrong("", f"is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise wrong("format", f'expected "{FORMAT}", as dsim validate --predict writes it')
    if document.get("sha256") != (found := _digest(document)):
        said = show(document.get("sha256"))
        raise wrong(
            "sha256", f"the file was changed since it was written: {said}, but it has {found}"
        )
    try:
        if (here := hardware()) != document["hardware"]:
            differs = {k: v for k, v in document["hardware"].items() if here.get(k) != v}
            there = ", ".join(f"{k} {show(v)}" for k, v in differs.items())
            mine = ", ".join(f"{k} {show(here.get(k))}" for k in differs)
            raise wrong("hardware", f"the prediction is for {there}; this machine has {mine}")
        return _of_document(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise wrong("", f"is no whole prediction: {type(error).__name__}: {error}") from None


def _of_document(document: Mapping[str, Any]) -> Prediction:
    known = document["calibration"]
    costs: dict[Configuration, dict[str, Latency]] = {}
    for c, role, table, weights in known["costs"]:
        cost = Latency(model="table", table=tuple(map(tuple, table)), weights=tuple(weights))
        cost = dataclasses.replace(cost, latency_ns=cost.at_width(1))
        costs.setdefault(Configuration(*c), {})[role] = cost
    form, acceptance, held_out = known["streaks"]
    acceptance = {k: tuple(v) if isinstance(v, list) else v for k, v in acceptance.items()}
    rows = {}
    for row in document["rows"]:
        c = Configuration(*row.pop("configuration"))
        row["texts_ms"] = {name: np.array(values) for name, values in row["texts_ms"].items()}
        row["deviation"] = math.nan if row["deviation"] is None else row["deviation"]
        rows[c] = Predicted(**row)
    return Prediction(
        settings=document["settings"],
        rows=rows,
        calibration=Calibration(
            costs=costs,
            paces={},
            rate=known["rate"],
            drafts=known["drafts"],
            quality=known["quality"],
            streaks=Streaks(form, Acceptance(**acceptance), held_out),
            shape=drafts_of(document["settings"]),
        ),
        traces=document["traces"],
        made=tuple(document["made"]),
        sha256=document["sha256"],
    )


def check_study(prediction: Prediction, settings: Mapping[str, Any], path: Path) -> None:
    """See that *prediction* is for the study that *settings* describe.

    Raises:
        UserError: with a problem for each setting that differs.
    """
    problems = [
        Problem(str(path), key, f"the prediction is for {show(old)}; this study has {show(new)}")
        for key, new in settings.items()
        if (old := prediction.settings.get(key)) != new
    ]
    if problems:
        raise UserError(*problems)
