"""What a new job waits for: `muster submit --after`."""

import re

from launch.cluster.commands import SlurmError
from launch.cluster.queue import states_of
from launch.errors import UsageError
from launch.rundir import RunDir
from launch.status.following import OVER, Asker, named, status


def dependency(after: str) -> list[str]:
    """The options of a job that starts when another has ended with exit code 0: a job's id, or a run or a sweep.

    No options where that has happened already. Raises UsageError for what is not known, and for what has ended
    otherwise: Slurm would start the one at once, and never the other.
    """
    if not after.strip():
        raise UsageError("--after: names neither a job nor a run; is a variable of the shell not set?")
    jobs = _job(after) if re.fullmatch(r"[1-9]\d*(?:_\d+)?", after) else _jobs_of(after)
    # A job whose condition can no longer come true must not wait for ever.
    return [f"--dependency=afterok:{':'.join(jobs)}", "--kill-on-invalid-dep=yes"] if jobs else []


def _job(job: str) -> list[str]:
    try:
        states = states_of(job)
    except SlurmError:  # which is told by the checks, with what to do
        return [job]
    if not states:
        raise UsageError(f"--after {job}: Slurm knows no such job, or no longer; if it has ended, leave --after away")
    for state in states:
        if not state.active and state.state != "COMPLETED":
            code = f", exit code {state.exit_code}" if state.exit_code else ""
            raise UsageError(f"--after {job}: that job has ended as {state.state}{code}: submit it again first")
    return [job] if any(state.active for state in states) else []


def _jobs_of(name: str) -> list[str]:
    """The jobs that still have to end: a run's own, or of a sweep the whole array's."""
    try:
        runs = named(name)
    except UsageError:
        raise _unknown(name) from None
    ask = Asker()
    found = [_waited(name, run, ask) for run in runs]
    jobs = [job for job in found if job is not None]
    return list(dict.fromkeys(job.partition("_")[0] if len(runs) > 1 else job for job in jobs))


def _waited(name: str, run: RunDir, ask: Asker) -> str | None:
    """The run's job; None where it has finished."""
    now = status(run, ask)
    if now.state == "finished":
        return None
    if now.job is None:
        raise _unknown(name)
    if now.state in OVER and ask.silence is None:
        why = f" ({now.why})" if now.why else ""
        raise UsageError(f"--after {name}: {run.root} is {now.state}{why}: submit that one again first")
    return now.job


def _unknown(name: str) -> UsageError:
    return UsageError(f"--after {name}: neither a job's id nor the directory of a run that was submitted")
