"""Steps of a job: the command line of srun, and its start."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

from launch.cluster.allocation import Allocation
from launch.cluster.container import Inside
from launch.machine.workers import environment
from launch.processes import die_with_parent


def step_argv(
    job: Allocation, place: Inside, nodes: Sequence[str], name: str, module: str, *arguments: object,
    read: Path | None = None,
) -> list[str]:  # fmt: skip
    """One task on each of these nodes of the job, on them as they are or in a container. `name` is how squeue --steps
    calls it, `read` what each task reads.

    --overlap: a step that a dead node keeps in Slurm's books takes nothing away from the next one. --no-kill and
    --kill-on-bad-exit=0: who ends what is decided by whoever supervises, not by the first node that fails.
    """
    cpus = [f"--cpus-per-task={job.cpus}"] if job.cpus else []
    return [
        "srun", f"--jobid={job.number}", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1",
        f"--nodelist={','.join(nodes)}", f"--job-name={name}", *cpus, "--overlap", "--no-kill", "--kill-on-bad-exit=0",
        "--wait=0", f"--input={read or 'none'}", "--quiet",
        *place.options, *place.command, place.python, "-m", module, *map(str, arguments),
    ]  # fmt: skip


def start_step(
    argv: Sequence[str], place: Inside, out: int | IO[bytes] | None, err: int | IO[bytes] | None,
    environ: Mapping[str, str],
) -> "subprocess.Popen[bytes]":  # fmt: skip
    """srun, which ends with us and hears no Ctrl-C of its own."""
    return subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=place.environment(environment(environ)),
        start_new_session=True, preexec_fn=partial(die_with_parent, os.getpid()),
    )  # fmt: skip
