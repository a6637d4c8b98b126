"""Models and GPUs by name in a study: latencies that nobody measured are estimated from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.errors import Problem, UserError
from dsim.model.estimate import DTYPES, KV_DTYPES, Estimate, estimate
from dsim.model.gpu import gpus
from dsim.study.profile import ModelProfile, Profile
from dsim.study.setting import Problems, Setting
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dsim.model.roofline import Roofline

WIDTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # tokens of the tables
NAMED_SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="target.model",
        type="str",
        default=None,
        sweep=False,
        meaning="name of the target (llama-3.3-70b), or a folder with a config.json: latencies "
        "that are not set are estimated (dsim docs latency)",
    ),
    Setting(
        key="drafter.model",
        type="str",
        default=None,
        sweep=False,
        meaning="the same of the drafter; or eagle3, mtp or medusa: a head of target.model",
    ),
    Setting(
        key="gpu",
        type="str",
        default=None,
        sweep=False,
        meaning=f"type of the GPUs, for latencies that are estimated: {', '.join(gpus())}",
    ),
    Setting(
        key="tp",
        type="int",
        default=1,
        low=1,
        high=1024,
        unit="GPUs",
        sweep=False,
        meaning="tensor parallelism, for latencies that are estimated: GPUs that share each layer",
    ),
    Setting(
        key="dtype",
        type="str",
        default=None,
        choices=DTYPES,
        sweep=False,
        meaning="type of the target's weights, for latencies that are estimated; not set: as "
        "published",
    ),
    Setting(
        key="kv_dtype",
        type="str",
        default="bf16",
        choices=KV_DTYPES,
        sweep=False,
        meaning="type of the KV cache, for latencies that are estimated",
    ),
)
KEYS = tuple(setting.key for setting in NAMED_SETTINGS)
MODELS = ("target.model", "drafter.model")
NAMES = {"model": "target.model", "drafter": "drafter.model"}


def key_of(name: str, value: Any) -> str:
    """The setting that *name* = *value* is of: ``target = "llama-3.3-70b"`` names a model."""
    model = f"{name}.model"
    return model if isinstance(value, str) and model in MODELS else name


def estimate_of(values: Mapping[str, Any], source: str) -> Estimate | None:
    """The estimate that settings by key ask for; ``None``: they name no model.

    Args:
        values: settings by key; those that are not set may be missing.
        source: the file, for messages.

    Raises:
        UserError: with all problems.
    """
    if not any(values.get(key) for key in MODELS):
        return None
    missing = [key for key in ("target.model", "gpu") if not values.get(key)]
    if missing:
        meanings = {setting.key: setting.meaning for setting in NAMED_SETTINGS}
        raise UserError(*(Problem(source, key, f"is missing: {meanings[key]}") for key in missing))
    arguments = ("model", "gpu", "tp", "dtype", "kv_dtype", "drafter")
    return estimate(
        values["target.model"],
        values["gpu"],
        tp=int(values.get("tp") or 1),
        dtype=values.get("dtype"),
        kv_dtype=values.get("kv_dtype") or "bf16",
        drafter=values.get("drafter.model"),
        names={name: (source, NAMES.get(name, name)) for name in arguments},
    )


def warning_of(values: Mapping[str, Any]) -> str:
    """What makes the estimate doubtful that settings by key name, in sentences; else empty."""
    if not all(values.get(key) for key in ("target.model", "gpu")):
        return ""
    found = estimate_of(values, "")
    return found.warning if found else ""


def profile_of(roofline: Roofline, prompt_tokens: int, context: int) -> ModelProfile:
    """What measuring the model of *roofline* would have found.

    Args:
        roofline: time of its forwards.
        prompt_tokens: length of a prompt; 0: the prompt counts as cached.
        context: tokens of context that forwards over the text have.
    """

    def at(width: int) -> float:
        pairs = width * (context + width / 2)
        return to_ms(roofline.forward_ns(width, pairs, context, width))

    n = prompt_tokens
    return ModelProfile(
        model=roofline.shape.name,
        latency_ms=at(1),
        first_latency_ms=to_ms(roofline.forward_ns(n, n * n / 2, 0, 1)) if n else None,
        latency_by_width_ms=tuple((width, at(width)) for width in WIDTHS),
    )


def settings_of(
    values: Mapping[str, Any], given: Collection[str], source: str, *, shared: bool
) -> dict[str, Any]:
    """The settings that the names in *values* stand for, but for what is *given* otherwise.

    Args:
        values: settings by key.
        given: keys that are set by other means, which win.
        source: the file, for messages.
        shared: whether many requests share servers, so that contexts differ.

    Raises:
        UserError: with all problems.
    """
    found = estimate_of(values, source)
    if found is None:
        return {}
    prompt = values.get("workload.prompt_tokens", 0)
    tokens = values.get("tokens", 1000)
    # One text has its mean context in the table; of many requests each has its own, beside it.
    context = 0 if shared else (tokens // 2 if isinstance(tokens, int) else 0)
    rooflines = {"target": found.target, "drafter": found.drafter}
    models = {
        role: profile_of(one, prompt if isinstance(prompt, int) else 0, context)
        for role, one in rooflines.items()
        if one is not None
    }
    profile = Profile(name="", target=models["target"], drafter=models.get("drafter"))
    settings = profile.settings(given)
    for role, roofline in rooflines.items():
        if roofline is None or not shared:
            continue
        slope = roofline.kv_bytes_per_token / roofline.constants.kv_efficiency
        settings[f"cluster.{role}_context_ms"] = slope * 1000 / roofline.gpu.bandwidth_gb_s / 1e6
        settings[f"cluster.gpus_per_{role}"] = float(roofline.tp)
        measured = {f"{role}.{name}" for name in ("latency_ms", "latency_by_width_ms")}
        settings[f"{role}.roofline"] = not measured & {*given}
    if shared:
        gpus = values.get("replica.gpus")
        if isinstance(gpus, int | float) and gpus < found.target.tp:
            what = f"expected at least {found.target.tp} (tp), got {gpus:g}"
            raise UserError(Problem(source, "replica.gpus", what))
        settings["replica.gpus"] = float(found.target.tp)
        settings["replica.kv_blocks"] = found.memory.kv_blocks(values.get("replica.block_size", 16))
        settings["replica.max_model_len"] = found.target.shape.max_tokens
        settings["replica.kv_token_bytes"] = found.memory.kv_bytes_per_token * found.target.tp
        settings["replica.api_us"] = [found.target.constants.request_us, 0.0, 0.0]
        settings["drafter.features"] = found.is_head
    return {key: value for key, value in settings.items() if key not in given}


def fill(
    values: dict[str, Any],
    variants: Sequence[dict[str, Any]],
    given: Collection[str],
    problems: Problems,
    *,
    shared: bool,
) -> None:
    """Put in what names of models and GPUs stand for, where nothing else says it.

    Args:
        values: settings of the study by key.
        variants: settings of each variant; one that sets a name has latencies of its own.
        given: keys that are axes of the grid, or were overridden.
        problems: problems of the study; where there are some already, nothing is put in.
        shared: whether many requests share servers.
    """
    if problems:
        return
    written = dict(values)

    def put(own: dict[str, Any], both: Mapping[str, Any]) -> None:
        try:
            own.update(settings_of(both, {*both, *given}, problems.source, shared=shared))
        except UserError as error:
            for one in error.problems:
                if isinstance(one, Problem):
                    problems.add(one.key, one.what)

    if not variants or all(written.get(key) for key in ("target.model", "gpu")):
        put(values, written)
    for own in variants:
        if own.keys() & {*KEYS}:
            put(own, {**written, **own})
        for role in ("target", "drafter"):
            kind, table = f"{role}.latency_model", f"{role}.latency_by_width_ms"
            named = values.get(f"{role}.model") and kind not in written
            if named and f"{role}.latency_ms" in own and table not in own:
                own.setdefault(kind, "constant")
