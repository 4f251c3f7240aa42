"""What a rank holds between steps: weights, their constants, adapters, gradients, optimizer states, buckets. Bytes."""

import math
from dataclasses import replace

from launch.memory.gathering import Window
from launch.memory.passes import NOTHING, gathered
from launch.memory.setting import ELEMENT, Setting
from launch.model.architecture import Architecture
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
            return held + architecture.layers * sum(math.ceil(size / 2) for size in _linear_sizes(architecture))
        case "int8":
            return held + architecture.linear_parameters
        case _:
            return held + architecture.linear_parameters * setting.element


def quantization_constants(architecture: Architecture, setting: Setting) -> int:
    """Scales of packed weights: of NF4 as above, of int8 one in fp32 for each output (arXiv 2208.07339). Exact."""
    if setting.quantization == "int8":
        return FP32 * architecture.layers * sum(outputs for _, outputs in architecture.linears.values())
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
    return architecture.layers * total


def _linear_sizes(architecture: Architecture) -> list[int]:
    """Of one block."""
    return [inputs * outputs for inputs, outputs in architecture.linears.values()]


def _trained(setting: Setting) -> tuple[int, int]:
    """(elements that PEFT makes in fp32, those that keep the base's type: copies of its weights, and its biases)."""
    adapter = setting.adapter
    return adapter.pairs + adapter.magnitudes, adapter.whole + adapter.bias_elements


def adapters(setting: Setting) -> int:
    """Weights of what is trained, as the model computes with them; biases are the base's. ZeRO-3 gathers them as it
    does the base."""
    pairs, _ = _trained(setting)
    held = pairs * setting.adapter_element + setting.adapter.whole * setting.element
    if setting.strategy == "zero3_offload" and setting.gpu:  # on the host, and a copy of a head here while it is used
        return setting.adapter.whole * setting.element
    return held // setting.world_size if setting.strategy in SHARDS_BASE else held


def gradients(setting: Setting) -> int:
    """Once a step's last micro-batch has been exchanged. ZeRO-2 and 3 keep a share of their sum, in fp32, which with
    offloaded moments alone stays on the GPU until the step (stage_1_and_2.py, _build_compact_grad_partition_buffer);
    ZeRO-1 all and a share of their sum, of the type of their weights. DDP's are views of its buckets
    (gradient_as_bucket_view), and counted there."""
    summed_here = setting.strategy == "zero2_offload" and setting.sums_fp32
    in_buckets = setting.strategy == "ddp" and setting.bucket_views
    if in_buckets or (_offloaded(setting) and not summed_here):
        return 0
    held = _gradients(setting)
    return (held if setting.strategy == "zero1" else 0) + _share(held, setting)


def accumulated(setting: Setting) -> int:
    """Gradients beside a micro-batch's passes. DDP and FSDP2 exchange none before a step's last micro-batch (no_sync):
    until then those of the earlier ones are DDP's own tensors beside its buckets, into which the last backward pass
    copies them (reducer.cpp, mark_variable_ready_dense), and FSDP2's whole on each rank (_fsdp_param_group.py,
    post_backward)."""
    if setting.accumulates and setting.strategy in ("ddp", "fsdp2"):
        return _gradients(setting)
    return gradients(setting)


def optimizer(setting: Setting) -> int:
    """Adam's moments; under ZeRO a rank's share of them and of fp32 weights (arXiv 1910.02054, section 5)."""
    if setting.zero and _offloaded(setting):
        return 0
    masters = _share(FP32 * sum(_trained(setting)), setting) if setting.zero else 0
    return masters + MOMENTS * _moment(setting)


def updating(setting: Setting) -> int:
    """What the optimizer's step makes for an instant: torch's AdamW on a GPU temporaries of a moment's size (its
    foreach implementation; one tensor at a time on a CPU, none in bitsandbytes' and fused kernels), ZeRO's an fp32
    gradient for a rank's share of the weights (stage_1_and_2.py and stage3.py, step). ZeRO-2's sum is that, in fp32.
    """
    if _offloaded(setting):
        return 0
    foreach = setting.optimizer == "adamw_torch" and setting.gpu
    copies = setting.update_copies * _moment(setting) if foreach else 0
    made = setting.zero and not (setting.strategy in ("zero2", "zero2_offload") and setting.sums_fp32)
    return copies + (_share(FP32 * sum(_trained(setting)), setting) if made else 0)


def scattered(setting: Setting) -> int:
    """Those of the temporaries that are as small as the pairs' tensors: torch's caching allocator cuts blocks of 1 to
    10 MB from segments of 20 MB (CUDACachingAllocator.cpp, kLargeBuffer), where logits find no room.
    """
    return 0 if setting.zero else updating(replace(setting, adapter=replace(setting.adapter, whole=0)))


def _gradients(setting: Setting) -> int:
    """Of all that is trained, once."""
    pairs, whole = _trained(setting)
    if setting.sums_fp32:
        return FP32 * (pairs + whole)
    return pairs * setting.adapter_element + whole * setting.element


def _moment(setting: Setting) -> int:
    """One of the two moments, on one rank."""
    pairs, whole = _trained(setting)
    if setting.zero or setting.optimizer == "paged_adamw_32bit":
        return _share(FP32 * (pairs + whole), setting)
    return _share(setting.adapter_element * pairs + setting.element * whole, setting)


def _offloaded(setting: Setting) -> bool:
    return setting.strategy in OFFLOADS and setting.gpu


def _share(held: int, setting: Setting) -> int:
    return held // setting.world_size if setting.zero or setting.strategy == "fsdp2" else held


def buffers(architecture: Architecture, setting: Setting) -> int:
    """What an engine keeps for communication, and the weights that it gathers to compute with.

    DDP's buckets hold every gradient, between two steps as well. ZeRO's bucket is hidden_size^2 elements, two with
    overlap_comm, which is off at stage 1 (render/configs.py), and one at stage 3 (IPGBucketZ3 in stage3.py), which
    holds what it gathers as well (gathering.py). Gradients that are sent in fp32 are copied from ZeRO-2's buckets for
    that (allreduce_bucket in stage_1_and_2.py, a rank's part of a tensor at most), and ZeRO-3's is of that type, but a
    head that does not fit it is copied whole (__avg_scatter_grads in stage3.py). FSDP2 gathers a block and the next
    one, and its outermost module, embeddings and head, stays whole from the first forward pass on.
    """
    hidden, element = architecture.hidden_size, setting.element
    block = architecture.linear_parameters // architecture.layers
    embeddings = architecture.vocab_size * hidden
    if setting.strategy == "single":
        return 0
    if setting.strategy == "ddp":
        return _gradients(setting)
    if setting.strategy == "fsdp2":
        whole = embeddings * (1 if architecture.tied_embeddings else 2)
        return element * (2 * _packed(block, setting) + whole)
    elements = setting.bucket_elements or hidden**2
    bucket = elements * setting.adapter_element
    whole = embeddings if setting.adapter.whole and setting.sums_fp32 else 0
    if setting.strategy in SHARDS_BASE:
        sent = FP32 if setting.sums_fp32 else setting.adapter_element
        copied = FP32 * whole if whole > elements else 0
        return elements * sent + copied + gathers(architecture, setting).allocated
    trained = sum(_trained(setting))
    copied = FP32 * min(trained, max(elements, whole // setting.world_size)) if setting.sums_fp32 else 0
    return bucket if setting.strategy == "zero1" else 2 * bucket + copied


def gathers(architecture: Architecture, setting: Setting) -> Window:
    """Of ZeRO-3; nothing of others, whose gathered weights are counted with their buffers alone."""
    return gathered(architecture, setting) if setting.strategy in ("zero3", "zero3_offload") else NOTHING


def _packed(block: int, setting: Setting) -> int:
    """Elements of a gathered block in units of the engine's type."""
    return int(block * setting.base_element / setting.element)


def resident_base(architecture: Architecture, setting: Setting) -> int:
    """Base weights of one rank while it trains: whole, or its share; on the host with offloaded parameters."""
    held = base_weights(architecture, setting)
    if setting.strategy not in SHARDS_BASE:
        return held
    if setting.strategy == "zero3_offload" and setting.gpu:
        return 0
    return held // setting.world_size
