"""Who gives a job back when its supervisor no longer can: python -m launch.supervise.sentry RUN ATTEMPT.

With --no-kill Slurm lets a job go on when the node of its batch script is cut off, and one whose supervisor hangs:
without a supervisor, until its time limit. The nodes look after that themselves (node.py). In a container they see
no scontrol; there this stands beside them on each node, outside.
"""

import contextlib
import sys
import time
from pathlib import Path

from launch.cluster.allocation import job_name, step
from launch.errors import ExitCode, Stopped, UsageError
from launch.plan import Plan
from launch.rundir import Attempt, RunDir
from launch.supervise.decisions import Requeue
from launch.supervise.history import read_plan
from launch.supervise.requeue import requeue

LOOK_SECONDS = 0.2
# Of a run directory that all nodes share: what is waited for takes half a minute.
PATROL_SECONDS = 2.0
# A supervisor that ends a hung attempt needs this long; and nodes that miss it act one after another, not at once.
LEAST_SECONDS, TURN_SECONDS = 30.0, 10.0


class Supervisor:
    """Whether whoever supervises the attempt still lives, as a node sees it."""

    def __init__(self, attempt: Attempt, plan: Plan, node_rank: int):
        self.path = attempt.supervisor
        self.limit = max(LEAST_SECONDS, plan.spec.recovery.hang_seconds) + node_rank * TURN_SECONDS
        self.seen, self.since = b"", time.monotonic()

    def lost(self, now: float) -> bool:
        with contextlib.suppress(OSError):
            content = self.path.read_bytes()
            if content != self.seen:
                self.seen, self.since = content, now
        return now - self.since > self.limit

    def replace(self, run: RunDir) -> None:
        """Puts the job back into the queue, where Slurm is in reach from here."""
        try:
            requeue(run, job_name(), Requeue(f"nothing was seen of the run's supervisor for {self.limit:g} s"))
        except Stopped as error:
            print(error, file=sys.stderr, flush=True)


def main(run: RunDir, number: int) -> None:
    """As long as the attempt goes on. Raises UsageError where it cannot be read."""
    attempt = run.attempt(number)
    plan = read_plan(attempt)
    if plan is None:
        raise UsageError(f"{attempt.plan}: cannot be read; is the run directory on shared storage?")
    supervisor = Supervisor(attempt, plan, step().node_rank)
    while not (attempt.over.exists() or attempt.outcome.exists() or run.last_attempt() > number):
        if supervisor.lost(time.monotonic()):
            supervisor.replace(run)
            return
        time.sleep(PATROL_SECONDS)


if __name__ == "__main__":
    try:
        root, attempt_number = sys.argv[1:]
        main(RunDir(Path(root)), int(attempt_number))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(ExitCode.USAGE)
