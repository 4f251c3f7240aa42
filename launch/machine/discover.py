"""This machine -> Topology: NVML for GPUs, the kernel for CPUs and memory."""

import contextlib
import importlib.metadata
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from launch.errors import DeviceError
from launch.machine.devices import VISIBLE, Device, handle_of, listed, visible
from launch.machine.hardware import CATALOGUE, GIB, Rates, Topology
from launch.processes import OverdueError, within
from launch.spec import ClusterSpec
from launch.versions import PACKAGES
from launch.wording import plural

T = TypeVar("T")

INFINIBAND = Path("/sys/class/infiniband")
# A driver that is loaded for each process, without persistence, takes a second or two for a GPU.
DRIVER_SECONDS = 30.0


@dataclass(frozen=True)
class FoundGpu:
    """A GPU as NVML shows it, or the slice of a divided one that a process sees (MIG). Memory in bytes."""

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    capability: tuple[int, int]
    slice: int | None = None
    """Its number among the GPU's slices; None for a whole GPU."""


def gpus(environment: Mapping[str, str] = os.environ) -> list[FoundGpu]:
    """The GPUs that this process may use; empty without a driver. CUDA_VISIBLE_DEVICES is honoured."""
    with _driver() as nvml:
        there = listed(nvml) if nvml is not None else {}
        chosen = visible(there, environment.get(VISIBLE))
        return [found for device in chosen if (found := _read_gpu(nvml, device, there[device.gpu].slices))]


def without_slices() -> list[int]:
    """The GPUs that MIG is on for, and that are divided into nothing: no process sees them."""
    with _driver() as nvml:
        return [index for index, gpu in (listed(nvml) if nvml is not None else {}).items() if gpu.slices == {}]


@contextlib.contextmanager
def _driver() -> Iterator[Any]:
    """pynvml, connected to the driver; None without package, library, driver or permission: then no GPU can be used."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # noqa: BLE001 - see above
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _read_gpu(nvml: Any, device: Device, slices: Mapping[int, str] | None) -> FoundGpu | None:
    """None for one that cannot be used: it fell off the bus, or MIG is on and no slice has been made of it."""
    if slices is not None and device.slice is None:
        return None
    with contextlib.suppress(nvml.NVMLError):
        handle = handle_of(nvml, device)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = nvml.nvmlDeviceGetCudaComputeCapability(nvml.nvmlDeviceGetHandleByIndex(device.gpu))
        name = nvml.nvmlDeviceGetName(handle)
        return FoundGpu(device.gpu, name, int(memory.total), int(memory.free), (major, minor), device.slice)
    return None


def cpu_count() -> int:
    """Cores that this process may use, which is less than the machine has inside a cgroup or a Slurm step."""
    return len(os.sched_getaffinity(0))


def host_memory() -> int:
    """Bytes of memory available to this process: the machine's, or what its control groups leave if that is less."""
    available = 0
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    return min([available, *(_left(folder, *names) for folder, names in _control_groups())])


# Limit, use, and the files read into memory that the kernel gives back when it needs room, in cgroup v2 and in v1.
_V2 = ("memory.max", "memory.current", "inactive_file")
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _control_groups() -> list[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's own memory control group and of those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = ["0::/"]
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers else "/sys/fs/cgroup")
        own = root / group.strip("/")
        found += [
            (folder, _V1 if controllers else _V2) for folder in (own, *own.parents) if folder.is_relative_to(root)
        ]
    return [*found, (Path("/sys/fs/cgroup"), _V2), (Path("/sys/fs/cgroup/memory"), _V1)]


def _left(folder: Path, limit: str, used: str, given_back: str) -> int:
    try:
        left = int((folder / limit).read_text()) - int((folder / used).read_text())
    except (OSError, ValueError):  # no such controller, or "max": no limit
        return sys.maxsize
    with contextlib.suppress(OSError):
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(f"{given_back} "):
                left += int(line.split()[1])
    return left


def infiniband() -> list[Path]:
    """Ports of this machine's InfiniBand adapters; RoCE ports, which are Ethernet, are left out."""
    ports = sorted(INFINIBAND.glob("*/ports/*"))
    return [port for port in ports if _text(port / "link_layer") == "InfiniBand"]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def topology(cluster: ClusterSpec) -> Topology:
    """What the spec asks for, on this machine and others like it.

    Raises DeviceError when it asks for more than there is.
    """
    found = _answering(gpus) if cluster.device != "cpu" else []
    unmade = _answering(without_slices) if cluster.device != "cpu" and not found else []
    if unmade:
        raise DeviceError(
            ("cluster", "device"),
            f"MIG is on for GPU {', '.join(map(str, unmade))} of this machine, and no slice has been made of it; make"
            " one (nvidia-smi mig -cgi PROFILE -C), turn MIG off (nvidia-smi -mig 0), or say cluster.device: cpu",
        )
    if cluster.device == "gpu" and not found:
        asked = (
            "" if cluster.devices_per_node == "auto" else f" and cluster.devices_per_node {cluster.devices_per_node}"
        )
        raise DeviceError(
            ("cluster", "device"),
            f"cluster.device is gpu{asked}, but this machine has 0 GPUs that can be used;"
            " plan for another with --gpus, or use cluster.device: cpu",
        )
    if not found and cluster.device == "auto" and Path("/proc/driver/nvidia/gpus").is_dir():
        raise DeviceError(
            ("cluster", "device"),
            "this machine has an NVIDIA driver, but no GPU can be used (nvidia-smi says why);"
            " mend it, or say cluster.device: cpu",
        )
    return _gpu_topology(cluster, found) if found else _cpu_topology(cluster)


def _answering(ask: Callable[[], list[T]]) -> list[T]:
    """Asked from a process of its own: a stuck driver never answers."""
    try:
        return within(DRIVER_SECONDS, ask)
    except OverdueError:
        raise DeviceError(
            ("cluster", "device"),
            f"the NVIDIA driver has not answered within {DRIVER_SECONDS:g} s: see nvidia-smi and dmesg, restart the"
            " node, or use cluster.device: cpu",
        ) from None


def _cpu_topology(cluster: ClusterSpec) -> Topology:
    processes = 1 if cluster.devices_per_node == "auto" else cluster.devices_per_node
    available = host_memory()
    return Topology(
        nodes=cluster.nodes, devices_per_node=processes, device="cpu", device_name="CPU process",
        memory_bytes=available // processes, bf16=False, host_bytes=available,
    )  # fmt: skip


def _gpu_topology(cluster: ClusterSpec, found: list[FoundGpu]) -> Topology:
    _refuse_mixed(found)
    wanted = len(found) if cluster.devices_per_node == "auto" else cluster.devices_per_node
    if wanted > len(found):
        there = f"{plural(len(found), 'GPU')} that can be used ({found[0].name})"
        asked = f"cluster.devices_per_node is {wanted}, but this machine has {there}"
        if found[0].slice is not None:
            asked += ": of GPUs that are divided (MIG) a process sees one slice, and slices cannot train together"
            raise DeviceError(
                ("cluster", "devices_per_node"), f"{asked}; ask for 1, or turn MIG off: nvidia-smi -mig 0"
            )
        raise DeviceError(("cluster", "devices_per_node"), f"{asked}; ask for {len(found)} or fewer")
    used = found[:wanted]
    smallest = min(used, key=lambda gpu: gpu.memory_bytes)
    return Topology(
        nodes=cluster.nodes, devices_per_node=wanted, device="gpu", device_name=smallest.name,
        memory_bytes=smallest.memory_bytes, bf16=min(gpu.capability for gpu in used) >= (8, 0), rates=_rates(smallest),
        host_bytes=host_memory(),
    )  # fmt: skip


def _refuse_mixed(found: list[FoundGpu]) -> None:
    """CUDA shows a process one slice or whole GPUs, and which of them nobody has said."""
    slices, whole = (sorted({g.index for g in found if (g.slice is None) is kind}) for kind in (False, True))
    if slices and whole:
        told = f"GPU {', '.join(map(str, slices))} of this machine is divided (MIG), GPU {', '.join(map(str, whole))}"
        raise DeviceError(
            ("cluster", "devices_per_node"),
            f"{told} is not, and a process sees one slice or whole GPUs; name those to train on by their UUIDs"
            f" (nvidia-smi -L): {VISIBLE}=GPU-...,GPU-... or {VISIBLE}=MIG-...",
        )


def _rates(gpu: FoundGpu) -> Rates | None:
    """The catalogue's for a driver's name such as `NVIDIA H100 80GB HBM3`; None for a GPU that is not in it, and for a
    slice, which has a part of the GPU's."""
    if gpu.slice is not None:
        return None
    words = re.sub(r"RTX (?=\d)", "RTX", gpu.name.replace("-", " ").upper()).split()
    matches = [known for known in CATALOGUE.values() if known.name.split("-")[0].upper() in words]
    nearest = min(matches, key=lambda known: abs(known.memory_bytes - gpu.memory_bytes), default=None)
    if nearest is None or abs(nearest.memory_bytes - gpu.memory_bytes) >= 8 * GIB:
        return None
    rates = nearest.rates
    return rates.model_copy(update={"link": rates.host}) if "PCIE" in words else rates  # a card has no NVLink


def installed() -> dict[str, str]:
    """Versions of the packages that decide what can be combined, from their metadata: importing them takes seconds."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
