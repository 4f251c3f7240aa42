"""This machine as a topology."""

import contextlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from launch.errors import PreflightError
from launch.machine import discover
from launch.machine.discover import FoundGpu
from launch.machine.hardware import CATALOGUE, GIB, Rates
from launch.spec import ClusterSpec

A100 = FoundGpu(0, "NVIDIA A100-SXM4-80GB", int(79.2 * GIB), int(78 * GIB), (8, 0))


def install(monkeypatch: pytest.MonkeyPatch, *gpus: FoundGpu) -> None:
    monkeypatch.setattr(discover, "gpus", lambda: list(gpus))


# GPUs


def install_driver(monkeypatch: pytest.MonkeyPatch, *gpus: FoundGpu, **changes: Any) -> None:
    """NVML as a machine with these GPUs answers it. Their UUIDs are GPU-0aaa, GPU-1aaa, ..."""
    answers = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: len(gpus),
        "nvmlDeviceGetHandleByIndex": lambda index: gpus[index],
        "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(total=gpu.memory_bytes, free=gpu.free_bytes),
        "nvmlDeviceGetCudaComputeCapability": lambda gpu: gpu.capability,
        "nvmlDeviceGetName": lambda gpu: gpu.name,
        "nvmlDeviceGetUUID": lambda gpu: f"GPU-{gpu.index}aaa",
    }
    for name, answer in {**answers, **changes}.items():
        monkeypatch.setattr(pynvml, name, answer)


def several(count: int) -> list[FoundGpu]:
    return [FoundGpu(index, A100.name, A100.memory_bytes, A100.free_bytes, (8, 0)) for index in range(count)]


def test_without_a_driver_there_are_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    install_driver(monkeypatch, A100, nvmlInit=no_driver)
    assert discover.gpus({}) == []


def test_each_gpu_is_found_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, *several(2))
    assert discover.gpus({}) == several(2)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        ("0,2", [0, 2]),
        ("3, 1", [3, 1]),
        ("", []),
        ("-1", []),
        ("GPU-1aaa,GPU-3aaa", [1, 3]),
        ("GPU-2", [2]),
        ("7", []),
    ],
)
def test_cuda_visible_devices_is_honoured(visible: str, indices: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, *several(4))
    assert [gpu.index for gpu in discover.gpus({"CUDA_VISIBLE_DEVICES": visible})] == indices


def test_cuda_stops_at_the_first_wrong_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install_driver(monkeypatch, *several(4))
    assert [gpu.index for gpu in discover.gpus({"CUDA_VISIBLE_DEVICES": "0,9,1"})] == [0]


def test_a_gpu_that_fell_off_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(gpu: FoundGpu) -> Any:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    install_driver(monkeypatch, A100, nvmlDeviceGetMemoryInfo=lost)
    with contextlib.suppress(PreflightError):  # refused, or planned without this GPU
        assert A100 not in discover.gpus({})


# CPUs and memory


def test_only_the_cores_that_this_process_may_use() -> None:
    before = os.sched_getaffinity(0)
    assert discover.cpu_count() == len(before)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert discover.cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /, with 64 GiB of memory free."""
    monkeypatch.setattr(discover, "Path", lambda name: tmp_path / name.lstrip("/"))
    (tmp_path / "proc").mkdir()
    lines = ["MemTotal:       99999999 kB", "MemFree:         1000000 kB", f"MemAvailable:   {64 * 1024**2} kB"]
    (tmp_path / "proc/meminfo").write_text("\n".join(lines) + "\n")
    return tmp_path


def limit(kernel: Path, folder: str, maximum: object, used: int) -> None:
    (kernel / folder).mkdir(parents=True, exist_ok=True)
    names = (
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
        if folder.endswith("memory")
        else ("memory.max", "memory.current")
    )
    for name, value in zip(names, (maximum, used), strict=True):
        (kernel / folder / name).write_text(f"{value}\n")


def test_memory_without_a_cgroup(kernel: Path) -> None:
    assert discover.host_memory() == 64 * GIB


def test_memory_of_a_cgroup_without_limit(kernel: Path) -> None:
    limit(kernel, "sys/fs/cgroup", "max", 5 * GIB)
    assert discover.host_memory() == 64 * GIB


@pytest.mark.parametrize("folder", ["sys/fs/cgroup", "sys/fs/cgroup/memory"], ids=["v2", "v1"])
def test_memory_of_a_cgroup_with_a_limit(kernel: Path, folder: str) -> None:
    limit(kernel, folder, 16 * GIB, 6 * GIB)
    assert discover.host_memory() == 10 * GIB


def test_a_cgroup_cannot_give_more_than_the_machine_has(kernel: Path) -> None:
    limit(kernel, "sys/fs/cgroup", 128 * GIB, 0)
    assert discover.host_memory() == 64 * GIB


def test_memory_of_a_slurm_step(kernel: Path) -> None:
    (kernel / "proc/self").mkdir()
    (kernel / "proc/self/cgroup").write_text("0::/system.slice/slurmstepd.scope/job_7/step_0\n")
    limit(kernel, "sys/fs/cgroup/system.slice/slurmstepd.scope/job_7/step_0", 16 * GIB, 6 * GIB)
    assert discover.host_memory() == 10 * GIB


def test_files_that_were_read_do_not_use_up_a_cgroup(kernel: Path) -> None:
    limit(kernel, "sys/fs/cgroup", 16 * GIB, 15 * GIB)
    (kernel / "sys/fs/cgroup/memory.stat").write_text(f"anon {GIB}\nfile {14 * GIB}\ninactive_file {14 * GIB}\n")
    assert discover.host_memory() == 15 * GIB


# The topology


def test_without_gpus_a_device_is_a_cpu_process(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    monkeypatch.setattr(discover, "host_memory", lambda: 64 * GIB)
    one, four = discover.topology(ClusterSpec()), discover.topology(ClusterSpec(devices_per_node=4))
    assert (one.device, one.device_name, one.world_size, one.bf16, one.rates) == ("cpu", "CPU process", 1, False, None)
    assert (one.memory_bytes, four.memory_bytes, four.devices_per_node) == (64 * GIB, 16 * GIB, 4)
    assert one.host_bytes == four.host_bytes == 64 * GIB


def test_all_gpus_are_taken_unless_the_spec_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *several(4))
    monkeypatch.setattr(discover, "host_memory", lambda: 64 * GIB)
    every, two = discover.topology(ClusterSpec(nodes=2)), discover.topology(ClusterSpec(devices_per_node=2))
    assert (every.device, every.nodes, every.devices_per_node, every.world_size) == ("gpu", 2, 4, 8)
    assert (two.nodes, two.devices_per_node) == (1, 2)
    assert every.host_bytes == two.host_bytes == 64 * GIB  # of one node, whatever is used of it
    assert (every.device_name, every.memory_bytes, every.bf16, every.rates) == (
        A100.name,
        A100.memory_bytes,
        True,
        CATALOGUE["A100-80GB"].rates,
    )


def test_cpu_processes_on_a_machine_with_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *several(4))
    assert discover.topology(ClusterSpec(device="cpu", devices_per_node=2)).device == "cpu"


def test_the_smallest_and_oldest_gpu_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    old = FoundGpu(1, "Tesla V100-SXM2-32GB", int(31.7 * GIB), int(31 * GIB), (7, 0))
    install(monkeypatch, A100, old)
    both, first = discover.topology(ClusterSpec()), discover.topology(ClusterSpec(devices_per_node=1))
    assert (both.device_name, both.memory_bytes, both.bf16) == (old.name, old.memory_bytes, False)
    assert both.rates == CATALOGUE["V100-32GB"].rates
    assert (first.device_name, first.bf16) == (A100.name, True)


def test_more_gpus_asked_for_than_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, *several(2))
    with pytest.raises(PreflightError) as caught:
        discover.topology(ClusterSpec(devices_per_node=8))
    assert str(caught.value) == (
        "cluster.devices_per_node is 8, but this machine has 2 GPUs that can be used (NVIDIA A100-SXM4-80GB);"
        " ask for 2 or fewer"
    )


def test_two_gpus_asked_for_where_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, A100)
    with pytest.raises(PreflightError, match="has 1 GPU that can be used"):
        discover.topology(ClusterSpec(devices_per_node=2))


def test_gpus_asked_for_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(PreflightError) as caught:
        discover.topology(ClusterSpec(device="gpu", devices_per_node=8))
    assert str(caught.value) == (
        "cluster.device is gpu and cluster.devices_per_node 8, but this machine has 0 GPUs that can be used;"
        " plan for another with --gpus, or use cluster.device: cpu"
    )


# As the drivers name them, from nvidia-smi -L.
DRIVER_NAMES = {
    "Tesla T4": "T4-16GB",
    "Tesla V100-SXM2-16GB": "V100-16GB",
    "Tesla V100-SXM2-32GB": "V100-32GB",
    "NVIDIA GeForce RTX 3090": "RTX3090-24GB",
    "NVIDIA GeForce RTX 4090": "RTX4090-24GB",
    "NVIDIA A10": "A10-24GB",
    "NVIDIA A40": "A40-48GB",
    "NVIDIA L4": "L4-24GB",
    "NVIDIA L40S": "L40S-48GB",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA A100 80GB PCIe": "A100-80GB",
    "NVIDIA H100 80GB HBM3": "H100-80GB",
    "NVIDIA H200": "H200-141GB",
    "NVIDIA B200": "B200-180GB",
}


def rates(monkeypatch: pytest.MonkeyPatch, name: str, memory_bytes: int) -> Rates | None:
    install(monkeypatch, FoundGpu(0, name, memory_bytes, memory_bytes, (8, 0)))
    return discover.topology(ClusterSpec()).rates


@pytest.mark.parametrize(("name", "known"), DRIVER_NAMES.items())
def test_the_rates_of_a_gpu_by_its_driver_s_name(name: str, known: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = CATALOGUE[known].rates
    # A card in a PCIe slot has no NVLink.
    expected = of.model_copy(update={"link": of.host}) if "PCIe" in name else of
    assert rates(monkeypatch, name, CATALOGUE[known].memory_bytes) == expected


def test_the_rates_of_an_rtx_a6000(monkeypatch: pytest.MonkeyPatch) -> None:
    known = CATALOGUE["A6000-48GB"]
    assert rates(monkeypatch, "NVIDIA RTX A6000", known.memory_bytes) == known.rates


@pytest.mark.parametrize(("name", "gib"), [("NVIDIA GeForce GTX 1080", 8), ("NVIDIA H100 NVL", 94)])
def test_a_gpu_that_is_not_in_the_catalogue_has_no_rates(name: str, gib: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rates(monkeypatch, name, gib * GIB) is None
