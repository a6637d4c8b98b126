"""Drafts behind one another, however many a forward of the drafter makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.words import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import ServerPort
    from dsim.model.case import Case
    from dsim.model.lookahead import Plan


def made_by(draft: Forward) -> Sequence[Any]:
    """The tokens that *draft* guessed; they may be none."""
    return [draft.token] if draft.tokens is None else draft.tokens


def add_block(
    made: Sequence[Any], tokens: list[Any], end: int, ends: Callable[[int], bool] | None
) -> bool:
    """Append the drafts *made* to *tokens*, up to position *end* or the first unsure draft.

    Args:
        made: what one forward guessed; it may be nothing.
        tokens: the text.
        end: no draft for this position or one behind it is wanted.
        ends: see :class:`dsim.model.lookahead.Plan`.

    Returns:
        Whether another forward is of use.
    """
    for token in made[: end - len(tokens)]:
        tokens.append(token)
        if ends is not None and ends(len(tokens) - 1):
            return False
    return bool(made)


def draft_up_to(
    end: int, drafter: ServerPort, output: Output, plan: Plan | None = None
) -> Generator[Forward]:
    """Draft up to position *end* of the text, or less: ``yield from`` this.

    However many tokens a forward guesses; where it guesses none, drafting is over.

    Args:
        end: no draft for this position or one behind it is wanted.
        drafter: the server of a drafter.
        output: the text.
        plan: where a block may end before; ``None``: it does not.
    """
    tokens, ends = output.tokens, None if plan is None else plan.ends
    while len(tokens) < end:
        draft = drafter.forward(len(tokens))
        yield draft
        if draft.cancelled:
            break
        if draft.tokens is None and ends is None:  # one token, as nearly always
            tokens.append(draft.token)
        elif not add_block(made_by(draft), tokens, end, ends):
            break


def a_draft_makes(case: Case, unit: str = "token") -> str:
    """How many tokens, or levels of a tree, a forward of the drafter makes, in words."""
    return f"one {unit}" if case.block_tokens == 1 else plural(case.block_tokens, unit)
