"""Models: how they are named, and how they are loaded."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from dsim.errors import EngineError, Problem, UserError
from dsim.words import nearest

DTYPES = ("float32", "bfloat16", "float16")
NGRAM = "ngram"
SKIP = "skip:"
HEAD = "eagle"  # with a colon and a folder; alone: the folder of that name beside the target's
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
PAIR = Path(__file__).parents[2] / "pair"  # the pair that ships
INSTALL = 'real models need the extra "torch": pip install "dsim[torch]"'


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """One model, by name.

    Attributes:
        name: a folder with safetensors, a ``.gguf`` file, the id of a model of the hub
            (``owner/name``), a GGUF file of one (``owner/name/file.gguf``), or ``ngram`` (a drafter
            that looks the last words up in the text so far; no model), or ``module:Class`` (a
            drafter of the user's own: ``Class(vocab).guess(tokens)`` is the next token), or
            ``eagle:FOLDER`` (an EAGLE-3 head, see :mod:`dsim.backends.torch.eagle`).
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        revision: of a model of the hub.
        trust_remote_code: whether Python code that comes with the model may run.
        skip: layers to leave out, counted from 0.
        skip_auto: how many layers to leave out, which ones :func:`load_pair` finds out;
        skip_prompts: on these prompts, a set that ships or a JSONL file.
    """

    name: str
    dtype: str = "float32"
    revision: str | None = None
    trust_remote_code: bool = False
    skip: tuple[int, ...] = ()
    skip_auto: int = 0
    skip_prompts: str = "stories"

    @property
    def is_ngram(self) -> bool:
        """Whether there is no model behind it."""
        return self.name == NGRAM

    @property
    def is_head(self) -> bool:
        """Whether it lives on its target's features, and so in its target's worker."""
        return self.name.startswith(f"{HEAD}:")

    @property
    def folder(self) -> Path:
        """The folder of a head."""
        return Path(self.name.removeprefix(f"{HEAD}:"))

    @property
    def has_worker(self) -> bool:
        """Whether forwards of it as a drafter need a server of their own."""
        return not (self.is_ngram or self.is_head)

    @property
    def is_class(self) -> bool:
        """Whether it is a Python class of the user's own."""
        return (
            not self.is_head
            and re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.name) is not None
        )

    @property
    def has_model(self) -> bool:
        """Whether torch runs it."""
        return not (self.is_ngram or self.is_class)

    @property
    def hub_file(self) -> tuple[str, str] | None:
        """Repository and name of a GGUF file on the hub; ``None`` if it is no such thing."""
        path = Path(self.name)
        if path.suffix != ".gguf" or path.exists() or path.is_absolute() or len(path.parts) != 3:
            return None
        return path.parent.as_posix(), path.name

    @property
    def source(self) -> dict[str, Any]:
        """The arguments of ``from_pretrained`` that say what to load."""
        path = Path(self.name)
        if path.suffix == ".gguf":
            return {
                "pretrained_model_name_or_path": path.parent.as_posix(),
                "gguf_file": path.name,
                "revision": self.revision,
                "trust_remote_code": self.trust_remote_code,
            }
        return {
            "pretrained_model_name_or_path": self.name,
            "revision": self.revision,
            "trust_remote_code": self.trust_remote_code,
        }

    def __str__(self) -> str:
        if self.skip:
            return f"{self.name} without layers {','.join(map(str, self.skip))}"
        return self.name


def specs(
    target: str | None,
    drafter: str | None,
    *,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[ModelSpec, ModelSpec]:
    """The target and the drafter that the user named; ``None``: the pair that ships.

    Args:
        target: see :class:`ModelSpec`.
        drafter: the drafter in the same forms, or ``skip:4,14,17``: the target without these
            layers, or
            ``skip:auto=3``: without the three it can best do without, as read on the prompts that
            ship for stories, or on others: ``skip:auto=3@FILE``; or ``eagle``: the head in the
            folder ``eagle`` beside the target's.
        dtype: of both.
        revision: of the target, if it is on the hub.
        trust_remote_code: for both.

    Raises:
        UserError: a name makes no sense.
    """
    problems = []
    if dtype not in DTYPES:
        problems.append(
            Problem(
                "--dtype",
                "",
                f"expected one of {', '.join(DTYPES)}, got {dtype!r}{nearest(dtype, DTYPES)}",
            )
        )
    if (target is None or drafter is None) and not (PAIR / "target").is_dir():
        missing = "--target" if target is None else "--drafter"
        problems.append(Problem(missing, "", "is missing: no pair of models ships with this dsim"))
    if problems:
        raise UserError(*problems)
    common: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    target_spec = ModelSpec(
        name=target or str(PAIR / "target"), revision=revision if target else None, **common
    )
    if target_spec.is_ngram:
        raise UserError(Problem("--target", "", f'"{NGRAM}" can only draft'))
    if drafter is None:
        # A drafter for another target than the one that ships has to be named.
        if target is not None and Path(target).resolve() != (PAIR / "target").resolve():
            raise UserError(
                Problem(
                    "--drafter",
                    "",
                    f'is missing for this target; "{NGRAM}" needs no model, "{HEAD}:FOLDER" is '
                    "an EAGLE-3 head for it, "
                    '"skip:1,3" is the target without these layers',
                )
            )
        drafter = str(PAIR / "drafter")
    if drafter == HEAD:
        drafter = f"{HEAD}:{Path(target_spec.name).parent / HEAD}"
    if ModelSpec(name=drafter).is_class and not drafter.startswith(SKIP):
        class_of(drafter)
    if drafter.startswith(SKIP):
        found = re.fullmatch(r"auto=(\d+)(?:@(.+))?", drafter.removeprefix(SKIP))
        if found is not None and int(found[1]) > 0:
            where = found[2] or ModelSpec.skip_prompts
            auto = dataclasses.replace(target_spec, skip_auto=int(found[1]), skip_prompts=where)
            return target_spec, auto
        layers = drafter.removeprefix(SKIP).split(",")
        if not all(layer.strip().isdecimal() for layer in layers):
            raise UserError(
                Problem(
                    "--drafter",
                    "",
                    "expected skip: and layer numbers, like skip:1,3, or how many, like "
                    f"skip:auto=2 or skip:auto=2@instruct; got {drafter!r}",
                )
            )
        numbers = tuple(sorted({int(layer) for layer in layers}))
        return target_spec, dataclasses.replace(target_spec, skip=numbers)
    return target_spec, ModelSpec(name=drafter, **common)


def class_of(name: str) -> type[Any]:
    """The class that ``module:Class`` names; modules may lie in the working directory.

    Raises:
        UserError: it cannot be imported, or has no method ``guess``.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109
    try:
        found = getattr(import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever the module does
        what = f"{name} cannot be imported: {type(error).__name__}: {error}"
        raise UserError(Problem("--drafter", "", what)) from None
    if not callable(getattr(found, "guess", None)):
        what = f"{name}: expected a class with a method guess(tokens), which returns a token"
        raise UserError(Problem("--drafter", "", what))
    return found  # type: ignore[no-any-return]


def need_torch() -> None:
    """See that what real models need is installed.

    Raises:
        UserError: it is not.
    """
    from importlib.util import find_spec

    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} cannot be imported; {INSTALL}")


def _from_pretrained(kind: str, spec: ModelSpec, option: str, **more: Any) -> Any:
    need_torch()
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = Path(spec.name)
    if path.suffix == ".gguf" and not path.is_file() and spec.hub_file is None:
        raise UserError(Problem(option, "", f"{path} is not there"))
    if path.is_dir() and not (path / "config.json").is_file():
        raise UserError(Problem(option, "", f"{path} holds no model: it has no config.json"))
    try:
        return getattr(transformers, kind).from_pretrained(**spec.source, **more)
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if not path.exists() and spec.hub_file is None and not HUB_NAME.fullmatch(spec.name):
            first = "there is no such folder; expected one with a config.json and safetensors"
        elif not path.exists():
            kind = "folder" if spec.hub_file is None else "file"
            first = (
                f"no {kind} here has that name, and the hub does not have it or cannot be reached; "
                f"give a {kind}, or fetch it while online with: "
                f"hf download {' '.join(spec.hub_file or [spec.name])} ({first})"
            )
        raise UserError(Problem(option, spec.name, first)) from error


@functools.cache
def load_config(spec: ModelSpec, option: str) -> Any:
    """The model's configuration (of its text part, where it has several).

    Raises:
        UserError: it cannot be loaded, or its cache cannot be cut back.
    """
    config = _from_pretrained("AutoConfig", spec, option).get_text_config(decoder=True)
    kinds = set(getattr(config, "layer_types", None) or ())
    if recurrent := sorted(kind for kind in kinds if "linear" in kind or "mamba" in kind):
        raise UserError(
            Problem(
                option,
                spec.name,
                f"has {recurrent[0]} layers, whose state cannot be cut back after a rejection",
            )
        )
    layers = config.num_hidden_layers
    if (spec.skip and spec.skip[-1] >= layers) or max(len(spec.skip), spec.skip_auto) >= layers:
        raise UserError(
            Problem("--drafter", "", f"the target has layers 0 to {layers - 1}; one must stay")
        )
    return config


@functools.cache
def load_tokenizer(spec: ModelSpec, option: str = "--target") -> Any:
    """The model's tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    return _from_pretrained("AutoTokenizer", spec, option)


def load_model(spec: ModelSpec, device: str) -> Any:
    """The model's weights, ready to run on *device*. Loads torch.

    Raises:
        EngineError: it cannot be loaded.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dtype = getattr(torch, spec.dtype)
    more: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if Path(spec.name).suffix == ".gguf":
        del more["use_safetensors"]
        # Weights left packed would be unpacked again in every forward.
        if hasattr(transformers, "GgufConfig"):
            more["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(**spec.source, **more)
        if spec.skip:
            skip_layers(model, spec.skip)
        return model.to(device=device, dtype=dtype).eval()
    except (MemoryError, OSError, RuntimeError) as error:
        # torch has an error of its own for a GPU alone; of the CPU it says so in words.
        words = str(error).strip()
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and "memory" not in words.lower():
            raise
        first = words.splitlines()[0] if words else "no more to be had"
        raise EngineError(f"out of memory while loading {spec} in {spec.dtype}: {first}") from error


def skip_layers(model: Any, skip: tuple[int, ...]) -> None:
    """Take the layers *skip* out of *model*, in place."""
    import torch

    decoder = model.get_decoder()
    kept = [i for i in range(len(decoder.layers)) if i not in skip]
    decoder.layers = torch.nn.ModuleList(decoder.layers[i] for i in kept)
    for number, layer in enumerate(decoder.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = number  # its place in the KV cache
    kinds = getattr(model.config, "layer_types", None)
    model.config.num_hidden_layers = len(kept)
    if kinds:
        model.config.layer_types = [kinds[i] for i in kept]
