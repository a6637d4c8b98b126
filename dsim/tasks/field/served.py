"""vLLM under an open-loop load: how long requests take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.tasks.field.source import GROUPS, CannotError, Prediction, Source, text

if TYPE_CHECKING:
    from dsim.tasks.field.source import Row, Rows


def predict(_row: Row, _others: Rows) -> Prediction:
    """Mean time of a request in ms."""
    raise CannotError("a server that batches continuously: not yet")


SOURCE = Source(
    name="vLLM",
    file="vllm_measured.csv",
    columns=("model", "hardware", "tp", "prompt_tokens", "output_tokens", "stages", "stage"),
    key=("exp_id", "model", "hardware", "workload", "stage"),
    measured="measured_e2e_mean_ms",
    unit="ms",
    predict=predict,
    group=lambda _: GROUPS["served"],
    label=lambda row: ", ".join(text(row, c) for c in ("model", "workload", "stages", "stage")),
)
