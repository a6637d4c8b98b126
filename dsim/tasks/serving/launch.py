"""Launch commands of vLLM and SGLang for one replica."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

from dsim.model.shape import shape_of, shipped
from dsim.study.presets import PRESETS
from dsim.tasks.serving.search import closest, ranked
from dsim.tasks.serving.trials import NGRAM
from dsim.words import plural

if TYPE_CHECKING:
    from dsim.tasks.serving.question import Question
    from dsim.tasks.serving.search import Advice
    from dsim.tasks.serving.trials import Layout, Trial

MAX_SEQS, MAX_BATCHED_TOKENS = 128, 2048
METHODS = {"eagle3": "EAGLE3", "mtp": "NEXTN", NGRAM: "NGRAM"}  # in SGLang
PROMPT_LOOKUP_MAX = 4  # of vLLM: words that are looked up
# Where heads are published. Each is trained for one target.
HEADS = {
    "eagle3": "huggingface.co/yuhuili (by EAGLE-3's authors), huggingface.co/RedHatAI (for vLLM) "
    "and huggingface.co/lmsys (for SGLang)",
    "medusa": "huggingface.co/FasterDecoding (by Medusa's authors)",
}


def _model(drafter: str) -> str:
    """Name of the drafter on the hub; of a head, what is to be filled in."""
    if drafter in HEADS:
        return f"PATH-OF-{drafter.upper()}-HEAD"
    return str(shipped().get(shape_of(drafter).name, {}).get("hub", drafter))


def commands(question: Question, layout: Layout) -> list[str]:
    """Launch commands of vLLM and SGLang that mean the same."""
    hub, drafter = question.hub, question.drafter
    lengths = f"--max-num-seqs {MAX_SEQS} --max-num-batched-tokens {MAX_BATCHED_TOKENS}"
    vllm = f"vllm serve {hub} --tensor-parallel-size {layout.tp} {lengths}"
    sglang = f"python -m sglang.launch_server --model-path {hub} --tp {layout.tp}"
    sglang += f" --max-running-requests {MAX_SEQS} --chunked-prefill-size {MAX_BATCHED_TOKENS}"
    if question.dtype == "fp8":
        vllm, sglang = f"{vllm} --quantization fp8", f"{sglang} --quantization fp8"
    if layout.preset == NGRAM:
        config: dict[str, Any] = {"method": NGRAM, "num_speculative_tokens": layout.drafts}
        config["prompt_lookup_max"] = PROMPT_LOOKUP_MAX
        vllm += f" --speculative-config {shlex.quote(json.dumps(config))}"
        sglang += f" --speculative-algorithm {METHODS[NGRAM]}"
        sglang += f" --speculative-num-draft-tokens {layout.drafts + 1}"
    elif layout.drafts:
        config = {}
        model = None if drafter == "mtp" else _model(drafter)
        if drafter in ("eagle3", "medusa", "mtp"):
            config["method"] = drafter
        if model:
            config["model"] = model
        config["num_speculative_tokens"] = layout.drafts
        vllm += f" --speculative-config {shlex.quote(json.dumps(config))}"
        sglang += f" --speculative-algorithm {METHODS.get(drafter, 'STANDALONE')}"
        sglang += f" --speculative-draft-model-path {model}" if model else ""
        settings = PRESETS[layout.preset].settings if layout.preset else {}
        sglang += (
            f" --speculative-num-steps {settings.get('tree.depth', layout.drafts)}"
            f" --speculative-eagle-topk {settings.get('tree.branches', 1)}"
            f" --speculative-num-draft-tokens {layout.drafts + 1}"
        )
        if layout.preset:
            vllm = f"# vLLM has no flags for this tree ({layout.preset} of dsim presets)"
        if drafter == "medusa":
            sglang = "# SGLang does not serve Medusa's heads"
        elif layout.preset and "tree.depth" not in settings:
            sglang = f"# SGLang has no flags for this tree ({layout.preset} of dsim presets)"
    return [vllm, sglang]


def instead(advice: Advice, layout: Layout) -> Trial | None:
    """What vLLM can launch in place of a tree: the best, or fastest, like it, by as many requests.

    ``None``: vLLM launches *layout* itself, or nothing like it was tried.
    """
    if not layout.is_tree:
        return None
    others = [
        one
        for one in advice.ranking
        if one.layout.sharing == layout.sharing and one.layout.has_flags
    ]
    if layout == advice.best.layout:
        return next(iter(ranked(others, advice.headroom)), None)
    return next(iter(closest(others)), None)


def launch(advice: Advice, layout: Layout) -> list[tuple[str, str]]:
    """Names of servers, and the commands that launch a replica of *layout*."""
    vllm, sglang = commands(advice.question, layout)
    rows = [("vLLM", vllm), ("SGLang", sglang)]
    if other := instead(advice, layout):
        (tree,) = (one for one in advice.ranking if one.layout == layout)
        slower = other.e2e_mean / tree.e2e_mean - 1
        says = f"# best that vLLM can launch: {spoken(other.layout)}, {abs(slower):.0%} "
        says += f"{'slower' if slower >= 0 else 'faster'} (mean E2E)"
        says += "" if other.slack <= 1 or not advice.has_slo else "; it misses the SLO"
        rows[1:1] = [("vLLM", says), ("vLLM", commands(advice.question, other.layout)[0])]
    return rows


def spoken(layout: Layout) -> str:
    """The speculation of a layout in words."""
    return layout.method if layout.drafts else "no speculation"


def remarks(advice: Advice, layout: Layout) -> list[str]:
    """What the commands do not say."""
    found = []
    drafter = advice.question.drafter
    if layout.uses_acceptance and drafter in HEADS:
        found.append(
            f"PATH-OF-{drafter.upper()}-HEAD: a folder or a name on the hub. A head is trained for "
            f"one target; published ones are at {HEADS[drafter]}."
        )
    if layout.chooses:
        found.append(
            "Neither server chooses the number of drafts in every step; the commands draft the "
            f"most, {layout.drafts}."
        )
    if layout.readers:
        found.append(f"{plural(layout.readers, 'replica')} only for prompts: see their documents.")
    return found
