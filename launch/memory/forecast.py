"""Bytes of one rank in each phase of training, by component, and the peak.

Three numbers: what torch has allocated at the peak, what its caching allocator has reserved from the driver for that,
and what the driver says the process uses. Only the last has to fit.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from launch.machine.hardware import GIB
from launch.memory import activations, host, static, transients
from launch.memory.setting import ELEMENT, LOSS_CHUNK, Setting
from launch.model.architecture import Architecture

# CUDA context, cuBLAS workspaces and NCCL's buffers of one process: 0.4 to 0.8 GB, 8 to 32 MB, and up to 0.5 GB.
FRAMEWORK_BYTES = int(1.2 * GIB)
# What the caching allocator reserves beyond what is allocated: 3 to 5 %.
FRAGMENTATION = 0.04
# Tensors as large as the logits at the loss's peak: log-softmax, its gradient and that of the logits. Forward it is
# never more: the logits themselves, what the loss makes of them, and log-softmax.
LOGIT_COPIES = 3


class Forecast(BaseModel):
    """Bytes on a device."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    peak_bytes: int
    """torch.cuda.max_memory_allocated."""
    reserved_bytes: int
    """torch.cuda.max_memory_reserved; without a GPU nothing is reserved beyond what is allocated."""
    process_bytes: int
    """What nvidia-smi shows of the process: this has to fit."""
    phase: str
    """The one with the peak."""
    components: dict[str, int]
    """The peak's, and what is held beyond it; their sum is process_bytes."""
    phases: dict[str, int]
    """Allocated bytes of each."""
    host_bytes: int
    """Of a node, all its processes together, at its most."""
    host_phases: dict[str, int]
    """The same while the base is loaded, and while it is trained."""
    host_mapped_bytes: int
    """Of what it takes to load, pages of the weights' files, which the kernel takes back where memory is short."""

    @property
    def host_needed_bytes(self) -> int:
        """What a node must have: less, and its processes are killed."""
        return max(self.host_phases["load"] - self.host_mapped_bytes, self.host_phases["training"])


def forecast(architecture: Architecture, setting: Setting) -> Forecast:
    """What training needs on one rank."""
    base = {
        "base weights": static.resident_base(architecture, setting),
        "quantisation constants": static.quantization_constants(architecture, setting),
    }
    held = {
        **base,
        "adapters": static.adapters(setting),
        "optimizer": static.optimizer(setting),
        "engine buffers": static.buffers(architecture, setting),
    }
    trained = {**held, "gradients": static.gradients(setting)}
    accumulating = {**held, "gradients": static.accumulated(setting)}
    kept = activations.saved(architecture, setting) + activations.cast_weights(architecture, setting)
    ahead, back = (_most_of_blocks(architecture, setting, kept, backward) for backward in (False, True))
    unpacked = dequantised(architecture, setting)
    phases = {
        # A packed base lands whole on each device before it is sharded (DeepSpeed#5637).
        "load": {**base, "base weights": _loading(architecture, setting), "dequantisation": unpacked},
        "forward": {**accumulating, **ahead, "dequantisation": unpacked},
        "loss": {**accumulating, "activations": kept, "logits and loss": _loss(architecture, setting)},
        "backward": {**accumulating, **back, "dequantisation": unpacked},
        "optimizer step": {**trained, "in passing": static.updating(setting)},
        "evaluation": {
            **held, "in passing": transients.evaluating(architecture, setting),
            "logits and loss": _evaluated_loss(architecture, setting), "dequantisation": unpacked,
        },
        "save": trained,
    }  # fmt: skip
    if setting.answer_tokens is not None:
        phases["answers"] = {**held, **_answering(architecture, setting), "dequantisation": unpacked}
    device = _summed(architecture, setting, phases)
    needed = {
        name: phase(architecture, setting, device.process_bytes)
        for name, phase in (("load", host.loading), ("training", host.training))
    }
    return Forecast(
        **device._asdict(), host_bytes=max(needed.values()), host_phases=needed,
        host_mapped_bytes=host.mapped(architecture, setting),
    )  # fmt: skip


def _most_of_blocks(architecture: Architecture, setting: Setting, kept: int, backward: bool) -> dict[str, int]:
    """Activations at their most, forward or backward: `kept` with what the last block holds in passing, or, where
    blocks are computed again, what is left of it at the last one of these, with all that this one makes.

    Blocks are checkpointed from the first on: where the last one is not, no block is computed again before what that
    one kept has gone, and nothing comes on top of `kept`. Were it the last ones, the first block to go back through
    would be computed again beside all that is kept.
    """
    number, most = setting.checkpointed(architecture.layers), architecture.layers - setting.adapter.first_block
    found = []
    if number < most or not number:
        found.append({"activations": kept, "in passing": transients.passing(architecture, setting, backward)})
    if number:
        left = kept - sum(activations.uncheckpointed(architecture, setting))
        again = activations.recomputed(architecture, setting)
        passing = transients.passing(architecture, setting, backward, again=True)
        made = {"recompute of one layer": again, "in passing": passing} if backward else {"in passing": again + passing}
        found.append({"activations": left, **made})
    return max(found, key=lambda parts: sum(parts.values()))


def fewest_checkpointed(architecture: Architecture, setting: Setting, excess: int) -> int | None:
    """How many blocks a setting without checkpoints has to checkpoint for a process that is smaller by `excess` bytes.

    None where checkpoints do not save so much. By arithmetic: each block saves what it keeps less its input, all of
    them hold a mask, and the allocator takes its share. What else might exceed then, the forecast of so many tells.
    """
    less = math.ceil((excess + 1) / (1 + FRAGMENTATION if setting.gpu else 1)) + activations.held_mask(setting)
    own = activations.checkpoint(architecture, setting)
    for number, kept in enumerate(activations.uncheckpointed(architecture, setting), start=1):
        less -= kept - own
        if less <= 0:
            return number
    return None


def _answering(architecture: Architecture, setting: Setting) -> dict[str, int]:
    """Keys and values of questions and answers; of the logits only the last token's are made."""
    assert setting.answer_tokens is not None
    there = replace(setting, max_length=setting.answer_tokens, micro_batch_size=setting.answered_at_once)
    passing = transients.evaluating(architecture, there)
    return {"keys and values": _cache(architecture, there), "in passing": passing}


def _cache(architecture: Architecture, setting: Setting) -> int:
    """Keys and values of all tokens in each block, e kv each."""
    return setting.tokens * architecture.layers * 2 * architecture.kv_heads * architecture.head_dim * setting.element


class _Device(NamedTuple):
    """The fields of a Forecast that are a device's."""

    peak_bytes: int
    reserved_bytes: int
    process_bytes: int
    phase: str
    components: dict[str, int]
    phases: dict[str, int]


def _loss(architecture: Architecture, setting: Setting) -> int:
    """What the loss makes of a micro-batch. Plain: tensors as large as the logits. Fused: the gradient of the head's
    input, T h, and the logits of one chunk of tokens at a time, of which there are V / h (Liger-Kernel,
    ops/fused_linear_cross_entropy.py; arXiv 2410.10989, section 3.2); the gradient of the head where it is trained.
    In chunks: the head's input and its gradient, 2 T h, and a chunk's logits with their log-softmax
    (training/model/loss.py).
    """
    tokens, hidden, vocabulary = setting.tokens, architecture.hidden_size, architecture.vocab_size
    if setting.chunked_loss:
        return 2 * setting.element * tokens * hidden + _chunk(architecture, setting)
    if not setting.fused_loss:
        return LOGIT_COPIES * _loss_element(setting) * tokens * vocabulary
    chunk = _power_of_two(math.ceil(tokens / math.ceil(vocabulary / hidden)))
    head = setting.adapter.whole - (vocabulary * hidden if setting.adapter.embeddings else 0)
    return setting.element * (tokens * hidden + min(chunk, tokens) * vocabulary + head)


def _chunk(architecture: Architecture, setting: Setting) -> int:
    """A chunk's logits in fp32, and their log-softmax."""
    return 2 * ELEMENT["fp32"] * min(LOSS_CHUNK, setting.tokens) * architecture.vocab_size


def _evaluated_loss(architecture: Architecture, setting: Setting) -> int:
    """What the loss makes of a micro-batch of which no gradient is kept."""
    if setting.chunked_loss:
        return setting.element * setting.tokens * architecture.hidden_size + _chunk(architecture, setting)
    return _evaluated_logit(setting) * setting.tokens * architecture.vocab_size


def _power_of_two(count: int) -> int:
    """The least one that is not below `count`."""
    return 1 << (count - 1).bit_length()


def _loss_element(setting: Setting) -> int:
    """Bytes of a logit in the loss, which autocast too computes in fp32."""
    return ELEMENT[setting.logits_precision or ("fp32" if setting.casts else setting.precision)]


def _evaluated_logit(setting: Setting) -> int:
    """Bytes: nothing is kept of an evaluation's, but the logit, its copy in another type, and log-softmax."""
    element = _loss_element(setting)
    return setting.element + (element if element != setting.element else 0) + element


def _summed(architecture: Architecture, setting: Setting, phases: Mapping[str, Mapping[str, int]]) -> _Device:
    """Beside what is allocated at the peak, what the allocator keeps after the optimizer's step in blocks that the loss
    cannot use, and for ZeRO-3's gathers, which are counted apart."""
    sums = {name: sum(parts.values()) for name, parts in phases.items()}
    phase = max(sums, key=lambda name: sums[name])
    peak, beyond = sums[phase], dict[str, int]()
    if setting.gpu:
        left = 0 if phase == "optimizer step" else static.scattered(setting)
        apart = static.gathers(architecture, setting)
        held = int(FRAGMENTATION * (peak - apart.allocated)) + left + apart.reserved - apart.allocated
        beyond = {"fragmentation": held, "framework": FRAMEWORK_BYTES}
    components = {name: size for name, size in {**phases[phase], **beyond}.items() if size}
    reserved = peak + beyond.get("fragmentation", 0)
    return _Device(
        peak_bytes=peak, reserved_bytes=reserved, process_bytes=sum(components.values()), phase=phase,
        components=components, phases=sums,
    )  # fmt: skip


def inference_bytes(architecture: Architecture, setting: Setting) -> int:
    """What answering needs, or a loss without gradients: weights, keys and values, logits, and the process itself."""
    logits = _evaluated_logit(setting) * setting.tokens * architecture.vocab_size
    weights = static.base_weights(architecture, setting) + static.quantization_constants(architecture, setting)
    passing = transients.evaluating(architecture, setting)
    return weights + _cache(architecture, setting) + logits + passing + (FRAMEWORK_BYTES if setting.gpu else 0)


def dequantised(architecture: Architecture, setting: Setting) -> int:
    """The largest packed weight in the type that it is computed in."""
    if setting.quantization == "none":
        return 0
    return setting.element * max(inputs * outputs for inputs, outputs in architecture.linears.values())


def _loading(architecture: Architecture, setting: Setting) -> int:
    if setting.quantization == "none":
        return static.resident_base(architecture, setting)
    return static.base_weights(architecture, setting)
