"""GPUs: peak speed by type, memory and links, as their makers publish them."""

from __future__ import annotations

import dataclasses
import functools
import re
import tomllib
from importlib import resources
from typing import TYPE_CHECKING

from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}
DTYPE_BYTES["fp4"] = 0.53  # MXFP4: 4 bits, and 8 for each block of 32
# Names that people use for one of the GPUs.
ALIASES = {"a100": "a100-80gb", "3090": "rtx-3090", "4090": "rtx-4090"}
HOST_GPUS = 8  # of one host, at most, as these GPUs are sold
SAME_GPU = re.compile(r"nvidia|amd|geforce|instinct|sxm\d?|hbm\d?e?|pcie|\d+gb")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU.

    Attributes:
        name: short name.
        title: maker's name.
        tflops: dense peak of its matrix units by type, 10¹² FLOP/s.
        bandwidth_gb_s: of its memory, 10⁹ bytes/s.
        memory_gib: usable memory, 2³⁰ bytes.
        link_gb_s: of its link to other GPUs of the host, one direction, 10⁹ bytes/s.
        watts: power of the board.
        source: where the numbers come from.
    """

    name: str
    title: str
    tflops: Mapping[str, float]
    bandwidth_gb_s: float
    memory_gib: float
    link_gb_s: float
    watts: float
    source: str

    def peak_tflops(self, dtype: str) -> float:
        """The peak with weights of *dtype*; where it has none, weights are widened to bf16."""
        return self.tflops.get(dtype, self.tflops["bf16"])


@functools.cache
def gpus() -> dict[str, Gpu]:
    """The GPUs that dsim knows, by name."""
    text = resources.files("dsim.model").joinpath("gpus.toml").read_text(encoding="utf-8")
    return {name: Gpu(name=name, **entry) for name, entry in tomllib.loads(text).items()}


def gpu_of(name: str) -> Gpu:
    """The GPU called *name*, however it is spelt (``H100``, ``nvidia-h100-80gb-sxm5``).

    Raises:
        ValueError: there is none; names the nearest.
    """
    parts = re.findall("[a-z0-9]+", name.lower())
    bare = "-".join(part for part in parts if not SAME_GPU.fullmatch(part))
    size = next((part for part in parts if re.fullmatch(r"\d+gb", part)), "")
    names = {re.sub("[^a-z0-9]", "", known): known for known in gpus()}
    tried = ("".join(parts), bare.replace("-", "") + size, bare.replace("-", ""))
    key = next((names[word] for word in tried if word in names), ALIASES.get(bare))
    if key is None:
        known = ", ".join(gpus())
        hint = nearest(name.lower(), list(gpus()))
        raise ValueError(f"expected one of {known}, got {show(name)}{hint}")
    return gpus()[key]
