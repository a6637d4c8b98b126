"""Methods by the names that people use: which orchestration, with which settings."""

from __future__ import annotations

import dataclasses
import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any

from dsim.orchestrations import COMPARED
from dsim.words import listed, show

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dsim.study.setting import Problems


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preset:
    """One method.

    Attributes:
        name: in studies and on the command line.
        title: what people call it.
        orchestration: the orchestration that it is.
        settings: what it sets, by key.
        source: where it is from.
        note: what else there is to know.
        features: whether the drafter reads the target's features, which are known after a pass.
    """

    name: str
    title: str
    orchestration: str
    settings: Mapping[str, Any]
    source: str
    note: str = ""
    features: bool = False


def _read() -> dict[str, Preset]:
    text = resources.files("dsim.study").joinpath("presets.toml").read_text(encoding="utf-8")
    return {name: Preset(name=name, **own) for name, own in tomllib.loads(text).items()}


PRESETS = _read()


def apply_presets(
    values: dict[str, Any], variants: Sequence[dict[str, Any]], problems: Problems
) -> None:
    """Set what the methods that *values* and *variants* name set.

    Args:
        values: settings of the study by key; completed.
        variants: settings of each variant by key; completed.
        problems: where it is noted that something else is set.
    """
    named = [own["method"] for own in (values, *variants) if own.get("method") in [*PRESETS]]
    wanted = [PRESETS[name].orchestration for name in named]
    if wanted and "algorithms" not in values:
        values["algorithms"] = [*dict.fromkeys([*COMPARED, *wanted])]
    for number, own in enumerate((values, *variants), -1):
        name = own.get("method")
        if name not in named:
            continue
        where = f"variants[{number}]." if own is not values else ""
        preset = PRESETS[str(name)]
        for key, value in preset.settings.items():
            if own.setdefault(key, value) != value:
                what = f'{show(own[key])} contradicts method = "{name}", which has {show(value)}'
                problems.add(where + key, f"{what}; {in_place_of(preset, key)}")
        algorithms = own.get("algorithms", values["algorithms"])
        if isinstance(algorithms, list) and preset.orchestration not in algorithms:
            what = f'expected "{preset.orchestration}" among them, as method = "{name}" needs'
            problems.add(f"{where}algorithms", what)


def in_place_of(preset: Preset, key: str) -> str:
    """How to have the method *preset* with another value of *key*, in words."""
    others = [f"{one} = {show(value)}" for one, value in preset.settings.items() if one != key]
    rest = f" with {listed(others)}" if others else ""
    return f'for another, leave method out: algorithm "{preset.orchestration}"{rest}'
