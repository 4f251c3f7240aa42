"""The kernel's records and Slurm's."""

import time
from pathlib import Path

import pytest

from launch.cluster.queue import from_sacct, from_scontrol
from launch.diagnosis.cause import Cause
from launch.diagnosis.explain import may_follow
from launch.diagnosis.records import in_records, noted, slurm_hits
from launch.errors import ExitCode

BOOTED = 1_000_000.0
# /dev/kmsg (Documentation/ABI/testing/dev-kmsg): microseconds since the machine was started.
KMSG = """\
6,1,5000000,-;NVRM: Xid (PCI:0000:44:00): 31, pid=7, name=python, MMU Fault
3,2,100000000,-;NVRM: Xid (PCI:0000:44:00): 79, pid=7, name=python, GPU has fallen off the bus.
3,3,101000000,-;Memory cgroup out of memory: Killed process 4190 (python3.11) total-vm:49978204kB, anon-rss:12918388kB
3,4,102000000,-;Out of memory: Killed process 99 (postgres) total-vm:1kB, anon-rss:1kB
 SUBSYSTEM=cpu
"""


def test_the_kernel_s_records_of_an_attempt() -> None:
    hits = in_records(KMSG, BOOTED, BOOTED + 90, BOOTED + 110, {4190: 3}, "n1")
    assert [(hit.known.name, hit.rank, hit.node, hit.time, hit.line) for hit in hits] == [
        ("xid", None, "n1", BOOTED + 100, 2), ("oom-killed", 3, "n1", BOOTED + 101, 3),
    ]  # fmt: skip


def test_what_was_before_or_long_after_is_another_s() -> None:
    assert in_records(KMSG, BOOTED, BOOTED + 110, BOOTED + 200, {}, "n1") == []
    assert in_records(KMSG, BOOTED, BOOTED, BOOTED + 30, {}, "n1") == []


def test_another_process_that_was_killed_is_not_ours_unless_it_is_a_rank() -> None:
    hits = in_records(KMSG, BOOTED, BOOTED + 101.5, BOOTED + 110, {99: 0}, "n1")
    assert [(hit.known.name, hit.rank) for hit in hits] == [("oom-killed", 0)]


SCONTROL = (
    "JobId=12 JobName=muster UserId=ml(1000) GroupId=ml(1000) MCS_label=N/A Priority=1 JobState=NODE_FAIL"
    " Reason=NodeDown Dependency=(null) Requeue=1 Restarts=2 BatchFlag=1 Reboot=0 ExitCode=0:1 DerivedExitCode=0:0"
    " StartTime=2026-11-27T09:00:00 EndTime=2026-11-27T09:31:44 Partition=gpu NodeList=n[0-1] BatchHost=n0\n"
)
SACCT = "12|CANCELLED by 1000|0:15|n[0-1]|1795771000|1795773104|10:00|None"


def test_what_slurm_says_in_short() -> None:
    assert noted(from_scontrol(SCONTROL)) == (
        "JobState=NODE_FAIL Reason=NodeDown Restarts=2 ExitCode=129 NodeList=n[0-1]"
    )
    assert noted(from_sacct(SACCT.split("|"))) == "JobState=CANCELLED ExitCode=143 NodeList=n[0-1]"


def program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that alone is looked in for commands."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("end", ["2026-11-27T09:31:44", "1795771904"])
def test_the_controller_s_record_explains_the_end(commands: Path, end: str) -> None:
    """Whichever way the times are written (SLURM_TIME_FORMAT): an older Slurm does not know ours."""
    (commands / "text").write_text(SCONTROL.replace("2026-11-27T09:31:44", end))
    program(commands, "scontrol", f'while read line; do echo "$line"; done < {commands}/text')
    hits, silent = slurm_hits("12")
    assert silent is None
    assert [(hit.known.name, hit.file) for hit in hits] == [("node-failure", "scontrol 12")]
    assert hits[0].time == (
        1795771904 if end.isdecimal() else time.mktime(time.strptime("2026-11-27 09:31:44", "%Y-%m-%d %H:%M:%S"))
    )


def test_the_database_is_asked_where_the_controller_has_forgotten(commands: Path) -> None:
    program(commands, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    program(commands, "sacct", f"echo '{SACCT}'")
    hits, silent = slurm_hits("12")
    assert silent is None
    assert [(hit.known.name, hit.file, hit.time) for hit in hits] == [("cancelled", "sacct 12", 1795773104)]


def test_a_job_that_ended_well_explains_nothing(commands: Path) -> None:
    program(commands, "scontrol", "echo 'JobId=12 JobState=COMPLETED Reason=None ExitCode=0:0 NodeList=n0'")
    assert slurm_hits("12") == ([], None)


def test_a_job_that_nobody_knows_any_more(commands: Path) -> None:
    program(commands, "scontrol", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert slurm_hits("12") == ([], "Slurm knows nothing of job 12 any more")


def test_a_machine_without_slurm_says_so(commands: Path) -> None:
    assert slurm_hits("12") == ([], "Slurm says nothing of job 12: scontrol is not on this machine")


def caused(name: str, code: ExitCode = ExitCode.WORKER, certain: bool = True) -> Cause:
    return Cause(name, code, 0, "n1", "it broke", (), "", None, certain, another_try=False)


@pytest.mark.parametrize(
    ("cause", "may"),
    [
        (None, True),
        (caused("killed", certain=False), True),
        (caused("exception"), True),  # such as: a subprocess died abruptly
        (caused("reported", ExitCode.HOST), True),
        (caused("reported", ExitCode.DATA), False),
        (caused("loss-spike", ExitCode.NUMERICAL), False),
        (caused("gpu-memory", ExitCode.GPU_MEMORY), False),
    ],
)  # fmt: skip
def test_a_process_that_was_killed_beside_the_ranks_explains_no_failure_that_explains_itself(
    cause: Cause | None, may: bool
) -> None:
    """On a node that is shared it may be another user's."""
    killed, lost = in_records(KMSG, BOOTED, BOOTED + 90, BOOTED + 110, {}, "n1")[::-1]
    assert (killed.known.name, killed.rank) == ("oom-killed", None)
    assert may_follow(cause, killed) == may
    assert may_follow(cause, lost)
