"""What earlier attempts have left behind."""

from pathlib import Path

from launch.errors import ExitCode
from launch.rundir import RunDir
from launch.rundir.journal import append, write_json
from launch.supervise.decisions import Ended
from launch.supervise.history import history, last_step


def test_attempts_in_their_order_without_those_that_left_nothing(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for number, step in ((1, 4), (3, 9)):
        told = {"exit_code": 8, "reason": "rank 1 hangs", "step": step, "error": None, "nodes": ["n1"]}
        write_json(run.attempt(number).outcome, told)
    run.attempt(2).root.mkdir()
    found = [one.ended for one in history(run)]
    assert found == [Ended(ExitCode.COMMUNICATION, "rank 1 hangs", step, None, ("n1",)) for step in (4, 9)]


def test_an_outcome_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.attempt(1).root.mkdir(parents=True)
    run.attempt(1).outcome.write_text('{"exit_code": 8')
    assert history(run) == []


def test_the_last_step_of_the_ledger(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert last_step(run) == 0
    for step in (1, 2, 3):
        append(run.samples, {"step": step, "epoch": 0, "ids": []})
    assert last_step(run) == 3
