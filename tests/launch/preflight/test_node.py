"""Cores, limits, shared memory and host memory."""

import os
import resource
from types import SimpleNamespace

import pytest

from launch.machine import discover
from launch.machine.hardware import GIB
from launch.preflight import node
from tests.launch.conftest import CPU, plan_of, spec_of
from tests.launch.preflight.conftest import ON_CPU, ON_GPUS, context


@pytest.mark.parametrize(("cores", "status"), [(4, "pass"), (3, "warn")])
def test_two_cores_a_process_on_gpus(cores: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "cpu_count", lambda: cores)
    found = node.cores(context(ON_GPUS))
    assert (found.status, found.values) == (status, {"cores": cores})
    if status == "warn":
        assert (found.evidence, found.fix) == (
            "3 cores for 2 processes, 4 needed",
            "ask for 4 (Slurm: --cpus-per-task), or lower cluster.devices_per_node",
        )


def test_one_core_a_process_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    four = CPU.model_copy(update={"devices_per_node": 4})
    plan = plan_of(four, 1, spec_of("qwen2.5-7b-instruct", data={"max_length": 64}, training={"micro_batch_size": 1}))
    monkeypatch.setattr(discover, "cpu_count", lambda: 2)
    assert node.cores(context(plan)).evidence == "2 cores for 4 CPU processes, 4 needed"
    assert node.cores(context(ON_CPU)).evidence == "2 cores for 1 CPU process"


def test_more_cores_can_be_asked_for() -> None:
    plan = plan_of(
        "2xA100-80GB", 1, spec_of("qwen2.5-7b-instruct", data={"max_length": 512}, preflight={"cores_per_rank": 10**6})
    )
    assert node.cores(context(plan)).status == "warn"


@pytest.mark.parametrize(("gib", "status"), [(2, "pass"), (0.0625, "fail")])
def test_shared_memory_of_all_processes(gib: float, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container has 64 MiB unless it asks for more."""
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=int(gib * GIB) // 4096, f_frsize=4096))
    found = node.shared_memory(context(ON_GPUS))
    assert found.status == status
    if status == "fail":
        assert (found.evidence, found.fix.split()[:3]) == (
            "64.0 MiB free in /dev/shm, 2.0 GiB needed",
            ["docker", "run", "--shm-size=...,"],
        )


def test_shared_memory_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "SHM", "/no/such/place")
    assert node.shared_memory(context(ON_GPUS)).status == "unknown"


@pytest.mark.parametrize(
    ("limits", "status", "evidence"),
    [
        ((1024, 4096), "warn", "1,024 open files are allowed, 65,536 needed"),
        ((1024, resource.RLIM_INFINITY), "warn", "1,024 open files are allowed, 65,536 needed"),
        ((65536, 65536), "pass", "open files: 65,536"),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "pass", "open files: no limit"),
    ],
)
def test_open_files(limits: tuple[int, int], status: str, evidence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    found = node.open_files(context(ON_GPUS))
    assert (found.status, found.evidence) == (status, evidence)
    assert found.fix == ("ulimit -n 65536" if status == "warn" else "")


@pytest.mark.parametrize(("limit", "status"), [(64 << 10, "fail"), (resource.RLIM_INFINITY, "pass")])
def test_locked_memory(limit: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (limit, limit))
    assert node.locked_memory(context(ON_GPUS)).status == status


def test_locked_memory_concerns_infiniband_between_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    two = context(plan_of(nodes=2))
    monkeypatch.setattr(discover, "infiniband", list)
    assert node.on_infiniband(two) == "this node has no InfiniBand"
    monkeypatch.setattr(discover, "infiniband", lambda: ["mlx5_0"])
    assert node.on_infiniband(two) is None
    assert node.on_infiniband(context(ON_GPUS)) == "one node"


MEMORY = ON_GPUS.memory


@pytest.mark.parametrize(
    ("free", "status"),
    [(MEMORY.host_bytes, "pass"), (MEMORY.host_needed_bytes, "warn"), (MEMORY.host_needed_bytes - 1, "fail")],
)
def test_host_memory_for_loading_and_training(free: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discover, "host_memory", lambda: free)
    found = node.host_memory(context(ON_GPUS))
    assert (found.status, found.values["needed"]) == (status, MEMORY.host_needed_bytes)
    if status == "warn":  # two processes, and beside them the pages of the weights' files
        assert found.evidence == (
            "4.0 GiB of host memory free; the plan needs 4.0 GiB, and 18.2 GiB to keep the weights' files"
        )


def test_offloading_may_be_what_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of(
        "8xRTX4090-24GB",
        1,
        spec_of("qwen2.5-14b-instruct", cluster={"strategy": "zero3_offload"}, data={"max_length": 512}),
    )
    monkeypatch.setattr(discover, "host_memory", lambda: GIB)
    assert node.host_memory(context(plan)).fix.endswith("or a strategy without offload")
