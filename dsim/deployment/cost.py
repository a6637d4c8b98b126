"""The backend of one request: how long its forwards take, and what becomes of its drafts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dsim.backends.simulated import Simulated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import simpy

    from dsim.events.forward import Forward
    from dsim.events.servers import Servers
    from dsim.model.latency import Latency


class RequestBackend(Simulated):
    """The simulated backend of one request on one fleet: verdicts and latencies.

    The fleet decides when a forward begins.

    Args:
        env: the environment of the run.
        latency: latency of the fleet's model.
        sample: sampler of that latency, shared by the requests: the *n*-th forward that begins
            gets the *n*-th sample.
        run_lengths, guesses, more: see :class:`dsim.backends.simulated.Simulated`.
        preemptible: whether a cancelled forward frees its server at once.
        prefill_ns: latency of a server's first forward for this request; ``None``: as *latency*
            says.
        token_ns: time to read one token of the text again, where a server has lost it.

    Attributes:
        constant_ns: latency of every forward, or 0 where latencies differ.
        sample: a function of (width, prefill); a :class:`dsim.model.latency.TableSampler` where
            *latency* is a table.
    """

    sample: Any

    def __init__(
        self,
        env: simpy.Environment,
        latency: Latency,
        sample: int | Callable[[int, bool], int],
        run_lengths: Sequence[int],
        guesses: Sequence[int] | None = None,
        *,
        preemptible: bool,
        prefill_ns: int | None = None,
        token_ns: float = 0.0,
        **more: Any,
    ) -> None:
        super().__init__(env, sample, run_lengths, guesses, preemptible=preemptible, **more)
        self.latency = latency
        self.prefill_ns = prefill_ns
        self.token_ns = token_ns
        self.constant_ns = 0 if callable(sample) or prefill_ns is not None else sample
        self.sample = sample if callable(sample) else lambda _width, _prefill: sample

    def attach(self, _: Servers) -> Callable[[Forward], None]:
        """Nothing to do: :class:`dsim.deployment.fleet.Fleet` begins the forwards."""
        return self._begun_by_the_fleet

    @staticmethod
    def _begun_by_the_fleet(forward: Forward) -> None:
        raise AssertionError(f"{forward} was begun without its fleet")

    def latency_of(self, call: Forward, server: int) -> int:
        """How long *call* takes alone on *server*, which has cached afterwards what it read."""
        prefill = server not in self._cached
        width = self.width(call)
        if prefill and self.prefill_ns is not None:
            return self.prefill_ns + round(self.token_ns * call.end)
        latency_ns: int = self.sample(width, prefill)
        return latency_ns

    def reads_prompt(self, server: int) -> bool:
        """Whether the next forward on *server* reads the prompt, at a latency of its own."""
        own = self.prefill_ns is not None or self.latency.first_ns is not None
        return own and server not in self._cached

    def cached_tokens(self, server: int) -> int:
        """How much of the text *server* has cached; -1: not even the prompt."""
        return self._cached.get(server, (-1, 0))[0]

    def forget(self, server: int) -> None:
        """*server* has lost what it had cached of this request."""
        self._cached.pop(server, None)
