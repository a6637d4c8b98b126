"""``dsim measure latency``: how long the forwards of one model take."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.backends.lines import exchange
from dsim.backends.torch.protocol import Begin, Done
from dsim.backends.torch.verify import Match
from dsim.errors import Problem, UserError
from dsim.orchestrations import REFERENCES
from dsim.report.tables import text_table
from dsim.study.profile import Profile, model_of
from dsim.study.results import processor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.backends.torch.workers import Workers
    from dsim.study.profile import ModelProfile


WARM_FORWARDS = 2  # of each shape, thrown away


def quartiles(values: Sequence[float]) -> list[float]:
    """The 25 %, 50 % and 75 % points."""
    return [float(v) for v in np.percentile(values, (25, 50, 75))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """How long the forwards of one model take.

    Attributes:
        model: its name.
        parameters: its weights.
        ttft_ms: time to the first token of each prompt, and
        tpot_ms: time per token after it (the paper's two numbers), with the way to the worker.
        rows: for each (width, context, co-running workers) the quartiles of a forward in ms.
        notes: what the reader must not overlook.
    """

    model: str
    parameters: int
    ttft_ms: list[float]
    tpot_ms: list[float]
    rows: list[dict[str, Any]]
    notes: list[str]

    @property
    def profile(self) -> ModelProfile:
        """What a profile says of the model."""
        measured = dataclasses.asdict(self)
        return model_of(measured.pop("model"), measured)


def latency(
    workers: Workers,
    prompts: Sequence[list[int]],
    *,
    tokens: int,
    widths: Sequence[int],
    contexts: Sequence[int],
    repeats: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> LatencyTable:
    """Measure the target of *workers*; its other target servers are the load.

    Args:
        workers: the workers.
        prompts: token ids, for TTFT and TPOT.
        tokens: how many to generate after each prompt, at least 2.
        widths: of the table, in tokens.
        contexts: of the table, in tokens.
        repeats: forwards of each shape.
        progress: called with how many of how many prompts and shapes are measured.

    Raises:
        UserError: a context is too long.
        EngineError: a worker died or failed.
    """
    longest = max(contexts) + max(widths)
    if longest > workers.pair.context_tokens:
        raise UserError(
            Problem(
                "--contexts",
                "",
                f"context and width together reach {longest:,} tokens, "
                f"more than the {workers.pair.context_tokens:,} that the model can read",
            )
        )
    rule = Match()
    loads = [1] if len(workers.targets) == 1 else [1, len(workers.targets)]
    steps = len(prompts) + len(contexts) * len(widths) * len(loads)
    ttft_ms, tpot_ms = [], []
    for prompt in prompts:
        settled_ns = workers.run(REFERENCES[0], prompt, tokens, rule).output.settled_ns
        ttft_ms.append(settled_ns[0] / 1e6)
        tpot_ms.append((settled_ns[-1] - settled_ns[0]) / (tokens - 1) / 1e6)
        progress(len(ttft_ms), steps)
    rows = []
    for context in contexts:
        text = [(7 * i) % workers.pair.vocab for i in range(context)]
        begin = Begin(text, rule, ("target",))
        exchange(workers.targets, [begin] * len(workers.targets), timeout_ns=workers.watchdog_ns)
        for width in widths:
            # The same request again and again: its rows are fed again each time.
            request = ([i % workers.pair.vocab for i in range(width)], 1)
            for load in loads:
                lines = workers.targets[:load]
                took = []
                for _ in range(WARM_FORWARDS + repeats):
                    replies = exchange(lines, [request] * load, timeout_ns=workers.watchdog_ns)
                    done = Done.unpack(replies[0].value)
                    assert (done.width, done.context) == (width, context)  # noqa: S101
                    took.append(done.forward_ns / 1e6)
                low, middle, high = quartiles(took[WARM_FORWARDS:])
                rows.append(
                    {
                        "width": width,
                        "context": context,
                        "co_running": load - 1,
                        "p25_ms": low,
                        "p50_ms": middle,
                        "p75_ms": high,
                    }
                )
                progress(len(prompts) + len(rows), steps)
    return LatencyTable(
        model=str(workers.pair.target),
        parameters=workers.ready[1].parameters,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        rows=rows,
        notes=[f"{workers.contention}; they slow each other"] if workers.contention else [],
    )


def latency_json(table: LatencyTable, role: str, prompts: str) -> str:
    """The profile with *table* as that of the model in *role*, measured on the set *prompts*."""
    how = f"{len(table.ttft_ms)} prompts, on {processor()}"
    source = f"dsim measure latency of {table.model}: {how}"
    known: dict[str, Any] = {role: table.profile}
    return Profile(name=table.model, prompts=prompts, source=source, **known).to_json()


def latency_toml(table: LatencyTable, role: str) -> str:
    """Settings of a study: the latencies by width, and that of the first forward.

    Args:
        table: what was measured.
        role: ``target`` or ``drafter``.
    """
    import tomli_w

    found = table.profile
    settings = {
        "latency_model": "table",
        "latency_by_width_ms": [list(row) for row in found.latency_by_width_ms],
        "first_latency_ms": found.first_latency_ms,
    }
    return tomli_w.dumps({role: settings})


def latency_text(table: LatencyTable) -> str:
    """Tables for people."""
    ttft, tpot = (quartiles(values) for values in (table.ttft_ms, table.tpot_ms))
    rows = [
        [
            row["width"],
            row["context"],
            row["co_running"],
            f"{row['p50_ms']:.2f} ms",
            f"{row['p25_ms']:.2f} to {row['p75_ms']:.2f}",
        ]
        for row in table.rows
    ]
    head = ["width", "context", "co-running", "median", "middle half"]
    return "\n".join(
        [
            f"{table.model}: {table.parameters:,} parameters",
            f"time to the first token {ttft[1]:.2f} ms ({ttft[0]:.2f} to {ttft[2]:.2f}), "
            f"time per token after it {tpot[1]:.2f} ms ({tpot[0]:.2f} to {tpot[2]:.2f}); "
            f"median and middle half of {len(table.ttft_ms)} prompts",
            "",
            *text_table(head, rows, left=0),
            *(f"\nmind: {note}" for note in table.notes),
        ]
    )
