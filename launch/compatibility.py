"""Combinations that are refused, each with the reason and the way out."""

from pydantic import BaseModel, ConfigDict

from launch.spec import OFFLOADS, SHARDS_BASE, RunSpec, Strategy


class Refusal(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    combination: str
    reason: str
    fix: str

    def __str__(self) -> str:
        return f"{self.combination}: {self.reason}; {self.fix}"


def refusals(spec: RunSpec, strategy: Strategy, world_size: int) -> list[Refusal]:
    """Why this spec cannot run under this strategy on this many devices; empty when it can."""
    found = []

    def refuse(combination: str, reason: str, fix: str) -> None:
        found.append(Refusal(combination=combination, reason=reason, fix=fix))

    quantization, training = spec.model.quantization, spec.training
    if strategy == "single" and world_size > 1:
        refuse(f"single on {world_size} devices", "single trains on one device", "use ddp, or ask for one device")
    if strategy in ("ddp", "fsdp2") and world_size == 1:
        refuse(f"{strategy} on one device", "there is nothing to share", "use single")
    if quantization != "none" and strategy in SHARDS_BASE:
        refuse(
            f"{quantization} with {strategy}",
            "sharding packed weights value-casts or replicates them unless the storage type matches the engine's"
            " (accelerate#3987, DeepSpeed#5637)",
            "use ddp or zero2: a quantised base is small enough to be held whole",
        )
    if "optimizer" in training.model_fields_set and training.optimizer == "paged_adamw_32bit":
        if strategy in OFFLOADS:
            refuse(
                f"paged_adamw_32bit with {strategy}",
                "both would move the optimizer states to the host",
                "use training.optimizer: adamw_torch",
            )
        if strategy == "fsdp2":
            refuse(
                "paged_adamw_32bit with fsdp2",
                "bitsandbytes cannot update sharded (DTensor) parameters",
                "use training.optimizer: adamw_torch",
            )
    if spec.lora.bias != "none" and strategy in SHARDS_BASE:
        refuse(
            f"lora.bias {spec.lora.bias} with {strategy}",
            "biases of the sharded base are not saved with the adapter",
            "use lora.bias: none, or ddp",
        )
    return found
