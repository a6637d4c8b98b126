"""Long work is seen: on a terminal, and in a log."""

from __future__ import annotations

import time

import pytest

from dsim.cli import progress


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now_s = 0.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now_s)
    return Clock


def test_a_log_has_a_line_now_and_then(clock, capsys):
    told = progress.counting("trials simulated")
    for now_s, done in ((1, 1), (11, 1), (31, 2), (41, 2), (62, 3), (70, 3), (72, 4)):
        clock.now_s = now_s
        told(done, 4)
    assert capsys.readouterr().err == (
        "1 of 4 trials simulated, about 33 s left\n2 of 4 trials simulated, about 41 s left\n"
    )


def test_the_time_left_is_told_once_enough_is_done(clock, capsys):
    for done, now_s, left in ((1, 11, ""), (4, 59, ""), (1, 61, ", about 2 hours left")):
        clock.now_s = 0.0
        told = progress.counting("cases")
        clock.now_s = now_s
        told(done, 135)
        assert capsys.readouterr().err == f"{done} of 135 cases{left}\n"
    for done, now_s, left in (
        (5, 20, ", about 9 minutes left"),
        (14, 40, ", about 6 minutes left"),
    ):
        clock.now_s = 0.0
        told = progress.counting("cases")
        clock.now_s = now_s
        told(done, 135)
        assert capsys.readouterr().err == f"{done} of 135 cases{left}\n"


def test_of_parts_of_a_case_two_are_enough(clock, capsys):
    told = progress.counting("cases")
    for now_s, done in ((6, 0.1), (12, 0.2)):
        clock.now_s = now_s
        told(done, 4)
    assert capsys.readouterr().err == "0 of 4 cases, about 4 minutes left\n"


def test_a_line_comes_as_soon_as_the_time_left_can_be_told(clock, capsys):
    told = progress.counting("cases")
    for now_s, done in ((11, 1), (12, 2), (13, 5), (14, 6), (44, 7)):
        clock.now_s = now_s
        told(done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "1 of 100 cases",
        "5 of 100 cases, about 4 minutes left",
        "7 of 100 cases, about 10 minutes left",
    ]


def test_a_bar_tells_the_time_left_once_enough_is_done(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    told = progress.counting("cases")
    clock.now_s = 5.0
    told(1, 135)
    assert "<" not in capsys.readouterr().err
    clock.now_s = 30.0
    time.sleep(0.15)  # it is drawn ten times a second
    told(20, 135)
    assert "<" in capsys.readouterr().err
    told(135, 135)


def test_a_terminal_has_a_bar_that_is_gone_at_the_end(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    told = progress.counting("cases")
    told(1, 4)
    assert "of 4 cases" in capsys.readouterr().err
    told(4, 4)
    assert capsys.readouterr().err.endswith("\r")
