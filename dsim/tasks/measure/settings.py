"""The settings of a measuring study: pairs of models, and sets of prompts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.backends.torch import prompts
from dsim.backends.torch.hubsets import TEMPLATES, HubSet
from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.study.loader import parse
from dsim.study.setting import Setting
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def _setting(key: str, type_: str, default: Any, meaning: str, **more: Any) -> Setting:
    return Setting(key=key, type=type_, default=default, meaning=meaning, sweep=False, **more)


DTYPES = ("float32", "bfloat16", "float16")
TOP = (
    _setting("title", "str", "", "heading"),
    _setting("tokens", "int", 64, "to generate after each prompt", low=2),
    _setting("prompts", "int", 30, "of each set", low=2),
    _setting("seed", "int", 42, "of the choice of prompts", low=0),
    _setting("run", "list of str", [], "names of the pairs to measure; empty: all"),
    _setting("dtype", "str", "float32", "weights", choices=DTYPES),
    _setting("repeats", "int", 20, "latency: forwards of each width", low=2),
)
PAIR = (
    _setting("name", "str", None, "of the pair, and of the file of its profile"),
    _setting("target", "str", "", "the target; empty: the pair that ships"),
    _setting("drafter", "str", "", "the drafter; empty: the pair that ships"),
    _setting("target_revision", "str", "", "of a target on the hub"),
    _setting("drafter_revision", "str", "", "of a drafter on the hub"),
    _setting("prompts", "str", "stories", "one of [[sets]], or a set that ships"),
    _setting("dtype", "str", "", "weights, where they differ", choices=("", *DTYPES)),
    _setting("published_target_ms", "float", None, "the paper's latency", low=0, above=True),
    _setting("published_drafter_ms", "float", None, "the paper's latency", low=0, above=True),
    _setting("published_acceptance", "float", None, "the paper's rate", low=0, high=1),
)
SET = (
    _setting("name", "str", None, "what pairs call it"),
    _setting("path", "str", None, "on the hub, or a folder in the same form"),
    _setting("template", "str", None, "how an example becomes a prompt", choices=tuple(TEMPLATES)),
    _setting("config", "str", "", "of the data set"),
    _setting("split", "str", "test", "of the data set"),
    _setting("revision", "str", "", "of the data set"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeasureStudy:
    """A checked study: settings, pairs by name, data sets by name."""

    settings: Mapping[str, Any]
    pairs: Mapping[str, Mapping[str, Any]]
    sets: Mapping[str, HubSet]
    source: str

    def chosen(self, names: Sequence[str]) -> list[Mapping[str, Any]]:
        """The pairs called *names*; ``all``: every one; none: those the study says.

        Raises:
            UserError: there is no such pair.
        """
        names = list(names) or self.settings["run"] or ["all"]
        if "all" in names:
            return list(self.pairs.values())
        unknown = [name for name in names if name not in self.pairs]
        if unknown:
            hint = nearest(unknown[0], list(self.pairs)) or f"; there are {', '.join(self.pairs)}"
            raise UserError(
                Problem(self.source, "pairs", f"no pair is called {unknown[0]!r}{hint}")
            )
        return [self.pairs[name] for name in names]


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> MeasureStudy:
    """Read the study at *path*; *overrides* by key win over it.

    Raises:
        UserError: with all problems that were found.
    """
    source = str(path)
    document = parse(read_text(path), source)
    problems: list[Problem] = []

    def checked(table: Any, known: Sequence[Setting], where: str) -> dict[str, Any]:
        by_key = {s.key: s for s in known}
        if not isinstance(table, dict):
            problems.append(
                Problem(source, where.rstrip("."), f"expected a table, got {show(table)}")
            )
            return {}
        for key, value in table.items():
            if key not in by_key:
                problems.append(
                    Problem(source, where + key, f"unknown setting{nearest(key, list(by_key))}")
                )
            elif wrong := by_key[key].problem(value):
                problems.append(Problem(source, where + key, wrong))
        needed = [s for s in known if where and s.key in ("name", "path", "template")]
        problems.extend(
            Problem(source, where + s.key, f"is missing: {s.meaning}")
            for s in needed
            if s.key not in table
        )
        return {s.key: s.default for s in known} | table

    def tables(name: str, known: Sequence[Setting]) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        listed = document.pop(name, [])
        for number, table in enumerate(listed if isinstance(listed, list) else [listed]):
            where = f"{name}[{number}]."
            one = checked(table, known, where)
            if str(one.get("name")) in found:
                problems.append(
                    Problem(source, where + "name", f"{show(one['name'])} is a duplicate")
                )
            found[str(one.get("name"))] = one
        return found

    pairs, sets = tables("pairs", PAIR), tables("sets", SET)
    given = {k: v for k, v in (overrides or {}).items() if v is not None}
    settings = checked({**document, **given}, TOP, "")
    if not pairs:
        problems.append(Problem(source, "pairs", "is missing: at least one [[pairs]] table"))
    for name in settings["run"] if isinstance(settings["run"], list) else []:
        if name not in pairs:
            hint = nearest(str(name), list(pairs))
            problems += [Problem(source, "run", f"no pair is called {show(name)}{hint}")]
    slugs: dict[str, str] = {}
    for number, name in enumerate(pairs):
        if (file := slug(name)) == slug(""):
            what = f"{show(name)} makes no file name: a letter a-z or a digit must be in it"
            problems.append(Problem(source, f"pairs[{number}].name", what))
        elif file in slugs:
            what = f"{show(name)} and {show(slugs[file])} both make the file {file}.json"
            problems.append(Problem(source, f"pairs[{number}].name", what))
        slugs.setdefault(file, name)
    known_sets = [*sets, *prompts.shipped()]
    for number, pair in enumerate(pairs.values()):
        wanted = pair.get("prompts")
        if isinstance(wanted, str) and wanted not in known_sets and not Path(wanted).is_file():
            problems.append(
                Problem(
                    source,
                    f"pairs[{number}].prompts",
                    f"no set is called {show(wanted)}{nearest(wanted, known_sets)}",
                )
            )
    if problems:
        raise UserError(*problems)
    return MeasureStudy(
        settings=settings,
        pairs=pairs,
        sets={name: HubSet(**one) for name, one in sets.items()},
        source=source,
    )


def slug(name: str) -> str:
    """*name* as the name of a file."""
    return "pair-" + re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-")
