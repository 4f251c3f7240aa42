"""Bytes per rank of LoRA training, by component. A first, coarse model: it errs on the safe side.

T = tokens of one micro-batch = micro_batch_size x max_length, W = world size, P = adapter parameters.
"""

from dataclasses import dataclass

from launch.architecture import Architecture
from launch.hardware import GIB
from launch.spec import SHARDS_BASE, Quantization, Strategy

# NF4 holds a weight in 4 bits and, per 64 weights, a constant of 8 bits plus its own double-quantised share
# (QLoRA, section 3).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# CUDA context, cuBLAS workspaces and NCCL buffers of one process.
FRAMEWORK_BYTES = 1.2 * GIB
# A logit at the loss's peak: itself in bf16, its fp32 copy, log-softmax, and the first of their gradients.
LOGIT_BYTES = 12
# What the caching allocator reserves beyond what is allocated.
FRAGMENTATION = 0.04


@dataclass(frozen=True)
class Setting:
    """What decides the memory of one rank."""

    strategy: Strategy
    world_size: int
    micro_batch_size: int
    max_length: int
    gradient_checkpointing: bool
    quantization: Quantization
    element_bytes: int
    """Bytes of a base weight and of an activation: 2 for bf16 and fp16, 4 for fp32."""
    gpu: bool
    upcast_unquantized: bool = False


def components(architecture: Architecture, adapter_parameters: int, setting: Setting) -> dict[str, int]:
    """Peak bytes of one rank by component. Their sum is the peak."""
    tokens = setting.micro_batch_size * setting.max_length
    parts = {
        "base weights": _base(architecture, setting),
        "adapter, gradients, optimizer": _adapter(adapter_parameters, setting),
        "activations": _activations(architecture, tokens, setting),
        "logits and loss": tokens * architecture.vocab_size * LOGIT_BYTES,
    }
    if setting.gpu:
        parts["framework"] = int(FRAMEWORK_BYTES)
        parts["fragmentation"] = int(FRAGMENTATION * sum(parts.values()))
    return parts


def inference_bytes(architecture: Architecture, setting: Setting) -> int:
    """Peak bytes of answering, or of a loss without gradients: weights, keys and values, logits."""
    tokens = setting.micro_batch_size * setting.max_length
    cache = tokens * architecture.layers * 2 * architecture.kv_heads * architecture.head_dim * setting.element_bytes
    logits = tokens * architecture.vocab_size * LOGIT_BYTES
    return _base(architecture, setting) + cache + logits + (int(FRAMEWORK_BYTES) if setting.gpu else 0)


def _base(architecture: Architecture, setting: Setting) -> int:
    linear, rest = architecture.linear_parameters, architecture.parameters - architecture.linear_parameters
    per_weight = {"none": float(setting.element_bytes), "nf4": NF4_BYTES, "int8": 1.0}[setting.quantization]
    held = int(linear * per_weight) + rest * (4 if setting.upcast_unquantized else setting.element_bytes)
    # A packed base lands whole on each device before it is sharded (DeepSpeed#5637), and loading may be the peak.
    if setting.strategy not in SHARDS_BASE or setting.quantization != "none":
        return held
    # One layer gathered, the next one prefetched, and the gathered output head.
    gathered = 2 * linear // architecture.layers + architecture.vocab_size * architecture.hidden_size
    on_host = setting.strategy == "zero3_offload" and setting.gpu
    return gathered * setting.element_bytes + (0 if on_host else held // setting.world_size)


def _adapter(parameters: int, setting: Setting) -> int:
    """fp32 weight, gradient and two Adam moments: 16 bytes a parameter, and what each strategy divides of them."""
    world = setting.world_size
    match setting.strategy:
        case "single":
            return 16 * parameters
        case "ddp":
            return 20 * parameters  # DDP's gradient buckets
        case "zero2":
            return 4 * parameters + 12 * parameters // world
        case "zero2_offload" | "zero3_offload" if setting.gpu:
            return 4 * parameters
        case "zero2_offload":
            return 4 * parameters + 12 * parameters // world  # without a GPU the host is the device
        case _:
            return 16 * parameters // world


def _activations(architecture: Architecture, tokens: int, setting: Setting) -> int:
    """A layer keeps about 16h + 4kv + 8i + 4 x heads bytes a token in bf16.

    With checkpointing it keeps 2h, its input alone, and there are twice a layer's bytes while one is recomputed.
    """
    scale = setting.element_bytes // 2
    hidden = architecture.hidden_size
    kv = architecture.kv_heads * architecture.head_dim
    layer = (16 * hidden + 4 * kv + 8 * architecture.intermediate_size + 4 * architecture.heads) * scale
    if setting.gradient_checkpointing:
        return tokens * (architecture.layers * 2 * hidden * scale + 2 * layer)
    return tokens * architecture.layers * layer
