"""Start one of the orchestrations on servers, whatever stands behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.events.order import DRAFT, PASS
from dsim.events.output import Output
from dsim.events.ports import SetupParts
from dsim.events.servers import Pool, Server, Servers
from dsim.model.case import Decoding
from dsim.orchestrations.registry import orchestration_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import simpy

    from dsim.events.forward import Backend
    from dsim.model.lookahead import Plan


class PrivateSetup(SetupParts):
    """Servers of its own for one run; see :class:`dsim.events.ports.Setup`."""

    def __init__(
        self,
        env: simpy.Environment,
        output: Output,
        drafter_backends: Sequence[Backend],
        target_backend: Backend,
        plan: Plan,
        *,
        targets: int,
        prefill: bool,
        keep_history: bool,
        decoding: Decoding,
        several: bool,
    ) -> None:
        self.env = env
        self.decoding = decoding
        self.output = output
        self.plan = plan
        self.prefill = prefill
        self.further_drafters = len(drafter_backends) - 1
        self.count = targets
        self.several = several
        self.keep_history = keep_history
        self.drafters = [
            Server(
                env,
                backend,
                Output(env, output.wanted) if number else output,
                role=f"drafter {number + 1}" if number else "drafter",
                priority=DRAFT,
                keep_history=keep_history,
            )
            for number, backend in enumerate(drafter_backends)
        ]
        self.target_backend = target_backend
        self.asked: Servers | None = None
        self._of_target: dict[str, Any] = {
            "role": "target",
            "priority": PASS,
            "keep_history": keep_history,
        }

    def drafter(self, number: int = 0) -> Server:
        """See :class:`dsim.events.ports.Setup`."""
        return self.numbered(self.drafters, number)

    def target(self) -> Server:
        """See :class:`dsim.events.ports.Setup`."""
        self.rightly(False, self.several)
        if not isinstance(self.asked, Server):
            self.asked = Server(self.env, self.target_backend, self.output, **self._of_target)
        return self.asked

    def targets(self) -> Pool:
        """See :class:`dsim.events.ports.Setup`."""
        self.rightly(True, self.several)
        if not isinstance(self.asked, Pool):
            self.asked = Pool(
                self.env, self.target_backend, self.output, count=self.count, **self._of_target
            )
        return self.asked


def start(
    algorithm: str,
    env: simpy.Environment,
    output: Output,
    *,
    drafter_backends: Sequence[Backend],
    target_backend: Backend,
    plan: Plan,
    targets: int,
    prefill: bool = False,
    keep_history: bool = False,
    decoding: Decoding = Decoding(),  # noqa: B008 (it never changes)
) -> tuple[list[Server], Servers]:
    """Schedule a run of *algorithm* in *env*; ``output.done`` happens at its end.

    Args:
        algorithm: a name in :data:`dsim.orchestrations.ORCHESTRATIONS`.
        env: the environment of the run.
        output: the text to generate.
        drafter_backends: what answers the forwards of each drafter, the fastest first.
        target_backend: what answers the target's forwards.
        plan: where ``k``, drafts per block, comes from.
        targets: ``S``, target servers, for orchestrations that make use of several.
        prefill: whether every target server of a pool has to read the prompt first.
        keep_history: whether the servers keep their forwards, for a timeline.
        decoding: how the text is made.

    Returns:
        The drafters, and the target server or servers.
    """
    declared = orchestration_of(algorithm)
    setup = PrivateSetup(
        env,
        output,
        drafter_backends,
        target_backend,
        plan,
        targets=targets,
        prefill=prefill,
        keep_history=keep_history,
        decoding=decoding,
        several=declared.traits.several_targets,
    )
    declared.starter()(setup)
    # A process may ask for its target only when it begins, which is later.
    target = setup.targets if declared.traits.several_targets else setup.target
    return setup.drafters, setup.asked or target()
