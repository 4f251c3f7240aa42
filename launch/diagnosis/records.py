"""What the kernel of this machine and Slurm noted of an attempt."""

import re
import time
from collections.abc import Mapping
from pathlib import Path

from launch.cluster.commands import SlurmError
from launch.cluster.queue import State, state_of
from launch.diagnosis.hits import Hit
from launch.diagnosis.known import recognised
from launch.preflight.kernel import LOG, log_time, read_log

# The kernel notes a kill when it decides it; a process with much memory takes a while to be gone.
MARGIN_SECONDS = 60.0
_RECORD = re.compile(r"\d+,\d+,(\d+),[^;]*;(.*)")
# What the kernel calls the processes that train: Python, or torch's rename of its main thread.
_OURS = re.compile(r"\((?:python[\d.]*|pt_main_thread|pt_data_worker|accelerate|torchrun)\)")


def kernel_hits(began: float, ended: float, pids: Mapping[int, int], node: str | None, path: Path = LOG) -> list[Hit]:
    """The kernel's records between these times (seconds since 1970) that tell of a failure.

    `pids` are the ranks by process number. Another user's process that was killed says nothing of ours. Raises OSError
    where the log may not be read.
    """
    return in_records(read_log(path), time.time() - log_time(), began, ended, pids, node)


def in_records(
    records: str, booted: float, began: float, ended: float, pids: Mapping[int, int], node: str | None
) -> list[Hit]:
    """Pure part of kernel_hits: of the text of /dev/kmsg, with the time at which the machine was started."""
    found = []
    for number, line in enumerate(records.splitlines(), 1):
        record = _RECORD.match(line)
        known = recognised(record[2]) if record else None
        if record is None or known is None or known.name not in ("xid", "oom-killed"):
            continue
        at = booted + int(record[1]) / 1e6
        if not began <= at <= ended + MARGIN_SECONDS:
            continue
        named = re.search(r"Killed process (\d+) (\(.*?\))", record[2])
        rank = pids.get(int(named[1])) if named else None
        if known.name == "oom-killed" and rank is None and not (named and _OURS.search(record[2])):
            continue
        found.append(Hit(known, "kernel log", number, record[2], rank, node, at))
    return found


def slurm_hits(job: str) -> tuple[list[Hit], str | None]:
    """What Slurm noted of a job that explains its end, and what could not be read of it, if so."""
    try:
        state = state_of(job)
    except SlurmError as error:
        return [], f"Slurm says nothing of job {job}: {error.told}"
    if state is None:
        return [], f"Slurm knows nothing of job {job} any more"
    text = noted(state)
    known = recognised(text)
    return ([Hit(known, f"{state.source} {job}", 1, text, None, None, state.end)] if known else []), None


def noted(state: State) -> str:
    """`JobState=TIMEOUT Reason=TimeLimit ...`, as Slurm itself would write it on a line."""
    pairs = {
        "JobState": state.state, "Reason": state.reason, "Restarts": state.restarts, "ExitCode": state.exit_code,
        "NodeList": state.nodes,
    }  # fmt: skip
    return " ".join(f"{key}={value}" for key, value in pairs.items() if value not in ("", None))
