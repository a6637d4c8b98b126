"""Acceptance rate and latency of the models that this machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dsim.errors import EngineError, UserError
from dsim.report.tables import TextTable
from dsim.study import loader as studies
from dsim.study.grid import simulate_grid
from dsim.study.shipped import path_of
from dsim.tasks.reproduce.claims import SKIP_FAST

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from dsim.tasks.measure.pairs import Measured


def measured_pairs(
    fast: bool, folder: Path, skipped: list[str], progress: Callable[[str], None]
) -> list[TextTable]:
    """Acceptance rate and latency of the pairs that this machine has."""
    from dsim.backends.torch.models import need_torch

    skipped += [
        f"dsim measure {what} of the paper's ten pairs: models of the hub; with --pair all"
        for what in ("acceptance", "latency")
    ]
    if fast:
        skipped.append(f"acceptance rate and latency of the pair that ships: {SKIP_FAST}")
        return []
    try:
        need_torch()
    except UserError as error:
        skipped.append(f"acceptance rate and latency of the pair that ships: {error}")
        return []
    from dsim.backends.torch.workers import Workers
    from dsim.tasks.measure import pairs, settings

    measured: dict[str, dict[str, Measured]] = {}  # by pair, then by what was measured
    for what in ("latency", "acceptance"):
        listed = settings.load(path_of(what), {"tokens": 64} if what == "acceptance" else {})
        progress(f"{what} of the pair that ships")
        try:
            for one in pairs.run(
                listed, what, (), folder / "profiles", lambda pair: Workers(pair, 1), progress
            ):
                if one.skipped:
                    skipped.append(f"{what} of {one.pair['name']}: {one.skipped}")
                else:
                    measured.setdefault(one.pair["name"], {})[what] = one
        except (UserError, EngineError) as error:
            skipped.append(f"{what} of the pair that ships: {error}")
            return []
    tables = []
    for name, halves in measured.items():
        if len(halves) < 2:
            continue  # an old run's half may lie in the folder
        timed, judged = halves["latency"].profile, halves["acceptance"].profile
        if not (timed and timed.target and timed.drafter and judged and judged.acceptance):
            continue
        rate = judged.acceptance
        interval = "" if rate.ci95 is None else f" ± {rate.ci95:.3f}"
        path = halves["acceptance"].path  # written last, with both
        study = studies.load(path_of("pair"), [f"pair={path}", "grid.targets=[1, 2, 4, 7]"])
        grid = simulate_grid(study)
        axes = {axis.key: axis.values for axis in study.grid}
        over = 1 + list(axes).index("lookahead")
        latency = grid.outcomes["latency_mean_ms"][:, 0].min(axis=over)  # (algorithms, targets)
        tables.append(
            TextTable(
                title=f"The measured pair ({name}): measured, and what follows",
                caption=f"Acceptance rate {rate.rate:.3f}{interval} on {rate.prompts} prompts "
                f"(the paper's estimator: {rate.paper_rate or 0:.3f}); latency of the target "
                f"{timed.target.latency_ms:.2f} ms, of the drafter {timed.drafter.latency_ms:.2f} "
                f"ms, first forward {timed.target.first_latency_ms or 0:.2f} ms. Time per token, "
                "simulated with these: latencies by width, cancelled passes running to their ends, "
                "the best lookahead.",
                head=["target servers", "non-SI", "SI", "DSI", "DSI over SI"],
                rows=[
                    [
                        str(targets),
                        *(f"{latency[a, s] / study.settings['tokens']:.2f} ms" for a in range(3)),
                        f"{latency[1, s] / latency[2, s]:.2f}×",
                    ]
                    for s, targets in enumerate(axes["targets"])
                ],
                exact=False,
            )
        )
    return tables
