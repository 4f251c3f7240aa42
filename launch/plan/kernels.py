"""Who computes attention, norms, adapted layers and the loss: what `auto` means, and what cannot be asked for. Pure.

`auto` takes what was measured to be faster, and elsewhere what is oldest (docs/performance.md).
"""

from launch.machine.hardware import Topology
from launch.spec import (
    ZERO_STAGES,
    Attention,
    FlashAttention,
    KeyPath,
    LoraImplementation,
    Loss,
    ModelSpec,
    Precision,
    RunSpec,
    Strategy,
)

# The module that torch imports for them (torch/nn/attention/_fa3.py and _fa4.py), the package that has it, and the
# first part of the compute capabilities that they are for.
FLASH_PACKAGES: dict[FlashAttention, tuple[str, str, tuple[int, ...]]] = {
    "fa3": ("flash_attn_interface", "flash_attn_3", (9,)),
    "fa4": ("flash_attn.cute.interface", "flash-attn-4", (9, 10)),
}


def attention_of(spec: RunSpec, gpu: bool) -> Attention:
    """Of training. On CPU processes packed rows go document by document, which is faster than to mask their scores."""
    asked = spec.model.attention
    if asked != "auto":
        return asked
    return "varlen" if spec.data.packing and not gpu else "sdpa"


def answering_attention(model: ModelSpec) -> Attention:
    """Of an evaluation, which pads its batches."""
    return "eager" if model.attention == "eager" else "sdpa"


def flash_attention_of(spec: RunSpec, gpu: bool) -> FlashAttention:
    """Whose kernels. A CPU has torch's alone, so that the same spec may be tried there."""
    return spec.model.flash_attention if gpu else "torch"


def loss_of(spec: RunSpec, precision: Precision, gpu: bool) -> Loss:
    asked = spec.training.loss
    if asked != "auto":
        return asked
    return "plain" if gpu or not_chunked(spec, precision) else "chunked"


def not_chunked(spec: RunSpec, precision: Precision) -> str:
    """Why the loss cannot be computed in chunks; empty where it can."""
    if "lm_head" in spec.lora.modules_to_save:
        return "lora.modules_to_save trains the output head, whose own gradient is not made in chunks"
    if spec.training.extra.get("use_liger_kernel"):
        return "training.extra.use_liger_kernel brings a loss of its own; remove one of the two"
    if precision == "fp16":
        return "in fp16 a chunk's small gradients vanish, for they are made before the loss is scaled up"
    return ""


def lora_of(spec: RunSpec, strategy: Strategy, gpu: bool) -> LoraImplementation:
    """Under one strategy."""
    asked = spec.lora.implementation
    if asked != "auto":
        return asked
    return "peft" if gpu or ZERO_STAGES.get(strategy) == 3 or not_fused(spec) else "fused"


def not_fused(spec: RunSpec) -> str:
    """Why adapted layers cannot be one operation, whatever the strategy; empty where they can."""
    if spec.lora.use_dora:
        return "lora.use_dora scales what the base makes, which stands between the products"
    if spec.model.quantization == "int8":
        return "int8 weights are unpacked by bitsandbytes' own layer, in both passes"
    if spec.training.compile:
        return "training.compile merges PEFT's operations itself"
    if spec.training.extra.get("use_liger_kernel"):
        return "training.extra.use_liger_kernel computes the MLP itself, and keeps more of it"
    if spec.lora.cast_inputs:
        return "lora.cast_inputs is of PEFT's layers; remove one of the two"
    return ""


def norms_not_fused(spec: RunSpec) -> str:
    """Why RMS norms cannot be one operation; empty where they can."""
    if spec.training.compile:
        return "training.compile merges their operations itself"
    if spec.training.extra.get("use_liger_kernel"):
        return "training.extra.use_liger_kernel brings norms of its own"
    return ""


def conflicts(spec: RunSpec, topology: Topology, precision: Precision) -> list[tuple[KeyPath, str]]:
    """What the spec names and these devices cannot do."""
    found: list[tuple[KeyPath, str]] = []
    reason = not_chunked(spec, precision)
    if spec.training.loss == "chunked" and reason:
        found.append((("training", "loss"), f"training.loss chunked: {reason}: use plain or auto"))
    reason = not_fused(spec)
    if spec.lora.implementation == "fused" and reason:
        found.append((("lora", "implementation"), f"lora.implementation fused: {reason}: use peft or auto"))
    reason = norms_not_fused(spec)
    if spec.model.norms == "fused" and reason:
        found.append((("model", "norms"), f"model.norms fused: {reason}: use plain"))
    if spec.training.extra.get("tf32") and not topology.bf16:  # both came with compute capability 8.0
        message = f"needs a GPU of compute capability 8.0 or above, and {topology.device_name} is none; remove it"
        found.append((("training", "extra", "tf32"), f"training.extra.tf32 {message}"))
    if spec.model.attention == "varlen" and topology.device == "gpu" and (precision == "fp32" or not topology.bf16):
        why = "needs bf16 or fp16 on compute capability 8.0 or above, as FlashAttention does"
        message = f"model.attention varlen {why}; {topology.device_name} in {precision} has sdpa or eager"
        found.append((("model", "attention"), message))
    kernels = flash_attention_of(spec, topology.device == "gpu")
    if kernels != "torch" and precision == "fp32":
        message = f"model.flash_attention {kernels} computes in bf16 and fp16 alone, not in fp32"
        found.append((("model", "flash_attention"), message))
    if kernels != "torch" and spec.data.packing and attention_of(spec, gpu=True) == "sdpa":
        why = "packed rows have a mask under model.attention sdpa, and no FlashAttention takes one"
        message = f"nothing reads this: {why}; use model.attention: varlen or data.packing: false"
        found.append((("model", "flash_attention"), message))
    return found
