"""One node's part of an attempt, as srun starts it: python -m launch.supervise.node RUN ATTEMPT RESUME HOST PORT.

It starts the node's launcher, ends it when it is told to through the attempt's directory, and ends with its exit code.
"""

import contextlib
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from launch.cluster.allocation import node_name, step
from launch.errors import ExitCode, UsageError
from launch.machine.workers import NodeWorkers
from launch.render import node_argv
from launch.rundir import BY_A_WARNING, Attempt, RunDir
from launch.rundir.journal import write_first
from launch.supervise.history import read_plan
from launch.supervise.sentry import LOOK_SECONDS, Supervisor


def main(run: RunDir, number: int, resume: str, host: str, port: int) -> int:
    """Raises UsageError where this is not the node that the others expect."""
    place, attempt = step(), run.attempt(number)
    plan = read_plan(attempt)
    if plan is None:
        raise UsageError(f"{attempt.plan}: cannot be read on {place.node}; is the run directory on shared storage?")
    if (place.node_rank == 0) != (place.node == host):
        raise UsageError(f"the ranks meet at {host}, and srun made {place.node} node {place.node_rank}")

    def stop(signal_number: int, frame: FrameType | None) -> None:
        ours = run.last_attempt() == number and not attempt.over.exists()  # else somebody else trains here by now
        if ours:  # a step that is told to end has KillWait seconds to save
            with contextlib.suppress(OSError):  # a full disk: the workers have heard it themselves
                write_first(run.stop, BY_A_WARNING if signal_number == signal.SIGUSR1 else "")

    for told in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(told, stop)
    each = plan.topology.devices_per_node
    ranks = range(place.node_rank * each, (place.node_rank + 1) * each)
    argv = node_argv(plan, run.root, run.accelerate, number, (host, port), resume, place.node_rank)
    workers = NodeWorkers(argv, attempt, ranks, attempt.launcher_log_of(place.node))
    _follow(run, workers, attempt, Supervisor(attempt, plan, place.node_rank))
    workers.close()
    code = workers.poll() or 0
    return code if code >= 0 else 128 - code


def _follow(run: RunDir, workers: NodeWorkers, attempt: Attempt, supervisor: Supervisor) -> None:
    """Until the workers have ended and their supervisor, still alive, has had the chance to see it."""
    ended: float | None = None
    while not attempt.over.exists() or workers.poll() is None:
        now = time.monotonic()
        if supervisor.lost(now):
            workers.kill()
            if run.last_attempt() > attempt.number:  # it was cut off for a while, and goes on
                return
            supervisor.replace(run)
            return
        if workers.poll() is not None:
            if ended is None:
                ended = now
                with contextlib.suppress(OSError):  # a full disk: its ranks will be missed in time
                    if not workers.ended_well():
                        attempt.ended_on(node_name()).touch()
            if supervisor.since > ended:
                return
        time.sleep(LOOK_SECONDS)


if __name__ == "__main__":
    try:
        root, number, resume, host, port = sys.argv[1:]
        sys.exit(main(RunDir(Path(root)), int(number), resume, host, int(port)))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(ExitCode.USAGE)
