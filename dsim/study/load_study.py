"""Load studies: the settings of :mod:`dsim.study.study`, and those of workload and deployment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsim.deployment.outages import further_role
from dsim.deployment.queue import DISCIPLINES
from dsim.deployment.spec import Deployment, Faults, FleetSpec, MorePool, Slo
from dsim.deployment.workload import ARRIVALS, Length, Workload, read_trace
from dsim.files import read_text
from dsim.orchestrations import ORCHESTRATIONS
from dsim.study import outages
from dsim.study.build import case_of
from dsim.study.checks import check_together
from dsim.study.loader import _Loader, parse
from dsim.study.setting import Setting
from dsim.study.settings import ALTERNATIVES, LOAD_TABLES, SETTINGS, TABLES
from dsim.study.study import points
from dsim.units import to_ns
from dsim.words import nearest, show

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from dsim.model.drafters import MoreDrafter
    from dsim.study.study import Study

MOST_SERVERS = 100_000


LONGEST = {"ms": 1e11, "s": 1e8}  # three years; an exponential draw with this mean fits 63 bits
LONGEST_WORKLOAD_S = 3e9  # in ns, with room to spare in 63 bits
MIN_RATE_PER_S = 1e-6


def _number(key: str, default: Any, unit: str, meaning: str, **more: Any) -> Setting:
    kind = "int" if isinstance(default, int) else "float"
    more = {"low": 0, "high": LONGEST.get(unit), **more}
    return Setting(
        key=key, type=more.pop("type", kind), default=default, unit=unit, meaning=meaning, **more
    )


def _fleet_settings(model: str) -> tuple[Setting, ...]:
    plural = f"{model}s"
    return (
        _number(
            f"cluster.{plural}",
            7 if model == "target" else 1,
            "servers",
            f"{model} servers, shared by all requests",
            low=1,
            high=MOST_SERVERS,
        ),
        Setting(
            key=f"cluster.{model}_discipline",
            type="str",
            default="fifo",
            choices=DISCIPLINES,
            meaning=f"who is next when a {model} server is free: fifo, lifo, shortest (fewest "
            "tokens to go), first-pass (requests with none in flight go first)",
        ),
        _number(
            f"cluster.{model}_batch",
            1,
            "forwards",
            f"most forwards, of different requests, that a {model} server does as one",
            low=1,
        ),
        _number(
            f"cluster.{model}_context_ms",
            0.0,
            "ms / 1000 tokens",
            f"what a forward of the {model} takes longer for its context",
        ),
        _number(
            f"cluster.{model}_sequence_ms",
            0.0,
            "ms",
            "what a batch takes longer for each forward but the first",
        ),
        _number(
            f"cluster.{model}_prefill_ms",
            0.0,
            "ms / 1000 tokens",
            f"reading the prompt, on each {model} server that has not cached it; "
            "0: as first_latency_ms says",
        ),
        _number(
            f"cluster.{model}_kv_tokens",
            0,
            "tokens",
            f"what the KV memory of a {model} server holds; 0: no limit",
        ),
        _number(
            f"cluster.gpus_per_{model}",
            1.0,
            "GPUs",
            f"of one {model} server",
        ),
        _number(
            f"cluster.{model}_watts",
            None,
            "W",
            f"what one GPU of a {model} server draws while it computes, and",
            type="float",
        ),
        _number(
            f"cluster.{model}_idle_watts",
            None,
            "W",
            "while it does not; not set: energy is not counted",
            type="float",
        ),
    )


def _of_more(name: str, unit: str, meaning: str) -> Setting:
    of_first = name.replace("more_", "")
    return Setting(
        key=f"cluster.{name}",
        type="float or list",
        default=None,
        low=0,
        unit=unit,
        meaning=f"multidsi: {meaning}, one number for all or a list; "
        f"not set: as cluster.{of_first}",
    )


LOAD_SETTINGS: tuple[Setting, ...] = (
    Setting(
        key="workload.arrivals",
        type="str",
        default="poisson",
        choices=ARRIVALS,
        meaning="poisson; gamma: with bursts; closed: users who wait for the answer; "
        "trace: replay workload.trace_file, or workload.trace",
    ),
    _number("workload.requests", 500, "requests", "how many are sent", low=1, high=2**31),
    _number("workload.rate_per_s", 1.0, "requests / s", "mean arrival rate", low=MIN_RATE_PER_S),
    _number(
        "workload.cv", 2.0, "", "gamma: standard deviation / mean of the time between", above=True
    ),
    _number("workload.users", 8, "users", "closed: how many there are", low=1),
    _number("workload.think_ms", 0.0, "ms", "closed: mean time between answer and next request"),
    _number("workload.prompt_tokens", 0, "tokens", "length of a prompt, or its mean"),
    _number("workload.prompt_cv", 0.0, "", "above 0: lengths of prompts are lognormal"),
    _number(
        "workload.output_cv", 0.0, "", "above 0: lengths of answers are lognormal, mean tokens"
    ),
    _number(
        "workload.acceptance_drift",
        0.0,
        "",
        "by how much the acceptance rate rises (below 0: falls) from the first request to the last",
        low=-1,
        high=1,
    ),
    Setting(
        key="workload.trace_file",
        type="str",
        default=None,
        sweep=False,
        meaning="trace: a CSV file with columns arrival_ms (or arrival_s), prompt_tokens and "
        "output_tokens; the first request comes at 0",
    ),
    Setting(
        key="workload.trace",
        type="str",
        default=None,
        sweep=False,
        meaning="trace: the text of such a file; a results folder keeps it so",
    ),
    _number(
        "workload.warm_up",
        0.1,
        "",
        "the part of the requests, from the first on, left out of times, throughput and goodput",
        high=0.9,
        sweep=False,
    ),
    *_fleet_settings("target"),
    *_fleet_settings("drafter"),
    Setting(
        key="cluster.more_drafters",
        type="int or list",
        default=1,
        low=1,
        high=MOST_SERVERS,
        unit="servers",
        meaning="multidsi: servers of each further drafter, one number for all or a list; what "
        "else is said of drafter servers holds for them, with times in proportion to the latency",
    ),
    _of_more("gpus_per_more_drafter", "GPUs", "of one server of a further drafter"),
    _of_more("more_drafter_watts", "W", "as cluster.drafter_watts, of further drafters"),
    _of_more("more_drafter_idle_watts", "W", "as cluster.drafter_idle_watts"),
    Setting(
        key="cluster.affinity",
        type="bool",
        default=False,
        meaning="prefer a free target server that has cached the request's text",
    ),
    _number("cluster.network_ms", 0.0, "ms", "one-way delay between drafter and targets"),
    Setting(
        key="cluster.link_ms",
        type="list of delays",
        default=None,
        unit="ms",
        sweep=False,
        meaning="instead of cluster.network_ms: the delay of each target server's link, as many",
    ),
    _number("cluster.network_cv", 0.0, "", "their standard deviation / mean (lognormal jitter)"),
    _number("cluster.dispatch_ms", 0.0, "ms", "what each dispatch of a target pass costs"),
    _number(
        "cluster.hosts",
        0,
        "hosts",
        "how many hosts share all servers, which slow each other there; 0: one host each",
    ),
    Setting(
        key="cluster.slowdown",
        type="list of float",
        default=[1.0],
        sweep=False,
        meaning="how many times longer a forward takes while 1, 2, 3 … servers of its host "
        "compute; the last value holds for more",
    ),
    _number("cluster.mtbf_s", 0.0, "s", "mean time to a target server's failure; 0: none fails"),
    _number("cluster.mttr_s", 60.0, "s", "mean time until it is back", above=True),
    _number("cluster.drafter_mtbf_s", 0.0, "s", "as cluster.mtbf_s, for drafter servers"),
    _number("cluster.drafter_mttr_s", 60.0, "s", "as cluster.mttr_s", above=True),
    Setting(
        key="cluster.faults",
        type="list of tables",
        default=None,
        sweep=False,
        meaning='failures at known times, a table each: server ("target 2", "drafter 1", '
        '"further drafter 1.2"), at_s, and for_s; without for_s it never comes back',
    ),
    Setting(
        key="cluster.retry",
        type="bool",
        default=True,
        meaning="a forward whose server fails is done again, elsewhere or once it is back; false: "
        "its request is lost",
    ),
    _number(
        "cluster.max_active",
        0,
        "requests",
        "requests served at once, others waiting before the door; 0: no limit",
    ),
    _number(
        "cluster.max_waiting",
        None,
        "requests",
        "how many may wait there, others being turned away; not set: no limit",
        type="int",
    ),
    _number("cluster.price_per_gpu_hour", 0.0, "", "in whatever currency"),
    _number("slo.ttft_ms", None, "ms", "goodput counts requests that keep this: first token"),
    _number("slo.tpot_ms", None, "ms", "… time per output token after the first"),
    _number("slo.latency_ms", None, "ms", "… last token"),
    _number(
        "max_load",
        1.0,
        "",
        "refuse cases whose offered load is this or more: their queues would grow for ever",
        above=True,
        sweep=False,
    ),
)
_LEFT_OUT = {"engine", "backend", "max_targets"}
BY_KEY = {s.key: s for s in (*SETTINGS, *LOAD_SETTINGS) if s.key not in _LEFT_OUT}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadCase:
    """One point of a load study, for one algorithm.

    Attributes:
        point: the axes of the grid that led here.
        variant: the variant's name, or nothing.
        deployment, workload: what is simulated.
        replications: how often.
        warm_up: the part of the requests that is left out; see :func:`metrics.measure`.
    """

    point: Mapping[str, Any]
    variant: str
    deployment: Deployment
    workload: Workload
    replications: int
    warm_up: float

    @property
    def name(self) -> str:
        """What tells it from others, for messages."""
        parts = [self.variant, self.deployment.algorithm]
        parts += [f"{key} = {show(value)}" for key, value in self.point.items()]
        return ", ".join(filter(None, parts))

    @property
    def short_name(self) -> str:
        """The same where there is little room."""
        parts = [self.variant, ORCHESTRATIONS[self.deployment.algorithm].title]
        parts += [f"{key.rpartition('.')[2]} {show(value)}" for key, value in self.point.items()]
        return ", ".join(filter(None, parts))


class _LoadLoader(_Loader):
    known = BY_KEY
    tables = (*TABLES, *LOAD_TABLES)

    def read_files(self, values: dict[str, Any]) -> dict[str, Any]:
        of_pair = super().read_files(values)
        name = values.pop("workload.trace_file", None)
        if isinstance(name, str):
            text = self.read("workload.trace_file", name, _checked_trace)
            if text is not None:
                values["workload.trace"] = text
        elif isinstance(text := values.get("workload.trace"), str):
            try:
                _checked_trace(text)
            except ValueError as error:
                self.problems.add("workload.trace", str(error))
        return of_pair

    def check(self, study: Study) -> None:
        self.check_charts(study)
        self.check_together(study)

    def check_charts(self, study: Study) -> None:
        from dsim.tasks.load import OUTCOMES

        axes = [axis.key for axis in study.grid]
        for number, chart in enumerate(study.charts):
            where = f"charts[{number}]"
            if chart.kind != "lines":
                self.problems.add(f"{where}.kind", f'expected "lines", got {show(chart.kind)}')
            if chart.x not in axes:
                self.problems.add(
                    f"{where}.x",
                    f"expected an axis of the grid, got {show(chart.x)}{nearest(chart.x, axes)}",
                )
            if chart.y not in OUTCOMES:
                self.problems.add(
                    f"{where}.y",
                    f"expected a column of the results, got {show(chart.y)}"
                    f"{nearest(chart.y, list(OUTCOMES))}",
                )

    def check_together(self, study: Study) -> None:
        check_together(self.problems, _with_engine(study))
        if study.settings["minimise"]:
            self.problems.add("minimise", "is for dsim run; a load study shows every case")
        for number in range(len(study.variants)):
            values = study.of_variant(number)
            swept = {axis.key: axis.values for axis in study.grid}
            of = {key: swept.get(key, (value,)) for key, value in values.items()}
            where = f"variants[{number}]." if study.variants[number][0] else ""
            if "trace" in of["workload.arrivals"] and values["workload.trace"] is None:
                self.problems.add(
                    f"{where}workload.trace_file", 'is missing: the arrivals are "trace"'
                )
            lasts_s = max(of["workload.requests"]) / min(of["workload.rate_per_s"])
            if lasts_s > LONGEST_WORKLOAD_S:
                self.problems.add(
                    f"{where}workload.rate_per_s",
                    f"so many requests take {lasts_s:.1e} s, more than {LONGEST_WORKLOAD_S:.0e}",
                )
            if "trace" in of["acceptance.model"] and any(of["workload.acceptance_drift"]):
                self.problems.add(f"{where}workload.acceptance_drift", "has no meaning for a trace")
            for model in ("target", "drafter"):
                room = min(of[f"cluster.{model}_kv_tokens"])
                longest = max(of["workload.prompt_tokens"]) + max(of["tokens"])
                fixed = not max(of["workload.prompt_cv"]) and not max(of["workload.output_cv"])
                replayed = set(of["workload.arrivals"]) == {"trace"}  # with lengths of its own
                if room and fixed and room < longest and not replayed:
                    self.problems.add(
                        f"{where}cluster.{model}_kv_tokens",
                        f"expected room for one request (prompt and answer: {longest} tokens), "
                        f"got {room}",
                    )
            self.check_links(where, values, of["cluster.targets"])
            self.check_pools(where, of)
            self.check_faults(where, values, of)
            self.check_watts(where, of, values["algorithms"])
            if max(of["cluster.hosts"]) and min(values["cluster.slowdown"]) < 1:
                self.problems.add(
                    f"{where}cluster.slowdown",
                    f"expected factors ≥ 1, got {show(values['cluster.slowdown'])}",
                )

    def check_links(self, where: str, values: Mapping[str, Any], targets: Sequence[int]) -> None:
        links = values["cluster.link_ms"]
        if links is not None and set(targets) != {len(links)}:
            self.problems.add(
                f"{where}cluster.link_ms",
                f"expected one delay for each of {' or '.join(map(str, targets))} target servers, "
                f"got {len(links)}",
            )

    def check_faults(
        self, where: str, values: Mapping[str, Any], of: Mapping[str, Sequence[Any]]
    ) -> None:
        counts = {model: min(of[f"cluster.{model}s"]) for model in ("target", "drafter")}
        for number in range(_further(of)):
            servers = (_at(value, number) for value in of["cluster.more_drafters"])
            counts[further_role(number + 1)] = min(servers)
        for number, fault in enumerate(values["cluster.faults"] or ()):
            for key, what in outages.problems(fault, counts):
                self.problems.add(f"{where}cluster.faults[{number}].{key}", what)

    def check_pools(self, where: str, of: Mapping[str, Sequence[Any]]) -> None:
        """What is said of further drafters is said of as many as there are."""
        further = _further(of)
        for key in MORE_KEYS:
            given = next((v for v in of[key] if isinstance(v, list) and len(v) != further), None)
            if given is not None:
                self.problems.add(
                    f"{where}{key}",
                    f"expected one number, or one for each of more_drafters.latency_ms "
                    f"({further}), got {len(given)}",
                )

    def check_watts(
        self, where: str, of: Mapping[str, Sequence[Any]], algorithms: Sequence[str]
    ) -> None:
        """Energy is counted for all GPUs that are reserved, or for none."""
        keys = [f"cluster.target{suffix}" for suffix in ("_watts", "_idle_watts")]
        if algorithms != ["nonsi"]:
            keys += [f"cluster.drafter{suffix}" for suffix in ("_watts", "_idle_watts")]
        more = MORE_KEYS[-2:] if _takes_more(algorithms) else ()
        given = [key for key in (*keys, *more) if None not in of[key]]
        for key in keys:
            if given and key not in given:
                self.problems.add(f"{where}{key}", f"is missing: {given[0]} is set")
        for key in keys[::2]:
            idle = key.replace("_watts", "_idle_watts")
            if {key, idle} <= set(given) and max(of[idle]) > min(of[key]):
                self.problems.add(f"{where}{idle}", f"expected at most {min(of[key]):g} ({key})")
        if not more or self.problems or not given:
            return
        for number in range(_further(of)):
            least, most = (
                pick(
                    _at(value, number) if value is not None else other
                    for value in of[key]
                    for other in of[key.replace("more_", "")]
                )
                for key, pick in zip(more, (min, max), strict=True)
            )
            if most > least:
                what = f"expected at most {least:g} ({more[0]}, of further drafter {number + 1})"
                self.problems.add(f"{where}{more[1]}", f"{what}, got {most:g}")


MORE_KEYS = (
    "cluster.more_drafters",
    "cluster.gpus_per_more_drafter",
    "cluster.more_drafter_watts",
    "cluster.more_drafter_idle_watts",
)


def _takes_more(algorithms: Sequence[str]) -> bool:
    return any(ORCHESTRATIONS[name].traits.further_drafters for name in algorithms)


def _further(of: Mapping[str, Sequence[Any]]) -> int:
    """How many further drafters there are."""
    return max(len(_listed(value)) for value in of["more_drafters.latency_ms"])


def _listed(value: Any) -> list[Any]:
    """The members of *value*, which is one, a list, or nothing."""
    return [] if value is None else value if isinstance(value, list) else [value]


def _at(value: Any, number: int) -> Any:
    """What *value*, one for all or a list, says of *number*."""
    return value[min(number, len(value) - 1)] if isinstance(value, list) else value


def _with_engine(study: Study) -> Study:
    """*study* with what the checks of a study for ``dsim run`` look at besides."""
    return dataclasses.replace(study, settings={**study.settings, "engine": "events"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoadStudy:
    """A checked load study.

    Attributes:
        study: its settings, grid, variants and charts.
    """

    study: Study

    def cases(self) -> Iterator[LoadCase]:
        """Every case: for each variant and point of the grid, each algorithm."""
        for number, (name, _) in enumerate(self.study.variants):
            for point in points(self.study.grid):
                own = self.study.of_variant(number)
                for key in point:
                    if ALTERNATIVES.get(key) in own:
                        own[ALTERNATIVES[key]] = None
                values = {**own, **point}
                for algorithm in values["algorithms"]:
                    yield LoadCase(
                        point=point,
                        variant=name,
                        deployment=deployment_of(values, algorithm),
                        workload=workload_of(values),
                        replications=values["repeats"],
                        warm_up=values["workload.warm_up"],
                    )


def load(path: Path, overrides: Sequence[str] = ()) -> LoadStudy:
    """Read the load study at *path*, with ``key=value`` *overrides*.

    Raises:
        UserError: with all problems that were found.
    """
    return loads(read_text(path), str(path), overrides, path.parent)


def loads(
    text: str, source: str = "study", overrides: Sequence[str] = (), folder: Path = Path()
) -> LoadStudy:
    """The load study that *text* (TOML) describes; data files are looked for in *folder*.

    Raises:
        UserError: with all problems that were found.
    """
    return LoadStudy(study=_LoadLoader(source, folder).study(parse(text, source), overrides))


def _checked_trace(text: str) -> str:
    read_trace(text)
    return text


def workload_of(values: Mapping[str, Any]) -> Workload:
    """The workload that settings by key describe."""

    def length(mean_tokens: int, cv: float) -> Length:
        return Length(
            model="lognormal" if cv and mean_tokens else "constant",
            mean_tokens=mean_tokens,
            cv=cv or 1.0,
        )

    return Workload(
        arrivals=values["workload.arrivals"],
        requests=values["workload.requests"],
        rate_per_s=values["workload.rate_per_s"],
        cv=values["workload.cv"],
        users=values["workload.users"],
        think_ns=round(values["workload.think_ms"] * 1e6),
        prompt=length(values["workload.prompt_tokens"], values["workload.prompt_cv"]),
        output=length(values["tokens"], values["workload.output_cv"]),
        rate_drift=values["workload.acceptance_drift"],
        trace=read_trace(values["workload.trace"]) if values["workload.trace"] else (),
    )


def deployment_of(values: Mapping[str, Any], algorithm: str) -> Deployment:
    """The deployment that settings by key describe."""
    case = case_of(values)
    more = case.more_drafters if _takes_more([algorithm]) else ()

    def ns(key: str) -> int:
        return round(float(values[key] or 0) * 1e6)

    def bound(key: str) -> int | None:
        return None if values[key] is None else to_ns(values[key]) if values[key] else 0

    def faults_of(role: str, prefix: str = "") -> Faults:
        return Faults(
            mtbf_ns=round(values[f"cluster.{prefix}mtbf_s"] * 1e9),
            mttr_ns=round(values[f"cluster.{prefix}mttr_s"] * 1e9),
            plan=outages.plan(values["cluster.faults"] or (), role),
            retry=values["cluster.retry"],
        )

    def more_pool(number: int, drafter: MoreDrafter) -> MorePool:
        first = fleet("drafter")
        scale = drafter.latency.latency_ns / case.drafter.latency_ns

        def own(key: str, otherwise: Any) -> Any:
            value = _at(values[f"cluster.{key}"], number)
            return otherwise if value is None else value

        spec = dataclasses.replace(
            first,
            servers=own("more_drafters", 1),
            context_ns=first.context_ns * scale,
            sequence_ns=round(first.sequence_ns * scale),
            prefill_token_ns=first.prefill_token_ns * scale,
            gpus=own("gpus_per_more_drafter", first.gpus),
            watts=own("more_drafter_watts", first.watts),
            idle_watts=own("more_drafter_idle_watts", first.idle_watts),
        )
        role = further_role(number + 1)
        return MorePool(drafter=drafter, servers=spec, faults=faults_of(role, "drafter_"))

    def fleet(model: str) -> FleetSpec:
        def of(name: str) -> Any:
            return values[f"cluster.{model}_{name}"]

        return FleetSpec(
            servers=values[f"cluster.{model}s"],
            discipline=of("discipline"),
            max_batch=of("batch"),
            context_ns=of("context_ms") * 1e3,
            sequence_ns=round(of("sequence_ms") * 1e6),
            prefill_token_ns=of("prefill_ms") * 1e3,
            kv_tokens=of("kv_tokens"),
            affinity=values["cluster.affinity"] if model == "target" else False,
            gpus=values[f"cluster.gpus_per_{model}"],
            watts=of("watts"),
            idle_watts=of("idle_watts"),
        )

    return Deployment(
        algorithm=algorithm,
        lookahead=case.lookahead,
        policy=case.policy,
        most_passes=case.targets,
        target=case.target,
        drafter=case.drafter,
        acceptance=case.acceptance,
        seed=case.seed,
        preemptible=case.preemptible,
        targets=fleet("target"),
        drafters=fleet("drafter"),
        more_drafters=tuple(more_pool(number, one) for number, one in enumerate(more)),
        network_ns=ns("cluster.network_ms"),
        link_ns=tuple(round(ms * 1e6) for ms in values["cluster.link_ms"] or ()),
        network_cv=values["cluster.network_cv"],
        overhead_ns=ns("cluster.dispatch_ms"),
        hosts=values["cluster.hosts"],
        slowdown=tuple(values["cluster.slowdown"]),
        faults=faults_of("target"),
        drafter_faults=faults_of("drafter", "drafter_"),
        max_active=values["cluster.max_active"],
        max_waiting=values["cluster.max_waiting"],
        price_per_gpu_hour=values["cluster.price_per_gpu_hour"],
        slo=Slo(
            ttft_ns=bound("slo.ttft_ms"),
            tpot_ns=bound("slo.tpot_ms"),
            latency_ns=bound("slo.latency_ms"),
        ),
    )
