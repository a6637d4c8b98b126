"""Studies whose variants are all that varies."""

from __future__ import annotations

import pytest

from dsim.errors import UserError
from dsim.study.loader import loads
from dsim.tasks.run import run_study

STUDY = """
repeats = {}
tokens = 20
target.latency_ms = 30
[[variants]]
name = "fast"
drafter.latency_ms = 3
[[variants]]
name = "slow"
drafter.latency_ms = 9
acceptance.rate = 0.9
"""


@pytest.mark.parametrize("repeats", [1, 3])
def test_each_variant_has_a_row_and_a_chart(tmp_path, repeats):
    """There was no chart, and one line for both."""
    finished = run_study(loads(STUDY.format(repeats)), tmp_path / "out")
    lines = finished.lines
    head = next(
        n for n, line in enumerate(lines) if line.split() == "variant non-SI SI DSI".split()
    )
    rows = [line.split()[0] for line in lines[head + 2 : head + 4]]
    assert rows == ["fast", "slow"]
    assert "600.0" in lines[head + 2]
    assert ("±" in lines[head + 2]) == (repeats > 1)
    assert not any("no chart" in line for line in lines)
    assert [path.name for path in (tmp_path / "out").glob("*.svg")] == [
        "01-variants-latency-mean-ms.svg"
    ]


def test_lines_over_variants_name_the_chart_that_is_meant():
    chart = "[[charts]]\nkind = 'lines'\nx = 'variant'\ny = 'latency_mean_ms'\n"
    with pytest.raises(UserError, match='got "variant"; of variants: kind = "variants"'):
        loads(STUDY.format(2) + chart)
