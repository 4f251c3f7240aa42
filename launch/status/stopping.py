"""Ends a run: by its own will at the next step, or at once."""

import os
import re
import signal
import time

from launch.claim import trained_by
from launch.cluster.commands import SlurmError, slurm
from launch.cluster.queue import ACTIVE
from launch.errors import CommunicationError, UsageError
from launch.rundir import BY_A_PERSON, RunDir
from launch.rundir.journal import write_text
from launch.status.following import OVER, Asker, Status, status

# Between the first signal, which asks, and the second, which kills; then until no more is asked.
SECOND_SECONDS, KILL_SECONDS = 1.0, 15.0


def stop(run: RunDir, now: bool) -> str:
    """Stops the run and says what becomes of it. Raises UsageError where nothing of it waits or runs."""
    found = status(run, Asker())
    in_slurm = found.slurm is not None and found.slurm["state"] in ACTIVE
    if found.state in OVER:
        unsure = f" (Slurm could not be asked: {found.slurm_silence})" if found.slurm_silence else ""
        raise UsageError(f"{run.root}: nothing to stop: the run is {found.state}{unsure}")
    if found.state in ("waiting", "starting"):  # nothing is trained that could be saved
        _cancel(found)
        return f"job {found.job} was taken out of the queue; to run it: muster submit"
    # Also before it is killed: nobody may put it back into the queue.
    write_text(run.stop, BY_A_PERSON)
    if not now:
        return "asked: the run saves a checkpoint at the next step and ends with exit code 75"
    if in_slurm:
        _cancel(found)
        return f"job {found.job} is being ended; what it does not save in the seconds that Slurm leaves it is lost"
    _kill(run, found)
    saved = status(run, _nobody()).checkpoint
    return f"ended; what it had not saved is lost: {f'step {saved.step} is' if saved else 'nothing was'} saved"


def _cancel(found: Status) -> None:
    assert found.job is not None
    try:
        slurm("scancel", found.job)
    except SlurmError as error:
        raise CommunicationError(f"job {found.job} could not be cancelled: {error}") from None


def _kill(run: RunDir, found: Status) -> None:
    """Whoever holds the run directory, as a second Ctrl-C does; at last with SIGKILL."""
    match = re.fullmatch(r"process (\d+) on (\S+)", found.holder or "")
    if match is None or match[2] != os.uname().nodename:
        raise UsageError(f"{run.root}: {found.holder} trains here: kill it there, or without --now ask it to stop")
    began, sent = time.monotonic(), 0
    while trained_by(run) == found.holder:
        passed = time.monotonic() - began
        if sent == 0 or (sent == 1 and passed > SECOND_SECONDS) or (sent == 2 and passed > KILL_SECONDS):
            try:
                os.kill(int(match[1]), signal.SIGKILL if sent == 2 else signal.SIGTERM)
            except ProcessLookupError:
                return
            except PermissionError:
                raise UsageError(f"{run.root}: {found.holder} is another user's") from None
            sent += 1
        time.sleep(0.1)


def _nobody() -> Asker:
    """Who asks Slurm nothing."""
    asker = Asker()
    asker.silence = SlurmError("absent", "not asked", "")
    return asker
