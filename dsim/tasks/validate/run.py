"""``dsim validate``: predict wall times by simulation, then measure them, then compare.

1. Record which drafts are accepted.
2. Run every algorithm × lookahead × servers by turns on a calibration prompt, and keep how long
   each forward took, and on another prompt, and keep the wall time; again and again, since machines
   change their pace within seconds.
3. Predict the wall times from the calibration runs: from the acceptance trace of each prompt, and
   from the acceptance rate alone.
4. Compare.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.engines.simulate import run_events
from dsim.model.acceptance import Acceptance
from dsim.tasks.validate.bench import bench_of
from dsim.tasks.validate.calibration import (
    ROLES,
    STALL_NS,
    STALL_TIMES,
    STATISTICS,
    Calibration,
    is_stall,
    rate_of,
)
from dsim.tasks.validate.claims import claims_of
from dsim.tasks.validate.result import Row, Texts, Validation, median_abs, noise_of
from dsim.tasks.validate.settings import configurations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.backends.torch.workers import Workers
    from dsim.tasks.validate.bench import Bench, Forwarded, Measured
    from dsim.tasks.validate.settings import Configuration


MAX_RETRIES = 3


class Steady:
    """Measures again when the machine has stood still meanwhile.

    Args:
        bench: what is measured.
        text: run once by all of *wanted*, which shows how long forwards usually take.
        wanted: the configurations.

    Attributes:
        stalls: how many measurements were done again.
    """

    def __init__(self, bench: Bench, text: int, wanted: Sequence[Configuration]) -> None:
        self.bench = bench
        self.stalls = 0
        self.usual_ns: dict[Configuration, dict[str, float]] = {}
        for c in wanted:
            forwards = bench.measure(text, c).forwards
            self.usual_ns[c] = {
                role: float(np.median([f.took_ns for f in forwards if f.role == role] or [0]))
                for role in ROLES
            }

    def measure(self, text: int, configuration: Configuration) -> Measured:
        """As :meth:`Bench.measure`."""
        usual_ns = self.usual_ns[configuration]
        for _ in range(MAX_RETRIES):
            measured = self.bench.measure(text, configuration)
            if not any(is_stall(f.took_ns, usual_ns[f.role]) for f in measured.forwards):
                return measured
            self.stalls += 1
        return self.bench.measure(text, configuration)


def validate(
    settings: dict[str, Any],
    *,
    bench: Bench | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Do all of it.

    Args:
        settings: see :func:`load`.
        bench: what to measure; ``None``: as *settings* say.
        progress: told what is being done.

    Raises:
        UserError, EngineError: see :func:`bench_of`.
    """
    wanted = configurations(settings)
    progress("starting the workers")
    bench = bench or bench_of(settings)
    workers: Workers | None = getattr(bench, "workers", None)
    contention = "" if workers is None else workers.contention
    try:
        calibration_texts = range(settings["calibration_prompts"])
        texts = range(len(calibration_texts), len(calibration_texts) + settings["prompts"])
        progress("recording which drafts are accepted")
        tokens = settings["tokens"]
        traces = {text: bench.trace(text) for text in texts}
        cores = {c: bench.cores(c) for c in wanted}
        known = [bench.trace(text) for text in calibration_texts]
        progress("warming up")
        steady = Steady(bench, calibration_texts[0], wanted)
        seen: dict[Configuration, list[list[Forwarded]]] = {c: [] for c in wanted}
        found: dict[Configuration, list[list[Measured]]] = {c: [[] for _ in texts] for c in wanted}
        repeats = settings["repeats"]
        for turn, (number, again) in enumerate(
            itertools.product(range(len(texts)), range(repeats))
        ):
            if not again:
                progress(f"measuring text {number + 1} of {len(texts)}")
            other = calibration_texts[turn % len(calibration_texts)]
            # There and back: fewer changes of algorithm, and nobody always comes after the same.
            for c in reversed(wanted) if turn % 2 else wanted:
                # Back to back, so that both see the same machine load.
                seen[c].append(steady.measure(other, c).forwards)
                found[c][number].append(steady.measure(texts[number], c))
    except BaseException:
        if workers is not None:
            workers.close(force=True)
        raise
    finally:
        bench.close()
    progress("predicting")
    calibration = Calibration.of(seen, known)
    reference = [runs[0].tokens for runs in found[wanted[0]]]
    rows = []
    beside = [range(repeats * i, repeats * (i + 1)) for i in range(len(texts))]
    for c in wanted:
        walls_ms = [[m.wall_ns / 1e6 for m in runs] for runs in found[c]]
        everything = [m for runs in found[c] for m in runs]
        replay_ns = [
            calibration.from_trace(c, runs, traces[text])
            for runs, text in zip(beside, texts, strict=True)
        ]
        rows.append(
            Row(
                configuration=c,
                texts={
                    name: Texts(
                        np.array([one[name] for one in replay_ns]) / 1e6,
                        np.array([of(own) for own in walls_ms]),
                    )
                    for name, of in STATISTICS.items()
                },
                predicted_rate_ms=calibration.from_rate(c, beside, tokens) / 1e6,
                repeats=np.array(
                    [
                        again / once - 1
                        for own in walls_ms
                        for once, again in itertools.pairwise(own)
                    ]
                ),
                noise=noise_of(walls_ms),
                orchestration=sum(m.orchestration_ns for m in everything)
                / sum(m.wall_ns for m in everything),
                cores=cores[c],
                lossless=None
                if reference[0] is None
                else all(
                    m.tokens == r for runs, r in zip(found[c], reference, strict=True) for m in runs
                ),
            )
        )
    first = {}
    for c in wanted:
        acceptance = Acceptance(model="trace", traces=(traces[texts[0]],))
        case = calibration.case(c, tokens, acceptance)
        plain = {role: dataclasses.replace(getattr(case, role), spread=()) for role in ROLES}
        simulated = run_events(
            dataclasses.replace(case, **plain), c.algorithm, 0, keep_history=True
        )
        first[c] = (simulated, found[c][0][0].run)
    notes = []
    if workers is not None and contention:
        notes.append(f"{contention}; they slow each other")
    if steady.stalls:
        notes.append(
            f"{steady.stalls} measurement{'s were' if steady.stalls > 1 else ' was'} done again, "
            "because the machine stood still "
            f"meanwhile (a forward took over {STALL_TIMES} times the usual and "
            f"{STALL_NS // 1_000_000} ms more)"
        )
    return Validation(
        settings=settings,
        calibration=calibration,
        rows=rows,
        claims=claims_of(settings, calibration, rows),
        first=first,
        notes=notes,
        stalls=steady.stalls,
        rate=rate_of(list(traces.values())),
        repeatability=median_abs(np.concatenate([row.repeats for row in rows])),
        noise=median_abs(np.concatenate([row.noise for row in rows])),
    )
