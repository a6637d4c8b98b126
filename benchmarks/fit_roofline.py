"""Fit the constants of the roofline (``dsim/model/roofline.py``) to runs of real vLLM servers.

    python -m benchmarks.fit_roofline dsim/published/vllm_measured.csv

With --markdown docs/latency-fit.md it writes that page, with --left-out
dsim/published/roofline_left_out.toml the constants without each model. A row is not used where
others have the stages of the same run. The constants minimise a robust sum of squared relative
errors of ITL, E2E and TTFT and, since the runs say little of some of them, the squared distances
from what is known of such hardware (PRIOR). Nothing is fitted per model. Then every model is left
out once, the constants are fitted to the others, and its runs are predicted: that is the error to
expect.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import tomli_w
from scipy.optimize import least_squares

from dsim.files import write_whole
from dsim.model.roofline import Constants
from dsim.model.shape import shape_of
from dsim.tasks.vllm import MEASURES, predict_vllm

# Where each constant is expected, and the standard deviation of its logarithm.
PRIOR = {
    "flops_efficiency": (0.65, 0.25),
    "bandwidth_efficiency": (0.82, 0.12),
    "kv_efficiency": (0.7, 0.2),
    "step_us": (800.0, 0.5),
    "layer_us": (6.0, 0.6),
    "expert_layer_us": (80.0, 0.5),
    "reduce_us": (12.0, 0.4),
    "request_us": (6000.0, 0.4),
}
SCALE = {"itl": 0.06, "e2e": 0.12, "ttft": 0.12}  # relative errors that count as one

HEADER = """# Written by benchmarks/fit_roofline.py: for each model, the constants of the
# roofline that are fitted to the runs of all others. They predict its own runs.

"""


def read(path: Path) -> list[dict[str, str]]:
    """The rows to fit: stages of runs, or whole runs where there are no stages."""
    rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    staged = {row["exp_id"] for row in rows if row["stage"] != "all"}
    return [row for row in rows if row["stage"] != "all" or row["exp_id"] not in staged]


def constants_at(x: np.ndarray) -> Constants:
    """The constants at *x*, in standard deviations from where they are expected."""
    values = {
        name: middle * math.exp(spread * at)
        for (name, (middle, spread)), at in zip(PRIOR.items(), x, strict=True)
    }
    return Constants(**{k: min(1.0, v) if "efficiency" in k else v for k, v in values.items()})


def errors(rows: list[dict[str, str]], constants: Constants) -> np.ndarray:
    """Relative errors, shape (rows, measures)."""
    found = []
    for row in rows:
        predicted = predict_vllm(row, constants)
        found.append([predicted[m] / float(row[f"measured_{m}_mean_ms"]) - 1 for m in MEASURES])
    return np.array(found)


def fit(rows: list[dict[str, str]]) -> Constants:
    """The constants for *rows*."""
    scale = np.array([SCALE[measure] for measure in MEASURES])

    def residuals(x: np.ndarray) -> np.ndarray:
        r = (np.log1p(errors(rows, constants_at(x))) / scale).ravel()
        robust = np.sign(r) * np.sqrt(2 * (np.sqrt(1 + r * r) - 1))
        return np.concatenate([robust, x])

    solved = least_squares(residuals, np.zeros(len(PRIOR)), diff_step=1e-2, max_nfev=40)
    return constants_at(solved.x)


def name_of(row: dict[str, str]) -> str:
    """The model of *row*."""
    return shape_of(row["model"]).name


def main() -> None:
    """Fit, leave each model out once, print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--left-out", type=Path, help="write the constants without each model")
    asked = parser.parse_args()
    rows = read(asked.file)
    constants = fit(rows)
    inside = errors(rows, constants)
    outside, tables = np.zeros_like(inside), {}
    for name in sorted({name_of(row) for row in rows}):
        left_out = np.array([name_of(row) == name for row in rows])
        others = [row for row, out in zip(rows, left_out, strict=True) if not out]
        ours = [row for row, out in zip(rows, left_out, strict=True) if out]
        found = fit(others)
        outside[left_out] = errors(ours, found)
        values = {key: float(f"{value:.6g}") for key, value in vars(found).items()}
        tables[name] = {"runs": sorted({row["exp_id"] for row in ours}), "constants": values}
    if asked.left_out:
        write_whole(asked.left_out, HEADER + tomli_w.dumps(tables), "--left-out")
    lines = report(rows, constants, inside, outside, asked.file.name)
    if asked.markdown:
        write_whole(asked.markdown, "\n".join(lines) + "\n", "--markdown")
    print("\n".join(lines))


def report(
    rows: list[dict[str, str]],
    constants: Constants,
    inside: np.ndarray,
    outside: np.ndarray,
    source: str,
) -> list[str]:
    """The page."""

    def summary(found: np.ndarray) -> str:
        middle, mean = np.median(np.abs(found), axis=0), np.mean(np.abs(found), axis=0)
        return " | ".join(
            f"{100 * a:.1f} % ({100 * b:.1f} %)" for a, b in zip(middle, mean, strict=True)
        )

    lines = [
        "# The fit of the roofline's constants",
        "",
        f"Written by `python -m benchmarks.fit_roofline dsim/published/{source}`.",
        f"{len(rows)} rows of {len({row['exp_id'] for row in rows})} runs of real vLLM servers on "
        "H100; what the constants mean is in `dsim/model/roofline.py`.",
        "",
        "| constant | fitted | expected before |",
        "|---|---|---|",
        *(
            f"| `{name}` | {round(getattr(constants, name), 3):.4g} | {PRIOR[name][0]:g} |"
            for name in PRIOR
        ),
        *(
            f"| `{f.name}` | {getattr(constants, f.name):g} | not fitted |"
            for f in dataclasses.fields(constants)
            if f.name not in PRIOR
        ),
        "",
        "What was expected before is rough knowledge of such hardware. That of `expert_layer_us` "
        "is a guess after a look at the runs of the only model here with experts.",
        "ITL of Llama 2 7B is a mean over answers of which some ended early: E2E does not follow.",
        "",
        "Relative errors: the median of their size, and in brackets the mean.",
        "",
        f"| | {' | '.join(m.upper() for m in MEASURES)} |",
        "|---|---|---|---|",
        f"| on the rows fitted | {summary(inside)} |",
        f"| each model left out once | {summary(outside)} |",
        "",
        "Each row as predicted by constants that have not seen its model:",
        "",
        "| model | TP | workload | requests/s | " + " | ".join(m.upper() for m in MEASURES) + " |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, error in zip(rows, outside, strict=True):
        cells = " | ".join(f"{100 * e:+.1f} %" for e in error)
        rate = row["stage_rate_rps"] or ", ".join(re.findall(r"([\d.]+)req", row["stages"]))
        lines.append(f"| {name_of(row)} | {row['tp']} | {row['workload']} | {rate} | {cells} |")
    return lines


if __name__ == "__main__":
    main()
