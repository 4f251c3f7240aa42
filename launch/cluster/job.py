"""The job of a run: its script, its submission, and RUN/job.json."""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from launch.cluster.answers import Node
from launch.cluster.commands import SlurmError, slurm
from launch.cluster.queue import State, job_of_script
from launch.cluster.shares import cpus, mem
from launch.errors import UsageError
from launch.plan import Plan
from launch.render.sbatch import BatchJob, pattern
from launch.rundir import RunDir
from launch.rundir.journal import event, write_json
from launch.wording import printable


class JobRecord(BaseModel):
    """What RUN/job.json holds."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    """As squeue and scancel take it: `123`, or `123_4` for an element of a job array."""
    cluster: str = ""
    partition: str
    script: str
    submitted: float
    """Seconds since 1970."""

    @property
    def array(self) -> str:
        """The id without the element."""
        return self.id.split("_")[0]


def batch_job(plan: Plan, run: RunDir, nodes: Sequence[Node], elements: int | None = None) -> BatchJob:
    """What the plan's job asks for. Raises UsageError for a run directory that no #SBATCH line can name."""
    spec, topology = plan.spec, plan.topology
    logs = "%a/job-%A_%a.log" if elements is not None else "job-%j.log"
    place = str(run.root)
    if printable(place) != place or "\\" in place:
        raise UsageError(
            f"--run-dir {printable(place)}: Slurm cannot write a job's output into a folder of that name (a backslash,"
            " or what does not print); choose another"
        )
    return BatchJob(
        name=spec.name, nodes=topology.nodes + spec.slurm.spares,
        gpus_per_node=topology.devices_per_node if topology.device == "gpu" else 0,
        cpus_per_task=cpus(plan, nodes), mem=mem(plan, nodes),
        output=spec.slurm.output or f"{pattern(place)}/{logs}", slurm=spec.slurm, elements=elements,
    )  # fmt: skip


def python_environment(plan: Plan) -> str:
    """slurm.venv, or the environment that this process runs in."""
    return plan.spec.slurm.venv or sys.prefix


class UnsureError(SlurmError):
    """Neither sbatch nor squeue told whether there is a job now."""


def submit(script: Path, options: Sequence[str]) -> str:
    """The id of the job that sbatch made. Raises SlurmError with its words, and UnsureError.

    The controller may have made a job and sbatch not have heard of it, on a busy controller above all.
    """
    try:
        printed = slurm("sbatch", "--parsable", *options, str(script))
    except SlurmError as error:
        if error.silence not in ("overdue", "controller"):
            raise
        if (made := _made(script, error)) is None:
            raise
        return made
    match = re.search(r"^(\d+)(?:;\S+)?$", printed, re.MULTILINE)
    if match is None:
        raise SlurmError("refused", f"sbatch printed {printed.strip()!r} and no job id", "see squeue --me")
    return match[1]


def _made(script: Path, unheard: SlurmError) -> str | None:
    try:
        return job_of_script(script)
    except SlurmError as error:
        fix = "submit the run again once the controller answers: a job of it that is there by then is found"
        raise UnsureError(error.silence, f"{unheard.told}; {error.told}", fix) from None


def record(run: RunDir, job: JobRecord) -> None:
    """Writes job.json, and the event that keeps it when another job follows."""
    write_json(run.job, job.model_dump())
    event(run.events, "submitted", job=job.id, partition=job.partition)


def recorded(run: RunDir) -> JobRecord | None:
    """The run's last job; None for a run that was started by hand."""
    try:
        return JobRecord.model_validate_json(run.job.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of damaged text as well
        return None


def unrecorded(run: RunDir, script: Path) -> str | None:
    """The job of a submission that was broken off between sbatch and job.json, as long as it waits or runs. Raises
    SlurmError.

    Slurm is asked only where the script is newer than the run's last record of a job.
    """
    try:
        written = script.stat().st_mtime
        told = run.job.stat().st_mtime if run.job.exists() else None
    except OSError:
        return None
    return job_of_script(script) if told is None or told < written else None


def new_job(job_id: str, plan: Plan, script: Path, cluster: str) -> JobRecord:
    return JobRecord(
        id=job_id,
        cluster=cluster,
        partition=plan.spec.slurm.partition,
        script=str(script),
        submitted=round(time.time(), 3),
    )


def refuse_second(run: RunDir, job: str, states: Sequence[State]) -> None:
    """Raises UsageError for a run whose job waits or runs, by what Slurm says of it."""
    active = next((state for state in states if state.active), None)
    if active is None:
        return
    where = f" on {active.nodes}" if active.nodes else ""
    raise UsageError(
        f"{run.root}: job {job} of this run is {active.state.lower()}{where}; wait for it (muster status {run.root}),"
        f" end it (muster stop {run.root}), or use another --run-dir"
    )
