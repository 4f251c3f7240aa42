"""What a job asks of each node beside its GPUs. Pure."""

from collections.abc import Sequence

from launch.cluster.answers import Node
from launch.plan import Plan

MIB = 1024**2
# Slurm counts files that are read into memory as the job's, too.
MARGIN = 1.1


def cpus(plan: Plan, nodes: Sequence[Node]) -> int:
    """slurm.cpus_per_task; `auto` is the share of the smallest node that goes with its GPUs, at least what processes
    need."""
    slurm, topology = plan.spec.slurm, plan.topology
    if slurm.cpus_per_task != "auto":
        return slurm.cpus_per_task
    if topology.device == "cpu":
        return topology.devices_per_node
    needed = topology.devices_per_node * plan.spec.preflight.cores_per_rank
    shares = [node.cpus * topology.devices_per_node // node.offered(slurm.gres) for node in _fitting(plan, nodes)]
    return max(needed, min(shares, default=0))


def mem(plan: Plan, nodes: Sequence[Node]) -> str | None:
    """slurm.mem; `auto` is the share that goes with the GPUs, or with the CPUs of a run without them, at least what the
    plan needs. None where the partition does not tell."""
    slurm, topology = plan.spec.slurm, plan.topology
    if slurm.mem != "auto":
        return slurm.mem
    if topology.device == "gpu":
        parts = [(topology.devices_per_node, node.offered(slurm.gres), node) for node in _fitting(plan, nodes)]
    else:
        wanted = cpus(plan, nodes)
        parts = [(wanted, node.cpus, node) for node in nodes if node.usable and node.cpus >= wanted]
    shares = [node.mem_mib * asked // there for asked, there, node in parts if node.mem_mib > 1]
    needed = int(MARGIN * plan.memory.host_bytes) // MIB
    return f"{max(min(shares), needed)}M" if shares else None


def mem_mib(text: str) -> int:
    """`400G` in MiB; without a unit it is MiB (man sbatch, --mem)."""
    number, unit = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "M")
    return int(int(number) * {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}[unit])


def _fitting(plan: Plan, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that have the run's GPUs."""
    slurm, asked = plan.spec.slurm, plan.topology.devices_per_node
    return [node for node in nodes if node.usable and node.offered(slurm.gres, slurm.gpu_type) >= asked]
