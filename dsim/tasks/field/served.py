"""vLLM under an open-loop load: how long requests take."""

from __future__ import annotations

import functools
import re
import tomllib
from typing import TYPE_CHECKING, Any

from dsim.errors import UserError
from dsim.files import read_text
from dsim.model.roofline import Constants
from dsim.model.shape import shape_of
from dsim.tasks.field.source import FOLDER, GROUPS, CannotError, Prediction, Source, text
from dsim.tasks.vllm import MEASURES, predict_vllm

if TYPE_CHECKING:
    from dsim.tasks.field.source import Row, Rows

RATE = re.compile(r"([\d.]+?)(?:\.0)?req/s ")
LEFT_OUT = "roofline_left_out.toml"
FITTED = "The constants of the roofline are fitted to 16 runs of others."
NOT_SEEN = "The constants of the roofline are fitted to the runs of the other models."


@functools.cache
def left_out() -> dict[str, dict[str, Any]]:
    """For each model whose runs ship: the runs, and constants fitted to all others."""
    return tomllib.loads(read_text(FOLDER / LEFT_OUT))


def split(row: Row) -> Rows:
    """A row for each mean: TTFT, ITL, E2E; one that is of a single mean already stays."""
    if row.get("measure") in MEASURES:
        return [row]
    return [
        {**row, "measure": name, "measured": text(row, f"measured_{name}_mean_ms")}
        for name in MEASURES
    ]


def predict(row: Row, _others: Rows) -> Prediction:
    """The mean in ms. A run that ships is predicted by constants that have not seen its model.

    Raises:
        CannotError: a name is unknown, a number is missing, or the model does not fit.
    """
    try:
        constants, notes = None, FITTED
        own = left_out().get(shape_of(row["model"]).name)
        if own and text(row, "exp_id") in own["runs"]:
            constants, notes = Constants(**own["constants"]), NOT_SEEN
        return Prediction(predict_vllm(row, constants)[row["measure"]], notes=notes)
    except (ValueError, UserError) as error:
        raise CannotError(str(error)) from None


def label(row: Row) -> str:
    """The run in words: model, workload, and the rates of its stages one after the other."""
    stages = text(row, "stages").split("|")
    if (stage := text(row, "stage")).isdecimal() and int(stage) < len(stages):
        stages = [stages[int(stage)]]
    rates = [found[1] if (found := RATE.match(stage)) else stage for stage in stages]
    model = text(row, "model").rpartition("/")[2]
    known = [model, text(row, "workload"), f"{', then '.join(rates)} requests/s"]
    return ", ".join(filter(None, known))


SOURCE = Source(
    name="vLLM",
    file="vllm_measured.csv",
    columns=("model", "hardware", "tp", "prompt_tokens", "output_tokens", "stages", "stage"),
    key=("exp_id", "model", "hardware", "workload", "stage"),
    measured="measured",
    unit="ms",
    predict=predict,
    group=lambda row: GROUPS[f"served_{row['measure']}"],
    label=label,
    split=split,
)
