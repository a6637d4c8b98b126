"""``dsim generate``: text from real models, by one algorithm or by all three."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from dsim.backends.torch.placement import device_names
from dsim.backends.torch.verify import Rule, Surprise
from dsim.backends.torch.workers import Workers
from dsim.errors import Problem, UserError
from dsim.model.case import Decoding
from dsim.model.lookahead import FIXED, Policy
from dsim.orchestrations import REFERENCES, title_of
from dsim.report.tables import text_table
from dsim.study.build import drafts_of
from dsim.study.draft_checks import wrong_paths
from dsim.study.draft_settings import LIVE
from dsim.system import available_cores
from dsim.units import to_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from dsim.backends.torch.backend import LiveRun
    from dsim.backends.torch.pair import Pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """What one algorithm made of a prompt.

    Attributes:
        algorithm: which one.
        run: what happened.
        token_ids, text: the new tokens, the end-of-text token included if it came.
        surprise_nats: with a lossy rule, how much the target is surprised by the text: the mean of
            -ln p of its tokens, at temperature 1. Measured after the run.
    """

    algorithm: str
    run: LiveRun
    token_ids: list[int]
    text: str
    surprise_nats: float | None = None

    @property
    def wall_ms(self) -> float:
        """From the request to the last token; the prompt is read in this time."""
        return self.run.wall_ns / 1e6

    @property
    def acceptance(self) -> float | None:
        """Accepted drafts among those that got a verdict; ``None``: none did."""
        return self.run.output.accepted / self.run.judged if self.run.judged else None

    @property
    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "algorithm": self.algorithm,
            "token_ids": self.token_ids,
            "text": self.text,
            "wall_ms": self.wall_ms,
            "first_token_ms": self.run.output.settled_ns[0] / 1e6,
            "tokens_per_s": len(self.token_ids) / self.run.wall_ns * 1e9,
            "acceptance": self.acceptance,
            "target_passes": self.run.target.begun,
            "wasted_passes": self.run.target.cancelled,
            "drafts": self.run.drafter.begun,
            "orchestration_ms": self.run.orchestration_ns / 1e6,
            **({} if self.surprise_nats is None else {"surprise_nats": self.surprise_nats}),
        }


class Streamer:
    """Turns tokens into text as they come, never half a character.

    Args:
        tokenizer: of the models.
        write: gets each new piece of text.
    """

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        self.tokenizer = tokenizer
        self.write = write
        self.ids: list[int] = []
        self.shown = ""

    def __call__(self, tokens: list[int]) -> None:
        """Take *tokens* that have settled."""
        self.ids += tokens
        self._show(self.tokenizer.decode(self.ids, skip_special_tokens=True))

    def _show(self, text: str) -> None:
        whole = text.rstrip("\ufffd")  # the bytes of a character that is not complete yet
        if whole.startswith(self.shown):
            self.write(whole[len(self.shown) :])
            self.shown = whole


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hardware:
    """What models run on, and how; see :class:`dsim.backends.torch.workers.Workers`.

    Attributes:
        devices: names of devices, separated by commas.
        targets: how many target servers; ``None``: as many as there is room for.
        threads, share: as the workers take them.
        watchdog_s: how long loading, or one forward, may take; ``None``: the usual limits.
        compiled: whether the models are compiled.
    """

    devices: str = "cpu"
    targets: int | None = None
    threads: int = 1
    share: bool = False
    watchdog_s: float | None = None
    compiled: bool = False

    def workers(self, pair: Pair, algorithms: Collection[str], text_tokens: int = 0) -> Workers:
        """The workers of *pair*, warm.

        Args:
            pair: the models.
            algorithms: what they are going to run.
            text_tokens: of the longest text, with its prompt; compiled models want to know.

        Raises:
            UserError, EngineError: see :class:`dsim.backends.torch.workers.Workers`.
        """
        devices = device_names(self.devices)
        limits = {}
        if self.watchdog_s is not None:
            limits = dict.fromkeys(("watchdog_ns", "load_timeout_ns"), to_ns(self.watchdog_s * 1e3))
        return Workers(
            pair,
            self.targets or self.room(pair, devices),
            devices=devices,
            threads=self.threads,
            share=self.share,
            **limits,
            algorithms=algorithms,
            compiled_tokens=text_tokens if self.compiled else 0,
        )

    def room(self, pair: Pair, devices: Sequence[str]) -> int:
        """For how many target servers there is room beside the drafter, 7 at most."""
        if devices[-1] != "cpu" or len(devices) > 2:  # each has been named
            return max(1, len(devices) - 1)
        drafters = 1 if pair.drafter.has_worker else 0
        return min(7, max(1, len(available_cores()) // self.threads - drafters))


def encode(pair: Pair, prompt: str, *, chat: bool) -> list[int]:
    """The tokens of *prompt*; as a user's turn of a conversation if *chat* is set.

    Raises:
        UserError: a conversation, but the model has no chat template.
    """
    if not chat:
        return list(pair.tokenizer(prompt).input_ids)
    if not pair.tokenizer.chat_template:
        raise UserError(
            Problem("--chat", "", f"{pair.target} has no chat template; leave --chat away")
        )
    return list(
        pair.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )["input_ids"]
    )


def decoding_from_options(options: Mapping[str, Any]) -> Decoding:
    """The tree of drafts, blocks and patience that command-line options ask for.

    Raises:
        UserError: there is no such tree.
    """
    values, problems = {}, []
    for setting in LIVE:
        name = setting.key.removeprefix("drafter.").replace(".", "_")
        values[setting.key] = given = options[name]
        if given is None:
            values[setting.key] = setting.default
        elif wrong := setting.problem(given) or (
            wrong_paths(given) if setting.key == "tree.paths" else None
        ):
            problems.append(Problem(f"--{name.replace('_', '-')}", "", wrong))
    if problems:
        raise UserError(*problems)
    return Decoding(**drafts_of(values))


def generate(
    workers: Workers,
    prompt: list[int],
    algorithms: Sequence[str],
    rule: Rule,
    *,
    tokens: int,
    lookahead: int,
    policy: Policy = FIXED,
    decoding: Decoding = Decoding(),  # noqa: B008 (it never changes)
    ignore_eos: bool = False,
    write: Callable[[str], None] | None = None,
) -> list[Generated]:
    """Continue *prompt* by each of *algorithms*.

    Args:
        workers: the models.
        prompt: token ids.
        algorithms: names of orchestrations that can run live.
        rule: how drafts are judged.
        tokens: ``N``, at most.
        lookahead: ``k``, at first.
        policy: whether and how it adapts.
        decoding: the tree of drafts, blocks and patience.
        ignore_eos: go on after an end-of-text token.
        write: gets the text of the first algorithm as it comes.
    """
    made = []
    for number, algorithm in enumerate(algorithms):
        stream = Streamer(workers.pair.tokenizer, write) if write and not number else None
        run = workers.run(
            algorithm,
            prompt,
            tokens,
            rule,
            lookahead=lookahead,
            policy=policy,
            decoding=decoding,
            stop_ids=frozenset() if ignore_eos else workers.pair.stop_ids,
            on_settled=stream,
            keep_history=True,
        )
        ids = [int(token) for token in run.output.tokens[: run.output.settled]]
        text = workers.pair.tokenizer.decode(ids, skip_special_tokens=True)
        nats = None if rule.lossless else surprise_nats(workers, prompt, ids)
        made.append(
            Generated(algorithm=algorithm, run=run, token_ids=ids, text=text, surprise_nats=nats)
        )
    return made


def surprise_nats(workers: Workers, prompt: list[int], text: list[int]) -> float:
    """How much the target is surprised by *text* after *prompt*: the mean of -ln p, in nats.

    Raises:
        EngineError: a worker died or failed.
    """
    _, own = workers.answers(prompt, text, Surprise(text=tuple(text)))
    return float(sum(answer.more for answer in own) / len(own))


def as_json(made: Sequence[Generated]) -> str:
    """One JSON object a line, one line an algorithm."""
    return "\n".join(json.dumps(one.row) for one in made)


def as_text(made: Sequence[Generated], rule: Rule, workers: Workers) -> str:
    """A table for people."""
    wall = {one.algorithm: one.run.wall_ns for one in made}
    references = [name for name in REFERENCES if name in wall and len(wall) > 1]
    head = ["", "wall", "first token", "tokens/s", *(f"vs {title_of(name)}" for name in references)]
    head += ["accepted", "passes", "wasted", "drafts", "between forwards"]
    rows = []
    for one in made:
        row = one.row
        rows.append(
            [
                title_of(one.algorithm),
                f"{one.wall_ms:.1f} ms",
                f"{row['first_token_ms']:.1f} ms",
                f"{row['tokens_per_s']:.1f}",
                *(f"{wall[name] / one.run.wall_ns:.2f}×" for name in references),
                "" if one.acceptance is None else f"{one.acceptance:.2f}",
                str(row["target_passes"]),
                str(row["wasted_passes"]),
                str(row["drafts"]),
                f"{row['orchestration_ms'] / one.wall_ms:.1%}",
            ]
        )
    lines = text_table(head, rows)
    by_name = {one.algorithm: one for one in made}
    if len(made) > 1 and rule.name == "match":
        same = all(one.token_ids == made[0].token_ids for one in made)
        lines += ["", "all gave the same tokens" if same else first_difference(made)]
    elif len(made) > 1 and not rule.lossless and REFERENCES[0] in by_name:
        reference = by_name[REFERENCES[0]]
        for one in made:
            if one is not reference:
                lines += ["", f"{title_of(one.algorithm)}: {divergence(reference, one)}"]
    if workers.contention:
        lines += ["", f"warning: {workers.contention}; they slow each other"]
    return "\n".join(lines)


def first_difference(made: Sequence[Generated]) -> str:
    """Where two texts part, in words; in float32 they never should."""
    reference = made[0]
    for one in made[1:]:
        for i, (a, b) in enumerate(zip(reference.token_ids, one.token_ids, strict=False)):
            if a != b:
                return (
                    f"{title_of(one.algorithm)} and {title_of(reference.algorithm)} differ from "
                    f"token {i} on ({b} and {a}): a pass over several tokens rounds otherwise than "
                    "one over a single token, which tells at near ties; float32 avoids it"
                )
    return "the texts differ in length"


def divergence(reference: Generated, other: Generated) -> str:
    """How far a lossy output is from the target's own, in words."""
    pairs = list(zip(reference.token_ids, other.token_ids, strict=False))
    first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if first is None:
        return "lossy rule, but the target's own tokens"
    same = sum(a == b for a, b in pairs)
    return (
        f"lossy rule: parts from the target's own text at token {first}; "
        f"{same} of {len(pairs)} tokens are the same in place; a token of it surprises the target "
        f"by {other.surprise_nats:.3f} nats, one of its own text by {reference.surprise_nats:.3f}"
    )


def write_timeline(made: Sequence[Generated], path: Path, description: str) -> None:
    """Write a page that shows who did what when.

    Raises:
        UserError: the file cannot be written.
    """
    from dsim.report import page, timeline

    panels = [
        timeline.panel(
            f"{number:02d}-timeline-{one.algorithm}",
            f"{title_of(one.algorithm)}: {one.wall_ms:.1f} ms",
            one.run,
            max(one.wall_ms for one in made),
        )
        for number, one in enumerate(made, 1)
    ]
    shown = page.Page(title="Who did what when", description=description)
    page.write(path, shown, panels, option="--timeline", wide=True)
