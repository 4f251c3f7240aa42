"""GPU catalogue and topology: what a run may be planned for."""

import difflib
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict

from launch.errors import UsageError

GIB = 1024**3


class Rates(BaseModel):
    """What a GPU of a kind does in a second, by its data sheet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    flops: float
    """Dense bf16 (or fp16) FLOP/s of the tensor cores."""
    fp32: float
    """FLOP/s in fp32, without tensor cores: torch uses them for fp32 (TF32) only when it is told to."""
    memory: float
    """Bytes/s of its own memory."""
    link: float
    """Bytes/s that it sends to another GPU of its machine."""
    host: float
    """Bytes/s that it sends to its host."""


class Gpu(BaseModel):
    """One GPU model. Memory in bytes as the driver reports it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_bytes: int
    capability: tuple[int, int]
    rates: Rates

    @property
    def bf16(self) -> bool:
        """bf16 tensor cores came with compute capability 8.0 (Ampere)."""
        return self.capability >= (8, 0)


# Bytes/s in one direction of 16 lanes, and of a GPU's NVLinks together (NVIDIA's data sheets give both directions).
PCIE3, PCIE4, PCIE5 = 15.75e9, 31.5e9, 63e9
NVLINK2, NVLINK3, NVLINK4, NVLINK5 = 150e9, 300e9, 450e9, 900e9


def _gpu(
    name: str, gib: float, capability: tuple[int, int], teraflops: float, fp32: float, gigabytes: float, host: float,
    link: float = 0,
) -> Gpu:  # fmt: skip
    """`gigabytes`/s of memory; without `link` GPUs reach each other as they reach the host."""
    rates = Rates(
        flops=teraflops * 1e12, fp32=fp32 * 1e12, memory=gigabytes * 1e9, link=link or host, host=host
    )  # fmt: skip
    return Gpu(name=name, memory_bytes=int(gib * GIB), capability=capability, rates=rates)


# From NVIDIA's data sheets: tensor cores dense (bf16; fp16 for V100 and T4), A100 and later as SXM modules. Memory is
# nvidia-smi's total.
CATALOGUE = {
    gpu.name: gpu
    for gpu in (
        _gpu("T4-16GB", 14.7, (7, 5), 65, 8.1, 320, PCIE3),
        _gpu("V100-16GB", 15.8, (7, 0), 125, 15.7, 900, PCIE3, NVLINK2),
        _gpu("V100-32GB", 31.7, (7, 0), 125, 15.7, 900, PCIE3, NVLINK2),
        _gpu("RTX3090-24GB", 23.7, (8, 6), 71, 35.6, 936, PCIE4),
        _gpu("RTX4090-24GB", 23.6, (8, 9), 165, 82.6, 1008, PCIE4),
        _gpu("RTX5090-32GB", 31.4, (12, 0), 210, 104.8, 1792, PCIE5),
        _gpu("A10-24GB", 22.1, (8, 6), 125, 31.2, 600, PCIE4),
        _gpu("A40-48GB", 44.5, (8, 6), 150, 37.4, 696, PCIE4),
        _gpu("L4-24GB", 22.1, (8, 9), 121, 30.3, 300, PCIE4 / 2),  # 8 lanes
        _gpu("L40S-48GB", 44.5, (8, 9), 362, 91.6, 864, PCIE4),
        _gpu("A6000-48GB", 47.5, (8, 6), 155, 38.7, 768, PCIE4),
        _gpu("A100-40GB", 39.4, (8, 0), 312, 19.5, 1555, PCIE4, NVLINK3),
        _gpu("A100-80GB", 79.2, (8, 0), 312, 19.5, 2039, PCIE4, NVLINK3),
        _gpu("H100-80GB", 79.1, (9, 0), 989, 67, 3350, PCIE5, NVLINK4),
        _gpu("H200-141GB", 139.8, (9, 0), 989, 67, 4800, PCIE5, NVLINK4),
        _gpu("B200-180GB", 178.4, (10, 0), 2250, 75, 8000, PCIE5, NVLINK5),
    )
}


class Topology(BaseModel):
    """nodes x devices_per_node devices of one kind.

    Without a GPU a device is a CPU process, and memory_bytes its share of the host.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: int
    devices_per_node: int
    device: Literal["gpu", "cpu"]
    device_name: str
    memory_bytes: int
    bf16: bool
    host_bytes: int | None = None
    """Memory of a node that its processes may take; None where that is not known, which limits nothing."""
    rates: Rates | None = None
    """None for a CPU process and for a GPU that is not in the catalogue."""

    @property
    def world_size(self) -> int:
        return self.nodes * self.devices_per_node


def parse_gpus(text: str, nodes: int = 1, option: str = "--gpus") -> Topology:
    """`8xA100-80GB` to a topology of `nodes` such machines. Raises UsageError naming `option` and the catalogue."""
    match = re.fullmatch(r"(?:(\d+)x)?([A-Za-z0-9-]+)", text.strip())
    names = {name.lower(): gpu for name, gpu in CATALOGUE.items()}
    gpu = names.get(match[2].lower()) if match else None
    if match is None or gpu is None:
        near = difflib.get_close_matches((match[2] if match else text).lower(), names, n=1, cutoff=0.4)
        hint = f" Did you mean {names[near[0]].name}?" if near else ""
        raise UsageError(f"{option} {text}: not COUNTxTYPE with a known type.{hint} Known: {', '.join(CATALOGUE)}")
    if match[1] is not None and int(match[1]) < 1:
        raise UsageError(f"{option} {text}: the count must be 1 or more, such as 8x{gpu.name}")
    return gpu_topology(gpu, nodes, int(match[1] or 1))


def gpu_topology(gpu: Gpu, nodes: int, devices_per_node: int) -> Topology:
    return Topology(
        nodes=nodes, devices_per_node=devices_per_node, device="gpu", device_name=gpu.name,
        memory_bytes=gpu.memory_bytes, bf16=gpu.bf16, rates=gpu.rates,
    )  # fmt: skip
