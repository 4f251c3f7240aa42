"""The adapter as files: PEFT's own two, from the live tensors and back.

With PiSSA the base that is trained is not the one on disk: its principal part was moved into the adapter. The files
then hold an ordinary adapter of twice the rank for the base on disk, B A - B0 A0 as [B, -B0] [A; A0] (arXiv
2404.02948), so that PEFT and vLLM need not know of it.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file

from launch.errors import NumericalError, UsageError
from launch.rundir import ADAPTER_CONFIG, ADAPTER_WEIGHTS

Tensors = dict[str, torch.Tensor]
Named = list[tuple[str, torch.nn.Parameter]]

# In the name of each parameter that PEFT adds: lora_A, lora_B, lora_magnitude_vector.
ADAPTER = "lora_"
# Where a PeftModel keeps the pairs that PiSSA took out of its base, by parameter name.
PRINCIPAL = "muster_principal"


def trainable_parameters(model: Any) -> Named:
    """The trainable parameters by name, in the model's order."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def adapter_files(
    model: PeftModel, tensors: Tensors, names: Mapping[str, str]
) -> tuple[dict[str, Tensors], dict[str, str]]:
    """PEFT's two files, from whole tensors by parameter name. `names`: those of `saved_names`.

    Asks the model for nothing that its engine would notice: a thread may call this while the model computes. Raises
    NumericalError rather than save what is not finite.
    """
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise NumericalError(
            f"{len(broken)} adapter tensors are not finite, {broken[0]} first; not saved. Lower"
            " training.learning_rate or look at the rows of the last step in samples.jsonl"
        )
    principal: Tensors = getattr(model, PRINCIPAL, {})
    state = {names[name]: _with_principal(name, tensor, principal) for name, tensor in tensors.items()}
    config = model.peft_config["default"].to_dict()
    config["inference_mode"] = True
    if principal:
        rank = config["r"]
        config["r"], growth = 2 * rank, math.sqrt(2) if config["use_rslora"] else 2
        config["lora_alpha"] *= growth
    text = json.dumps(
        config, indent=2, sort_keys=True, default=lambda value: sorted(value) if isinstance(value, set) else str(value)
    )
    return {ADAPTER_WEIGHTS: state}, {ADAPTER_CONFIG: text}


def read_adapter(directory: Path, model: PeftModel, parameters: Named) -> Tensors:
    """The adapter's tensors by the model's parameter names. Raises UsageError when names or shapes are others."""
    saved = load_file(directory / ADAPTER_WEIGHTS)
    principal: Tensors = getattr(model, PRINCIPAL, {})
    # A ZeRO-3 parameter is empty between its uses; ds_shape is its own.
    shapes = {name: tuple(getattr(parameter, "ds_shape", parameter.shape)) for name, parameter in parameters}
    names = saved_names(model, list(shapes))
    found = {name: _without_principal(name, saved[key], principal) for name, key in names.items() if key in saved}
    odd = sorted(set(saved) ^ set(names.values()))
    odd += [names[name] for name, tensor in found.items() if tuple(tensor.shape) != shapes[name]]
    if odd:
        raise UsageError(f"{directory}: its adapter is not this run's: {len(odd)} tensors differ, {odd[0]} first")
    return found


def lacking_tensors(directory: Path, model: PeftModel) -> list[str]:
    """What an adapter's file has not, of what the model trains, and pairs in it that the model has no place for."""
    wanted = set(saved_names(model, [name for name, _ in trainable_parameters(model)]).values())
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as opened:
        saved = set(opened.keys())
    return sorted((wanted - saved) | {name for name in saved - wanted if ADAPTER in name})


def read_principal(directory: Path, model: PeftModel) -> Tensors:
    """What PiSSA took out of the base, from an adapter that `adapter_files` wrote with it."""
    saved = load_file(directory / ADAPTER_WEIGHTS)
    names = saved_names(model, [name for name, _ in trainable_parameters(model)])
    halves = {name: saved[key] for name, key in names.items() if _is_pair(name)}
    return {
        name: _second_half(tensor, dim=0) if "lora_A" in name else -_second_half(tensor, dim=1)
        for name, tensor in halves.items()
    }


def saved_names(model: PeftModel, names: list[str]) -> dict[str, str]:
    """PEFT's name in a file for each parameter: asked from PEFT, with a number in each tensor's place.

    Not while the model computes: PEFT calls state_dict of modules that are saved whole, and FSDP2 then takes their
    parameters apart, on this rank alone.
    """
    numbered = {name: torch.tensor(number) for number, name in enumerate(names)}
    saved = get_peft_model_state_dict(model, state_dict=numbered, save_embedding_layers=False)
    return {names[int(number)]: key for key, number in saved.items()}


def _is_pair(name: str) -> bool:
    return "lora_A" in name or "lora_B" in name


def _with_principal(name: str, tensor: torch.Tensor, principal: Tensors) -> torch.Tensor:
    if name not in principal:
        return tensor
    return torch.cat((tensor, principal[name])) if "lora_A" in name else torch.cat((tensor, -principal[name]), dim=1)


def _without_principal(name: str, tensor: torch.Tensor, principal: Tensors) -> torch.Tensor:
    if name not in principal:
        return tensor
    dim = 0 if "lora_A" in name else 1
    return tensor.narrow(dim, 0, tensor.shape[dim] // 2).contiguous()


def _second_half(tensor: torch.Tensor, dim: int) -> torch.Tensor:
    half = tensor.shape[dim] // 2
    return tensor.narrow(dim, half, half).contiguous()
