"""Command lines of srun. Pure but for the interpreter's path."""

import sys
from collections.abc import Sequence
from pathlib import Path

from launch.allocation import Allocation


def step_argv(
    job: Allocation, nodes: Sequence[str], name: str, module: str, *arguments: object, read: Path | None = None
) -> list[str]:
    """One task on each of these nodes of the job. `name` is how squeue --steps calls it, `read` what each task reads.

    --overlap: a step that a dead node keeps in Slurm's books takes nothing away from the next one. --no-kill and
    --kill-on-bad-exit=0: who ends what is decided by whoever supervises, not by the first node that fails.
    """
    cpus = [f"--cpus-per-task={job.cpus}"] if job.cpus else []
    return [
        "srun", f"--jobid={job.number}", f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1",
        f"--nodelist={','.join(nodes)}", f"--job-name={name}", *cpus, "--overlap", "--no-kill", "--kill-on-bad-exit=0",
        "--wait=0", f"--input={read or 'none'}", "--quiet", sys.executable, "-m", module, *map(str, arguments),
    ]  # fmt: skip
