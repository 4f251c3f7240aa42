"""What Slurm knows of one job: from the controller while it remembers, then from slurmdbd where there is one."""

import re
from datetime import datetime
from pathlib import Path
from typing import Literal, NamedTuple

from launch.cluster.answers import limit, pairs
from launch.cluster.commands import SlurmError, slurm

# Not over yet (man squeue, JOB STATE CODES).
ACTIVE = {
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED",
    "RESIZING", "SIGNALING", "STAGE_OUT", "STOPPED", "SPECIAL_EXIT", "RESV_DEL_HOLD",
}  # fmt: skip
_SACCT = "JobID,State,ExitCode,NodeList,Start,End,Timelimit,Reason"


class State(NamedTuple):
    """Times are seconds since 1970, None where they are not known."""

    state: str
    """PENDING, RUNNING, COMPLETED, FAILED, TIMEOUT, NODE_FAIL and so on (man squeue, JOB STATE CODES)."""
    reason: str
    """Why it waits; empty where Slurm gives none."""
    nodes: str
    start: float | None
    """When it began, or when Slurm expects it to."""
    end: float | None
    """When it ended, or when its time limit will end it."""
    limit_seconds: int | None
    exit_code: int | None
    """Of the batch script, once it has ended."""
    restarts: int | None
    """None where that is not told: slurmdbd keeps each start of a job by itself."""
    requeue: bool | None
    """Whether it may be requeued; None where that is not told."""
    source: Literal["scontrol", "sacct"]

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in ACTIVE


def state_of(job: str) -> State | None:
    """None for a job that Slurm has forgotten. Raises SlurmError where it does not answer."""
    found = states_of(job)
    return found[-1] if found else None


def states_of(job: str) -> list[State]:
    """As `state_of`; of a job array's own id, every element's."""
    return remembered(job) or _accounted(job)


def remembered(job: str) -> list[State]:
    """As `states_of`, by the controller alone. It knows every job that waits or runs."""
    try:
        printed = slurm("scontrol", "--oneliner", "show", "job", job)
    except SlurmError as error:
        if error.silence != "refused" or not re.search("Invalid job id|not found", error.told):
            raise
        printed = ""
    lines = [line for line in printed.splitlines() if line.startswith("JobId=")]
    return [from_scontrol(line) for line in lines]


def job_of_script(script: Path) -> str | None:
    """The caller's job that waits or runs and whose batch script is that file; of a job array its own id. Raises
    SlurmError."""
    lines = slurm("squeue", "--me", "--noheader", "--format=%F|%o").splitlines()
    rows = [line.rstrip().partition("|") for line in lines]
    return next((job for job, _, command in rows if command == str(script)), None)


def output_of(job: str) -> Path | None:
    """The file that a job's batch script prints into, as long as the controller remembers the job and answers."""
    try:
        values = pairs(slurm("scontrol", "--oneliner", "show", "job", job))
    except SlurmError:
        return None
    return Path(values["StdOut"]) if values.get("StdOut") else None


def _accounted(job: str) -> list[State]:
    try:
        printed = slurm("sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={job}", f"--format={_SACCT}")
    except SlurmError as error:
        if error.silence in ("refused", "absent"):  # no slurmdbd, or no sacct
            return []
        raise
    rows = [line.split("|") for line in printed.splitlines()]
    found = [from_sacct(row) for row in rows if row[0] == job or row[0].startswith(f"{job}_")]
    # The controller, asked first, knows each job that is not over: slurmdbd has yet to be told how this one ended.
    return [state for state in found if not state.active]


def from_scontrol(line: str) -> State:
    """Of a line of `scontrol --oneliner show job`."""
    values = pairs(line)
    state, reason, nodes = values["JobState"], values.get("Reason", ""), values.get("NodeList", "")
    return State(
        state=state, reason="" if reason == "None" else reason, nodes="" if nodes == "(null)" else nodes,
        start=moment(values.get("StartTime", "")), end=moment(values.get("EndTime", "")),
        limit_seconds=limit(values.get("TimeLimit", "")),
        exit_code=_code(values.get("ExitCode", "")) if state not in ACTIVE else None,
        restarts=int(values.get("Restarts", "0")), requeue=values["Requeue"] == "1" if "Requeue" in values else None,
        source="scontrol",
    )  # fmt: skip


def from_sacct(row: list[str]) -> State:
    """Of a row of `sacct --parsable2` with our columns."""
    _, state, code, nodes, start, end, time, reason = row
    return State(
        state=state.split()[0], reason="" if reason in ("None", "") else reason,
        nodes="" if nodes == "None assigned" else nodes, start=moment(start), end=moment(end),
        limit_seconds=limit(time), exit_code=_code(code), restarts=None, requeue=None, source="sacct",
    )  # fmt: skip


def moment(text: str) -> float | None:
    """A time as SLURM_TIME_FORMAT=%s prints it, or as an older Slurm does that does not know it."""
    if re.fullmatch(r"\d+", text):
        return float(text) or None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:  # Unknown, N/A, None
        return None


def _code(text: str) -> int | None:
    """`75:0`, code and signal. A signal's code is 128 more, as a shell has it."""
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if match is None:
        return None
    return 128 + int(match[2]) if int(match[2]) else int(match[1])
