"""SI: speculative inference (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.orchestrations.declaration import LOOKAHEAD, Orchestration, Traits, Work, least_work
from dsim.orchestrations.drafting import add_block
from dsim.units import to_ms

if TYPE_CHECKING:
    from collections.abc import Collection, Generator

    from dsim.events.forward import Forward
    from dsim.events.output import Output
    from dsim.events.ports import ServerPort, Setup
    from dsim.model.case import Case
    from dsim.model.lookahead import Plan
    from dsim.model.script import Script


def si(drafter: ServerPort, target: ServerPort, output: Output, plan: Plan) -> Generator[Forward]:
    """Draft up to ``plan.tokens`` tokens, verify them in one pass, and again; nothing overlaps."""
    tokens, verify = output.tokens, target.backend.verify
    judged, ends = plan.judged, plan.ends
    while not output.finished:
        settled = output.settled
        block = (settled, plan.tokens, output.wanted)
        end = min(settled + plan.tokens, output.wanted - 1)
        while len(tokens) < end:
            draft = drafter.forward(len(tokens), end - len(tokens) - 1, block)
            yield draft
            if draft.tokens is not None:
                if not add_block(draft.tokens, tokens, end, ends):
                    break
                continue
            tokens.append(draft.token)
            if ends is not None and ends(len(tokens) - 1):
                break
        forward = target.forward(settled, 0, block)
        yield forward
        accepted, token = verify(forward, settled, tokens[settled:])
        if judged is not None:
            judged(accepted, len(tokens) - settled)
        output.settle(accepted, token)


def start(setup: Setup) -> None:
    """Schedule a run."""
    setup.env.process(si(setup.drafter(), setup.target(), setup.output, setup.plan))


def work(script: Script) -> Work:
    """One pass and its drafts a round; a lower bound where drafts are not always one a forward."""
    decoding = script.decoding
    if decoding.block_tokens > 1 or not decoding.acceptance.plain:
        return least_work(script)
    lengths, plan = script.runs(), script.plan
    tokens, widths, settled, drafts = len(lengths), [], 0, 0
    while settled < tokens:
        made = min(plan.tokens, tokens - settled - 1)
        if plan.ends is not None:
            unsure = (i + 1 for i in range(made) if plan.ends(settled + i))
            made = next(unsure, made)
        drafts += made
        widths.append(made + 1)
        accepted = min(made, lengths[settled])
        if plan.judged is not None:
            plan.judged(accepted, made)
        settled += accepted + 1
    return Work(widths, drafts, exact=True)


def why(case: Case, others: Collection[str]) -> str:
    """Why it is the fastest."""
    reasons = []
    if "nonsi" in others:
        passes = f"{to_ms(case.target.latency_ns):g} ms each"
        reasons.append(f"needs fewer passes ({passes}) than non-SI has tokens")
    if "dsi" in others:
        reasons.append(
            "has shorter waits than DSI here, whose drafter or target servers "
            f"({case.targets}) are too slow or too few for its lookahead"
        )
    return f"it {', and '.join(reasons)}" if reasons else ""


ORCHESTRATION = Orchestration(
    name="si",
    title="SI",
    colour="#dc7e24",
    meaning="draft a block, verify it, and again; nothing overlaps",
    start=start,
    reads=LOOKAHEAD,
    traits=Traits(lockstep=True),
    work=work,
    why=why,
    vector="dsim.engines.vector.alternating:SI",
)
