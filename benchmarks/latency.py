"""What collectives wait for beside their bytes, by NCCL's own tuning table (src/graph/tuning.cc, protocol Simple)."""

import math

from launch.machine.hardware import PCIE5, Topology
from launch.memory import Setting
from launch.model.architecture import Architecture
from launch.plan.throughput import base_gathers

# Seconds: of a collective however small, of a hop inside a node (over NVLink or PCIe) and of one between nodes.
BASE, RING_NVLINK, RING_PCIE, TREE, NETWORK = 8.4e-6, 3.4e-6, 5.7e-6, 4.0e-6, 14e-6
# torch's DistributedDataParallel, bucket_cap_mb.
BUCKET = 25 * 2**20


def gathering(topology: Topology) -> float:
    """Seconds of an all-gather or a reduce-scatter: a ring through all GPUs, which enters each node once."""
    assert topology.rates is not None
    inside = RING_NVLINK if topology.rates.link > PCIE5 else RING_PCIE
    between = topology.nodes - 1
    return BASE + (topology.world_size - 1 - between) * inside + between * NETWORK


def reducing(topology: Topology) -> float:
    """Seconds of an all-reduce: up and down a tree (a chain in each node), or twice through the ring if faster."""
    tree = BASE + 2 * ((topology.devices_per_node - 1) * TREE + int(math.log2(topology.nodes)) * NETWORK)
    return min(tree, 2 * gathering(topology) - BASE)


def collectives(architecture: Architecture, setting: Setting, accumulation: int) -> tuple[float, float]:
    """(gathers and scatters, all-reduces) of an optimizer step.

    DDP all-reduces its gradients bucket by bucket, and so does ZeRO, in buckets of hidden_size^2 elements. What gathers
    the base does so block by block, the embeddings twice and the head once, and scatters a block's gradients at once
    (tests/runs/test_traffic.py counts the bytes).
    """
    layers, elements = architecture.layers, setting.adapter.pairs + setting.adapter.whole
    buckets = math.ceil(elements / architecture.hidden_size**2)
    match setting.strategy:
        case "single":
            return 0, 0
        case "ddp":
            return 0, math.ceil(elements * setting.adapter_element / BUCKET)
        case "zero1":
            return 1, buckets
        case "zero2" | "zero2_offload":
            return 1, accumulation * buckets
        case "fsdp2":
            return accumulation * (2 * layers + 3) + layers, 0
        case _:
            return accumulation * (layers * (base_gathers(architecture, setting) + 1) + 3), 0


def waiting(architecture: Architecture, setting: Setting, accumulation: int, topology: Topology) -> float:
    """Seconds of an optimizer step, none of it hidden."""
    gathers, reductions = collectives(architecture, setting, accumulation)
    return gathers * gathering(topology) + reductions * reducing(topology)
