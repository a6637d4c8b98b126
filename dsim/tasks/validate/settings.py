"""Settings of a validation, and the file that holds them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from dsim.errors import Problem, UserError
from dsim.files import read_text
from dsim.model import POLICIES
from dsim.model.lookahead import FIXED, Policy
from dsim.orchestrations import COMPARED, ORCHESTRATIONS, orchestration_of, title_of
from dsim.study.draft_checks import wrong_paths
from dsim.study.draft_settings import LIVE
from dsim.study.loader import parse
from dsim.study.setting import Setting
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


BACKENDS = ("wallclock", "torch")


def _setting(key: str, type_: str, default: Any, meaning: str, **more: Any) -> Setting:
    return Setting(key=key, type=type_, default=default, meaning=meaning, sweep=False, **more)


# Those that end in [] are lists, and each element is checked.
SETTINGS = (
    _setting("backend", "str", "wallclock", "what to measure", choices=BACKENDS),
    _setting("algorithms", "list of str", list(COMPARED), "orchestrations to run"),
    _setting("lookahead[]", "int", [1, 3, 5], "k, drafts per block", low=1),
    _setting(
        "lookahead_policy[]",
        "str",
        ["fixed"],
        "how the lookahead adapts, from k on",
        choices=POLICIES,
    ),
    _setting("targets[]", "int", [1], "S, target servers of DSI", low=1, high=64),
    _setting("tokens", "int", 50, "N, tokens of each text", low=2),
    _setting("prompts", "int", 8, "texts that are predicted and measured", low=2),
    _setting("calibration_prompts", "int", 8, "other texts, for the calibration", low=1),
    _setting("repeats", "int", 5, "measurements of each text; the faster half counts", low=1),
    _setting("seed", "int", 0, "of draws and sampling", low=0, high=2**63 - 1),
    _setting("tolerance", "float", 0.02, "median error per text, from the trace", low=0),
    _setting("tolerance_worst", "float", 0.05, "error of the worst configuration", low=0),
    _setting("tolerance_rate", "float", 0.05, "error from the rate, overall", low=0),
    _setting("wallclock.target_latency_ms", "float", 20.0, "of a pass", low=0, above=True),
    _setting("wallclock.drafter_latency_ms", "float", 4.0, "of a draft", low=0, above=True),
    _setting("wallclock.acceptance_rate", "float", 0.8, "of the draws", low=0, high=1),
    _setting(
        "wallclock.rank_shares",
        "float or list",
        None,
        "of the misses, the shares in which the second, third … choice is right",
        low=0,
        high=1,
    ),
    _setting("torch.target", "str", "", "the target; empty: the pair that ships"),
    _setting("torch.drafter", "str", "", "the drafter; empty: the pair that ships"),
    _setting("torch.prompt_set", "str", "stories", "a set that ships, all, or a JSONL file"),
    _setting(
        "torch.dtype", "str", "float32", "weights", choices=("float32", "bfloat16", "float16")
    ),
    _setting("torch.revision", "str", "", "of a target on the hub"),
    _setting("torch.trust_remote_code", "bool", False, "run code that comes with a model"),
    _setting("torch.devices", "str", "cpu", "of the drafter, then of the targets"),
    _setting("torch.threads", "int", 1, "CPU threads of a forward", low=1),
    _setting("torch.share", "bool", False, "workers may share cores and GPUs"),
    _setting("torch.compile", "bool", False, "compile the models; see --compile"),
    _setting("torch.temperature", "float", 0.0, "0: greedy", low=0),
    _setting("torch.equal_budget", "bool", False, "non-SI and SI with the cores of all, as well"),
    *LIVE,
)
# A verdict within minutes, on what noise so few measurements leave: no more, and no stricter.
QUICK_AT_MOST = {"prompts": 6, "repeats": 5}
QUICK_AT_LEAST = {"tolerance": 0.05, "tolerance_worst": 0.1, "tolerance_rate": 0.1}
BY_KEY = {s.key.removesuffix("[]"): s for s in SETTINGS}


def load(
    path: Path | None, overrides: Mapping[str, Any] | None = None, *, quick: bool = False
) -> dict[str, Any]:
    """The settings of a validation, by dotted key: defaults, then the file, then *overrides*.

    Args:
        path: the file.
        overrides: values by key.
        quick: whether to measure less than the file says, within wider tolerances.

    Raises:
        UserError: with every problem of the file at once.
    """
    given: dict[str, Any] = {}
    problems: list[Problem] = []
    source = str(path or "validate")
    for key, value in (parse(read_text(path), source) if path else {}).items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        given |= {f"{key}.{name}".rstrip("."): v for name, v in inner}
    own = {k: v for k, v in (overrides or {}).items() if v is not None}
    given |= own
    for key, value in given.items():
        setting = BY_KEY.get(key)
        if setting is None:
            problems.append(Problem(source, key, f"unknown setting{nearest(key, list(BY_KEY))}"))
            continue
        wrong = None
        if not setting.key.endswith("[]"):
            wrong = setting.problem(value)
            if key == "tree.paths" and not wrong:
                wrong = wrong_paths(value)
        elif not isinstance(value, list) or not value:
            wrong = f"expected a list, got {show(value)}"
        else:
            wrong = next(filter(None, map(setting.problem, value)), None)
            if wrong is None and len(set(value)) < len(value):
                wrong = "duplicate value"
        if wrong:
            problems.append(Problem(source, key, wrong))
    if problems:
        raise UserError(*problems)
    found = {key: setting.default for key, setting in BY_KEY.items()} | given
    if quick:
        found |= {key: min(found[key], most) for key, most in QUICK_AT_MOST.items()}
        found |= {key: max(found[key], least) for key, least in QUICK_AT_LEAST.items()}
    found |= own
    if found["backend"] != "torch" and (idle := [key for key in own if key.startswith("torch.")]):
        what = f'has no meaning with backend "{found["backend"]}", which runs no models'
        raise UserError(
            *(Problem(f"--{key.partition('.')[2].replace('_', '-')}", "", what) for key in idle)
        )
    return found


class Configuration(NamedTuple):
    """What is predicted and measured: one algorithm with its numbers (1 where it has none).

    Attributes:
        algorithm: name of the orchestration.
        lookahead: ``k``, drafts per block.
        targets: ``S``, target servers.
        all_cores: whether non-SI or SI, in which nothing overlaps, has the cores of all servers.
        policy: how the lookahead adapts; see :class:`dsim.model.lookahead.Policy`.
    """

    algorithm: str
    lookahead: int
    targets: int
    all_cores: bool = False
    policy: str = FIXED.name

    def __str__(self) -> str:
        name = title_of(self.algorithm)
        if "lookahead" in ORCHESTRATIONS[self.algorithm].reads:
            name += f", lookahead {self.lookahead}{Policy(name=self.policy).in_words}"
        servers = f", {self.targets} targets" if self.targets > 1 else ""
        return f"{name}{servers}{', all cores' * self.all_cores}"


def configurations(settings: Mapping[str, Any]) -> list[Configuration]:
    """Every configuration that *settings* ask for.

    Raises:
        UserError: an algorithm is unknown, or is simulated only.
    """
    wanted: list[Configuration] = []
    for name in settings["algorithms"]:
        if not orchestration_of(name).traits.live:
            raise UserError(f"{title_of(name)} is simulated only")
    for name, orchestration in ORCHESTRATIONS.items():
        if name not in settings["algorithms"]:
            continue
        traits = orchestration.traits
        lookaheads = settings["lookahead"] if "lookahead" in orchestration.reads else [1]
        targets = settings["targets"] if traits.several_targets else [1]
        adapts = "lookahead_policy" in orchestration.reads
        policies = settings["lookahead_policy"] if adapts else [FIXED.name]
        wanted += [
            Configuration(name, k, s, policy=policy)
            for policy, k, s in itertools.product(policies, lookaheads, targets)
        ]
    if settings["backend"] == "torch" and settings["torch.equal_budget"]:
        alone = [c for c in wanted if not ORCHESTRATIONS[c.algorithm].traits.overlaps]
        wanted += [c._replace(all_cores=True) for c in alone]
    return wanted
