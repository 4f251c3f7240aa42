"""The process that samples a node's resources while this one trains."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from launch.cluster.allocation import node_name
from launch.plan import Plan
from launch.rundir import RunDir

# It ends at once when its input does, unless the driver holds it.
END_SECONDS = 5.0


@contextlib.contextmanager
def sampling(plan: Plan, run: RunDir, here: bool, first: bool) -> Iterator[None]:
    """Samples this node's resources meanwhile. `here` is true in one process of each node, `first` on one node.

    Nothing about it ends the training: what goes wrong is a line in this rank's log.
    """
    process = _start(arguments(plan, run, first)) if here else None
    try:
        yield
    finally:
        if process is not None:
            _end(process)


def arguments(plan: Plan, run: RunDir, first: bool) -> list[str]:
    """Of `python -m launch.sampling`."""
    monitoring, topology = plan.spec.monitoring, plan.topology
    gpus = topology.devices_per_node if topology.device == "gpu" else 0
    told = [
        "--name",
        plan.name,
        "--node",
        node_name(),
        "--gpus",
        str(gpus),
        "--seconds",
        str(monitoring.sample_seconds),
    ]
    if monitoring.prometheus_port is not None:
        told += ["--host", monitoring.prometheus_host, "--port", str(monitoring.prometheus_port)]
        told += ["--first"] if first else []
    return [str(run.root), *told]


def _start(argv: list[str]) -> "subprocess.Popen[bytes] | None":
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "launch.sampling", *argv, "--parent", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
    except OSError as error:
        print(f"warning: resources are not sampled: {error}", file=sys.stderr, flush=True)
        return None


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        code = process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()  # and nobody waits for one that a driver holds in the kernel
        return
    if code:
        print(f"warning: the sampling of resources ended with {code} before its time", file=sys.stderr, flush=True)
