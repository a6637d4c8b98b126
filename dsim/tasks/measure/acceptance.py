"""``dsim measure acceptance``: how often a target accepts the tokens of a drafter."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.errors import Problem, UserError
from dsim.model.acceptance import by_depth_of, rank_shares_of
from dsim.model.statistics import half_width
from dsim.orchestrations import REFERENCES
from dsim.report.tables import text_table
from dsim.study.profile import AcceptanceProfile, Profile
from dsim.study.results import processor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from dsim.backends.torch.verify import Rule
    from dsim.backends.torch.workers import Workers


SHOWN_RANKS = 4  # in a table; JSON has all


@dataclasses.dataclass(frozen=True, kw_only=True)
class AcceptanceReport:
    """How the drafts of a pair fare, with the target's own text as the prefix.

    Attributes:
        target, drafter, rule: what was measured.
        tasks: the task of each prompt.
        ranks: int (prompts, tokens): which of the drafter's choices at each position stands; 0:
            none of them. By rules that accept other tokens than the target's own, 1 is the only
            choice that is looked at.
        by_depth: of a head, the rates of drafts at depth 1, 2, …: the first behind what the target
            has read, the next, whose forerunner is right, and so on. Nothing of other drafters,
            whose drafts fare alike.
    """

    target: str
    drafter: str
    rule: str
    tasks: list[str]
    ranks: np.ndarray
    by_depth: tuple[float, ...] = ()

    @property
    def draws(self) -> np.ndarray:
        """Whether the draft at each position stands: bool (prompts, tokens)."""
        return np.asarray(self.ranks == 1)

    @property
    def rate(self) -> tuple[float, float | None]:
        """Teacher-forced rate, and half the width of its 95 % interval (t, over prompts)."""
        return rate_of(self.draws)

    @property
    def paper_rate(self) -> float:
        """The paper's estimator, 1 - 1 / (1 + n̄); biased for short generations."""
        return paper_rate_of(self.draws)

    @property
    def by_task(self) -> dict[str, dict[str, Any]]:
        """The estimates by task."""
        return {
            task: _estimates(self.ranks[[own == task for own in self.tasks]])
            for task in dict.fromkeys(self.tasks)
        }

    @property
    def profile(self) -> AcceptanceProfile:
        """What a profile says of the pair."""
        found = _estimates(self.ranks)
        return AcceptanceProfile(
            **found | {"rank_shares": tuple(found["rank_shares"])},
            tokens=self.ranks.shape[1],
            target=self.target,
            drafter=self.drafter,
            measured={
                "rule": self.rule,
                "by_task": self.by_task,
                **({"by_depth": list(self.by_depth)} if self.by_depth else {}),
                "by_position": self.draws.mean(axis=0).tolist(),
                "traces": self.traces,
            },
        )

    @property
    def traces(self) -> list[str]:
        """One text of digits (ranks) a prompt, as ``acceptance.trace`` wants them."""
        return ["".join(map(str, row)) for row in self.ranks.tolist()]


def _estimates(ranks: np.ndarray) -> dict[str, Any]:
    """What *ranks*, int (prompts, tokens), say of acceptance, in the words of profiles."""
    draws = np.asarray(ranks == 1)
    rate, ci95 = rate_of(draws)
    return {
        "prompts": len(draws),
        "rate": round(rate, 6),
        "ci95": None if ci95 is None else round(ci95, 6),
        "paper_rate": round(paper_rate_of(draws), 6),
        "rank_shares": rank_shares_of(ranks),
    }


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
    workers: Workers,
    prompts: Sequence[tuple[str, list[int]]],
    rule: Rule,
    *,
    tokens: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> AcceptanceReport:
    """Measure the pair of *workers* on *prompts*: (task, token ids).

    *progress* is called with how many of how many prompts are measured.

    Raises:
        UserError: a prompt is too long.
        EngineError: a worker died or failed.
    """
    ranks, depths = [], []
    for number, (_, prompt) in enumerate(prompts):
        progress(number, len(prompts))
        text = workers.run(REFERENCES[0], prompt, tokens, rule).output.tokens
        if rule.name == "match":  # only the target's own token stands
            rows = workers.ranks(prompt, text, rule)
            ranks.append(rows[0])
            depths.append(rows)
            continue
        drafts, own = workers.answers(prompt, text, rule)
        ranks.append(
            [
                rule.judge(mine, draft, position) == draft.token  # 1 or 0
                for position, (draft, mine) in enumerate(zip(drafts, own, strict=True))
            ]
        )
    progress(len(prompts), len(prompts))
    deep = [rows for rows in depths if len(rows) > 1]
    return AcceptanceReport(
        target=str(workers.pair.target),
        drafter=str(workers.pair.drafter),
        rule=rule.name,
        tasks=[task for task, _ in prompts],
        ranks=np.array(ranks, dtype=np.int64),
        by_depth=by_depth_of(np.array(deep)) if deep else (),
    )


def acceptance_json(report: AcceptanceReport, prompts: str) -> str:
    """The profile with what *report* says of the pair, measured on the set *prompts*."""
    found = report.profile
    how = f"{found.prompts} prompts × {found.tokens} tokens, on {processor()}"
    return Profile(
        name=f"{report.target} / {report.drafter}",
        prompts=prompts,
        acceptance=found,
        source=f"dsim measure acceptance: {how}",
    ).to_json()


def acceptance_text(report: AcceptanceReport) -> str:
    """A table for people."""
    rows = []
    for name, one in [*report.by_task.items(), ("all", _estimates(report.ranks))]:
        interval = "" if one["ci95"] is None else f" ± {one['ci95']:.3f}"
        rate = f"{one['rate']:.3f}{interval}"
        shares = " ".join(f"{share:.3f}" for share in one["rank_shares"][:SHOWN_RANKS])
        rows.append([name, one["prompts"], rate, f"{one['paper_rate']:.3f}", shares])
    tokens = report.ranks.shape[1]
    deeper = " ".join(f"{rate:.3f}" for rate in report.by_depth)
    head = ["task", "prompts", "acceptance rate", "the paper's estimator", "rank shares"]
    return "\n".join(
        [
            f"target {report.target}",
            f"drafter {report.drafter}; rule {report.rule}; {tokens} tokens a prompt",
            "",
            *text_table(head, rows),
            *(["", f"by depth (acceptance.by_depth): {deeper}"] if deeper else []),
            "",
            "acceptance rate (for --acceptance and acceptance.rate): the share of positions at "
            "which the draft is the target's token, given the target's own text, mean ± 95 % "
            "interval over prompts",
            "the paper's estimator: 1 - 1/(1 + n̄), n̄ the mean number of drafts that are accepted "
            "before the first rejection of a text, one number a prompt; rough for few prompts, and "
            "another where a text begins easier or harder than it goes on",
            "rank shares (acceptance.rank_shares): where the first choice is wrong, how often the "
            "second, third … is right",
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
