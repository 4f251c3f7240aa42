"""One node's part of an attempt, as srun starts it: python -m launch.supervise.node RUN ATTEMPT RESUME HOST PORT.

It starts the node's launcher, ends it when it is told to through the attempt's directory, and ends with its exit code.
"""

import signal
import sys
import time
from pathlib import Path
from types import FrameType

from launch.allocation import step
from launch.errors import ExitCode, UsageError
from launch.local import NodeWorkers
from launch.render import node_argv
from launch.rundir import RunDir
from launch.supervise.history import read_plan

LOOK_SECONDS = 0.2


def main(run: RunDir, number: int, resume: str, host: str, port: int) -> int:
    """Raises UsageError where this is not the node that the others expect."""
    place, attempt = step(), run.attempt(number)
    plan = read_plan(attempt)
    if plan is None:
        raise UsageError(f"{attempt.plan}: cannot be read on {place.node}; is the run directory on shared storage?")
    if (place.node_rank == 0) != (place.node == host):
        raise UsageError(f"the ranks meet at {host}, and srun made {place.node} node {place.node_rank}")

    def stop(signal_number: int, frame: FrameType | None) -> None:
        run.stop.touch()  # a step that is told to end has KillWait seconds to save

    for told in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(told, stop)
    each = plan.topology.devices_per_node
    ranks = range(place.node_rank * each, (place.node_rank + 1) * each)
    argv = node_argv(plan, run.root, run.accelerate, number, (host, port), resume, place.node_rank)
    workers = NodeWorkers(argv, attempt, ranks, attempt.launcher_log_of(place.node))
    while workers.poll() is None:
        time.sleep(LOOK_SECONDS)
    workers.close()
    code = workers.poll() or 0
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    try:
        root, number, resume, host, port = sys.argv[1:]
        sys.exit(main(RunDir(Path(root)), int(number), resume, host, int(port)))
    except UsageError as error:
        print(error, file=sys.stderr)
        sys.exit(ExitCode.USAGE)
