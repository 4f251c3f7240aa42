"""Combinations that are refused, each with the reason and the way out."""

from pydantic import BaseModel, ConfigDict

from launch.spec import OFFLOADS, SHARDS_BASE, ZERO_STAGES, RunSpec, Strategy
from launch.versions import Versions, older


class Refusal(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    combination: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.combination}: {self.reason}; {self.fix}"


# From which versions on a packed base was seen to train as it does unsharded (benchmarks/cells.py).
# Before, packed weights were replicated or cast by value (accelerate#3987, DeepSpeed#5637).
QUANTISED_SHARDED: dict[str, Versions] = {
    "zero3": {"transformers": "5.17", "bitsandbytes": "0.50"},
    "fsdp2": {"torch": "2.13", "accelerate": "1.15", "bitsandbytes": "0.50"},
}

# Up to DeepSpeed 0.19.7 ZeRO-2, and up to 0.19.5 ZeRO-1, keep of a step's bf16 gradients those of one micro-batch
# alone, without a word (tests/training/ranks/test_sums.py, run with each).
ZERO: Versions = {"deepspeed": "0.19.8"}


def refusals(spec: RunSpec, strategy: Strategy, world_size: int, versions: Versions) -> list[Refusal]:
    """Why this spec cannot run under this strategy on this many devices; empty when it can.

    `versions` are those of the installed packages; what is not installed is judged as the newest.
    """
    return [
        *_devices(strategy, world_size),
        *_engine(strategy, versions),
        *_quantised(spec, strategy, versions),
        *_optimizer(spec, strategy),
        *_adapter(spec, strategy),
        *_compiled(spec, strategy),
    ]


def _devices(strategy: Strategy, world_size: int) -> list[Refusal]:
    if strategy == "single" and world_size > 1:
        fix = "use ddp, or ask for one device"
        return [_refusal(f"single on {world_size} devices", "single trains on one device", fix)]
    if strategy in ("ddp", "fsdp2") and world_size == 1:
        return [_refusal(f"{strategy} on one device", "there is nothing to share", "use single")]
    return []


def _engine(strategy: Strategy, versions: Versions) -> list[Refusal]:
    below = older(versions, ZERO) if strategy in ZERO_STAGES else []
    reason = "a step may train on one of its micro-batches alone"
    fix = f"pip install -U 'deepspeed>={ZERO['deepspeed']}', or use a strategy without ZeRO"
    return [_refusal(f"{strategy} with {told}", reason, fix) for told in below]


def _quantised(spec: RunSpec, strategy: Strategy, versions: Versions) -> list[Refusal]:
    quantization = spec.model.quantization
    if quantization == "none":
        return []
    found, combination = [], f"{quantization} with {strategy}"
    if quantization == "int8" and strategy == "fsdp2":
        reason = "FSDP2 replaces the weight on which bitsandbytes keeps its int8 state (AttributeError: CB)"
        found.append(_refusal(combination, reason, "use model.quantization: nf4, or zero3 or ddp"))
    elif strategy == "zero3_offload":
        reason = "packed weights would travel between host and GPU, which nobody has shown to keep them whole"
        found.append(_refusal(combination, reason, "use zero3, zero2_offload or ddp: a quantised base is small"))
    elif below := older(versions, QUANTISED_SHARDED.get(strategy, {})):
        reason = f"packed weights were not seen to survive sharding with {', '.join(below)}"
        found.append(_refusal(combination, reason, "upgrade, or use ddp or zero2"))
    if spec.model.upcast_unquantized and strategy not in ("single", "ddp"):
        reason = "the engine holds all that is not packed in one type"
        found.append(_refusal(f"model.upcast_unquantized with {strategy}", reason, "remove it, or use ddp"))
    return found


def _optimizer(spec: RunSpec, strategy: Strategy) -> list[Refusal]:
    training = spec.training
    if "optimizer" not in training.model_fields_set or training.optimizer != "paged_adamw_32bit":
        return []
    combination, fix = f"paged_adamw_32bit with {strategy}", "use training.optimizer: adamw_torch"
    if strategy in OFFLOADS:
        return [_refusal(combination, "both would move the optimizer states to the host", fix)]
    if strategy == "fsdp2":
        return [_refusal(combination, "bitsandbytes cannot update sharded (DTensor) parameters", fix)]
    return []


def _adapter(spec: RunSpec, strategy: Strategy) -> list[Refusal]:
    lora, found = spec.lora, []
    if lora.use_dora and spec.model.quantization == "int8":
        reason = "peft's DoRA cannot unpack an int8 weight that has been used once (AttributeError: dtype)"
        found.append(_refusal("lora.use_dora and int8", reason, "use model.quantization: nf4, or leave use_dora out"))
    elif lora.use_dora and spec.model.quantization != "none" and strategy == "zero3":
        combination = f"lora.use_dora and {spec.model.quantization} with {strategy}"
        reason = "peft takes DoRA's magnitudes from a packed base that ZeRO-3 has not divided yet (no attribute ds_id)"
        found.append(_refusal(combination, reason, "use fsdp2, zero2 or ddp"))
    if lora.precision != "auto" and strategy.startswith("zero"):
        reason = "DeepSpeed holds the adapter in the run's precision beside an fp32 copy that it updates"
        found.append(_refusal(f"lora.precision {lora.precision} with {strategy}", reason, "use auto, or ddp or single"))
    if lora.precision == "bf16" and strategy == "fsdp2":
        reason = "accelerate makes fp32 of whatever FSDP2 trains"
        found.append(_refusal(f"lora.precision bf16 with {strategy}", reason, "use auto, or ddp"))
    if lora.implementation == "fused" and ZERO_STAGES.get(strategy) == 3:
        reason = "ZeRO-3 gathers a layer's weights for the layer itself, and its backward pass finds none of them"
        found.append(_refusal(f"lora.implementation fused with {strategy}", reason, "use auto, or fsdp2 or zero2"))
    if lora.init_lora_weights == "pissa" and strategy in ("zero3", "zero3_offload"):
        reason = "the principal part is taken out of whole weights, and ZeRO-3 never holds one while it loads"
        found.append(_refusal(f"lora.init_lora_weights pissa with {strategy}", reason, "use fsdp2, zero2 or ddp"))
    return found


def _compiled(spec: RunSpec, strategy: Strategy) -> list[Refusal]:
    if not spec.training.compile or strategy not in (*SHARDS_BASE, *OFFLOADS):
        return []
    reason = "the engine's hooks gather weights inside the blocks that would be compiled, which nobody has measured"
    return [_refusal(f"training.compile with {strategy}", reason, "leave compile out, or use ddp")]


def _refusal(combination: str, reason: str, fix: str) -> Refusal:
    return Refusal(combination=combination, reason=reason, fix=fix)
