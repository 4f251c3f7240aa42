"""Warnings out of all ranks' logs: each once, and a look that costs what is new."""

from pathlib import Path

import pytest

from launch.logs import ranks as rank_logs
from launch.logs.ranks import LOOK_BYTES, SETTLE_SECONDS, Heard, Logs, Warnings
from launch.rundir import Attempt

SAID = "WARNING:root:bucket {} is late\n"


@pytest.fixture
def attempt(tmp_path: Path) -> Attempt:
    return Attempt(tmp_path)


def write(attempt: Attempt, rank: int, text: str) -> None:
    with open(attempt.log(rank), "a") as log:
        log.write(text)


def heard(*ranks: str, of: int) -> list[str]:
    warnings = Warnings(of)
    for number in range(of):
        name = f"rank {number}"
        warnings.hear(name, [SAID.format(number).strip()] if name in ranks else [], 10.0)
    assert warnings.due(10.0 + SETTLE_SECONDS / 2) == []
    lines = warnings.due(10.0 + SETTLE_SECONDS)
    assert warnings.due(99.0) == []
    return lines


def test_what_all_ranks_say_is_said_once() -> None:
    assert heard("rank 0", "rank 1", "rank 2", of=3) == ["warning: bucket 0 is late (root)"]


def test_what_some_say_names_them() -> None:
    assert heard("rank 2", of=16) == ["warning: bucket 2 is late (root, rank 2 of 16)"]
    assert heard("rank 2", "rank 10", of=16) == ["warning: bucket 2 is late (root, ranks 2, 10 of 16)"]
    many = [f"rank {number}" for number in range(7)]
    assert heard(*many, of=16) == ["warning: bucket 0 is late (root, 7 of 16 ranks)"]


def test_a_rank_that_nothing_was_heard_of_has_not_said_it() -> None:
    warnings = Warnings(2)
    warnings.hear("rank 1", ["WARNING:root:late"], 0.0)
    assert warnings.due(SETTLE_SECONDS) == ["warning: late (root, rank 1 of 2)"]


def test_a_rank_that_says_it_later_says_nothing_new() -> None:
    warnings = Warnings(1)
    warnings.hear("rank 0", ["WARNING:root:late"], 0.0)
    assert len(warnings.due(SETTLE_SECONDS)) == 1
    warnings.hear("rank 1", ["WARNING:root:late"], 50.0)
    assert warnings.due(99.0) == []


def test_logs_are_read_line_by_line_as_they_grow(attempt: Attempt) -> None:
    logs = Logs(attempt)
    assert logs.look() == []
    write(attempt, 0, "one\ntwo")
    write(attempt, 10, "ten\n")
    assert logs.look() == [("rank 0", ["one"]), ("rank 10", ["ten"])]
    write(attempt, 0, " and a half\n  0%|\r 50%|\r100%|\n")
    assert logs.look() == [("rank 0", ["two and a half", "  0%|", " 50%|", "100%|"])]
    assert logs.look() == []


def test_a_log_that_floods_costs_no_more_than_its_end(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    logs, line = Logs(attempt), "x" * 99 + "\n"
    write(attempt, 0, "WARNING:root:first\n" + line * 100_000 + "WARNING:root:last\n")
    looks = [logs.look() for _ in range(3)]
    ((_, begin),), ((_, end),) = looks[:2]
    assert (begin[0], end[0], end[-1]) == ("WARNING:root:first", line.strip(), "WARNING:root:last")
    assert sum(map(len, begin)) <= LOOK_BYTES >= sum(map(len, end))
    assert looks[2] == []


def test_a_line_without_an_end_is_not_kept_for_ever(attempt: Attempt) -> None:
    logs = Logs(attempt)
    write(attempt, 0, "x" * (3 * LOOK_BYTES))
    logs.look()
    write(attempt, 0, "\nWARNING:root:last\n")
    lines = [line for _ in range(3) for _, new in logs.look() for line in new]
    assert lines[-1] == "WARNING:root:last"


def test_verbose_leaves_nothing_out(attempt: Attempt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "LOOK_SECONDS", 0.0)
    told = Heard(attempt, verbose=True)
    write(attempt, 1, "".join(f"line {number}\n" for number in range(20_000)))
    attempt.launcher_log.write_text("W1127 09:08:17.311000 27505 torch/distributed/run.py:874] ***\n")
    lines = told.look() + told.look(last=True)
    assert "launcher: W1127 09:08:17.311000 27505 torch/distributed/run.py:874] ***" in lines
    assert [line for line in lines if line.startswith("rank 1: ")] == [f"rank 1: line {n}" for n in range(20_000)]


def test_at_the_last_look_nothing_waits(attempt: Attempt) -> None:
    told = Heard(attempt)
    write(attempt, 0, "WARNING:root:late\n")
    attempt.launcher_log.write_text("WARNING:root:from torchrun\n")
    assert told.look(last=True) == ["warning: late (root)"]
