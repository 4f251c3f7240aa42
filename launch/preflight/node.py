"""The host: cores, limits, shared memory and host memory."""

import os
import resource

from launch.machine import discover
from launch.machine.hardware import GIB
from launch.preflight.check import Check, on_gpus, on_several_gpus
from launch.preflight.result import Context, Finding, failed, passed, unknown, warned
from launch.wording import amount, plural

SHM = "/dev/shm"  # noqa: S108 - that file system itself


def cores(context: Context) -> Finding:
    """Of the cores that this process may use, which are fewer than the machine's inside a Slurm step or a cgroup."""
    ranks, there = context.plan.topology.devices_per_node, discover.cpu_count()
    kind = "process" if context.gpus else "CPU process"
    told = f"{plural(there, 'core')} for {plural(ranks, kind, f'{kind}es')}"
    needed = ranks * (context.plan.spec.preflight.cores_per_rank if context.gpus else 1)
    if there < needed:
        fix = f"ask for {needed} (Slurm: --cpus-per-task), or lower cluster.devices_per_node"
        return warned(f"{told}, {needed} needed", fix, cores=there)
    return passed(told, cores=there)


def shared_memory(context: Context) -> Finding:
    """NCCL's processes of one node exchange through it; containers give 64 MiB unless they are asked for more."""
    try:
        found = os.statvfs(SHM)
    except OSError as error:
        return unknown(f"{SHM}: {error.strerror}", "mount it")
    free = found.f_bavail * found.f_frsize
    needed = int(context.plan.spec.preflight.shm_gib_per_rank * GIB) * context.plan.topology.devices_per_node
    told = f"{amount(free)} free in {SHM}, {amount(needed)} needed"
    if free < needed:
        return failed(told, "docker run --shm-size=..., or remount it: mount -o remount,size=...", free=free)
    return passed(told, free=free)


def open_files(context: Context) -> Finding:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = context.plan.spec.preflight.open_files
    if soft == resource.RLIM_INFINITY:
        return passed("open files: no limit")
    if soft < needed:
        return warned(f"{soft:,} open files are allowed, {needed:,} needed", f"ulimit -n {needed}", soft=soft)
    return passed(f"open files: {soft:,}", soft=soft)


def locked_memory(context: Context) -> Finding:
    """InfiniBand registers memory, which the kernel counts as locked."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY:
        return passed("locked memory: no limit")
    fix = "ulimit -l unlimited; under Slurm: PropagateResourceLimitsExcept=MEMLOCK and slurmd's LimitMEMLOCK=infinity"
    return failed(f"{amount(soft)} of memory may be locked, InfiniBand needs no limit", fix, soft=soft)


def host_memory(context: Context) -> Finding:
    """What the node and this process's control groups leave, against the most that the plan needs, loading included."""
    free, memory = discover.host_memory(), context.plan.memory
    needed, most = memory.host_needed_bytes, memory.host_bytes
    told = f"{amount(free)} of host memory free; the plan needs {amount(needed)}"
    if needed <= free < most:
        fix = "the run will start, and read parts of the files again and again; free memory to load them faster"
        return warned(f"{told}, and {amount(most)} to keep the weights' files", fix, free=free, needed=needed)
    if free < needed:
        fix = "free memory, ask for more (Slurm: --mem), or use fewer processes" + (
            ", or a strategy without offload" if context.plan.offload else ""
        )
        return failed(told, fix, free=free, needed=needed)
    return passed(told, free=free, needed=needed)


def on_infiniband(context: Context) -> str | None:
    if context.plan.topology.nodes == 1:
        return "one node"
    return None if discover.infiniband() else "this node has no InfiniBand"


CHECKS = (
    Check("cores", "node", "fewer cores than processes need", "preflight.cores_per_rank on GPUs, one on CPUs", cores),
    Check("host-memory", "node", "too little host memory to load or to train", "the plan's host_bytes", host_memory),
    Check(
        "shm", "node", "a shared memory that is too small", "preflight.shm_gib_per_rank", shared_memory, on_several_gpus
    ),
    Check("open-files", "node", "a limit on open files that is too low", "preflight.open_files", open_files, on_gpus),
    Check("locked-memory", "node", "a limit on locked memory", "none with InfiniBand", locked_memory, on_infiniband),
)  # fmt: skip
