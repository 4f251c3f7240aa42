"""What the kernel of this machine and Slurm noted of an attempt."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from launch.diagnosis.hits import Hit
from launch.diagnosis.known import recognised
from launch.preflight.kernel import LOG, read_log
from launch.processes import die_with_parent

# A healthy controller answers within a second; slurmctld's own message time-out is 10 s.
SLURM_SECONDS = 10.0
# The kernel notes a kill when it decides it; a process with much memory takes a while to be gone.
MARGIN_SECONDS = 60.0
_RECORD = re.compile(r"\d+,\d+,(\d+),[^;]*;(.*)")
# What the kernel calls the processes that train: Python, or torch's rename of its main thread.
_OURS = re.compile(r"\((?:python[\d.]*|pt_main_thread|pt_data_worker|accelerate|torchrun)\)")
_PAIR = re.compile(r"(?:^|\s)([A-Z][A-Za-z0-9/:_]*)=(\S*)")


def kernel_hits(began: float, ended: float, pids: Mapping[int, int], node: str | None, path: Path = LOG) -> list[Hit]:
    """The kernel's records between these times (seconds since 1970) that tell of a failure.

    `pids` are the ranks by process number. Another user's process that was killed says nothing of ours. Raises OSError
    where the log may not be read.
    """
    return in_records(read_log(path), time.time() - time.clock_gettime(time.CLOCK_MONOTONIC), began, ended, pids, node)


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
    hits, silent = [], ""
    for argv in (
        ("sacct", "-X", "-n", "-P", "-o", "State,ExitCode,DerivedExitCode,End,NodeList", "-j", job),
        ("scontrol", "-o", "show", "job", job),
    ):
        try:
            printed = _answer(argv)
        except OSError as error:
            silent = silent or f"{argv[0]} says nothing of job {job}: {error}"
            continue
        text = noted(argv[0], printed)
        known = recognised(text) if text else None
        if known is not None:
            hits.append(Hit(known, f"{argv[0]} {job}", 1, text, None, None, _end(text)))
        if text:
            return hits, None
    return hits, silent or None


def noted(command: str, printed: str) -> str:
    """`JobState=TIMEOUT EndTime=... ...` of what sacct or scontrol prints of one job; empty where it knows none."""
    if command == "sacct":
        rows = [line.split("|") for line in printed.splitlines() if line.count("|") >= 4]
        if not rows:
            return ""
        state, code, derived, end, nodes = rows[-1][:5]
        state = state.split()[0]
        return f"JobState={state} ExitCode={code} DerivedExitCode={derived} EndTime={end} NodeList={nodes}"
    pairs = dict(_PAIR.findall(printed))
    keys = ("JobState", "Reason", "Restarts", "ExitCode", "DerivedExitCode", "EndTime", "NodeList")
    return " ".join(f"{key}={pairs[key]}" for key in keys if key in pairs) if "JobState" in pairs else ""


def _end(text: str) -> float | None:
    found = re.search(r"EndTime=(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    return time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) if found else None


def _answer(argv: Collection[str]) -> str:
    """What a command prints. Raises OSError, with a reason for people, where it does not answer."""
    name = next(iter(argv))
    try:
        process = subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
    except FileNotFoundError:
        raise OSError(f"{name} is not on this machine") from None
    try:
        out, err = process.communicate(timeout=SLURM_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise OSError(f"{name} has not answered within {SLURM_SECONDS:g} s") from None
    if process.returncode:
        raise OSError((err or out).strip().partition("\n")[0] or f"{name} ended with {process.returncode}")
    return out
