"""What an attempt begins with."""

import io
import os
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from launch.claim import prepare_run
from launch.plan import Plan
from launch.rundir import BY_A_PERSON, BY_A_WARNING, Attempt, RunDir
from launch.supervise.attempt import Workers
from launch.supervise.decisions import Past, Requeue
from launch.supervise.loop import began, forget_stop, supervise
from tests.conftest import command
from tests.launch.conftest import plan_of


def test_when_this_process_was_started() -> None:
    before = time.time()
    told = float(command("-c", "from launch.supervise.loop import began; print(began())").out)
    assert before - 0.1 <= told <= time.time()


@pytest.mark.parametrize(
    ("text", "again", "since_begun", "since_told", "stays"),
    [
        ("", False, 0.2, 9, True),
        ("", False, -0.2, 9, False),
        (BY_A_PERSON, False, -0.2, 9, False),  # of a run that somebody has started anew
        (BY_A_PERSON, True, -0.2, 9, True),  # while its job was given back
        (BY_A_PERSON, True, -0.2, -9, False),  # the last attempt ended by it
        (BY_A_WARNING, True, -0.2, 9, False),
        ("", True, -0.2, 9, False),
    ],
)
def test_a_stop_is_meant_for_whoever_ran_then(
    tmp_path: Path, text: str, again: bool, since_begun: float, since_told: float, stays: bool
) -> None:
    run, asked = RunDir(tmp_path), began() + since_begun
    run.stop.write_text(text)
    outcome = run.attempt(1).outcome
    outcome.parent.mkdir(parents=True)
    outcome.write_text("{}")
    os.utime(run.stop, (asked, asked))
    os.utime(outcome, (asked - since_told, asked - since_told))
    forget_stop(run, again)
    assert run.stop.exists() is stays


def test_a_stop_before_the_first_attempt_of_a_job_that_is_given_back(tmp_path: Path) -> None:
    """As where too few of its nodes were healthy."""
    run = RunDir(tmp_path)
    run.stop.write_text(BY_A_PERSON)
    os.utime(run.stop, (began() - 5, began() - 5))
    forget_stop(run, again=True)
    assert run.stop.exists()


class Asking:
    """A job that was started before, whose nodes are asked while somebody stops the run."""

    in_job = again = True
    successor = False

    def __init__(self, run: RunDir):
        self.run = run

    def prepared(self, plan: Plan, past: Sequence[Past]) -> Plan | Requeue:
        self.run.stop.write_text(BY_A_PERSON)
        return plan

    def preempted(self) -> bool:
        return False

    def start(self, plan: Plan, attempt: Attempt, resume: str) -> Workers:
        raise AssertionError


def test_a_stop_that_was_heard_before_training_is_not_meant_for_the_job_s_next_start(tmp_path: Path) -> None:
    run, plan = RunDir(tmp_path / "demo"), plan_of()
    prepare_run(run, plan)
    end = supervise(plan, run, Asking(run), "auto", Console(file=io.StringIO()))
    assert (end.code, end.reason.partition(";")[0]) == (75, "stopped as asked before training began")
    assert not run.stop.exists()
