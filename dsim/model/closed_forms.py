"""Closed forms, each with its source. Tests hold the engines against them.

"The paper" is Timor et al., *Distributed Speculative Inference*, arXiv 2405.14105.
"""

from __future__ import annotations


def targets_equation1(
    drafter_ns: int, target_ns: int, lookahead: int, block_tokens: int = 1
) -> int:
    """Target servers that DSI needs, by Equation 1 of the paper: ``⌈t2 / (k·t1)⌉``.

    With drafts of *block_tokens* tokens a forward, ``k`` tokens take ``⌈k / block_tokens⌉·t1``.
    """
    return -(-target_ns // (-(-lookahead // block_tokens) * drafter_ns))


def targets_enough(drafter_ns: int, target_ns: int, lookahead: int, block_tokens: int = 1) -> int:
    """Target servers with which no pass of DSI ever waits: one more than Equation 1.

    The one more is for the last, partial block (``docs/model.md``, "Theorems").
    """
    return targets_equation1(drafter_ns, target_ns, lookahead, block_tokens) + 1


def dsi_branch_ns(drafter_ns: int, target_ns: int, lookahead: int, accepted: int, left: int) -> int:
    """How long a DSI branch takes that accepts *accepted* of the *left* drafts there are to make.

    ``min(⌈n/k⌉·k, r)·t1 + t2`` (``docs/model.md``, "Theorems"). It holds for ``k·t1 ≤ t2`` and
    :func:`targets_enough` servers.
    """
    blocks = -(-accepted // lookahead)
    return min(blocks * lookahead, left) * drafter_ns + target_ns


def dsi_expected(drafter: float, target: float, acceptance: float, tokens: int) -> float:
    """Expected latency of DSI with lookahead 1 and enough servers, in the unit of the latencies.

    Proposition 1 of the paper: ``t1·p·(N-1) + t2·((1-p)·(N-1) + 1)``. It holds for ``t1 ≤ t2``.
    """
    rest = tokens - 1
    return drafter * acceptance * rest + target * ((1 - acceptance) * rest + 1)


def si_tokens_per_round(acceptance: float, lookahead: int) -> float:
    """Expected tokens that a round of SI settles: ``(1 - p^(k+1)) / (1 - p)``.

    Leviathan et al., arXiv 2211.17192, Equation 1; for i.i.d. draws, far from the end of the text.
    """
    if acceptance == 1:
        return lookahead + 1.0
    return (1 - acceptance ** (lookahead + 1)) / (1 - acceptance)


def rate_of_length(tokens: float, lookahead: int) -> float:
    """The acceptance rate at which a round of SI settles *tokens* on average.

    The inverse of :func:`si_tokens_per_round`, by bisection.

    Raises:
        ValueError: no rate gives so many tokens (1 … *lookahead* + 1).
    """
    if not 1 <= tokens <= lookahead + 1:
        raise ValueError(f"expected 1 to {lookahead + 1} tokens, got {tokens:g}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = si_tokens_per_round(middle, lookahead) < tokens
        low, high = (middle, high) if below else (low, middle)
    return high


def si_per_token(drafter: float, target: float, acceptance: float, lookahead: int) -> float:
    """Expected latency of SI per token, in the unit of the latencies, in a long text.

    Leviathan et al., arXiv 2211.17192, Theorem 3.8.
    """
    return (lookahead * drafter + target) / si_tokens_per_round(acceptance, lookahead)


def si_own_bonus(
    drafter: float, target: float, acceptance: float, lookahead: int
) -> tuple[float, float]:
    """SI whose drafter does not read the target's own token behind accepted drafts.

    PipeSpec's code (github.com/BradMcDanel/pipespec at 9a64774, ``ChainSpeculativeDecoder``) has SI
    like this: after a round in which all ``k`` drafts stand, the drafter makes a draft for the
    position of the target's own token, too, then its ``k`` drafts. Where that one is wrong, the
    next pass verifies none of them. The lookahead may be 0.

    Returns:
        Expected tokens that a pass settles, and latency per token in the unit of the latencies; for
        i.i.d. draws, in a long text.
    """
    whole = acceptance**lookahead  # chance that all drafts of a round stand
    void = whole * (1 - acceptance)  # passes, a round, that verify no draft
    tokens = si_tokens_per_round(acceptance, lookahead) + void
    passes, drafts = 1 + void, lookahead * (1 + void) + whole
    return tokens / passes, (drafts * drafter + passes * target) / tokens


def pearl_per_step(acceptance: float, lookahead: int) -> float:
    """Expected tokens that a step of PEARL settles: ``[1/(1 - p)] / [1 + p/(1 - p^γ)]``.

    Liu et al., arXiv 2408.11850; for i.i.d. draws, in a long text. A step takes as long as the
    longer of a pass and ``γ`` drafts.
    """
    if acceptance == 1:
        return float(lookahead)
    return 1 / (1 - acceptance) / (1 + acceptance / (1 - acceptance**lookahead))
