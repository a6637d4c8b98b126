"""``dsim measure latency|acceptance STUDY.toml``: a list of pairs, each on its prompts.

Each pair becomes a profile (:mod:`dsim.study.profile`), which a study reads with ``pair = FILE``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dsim.backends.torch import prompts
from dsim.errors import EngineError, UserError
from dsim.report.tables import text_table
from dsim.study import profile
from dsim.study.results import processor
from dsim.tasks.measure.acceptance import acceptance
from dsim.tasks.measure.latency import latency
from dsim.tasks.measure.settings import slug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from dsim.backends.torch.models import ModelSpec
    from dsim.backends.torch.pair import Pair
    from dsim.backends.torch.prompts import Prompt
    from dsim.backends.torch.workers import Workers
    from dsim.tasks.measure.settings import MeasureStudy


WIDTHS, CONTEXT = (1, 2, 3, 4, 6, 8, 12, 16), 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What became of one pair: its profile and where it was written, or why it was skipped."""

    pair: Mapping[str, Any]
    profile: profile.Profile | None = None
    path: Path | None = None
    skipped: str = ""


def run(
    study: MeasureStudy,
    what: str,
    names: Sequence[str],
    out: Path,
    workers_of: Callable[[Pair], Workers],
    progress: Callable[[str], None] = lambda _: None,
) -> Iterator[Measured]:
    """Measure the pairs of *study*, one after the other.

    Args:
        study: what to measure.
        what: ``latency`` or ``acceptance``.
        names: of the pairs; see :meth:`MeasureStudy.chosen`.
        out: the folder for the profiles.
        workers_of: starts the workers of a pair; of ``ngram`` as the drafter, for one model alone.
        progress: told what is being done.

    Raises:
        UserError: a name is unknown, or a file cannot be written.
        EngineError: a worker died or failed.
    """
    from dsim.backends.torch.models import need_torch

    chosen = study.chosen(names)
    need_torch()
    remote = any(pair["target"] or pair["prompts"] in study.sets for pair in chosen)
    if not remote or hub_answers():
        yield from _run(study, what, chosen, out, workers_of, progress)
        return
    progress("the hub cannot be reached: only what its cache has")
    with _offline():
        yield from _run(study, what, chosen, out, workers_of, progress)


def _run(
    study: MeasureStudy,
    what: str,
    chosen: Sequence[Mapping[str, Any]],
    out: Path,
    workers_of: Callable[[Pair], Workers],
    progress: Callable[[str], None],
) -> Iterator[Measured]:
    known: dict[str, list[Prompt]] = {}
    for pair in chosen:
        progress(f"measuring {what}: pair “{pair['name']}”, prompt set “{pair['prompts']}”")
        try:
            models = _models(study, pair)
            if pair["prompts"] not in known:
                known[pair["prompts"]] = _prompts(study, pair["prompts"])
            texts = known[pair["prompts"]]
            measured = (_latency if what == "latency" else _acceptance)(
                study, pair, models, texts, workers_of
            )
        except (UserError, EngineError) as error:
            yield Measured(pair=pair, skipped=" ".join(str(error).split()))
            continue
        path = out / f"{slug(pair['name'])}.json"
        profile.write(measured, path)
        yield Measured(pair=pair, profile=measured, path=path)


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Ask the hub for nothing, for a while: every file would be asked for again and again."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"  # workers inherit it
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def hub_answers() -> bool:
    """Whether the hub may be reached: by a proxy, or since its address is known here.

    Nothing is sent to it.
    """
    if os.environ.get("HF_HUB_OFFLINE"):
        return False
    if os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy"):
        return True  # names are looked up there
    host = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.getaddrinfo(host.hostname, host.port or 443)
    except OSError:
        return False
    return True


def _models(study: MeasureStudy, pair: Mapping[str, Any]) -> tuple[ModelSpec, ModelSpec]:
    from dsim.backends.torch.models import SKIP, specs

    target, drafter = specs(
        pair["target"] or None,
        pair["drafter"] or None,
        dtype=pair["dtype"] or study.settings["dtype"],
        revision=pair["target_revision"] or None,
    )
    if pair["drafter"].startswith(SKIP):
        return target, drafter  # the target itself, of its revision
    return target, dataclasses.replace(drafter, revision=pair["drafter_revision"] or None)


def _prompts(study: MeasureStudy, name: str) -> list[Prompt]:
    count = study.settings["prompts"]
    if name in study.sets:
        return study.sets[name].prompts(count, study.settings["seed"])
    return prompts.load(name, "prompts")[:count]


def _source(study: MeasureStudy, what: str, pair: Mapping[str, Any], count: int) -> str:
    s = study.settings
    return (
        f"dsim measure {what} {Path(study.source).name}: {count} prompts × {s['tokens']} tokens, "
        f"{pair['dtype'] or s['dtype']}, on {processor()}"
    )


def _latency(
    study: MeasureStudy,
    pair: Mapping[str, Any],
    models: tuple[ModelSpec, ModelSpec],
    texts: Sequence[Prompt],
    workers_of: Callable[[Pair], Workers],
) -> profile.Profile:
    from dsim.backends.torch.models import NGRAM, ModelSpec
    from dsim.backends.torch.pair import load_pair

    if models[1].skip_auto:
        models = models[0], load_pair(*models).drafter  # which layers, is chosen now
    found, count = {}, 0
    for role, spec in zip(("target", "drafter"), models, strict=True):
        if spec.is_ngram:
            raise UserError(f"{NGRAM} is no model; its latency is that of the look-up alone")
        loaded = load_pair(spec, ModelSpec(name=NGRAM, dtype=spec.dtype))
        fitting = _fitting(loaded, texts, study.settings["tokens"])
        count = len(fitting)
        with workers_of(loaded) as workers:
            table = latency(
                workers,
                fitting,
                tokens=study.settings["tokens"],
                widths=WIDTHS,
                contexts=(min(CONTEXT, loaded.context_tokens - max(WIDTHS)),),
                repeats=study.settings["repeats"],
            )
        found[role] = dataclasses.replace(table.profile, model=_shown(spec), measured={})
    return profile.Profile(
        name=pair["name"],
        prompts=pair["prompts"],
        target=found["target"],
        drafter=found["drafter"],
        source=_source(study, "latency", pair, count),
    )


def _acceptance(
    study: MeasureStudy,
    pair: Mapping[str, Any],
    models: tuple[ModelSpec, ModelSpec],
    texts: Sequence[Prompt],
    workers_of: Callable[[Pair], Workers],
) -> profile.Profile:
    from dsim.backends.torch.pair import load_pair
    from dsim.backends.torch.verify import Match

    loaded = load_pair(*models)
    target, drafter = _shown(loaded.target), _shown(loaded.drafter)
    with workers_of(loaded) as workers:
        report = acceptance(
            workers,
            [("", ids) for ids in _fitting(loaded, texts, study.settings["tokens"])],
            Match(),
            tokens=study.settings["tokens"],
        )
    found = dataclasses.replace(report.profile, target=target, drafter=drafter, measured={})
    return profile.Profile(
        name=pair["name"],
        prompts=pair["prompts"],
        acceptance=found,
        source=_source(study, "acceptance", pair, len(report.draws)),
    )


def _fitting(pair: Pair, texts: Sequence[Prompt], tokens: int) -> list[list[int]]:
    """The token ids of *texts*, those that the models can read.

    Raises:
        UserError: they can read fewer than two.
    """
    ids = [list(pair.tokenizer(text.text).input_ids) for text in texts]
    fit = [one for one in ids if one and len(one) + tokens <= pair.context_tokens]
    if len(fit) < 2:
        raise UserError(
            f"only {len(fit)} of {len(ids)} prompts fit, with {tokens} tokens to come, into the "
            f"{pair.context_tokens:,} tokens that the models can read"
        )
    return fit


def _shown(spec: ModelSpec) -> str:
    """The name of a model, without the way to the pair that ships."""
    from dsim.backends.torch.models import PAIR as SHIPPED

    path = Path(spec.name)
    name = f"dsim/pair/{path.name}" if path.parent == SHIPPED else spec.name
    return str(dataclasses.replace(spec, name=name))


def as_text(found: Sequence[Measured], what: str) -> str:
    """A table for people, the published numbers beside ours, and what was skipped."""
    rows = []
    for one in found:
        measured, pair = one.profile, one.pair
        if measured is None:
            continue

        def published(value: Any, pattern: str = "{:g}") -> str:
            return "" if value is None else pattern.format(value)

        if what == "latency" and measured.target and measured.drafter:
            target, drafter = measured.target, measured.drafter
            rows.append(
                [
                    pair["name"],
                    pair["prompts"],
                    f"{target.latency_ms:.2f} ms",
                    published(pair["published_target_ms"]),
                    f"{drafter.latency_ms:.2f} ms",
                    published(pair["published_drafter_ms"]),
                    f"{drafter.latency_ms / target.latency_ms:.1%}",
                    f"{(target.first_latency_ms or 0) / target.latency_ms:.2f}",
                ]
            )
        elif measured.acceptance:
            rate = measured.acceptance
            interval = "" if rate.ci95 is None else f" ± {rate.ci95:.3f}"
            rows.append(
                [
                    pair["name"],
                    pair["prompts"],
                    rate.prompts,
                    f"{rate.rate:.3f}{interval}",
                    f"{rate.paper_rate:.3f}",
                    published(pair["published_acceptance"]),
                ]
            )
    head = {
        "latency": [
            "pair",
            "prompts",
            "target",
            "published",
            "drafter",
            "published",
            "drafter / target",
            "TTFT / TPOT",
        ],
        "acceptance": ["pair", "set", "prompts", "rate", "the paper's estimator", "published"],
    }[what]
    lines = []
    if rows:
        lines += [*text_table(head, rows, left=2), ""]
    lines += [f"skipped {one.pair['name']}: {one.skipped}" for one in found if one.skipped]
    lines += [f"profile: {one.path}" for one in found if one.path]
    return "\n".join(lines)
