"""Whether a pair of models can do what an orchestration asks of it, before anything runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.backends.torch.models import class_of
from dsim.errors import Problem, UserError
from dsim.orchestrations import COMPARED, ORCHESTRATIONS, orchestration_of, title_of

if TYPE_CHECKING:
    from dsim.backends.torch.models import ModelSpec
    from dsim.backends.torch.verify import Rule
    from dsim.model.case import Decoding, TreeShape


def check_drafts(
    algorithm: str, decoding: Decoding, drafter: ModelSpec, rule: Rule, *, compiled: bool
) -> None:
    """See that *drafter* can make the drafts that *algorithm* asks for, and *rule* judge them.

    Args:
        algorithm: name of the orchestration.
        decoding: how the text is made.
        drafter: the drafter.
        rule: how drafts are judged.
        compiled: whether the models are compiled.

    Raises:
        UserError: with all problems that were found.
    """
    orchestration, shape = orchestration_of(algorithm), decoding.tree
    if not orchestration.traits.drafts:
        return
    problems = check_head(algorithm, drafter, compiled=compiled)
    if decoding.block_tokens > 1 and not (drafter.is_ngram or drafter.is_class):
        what = (
            f"{drafter} makes one token in a forward, so expected 1, got {decoding.block_tokens}; "
            "ngram and drafters of your own (module:Class) make several"
        )
        problems.append(Problem("--block-tokens", "", what))
    if orchestration.trees:
        if compiled:
            what = f"{orchestration.title} reads trees, which are not compiled; leave it away"
            problems.append(Problem("--compile", "", what))
        needs = drafter.is_class and widest(shape) > 1
        if needs and not callable(getattr(class_of(drafter.name), "candidates", None)):
            what = (
                f"{drafter} guesses one token, but a tree with up to {widest(shape)} choices "
                "needs a method candidates(tokens, count); or --tree-branches 1"
            )
            problems.append(Problem("--drafter", "", what))
        static = "tree.paths" in orchestration.reads
        if not rule.any_tree and (not shape.paths if static else shape.nodes is not None):
            way = "give its nodes by --tree-paths" if static else "leave --tree-nodes away"
            what = (
                f"{rule.name} is right only where what a draft is does not decide whether it is "
                f"on the tree; {way}, or take --rule match"
            )
            problems.append(Problem("--rule", "", what))
    if problems:
        raise UserError(*problems)


def check_head(algorithm: str, drafter: ModelSpec, *, compiled: bool = False) -> list[Problem]:
    """What keeps *algorithm* from drafting by *drafter*, if that lives on its target's features."""
    traits, problems = ORCHESTRATIONS[algorithm].traits, []
    if drafter.is_head and traits.drafts and traits.overlaps:
        fit = [name for name in compared(drafter) if ORCHESTRATIONS[name].traits.drafts]
        what = (
            f"{title_of(algorithm)} drafts while the target computes, but {drafter} needs what its "
            f"target makes of each token first; expected one of {', '.join(fit)}"
        )
        problems.append(Problem("--algorithm", "", what))
    if drafter.is_head and compiled:
        what = f"{drafter} reads what is inside of its target, which is not compiled; leave it"
        problems.append(Problem("--compile", "", what))
    return problems


def compared(drafter: ModelSpec) -> list[str]:
    """The orchestrations that are compared; of a head all that can draft by it."""
    if not drafter.is_head:
        return list(COMPARED)
    alone = ORCHESTRATIONS.items()
    return [name for name, one in alone if one.traits.live and not one.traits.overlaps]


def widest(shape: TreeShape) -> int:
    """How many candidates for one position a tree of *shape* may hold."""
    return max((path[-1] for path in shape.paths), default=shape.branches)
