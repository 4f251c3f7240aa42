"""Host memory of one node, all its processes together. Bytes."""

import math

from launch.machine.hardware import GIB
from launch.memory import static
from launch.memory.setting import Setting
from launch.model.architecture import Architecture
from launch.spec import OFFLOADS

# Of a worker, resident: Python, torch, transformers, PEFT and accelerate, 0.53 GiB before its first batch, 0.16 of it
# shared libraries, and 0.03 to 0.08 that malloc keeps of what is alive no more (six runs of the demo); on a GPU the
# CUDA runtime as well, 1.1 to 1.7 GB (pytorch#12873, #113326).
CPU_PROCESS, GPU_PROCESS = int(0.6 * GIB), 2 * GIB
# What the weights' files hold: all Qwen models are published in bf16.
FILES = "bf16"
# Offloaded gradients, which DeepSpeed keeps in fp32 beside the optimizer's states.
GRADIENT = 4


def loading(architecture: Architecture, setting: Setting, process_bytes: int) -> int:
    """While the base is read: what stays until it has moved to its devices, and the mapped files."""
    if not setting.gpu:
        return training(architecture, setting, process_bytes)
    held = setting.devices_per_node * GPU_PROCESS + mapped(architecture, setting)
    if _copied(setting):
        held += setting.devices_per_node * architecture.parameters * setting.element
    if setting.strategy == "zero3_offload":
        held += setting.devices_per_node * pinned(architecture, setting)
    return held


def mapped(architecture: Architecture, setting: Setting) -> int:
    """Pages of the weights' files, which safetensors maps: the processes of a node share them, and the kernel takes
    them back where memory is short.

    Weights in another type than the files' are copied, by each process for itself, tensor by tensor: then no more of
    the files has to stay than one tensor. A quantised base is streamed to its device in the same way.
    """
    if not setting.gpu or _copied(setting):
        return 0
    return architecture.parameters * setting.element


def _copied(setting: Setting) -> bool:
    return setting.precision != FILES and setting.quantization == "none"


def training(architecture: Architecture, setting: Setting, process_bytes: int) -> int:
    """While it trains: what is offloaded, and on a CPU everything."""
    if not setting.gpu:
        return setting.devices_per_node * (CPU_PROCESS + process_bytes)
    held = setting.devices_per_node * GPU_PROCESS
    if setting.strategy in OFFLOADS:
        trained = setting.adapter.pairs + setting.adapter.magnitudes + setting.adapter.whole
        states = (1 + static.MOMENTS) * static.FP32 + GRADIENT
        held += states * trained * setting.devices_per_node // setting.world_size
    if setting.strategy == "zero3_offload":
        held += setting.devices_per_node * pinned(architecture, setting)
    return held


def pinned(architecture: Architecture, setting: Setting) -> int:
    """A rank's share of the base under ZeRO-3 with offloaded parameters.

    DeepSpeed pins each tensor's share by itself (partition_parameters.py, _partition_param), and torch rounds pinned
    memory up to a power of two (CachingHostAllocator.h): up to twice the share, 1.4 times on average. Biases and norms,
    below stage3_param_persistence_threshold, stay on the GPU.
    """

    def share(elements: int) -> int:
        held = math.ceil(elements / setting.world_size) * setting.element
        return 1 << (held - 1).bit_length()

    embeddings = share(architecture.vocab_size * architecture.hidden_size)
    block = sum(share(inputs * outputs) for inputs, outputs in architecture.linears.values())
    return architecture.layers * block + embeddings * (1 if architecture.tied_embeddings else 2)
