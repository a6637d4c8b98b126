"""What messages say of numbers."""

from __future__ import annotations

import pytest

from dsim.words import time_left


@pytest.mark.parametrize(
    ("spent_s", "done", "count", "expected"),
    [
        (9.0, 0, 10, ""),  # nothing is known yet
        (30.0, 3, 10, ", about 70 s left"),
        (60.0, 1, 6, ", about 5 minutes left"),
        (8.0, 4, 4, ", about 0 s left"),
    ],
)
def test_the_time_left_is_in_proportion(spent_s, done, count, expected):
    assert time_left(spent_s, done, count) == expected
