"""One node's answer before a run: python -m launch.preflight.probe RUN TOKEN JOB <plan.json prints a line of JSON.

srun starts it on every node. Neither plan nor answer travels through the run directory, which may not be shared.
"""

import contextlib
import socket
import sys
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from launch.cluster.allocation import node_name
from launch.plan import Plan
from launch.preflight.fingerprint import fingerprint
from launch.preflight.fleet import NodeReport
from launch.preflight.registry import CHECKS
from launch.preflight.result import Context, Result
from launch.preflight.runner import run_checks
from launch.rundir import RunDir

# Seconds in which a file that another node wrote must be seen: NFS looks again after 3 to 60 (acregmin, acdirmax).
SEEN_SECONDS, LOOK_SECONDS = 15.0, 0.1
# Below the ports that Linux hands out by itself (32768 to 60999).
FIRST_PORT, PORTS = 20000, 12000


class Probe(BaseModel):
    """What a node says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    report: NodeReport
    results: list[Result]
    """Of the checks that concern one node."""
    port: int
    """One that is free there, for the ranks to meet at."""


def probe(plan: Plan, run: RunDir, token: Path, job: int) -> Probe:
    """Of this node. `token` is a file that another node has just made, in the run directory or where it will be."""
    sees = seen(token)
    results = run_checks(Context(plan=plan, run=run), CHECKS)
    node = node_name()
    named = [result.model_copy(update={"node": node}) for result in results]
    port = free_port(job)
    report = NodeReport(node=node, fingerprint=fingerprint(), clock=time.time(), sees_directory=sees)
    return Probe(report=report, results=named, port=port)


def seen(path: Path) -> bool:
    """Whether a file of another node appears here."""
    deadline = time.monotonic() + SEEN_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        with contextlib.suppress(OSError):  # listing a folder makes NFS look again
            next(path.parent.iterdir(), None)
        time.sleep(LOOK_SECONDS)
    return True


def meeting_port(job: int, number: int = 0) -> int:
    """Where ranks of a job meet, by the job's number: jobs that share a node do not meet by chance. The run itself is
    0, whatever else exchanges at the same time has another number."""
    return FIRST_PORT + (7 * job + 101 * number) % PORTS


def free_port(job: int) -> int:
    """The first free port from the run's own on: one that a killed run still holds is passed over."""
    for offset in range(PORTS):
        port = FIRST_PORT + (meeting_port(job) - FIRST_PORT + offset) % PORTS
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.bind(("", port))
            return port
    raise OSError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free")


if __name__ == "__main__":
    root, token, job = sys.argv[1:]
    planned = Plan.model_validate_json(sys.stdin.read())
    print(probe(planned, RunDir(Path(root)), Path(token), int(job)).model_dump_json(), flush=True)
