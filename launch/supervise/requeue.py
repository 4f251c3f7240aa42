"""A job that gives its nodes back and is started again by Slurm."""

import re
import signal

from launch.cluster.answers import pairs
from launch.cluster.commands import SlurmError, slurm
from launch.cluster.queue import moment
from launch.errors import Stopped
from launch.rundir import RunDir
from launch.rundir.journal import event
from launch.supervise.decisions import Requeue


def requeue(run: RunDir, job: str, wish: Requeue) -> None:
    """Raises Stopped, for the run is saved, when Slurm will not start the job again, or would on nodes that it must not
    get."""
    # From the requeue on Slurm ends this process and those that it starts: signals that are ignored are so in them too.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    excluded = [*_excluded(job), *wish.exclude]
    event(run.events, "giving_back", job=job)  # from the next line on we may be ended before another word
    _, said = _scontrol("requeue", job)
    if said:
        event(run.events, "kept", job=job, reason=said)
        raise Stopped(
            f"{wish.reason}\nthe run is saved, and Slurm does not start job {job} again: {said}. Where the site does"
            " not permit requeueing (scontrol show config: JobRequeue): submit it again, it goes on by itself"
        )
    event(run.events, "requeued", job=job, reason=wish.reason, exclude=list(wish.exclude))
    said = _scontrol("update", f"JobId={job}", f"ExcNodeList={','.join(excluded)}")[1] if wish.exclude else ""
    if said:
        raise Stopped(
            f"job {job} is queued again, but may get {', '.join(wish.exclude)} again: {said}; keep it off them with"
            f" scontrol update JobId={job} ExcNodeList={','.join(excluded)}"
        )


def preempted(job: str) -> bool:
    """Whether Slurm takes the nodes of this start of the job away for another job. It tells so by a signal where the
    site has preempt_send_user_signal; elsewhere the job's steps get SIGTERM, as from anybody (slurm.conf).

    Not where it was suspended for that job (PreemptMode=SUSPEND), and goes on by itself.
    """
    told = pairs(_scontrol("--oneliner", "show", "job", job)[0])
    taken, *since = (moment(told.get(name, "")) for name in ("PreemptTime", "StartTime", "SuspendTime"))
    began, suspended = since
    if taken is None or (began is not None and taken < began):
        return False
    return suspended is None or suspended < taken


def _excluded(job: str) -> list[str]:
    """Nodes that whoever submitted the job has excluded, as Slurm writes them: an update replaces the whole list."""
    found = re.search(r"(?:^|\s)ExcNodeList=(\S+)", _scontrol("--oneliner", "show", "job", job)[0])
    return [found[1]] if found and found[1] != "(null)" else []


def _scontrol(*words: str) -> tuple[str, str]:
    """What scontrol prints, and what it objects; the latter is empty where it does as it is told."""
    try:
        return slurm("scontrol", *words), ""
    except SlurmError as error:
        return "", error.told
