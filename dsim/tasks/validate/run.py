"""``dsim validate``: predict wall times by simulation, then measure them, then compare.

1. Record which drafts are accepted.
2. Run every algorithm × lookahead × servers by turns on a calibration prompt, and keep how long
   each forward took, and on another prompt, and keep the wall time; again and again, since machines
   change their pace within seconds.
3. Predict the wall times from the calibration runs: from the acceptance trace of each prompt, and
   from how drafts fared on the calibration prompts alone.
4. Compare.

With ``--predict`` and ``--against`` the calibration comes first, as a whole, and what is measured
comes later.
"""

from __future__ import annotations

import itertools
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from dsim.engines.simulate import run_events
from dsim.study.build import drafts_of
from dsim.tasks.check import doubts
from dsim.tasks.validate.bench import bench_of
from dsim.tasks.validate.calibration import (
    ON_ONE_TEXT,
    ROLES,
    STALL_NS,
    STALL_TIMES,
    STATISTICS,
    Calibration,
    is_stall,
    rate_of,
)
from dsim.tasks.validate.claims import claims_of
from dsim.tasks.validate.prediction import Prediction, predicted
from dsim.tasks.validate.result import Row, Texts, Validation, median_abs, noise_of
from dsim.tasks.validate.settings import configurations
from dsim.words import time_left

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from dsim.backends.torch.workers import Workers
    from dsim.tasks.validate.bench import Bench, Forwarded, Measured
    from dsim.tasks.validate.settings import Configuration


MAX_RETRIES = 3


class Steady:
    """Repeats a measurement during which the machine stalled.

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


class Session:
    """What is run on the bench.

    Args:
        settings: see :func:`dsim.tasks.validate.settings.load`.
        bench: what to measure; ``None``: as *settings* say.
        progress: told what is being done.

    Attributes:
        known, traces: draws of the calibration texts, and of the others.
        sure: how sure the drafter was of its drafts of the others; see :meth:`Bench.confidences`.
        seen: the forwards of each calibration run, by configuration.
        found: the measurements of each text, by configuration.
        cores: how many CPU cores each configuration has.
        notes: what the reader must not overlook.
        stalls: see :class:`Steady`.
        times: from when to when (UTC, ISO 8601).

    Raises:
        UserError, EngineError: see :func:`bench_of`.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        bench: Bench | None,
        progress: Callable[[str], None],
        *,
        calibrate: bool = True,
        measure: bool = True,
    ) -> None:
        self.wanted = configurations(settings)
        progress("starting the workers")
        bench = bench or bench_of(settings)
        workers: Workers | None = getattr(bench, "workers", None)
        contention = "" if workers is None else workers.contention
        self.notes = doubts(settings["algorithms"])
        self.notes += [f"{contention}; they slow each other"] if contention else []
        begun = _now()
        others = range(settings["calibration_prompts"])
        texts = range(len(others), len(others) + settings["prompts"])
        self.known, self.traces, self.quality = [], [], 0.0
        self.sure: list[tuple[float, ...]] = []
        self.seen: dict[Configuration, list[list[Forwarded]]] = {c: [] for c in self.wanted}
        self.found: dict[Configuration, list[list[Measured]]] = {
            c: [[] for _ in texts] for c in self.wanted
        }
        try:
            if calibrate:
                progress("recording which drafts are accepted")
                self.traces = [bench.trace(text) for text in texts]
                self.known = [bench.trace(text) for text in others]
                self.quality = bench.quality()
                self.sure = [bench.confidences(text) for text in texts]
            self.cores = {c: bench.cores(c) for c in self.wanted}
            progress("warming up")
            steady = Steady(bench, others[0], self.wanted)
            turns = list(itertools.product(range(len(texts)), range(settings["repeats"])))
            first_s = time.monotonic()
            places = [*enumerate(self.wanted)]
            # What counts of the repeats of a text, the faster half, is that of one text in the
            # calibration, too: of several it would be the texts with faster forwards. Neighbours on
            # one text and on two say how much forwards differ from text to text.
            apart = len(others) // -(-len(places) // ON_ONE_TEXT)
            for turn, (number, again) in enumerate(turns):
                if not again:
                    what = "measuring" if measure else "calibrating"
                    left = time_left(time.monotonic() - first_s, turn, len(turns))
                    progress(f"{what} text {number + 1} of {len(texts)}{left}")
                # There and back: fewer changes of algorithm, and nobody always comes after the
                # same.
                for place, c in reversed(places) if turn % 2 else places:
                    # Back to back, so that both see the same machine load.
                    if calibrate:
                        alike = number if measure else turn % len(texts)
                        other = others[(alike + place // ON_ONE_TEXT * apart) % len(others)]
                        run = steady.measure(other, c)
                        self.seen[c].append(run.forwards)
                    if measure:
                        self.found[c][number].append(steady.measure(texts[number], c))
        except BaseException:
            if workers is not None:
                workers.close(force=True)
            raise
        finally:
            bench.close()
        self.times = (begun, _now())
        self.stalls = steady.stalls
        if steady.stalls:
            self.notes.append(
                f"{steady.stalls} measurement{'s were' if steady.stalls > 1 else ' was'} "
                f"repeated because the machine stalled (a forward took over {STALL_TIMES} times "
                f"its usual time, and {STALL_NS // 1_000_000} ms more)"
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def predict(
    settings: dict[str, Any],
    *,
    bench: Bench | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Prediction:
    """Calibrate and predict; nothing of what is predicted is measured.

    For the arguments and errors see :class:`Session`.
    """
    session = Session(settings, bench, progress, measure=False)
    progress("predicting")
    # Whenever it is measured: each text at paces of the whole calibration.
    texts = settings["prompts"]
    beside = [range(i, texts * settings["repeats"], texts) for i in range(texts)]
    return _prediction(settings, session, beside)


def _prediction(
    settings: dict[str, Any],
    session: Session,
    beside: Sequence[Sequence[int]],
    *,
    at_once: bool = False,
) -> Prediction:
    """The prediction; *at_once*: each text is measured right after its calibration runs."""
    known = session.known, session.quality
    calibration = Calibration.of(session.seen, *known, drafts_of(settings))
    apart = calibration.apart(settings["repeats"]) if at_once else 1.0
    texts = list(zip(session.traces, session.sure, strict=True))
    return Prediction(
        settings=settings,
        rows={c: predicted(calibration, c, texts, beside, apart) for c in session.wanted},
        calibration=calibration,
        traces=session.traces,
        made=session.times,
    )


def validate(
    settings: dict[str, Any],
    *,
    against: Prediction | None = None,
    bench: Bench | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Validation:
    """Predict, measure, compare. For the other arguments and the errors see :class:`Session`.

    Args:
        settings: see :func:`dsim.tasks.validate.settings.load`.
        against: a prediction that was made before; ``None``: calibrate beside the measurements.
        bench: what to measure.
        progress: told what is being done.
    """
    session = Session(settings, bench, progress, calibrate=against is None)
    progress("comparing" if against else "predicting")
    repeats = settings["repeats"]
    beside = [range(repeats * i, repeats * (i + 1)) for i in range(settings["prompts"])]
    prediction = against or _prediction(settings, session, beside, at_once=True)
    reference = [runs[0].tokens for runs in session.found[session.wanted[0]]]
    rows = [
        _row(c, prediction, session.found[c], session.cores[c], reference) for c in session.wanted
    ]
    first = {}
    for c in session.wanted:
        acceptance = prediction.calibration.replayed(prediction.traces[0])
        case = prediction.calibration.case(c, settings["tokens"], acceptance)
        simulated = run_events(case, c.algorithm, 0, keep_history=True)
        first[c] = (simulated, session.found[c][0][0].run)
    return Validation(
        settings=settings,
        prediction=prediction,
        measured=session.times,
        rows=rows,
        claims=claims_of(settings, prediction.calibration, rows),
        first=first,
        notes=session.notes,
        stalls=session.stalls,
        rate=rate_of(prediction.traces),
        repeatability=median_abs(np.concatenate([row.repeats for row in rows])),
        noise=median_abs(np.concatenate([row.noise for row in rows])),
    )


def _row(
    c: Configuration,
    prediction: Prediction,
    found: Sequence[Sequence[Measured]],
    cores: int | None,
    reference: Sequence[Any],
) -> Row:
    """*found*, of configuration *c*, beside its prediction; *reference* are the right tokens."""
    walls_ms = [[m.wall_ns / 1e6 for m in runs] for runs in found]
    everything = [m for runs in found for m in runs]
    own = prediction.rows[c]
    again = [b / a - 1 for walls in walls_ms for a, b in itertools.pairwise(walls)]
    same = [m.tokens == right for runs, right in zip(found, reference, strict=True) for m in runs]
    orchestration_ns = sum(m.orchestration_ns for m in everything)
    return Row(
        configuration=c,
        predicted=own,
        texts={
            name: Texts(own.texts_ms[name], np.array([of(walls) for walls in walls_ms]))
            for name, of in STATISTICS.items()
        },
        repeats=np.array(again),
        noise=noise_of(walls_ms),
        orchestration=orchestration_ns / sum(m.wall_ns for m in everything),
        cores=cores,
        lossless=None if reference[0] is None else all(same),
    )
