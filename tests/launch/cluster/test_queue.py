"""A job as scontrol and sacct print it."""

import pytest

from launch.cluster import queue
from launch.cluster.commands import SlurmError, failure
from launch.cluster.queue import State, from_sacct, from_scontrol, moment, states_of

PENDING = (
    "JobId=16 JobName=run UserId=root(0) GroupId=root(0) Priority=4294901744 JobState=PENDING Reason=Resources"
    " Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 RunTime=00:00:00 TimeLimit=00:10:00"
    " SubmitTime=1795755195 StartTime=1795758743 EndTime=1795759343 Partition=main NodeList=(null)"
    " SchedNodeList=n0 NumNodes=1-1 StdOut=/runs/a b/job-16.log Power="
)
TIMED_OUT = (
    "JobId=23 JobName=run JobState=TIMEOUT Reason=TimeLimit Requeue=1 Restarts=2 ExitCode=0:15 TimeLimit=1-00:00:00"
    " StartTime=2026-11-27T04:58:43 EndTime=2026-11-27T05:00:43 Partition=main NodeList=n[0-2]"
)


def test_a_job_that_waits() -> None:
    assert from_scontrol(PENDING) == State(
        state="PENDING", reason="Resources", nodes="", start=1795758743.0, end=1795759343.0, limit_seconds=600,
        exit_code=None, restarts=0, requeue=True, source="scontrol",
    )  # fmt: skip


def test_a_job_that_ended_by_a_signal() -> None:
    found = from_scontrol(TIMED_OUT)
    assert (found.state, found.exit_code, found.nodes, found.restarts, found.active) == (
        "TIMEOUT", 143, "n[0-2]", 2, False,
    )  # fmt: skip
    assert found.end is not None
    assert found.start is not None
    assert found.end - found.start == 120


def test_a_job_that_only_the_database_remembers() -> None:
    row = ["16", "CANCELLED by 0", "75:0", "n0", "1795755195", "1795755199", "00:10:00", "None"]
    found = from_sacct(row)
    assert (found.state, found.exit_code, found.reason, found.requeue) == ("CANCELLED", 75, "", None)


def test_times_that_are_none() -> None:
    assert [moment(text) for text in ("Unknown", "N/A", "0", "", "1795755195")] == [None] * 4 + [1795755195.0]


# What a controller prints for a job that it has forgotten, and for an element of a job array; what sacct prints where
# there is no slurmdbd, and where there is one.
FORGOTTEN = ("slurm_load_jobs error: Invalid job id specified\n", "Job 9_1 not found\n")
NO_DATABASE = "Slurm accounting storage is disabled\n"
SACCT = "9_1|CANCELLED by 0|0:0|None assigned|Unknown|1795755195|00:10:00|None\n"


def answering(monkeypatch: pytest.MonkeyPatch, scontrol: str, sacct: str) -> None:
    def slurm(program: str, *argv: str) -> str:
        if program == "sacct" and "|" in sacct:
            return sacct
        raise failure(program, scontrol if program == "scontrol" else sacct)

    monkeypatch.setattr(queue, "slurm", slurm)


@pytest.mark.parametrize("printed", FORGOTTEN)
def test_a_job_that_the_controller_has_forgotten(monkeypatch: pytest.MonkeyPatch, printed: str) -> None:
    answering(monkeypatch, printed, NO_DATABASE)
    assert states_of("9_1") == []
    answering(monkeypatch, printed, SACCT)
    assert [(found.state, found.end, found.source) for found in states_of("9_1")] == [
        ("CANCELLED", 1795755195.0, "sacct"),
    ]


@pytest.mark.parametrize("state", ["PENDING", "RUNNING"])
def test_a_database_that_has_not_been_told_the_end_yet(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    """It was down meanwhile: its last word of a job that the controller has forgotten is that it waits or runs."""
    answering(monkeypatch, FORGOTTEN[0], f"9|{state}|0:0|n0|1795755195|Unknown|00:10:00|None\n")
    assert states_of("9") == []


def test_a_controller_that_does_not_answer_has_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    answering(monkeypatch, "slurm_load_jobs error: Unable to contact slurm controller (connect failure)\n", NO_DATABASE)
    with pytest.raises(SlurmError, match="Unable to contact slurm controller"):
        states_of("9")
