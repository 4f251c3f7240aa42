"""Reading the end of a file that grows: rows once each, and never more than is needed."""

import json
from pathlib import Path

import pytest

from launch.rundir import tail
from launch.rundir.journal import append, keep_rows
from launch.rundir.tail import Tail, lines_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "samples.jsonl"


def write(file: Path, *steps: int) -> None:
    for step in steps:
        append(file, {"step": step})


def steps(tail: Tail) -> list[int]:
    return [row["step"] for row in tail.rows()]


def test_a_tail_gives_each_new_row_once(file: Path) -> None:
    tail = Tail(file)
    assert steps(tail) == []
    write(file, 1, 2)
    assert steps(tail) == [1, 2]
    assert steps(tail) == []
    write(file, 3)
    assert steps(tail) == [3]


def test_a_tail_starts_after_what_is_there(file: Path) -> None:
    write(file, 1, 2)
    tail = Tail(file)
    write(file, 3)
    assert steps(tail) == [3]


def test_a_row_that_is_still_being_written_comes_when_it_is_whole(file: Path) -> None:
    tail = Tail(file)
    with open(file, "a") as writer:
        writer.write('{"step": 1}\n{"step"')
        writer.flush()
        assert steps(tail) == [1]
        writer.write(": 2}\n")
    assert steps(tail) == [2]


def test_a_file_that_a_resume_made_shorter_is_read_from_its_start(file: Path) -> None:
    write(file, 1, 2, 3, 4)
    tail = Tail(file)
    keep_rows(file, lambda row: row["step"] <= 2)
    assert steps(tail) == [1, 2]
    write(file, 3)
    assert steps(tail) == [3]


def test_a_file_that_a_resume_rewrote_and_that_grew_again(file: Path) -> None:
    write(file, 1, 2, 3)
    tail = Tail(file)
    keep_rows(file, lambda row: row["step"] <= 2)
    append(file, {"step": 3, "ids": ["a", "b", "c"]})
    write(file, 4)
    assert steps(tail)[-2:] == [3, 4]


def test_a_line_that_a_kill_tore_apart_is_left_out(file: Path) -> None:
    tail = Tail(file)
    file.write_text('{"step": 1, "lo{"step": 2}\n{"step": 3}\n')
    assert steps(tail) == [3]


def test_the_last_part_of_a_long_file_is_enough_at_first(file: Path) -> None:
    write(file, *range(100))
    row = len(json.dumps({"step": 99})) + 1
    assert steps(Tail(file, last=3 * row)) == [97, 98, 99]
    assert steps(Tail(file, last=3 * row + 1)) == [97, 98, 99]
    assert steps(Tail(file, last=3 * row - 1)) == [98, 99]
    assert steps(Tail(file, last=1 << 40)) == list(range(100))


def test_the_last_part_goes_on_with_what_is_new(file: Path) -> None:
    write(file, *range(100))
    tail = Tail(file, last=20)
    tail.rows()
    assert steps(tail) == []
    write(file, 100)
    assert steps(tail) == [100]


def test_who_was_away_for_long_goes_on_with_the_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "MOST_BYTES", 200)
    write(file, 0)
    skipping, complete = Tail(file, last=30, skips=True), Tail(file)
    assert steps(skipping) == [0]
    write(file, *range(1, 100))
    assert steps(skipping) == [98, 99]
    assert steps(complete) == list(range(1, 100))
    keep_rows(file, lambda row: row["step"] < 90)
    assert steps(skipping) == [88, 89]


def test_a_file_that_is_not_there_yet(file: Path) -> None:
    tail = Tail(file, last=100)
    assert steps(tail) == []
    write(file, 1)
    assert steps(tail) == [1]


def test_each_state_of_a_progress_bar_is_a_line() -> None:
    assert list(lines_of(b"a\n\n  0%\r 50%\r\nb\xff")) == ["a", "  0%", " 50%", "b\ufffd"]


def test_a_file_that_was_written_anew_and_is_shorter_is_read_anew(tmp_path: Path) -> None:
    """Written anew twice it may have its old number."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(f'{{"step": {step}}}\n' for step in range(20)))
    tail = Tail(file)
    file.write_text('{"step": 3}\n')
    assert [row["step"] for row in tail.rows()] == [3]
