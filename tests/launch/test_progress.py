"""Following a run directory while others write in it."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from launch.journal import append, keep_rows
from launch.progress import Follower
from launch.rundir import RunDir
from launch.tail import Tail


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


def test_without_a_terminal_there_is_a_line_a_row(tmp_path: Path) -> None:
    run, screen = RunDir(tmp_path), io.StringIO()
    with Follower(run, Console(file=screen, width=140)) as follower:
        data = {"rows": 40, "tokens": 12345, "trainable_tokens": 4321, "quarantined_rows": 2}
        data["counts"] = {"documents shortened": 3}
        append(run.events, {"event": "started", "time": 0, "steps": 22, "data": data})
        append(run.events, {"event": "resumed", "time": 0, "checkpoint": "step-000008"})
        append(run.metrics, {"step": 0, "eval_loss": 6.15})
        follower.look()
        append(run.samples, {"step": 9, "epoch": 0, "ids": ["a"]})
        append(run.metrics, {"step": 9, "loss": 1.23456, "tokens_per_second": 4567.8})
    assert screen.getvalue().splitlines() == [
        "data: 40 rows, 12,345 tokens, 4,321 of them trained on; 3 documents shortened;"
        " 2 rows left out (see tokens/*/quarantine.jsonl)",
        "resumed from step-000008",
        "step 0: eval_loss 6.1500",
        "step 9/22: loss 1.235  4,568 tokens/s",
    ]
