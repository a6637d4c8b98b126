"""``dsim measure``: the latencies and the acceptance rate of real models, for studies to use."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.backends.live import exchange
from dsim.backends.torch import worker
from dsim.backends.torch.verify import Match
from dsim.errors import Problem, UserError
from dsim.model.statistics import half_width
from dsim.report.tables import text_table

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from dsim.backends.torch.backend import Fleet
    from dsim.backends.torch.verify import Rule

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


def latency(
    fleet: Fleet,
    prompts: Sequence[list[int]],
    *,
    tokens: int,
    widths: Sequence[int],
    contexts: Sequence[int],
    repeats: int,
) -> LatencyTable:
    """Measure the target of *fleet*; its other target servers are the load.

    Args:
        fleet: the workers.
        prompts: token ids, for TTFT and TPOT.
        tokens: how many to generate after each prompt, at least 2.
        widths: of the table, in tokens.
        contexts: of the table, in tokens.
        repeats: forwards of each shape.

    Raises:
        UserError: a context is too long.
        EngineError: a worker died or failed.
    """
    longest = max(contexts) + max(widths)
    if longest > fleet.pair.context_tokens:
        raise UserError(
            Problem(
                "--contexts",
                "",
                f"context and width together reach {longest:,} tokens, "
                f"more than the {fleet.pair.context_tokens:,} that the model can read",
            )
        )
    rule = Match()
    ttft_ms, tpot_ms = [], []
    for prompt in prompts:
        settled_ns = fleet.run("nonsi", prompt, tokens, rule).output.settled_ns
        ttft_ms.append(settled_ns[0] / 1e6)
        tpot_ms.append((settled_ns[-1] - settled_ns[0]) / (tokens - 1) / 1e6)
    rows = []
    loads = [1] if len(fleet.targets) == 1 else [1, len(fleet.targets)]
    for context in contexts:
        text = [(7 * i) % fleet.pair.vocab for i in range(context)]
        begin = worker.Begin(text, rule, ("target",))
        exchange(fleet.targets, [begin] * len(fleet.targets), timeout_ns=fleet.watchdog_ns)
        for width in widths:
            # The same request again and again: its rows are fed anew each time.
            request = ([i % fleet.pair.vocab for i in range(width)], 1)
            for load in loads:
                lines = fleet.targets[:load]
                took = []
                for _ in range(WARM_FORWARDS + repeats):
                    replies = exchange(lines, [request] * load, timeout_ns=fleet.watchdog_ns)
                    done = worker.Done.unpack(replies[0].value)
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
    return LatencyTable(
        model=str(fleet.pair.target),
        parameters=fleet.ready[1].parameters,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        rows=rows,
        notes=[f"{fleet.contention}; they slow each other"] if fleet.contention else [],
    )


def latency_json(table: LatencyTable) -> str:
    """One JSON object."""
    return json.dumps(dataclasses.asdict(table))


def latency_toml(table: LatencyTable, role: str) -> str:
    """Settings of a study: the medians by width, at the last context and the highest load.

    Args:
        table: what was measured.
        role: ``target`` or ``drafter``.
    """
    import tomli_w

    settings = {
        "latency_model": "table",
        "latency_by_width_ms": by_width(table),
        "first_latency_ms": round(float(np.median(table.ttft_ms)), 6),
    }
    return tomli_w.dumps({role: settings})


def by_width(table: LatencyTable) -> list[list[Any]]:
    """[width, median ms] at the last context and the highest load of *table*."""
    context = table.rows[-1]["context"]
    load = max(row["co_running"] for row in table.rows)
    return [
        [row["width"], round(row["p50_ms"], 6)]
        for row in table.rows
        if row["context"] == context and row["co_running"] == load
    ]


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class AcceptanceReport:
    """How the drafts of a pair fare, with the target's own text as the prefix.

    Attributes:
        target, drafter, rule: what was measured.
        tasks: the task of each prompt.
        draws: bool (prompts, tokens): whether the draft at each position stands.
    """

    target: str
    drafter: str
    rule: str
    tasks: list[str]
    draws: np.ndarray

    @property
    def rate(self) -> tuple[float, float | None]:
        """Teacher-forced rate, and half the width of its 95 % interval (t, over prompts)."""
        return rate_of(self.draws)

    @property
    def paper_rate(self) -> float:
        """The paper's estimator, 1 - 1 / (1 + n̄); biased for short generations."""
        return paper_rate_of(self.draws)

    @property
    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        by_task = {}
        for task in dict.fromkeys(self.tasks):
            draws = self.draws[[t == task for t in self.tasks]]
            rate, ci95 = rate_of(draws)
            by_task[task] = {
                "prompts": len(draws),
                "rate": rate,
                "ci95": ci95,
                "paper_rate": paper_rate_of(draws),
            }
        rate, ci95 = self.rate
        return {
            "target": self.target,
            "drafter": self.drafter,
            "rule": self.rule,
            "prompts": len(self.draws),
            "tokens": self.draws.shape[1],
            "rate": rate,
            "ci95": ci95,
            "paper_rate": self.paper_rate,
            "by_task": by_task,
            "by_position": self.draws.mean(axis=0).tolist(),
            "traces": self.traces,
        }

    @property
    def traces(self) -> list[str]:
        """One text of 0 and 1 a prompt, as ``acceptance.trace`` wants them."""
        return ["".join("01"[int(draw)] for draw in row) for row in self.draws]


def rate_of(draws: np.ndarray) -> tuple[float, float | None]:
    """Mean of *draws*, bool (prompts, tokens), and half its 95 % interval over prompts.

    Draws of one text depend on each other, so the prompts are what is sampled; a single one has no
    interval.
    """
    by_prompt = draws.mean(axis=1)
    if len(by_prompt) < 2:
        return float(by_prompt.mean()), None
    return float(by_prompt.mean()), float(half_width(float(by_prompt.std(ddof=1)), len(by_prompt)))


def paper_rate_of(draws: np.ndarray) -> float:
    """1 - 1 / (1 + n̄), with n̄ the mean length of the run of accepted drafts from the start."""
    runs = np.where(draws.all(axis=1), draws.shape[1], draws.argmin(axis=1))
    return float(1 - 1 / (1 + runs.mean()))


def acceptance(
    fleet: Fleet, prompts: Sequence[tuple[str, list[int]]], rule: Rule, *, tokens: int
) -> AcceptanceReport:
    """Measure the pair of *fleet* on *prompts*: (task, token ids).

    Raises:
        UserError: a prompt is too long.
        EngineError: a worker died or failed.
    """
    draws = []
    for _, prompt in prompts:
        text = fleet.run("nonsi", prompt, tokens, rule).output.tokens
        drafts, own = fleet.answers(prompt, text, rule)
        draws.append(
            [
                rule.judge(mine, draft, position) == draft.token
                for position, (draft, mine) in enumerate(zip(drafts, own, strict=True))
            ]
        )
    return AcceptanceReport(
        target=str(fleet.pair.target),
        drafter=str(fleet.pair.drafter),
        rule=rule.name,
        tasks=[task for task, _ in prompts],
        draws=np.array(draws, dtype=np.bool_),
    )


def acceptance_text(report: AcceptanceReport) -> str:
    """A table for people."""
    found = report.as_dict
    rows = []
    for name, one in [*found["by_task"].items(), ("all", found)]:
        interval = "" if one["ci95"] is None else f" ± {one['ci95']:.3f}"
        rate = f"{one['rate']:.3f}{interval}"
        rows.append([name, one["prompts"], rate, f"{one['paper_rate']:.3f}"])
    head = ["task", "prompts", "acceptance rate", "the paper's estimator"]
    return "\n".join(
        [
            f"target {report.target}",
            f"drafter {report.drafter}; rule {report.rule}; {found['tokens']} tokens a prompt",
            "",
            *text_table(head, rows),
            "",
            "acceptance rate: teacher-forced, mean ± 95 % interval over prompts; "
            "the paper's: 1 - 1/(1 + n̄), n̄ the mean run of accepted drafts",
        ]
    )


def write_traces(report: AcceptanceReport, path: Path) -> None:
    """Write the draws, one line a prompt, for ``acceptance.trace_file``.

    Raises:
        UserError: the file cannot be written.
    """
    half = path.with_name(path.name + ".half")
    try:
        half.write_text("\n".join(report.traces) + "\n", encoding="utf-8")
        half.replace(path)
    except OSError as error:
        half.unlink(missing_ok=True)
        problem = Problem("--trace", "", f"{path} cannot be written: {error.strerror}")
        raise UserError(problem) from None
