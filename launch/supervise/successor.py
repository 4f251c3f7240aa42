"""A supervisor whose predecessor was killed in the same job: it ends what that one has left, and says what it was."""

import time

from launch.claim import finished
from launch.errors import GO_ON, ExitCode
from launch.processes import signal_name
from launch.rundir import Attempt, RunDir
from launch.rundir.journal import event, rows
from launch.supervise.attempt import tell
from launch.supervise.decisions import Ended
from launch.supervise.history import last_step


def take_over(run: RunDir, job: str, number: int) -> None:
    """After signal `number` has ended the supervisor before this one. Its attempt, if it was in one, becomes one that
    failed: its nodes end what they still run of it, and it counts as a restart. Unless the adapter was there already.

    Raises HostError for an adapter that was changed since.
    """
    started = [row for row in rows(run.events) if row["event"] == "job_started"]
    if not started or started[-1].get("job") != job:
        return  # it had not come as far as to have the run directory: what runs there is somebody else's
    attempt = run.attempt(run.last_attempt())
    cut = attempt.root.is_dir() and attempt.number > started[-1].get("attempts", 0) and not attempt.outcome.exists()
    name = signal_name(number)
    reason = f"the supervisor was killed ({name}): by somebody, or by the kernel for want of memory (see dmesg)"
    event(run.events, "supervisor_killed", job=job, signal=name, attempt=attempt.number if cut else None, reason=reason)
    if cut:
        attempt.over.touch()
        failed = Ended(ExitCode.WORKER, f"{reason}{GO_ON}", last_step(run))
        ended = Ended(ExitCode.DONE, "done", last_step(run)) if finished(run) else failed
        tell(run, attempt, ended, -number, told=True, seconds=_seconds(attempt))


def _seconds(attempt: Attempt) -> float:
    return max(time.time() - attempt.plan.stat().st_mtime, 0.0) if attempt.plan.exists() else 0.0


def cut_short(run: RunDir) -> bool:
    """Whether the last attempt ended with its supervisor, so that nobody has decided yet what follows."""
    last = run.last_attempt()
    return last > 0 and any(
        row["event"] == "supervisor_killed" and row.get("attempt") == last for row in rows(run.events)
    )
