"""A workload on a deployment: one run of the event engine with many requests."""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from simpy.events import Event

from dsim.deployment.cost import GuessingBackend, RequestBackend
from dsim.deployment.fleet import Fleet, Guesser, OneAtATime, Several, Share
from dsim.deployment.host import Host
from dsim.deployment.outages import further_role
from dsim.deployment.workload import FAULTS, NETWORK, request_key, uniforms
from dsim.errors import EngineError
from dsim.events.environment import DRAFT, PASS, Environment
from dsim.events.output import Output
from dsim.model.acceptance import DRAFTER_STREAM, TARGET_STREAM, Uniforms, run_lengths
from dsim.model.lookahead import mean_rate
from dsim.orchestrations import ORCHESTRATIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    import simpy
    from numpy.typing import NDArray

    from dsim.deployment.spec import Deployment, Faults, FleetSpec
    from dsim.deployment.workload import Workload
    from dsim.model.latency import Latency

    Ints = NDArray[np.int64]

ARRIVE = PASS + 1  # after all that ends at the instant, so that it finds what is left
FAIL = -1  # before all else
DONE, LOST, TURNED_AWAY = 0, 1, 2
BLOCK = 4096
DRAFTERS = 1 << 20  # where the streams of failing drafters begin, pool by pool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tally:
    """What the servers of one fleet came to.

    Attributes:
        count: how many there are.
        busy_ns: for each, how long it computed.
        queue_area_ns: the integral of the number of forwards that wait for one, over time.
    """

    count: int
    busy_ns: tuple[int, ...]
    queue_area_ns: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counted:
    """What came of a workload, in numbers, as they are kept and sent from process to process.

    Arrays have one element a request, in order of arrival.

    Attributes:
        arrival_ns, start_ns, first_token_ns, done_ns, left_ns: int64; -1 where it never came to
            that. *start_ns* is when it was let in, *left_ns* when it was done or lost.
        prompt_tokens, output_tokens: int64.
        fate: int64, DONE, LOST or TURNED_AWAY.
        passes, wasted_passes, drafts, wasted_drafts: int64.
        found: int64, shape (requests, 3): how many requests were in the system, and how many
            forwards waited for a target and for a drafter server (of any pool), when a request
            arrived.
        tallies: of the target, the drafter (which non-SI leaves idle), and further drafters.
        end_ns: when the last request was over.
        in_system_area_ns: the integral of the number of requests in the system over time.
        events: how many events were scheduled.
    """

    arrival_ns: Ints
    start_ns: Ints
    first_token_ns: Ints
    done_ns: Ints
    left_ns: Ints
    prompt_tokens: Ints
    output_tokens: Ints
    fate: Ints
    passes: Ints
    wasted_passes: Ints
    drafts: Ints
    wasted_drafts: Ints
    found: Ints
    tallies: tuple[Tally, ...]
    end_ns: int
    in_system_area_ns: int
    events: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served(Counted):
    """What came of a workload, and what served it.

    Attributes:
        settled_ns, rejected_ns: for each request, when its tokens settled and its drafts were
            rejected (empty unless asked for).
        target, drafter, more_drafters: the fleets.
    """

    settled_ns: list[list[int]]
    rejected_ns: list[list[int]]
    target: Fleet
    drafter: Fleet
    more_drafters: tuple[Fleet, ...] = ()

    @property
    def fleets(self) -> tuple[Fleet, ...]:
        """All fleets: the target's, the drafter's, and those of further drafters."""
        return (self.target, self.drafter, *self.more_drafters)


def serve(
    deployment: Deployment,
    workload: Workload,
    replication: int = 0,
    *,
    keep_settled: bool = False,
    keep_log: bool = False,
    general: bool = False,
) -> Served:
    """Simulate *workload* on *deployment* until every request is over.

    Args:
        deployment: what serves.
        workload: what is asked.
        replication: which of several independent runs.
        keep_settled: keep when every token settled.
        keep_log: keep what every server did, for a trace.
        general: take the general way of :mod:`dsim.deployment.fleet` even where the plain one does.
    """
    return _Run(
        deployment, workload, replication, keep_settled, keep_log=keep_log, general=general
    ).run()


class _Run:
    def __init__(
        self,
        deployment: Deployment,
        workload: Workload,
        replication: int,
        keep_settled: bool,
        *,
        keep_log: bool,
        general: bool,
    ) -> None:
        self.deployment = deployment
        self.workload = workload
        self.replication = replication
        self.keep_settled = keep_settled
        self.env = env = Environment()
        d = deployment
        self.start = ORCHESTRATIONS[d.algorithm].starter()
        self.mean_rate = mean_rate(d.acceptance)
        hosts = [Host(env, d.slowdown) for _ in range(d.hosts)]
        dealt = itertools.cycle(hosts)

        def hosts_of(spec: FleetSpec) -> list[Host] | None:
            return list(itertools.islice(dealt, spec.servers)) if hosts else None

        common: dict[str, Any] = {
            "preemptible": d.preemptible,
            "general": general,
            "keep_log": keep_log,
            "lost": self._lost,
        }
        self.target = Fleet(
            env,
            role="target",
            priority=PASS,
            hosts=hosts_of(d.targets),
            delay_ns=self._network(),
            overhead_ns=d.overhead_ns,
            faults=bool(d.faults),
            retry=d.faults.retry,
            **common,
            **_fleet(d.targets),
        )
        pools = [
            ("drafter", d.drafters, d.drafter_faults),
            *(
                (further_role(number), pool.servers, pool.faults)
                for number, pool in enumerate(d.more_pools, 1)
            ),
        ]
        self.drafters = [
            Fleet(
                env,
                role=role,
                priority=DRAFT,
                hosts=hosts_of(spec),
                faults=bool(faults),
                retry=faults.retry,
                **common,
                **_fleet(spec),
            )
            for role, spec, faults in pools
        ]
        self.fleets = [self.target, *self.drafters]
        self.faults = [d.faults, *(faults for _, _, faults in pools)]
        self.gone: dict[Fleet, set[int]] = {fleet: set() for fleet in self.fleets}
        self.yet_to_come = 0  # arrivals that are scheduled
        seed, count = d.seed, workload.count
        self.arrivals = workload.arrival_ns(seed, replication).tolist()
        prompts, outputs = workload.lengths(seed, replication)
        self.prompts, self.outputs = prompts.tolist(), outputs.tolist()
        self.rates = workload.rates(seed, replication, d.acceptance).tolist()
        key = request_key(replication, 0)
        more = [pool.drafter.latency for pool in d.more_pools]
        self.target_model = _Model(
            self.target, d.target, d.targets, d.target.sampler(seed, key, TARGET_STREAM)
        )
        samples = [
            d.drafter.sampler(seed, key, DRAFTER_STREAM),
            *(latency.sampler(0, 0, 0) for latency in more),  # constant
        ]
        self.drafter_models = list(
            map(_Model, self.drafters, [d.drafter, *more], [s for _, s, _ in pools], samples)
        )
        # The fastest leads.
        self.by_speed = sorted(
            range(len(samples)), key=lambda i: self.drafter_models[i].latency.latency_ns
        )
        self.columns = {
            name: np.full(count, -1, dtype=np.int64)
            for name in ("arrival_ns", "start_ns", "first_token_ns", "done_ns", "left_ns", "fate")
        }
        self.counts = np.zeros((count, 4), dtype=np.int64)
        self.found = np.zeros((count, 3), dtype=np.int64)
        self.settled: list[list[int]] = [[] for _ in range(count if keep_settled else 0)]
        self.rejected: list[list[int]] = [[] for _ in range(count if keep_settled else 0)]
        self.shares: dict[int, tuple[Share, ...]] = {}
        self.active = 0
        self.door: list[int] = []  # requests that wait to be let in
        self.over = 0
        self.in_system_area_ns = 0
        self.in_system_changed_ns = 0
        self.end_ns = 0
        self.finished = env.event()

    def run(self) -> Served:
        workload, env = self.workload, self.env
        if workload.arrivals == "closed":
            self.sent = 0
            self.thinking = workload.thinking_ns(self.deployment.seed, self.replication)
            for _ in range(min(workload.users, workload.count)):
                self._send_next(0)
        else:
            self._arrival_of(0)
        for number, (fleet, faults) in enumerate(zip(self.fleets, self.faults, strict=True)):
            self._disturb(fleet, faults, number * DRAFTERS)
        while self.over < workload.count:
            try:
                env.run(until=self.finished)
            except RuntimeError as error:
                if "ran dry" not in str(error):
                    raise
                self._strand()
        return self._result()

    def _at(self, at_ns: int, priority: int, do: Callable[[int], None], what: int) -> None:
        event = Event(self.env)
        event._ok, event._value = True, None
        event.callbacks = [lambda _: do(what)]
        self.env.schedule(event, priority, at_ns - self.env._now)  # type: ignore[arg-type]

    # -- requests ------------------------------------------------------------------------------

    def _arrival_of(self, number: int) -> None:
        if number < len(self.arrivals):
            self.yet_to_come += 1
            self._at(self.arrivals[number], ARRIVE, self._next_arrives, number)

    def _next_arrives(self, number: int) -> None:
        self._arrives(number)
        self._arrival_of(number + 1)

    def _send_next(self, delay_ns: int) -> None:
        if self.sent < self.workload.count:
            number, self.sent = self.sent, self.sent + 1
            self.yet_to_come += 1
            now: int = self.env._now  # type: ignore[assignment]
            self._at(now + delay_ns, ARRIVE, self._arrives, number)

    def _arrives(self, number: int) -> None:
        columns, deployment = self.columns, self.deployment
        now: int = self.env._now  # type: ignore[assignment]
        self.yet_to_come -= 1
        columns["arrival_ns"][number] = now
        self.found[number] = (
            self.active + len(self.door),
            self.target.waiting,
            sum(fleet.waiting for fleet in self.drafters),
        )
        if deployment.max_active and self.active >= deployment.max_active:
            if deployment.max_waiting is None or len(self.door) < deployment.max_waiting:
                self._count_system(1)
                self.door.append(number)
                return
            columns["fate"][number] = TURNED_AWAY
            self._is_over()
            return
        self._count_system(1)
        self._let_in(number)

    def _count_system(self, change: int) -> None:
        now: int = self.env._now  # type: ignore[assignment]
        self.in_system_area_ns += self.in_system * (now - self.in_system_changed_ns)
        self.in_system_changed_ns = now
        self.in_system += change

    in_system = 0

    def _let_in(self, number: int) -> None:
        env, d = self.env, self.deployment
        now: int = env._now  # type: ignore[assignment]
        self.active += 1
        self.columns["start_ns"][number] = now
        output = Output(env, self.outputs[number])
        draws = draws_of(d, self.replication, number, output.wanted, self.rates[number])
        output.done.callbacks.append(lambda _: self._done(number))
        self.start(_Request(self, number, output, draws))

    def _done(self, number: int) -> None:
        self._leaves(number, DONE)

    def _lost(self, share: Share) -> None:
        if share.request in self.shares:
            self._leaves(share.request, LOST)

    def _leaves(self, number: int, fate: int) -> None:
        now: int = self.env._now  # type: ignore[assignment]
        target, *drafters = self.shares.pop(number)
        output, columns = target.output, self.columns
        columns["fate"][number] = fate
        columns["left_ns"][number] = now
        if output.settled_ns:
            columns["first_token_ns"][number] = output.settled_ns[0]
        if fate == DONE:
            columns["done_ns"][number] = now
        drafts = sum(drafter.begun for drafter in drafters)
        self.counts[number] = (target.begun, target.cancelled, drafts, drafts - output.accepted)
        if self.keep_settled:
            self.settled[number] = output.settled_ns
            self.rejected[number] = [output.settled_ns[p] for p in output.rejections]
        for share in (target, *drafters):
            share.fleet.close(share, lost=fate == LOST)
        self._count_system(-1)
        self.active -= 1
        if fate == LOST:
            self.target.serve()
        if self.door:
            self._let_in(self.door.pop(0))
        self._is_over()

    def _is_over(self) -> None:
        self.over += 1
        self.end_ns = self.env._now  # type: ignore[assignment]
        if self.workload.arrivals == "closed":
            self._send_next(next(self.thinking) if self.workload.think_ns else 0)
        if self.over == self.workload.count:
            self.finished.succeed()

    def _strand(self) -> None:
        """No event is left: whoever is still here waits for servers that never come back."""
        # (Nobody waits for further drafters in earnest: DSI goes on without.)
        some_up = all(len(fleet.down) < fleet.count for fleet in self.fleets[:2])
        if not self.shares or some_up:
            raise EngineError(f"{len(self.shares)} requests wait for servers that are idle")
        while self.shares:
            self._leaves(next(iter(self.shares)), LOST)

    # -- disturbances --------------------------------------------------------------------------

    def _disturb(self, fleet: Fleet, faults: Faults, part: int) -> None:
        """Schedule the failures of *fleet*; its streams begin at *part*."""
        for server, fails_ns, _ in faults.plan:  # first: no life between outages that touch
            self._at(fails_ns, FAIL, fleet.fail, server)
        for server, fails_ns, recovers_ns in faults.plan:
            if recovers_ns >= 0:
                self._at(recovers_ns, FAIL, fleet.recover, server)
            else:
                self._at(fails_ns, FAIL, self.gone[fleet].add, server)
        if faults.mtbf_ns:
            for server in range(fleet.count):
                self.env.process(self._failing(fleet, faults, server, part + server))

    def _failing(self, fleet: Fleet, faults: Faults, server: int, part: int) -> Generator[Event]:
        stream = uniforms(self.deployment.seed, self.replication, FAULTS, part)
        while server not in self.gone[fleet]:
            up, down = -np.log1p(-stream.next(2))
            yield self.env.timeout(max(1, round(up * faults.mtbf_ns)))
            fleet.fail(server)
            yield self.env.timeout(max(1, round(down * faults.mttr_ns)))
            fleet.recover(server)
            if self._helpless():
                return  # nobody can be helped by what comes and goes here (see _strand)

    def _helpless(self) -> bool:
        """Whether all who are here wait for servers that never come back."""
        lost = [fleet for fleet in self.fleets if len(self.gone[fleet]) == fleet.count]
        if not lost or self.yet_to_come:
            return False
        return not any(f.busy or (f.waiting and f not in lost) for f in self.fleets)

    def _network(self) -> Callable[[int], int] | None:
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

    def _result(self) -> Served:
        self._count_system(0)
        for fleet in self.fleets:
            fleet.note_running()
        names = ("passes", "wasted_passes", "drafts", "wasted_drafts")
        order = np.argsort(self.columns["arrival_ns"], kind="stable")
        rows = {name: column[order] for name, column in self.columns.items()}
        return Served(
            **rows,
            prompt_tokens=np.array(self.prompts, dtype=np.int64)[order],
            output_tokens=np.array(self.outputs, dtype=np.int64)[order],
            **dict(zip(names, self.counts[order].T, strict=True)),
            settled_ns=[self.settled[i] for i in order] if self.keep_settled else [],
            rejected_ns=[self.rejected[i] for i in order] if self.keep_settled else [],
            found=self.found[order],
            tallies=tuple(
                Tally(
                    count=fleet.count,
                    busy_ns=tuple(fleet.busy_ns),
                    queue_area_ns=fleet.queue_area_ns,
                )
                for fleet in self.fleets
            ),
            target=self.target,
            drafter=self.drafters[0],
            more_drafters=tuple(self.drafters[1:]),
            end_ns=self.end_ns,
            in_system_area_ns=self.in_system_area_ns,
            events=self.env.scheduled,
        )


class _Model(NamedTuple):
    """One of the models, and where it runs."""

    fleet: Fleet
    latency: Latency
    spec: FleetSpec
    sample: int | Callable[[int, bool], int]


class _Request:
    """One request's shares of the fleets; see :class:`dsim.orchestrations.start.Setup`."""

    def __init__(self, run: _Run, number: int, output: Output, draws: NDArray[np.bool_]) -> None:
        self.env: simpy.Environment = run.env
        self.output = output
        self._run = run
        self._number = number
        d = run.deployment
        rate = run.rates[number] if d.acceptance.model != "trace" else run.mean_rate
        key = request_key(run.replication, number)
        self.plan = d.policy.plan_of(d.lookahead, draws, rate, d.seed, key)
        self.prefill = d.target.first_ns is not None or d.targets.prefill_token_ns > 0
        # What drafts are: several drafters' are told apart, of one only the luck counts.
        self._several = ORCHESTRATIONS[d.algorithm].takes_further_drafters
        self._lengths = () if self._several else run_lengths(draws)
        own = [draws]
        for further, pool in enumerate(d.more_pools):
            own.append(pool.drafter.draws(draws, run.mean_rate, d.seed, key, further))
        self._drafters = [
            self._share(
                Guesser if self._several else OneAtATime,
                run.drafter_models[number],
                Output(run.env, output.wanted) if place else output,
                own[number].tolist(),
                place + 1,
            )
            for place, number in enumerate(run.by_speed)
        ]
        self.further_drafters = len(self._drafters) - 1

    def drafter(self, number: int = 0) -> Any:
        """See :class:`dsim.orchestrations.start.Setup`."""
        return self._drafters[number]

    def target(self) -> Any:
        """See :class:`dsim.orchestrations.start.Setup`."""
        return self._asked(OneAtATime)

    def targets(self) -> Any:
        """See :class:`dsim.orchestrations.start.Setup`."""
        return self._asked(Several, most=self._run.deployment.most_passes)

    def _asked(self, kind: type[Share], **more: Any) -> Share:
        target = self._share(kind, self._run.target_model, self.output, **more)
        self._run.shares[self._number] = (target, *self._drafters)
        return target

    def _share(
        self,
        kind: type[Share],
        model: _Model,
        output: Output,
        draws: Sequence[bool] = (),
        number: int = 0,
        **more: Any,
    ) -> Share:
        run, d = self._run, self._run.deployment
        prompt_tokens = run.prompts[self._number]
        prefill_ns = None
        token_ns = model.spec.prefill_token_ns
        if token_ns:
            prefill_ns = max(model.latency.latency_ns, round(token_ns * prompt_tokens))
        costs: dict[str, Any] = {
            "preemptible": d.preemptible,
            "prefill_ns": prefill_ns,
            "token_ns": token_ns,
        }
        first = (self.env, model.latency, model.sample)
        backend = (
            GuessingBackend(*first, draws, number, **costs)
            if self._several
            else RequestBackend(*first, self._lengths, **costs)
        )
        return kind(
            model.fleet,
            backend,
            output,
            request=self._number,
            text=self.output,
            prompt_tokens=prompt_tokens,
            remote=d.algorithm != "nonsi",
            **more,
        )


def _fleet(spec: FleetSpec) -> dict[str, Any]:
    return {
        "count": spec.servers,
        "discipline": spec.discipline,
        "max_batch": spec.max_batch,
        "context_ns": spec.context_ns,
        "sequence_ns": spec.sequence_ns,
        "kv_tokens": spec.kv_tokens,
        "affinity": spec.affinity,
    }


def draws_of(
    deployment: Deployment, replication: int, number: int, tokens: int, rate: float
) -> NDArray[np.bool_]:
    """How the drafts of request *number* fare: bool, shape (tokens,).

    A trace is replayed request by request.
    """
    acceptance = deployment.acceptance
    if acceptance.model == "trace":
        trace = acceptance.traces[number % len(acceptance.traces)]
        acceptance = dataclasses.replace(acceptance, traces=(trace,))
        replayed: NDArray[np.bool_] = acceptance.draws(0, 1, tokens)[0]
        return replayed
    if rate != acceptance.rate:
        acceptance = dataclasses.replace(acceptance, rate=rate)
    u = Uniforms(deployment.seed, request_key(replication, number)).next(tokens)
    draws: NDArray[np.bool_] = acceptance.judge(u[None, :])[0]
    return draws
