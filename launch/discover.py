"""This machine -> Topology: NVML for GPUs, the kernel for CPUs and memory."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launch.errors import PreflightError
from launch.hardware import CATALOGUE, GIB, Topology
from launch.spec import ClusterSpec


@dataclass(frozen=True)
class FoundGpu:
    """A GPU as NVML shows it. Memory in bytes."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    capability: tuple[int, int]


def gpus(environment: Mapping[str, str] = os.environ) -> list[FoundGpu]:
    """The GPUs that this process may use; empty without a driver. CUDA_VISIBLE_DEVICES is honoured."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - no package, no library, no driver, no permission: each means that there is no GPU to use
        return []
    found = []
    try:
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
            name = pynvml.nvmlDeviceGetName(handle)
            found.append(
                (
                    FoundGpu(index, name, int(memory.total), int(memory.free), (major, minor)),
                    pynvml.nvmlDeviceGetUUID(handle),
                )
            )
    finally:
        pynvml.nvmlShutdown()
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [gpu for gpu, _ in found]
    wanted = [name.strip() for name in visible.split(",") if name.strip()]
    return [
        gpu
        for name in wanted
        for gpu, uuid in found
        if name == str(gpu.index) or (not name.isdigit() and uuid.startswith(name))
    ]


def cpu_count() -> int:
    """Cores that this process may use, which is less than the machine has inside a cgroup or a Slurm step."""
    return len(os.sched_getaffinity(0))


def host_memory() -> int:
    """Bytes of memory available to this process: the machine's, or the cgroup's limit if that is less."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    for limit_file, used_file in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = int(Path(limit_file).read_text()), int(Path(used_file).read_text())
        except (OSError, ValueError):  # no such controller, or "max": no limit
            continue
        available = min(available, limit - used)
    return available


def topology(cluster: ClusterSpec) -> Topology:
    """What the spec asks for, on this machine and `nodes` like it. Raises PreflightError when it asks for more than there is."""
    found = gpus() if cluster.device != "cpu" else []
    if cluster.device == "gpu" and not found:
        raise PreflightError(
            "cluster.device is gpu, but this machine has 0 GPUs that can be used; plan for another with --gpus, or use cluster.device: cpu"
        )
    if not found:
        processes = 1 if cluster.devices_per_node == "auto" else cluster.devices_per_node
        return Topology(
            nodes=cluster.nodes, devices_per_node=processes, device="cpu", device_name="CPU process",
            memory_bytes=host_memory() // processes, bf16=False,
        )  # fmt: skip
    wanted = len(found) if cluster.devices_per_node == "auto" else cluster.devices_per_node
    if wanted > len(found):
        raise PreflightError(
            f"cluster.devices_per_node is {wanted}, but this machine has {len(found)} GPUs that can be used ({found[0].name}); ask for {len(found)} or fewer"
        )
    smallest = min(found[:wanted], key=lambda gpu: gpu.memory_bytes)
    return Topology(
        nodes=cluster.nodes, devices_per_node=wanted, device="gpu", device_name=smallest.name, memory_bytes=smallest.memory_bytes,
        bf16=min(gpu.capability for gpu in found[:wanted]) >= (8, 0), flops=_flops(smallest),
    )  # fmt: skip


def _flops(gpu: FoundGpu) -> float | None:
    """The catalogue's rate for a driver's name such as `NVIDIA H100 80GB HBM3`; None for a GPU that it does not list."""
    words = gpu.name.replace("-", " ").upper().replace("RTX ", "RTX").split()
    matches = [known for known in CATALOGUE.values() if known.name.split("-")[0].upper() in words]
    nearest = min(matches, key=lambda known: abs(known.memory_bytes - gpu.memory_bytes), default=None)
    return nearest.flops if nearest and abs(nearest.memory_bytes - gpu.memory_bytes) < 8 * GIB else None
