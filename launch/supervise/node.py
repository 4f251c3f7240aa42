"""One node's part of an attempt, as srun starts it: python -m launch.supervise.node RUN ATTEMPT RESUME HOST PORT.

It starts the node's launcher, ends it when it is told to through the attempt's directory, and ends with its exit code.
"""

import contextlib
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from launch.allocation import job_name, node_name, step
from launch.errors import ExitCode, Stopped, UsageError
from launch.local import NodeWorkers
from launch.render import node_argv
from launch.rundir import Attempt, RunDir
from launch.supervise.decisions import Requeue
from launch.supervise.history import read_plan
from launch.supervise.requeue import requeue

LOOK_SECONDS = 0.2
# A supervisor that ends a hung attempt needs this long; and nodes that miss it act one after another, not at once.
LEAST_SECONDS, TURN_SECONDS = 30.0, 10.0


def main(run: RunDir, number: int, resume: str, host: str, port: int) -> int:
    """Raises UsageError where this is not the node that the others expect."""
    place, attempt = step(), run.attempt(number)
    plan = read_plan(attempt)
    if plan is None:
        raise UsageError(f"{attempt.plan}: cannot be read on {place.node}; is the run directory on shared storage?")
    if (place.node_rank == 0) != (place.node == host):
        raise UsageError(f"the ranks meet at {host}, and srun made {place.node} node {place.node_rank}")

    def stop(signal_number: int, frame: FrameType | None) -> None:
        if run.last_attempt() == number and not attempt.over.exists():  # else somebody else trains here by now
            run.stop.touch()  # a step that is told to end has KillWait seconds to save

    for told in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(told, stop)
    each = plan.topology.devices_per_node
    ranks = range(place.node_rank * each, (place.node_rank + 1) * each)
    argv = node_argv(plan, run.root, run.accelerate, number, (host, port), resume, place.node_rank)
    workers = NodeWorkers(argv, attempt, ranks, attempt.launcher_log_of(place.node))
    limit = max(LEAST_SECONDS, plan.spec.recovery.hang_seconds) + place.node_rank * TURN_SECONDS
    _follow(run, workers, attempt, Supervisor(attempt, limit))
    workers.close()
    code = workers.poll() or 0
    return code if code >= 0 else 128 - code


def _follow(run: RunDir, workers: NodeWorkers, attempt: Attempt, supervisor: "Supervisor") -> None:
    """Until the workers have ended and their supervisor, still alive, has had the chance to see it."""
    ended: float | None = None
    while not attempt.over.exists() or workers.poll() is None:
        now = time.monotonic()
        if supervisor.lost(now):
            workers.kill()
            if run.last_attempt() > attempt.number:  # it was cut off for a while, and goes on
                return
            _take_over(run, f"nothing was seen of the run's supervisor for {supervisor.limit:g} s")
            return
        if workers.poll() is not None:
            if ended is None:
                ended = now
                with contextlib.suppress(OSError):  # a full disk: its ranks will be missed in time
                    attempt.ended_on(node_name()).touch()
            if supervisor.since > ended:
                return
        time.sleep(LOOK_SECONDS)


def _take_over(run: RunDir, reason: str) -> None:
    try:
        requeue(run, job_name(), Requeue(reason))
    except Stopped as error:
        print(error, file=sys.stderr, flush=True)


class Supervisor:
    """Whether whoever supervises the attempt still lives. With --no-kill Slurm lets a job go on when the node of its
    batch script is lost: without a supervisor, until its time limit."""

    def __init__(self, attempt: Attempt, limit: float):
        self.path, self.limit = attempt.supervisor, limit
        self.seen, self.since = b"", time.monotonic()

    def lost(self, now: float) -> bool:
        with contextlib.suppress(OSError):
            content = self.path.read_bytes()
            if content != self.seen:
                self.seen, self.since = content, now
        return now - self.since > self.limit


if __name__ == "__main__":
    try:
        root, number, resume, host, port = sys.argv[1:]
        sys.exit(main(RunDir(Path(root)), int(number), resume, host, int(port)))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(ExitCode.USAGE)
