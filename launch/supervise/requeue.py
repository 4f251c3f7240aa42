"""A job that gives its nodes back and is started again by Slurm."""

import subprocess

from launch.allocation import SECONDS
from launch.errors import CommunicationError
from launch.journal import event
from launch.rundir import RunDir
from launch.supervise.decisions import Requeue


def requeue(run: RunDir, job: str, wish: Requeue) -> None:
    """Raises CommunicationError when Slurm will not start the job again, or would on the nodes that it must not get."""
    said = _refusal("requeue", job)
    if said:
        raise CommunicationError(
            f"the run is saved, and Slurm does not start job {job} again: {said}. Where the site does not permit"
            " requeueing (scontrol show config: JobRequeue): submit it again, it goes on by itself"
        )
    event(run.events, "requeued", job=job, reason=wish.reason, exclude=list(wish.exclude))
    said = _refusal("update", f"JobId={job}", f"ExcNodeList={','.join(wish.exclude)}") if wish.exclude else ""
    if said:
        raise CommunicationError(
            f"job {job} is queued again, but may get {', '.join(wish.exclude)} again: {said}; keep it off them with"
            f" scontrol update JobId={job} ExcNodeList=..."
        )


def _refusal(*words: str) -> str:
    """What scontrol objects; empty where it does as it is told."""
    try:
        subprocess.run(["scontrol", *words], capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return str(getattr(error, "stderr", "") or error).strip()
    return ""
