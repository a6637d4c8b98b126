"""Which form of latency over width predicts forwards that it was not fitted to?

    python benchmarks/latency_forms.py [--model FOLDER] [--dtype float32] [--repeats 30]

Forwards of many widths are measured twice. Each form is fitted to some widths of the first
measurement, and judged on the second one: on the same widths, on widths between them, and on
widths beyond them. ``table`` is what dsim uses (rows that never fall, straight lines between them,
beyond them the slope of the whole table); ``line`` is ``a + b·width``; ``roofline`` is
``max(a, b + c·width)``: what moves the weights, or what computes, takes longer.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares

from dsim.backends.torch.models import specs
from dsim.backends.torch.pair import load_pair
from dsim.backends.torch.workers import Workers
from dsim.model.latency import Latency
from dsim.tasks.measure.latency import latency

if TYPE_CHECKING:
    from collections.abc import Callable

    Form = Callable[[dict[int, float]], Callable[[int], float]]

FITTED, BETWEEN, BEYOND = (1, 2, 4, 8, 16), (3, 6, 12), (24, 32)
CONTEXT_TOKENS = 64


def table(rows: dict[int, float]) -> Callable[[int], float]:
    """The form that dsim uses."""
    cost = Latency(model="table", table=tuple((w, round(ms * 1e6)) for w, ms in rows.items()))
    return lambda width: cost.at_width(width) / 1e6


def line(rows: dict[int, float]) -> Callable[[int], float]:
    """Least squares of the relative error."""
    widths, times = np.array(list(rows)), np.array(list(rows.values()))

    def off(x: np.ndarray) -> np.ndarray:
        return np.asarray((x[0] + x[1] * widths) / times - 1)

    found = least_squares(off, (times[0], 0.1)).x
    return lambda width: float(found[0] + found[1] * width)


def roofline(rows: dict[int, float]) -> Callable[[int], float]:
    """The same; the knee between each two widths is tried as a start."""
    widths, times = np.array(list(rows)), np.array(list(rows.values()))

    def off(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(x[0], x[1] + x[2] * widths) / times - 1)

    starts = [
        (times[: knee + 1].mean(), *np.polyfit(widths[knee:], times[knee:], 1)[::-1])
        for knee in range(len(widths) - 1)
    ]
    best = min((least_squares(off, start) for start in starts), key=lambda found: found.cost).x
    return lambda width: float(max(best[0], best[1] + best[2] * width))


def main() -> None:
    """Measure, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a folder; the pair's target if unset")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=30)
    args = parser.parse_args()
    pair = load_pair(*specs(args.model, "ngram" if args.model else None, dtype=args.dtype))
    with Workers(pair, 1) as workers:
        first, second = (
            {
                row["width"]: row["p50_ms"]
                for row in latency(
                    workers,
                    [[1, 2, 3]],
                    tokens=2,
                    widths=sorted((*FITTED, *BETWEEN, *BEYOND)),
                    contexts=[CONTEXT_TOKENS],
                    repeats=args.repeats,
                ).rows
            }
            for _ in range(2)
        )
    print(f"{pair.target}, {args.dtype}, context of {CONTEXT_TOKENS} tokens")
    print(f"medians of {args.repeats} forwards (ms), measured twice:")
    print("  " + ", ".join(f"{w}: {first[w]:.2f} and {second[w]:.2f}" for w in first))
    print("error (median, worst) on     the same widths    between them    beyond them")
    forms: dict[str, Form] = {"table": table, "line": line, "roofline": roofline}
    for form, fit in forms.items():
        predict = fit({w: first[w] for w in FITTED})
        cells = []
        for judged in (FITTED, BETWEEN, BEYOND):
            off = [abs(predict(w) / second[w] - 1) for w in judged]
            cells.append(f"{np.median(off):6.1%} {max(off):6.1%}")
        print(f"{form:<25}" + "".join(f"{cell:>17}" for cell in cells))
    drift = [abs(second[width] / first[width] - 1) for width in first]
    print(
        f"the two measurements differ by {np.median(drift):.1%} (median), {max(drift):.1%} (worst)"
    )


if __name__ == "__main__":
    main()
