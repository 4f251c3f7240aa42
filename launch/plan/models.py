"""What is known of a model by name or directory, and on which GPUs it can be trained."""

from pathlib import Path
from typing import Any

from launch.errors import NoPlanError
from launch.machine.hardware import CATALOGUE, gpu_topology
from launch.model.adapter import adapter_parameters
from launch.model.architecture import Architecture
from launch.model.files import find, hub_name, is_original, read_architecture
from launch.model.variants import VARIANTS, by_hub
from launch.plan.plan import resolve
from launch.spec import LoraSpec, Quantization, RunSpec

# The ways to hold the base and the numbers of GPUs that a model is shown with.
SETTINGS: tuple[tuple[Quantization, int], ...] = (("none", 1), ("nf4", 1), ("none", 8))


def listed() -> list[dict[str, Any]]:
    """Every model that has a name."""
    return [_card(name) for name in VARIANTS]


def described(name: str) -> dict[str, Any]:
    """One model with its shapes, its LoRA targets and the GPUs that it fits.

    Raises UsageError for an unknown name, or an architecture that muster does not train.
    """
    architecture = read_architecture(name)
    shapes = architecture.model_dump(exclude={"model_type", "max_positions", "scaled_beyond"})
    return {
        **_card(name),
        "architecture": {"model_type": architecture.model_type, **shapes},
        "lora_targets": list(architecture.linears),
        "adapter_parameters": adapter_parameters(architecture, LoraSpec()),
        "max_length": fitting_length(architecture),
        "fits": [fit for gpu in CATALOGUE for fit in _fits(name, architecture, gpu)],
    }


def fitting_length(architecture: Architecture) -> int:
    """The recipe's length, where the model has so many positions."""
    return min(4096, architecture.max_positions)


def _card(name: str) -> dict[str, Any]:
    architecture, directory = read_architecture(name), find(name)
    variant = VARIANTS.get(name if Path(name).is_dir() else by_hub(name) or name)
    return {
        "name": name,
        "hub": hub_name(name) if variant or not Path(name).is_dir() else None,
        "directory": str(directory) if directory else None,
        "parameters": architecture.parameters,
        "context": architecture.max_positions,
        "chat": variant.chat if variant else None,
        "license": variant.license if variant else None,
        "original_layout": variant.original if variant else bool(directory and is_original(directory)),
    }


def _fits(name: str, architecture: Architecture, gpu: str) -> list[dict[str, Any]]:
    """What the planner would choose with the recipe; strategy null where nothing fits."""
    found = []
    for quantization, count in SETTINGS:
        topology = gpu_topology(CATALOGUE[gpu], 1, count)
        spec = RunSpec.model_validate(
            {
                "name": "fit",
                "model": {"variant": name, "quantization": quantization},
                "data": {"train": "rows.jsonl", "max_length": fitting_length(architecture)},
                "training": {"micro_batch_size": "auto", "global_batch_size": 16 * count},
            }
        )
        fit: dict[str, Any] = {"gpus": f"{count}x{gpu}", "quantization": quantization, "strategy": None}
        try:
            plan = resolve(spec, architecture, topology)
            share = round(plan.memory.process_bytes / topology.memory_bytes, 3)
            fit |= {"strategy": plan.strategy, "micro_batch_size": plan.micro_batch_size, "memory_share": share}
            fit["gradient_checkpointing"] = plan.gradient_checkpointing
            fit["checkpointed_layers"] = plan.checkpointed_layers
        except NoPlanError:
            pass
        found.append(fit)
    return found
