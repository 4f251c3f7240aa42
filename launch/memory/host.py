"""Host memory of one node, all its processes together. Bytes."""

from launch.architecture import Architecture
from launch.hardware import GIB
from launch.memory import static
from launch.memory.setting import Setting
from launch.spec import OFFLOADS

# Of a worker, resident: Python, torch, transformers, PEFT and accelerate, 0.52 GiB before the model is loaded, 0.15 of
# it shared libraries; on a GPU the CUDA runtime as well, 1.1 to 1.7 GB (pytorch#12873, #113326).
CPU_PROCESS, GPU_PROCESS = int(0.55 * GIB), 2 * GIB
# What the weights' files hold: all Qwen models are published in bf16.
FILES = "bf16"
# Offloaded gradients, which DeepSpeed keeps in fp32 beside the optimizer's states.
GRADIENT = 4


def loading(architecture: Architecture, setting: Setting, process_bytes: int) -> int:
    """While the base is read. safetensors maps its files, so that weights in the files' type are pages that the
    processes of a node share; in another type each process makes a copy of its own before it moves to its GPU.
    A quantised base is streamed to its device tensor by tensor.
    """
    if not setting.gpu:
        return training(architecture, setting, process_bytes)
    copied = setting.precision != FILES and setting.quantization == "none"
    weights = architecture.parameters * setting.element * (setting.devices_per_node if copied else 1)
    return setting.devices_per_node * GPU_PROCESS + weights


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
        held += static.base_weights(architecture, setting) * setting.devices_per_node // setting.world_size
    return held
