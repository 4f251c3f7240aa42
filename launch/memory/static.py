"""What a rank holds between steps: weights, their constants, adapters, gradients, optimizer states, buckets. Bytes."""

import math

from launch.architecture import Architecture
from launch.memory.setting import ELEMENT, Setting
from launch.spec import OFFLOADS, SHARDS_BASE

FP32 = ELEMENT["fp32"]
# bitsandbytes' NF4 (QLoRA, arXiv 2305.14314, section 3): 4 bits a weight, a constant for 64 weights in fp32 or, with
# double quantisation, in 8 bits with one in fp32 for 256 of those; and each linear's tables, of 16 and of 256 values.
BLOCK, BLOCKS, CODES, DOUBLE_CODES = 64, 256, 16, 256
# Adam's two moments in fp32. bitsandbytes' 32-bit states are fp32 whatever the weight; torch's take the weight's type.
MOMENTS = 2


def base_weights(architecture: Architecture, setting: Setting) -> int:
    """All weights of the base as they are held once loaded, on one device: 2 bytes a parameter in bf16. Exact."""
    rest = architecture.parameters - architecture.linear_parameters
    held = rest * (FP32 if setting.upcast_unquantized else setting.element)
    match setting.quantization:
        case "nf4":
            return held + sum(math.ceil(size / 2) for size in _linear_sizes(architecture))
        case "int8":
            return held + architecture.linear_parameters
        case _:
            return held + architecture.linear_parameters * setting.element


def quantization_constants(architecture: Architecture, setting: Setting) -> int:
    """Scales of packed weights: of NF4 as above, of int8 one in fp32 for each output (arXiv 2208.07339). Exact."""
    if setting.quantization == "int8":
        return sum(FP32 * outputs for _, outputs in architecture.modules.values())
    if setting.quantization == "none":
        return 0
    total = 0
    for size in _linear_sizes(architecture):
        blocks = math.ceil(size / BLOCK)
        if setting.double_quantization:
            # Beside the constants themselves their mean, in fp32.
            total += blocks + FP32 * (math.ceil(blocks / BLOCKS) + DOUBLE_CODES + CODES + 1)
        else:
            total += FP32 * (blocks + CODES)
    return total


def _linear_sizes(architecture: Architecture) -> list[int]:
    return [inputs * outputs for inputs, outputs in architecture.modules.values()]


def _trained(setting: Setting) -> tuple[int, int]:
    """(elements that PEFT makes in fp32, elements of copies, which keep the type of what they are copies of)."""
    return setting.adapter.pairs + setting.adapter.magnitudes, setting.adapter.whole


def adapters(setting: Setting) -> int:
    """Weights of what is trained, as the model computes with them."""
    pairs, whole = _trained(setting)
    held = pairs * setting.adapter_element + whole * setting.element
    return held // setting.world_size if setting.strategy == "fsdp2" else held


def gradients(setting: Setting) -> int:
    """Of the type of their weights. ZeRO-2 and 3 keep a share of them; its buffers are counted apart."""
    pairs, whole = _trained(setting)
    held = pairs * setting.adapter_element + whole * setting.element
    if setting.strategy in OFFLOADS and setting.gpu:
        return 0
    return held // setting.world_size if setting.zero or setting.strategy == "fsdp2" else held


def optimizer(setting: Setting) -> int:
    """Adam's moments; under ZeRO a rank's share of them and of fp32 weights (arXiv 1910.02054, section 5)."""
    pairs, whole = _trained(setting)
    if setting.zero:
        if setting.strategy in OFFLOADS and setting.gpu:
            return 0
        return (1 + MOMENTS) * FP32 * (pairs + whole) // setting.world_size
    element = FP32 if setting.optimizer == "paged_adamw_32bit" else setting.element
    held = MOMENTS * (FP32 * pairs + element * whole)
    return held // setting.world_size if setting.strategy == "fsdp2" else held


def buffers(architecture: Architecture, setting: Setting) -> int:
    """What an engine keeps for communication, and the weights that it gathers to compute with.

    DDP's buckets hold every gradient once more. ZeRO's bucket is hidden_size^2 elements, two with overlap_comm
    (render.py). ZeRO-3 gathers a block and prefetches 0.9 hidden_size^2 elements, beside embeddings or the output head;
    FSDP2 gathers a block and the next one, and its outermost module, embeddings and head, stays whole from the first
    forward pass on.
    """
    hidden, element = architecture.hidden_size, setting.element
    block = architecture.linear_parameters // architecture.layers
    embeddings = architecture.vocab_size * hidden
    if setting.strategy == "single":
        return 0
    if setting.strategy == "ddp":
        return gradients(setting)
    if setting.strategy == "fsdp2":
        whole = embeddings * (1 if architecture.tied_embeddings else 2)
        return element * (2 * _packed(block, setting) + whole)
    held = 2 * hidden**2 * setting.adapter_element
    if setting.strategy in SHARDS_BASE:
        held += element * (_packed(block, setting) + int(0.9 * hidden**2) + embeddings)
    return held


def _packed(block: int, setting: Setting) -> int:
    """Elements of a gathered block in units of the engine's type."""
    packed = {"none": setting.element, "nf4": 0.5, "int8": 1}[setting.quantization]
    return int(block * packed / setting.element)


def resident_base(architecture: Architecture, setting: Setting) -> int:
    """Base weights of one rank while it trains: whole, or its share; on the host with offloaded parameters."""
    held = base_weights(architecture, setting)
    if setting.strategy not in SHARDS_BASE:
        return held
    if setting.strategy == "zero3_offload" and setting.gpu:
        return 0
    return held // setting.world_size
