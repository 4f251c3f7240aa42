"""Whose a log line is, and when it was written."""

from datetime import UTC, datetime

import pytest

from launch.diagnosis.lines import bare, labelled, last_written, rank_of, written


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[rank3]: RuntimeError: x", "RuntimeError: x"),
        ("[default3]:RuntimeError: x", "RuntimeError: x"),
        ("1: [rank9]: RuntimeError: x\n", "RuntimeError: x"),
        ("\x1b[31mRuntimeError: x", "RuntimeError: x"),
        ("2026-11-27 09:31:44.977 RuntimeError: x", "RuntimeError: x"),
        ("[2026-11-27T09:31:44.106313Z] fa88a9df || RuntimeError: x", "RuntimeError: x"),
        ("(Worker pid=2347640, ip=10.58.226.15) RuntimeError: x", "RuntimeError: x"),
        ("\r 4%|#   | 1/9\r 8%|##  | 2/9RuntimeError", " 8%|##  | 2/9RuntimeError"),
        ("  exitcode  : -9", "  exitcode  : -9"),
        ("12: not a label's end", "not a label's end"),
    ],
)
def test_the_message_alone(line: str, message: str) -> None:
    assert bare(line) == message


def test_ranks() -> None:
    assert labelled("[rank3]:[E1127 09:00:00.1 ProcessGroupNCCL.cpp:1] [Rank 5] Watchdog") == 3
    assert rank_of("[rank3]:[E1127 09:00:00.1 ProcessGroupNCCL.cpp:1] [Rank 5] Watchdog") == 3
    assert rank_of("[E ProcessGroupNCCL.cpp:821] [Rank 1] Watchdog caught") == 1
    assert rank_of("  what():  [PG ID 0 PG GUID 0(default_pg) Rank 2] terminated") == 2
    assert labelled("[E ProcessGroupNCCL.cpp:821] [Rank 1] Watchdog caught") is None
    assert rank_of("no rank at all") is None


@pytest.mark.parametrize(
    ("line", "at"),
    [
        ("2026-11-27 09:31:44,120 INFO x", (2026, 11, 27, 9, 31, 44, 120000)),
        ("[2026-11-27 09:31:44,120] [INFO] x", (2026, 11, 27, 9, 31, 44, 120000)),
        ("  time      : 2026-11-27_09:31:44", (2026, 11, 27, 9, 31, 44)),
        ("*** JOB 1 ON n0 CANCELLED AT 2026-11-27T09:31:44 DUE TO", (2026, 11, 27, 9, 31, 44)),
        ("[rank0]:[E1127 09:31:44.250000000 ProcessGroupNCCL.cpp:1]", (2026, 11, 27, 9, 31, 44, 250000)),
        ("[rank0]:[E321 02:07:08.500000000 ProcessGroupNCCL.cpp:607]", (2026, 3, 21, 2, 7, 8, 500000)),
        ("W1127 09:31:44.500000 4187 torch/distributed/run.py:803]", (2026, 11, 27, 9, 31, 44, 500000)),
        ("Nov  7 09:31:44 n1 kernel: x", (2026, 11, 7, 9, 31, 44)),
    ],
)
def test_times_in_the_forms_of_logs(line: str, at: tuple[int, ...]) -> None:
    assert written(line, 2026) == pytest.approx(datetime(*at).timestamp())


def test_a_time_of_the_whole_world() -> None:
    assert written("2026-11-27T09:31:44Z x", 1999) == datetime(2026, 11, 27, 9, 31, 44, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    "line", ["no time", "E9999 99:99:99.1 x", "2026-13-45 09:31:44", "Foo 27 09:31:44 x", "step 12:30"]
)
def test_what_is_no_time(line: str) -> None:
    assert written(line, 2026) is None


def test_the_last_time_before_a_line_is_its_time() -> None:
    lines = ["2026-11-27 09:00:00 a", "2026-11-27 10:00:00 b", "Traceback"]
    assert last_written(lines, 2026) == datetime(2026, 11, 27, 10).timestamp()
    assert last_written(["x"], 2026) is None
