"""What a supervisor finds whose predecessor was killed."""

import json
from pathlib import Path

import pytest

from launch.errors import ExitCode
from launch.rundir import MANIFEST, RunDir
from launch.rundir.journal import append, event, rows
from launch.supervise.history import history
from launch.supervise.successor import cut_short, take_over

REASON = "the supervisor was killed (SIGKILL): by somebody, or by the kernel for want of memory (see dmesg)"


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """In job 7, after one attempt of an earlier job."""
    run = RunDir(tmp_path)
    run.attempt(1).root.mkdir(parents=True)
    event(run.events, "job_started", job="7", nodes=["n0"], attempts=1)
    return run


def told(run: RunDir) -> list[tuple[str, str, int | None]]:
    found = [row for row in rows(run.events) if row["event"] == "supervisor_killed"]
    return [(row["job"], row["signal"], row["attempt"]) for row in found]


def test_the_attempt_that_it_was_in_has_failed_and_ends_on_all_nodes(run: RunDir) -> None:
    run.attempt(2).root.mkdir()
    append(run.samples, {"step": 5, "epoch": 0, "ids": []})
    take_over(run, "7", 9)
    assert run.attempt(2).over.exists()
    assert told(run) == [("7", "SIGKILL", 2)]
    (past,) = history(run)
    assert (past.ended.code, past.ended.step, past.ended.error) == (ExitCode.WORKER, 5, None)
    assert past.ended.reason.startswith(REASON)
    assert json.loads(run.attempt(2).outcome.read_text())["returncode"] == -9
    assert cut_short(run)
    run.attempt(3).root.mkdir()
    assert not cut_short(run), "which has been decided on"


def test_an_attempt_of_an_earlier_start_is_not_its_own(run: RunDir) -> None:
    """That one's node was lost: it left no outcome, and this supervisor never came to an attempt."""
    take_over(run, "7", 9)
    assert told(run) == [("7", "SIGKILL", None)]
    assert not run.attempt(1).over.exists()
    assert history(run) == []
    assert not cut_short(run)


def test_an_attempt_that_had_ended_keeps_its_outcome(run: RunDir) -> None:
    run.attempt(2).root.mkdir()
    run.attempt(2).outcome.write_text('{"exit_code": 8, "reason": "a hang"}')
    take_over(run, "7", 9)
    assert told(run) == [("7", "SIGKILL", None)]
    assert [past.ended.reason for past in history(run)] == ["a hang"]


def test_an_attempt_that_had_done_all_but_say_so_is_done(run: RunDir) -> None:
    run.attempt(2).root.mkdir()
    run.adapter.mkdir()
    (run.adapter / MANIFEST).write_text('{"files": {}}')
    take_over(run, "7", 9)
    assert told(run) == [("7", "SIGKILL", 2)]
    (past,) = history(run)
    assert (past.ended.code, past.ended.reason) == (ExitCode.DONE, "done")


def test_what_runs_in_a_directory_that_it_never_had_is_let_be(run: RunDir) -> None:
    run.attempt(2).root.mkdir()
    take_over(run, "8", 9)
    assert told(run) == []
    assert not run.attempt(2).over.exists()
