"""The Slurm job around this process. The names of Slurm's environment stand here and nowhere else."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from launch.cluster.commands import SlurmError, slurm
from launch.errors import UsageError


@dataclass(frozen=True)
class Allocation:
    """A job, and the nodes that it was given, in Slurm's order."""

    job: str
    """As scontrol takes it: 12, or 12_3 for one task of an array. A requeue by the bare id of an array is for all of
    it (Lightning#15022)."""
    number: int
    """Of this job alone, also in an array: ports are derived from it."""
    nodes: tuple[str, ...]
    restarts: int
    """How often Slurm has started this job again."""
    cpus: int | None
    """That each node gave. A step does not inherit them (srun(1), since 22.05)."""
    killed: int | None = None
    """The signal that ended the supervisor before this one, in this same start of the job."""

    @property
    def again(self) -> bool:
        """Whether a run may have begun in this job before."""
        return self.restarts > 0 or self.killed is not None


@dataclass(frozen=True)
class Step:
    """This process's place among the tasks of its step: srun says it, nothing else knows it."""

    node_rank: int
    node: str
    nodes: int


def allocation(environment: Mapping[str, str] = os.environ) -> Allocation | None:
    """None outside of a job. Raises UsageError when Slurm does not say which nodes there are."""
    number, nodes = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_JOB_NODELIST", "")
    if not (number.isdecimal() and nodes):
        return None
    cpus = environment.get("SLURM_CPUS_PER_TASK") or environment.get("SLURM_CPUS_ON_NODE", "")
    return Allocation(
        job=job_name(environment), number=int(number), nodes=_hostnames(nodes),
        restarts=int(environment.get("SLURM_RESTART_COUNT", "0")),
        cpus=int(cpus) if cpus.isdecimal() else None,
    )  # fmt: skip


def node_name(environment: Mapping[str, str] = os.environ) -> str:
    """This machine as Slurm calls it in a job, whatever it calls itself; elsewhere its host name."""
    return environment.get("SLURMD_NODENAME") or os.uname().nodename


def job_name(environment: Mapping[str, str] = os.environ) -> str:
    """The job around this process as scontrol takes it."""
    array, task = environment.get("SLURM_ARRAY_JOB_ID"), environment.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environment["SLURM_JOB_ID"]


def _hostnames(nodes: str) -> tuple[str, ...]:
    try:
        return tuple(slurm("scontrol", "show", "hostnames", nodes).split())
    except SlurmError as error:
        raise UsageError(f"this is a Slurm job of {nodes}, but its nodes cannot be told: {error}") from None


_STEP = ("SLURM_NODEID", "SLURMD_NODENAME", "SLURM_STEP_NUM_NODES")


def step(environment: Mapping[str, str] = os.environ) -> Step:
    """Raises UsageError outside of a step: a rank that is guessed makes several worlds of one (accelerate#2816)."""
    rank, node, nodes = (environment.get(name, "") for name in _STEP)
    if not (rank.isdecimal() and node and nodes.isdecimal()):
        raise UsageError(f"this is no task of srun: {', '.join(_STEP)} say its place")
    return Step(int(rank), node, int(nodes))


def allocated_nodes(environment: Mapping[str, str] = os.environ) -> int | None:
    """Nodes of the Slurm allocation around this process; None without one."""
    found = environment.get("SLURM_JOB_NUM_NODES", "") if environment.get("SLURM_JOB_ID") else ""
    return int(found) if found.isdecimal() and int(found) > 0 else None
