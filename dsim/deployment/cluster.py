"""The fleets of a deployment in one run, and what each request asks them for."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from dsim.deployment.cost import RequestBackend
from dsim.deployment.fleet import Fleet
from dsim.deployment.host import Host
from dsim.deployment.outages import further_role
from dsim.deployment.shares import FleetShare, SharedPool, SharedServer
from dsim.deployment.workload import NETWORK, request_key, uniforms
from dsim.events.order import DRAFT, PASS
from dsim.events.output import Output
from dsim.events.ports import SetupParts
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM, Uniforms
from dsim.model.script import script_of
from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import simpy
    from numpy.typing import NDArray

    from dsim.deployment.calls import Share
    from dsim.deployment.spec import Deployment, FleetSpec
    from dsim.model.case import Decoding
    from dsim.model.latency import Latency

S = TypeVar("S", bound=FleetShare)
BLOCK = 4096  # random numbers drawn at once


class Model(NamedTuple):
    """One of the models, and the servers that it runs on."""

    fleet: Fleet
    latency: Latency
    spec: FleetSpec
    sample: int | Callable[[int, bool], int]


class Cluster:
    """The fleets of *deployment* in one run.

    Args:
        env: the environment of the run.
        deployment: what serves.
        replication: number of the replication.
        lost: called with a share of each request that a failure loses.
        full: take the full path of :mod:`dsim.deployment.fleet` even where the fast one would do.
        keep_log: keep what every server did, for a trace.

    Attributes:
        target: the target's fleet.
        drafters: the drafter's fleet, and those of further drafters.
    """

    def __init__(
        self,
        env: simpy.Environment,
        deployment: Deployment,
        replication: int,
        *,
        lost: Callable[[Share], None],
        full: bool = False,
        keep_log: bool = False,
    ) -> None:
        self.env = env
        self.deployment = d = deployment
        self.replication = replication
        hosts = [Host(env, d.slowdown) for _ in range(d.hosts)]
        dealt = itertools.cycle(hosts)

        def fleet(spec: FleetSpec, role: str, faults: Any, priority: int, **more: Any) -> Fleet:
            return Fleet(
                env,
                spec,
                role=role,
                priority=priority,
                preemptible=d.preemptible,
                hosts=list(itertools.islice(dealt, spec.servers)) if hosts else None,
                failing=bool(faults),
                retry=faults.retry,
                lost=lost,
                full=full,
                keep_log=keep_log,
                **more,
            )

        link = {"delay_ns": self._network(), "overhead_ns": d.overhead_ns}
        self.target = fleet(d.targets, "target", d.faults, PASS, **link)
        pools = [
            ("drafter", d.drafters, d.drafter_faults),
            *(
                (further_role(number), pool.servers, pool.faults)
                for number, pool in enumerate(d.more_pools, 1)
            ),
        ]
        self.drafters = [fleet(spec, role, faults, DRAFT) for role, spec, faults in pools]
        self.fleets = (self.target, *self.drafters)
        self.faults = (d.faults, *(faults for *_, faults in pools))
        key = request_key(replication, 0)
        sample = d.target.sampler(d.seed, key, TARGET_STREAM)
        self.target_model = Model(self.target, d.target, d.targets, sample)
        more = [pool.drafter.latency for pool in d.more_pools]
        samples = [
            d.drafter.sampler(d.seed, key, DRAFTER_STREAM),
            *(latency.sampler(0, 0, 0) for latency in more),  # constant
        ]
        specs = [spec for _, spec, _ in pools]
        self.drafter_models = list(map(Model, self.drafters, [d.drafter, *more], specs, samples))
        self.models = (self.target_model, *self.drafter_models)

    def _network(self) -> Callable[[int], int] | None:
        """What draws the time of one message to or from a target server, by its number."""
        d = self.deployment
        if not d.network_ns and not any(d.link_ns):
            return None
        links = d.link_ns or (d.network_ns,) * d.targets.servers
        if not d.network_cv:
            return lambda server: links[server]
        from scipy.special import ndtri

        sigma = float(np.sqrt(np.log1p(d.network_cv**2)))
        stream = uniforms(d.seed, self.replication, NETWORK)

        def scales() -> Iterator[float]:
            while True:
                u = np.clip(stream.next(BLOCK), 2.0**-54, 1 - 2.0**-53)
                yield from np.exp(sigma * ndtri(u) - sigma**2 / 2).tolist()

        draw = scales().__next__
        return lambda server: max(1, round(links[server] * draw())) if links[server] else 0


class Request(SetupParts):
    """One request, as an orchestration starts from it: its text and its shares of the fleets.

    See :class:`dsim.events.ports.Setup`.

    Args:
        cluster: the fleets.
        number: number of the request.
        output: the text to generate.
        rate: acceptance rate of the request's drafts.
        prompt_tokens: length of the prompt.
        accepts: which of its drafts are accepted, where the workload says so.

    Attributes:
        shares: the shares that were asked for, the target's first.
    """

    def __init__(
        self,
        cluster: Cluster,
        number: int,
        output: Output,
        rate: float,
        prompt_tokens: int,
        accepts: str = "",
    ) -> None:
        self.env: simpy.Environment = cluster.env
        self.output = output
        self._cluster = cluster
        self._several = ORCHESTRATIONS[cluster.deployment.algorithm].traits.several_targets
        self._number = number
        self._prompt_tokens = prompt_tokens
        d = cluster.deployment
        self.decoding: Decoding = d
        ranks = ranks_of(d, cluster.replication, number, output.wanted, rate, accepts)
        self._script = script = script_of(
            d,
            ranks,
            request_key(cluster.replication, number),
            further=[pool.drafter for pool in d.more_pools],
            rate=rate if d.acceptance.model != "trace" else None,
        )
        self.plan = script.plan
        self.prefill = d.target.first_ns is not None or d.targets.prefill_token_ns > 0
        self._drafters = [
            self._share(
                SharedServer,
                cluster.drafter_models[drafter],
                Output(self.env, output.wanted) if place else output,
                script.guesses[place],
                script.block_of(place),
            )
            for place, drafter in enumerate(script.order)
        ]
        self.shares: tuple[FleetShare, ...] = tuple(self._drafters)
        self.further_drafters = len(self._drafters) - 1

    def drafter(self, number: int = 0) -> SharedServer:
        """See :class:`dsim.events.ports.Setup`."""
        return self.numbered(self._drafters, number)

    def target(self) -> SharedServer:
        """See :class:`dsim.events.ports.Setup`."""
        self.rightly(False, self._several)
        return self._asked(SharedServer)

    def targets(self) -> SharedPool:
        """See :class:`dsim.events.ports.Setup`."""
        self.rightly(True, self._several)
        return self._asked(SharedPool, max_passes=self._cluster.deployment.most_passes)

    def _asked(self, kind: type[S], **more: Any) -> S:
        target = self._share(kind, self._cluster.target_model, self.output, **more)
        self.shares = (target, *self._drafters)
        return target

    def _share(
        self,
        kind: type[S],
        model: Model,
        output: Output,
        guesses: Sequence[int] | None = None,
        block: Callable[[int, int], list[int]] | None = None,
        **more: Any,
    ) -> S:
        d = self._cluster.deployment
        prefill_ns = None
        token_ns = model.spec.prefill_token_ns
        if token_ns:
            prefill_ns = max(model.latency.latency_ns, round(token_ns * self._prompt_tokens))
        backend = RequestBackend(
            self.env,
            model.latency,
            model.sample,
            self._script.lengths,
            guesses,
            preemptible=d.preemptible,
            prefill_ns=prefill_ns,
            token_ns=token_ns,
            script=self._script,
            block=block,
        )
        return kind(
            model.fleet,
            backend,
            output,
            request=self._number,
            text=self.output,
            prompt_tokens=self._prompt_tokens,
            remote=ORCHESTRATIONS[d.algorithm].traits.drafts,
            **more,
        )


def ranks_of(
    deployment: Deployment,
    replication: int,
    number: int,
    tokens: int,
    rate: float,
    accepts: str = "",
) -> NDArray[np.int8]:
    """How the drafts of request *number* fare: int8, shape (depths, tokens).

    Traces are replayed request by request.

    Args:
        deployment: what serves.
        replication: number of the replication.
        number: number of the request.
        tokens: length of the answer.
        rate: acceptance rate of the request's drafts.
        accepts: its own draws, where the workload has them.
    """
    acceptance = deployment.acceptance
    if accepts or acceptance.model == "trace":
        trace = accepts or acceptance.traces[number % len(acceptance.traces)]
        acceptance = dataclasses.replace(acceptance, model="trace", traces=(trace,))
        replayed: NDArray[np.int8] = acceptance.ranks(0, 1, tokens)[0]
        return replayed
    if rate != acceptance.rate:
        acceptance = dataclasses.replace(acceptance, rate=rate)
    u = Uniforms(deployment.seed, request_key(replication, number)).next(tokens)
    ranks: NDArray[np.int8] = acceptance.ranks_of(u[None, :])[0]
    return ranks
